"""Image files on disk: what size, what they look like. Pillow, nothing else.

Sizes are those after the EXIF orientation is applied: as a person sees the image.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from .pictures import Picture, encode_png, encode_preview, preview_size

# What is opened, whatever a file is called: never EPS and the like, which start other programs.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif",
)  # fmt: skip
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
_WEBP_SIDE = 16_383
_PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


def suffixes() -> tuple[str, ...]:
    """The endings of file names that are looked for: those this Pillow can read."""
    known = Image.registered_extensions()
    return tuple(suffix for suffix in _SUFFIXES if suffix in known)


def read_size(path: Path) -> tuple[int, int]:
    """Width and height, oriented, from the header alone. Raises nearly anything: see `why`."""
    with _open(path) as image:
        size, orientation = image.size, _orientation(image)
        if image.format == "TIFF":  # some versions of Pillow turn this size themselves
            size = int(image.tag_v2[256]), int(image.tag_v2[257])  # type: ignore[attr-defined]
    return (size[1], size[0]) if orientation in _SIDEWAYS else size


def read_preview(path: Path) -> Picture:
    """The image as people see it, in sRGB, at most a preview's size. Raises nearly anything."""
    with _open(path) as image:
        turn = None if image.format == "TIFF" else _TURNS.get(_orientation(image))
        size = preview_size(*image.size)
        image.draft("RGB", size)  # a JPEG is decoded at a fraction of its size
        image.load()
        if image.format == "TIFF":  # Pillow turns these itself, while it loads them
            size = preview_size(*image.size)
        seen = _viewable(image)
    if seen.size != size:
        seen = seen.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return encode_preview(_to_srgb(seen.transpose(turn) if turn is not None else seen))


def read_full(path: Path) -> Picture:
    """The whole image as PNG, oriented, as exact as PNG and Pillow can. Raises nearly anything."""
    with _open(path) as image:
        turn = None if image.format == "TIFF" else _TURNS.get(_orientation(image))
        image.load()
        exact = image if image.mode in _PNG_MODES else _sixteen_bit(image) or _viewable(image)
        return encode_png(exact.transpose(turn) if turn is not None else exact)


def lossy(full: Picture) -> Picture:
    """A whole image for looking at: JPEG, or WebP where it has transparency, at its true size."""
    with Image.open(io.BytesIO(full.body)) as image:
        image.load()
        seen = _to_srgb(_viewable(image))
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
    if isinstance(error, UnidentifiedImageError):
        return "it is empty, broken or not an image"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


class PreviewCache:
    """The previews used last, of all files together. Thread-safe.

    Args:
        limit: bytes of encoded previews that are kept at most.
    """

    def __init__(self, limit: int) -> None:
        self._lock = threading.Lock()  # guards both of these
        self._kept: OrderedDict[object, Picture] = OrderedDict()
        self._size = 0
        self._limit = limit

    def get(self, key: object) -> Picture | None:
        """The preview kept under this key, if it still is."""
        with self._lock:
            picture = self._kept.get(key)
            if picture is not None:
                self._kept.move_to_end(key)
            return picture

    def put(self, key: object, picture: Picture) -> None:
        """Keep a preview, and let go of those not asked for the longest."""
        with self._lock:
            before = self._kept.pop(key, None)
            self._size += len(picture.body) - (len(before.body) if before else 0)
            self._kept[key] = picture
            while self._size > self._limit and self._kept:
                self._size -= len(self._kept.popitem(last=False)[1].body)


def _open(path: Path) -> Image.Image:
    Image.init()
    return Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN])


def _orientation(image: Image.Image) -> int:
    try:
        # Not PngImageFile's own getexif: it decodes the image if no EXIF came before the pixels.
        return int(Image.Image.getexif(image).get(0x0112, 1))
    except Exception:  # broken EXIF raises nearly anything, and is no reason to refuse an image
        return 1


def _viewable(image: Image.Image) -> Image.Image:
    """In mode L, RGB or RGBA, whatever it was."""
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "CMYK":
        image = _to_srgb(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return _eight_bit(image)
    return image.convert("RGB")


def _sixteen_bit(image: Image.Image) -> Image.Image | None:
    """The same values where 16 bits can hold them: the name of the mode varies by file."""
    if not image.mode.startswith("I"):
        return None
    values = np.asarray(image)
    if values.size and (values.min() < 0 or values.max() > 65535):
        return None
    return Image.fromarray(values.astype(np.uint16))


def _eight_bit(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, np.float32), posinf=0, neginf=0)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    top = 1.0 if image.mode == "F" else 65535.0
    if low >= 0 and high <= top:
        low, high = 0.0, top  # the usual range; anything else is stretched to be seen at all
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8))


def _to_srgb(image: Image.Image) -> Image.Image:
    """Colours as meant, for a page that knows sRGB only: phones write Display P3."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK"):
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(own):
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        srgb = ImageCms.createProfile("sRGB")
        turned = ImageCms.profileToProfile(image, own, srgb, outputMode=mode)
    except Exception:  # a broken profile, or a Pillow without LittleCMS: show it as it is
        return image
    return turned if turned is not None else image
