"""Two ComfyUI nodes: an image, and the moment at which the node behind the gate runs.

Loaded by ComfyUI from a temporary ``custom_nodes`` folder.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import torch


class BenchImage:
    """An image of any size, made once: ComfyUI keeps it."""

    CATEGORY = "benchmarks"
    FUNCTION = "run"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"side": ("INT", {"default": 1024, "min": 8, "max": 8192})}}

    def run(self, side: int) -> tuple[torch.Tensor]:
        ramp = torch.linspace(0, 1, side)
        return (torch.stack([ramp.expand(side, side)] * 3, -1)[None].contiguous(),)


class BenchMark:
    """Says when it ran, by the clock that all processes of a machine share."""

    CATEGORY = "benchmarks"
    FUNCTION = "run"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image: torch.Tensor) -> dict[str, Any]:
        return {"ui": {"at": [time.monotonic()]}}


NODE_CLASS_MAPPINGS = {"BenchImage": BenchImage, "BenchMark": BenchMark}
