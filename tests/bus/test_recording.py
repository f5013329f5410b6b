"""What only the memory of one process does: record and revoke by hooks, and forget."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from imagegate.core.model import (
    Answer,
    NotRecorded,
    Outcome,
    Snapshot,
    State,
    TooLate,
    UnknownGate,
)
from imagegate.gate_bus import GateBus, Ticket
from imagegate.storage import memory
from imagegate.storage.memory import MemoryStorage
from tests.support.racing import Held, Later, alone, races, together
from tests.support.stored import PATIENCE, PLAIN, gate

# -- recording


@alone
def test_an_answer_counts_only_once_it_is_recorded(bus: GateBus[Any]) -> None:
    """Until the record hook returns the waiter waits, the gate is open, and no mask is taken."""
    held = Held()
    ticket = bus.publish(gate(), PLAIN, record=held)
    first = Later(lambda: bus.decide(ticket.gate.id, 1))
    assert held.entered.wait(PATIENCE)
    assert bus.get(ticket.gate.id).state is State.WAITING
    assert not ticket.future.done()
    with pytest.raises(TooLate):
        bus.set_mask(ticket.gate.id, 0, b"x")
    held.release.set()
    assert first.result().outcome is Outcome.WON
    assert ticket.wait(0) is held.answers[0]


@alone
def test_a_rival_waits_for_the_record(bus: GateBus[Any]) -> None:
    """An answer that comes while another is recorded learns how that went, and loses."""
    held = Held()
    ticket = bus.publish(gate(), PLAIN, record=held)
    first = Later(lambda: bus.decide(ticket.gate.id, 1, by="Ann"))
    assert held.entered.wait(PATIENCE)
    second = Later(lambda: bus.decide(ticket.gate.id, 2, by="Bob"))
    held.release.set()
    assert first.result().outcome is Outcome.WON
    assert second.result().outcome is Outcome.LOST
    assert second.result().decision.by == "Ann"
    assert len(held.answers) == 1


@alone
def test_a_failed_record_leaves_the_gate_waiting(bus: GateBus[Any]) -> None:
    """When recording fails the answer does not count, and its giver is told why."""
    held = Held(OSError("disk full"))
    held.release.set()
    ticket = bus.publish(gate(), PLAIN, record=held)
    with pytest.raises(NotRecorded, match="disk full"):
        bus.decide(ticket.gate.id, 1)
    assert bus.get(ticket.gate.id).state is State.WAITING
    assert bus.get(ticket.gate.id).decision is None
    assert bus.count() == 1
    assert bus.decide(ticket.gate.id, 2).outcome is Outcome.WON
    assert ticket.wait(0).decision.route == 2


@alone
def test_a_rival_that_waited_has_its_turn_when_recording_fails(bus: GateBus[Any]) -> None:
    """An answer that waited for another one's record gets its own turn when that failed."""
    held = Held(OSError("disk full"), None)
    ticket = bus.publish(gate(), PLAIN, record=held)
    first = Later(lambda: bus.decide(ticket.gate.id, 1, by="Ann"))
    assert held.entered.wait(PATIENCE)
    rivals = [Later(partial(bus.decide, ticket.gate.id, 2, by=f"Bob {n}")) for n in range(3)]
    held.release.set()
    assert isinstance(first.result(), NotRecorded)
    outcomes = sorted(rival.result().outcome.value for rival in rivals)
    assert outcomes == ["lost", "lost", "won"]
    assert ticket.wait(0).decision.route == 2


@alone
def test_the_hook_may_use_the_bus(bus: GateBus[Any]) -> None:
    """Recording happens outside the lock: the hook may ask the bus anything."""
    seen: list[Any] = []

    def record(_: Answer) -> None:
        seen.append((bus.get(one.id).state, bus.count(), bus.pending(), bus.finished()))
        bus.decide(other.gate.id, 1)

    one = gate()
    other = bus.publish(gate(), PLAIN)
    bus.publish(one, PLAIN, record=record)
    assert Later(lambda: bus.decide(one.id, 1)).result().outcome is Outcome.WON
    assert seen[0][:2] == (State.WAITING, 2)
    assert bus.get(other.gate.id).state is State.DECIDED


@alone
def test_a_withdrawal_is_not_recorded(bus: GateBus[Any]) -> None:
    """Only answers are recorded."""
    recorded: list[Answer] = []
    ticket = bus.publish(gate(), PLAIN, record=recorded.append)
    ticket.withdraw("over")
    assert recorded == []


@alone
def test_no_call_back_happens_under_the_lock(bus: GateBus[Any]) -> None:
    """Listeners, hooks and a future's callbacks may all use the bus."""
    used: list[str] = []
    storage = bus.storage
    assert isinstance(storage, MemoryStorage)

    def use(name: str) -> None:
        assert not storage._lock.locked(), name
        bus.count()
        used.append(name)

    with bus.subscribe(lambda: use("notify")):
        one = gate(undoable=True)
        ticket = bus.publish(
            one, None, record=lambda _: use("record"), revoke=lambda _: use("revoke")
        )
        ticket.future.add_done_callback(lambda _: use("future"))
        bus.set_mask(one.id, 0, b"x")
        bus.decide(one.id, 1)
        bus.undo(one.id)
        bus.withdraw(one.id, "over")
    assert {"notify", "record", "revoke", "future"} == set(used)


# -- undo


def undoable(bus: GateBus[Any], revoke: Callable[[Answer], None], **given: Any) -> Ticket:
    return bus.publish(gate(undoable=True, **given), "pictures", revoke=revoke)


@alone
def test_undo_asks_again(bus: GateBus[Any]) -> None:
    """An undone gate waits again in its old place, with its masks, for a new answer."""
    revoked: list[Answer] = []
    ticket = undoable(bus, revoked.append)
    later = bus.publish(gate(), PLAIN)
    bus.set_mask(ticket.gate.id, 0, b"mask")
    bus.decide(ticket.gate.id, 1, by="Ann")
    first = ticket.wait(0)
    snapshot = bus.undo(ticket.gate.id)
    assert revoked == [first]
    assert (snapshot.state, snapshot.decision, snapshot.masked) == (State.WAITING, None, (0,))
    assert [s.gate.id for s in bus.pending()] == [ticket.gate.id, later.gate.id]
    assert bus.finished() == []
    assert not ticket.future.done()
    assert bus.decide(ticket.gate.id, 2, by="Ann").outcome is Outcome.WON
    assert ticket.wait(0).decision.route == 2
    assert ticket.wait(0).masks == {0: b"mask"}


@alone
def test_undo_comes_too_late(bus: GateBus[Any]) -> None:
    """What is not decided, or cannot be taken back, is not undone."""
    once = bus.publish(gate(), PLAIN)
    with pytest.raises(TooLate, match="waiting"):
        bus.undo(once.gate.id)
    bus.decide(once.gate.id, 1)
    with pytest.raises(TooLate, match="too late"):
        bus.undo(once.gate.id)
    stopped = undoable(bus, lambda _: None)
    bus.stop(stopped.gate.id)
    with pytest.raises(TooLate, match="stopped"):
        bus.undo(stopped.gate.id)


@alone
def test_a_failed_undo_leaves_the_decision(bus: GateBus[Any]) -> None:
    """When taking back fails the decision stands, and can be taken back later."""
    failures: list[Exception] = [OSError("gone")]

    def revoke(_: Answer) -> None:
        if failures:
            raise failures.pop()

    ticket = undoable(bus, revoke)
    bus.decide(ticket.gate.id, 1)
    with pytest.raises(NotRecorded, match="gone"):
        bus.undo(ticket.gate.id)
    assert bus.get(ticket.gate.id).state is State.DECIDED
    assert bus.decide(ticket.gate.id, 1).outcome is Outcome.REPLAY
    assert bus.undo(ticket.gate.id).state is State.WAITING


@alone
def test_two_undos_at_once_take_back_once(bus: GateBus[Any]) -> None:
    """Of undos at the same moment one does it; the others learn that the gate waits."""
    for _ in races(bus):
        revoked: list[Answer] = []
        ticket = undoable(bus, revoked.append)
        bus.decide(ticket.gate.id, 1)
        results = together(*[lambda i=ticket.gate.id: bus.undo(i)] * 4)
        assert sum(isinstance(r, Snapshot) for r in results) == 1
        assert sum(isinstance(r, TooLate) for r in results) == 3
        assert len(revoked) == 1


def test_an_undone_gate_outlives_its_record_limit() -> None:
    """A gate that was undone and waits is never forgotten, however many others finish."""
    bus: GateBus[Any] = GateBus(MemoryStorage(kept=3))
    ticket = undoable(bus, lambda _: None)
    bus.decide(ticket.gate.id, 1)
    bus.undo(ticket.gate.id)
    for _ in range(memory.KEPT_PICTURES + 5):
        bus.decide(bus.publish(gate(), PLAIN).gate.id, 1)
    assert bus.get(ticket.gate.id).state is State.WAITING
    assert bus.pictures(ticket.gate.id) == "pictures"


@alone
def test_undo_of_a_gate_being_forgotten(bus: GateBus[Any]) -> None:
    """An undo survives that its gate falls out of the kept ones while it is being revoked."""
    small: GateBus[Any] = GateBus(MemoryStorage(kept=1))

    def revoke(_: Answer) -> None:
        for _number in range(3):
            small.decide(small.publish(gate(), PLAIN).gate.id, 1)

    ticket = undoable(small, revoke)
    small.decide(ticket.gate.id, 1)
    assert small.undo(ticket.gate.id).state is State.WAITING
    assert small.decide(ticket.gate.id, 2).outcome is Outcome.WON


# -- what is kept


def test_finished_gates_are_kept_within_bounds() -> None:
    """Only so many finished gates are remembered; the oldest go first."""
    bus: GateBus[Any] = GateBus(MemoryStorage(kept=3))
    ids = [bus.publish(gate(), PLAIN).gate.id for _ in range(5)]
    for i in ids:
        bus.decide(i, 1)
    assert [s.gate.id for s in bus.finished()] == ids[:1:-1]
    with pytest.raises(UnknownGate):
        bus.decide(ids[0], 1)


class Heavy:
    """Stands for pictures; counts as alive until freed."""


@alone
def test_pictures_of_finished_gates_are_let_go(bus: GateBus[Any]) -> None:
    """Pictures are kept for the newest finished gates only; the rest is freed."""
    alive: list[weakref.ref[Heavy]] = []
    ids = []
    for _ in range(memory.KEPT_PICTURES + 7):
        heavy = Heavy()
        alive.append(weakref.ref(heavy))
        ids.append(bus.publish(gate(), heavy).gate.id)
        del heavy
        bus.decide(ids[-1], 1)
    gc.collect()
    assert sum(ref() is not None for ref in alive) == memory.KEPT_PICTURES
    assert bus.pictures(ids[0]) is None
    assert bus.pictures(ids[-1]) is not None
    assert bus.get(ids[0]).state is State.DECIDED


@alone
def test_masks_of_finished_gates_are_let_go(bus: GateBus[Any]) -> None:
    """Masks, which can be megabytes each, are let go with the pictures; that there were some is
    remembered, and a waiter that is slow to look still gets its own.
    """
    one = bus.publish(gate(), PLAIN)
    bus.set_mask(one.gate.id, 0, b"mask")
    bus.decide(one.gate.id, 1)
    assert bus.mask(one.gate.id, 0) == b"mask"
    for _ in range(memory.KEPT_PICTURES):
        bus.decide(bus.publish(gate(), PLAIN).gate.id, 1)
    assert one.wait(0).masks == {0: b"mask"}
    assert bus.get(one.gate.id).masked == (0,)
    assert bus.mask(one.gate.id, 0) is None
    assert isinstance(bus.storage, MemoryStorage)
    kept = bus.storage._finished[one.gate.id]
    assert kept.answer is not None
    assert kept.answer.masks == {}
    assert bus.decide(one.gate.id, 1).outcome is Outcome.REPLAY
