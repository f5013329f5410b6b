"""What may go on of a run, and when, over every store."""

from __future__ import annotations

from typing import Any

import pytest

from imagegate.core.model import State, TooLate
from imagegate.gate_bus import GateBus
from tests.support.stored import FILES, PATIENCE, PLAIN, Store, gate, storage_of, store_of, to_go_on


@pytest.fixture
def bus(store: Store) -> GateBus[Any]:
    return store.bus()


def park(bus: GateBus[Any], root: str = "run", *, of: int = 0, **given: Any) -> str:
    """The id of a parked gate; ``of``: how many go on together with it."""
    parked = to_go_on(root, **{"together": of > 0, "length": max(of, 1), **given})
    asked = gate(together=of, prompt_id=f"prompt of {root}")
    return storage_of(bus).parking.park(asked, FILES, parked).gate.id


def test_gates_of_a_list_are_claimed_together(bus: GateBus[Any]) -> None:
    """None goes on before the last is answered, and says so; then one worker has all, in the order
    of the list. A stopped one counts as answered, and does not go on.
    """
    ids = [park(bus, of=4, item=item) for item in range(4)]
    for gate_id in (ids[2], ids[0]):
        bus.decide(gate_id, 1)
    assert storage_of(bus).claims.take() is None
    assert bus.get(ids[0]).waits_for == "2 of 4 answered; the prompt goes on when all are"
    assert [found.waits_for[:6] for found in bus.pending()] == ["2 of 4", "2 of 4"]
    assert bus.undo(ids[0]).state is State.PARKED
    bus.decide(ids[1], 2)
    bus.stop(ids[3])
    assert storage_of(bus).claims.take() is None
    bus.decide(ids[0], 1)
    claim = storage_of(bus).claims.take()
    assert claim is not None
    assert [one.gate.id for one in claim.gates] == ids[:3]
    assert [stored.item for stored in claim.stored] == [0, 1, 2]
    assert [sibling.usable for sibling in claim.siblings] == [True, True, True, False]
    assert storage_of(bus).claims.take() is None
    with pytest.raises(TooLate):
        bus.undo(ids[1])
    storage_of(bus).claims.renew([claim])
    assert storage_of(bus).claims.finish(claim)
    assert [bus.get(gate_id).state.value for gate_id in ids] == ["resumed"] * 3 + ["stopped"]
    assert bus.get(ids[0]).waits_for == ""


def test_of_a_list_that_failed_the_last_answer_is_asked_for(bus: GateBus[Any]) -> None:
    """The other answers stand, and all are tried again with the new one."""
    ids = [park(bus, of=3, item=item) for item in range(3)]
    for gate_id in (ids[1], ids[2], ids[0]):
        bus.decide(gate_id, 1)
    claim = storage_of(bus).claims.take()
    assert claim is not None
    assert storage_of(bus).claims.put_back(claim, "out of memory")
    assert [found.gate.id for found in bus.pending()] == [ids[0]]
    assert bus.get(ids[0]).reason == "out of memory"
    assert bus.get(ids[1]).undoable
    assert storage_of(bus).claims.take() is None
    bus.decide(ids[0], 2)
    again = storage_of(bus).claims.take()
    assert again is not None
    assert [one.gate.id for one in again.gates] == ids


def test_one_prompt_of_a_run_at_a_time(bus: GateBus[Any]) -> None:
    """What else is due of it waits until that one has ended; other runs do not."""
    one, two, other = park(bus), park(bus, node="3"), park(bus, "another")
    for gate_id in (one, two, other):
        bus.decide(gate_id, 1)
    first, second = storage_of(bus).claims.take(), storage_of(bus).claims.take()
    assert first is not None
    assert second is not None
    assert [first.gate.gate.id, second.gate.gate.id] == [one, other]
    assert storage_of(bus).claims.take() is None
    storage_of(bus).claims.finish(first)
    third = storage_of(bus).claims.take()
    assert third is not None
    assert third.gate.gate.id == two
    assert [sibling.usable for sibling in third.siblings] == [True, True]


def test_nothing_goes_on_while_its_prompt_runs(bus: GateBus[Any]) -> None:
    """A gate whose prompt still runs, here or at another worker that is alive, is not taken up."""
    here, dead = park(bus, running=storage_of(bus).id), park(bus, "another", running="dead")
    storage_of(bus).claims.prompt_runs("prompt of run")
    bus.decide(here, 1)
    assert storage_of(bus).claims.take() is None
    bus.decide(dead, 1)
    claim = storage_of(bus).claims.take()
    assert claim is not None
    assert claim.gate.gate.id == dead
    storage_of(bus).claims.finish(claim)
    storage_of(bus)._following.keep()
    assert storage_of(bus).claims.take() is None
    # An end that could not be recorded is, as soon as the store is back.
    storage_of(bus).claims._prompts.clear()
    storage_of(bus)._following.keep()
    assert storage_of(bus).claims.take() is not None


def test_an_answer_is_kept_for_the_others_of_its_run(bus: GateBus[Any]) -> None:
    """A gate that is waited for is part of the run once its image is stored, and its pictures stay
    as long as one of the run may go on; what a failed prompt had asked is forgotten.
    """
    parked = park(bus)
    asked = gate(prompt_id="prompt of run")
    ticket = bus.publish(asked, PLAIN)
    kept = storage_of(bus).parking.keep_for_later(asked, FILES[1:], to_go_on("run", node="3"))
    kept.result(PATIENCE)
    bus.decide(asked.id, 2)
    assert ticket.wait(PATIENCE).decision.route == 2
    siblings = store_of(bus).parked.siblings("run")
    assert [(one.gate_id, one.usable) for one in siblings] == [(parked, False), (asked.id, True)]
    needed = store_of(bus).parked.needed()
    with store_of(bus).database.read() as connection:
        assert asked.id in connection.execute(needed).scalars().all()
    storage_of(bus).claims.withdraw_parked("prompt of run", "its prompt failed")
    assert [one.gate_id for one in store_of(bus).parked.siblings("run")] == [parked]
    assert bus.get(parked).state is State.WITHDRAWN


def test_what_a_failed_prompt_had_asked_is_taken_back(bus: GateBus[Any]) -> None:
    """Also where it was answered already, and has not gone on."""
    gate_id = park(bus)
    bus.decide(gate_id, 1)
    storage_of(bus).claims.withdraw_parked("prompt of run", "its prompt failed")
    assert bus.get(gate_id).state is State.WITHDRAWN
    assert storage_of(bus).claims.take() is None
