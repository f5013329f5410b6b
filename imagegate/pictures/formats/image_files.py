"""Image files on disk: their size, what they look like, or why they cannot be shown.

Sizes are those after the EXIF orientation is applied: as a person sees the image.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from PIL import Image

from ...core.pictures import Picture
from ..encode import encode_preview, preview_size
from .kinds import (
    EXR,
    HEAD,
    RAW,
    CannotRead,
    Kind,
    is_raw_by_name,
    kind_by_name,
    kind_of,
)
from .optional_sources import RawSource, open_exr, open_other_tiff, teach_pillow
from .pillow_source import PillowSource, open_with_pillow

_WEBP_SIDE = 16_383


class ImageSource(Protocol):
    """One open image file, whatever reads it. All methods can raise nearly anything: see `why`."""

    size: tuple[int, int]
    """Width and height as people see it, oriented."""

    def seen(self, size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
        """What people see, in mode L, RGB or RGBA and in sRGB, not much smaller than this size;
        and remarks about it.
        """

    def exact(self) -> Picture:
        """The whole image as PNG, as exact as PNG can."""

    def close(self) -> None:
        """Close the file."""


def open_image(path: Path) -> ImageSource:
    """Open an image file by its content. Close it after use.

    Raises:
        CannotRead: it is not shown; the message says why, and which package would read it.
        OSError: the file cannot be read from disk.
    """
    file = open(path, "rb")  # noqa: SIM115  the source closes it
    try:
        head = file.read(HEAD)
        if not head:
            raise CannotRead("the file is empty")
        kind = kind_of(head)
        if is_raw_by_name(path) and kind in (RAW, "TIFF", None):
            return RawSource(path, file)
        if isinstance(kind, Kind):
            teach_pillow(kind)
        source = open_with_pillow(path, file)
        if isinstance(source, PillowSource):
            return RawSource(path, file) if source.is_raw else source
        if kind == "TIFF":
            return open_other_tiff(path, file)
        if kind is RAW:
            return RawSource(path, file)
        if kind is EXR:
            return open_exr(path, file)
        named = kind_by_name(path)
        if kind is None and named is not None and not named.package:
            kind = named  # of some kinds the name says more than the first bytes
        if isinstance(kind, Kind):
            raise CannotRead(kind.why_not())
        raise CannotRead("its content is not that of an image")
    except BaseException:
        file.close()
        raise


def read_size(path: Path) -> tuple[int, int]:
    """Width and height, oriented, from the header alone. Can raise nearly anything: see `why`."""
    with closing(open_image(path)) as source:
        return source.size


def read_preview(path: Path) -> Picture:
    """The image as people see it, in sRGB, at most a preview's size. Can raise nearly anything."""
    with closing(open_image(path)) as source:
        size = preview_size(*source.size)
        seen, remarks = source.seen(size)
    if seen.size != size:
        seen = seen.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return replace(encode_preview(seen), remarks=tuple(remarks))


def read_full(path: Path) -> Picture:
    """The whole image as PNG, oriented, as exact as PNG can be. Can raise nearly anything."""
    with closing(open_image(path)) as source:
        return source.exact()


def lossy(full: Picture) -> Picture:
    """A whole image for looking at: JPEG, or WebP where it has transparency, at its true size."""
    source = open_with_pillow(Path(), io.BytesIO(full.body))
    assert source is not None, "it is a PNG"
    with closing(source):
        seen, _ = source.seen(source.size)
    if "A" in seen.mode and max(seen.size) > _WEBP_SIDE:
        return full
    seen.info.clear()  # whatever else was written into the file is nobody's business
    out = io.BytesIO()
    kind, media_type = ("WEBP", "image/webp") if "A" in seen.mode else ("JPEG", "image/jpeg")
    seen.save(out, kind, quality=90, method=1)  # the method is WebP's: fast rather than small
    return Picture(out.getvalue(), media_type)


def why(error: Exception) -> str:
    """A short reason, for a person, why a file could not be read."""
    if isinstance(error, FileNotFoundError):
        return "it is gone"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, CannotRead):
        return str(error)
    said = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return f"it is broken: {said}"


class PreviewCache:
    """Keeps the previews that were used last, for all files together. Thread-safe.

    Args:
        limit: the most bytes of encoded previews that are kept.
    """

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()  # guards both of these
        self._kept: OrderedDict[object, Picture] = OrderedDict()
        self._size = 0
        self._limit = limit

    def get(self, key: object) -> Picture | None:
        """The preview kept under this key; None if it is no longer kept."""
        with self._lock:
            picture = self._kept.get(key)
            if picture is not None:
                self._kept.move_to_end(key)
            return picture

    def put(self, key: object, picture: Picture) -> None:
        """Keep a preview, and drop those that were not asked for the longest."""
        with self._lock:
            before = self._kept.pop(key, None)
            self._size += len(picture.body) - (len(before.body) if before else 0)
            self._kept[key] = picture
            while self._size > self._limit and self._kept:
                self._size -= len(self._kept.popitem(last=False)[1].body)
