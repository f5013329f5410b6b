"""A PostgreSQL that is frozen: it keeps its connections and says nothing, until it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from playwright.sync_api import Browser, Page, expect

from imagegate.core.model import NoAnswer, Outcome, State, StoreError
from imagegate.gate_bus import GateBus
from imagegate.http.access import HostDoor
from imagegate.operator.rest import create_app
from imagegate.pictures.tensors import TensorPictures
from imagegate.storage.sql import deadline as deadline_module
from imagegate.storage.sql import postgresql as postgresql_module
from imagegate.storage.sql.database import Database
from imagegate.storage.sql.deadline import SOON, limited
from imagegate.storage.sql.postgresql import LimitedConnection
from tests.support.browser import PanelServer, chromium, pages
from tests.support.postgres import PostgreSQL
from tests.support.stored import FILES, PLAIN, Store, gate, sql, storage_of, store_of, to_go_on

API = "/imagegate/api"
PNG = {"content-type": "image/png"}
FOREVER = 60.0
"""Seconds that no test waits, however busy the machine is."""


@pytest.fixture
def bus(postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path) -> Iterator[GateBus[Any]]:
    with Store("postgresql", postgresql_url, tmp_path / "pictures") as store:
        try:
            yield store.bus()
        finally:
            postgresql.thaw()


@pytest.fixture
def client(bus: GateBus[Any]) -> Iterator[TestClient]:
    app = create_app(bus, HostDoor(), records=storage_of(bus))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@contextmanager
def frozen(postgresql: PostgreSQL) -> Iterator[None]:
    postgresql.freeze()
    try:
        yield
    finally:
        postgresql.thaw()


def parked(bus: GateBus[Any], **given: Any) -> str:
    return storage_of(bus).parking.park(gate(**given), FILES, to_go_on()).gate.id


def test_a_click_is_refused_while_it_is_frozen(
    postgresql: PostgreSQL, bus: GateBus[Any], client: TestClient
) -> None:
    """503, with words that say so, while the server is still frozen; after the thaw it counts,
    once, however often it was sent.
    """
    gate_id = parked(bus)
    decision = f"{API}/gates/{gate_id}/decision"
    with frozen(postgresql):
        for _ in range(2):
            answer = client.post(decision, json={"route": 1, "by": "Ann", "key": "click"})
            assert answer.status_code == 503
            assert "the store does not answer" in answer.json()["error"]
        for call in (
            client.get(f"{API}/gates"),
            client.get(f"{API}/status"),
            client.put(f"{API}/gates/{gate_id}/mask/0", content=b"x", headers=PNG),
            client.post(f"{API}/gates/{gate_id}/undo", json={}),
        ):  # fmt: skip
            assert call.status_code == 503
    outcomes: list[str] = []
    until = time.monotonic() + FOREVER
    while len(outcomes) < 2 and time.monotonic() < until:
        answer = client.post(decision, json={"route": 1, "by": "Ann", "key": "click"})
        if answer.status_code == 200:
            outcomes.append(answer.json()["outcome"])
    assert outcomes in (["won", "replay"], ["replay", "replay"])
    assert [line.kind for line in storage_of(bus).lines(gate_id)] == ["published", "decided"]


@pytest.mark.parametrize("when", ["before", "between", "commit"])
def test_frozen_at_each_moment(
    postgresql: PostgreSQL, bus: GateBus[Any], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it freezes before the click, in the middle of it, or as it is made durable: the click
    is refused, the server is found as it is, and the same click counts once.
    """
    gate_id = parked(bus)
    gates, database = store_of(bus).gates, store_of(bus).database
    line = gates._line

    def froze(*given: Any) -> int:
        number = line(*given)
        postgresql.freeze()
        return number

    if when == "before":
        postgresql.freeze()
    elif when == "between":
        monkeypatch.setattr(gates, "_line", froze)
    else:
        masks = gates._masks

        def last(*given: Any) -> Any:
            found = masks(*given)
            postgresql.freeze()
            return found

        monkeypatch.setattr(gates, "_masks", last)
    with limited(SOON), pytest.raises(NoAnswer):
        bus.decide(gate_id, 1, by="Ann", key="click")
    with limited(SOON), pytest.raises(NoAnswer):
        bus.count()
    monkeypatch.undo()
    postgresql.thaw()
    verdict = None
    until = time.monotonic() + FOREVER
    while verdict is None and time.monotonic() < until:
        try:
            verdict = bus.decide(gate_id, 1, by="Ann", key="click")
        except StoreError as error:
            assert error.passing  # noqa: PT017
    assert verdict is not None
    assert verdict.outcome in (Outcome.WON, Outcome.REPLAY)
    assert [line.kind for line in storage_of(bus).lines(gate_id)] == ["published", "decided"]
    assert not database._silent


def test_one_asks_and_the_others_know(postgresql: PostgreSQL, bus: GateBus[Any]) -> None:
    """While it is silent only one call waits for it; the others are told without waiting."""
    with frozen(postgresql), limited(SOON):
        with pytest.raises(NoAnswer):
            store_of(bus).gates.count()
        database = store_of(bus).database
        assert database._asks.acquire(blocking=False)  # somebody asks it
        try:
            for _ in range(200):  # that waited, these would take a quarter of an hour
                with pytest.raises(NoAnswer):
                    store_of(bus).gates.count()
        finally:
            database._asks.release()


def test_a_prompt_outlasts_it(postgresql: PostgreSQL, bus: GateBus[Any]) -> None:
    """A prompt that comes to its gate meanwhile waits for the store, longer than a person would,
    and none that waits is lost.
    """
    waiting = bus.publish(gate(), PLAIN)
    bus.count()
    postgresql.freeze()
    with ThreadPoolExecutor(1) as prompt:
        asked = prompt.submit(lambda: bus.publish(gate(), PLAIN))
        with limited(SOON), pytest.raises(NoAnswer):  # so long it takes at least
            store_of(bus).gates.count()
        assert not asked.done()
        postgresql.thaw()
        ticket = asked.result(FOREVER)
    for one in (waiting, ticket):
        assert bus.get(one.gate.id).state is State.WAITING
        bus.decide(one.gate.id, 2)
        assert one.future.result(FOREVER).decision.route == 2


def test_a_patient_call_ends_too(
    postgresql: PostgreSQL, bus: GateBus[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody waits for ends as well, if it is frozen for long."""
    with frozen(postgresql), limited(0.5), pytest.raises(NoAnswer):
        store_of(bus).gates.count()
    assert store_of(bus).gates.count() == 0
    assert deadline_module.PATIENT < 600


def test_a_store_that_is_frozen_when_it_is_opened(
    postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path
) -> None:
    """Whoever opens it, and whoever waits for that, is told; after the thaw it opens."""
    with Store("postgresql", postgresql_url, tmp_path / "pictures") as store:
        bus = store.unopened()
        with frozen(postgresql):
            told: list[StoreError] = []

            def asks() -> None:
                with limited(SOON), pytest.raises(NoAnswer) as caught:
                    bus.count()
                told.append(caught.value)

            people = [threading.Thread(target=asks) for _ in range(3)]
            for person in people:
                person.start()
            for person in people:
                person.join(FOREVER)
            assert len(told) == 3
        until = time.monotonic() + FOREVER
        while time.monotonic() < until:
            try:
                assert bus.count() == 0
                break
            except NoAnswer:
                continue


def test_a_lock_that_somebody_holds(
    postgresql: PostgreSQL, postgresql_url: str, bus: GateBus[Any]
) -> None:
    """A row that a stopped process has locked costs a person seconds, and the reason is said."""
    gate_id = parked(bus)
    with postgresql.connect(postgresql_url.rpartition("/")[2]) as other:
        other.autocommit = False
        other.execute("UPDATE gates SET version = version WHERE id = %s", (gate_id,))
        with limited(SOON), pytest.raises(StoreError) as caught:
            bus.decide(gate_id, 1)
        assert caught.value.passing
        other.rollback()
    assert bus.decide(gate_id, 1).outcome is Outcome.WON


def test_a_migration_is_not_cut_short(postgresql: PostgreSQL, bus: GateBus[Any]) -> None:
    """The limits of a connection are those that are set; a migration has none."""
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    with store_of(bus).database.read() as connection:
        shown = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]
    assert shown == ["1min", "4s", "30s"]
    with store_of(bus).database.write(600) as connection:
        from imagegate.storage.sql.postgresql import without_limits

        without_limits(connection)
        shown = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names[:2]]
    assert shown == ["0", "0"]
    assert sql(bus, "SELECT count(*) FROM gates") == [(0,)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def server(bus: GateBus[Any], postgresql: PostgreSQL) -> Iterator[PanelServer]:
    server = PanelServer(bus, records=storage_of(bus))
    yield server
    postgresql.thaw()
    server.stop()


@pytest.fixture
def new_page(browser: Browser, server: PanelServer) -> Iterator[Callable[..., Page]]:
    with pages(browser, server.url) as open_page:
        yield open_page


def test_the_page_says_so_and_sends_it_again(
    postgresql: PostgreSQL, bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """The page says that the store does not answer, and sends the click again by itself: after the
    thaw it has counted, once.
    """
    # Real pixels: on an image that cannot be shown, a route has to be pressed twice.
    ticket = bus.publish(gate(title="Sky"), TensorPictures(torch.rand(1, 6, 8, 3)))
    page = new_page()
    page.wait_for_function("document.querySelector('#ig-image')?.naturalWidth > 0")
    page.evaluate("() => new Promise((done) => setTimeout(done, 1200))")
    postgresql.freeze()
    page.locator("#ig-route-1").click()
    status = page.locator("#ig-status")
    expect(status).to_contain_text("the store does not answer", timeout=FOREVER * 1000)
    assert not ticket.future.done()
    postgresql.thaw()
    assert ticket.future.result(FOREVER).decision.route == 1
    expect(page.locator("#ig-history")).to_contain_text("Sky", timeout=FOREVER * 1000)
    assert [line.kind for line in storage_of(bus).lines(ticket.gate.id)] == ["published", "decided"]


def test_a_connection_that_cannot_be_set_up(
    bus: GateBus[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that a server does not let be set up as it has to be is closed."""
    made: list[LimitedConnection] = []
    connect = LimitedConnection.connect

    def noted(**given: Any) -> LimitedConnection:
        made.append(connect(**given))
        return made[-1]

    monkeypatch.setattr(LimitedConnection, "connect", noted)
    monkeypatch.setitem(postgresql_module._SESSION, "no_such_setting", 1)
    database = store_of(bus).database
    with pytest.raises(StoreError, match="no_such_setting"):
        Database(database.engine.url.render_as_string(hide_password=False), "another")
    assert [one.closed for one in made] == [True]


def test_a_store_that_is_closed_during_a_transaction(bus: GateBus[Any]) -> None:
    """A connection that is in use when its store is closed is closed when it is given back."""
    database = store_of(bus).database
    with database.read() as connection:
        used = connection.connection.driver_connection
        database.close()
        assert used is not None
        assert not used.closed
    assert used.closed
