"""ComfyUI's executor, as a gate meets it while its prompt runs.

With `comfyui` and `gate_server` the only module that knows ComfyUI; imports without it. What has no
interface there is read from ComfyUI's frames, here and nowhere else: see `mapping` and `gathered`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from ..core.model import MAX_ROUTES
from .graph import Lists

log = logging.getLogger("imagegate")

_NEAR = 6
"""Frames between a function of a node and the one of ComfyUI that called it, at most."""


@dataclass(frozen=True)
class Mapping:
    """The list that a node is called over. ``live``: the indexes that are not blocked."""

    count: int = 1
    live: tuple[int, ...] = (0,)


class Gathered(tuple[Any, ...]):
    """The outputs of one item of a gate that gathers: slots 1.. are lists, which are to be joined.

    ComfyUI asks a node's class which of its outputs are lists, the same for all nodes of a class.
    """

    OUTPUT_IS_LIST = (False, *[True] * MAX_ROUTES)


class GateClass(type):
    """Type of the gate's class. It has OUTPUT_IS_LIST only while `Gathered` rows are joined."""

    def __getattr__(cls, name: str) -> Any:
        return output_is_list(cls.__name__, name)


def output_is_list(owner: str, name: str) -> Any:
    """The attribute OUTPUT_IS_LIST of a gate, for those who join its outputs right now."""
    if name == "OUTPUT_IS_LIST" and gathered():
        return Gathered.OUTPUT_IS_LIST
    raise AttributeError(f"{owner!r} object has no attribute {name!r}")


def gathered() -> bool:
    """Whether ComfyUI is joining the rows of a gate that gathers, which then are made ready.

    Items that came in blocked are left out of the routes, and a route that got none is blocked
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


def mapping() -> Mapping:
    """What ComfyUI calls the node over, asked from within a function that it calls directly.

    A node cannot see how long the list is that it stands in: not from its own item, and not from
    the calls it gets, since blocked items are passed over.
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
            return Mapping(count, tuple(i for i in range(count) if i not in blocked))
    log.debug("the length of the list is not known; taken for the index of its last item")
    index = list_index()
    return Mapping(index + 1, tuple(range(index + 1)))


def _callers() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_NEAR):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def list_index() -> int:
    """The index in its list of the item that runs now."""
    context = _context()
    return int(getattr(context, "list_index", None) or 0)


def prompt_id() -> str:
    """The id of the prompt that runs now."""
    context = _context()
    return str(context.prompt_id) if context else ""


def shown_id(unique_id: str | None) -> str:
    """The id by which the front end knows a node: one that was made by another node is that."""
    if unique_id is None:
        return ""
    try:
        from comfy_execution.progress import get_progress_state
    except ImportError:
        return str(unique_id)
    return str(get_progress_state().dynprompt.get_display_node_id(str(unique_id)))


def lists_of(class_type: str) -> Lists:
    """What nodes of a class do with lists; nothing special where the class is not known."""
    try:
        import nodes

        known = nodes.NODE_CLASS_MAPPINGS.get(class_type)
        takes = bool(getattr(known, "INPUT_IS_LIST", False))
        makes = any(getattr(known, "OUTPUT_IS_LIST", None) or ())
    except ImportError:
        return Lists()
    except Exception:  # a node of another pack whose schema fails: ComfyUI cannot run it either
        log.debug("node class %r does not say what it does with lists", class_type, exc_info=True)
        return Lists()
    return Lists(takes, makes)


def shown_name(class_type: str) -> str:
    """What the front end calls a class of nodes."""
    try:
        import nodes
    except ImportError:
        return class_type
    return str(nodes.NODE_DISPLAY_NAME_MAPPINGS.get(class_type) or class_type)


def when_prompt_ends(call: Callable[[], object]) -> bool:
    """Call something once the prompt that runs now has ended, however it does.

    ComfyUI runs each prompt in an event loop of its own, which cancels what is left at its end.

    Returns:
        Whether there is a prompt that runs.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False

    async def last() -> None:
        try:
            await loop.create_future()
        finally:
            call()

    task = loop.create_task(last())
    _waiting.add(task)  # the loop itself keeps no task from being collected
    task.add_done_callback(_waiting.discard)
    return True


_waiting: set[asyncio.Task[None]] = set()


def blocker() -> Any:
    """A value that keeps whatever receives it from running."""
    from comfy_execution.graph import ExecutionBlocker

    return ExecutionBlocker(None)


def is_blocker(value: object) -> bool:
    """Whether a value keeps whatever receives it from running."""
    graph = sys.modules.get("comfy_execution.graph")  # there are none before it was imported
    return graph is not None and isinstance(value, graph.ExecutionBlocker)


def check_interrupt() -> None:
    """Raise ComfyUI's interrupt if somebody has cancelled the prompt. This lowers the flag."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    throw_exception_if_processing_interrupted()


def interrupt() -> None:
    """Cancel the prompt that runs."""
    from comfy.model_management import interrupt_current_processing

    interrupt_current_processing(True)


def interrupted() -> BaseException:
    """ComfyUI's interrupt."""
    from comfy.model_management import InterruptProcessingException

    error: BaseException = InterruptProcessingException()
    return error


def _context() -> Any:
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return None
    return get_executing_context()
