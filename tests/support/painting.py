"""Painting in the panel's mask editor as a person does, with the mouse, in image coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
from playwright.sync_api import Frame, expect

PAINT = 240_000  # ms; Gradio's editor on a small machine without a GPU

Point = tuple[float, float]


def open_editor(frame: Frame, size: tuple[int, int], opened: bool = False) -> None:
    """Start painting and wait until the editor has an image of that size, ``(width, height)``.

    ``opened``: the page has started by itself.
    """
    if not opened:
        frame.locator("#ig-mask-edit").click()
    painting = "Paint what the mask shall cover"
    expect(frame.locator("#ig-status")).to_contain_text(painting, timeout=PAINT)
    # `window.editor` is Gradio's own handle; the tests only read from it when it is ready.
    frame.wait_for_function(
        "([w, h]) => window.editor?.background_image"
        " && window.editor.dimensions_value.width === w"
        " && window.editor.dimensions_value.height === h"
        " && window.editor.layer_manager.layers.length > 0",
        arg=list(size),
        timeout=PAINT,
    )


def stroke(frame: Frame, start: Point, end: Point, steps: int = 8) -> None:
    """Draw a straight line between two points of the image, in image pixels."""
    canvas = frame.locator("#ig-editor .pixi-target canvas")
    left, top, scale = frame.evaluate(
        "() => [editor.position_value.x, editor.position_value.y, editor.scale_value]"
    )

    shrink = _shrink(frame)

    def go_to(x: float, y: float) -> None:
        across, down = left + x * scale, top + y * scale
        canvas.hover(position={"x": across * shrink, "y": down * shrink})

    go_to(*start)
    frame.page.mouse.down()
    for step in range(1, steps + 1):
        part = step / steps
        go_to(start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part)
    frame.page.mouse.up()


def painted(frame: Frame, start: Point, end: Point, there: bool = True) -> None:
    """Wait until the editor shows paint, or none, in the middle between two points of the image."""
    middle = [(start[0] + end[0]) / 2, (start[1] + end[1]) / 2]
    frame.wait_for_function(
        """([x, y, there]) => {
          const { app, layer_manager } = window.editor;
          const { draw } = layer_manager.get_layer_textures(layer_manager.layers[0].id);
          const canvas = app.renderer.extract.canvas({ target: draw });
          const scale = canvas.width / editor.dimensions_value.width;
          const context = canvas.getContext("2d");
          const [, , , alpha] = context.getImageData(x * scale, y * scale, 1, 1).data;
          return alpha > 76 === there;
        }""",
        arg=[*middle, there],
        timeout=PAINT,
    )


def _shrink(frame: Frame) -> float:
    """How large a pixel of the frame is on the screen: ComfyUI zooms the frames in its nodes."""
    if frame.parent_frame is None:
        return 1.0
    element = frame.frame_element()
    box = element.bounding_box()
    assert box is not None
    return float(box["width"] / element.evaluate("(e) => e.offsetWidth"))


def capsule(size: tuple[int, int], start: Point, end: Point, radius: float) -> Any:
    """What a round brush covers between two points, bool ``[H,W]``."""
    ys, xs = np.mgrid[0 : size[1], 0 : size[0]] + 0.5
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((xs - start[0]) * dx + (ys - start[1]) * dy) / (dx**2 + dy**2), 0, 1)
    return np.hypot(xs - start[0] - along * dx, ys - start[1] - along * dy) <= radius
