"""Masks that people send: checked, joined with what was there, and kept with their gate."""

from __future__ import annotations

from PIL import Image, ImageChops

from ..core.bus import Bus
from ..core.model import Snapshot
from ..core.pictures import Pictures
from .encode import PREVIEW_SIDE, clean_mask, encode_png, preview_size, read_mask, scale_mask


def save_mask(bus: Bus, gate_id: str, index: int, png: bytes) -> Snapshot:
    """Check a mask and keep it; raises as `GateBus.set_mask` and `clean_mask` do."""
    gate = bus.get(gate_id).gate
    gate.index(index)
    return bus.set_mask(gate_id, index, clean_mask(png, gate.width, gate.height))


def save_painted(bus: Bus, gate_id: str, index: int, png: bytes) -> Snapshot:
    """Keep what a person painted, starting from the mask that was there.

    That one may be soft, or finer than what they painted on: what nobody painted over stays
    exactly as it was. People paint on at most `PREVIEW_SIDE` pixels a side; more is refused.
    Raises as `save_mask`.
    """
    gate = bus.get(gate_id).gate
    gate.index(index)
    pictures = bus.pictures(gate_id)
    start = None if pictures is None else start_mask(bus, pictures, gate_id, index)
    clean = clean_mask(png, gate.width, gate.height, PREVIEW_SIDE**2)
    if start is None:
        return bus.set_mask(gate_id, index, clean)
    painted = read_mask(clean, gate.width, gate.height)
    joined = _join(read_mask(start, gate.width, gate.height), covered(painted))
    return bus.set_mask(gate_id, index, encode_png(joined).body)


def to_paint_on(mask: bytes, width: int, height: int) -> bytes:
    """A mask of an image of this size, as large as what people paint on.

    `save_painted` scales it in the same way to see what was painted over.
    """
    size = preview_size(width, height)
    return encode_png(scale_mask(read_mask(mask, width, height), *size)).body


def start_mask(bus: Bus, pictures: Pictures, gate_id: str, index: int) -> bytes | None:
    """The mask that painting starts from, as PNG; None for an empty one."""
    saved = bus.mask(gate_id, index)
    return (saved or None) if saved is not None else pictures.start_mask(index)


def covered(mask: Image.Image) -> Image.Image:
    """White where a mask (mode ``L``) counts as painted: from half on."""
    return mask.point(lambda value: 255 if value >= 128 else 0)


def _join(start: Image.Image, painted: Image.Image) -> Image.Image:
    """``painted`` where it differs from what painting started from, else ``start`` untouched."""
    changed = ImageChops.difference(painted, covered(scale_mask(start, *painted.size)))
    if start.size != painted.size:
        changed = changed.resize(start.size, Image.Resampling.NEAREST)
        painted = scale_mask(painted, *start.size)
    return Image.composite(painted, start, changed)
