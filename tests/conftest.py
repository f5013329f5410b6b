"""Shared by all tests: buses, stores, and a way to wait for what happens without sleeping."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx._config
import httpx2._config
import pytest

from imagegate.core import failures
from imagegate.gate_bus import GateBus
from tests.support.postgres import NoPostgreSQL, PostgreSQL
from tests.support.stored import PATIENCE, Store

for timeout in (httpx._config.DEFAULT_TIMEOUT_CONFIG, httpx2._config.DEFAULT_TIMEOUT_CONFIG):
    # Five seconds by default, which a busy machine can take to answer.
    timeout.connect = timeout.read = timeout.write = timeout.pool = PATIENCE

ATTACKS = Path(__file__).parent / "attacks"
LIVE = Path(__file__).parent / "live"


NOT_QUICK = ("slow", "browser", "postgres", "processes", "live")
"""Markers of tests that the everyday loop, ``-m quick``, leaves out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they need, so that nobody has to remember to."""
    for item in items:
        needs = set(getattr(item, "fixturenames", ()))
        params = getattr(getattr(item, "callspec", None), "params", {})
        if "postgresql" in needs or "postgresql" in map(str, params.values()):
            item.add_marker(pytest.mark.postgres)
        if "browser" in needs:
            item.add_marker(pytest.mark.browser)
        if ATTACKS in item.path.parents:  # each is fast, but there are a thousand
            item.add_marker(pytest.mark.slow)
        if LIVE in item.path.parents:
            item.add_marker(pytest.mark.live)
        if not any(item.get_closest_marker(name) for name in NOT_QUICK):
            item.add_marker(pytest.mark.quick)


class Watch:
    """Waits until something is true of a bus, looking again at each of its news."""

    def __init__(self, bus: Any) -> None:
        self.bus = bus
        self._changed = threading.Condition()
        self._subscription = bus.subscribe(self._look)

    def _look(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def until(self, true: Callable[[], Any], timeout: float = PATIENCE) -> Any:
        with self._changed:
            found = self._changed.wait_for(true, timeout)
        assert found, f"not within {timeout} s; open gates: {self.bus.pending()}"
        return found

    def gates(self, count: int) -> list[Any]:
        """The open gates, oldest first, as soon as there are ``count`` of them."""
        self.until(lambda: self.bus.count() == count)
        return [snapshot.gate for snapshot in self.bus.pending()]

    def close(self) -> None:
        self._subscription.close()


def soon(bus: GateBus[Any], true: Callable[[], Any]) -> None:
    """Wait until the news of a bus make it so."""
    watch = Watch(bus)
    try:
        watch.until(true)
    finally:
        watch.close()


@pytest.fixture(autouse=True)
def nothing_failed_yet() -> None:
    """What one test logs, the next one may log, too."""
    failures._failures.forget()


@pytest.fixture
def bus() -> GateBus[Any]:
    return GateBus()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A server of the tests' own. A test that stops or kills it need not start it again."""
    try:
        with PostgreSQL() as server:
            yield server
    except NoPostgreSQL as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> Iterator[str]:
    """An empty database."""
    postgresql.start()
    url = postgresql.create()
    yield url
    postgresql.start()
    postgresql.drop(url.rpartition("/")[2])


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A new store of each kind."""
    with new_store(request, request.param, tmp_path) as store:
        yield store


@pytest.fixture(params=["sqlite", "postgresql"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A new store of each kind that processes can share."""
    with new_store(request, request.param, tmp_path) as store:
        yield store


def new_store(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> Store:
    """A store of this kind, which the caller closes."""
    if kind == "postgresql":
        url = request.getfixturevalue("postgresql_url")
    else:
        url = "sqlite://" if kind == "memory" else f"sqlite:///{tmp_path}/gates.sqlite"
    return Store(kind, url, tmp_path / "pictures")


@pytest.fixture
def watch(bus: GateBus[Any]) -> Iterator[Watch]:
    watch = Watch(bus)
    yield watch
    watch.close()
