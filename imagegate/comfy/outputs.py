"""A gate's outputs: the image on the chosen route, the other routes blocked, and the mask."""

from __future__ import annotations

from typing import Any

import torch

from ..core.model import MAX_ROUTES, Answer, Gate
from ..pictures.tensors import empty_mask, mask_from_png
from .host import blocker
from .lists import Gathered


def route_tuple(
    chosen: int, image: Any, blocker: Any, max_routes: int = MAX_ROUTES
) -> tuple[Any, ...]:
    """The image on the chosen route, the blocker on every other one.

    Args:
        chosen: the route, counted from 0.

    Raises:
        ValueError: there is no such route.
    """
    if not 0 <= chosen < max_routes:
        raise ValueError(f"route {chosen} is out of range; allowed are 0 to {max_routes - 1}")
    return tuple(image if i == chosen else blocker for i in range(max_routes))


def mask_from_stash(data: bytes | None, image: torch.Tensor) -> torch.Tensor:
    """A saved mask for an image and its whole batch.

    Args:
        data: PNG bytes, white painted; None or empty for not painted.
        image: ``[B,H,W,C]``.

    Returns:
        float32 ``[B,H,W]``, 0..1, 1 = painted; zeros where nothing was painted.

    Raises:
        BadPicture: broken, too large, or of another aspect ratio than the image.
    """
    if not data:
        return empty_mask(image)
    batch, height, width, _ = image.shape
    return mask_from_png(data, width, height).expand(batch, -1, -1).clone()


def outputs_of(
    answer: Answer, gate: Gate, image: torch.Tensor, start_mask: torch.Tensor | None
) -> tuple[Any, ...]:
    """The outputs for an answer. A gate that gathers gives each route a list of one or none."""
    chosen = answer.decision.route
    assert chosen is not None  # a stop raises
    mask = masks_of(answer, image, start_mask)
    if gate.gather:
        return Gathered((mask, *([image] if i == chosen else [] for i in range(1, MAX_ROUTES + 1))))
    return (mask, *route_tuple(chosen - 1, image, blocker()))


def masks_of(answer: Answer, image: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
    """The mask ``[B,H,W]``: what was painted, else the mask input, else zeros."""
    mask = empty_mask(image) if start is None else start.cpu().clone()
    for index, png in answer.masks.items():
        mask[index] = mask_from_stash(png, image[index : index + 1])[0]
    return mask


def all_blocked() -> tuple[Any, ...]:
    """The outputs of a gate that has no answer yet: nothing behind it runs."""
    return (blocker(),) * (1 + MAX_ROUTES)
