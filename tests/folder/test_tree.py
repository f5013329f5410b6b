"""What is written to a sorted folder: never through links, and files with all that they have."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from imagegate.core.model import NotRecorded
from imagegate.folder.sorted.label_folders import BadFolder
from imagegate.folder.tree import Tree
from tests.support.folder_sessions import Review, files, paint, png

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links there need rights")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return paint(tmp_path / "photos/sub/a.png").parents[1]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "sorted"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    folder = tmp_path / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    return folder


# -- links


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("where", ["keep", "keep/sub"])
def test_nothing_is_written_through_a_link(
    photos: Path, out: Path, elsewhere: Path, where: str, move: bool
) -> None:
    """A label's folder, or one below it, that is a link: the answer is refused, saying so, and
    counts once the link is gone.
    """
    with Review(photos, out, move=move) as review:
        gate = review.gate("sub/a.png")
        (out / where).parent.mkdir(exist_ok=True)
        (out / where).symlink_to(elsewhere, target_is_directory=True)
        review.bus.set_mask(gate, 0, png((8, 6), white=(0, 0, 4, 4)))
        with pytest.raises(NotRecorded, match="is a link"):
            review.bus.decide(gate, "keep")
        assert files(elsewhere) == []
        assert files(photos) == ["sub/a.png"]
        (out / where).unlink()
        review.bus.decide(gate, "keep")
        assert files(out) == ["keep/sub/a.png", "keep/sub/a.png.mask.png"]


@pytest.mark.parametrize("move", [False, True])
def test_a_link_that_is_put_there_meanwhile_leads_nowhere(
    photos: Path, out: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, move: bool
) -> None:
    """A label's folder replaced by a link just before the file gets its name: not written there."""
    link = os.link
    with Review(photos, out, move=move) as review:

        def swapped(*args: Any, **options: Any) -> None:
            if (out / "keep").is_dir() and not (out / "keep").is_symlink():
                (out / "keep").rename(out / "away")
                (out / "keep").symlink_to(elsewhere, target_is_directory=True)
            link(*args, **options)

        monkeypatch.setattr(os, "link", swapped)
        with suppress(NotRecorded):
            review.bus.decide(review.gate("sub/a.png"), "keep")
        assert files(elsewhere) == []


@pytest.mark.parametrize("undo", [False, True])
def test_undo_goes_through_no_link(photos: Path, out: Path, elsewhere: Path, undo: bool) -> None:
    """Neither is anything removed behind one, nor is an original put back there."""
    with Review(photos, out, move=True) as review:
        gate = review.gate("sub/a.png")
        review.bus.decide(gate, "keep")
        victim = out / "keep" if undo else photos / "sub"
        if undo:
            (out / "keep").rename(elsewhere / "keep")
            victim.symlink_to(elsewhere / "keep", target_is_directory=True)
        else:
            victim.rmdir()
            victim.symlink_to(elsewhere / "sub", target_is_directory=True)
        before = files(elsewhere)
        with pytest.raises(NotRecorded, match="is a link"):
            review.bus.undo(gate)
        assert files(elsewhere) == before


@pytest.mark.parametrize("name", ["decisions.jsonl", ".imagegate", ".imagegate/key"])
def test_a_sorted_folder_whose_own_files_are_links_is_refused(
    photos: Path, out: Path, elsewhere: Path, name: str
) -> None:
    """The journal, the folder for what is under way and its key: the start says what is wrong."""
    (out / name).parent.mkdir(parents=True)
    target = elsewhere / "target" if name != ".imagegate" else elsewhere
    (out / name).symlink_to(target)
    with pytest.raises(BadFolder, match="is a link"):
        Review(photos, out)
    assert files(elsewhere) == []


def test_a_torn_line_is_not_set_aside_through_a_link(
    photos: Path, out: Path, elsewhere: Path
) -> None:
    """The file for it must not be a link either."""
    out.mkdir()
    (out / "decisions.jsonl").write_bytes(b'{"file": "a')
    (out / "decisions.torn").symlink_to(elsewhere / "target")
    with pytest.raises(BadFolder, match="is a link"):
        Review(photos, out)
    assert files(elsewhere) == []


def test_the_sorted_folder_itself_may_be_a_link(photos: Path, out: Path, elsewhere: Path) -> None:
    """It is what the person named."""
    out.symlink_to(elsewhere, target_is_directory=True)
    with Review(photos, out) as review:
        gate = review.gate("sub/a.png")
        review.bus.decide(gate, "keep")
        assert files(elsewhere) == ["keep/sub/a.png"]
        review.bus.undo(gate)
        assert files(elsewhere) == []


def test_a_link_in_a_names_place_is_a_taken_name(photos: Path, out: Path, elsewhere: Path) -> None:
    """Even if the same image lies behind it."""
    paint(elsewhere / "a.png")
    (out / "keep/sub").mkdir(parents=True)
    (out / "keep/sub/a.png").symlink_to(elsewhere / "a.png")
    with Review(photos, out) as review:
        review.bus.decide(review.gate("sub/a.png"), "keep")
    assert (out / "keep/sub/a (2).png").is_file()
    assert (out / "keep/sub/a.png").is_symlink()


@pytest.mark.parametrize("move", [False, True])
def test_an_original_that_is_a_link_is_copied(photos: Path, out: Path, move: bool) -> None:
    """A link inside the folder gives a real file in the sorted one; its target stays."""
    hidden = paint(photos / ".blobs/x", format="PNG")
    (photos / "b.png").symlink_to(".blobs/x")
    with Review(photos, out, move=move) as review:
        review.bus.decide(review.gate("b.png"), "keep")
    assert (out / "keep/b.png").read_bytes() == hidden.read_bytes()
    assert not (out / "keep/b.png").is_symlink()
    assert (photos / "b.png").is_symlink() is not move


def test_a_pipe_in_a_files_place_is_no_file(tmp_path: Path) -> None:
    """Opening it does not wait for its other end."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(OSError, match="pipe"):
        Tree(tmp_path).open("a.png")


# -- permissions, times, extended attributes


def attributes(path: Path) -> dict[str, Any]:
    stat = path.stat()
    names = os.listxattr(path) if sys.platform == "linux" else []
    return {
        "mode": stat.st_mode, "mtime_ns": stat.st_mtime_ns, "content": path.read_bytes(),
        "xattrs": {name: os.getxattr(path, name) for name in names if name.startswith("user.")},
    }  # fmt: skip


def give_attributes(path: Path, mode: int) -> dict[str, Any]:
    try:
        os.setxattr(path, "user.rating", b"\x00five")
        os.setxattr(path, "user.empty", b"")
    except (AttributeError, OSError):
        pytest.skip("no extended attributes here")
    path.chmod(mode)
    os.utime(path, ns=(1, 1_234_567_890_123_456_789))
    return attributes(path)


def hard_links(patch: pytest.MonkeyPatch) -> None:
    """As it is on one file system."""


def another_disk(patch: pytest.MonkeyPatch) -> None:
    """No hard links between the two folders."""
    link = os.link

    def cross(source: Any, target: Any, **options: Any) -> None:
        ends = [os.readlink(f"/proc/self/fd/{options[f'{end}_dir_fd']}") for end in ("src", "dst")]
        if len({"photos" in end for end in ends}) == 2:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target, **options)

    patch.setattr(os, "link", cross)


def poor_disk(patch: pytest.MonkeyPatch) -> None:
    """The sorted folder's file system has neither permissions nor extended attributes."""
    another_disk(patch)
    setxattr, fchmod = os.setxattr, os.fchmod

    def allowed(file: int) -> bool:
        return "photos" in os.readlink(f"/proc/self/fd/{file}")

    def no_attribute(file: int, *args: Any) -> None:
        if not allowed(file):
            raise OSError(errno.ENOTSUP, "Operation not supported")
        setxattr(file, *args)

    def no_mode(file: int, mode: int) -> None:
        if allowed(file):
            fchmod(file, mode)

    patch.setattr(os, "setxattr", no_attribute)
    patch.setattr(os, "fchmod", no_mode)


@pytest.mark.skipif(sys.platform != "linux", reason="extended attributes are read here only")
@pytest.mark.parametrize("disk", [hard_links, another_disk, poor_disk])
@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("mode", [0o640, 0o400])
def test_undo_gives_back_the_original_with_all_that_it_had(
    photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch,
    disk: Callable[[pytest.MonkeyPatch], None], move: bool, restart: bool, mode: int,
) -> None:  # fmt: skip
    """Permissions, time and extended attributes are those from before the decision, wherever the
    sorted folder lies, also in the next session; where it can hold them, the sorted file has them.
    """
    original = photos / "sub/a.png"
    before = give_attributes(original, mode)
    disk(monkeypatch)
    review = Review(photos, out, move=move)
    gate = review.gate("sub/a.png")
    review.bus.decide(gate, "keep")
    assert original.exists() is not move
    if disk is not poor_disk:
        assert attributes(out / "keep/sub/a.png") == before
    if restart:
        review.session.close()
        review = Review(photos, out, move=move)
    review.bus.undo(gate)
    review.session.close()
    assert attributes(original) == before
    assert files(out) == []


@pytest.mark.skipif(sys.platform != "linux", reason="extended attributes are read here only")
def test_a_moved_file_that_lay_there_already_keeps_its_own(photos: Path, out: Path) -> None:
    """An equal file in the sorted folder stays as it is; Undo gives the original its own back."""
    before = give_attributes(photos / "sub/a.png", 0o600)
    there = paint(out / "keep/sub/a.png")
    there.chmod(0o644)
    with Review(photos, out, move=True) as review:
        gate = review.gate("sub/a.png")
        review.bus.decide(gate, "keep")
        review.bus.undo(gate)
    assert attributes(photos / "sub/a.png") == before
    assert there.stat().st_mode & 0o777 == 0o644
    assert there.stat().st_ino != (photos / "sub/a.png").stat().st_ino
