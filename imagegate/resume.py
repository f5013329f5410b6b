"""Goes on with parked gates: re-queues the prompt of one that was decided, and sees to its end."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .failures import report_failure
from .model import ImageGateError, State
from .prompts import NOT_YET, behind, telling, told_by
from .stored_bus import StoredBus

if TYPE_CHECKING:  # they bring SQLAlchemy
    from .parked import Claim, Sibling

AT_ONCE = 2
"""Gates taken up at the same time: the queue never runs dry, and others get their share."""
LOOK = 0.1
"""Seconds between looks at prompts that run: ComfyUI tells only its pages when one has ended."""
UNSURE = 20.0
"""Seconds after which a prompt that ComfyUI did not confirm will not be queued any more."""
IDLE = 5.0
"""Seconds between looks for what no news came of, such as another worker's claim that ran out."""

log = logging.getLogger("imagegate")


class Refused(Exception):
    """ComfyUI does not take the prompt; the message is its own."""


@dataclass(frozen=True)
class End:
    """How a prompt ended. ``error`` is ComfyUI's own message, empty if it went well.

    ``interrupted``: because somebody wanted it so. ``gone``: it is not there, and never ran.
    """

    error: str = ""
    interrupted: bool = False
    gone: bool = False


@dataclass(frozen=True)
class _Running:
    """A prompt that was queued. ``left_out``: what ComfyUI said will not run of it.

    ``unsure``: what was said instead of an answer, and until when (monotonic) the prompt may still
    turn up in the queue.
    """

    claim: Claim
    left_out: str = ""
    unsure: tuple[str, float] | None = None


class PromptQueue(Protocol):
    """What is needed of ComfyUI."""

    @property
    def ready(self) -> bool:
        """Whether it takes prompts yet."""

    def is_output(self, class_type: str) -> bool:
        """Whether nodes of this class are outputs."""

    def submit(self, request: Mapping[str, Any]) -> str:
        """Queue a prompt, as its own page does; what it says of nodes that will not run.

        Raises:
            Refused: it does not take it.
        """

    def ended(self, prompt_id: str) -> End | None:
        """How a prompt ended; None while it is queued or runs."""

    def remove(self, prompt_id: str) -> bool:
        """Take a prompt out of the queue; False if it is not there any more."""


def going_on(claim: Claim, is_output: Callable[[str], bool]) -> tuple[dict[str, Any], list[str]]:
    """The prompt of a decided gate, and the output nodes that shall run.

    Each gate of the same run is told its own id as ``decision``: one that was taken up before gives
    its image without asking; one that was not blocks what hangs on it, which runs when its own turn
    comes, and is not asked twice.
    """
    gate_id, parked = claim.gate.gate.id, claim.parked
    told = {**told_by(parked.prompt), parked.node: gate_id}
    # Of a list, each item goes its own way: what another item has led to is not this one's.
    fits = [
        sibling
        for sibling in claim.siblings
        if sibling.node in parked.prompt and sibling.node not in told
        if sibling.state is not State.WITHDRAWN
        if all(told.get(node, gate) == gate for node, gate in sibling.told.items())
    ]
    told = _same_item(fits, parked.item) | told
    taken = {sibling.gate_id for sibling in claim.siblings if sibling.taken} | {gate_id}
    known = {sibling.gate_id for sibling in claim.siblings}
    prompt = telling(
        parked.prompt,
        {
            node: gate if gate in taken or gate not in known else NOT_YET + gate
            for node, gate in told.items()
        },
    )
    assert claim.decision.route is not None
    hangs = behind(prompt, parked.node, (0, claim.decision.route))
    outputs = parked.targets or [n for n in hangs if is_output(prompt[n]["class_type"])]
    return prompt, sorted(hangs.intersection(outputs))


class Resumer:
    """A thread that goes on with decided gates, until it is closed.

    Args:
        bus: where gates are taken up. Its store is not opened for this alone unless it exists.
        queue: ComfyUI's.
    """

    def __init__(self, bus: StoredBus, queue: PromptQueue) -> None:
        self._bus = bus
        self._queue = queue
        self._woken = threading.Event()
        self._closing = False
        self._running: dict[str, _Running] = {}  # by prompt id
        self._thread = threading.Thread(target=self._run, name="imagegate-resumer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End, and wait until it has. What runs goes on, and is taken up again by somebody."""
        self._closing = True
        self._woken.set()
        self._thread.join(10)

    def _run(self) -> None:
        failing, ready = False, False
        with self._bus.subscribe(self._woken.set, limit=1) as news:
            while not self._closing:
                self._woken.clear()
                news.drain()  # that something happened is all there is to know
                try:
                    ready = self._queue.ready
                    if ready and (self._bus.opened or self._bus.exists()):
                        self._turn()
                    failing = False
                except Exception as error:  # the next one may fare better
                    report_failure("parked gates do not go on", error)
                    failing = isinstance(error, ImageGateError)
                # Also woken by news; a store that fails is not asked all the time.
                soon = not ready or (self._running and not failing)
                self._woken.wait(LOOK if soon else IDLE)

    def _turn(self) -> None:
        for prompt_id, running in list(self._running.items()):
            if self._over(prompt_id, running):
                del self._running[prompt_id]
        self._bus.renew([running.claim for running in self._running.values()])
        while len(self._running) < AT_ONCE and not self._closing:
            due = self._bus.claim()
            if due is None:
                return
            try:
                self._go_on(due)
            except ImageGateError:
                raise
            except Exception as error:  # somebody has to know, or it is tried for ever
                report_failure(f"gate {due.gate.gate.title!r} could not go on", error)
                self._settle(due, f"it could not be prepared: {error!r}")

    def _over(self, prompt_id: str, running: _Running) -> bool:
        """Whether a prompt has ended; then its gate is settled."""
        end = self._queue.ended(prompt_id)
        if end is None:
            return False
        error = end.error or running.left_out
        if end.gone and running.unsure is not None:
            error, until = running.unsure
            if time.monotonic() < until:
                return False
        if end.interrupted and self._bus.stopped_in(prompt_id):
            error = ""  # a Stop at a later gate of the same prompt is not a failure of this one
        if error:
            why = "the prompt that it came from failed, and its gate is asked again"
            self._bus.withdraw_parked(prompt_id, why)
        self._settle(running.claim, error)
        return True

    def _go_on(self, claim: Claim) -> None:
        title = claim.gate.gate.title
        route = claim.gate.gate.said(claim.decision.route)
        prompt, targets = going_on(claim, self._queue.is_output)
        if not targets:
            log.info("gate %r: nothing hangs on route %r", title, route)
            self._bus.finish(claim, "nothing hangs on this route")
            return
        prompt_id = str(uuid.uuid4())
        request = {
            "prompt": prompt,
            "prompt_id": prompt_id,
            "extra_data": dict(claim.parked.extra),
            "partial_execution_targets": targets,
            "front": True,  # a person has waited for it, which what was queued later has not
        }
        if claim.parked.client:
            request["client_id"] = claim.parked.client
        running = _Running(claim)
        try:
            left_out = self._queue.submit(request)
            running = _Running(claim, left_out)
            if left_out and self._queue.remove(prompt_id):
                self._settle(claim, left_out)
                return
        except Refused as refused:
            self._settle(claim, str(refused))
            return
        except OSError as error:  # it may have taken the prompt all the same: see what is there
            said = f"ComfyUI did not answer: {error}"
            report_failure(f"gate {title!r}: ComfyUI did not answer", error)
            running = _Running(claim, unsure=(said, time.monotonic() + UNSURE))
        self._running[prompt_id] = running
        log.info("gate %r goes on, to %r", title, route)

    def _settle(self, claim: Claim, error: str) -> None:
        title = claim.gate.gate.title
        if error:
            held = self._bus.put_back(claim, error)
            log.warning("gate %r could not go on and waits again: %s", title, error)
        else:
            held = self._bus.finish(claim)
            log.info("gate %r has gone on", title)
        if not held:
            log.warning("gate %r was meanwhile taken up by another worker, too", title)


def _same_item(siblings: Iterable[Sibling], item: int) -> dict[str, str]:
    """The gate of each gate node: of a list, that of the same place; of several, the newest."""
    nodes: dict[str, Sibling] = {}
    for sibling in siblings:  # oldest first
        known = nodes.get(sibling.node)
        if known is None or known.item != item or sibling.item == item:
            nodes[sibling.node] = sibling
    return {node: sibling.gate_id for node, sibling in nodes.items()}
