"""Small ComfyUI nodes for the live tests: sources, branches that take their time, and a sink.

Loaded by ComfyUI from a temporary ``custom_nodes`` folder, never by pytest. What the nodes tell,
and what they wait for, are files in ComfyUI's output folder.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import folder_paths
import numpy as np
import torch
from aiohttp import web
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_execution.graph_utils import GraphBuilder
from server import PromptServer


def output(name: str) -> Path:
    """A file in ComfyUI's output folder."""
    return Path(folder_paths.get_output_directory()) / name


def noise(seed: int, width: int, height: int, batch: int, channels: int) -> torch.Tensor:
    """Always the same image for the same numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((batch, height, width, channels), generator=generator)


def whole(default: int) -> tuple[str, dict[str, int]]:
    """An INT input."""
    return ("INT", {"default": default, "min": 0, "max": 2**31})


class Live:
    """What the nodes have in common."""

    CATEGORY = "tests"
    FUNCTION = "run"


class LiveNoise(Live):
    """An image, or a batch of them, of any size and number of channels."""

    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sizes = {"width": whole(64), "height": whole(48), "batch": whole(1), "channels": whole(3)}
        return {"required": {"seed": whole(0), **sizes}}

    def run(self, **numbers: int) -> tuple[torch.Tensor]:
        with output("made.log").open("a") as log:
            log.write(f"{numbers['seed']}\n")
        return (noise(**numbers),)


class LiveImages(Live):
    """A list of images, each of another size."""

    RETURN_TYPES = ("IMAGE",)
    OUTPUT_IS_LIST = (True,)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"seed": whole(0), "count": whole(3)}}

    def run(self, seed: int, count: int) -> tuple[list[torch.Tensor]]:
        return ([noise(seed + i, 32 + 8 * i, 24, 1, 3) for i in range(count)],)


class LiveCaptions(Live):
    """A list of texts, one for each image of `LiveImages`."""

    RETURN_TYPES = ("STRING",)
    OUTPUT_IS_LIST = (True,)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"name": ("STRING", {}), "count": whole(3)}}

    def run(self, name: str, count: int) -> tuple[list[str]]:
        return ([f"{name}-{i}" for i in range(count)],)


class LiveWhole(Live):
    """Takes a whole list of images and one of texts, and writes each image under its text."""

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    INPUT_IS_LIST = True
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",), "names": ("STRING", {"forceInput": True})}}

    def run(self, images: list[torch.Tensor], names: list[str]) -> tuple[()]:
        for image, name in zip(images, names, strict=False):
            np.save(output(f"{name}.whole.npy"), image.cpu().numpy())
        return ()


class LiveSink(Live):
    """Writes the exact tensor it got to ``NAME.N.npy``, N counting its calls from 0."""

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"name": ("STRING", {"default": "sink"})},
            "optional": {"image": ("IMAGE",), "mask": ("MASK",)},
        }

    def run(
        self, name: str, image: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> dict[str, Any]:
        tensor = image if mask is None else mask
        assert tensor is not None
        number = len(list(output("").glob(f"{name}.*.npy")))
        partial = output(f"{name}.part")
        with partial.open("wb") as file:
            np.save(file, tensor.cpu().numpy())
        partial.rename(output(f"{name}.{number}.npy"))  # whoever sees it sees all of it
        return {"ui": {"shape": list(tensor.shape)}}


class LivePhoto(LiveNoise):
    """As `LiveNoise`, of the values that a file of 8 bits has."""

    def run(self, **numbers: int) -> tuple[torch.Tensor]:
        (image,) = super().run(**numbers)
        return ((image * 255).to(torch.uint8).float() / 255.0,)


class LiveBoth(Live):
    """Needs two images, and gives the mean of them."""

    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"a": ("IMAGE",), "b": ("IMAGE",)}}

    def run(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor]:
        return ((a + b) / 2,)


class LiveFails(Live):
    """Fails until ``NAME.mended`` is there."""

    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "name": ("STRING", {})}}

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        return float("nan")

    def run(self, image: torch.Tensor, name: str) -> tuple[torch.Tensor]:
        if not output(f"{name}.mended").exists():
            raise RuntimeError("the live node is broken")
        return (image,)


class LiveGone(Live):
    """Passes an image on; not there where ``LIVE_GONE`` is set, as after a pack was removed."""

    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        return (image,)


class LiveStep(Live):
    """Waits, without keeping ComfyUI busy, until ``NAME.go`` is there; says so in ``NAME.done``."""

    RETURN_TYPES = ("INT",)
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"name": ("STRING", {"default": "step"})},
            "optional": {"fail": ("BOOLEAN", {"default": False})},
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        return float("nan")

    async def run(self, name: str, fail: bool = False) -> tuple[int]:
        while not output(f"{name}.go").exists():  # noqa: ASYNC110 - pytest is another process
            await asyncio.sleep(0.02)
        if fail:
            raise RuntimeError("this branch fails, as it was asked to")
        output(f"{name}.done").touch()
        return (1,)


class LiveBusy(Live):
    """Keeps ComfyUI's event loop busy, as a sampler does, until it is interrupted."""

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"after": ("INT", {"forceInput": True}), "name": ("STRING", {})}}

    def run(self, after: int, name: str) -> tuple[()]:
        output(f"{name}.busy").touch()
        for _ in range(3000):  # half a minute at most
            throw_exception_if_processing_interrupted()
            time.sleep(0.01)
        return ()


class LiveLoop(Live):
    """A loop made by node expansion: one gate a turn, each fed by route 1 of the one before."""

    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"image": ("IMAGE",), "turns": whole(2)},
            "optional": {"mode": ("STRING", {})},
        }

    def run(self, image: torch.Tensor, turns: int, mode: str = "wait") -> dict[str, Any]:
        graph = GraphBuilder()
        link: Any = image
        for turn in range(turns):
            gate = graph.node(
                "ImageGate", image=link, routes=2, title=f"turn {turn + 1}", mode=mode
            )
            link = gate.out(1)
        return {"result": (link,), "expand": graph.finalize()}


@PromptServer.instance.routes.get("/live/modules")
async def modules(_: web.Request) -> web.Response:
    """What this ComfyUI has imported so far."""
    return web.json_response(sorted(sys.modules))


CLASSES = [
    LiveNoise, LiveImages, LiveCaptions, LivePhoto, LiveBoth, LiveFails, LiveGone, LiveSink,
    LiveWhole, LiveStep, LiveBusy, LiveLoop,
]  # fmt: skip


def _graph_nodes() -> dict[str, type]:
    """The nodes of `tests.support.graph_nodes`, which ComfyUI does not find as a module."""
    path = Path(__file__).resolve().parents[2] / "support" / "graph_nodes.py"
    spec = importlib.util.spec_from_file_location("imagegate_graph_nodes", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def made(seed: int) -> None:
        with output("made.log").open("a") as log:
            log.write(f"{seed}\n")

    def got(what: tuple[str, ...]) -> None:
        with output("outputs.log").open("a") as log:
            log.write(json.dumps(what) + "\n")

    found: dict[str, type] = module.classes(made, got)
    return found


NODE_CLASS_MAPPINGS = _graph_nodes() | {
    node.__name__: node for node in CLASSES if node.__name__ != os.environ.get("LIVE_GONE")
}
