"""Several processes at one store: what they hear of each other, and what one leaves behind."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imagegate.core.model import (
    GateCancelled,
    Outcome,
    Selection,
    State,
    StoreError,
)
from imagegate.gate_bus import GateBus
from imagegate.storage.process import opener as opener_module
from imagegate.storage.sql import watcher as watcher_module
from imagegate.storage.sql.database import Database
from imagegate.storage.sql.watcher import Watcher
from imagegate.storage.sql_storage import SqlStorage
from tests.conftest import soon
from tests.support.postgres import PostgreSQL
from tests.support.stored import (
    PATIENCE,
    PLAIN,
    Store,
    gate,
    hears,
    kinds,
    park_one,
    sql,
    storage_of,
    store_of,
)


@pytest.fixture
def bus(store: Store) -> GateBus[Any]:
    return store.bus()


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

        gate_id = park_one(worker)
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
        parked = park_one(worker)
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
    park_one(needed, classes="Upscale")
    for bus in (worker, needed):
        storage_of(bus).close()
    sql(sleeper, "UPDATE workers SET seen_at = 1")
    bus = shared.bus()
    names = {worker.name for worker in store_of(bus).workers.each()}
    assert names - {"sleeper"} == {"here", "needed"}
    store_of(sleeper).workers.beat(storage_of(sleeper).id)  # it was only asleep
    assert "sleeper" in {w.name for w in store_of(bus).workers.each() if w.alive}


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
