"""Where pictures lie: files that are whole or not there, in any kind of place."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from imagegate.core.model import Gate, GateClosed, ImageGateError
from imagegate.core.pictures import Picture
from imagegate.pictures import file_systems
from imagegate.pictures.atomic import write_file
from imagegate.pictures.place import MARK, PicturePlace, PlaceError
from imagegate.pictures.stored import StoredPictures
from imagegate.pictures.tensors import TensorPictures, encode_exact, encode_mask, full
from tests.support.stored import PATIENCE

ROOT = Path(__file__).parents[2]


class RenamingMemory(MemoryFileSystem):
    """A place that knows how to rename, as SFTP does."""

    protocol = "renaming"

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        self.store[self._strip_protocol(path2)] = self.store.pop(self._strip_protocol(path1))

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("renaming://"))


@pytest.fixture(params=["folder", "file", "memory", "memory-root", "renaming"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    import fsspec

    fsspec.register_implementation("renaming", RenamingMemory, clobber=True)
    yield {
        "folder": str(tmp_path / "a [b]*" / "pictures"),
        "file": f"file://{tmp_path}/pictures/",
        "memory": "memory://some*/place",
        "memory-root": "memory://",
        "renaming": "renaming://place",
    }[request.param]
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def place(url: str) -> PicturePlace:
    return PicturePlace(url)


def everything(place: PicturePlace, gate_id: str) -> list[str]:
    """All files of a gate, temporary ones too."""
    return sorted(place._files().names(gate_id))


def test_files_come_back(place: PicturePlace) -> None:
    """What is written is read again, by name, by other users of the place as well."""
    gate = "-a_B-9"
    assert place.read(gate, "x.png") is None
    assert place.names(gate) == []
    place.write(gate, "x.png", b"one")
    place.write(gate, "a-0", b"", durable=True)
    place.write("other", "y", b"y")
    for user in (place, PicturePlace(place._url)):
        assert user.read(gate, "x.png") == b"one"
        assert user.read(gate, "a-0") == b""
        assert user.read(gate, "y") is None
        assert user.names(gate) == ["a-0", "x.png"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced(place: PicturePlace, durable: bool) -> None:
    """Writing a name again replaces the file and leaves no other behind."""
    for body in (b"a" * 9, b"b", b"c" * 99):
        place.write("g", "x", body, durable=durable)
        assert place.read("g", "x") == body
    assert everything(place, "g") == ["x"]


def test_a_gate_is_removed(place: PicturePlace) -> None:
    """Removing takes all files of one gate, leftovers too, and none of another; twice is fine."""
    place.write("g", "x", b"x")
    place.write("g", "y", b"y")
    place.write("gg", "x", b"x")
    place._files().write("g", ".left.part", b"half", False)
    assert place.names("g") == ["x", "y"]
    place.remove_file("g", "y")
    place.remove_file("g", "never")
    assert place.names("g") == ["x"]
    place.remove("g")
    assert place.names("g") == everything(place, "g") == []
    assert place.read("g", "x") is None
    assert place.names("gg") == ["x"]
    place.remove("g")
    place.remove("never")
    place.write("g", "x", b"again")
    assert place.read("g", "x") == b"again"


def test_other_users_are_seen_at_once(place: PicturePlace) -> None:
    """A listing is never remembered: what others write or remove shows at once."""
    other = PicturePlace(place._url)
    for count in range(1, 4):
        other.write("g", f"x{count}", b"x")
        assert len(place.names("g")) == count
        assert place.read("g", f"x{count}") == b"x"
    other.remove("g")
    assert place.names("g") == []


HOSTILE = [
    "",
    ".",
    "..",
    ".x",
    "a/b",
    "/etc",
    "a\\b",
    "../x",
    "a\0b",
    "a\n",
    "a*",
    "a?",
    "ä",
    "%2e",
]


@pytest.mark.parametrize("hostile", [*HOSTILE, "C:x", "a b", "~"])
def test_hostile_names_are_refused(place: PicturePlace, hostile: str) -> None:
    """No gate's id and no name can lead out of the gate's folder, or be taken for a pattern."""
    calls: list[Callable[[], object]] = [
        lambda: place.write(hostile, "x", b""),
        lambda: place.write("g", hostile, b""),
        lambda: place.read(hostile, "x"),
        lambda: place.read("g", hostile),
        lambda: place.names(hostile),
        lambda: place.remove(hostile),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="is not"):
            call()


def test_a_failed_write_leaves_nothing(
    place: PicturePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the file cannot get its name, the old one stays and no temporary one is left."""
    place.write("g", "x", b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/some/where")

    for owner, name in (
        (os, "replace"),
        (MemoryFileSystem, "cp_file"),
        (RenamingMemory, "mv"),
    ):
        monkeypatch.setattr(owner, name, fail)
    with pytest.raises(PlaceError) as told:
        place.write("g", "x", b"new")
    assert everything(place, "g") == ["x"]
    assert place.read("g", "x") == b"old"
    for part in (place.shown, "write g/x", "Permission denied"):
        assert part in str(told.value)
    assert not told.value.passing
    assert isinstance(told.value, ImageGateError)


def test_a_write_that_is_interrupted(place: PicturePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a write is passed on, and leaves nothing behind, either."""

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for owner, name in ((os, "replace"), (MemoryFileSystem, "cp_file"), (RenamingMemory, "mv")):
        monkeypatch.setattr(owner, name, interrupt)
    with pytest.raises(KeyboardInterrupt):
        place.write("g", "x", b"new")
    assert everything(place, "g") == []


@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("durable", ["True", "False"])
def test_a_full_disk(tmp_path: Path, durable: str) -> None:
    """A write for which there is no room says so, and leaves neither the file nor a part of it."""
    code = f"""
import resource, signal
from imagegate.pictures.place import PicturePlace, PlaceError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
place = PicturePlace({str(tmp_path)!r})
place.write("g", "small", b"x" * 1000, durable={durable})
try:
    place.write("g", "large", b"x" * 1_000_000, durable={durable})
except PlaceError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"{tmp_path}: cannot write g/large: File too large" in done.stdout
    assert [path.name for path in (tmp_path / "g").iterdir()] == ["small"]


def test_a_place_that_cannot_be_made(tmp_path: Path) -> None:
    """A place below a file is told by name and reason, whatever is asked of it."""
    (tmp_path / "file").write_bytes(b"")
    place = PicturePlace(str(tmp_path / "file" / "pictures"))
    calls: list[Callable[[], object]] = [
        lambda: place.write("g", "x", b"x"),
        lambda: place.write("g", "x", b"x", durable=True),
        lambda: place.read("g", "x"),
        lambda: place.names("g"),
        lambda: place.mark("store", first=True),
    ]
    for call in calls:
        with pytest.raises(PlaceError, match=r"file.pictures: cannot .*Not a directory"):
            call()


@pytest.mark.parametrize("url", ["nothing://x", "", "  ", "memory://x::nothing::y"])
def test_a_place_of_no_known_kind(url: str) -> None:
    """A URL that nothing can open is told at the first use."""
    with pytest.raises(PlaceError):
        PicturePlace(url).write("g", "x", b"x")


def test_a_place_that_is_away_for_a_moment(
    place: PicturePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that may pass is marked as such."""
    assert place.names("g") == []

    def fail(*_: Any) -> None:
        raise TimeoutError(errno.ETIMEDOUT, "timed out")

    monkeypatch.setattr(type(place._files()), "read", fail)
    with pytest.raises(PlaceError) as told:
        place.read("g", "x")
    assert told.value.passing


def test_no_password_is_told() -> None:
    """A password in the URL is in no message."""
    place = PicturePlace("nothing://user:secret@host/x")
    with pytest.raises(PlaceError) as told:
        place.read("g", "x")
    assert "secret" not in str(told.value)
    assert place.shown == "nothing://user:***@host/x"


def test_nothing_is_made_before_the_first_write(tmp_path: Path) -> None:
    """Looking makes no folder."""
    place = PicturePlace(str(tmp_path / "pictures"))
    assert place.read("g", "x") is None
    assert place.names("g") == []
    place.remove("g")
    with pytest.raises(PlaceError):
        place.mark("store", first=False)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_place_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is meant from where the process was when its place was first used."""
    monkeypatch.chdir(tmp_path)
    place = PicturePlace("pictures")
    place.write("g", "x", b"x")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert place.read("g", "x") == b"x"
    assert (tmp_path / "pictures" / "g" / "x").read_bytes() == b"x"


def test_a_durable_write_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is flushed before it gets its name, its folder and the root afterwards; unless
    it need not be durable.
    """
    done: list[str] = []
    flush, rename = os.fsync, os.replace

    def flushed(file: int) -> None:
        done.append("file" if os.fstat(file).st_size == 7777 else "folder")
        flush(file)

    def renamed(*args: Any) -> None:
        done.append("name")
        rename(*args)

    place = PicturePlace(str(tmp_path / "pictures"))
    place.write("g", "y", b"y" * 7777)
    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    place.write("g", "x", b"x" * 7777)
    assert done == ["name"]
    done.clear()
    place.write("g", "x", b"x" * 7777, durable=True)
    assert done == ["file", "name", "folder", "folder"]


def test_the_folder_is_removed_while_a_file_is_written(
    place: PicturePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that goes away just before a write is made again."""
    gone: list[Path] = []

    def removed(path: Path, *args: Any, **options: Any) -> None:
        if not gone:
            gone.append(path)
            place.write("g", "y", b"y")
            place.remove("g")
        write_file(path, *args, **options)

    monkeypatch.setattr(file_systems, "write_file", removed)
    place.write("g", "x", b"x")
    assert place.read("g", "x") == b"x"


@pytest.mark.processes
def test_two_processes_write_the_same_name(tmp_path: Path) -> None:
    """However many write a file at once, whoever reads sees one of theirs, and all of it."""
    code = f"""
import sys
from imagegate.pictures.place import PicturePlace
place = PicturePlace({str(tmp_path)!r})
sys.stdin.readline()
for turn in range(60):
    place.write("g", "x", sys.argv[1].encode() * (200_000 + turn))
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, letter], cwd=ROOT, stdin=subprocess.PIPE, text=True
        )
        for letter in "ab"
    ]
    place = PicturePlace(str(tmp_path))
    place.write("g", "x", b"c" * 200_000)
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.close()
    reads = 0
    while any(writer.poll() is None for writer in writers) or not reads:
        body = place.read("g", "x")
        assert body is not None
        assert 200_000 <= len(body) < 200_060
        assert len(set(body)) == 1
        assert set(place.names("g")) == {"x"}
        reads += 1
    assert [writer.wait(PATIENCE) for writer in writers] == [0, 0]
    assert everything(place, "g") == ["x"]


def test_many_threads(place: PicturePlace) -> None:
    """A place can be used, from its very first use on, by many threads at the same time."""
    barrier = threading.Barrier(8)
    failed: list[BaseException] = []

    def use(own: int) -> None:
        try:
            barrier.wait(PATIENCE)
            for turn in range(20):
                place.write(f"g{own}", f"x{turn}", b"own")
                place.write("shared", "x", bytes([own]) * 1000)
                assert len(set(place.read("shared", "x") or b"")) == 1
                assert len(place.names(f"g{own}")) == turn + 1
            place.remove(f"g{own}")
            assert place.names(f"g{own}") == []
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=use, args=(own,)) for own in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert everything(place, "shared") == ["x"]


def test_many_remove_the_same_gate(place: PicturePlace) -> None:
    """Many may remove a gate at the same time; it is gone and nobody fails."""
    failed: list[BaseException] = []
    for turn in range(10):
        for name in range(10):
            place.write("g", f"x{name}", b"x")
        barrier = threading.Barrier(4)

        def remove(barrier: threading.Barrier = barrier) -> None:
            try:
                barrier.wait(PATIENCE)
                place.remove("g")
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=remove) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failed == [], f"in turn {turn}"
        assert place.names("g") == []


def test_a_place_is_marked_once(place: PicturePlace) -> None:
    """The first store that takes a place has it; from then on it fits that store only."""
    with pytest.raises(PlaceError, match=r"it has no file .*IMAGEGATE_PICTURES"):
        place.mark("mine", first=False)
    place.mark("mine", first=True)
    place.mark("mine", first=True)
    PicturePlace(place._url).mark("mine", first=False)
    for first in (True, False):
        with pytest.raises(PlaceError) as told:
            place.mark("another", first=first)
        for part in (place.shown, "another store's (mine)", "IMAGEGATE_PICTURES"):
            assert part in str(told.value)
    place.mark("mine", first=False)
    place.write("g", "x", b"x")
    place.remove("g")
    place.mark("mine", first=False)
    assert not [name for name in everything(place, "") if name.startswith(".") and name != MARK]


def test_an_empty_mark_is_nobodys(place: PicturePlace) -> None:
    """A mark that a crash left empty can be taken over, but only by a store without a place."""
    place._files().write("", MARK, b"", False)
    with pytest.raises(PlaceError):
        place.mark("mine", first=False)
    place.mark("mine", first=True)
    place.mark("mine", first=False)


def test_two_stores_mark_a_place_at_once(tmp_path: Path) -> None:
    """Of many stores that take the same folder at the same time, just one gets it."""
    barrier = threading.Barrier(8)
    won: list[str] = []
    lost: list[str] = []

    def take(store: str) -> None:
        barrier.wait(PATIENCE)
        try:
            PicturePlace(str(tmp_path / "p")).mark(store, first=True)
            won.append(store)
        except PlaceError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=take, args=(f"store{own}",)) for own in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert (len(won), len(lost)) == (1, 7)
    assert all(f"({won[0]})" in text for text in lost)
    assert (tmp_path / "p" / MARK).read_text() == f"{won[0]}\n"
    assert os.listdir(tmp_path / "p") == [MARK]


@pytest.mark.processes
def test_importing_is_cheap() -> None:
    """Importing the module, and using a folder, loads neither fsspec, safetensors nor torch."""
    code = """
import sys, tempfile
from imagegate.pictures.place import PicturePlace
with tempfile.TemporaryDirectory() as folder:
    PicturePlace(folder).write("g", "x", b"x")
    assert PicturePlace(f"file://{folder}").read("g", "x") == b"x"
heavy = {"fsspec", "safetensors", "torch", "sqlalchemy", "gradio"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def pixels(picture: Picture) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(picture.body)))


def kept(place: PicturePlace, image: torch.Tensor) -> StoredPictures:
    """The pictures of a gate of which only the exact images were kept."""
    gate = Gate(("a",), width=image.shape[2], height=image.shape[1], batch=len(image))
    for index, one in enumerate(image):
        suffix, body = encode_exact(one)
        place.write(gate.id, f"exact-{index}.{suffix}", body)
    return StoredPictures(place, gate)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_stored_pictures_are_the_same(
    place: PicturePlace, dtype: torch.dtype, channels: int
) -> None:
    """A stored image looks just as it did while its tensor was there: to the bit at its full size,
    whatever wild values it has, and also if it was an 8-bit picture.
    """
    image = (torch.rand(2, 20, 30, channels) * 3 - 1).to(dtype)
    image[0, 0, :6] = torch.tensor(
        [np.nan, np.inf, -np.inf, -0.0, 1e-7, 7], dtype=dtype
    )[:, None]  # fmt: skip
    if dtype == torch.float64:
        image[0, 1, 1] = 1e300
    image[1] = ((image[1].float().clamp(0, 1) * 255).round() / 255).to(dtype)
    stored = kept(place, image)
    before = TensorPictures(image)
    for index in range(2):
        assert np.array_equal(pixels(stored.full(index)), pixels(full(image, index)))
        shown, once = stored.preview(index), before.preview(index)
        assert shown.media_type == once.media_type
        assert np.array_equal(pixels(shown), pixels(once))


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_large_image_is_scaled_down(place: PicturePlace, exact: bool, channels: int) -> None:
    """A preview made on demand has the size, and nearly the look, of the one made at first."""
    ramp = torch.linspace(0, 1, 2000)[None, None, :, None]
    image = (ramp.expand(1, 40, -1, channels) * 255).round() / 255
    if not exact:
        image = image * 0.999
    shown = pixels(kept(place, image).preview(0)).astype(int)
    once = pixels(TensorPictures(image).preview(0)).astype(int)
    assert shown.shape == once.shape
    assert shown.shape[:2] == (31, 1536)
    assert np.abs(shown - once)[..., : min(channels, 3)].max() <= 16


def test_a_kept_preview_is_shown_as_it_is(place: PicturePlace) -> None:
    """A preview that was kept is shown, even after the image itself was let go."""
    gate = Gate(("a",), 8, 8, batch=3)
    stored = StoredPictures(place, gate)
    jpeg, webp = b"\xff\xd8jpeg\xff\xd9", b"RIFF\x04\0\0\0webp"
    place.write(gate.id, "preview-0", jpeg)
    place.write(gate.id, "preview-1", webp)
    assert stored.preview(0) == Picture(jpeg, "image/jpeg")
    assert stored.preview(1) == Picture(webp, "image/webp")
    for gone in (stored.full, lambda _: stored.preview(2)):
        with pytest.raises(GateClosed, match="no longer kept"):
            gone(0)
    assert stored.start_mask(0) is None


@pytest.mark.parametrize("torn", [b"", b"\0" * 900, b"\xff\xd8half", b"RIFF\xff\0\0\0webp"])
def test_a_torn_preview_is_made_again(place: PicturePlace, torn: bytes) -> None:
    """A preview that a power cut has left unfinished is made of the image itself."""
    image = torch.rand(1, 30, 20, 3)
    gate = Gate(("a",), 20, 30)
    suffix, body = encode_exact(image[0])
    place.write(gate.id, f"exact-0.{suffix}", body)
    place.write(gate.id, "preview-0", torn)
    assert pixels(StoredPictures(place, gate).preview(0)).shape == (30, 20, 3)


def test_a_picture_that_only_was_shown(place: PicturePlace) -> None:
    """Where just the full PNG was kept, it is given as it is, and previews are made of it."""
    image = torch.rand(1, 30, 20, 3)
    gate = Gate(("a",), 20, 30)
    place.write(gate.id, "full-0.png", full(image, 0).body)
    stored = StoredPictures(place, gate)
    assert stored.full(0) == full(image, 0)
    assert pixels(stored.preview(0)).shape == (30, 20, 3)


def test_an_image_larger_than_pillow_trusts(
    place: PicturePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image so large that Pillow would take it for an attack is shown."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    preview = kept(place, torch.ones(1, 16, 16, 3)).preview(0)
    monkeypatch.undo()
    assert pixels(preview).shape == (16, 16, 3)


def test_a_broken_file_is_told(place: PicturePlace) -> None:
    """A file that is broken, or of another size than the gate's image, is told by name."""
    stored = kept(place, torch.rand(1, 4, 5, 3))
    gate = stored._gate.id
    body = place.read(gate, "exact-0.safetensors") or b""
    for broken in (b"", b"no", b"\xff" * 20, body[:-1]):
        place.write(gate, "exact-0.safetensors", broken)
        place.write(gate, "start.safetensors", broken)
        with pytest.raises(PlaceError, match=rf"exact-0.safetensors of gate {gate} is broken"):
            stored.full(0)
        with pytest.raises(PlaceError, match=r"start.safetensors of gate .* is broken"):
            stored.start_mask(0)
    for other in (b"no", full(torch.rand(1, 9, 9, 3), 0).body):
        place.write(gate, "exact-0.png", other)
        with pytest.raises(PlaceError, match="is broken"):
            stored.preview(0)


def test_a_stored_start_mask(place: PicturePlace) -> None:
    """The mask that painting starts from is just what it was with the tensor; empty ones none."""
    mask = torch.rand(3, 6, 8)
    mask[1] = 0
    gate = Gate(("a",), 8, 6, batch=3)
    place.write(gate.id, "start.safetensors", encode_mask(mask))
    stored = StoredPictures(place, gate)
    before = TensorPictures(torch.zeros(3, 6, 8, 3), mask)
    assert stored.start_mask(1) is None
    for index in (0, 2):
        png, once = stored.start_mask(index), before.start_mask(index)
        assert png is not None
        assert once is not None
        assert np.array_equal(pixels(Picture(png, "")), pixels(Picture(once, "")))
