"""Image files that Pillow alone does not open: what optional packages make of them.

Each package is imported when the first file needs it, and only then: without it such a file is
listed with the package's name. pillow-heif and pillow-jxl-plugin teach Pillow itself, rawpy,
OpenEXR and tifffile give arrays.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from ...core.pictures import Picture
from ..encode import encode_png
from .kinds import EXR, HEIC, JPEG_XL, RAW, CannotRead, Kind
from .pillow_source import DNG_VERSION, check_size, encode_png_of_16_bits
from .tones import from_floats, from_integers, viewable

_NUMBERS = {1: "integer", 2: "signed integer", 3: "float"}


def teach_pillow(kind: Kind) -> bool:
    """Make Pillow open such files from now on, if a plugin can do that. Raises `CannotRead`."""
    if kind is HEIC:
        imported("pillow_heif", kind).register_heif_opener()
    elif kind is JPEG_XL:
        imported("pillow_jxl", kind)
    else:
        return False
    return True


def imported(name: str, kind: Kind) -> Any:
    """An optional package. Raises `CannotRead`, which says what to install."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise CannotRead(f"{kind.package} does not load: {error}") from error
        raise CannotRead(kind.why_not()) from error
    except Exception as error:  # a library of the system that it needs
        raise CannotRead(f"{kind.package} does not load: {error}") from error


class RawSource:
    """A camera's RAW file, developed as the camera saw it; see `PillowSource`."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        rawpy = imported("rawpy", RAW)
        self._file = file
        file.seek(0)
        try:
            self._raw = rawpy.imread(file)
        except Exception as error:  # LibRaw's own
            raise CannotRead(f"rawpy cannot read it: {_said(error)}") from error
        sizes = self._raw.sizes
        stored = int(sizes.width), int(sizes.height)
        self.size = stored[::-1] if sizes.flip in (5, 6) else stored
        check_size(*self.size)

    def seen(self, size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
        half = 2 * max(size) <= max(self.size)
        return self._developed(half_size=half), ["developed from camera RAW"]

    def exact(self) -> Picture:
        return encode_png(self._developed())

    def close(self) -> None:
        self._raw.close()
        self._file.close()

    def _developed(self, **how: bool) -> Image.Image:
        try:
            return Image.fromarray(self._raw.postprocess(use_camera_wb=True, output_bps=8, **how))
        except Exception as error:  # as above
            raise CannotRead(f"rawpy cannot develop it: {_said(error)}") from error


class ArraySource:
    """An image as an array of numbers; see `PillowSource`.

    Args:
        size: width and height, in pixels.
        read: returns ``[H,W]``, or ``[H,W,C]`` of 1, 3 or 4 channels.
        linear: whether twice the value is twice the light.
        remark: a remark for people; empty for none.
    """

    def __init__(
        self,
        file: IO[bytes],
        size: tuple[int, int],
        read: Callable[[], NDArray[Any]],
        *,
        linear: bool = False,
        remark: str = "",
    ) -> None:
        check_size(*size)
        self.size = size
        self._file = file
        self._read = read
        self._linear = linear
        self._remark = remark

    def seen(self, size: tuple[int, int]) -> tuple[Image.Image, list[str]]:
        image, said = self._shown(self._values())
        return viewable(image), [remark for remark in (said, self._remark) if remark]

    def exact(self) -> Picture:
        values = self._values()
        if values.dtype == np.uint16 and values.ndim == 3:
            return encode_png_of_16_bits(values, None)
        if values.dtype in (np.uint8, np.uint16):
            return encode_png(Image.fromarray(values))
        return encode_png(self._shown(values)[0])

    def close(self) -> None:
        self._file.close()

    def _values(self) -> NDArray[Any]:
        values = self._read()
        return values[..., 0] if values.ndim == 3 and values.shape[2] == 1 else values

    def _shown(self, values: NDArray[Any]) -> tuple[Image.Image, str]:
        colours = values[..., :3] if values.ndim == 3 else values
        if values.dtype.kind == "f":
            image, said = from_floats(colours, linear=self._linear)
        elif values.dtype == np.uint8:
            image, said = Image.fromarray(colours), ""
        else:
            signed = values.dtype.kind == "i"
            image, said = from_integers(colours, 8 * values.dtype.itemsize, signed=signed)
        if values.ndim == 3 and values.shape[2] == 4:
            alpha = values[..., 3].astype(np.float32)
            top = 1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
            image.putalpha(Image.fromarray((np.clip(alpha / top, 0, 1) * 255).astype(np.uint8)))
        return image, said


def open_exr(path: Path, file: IO[bytes]) -> ArraySource:
    """An OpenEXR file: what a renderer wrote, in linear light."""
    package = imported("OpenEXR", EXR)
    try:
        first = package.File(str(path), header_only=True).parts[0]
        low, high = first.header["dataWindow"]
        size = int(high[0] - low[0]) + 1, int(high[1] - low[1]) + 1
    except Exception as error:  # its own
        said = _said(error).replace(f"'{path}'", "it")  # its place on the disk is nobody's business
        raise CannotRead(f"OpenEXR cannot read it: {said}") from error

    def read() -> NDArray[Any]:
        channels = package.File(str(path)).parts[0].channels
        for name in ("RGBA", "RGB", "Y"):
            if name in channels:
                return np.asarray(channels[name].pixels, np.float32)
        raise CannotRead(f"its channels are {', '.join(channels)}; shown are RGB, RGBA and Y")

    return ArraySource(file, size, read, linear=True)


def open_other_tiff(path: Path, file: IO[bytes]) -> ArraySource | RawSource:
    """A TIFF that Pillow does not open: camera RAW, floats in colour, 64 bits, and the like."""
    tags = _tags_of_tiff(file)
    if DNG_VERSION in tags:
        return RawSource(path, file)
    kind = Kind(f"TIFF of {_pixels_of(tags)}", "tifffile")
    package = imported("tifffile", kind)
    file.seek(0)
    try:
        tiff = package.TiffFile(file)
        page = tiff.pages[0]
        axes, shape, count = page.axes, page.shape, len(tiff.pages)
        photometric = int(page.photometric)
    except Exception as error:  # its own
        raise CannotRead(f"tifffile cannot read it: {_said(error)}") from error
    channels = shape[axes.index("S")] if "S" in axes else 1
    if set(axes) - set("YXS") or photometric > 2 or channels not in (1, 3, 4):
        raise CannotRead(f"{kind.name}, photometric {photometric}, axes {axes}: not read")

    def read() -> NDArray[Any]:
        try:
            values = np.asarray(page.asarray())
        except Exception as error:  # as above; for packed ones it names the package that it needs
            needs = "; pip install imagecodecs" if "imagecodecs" in str(error) else ""
            raise CannotRead(f"tifffile cannot read it: {_said(error)}{needs}") from error
        if "S" in axes:
            values = np.moveaxis(values, axes.index("S"), -1)
        if values.dtype.kind == "f":
            values = values.astype(np.float32)
        if photometric == 0:
            top = 1 if values.dtype.kind == "f" else np.iinfo(values.dtype).max
            values = top - values
        return values

    size = int(shape[axes.index("X")]), int(shape[axes.index("Y")])
    return ArraySource(file, size, read, remark=f"1 of {count} pages" if count > 1 else "")


def _tags_of_tiff(file: IO[bytes]) -> Any:
    """The tags of the first page."""
    file.seek(0)
    try:
        head = file.read(16)
        big = 43 in head[2:4]
        tags = TiffImagePlugin.ImageFileDirectory_v2(head if big else head[:8])
        file.seek(tags.next)
        tags.load(file)
        tags[256]
    except Exception as error:  # a broken directory raises nearly anything
        raise CannotRead("the TIFF file is broken") from error
    return tags


def _pixels_of(tags: Any) -> str:
    """What a TIFF says that its pixels are: ``3 x 32-bit float``."""
    bits = tags.get(258, (1,))
    number = _NUMBERS.get(tags.get(339, (1,))[0], "number of an unknown kind")
    return f"{len(bits)} x {bits[0]}-bit {number}"


def _said(error: Exception) -> str:
    said = error.args[0] if error.args else ""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(error)
    return next(iter(text.strip().splitlines()), type(error).__name__)
