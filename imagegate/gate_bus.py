"""The bus: who waits, who answers, who is told. Standard library only.

A waiter publishes a `Gate` and holds a `Ticket`; somebody else decides. The first answer wins. It
is built on `concurrent.futures.Future`, which already is a tested condition variable; what is
added here is who won, who else wants to know, and making an answer durable before it counts.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from typing import Generic, Protocol, TypeVar

from .core.failures import report_failure
from .core.model import (
    ALL,
    Answer,
    Decision,
    Gate,
    GateCancelled,
    GateClosed,
    ImageGateError,
    NotRecorded,
    Outcome,
    Selection,
    Snapshot,
    State,
    StoreError,
    TooLate,
    UnknownGate,
    Verdict,
    again,
    check_undo,
    closed,
    second,
    signed,
    timed_out,
)
from .core.news import KEPT_NEWS, Feed, News, Subscription, tell
from .core.viewers import Viewers

__all__ = ["GateBus", "GateCancelled", "News", "Subscription", "Ticket"]

log = logging.getLogger("imagegate")

P = TypeVar("P")
T = TypeVar("T")
Revoke = Callable[[Answer], Gate | None]

TIME_IS_UP = "nobody answered in time"
KEPT_GATES = 10_000
"""Finished gates whose record is kept in memory."""
KEPT_PICTURES = 100
"""Finished gates whose pictures and masks are kept too."""


_NOBODYS: Future[Answer] = Future()
"""Of gates that were decided before: nobody waits for them."""


def digest_of(decision: Decision) -> str:
    """A click as it is remembered: known again, and told to nobody. Empty without a key."""
    return hashlib.sha256(decision.click.encode()).hexdigest()[:32] if decision.key else ""


@dataclass
class _Entry(Generic[P]):
    """A gate and all that changes about it. Guarded by the bus's lock."""

    gate: Gate
    seq: int
    pictures: P | None
    record: Callable[[Answer], None] | None
    revoke: Revoke | None
    future: Future[Answer]
    state: State = State.WAITING
    version: int = 0
    masks: dict[int, bytes] = field(default_factory=dict)
    masked: tuple[int, ...] = ()
    answer: Answer | None = None
    reason: str = ""
    ended: int = 0
    claim: threading.Event | None = None  # set while an answer is being recorded
    clicks: frozenset[str] = frozenset()  # those that have counted

    def snapshot(self) -> Snapshot:
        return Snapshot(
            gate=self.gate,
            state=self.state,
            seq=self.seq,
            version=self.version,
            decision=self.answer.decision if self.answer else None,
            masked=self.masked,
            reason=self.reason,
            ended=self.ended,
        )

    def without_pictures(self) -> _Entry[P]:
        """A finished entry as a mere record. (Its ticket keeps the entry itself, and the masks.)"""
        answer = Answer(self.answer.decision) if self.answer else None
        return replace(
            self, pictures=None, masks={}, answer=answer, record=None, revoke=None, future=Future()
        )


class Asked(Protocol):
    """A gate that somebody waits for."""

    @property
    def gate(self) -> Gate: ...

    @property
    def future(self) -> Future[Answer]: ...


class Ticket:
    """What the waiter holds. ``future`` may be waited for in any way, but not cancelled."""

    def __init__(self, asked: Asked, withdraw: Callable[[str, str], bool]) -> None:
        self._asked = asked
        self._withdraw = withdraw
        self.gate = asked.gate

    @property
    def future(self) -> Future[Answer]:
        """Resolves to the `Answer`, or to `GateCancelled`."""
        return self._asked.future

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


class GateBus(Generic[P]):
    """All gates of one process. Thread-safe.

    ``P`` is whatever the publisher hands over as the gate's pictures; the bus only keeps it.

    Args:
        kept: finished gates remembered (their record, not their pictures).
    """

    def __init__(self, *, kept: int = KEPT_GATES) -> None:
        # Guards everything below, all entries and all unread news. Nobody is called, no future
        # resolved and nothing read or written while it is held.
        self._lock = threading.Lock()
        self._open: dict[str, _Entry[P]] = {}
        self._finished: OrderedDict[str, _Entry[P]] = OrderedDict()
        self._with_pictures: deque[_Entry[P]] = deque()  # finished, oldest first
        self._feed = Feed(self._lock)
        self._kept = kept
        self.viewers = Viewers()
        self._seq = 0
        self.incomplete = ""
        """While not all gates were published that are going to be: what to say of unknown ones."""

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
        """Put a question.

        Args:
            gate: its id must be new, or that of a gate that was withdrawn.
            pictures: what `pictures` gives back for it.
            record: makes an answer durable. Called once an answer is accepted and before it
                counts, without the lock; if it raises, the gate goes on waiting.
            revoke: undoes what ``record`` did; needed for an ``undoable`` gate. It may return the
                gate as it is to be asked again.
            clicks: the digests of clicks that have counted for it before.

        Raises:
            ValueError: there is a gate of this id already.
        """
        future: Future[Answer] = Future()
        future.set_running_or_notify_cancel()  # from here on nobody can cancel it
        with self._lock:
            before = self._finished.get(gate.id)
            if gate.id in self._open or (before and before.state is not State.WITHDRAWN):
                raise ValueError(f"gate {gate.id} is published already")
            self._seq += 1
            entry = _Entry(gate, self._seq, pictures, record, revoke, future, clicks=clicks)
            if before is not None:
                entry.version, entry.masks, entry.masked = (
                    before.version, before.masks, before.masked,
                )  # fmt: skip
                entry.clicks |= before.clicks
                del self._finished[gate.id]
            self._open[gate.id] = entry
            told = self._add_news("published", entry)
        tell(told)
        return Ticket(entry, self.withdraw)

    def restore(
        self,
        gate: Gate,
        decision: Decision,
        pictures: P,
        *,
        record: Callable[[Answer], None],
        revoke: Revoke,
        clicks: frozenset[str] = frozenset(),
    ) -> None:
        """Add a gate that was decided before there was this bus; nobody is notified.

        Args:
            gate, pictures, record, revoke, clicks: as for `publish`.
            decision: the answer that stands. The latest is added last, and all before any gate is
                decided here.
        """
        with self._lock:
            self._seq += 1
            self._finished[gate.id] = _Entry(
                gate, self._seq, pictures, record, revoke, _NOBODYS, State.DECIDED,
                version=1, answer=Answer(decision), ended=self._seq, clicks=clicks,
            )  # fmt: skip

    def remark(self, gate_id: str, reason: str) -> None:
        """Say something about a finished gate to whoever looks at it from now on."""
        with self._lock:
            self._entry(gate_id).reason = reason

    def withdraw(self, gate_id: str, reason: str) -> bool:
        """Take a question back; False if it was answered, withdrawn or forgotten already."""
        try:
            return self._end(gate_id, State.WITHDRAWN, None, reason).outcome is Outcome.WON
        except (UnknownGate, GateClosed):
            return False

    def withdraw_prompt(self, prompt_id: str, reason: str) -> int:
        """Take back all open questions of one prompt; says how many there were."""
        with self._lock:
            ids = [e.gate.id for e in self._open.values() if e.gate.prompt_id == prompt_id]
        return sum(self.withdraw(gate_id, reason) for gate_id in ids)

    def expire(self, gate_id: str) -> None:
        """End a gate whose time is up, by its own rule. An answer recorded before it wins."""
        decision = timed_out(self.get(gate_id).gate)
        try:
            self._end(gate_id, State.EXPIRED, decision, TIME_IS_UP)
        except GateClosed:
            return

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
        gate = self.get(gate_id).gate
        number = gate.route(route)
        words = signed(by, note, key)
        decision = Decision(number, gate.labels[number - 1], *words, link=link, key=key)
        return self._end(gate_id, State.DECIDED, decision)

    def stop(self, gate_id: str, *, by: str = "", note: str = "") -> Verdict:
        """Answer with Stop; returns and raises as `decide` does."""
        return self._end(gate_id, State.STOPPED, Decision(None, "", *signed(by, note)))

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
        while True:
            with self._lock:
                entry = self._entry(gate_id)
                if entry.claim is None:
                    check_undo(entry.snapshot(), link)
                    assert entry.answer is not None
                    if entry.revoke is None:
                        raise TooLate("too late: nobody can take this decision back")
                    entry.claim = claim = threading.Event()
                    answer, revoke = entry.answer, entry.revoke
                    break
                other = entry.claim
            other.wait()
        gate = self._carry_out(revoke, answer, entry, claim, "not taken back, the decision stands")
        with self._lock:
            entry.gate, entry.reason = gate or entry.gate, ""
            self._finished.pop(gate_id, None)  # it may have been forgotten meanwhile
            self._open[gate_id] = entry
            entry.state, entry.answer, entry.claim = State.WAITING, None, None
            entry.future = Future()
            entry.future.set_running_or_notify_cancel()
            told = self._add_news("published", entry)
            snapshot = entry.snapshot()
        claim.set()
        tell(told)
        return snapshot

    def set_mask(self, gate_id: str, index: int, png: bytes) -> Snapshot:
        """Keep a mask for one image of a gate; empty bytes clear it. Masks come with the answer.

        Raises:
            UnknownGate, BadAnswer: no such gate, no such image.
            GateClosed, TooLate: the gate ended, or was decided, before.
        """
        with self._lock:
            entry = self._entry(gate_id)
            entry.gate.index(index)
            if entry.state in (State.EXPIRED, State.WITHDRAWN):
                raise closed(entry.snapshot())
            if not entry.state.open or entry.claim is not None:
                raise TooLate(f"gate {entry.gate.title!r} was decided before the mask was saved")
            entry.masks[index] = png
            entry.masked = tuple(sorted(i for i, saved in entry.masks.items() if saved))
            told = self._add_news("masked", entry)
            snapshot = entry.snapshot()
        tell(told)
        return snapshot

    # -- looking

    def get(self, gate_id: str) -> Snapshot:
        """One gate, open or finished. Raises `UnknownGate`."""
        with self._lock:
            return self._entry(gate_id).snapshot()

    def pictures(self, gate_id: str) -> P | None:
        """What the publisher handed over; None once it is no longer kept."""
        with self._lock:
            return self._entry(gate_id).pictures

    def mask(self, gate_id: str, index: int) -> bytes | None:
        """The mask saved for an image; None if there is none, empty bytes if it was cleared."""
        with self._lock:
            entry = self._entry(gate_id)
            return entry.masks.get(entry.gate.index(index))

    def pending(
        self,
        limit: int | None = None,
        after: int = 0,
        among: Selection = ALL,
    ) -> list[Snapshot]:
        """Open gates, oldest first: at most ``limit`` of those whose ``seq`` is above ``after``."""
        with self._lock:
            entries = [
                entry
                for entry in self._open.values()
                if entry.seq > after and among.covers(entry.gate)
            ]
            entries.sort(key=lambda entry: entry.seq)  # an undo puts an old gate at the end
            return [entry.snapshot() for entry in entries[:limit]]

    def finished(
        self,
        limit: int | None = None,
        before: int | None = None,
        among: Selection = ALL,
    ) -> list[Snapshot]:
        """Finished gates, newest first: at most ``limit`` whose ``ended`` is below ``before``."""
        found: list[Snapshot] = []
        with self._lock:
            for entry in reversed(self._finished.values()):
                if limit is not None and len(found) >= limit:
                    break
                if before is not None and entry.ended >= before:
                    continue
                decision = entry.answer.decision if entry.answer else None
                if among.covers(entry.gate, decision):
                    found.append(entry.snapshot())
        return found

    def count(self, among: Selection = ALL) -> int:
        """How many gates wait for a person."""
        with self._lock:
            if among == ALL:
                return len(self._open)
            return sum(among.covers(entry.gate) for entry in self._open.values())

    def answered(self, links: Collection[str]) -> dict[str, int]:
        """How many gates have an answer that came through each of these share links."""
        with self._lock:
            answers = [entry.answer for entry in self._finished.values() if entry.answer]
        return dict(Counter(a.decision.link for a in answers if a.decision.link in links))

    def subscribe(
        self, notify: Callable[[], None] = lambda: None, *, limit: int = KEPT_NEWS
    ) -> Subscription:
        """Be told of everything from now on; see `Subscription`. Close it when done."""
        return self._feed.subscribe(notify, limit=limit)

    @property
    def listeners(self) -> int:
        """How many subscriptions are open."""
        return len(self._feed)

    # -- inside

    def _end(
        self, gate_id: str, state: State, decision: Decision | None, reason: str = ""
    ) -> Verdict:
        """The only way a gate ends. ``decision`` is None when it is withdrawn."""
        while True:
            with self._lock:
                entry = self._entry(gate_id)
                if decision is not None and digest_of(decision) in entry.clicks:
                    return again(entry.snapshot(), decision)
                if not entry.state.open:
                    return second(entry.snapshot(), decision)
                if entry.claim is None:
                    entry.claim = claim = threading.Event()
                    answer = Answer(decision, dict(entry.masks)) if decision else None
                    break
                other = entry.claim
            # Somebody else's answer is being recorded: wait to learn whether it holds.
            other.wait()
        if answer is not None and entry.record is not None:
            self._carry_out(entry.record, answer, entry, claim, "not recorded, the gate waits")
        with self._lock:
            entry.state, entry.answer, entry.claim = state, answer, None
            entry.reason = reason
            if decision is not None and decision.key:
                entry.clicks |= {digest_of(decision)}
            self._seq += 1
            entry.ended = self._seq
            del self._open[gate_id]
            self._finished[gate_id] = entry
            self._with_pictures.append(entry)
            dropped = self._forget()
            ended = state in (State.WITHDRAWN, State.EXPIRED)
            told = self._add_news("withdrawn" if ended else "decided", entry)
            future = entry.future
        claim.set()
        if answer is not None and answer.decision.route is not None:
            future.set_result(answer)
        else:
            future.set_exception(GateCancelled(state, reason or "stopped by a person"))
        tell(told)
        del dropped  # pictures are freed here, not under the lock
        return Verdict(Outcome.WON, decision or Decision(None))

    def _carry_out(
        self,
        action: Callable[[Answer], T],
        answer: Answer,
        entry: _Entry[P],
        claim: threading.Event,
        failure: str,
    ) -> T:
        """Make an answer durable, or undo that; if that fails, give the claim back and raise."""
        try:
            return action(answer)
        except BaseException as error:
            with self._lock:
                entry.claim = None
            claim.set()
            if isinstance(error, ImageGateError) or not isinstance(error, Exception):
                raise
            report_failure(f"gate {entry.gate.title!r}: {failure}", error)
            raise NotRecorded(f"{failure}: {error}") from error

    def _entry(self, gate_id: str) -> _Entry[P]:
        entry = self._open.get(gate_id) or self._finished.get(gate_id)
        if entry is None and self.incomplete:
            raise StoreError(self.incomplete, passing=True)
        if entry is None:
            raise UnknownGate(f"no gate has the id {gate_id!r}")
        return entry

    def _forget(self) -> list[object]:
        """Drop what was kept long enough, and hand it to the caller to be freed."""
        dropped: list[object] = []
        while len(self._with_pictures) > KEPT_PICTURES:
            entry = self._with_pictures.popleft()
            kept = self._finished.get(entry.gate.id)
            if not entry.gate.undoable and kept is entry:  # an undo needs them
                dropped.append(entry)
                self._finished[entry.gate.id] = entry.without_pictures()
        while len(self._finished) > self._kept:
            dropped.append(self._finished.popitem(last=False))
        return dropped

    def _add_news(self, kind: str, entry: _Entry[P]) -> list[Subscription]:
        entry.version += 1
        return self._feed.add(News(kind, entry.snapshot()))
