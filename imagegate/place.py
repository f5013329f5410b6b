"""Where the pictures of stored gates lie: a folder, or any place that fsspec knows. No torch.

A gate has a folder there, named by its id. The files are whole or not there at all: each is written
under a temporary name, which begins with a dot, and renamed. A place belongs to one store and holds
that store's id in `MARK`, so that a machine that was given another place notices it at once.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import secrets
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from .disk import make_folders, place, sync_folder
from .model import Gate, GateClosed, StoreError
from .pictures import Picture, encode_png, encode_preview, preview_size

MARK = ".imagegate"
"""The file at the root of a place that says which store it belongs to."""

_GATE = re.compile(r"[A-Za-z0-9_-]+")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_PASSWORD = re.compile(r"(://[^/:@]*):[^/@]*@")
_PASSING = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.ETIMEDOUT,
}

# A large picture unpacks to hundreds of megabytes; whoever asks for many waits.
_AT_A_TIME = threading.Semaphore(2)
# fsspec keeps memory:// in plain dicts, which all places in this process share.
_MEMORY = threading.RLock()


class PlaceError(StoreError):
    """The place of the pictures cannot be used; the message names it, the file and the reason."""


class PicturePlace:
    """Files of gates at a place. Thread-safe.

    Args:
        url: a path, or a URL as fsspec knows them: ``file://``, ``s3://BUCKET/FOLDER``,
            ``memory://``. Nothing is opened or made before the first use.

    All methods raise `PlaceError` where the place cannot be used, and `ValueError` for a gate's id
    or a name that could lead out of the gate's folder.
    """

    def __init__(self, url: str) -> None:
        self.shown = _PASSWORD.sub(r"\1:***@", url)
        """The URL as people may see it, without a password."""
        if not url.strip():
            raise PlaceError("no place is given for the pictures; give a folder or a URL")
        self._url = url
        self._lock = threading.Lock()  # guards the making of _made
        self._made: _Files | None = None

    def write(self, gate_id: str, name: str, body: bytes, *, durable: bool = False) -> None:
        """Write a file, whole or not at all, in place of the one that has this name, if any.

        ``durable``: in a folder, return only when it would outlast a power cut. Other places say
        so themselves when they take a file.
        """
        folder, name = _checked(gate_id, name)
        with self._in_words(f"write {folder}/{name}"):
            self._files().write(folder, name, body, durable)

    def read(self, gate_id: str, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        folder, name = _checked(gate_id, name)
        with self._in_words(f"read {folder}/{name}"):
            return self._files().read(folder, name)

    def names(self, gate_id: str) -> list[str]:
        """The files of a gate, sorted; none for an unknown gate."""
        folder, _ = _checked(gate_id)
        with self._in_words(f"list {folder}"):
            return sorted(n for n in self._files().names(folder) if not n.startswith("."))

    def remove(self, gate_id: str) -> None:
        """Remove all files of a gate; nothing to do if they are gone already."""
        folder, _ = _checked(gate_id)
        with self._in_words(f"remove {folder}"):
            self._files().remove(folder)

    def remove_file(self, gate_id: str, name: str) -> None:
        """Remove one file of a gate; nothing to do if it is gone already."""
        folder, name = _checked(gate_id, name)
        with self._in_words(f"remove {folder}/{name}"):
            self._files().remove_file(folder, name)

    def mark(self, store_id: str, *, first: bool) -> None:
        """Make sure that this is the place of this store.

        ``first``: the store has no place yet, so it takes this one if no other store has.

        Raises:
            PlaceError: it is another store's, or (unless ``first``) nobody's.
        """
        with self._in_words(f"use {MARK}"):
            files = self._files()
            found = files.read("", MARK)
            if first and not (found or b"").strip():
                # An empty mark is what a crash left; it is nobody's, so it may be replaced.
                body = f"{store_id}\n".encode()
                if found is None:
                    with suppress(FileExistsError):
                        files.write_new("", MARK, body)
                else:
                    files.write("", MARK, body, True)
                found = files.read("", MARK)
        owner = (found or b"").decode("utf-8", "replace").strip()
        if owner == store_id:
            return
        whose = f"it is another store's ({owner})" if owner else f"it has no file {MARK}"
        raise PlaceError(
            f"{self.shown} is not the place where this store's pictures lie: {whose}; set "
            "IMAGEGATE_PICTURES to the same place on every machine, and to a place of its own for "
            "each store"
        )

    def _files(self) -> _Files:
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = _open(self._url)
        return self._made

    @contextmanager
    def _in_words(self, doing: str) -> Iterator[None]:
        try:
            yield
        except PlaceError:
            raise
        except Exception as error:  # each kind of place has its own errors, not only OSError
            text = (error.strerror if isinstance(error, OSError) else "") or str(error)
            raise PlaceError(
                f"the place of the pictures, {self.shown}: cannot {doing}: "
                f"{text or type(error).__name__}",
                passing=isinstance(error, (ConnectionError, TimeoutError))
                or (isinstance(error, OSError) and error.errno in _PASSING),
            ) from error


class StoredPictures:
    """`imagegate.pictures.Pictures` of a gate, read from its place. Thread-safe.

    Files of an image: ``preview-I`` (JPEG or WebP; made anew where it is torn), ``exact-I.png``
    or ``exact-I.safetensors`` (see `imagegate.tensors.encode_exact`), or ``full-I.png`` where only
    what is shown was kept; and ``start.safetensors``, the masks that painting starts from,
    ``[B,H,W]``.
    """

    def __init__(self, place: PicturePlace, gate: Gate) -> None:
        self._place = place
        self._gate = gate

    def preview(self, index: int) -> Picture:
        body = self._read(f"preview-{index}")
        if body is not None and _is_whole(body):
            return Picture(body, "image/webp" if body[:4] == b"RIFF" else "image/jpeg")
        with _AT_A_TIME:
            image = self._image(index, self._png(index))
            size = preview_size(*image.size)
            return encode_preview(
                image if size == image.size else image.resize(size, Image.Resampling.BOX)
            )

    def full(self, index: int) -> Picture:
        body = self._png(index)
        if body is not None:
            return Picture(body, "image/png")
        with _AT_A_TIME:
            return encode_png(self._image(index, None))

    def start_mask(self, index: int) -> bytes | None:
        name = "start.safetensors"
        body = self._read(name)
        if body is None:
            return None
        with self._sound(name):
            mask = _numbers(body)[index]
            if not mask.any():
                return None
            return encode_png(_to_pil(mask[..., None])).body

    def _image(self, index: int, png: bytes | None) -> Image.Image:
        """The image with 8 bits a channel, at its true size: from this PNG, else as it was."""
        if png is not None:
            with self._sound(f"the PNG of image {index}"):
                return open_png(png, self._gate.width, self._gate.height)
        name = f"exact-{index}.safetensors"
        body = self._read(name)
        if body is None:
            raise GateClosed(
                f"the full size of this gate is no longer kept (image {index} of "
                f"{self._gate.title!r})"
            )
        with self._sound(name):
            return _to_pil(_numbers(body))

    def _png(self, index: int) -> bytes | None:
        body = self._read(f"exact-{index}.png")
        return body if body is not None else self._read(f"full-{index}.png")

    def _read(self, name: str) -> bytes | None:
        return self._place.read(self._gate.id, name)

    @contextmanager
    def _sound(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a broken file raises nearly anything
            raise PlaceError(
                f"the place of the pictures, {self._place.shown}: {what} of gate {self._gate.id} "
                f"is broken: {error}"
            ) from error


def _is_whole(preview: bytes) -> bool:
    """Whether a preview, which nobody waits for to reach the disk, outlasted a power cut."""
    if preview[:4] == b"RIFF":
        return int.from_bytes(preview[4:8], "little") + 8 == len(preview)
    return preview[:2] == b"\xff\xd8" and preview[-2:] == b"\xff\xd9"


def open_png(png: bytes, width: int, height: int) -> Image.Image:
    """A PNG of our own, decoded, if it has this size.

    Not by `Image.open`: that refuses large images, which it takes for an attack. Here it is known
    how large the image is to be.

    Raises:
        Exception: nearly any, if it is broken; `ValueError` if it is of another size.
    """
    with PngImageFile(io.BytesIO(png)) as image:
        if image.size != (width, height):
            raise ValueError(f"it is {image.size}, not {(width, height)}")
        image.load()
        return image.copy()


class _Files(Protocol):
    """What `PicturePlace` needs of a file system; ``folder`` is "" for the root."""

    def write(self, folder: str, name: str, body: bytes, durable: bool) -> None: ...

    def write_new(self, folder: str, name: str, body: bytes) -> None: ...

    def read(self, folder: str, name: str) -> bytes | None: ...

    def names(self, folder: str) -> list[str]: ...

    def remove(self, folder: str) -> None: ...

    def remove_file(self, folder: str, name: str) -> None: ...


class _Folder:
    """Files in a folder of this machine. Without fsspec, which can neither flush nor replace."""

    def __init__(self, root: str) -> None:
        self._root = Path(os.path.abspath(os.path.expanduser(root)))
        self._entered: set[str] = set()  # folders whose entry in the root is durable

    def write(self, folder: str, name: str, body: bytes, durable: bool) -> None:
        with self._staged(folder, body, durable) as staged:
            os.replace(staged, self._path(folder, name))
        if durable:
            self._sync(folder)

    def write_new(self, folder: str, name: str, body: bytes) -> None:
        with self._staged(folder, body, True) as staged:
            place(staged, self._path(folder, name))
        self._sync(folder)

    def read(self, folder: str, name: str) -> bytes | None:
        try:
            return self._path(folder, name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            return os.listdir(self._path(folder))
        except FileNotFoundError:
            return []

    def remove(self, folder: str) -> None:
        path = self._path(folder)
        self._entered.discard(folder)
        for _ in range(10):
            # Two processes may remove the same gate: then either finds files gone.
            with suppress(FileNotFoundError):
                shutil.rmtree(path)
            if not os.path.lexists(path):
                return
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    def remove_file(self, folder: str, name: str) -> None:
        self._path(folder, name).unlink(missing_ok=True)

    def _path(self, folder: str, name: str = "") -> Path:
        return self._root / folder / name

    @contextmanager
    def _staged(self, folder: str, body: bytes, durable: bool) -> Iterator[Path]:
        """A file with this content under a temporary name, which is gone afterwards."""
        path = self._path(folder)
        staged = path / _temporary()
        try:
            _with_folder(
                partial(_write_new, staged, body, durable),
                partial(make_folders, path) if durable else partial(path.mkdir, 0o777, True, True),
            )
            yield staged
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)

    def _sync(self, folder: str) -> None:
        sync_folder(self._path(folder))
        if folder not in self._entered:
            # The gate's folder may have been made by a write that was not durable.
            sync_folder(self._root)
            if len(self._entered) > 1000:
                self._entered.clear()
            self._entered.add(folder)


class _Anywhere:
    """Files at any other place, by fsspec."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]
        from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]

        # An own instance, not one shared with whoever else uses fsspec here: it must not remember
        # listings, for other machines write to this place, too.
        self._fs, self._root = url_to_fs(url, skip_instance_cache=True)
        self._fs.dircache.use_listings_cache = False
        # Where there is no renaming, fsspec's stand-in would read a "*" in the path as a pattern.
        self._renames = type(self._fs).mv is not AbstractFileSystem.mv
        in_memory = "memory" in self._fs.protocol
        self._alone: AbstractContextManager[Any] = _MEMORY if in_memory else nullcontext()

    def write(self, folder: str, name: str, body: bytes, durable: bool) -> None:
        fs, target = self._fs, self._path(folder, name)
        staged = self._path(folder, _temporary())
        with self._alone:
            try:
                _with_folder(
                    lambda: fs.pipe_file(staged, body),
                    lambda: fs.makedirs(self._path(folder), exist_ok=True),
                )
                if self._renames:
                    fs.mv(staged, target)
                else:
                    fs.cp_file(staged, target)
                    fs.rm_file(staged)
            except BaseException:
                with suppress(Exception):  # the first error is the one to tell
                    fs.rm_file(staged)
                raise

    def write_new(self, folder: str, name: str, body: bytes) -> None:
        # Not every place can refuse to replace a file; the caller looks at what is there then.
        self.write(folder, name, body, True)

    def read(self, folder: str, name: str) -> bytes | None:
        try:
            with self._alone:
                return bytes(self._fs.cat_file(self._path(folder, name)))
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            with self._alone:
                self._fs.invalidate_cache()
                found = self._fs.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        return [name for path in found if (name := str(path).rpartition("/")[2])]

    def remove(self, folder: str) -> None:
        with self._alone:
            # One by one: fsspec's recursive removal reads a "*" in the path as a pattern.
            for name in self.names(folder):
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self._path(folder, name))
            # A place without folders has none to remove.
            with suppress(FileNotFoundError, NotImplementedError):
                self._fs.rmdir(self._path(folder))

    def remove_file(self, folder: str, name: str) -> None:
        with self._alone, suppress(FileNotFoundError):
            self._fs.rm_file(self._path(folder, name))

    def _path(self, folder: str, name: str = "") -> str:
        return "/".join(part for part in (self._root.rstrip("/"), folder, name) if part)


def _open(url: str) -> _Files:
    scheme, separator, rest = url.partition("://")
    if "::" in url or (separator and scheme not in ("file", "local")):
        return _Anywhere(url)
    return _Folder(rest if separator else url)


def _checked(gate_id: str, name: str = "-") -> tuple[str, str]:
    if not _GATE.fullmatch(gate_id):
        raise ValueError(f"{gate_id!r} is not the id of a gate")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name that a gate's file can have")
    return gate_id, name


def _temporary() -> str:
    return f".{secrets.token_hex(8)}.part"


def _with_folder(write: Callable[[], object], make_folder: Callable[[], object]) -> None:
    """Write; make the folder if that is what is missing, even where others remove it meanwhile."""
    for _ in range(3):
        try:
            write()
            return
        except FileNotFoundError:
            make_folder()
    write()


def _write_new(path: Path, body: bytes, durable: bool) -> None:
    with open(path, "xb") as file:
        file.write(body)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def _numbers(safetensors: bytes) -> np.ndarray[Any, Any]:
    """The one tensor of a safetensors file. A view, except for bfloat16, which numpy has not."""
    (length,) = struct.unpack_from("<Q", safetensors)
    header = json.loads(safetensors[8 : 8 + length])
    header.pop("__metadata__", None)
    (entry,) = header.values()
    kind, shape = str(entry["dtype"]), tuple(entry["shape"])
    code = _KINDS[kind]
    numbers = np.frombuffer(
        safetensors, code, math.prod(shape), 8 + length + entry["data_offsets"][0]
    ).reshape(shape)
    if kind == "BF16":
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers


_KINDS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1"}


def _to_pil(numbers: np.ndarray[Any, Any]) -> Image.Image:
    """``[H,W,C]`` as 8-bit pixels, just as `imagegate.tensors` rounds them."""
    height, width, channels = numbers.shape
    pixels = np.empty(numbers.shape, np.uint8)
    band = max(1, 2**20 // (width * channels))  # so that no second copy of it all is made
    with np.errstate(over="ignore"):
        for top in range(0, height, band):
            part = numbers[top : top + band].astype(np.float32)
            np.nan_to_num(part, copy=False, nan=0.0, posinf=1.0, neginf=0.0)
            part = np.rint(part.clip(0, 1) * np.float32(255))
            pixels[top : top + band] = part.astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
