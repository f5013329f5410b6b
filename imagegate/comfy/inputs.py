"""The inputs of the node: their names, types and defaults, and what they may be.

The order is part of the contract: saved workflows rely on it, so new inputs go after the old ones.
"""

from __future__ import annotations

from typing import Any

from ..core.model import MAX_ROUTES, parse_labels

ON_TIMEOUT = ["stop", *(f"route {i}" for i in range(1, MAX_ROUTES + 1))]
MAX_TIMEOUT = 30 * 24 * 3600
"""Seconds."""
WAIT, PARK = MODES = ["wait", "park"]
ASK_AGAIN, REUSE = REPEAT = ["ask again", "reuse decision"]
KEEP_PLACES, GATHER = LISTS = ["keep places", "gather"]
CHOICES = {"mode": MODES, "repeat": REPEAT, "list": LISTS}
"""What the inputs of a fixed choice may be, each with its default first."""

INPUTS: dict[str, Any] = {
    "required": {
        "image": ("IMAGE", {"lazy": True, "tooltip": "What the person looks at."}),
        "routes": (
            "INT",
            {"default": 2, "min": 1, "max": MAX_ROUTES, "tooltip": "How many routes."},
        ),
    },
    "optional": {
        "labels": (
            "STRING",
            {
                "default": "",
                "placeholder": "keep, fix, reject",
                "tooltip": "One a route, separated by commas. A missing one is its number.",
            },
        ),
        "title": (
            "STRING",
            {"default": "", "tooltip": "Shown above the image. Default: the node's title."},
        ),
        "mask": ("MASK", {"lazy": True, "tooltip": "Painting starts from it."}),
        "timeout": (
            "INT",
            {
                "default": 0,
                "min": 0,
                "max": MAX_TIMEOUT,
                "tooltip": "Seconds to wait for a person; 0 waits for ever.",
            },
        ),
        "on_timeout": (ON_TIMEOUT, {"tooltip": "What happens when the time is up."}),
        "mode": (
            MODES,
            {
                "tooltip": "wait: the prompt stays in the queue until somebody answers. "
                "park: it ends, the queue goes on, and what hangs on the chosen route runs "
                "after the answer, also after a restart.",
            },
        ),
        "repeat": (
            REPEAT,
            {
                "tooltip": "reuse decision: an image that was decided before, with the "
                "same title and labels, takes the same route without a pause.",
            },
        ),
        "list": (
            LISTS,
            {
                "tooltip": "For a list of images. keep places: each route is a list as "
                "long as the input, with nothing where an image went another way, so that "
                "a second list stays in step. gather: each route is the list of its own "
                "images, for a node that takes a whole list.",
            },
        ),
    },
    "hidden": {
        # The id of a gate that was decided: a prompt that goes on from a parked gate.
        "decision": ("STRING", {"default": ""}),
        "unique_id": "UNIQUE_ID",
        "prompt": "PROMPT",
        "extra_pnginfo": "EXTRA_PNGINFO",
    },
}


def refusal(
    routes: int | None, timeout: int | None, on_timeout: str | None, **choices: str | None
) -> str:
    """Why these values cannot be used; empty if they can.

    Args:
        choices: values of the inputs in `CHOICES`. None stands for a value that is not known yet.
    """
    try:
        parse_labels("", MAX_ROUTES if routes is None else routes)
        check_timeout(timeout or 0, on_timeout or "stop", routes or MAX_ROUTES)
        for name, value in choices.items():
            check_choice(name, value or CHOICES[name][0], CHOICES[name])
    except ValueError as error:
        return str(error)
    return ""


def check_timeout(timeout: float, on_timeout: str, routes: int) -> int | None:
    """The route, 1-based, taken after ``timeout`` seconds; None for stop, or for no timeout.

    Raises:
        ValueError: the time is out of range, or there is no such route.
    """
    if not 0 <= timeout <= MAX_TIMEOUT:
        raise ValueError(f"timeout is {timeout} s; allowed are 0 (never) to {MAX_TIMEOUT}")
    if timeout == 0:
        return None
    allowed = ON_TIMEOUT[: routes + 1]
    if on_timeout not in allowed:
        raise ValueError(f"on_timeout is {on_timeout!r}; allowed are {', '.join(allowed)}")
    return allowed.index(on_timeout) or None


def check_choice(name: str, given: str, allowed: list[str]) -> str:
    """What was given, if it is allowed.

    Raises:
        ValueError: it is not.
    """
    if given not in allowed:
        raise ValueError(f"{name} is {given!r}; allowed are {', '.join(allowed)}")
    return given
