"""Random graphs of sources, lists, gates and outputs, and what a person answers at their gates.

A graph is a prompt in API format over the nodes of `graph_nodes`. What is answered depends on
the node and on the image alone, so that it is the same in each order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

Prompt = dict[str, dict[str, Any]]


def chance(*words: object) -> int:
    """A number from 0 to 255 that depends on these words alone."""
    return hashlib.sha256(repr(words).encode()).digest()[0]


@st.composite
def graphs(draw: st.DrawFn, most: int = 9) -> Prompt:
    """A prompt of up to ``most`` nodes before its outputs."""
    prompt: Prompt = {}
    images: list[list[Any]] = []
    gated: list[list[Any]] = []
    masks: list[list[Any]] = []

    def add(kind: str, /, **inputs: Any) -> str:
        key = str(len(prompt) + 1)
        prompt[key] = {"class_type": kind, "inputs": inputs}
        return key

    def image() -> list[Any]:
        # More often one of the last, so that graphs become deep.
        return draw(st.sampled_from(images + images[-3:]))

    for _ in range(draw(st.integers(1, 2))):
        seed, count = len(prompt) + 1, draw(st.sampled_from([1, 3, 3, 2]))
        images.append([add("TestList", seed=seed, count=count), 0])
    kinds = ["gate", "gate", "gate", "TestMix", "meet", "meet", "TestWhole", "TestTotal",
             "TestTwice"]  # fmt: skip
    for _ in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from([*kinds, "TestToMask", *(["TestOfMask"] if masks else [])]))
        if kind == "gate":
            inputs: dict[str, Any] = {
                "image": image(), "routes": 2,
                "mode": draw(st.sampled_from(["park", "wait", "park"])),
                "list": draw(st.sampled_from(["keep places", "keep places", "gather"])),
            }  # fmt: skip
            if bool(masks) and draw(st.booleans()):
                inputs["mask"] = draw(st.sampled_from(masks))
            key = add("ImageGate", **inputs)
            images += [[key, 1], [key, 2], [key, 1]]
            gated += [[key, 1], [key, 2], [key, 1]]
            masks.append([key, 0])
        elif kind == "meet" and gated:
            pair = [draw(st.sampled_from(gated)), draw(st.sampled_from(images))]
            images.append([add("TestMix", a=pair[0], b=pair[1]), 0])
        elif kind in ("TestMix", "meet"):
            images.append([add("TestMix", a=image(), b=image()), 0])
        elif kind == "TestOfMask":
            images.append([add(kind, mask=draw(st.sampled_from(masks))), 0])
        elif kind == "TestToMask":
            masks.append([add(kind, image=image()), 0])
        else:
            name = "image" if kind == "TestTwice" else "images"
            images.append([add(kind, **{name: image()}), 0])
    for _ in range(draw(st.integers(1, 3))):
        key = str(len(prompt) + 1)
        inputs = {"name": key, "a": image()}
        if draw(st.booleans()):
            inputs["b"] = image()
        add("TestOut", **inputs)
    return prompt


def outputs_of(prompt: Prompt) -> list[str]:
    return [key for key, node in prompt.items() if node["class_type"] == "TestOut"]


def waiting(prompt: Prompt) -> Prompt:
    """The same with all gates waiting."""
    changed = {key: {**node, "inputs": dict(node["inputs"])} for key, node in prompt.items()}
    for node in changed.values():
        if node["class_type"] == "ImageGate":
            node["inputs"]["mode"] = "wait"
    return changed


def route(node_id: str, image: str) -> int:
    """The route that a person chooses for an image, told by its digest."""
    return 1 if chance("route", node_id, image) < 170 else 2


def paints(node_id: str, image: str) -> bool:
    """Whether the person paints a mask first."""
    return chance("paint", node_id, image) < 100


def difference(found: Iterable[Any], wanted: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """What is too much, and what is missing, counting."""
    one, two = Counter(found), Counter(wanted)
    return sorted((one - two).elements()), sorted((two - one).elements())
