"""An image file that Pillow opens: its size, what people see of it, and its exact pixels.

Pillow's own settings are never touched, because they hold for all threads and for ComfyUI too: that
a file may be cut off, and how large an image may be, is decided here for each file.
"""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.pictures import Picture
from ..encode import encode_png
from .kinds import CannotRead, pillow_formats
from .tones import from_floats, from_integers, viewable

MAX_PIXELS = 2**28
"""The largest image that is decoded, 16384 × 16384; a header that says more is refused."""

CUT_OFF = "broken: the end of the file is missing"
DAMAGED = "broken: only part of the file can be read"

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = frozenset({5, 6, 7, 8})
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
_SCALABLE = frozenset({"L", "RGB", "RGBA", "CMYK"})
_SEVERAL = {
    "TIFF": "pages", "DCX": "pages", "GIF": "frames", "WEBP": "frames", "PNG": "frames",
    "AVIF": "frames", "FLI": "frames", "HEIF": "images",
}  # fmt: skip
"""What one file of a format may hold several of. The second picture in a phone's JPEG is none."""
_LOW_BYTES = {"16B": "16L", "16L": "16B", "16N": "16B"}
"""Pillow keeps one byte of each 16-bit colour; under these names of its own, the other one."""
DNG_VERSION = 50706

log = logging.getLogger("imagegate")


def open_with_pillow(path: Path, file: IO[bytes]) -> PillowSource | None:
    """The image in a file, if Pillow opens it; None if it is none that Pillow knows.

    Args:
        path: its name identifies formats without an unmistakable beginning.
        file: that file; close the source instead of it.

    Raises:
        CannotRead: Pillow knows the format but cannot open this file, or it is too large.
        OSError: the file cannot be read from disk.
    """
    Image.init()
    image = _identify(path, file)
    return PillowSource(path, file, image) if image is not None else None


class PillowSource:
    """One open file; see `open_with_pillow`. ``size`` is as people see it, oriented."""

    def __init__(self, path: Path, file: IO[bytes], image: Image.Image) -> None:
        self._path = path
        self._file = file
        self._image = image
        self._broken = CUT_OFF if getattr(image, "padded", False) else ""
        self._stored_as = _raw_mode(image)
        self._orientation = _orientation(image)
        stored = image.size
        if image.format == "TIFF":  # some versions of Pillow turn this size themselves
            stored = int(image.tag_v2[256]), int(image.tag_v2[257])  # type: ignore[attr-defined]
        self.size = stored[::-1] if self._orientation in _SIDEWAYS else stored
        check_size(*self.size)

    @property
    def is_raw(self) -> bool:
        """Whether it is a camera's RAW file, of which Pillow sees only the thumbnail."""
        return self._image.format == "TIFF" and DNG_VERSION in self._image.tag_v2  # type: ignore[attr-defined]

    def seen(self, size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
        """What people see, in mode L, RGB or RGBA, and remarks about it.

        Args:
            size: the size wanted. The image is decoded at, or scaled to, this size where possible.
        """
        remarks = [self._several()]
        stored = size[::-1] if self._orientation in _SIDEWAYS else size
        image = self._load(lambda image: image.draft("RGB", stored))
        deep = self._deep(image, dark_only=True)
        if deep is not None:
            alpha = image.getchannel("A") if image.mode == "RGBA" else None
            image, said = _with_info(from_integers(deep, 16), image)
            if alpha is not None:
                image.putalpha(alpha)
            remarks.append(said)
        elif image.mode == "F" or image.mode.startswith("I"):
            image, said = _with_info(_from_numbers(image), image)
            remarks.append(said)
        if image.mode in _SCALABLE and "transparency" not in image.info:
            stored = size[::-1] if self._turn(image) in _SIDEWAYS else size
            image = image.resize(stored, Image.Resampling.LANCZOS, reducing_gap=2.0)
        seen = self._turned(viewable(image))
        return seen, [remark for remark in (self._broken, *remarks) if remark]

    def exact(self) -> Picture:
        """The whole image as PNG, as exact as PNG can be."""
        image = self._load()
        deep = self._deep(image)
        if deep is not None:
            turned = np.stack(
                [
                    np.asarray(self._turned(Image.fromarray(band)))
                    for band in np.moveaxis(deep, 2, 0)
                ],
                axis=2,
            )
            return encode_png_of_16_bits(turned, image.info.get("icc_profile"))
        if image.mode not in _PNG_MODES:
            image = _sixteen_bit(image) or viewable(self._in_eight_bits(image))
        return encode_png(self._turned(image))

    def close(self) -> None:
        """Close the file."""
        self._image.close()
        self._file.close()

    # -- decoding

    def _load(self, prepare: Callable[[Image.Image], object] = lambda _: None) -> Image.Image:
        """The decoded image; as much of a broken one as there is."""
        image = self._image
        prepare(image)
        try:
            image.load()
        except Exception as error:  # Pillow raises nearly anything on a broken file
            if isinstance(error, OSError) and error.errno:
                raise  # the disk, not the file
            self._broken = CUT_OFF if "truncated" in str(error) else DAMAGED
            if image.format in ("JPEG", "MPO"):  # an end, with which the decoder gives what it has
                self._file.seek(0)
                ended = io.BytesIO(self._file.read() + b"\xff\xd9" * 2)
                self._image = image = _identify(self._path, ended)
                prepare(image)
                image.load()
            else:  # rows are decoded into the image one by one, and stay there
                self._image = image = _plain(image, error)
        return image

    def _several(self) -> str:
        """``1 of 12 pages`` if the file holds several images, else nothing."""
        word = _SEVERAL.get(self._image.format or "")
        if not word or self._broken:
            return ""
        try:  # by an image of its own: some have to look through the whole file for it
            with self._again() as file:
                count = int(getattr(_identify(self._path, file), "n_frames", 1))
        except Exception as error:  # as above
            log.debug("images in %s cannot be counted: %s", self._path, error)
            return ""
        return f"1 of {count} {word}" if count > 1 else ""

    def _deep(self, image: Image.Image, *, dark_only: bool = False) -> NDArray[np.uint16] | None:
        """The exact values of an RGB image with 16 bits per colour, of which Pillow keeps 8."""
        other = _LOW_BYTES.get(self._stored_as.rpartition(";")[2])
        if other is None or image.mode not in ("RGB", "RGBA") or self._broken:
            return None
        highest = np.asarray(image.getextrema())[:3, 1].max()
        if dark_only and highest >= 64:  # more than 14 bits: what Pillow has kept is right
            return None
        with self._again() as file:
            low = _identify(self._path, file)
            _set_raw_mode(low, f"{image.mode};{other}")
            low.load()
        deep: NDArray[np.uint16] = np.asarray(image).astype(np.uint16) << np.uint16(8)
        deep |= np.asarray(low)
        return deep[..., :3] if dark_only else deep

    def _again(self) -> IO[bytes]:
        """The same file, opened once more."""
        if isinstance(self._file, io.BytesIO):
            return io.BytesIO(self._file.getvalue())
        return open(self._path, "rb")

    def _in_eight_bits(self, image: Image.Image) -> Image.Image:
        if image.mode == "F" or image.mode.startswith("I"):
            return _with_info(_from_numbers(image), image)[0]
        return image

    def _turn(self, image: Image.Image) -> int:
        # Pillow turns a TIFF itself, while it loads it.
        return 1 if self._image.format == "TIFF" else self._orientation

    def _turned(self, image: Image.Image) -> Image.Image:
        turn = _TURNS.get(self._turn(image))
        return image.transpose(turn) if turn is not None else image


def check_size(width: int, height: int) -> None:
    """Raises `CannotRead` if an image of this size would not be decoded."""
    if not (width > 0 and height > 0):
        raise CannotRead(f"its header says {width} × {height} pixels")
    if width * height > MAX_PIXELS:
        raise CannotRead(
            f"its header says {width} × {height} pixels; at most {MAX_PIXELS // 10**6} million "
            "are read"
        )


def encode_png_of_16_bits(values: NDArray[np.uint16], profile: bytes | None) -> Picture:
    """RGB or RGBA with 16 bits per colour as PNG, which Pillow cannot write."""
    height, width, channels = values.shape
    rows = np.zeros((height, 1 + width * channels * 2), np.uint8)  # no filter
    rows[:, 1:] = values.astype(">u2").reshape(height, -1).view(np.uint8)
    head = struct.pack(">IIBBBBB", width, height, 16, 6 if channels == 4 else 2, 0, 0, 0)
    chunks = [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", head)]
    if profile:
        chunks.append(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)))
    chunks += [_chunk(b"IDAT", zlib.compress(rows.data, 1)), _chunk(b"IEND", b"")]
    return Picture(b"".join(chunks), "image/png")


def _identify(path: Path, file: IO[bytes]) -> Any:
    """Like `Image.open`, but for what may lie there and without its limit, which all threads share.

    Returns None if no format takes it.
    """
    file.seek(0)
    head = file.read(16)
    failure = ""
    for name in pillow_formats(path):
        if name not in Image.OPEN:
            continue
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(head) is not True:
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except Exception as error:  # Pillow raises nearly anything on a broken file
            if isinstance(error, OSError) and error.errno:
                raise  # the disk, not the file
            log.debug("%s is no %s: %r", path, name, error)
            if accepts is not None and name not in failure:
                failure = name
            if name == "WEBP" and (padded := _padded(file)) is not None:
                return padded
    if failure and failure != "TIFF":  # of which there are more kinds than Pillow knows
        raise CannotRead(f"the {_SAID.get(failure, failure)} file is broken")
    return None


def _padded(file: IO[bytes]) -> Any:
    """A WebP whose end is missing, filled up with zeros: its decoder refuses it otherwise."""
    file.seek(0)
    body = file.read()
    size = struct.unpack("<I", body[4:8])[0] + 8 if len(body) >= 8 else 0
    if not len(body) < size <= 10 * len(body):
        return None
    try:
        image: Any = Image.OPEN["WEBP"][0](io.BytesIO(body.ljust(size, b"\0")), "")
    except Exception as error:  # as above
        log.debug("a padded WebP cannot be read either: %r", error)
        return None
    image.padded = True
    return image


_SAID = {
    "JPEG2000": "JPEG 2000",
    "PSD": "Photoshop",
    "WEBP": "WebP",
    "HEIF": "HEIC",
    "JXL": "JPEG XL",
}


def _orientation(image: Image.Image) -> int:
    if image.format == "JXL" and not getattr(image, "jpeg", False):
        return 1  # its decoder has turned it
    try:
        # Not PngImageFile's own getexif: it decodes the image if no EXIF came before the pixels.
        return int(Image.Image.getexif(image).get(0x0112, 1))
    except Exception:  # broken EXIF raises nearly anything, and is no reason to refuse an image
        return 1


def _plain(image: Any, error: Exception) -> Image.Image:
    """The rows of an image that were decoded before this error; raises it if there are none."""
    try:
        partial: Image.Image = image._new(image.im)
    except Exception:  # it had not even begun
        raise error from None
    if partial.getbbox() is None:
        raise error
    return partial


def _raw_mode(image: Any) -> str:
    """What Pillow calls the pixels in the file: ``RGB;16B``."""
    args = image.tile[0][3] if image.tile else ""
    return str(args if isinstance(args, str) else args[0] if args else "")


def _set_raw_mode(image: Any, mode: str) -> None:
    def changed(args: Any) -> Any:
        return mode if isinstance(args, str) else (mode, *args[1:])

    tiles = ((*tile[:3], changed(tile[3])) for tile in image.tile)
    # Pillow's own kind of tuple, which some versions of it insist on.
    image.tile = [
        type(old)(*new) if hasattr(old, "_fields") else new
        for old, new in zip(image.tile, tiles, strict=True)
    ]


def _from_numbers(image: Image.Image) -> tuple[Image.Image, str]:
    """What people see of an image whose pixels are single numbers of 16 or 32 bits."""
    values = np.asarray(image)
    if image.mode == "F":
        return from_floats(values)
    bits, form = 16, 1
    if image.mode == "I" and image.format == "TIFF":  # it says what Pillow has made alike
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits, form = tags.get(258, (32,))[0], tags.get(339, (1,))[0]
        if bits == 32 and form == 1:
            values = values.view(np.uint32)
    elif image.mode == "I" and image.format != "PNG":
        bits = 32
    return from_integers(values, bits, signed=form == 2)


def _with_info(made: tuple[Image.Image, str], source: Image.Image) -> tuple[Image.Image, str]:
    """The same with what the source says of its colours."""
    if "icc_profile" in source.info:
        made[0].info["icc_profile"] = source.info["icc_profile"]
    return made


def _sixteen_bit(image: Image.Image) -> Image.Image | None:
    """The same values where 16 bits can hold them: the name of the mode varies by file."""
    if not image.mode.startswith("I"):
        return None
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 65535):
        return None
    return Image.fromarray(values.astype(np.uint16))


def _chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(body, zlib.crc32(kind))
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)
