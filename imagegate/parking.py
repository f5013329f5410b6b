"""A parked gate's image between the prompt that ended and the one that goes on: torch and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from .model import Gate, GateClosed
from .prompts import told_by
from .stored_bus import StoredBus
from .tensors import (
    TensorPictures,
    decode_exact,
    decode_mask,
    digest,
    encode_exact,
    encode_mask,
    full,
    needs_torch,
)


def preview_file(image: torch.Tensor) -> Iterator[tuple[str, bytes]]:
    yield "preview-0", TensorPictures(image).preview(0).body


def files_of(image: torch.Tensor, start_mask: torch.Tensor | None) -> Iterator[tuple[str, bytes]]:
    """All that is kept of a parked gate, one file after the other: batches can be large."""
    yield from preview_file(image)
    for index, one in enumerate(image):
        suffix, body = encode_exact(one)
        yield f"exact-{index}.{suffix}", body
        if needs_torch(one):  # for panels on their own
            yield f"full-{index}.png", full(image, index).body
    if start_mask is not None:
        yield "start.safetensors", encode_mask(start_mask)


def kept(bus: StoredBus, gate: Gate) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The image of a parked gate, bit for bit, and the mask that painting started from."""
    place = bus.house.place
    images = []
    for index in range(gate.batch):
        for suffix in ("png", "safetensors"):
            body = place.read(gate.id, f"exact-{index}.{suffix}")
            if body is not None:
                images.append(decode_exact(suffix, body))
                break
        else:
            raise GateClosed(f"the image of gate {gate.title!r} is no longer kept")
    mask = place.read(gate.id, "start.safetensors")
    return torch.stack(images), None if mask is None else decode_mask(mask)


def fingerprint(gate: Gate, image: torch.Tensor) -> str:
    """By which a question is known again: the image's values, the title, the labels."""
    words = json.dumps([digest(image), gate.title, gate.labels])
    return hashlib.sha256(words.encode()).hexdigest()


def came_from(bus: StoredBus, prompt: Mapping[str, Any]) -> tuple[str, int] | None:
    """The run that this prompt goes on from, and which item of a list; None for a new one."""
    for gate_id in told_by(prompt).values():
        before = bus.house.parked.get(gate_id)
        if before is not None:
            return before.root, before.item
    return None
