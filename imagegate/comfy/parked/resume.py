"""Carries on with parked gates: queues the prompt of a decided one, and follows it to its end."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...core.failures import report_failure
from ...core.loop import Loop
from ...core.model import ImageGateError, State
from ...core.pictures import Pictures
from ...gate_bus import GateBus
from ...storage.sql_storage import SqlStorage
from .graph import Graph
from .prompts import GATE_CLASSES, NOT_YET, with_decisions

if TYPE_CHECKING:  # they bring SQLAlchemy
    from ...storage.queries.runs import Claim

MOST_RUNNING = 2
"""The most gates taken up at once: the queue never runs dry, and others get their share."""
QUEUE_LOOK = 0.1
"""Seconds between looks at prompts that run: ComfyUI notifies only its pages when one has ended."""
UNSURE = 20.0
"""Seconds after which a prompt that ComfyUI did not confirm can no longer turn up in its queue."""
IDLE = 5.0
"""Seconds between looks for what no news announces, such as another worker's expired claim."""

log = logging.getLogger("imagegate")


class PromptRefused(Exception):
    """ComfyUI refuses the prompt; the message is its own."""


@dataclass(frozen=True)
class End:
    """How a prompt ended. ``error`` is ComfyUI's own message, empty if it went well.

    ``interrupted``: somebody stopped it. ``gone``: it is not there, and never ran.
    """

    error: str = ""
    interrupted: bool = False
    gone: bool = False


@dataclass(frozen=True)
class _Running:
    """A prompt that was queued. ``left_out``: what of it, according to ComfyUI, will not run.

    ``unsure``: the error instead of an answer, and until when (monotonic) the prompt may still
    turn up in the queue.
    """

    claim: Claim
    left_out: str = ""
    unsure: tuple[str, float] | None = None


class PromptQueue(Protocol):
    """What is needed of ComfyUI's queue."""

    @property
    def ready(self) -> bool:
        """Whether it takes prompts yet."""

    def is_output(self, class_type: str) -> bool:
        """Whether nodes of this class are outputs."""

    def submit(self, request: Mapping[str, Any]) -> str:
        """Queue a prompt, as ComfyUI's page does; returns what it says of nodes that will not run.

        Raises:
            PromptRefused: it refuses the prompt.
        """

    def ended(self, prompt_id: str) -> End | None:
        """How a prompt ended; None while it is queued or runs."""

    def remove(self, prompt_id: str) -> bool:
        """Take a prompt out of the queue; False if it is not there any more."""


def going_on(claim: Claim, is_output: Callable[[str], bool]) -> tuple[dict[str, Any], list[str]]:
    """The prompt of decided gates, and the output nodes that are to run.

    Every gate of the run that was published has its decisions in the prompt, in the order of its
    list: for the claimed node only the claimed items, so that what hangs on the others does not run
    again; for all other nodes what earlier prompts have used. What needs several gates runs once,
    with the last of them. An item that was stopped, or whose answer is not used yet, is blocked.
    """
    first = claim.parked
    prompt, graph = first.prompt, Graph(first.prompt)
    decisions: dict[str, list[str]] = {}
    for node, found in prompt.items():
        if found.get("class_type") in GATE_CLASSES:
            given = _decisions(claim, node, graph)
            if any(given):
                decisions[node] = given
    routes = {decision.route for decision in claim.decisions if decision.route is not None}
    hangs = graph.behind(first.node, {0, *routes})
    outputs = first.targets or [node for node in hangs if is_output(prompt[node]["class_type"])]
    return with_decisions(prompt, decisions), sorted(hangs.intersection(outputs))


def _decisions(claim: Claim, node: str, graph: Graph) -> list[str]:
    """The decisions for the gate at a node, one for each item of its list; see `with_decisions`."""
    # Of several gates for the same item the newest counts: those before it failed.
    asked = {
        sibling.item: sibling
        for sibling in claim.siblings
        if sibling.node == node and sibling.state is not State.WITHDRAWN
    }
    claimed = {
        parked.item: gate.gate.id
        for gate, parked in zip(claim.gates, claim.stored, strict=True)
        if parked.node == node
    }
    if not asked and not claimed:
        return []
    sizes = [sibling.length for sibling in asked.values()]
    sizes += [parked.length for parked in claim.stored if parked.node == node]
    if claimed:
        return [claimed.get(item, NOT_YET) for item in range(max(sizes))]
    # Items without an answer: lost with the prompt that asked, or not reached before.
    live = {item for sibling in asked.values() for item in sibling.live}
    behind = node in graph.behind(claim.parked.node)
    given = []
    for item in range(max(sizes)):
        sibling = asked.get(item)
        if sibling is not None:
            given.append(sibling.gate_id if sibling.usable else NOT_YET + sibling.gate_id)
        else:
            given.append("" if behind or item in live else NOT_YET)
    return given


class Resumer:
    """A thread that carries on with decided gates, until it is closed.

    Args:
        bus: the bus that announces news of the gates.
        storage: its storage, where gates are taken up. Its store is opened for this only if it
            exists.
        queue: ComfyUI's.
    """

    def __init__(self, bus: GateBus[Pictures], storage: SqlStorage, queue: PromptQueue) -> None:
        self._bus = bus
        self._storage = storage
        self._queue = queue
        self._running: dict[str, _Running] = {}  # by prompt id
        self._loop = Loop("imagegate-resumer", self._run)

    def start(self) -> None:
        """Begin."""
        self._loop.start()

    def close(self) -> None:
        """End, and wait for that. What runs goes on, and some worker takes it up again."""
        self._loop.close()

    def _run(self) -> None:
        self._storage.claims.when_due = self._loop.wake
        with self._bus.subscribe(self._loop.wake, limit=1) as news:

            def turn() -> float:
                news.drain()  # it only matters that something happened
                if not self._queue.ready:
                    return QUEUE_LOOK
                if self._storage.opened or self._storage.exists():
                    self._turn()
                return QUEUE_LOOK if self._running else IDLE

            # Also woken by news; a store that fails is not asked all the time.
            self._loop.repeat(turn, "parked gates do not go on", IDLE)

    def _turn(self) -> None:
        for prompt_id, running in list(self._running.items()):
            if self._over(prompt_id, running):
                del self._running[prompt_id]
        self._storage.claims.renew([running.claim for running in self._running.values()])
        while len(self._running) < MOST_RUNNING and not self._loop.closing:
            due = self._storage.claims.take()
            if due is None:
                return
            try:
                self._go_on(due)
            except ImageGateError:
                raise
            except Exception as error:  # people have to know, or it is tried for ever
                report_failure(f"gate {due.title!r} could not go on", error)
                self._settle(due, f"it could not be prepared: {error!r}")

    def _over(self, prompt_id: str, running: _Running) -> bool:
        """Whether a prompt has ended; if so, its gate is settled."""
        end = self._queue.ended(prompt_id)
        if end is None:
            return False
        error = end.error or running.left_out
        if end.gone and running.unsure is not None:
            error, until = running.unsure
            if time.monotonic() < until:
                return False
        if end.interrupted and self._storage.store.gates.stopped_in(prompt_id):
            error = ""  # a Stop at a later gate of the same prompt is not a failure of this one
        if error:
            why = "the prompt that it came from failed, and its gate is asked again"
            self._storage.claims.withdraw_parked(prompt_id, why)
        self._settle(running.claim, error)
        return True

    def _go_on(self, claim: Claim) -> None:
        prompt, targets = going_on(claim, self._queue.is_output)
        if not targets:
            log.info("gate %r: nothing hangs on route %s", claim.title, claim.labels)
            self._storage.claims.finish(claim, "nothing hangs on this route")
            return
        prompt_id = str(uuid.uuid4())
        stored = claim.parked
        request = {
            "prompt": prompt,
            "prompt_id": prompt_id,
            "extra_data": dict(stored.extra),
            "partial_execution_targets": targets,
            "front": True,  # unlike what was queued later, a person has waited for it
        }
        if stored.client:
            request["client_id"] = stored.client
        running = _Running(claim)
        try:
            left_out = self._queue.submit(request)
            running = _Running(claim, left_out)
            if left_out and self._queue.remove(prompt_id):
                self._settle(claim, left_out)
                return
        except PromptRefused as refused:
            self._settle(claim, str(refused))
            return
        except OSError as error:  # it may have taken the prompt all the same: see what is there
            said = f"ComfyUI did not answer: {error}"
            report_failure(f"gate {claim.title!r}: ComfyUI did not answer", error)
            running = _Running(claim, unsure=(said, time.monotonic() + UNSURE))
        self._running[prompt_id] = running
        log.info("gate %r goes on, to %s", claim.title, claim.labels)

    def _settle(self, claim: Claim, error: str) -> None:
        if error:
            held = self._storage.claims.put_back(claim, error)
            log.warning("gate %r could not go on and waits again: %s", claim.title, error)
        else:
            left = self._still_waited_for(claim)
            held = self._storage.claims.finish(claim, left)
            log.info("gate %r has gone on%s", claim.title, f": {left}" if left else "")
        if not held:
            log.warning("gate %r was meanwhile taken up by another worker, too", claim.title)

    def _still_waited_for(self, claim: Claim) -> str:
        """Which open gates of the run hold back what depends on them and on the claimed ones."""
        graph = Graph(claim.parked.prompt)
        mine = graph.behind(claim.parked.node)
        ids = {
            sibling.gate_id
            for sibling in claim.siblings
            if sibling.state.open and sibling.node != claim.parked.node
            if mine & graph.behind(sibling.node)
        }
        left = [
            gate.gate.title for gate in self._storage.store.gates.several(ids) if gate.state.open
        ]
        if not left:
            return ""
        titles = ", ".join(repr(title) for title in dict.fromkeys(left))
        return f"what also hangs on {titles} runs after the answer there"
