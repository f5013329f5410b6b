"""Threads that meet at a bus at the same moment, or are held up in the middle."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from imagegate.core.model import (
    Answer,
)
from imagegate.storage.memory import MemoryStorage
from tests.support.stored import PATIENCE

alone = pytest.mark.parametrize("bus", ["alone"], indirect=True)
"""For what only the bus of one process does."""

RACES = 60


def races(bus: Any) -> range:
    """How often a race is run; every round in a store is several transactions."""
    return range(RACES if isinstance(bus.storage, MemoryStorage) else 10)


def together(*works: Callable[[], Any]) -> list[Any]:
    """Run all of them at the same moment; what each returned, or raised."""
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)

    def run(i: int, work: Callable[[], Any]) -> None:
        barrier.wait(PATIENCE)
        try:
            results[i] = work()
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=item) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    return results


class Held:
    """A record hook that stops in the middle until it is let on; it may then fail."""

    def __init__(self, *failures: Exception | None) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.failures = list(failures)
        self.answers: list[Answer] = []

    def __call__(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.entered.set()
        assert self.release.wait(PATIENCE)
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure


class Later:
    """Work in another thread, whose outcome is asked for later."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self.value: Any = None
        self._work = work
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.value = self._work()
        except Exception as error:
            self.value = error

    def result(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "it still waits"
        return self.value
