"""The gates of one process, in memory. Standard library only."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from ..core.bus import (
    NO_HOOKS,
    Change,
    Hooks,
    Listener,
    cancelled,
    digest_of,
    kind_of_change,
)
from ..core.failures import report_failure
from ..core.model import (
    ALL,
    Answer,
    Decision,
    Gate,
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
)
from .rules import again, check_undo, closed, second

P = TypeVar("P")
T = TypeVar("T")

KEPT_GATES = 10_000
"""Finished gates whose record is kept."""
KEPT_PICTURES = 100
"""Finished gates whose pictures and masks are kept too."""


@dataclass
class _Entry(Generic[P]):
    """A gate and all that changes about it. Guarded by the storage's lock."""

    gate: Gate
    seq: int
    pictures: P | None
    hooks: Hooks
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
        """A finished entry as a mere record."""
        answer = Answer(self.answer.decision) if self.answer else None
        return replace(self, pictures=None, masks={}, answer=answer, hooks=NO_HOOKS)


class MemoryStorage(Generic[P]):
    """Gates that live as long as their process; see `GateStorage`. Thread-safe.

    Args:
        kept: finished gates remembered (their record, not their pictures).
    """

    def __init__(self, *, kept: int = KEPT_GATES) -> None:
        # Guards everything below, and all entries. Nobody is called, and nothing is read or
        # written, while it is held.
        self._lock = threading.Lock()
        self._open: dict[str, _Entry[P]] = {}
        self._finished: OrderedDict[str, _Entry[P]] = OrderedDict()
        self._with_pictures: deque[_Entry[P]] = deque()  # finished, oldest first
        self._kept = kept
        self._seq = 0
        self._listener = Listener()
        self.incomplete = ""
        """While not all gates were added that are going to be: what to say of unknown ones."""

    def listen(self, listener: Listener) -> None:
        """See `GateStorage.listen`."""
        self._listener = listener

    # -- asking and answering

    def add(self, gate: Gate, pictures: P, hooks: Hooks = NO_HOOKS) -> Gate:
        """Add a gate; its id must be new, or that of a gate that was withdrawn."""
        with self._lock:
            before = self._finished.get(gate.id)
            if gate.id in self._open or (before and before.state is not State.WITHDRAWN):
                raise ValueError(f"gate {gate.id} is published already")
            self._seq += 1
            entry = _Entry(gate, self._seq, pictures, hooks, clicks=hooks.clicks)
            if before is not None:
                entry.version, entry.masks, entry.masked = (
                    before.version, before.masks, before.masked,
                )  # fmt: skip
                entry.clicks |= before.clicks
                del self._finished[gate.id]
            self._open[gate.id] = entry
            entry.version += 1
            snapshot = entry.snapshot()
        self._changed("published", snapshot)
        return gate

    def restore(self, gate: Gate, decision: Decision, pictures: P, hooks: Hooks) -> None:
        """Add a gate that was decided earlier; the listener does not hear of it.

        Args:
            decision: the answer that stands. The latest is added last, and all before any gate is
                decided here.
        """
        with self._lock:
            self._seq += 1
            self._finished[gate.id] = _Entry(
                gate, self._seq, pictures, hooks, State.DECIDED,
                version=1, answer=Answer(decision), ended=self._seq, clicks=hooks.clicks,
            )  # fmt: skip

    def remark(self, gate_id: str, reason: str) -> None:
        """Say something about a finished gate to whoever looks at it from now on."""
        with self._lock:
            self._entry(gate_id).reason = reason

    def end(
        self, gate_id: str, state: State, decision: Decision | None, reason: str = ""
    ) -> Verdict:
        """The only way a gate ends; see `GateStorage.end`."""
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
        if answer is not None and entry.hooks.record is not None:
            self._carry_out(
                entry.hooks.record, answer, entry, claim, "not recorded, the gate waits"
            )
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
            entry.version += 1
            snapshot = entry.snapshot()
        claim.set()
        routed = answer is not None and answer.decision.route is not None
        self._changed(kind_of_change(snapshot), snapshot, answer if routed else cancelled(snapshot))
        del dropped  # pictures are freed here, not under the lock
        return Verdict(Outcome.WON, decision or Decision(None))

    def undo(self, gate_id: str, link: str = "") -> Snapshot:
        """Take an answer back: the gate waits again, with the masks it had."""
        while True:
            with self._lock:
                entry = self._entry(gate_id)
                if entry.claim is None:
                    check_undo(entry.snapshot(), link)
                    assert entry.answer is not None
                    if entry.hooks.revoke is None:
                        raise TooLate("too late: nobody can take this decision back")
                    entry.claim = claim = threading.Event()
                    answer, revoke = entry.answer, entry.hooks.revoke
                    break
                other = entry.claim
            other.wait()
        gate = self._carry_out(revoke, answer, entry, claim, "not taken back, the decision stands")
        with self._lock:
            entry.gate, entry.reason = gate or entry.gate, ""
            self._finished.pop(gate_id, None)  # it may have been forgotten meanwhile
            self._open[gate_id] = entry
            entry.state, entry.answer, entry.claim = State.WAITING, None, None
            entry.version += 1
            snapshot = entry.snapshot()
        claim.set()
        self._changed("published", snapshot)
        return snapshot

    def set_mask(self, gate_id: str, index: int, png: bytes) -> Snapshot:
        """Keep a mask; see `GateStorage.set_mask`."""
        with self._lock:
            entry = self._entry(gate_id)
            entry.gate.index(index)
            if entry.state in (State.EXPIRED, State.WITHDRAWN):
                raise closed(entry.snapshot())
            if not entry.state.open or entry.claim is not None:
                raise TooLate(f"gate {entry.gate.title!r} was decided before the mask was saved")
            entry.masks[index] = png
            entry.masked = tuple(sorted(i for i, saved in entry.masks.items() if saved))
            entry.version += 1
            snapshot = entry.snapshot()
        self._changed("masked", snapshot)
        return snapshot

    # -- looking

    def get(self, gate_id: str) -> Snapshot:
        """See `GateStorage.get`."""
        with self._lock:
            return self._entry(gate_id).snapshot()

    def pictures(self, gate_id: str) -> P | None:
        """See `GateStorage.pictures`."""
        with self._lock:
            return self._entry(gate_id).pictures

    def mask(self, gate_id: str, index: int) -> bytes | None:
        """See `GateStorage.mask`."""
        with self._lock:
            entry = self._entry(gate_id)
            return entry.masks.get(entry.gate.index(index))

    def pending(self, limit: int | None, after: int, among: Selection) -> list[Snapshot]:
        """See `GateStorage.pending`."""
        with self._lock:
            entries = [
                entry
                for entry in self._open.values()
                if entry.seq > after and among.covers(entry.gate)
            ]
            entries.sort(key=lambda entry: entry.seq)  # an undo puts an old gate at the end
            return [entry.snapshot() for entry in entries[:limit]]

    def finished(self, limit: int | None, before: int | None, among: Selection) -> list[Snapshot]:
        """See `GateStorage.finished`."""
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

    def count(self, among: Selection) -> int:
        """See `GateStorage.count`."""
        with self._lock:
            if among == ALL:
                return len(self._open)
            return sum(among.covers(entry.gate) for entry in self._open.values())

    def answered(self, links: Collection[str]) -> dict[str, int]:
        """See `GateStorage.answered`."""
        with self._lock:
            answers = [entry.answer for entry in self._finished.values() if entry.answer]
        return dict(Counter(a.decision.link for a in answers if a.decision.link in links))

    # -- inside

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

    def _changed(
        self, kind: str, gate: Snapshot, result: Answer | ImageGateError | None = None
    ) -> None:
        self._listener.changed([Change(kind, gate, result)])
