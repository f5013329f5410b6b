"""What a failure of the store leaves: nothing lost, and nobody told what is not so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from imagegate.core.model import (
    GateCancelled,
    Outcome,
    State,
    StoreError,
    UnknownGate,
)
from imagegate.gate_bus import GateBus
from imagegate.storage.sql import watcher as watcher_module
from tests.conftest import soon
from tests.support.stored import (
    FILES,
    PATIENCE,
    PLAIN,
    Store,
    gate,
    hears,
    park_one,
    storage_of,
    store_of,
    to_go_on,
)


@pytest.fixture
def bus(store: Store) -> GateBus[Any]:
    return store.bus()


@contextmanager
def no_confirmation(bus: GateBus[Any], monkeypatch: Any, *, away: bool = False) -> Iterator[None]:
    """Whatever is written is written, but nobody is told so; ``away``: nor can it be read."""
    database, write = store_of(bus).database, store_of(bus).database.write

    def gone() -> StoreError:
        return StoreError(f"the store {database.shown} cannot be used: it went away", passing=True)

    @contextmanager
    def written() -> Iterator[Any]:
        with write() as connection:
            yield connection
        raise gone()

    @contextmanager
    def read() -> Iterator[Any]:
        raise gone()
        yield

    with monkeypatch.context() as patch:
        patch.setattr(database, "write", written)
        if away:
            patch.setattr(database, "read", read)
        yield


def test_an_answer_whose_confirmation_is_lost(store: Store, monkeypatch: Any) -> None:
    """If the answer was stored all the same, the waiter is woken and a repetition is harmless."""
    bus = store.bus()
    ticket = bus.publish(gate(), PLAIN)
    with no_confirmation(bus, monkeypatch), pytest.raises(StoreError):
        bus.decide(ticket.gate.id, 1, by="Ann")
    assert ticket.wait(PATIENCE).decision.by == "Ann"
    assert bus.decide(ticket.gate.id, 1, by="Ann").outcome is Outcome.REPLAY


def test_a_question_whose_confirmation_is_lost(store: Store, monkeypatch: Any) -> None:
    """If the gate can be read it was stored, and its files stay."""
    bus = store.bus()
    with no_confirmation(bus, monkeypatch):
        ticket = bus.publish(gate(), PLAIN)
        parked = park_one(bus)
        bus.set_mask(parked, 0, b"mask")
    bus.decide(ticket.gate.id, 1)
    assert ticket.wait(PATIENCE).decision.route == 1
    assert {name for name, _ in FILES} < set(store_of(bus).picture_files.names(parked))
    assert bus.mask(parked, 0) == b"mask"


def test_a_question_of_which_nothing_is_known(shared: Store, monkeypatch: Any) -> None:
    """Who asked is told of the failure; once the store is back nobody is asked in vain."""
    bus = shared.bus()
    asked, parked = gate(), gate()
    with no_confirmation(bus, monkeypatch, away=True):
        with pytest.raises(StoreError):
            bus.publish(asked, PLAIN)
        with pytest.raises(StoreError):
            storage_of(bus).parking.park(parked, FILES, to_go_on())
    store_of(bus).look_again()
    soon(bus, lambda: [s.state for s in bus.finished()] == [State.WITHDRAWN] * 2)
    assert bus.pending() == []


def test_a_question_that_was_not_stored(shared: Store, monkeypatch: Any) -> None:
    """Files that were written for a gate that is not there are removed once that is known."""
    bus = shared.bus()
    one = gate()

    def away(*_: Any, **__: Any) -> Any:
        raise StoreError("it is away", passing=True)

    with monkeypatch.context() as patch:
        patch.setattr(store_of(bus).gates, "add", away)
        patch.setattr(store_of(bus).gates, "several", away)
        with pytest.raises(StoreError):
            storage_of(bus).parking.park(one, FILES, to_go_on())
        assert store_of(bus).picture_files.names(one.id) != []
    hears(bus, store_of(bus).look_again)
    assert store_of(bus).picture_files.names(one.id) == []
    with pytest.raises(UnknownGate):
        bus.get(one.id)


def test_a_withdrawal_while_the_store_is_away(shared: Store, monkeypatch: Any) -> None:
    """Who gives up waiting is free at once; the store is told as soon as it is back."""
    bus = shared.bus()
    ticket = bus.publish(gate(prompt_id="p"), PLAIN)

    def away(*_: Any, **__: Any) -> Any:
        raise StoreError("it is away", passing=True)

    with monkeypatch.context() as patch:
        patch.setattr(store_of(bus).gates, "end", away)
        assert bus.withdraw_prompt("p", "its prompt was cancelled") == 1
        with pytest.raises(GateCancelled):
            ticket.wait(0)
    assert bus.get(ticket.gate.id).state is State.WAITING
    hears(bus, store_of(bus).look_again)
    soon(bus, lambda: bus.get(ticket.gate.id).state is State.WITHDRAWN)


def test_a_mask_that_cannot_be_read_yet(store: Store, monkeypatch: Any) -> None:
    """The waiter gets its answer once the mask can be read, not without it."""
    monkeypatch.setattr(watcher_module, "AGAIN", 0.01)
    bus = store.bus()
    ticket = bus.publish(gate(), PLAIN)
    bus.set_mask(ticket.gate.id, 0, b"mask")
    read, failures = store_of(bus).picture_files.read, [StoreError("the share is away")] * 3

    def sometimes(gate_id: str, name: str) -> Any:
        if failures:
            raise failures.pop()
        return read(gate_id, name)

    monkeypatch.setattr(store_of(bus).picture_files, "read", sometimes)
    assert bus.decide(ticket.gate.id, 1).outcome is Outcome.WON
    assert ticket.wait(PATIENCE).masks == {0: b"mask"}


def test_a_mask_that_is_gone_for_good(store: Store, monkeypatch: Any) -> None:
    """After a while the waiter is told so, and waits no longer."""
    monkeypatch.setattr(watcher_module, "AGAIN", 0.01)
    bus = store.bus()
    ticket = bus.publish(gate(title="Sky"), PLAIN)
    bus.set_mask(ticket.gate.id, 0, b"mask")
    store_of(bus).picture_files.remove(ticket.gate.id)
    bus.decide(ticket.gate.id, 1)
    with pytest.raises(StoreError, match="mask of gate 'Sky' is no longer kept"):
        ticket.wait(PATIENCE)


def test_an_id_that_is_there_keeps_its_files(bus: GateBus[Any]) -> None:
    """Publishing an id again harms nothing of the gate that has it."""
    one = gate()
    storage_of(bus).parking.park(one, FILES, to_go_on())
    before = store_of(bus).picture_files.names(one.id)
    with pytest.raises(ValueError, match="already"):
        storage_of(bus).parking.park(one, FILES, to_go_on())
    assert store_of(bus).picture_files.names(one.id) == before


def test_pictures_that_fail_leave_nothing(bus: GateBus[Any]) -> None:
    """A gate whose pictures cannot be made is not asked at all."""

    def broken() -> Iterator[tuple[str, bytes]]:
        yield "preview-0", b"preview"
        raise MemoryError("too large")

    one = gate()
    with pytest.raises(MemoryError):
        storage_of(bus).parking.park(one, broken(), to_go_on())
    assert store_of(bus).picture_files.names(one.id) == []
    assert bus.pending() == []
