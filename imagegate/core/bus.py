"""The contracts around the gate bus: what its users call, and what it calls of its storage.

Standard library only. `imagegate.gate_bus.GateBus` is the bus. Behind it stands a `GateStorage`,
which keeps the gates: `imagegate.storage.memory.MemoryStorage` in the memory of one process,
`imagegate.storage.sql_storage.SqlStorage` in a database that processes share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from .model import (
    ALL,
    Answer,
    Decision,
    Gate,
    GateCancelled,
    ImageGateError,
    Selection,
    Snapshot,
    State,
    Verdict,
)
from .news import Subscription
from .pictures import Pictures
from .viewers import Viewers

P = TypeVar("P")
Revoke = Callable[[Answer], Gate | None]

TIME_IS_UP = "nobody answered in time"


class Bus(Protocol):
    """What the panel, REST and share links use; see `imagegate.gate_bus.GateBus` for details."""

    @property
    def viewers(self) -> Viewers:
        """Who looks at which gate."""

    def decide(
        self,
        gate_id: str,
        route: object,
        *,
        by: str = "",
        note: str = "",
        link: str = "",
        key: str = "",
    ) -> Verdict:
        """Answer with a route, by its number or its label."""

    def stop(self, gate_id: str, *, by: str = "", note: str = "") -> Verdict:
        """Answer with Stop."""

    def undo(self, gate_id: str, *, link: str = "") -> Snapshot:
        """Take an answer back: the gate waits again."""

    def set_mask(self, gate_id: str, index: int, png: bytes) -> Snapshot:
        """Keep a mask for one image of a gate; empty bytes clear it."""

    def get(self, gate_id: str) -> Snapshot:
        """One gate, open or finished."""

    def pictures(self, gate_id: str) -> Pictures | None:
        """The pictures of a gate; None once they are no longer kept."""

    def mask(self, gate_id: str, index: int) -> bytes | None:
        """The mask saved for an image; None if there is none, empty bytes if it was cleared."""

    def pending(
        self, limit: int | None = None, after: int = 0, among: Selection = ALL
    ) -> list[Snapshot]:
        """Open gates, oldest first: at most ``limit`` of those whose ``seq`` is above ``after``."""

    def finished(
        self, limit: int | None = None, before: int | None = None, among: Selection = ALL
    ) -> list[Snapshot]:
        """Finished gates, newest first: at most ``limit`` whose ``ended`` is below ``before``."""

    def count(self, among: Selection = ALL) -> int:
        """How many gates wait for a person."""

    def answered(self, links: Collection[str]) -> dict[str, int]:
        """How many gates have an answer that came through each of these share links."""

    def subscribe(self, notify: Callable[[], None] = ..., *, limit: int = ...) -> Subscription:
        """A subscription to everything that changes from now on."""


class Line(Protocol):
    """One line of a gate's history."""

    def to_json(self) -> dict[str, Any]:
        """The line as REST returns it."""


class Records(Protocol):
    """What a store knows beyond a bus."""

    def lines(self, gate_id: str) -> Sequence[Line]:
        """The history of one gate, oldest first."""

    def status(self) -> dict[str, Any]:
        """The store, its workers and how much disk its pictures take."""

    def ask_again(self, gate_id: str) -> Snapshot:
        """Forget that questions like this one were answered."""


class Waiter(Protocol):
    """Somebody who waits for a gate."""

    @property
    def gate(self) -> Gate:
        """The gate."""

    @property
    def future(self) -> Future[Answer]:
        """Gets the answer."""


class Ticket:
    """What the waiter holds. ``future`` may be awaited in any way, but not cancelled."""

    def __init__(self, waiter: Waiter, withdraw: Callable[[str, str], bool]) -> None:
        self._waiter = waiter
        self._withdraw = withdraw
        self.gate = waiter.gate

    @property
    def future(self) -> Future[Answer]:
        """Resolves to the `Answer`, or to `GateCancelled`."""
        return self._waiter.future

    def wait(self, timeout: float | None = None) -> Answer:
        """Block until somebody answers.

        Args:
            timeout: seconds, or None for as long as it takes.

        Raises:
            GateCancelled: the gate was stopped, expired to a stop, or was withdrawn.
            TimeoutError: nobody answered in time; the gate still waits.
        """
        future = self.future
        try:
            return future.result(timeout)
        except FutureTimeout:
            # An answer that came in this very moment still counts.
            if future.done():
                return future.result()
            raise TimeoutError(
                f"nobody answered gate {self.gate.title!r} within {timeout} s"
            ) from None

    def withdraw(self, reason: str) -> bool:
        """Take the question back; False if it was already answered."""
        return self._withdraw(self.gate.id, reason)


@dataclass(frozen=True)
class Change:
    """Something that happened to a gate.

    Attributes:
        kind: of the news: published, masked, decided or withdrawn.
        gate: as it is since then.
        result: what a waiter of this process gets: the answer, or the error to raise. None while
            the gate is open, or if nobody waits for it here.
    """

    kind: str
    gate: Snapshot
    result: Answer | ImageGateError | None = None


def kind_of_change(gate: Snapshot) -> str:
    """The kind of news for a gate that has just entered its present state."""
    if gate.state.open:
        return "published"
    return "withdrawn" if gate.state in (State.WITHDRAWN, State.EXPIRED) else "decided"


def cancelled(gate: Snapshot) -> GateCancelled:
    """What a waiter gets from a gate that ended without a route."""
    return GateCancelled(gate.state, gate.reason or "stopped by a person")


@dataclass(frozen=True)
class Listener:
    """What a storage calls after a change, from any thread and without holding a lock.

    Attributes:
        changed: these gates have changed, in this process or in another; all of it is durable.
        missed: more may have changed than is known.
        gave_up: nobody can wait for this gate any more, though its end could not be recorded.
    """

    changed: Callable[[Sequence[Change]], None] = lambda _: None
    missed: Callable[[], None] = lambda: None
    gave_up: Callable[[str, ImageGateError], None] = lambda *_: None


@dataclass(frozen=True)
class Hooks:
    """How the publisher of a gate records its answers itself.

    Attributes:
        record: makes an answer durable. It is called once an answer is accepted and before it
            counts, without a lock; if it raises, the gate goes on waiting.
        revoke: undoes what ``record`` did; needed for an ``undoable`` gate. It may return the gate
            as it is to be asked again.
        clicks: the digests of clicks that have counted for the gate before.
    """

    record: Callable[[Answer], None] | None = None
    revoke: Revoke | None = None
    clicks: frozenset[str] = frozenset()


NO_HOOKS = Hooks()


class GateStorage(Protocol, Generic[P]):
    """Keeps gates, and decides which answer was first. Thread-safe.

    When a call that changes something returns, the change is durable and the listener was called.
    All may raise `StoreError`, where the storage cannot be used; those that name a gate raise
    `UnknownGate`.
    """

    def listen(self, listener: Listener) -> None:
        """Report all changes to this listener from now on. Called once, by the bus."""

    def add(self, gate: Gate, pictures: P, hooks: Hooks = NO_HOOKS) -> Gate:
        """Add a gate that waits in this process; returns it as it was added.

        Raises:
            ValueError: there is a gate of this id already.
        """

    def end(
        self, gate_id: str, state: State, decision: Decision | None, reason: str = ""
    ) -> Verdict:
        """End a gate: by an answer, by its deadline, or without a ``decision`` by withdrawing it.

        The first one wins; a click that has counted before is a replay.

        Raises:
            GateClosed: it ended before without an answer.
            NotRecorded: the answer could not be made durable; the gate waits.
        """

    def undo(self, gate_id: str, link: str = "") -> Snapshot:
        """Take an answer back, if it came through this link or none is named.

        Raises:
            TooLate, Forbidden: as `check_undo`.
            NotRecorded: taking it back failed; the answer stands.
        """

    def set_mask(self, gate_id: str, index: int, png: bytes) -> Snapshot:
        """Keep a mask; empty bytes clear it.

        Raises:
            BadAnswer: the gate has no such image.
            GateClosed, TooLate: the gate ended, or was decided, before.
        """

    def get(self, gate_id: str) -> Snapshot:
        """One gate, open or finished."""

    def pictures(self, gate_id: str) -> P | None:
        """The pictures of a gate; None once they are no longer kept."""

    def mask(self, gate_id: str, index: int) -> bytes | None:
        """The mask saved for an image; None if there is none, empty bytes if it was cleared."""

    def pending(self, limit: int | None, after: int, among: Selection) -> list[Snapshot]:
        """Open gates, oldest first: at most ``limit`` of those whose ``seq`` is above ``after``."""

    def finished(self, limit: int | None, before: int | None, among: Selection) -> list[Snapshot]:
        """Finished gates, newest first: at most ``limit`` whose ``ended`` is below ``before``."""

    def count(self, among: Selection) -> int:
        """How many gates wait for a person."""

    def answered(self, links: Collection[str]) -> dict[str, int]:
        """How many gates have an answer that came through each of these share links."""


def digest_of(decision: Decision) -> str:
    """The digest by which a click is recognized, and which reveals nothing; empty without a key."""
    return hashlib.sha256(decision.click.encode()).hexdigest()[:32] if decision.key else ""
