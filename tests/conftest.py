"""Shared by all tests: a bus, and a way to wait for what happens on it without sleeping."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from imagegate.gate_bus import GateBus

PATIENCE = 10.0
"""Seconds until a test gives up; nothing waits that long unless it is broken."""


class Watch:
    """Waits until something is true of a bus, looking again at each of its news."""

    def __init__(self, bus: GateBus[Any]) -> None:
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


@pytest.fixture
def bus() -> GateBus[Any]:
    return GateBus()


@pytest.fixture
def watch(bus: GateBus[Any]) -> Iterator[Watch]:
    watch = Watch(bus)
    yield watch
    watch.close()
