"""Paints sample images, so that there is something to look at right away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]
Pixels = NDArray[np.float32]


def write_samples(folder: Path) -> list[Path]:
    """Paint six images of different shapes into a folder that exists; always the same ones.

    One has its orientation only in its EXIF data, one is transparent. Files that are there
    already are left alone.
    """
    painters: dict[str, Callable[[], Image.Image]] = {
        "01 dawn.jpg": _dawn,
        "02 still life.png": _still_life,
        "03 lighthouse.jpg": _lighthouse,
        "04 balloon.png": _balloon,
        "05 dunes.jpg": _dunes,
        "06 night.jpg": _night,
    }
    written = []
    for name, paint in painters.items():
        path = folder / name
        written.append(path)
        if path.exists():
            continue
        image = _caption(paint(), name[3:].rsplit(".", 1)[0])
        if name.startswith("03"):  # stored lying on its side, as many phones do
            exif = Image.Exif()
            exif[0x0112] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(path, quality=90, exif=exif)
        else:
            image.save(path, quality=90)
    return written


def _dawn() -> Image.Image:
    width, height = 1600, 1000
    pixels = _sky(width, height, (38, 52, 110), (240, 142, 106), (255, 222, 158))
    _glow(pixels, 1050, 560, 75, (255, 244, 214), 3.5)
    far, near = np.array((116, 92, 138)), np.array((24, 26, 56))
    for i in range(5):
        ridge = height * (0.56 + 0.09 * i) - _hills(width, seed=i + 1, tall=150 - 20 * i)
        _fill_below(pixels, ridge, far + (near - far) * i / 4)
    return _finished(pixels)


def _dunes() -> Image.Image:
    width, height = 1920, 820
    pixels = _sky(width, height, (64, 140, 190), (150, 204, 220), (250, 232, 200))
    _glow(pixels, 360, 190, 55, (255, 253, 236), 4.0)
    x = np.arange(width)
    colours = ((226, 176, 112), (206, 142, 82), (176, 108, 60), (136, 78, 46))
    for i, colour in enumerate(colours):
        ridge = 400 + 95 * i - 70 * np.sin(x / (260 + 60 * i) + 1.9 * i) - 18 * np.sin(x / 95 + i)
        _fill_below(pixels, ridge, np.array(colour), shade=0.25)
    return _finished(pixels)


def _night() -> Image.Image:
    width = height = 1200
    pixels = _sky(width, height, (6, 10, 34), (18, 38, 84), (58, 96, 130))
    random = np.random.default_rng(7)
    rows, columns = random.integers(0, 800, 420), random.integers(0, width, 420)
    pixels[rows, columns] += random.uniform(60, 220, (420, 1))
    _glow(pixels, 820, 300, 95, (244, 240, 220), 2.2)
    ridge = 840 - _hills(width, seed=11, tall=190)
    _fill_below(pixels, ridge, np.array((12, 20, 42)))
    lake = pixels[900:1200]
    lake[:] = pixels[600:900][::-1] * 0.55 + np.array((8, 18, 38))
    lake += (8 * np.sin(np.arange(300) / 3.5))[:, None, None]
    return _finished(pixels)


def _lighthouse() -> Image.Image:
    width, height = 1000, 1500
    pixels = _sky(width, height, (40, 96, 150), (140, 190, 210), (246, 226, 196))
    _fill_below(pixels, np.full(width, 1080.0), np.array((38, 104, 132)), shade=0.35)
    image = _finished(pixels)
    draw = ImageDraw.Draw(image)
    draw.polygon([(120, 1500), (260, 1190), (480, 1110), (760, 1140), (1000, 1330), (1000, 1500)],
                 fill=(58, 66, 62))  # fmt: skip
    for i in range(7):
        top, bottom = 500 + 90 * i, 590 + 90 * i
        left = [(540 - 62 - 7 * k, y) for k, y in ((i, top), (i + 1, bottom))]
        right = [(540 + 62 + 7 * k, y) for k, y in ((i + 1, bottom), (i, top))]
        draw.polygon(left + right, fill=(244, 240, 232) if i % 2 else (200, 56, 48))
    draw.rectangle((466, 480, 614, 502), fill=(52, 56, 62))
    draw.rectangle((496, 400, 584, 480), fill=(255, 232, 150))
    draw.polygon([(478, 402), (540, 330), (602, 402)], fill=(168, 44, 40))
    return image


def _still_life() -> Image.Image:
    width, height = 1280, 960
    pixels = _sky(width, height, (62, 84, 82), (92, 118, 110), (124, 146, 132))
    _fill_below(pixels, np.full(width, 640.0), np.array((136, 92, 58)), shade=0.3)
    image = _finished(pixels)
    for x, y, radius, colour in (
        (470, 640, 150, (206, 62, 44)), (740, 668, 124, (232, 156, 40)),
        (905, 716, 92, (128, 158, 52)), (620, 748, 78, (196, 84, 96)),
    ):  # fmt: skip
        shadow = Image.new("L", image.size, 0)
        ImageDraw.Draw(shadow).ellipse(
            (x - radius, y + radius * 0.72, x + radius * 1.7, y + radius * 1.12), fill=150
        )
        image.paste((30, 20, 14), mask=shadow.filter(ImageFilter.GaussianBlur(16)))
        image.paste(*_ball(radius, colour, at=(x - radius, y - radius)))
    return image


def _balloon() -> Image.Image:
    scale, width, height = 2, 800, 1000
    image = Image.new("RGBA", (width * scale, height * scale), (255, 255, 255, 0))
    draw = ImageDraw.Draw(image)

    def at(*places: float) -> list[float]:
        return [place * scale for place in places]

    colours = ((224, 82, 70), (246, 186, 80), (62, 132, 160), (246, 186, 80), (224, 82, 70))
    for half, colour in zip((310, 236, 150, 60, 0), colours, strict=True):
        if half:
            draw.ellipse(at(400 - half, 70, 400 + half, 690), fill=(*colour, 255))
    draw.polygon(at(222, 634, 578, 634, 446, 770, 354, 770), fill=(170, 62, 58, 255))
    for x, foot in ((300, 362), (372, 388), (428, 412), (500, 438)):
        draw.line(at(x, 690, foot, 830), fill=(96, 74, 58, 255), width=3 * scale)
    draw.rounded_rectangle(at(348, 824, 452, 910), 12 * scale, fill=(150, 104, 62, 255))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _sky(width: int, height: int, *colours: Colour) -> Pixels:
    rows = np.linspace(0, len(colours) - 1, height)
    places = np.arange(len(colours))
    column = np.stack(
        [np.interp(rows, places, [c[i] for c in colours]) for i in range(3)], axis=-1
    ).astype(np.float32)
    return np.repeat(column[:, None], width, axis=1)


def _glow(pixels: Pixels, x: int, y: int, radius: int, colour: Colour, reach: float) -> None:
    rows, columns = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    far = np.sqrt((rows - y) ** 2 + (columns - x) ** 2) / radius
    strength = np.where(far < 1, 1.0, 0.55 * np.exp(-(far - 1) / reach))
    strength = np.maximum(strength, np.clip((1.02 - far) * 40, 0, 1))[..., None]
    pixels += ((np.array(colour) - pixels) * strength).astype(np.float32)


def _hills(width: int, seed: int, tall: float) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    x = np.linspace(0, 1, width)
    line = np.zeros(width)
    for octave in range(1, 8):
        line += np.sin(x * 2**octave * 2.6 + random.uniform(0, 7)) / 1.75**octave
    return line * tall


def _fill_below(
    pixels: Pixels, ridge: NDArray[np.float64], colour: NDArray[np.int64], shade: float = 0.12
) -> None:
    depth = np.arange(pixels.shape[0])[:, None] - ridge[None]
    cover = np.clip(depth, 0, 1)[..., None]
    dark = 1 - shade * np.clip(depth / pixels.shape[0] * 2.5, 0, 1)[..., None]
    pixels += ((colour * dark - pixels) * cover).astype(np.float32)


def _ball(
    radius: int, colour: Colour, at: tuple[int, int]
) -> tuple[Image.Image, tuple[int, int], Image.Image]:
    """The arguments of `Image.paste` for a shaded ball: its picture, position and outline."""
    y, x = np.mgrid[-1 : 1 : radius * 2j, -1 : 1 : radius * 2j]
    far = np.hypot(x, y)
    z = np.sqrt(np.clip(1 - far**2, 0, 1))
    light = np.clip(-0.55 * x - 0.62 * y + 0.56 * z, 0, 1)
    pixels = np.array(colour) * (0.32 + 0.78 * light)[..., None] + 190 * (light**24)[..., None]
    outline = Image.fromarray((np.clip((1 - far) * radius, 0, 1) * 255).astype(np.uint8))
    return _finished(pixels.astype(np.float32)), at, outline


def _finished(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _caption(image: Image.Image, text: str) -> Image.Image:
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(18, image.width // 40))
    place = (image.width * 0.03, image.height * 0.965)
    clear = image.mode == "RGBA"
    fill = (96, 74, 58, 255) if clear else (255, 255, 255)
    draw.text(place, text, fill=fill, font=font, anchor="ls")
    return image
