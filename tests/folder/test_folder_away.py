"""What happens to a folder while people look at it: cards are pulled, files come and go."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagegate.core.model import GateClosed, Outcome, State, StoreError
from imagegate.folder import questions
from imagegate.folder import session as folder
from tests.support.folder_sessions import Review, files, paint, until


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions look again at once."""
    monkeypatch.setattr(folder, "RESCAN", 0.02)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a", "b", "sub/c"):
        paint(tmp_path / f"card/{name}.png")
    return tmp_path / "card"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "sorted"


def noise(path: Path) -> bytes:
    """A whole JPEG, written nowhere."""
    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    body = path.read_bytes()
    path.unlink()
    return body


# -- a folder that is away


def gone(photos: Path, patch: pytest.MonkeyPatch) -> Callable[[], Any]:
    photos.rename(aside := photos.with_name("pulled"))
    return lambda: aside.rename(photos)


def empty(photos: Path, patch: pytest.MonkeyPatch) -> Callable[[], Any]:
    back = gone(photos, patch)
    photos.mkdir()
    return lambda: (photos.rmdir(), back())


def other(photos: Path, patch: pytest.MonkeyPatch) -> Callable[[], Any]:
    back = gone(photos, patch)
    (photos / "elsewhere").mkdir(parents=True)
    return lambda: (shutil.rmtree(photos), back())


def failing(code: int) -> Callable[..., Callable[[], Any]]:
    def fail(photos: Path, patch: pytest.MonkeyPatch) -> Callable[[], Any]:
        real = {name: getattr(os, name) for name in ("stat", "lstat", "open", "scandir")}

        def call(name: str) -> Callable[..., Any]:
            def refuse(path: Any, *args: Any, **options: Any) -> Any:
                if str(path).startswith(str(photos)):
                    raise OSError(code, os.strerror(code))
                return real[name](path, *args, **options)

            return refuse

        for name in real:
            patch.setattr(os, name, call(name))
        return patch.undo

    return fail


AWAY = {
    "gone": gone, "empty": empty, "other": other,
    **{errno.errorcode[code]: failing(code)
       for code in (errno.ENOTCONN, errno.EIO, errno.ESTALE, errno.EACCES)},
}  # fmt: skip


@pytest.mark.parametrize("how", AWAY)
@pytest.mark.parametrize("move", [False, True])
def test_a_folder_that_is_away_is_waited_for(
    photos: Path, out: Path, how: str, move: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A click while it is away is to be sent again, nothing is withdrawn, it is said; when the
    folder is back the same gates wait, and the click counts.
    """
    with Review(photos, out, move=move) as review, pytest.MonkeyPatch.context() as patch:
        asked = review.asked
        back = AWAY[how](photos, patch)
        for _ in range(3):
            with pytest.raises(StoreError, match="away") as refused:
                review.bus.decide(asked["a.png"], 1)
            assert refused.value.passing
        until(lambda: review.progress["away"])
        assert str(photos) in review.progress["away"]
        assert not review.progress["all_done"]
        pictures = review.bus.pictures(asked["b.png"])
        assert pictures
        with pytest.raises(StoreError):
            pictures.preview(0)
        assert "its 3 images wait" in caplog.text
        back()
        until(lambda: not review.progress["away"])
        assert review.asked == asked
        assert review.bus.decide(asked["a.png"], 1).outcome is Outcome.WON
        assert files(out) == ["keep/a.png"]


def test_a_card_that_comes_back_elsewhere_in_time_has_what_was_added(
    photos: Path, out: Path
) -> None:
    """What was put on the card, or deleted from it, meanwhile is noticed when it is back."""
    with Review(photos, out) as review:
        old = review.gate("b.png")
        photos.rename(aside := photos.with_name("pulled"))
        until(lambda: review.progress["away"])
        paint(aside / "new.png")
        (aside / "b.png").unlink()
        aside.rename(photos)
        until(lambda: sorted(review.asked) == ["a.png", "new.png", "sub/c.png"])
        assert review.bus.get(old).state is State.WITHDRAWN


def test_a_link_to_a_card_that_was_pulled_is_waited_for(
    photos: Path, out: Path, tmp_path: Path
) -> None:
    """A folder behind a link is away while the link leads nowhere."""
    paint(tmp_path / "disk/d.png")
    (photos / "disk").symlink_to(tmp_path / "disk", target_is_directory=True)
    with Review(photos, out, follow_links=True) as review:
        asked = review.asked
        (tmp_path / "disk").rename(tmp_path / "pulled")
        with pytest.raises(StoreError, match="away"):
            review.bus.decide(asked["disk/d.png"], 1)
        assert review.bus.decide(asked["a.png"], 1).outcome is Outcome.WON
        (tmp_path / "pulled").rename(tmp_path / "disk")
        assert review.bus.decide(asked["disk/d.png"], 1).outcome is Outcome.WON


# -- files that come and go


def test_a_file_that_is_gone_is_taken_back_until_it_is_there_again(
    photos: Path, out: Path, tmp_path: Path
) -> None:
    """Without a click, the gate of a deleted file goes, with a sentence that fits, and comes back
    with the file; a folder that somebody deletes takes its files along.
    """
    with Review(photos, out) as review:
        asked = review.asked
        (photos / "a.png").rename(tmp_path / "a.png")
        shutil.rmtree(photos / "sub")
        until(lambda: list(review.asked) == ["b.png"])
        said = review.bus.get(asked["a.png"]).reason
        assert said == "a.png is gone; if it comes back, it is asked about again"
        assert review.progress["total"] == 1
        (tmp_path / "a.png").rename(photos / "a.png")
        until(lambda: len(review.asked) == 2)
        assert review.asked["a.png"] == asked["a.png"]
        assert review.bus.get(asked["a.png"]).version > 2
        assert review.bus.decide(asked["a.png"], 1).outcome is Outcome.WON


def test_files_that_come_during_a_session_appear(photos: Path, out: Path) -> None:
    """New files and folders of them are asked about, each once; a sorted one is not."""
    with Review(photos, out) as review:
        paint(photos / "new.png")
        paint(photos / "deep/er/n.png")
        until(lambda: len(review.asked) == 5)
        assert {"new.png", "deep/er/n.png"} < review.asked.keys()
        review.bus.decide(review.gate("new.png"), 1)
        paint(photos / "more.png")
        until(lambda: "more.png" in review.asked)
        assert len(review.asked) == 5
        assert review.progress["total"] == 6


@pytest.mark.parametrize("cut", [0, 10, 9000])
def test_a_file_is_shown_once_it_is_whole(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """One that still grows is neither shown nor called broken, however little of it is there."""
    monkeypatch.setattr(questions, "STABLE", 1e9)
    monkeypatch.setattr(questions, "FRESH", 1e9)
    whole = noise(photos / "n.jpg")
    with Review(photos, out) as review:
        with (photos / "n.jpg").open("wb", buffering=0) as written:
            written.write(whole[:cut])
            paint(photos / "z.png")  # comes later in a look than the other
            until(lambda: "z.png" in review.asked)
            assert "n.jpg" not in review.asked
            assert review.progress["unreadable_count"] == 0
            written.write(whole[cut:])
        until(lambda: "n.jpg" in review.asked)


def test_a_file_that_was_broken_is_asked_about_once_it_is_mended(photos: Path, out: Path) -> None:
    """What is listed as unreadable is looked at again when it changes."""
    (photos / "n.png").write_bytes(b"no image")
    os.utime(photos / "n.png", (1, 1))
    with Review(photos, out) as review:
        assert [each["file"] for each in review.progress["unreadable"]] == ["n.png"]
        paint(photos / "n.png")
        until(lambda: "n.png" in review.asked)
        assert review.progress["unreadable_count"] == 0
        assert review.progress["total"] == 4


def test_a_moved_file_that_is_put_back_by_hand_is_another_question(photos: Path, out: Path) -> None:
    """It is asked about again, under another id, and a click on the old question does not count."""
    with Review(photos, out, move=True) as review:
        old = review.gate("a.png")
        review.bus.decide(old, 1, key="one")
        (out / "keep/a.png").rename(photos / "a.png")
        until(lambda: "a.png" in review.asked)
        assert review.asked["a.png"] != old
        assert review.bus.decide(review.asked["a.png"], 2, key="one").outcome is Outcome.WON
    assert files(out) == ["fix/a.png"]


def test_undo_and_looks_do_not_get_in_each_others_way(photos: Path, out: Path) -> None:
    """However often moves are taken back while the folder is looked at: one gate a file."""
    with Review(photos, out, move=True) as review:
        asked = review.asked
        for _ in range(30):
            for gate in asked.values():
                review.bus.decide(gate, 1)
            for gate in asked.values():
                review.bus.undo(gate)
        assert review.asked == asked
        assert review.progress["total"] == review.progress["waiting"] == 3


def test_a_file_in_a_folder_that_became_a_link_is_not_touched(
    photos: Path, out: Path, tmp_path: Path
) -> None:
    """A folder replaced by a link after it was listed is not gone through: nothing is shown,
    copied or, with move, deleted there.
    """
    secret = paint(tmp_path / "private/c.png", "black", size=(8, 6))
    shutil.copystat(photos / "sub/c.png", secret)
    with Review(photos, out, move=True) as review:
        gate = review.gate("sub/c.png")
        pictures = review.bus.pictures(gate)
        shutil.rmtree(photos / "sub")
        (photos / "sub").symlink_to(tmp_path / "private", target_is_directory=True)
        assert pictures
        with pytest.raises(GateClosed):
            pictures.preview(0)
        with pytest.raises(GateClosed):
            review.bus.decide(gate, 1)
    assert secret.exists()
    assert files(out) == []
