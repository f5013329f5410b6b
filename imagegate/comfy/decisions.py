"""A small node in prompts that go on: it gives each item of a list the decision of its gate.

A prompt that goes on is sent in ComfyUI's own format, in which an input is one value. A gate in
a list has as many decisions as the list has items; ComfyUI calls it once for each, in order, if
they come from a node that makes a list.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .parked.prompts import read_decisions


class ImageGateDecisions:
    """ComfyUI node class that nobody adds by hand: a list of decisions, one for each item."""

    CATEGORY = "Datasete Gates"
    DESCRIPTION = "Image Gate adds this node by itself to a prompt that goes on after it parked."
    FUNCTION = "run"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("STRING",)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("decisions",)
    OUTPUT_IS_LIST: ClassVar[tuple[bool, ...]] = (True,)
    # Both keep it out of the menus and the search of the front end.
    DEPRECATED = True
    DEV_ONLY = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The decisions as a JSON array of strings."""
        return {"required": {"decisions": ("STRING", {"default": "[]"})}}

    def run(self, decisions: str) -> tuple[list[str]]:
        """The decisions as a list."""
        return (read_decisions(decisions),)
