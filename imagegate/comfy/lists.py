"""Lists of images: ComfyUI calls a node once for each item.

ComfyUI has no interface for what is needed here, so it is read from ComfyUI's frames, in this
module only: see `items_now` and `gathered`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ..core.model import MAX_ROUTES
from .host import blocker, is_blocker, list_index

log = logging.getLogger("imagegate")

_NEAR = 6
"""The most frames between a node's function and the function of ComfyUI that called it."""


@dataclass(frozen=True)
class Items:
    """The list that a node is called for. ``live``: the indexes that are not blocked."""

    count: int = 1
    live: tuple[int, ...] = (0,)


class Gathered(tuple[Any, ...]):
    """The outputs for one item of a gate that gathers: slots 1.. are lists, to be joined.

    ComfyUI asks a node's class which outputs are lists, and so for all its nodes alike.
    """

    OUTPUT_IS_LIST = (False, *[True] * MAX_ROUTES)


class GateClass(type):
    """The type of the gate's class. It has OUTPUT_IS_LIST only while `Gathered` rows are joined."""

    def __getattr__(cls, name: str) -> Any:
        return output_is_list(cls.__name__, name)


def output_is_list(owner: str, name: str) -> Any:
    """The attribute OUTPUT_IS_LIST of a gate, present only while its outputs are being joined."""
    if name == "OUTPUT_IS_LIST" and gathered():
        return Gathered.OUTPUT_IS_LIST
    raise AttributeError(f"{owner!r} object has no attribute {name!r}")


def gathered() -> bool:
    """Whether ComfyUI is joining the rows of a gate that gathers; the rows are then made ready.

    Items that arrived blocked are left out of the routes, and a route without items is blocked
    once.
    """
    for frame in _callers():
        for rows in list(frame.f_locals.values()):
            if isinstance(rows, list) and any(isinstance(row, Gathered) for row in rows):
                for index, row in enumerate(rows):
                    if not isinstance(row, Gathered):
                        rows[index] = Gathered((row[0], *([] for _ in range(MAX_ROUTES))))
                for slot in range(1, 1 + MAX_ROUTES):
                    if not any(isinstance(row[slot], list) and row[slot] for row in rows):
                        rows[0] = Gathered((*rows[0][:slot], blocker(), *rows[0][slot + 1 :]))
                return True
    return False


def items_now() -> Items:
    """The list that ComfyUI calls the node for. Only for functions that ComfyUI calls directly.

    A node cannot see how long its list is: neither from its own item, nor from the calls it gets,
    since blocked items are skipped.
    """
    for frame in _callers():
        given = frame.f_locals.get("input_data_all")
        if isinstance(given, dict):
            count = max((len(values) for values in given.values()), default=1)
            blocked: set[int] = set()
            for values in given.values():
                blocked |= {index for index, value in enumerate(values) if is_blocker(value)}
                if len(values) - 1 in blocked and is_blocker(values[-1]):  # it is repeated
                    blocked |= set(range(len(values), count))
            return Items(count, tuple(i for i in range(count) if i not in blocked))
    log.debug("the length of the list is not known; taken for the index of its last item")
    index = list_index()
    return Items(index + 1, tuple(range(index + 1)))


def _callers() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_NEAR):
        if frame is None:
            return
        yield frame
        frame = frame.f_back
