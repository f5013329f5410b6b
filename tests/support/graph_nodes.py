"""Nodes for graphs with lists, the same in the stand-in and in a real ComfyUI; torch only.

Their numbers are multiples of 1/256, so that they are the same to the bit wherever they are made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, ClassVar

import torch

Output = tuple[str, ...]
"""What an output node got: its id, then a digest of each of its inputs."""

SIZE = (1, 4, 6, 3)
NONCE: dict[str, tuple[Any, ...]] = {"nonce": ("INT", {"default": 0})}
"""Of sources and outputs: another number, and nothing comes from ComfyUI's cache of before."""


def picture(seed: int) -> torch.Tensor:
    """Always the same image for the same number."""
    return torch.randint(0, 251, SIZE, generator=torch.Generator().manual_seed(seed)) / 256.0


def digest(tensor: torch.Tensor) -> str:
    """Of all its bits."""
    data = tensor.detach().cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(f"{tensor.dtype} {list(tensor.shape)}".encode() + data).hexdigest()[:12]


def seen(pixels: Any) -> str:
    """A digest of an image as a person sees it: the 8-bit pixels of the panel's full size."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:12]


def mixed(*images: torch.Tensor) -> torch.Tensor:
    """One image of several; their order matters."""
    total = torch.zeros(SIZE)
    for number, image in enumerate(images):
        total = (total * 3 + (image * 256).round() * (2 * number + 5) + 7) % 251
    return total / 256.0


class Node:
    CATEGORY = "tests"
    FUNCTION = "run"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)
    INPUTS: ClassVar[dict[str, tuple[Any, ...]]] = {}
    OPTIONAL: ClassVar[dict[str, tuple[Any, ...]]] = {}

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": cls.INPUTS, "optional": cls.OPTIONAL}


class TestMix(Node):
    """One image of two: of the lists that they stand in, each item with its own."""

    INPUTS: ClassVar[dict[str, tuple[Any, ...]]] = {"a": ("IMAGE",), "b": ("IMAGE",)}

    def run(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor]:
        return (mixed(a, b),)


class TestOfMask(Node):
    """An image of a mask."""

    INPUTS: ClassVar[dict[str, tuple[Any, ...]]] = {"mask": ("MASK",)}

    def run(self, mask: torch.Tensor) -> tuple[torch.Tensor]:
        return (mask[..., None].repeat(1, 1, 1, 3),)


class TestToMask(Node):
    """A mask of an image."""

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("MASK",)
    INPUTS: ClassVar[dict[str, tuple[Any, ...]]] = {"image": ("IMAGE",)}

    def run(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        return (image[..., 0],)


class TestWhole(Node):
    """Takes a whole list, and turns it round."""

    INPUT_IS_LIST = True
    OUTPUT_IS_LIST = (True,)
    INPUTS: ClassVar[dict[str, tuple[Any, ...]]] = {"images": ("IMAGE",)}

    def run(self, images: list[torch.Tensor]) -> tuple[list[torch.Tensor]]:
        return ([images[-1], *images[:-1]],)


class TestTotal(Node):
    """Takes a whole list, and gives one image of all."""

    INPUT_IS_LIST = True
    INPUTS: ClassVar[dict[str, tuple[Any, ...]]] = {"images": ("IMAGE",)}

    def run(self, images: list[torch.Tensor]) -> tuple[torch.Tensor]:
        return (mixed(*images),)


class TestTwice(Node):
    """Makes a list of two of each image."""

    OUTPUT_IS_LIST = (True,)
    INPUTS: ClassVar[dict[str, tuple[Any, ...]]] = {"image": ("IMAGE",)}

    def run(self, image: torch.Tensor) -> tuple[list[torch.Tensor]]:
        return ([image, mixed(image)],)


def classes(made: Callable[[int], None], got: Callable[[Output], None]) -> dict[str, type]:
    """All nodes, with sources and outputs that say what they do."""

    class TestList(Node):
        """A list of images."""

        OUTPUT_IS_LIST = (True,)
        INPUTS: ClassVar[dict[str, tuple[Any, ...]]] = {
            "seed": ("INT", {"default": 0}),
            "count": ("INT", {"default": 1}),
        }

        OPTIONAL: ClassVar[dict[str, tuple[Any, ...]]] = NONCE

        def run(self, seed: int, count: int, nonce: int = 0) -> tuple[list[torch.Tensor]]:
            made(seed)
            return ([picture(seed * 10 + i) for i in range(count)],)

    class TestOut(Node):
        """An output of one image, or of two."""

        OUTPUT_NODE = True
        RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
        INPUTS: ClassVar[dict[str, tuple[Any, ...]]] = {"name": ("STRING", {}), "a": ("IMAGE",)}
        OPTIONAL: ClassVar[dict[str, tuple[Any, ...]]] = {"b": ("IMAGE",), **NONCE}

        def run(
            self, name: str, a: torch.Tensor, b: torch.Tensor | None = None, nonce: int = 0
        ) -> tuple[()]:
            got((name, digest(a), *([] if b is None else [digest(b)])))
            return ()

    plain = (TestMix, TestOfMask, TestToMask, TestWhole, TestTotal, TestTwice)
    return {kind.__name__: kind for kind in (*plain, TestList, TestOut)}
