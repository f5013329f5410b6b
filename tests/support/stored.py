"""Stores for tests: buses over them, pictures that are nearly nothing, and time travel."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from imagegate.core.model import Gate
from imagegate.core.pictures import Picture
from imagegate.core.settings import Settings
from imagegate.gate_bus import GateBus
from imagegate.storage.open_store import OpenStore
from imagegate.storage.queries.runs import Parked
from imagegate.storage.sql_storage import SqlStorage

PATIENCE = 60.0
"""Seconds until a test gives up, on however busy a machine; what is right takes far less."""


def bus_over(
    settings: Settings, kind: str = "comfyui", classes: Collection[str] = ("ImageGate",)
) -> GateBus[Any]:
    """A bus over the store of these settings, which it has not opened yet."""
    return GateBus(SqlStorage(lambda: settings, kind=kind, classes=lambda: classes))


def storage_of(bus: GateBus[Any]) -> SqlStorage:
    """The storage of a bus over a store."""
    assert isinstance(bus.storage, SqlStorage)
    return bus.storage


def store_of(bus: GateBus[Any]) -> OpenStore:
    """The open store of a bus over one."""
    return storage_of(bus).store


def with_storage(bus: GateBus[Any]) -> tuple[GateBus[Any], SqlStorage]:
    """A bus over a store, and its storage."""
    return bus, storage_of(bus)


@contextmanager
def closing_store(bus: GateBus[Any]) -> Iterator[GateBus[Any]]:
    """A bus that leaves its store afterwards."""
    try:
        yield bus
    finally:
        storage_of(bus).close()


def stored_bus(**given: Any) -> GateBus[Any]:
    """A bus for tests that are about something else: all in memory, gone with its test.

    ``given``: fields of `Settings` that shall differ. Close its storage when done.
    """
    place = f"memory://{secrets.token_hex(8)}"
    settings = Settings(**{"store": "sqlite://", "pictures": place, "worker": "here", **given})
    return bus_over(settings)


class Plain:
    """Pictures of a gate that nobody looks at."""

    def preview(self, index: int) -> Picture:
        return Picture(b"\xff\xd8preview %d\xff\xd9" % index, "image/jpeg")

    def full(self, index: int) -> Picture:
        return Picture(b"full %d" % index, "image/png")

    def start_mask(self, index: int) -> bytes | None:
        return None


PLAIN = Plain()
FILES = (("preview-0", b"preview"), ("exact-0.png", b"exact"))
"""Of a parked gate."""


def gate(**given: Any) -> Gate:
    """A gate with two routes."""
    return Gate(**{"labels": ("keep", "fix"), "width": 8, "height": 6, **given})


def to_go_on(root: str = "", node: str = "2", **given: Any) -> Parked:
    """What is stored with a parked gate; of a run of its own."""
    prompt = {node: {"class_type": "ImageGate", "inputs": {}}}
    return Parked(**{"root": root or secrets.token_hex(4), "node": node, "prompt": prompt,
                     "extra": {}, **given})  # fmt: skip


class Store:
    """A store that any number of buses may share, each as if it were a process of its own.

    Attributes:
        kind: memory, sqlite or postgresql.
    """

    def __init__(self, kind: str, url: str, pictures: Path) -> None:
        self.kind, self.url, self.pictures = kind, url, pictures
        self._buses: list[GateBus[Any]] = []

    def settings(self, **given: Any) -> Settings:
        """Where it is, for one who is called ``here``."""
        known = {"store": self.url, "pictures": str(self.pictures), "worker": "here"}
        return Settings(**{**known, **given})

    def unopened(
        self, kind: str = "comfyui", classes: Collection[str] = ("ImageGate",), **given: Any
    ) -> GateBus[Any]:
        """A bus that has not opened its store yet."""
        bus = bus_over(self.settings(**given), kind, classes)
        self._buses.append(bus)
        return bus

    def bus(self, **given: Any) -> GateBus[Any]:
        """A bus that is open, and hears what others do."""
        bus = self.unopened(**given)
        if self.kind == "memory":  # where there are no others
            assert store_of(bus)
        else:
            hears(bus, lambda: store_of(bus))
        return bus

    def close(self) -> None:
        """Close all its buses."""
        for bus in self._buses:
            storage_of(bus).close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def hears(bus: GateBus[Any], after: Callable[[], object]) -> None:
    """Do something, and wait until the bus has looked at everything since."""
    looked = threading.Event()

    def look() -> None:
        if subscription.drain()[1]:
            looked.set()

    with bus.subscribe(look) as subscription:
        after()
        assert looked.wait(PATIENCE), "it does not hear of others"


def sql(bus: GateBus[Any], statement: str, **given: Any) -> Any:
    """Do to a store what no bus does. What it gives, if it asks."""
    with store_of(bus).database.write() as connection:
        found = connection.execute(sa.text(statement), given)
        return found.all() if found.returns_rows else None


def its_lease_runs_out(bus: GateBus[Any], gate_id: str) -> None:
    """Nobody has renewed the claim of this gate."""
    sql(bus, "UPDATE gates SET lease = 0 WHERE id = :id", id=gate_id)


@contextmanager
def statements(bus: GateBus[Any]) -> Iterator[list[tuple[str, Any]]]:
    """What this thread executes meanwhile, with its parameters."""
    seen: list[tuple[str, Any]] = []
    here = threading.get_ident()  # the store's own threads look after it now and then

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if threading.get_ident() == here:
            seen.append((statement, parameters))

    engine = store_of(bus).database.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)


def park_one(bus: GateBus[Any], root: str = "", classes: str = "ImageGate", **given: Any) -> str:
    """The id of a parked gate."""
    prompt = {"2": {"class_type": classes, "inputs": {}}}
    return storage_of(bus).parking.park(gate(**given), FILES, to_go_on(root, prompt=prompt)).gate.id


def kinds(bus: GateBus[Any], gate_id: str) -> list[str]:
    """The kinds of the lines of a gate's history."""
    return [line.kind for line in storage_of(bus).lines(gate_id)]
