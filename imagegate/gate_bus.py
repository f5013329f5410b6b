"""The bus: who waits, who answers, who is notified. Standard library only.

A waiter publishes a `Gate` and holds a `Ticket`; somebody else decides. The first answer wins, and
which one that was is decided by the `GateStorage` behind the bus. The bus itself knows who waits in
this process and who listens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Generic, TypeVar
from weakref import WeakValueDictionary

from .core.bus import TIME_IS_UP, Change, GateStorage, Hooks, Listener, Revoke, Ticket
from .core.model import (
    ALL,
    Answer,
    Decision,
    Gate,
    GateCancelled,
    GateClosed,
    ImageGateError,
    Outcome,
    Selection,
    Snapshot,
    State,
    UnknownGate,
    Verdict,
)
from .core.news import KEPT_NEWS, Counts, Feed, News, Subscription
from .core.viewers import Viewers
from .storage.memory import MemoryStorage
from .storage.rules import second, signed, timed_out

__all__ = ["GateBus", "GateCancelled", "News", "Subscription", "Ticket"]

P = TypeVar("P")


class _Waiter:
    """Somebody who waits for a gate. Guarded by the lock of `_Waiters`.

    ``version``: of the gate, as far as the waiter knows. ``served``: whether it has its answer.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.version = 0
        self.served = False
        self.renew()

    def renew(self) -> None:
        """Wait for the next answer."""
        self.future: Future[Answer] = Future()
        self.future.set_running_or_notify_cancel()  # from here on nobody can cancel it


class _Waiters:
    """Everybody who waits in this process. Thread-safe.

    Changes of a gate may be reported in another order than they happened, so versions decide.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below; no future is resolved while it is held
        self._waiting: dict[str, _Waiter] = {}
        # As long as somebody holds their tickets: an answer may be taken back.
        self._served: WeakValueDictionary[str, _Waiter] = WeakValueDictionary()

    def add(self, gate: Gate) -> _Waiter:
        """A new waiter. Raises `ValueError` if somebody waits for this gate already."""
        waiter = _Waiter(gate)
        with self._lock:
            if gate.id in self._waiting:
                raise ValueError(f"gate {gate.id} is published already")
            before = self._served.get(gate.id)
            waiter.version = before.version if before is not None else 0
            self._waiting[gate.id] = waiter
        return waiter

    def remove(self, gate_id: str) -> _Waiter | None:
        """Stop waiting for this gate; returns the waiter, if there was one."""
        with self._lock:
            return self._waiting.pop(gate_id, None)

    def give_up(self, gate_id: str, error: ImageGateError) -> None:
        """Raise an error for whoever waits for this gate."""
        waiter = self.remove(gate_id)
        if waiter is not None:
            waiter.future.set_exception(error)

    def follow(self, change: Change) -> None:
        """Wake whoever waits for this gate, or make it wait again."""
        gate_id, result = change.gate.gate.id, change.result
        with self._lock:
            waiter = self._waiting.get(gate_id) or self._served.get(gate_id)
            if waiter is None or change.gate.version <= waiter.version:
                return
            if change.gate.state.open:
                waiter.version = change.gate.version
                if waiter.served:
                    waiter.served = False
                    waiter.renew()
                    del self._served[gate_id]
                    self._waiting[gate_id] = waiter
                return
            if result is None:
                return
            waiter.version = change.gate.version
            if waiter.served:  # it was taken back and answered again, which is heard of later
                waiter.renew()
            waiter.served = True
            self._waiting.pop(gate_id, None)
            self._served[gate_id] = waiter
            future = waiter.future
        if isinstance(result, Answer):
            future.set_result(result)
        else:
            future.set_exception(result)

    def of_prompt(self, prompt_id: str) -> list[str]:
        """Ids of the gates of a prompt that somebody waits for."""
        with self._lock:
            return [i for i, one in self._waiting.items() if one.gate.prompt_id == prompt_id]

    def waits(self, gate_id: str) -> bool:
        """Whether somebody waits for this gate."""
        with self._lock:
            return gate_id in self._waiting


class GateBus(Generic[P]):
    """All gates of a storage, as one process sees them. Thread-safe.

    ``P`` is whatever the publisher hands over as the gate's pictures; the bus only passes it on.

    Args:
        storage: keeps the gates; by default this process's memory does.
    """

    def __init__(self, storage: GateStorage[P] | None = None) -> None:
        self.storage: GateStorage[P] = MemoryStorage() if storage is None else storage
        self.viewers = Viewers()  # of this process's pages
        self._waiters = _Waiters()
        self._feed = Feed()
        self._counts = Counts()
        self.storage.listen(Listener(self._changed, self._missed, self._waiters.give_up))

    # -- the waiter's side

    def publish(
        self,
        gate: Gate,
        pictures: P,
        *,
        record: Callable[[Answer], None] | None = None,
        revoke: Revoke | None = None,
        clicks: frozenset[str] = frozenset(),
    ) -> Ticket:
        """Put a question, and wait for its answer in this process.

        Args:
            gate: its id must be new.
            pictures: what `pictures` gives back for it.
            record, revoke, clicks: see `Hooks`; for a storage that records nothing itself.

        Raises:
            ValueError: there is a gate of this id already.
        """
        waiter = self._waiters.add(gate)  # before anybody can see the gate, and answer
        try:
            waiter.gate = self.storage.add(gate, pictures, Hooks(record, revoke, clicks))
        except BaseException:
            self._waiters.remove(gate.id)
            raise
        return Ticket(waiter, self._take_back)

    def withdraw(self, gate_id: str, reason: str) -> bool:
        """Take a question back; False if it was answered, withdrawn or forgotten already."""
        try:
            verdict = self.storage.end(gate_id, State.WITHDRAWN, None, reason)
        except (UnknownGate, GateClosed):
            return False
        return verdict.outcome is Outcome.WON

    def withdraw_prompt(self, prompt_id: str, reason: str) -> int:
        """Take back the questions of a prompt that waits in this process; returns how many."""
        return sum(self.withdraw(one, reason) for one in self._waiters.of_prompt(prompt_id))

    def expire(self, gate_id: str) -> None:
        """End a gate whose time is up, by its own rule. An answer recorded before it wins."""
        decision = timed_out(self.get(gate_id).gate)
        with suppress(GateClosed):
            self.storage.end(gate_id, State.EXPIRED, decision, TIME_IS_UP)

    # -- the person's side

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
        """Answer with a route.

        Args:
            route: its number (1-based) or its label.
            by: who answers, at most `MAX_NAME` characters.
            note: why, at most `MAX_NOTE` characters.
            link: id of the share link it comes through.
            key: of this click, at most `MAX_KEY` characters: sent again it is a ``REPLAY``, also
                after the answer was taken back.

        Returns:
            ``WON``; ``REPLAY`` if this person said this already; ``LOST`` with the decision that
            was first.

        Raises:
            UnknownGate, GateClosed, BadAnswer, NotRecorded: see `imagegate.core.model`.
        """
        now = self.get(gate_id)
        number = now.gate.route(route)
        words = signed(by, note, key)
        decision = Decision(number, now.gate.labels[number - 1], *words, link=link, key=key)
        if not now.state.open and not key:
            return second(now, decision)
        return self.storage.end(gate_id, State.DECIDED, decision)

    def stop(self, gate_id: str, *, by: str = "", note: str = "") -> Verdict:
        """Answer with Stop; returns and raises as `decide` does."""
        return self.storage.end(gate_id, State.STOPPED, Decision(None, "", *signed(by, note)))

    def undo(self, gate_id: str, *, link: str = "") -> Snapshot:
        """Take an answer back: the gate waits again, with the masks it had.

        Args:
            link: only an answer that came through it.

        Raises:
            UnknownGate: no such gate.
            TooLate: it is not decided, or what it started cannot be taken back.
            Forbidden: the answer did not come through this link.
            NotRecorded: taking it back failed; the answer stands.
        """
        return self.storage.undo(gate_id, link)

    def set_mask(self, gate_id: str, index: int, png: bytes) -> Snapshot:
        """Keep a mask for one image of a gate; empty bytes clear it. Masks come with the answer.

        Raises:
            UnknownGate, BadAnswer: no such gate, no such image.
            GateClosed, TooLate: the gate ended, or was decided, before.
        """
        return self.storage.set_mask(gate_id, index, png)

    # -- looking

    def get(self, gate_id: str) -> Snapshot:
        """One gate, open or finished. Raises `UnknownGate`."""
        return self.storage.get(gate_id)

    def pictures(self, gate_id: str) -> P | None:
        """What the publisher handed over; None once it is no longer kept."""
        return self.storage.pictures(gate_id)

    def mask(self, gate_id: str, index: int) -> bytes | None:
        """The mask saved for an image; None if there is none, empty bytes if it was cleared."""
        return self.storage.mask(gate_id, index)

    def pending(
        self, limit: int | None = None, after: int = 0, among: Selection = ALL
    ) -> list[Snapshot]:
        """Open gates, oldest first: at most ``limit`` of those whose ``seq`` is above ``after``."""
        return self.storage.pending(limit, after, among)

    def finished(
        self, limit: int | None = None, before: int | None = None, among: Selection = ALL
    ) -> list[Snapshot]:
        """Finished gates, newest first: at most ``limit`` whose ``ended`` is below ``before``."""
        return self.storage.finished(limit, before, among)

    def count(self, among: Selection = ALL) -> int:
        """How many gates wait for a person."""
        return self._counts.get(among, lambda: self.storage.count(among))

    def answered(self, links: Collection[str]) -> dict[str, int]:
        """How many gates have an answer that came through each of these share links."""
        return self.storage.answered(links)

    def subscribe(
        self, notify: Callable[[], None] = lambda: None, *, limit: int = KEPT_NEWS
    ) -> Subscription:
        """Subscribe to everything that changes from now on. Close the subscription when done."""
        return self._feed.subscribe(notify, limit=limit)

    @property
    def listeners(self) -> int:
        """How many subscriptions are open."""
        return len(self._feed)

    # -- what the storage reports

    def _changed(self, changes: Sequence[Change]) -> None:
        self._counts.clear()  # first: who is woken may count
        for change in changes:
            self._waiters.follow(change)
        self._feed.announce(News(change.kind, change.gate) for change in changes)

    def _missed(self) -> None:
        self._counts.clear()
        self._feed.lose()

    def _take_back(self, gate_id: str, reason: str) -> bool:
        """`withdraw` for a ticket; the storage is not asked if the answer is known here."""
        return self._waiters.waits(gate_id) and self.withdraw(gate_id, reason)
