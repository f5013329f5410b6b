"""Goes on with parked gates: re-queues the prompt of one that was decided, and sees to its end."""

from __future__ import annotations

import copy
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .model import ImageGateError, State
from .stored_bus import StoredBus

if TYPE_CHECKING:  # they bring SQLAlchemy
    from .parked import Claim, Sibling

AT_ONCE = 2
"""Gates taken up at the same time: the queue never runs dry, and others get their share."""
LOOK = 0.1
"""Seconds between looks at prompts that run: ComfyUI tells only its pages when one has ended."""
IDLE = 5.0
"""Seconds between looks for what no news came of, such as another worker's claim that ran out."""

SETTINGS = ("labels", "title", "timeout", "on_timeout", "mode", "repeat")

log = logging.getLogger("imagegate")


class Refused(Exception):
    """ComfyUI does not take the prompt; the message is its own."""


@dataclass(frozen=True)
class End:
    """How a prompt ended. ``error`` is ComfyUI's own message, empty if it went well.

    ``interrupted``: because somebody wanted it so.
    """

    error: str = ""
    interrupted: bool = False


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

    Each gate of the same run is told its own id as ``decision``: one that was decided gives its
    image without asking, one that still waits blocks what hangs on it and is not asked twice. What
    else was linked into a gate has been used when it asked, and is left out.
    """
    prompt = copy.deepcopy(dict(claim.parked.prompt))
    gate = claim.gate.gate
    told = dict(_same_item(claim.siblings, claim.parked.item))
    told[claim.parked.node] = gate.id
    for node_id, node in prompt.items():
        node.pop("is_changed", None)  # ComfyUI's own note, of the run before
        if node_id not in told:
            continue
        inputs = node["inputs"]
        inputs["decision"] = told[node_id]
        for name in SETTINGS:
            if _is_link(inputs.get(name)):
                del inputs[name]
        if _is_link(inputs.get("routes")):
            inputs["routes"] = len(gate.labels)
    assert claim.decision.route is not None
    behind = _behind(prompt, claim.parked.node, (0, claim.decision.route))
    wanted = set(claim.parked.targets) or set(prompt)
    return prompt, sorted(n for n in behind & wanted if is_output(prompt[n]["class_type"]))


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
        self._running: dict[str, tuple[Claim, str]] = {}  # prompt id -> claim, what was left out
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
                except ImageGateError as error:
                    if not failing:
                        log.warning("parked gates do not go on: %s", error)
                    failing = True
                except Exception:  # the next one may fare better
                    log.exception("parked gates do not go on")
                # Also woken by news; a store that fails is not asked all the time.
                soon = not ready or (self._running and not failing)
                self._woken.wait(LOOK if soon else IDLE)

    def _turn(self) -> None:
        for prompt_id, (claim, left_out) in list(self._running.items()):
            end = self._queue.ended(prompt_id)
            if end is not None:
                # A Stop at a later gate of the same prompt is not a failure of this one.
                stopped = end.interrupted and self._bus.stopped_in(prompt_id)
                self._settle(claim, "" if stopped else end.error or left_out)
                del self._running[prompt_id]
        self._bus.renew([claim for claim, _ in self._running.values()])
        while len(self._running) < AT_ONCE and not self._closing:
            due = self._bus.claim()
            if due is None:
                return
            self._go_on(due)

    def _go_on(self, claim: Claim) -> None:
        title = claim.gate.gate.title
        prompt, targets = going_on(claim, self._queue.is_output)
        if not targets:
            log.info("gate %r: nothing hangs on route %r", title, claim.decision.label)
            self._bus.finish(claim, "nothing hangs on this route")
            return
        prompt_id = str(uuid.uuid4())
        request = {
            "prompt": prompt,
            "prompt_id": prompt_id,
            "client_id": claim.parked.client,
            "extra_data": dict(claim.parked.extra),
            "partial_execution_targets": targets,
            "front": True,  # a person has waited for it, which what was queued later has not
        }
        try:
            left_out = self._queue.submit(request)
        except Refused as refused:
            self._settle(claim, str(refused))
            return
        except OSError as error:  # it may have taken the prompt all the same: see what is there
            log.warning("gate %r: ComfyUI did not answer: %s", title, error)
            left_out = ""
        if left_out and self._queue.remove(prompt_id):
            self._settle(claim, left_out)
            return
        log.info("gate %r goes on, to %r", title, claim.decision.label)
        self._running[prompt_id] = claim, left_out

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


def _same_item(siblings: Iterable[Sibling], item: int) -> list[tuple[str, str]]:
    """(node, gate id) of each gate node of the run: of a list, the gate of the same place."""
    nodes: dict[str, list[Sibling]] = {}
    for sibling in siblings:
        nodes.setdefault(sibling.node, []).append(sibling)
    return [
        (node, max(of_node, key=lambda one: (one.item == item, _rank(one.state))).gate_id)
        for node, of_node in nodes.items()
    ]


def _rank(state: State) -> int:
    return 1 if state in (State.DECIDED, State.RESUMED, State.EXPIRED) else 0


def _behind(prompt: Mapping[str, Any], node_id: str, slots: Iterable[int]) -> set[str]:
    """All nodes that hang on these outputs of a node, directly or through others."""
    users: dict[str, list[tuple[int, str]]] = {}
    for user, node in prompt.items():
        for value in node.get("inputs", {}).values():
            if _is_link(value):
                users.setdefault(str(value[0]), []).append((value[1], user))
    found: set[str] = set()
    wanted = set(slots)
    todo = [user for slot, user in users.get(node_id, []) if slot in wanted]
    while todo:
        user = todo.pop()
        if user not in found:
            found.add(user)
            todo += [next_user for _, next_user in users.get(user, [])]
    return found


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)
