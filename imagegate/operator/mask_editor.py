"""Painting a mask in Gradio's ImageEditor: what it opens with, and what is kept of its result."""

from __future__ import annotations

import base64
import io
import logging
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from ..core.bus import Bus
from ..core.model import Gate, ImageGateError
from ..pictures.encode import PREVIEW_SIDE, encode_png, preview_size, read_mask, scale_mask
from ..pictures.masks import covered, save_painted, start_mask

log = logging.getLogger("imagegate")

# Layers of Gradio's editor are RGBA; painted is white at this alpha, so that the image shows
# through. Strokes have soft edges: from half of it on a pixel counts as painted.
PAINT_ALPHA = 153


def brush(size: int) -> gr.Brush:
    """White, and nothing else. ``size``: the brush's radius in pixels of the canvas."""
    white = ("#ffffff", PAINT_ALPHA / 255)
    return gr.Brush(colors=[white], default_color=white, default_size=size, color_mode="fixed")


def open_editor(bus: Bus, wanted: str, draft: str = "") -> Any:
    """The editor over the preview of the image, with the mask so far as its layer.

    Args:
        wanted: gate id, image index, and ``blank`` to start from an empty mask.
        draft: strokes that were not saved, as the data URL of a PNG; they take the mask's place.
    """
    gate_id, index, how = _target(wanted)
    gate = bus.get(gate_id).gate
    pictures = bus.pictures(gate_id)
    if pictures is None:
        return gr.update(visible=False)
    size = preview_size(gate.width, gate.height)
    with Image.open(io.BytesIO(pictures.preview(index).body)) as preview:
        background = preview.convert("RGBA").resize(size)
    painted = np.zeros((size[1], size[0]), dtype=bool)
    before = _draft_mask(draft, gate)
    start = None if how == "blank" else start_mask(bus, pictures, gate_id, index)
    if before is None and start is not None:
        before = read_mask(start, gate.width, gate.height)
    if before is not None:
        painted = np.asarray(covered(scale_mask(before, *size))) > 0
    layer = np.zeros((size[1], size[0], 4), dtype=np.uint8)
    layer[painted] = (255, 255, 255, PAINT_ALPHA)
    # Always with a layer, an empty one too: without it Undo takes the background away.
    value = {"background": background, "layers": [Image.fromarray(layer)], "composite": None}
    radius = max(2, round(max(size) / 40))
    return gr.update(
        visible=True,
        canvas_size=size,
        value=value,
        brush=brush(radius),
        eraser=gr.Eraser(default_size=radius),
    )


def _draft_mask(draft: str, gate: Gate) -> Image.Image | None:
    """The strokes that a page kept; None where it kept none, or what it sent is no mask."""
    if not draft:
        return None
    try:
        png = base64.b64decode(draft.partition(",")[2], validate=True)
        return read_mask(png, gate.width, gate.height, PREVIEW_SIDE**2)
    except (ValueError, ImageGateError):
        log.debug("strokes that a page kept are no mask for gate %s", gate.id)
        return None


def save_editor(bus: Bus, wanted: str, value: dict[str, Any] | None) -> str:
    """Keep what was painted; returns ``saved`` and the target, or why it could not be kept."""
    try:
        gate_id, index, _ = _target(wanted)
        gate = bus.get(gate_id).gate
        size = preview_size(gate.width, gate.height)
        layers = (value or {}).get("layers") or []
        painted = np.zeros((size[1], size[0]), dtype=bool)
        for layer in layers:
            if layer.size != size:
                return f"the editor gave back {layer.size} pixels instead of {size}"
            painted |= np.asarray(layer.convert("RGBA"))[..., 3] * 2.0 >= PAINT_ALPHA
        mask = Image.fromarray(painted.astype(np.uint8) * 255)
        save_painted(bus, gate_id, index, encode_png(mask).body)
    except ImageGateError as error:
        return str(error)
    return f"saved {wanted}"


def _target(wanted: str) -> tuple[str, int, str]:
    gate_id, index, how = wanted.split(" ")[:3]
    return gate_id, int(index), how
