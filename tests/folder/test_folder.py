"""Folder mode in this process: real files, the real bus, no server."""

from __future__ import annotations

import errno
import io
import json
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagegate.core.model import Decision, GateClosed, NotRecorded, State, TooLate
from imagegate.core.pictures import Picture
from imagegate.folder import attributes
from imagegate.folder.search import ImageSearch, find_images
from imagegate.folder.session import FolderSession, read_routes
from imagegate.folder.sorted import journal as journal_module
from imagegate.folder.sorted.journal import Journal
from imagegate.folder.sorted.kept import Original
from imagegate.folder.sorted.label_folders import BadFolder, folder_names
from imagegate.folder.sorted.ledger import Ledger
from imagegate.folder.tree import Tree
from imagegate.gate_bus import GateBus
from imagegate.pictures.formats.image_files import PreviewCache, read_full, read_preview, read_size
from tests.support.folder_sessions import files, lines, paint, png
from tests.support.stored import PATIENCE

Start = Callable[..., FolderSession]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "sorted"


@pytest.fixture
def start(bus: GateBus[Any], photos: Path, out: Path) -> Iterator[Start]:
    """Starts a session, and gives it back once the folder is scanned."""
    sessions = []

    def start(**options: Any) -> FolderSession:
        scanned = threading.Event()

        def changed() -> None:
            if not session.progress()["scanning"]:
                scanned.set()

        options = {"bus": bus, "labels": ("keep", "fix"), **options}
        session = FolderSession(folder=photos, out=out, changed=changed, **options)
        sessions.append(session)
        session.start()
        assert scanned.wait(PATIENCE)
        return session

    yield start
    for session in sessions:
        session.close()


def gate_of(bus: GateBus[Any], file: str) -> str:
    return next(found.gate.id for found in bus.pending() if found.gate.file == file)


def decoded(picture: Picture) -> Image.Image:
    image = Image.open(io.BytesIO(picture.body))
    image.load()
    return image


# -- finding


def test_images_are_asked_about_in_the_order_people_count(
    bus: GateBus[Any], photos: Path, start: Start
) -> None:
    """Every image below the folder gets its gate, 2 before 10, subfolders after files."""
    for name in ("10.png", "2.JPG", "1.webp", "b/1.bmp", "a/x.TIFF", "a/b/y.gif", "z.jpeg"):
        paint(photos / name, format=None)
    (photos / "notes.txt").write_text("no image")
    paint(photos / ".hidden.png")
    paint(photos / "z.jpeg.mask.png")
    start()
    asked = [found.gate.file for found in bus.pending()]
    assert asked == ["1.webp", "2.JPG", "10.png", "z.jpeg", "a/x.TIFF", "a/b/y.gif", "b/1.bmp"]


def test_the_sorted_folder_is_not_looked_into(photos: Path) -> None:
    """A sorted folder inside the photos is left out, however it is written."""
    paint(photos / "a.png")
    paint(photos / "sorted/keep/b.png")
    assert list(find_images(photos, skip=photos / "." / "sorted")) == ["a.png"]


def test_links_do_not_lead_out_of_the_folder(
    bus: GateBus[Any], photos: Path, start: Start, tmp_path: Path
) -> None:
    """What a link outside leads to is neither shown nor entered, and the list says why."""
    paint(photos / "a.png")
    paint(tmp_path / "private/b.png")
    (photos / "out.png").symlink_to(tmp_path / "private/b.png")
    (photos / "again").symlink_to(photos, target_is_directory=True)
    (photos / "private").symlink_to(tmp_path / "private", target_is_directory=True)
    progress = start().progress()
    assert [found.gate.file for found in bus.pending()] == ["a.png"]
    [unread] = progress["unreadable"]
    assert unread["file"] == "out.png"
    assert "--follow-links" in unread["reason"]
    assert (progress["total"], progress["all_done"]) == (2, False)


def test_links_are_followed_on_request_and_circles_end(photos: Path, tmp_path: Path) -> None:
    """With follow_links each folder is entered once, however the links lead round."""
    paint(photos / "a.png")
    paint(tmp_path / "card/b.png")
    (photos / "card").symlink_to(tmp_path / "card", target_is_directory=True)
    (tmp_path / "card/back").symlink_to(photos, target_is_directory=True)
    (tmp_path / "card/self").symlink_to(tmp_path / "card", target_is_directory=True)
    (photos / "out.png").symlink_to(tmp_path / "card/b.png")
    assert list(ImageSearch(photos, follow_links=True)) == ["a.png", "out.png", "card/b.png"]


def test_a_link_inside_the_folder_shows_its_file_once(photos: Path) -> None:
    """A link to an image that is there anyway is passed over, one to a hidden file is shown."""
    paint(photos / "sub/a.png")
    paint(photos / ".blobs/x", format="PNG")
    (photos / "a.png").symlink_to("sub/a.png")
    (photos / "b.png").symlink_to(".blobs/x")
    (photos / "c.png").symlink_to(photos / ".blobs/x")
    search = ImageSearch(photos)
    assert list(search) == ["b.png", "sub/a.png"]
    assert not search.refused


def test_one_bad_entry_does_not_end_a_session(
    bus: GateBus[Any], photos: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links to themselves, to nothing, into a closed folder or to a name that is too long, pipes
    and closed folders: each is listed with its reason, and all else is asked about.
    """
    paint(photos / "good.png")
    paint(photos / "z/also.png")
    (photos / "self.png").symlink_to("self.png")
    (photos / "nothing.png").symlink_to("nowhere.png")
    (photos / "long.png").symlink_to("x" * 300)
    (photos / "inner.png").symlink_to("closed/x.png")
    (photos / "closed").mkdir()
    os.mkfifo(photos / "pipe.png")
    stat, scandir = os.stat, os.scandir

    def refuse(real: Any, path: Any, *args: Any, **options: Any) -> Any:
        if "closed" in str(path) or "inner" in str(path):  # also for root, who may do anything
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", partial(refuse, stat))
        patch.setattr(os, "scandir", partial(refuse, scandir))
        progress = start().progress()
    assert [found.gate.file for found in bus.pending()] == ["good.png", "z/also.png"]
    assert {each["file"]: each["reason"] for each in progress["unreadable"]} == {
        "self.png": "a link that leads back to itself",
        "nothing.png": "a link to a file that is not there",
        "long.png": "a link that cannot be followed: File name too long",
        "inner.png": "a link that cannot be followed: Permission denied",
        "closed/": "cannot be looked into: Permission denied",
        "pipe.png": "not a file but a pipe, socket or device",
    }


# -- reading


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(photos: Path, suffix: str, orientation: int) -> None:
    """Size, preview and full image of each of the eight orientations are as Pillow turns them."""
    if f".{suffix}" not in Image.registered_extensions():
        pytest.skip(f"this Pillow cannot write {suffix}")
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:16, :32] = (250, 20, 20)
    pixels[16:, 32:] = (20, 20, 250)
    stored = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = photos / f"a.{suffix}"
    stored.save(path, exif=exif)
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    seen = stored
    if orientation in turns:
        seen = stored.transpose(Image.Transpose(turns[orientation]))
    assert read_size(path) == seen.size
    wanted = np.asarray(seen, np.int16)
    for picture in (read_preview(path), read_full(path)):
        got = decoded(picture)
        assert got.size == seen.size
        assert np.abs(np.asarray(got.convert("RGB"), np.int16) - wanted).mean() < 12
        assert not got.getexif()


def test_previews_are_small_and_full_images_exact(photos: Path) -> None:
    """A preview's longest side is 1536; a full PNG has every pixel of a lossless file."""
    random = np.random.default_rng(1)
    pixels = random.integers(0, 255, (900, 3001, 3), np.uint8)
    Image.fromarray(pixels).save(photos / "a.png")
    Image.fromarray(pixels).save(photos / "a.jpg")
    for name in ("a.png", "a.jpg"):
        assert decoded(read_preview(photos / name)).size == (1536, 461)
    assert np.array_equal(np.asarray(decoded(read_full(photos / "a.png"))), pixels)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("1", "a.png"), ("L", "a.jpg"), ("LA", "a.png"), ("P", "a.gif"), ("RGBA", "a.webp"),
     ("CMYK", "a.jpg"), ("I;16", "a.png"), ("I;16", "a.tif"), ("F", "a.tif"), ("I", "a.tif")],
)  # fmt: skip
def test_every_mode_can_be_looked_at(photos: Path, mode: str, name: str) -> None:
    """Grey, palette, CMYK, 16-bit, float: left stays dark and right bright, in both sizes."""
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (32, 1))
    if mode == "F":
        image = Image.fromarray(ramp)
    elif mode.startswith("I"):
        image = Image.fromarray((ramp * 65535).astype(np.uint16 if mode == "I;16" else np.int32))
    else:
        image = Image.fromarray((ramp * 255).astype(np.uint8)).convert(mode)
    image.save(photos / name)
    preview, full = decoded(read_preview(photos / name)), decoded(read_full(photos / name))
    for got in (preview, full):
        values = np.asarray(got if got.mode in ("I;16", "I") else got.convert("L"), np.float32)
        values /= 65535 if got.mode in ("I;16", "I") else 255
        assert values[:, :8].mean() < 0.2
        assert values[:, -8:].mean() > 0.8


def test_sixteen_bits_stay_sixteen_bits(photos: Path) -> None:
    """The full PNG of a 16-bit grey image has its exact values."""
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(values).save(photos / "a.tif")
    assert np.array_equal(np.asarray(decoded(read_full(photos / "a.tif"))), values)


def test_transparency_survives_in_the_preview(photos: Path) -> None:
    """A preview of a transparent image is transparent where the image is."""
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(photos / "a.png")
    assert (
        decoded(read_preview(photos / "a.png")).convert("RGBA").getchannel("A").getpixel((5, 5))
        == 0
    )


def test_the_cache_stays_within_its_bytes() -> None:
    """What was not looked at the longest goes first, and the limit holds."""
    cache = PreviewCache(30)
    for key in "abc":
        cache.put(key, Picture(b"0123456789", "image/jpeg"))
    assert cache.get("a")
    cache.put("d", Picture(b"0123456789", "image/jpeg"))
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c", "d"]
    cache.put("big", Picture(bytes(31), "image/jpeg"))
    assert not any(cache.get(key) for key in ("a", "c", "d", "big"))


# -- deciding


def test_a_decided_file_is_copied_and_written_down(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """The file lies below its label, subfolder and time kept, with one line that says all."""
    original = paint(photos / "trip/a.png", "blue")
    start()
    bus.decide(gate_of(bus, "trip/a.png"), "fix", by="Ada", note="too blue: ü")
    copy = out / "fix/trip/a.png"
    assert copy.read_bytes() == original.read_bytes()
    assert copy.stat().st_mtime_ns == original.stat().st_mtime_ns
    assert files(out) == ["fix/trip/a.png"]
    [line] = lines(out)
    assert line["sha256"] == Tree(original.parent).sha256(original.name)
    wanted = {"file": "trip/a.png", "route": 2, "label": "fix", "by": "Ada", "mask": None,
              "note": "too blue: ü", "out": "fix/trip/a.png", "moved": False}  # fmt: skip
    assert {key: line[key] for key in wanted} == wanted
    assert line["when"].endswith("Z")


def test_move_takes_the_original_away_and_undo_brings_it_back(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """With move the file is in one place only, before, between and after; pictures still work."""
    original = paint(photos / "a.png")
    before = (original.read_bytes(), original.stat().st_mtime_ns)
    start(move=True)
    gate = gate_of(bus, "a.png")
    bus.decide(gate, 1)
    assert (files(photos), files(out)) == ([], ["keep/a.png"])
    assert bus.pictures(gate).full(0).media_type == "image/png"
    bus.undo(gate)
    assert (files(photos), files(out)) == (["a.png"], [])
    assert (original.read_bytes(), original.stat().st_mtime_ns) == before
    bus.decide(gate, 2)
    assert (files(photos), files(out)) == ([], ["fix/a.png"])


def test_a_mask_is_written_at_the_true_oriented_size(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """A mask painted on a preview is scaled to the image as people see it: 8-bit grey, white."""
    exif = Image.Exif()
    exif[0x0112] = 6
    paint(photos / "a.jpg", size=(400, 200), exif=exif)
    start()
    [gate] = [found.gate for found in bus.pending()]
    assert (gate.width, gate.height) == (200, 400)
    bus.set_mask(gate.id, 0, png((100, 200), white=(0, 0, 50, 100)))
    bus.decide(gate.id, "keep")
    assert lines(out)[0]["mask"] == "keep/a.jpg.mask.png"
    with Image.open(out / "keep/a.jpg.mask.png") as mask:
        assert (mask.mode, mask.size) == ("L", (200, 400))
        assert [mask.getpixel(place) for place in ((10, 10), (95, 190))] == [255, 255]
        assert [mask.getpixel(place) for place in ((110, 10), (10, 210))] == [0, 0]
    bus.undo(gate.id)
    assert files(out) == []
    bus.set_mask(gate.id, 0, b"")
    bus.decide(gate.id, "keep")
    assert files(out) == ["keep/a.jpg"]


def test_nothing_is_ever_overwritten(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """A taken name, or a taken name of the mask, gives (2), then (3); what lay there stays."""
    paint(photos / "a.png", "red")
    paint(photos / "b.png", "red")
    paint(out / "keep/a.png", "green")
    (out / "keep/a (2).png").write_bytes(b"other")
    (out / "keep/b.png.mask.png").write_bytes(b"somebody's")
    before = {name: (out / name).read_bytes() for name in files(out)}
    start()
    bus.decide(gate_of(bus, "a.png"), 1)
    gate = gate_of(bus, "b.png")
    bus.set_mask(gate, 0, png((8, 6), white=(0, 0, 4, 4)))
    bus.decide(gate, 1)
    new = {"keep/a (3).png", "keep/b (2).png", "keep/b (2).png.mask.png"}
    assert set(files(out)) == set(before) | new
    assert all((out / name).read_bytes() == body for name, body in before.items())


def test_the_same_file_is_recognised_and_survives_an_undo(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """A file that lies there already is not doubled, and is not taken away by an undo."""
    paint(photos / "a.png", "red")
    paint(out / "keep/a.png", "red")
    start()
    gate = gate_of(bus, "a.png")
    bus.decide(gate, 1)
    assert files(out) == ["keep/a.png"]
    bus.undo(gate)
    assert files(out) == ["keep/a.png"]
    assert [line.get("undo", False) for line in lines(out)] == [False, True]


def test_an_undo_works_after_many_other_decisions(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """The first decision of a session can be taken back after 200 more, and is asked again."""
    for number in range(201):
        paint(photos / f"{number}.png", size=(1 + number % 20, 1 + number // 20))
    session = start()
    asked = [found.gate.id for found in bus.pending()]
    for gate in asked:
        bus.decide(gate, 1)
    assert session.progress()["all_done"]
    assert bus.undo(asked[0]).state is State.WAITING
    assert not (out / "keep/0.png").exists()
    assert session.progress()["done"] == 200
    assert bus.count() == 1
    assert lines(out)[-1] | {"when": ""} == {
        "undo": True, "file": "0.png", "sha256": lines(out)[0]["sha256"], "when": "",
        "out": "keep/0.png", "mask": None, "made": True, "returned": False, "gate": asked[0],
        "folder": str(photos),
    }  # fmt: skip


def test_an_undo_never_loses_anything(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """A copy that was edited stays; a copy whose original went becomes the original."""
    paint(photos / "a.png")
    original = paint(photos / "b.png")
    start()
    edited, only = gate_of(bus, "a.png"), gate_of(bus, "b.png")
    bus.decide(edited, 1)
    bus.decide(only, 1)
    paint(out / "keep/a.png", "white", size=(9, 9))
    with pytest.raises(TooLate, match="changed since"):
        bus.undo(edited)
    assert bus.get(edited).state is State.DECIDED
    original.unlink()
    bus.undo(only)
    assert (files(photos), files(out)) == (["a.png", "b.png"], ["keep/a.png"])


def test_undo_of_a_move_does_not_overwrite_a_newcomer(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """If something lies where the original was, it stays, and so does the decision."""
    paint(photos / "a.png")
    start(move=True)
    gate = gate_of(bus, "a.png")
    bus.decide(gate, 1)
    (photos / "a.png").write_bytes(b"newcomer")
    with pytest.raises(TooLate, match="nothing is overwritten"):
        bus.undo(gate)
    assert (photos / "a.png").read_bytes() == b"newcomer"
    assert files(out) == ["keep/a.png"]
    assert len(lines(out)) == 1


# -- when the disk says no


def replace_call(patch: pytest.MonkeyPatch, name: str, call: Callable[..., Any]) -> None:
    """Put ``call`` in the place of a system call, also where pathlib keeps it (Python 3.10)."""
    patch.setattr(os, name, call)
    accessor = getattr(pathlib, "_NormalAccessor", None)
    if hasattr(accessor, name):
        patch.setattr(accessor, name, staticmethod(call))


@pytest.mark.parametrize(
    ("failing", "move"),
    [("write", False), ("fsync", False), ("link", False),
     ("write", True), ("fsync", True), ("link", True), ("unlink", True)],
)  # fmt: skip
def test_a_failure_leaves_no_trace_and_the_gate_waits(
    bus: GateBus[Any], photos: Path, out: Path, start: Start,
    monkeypatch: pytest.MonkeyPatch, failing: str, move: bool,
) -> None:  # fmt: skip
    """Whichever call fails, and at whichever time: no file, no line, and the same click works."""
    paint(photos / "a.png")
    start(move=move)
    gate = gate_of(bus, "a.png")
    bus.set_mask(gate, 0, png((8, 6), white=(0, 0, 4, 4)))
    real = getattr(os, failing)
    failures = 0
    told: list[str] = []
    for turn in range(20):
        calls = 0

        def full(*args: Any, turn: int = turn, **options: Any) -> Any:
            nonlocal calls
            if failing == "unlink" and args[0] != "a.png":
                return real(*args, **options)
            calls += 1
            if calls - 1 == turn:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **options)

        with monkeypatch.context() as patch:
            replace_call(patch, failing, full)
            try:
                bus.decide(gate, 1)
            except NotRecorded as error:
                told.append(str(error))
                failures += 1
                assert bus.get(gate).state is State.WAITING
                assert (files(photos), files(out)) == (["a.png"], [])
                assert not (out / "keep").exists()
                assert lines(out) == []
                continue
        if calls <= turn:
            break
        # The failure was survived (another way was found): as good as none.
        bus.undo(gate)
        (out / "decisions.jsonl").write_text("")
    assert failures or failing == "link"
    assert all("No space left" in text for text in told)
    assert files(out) == ["keep/a.png", "keep/a.png.mask.png"]
    assert len(lines(out)) == 1
    assert files(photos) == ([] if move else ["a.png"])


def test_a_half_written_line_is_taken_off_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full in the middle of a line leaves the journal as it was."""
    out.mkdir()
    journal = Journal(Tree(out))
    journal.append({"file": "a", "sha256": "0", "out": "keep/a"})
    before = journal.path.read_bytes()
    real = os.write

    def half(file: int, text: bytes) -> int:
        if len(text) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, text[: len(text) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space"):
            journal.append({"file": "b" * 100, "sha256": "0", "out": "keep/b"})
    assert journal.path.read_bytes() == before
    journal.close()


def test_file_systems_without_hard_links_work_too(
    bus: GateBus[Any], photos: Path, out: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a memory card (exFAT) move, collision and undo work the same."""

    def no_link(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    paint(photos / "a.png")
    paint(out / "keep/a.png", "green")
    start(move=True)
    gate = gate_of(bus, "a.png")
    bus.decide(gate, 1)
    assert (files(photos), files(out)) == ([], ["keep/a (2).png", "keep/a.png"])
    bus.undo(gate)
    assert (files(photos), files(out)) == (["a.png"], ["keep/a.png"])


def test_a_deleted_journal_is_noticed(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """A decision whose line nobody could ever read is not taken."""
    paint(photos / "a.png")
    start()
    (out / "decisions.jsonl").unlink()
    with pytest.raises(NotRecorded, match="was deleted"):
        bus.decide(gate_of(bus, "a.png"), 1)
    assert files(out) == []


# -- killed at any moment


class Killed(BaseException):
    """Stands in for kill -9: nothing that the program does afterwards reaches the disk."""


@pytest.mark.parametrize("move", [False, True])
@pytest.mark.parametrize("undo", [False, True])
def test_a_session_killed_at_any_moment_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, move: bool, undo: bool
) -> None:
    """Stopped dead before each call to the disk in turn: then all of a decision is there or none.

    It is done with every system call that changes a file, one killing each, in a child process's
    stead: after the killing all such calls fail, so no clean-up runs either.
    """
    changing = ("link", "unlink", "replace", "fsync", "write", "ftruncate", "mkdir", "rmdir")
    states = set()
    for turn in range(60):
        photos, out = tmp_path / f"photos{turn}", tmp_path / f"sorted{turn}"
        paint(photos / "a.png")
        ledger = Ledger(photos, out, move=move)
        ledger.open()
        decision = Decision(1, "keep")
        kept = ledger.keep(Original("", "a.png"), "keep", decision, b"mask") if undo else None
        calls = 0
        with monkeypatch.context() as patch:
            for name in changing:
                real = getattr(os, name)

                def call(*args: Any, real: Any = real, **options: Any) -> Any:
                    nonlocal calls
                    calls += 1
                    if calls > turn:  # noqa: B023
                        raise Killed
                    return real(*args, **options)

                replace_call(patch, name, call)
            try:
                if kept:
                    ledger.take_back(kept)
                else:
                    ledger.keep(Original("", "a.png"), "keep", decision, b"mask")
            except Killed:
                pass
            else:
                break
        # The journal's lock goes with the process; here it has to be let go by hand.
        ledger._files.journal.close()
        ledger._files.opened = None
        ledger.close()
        again = Ledger(photos, out, move=move)
        count = again.open()
        again.close()
        assert count == len(lines(out)) % 2
        there = ["keep/a.png", "keep/a.png.mask.png"] if count else []
        assert files(out) == there, f"killed before call {turn}"
        assert files(photos) == ([] if move and count else ["a.png"])
        assert not list(photos.glob(".*"))
        states.add(count)
    else:
        raise AssertionError("it never came to an end")
    assert states == {0, 1}, "killed both before and after the moment that counts"


def test_the_journal_is_read_from_its_start(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows the lock moves the place in the file; every line is read all the same."""
    out.mkdir()
    journal = Journal(Tree(out))
    journal.append({"file": "a", "sha256": "0", "out": "keep/a"})
    journal.close()
    real = attributes.lock
    monkeypatch.setattr(
        journal_module, "lock", lambda file: os.lseek(file, 2**40, 0) and real(file)
    )
    journal = Journal(Tree(out))
    journal.close()
    assert list(journal.decided) == ["a"]


def test_a_torn_line_is_set_aside(
    bus: GateBus[Any], photos: Path, out: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a line at the end does not count, is kept for reading, and is warned of."""
    paint(photos / "a.png")
    out.mkdir()
    (out / "decisions.jsonl").write_bytes(b'{"file": "a.png", "sha2')
    start()
    assert bus.count() == 1
    assert (out / "decisions.torn").read_bytes() == b'{"file": "a.png", "sha2\n'
    assert "cut off" in caplog.text
    bus.decide(gate_of(bus, "a.png"), 1)
    assert len(lines(out)) == 1


# -- going on


def test_a_second_session_goes_on_where_the_first_ended(
    photos: Path, out: Path, start: Start
) -> None:
    """Decided files are not asked again, undone and changed ones are, touched ones are not."""
    for name in "abcd":
        paint(photos / f"{name}.png", size=(8, 6))
    first: GateBus[Any] = GateBus()
    session = start(bus=first)
    gates = {found.gate.file: found.gate.id for found in first.pending()}
    for name in ("a.png", "b.png", "c.png"):
        first.decide(gates[name], 1)
    first.undo(gates["b.png"])
    session.close()
    os.utime(photos / "a.png", (1, 1))
    paint(photos / "c.png", "green", size=(9, 9))
    second: GateBus[Any] = GateBus()
    progress = start(bus=second).progress()
    assert [found.gate.file for found in second.pending()] == ["b.png", "c.png", "d.png"]
    assert (progress["total"], progress["done"], progress["earlier"]) == (4, 1, 1)


def test_a_moved_file_that_was_put_back_is_asked_again(
    photos: Path, out: Path, start: Start
) -> None:
    """A person who moves a file back out of the sorted folder wants to be asked."""
    paint(photos / "a.png")
    first: GateBus[Any] = GateBus()
    session = start(bus=first, move=True)
    first.decide(gate_of(first, "a.png"), 1)
    session.close()
    (out / "keep/a.png").rename(photos / "a.png")
    second: GateBus[Any] = GateBus()
    start(bus=second, move=True)
    assert second.count() == 1
    assert files(photos) == ["a.png"]


def test_two_sessions_cannot_sort_into_one_folder(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """The second one says so, and leaves the first alone."""
    paint(photos / "a.png")
    start()
    with pytest.raises(BadFolder, match="another session"):
        FolderSession(GateBus(), photos, out, ("keep",)).start()
    bus.decide(gate_of(bus, "a.png"), 1)
    assert files(out) == ["keep/a.png"]


def test_stop_ends_the_session_and_keeps_what_was_decided(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """After Stop every other gate is withdrawn with a reason, and no answer or undo counts."""
    for name in "abc":
        paint(photos / f"{name}.png")
    session = start()
    a, b, c = (found.gate.id for found in bus.pending())
    bus.decide(a, 1)
    bus.stop(b, by="Ada", note="lunch")
    assert session.ended.wait(PATIENCE)
    assert bus.get(b).state is State.STOPPED
    assert bus.get(c).state is State.WITHDRAWN
    assert bus.get(c).reason == "the session was stopped by Ada: lunch"
    with pytest.raises(GateClosed):
        bus.decide(c, 1)
    with pytest.raises(GateClosed, match="ended"):
        bus.undo(a)
    assert files(out) == ["keep/a.png"]
    assert session.progress()["ended"]
    session.close()
    assert files(out / ".imagegate") == ["key"]


# -- what cannot be read


def test_an_unreadable_image_is_reported_and_left_alone(
    bus: GateBus[Any], photos: Path, out: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """Empty, foreign and oversized files are reported; the others are asked about all the same."""
    (photos / "empty.png").touch()
    (photos / "text.jpg").write_text("no image")
    body = bytearray(png((8, 6)))
    body[16:24] = (60_000).to_bytes(4, "big") * 2  # says it is 3.6 billion pixels
    (photos / "bomb.png").write_bytes(body)
    paint(photos / "good.png")
    before = files(photos)
    progress = start().progress()
    assert [found.gate.file for found in bus.pending()] == ["good.png"]
    assert progress["unreadable_count"] == 3
    assert {each["file"] for each in progress["unreadable"]} == {
        "bomb.png", "empty.png", "text.jpg",
    }  # fmt: skip
    assert "empty.png is not shown" in caplog.text
    assert (files(photos), files(out)) == (before, [])
    bus.decide(gate_of(bus, "good.png"), 1)


@pytest.mark.parametrize("move", [True, False])
def test_an_image_that_breaks_off_is_decided_as_it_is(
    bus: GateBus[Any], photos: Path, out: Path, start: Start, move: bool
) -> None:
    """A JPEG whose end is missing is shown, marked, and sorted byte for byte."""
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(photos / "a.jpg")
    body = (photos / "a.jpg").read_bytes()[:9000]
    (photos / "a.jpg").write_bytes(body)
    session = start(move=move)
    gate = gate_of(bus, "a.jpg")
    pictures = bus.pictures(gate)
    assert pictures is not None
    assert pictures.preview(0).remarks == ("broken: the end of the file is missing",)
    bus.decide(gate, 1)
    assert (out / "keep/a.jpg").read_bytes() == body
    assert session.progress()["unreadable_count"] == 0


@pytest.mark.parametrize("looked", [True, False])
def test_an_image_that_cannot_be_decoded_is_found_out_when_it_is_shown(
    bus: GateBus[Any], photos: Path, out: Path, start: Start, watch: Any, looked: bool
) -> None:
    """A file of which only the header is fine is withdrawn when looked at, and never decided."""
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(photos / "a.jp2")
    (photos / "a.jp2").write_bytes((photos / "a.jp2").read_bytes()[:9000])
    paint(photos / "b.png")
    session = start()
    gate = gate_of(bus, "a.jp2")
    act = partial(bus.pictures(gate).preview, 0) if looked else partial(bus.decide, gate, 1)
    with pytest.raises(GateClosed, match="it is broken"):
        act()
    watch.until(lambda: bus.get(gate).state is State.WITHDRAWN)
    watch.until(lambda: bus.count() == 1)
    bus.decide(gate_of(bus, "b.png"), 1)
    session.close()
    assert session.progress()["unreadable_count"] == 1
    assert session.progress()["all_done"]
    assert (files(photos), files(out)) == (["a.jp2", "b.png"], ["keep/b.png"])


def test_a_file_that_changed_is_asked_about_anew(
    bus: GateBus[Any], photos: Path, start: Start, watch: Any
) -> None:
    """Nobody decides about pixels that they were not shown."""
    paint(photos / "a.png", size=(8, 6))
    start()
    old = gate_of(bus, "a.png")
    paint(photos / "a.png", "blue", size=(30, 20))
    with pytest.raises(GateClosed, match="changed"):
        bus.decide(old, 1)
    watch.until(lambda: [found.gate.width for found in bus.pending()] == [30])
    assert bus.get(old).state is State.WITHDRAWN
    bus.decide(gate_of(bus, "a.png"), 1)


def test_a_file_that_vanished_is_withdrawn(
    bus: GateBus[Any], photos: Path, start: Start, watch: Any
) -> None:
    """An answer about a deleted file gets a clear no, and its gate goes."""
    paint(photos / "a.png")
    start()
    gate = gate_of(bus, "a.png")
    (photos / "a.png").unlink()
    with pytest.raises(GateClosed, match=r"a\.png is gone; if it comes back, it is asked about"):
        bus.decide(gate, 1)
    watch.until(lambda: bus.count() == 0)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_unicode_are_sorted_too(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """A file name in Latin-1 is shown readably, sorted under its own bytes, and gone on from."""
    name = os.fsdecode(b"caf\xe9.png")
    paint(photos / name)
    session = start()
    [gate] = [found.gate for found in bus.pending()]
    gate.file.encode("utf-8")
    bus.decide(gate.id, 1)
    json.dumps(session.progress(), ensure_ascii=False).encode("utf-8")
    session.close()
    assert (out / "keep" / name).exists()
    second: GateBus[Any] = GateBus()
    assert start(bus=second).progress()["earlier"] == 1


# -- labels


def test_labels_become_folders_every_system_can_take() -> None:
    """Plain labels stay; others become safe names, different for different labels."""
    assert folder_names(["keep", "zu früh", "a.b"]) == ("keep", "zu früh", "a.b")
    hard = ["../up", "..", ".", "", "a/b", "a\\b", "a:b", "CON", "nul.txt", "com¹", ".hidden",
            "end. ", "tab\t", "decisions.jsonl", "x" * 300, "\x00", "  "]  # fmt: skip
    names = folder_names(hard)
    assert len({name.casefold() for name in names}) == len(hard)
    assert names == folder_names(hard)
    for name in names:
        assert name
        assert not set(name) & set('<>:"/\\|?*\x00\t')
        assert not name.startswith((".", " "))
        assert not name.endswith((".", " "))
        assert len(name) < 80
        assert name.partition(".")[0].lower() not in ("con", "nul", "com¹")
    assert folder_names(["a/b"])[0] in names


@pytest.mark.parametrize(
    ("text", "says"),
    [("keep,keep", "share"), ("keep,Keep", "share"), (",".join("abcdefghijk"), "1 to 10"),
     ("", "1 to 10"), (" , ", "1 to 10")],
)  # fmt: skip
def test_routes_that_cannot_be_are_refused(text: str, says: str) -> None:
    """Labels that share a folder, none, or more than ten: a message that says so."""
    with pytest.raises(BadFolder, match=says):
        read_routes(text)


def test_routes_are_read_as_a_person_means_them() -> None:
    """Spaces and a last comma do not matter; an empty label is its number."""
    assert read_routes(" keep, fix ,reject, ") == ("keep", "fix", "reject")
    assert read_routes("keep,,fix") == ("keep", "2", "fix")


def test_folders_that_cannot_be_are_refused(photos: Path, tmp_path: Path) -> None:
    """No folder, a file, or a folder sorted into itself: a message that says which."""
    with pytest.raises(BadFolder, match="does not exist"):
        FolderSession(GateBus(), tmp_path / "nowhere", tmp_path / "out", ("keep",))
    with pytest.raises(BadFolder, match="not a folder"):
        FolderSession(GateBus(), paint(photos / "a.png"), tmp_path / "out", ("keep",))
    for out in (photos, tmp_path):
        with pytest.raises(BadFolder, match="choose another"):
            FolderSession(GateBus(), photos, out, ("keep",))


# -- many


@pytest.mark.slow
def test_two_thousand_images_stay_small(bus: GateBus[Any], photos: Path, start: Start) -> None:
    """Of two thousand images all gates are there after the scan, and no pixels are held."""
    body = paint(photos / "0.png").read_bytes()
    for number in range(1, 2000):
        (photos / f"{number}.png").write_bytes(body)
    session = start()
    assert bus.count() == session.progress()["total"] == 2000
    assert session._questions._previews._size == 0
    assert [found.gate.file for found in bus.pending(3)] == ["0.png", "1.png", "2.png"]


def test_many_people_deciding_at_once_do_not_get_in_each_others_way(
    bus: GateBus[Any], photos: Path, out: Path, start: Start
) -> None:
    """Eight threads decide 80 files each: a file lies in one place, with one line."""
    for number in range(80):
        paint(photos / f"{number}.png", size=(1 + number, 3))
    start()
    gates = [found.gate.id for found in bus.pending()]
    barrier = threading.Barrier(8)

    def decide(route: int) -> None:
        barrier.wait()
        for gate in gates:
            bus.decide(gate, route % 2 + 1, by=str(route))

    threads = [threading.Thread(target=decide, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(files(out)) == len(lines(out)) == 80
    assert sorted(line["out"] for line in lines(out)) == files(out)
