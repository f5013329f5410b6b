"""A Gradio app with Image Gate's panel in it: a button asks, and a person answers in the panel.

Run ``python docs/examples/gate_panel.py`` and open http://127.0.0.1:7861/studio/ in a browser.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from PIL import Image

from imagegate.core.model import Gate
from imagegate.core.pictures import Picture
from imagegate.gate_bus import GateBus, GateCancelled
from imagegate.operator import GatePanel, mount_gates
from imagegate.pictures.encode import encode_png, encode_preview


class OnePicture:
    """The pictures of a gate with one image."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image

    def preview(self, index: int) -> Picture:
        return encode_preview(self._image)

    def full(self, index: int) -> Picture:
        return encode_png(self._image)

    def start_mask(self, index: int) -> bytes | None:
        return None


def build(bus: GateBus[Any]) -> FastAPI:
    """Your own page is below ``/studio``, and what its panel calls below ``/imagegate``."""

    def ask(image: Image.Image) -> str:
        gate = Gate(
            title="Good enough?", labels=("keep", "fix"), width=image.width, height=image.height
        )
        try:
            answer = bus.publish(gate, OnePicture(image)).wait()
        except GateCancelled:
            return "stopped"
        return f"sent to {answer.decision.label}"

    with gr.Blocks(title="Studio") as studio:
        gr.Markdown("# Studio")
        with gr.Row():
            image = gr.Image(type="pil", height=160)
            answer = gr.Textbox(label="Answer", elem_id="answer")
        gr.Button("Ask", elem_id="ask").click(ask, image, answer)
        GatePanel(bus)
    app = FastAPI()
    mount_gates(app, bus)
    mounted: FastAPI = gr.mount_gradio_app(app, studio, path="/studio", root_path="/studio")
    return mounted


if __name__ == "__main__":
    uvicorn.run(build(GateBus()), host="127.0.0.1", port=7861)
