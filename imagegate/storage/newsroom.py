"""What a process tells of a store's gates, and how many wait. Standard library only."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

from ..core.model import Selection, Snapshot
from ..core.news import Feed, News, Subscription, tell

REMEMBERED = 10_000
"""Gates of which it is remembered what was told last."""


class Newsroom:
    """Tells listeners of changes, each once and in the order of their versions. Thread-safe."""

    def __init__(self) -> None:
        # Guards all below, and all unread news. Nobody is called while it is held.
        self._lock = threading.Lock()
        self.feed = Feed(self._lock)
        self._told: OrderedDict[str, int] = OrderedDict()  # gate id -> version last told
        self._counts: dict[Selection, int] = {}  # until something changes
        self._changes = 0

    def announce(self, news: Iterable[tuple[str, Snapshot]]) -> None:
        """Tell of gates as they are now, each with the kind of the news."""
        told: list[Subscription] = []
        with self._lock:
            self._changed()
            for kind, gate in news:
                # Two threads may come here in another order than that of their transactions.
                if self._told.get(gate.gate.id, 0) < gate.version:
                    self._told[gate.gate.id] = gate.version
                    self._told.move_to_end(gate.gate.id)
                    told = self.feed.add(News(kind, gate))
            while len(self._told) > REMEMBERED:
                self._told.popitem(last=False)
        tell(told)

    def lose(self) -> None:
        """More may have changed than is known: have everybody read the current state anew."""
        with self._lock:
            self._changed()
            told = self.feed.lose()
        tell(told)

    def count(self, among: Selection, ask: Callable[[], int]) -> int:
        """How many gates wait there: as ``ask`` said since the last change."""
        with self._lock:
            known, changes = self._counts.get(among), self._changes
        if known is None:
            known = ask()
            with self._lock:
                if changes == self._changes:
                    self._counts[among] = known
        return known

    def _changed(self) -> None:
        self._counts.clear()
        self._changes += 1
