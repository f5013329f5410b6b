"""Stores for tests: the buses over them, pictures that are nearly nothing, and time travel."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa

from imagegate import stored_bus as stored_bus_module
from imagegate.core.model import Gate
from imagegate.core.pictures import Picture
from imagegate.core.settings import Settings
from imagegate.storage.runs import Parked

PATIENCE = 10.0
"""Seconds until a test gives up; nothing waits that long unless it is broken."""


class StoredBus(stored_bus_module.StoredBus):
    """A bus over a store whose storage and open store are asked by the same name: for brevity."""

    def __getattr__(self, name: str) -> Any:
        if name == "storage":  # it is still being made
            raise AttributeError(name)
        return getattr(self.storage, name)

    @property
    def house(self) -> Any:
        return self.storage.store


def stored_bus(**given: Any) -> StoredBus:
    """A bus for tests that are about something else: all in memory, gone with its test.

    ``given``: fields of `Settings` that shall differ. Close it when done.
    """
    place = f"memory://{secrets.token_hex(8)}"
    settings = Settings(**{"store": "sqlite://", "pictures": place, "worker": "here", **given})
    return StoredBus(lambda: settings, classes=lambda: ["ImageGate"])


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
        self._buses: list[StoredBus] = []

    def settings(self, **given: Any) -> Settings:
        """Where it is, for one who is called ``here``."""
        known = {"store": self.url, "pictures": str(self.pictures), "worker": "here"}
        return Settings(**{**known, **given})

    def unopened(
        self, kind: str = "comfyui", classes: Collection[str] = ("ImageGate",), **given: Any
    ) -> StoredBus:
        """A bus that has not opened its store yet."""
        settings = self.settings(**given)
        bus = StoredBus(lambda: settings, kind=kind, classes=lambda: classes)
        self._buses.append(bus)
        return bus

    def bus(self, **given: Any) -> StoredBus:
        """A bus that is open, and hears what others do."""
        bus = self.unopened(**given)
        if self.kind == "memory":  # where there are no others
            assert bus.house
        else:
            hears(bus, lambda: bus.house)
        return bus

    def close(self) -> None:
        """Close all its buses."""
        for bus in self._buses:
            bus.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def hears(bus: StoredBus, after: Callable[[], object]) -> None:
    """Do something, and wait until the bus has looked at everything since."""
    looked = threading.Event()

    def look() -> None:
        if subscription.drain()[1]:
            looked.set()

    with bus.subscribe(look) as subscription:
        after()
        assert looked.wait(PATIENCE), "it does not hear of others"


def sql(bus: StoredBus, statement: str, **given: Any) -> Any:
    """Do to a store what no bus does. What it gives, if it asks."""
    with bus.house.database.write() as connection:
        found = connection.execute(sa.text(statement), given)
        return found.all() if found.returns_rows else None


def its_lease_runs_out(bus: StoredBus, gate_id: str) -> None:
    """Nobody has renewed the claim of this gate."""
    sql(bus, "UPDATE gates SET lease = 0 WHERE id = :id", id=gate_id)


@contextmanager
def statements(bus: StoredBus) -> Iterator[list[tuple[str, Any]]]:
    """What is executed meanwhile, with its parameters."""
    seen: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        seen.append((statement, parameters))

    engine = bus.house.database.engine
    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
