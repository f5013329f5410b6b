"""Gates that nobody waits for: asked, answered, taken up, put back, and answered as before."""

from __future__ import annotations

import time
from typing import Any

import pytest

from imagegate.core.model import (
    Outcome,
    State,
    TooLate,
    UnknownGate,
)
from imagegate.gate_bus import GateBus
from tests.support.stored import (
    FILES,
    PLAIN,
    Store,
    gate,
    its_lease_runs_out,
    kinds,
    park_one,
    storage_of,
    store_of,
)


@pytest.fixture
def bus(store: Store) -> GateBus[Any]:
    return store.bus()


# -- parked gates


def test_a_parked_gate_is_asked_like_any_other(bus: GateBus[Any]) -> None:
    """It is listed, counted and answered as one that is waited for, and can be told from it."""
    gate_id = park_one(bus, title="Sky")
    (found,) = bus.pending()
    assert (found.gate.id, found.state, found.gate.mode) == (gate_id, State.PARKED, "park")
    assert found.to_json()["undoable"] is True
    assert bus.count() == 1
    assert bus.decide(gate_id, "fix", by="Ann").outcome is Outcome.WON
    assert bus.decide(gate_id, "fix", by="Ann").outcome is Outcome.REPLAY
    assert bus.decide(gate_id, "keep").outcome is Outcome.LOST
    assert (bus.count(), bus.get(gate_id).state) == (0, State.DECIDED)


def test_undo_asks_again_until_somebody_goes_on(bus: GateBus[Any]) -> None:
    """An answer is taken back, mask and place in the list as before; once claimed it stands."""
    first, second = park_one(bus), park_one(bus)
    bus.set_mask(first, 0, b"mask")
    bus.decide(first, 1)
    assert bus.undo(first).to_json()["masked"] == [0]
    assert [found.gate.id for found in bus.pending()] == [first, second]
    assert bus.finished() == []
    bus.decide(first, 2)
    claim = storage_of(bus).claims.take()
    assert claim is not None
    assert bus.get(first).to_json()["undoable"] is False
    with pytest.raises(TooLate, match="here has taken"):
        bus.undo(first)
    assert storage_of(bus).claims.finish(claim)
    with pytest.raises(TooLate, match="gone on"):
        bus.undo(first)
    assert kinds(bus, first) == [
        "published", "masked", "decided", "undone", "decided", "claimed", "resumed"
    ]  # fmt: skip


def test_what_cannot_be_undone(bus: GateBus[Any]) -> None:
    """A gate that is waited for, open, stopped or unknown has nothing to take back."""
    waited = bus.publish(gate(), PLAIN).gate.id
    bus.decide(waited, 1)
    parked, stopped = park_one(bus), park_one(bus)
    bus.stop(stopped)
    for gate_id, why in ((waited, "already went on"), (parked, "parked"), (stopped, "stopped")):
        with pytest.raises(TooLate, match=why):
            bus.undo(gate_id)
        assert "undone" not in kinds(bus, gate_id)


def test_stop_ends_a_parked_gate(bus: GateBus[Any]) -> None:
    """Nobody goes on with a parked gate that was stopped."""
    gate_id = park_one(bus)
    bus.stop(gate_id, by="Ann")
    assert storage_of(bus).claims.take() is None
    assert bus.get(gate_id).state is State.STOPPED


@pytest.mark.parametrize("route", [None, 2])
def test_a_parked_gate_whose_time_is_up(bus: GateBus[Any], route: int | None) -> None:
    """It follows its own rule, whichever process notices; with a route somebody goes on."""
    gate_id = park_one(bus, deadline=time.time() - 1, on_timeout=route)
    later = park_one(bus, deadline=time.time() + 3600, on_timeout=route)
    storage_of(bus)._following.keep()
    assert bus.get(gate_id).state is State.EXPIRED
    assert bus.get(later).state is State.PARKED
    claim = storage_of(bus).claims.take()
    assert (claim and claim.decision.route) == route


def test_claims_come_in_the_order_of_the_answers(bus: GateBus[Any]) -> None:
    """Who was answered first goes on first, with everything that was stored with it."""
    ids = [park_one(bus, root="run") for _ in range(3)]
    for gate_id in (ids[2], ids[0]):
        bus.decide(gate_id, 1)
    first = storage_of(bus).claims.take()
    assert first is not None
    assert storage_of(bus).claims.take() is None  # one prompt of a run at a time
    assert storage_of(bus).claims.finish(first)
    second = storage_of(bus).claims.take()
    assert second is not None
    assert [first.gate.gate.id, second.gate.gate.id] == [ids[2], ids[0]]
    assert first.parked.prompt == {"2": {"class_type": "ImageGate", "inputs": {}}}
    assert [sibling.gate_id for sibling in first.siblings] == ids


def test_a_claim_that_is_not_renewed_runs_out(bus: GateBus[Any]) -> None:
    """Somebody else may go on then; who held it first can no longer say how it went."""
    gate_id = park_one(bus)
    bus.decide(gate_id, 1)
    one = storage_of(bus).claims.take()
    assert one is not None
    assert storage_of(bus).claims.take() is None
    its_lease_runs_out(bus, gate_id)
    two = storage_of(bus).claims.take()
    assert two is not None
    assert two.attempt == 2
    assert not storage_of(bus).claims.finish(one)
    assert not storage_of(bus).claims.put_back(one, "too late")
    assert bus.get(gate_id).attempts == 2
    assert storage_of(bus).claims.finish(two)
    assert not storage_of(bus).claims.finish(two)
    assert kinds(bus, gate_id) == ["published", "decided", "claimed", "claimed", "resumed"]


def test_a_renewed_claim_holds(bus: GateBus[Any]) -> None:
    """Renewing puts off its end, even after that had come, if nobody else was there."""
    gate_id = park_one(bus)
    bus.decide(gate_id, 1)
    claim = storage_of(bus).claims.take()
    assert claim is not None
    its_lease_runs_out(bus, gate_id)
    storage_of(bus).claims.renew([claim])
    assert storage_of(bus).claims.take() is None
    assert storage_of(bus).claims.finish(claim)


def test_what_cannot_go_on_is_asked_again(bus: GateBus[Any]) -> None:
    """The gate waits again, says why in ComfyUI's own words, and takes another answer."""
    gate_id = park_one(bus, deadline=time.time() + 3600)
    bus.decide(gate_id, 1, by="Ann")
    claim = storage_of(bus).claims.take()
    assert claim is not None
    why = "Value not in list: ckpt_name: 'a\0b \ud800'"
    assert storage_of(bus).claims.put_back(claim, why)
    (found,) = bus.pending()
    assert (found.state, found.decision, found.attempts) == (State.PARKED, None, 1)
    assert found.reason.startswith("Value not in list: ckpt_name")
    assert found.gate.deadline is None  # a person has been here
    bus.decide(gate_id, 2)
    assert bus.get(gate_id).reason == ""
    again = storage_of(bus).claims.take()
    assert again is not None
    assert (again.attempt, again.decision.route) == (2, 2)


def test_a_worker_takes_what_it_can_run(shared: Store) -> None:
    """A gate goes to a worker that has its nodes, also if another one asked; while nobody alive
    has them it comes back to the one that asked, so that ComfyUI says what is missing.
    """
    small = shared.bus(worker="small", classes=["ImageGate"])
    large = shared.bus(worker="large", classes=["ImageGate", "Upscale"])
    panel = shared.bus(worker="panel", kind="panel", classes=[])
    gate_id = park_one(small, classes="Upscale")
    panel.decide(gate_id, 1)
    assert storage_of(panel).claims.take() is None
    assert storage_of(small).claims.take() is None
    claim = storage_of(large).claims.take()
    assert claim is not None
    assert small.get(gate_id).resuming == "large"
    assert storage_of(large).claims.put_back(claim, "out of memory")
    storage_of(large).close()
    panel.decide(gate_id, 2)
    assert storage_of(panel).claims.take() is None
    assert storage_of(small).claims.take() is not None


# -- answers used again


def test_an_equal_question_is_answered_at_once(bus: GateBus[Any]) -> None:
    """The answer comes with its masks, and the history says that it was used again."""
    first = bus.publish(gate(batch=2), PLAIN)
    store_of(bus).gates.set_fingerprint(first.gate.id, "like this")
    bus.set_mask(first.gate.id, 0, b"mask")
    bus.set_mask(first.gate.id, 1, b"")
    assert (
        storage_of(bus).parking.reuse(gate(), "like this", FILES) is None
    )  # nobody has answered yet
    bus.decide(first.gate.id, "fix", by="Ann")
    assert storage_of(bus).parking.reuse(gate(), "unlike", FILES) is None
    second = gate(batch=2)
    answer = storage_of(bus).parking.reuse(second, "like this", FILES)
    assert answer is not None
    assert (answer.decision.by, answer.decision.route) == ("Ann", 2)
    assert answer.masks == {0: b"mask", 1: b""}
    found = bus.get(second.id)
    assert (found.state, found.masked, found.reusable) == (State.DECIDED, (0,), True)
    assert bus.mask(second.id, 0) == b"mask"
    assert kinds(bus, second.id) == ["published", "reused"]
    assert [s.gate.id for s in bus.finished()] == [second.id, first.gate.id]


def test_ask_again(bus: GateBus[Any]) -> None:
    """One click and all gates that were answered alike are forgotten for this."""
    first, second = bus.publish(gate(), PLAIN).gate.id, gate()
    store_of(bus).gates.set_fingerprint(first, "like this")
    bus.decide(first, 1)
    assert storage_of(bus).parking.reuse(second, "like this", FILES)
    assert storage_of(bus).ask_again(first).to_json().get("reusable") is None
    assert storage_of(bus).parking.reuse(gate(), "like this", FILES) is None
    assert not bus.get(second.id).reusable
    assert kinds(bus, first)[-1] == "ask again"
    with pytest.raises(UnknownGate):
        storage_of(bus).ask_again("nobody")


def test_only_a_persons_answer_is_used_again(bus: GateBus[Any]) -> None:
    """Not a stop, a timeout, or what was taken back or could not go on."""
    stopped, expired = (bus.publish(gate(on_timeout=1), PLAIN).gate.id for _ in range(2))
    undone, failed = park_one(bus), park_one(bus)
    for gate_id in (stopped, expired, undone, failed):
        store_of(bus).gates.set_fingerprint(gate_id, "like this")
    bus.stop(stopped)
    bus.expire(expired)
    bus.decide(undone, 1)
    bus.undo(undone)
    bus.decide(failed, 1)
    claim = storage_of(bus).claims.take()
    assert claim is not None
    storage_of(bus).claims.put_back(claim, "a model is missing")
    assert storage_of(bus).parking.reuse(gate(), "like this", FILES) is None


def test_an_answer_whose_mask_is_gone_is_not_used(bus: GateBus[Any]) -> None:
    """A person is asked again rather than given half an answer."""
    first = bus.publish(gate(), PLAIN).gate.id
    store_of(bus).gates.set_fingerprint(first, "like this")
    bus.set_mask(first, 0, b"mask")
    bus.decide(first, 1)
    store_of(bus).picture_files.remove(first)
    assert storage_of(bus).parking.reuse(gate(), "like this", FILES) is None
