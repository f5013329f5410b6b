"""The node: stops a prompt, waits for a person, sends the image down the chosen route.

Imports without ComfyUI: what is ComfyUI's is imported where it is used.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from .comfy_users import EXTRA_USER, owned
from .comfyui import running, shared_service
from .failures import report_failure
from .gate_bus import Ticket
from .model import (
    MAX_ROUTES,
    Answer,
    Gate,
    GateCancelled,
    State,
    StoreError,
    UnknownGate,
    parse_labels,
)
from .parking import came_from, files_of, fingerprint, kept, preview_file
from .prompts import NOT_YET, as_queued
from .service import INSTALL, Service
from .stored_bus import StoredBus
from .tensors import TensorPictures, check_image, empty_mask, fit_mask, mask_from_png

log = logging.getLogger("imagegate")

INTERRUPT_LOOK = 0.1
"""Seconds between looks at ComfyUI's interrupt flag, the one thing that cannot wake a waiter."""

STORE_LOOK = 1.0
"""Seconds between looks whether a store that was away is back."""

ON_TIMEOUT = ["stop", *(f"route {i}" for i in range(1, MAX_ROUTES + 1))]
MAX_TIMEOUT = 30 * 24 * 3600
LAZY = ("image", "mask")
WAIT, PARK = MODES = ["wait", "park"]
ASK_AGAIN, REUSE = REPEAT = ["ask again", "reuse decision"]


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


class ImageGate:
    """ComfyUI node class "Image Gate (Manual Router)"; a V1 node with an async function."""

    CATEGORY = "Datasete Gates"
    DESCRIPTION = (
        "Pauses the prompt and shows the image in a panel. A person may paint a mask and chooses "
        "one of up to ten routes, or stops. Only what hangs on the chosen route runs."
    )
    FUNCTION = "run"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("MASK", *["IMAGE"] * MAX_ROUTES)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = (
        "mask",
        *(f"route_{i}" for i in range(1, MAX_ROUTES + 1)),
    )
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = (
        "What was painted, 1 = painted; zeros, or the mask input, if nothing was.",
        *(f"The image, if route {i} was chosen." for i in range(1, MAX_ROUTES + 1)),
    )

    def __init__(self, service: Service | None = None) -> None:
        self._service = service or shared_service()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The contract of the node. New inputs go after the old ones."""
        return {
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
            },
            "hidden": {
                # The id of a gate that was decided: a prompt that goes on from a parked gate.
                "decision": ("STRING", {"default": ""}),
                "unique_id": "UNIQUE_ID",
                "prompt": "PROMPT",
                "extra_pnginfo": "EXTRA_PNGINFO",
            },
        }

    @classmethod
    def IS_CHANGED(cls, **_: Any) -> float:
        """Never equal, not even to itself: the gate asks every time."""
        return float("nan")

    @classmethod
    def VALIDATE_INPUTS(
        cls,
        routes: int | None = None,
        timeout: int | None = None,
        on_timeout: str | None = None,
        mode: str | None = None,
        repeat: str | None = None,
    ) -> bool | str:
        """Refuse a prompt before it runs rather than after an hour. None: not known yet."""
        try:
            parse_labels("", MAX_ROUTES if routes is None else routes)
            check_timeout(timeout or 0, on_timeout or "stop", routes or MAX_ROUTES)
            _check_choice("mode", mode or WAIT, MODES)
            _check_choice("repeat", repeat or ASK_AGAIN, REPEAT)
        except ValueError as error:
            return str(error)
        return True

    def check_lazy_status(self, decision: str = "", **inputs: Any) -> list[str]:
        """Which inputs have to be computed before `run`: none for a gate that was decided."""
        if decision:
            return []
        lazy = {"image": None} | {name: value for name, value in inputs.items() if name in LAZY}
        return [name for name, value in lazy.items() if value is None]

    async def run(
        self,
        image: torch.Tensor | None = None,
        routes: int = 2,
        labels: str = "",
        title: str = "",
        mask: torch.Tensor | None = None,
        timeout: float = 0,
        on_timeout: str = "stop",
        mode: str = WAIT,
        repeat: str = ASK_AGAIN,
        decision: str = "",
        unique_id: str | None = None,
        prompt: Mapping[str, Any] | None = None,
        extra_pnginfo: Mapping[str, Any] | None = None,
    ) -> tuple[Any, ...]:
        """Ask, wait or park, route.

        Args:
            image: ``[B,H,W,C]``, C of 1, 3 or 4; a batch goes down one route whole. None where
                there is a ``decision``.
            timeout: seconds; 0 waits for ever.
            on_timeout: ``stop`` or ``route N``.
            mode: ``wait`` or ``park``.
            repeat: ``ask again`` or ``reuse decision``.
            decision: the id of a gate that was decided; its image and its answer are used.

        Returns:
            ``(mask, route_1 .. route_10)``: the mask is float32 ``[B,H,W]``; the chosen route is
            the image, every other one blocked. All are blocked where the gate was parked.

        Raises:
            ValueError: an input is not what it must be.
            RuntimeError: the panel cannot be shown; the message says what to install.
            StoreError: the gate cannot be remembered; the message says why.
        """
        try:
            bus = self._service.bus
            if decision:
                return await _decided(bus, decision, unique_id, prompt)
            image = check_image(image)
            start_mask = None if mask is None else fit_mask(mask, image)
            place = _place(unique_id)
            gate = _question(
                image, routes, labels, title, timeout, on_timeout, place, extra_pnginfo
            )
            if _check_choice("repeat", repeat, REPEAT) == REUSE:
                answer = bus.reuse(gate, fingerprint(gate, image), preview_file(image))
                if answer is not None:
                    log.info("gate %r was answered before: %r again", gate.title,
                             gate.said(answer.decision.route))  # fmt: skip
                    return _routed(answer, image, start_mask)
            if _check_choice("mode", mode, MODES) == PARK:
                return self._park(gate, image, start_mask, unique_id, prompt, extra_pnginfo)
            return await self._ask(gate, image, start_mask)
        except ModuleNotFoundError as error:  # SQLAlchemy, say
            raise RuntimeError(INSTALL.format(error=error)) from error

    async def _ask(
        self, gate: Gate, image: torch.Tensor, start_mask: torch.Tensor | None
    ) -> tuple[Any, ...]:
        """The prompt waits for a person."""
        bus = self._service.bus
        pictures = TensorPictures(image, start_mask)
        ticket = bus.publish(gate, pictures)
        bus.later(lambda: bus.remember(gate.id, fingerprint(gate, image)))
        log.info("gate %r waits for a person", gate.title)
        try:
            answer = await self._wait(ticket)
        finally:
            # Reached too when the prompt ends in any other way; after an answer it does nothing.
            ticket.withdraw("its prompt ended")
            pictures.release()
        log.info("gate %r goes to %r", gate.title, gate.said(answer.decision.route))
        return _routed(answer, image, start_mask)

    def _park(
        self,
        gate: Gate,
        image: torch.Tensor,
        start_mask: torch.Tensor | None,
        unique_id: str | None,
        prompt: Mapping[str, Any] | None,
        extra_pnginfo: Mapping[str, Any] | None,
    ) -> tuple[Any, ...]:
        """The prompt ends here, and goes on after the answer."""
        from .parked import Parked

        bus = self._service.bus
        if not prompt or unique_id is None or unique_id not in prompt:
            raise ValueError(
                f"gate {gate.title!r} cannot park: it is made by another node (a loop, say), so no "
                "prompt could go on from it; set mode to wait"
            )
        queued = running(gate.prompt_id, extra_pnginfo)
        begun = f"{gate.prompt_id or gate.id} {queued.number}".strip()
        root, item = came_from(bus, prompt) or (begun, 0)
        item = _item() or item
        parked = Parked(
            root=root,
            node=unique_id,
            item=item,
            prompt=as_queued(prompt),
            extra=queued.extra,
            targets=queued.targets,
            client=queued.client,
        )
        bus.park(gate, files_of(image, start_mask), parked)
        bus.later(lambda: bus.remember(gate.id, fingerprint(gate, image)))
        log.info("gate %r is parked; its prompt goes on after the answer", gate.title)
        return _all_blocked()

    async def _wait(self, ticket: Ticket) -> Answer:
        """Wait for the answer, the deadline, the panel's failure or ComfyUI's interrupt."""
        bus, gate = self._service.bus, ticket.gate
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        panel = self._service.start()
        with _stopping(bus, ticket):
            for future in (ticket.future, panel):
                future.add_done_callback(lambda _: _wake(loop, woken))
            while not ticket.future.done():
                if panel.done() and (failure := panel.exception()):
                    raise RuntimeError(str(failure)) from failure
                try:
                    _check_interrupt()
                except BaseException:
                    # The flag is lowered now, so the others of this prompt would not see it. The
                    # gates there are get told; what is still to come (the next item of a list)
                    # finds the flag raised again. The next prompt starts by lowering it.
                    bus.withdraw_prompt(gate.prompt_id, "its prompt was cancelled")
                    _interrupt()
                    raise
                if gate.deadline is not None and time.time() >= gate.deadline:
                    bus.expire(gate.id)
                    continue
                await _until(woken, gate.deadline)
                woken.clear()
        try:
            return ticket.future.result()
        except GateCancelled as cancelled:
            log.info("gate %r: %s", gate.title, cancelled)
            _interrupt()  # for gates of this prompt that are still to come; it has not ended yet
            raise _interrupted() from None


@contextmanager
def _stopping(bus: StoredBus, ticket: Ticket) -> Iterator[None]:
    """Within this context, a Stop of the gate stops its whole prompt at once.

    Another branch may be keeping ComfyUI's loop busy (a sampler, say), so that the gate cannot see
    the Stop: then ComfyUI's own flag ends that branch. It is raised in the thread of whoever
    stops, and never after the context is left, for the next prompt may run by then.
    """
    guard = threading.Lock()
    inside = True

    def ended(future: Future[Answer]) -> None:
        failure = future.exception()
        if not isinstance(failure, GateCancelled) or failure.state is State.WITHDRAWN:
            return
        bus.withdraw_prompt(ticket.gate.prompt_id, "its prompt was stopped at another gate")
        with guard:
            if inside:
                _interrupt()

    ticket.future.add_done_callback(ended)
    try:
        yield
    finally:
        with guard:
            inside = False


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


def _question(
    image: torch.Tensor,
    routes: int,
    labels: str,
    title: str,
    timeout: float,
    on_timeout: str,
    place: tuple[str, str],
    extra_pnginfo: Mapping[str, Any] | None,
) -> Gate:
    prompt_id, node_id = place
    now = time.time()
    return Gate(
        labels=parse_labels(labels, routes),
        width=image.shape[2],
        height=image.shape[1],
        batch=image.shape[0],
        title=title.strip() or _node_title(node_id, extra_pnginfo),
        node_id=node_id,
        prompt_id=prompt_id,
        workflow_id=owned(
            str(_mapping(_mapping(extra_pnginfo).get("workflow")).get("id") or ""),
            str(running(prompt_id, extra_pnginfo).extra.get(EXTRA_USER) or ""),
        ),
        created_at=now,
        deadline=now + timeout if timeout > 0 else None,
        on_timeout=check_timeout(timeout, on_timeout, routes),
    )


async def _decided(
    bus: StoredBus, gate_id: str, unique_id: str | None, prompt: Mapping[str, Any] | None
) -> tuple[Any, ...]:
    """The outputs of a gate that was parked: by its answer, or blocked while it has none.

    A store that is away for a moment is waited for: nobody is to be asked again for that.
    """
    if unique_id is not None and prompt is not None and unique_id not in prompt:
        raise ValueError(
            "a gate that parked is in a loop, which would send the same image round again; set its "
            "mode to wait"
        )
    if gate_id.startswith(NOT_YET):
        return _all_blocked()
    while True:
        try:
            snapshot, answer = bus.answer_of(gate_id)
            if answer is not None:
                return _routed(answer, *kept(bus, snapshot.gate))
            log.info("gate %r is %s", snapshot.gate.title, snapshot.state.value)
            return _all_blocked()
        except UnknownGate as error:
            raise ValueError(f"decision: {error}; it is set when a parked gate goes on") from error
        except StoreError as error:
            if not error.passing:
                raise
            report_failure("a parked gate cannot go on yet", error)
        for _ in range(round(STORE_LOOK / INTERRUPT_LOOK)):
            _check_interrupt()
            await asyncio.sleep(INTERRUPT_LOOK)


def _routed(
    answer: Answer, image: torch.Tensor, start_mask: torch.Tensor | None
) -> tuple[Any, ...]:
    chosen = answer.decision.route
    assert chosen is not None  # a stop raises
    return (_masks(answer, image, start_mask), *route_tuple(chosen - 1, image, _blocker()))


def _item() -> int:
    """The place in a list input of what runs now."""
    try:
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return 0
    context = get_executing_context()
    return int(getattr(context, "list_index", None) or 0)


def _check_choice(name: str, given: str, allowed: list[str]) -> str:
    if given not in allowed:
        raise ValueError(f"{name} is {given!r}; allowed are {', '.join(allowed)}")
    return given


def _masks(answer: Answer, image: torch.Tensor, start: torch.Tensor | None) -> torch.Tensor:
    """The mask ``[B,H,W]``: what was painted, else the mask input, else zeros."""
    mask = empty_mask(image) if start is None else start.cpu().clone()
    for index, png in answer.masks.items():
        mask[index] = mask_from_stash(png, image[index : index + 1])[0]
    return mask


async def _until(woken: asyncio.Event, deadline: float | None) -> None:
    pause = INTERRUPT_LOOK
    if deadline is not None:
        pause = min(pause, max(0.0, deadline - time.time()))
    # Not wait_for: before Python 3.12 it can swallow a cancellation that comes as it is woken.
    timer = asyncio.get_running_loop().call_later(pause, woken.set)
    try:
        await woken.wait()
    finally:
        timer.cancel()


def _wake(loop: asyncio.AbstractEventLoop, woken: asyncio.Event) -> None:
    try:
        loop.call_soon_threadsafe(woken.set)
    except RuntimeError:  # the prompt, and its loop, ended before
        return


def _place(unique_id: str | None) -> tuple[str, str]:
    """(prompt id, node id as the front end knows it) of the node that runs now."""
    try:
        from comfy_execution.progress import get_progress_state
        from comfy_execution.utils import get_executing_context
    except ImportError:
        return "", str(unique_id or "")
    context = get_executing_context()
    prompt_id = str(context.prompt_id) if context else ""
    if unique_id is None:
        return prompt_id, ""
    # A node made by another one (a loop) has an id of its own, which the front end never saw.
    return prompt_id, str(get_progress_state().dynprompt.get_display_node_id(str(unique_id)))


def _node_title(node_id: str, extra_pnginfo: object) -> str:
    """The title the author gave the node in the workflow, or one made from its id.

    What clients send as workflow is not checked by ComfyUI: anything strange costs the title only.
    """
    workflow = _mapping(_mapping(extra_pnginfo).get("workflow"))
    subgraphs = _records(_mapping(workflow.get("definitions")).get("subgraphs"))
    place, node = workflow, _mapping(None)
    for part in node_id.split(":"):  # "4:2" is node 2 of the subgraph that node 4 stands for
        node = _first(_records(place.get("nodes")), part)
        place = _first(subgraphs, str(node.get("type")))
    if node.get("type") == "ImageGate" and node.get("title"):
        return str(node["title"])
    return f"Image Gate {node_id}".strip()


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _first(records: list[Mapping[str, Any]], wanted: str) -> Mapping[str, Any]:
    return next((record for record in records if str(record.get("id")) == wanted), {})


def _records(value: object) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def _all_blocked() -> tuple[Any, ...]:
    return (_blocker(),) * (1 + MAX_ROUTES)


def _blocker() -> Any:
    from comfy_execution.graph import ExecutionBlocker

    return ExecutionBlocker(None)


def _check_interrupt() -> None:
    from comfy.model_management import throw_exception_if_processing_interrupted

    throw_exception_if_processing_interrupted()


def _interrupt() -> None:
    from comfy.model_management import interrupt_current_processing

    interrupt_current_processing(True)


def _interrupted() -> BaseException:
    from comfy.model_management import InterruptProcessingException

    error: BaseException = InterruptProcessingException()
    return error
