"""Turns any kind of pixels into what people see: 8 bits per channel in sRGB.

Only for looking: nothing here is ever written into a file that is kept.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Pixels = NDArray[Any]
DARK = 1 / 4
"""An image that uses less than this part of its range is brightened."""


def viewable(image: Image.Image) -> Image.Image:
    """The image in mode L, RGB or RGBA, 8 bits per channel; in sRGB if its colours are known."""
    if image.mode in ("LA", "La", "PA") or (image.mode == "L" and image.has_transparency_data):
        clear = image.convert("RGBA")
        grey = to_srgb(_with_profile(image.convert("L"), image)).convert("RGBA")
        grey.putalpha(clear.getchannel("A"))
        return grey if image.mode != "PA" else to_srgb(_with_profile(clear, image))
    if image.has_transparency_data:
        return to_srgb(_with_profile(image.convert("RGBA"), image))
    if image.mode in ("L", "RGB", "CMYK"):
        seen = to_srgb(image)
        return seen.convert("RGB") if seen.mode == "CMYK" else seen
    if image.mode == "1":
        return image.convert("L")
    return to_srgb(_with_profile(image.convert("RGB"), image))


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert colours for a page that knows only sRGB: phones write Display P3."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("L", "RGB", "RGBA", "CMYK"):
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
    if turned is None:
        return image
    turned.info.pop("icc_profile", None)  # it is in sRGB now
    return turned.convert("L") if image.mode == "L" else turned


def from_integers(values: Pixels, bits: int, *, signed: bool = False) -> tuple[Image.Image, str]:
    """Integers of so many bits, as people see them, and a remark if the range was stretched."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    most = 2 ** (bits - 1 if signed else bits) - 1
    file = f"{'an' if bits == 8 else 'a'} {bits}-bit file"
    if low < 0 or (high > 65535 and high < DARK * most):
        low = min(low, 0)
        return _scaled(values, low, high), f"shown with {low} as black and {high} as white"
    if high == 0 or high >= DARK * most:
        return _scaled(values, 0, most), ""
    if high < 256:
        return _scaled(values, 0, high), f"shown brighter: values up to {high} in {file}"
    depth = high.bit_length() + high.bit_length() % 2  # cameras have 10, 12 or 14
    return _scaled(values, 0, 2**depth - 1), f"shown brighter: {depth} bits in {file}"


def from_floats(values: Pixels, *, linear: bool = False) -> tuple[Image.Image, str]:
    """Floats (1 is white), as people see them, and a remark if the range was stretched.

    Args:
        values: with or without a last axis of 1 or 3 channels.
        linear: twice the value is twice the light, as renderers write it.
    """
    values = values.astype(np.float32)
    known = np.isfinite(values)
    values = np.where(known, values, 0)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    said = ""
    dark = DARK**2.2 if linear else DARK
    if linear:
        low, top = 0.0, 1.0 if high >= dark or high <= 0 else high
        if high > 1:
            said = f"values up to {high:.3g} are cut off at 1"
    elif low < 0 or high > 1:
        low, top = min(low, 0.0), high
        if low == 0:  # a few very bright pixels are not to make all others black
            top = float(np.percentile(values.ravel()[:: max(1, values.size // 10**6)], 99.9))
            top = high if top <= 0 or high <= 2 * top else top
        said = f"shown with {low:.3g} as black and {top:.3g} as white"
    else:
        low, top = 0.0, 1.0 if high >= DARK or high <= 0 else high
    if top < dark:
        said = f"shown brighter: values up to {high:.2g} of 1"
    values = np.clip((values - low) / max(top - low, 1e-30), 0, 1)
    if linear:
        values = np.where(
            values <= 0.0031308, values * 12.92, 1.055 * np.power(values, 1 / 2.4) - 0.055
        )
    return Image.fromarray(np.rint(values * 255).astype(np.uint8)), said


def _scaled(values: Pixels, low: int, high: int) -> Image.Image:
    if low == 0 and high <= 65535 and values.dtype.kind in "ui":  # quick, and takes little memory
        table = np.rint(np.arange(high + 1) * (255 / max(high, 1))).astype(np.uint8)
        return Image.fromarray(table[values])
    shifted = (values.astype(np.float64) - low) * (255 / max(high - low, 1))
    return Image.fromarray(np.rint(shifted).astype(np.uint8))


def _with_profile(image: Image.Image, source: Image.Image) -> Image.Image:
    """The profile of the source, if it is for colours such as these: Pillow may have dropped it."""
    profile = source.info.get("icc_profile")
    if profile and _space(profile) == ("GRAY" if image.mode == "L" else "RGB "):
        image.info["icc_profile"] = profile
    else:
        image.info.pop("icc_profile", None)
    return image


def _space(profile: bytes) -> str:
    return profile[16:20].decode("latin-1")
