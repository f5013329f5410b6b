"""What a store keeps, and how long: pictures, prompts, odd texts and numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import pytest

from imagegate.core.model import (
    BadAnswer,
    GateClosed,
    Selection,
    Snapshot,
    UnknownGate,
)
from imagegate.gate_bus import GateBus
from tests.support.stored import (
    FILES,
    PLAIN,
    Store,
    gate,
    kinds,
    park_one,
    sql,
    storage_of,
    store_of,
    to_go_on,
)

DECIDED_LONG_AGO = "UPDATE gates SET ended_at = 1 WHERE id = :id"


@pytest.fixture
def bus(store: Store) -> GateBus[Any]:
    return store.bus()


# -- how long pictures are kept


def sweep(bus: GateBus[Any]) -> None:
    store_of(bus)._swept = -math.inf
    store_of(bus).sweep()


def test_pictures_of_finished_gates_go(bus: GateBus[Any]) -> None:
    """After the set time they are removed, and the disk they took is free; the lines stay."""
    old, new = park_one(bus), park_one(bus)
    bus.set_mask(old, 0, b"mask")
    for gate_id in (old, new):
        bus.decide(gate_id, 1)
        claim = storage_of(bus).claims.take()
        assert claim is not None
        storage_of(bus).claims.finish(claim)
    before = storage_of(bus).status()["bytes"]
    sql(bus, DECIDED_LONG_AGO, id=old)
    sweep(bus)
    assert store_of(bus).picture_files.names(old) == []
    assert store_of(bus).picture_files.names(new) != []
    assert storage_of(bus).status()["bytes"] == before - len(b"mask") - sum(
        len(body) for _, body in FILES
    )
    assert kinds(bus, old) == ["published", "masked", "decided", "claimed", "resumed"]
    assert bus.get(old).masked == (0,)
    assert bus.mask(old, 0) is None


def test_pictures_that_are_needed_stay(bus: GateBus[Any]) -> None:
    """However old: of open gates, of those that shall go on, and of the same run as such."""
    waiting, due, sibling = park_one(bus), park_one(bus), park_one(bus, root="run")
    park_one(bus, root="run")
    bus.decide(sibling, 1)
    claim = storage_of(bus).claims.take()
    assert claim is not None
    storage_of(bus).claims.finish(claim)
    bus.decide(due, 1)
    for gate_id in (waiting, due, sibling):
        sql(bus, DECIDED_LONG_AGO, id=gate_id)
    sweep(bus)
    for gate_id in (waiting, due, sibling):
        assert store_of(bus).picture_files.names(gate_id) != []


def prompts(bus: GateBus[Any]) -> dict[str, bool]:
    """Whether the prompt of each parked gate is stored."""
    rows = sql(bus, "SELECT gate_id, record FROM parked")
    return {gate_id: '"prompt"' in record for gate_id, record in rows}


@pytest.mark.parametrize("end", ["resumed", "stopped", "expired", "withdrawn"])
def test_a_prompt_that_went_on_is_not_kept(bus: GateBus[Any], end: str) -> None:
    """However its gate ended, a prompt is dropped at once; the gate and its run stay known."""
    gate_id, other = park_one(bus, root="run"), park_one(bus)
    if end == "resumed":
        bus.decide(gate_id, 1)
        claim = storage_of(bus).claims.take()
        assert claim is not None
        assert prompts(bus) == {gate_id: True, other: True}
        storage_of(bus).claims.finish(claim)
    elif end == "stopped":
        bus.stop(gate_id)
    elif end == "expired":
        bus.expire(gate_id)
    else:
        bus.withdraw(gate_id, "its prompt failed")
    assert prompts(bus) == {gate_id: False, other: True}
    parked = store_of(bus).parked.get(gate_id)
    assert parked is not None
    assert (parked.root, parked.node, dict(parked.prompt)) == ("run", "2", {})


def test_a_prompt_that_its_run_needs_is_kept(bus: GateBus[Any]) -> None:
    """While a gate of the same run is open or due, all prompts of that run stay."""
    first, second = park_one(bus, root="run"), park_one(bus, root="run")
    bus.stop(first)
    assert prompts(bus) == {first: True, second: True}
    bus.decide(second, 1)
    claim = storage_of(bus).claims.take()
    assert claim is not None
    assert storage_of(bus).claims.put_back(claim, "a node is gone")
    assert prompts(bus) == {first: True, second: True}
    bus.stop(second)
    assert prompts(bus) == {first: False, second: False}


def test_prompts_left_over_are_swept(bus: GateBus[Any]) -> None:
    """What an older version, or a failure, has left is dropped with the next sweep."""
    gate_id = park_one(bus)
    sql(bus, "UPDATE gates SET open = 0, state = 'resumed' WHERE id = :id", id=gate_id)
    sweep(bus)
    assert prompts(bus) == {gate_id: False}


def test_the_disk_that_masks_take(bus: GateBus[Any]) -> None:
    """A mask that replaces another takes no more room than itself."""
    gate_id = park_one(bus)
    before = storage_of(bus).status()["bytes"]
    for png in (b"x" * 100, b"x" * 7):
        bus.set_mask(gate_id, 0, png)
    assert storage_of(bus).status()["bytes"] == before + 7
    assert len(store_of(bus).picture_files.names(gate_id)) == len(FILES) + 1
    bus.set_mask(gate_id, 0, b"")
    assert storage_of(bus).status()["bytes"] == before


# -- odd texts


@pytest.mark.parametrize(
    "gate_id", ["", "nul\0", "\ud800", "x" * 100_000, "\N{SNOWMAN}", "a'b\"c", "../x", "%s", "{0}"]
)
def test_an_id_that_cannot_be(bus: GateBus[Any], gate_id: str) -> None:
    """Whatever a stranger sends as an id, there is simply no such gate."""
    calls: list[Callable[[], Any]] = [
        lambda: bus.decide(gate_id, 1),
        lambda: bus.stop(gate_id),
        lambda: bus.undo(gate_id),
        lambda: bus.expire(gate_id),
        lambda: bus.set_mask(gate_id, 0, b"x"),
        lambda: bus.mask(gate_id, 0),
        lambda: bus.get(gate_id),
        lambda: bus.pictures(gate_id),
        lambda: storage_of(bus).lines(gate_id),
        lambda: storage_of(bus).ask_again(gate_id),
        lambda: storage_of(bus).parking.answer_of(gate_id),
    ]
    for call in calls:
        with pytest.raises(UnknownGate):
            call()
    assert bus.withdraw(gate_id, "x") is False


def test_odd_texts_are_kept(store: Store) -> None:
    """Halves of characters and NUL, which prompts written by hand may hold, harm nothing."""
    odd = "a\0b\ud800c"
    bus = store.bus(worker="w")
    one = gate(title=odd, node_id=odd, prompt_id=odd, workflow_id=odd, labels=("keep", odd))
    storage_of(bus).parking.park(one, FILES, to_go_on(odd, odd))
    (found,) = bus.pending(among=Selection(odd, odd))
    assert (found.gate.title, found.gate.labels[1], found.gate.node_id) == (odd, odd, odd)
    assert bus.count(Selection(odd)) == 1
    bus.decide(one.id, odd)
    claim = storage_of(bus).claims.take()
    assert claim is not None
    assert claim.parked.node == odd
    assert [sibling.node for sibling in claim.siblings] == [odd]
    storage_of(bus).claims.put_back(claim, odd)
    assert not store_of(bus).gates.stopped_in(odd)
    bus.withdraw(one.id, odd)
    assert "a" in bus.get(one.id).reason
    assert len(storage_of(bus).lines(one.id)) == 5
    with pytest.raises(GateClosed):
        bus.decide(one.id, 1)
    with pytest.raises(BadAnswer):
        bus.stop(park_one(bus), by="\ud800")


def test_numbers_that_no_database_takes(bus: GateBus[Any]) -> None:
    """A cursor out of range finds what its order says."""
    gate_id = park_one(bus)
    assert bus.pending(10, after=10**30) == []
    assert [s.gate.id for s in bus.pending(10, after=-(10**30))] == [gate_id]
    assert bus.finished(10, before=-(10**30)) == []


def test_stored_snapshots_are_those_of_the_bus(bus: GateBus[Any]) -> None:
    """Everything of a gate comes back as it was given."""
    one = gate(batch=3, file="a/b.png", on_timeout=2, deadline=time.time() + 1e6 + 1 / 3)
    ticket = bus.publish(one, PLAIN)
    found: Snapshot = bus.get(one.id)
    assert found.gate == ticket.gate
    assert found.gate.deadline == one.deadline
    assert found.gate.worker == "here"
