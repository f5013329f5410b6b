"""How often somebody may do something: changes in a minute. Standard library only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .access import Refused

MINUTE = 60.0
KEPT = 1000
"""Counts after which those whose minute has passed are dropped."""


class Pace:
    """Holds back who asks for more than so many changes a minute. Thread-safe.

    Args:
        a_minute: how many are let through in a minute, which begins with the first.
        clock: gives seconds that never go back.
    """

    def __init__(self, a_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = a_minute
        self._clock = clock
        self._lock = threading.Lock()  # guards the counts
        self._counts: dict[str, tuple[float, int]] = {}  # when its minute ends, changes in it

    def keep(self, who: str) -> None:
        """Count a change. Raises `Refused` if there were too many."""
        now = self._clock()
        with self._lock:
            ends, count = self._counts.get(who, (0.0, 0))
            if now >= ends:
                ends, count = now + MINUTE, 0
            self._counts[who] = ends, count + 1
            if len(self._counts) > KEPT:
                self._counts = {one: kept for one, kept in self._counts.items() if kept[0] > now}
        if count >= self._most:
            raise Refused(429, "Too fast. Try again in a moment.", max(1, round(ends - now)))
