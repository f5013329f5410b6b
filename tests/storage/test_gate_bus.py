"""The bus: who wins, who is told, and that nothing is lost. Races start at a barrier."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from imagegate.core.model import (
    Answer,
    BadAnswer,
    Decision,
    Gate,
    GateCancelled,
    GateClosed,
    NotRecorded,
    Outcome,
    Selection,
    Snapshot,
    State,
    TooLate,
    UnknownGate,
    Verdict,
)
from imagegate.gate_bus import GateBus, Ticket
from imagegate.storage import memory
from imagegate.storage.memory import MemoryStorage
from tests.conftest import Watch, new_store
from tests.support.stored import PATIENCE, PLAIN, gate

alone = pytest.mark.parametrize("bus", ["alone"], indirect=True)
"""For what only the bus of one process does."""


@pytest.fixture(params=["alone", "memory", "sqlite", "postgresql"])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The bus of one process, and those over each kind of store."""
    if request.param == "alone":
        yield GateBus()
        return
    with new_store(request, request.param, tmp_path) as store:
        yield store.bus()


def together(*works: Callable[[], Any]) -> list[Any]:
    """Run all of them at the same moment; what each returned, or raised."""
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)

    def run(i: int, work: Callable[[], Any]) -> None:
        barrier.wait(PATIENCE)
        try:
            results[i] = work()
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    return results


class Held:
    """A record hook that stops in the middle until it is let on; it may then fail."""

    def __init__(self, *failures: Exception | None) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.failures = list(failures)
        self.answers: list[Answer] = []

    def __call__(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.entered.set()
        assert self.release.wait(PATIENCE)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure


class Later:
    """Work in another thread, whose outcome is asked for later."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.value: Any = None
        self._work = work
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._work()
        except Exception as error:
            self.value = error

    def result(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it still waits"
        return self.value


# -- answers


def test_an_answer_reaches_the_waiter(bus: GateBus[Any]) -> None:
    """The waiter gets the decision, with route, label, person and note."""
    ticket = bus.publish(gate(), PLAIN)
    waiter = Later(ticket.wait)
    verdict = bus.decide(ticket.gate.id, "fix", by=" Ann ", note=" sharp ")
    answer = waiter.result()
    assert verdict.outcome is Outcome.WON
    assert answer.decision == verdict.decision
    said = answer.decision
    assert (said.route, said.label, said.by, said.note) == (2, "fix", "Ann", "sharp")


def test_the_first_answer_wins(bus: GateBus[Any]) -> None:
    """A repetition by the same person is harmless; anybody else learns who was first."""
    ticket = bus.publish(gate(), PLAIN)
    first = bus.decide(ticket.gate.id, 1, by="Ann", note="a")
    again = bus.decide(ticket.gate.id, "keep", by="Ann", note="b")
    other = bus.decide(ticket.gate.id, 2, by="Ann")
    bob = bus.decide(ticket.gate.id, 1, by="Bob")
    stop = bus.stop(ticket.gate.id, by="Ann")
    assert [v.outcome for v in (first, again, other, bob, stop)] == [
        Outcome.WON, Outcome.REPLAY, Outcome.LOST, Outcome.LOST, Outcome.LOST
    ]  # fmt: skip
    assert {v.decision for v in (first, again, other, bob, stop)} == {first.decision}
    assert ticket.wait(0).decision == first.decision


def test_a_repeated_stop_is_a_replay(bus: GateBus[Any]) -> None:
    """Stop follows the same rules; the waiter learns that it was stopped."""
    ticket = bus.publish(gate(), PLAIN)
    assert bus.stop(ticket.gate.id, by="Ann").outcome is Outcome.WON
    assert bus.stop(ticket.gate.id, by="Ann").outcome is Outcome.REPLAY
    assert bus.stop(ticket.gate.id, by="Bob").outcome is Outcome.LOST
    assert bus.decide(ticket.gate.id, 1, by="Ann").outcome is Outcome.LOST
    with pytest.raises(GateCancelled) as caught:
        ticket.wait(0)
    assert caught.value.state is State.STOPPED


def test_a_withdrawn_gate_is_closed(bus: GateBus[Any]) -> None:
    """An answer that comes after the gate was withdrawn learns that, and why."""
    ticket = bus.publish(gate(), PLAIN)
    assert ticket.withdraw("its prompt ended") is True
    assert ticket.withdraw("again") is False
    for late in (lambda: bus.decide(ticket.gate.id, 1), lambda: bus.stop(ticket.gate.id)):
        with pytest.raises(GateClosed, match="withdrawn: its prompt ended"):
            late()
    with pytest.raises(GateCancelled) as caught:
        ticket.wait(0)
    assert caught.value.state is State.WITHDRAWN


def test_withdrawing_an_answered_gate_changes_nothing(bus: GateBus[Any]) -> None:
    """A gate that was answered cannot be withdrawn."""
    ticket = bus.publish(gate(), PLAIN)
    bus.decide(ticket.gate.id, 1)
    assert ticket.withdraw("its prompt ended") is False
    assert bus.get(ticket.gate.id).state is State.DECIDED
    assert bus.get(ticket.gate.id).reason == ""


@pytest.mark.parametrize("route", [None, 2])
def test_expiry_follows_the_gates_own_rule(bus: GateBus[Any], route: int | None) -> None:
    """An expired gate takes the route it named, or stops; a later answer is told so."""
    ticket = bus.publish(gate(on_timeout=route), PLAIN)
    bus.expire(ticket.gate.id)
    bus.expire(ticket.gate.id)
    if route:
        assert ticket.wait(0).decision.label == "fix"
    else:
        with pytest.raises(GateCancelled) as caught:
            ticket.wait(0)
        assert caught.value.state is State.EXPIRED
    with pytest.raises(GateClosed, match="expired: nobody answered in time"):
        bus.decide(ticket.gate.id, 1)


def test_an_answer_before_the_expiry_wins(bus: GateBus[Any]) -> None:
    """Expiry of a gate that was answered does nothing."""
    ticket = bus.publish(gate(on_timeout=2), PLAIN)
    bus.decide(ticket.gate.id, 1, by="Ann")
    bus.expire(ticket.gate.id)
    assert ticket.wait(0).decision.by == "Ann"
    assert bus.get(ticket.gate.id).state is State.DECIDED


def test_an_unknown_gate(bus: GateBus[Any]) -> None:
    """Every call about a gate that never was says so."""
    calls: list[Callable[[], Any]] = [
        lambda: bus.decide("nobody", 1),
        lambda: bus.stop("nobody"),
        lambda: bus.undo("nobody"),
        lambda: bus.expire("nobody"),
        lambda: bus.set_mask("nobody", 0, b""),
        lambda: bus.mask("nobody", 0),
        lambda: bus.get("nobody"),
        lambda: bus.pictures("nobody"),
    ]
    for call in calls:
        with pytest.raises(UnknownGate, match="'nobody'"):
            call()
    assert bus.withdraw("nobody", "x") is False


@pytest.mark.parametrize(
    "answer",
    [
        lambda bus, i: bus.decide(i, 3),
        lambda bus, i: bus.decide(i, "none"),
        lambda bus, i: bus.decide(i, 1, by="x" * 101),
        lambda bus, i: bus.decide(i, 1, note="x" * 2001),
        lambda bus, i: bus.stop(i, note="x" * 2001),
        lambda bus, i: bus.set_mask(i, 1, b"x"),
    ],
)
def test_a_bad_answer_leaves_the_gate_as_it_was(
    bus: GateBus[Any], answer: Callable[[GateBus[Any], str], Any]
) -> None:
    """What a gate cannot take does not touch it."""
    ticket = bus.publish(gate(), PLAIN)
    before = bus.get(ticket.gate.id)
    with pytest.raises(BadAnswer):
        answer(bus, ticket.gate.id)
    assert bus.get(ticket.gate.id) == before


def test_an_id_is_published_once(bus: GateBus[Any]) -> None:
    """The same id cannot be asked again, neither while it waits nor afterwards."""
    one = gate()
    bus.publish(one, PLAIN)
    with pytest.raises(ValueError, match="already"):
        bus.publish(one, PLAIN)
    bus.decide(one.id, 1)
    with pytest.raises(ValueError, match="already"):
        bus.publish(one, PLAIN)


def test_a_waiter_cannot_cancel(bus: GateBus[Any]) -> None:
    """The ticket's future cannot be cancelled, so an answer can always be given."""
    ticket = bus.publish(gate(), PLAIN)
    assert ticket.future.cancel() is False
    assert bus.decide(ticket.gate.id, 1).outcome is Outcome.WON


def test_wait_gives_up_but_the_gate_goes_on(bus: GateBus[Any]) -> None:
    """A wait that times out raises TimeoutError; the gate still takes an answer."""
    ticket = bus.publish(gate(title="Sky"), PLAIN)
    with pytest.raises(TimeoutError, match="Sky"):
        ticket.wait(0.001)
    bus.decide(ticket.gate.id, 1)
    assert ticket.wait(0.001).decision.route == 1


def test_withdraw_prompt_takes_only_its_own(bus: GateBus[Any]) -> None:
    """All open gates of a prompt are withdrawn; answered ones and other prompts' are not."""
    mine = [bus.publish(gate(prompt_id="a"), PLAIN) for _ in range(3)]
    other = bus.publish(gate(prompt_id="b"), PLAIN)
    bus.decide(mine[0].gate.id, 1)
    assert bus.withdraw_prompt("a", "over") == 2
    assert bus.withdraw_prompt("a", "over") == 0
    states = [bus.get(ticket.gate.id).state for ticket in (*mine, other)]
    assert states == [State.DECIDED, State.WITHDRAWN, State.WITHDRAWN, State.WAITING]


def test_stopping_one_never_touches_another(bus: GateBus[Any]) -> None:
    """Stop ends one gate, not its neighbours of the same node and prompt."""
    one, two = (bus.publish(gate(prompt_id="a", node_id="1"), PLAIN) for _ in range(2))
    bus.stop(one.gate.id)
    assert bus.get(two.gate.id).state is State.WAITING
    assert not two.future.done()


# -- races

RACES = 60


def races(bus: Any) -> range:
    """How often a race is run; every round in a store is several transactions."""
    return range(RACES if isinstance(bus.storage, MemoryStorage) else 10)


@pytest.mark.parametrize(
    "rival",
    [
        lambda bus, i, n: bus.decide(i, 2, by=f"rival {n}"),
        lambda bus, i, n: bus.stop(i, by=f"rival {n}"),
        lambda bus, i, n: bus.expire(i),
        lambda bus, i, n: bus.withdraw(i, "its prompt ended"),
    ],
    ids=["decide", "stop", "expire", "withdraw"],
)
def test_one_of_many_wins(bus: GateBus[Any], rival: Callable[..., Any]) -> None:
    """Of answers at the same moment exactly one wins, and the waiter gets that one."""
    recorded: list[Answer] = []
    records: Any = {"record": recorded.append} if isinstance(bus.storage, MemoryStorage) else {}
    for _ in races(bus):
        recorded.clear()
        ticket = bus.publish(gate(on_timeout=2), PLAIN, **records)
        i = ticket.gate.id
        works: list[Callable[[], Any]] = []
        for n in range(3):
            works += [
                partial(bus.decide, i, 1, by=f"person {n}"),
                partial(rival, bus, i, n),
            ]
        results = together(*works)
        won: list[Any] = [r for r in results if isinstance(r, Verdict) and r.outcome is Outcome.WON]
        won += [r for r in results if r is True]
        end = bus.get(i)
        if end.state is State.EXPIRED:  # expire says nothing
            won.append(end)
        assert len(won) == 1
        assert all(r is None or isinstance(r, (Verdict, GateClosed, bool)) for r in results)
        assert len(recorded) == (bool(records) and end.state is not State.WITHDRAWN)
        lost = [r.decision for r in results if isinstance(r, Verdict)]
        assert set(lost) <= {end.decision}
        if end.decision is not None and end.decision.route is not None:
            assert ticket.wait(0).decision == end.decision
        else:
            with pytest.raises(GateCancelled) as caught:
                ticket.wait(0)
            assert caught.value.state is end.state


def test_masks_come_with_the_answer(bus: GateBus[Any]) -> None:
    """A mask saved in the moment of the answer is either in it or refused, never half."""
    for _ in races(bus):
        ticket = bus.publish(gate(), PLAIN)
        i = ticket.gate.id
        saved, verdict = together(partial(bus.set_mask, i, 0, b"mask"), partial(bus.decide, i, 1))
        assert verdict.outcome is Outcome.WON
        if isinstance(saved, Snapshot):
            assert ticket.wait(0).masks == {0: b"mask"}
        else:
            assert isinstance(saved, TooLate)
            assert ticket.wait(0).masks == {}
            assert bus.mask(i, 0) is None


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
    for _ in range(RACES):
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


# -- looking


def test_pending_is_oldest_first_and_pages(bus: GateBus[Any]) -> None:
    """Open gates come oldest first; a page goes on after the last one's seq."""
    ids = [bus.publish(gate(node_id=str(n % 2)), PLAIN).gate.id for n in range(10)]
    bus.decide(ids.pop(4), 1)
    assert [s.gate.id for s in bus.pending()] == ids
    seen: list[str] = []
    after = 0
    while page := bus.pending(2, after):
        assert len(page) <= 2
        seen += [s.gate.id for s in page]
        after = page[-1].seq
    assert seen == ids
    assert bus.count() == 9


def test_pending_of_one_node(bus: GateBus[Any]) -> None:
    """The node filter shows that node's gates only, and counts them."""
    mine = bus.publish(gate(node_id="4:2"), PLAIN)
    bus.publish(gate(node_id="4"), PLAIN)
    assert [s.gate.id for s in bus.pending(among=Selection(node_id="4:2"))] == [mine.gate.id]
    assert bus.count(Selection(node_id="4:2")) == 1
    assert bus.count(Selection(node_id="42")) == 0


def test_finished_is_newest_first_and_pages(bus: GateBus[Any]) -> None:
    """Finished gates come in the order they ended, the newest first, page by page."""
    tickets = [bus.publish(gate(), PLAIN) for _ in range(5)]
    order = [tickets[i].gate.id for i in (3, 0, 4, 1)]
    for i in order:
        bus.decide(i, 1)
    first = bus.finished(3)
    rest = bus.finished(3, before=first[-1].ended)
    assert [s.gate.id for s in first + rest] == order[::-1]


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


# -- news


def test_news_come_in_order(bus: GateBus[Any]) -> None:
    """A listener is told what happened, in order, each with the gate as it was then."""
    with bus.subscribe() as news:
        a, b = bus.publish(gate(title="a"), PLAIN), bus.publish(gate(title="b"), PLAIN)
        bus.set_mask(a.gate.id, 0, b"x")
        bus.decide(a.gate.id, 1)
        bus.stop(b.gate.id)
        c = bus.publish(gate(title="c"), PLAIN)
        c.withdraw("over")
        told, missed = news.drain()
    assert not missed
    assert [(n.kind, n.gate.gate.title, n.gate.state.value) for n in told] == [
        ("published", "a", "waiting"),
        ("published", "b", "waiting"),
        ("masked", "a", "waiting"),
        ("decided", "a", "decided"),
        ("decided", "b", "stopped"),
        ("published", "c", "waiting"),
        ("withdrawn", "c", "withdrawn"),
    ]
    assert [n.gate.version for n in told if n.gate.gate.title == "a"] == [1, 2, 3]


def test_news_are_drained_once(bus: GateBus[Any]) -> None:
    """Each piece of news is read once."""
    with bus.subscribe() as news:
        bus.publish(gate(), PLAIN)
        assert len(news.drain()[0]) == 1
        assert news.drain() == ([], False)


def test_a_slow_listener_loses_old_news_and_is_told(bus: GateBus[Any]) -> None:
    """A listener that does not read keeps the newest news, and learns once that some are lost."""
    with bus.subscribe(limit=3) as news:
        tickets = [bus.publish(gate(), PLAIN) for _ in range(5)]
        told, missed = news.drain()
        assert missed
        assert [n.gate.gate.id for n in told] == [t.gate.id for t in tickets[2:]]
        bus.decide(tickets[0].gate.id, 1)
        told, missed = news.drain()
        assert not missed
        assert [n.kind for n in told] == ["decided"]


def test_exactly_full_is_not_missed(bus: GateBus[Any]) -> None:
    """As many news as fit are not too many."""
    with bus.subscribe(limit=3) as news:
        for _ in range(3):
            bus.publish(gate(), PLAIN)
        assert news.drain()[1] is False


def test_a_raising_listener_harms_nobody(bus: GateBus[Any], caplog: Any) -> None:
    """A listener that raises neither stops the bus nor keeps others from being told."""
    told: list[str] = []

    def bad() -> None:
        raise RuntimeError("listener broke")

    with bus.subscribe(bad), bus.subscribe(lambda: told.append("x")), bus.subscribe(bad):
        ticket = bus.publish(gate(), PLAIN)
        assert bus.decide(ticket.gate.id, 1).outcome is Outcome.WON
    assert told == ["x", "x"]
    assert "listener broke" in caplog.text


def test_a_blocked_listener_does_not_hold_the_bus(bus: GateBus[Any]) -> None:
    """While one thread is stuck in a listener, others publish, answer and read."""
    stuck, release = threading.Event(), threading.Event()

    def block() -> None:
        if threading.current_thread() is not threading.main_thread():
            stuck.set()
            assert release.wait(PATIENCE)

    with bus.subscribe(block):
        slow = Later(lambda: bus.publish(gate(), PLAIN))
        assert stuck.wait(PATIENCE)
        ticket = bus.publish(gate(), PLAIN)
        assert bus.decide(ticket.gate.id, 1).outcome is Outcome.WON
        release.set()
        slow.result()


def test_a_closed_subscription_leaves_nothing(bus: GateBus[Any]) -> None:
    """After close there are no news, no calls, and nothing that holds the listener."""
    calls: list[int] = []
    subscriptions = [bus.subscribe(lambda: calls.append(1)) for _ in range(200)]
    refs = [weakref.ref(subscription) for subscription in subscriptions]
    for subscription in subscriptions:
        subscription.close()
        subscription.close()
    assert bus.listeners == 0
    bus.publish(gate(), PLAIN)
    assert calls == []
    del subscriptions, subscription
    gc.collect()
    assert not any(ref() for ref in refs)


def test_closing_within_a_notice_is_heeded(bus: GateBus[Any]) -> None:
    """A listener that another one closes while news go round is not called any more."""
    called: list[int] = []
    subscriptions: list[Any] = []

    def close_the_others(me: int) -> None:
        called.append(me)
        for n, subscription in enumerate(subscriptions):
            if n != me:
                subscription.close()

    subscriptions += [bus.subscribe(partial(close_the_others, n)) for n in range(3)]
    bus.publish(gate(), PLAIN)
    assert len(called) == 1


def test_a_subscription_and_the_list_together_miss_nothing(bus: GateBus[Any]) -> None:
    """Who subscribes first and reads the list then knows every gate, whatever happens meanwhile."""
    for _ in races(bus):
        mine: dict[str, Any] = {}

        def listen(mine: dict[str, Any] = mine) -> None:
            mine["news"] = bus.subscribe()
            mine["list"] = {s.gate.id for s in bus.pending()}

        _, ticket = together(listen, lambda: bus.publish(gate(), PLAIN))
        told = {n.gate.gate.id for n in mine["news"].drain()[0]}
        assert ticket.gate.id in mine["list"] | told
        mine["news"].close()


def test_watch_sees_the_end(bus: GateBus[Any], watch: Watch) -> None:
    """The tests' own way of waiting wakes up when the bus has news."""
    ticket = bus.publish(gate(), PLAIN)
    later = Later(lambda: bus.decide(ticket.gate.id, 1))
    watch.until(lambda: bus.get(ticket.gate.id).state is State.DECIDED)
    later.result()


# -- anything in any order


class AnyOrder(RuleBasedStateMachine):
    """Compares the bus with the plainest model of it: each gate open or with one end."""

    gates = Bundle("gates")

    def __init__(self) -> None:
        super().__init__()
        self.bus: GateBus[Any] = GateBus()
        self.news = self.bus.subscribe(limit=10_000)
        self.tickets: dict[str, Ticket] = {}
        self.ends: dict[str, tuple[State, Decision | None] | None] = {}
        self.masks: dict[str, dict[int, bytes]] = {}
        self.recorded: dict[str, list[Answer]] = {}
        self.fail_next: set[str] = set()
        self.undone = 0

    @rule(target=gates, timeout=st.sampled_from([None, 1, 2]), undoable=st.booleans())
    def publish(self, timeout: int | None, undoable: bool) -> Any:
        one = gate(on_timeout=timeout, undoable=undoable, batch=2)

        def record(answer: Answer) -> None:
            if one.id in self.fail_next:
                self.fail_next.discard(one.id)
                raise OSError("disk full")
            self.recorded[one.id].append(answer)

        def revoke(answer: Answer) -> None:
            assert self.recorded[one.id].pop() is answer

        self.recorded[one.id], self.masks[one.id], self.ends[one.id] = [], {}, None
        self.tickets[one.id] = self.bus.publish(one, one.id, record=record, revoke=revoke)
        return multiple(one)

    def end(
        self, one: Gate, state: State, act: Callable[[], Any], who: tuple[int | None, str]
    ) -> None:
        before = self.ends[one.id]
        if before is None:
            if one.id in self.fail_next:
                with pytest.raises(NotRecorded):
                    act()
                return
            verdict = act()
            assert verdict is None or verdict.outcome is Outcome.WON
            self.ends[one.id] = (state, self.bus.get(one.id).decision)
            return
        if before[0] in (State.WITHDRAWN, State.EXPIRED):
            if state is not State.EXPIRED:
                with pytest.raises(GateClosed):
                    act()
                return
            act()
            return
        verdict = act()
        if verdict is not None:
            first = before[1]
            assert first is not None
            same = (first.route, first.by) == who
            assert verdict.outcome is (Outcome.REPLAY if same else Outcome.LOST)
            assert verdict.decision is first

    @rule(one=gates, route=st.sampled_from([1, 2]), by=st.sampled_from(["Ann", "Bob"]))
    def decide(self, one: Gate, route: int, by: str) -> None:
        act = lambda: self.bus.decide(one.id, route, by=by)  # noqa: E731
        self.end(one, State.DECIDED, act, (route, by))

    @rule(one=gates, by=st.sampled_from(["Ann", "Bob"]))
    def stop(self, one: Gate, by: str) -> None:
        self.end(one, State.STOPPED, lambda: self.bus.stop(one.id, by=by), (None, by))

    @rule(one=gates)
    def expire(self, one: Gate) -> None:
        self.end(one, State.EXPIRED, lambda: self.bus.expire(one.id), (one.on_timeout, "timeout"))

    @rule(one=gates)
    def withdraw(self, one: Gate) -> None:
        was_open = self.ends[one.id] is None
        assert self.bus.withdraw(one.id, "over") is was_open
        if was_open:
            self.ends[one.id] = (State.WITHDRAWN, None)

    @rule(one=gates)
    def the_next_record_fails(self, one: Gate) -> None:
        if self.ends[one.id] is None:
            self.fail_next.add(one.id)

    @rule(one=gates)
    def undo(self, one: Gate) -> None:
        end = self.ends[one.id]
        if end is not None and end[0] is State.DECIDED and one.undoable:
            self.bus.undo(one.id)
            self.ends[one.id] = None
            self.undone += 1
        else:
            with pytest.raises(TooLate):
                self.bus.undo(one.id)

    @rule(one=gates, index=st.sampled_from([0, 1]), png=st.sampled_from([b"", b"a", b"b"]))
    def set_mask(self, one: Gate, index: int, png: bytes) -> None:
        if self.ends[one.id] is None:
            self.bus.set_mask(one.id, index, png)
            self.masks[one.id][index] = png
        else:
            with pytest.raises((GateClosed, TooLate)):
                self.bus.set_mask(one.id, index, png)

    @invariant()
    def every_gate_is_open_or_has_one_end(self) -> None:
        waiting = [s.gate.id for s in self.bus.pending()]
        ended = [s.gate.id for s in self.bus.finished()]
        assert waiting == [i for i in self.tickets if self.ends[i] is None]
        assert sorted(ended) == sorted(i for i in self.tickets if self.ends[i] is not None)
        for i, ticket in self.tickets.items():
            snapshot, end = self.bus.get(i), self.ends[i]
            assert ticket.future.done() is (end is not None)
            assert snapshot.masked == tuple(sorted(k for k, v in self.masks[i].items() if v))
            if end is None:
                assert snapshot.state is State.WAITING
                assert snapshot.decision is None
                assert self.recorded[i] == []
                continue
            assert (snapshot.state, snapshot.decision) == end
            assert len(self.recorded[i]) == (end[0] is not State.WITHDRAWN)
            if end[1] is not None and end[1].route is not None:
                answer = ticket.wait(0)
                assert answer.decision is end[1]
                assert answer.masks == self.masks[i]
                assert self.recorded[i] == [answer]
            else:
                with pytest.raises(GateCancelled) as caught:
                    ticket.wait(0)
                assert caught.value.state is end[0]

    def teardown(self) -> None:
        told, missed = self.news.drain()
        assert not missed
        ends = sum(n.kind in ("decided", "withdrawn") for n in told)
        assert ends == sum(end is not None for end in self.ends.values()) + self.undone
        versions: dict[str, int] = {}
        for n in told:
            i = n.gate.gate.id
            assert n.gate.version == versions.get(i, 0) + 1
            versions[i] = n.gate.version
        self.news.close()
        assert self.bus.listeners == 0


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
