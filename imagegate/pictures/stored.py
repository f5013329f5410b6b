"""The stored pictures of a gate, and how they are decoded. No torch."""

from __future__ import annotations

import io
import json
import math
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from ..core.model import Gate, GateClosed
from ..core.pictures import Picture
from .encode import encode_png, encode_preview, preview_size
from .place import PicturePlace, PlaceError

# A large picture unpacks to hundreds of megabytes; whoever asks for many waits.
_AT_A_TIME = threading.Semaphore(2)


class StoredPictures:
    """The `imagegate.core.pictures.Pictures` of a gate, read from its place. Thread-safe.

    Files of an image: ``preview-I`` (JPEG or WebP; made anew where it is torn), ``exact-I.png``
    or ``exact-I.safetensors`` (see `tensors.encode_exact`), or ``full-I.png`` where only
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
    """Decode a PNG that was written here, if it has this size.

    Without `Image.open`, which takes large images for an attack and refuses them. Here the size is
    known beforehand.

    Raises:
        Exception: nearly any, if it is broken; `ValueError` if it has another size.
    """
    with PngImageFile(io.BytesIO(png)) as image:
        if image.size != (width, height):
            raise ValueError(f"it is {image.size}, not {(width, height)}")
        image.load()
        return image.copy()


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


_KINDS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "?", "U8": "u1", "I8": "i1",
    "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8", "I64": "<i8",
}  # fmt: skip


def _to_pil(numbers: np.ndarray[Any, Any]) -> Image.Image:
    """``[H,W,C]`` as 8-bit pixels, just as `imagegate.pictures.tensors` rounds them."""
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
