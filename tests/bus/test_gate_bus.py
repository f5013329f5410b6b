"""The bus over every storage: who wins, and that nothing is lost. Races start at a barrier."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from imagegate.core.model import (
    Answer,
    BadAnswer,
    GateCancelled,
    GateClosed,
    Outcome,
    Selection,
    Snapshot,
    State,
    TooLate,
    UnknownGate,
    Verdict,
)
from imagegate.gate_bus import GateBus
from imagegate.storage.memory import MemoryStorage
from tests.support.racing import Later, races, together
from tests.support.stored import PLAIN, gate

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


@pytest.mark.slow
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


@pytest.mark.slow
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
