"""The bus over a store: several processes, parking, answers used again, and what is left behind.

What it shares with the bus of one process is in `tests.storage.test_gate_bus`.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imagegate.core.model import (
    BadAnswer,
    GateCancelled,
    GateClosed,
    Outcome,
    Selection,
    Snapshot,
    State,
    StoreError,
    TooLate,
    UnknownGate,
)
from imagegate.gate_bus import GateBus
from imagegate.storage.process import opener as opener_module
from imagegate.storage.sql import watcher as watcher_module
from imagegate.storage.sql.database import Database
from imagegate.storage.sql.watcher import Watcher
from imagegate.storage.sql_storage import SqlStorage
from tests.conftest import Watch
from tests.support.postgres import PostgreSQL
from tests.support.stored import (
    FILES,
    PATIENCE,
    PLAIN,
    Store,
    gate,
    hears,
    its_lease_runs_out,
    sql,
    storage_of,
    store_of,
    to_go_on,
)

DECIDED_LONG_AGO = "UPDATE gates SET ended_at = 1 WHERE id = :id"


@pytest.fixture
def bus(store: Store) -> GateBus[Any]:
    return store.bus()


def park(bus: GateBus[Any], root: str = "", classes: str = "ImageGate", **given: Any) -> str:
    """The id of a parked gate."""
    prompt = {"2": {"class_type": classes, "inputs": {}}}
    return storage_of(bus).parking.park(gate(**given), FILES, to_go_on(root, prompt=prompt)).gate.id


def kinds(bus: GateBus[Any], gate_id: str) -> list[str]:
    return [line.kind for line in storage_of(bus).lines(gate_id)]


def soon(bus: GateBus[Any], true: Callable[[], Any]) -> None:
    """Wait until the news of a bus make it so."""
    watch = Watch(bus)
    try:
        watch.until(true)
    finally:
        watch.close()


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


# -- parked gates


def test_a_parked_gate_is_asked_like_any_other(bus: GateBus[Any]) -> None:
    """It is listed, counted and answered as one that is waited for, and can be told from it."""
    gate_id = park(bus, title="Sky")
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
    first, second = park(bus), park(bus)
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
    parked, stopped = park(bus), park(bus)
    bus.stop(stopped)
    for gate_id, why in ((waited, "already went on"), (parked, "parked"), (stopped, "stopped")):
        with pytest.raises(TooLate, match=why):
            bus.undo(gate_id)
        assert "undone" not in kinds(bus, gate_id)


def test_stop_ends_a_parked_gate(bus: GateBus[Any]) -> None:
    """Nobody goes on with a parked gate that was stopped."""
    gate_id = park(bus)
    bus.stop(gate_id, by="Ann")
    assert storage_of(bus).claims.take() is None
    assert bus.get(gate_id).state is State.STOPPED


@pytest.mark.parametrize("route", [None, 2])
def test_a_parked_gate_whose_time_is_up(bus: GateBus[Any], route: int | None) -> None:
    """It follows its own rule, whichever process notices; with a route somebody goes on."""
    gate_id = park(bus, deadline=time.time() - 1, on_timeout=route)
    later = park(bus, deadline=time.time() + 3600, on_timeout=route)
    storage_of(bus)._following.keep()
    assert bus.get(gate_id).state is State.EXPIRED
    assert bus.get(later).state is State.PARKED
    claim = storage_of(bus).claims.take()
    assert (claim and claim.decision.route) == route


def test_claims_come_in_the_order_of_the_answers(bus: GateBus[Any]) -> None:
    """Who was answered first goes on first, with everything that was stored with it."""
    ids = [park(bus, root="run") for _ in range(3)]
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
    gate_id = park(bus)
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
    gate_id = park(bus)
    bus.decide(gate_id, 1)
    claim = storage_of(bus).claims.take()
    assert claim is not None
    its_lease_runs_out(bus, gate_id)
    storage_of(bus).claims.renew([claim])
    assert storage_of(bus).claims.take() is None
    assert storage_of(bus).claims.finish(claim)


def test_what_cannot_go_on_is_asked_again(bus: GateBus[Any]) -> None:
    """The gate waits again, says why in ComfyUI's own words, and takes another answer."""
    gate_id = park(bus, deadline=time.time() + 3600)
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
    gate_id = park(small, classes="Upscale")
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


# -- several processes


def test_an_answer_wakes_a_waiter_elsewhere(shared: Store) -> None:
    """What is decided in one process wakes the prompt in another, with the masks painted there."""
    worker, panel = shared.bus(), shared.bus(kind="panel")
    ticket = worker.publish(gate(), PLAIN)
    assert panel.get(ticket.gate.id).gate.worker == "here"
    panel.set_mask(ticket.gate.id, 0, b"mask")
    panel.decide(ticket.gate.id, "fix", by="Ann")
    answer = ticket.wait(PATIENCE)
    assert (answer.decision.label, answer.decision.by) == ("fix", "Ann")
    assert answer.masks == {0: b"mask"}


@pytest.mark.parametrize("how", ["stop", "expire"])
def test_an_end_elsewhere_wakes_a_waiter(shared: Store, how: str) -> None:
    """Also when there is no route to take."""
    worker, panel = shared.bus(), shared.bus(kind="panel")
    ticket = worker.publish(gate(), PLAIN)
    getattr(panel, how)(ticket.gate.id)
    with pytest.raises(GateCancelled):
        ticket.wait(PATIENCE)


def test_news_of_others(shared: Store) -> None:
    """A listener is told of everything in another process, with the gate as it is."""
    worker, panel = shared.bus(), shared.bus(kind="panel")
    with panel.subscribe() as news:
        told: list[tuple[str, int]] = []

        def after(version: int) -> bool:
            told.extend((item.kind, item.gate.version) for item in news.drain()[0])
            return bool(told) and told[-1][1] == version

        gate_id = park(worker)
        soon(panel, lambda: after(1))
        worker.set_mask(gate_id, 0, b"mask")
        soon(panel, lambda: after(2))
        worker.decide(gate_id, 1)
        soon(panel, lambda: after(3))
        worker.undo(gate_id)
        soon(panel, lambda: after(4))
        worker.decide(gate_id, 1)
        soon(panel, lambda: after(5))
        claim = storage_of(worker).claims.take()
        assert claim is not None
        soon(panel, lambda: after(6))
        storage_of(worker).claims.finish(claim)
        soon(panel, lambda: after(7))
    assert [kind for kind, _ in told] == [
        "published", "masked", "decided", "published", "decided", "decided", "decided"
    ]  # fmt: skip


def test_counts_follow_others(shared: Store) -> None:
    """What is counted in one process is right as soon as it has heard of the other's change."""
    one, two = shared.bus(), shared.bus()
    assert (two.count(), two.count(Selection("7"))) == (0, 0)
    one.publish(gate(node_id="7"), PLAIN)
    soon(
        two,
        lambda: (two.count(), two.count(Selection("7")), two.count(Selection("8"))) == (1, 1, 0),
    )


def test_pictures_for_others(shared: Store) -> None:
    """Another process shows the preview at once; on a server's store the true size soon, too."""
    worker, panel = shared.bus(), shared.bus(kind="panel")
    ticket = worker.publish(gate(), PLAIN)
    seen = panel.pictures(ticket.gate.id)
    assert seen is not None
    assert seen.preview(0) == PLAIN.preview(0)
    done = threading.Event()
    storage_of(worker).later(done.set)
    assert done.wait(PATIENCE)
    if shared.kind == "postgresql":
        assert seen.full(0).body == b"full 0"
    assert worker.pictures(ticket.gate.id) is PLAIN


def test_more_changes_than_can_be_told(store: Store, monkeypatch: Any) -> None:
    """Very many changes at once are not told one by one: everything is looked at instead."""
    monkeypatch.setattr(watcher_module, "MANY", 2)
    database = store_of(store.bus()).database
    heard: list[Any] = []
    watcher = Watcher(database, None, heard.append, lambda: heard.append("all"))  # type: ignore[arg-type]
    mine, other = database.origin, "somebody"
    watcher._tell([(other, "decided", "a"), (mine, "decided", "x"), (other, "masked", "b")])
    watcher._tell([(other, "decided", i) for i in "abc"] + [("not", "a line")])
    watcher._tell([(mine, "decided", i) for i in "abc"])
    assert heard == [{"a": "decided", "b": "masked"}, "all"]
    watcher.close()


def test_many_doubts_block_nobody(store: Store) -> None:
    """However often the store fails, saying so never waits."""
    opened = store_of(store.bus())
    for _ in range(5000):
        opened.look_again()


def test_a_killed_server_that_comes_back(postgresql: PostgreSQL, postgresql_url: str,
                                         tmp_path: Path) -> None:  # fmt: skip
    """While PostgreSQL is away answers are refused and the waiter waits; once it is back an answer
    reaches the waiter, and listeners are told that they may have missed something.
    """
    with Store("postgresql", postgresql_url, tmp_path) as store:
        worker, panel = store.bus(), store.bus(kind="panel")
        ticket = worker.publish(gate(), PLAIN)
        parked = park(worker)
        postgresql.kill()
        for bus in (worker, panel):
            with pytest.raises(StoreError, match=r"postgresql.*cannot be used") as caught:
                bus.decide(ticket.gate.id, 1)
            assert caught.value.passing
        assert not ticket.future.done()
        hears(worker, postgresql.start)
        assert panel.decide(ticket.gate.id, 2).outcome is Outcome.WON
        assert ticket.wait(PATIENCE).decision.route == 2
        assert worker.get(parked).state is State.PARKED


def test_an_answer_while_nobody_listened(postgresql: PostgreSQL, postgresql_url: str,
                                         tmp_path: Path, monkeypatch: Any) -> None:  # fmt: skip
    """An answer that was made between the loss of the connection and the next one is found."""
    with Store("postgresql", postgresql_url, tmp_path) as store:
        worker, panel = store.bus(), store.bus(kind="panel")
        ticket = worker.publish(gate(), PLAIN)
        allowed, watch = threading.Event(), Database.watch

        def later(database: Database) -> Any:
            assert database.origin != storage_of(worker).id or allowed.wait(PATIENCE)
            return watch(database)

        monkeypatch.setattr(Database, "watch", later)
        postgresql.kill()
        postgresql.start()
        panel.decide(ticket.gate.id, 1)
        assert not ticket.future.done()
        allowed.set()
        assert ticket.wait(PATIENCE).decision.route == 1


# -- what a failure leaves


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
        parked = park(bus)
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


# -- workers that die


def killed_worker(shared: Store) -> str:
    """The gate of a process that was killed while it waited."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    where = (shared.kind, shared.url, shared.pictures)
    process = context.Process(target=wait_for_ever, args=(where, theirs))
    process.start()
    theirs.close()
    gate_id = str(ours.recv())
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE)
    ours.close()
    return gate_id


def wait_for_ever(where: tuple[str, str, Path], told: Any) -> None:
    ticket = Store(*where).bus(worker="victim").publish(gate(), PLAIN)
    told.send(ticket.gate.id)
    ticket.wait()


@pytest.mark.processes
def test_the_gates_of_a_killed_worker(shared: Store) -> None:
    """Nobody is asked in vain: on SQLite at once, on a server once it was silent for a while."""
    bus = shared.bus()
    gate_id = killed_worker(shared)
    if shared.kind == "postgresql":
        storage_of(bus)._following.keep()
        assert bus.get(gate_id).state is State.WAITING
        sql(bus, "UPDATE workers SET seen_at = seen_at - 31 WHERE name = 'victim'")
        storage_of(bus)._following.keep()
        assert bus.get(gate_id).state is State.WAITING  # it may be this one that saw nothing
        store_of(bus)._seen_since = -math.inf
    storage_of(bus)._following.keep()
    assert bus.get(gate_id).state is State.WITHDRAWN
    assert bus.get(gate_id).reason == "victim, which it came from, has ended"
    alive = {worker["name"]: worker["alive"] for worker in storage_of(bus).status()["workers"]}
    assert alive == {"here": True, "victim": False}


def test_a_worker_that_was_alive_after_all(shared: Store) -> None:
    """Its gate waits again, with the same waiter, who then gets an answer."""
    worker, other = shared.bus(worker="w"), shared.bus()
    ticket = worker.publish(gate(), PLAIN)
    sql(other, "UPDATE workers SET ended = 1, seen_at = 0 WHERE id = :id", id=storage_of(worker).id)
    store_of(other)._seen_since = -math.inf
    storage_of(other)._following.keep()  # on a server it may have given a sign of life just now
    soon(worker, lambda: worker.get(ticket.gate.id).state is State.WAITING)
    other.decide(ticket.gate.id, 1)
    assert ticket.wait(PATIENCE).decision.route == 1
    lines = kinds(worker, ticket.gate.id)
    assert lines in (["published", "withdrawn", "reopened", "decided"], ["published", "decided"])
    assert shared.kind == "postgresql" or "reopened" in lines


def test_what_a_worker_withdraws_itself_is_not_reopened(bus: GateBus[Any]) -> None:
    """Hearing late of its own withdrawal does not bring a gate back."""
    ticket = bus.publish(gate(), PLAIN)
    bus.withdraw(ticket.gate.id, "over")
    assert store_of(bus).gates.reopen(ticket.gate.id, storage_of(bus).id) is None
    assert bus.get(ticket.gate.id).state is State.WITHDRAWN


def test_old_workers_are_forgotten(shared: Store) -> None:
    """Those that ended long ago are not shown for ever; those that a gate still needs, are kept."""
    worker = shared.bus(worker="old")
    sleeper = shared.bus(worker="sleeper")
    needed = shared.bus(worker="needed", classes=["Upscale"])
    park(needed, classes="Upscale")
    for bus in (worker, needed):
        storage_of(bus).close()
    sql(sleeper, "UPDATE workers SET seen_at = 1")
    bus = shared.bus()
    names = {worker.name for worker in store_of(bus).workers.each()}
    assert names - {"sleeper"} == {"here", "needed"}
    store_of(sleeper).workers.beat(storage_of(sleeper).id)  # it was only asleep
    assert "sleeper" in {w.name for w in store_of(bus).workers.each() if w.alive}


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
    undone, failed = park(bus), park(bus)
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


# -- how long pictures are kept


def sweep(bus: GateBus[Any]) -> None:
    store_of(bus)._swept = -math.inf
    store_of(bus).sweep()


def test_pictures_of_finished_gates_go(bus: GateBus[Any]) -> None:
    """After the set time they are removed, and the disk they took is free; the lines stay."""
    old, new = park(bus), park(bus)
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
    waiting, due, sibling = park(bus), park(bus), park(bus, root="run")
    park(bus, root="run")
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
    gate_id, other = park(bus, root="run"), park(bus)
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
    first, second = park(bus, root="run"), park(bus, root="run")
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
    gate_id = park(bus)
    sql(bus, "UPDATE gates SET open = 0, state = 'resumed' WHERE id = :id", id=gate_id)
    sweep(bus)
    assert prompts(bus) == {gate_id: False}


def test_the_disk_that_masks_take(bus: GateBus[Any]) -> None:
    """A mask that replaces another takes no more room than itself."""
    gate_id = park(bus)
    before = storage_of(bus).status()["bytes"]
    for png in (b"x" * 100, b"x" * 7):
        bus.set_mask(gate_id, 0, png)
    assert storage_of(bus).status()["bytes"] == before + 7
    assert len(store_of(bus).picture_files.names(gate_id)) == len(FILES) + 1
    bus.set_mask(gate_id, 0, b"")
    assert storage_of(bus).status()["bytes"] == before


# -- the process


def test_nothing_is_opened_before_it_is_needed(shared: Store) -> None:
    """A bus that nobody asks anything opens no store, no file and no thread."""
    threads = threading.active_count()
    bus = shared.unopened()
    with bus.subscribe():
        assert bus.listeners == 1
    assert not storage_of(bus).opened
    assert storage_of(bus).exists() is (shared.kind == "postgresql")
    assert threading.active_count() == threads
    storage_of(bus).close()
    assert not storage_of(bus).opened
    assert not shared.pictures.exists()
    assert not shared.pictures.with_name("gates.sqlite").exists()


def test_closing_ends_everything(store: Store) -> None:
    """The waiter is told, the store is left in order, and nothing of it works any more."""
    bus = store.bus()
    ticket = bus.publish(gate(), PLAIN)
    folder = store_of(bus).database.folder
    storage_of(bus).close()
    storage_of(bus).close()
    with pytest.raises(GateCancelled, match="its worker was ended"):
        ticket.wait(0)
    assert not ticket.withdraw("its prompt ended")
    for use in (bus.count, lambda: bus.publish(gate(), PLAIN)):
        with pytest.raises(StoreError, match="was closed"):
            use()
    assert folder is None or list(folder.iterdir()) == []
    if store.kind != "memory":
        found = store.bus().get(ticket.gate.id)
        assert (found.state, found.reason) == (State.WITHDRAWN, "its worker was ended")


def test_closing_while_the_store_is_away(store: Store, monkeypatch: Any) -> None:
    """Then, too, it ends at once, and so does the waiting."""
    bus = store.bus()
    tickets = [bus.publish(gate(), PLAIN) for _ in range(3)]
    asked: list[Any] = []

    def away(*_: Any, **__: Any) -> Any:
        asked.append(None)
        raise StoreError("it is away", passing=True)

    monkeypatch.setattr(store_of(bus).gates, "end", away)
    storage_of(bus).close()
    assert len(asked) == 1
    for ticket in tickets:
        with pytest.raises(GateCancelled):
            ticket.wait(0)


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts files in /proc")
def test_opened_and_closed_two_hundred_times(shared: Store, postgresql: PostgreSQL) -> None:
    """No thread, file handle or connection is left."""
    storage_of(shared.bus()).close()
    files, threads = open_files(), threading.active_count()
    for _ in range(200 if shared.kind == "sqlite" else 40):
        bus = shared.unopened()
        bus.publish(gate(), PLAIN)
        storage_of(bus).close()
    assert threading.active_count() == threads
    assert open_files() <= files
    if shared.kind == "postgresql":
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'imagegate'"
        with postgresql.connect() as connection:
            assert connection.execute(query).fetchone() == (0,)


@pytest.mark.processes
def test_an_interpreter_that_ends(shared: Store) -> None:
    """A process that ends while somebody waits leaves the store in order, without being asked."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    where = (shared.kind, shared.url, shared.pictures)
    process = context.Process(target=end_while_waiting, args=(where, theirs))
    process.start()
    theirs.close()
    gate_id = str(ours.recv())
    process.join(PATIENCE)
    ours.close()
    assert process.exitcode == 0
    assert shared.bus().get(gate_id).reason == "its worker was ended"


def end_while_waiting(where: tuple[str, str, Path], told: Any) -> None:
    import atexit

    bus = Store(*where).bus()
    ticket = bus.publish(gate(), PLAIN)
    told.send(ticket.gate.id)
    told.close()
    # A process of multiprocessing leaves these out.
    atexit._run_exitfuncs()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_leaves_the_store_alone(shared: Store) -> None:
    """A child that this process forks can neither use nor end what its parent has opened."""
    bus = shared.bus()
    ticket = bus.publish(gate(), PLAIN)
    child = os.fork()
    if not child:
        code = 1
        try:
            storage_of(bus).close()
            bus.count()
        except StoreError as error:
            code = 0 if "forked" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    bus.decide(ticket.gate.id, 1)
    assert ticket.wait(PATIENCE).decision.route == 1


def test_work_in_the_background(store: Store, caplog: Any) -> None:
    """One after the other; a failure is told and does not end it; after the end there is none."""
    bus, done = store.unopened(), threading.Event()
    order: list[int] = []

    def fail(error: Exception) -> Callable[[], object]:
        def work() -> None:
            raise error

        return work

    storage_of(bus).later(lambda: order.append(1))
    storage_of(bus).later(fail(ValueError("broken")))
    storage_of(bus).later(fail(StoreError("it is away")))
    storage_of(bus).later(lambda: order.append(2))
    storage_of(bus).later(done.set)
    assert done.wait(PATIENCE)
    assert order == [1, 2]
    assert "broken" in caplog.text
    assert "it is away" in caplog.text
    storage_of(bus).close()
    storage_of(bus).later(lambda: order.append(3))
    assert order == [1, 2]


def test_waiting_for_the_store_to_open(monkeypatch: Any) -> None:
    """Of many who need a store that cannot be opened one tries; those that waited are told."""
    tried: list[Any] = []
    trying, enough = threading.Event(), threading.Event()

    def settings() -> Any:
        tried.append(None)
        trying.set()
        assert enough.wait(PATIENCE)
        raise StoreError("it is away", passing=True)

    bus = GateBus(SqlStorage(settings))
    told: list[StoreError] = []

    def use() -> None:
        try:
            bus.count()
        except StoreError as error:
            told.append(error)

    threads = [threading.Thread(target=use) for _ in range(5)]
    waiting = threading.Barrier(5)

    def clock() -> float:
        now = time.monotonic()
        if threading.current_thread() in threads[1:]:  # which look once, before they wait
            waiting.wait(PATIENCE)
        return now

    monkeypatch.setattr(opener_module, "time", SimpleNamespace(monotonic=clock))
    threads[0].start()
    assert trying.wait(PATIENCE)
    for thread in threads[1:]:
        thread.start()
    waiting.wait(PATIENCE)
    enough.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(tried) == 1
    assert [str(error) for error in told] == ["it is away"] * 5
    assert all(error.passing for error in told)


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
        bus.stop(park(bus), by="\ud800")


def test_numbers_that_no_database_takes(bus: GateBus[Any]) -> None:
    """A cursor out of range finds what its order says."""
    gate_id = park(bus)
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
