"""What one session over a folder leaves to the next: history, undo, ids of gates, clicks."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagegate.core.model import Outcome, State, StoreError, TooLate, UnknownGate
from imagegate.folder.session import FolderSession
from imagegate.folder.source import SourceFolder
from imagegate.gate_bus import GateBus
from tests.support.folder_sessions import Review, files, lines, paint, png, until
from tests.support.stored import PATIENCE


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return paint(tmp_path / "photos/a.png").parent


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "sorted"


@pytest.mark.parametrize("move", [False, True])
def test_history_and_undo_outlast_a_restart(photos: Path, out: Path, move: bool) -> None:
    """The next session shows who decided what, with image and mask, takes it back, files and all,
    and lets it be decided again; the session after that has it so.
    """
    paint(photos / "b.png", "blue")
    white = png((8, 6), white=(0, 0, 4, 6))
    with Review(photos, out, move=move) as first:
        first.bus.set_mask(first.gate("a.png"), 0, white)
        first.bus.decide(first.gate("a.png"), "keep", by="Ada", note="nice")
        first.bus.decide(first.gate("b.png"), "fix")
    with Review(photos, out, move=move) as second:
        assert second.history == [("b.png", "fix"), ("a.png", "keep")]
        snapshot = second.bus.get(second.gate("a.png"))
        decision = snapshot.decision
        assert decision is not None
        assert (decision.by, decision.note, decision.route) == ("Ada", "nice", 1)
        assert (snapshot.gate.width, snapshot.gate.height, snapshot.undoable) == (8, 6, True)
        pictures = second.bus.pictures(second.gate("a.png"))
        assert pictures
        assert pictures.preview(0).body
        mask = pictures.start_mask(0)
        assert mask
        assert second.bus.undo(second.gate("a.png")).state is State.WAITING
        assert files(out) == ["fix/b.png"]
        assert pictures.start_mask(0) == mask
        assert second.bus.decide(second.gate("a.png"), "fix").outcome is Outcome.WON
        assert files(out) == ["fix/a.png", "fix/a.png.mask.png", "fix/b.png"]
        assert files(photos) == ([] if move else ["a.png", "b.png"])
    with Review(photos, out, move=move) as third:
        assert third.history == [("a.png", "fix"), ("b.png", "fix")]
        assert not third.asked


def test_what_was_taken_back_waits_in_the_next_session(photos: Path, out: Path) -> None:
    """An undo of an earlier decision counts like one of today's."""
    with Review(photos, out) as first:
        first.bus.decide(first.gate("a.png"), 1)
    with Review(photos, out) as second:
        assert (second.progress["done"], second.progress["earlier"]) == (1, 1)
        second.bus.undo(second.gate("a.png"))
        assert (second.progress["done"], second.progress["waiting"]) == (0, 1)
    with Review(photos, out) as third:
        assert (list(third.asked), third.history) == (["a.png"], [])


def test_journals_of_older_versions_are_understood(photos: Path, out: Path) -> None:
    """A line without folder, size of the image and id of the gate keeps its file from being asked
    again, and can be taken back.
    """
    (out / "keep").mkdir(parents=True)
    shutil.copy2(photos / "a.png", out / "keep/a.png")
    stat = (photos / "a.png").stat()
    with Review(photos, out.with_name("other")) as other:
        other.bus.decide(other.gate("a.png"), 1)
    [new] = lines(out.with_name("other"))
    old = {
        "route": 1, "label": "keep", "by": "Ada", "note": "", "file": "a.png",
        "sha256": new["sha256"], "out": "keep/a.png", "mask": None, "made": True, "moved": False,
        "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "when": "2025-01-02T03:04:05.678Z",
    }  # fmt: skip
    (out / "decisions.jsonl").write_text(json.dumps(old) + "\n")
    with Review(photos, out) as review:
        assert (review.asked, review.history) == ({}, [("a.png", "keep")])
        snapshot = review.bus.undo(review.gate("a.png"))
        assert (snapshot.gate.width, snapshot.gate.height) == (8, 6)
        assert files(out) == []
        review.bus.decide(snapshot.gate.id, "fix")
    with Review(photos, out) as again:
        assert (again.asked, again.history) == ({}, [("a.png", "fix")])


def test_labels_of_an_earlier_session_are_shown_as_they_were(photos: Path, out: Path) -> None:
    """A decision for a label that is none of today's keeps it; after Undo today's are asked."""
    with Review(photos, out, labels=("a", "b", "reject")) as first:
        first.bus.decide(first.gate("a.png"), "reject")
    with Review(photos, out, labels=("keep",)) as second:
        snapshot = second.bus.get(second.gate("a.png"))
        assert snapshot.decision
        assert snapshot.gate.labels[(snapshot.decision.route or 0) - 1] == "reject"
        assert second.bus.undo(snapshot.gate.id).gate.labels == ("keep",)


@pytest.mark.slow
def test_a_long_history_is_paged(photos: Path, out: Path) -> None:
    """50,000 lines are there newest first, page by page, each to be taken back."""
    with Review(photos, out) as first:
        first.bus.decide(first.gate("a.png"), 1)
    [line] = lines(out)
    rows = [line | {"file": f"x{n}.png", "out": f"keep/x{n}.png", "gate": f"id{n}"}
            for n in range(50_000)]  # fmt: skip
    with (out / "decisions.jsonl").open("a") as journal:
        journal.writelines(json.dumps(row) + "\n" for row in rows)
    with Review(photos, out) as second:
        page = second.bus.finished(30)
        assert [found.gate.id for found in page] == [f"id{n}" for n in range(49_999, 49_969, -1)]
        older = second.bus.finished(30, before=page[-1].ended)
        assert older[0].gate.id == "id49969"
        assert second.bus.get("id7").undoable
        until(lambda: second.progress["missing_count"] == 50_000)
        assert len(second.progress["missing"]) == 20


# -- ids and clicks


def test_gates_keep_their_ids_which_nobody_can_guess(photos: Path, out: Path) -> None:
    """In the next session the same file has the same gate, in another sorted folder it has not;
    the key is the owner's alone.
    """
    paint(photos / "b.png")
    with Review(photos, out) as first:
        ids = first.asked
    with Review(photos, out) as second:
        assert second.asked == ids
    with Review(photos, out.with_name("other")) as other:
        assert not set(other.asked.values()) & set(ids.values())
    assert len(set(ids.values())) == 2
    assert all(len(gate) >= 22 for gate in ids.values())
    assert (out / ".imagegate/key").stat().st_mode & 0o077 == 0


def test_a_click_counts_once_over_restarts(photos: Path, out: Path) -> None:
    """Sent to a server that ended it counts at the next; sent again it is a replay, also after the
    decision was taken back; the journal does not tell its key.
    """
    with Review(photos, out) as first:
        gate = first.gate("a.png")
    with Review(photos, out) as second:
        assert second.bus.decide(gate, 1, key="pressed").outcome is Outcome.WON
    assert "pressed" not in (out / "decisions.jsonl").read_text()
    with Review(photos, out) as third:
        assert third.bus.decide(gate, 1, key="pressed").outcome is Outcome.REPLAY
        assert third.bus.decide(gate, 2, key="other").outcome is Outcome.LOST
        third.bus.undo(gate)
        assert third.bus.decide(gate, 1, key="pressed").outcome is Outcome.REPLAY
        assert third.bus.get(gate).state is State.WAITING
    with Review(photos, out) as fourth:
        assert fourth.bus.decide(gate, 1, key="pressed").outcome is Outcome.REPLAY
        assert fourth.bus.get(gate).state is State.WAITING
        assert fourth.bus.decide(gate, 1, key="new").outcome is Outcome.WON


def test_a_click_that_comes_before_its_gate_is_sent_again(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the folder is still being read an unknown gate is no error for good."""
    with Review(photos, out) as first:
        gate = first.gate("a.png")
    go_on = threading.Event()
    search = SourceFolder.search

    def slow(source: SourceFolder) -> Iterator[str]:
        assert go_on.wait(PATIENCE)
        yield from search(source)

    monkeypatch.setattr(SourceFolder, "search", slow)
    bus: GateBus[Any] = GateBus()
    session = FolderSession(bus, photos, out, ("keep", "fix"))
    session.start()
    with pytest.raises(StoreError, match="still being read") as refused:
        bus.decide(gate, 1)
    assert refused.value.passing
    go_on.set()
    until(lambda: bus.count() == 1)
    storage: Any = bus.storage
    until(lambda: not storage.incomplete)
    assert bus.decide(gate, 1).outcome is Outcome.WON
    with pytest.raises(UnknownGate):
        bus.get("nobody's")
    session.close()


# -- what a file is known by


def test_equal_names_in_two_folders_are_two_files(tmp_path: Path, out: Path) -> None:
    """Nothing decided is asked again, whichever folder comes next, though names, sizes and times
    are the same; names that collide get a number, and no image lies under two labels.
    """
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, colour in zip(folders, ("red", "blue"), strict=True):
        os.utime(paint(folder / "a.bmp", colour), (1, 1))
        os.utime(paint(folder / "sub/b.bmp", colour), (1, 1))
    for folder, label in zip(folders, ("keep", "fix"), strict=True):
        with Review(folder, out) as review:
            assert sorted(review.asked) == ["a.bmp", "sub/b.bmp"]
            review.bus.decide(review.gate("a.bmp"), label)
            review.bus.decide(review.gate("sub/b.bmp"), "keep")
    for folder in (*folders, *folders):
        with Review(folder, out) as review:
            assert (review.asked, review.progress["done"]) == ({}, 2)
    assert files(out) == ["fix/a.bmp", "keep/a.bmp", "keep/sub/b (2).bmp", "keep/sub/b.bmp"]
    with Review(folders[0] / "sub", out) as inner:
        assert not inner.asked


def test_a_folder_that_was_moved_is_known_again(photos: Path, out: Path) -> None:
    """Under its new path nothing is asked again, and Undo finds the original there."""
    with Review(photos, out) as first:
        first.bus.decide(first.gate("a.png"), 1)
    moved = photos.rename(photos.with_name("archive"))
    with Review(moved, out) as second:
        assert (second.asked, second.progress["done"]) == ({}, 1)
        gate = second.bus.finished()[0].gate.id
        second.bus.undo(gate)
        assert (files(out), second.progress["waiting"]) == ([], 1)
        second.bus.decide(gate, "fix")
        assert files(out) == ["fix/a.png"]
    with Review(moved, out) as third:
        assert not third.asked


@pytest.mark.parametrize("move", [False, True])
def test_a_decision_about_another_folder_can_be_taken_back(
    tmp_path: Path, photos: Path, out: Path, move: bool
) -> None:
    """Its file goes back where it came from, and is asked about there, in this session."""
    other = paint(tmp_path / "other/c.png").parent
    with Review(other, out, move=move) as first:
        first.bus.decide(first.gate("c.png"), 1)
    with Review(photos, out, move=move) as second:
        gate = second.gate("other/c.png")
        second.bus.undo(gate)
        assert (files(other), files(out)) == (["c.png"], [])
        assert second.progress["waiting"] == 2
        second.bus.decide(gate, "fix")
    assert (files(other), files(out)) == ([] if move else ["c.png"], ["fix/c.png"])
    with Review(other, out, move=move) as third:
        assert not third.asked


def test_a_decision_about_a_folder_that_is_away_stands(
    tmp_path: Path, photos: Path, out: Path
) -> None:
    """Undo does not make a folder where a card was."""
    other = paint(tmp_path / "card/c.png").parent
    with Review(other, out, move=True) as first:
        first.bus.decide(first.gate("c.png"), 1)
    other.rmdir()
    with Review(photos, out) as second:
        with pytest.raises(TooLate, match="is not there"):
            second.bus.undo(second.gate("card/c.png"))
        assert not other.exists()
    assert files(out) == ["keep/c.png"]


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("gone", [False, True])
def test_a_sorted_file_that_is_not_what_it_was_is_noticed(
    photos: Path, out: Path, move: bool, gone: bool
) -> None:
    """The next session says which, in its progress and in the history; a copy that is gone can be
    taken back, the only one that there was cannot.
    """
    with Review(photos, out, move=move) as first:
        first.bus.decide(first.gate("a.png"), 1)
    if gone:
        (out / "keep/a.png").unlink()
    else:
        paint(out / "keep/a.png", "white", size=(90, 60))
    with Review(photos, out, move=move) as second:
        until(lambda: second.progress["missing_count"] == 1)
        was = "is gone" if gone else "was changed"
        assert second.progress["missing"] == [{"file": "keep/a.png", "reason": was}]
        assert second.bus.finished()[0].reason == f"keep/a.png {was}"
        gate = second.gate("a.png")
        if gone and not move:
            assert second.bus.undo(gate).reason == ""
            assert list(second.asked) == ["a.png"]
        else:
            with pytest.raises(TooLate, match="is gone" if gone else "was changed since"):
                second.bus.undo(gate)
            assert second.bus.get(gate).state is State.DECIDED


# -- masks, and what else lies beside an image


def test_a_second_pass_carries_masks_on(photos: Path, out: Path, tmp_path: Path) -> None:
    """Over a sorted folder the masks that lie there are shown, and go along with their images; a
    cleared one does not.
    """
    for name in ("b.png", "c.png"):
        paint(photos / name)
    white = png((8, 6), white=(0, 0, 4, 6))
    with Review(photos, out) as first:
        for gate in first.asked.values():
            first.bus.set_mask(gate, 0, white)
            first.bus.decide(gate, "keep")
    (out / "keep/c.png.mask.png").write_bytes(b"broken")
    final = tmp_path / "final"
    with Review(out / "keep", final, move=True) as second:
        assert sorted(second.asked) == ["a.png", "b.png", "c.png"]
        pictures = second.bus.pictures(second.gate("a.png"))
        assert pictures
        assert pictures.start_mask(0)
        second.bus.set_mask(second.gate("b.png"), 0, b"")
        for gate in second.asked.values():
            second.bus.decide(gate, "fix")
        assert second.progress["left"] == [f"{name}.png.mask.png" for name in "abc"]
    assert files(final) == ["fix/a.png", "fix/a.png.mask.png", "fix/b.png", "fix/c.png"]
    with Image.open(final / "fix/a.png.mask.png") as mask:
        assert (mask.mode, mask.size) == ("L", (8, 6))
        assert mask.crop((0, 0, 4, 6)).getextrema() == (255, 255)
        assert mask.crop((4, 0, 8, 6)).getextrema() == (0, 0)
    with Review(out / "keep", final, move=True) as third:
        assert not third.asked  # masks alone are no images


def test_move_says_what_it_leaves_behind(photos: Path, out: Path) -> None:
    """Files named after a moved image are listed; those of others, and folders, are not."""
    for name in ("a.txt", "a.png.xmp", "ab.txt", "b.txt"):
        (photos / name).touch()
    (photos / "a.folder").mkdir()
    with Review(photos, out, move=True) as review:
        review.bus.decide(review.gate("a.png"), 1)
        assert (review.progress["left_count"], review.progress["left"]) == (
            2,
            ["a.png.xmp", "a.txt"],
        )
    assert files(photos) == ["a.png.xmp", "a.txt", "ab.txt", "b.txt"]
