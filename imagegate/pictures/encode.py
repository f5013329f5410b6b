"""Pictures of a gate as bytes: previews, full images, masks. Pillow, no torch.

A preview is a JPEG (WebP where there is transparency) of at most `PREVIEW_SIDE` pixels; a full
image is a lossless PNG; a mask is an 8-bit grey PNG in which white is painted.
"""

from __future__ import annotations

import io
import struct
import threading
from dataclasses import replace

from PIL import Image, ImageChops

from ..core.model import BadPicture
from ..core.pictures import Picture

PREVIEW_SIDE = 1536
"""Longest side, in pixels, of a preview and of the canvas that masks are painted on."""
THUMB_SIDE = 256
"""Longest side, in pixels, of a thumbnail."""
LIGHT = 380_000
"""The most bytes that a preview for a slow line has."""
MAX_MASK_BYTES = 32 * 2**20
MAX_MASK_PIXELS = 64 * 2**20
"""Larger masks are refused. (Pillow itself warns from 85 million pixels on.)"""

# The largest masks unpack to hundreds of megabytes; whoever sends many waits.
_AT_A_TIME = threading.Semaphore(2)

_LIGHTER = ((1536, 78), (1536, 62), (1280, 60), (1024, 60), (896, 50), (768, 45), (512, 40))
"""The longest side in pixels and the quality of ever lighter previews; at 768 even noise fits."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def preview_size(width: int, height: int) -> tuple[int, int]:
    """The size of a preview: the image's own, or scaled down so that it fits."""
    scale = min(1.0, PREVIEW_SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode_preview(image: Image.Image) -> Picture:
    """Encode an image that already has a preview's size."""
    _forget(image, but=("transparency",))
    out = io.BytesIO()
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image.convert("RGBA").save(out, "WEBP", quality=85, method=1)
        return Picture(out.getvalue(), "image/webp")
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    image.save(out, "JPEG", quality=88)
    return Picture(out.getvalue(), "image/jpeg")


def light(preview: Picture) -> Picture:
    """The same preview in at most `LIGHT` bytes: at lower quality first, then smaller."""
    if len(preview.body) <= LIGHT:
        return preview
    with Image.open(io.BytesIO(preview.body)) as image:
        image.load()
        image.info.clear()
        kind, media_type = ("WEBP", "image/webp") if "A" in image.mode else ("JPEG", "image/jpeg")
        for side, quality in _LIGHTER:
            image.thumbnail((side, side))
            out = io.BytesIO()
            image.save(out, kind, quality=quality, method=1)
            if out.tell() <= LIGHT:
                break
    return replace(preview, body=out.getvalue(), media_type=media_type)


def thumb(preview: Picture) -> Picture:
    """The same picture as a WebP of at most `THUMB_SIDE` pixels a side: about 10 kB."""
    with Image.open(io.BytesIO(preview.body)) as image:
        image.draft("RGB", (THUMB_SIDE * 2, THUMB_SIDE * 2))  # a JPEG is decoded no larger
        image.thumbnail((THUMB_SIDE, THUMB_SIDE))
        _forget(image)
        out = io.BytesIO()
        image.save(out, "WEBP", quality=72, method=2)
    return Picture(out.getvalue(), "image/webp")


def encode_png(image: Image.Image) -> Picture:
    """Encode without loss; fast rather than small."""
    _forget(image, but=("transparency", "icc_profile"))  # the pixels mean nothing without these
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return Picture(out.getvalue(), "image/png")


def read_mask(png: bytes, width: int, height: int, most: int = MAX_MASK_PIXELS) -> Image.Image:
    """Decode a mask that somebody sent, without trusting it.

    Args:
        png: any PNG; brightness counts, and transparent pixels count as black.
        width, height: the size of the image it is for. The mask may have another size, but must
            have the same aspect ratio to within a pixel.
        most: the number of pixels that it may have.

    Returns:
        The mask as sent, 8-bit grey (mode ``L``), white painted.

    Raises:
        BadPicture: it is not a PNG, is broken or too large, or has another aspect ratio.
    """
    if len(png) > MAX_MASK_BYTES:
        raise BadPicture(f"the mask has {len(png)} bytes; at most {MAX_MASK_BYTES} are taken")
    if png[:8] != _PNG_SIGNATURE or png[12:16] != b"IHDR" or len(png) < 33:
        raise BadPicture("the mask is not a PNG file")
    # The size is read before Pillow sees the file: a few kilobytes can unpack to gigabytes.
    wide, high = struct.unpack(">II", png[16:24])
    if not 0 < wide * high <= most:
        raise BadPicture(f"the mask is {wide} x {high}; at most {most} pixels are taken")
    if abs(wide - width * high / height) > 1 and abs(high - height * wide / width) > 1:
        raise BadPicture(
            f"the mask is {wide} x {high}, which is another aspect ratio than the image's "
            f"{width} x {height}"
        )
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.size != (wide, high):  # a second header, which Pillow goes by
                raise ValueError("it has more than one size")
            image.load()
            mask = _grey(image)
    except Exception as error:  # Pillow raises nearly anything on a broken file
        # Not what it says: that names places in memory.
        raise BadPicture("the mask is a broken PNG") from error
    _forget(mask)
    return mask


def clean_mask(png: bytes, width: int, height: int, most: int = MAX_MASK_PIXELS) -> bytes:
    """``png`` as `read_mask` sees it, encoded anew, so that nothing hidden in it is kept."""
    with _AT_A_TIME:
        return encode_png(read_mask(png, width, height, most)).body


def scale_mask(mask: Image.Image, width: int, height: int) -> Image.Image:
    """A mask (mode ``L``) scaled to exactly this size; unchanged if it has that size already."""
    if mask.size == (width, height):
        return mask
    return mask.resize((width, height), Image.Resampling.BILINEAR)


def _forget(image: Image.Image, but: tuple[str, ...] = ()) -> None:
    """Drop a file's metadata: where and with what it was made is nobody's business."""
    image.info = {key: value for key, value in image.info.items() if key in but}


def _grey(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bit
        return image.convert("I").point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")  # what shows over black, without a second image of that size
        return ImageChops.multiply(image.convert("L"), image.getchannel("A"))
    return image.convert("L")
