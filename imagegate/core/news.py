"""News for whoever listens. Standard library only.

News are added under a lock, so that all listeners get them in the same order; listeners are called
after it is released, so that none of them can block the bus.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from .failures import report_failure
from .model import Selection, Snapshot

KEPT_NEWS = 1_000
"""News a subscriber may leave unread before the oldest are lost to it."""
REMEMBERED = 10_000
"""Gates whose last announced version is remembered."""
MOST_COUNTS = 1_000
"""Counts that are kept."""


@dataclass(frozen=True)
class News:
    """One thing that happened. ``kind`` is published, masked, decided or withdrawn."""

    kind: str
    gate: Snapshot


class Subscription:
    """News for one listener, who drains it at leisure.

    ``notify`` is called (without a lock, from any thread) after news was added; it must return
    quickly. A listener that reads too slowly loses the oldest news, and `drain` tells it so: then
    it asks the bus for the current state, which is never lost.
    """

    def __init__(self, feed: Feed, notify: Callable[[], None], limit: int) -> None:
        self._feed = feed
        self.unread: deque[News] = deque(maxlen=limit)  # guarded by the feed's lock
        self.missed = False  # likewise
        self.closed = False
        self.notify = notify

    def drain(self) -> tuple[list[News], bool]:
        """All unread news, oldest first, and whether some were lost before them."""
        with self._feed.lock:
            news, missed = list(self.unread), self.missed
            self.unread.clear()
            self.missed = False
        return news, missed

    def close(self) -> None:
        """No more news; ``notify`` is not called again, though a call may be under way."""
        self.closed = True
        self._feed.remove(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Feed:
    """Hands news to all subscriptions, each once and in the order of the gates' versions.

    Thread-safe.
    """

    def __init__(self) -> None:
        # Guards all below, and all unread news. No listener is called while it is held.
        self.lock = threading.Lock()
        self._subscriptions: set[Subscription] = set()
        self._versions: OrderedDict[str, int] = OrderedDict()  # gate id -> version last announced

    def __len__(self) -> int:
        with self.lock:
            return len(self._subscriptions)

    def subscribe(self, notify: Callable[[], None], limit: int) -> Subscription:
        """A new subscription, to what happens from now on."""
        subscription = Subscription(self, notify, limit)
        with self.lock:
            self._subscriptions.add(subscription)
        return subscription

    def remove(self, subscription: Subscription) -> None:
        """Forget a subscription."""
        with self.lock:
            self._subscriptions.discard(subscription)

    def announce(self, news: Iterable[News]) -> None:
        """Add news for everybody, and call the listeners."""
        listeners: list[Subscription] = []
        with self.lock:
            for item in news:
                if self._is_new(item.gate):
                    listeners = self._add(item)
            while len(self._versions) > REMEMBERED:
                self._versions.popitem(last=False)
        _call(listeners)

    def lose(self) -> None:
        """Make every subscriber read the current state again: it may have missed something."""
        with self.lock:
            for subscription in self._subscriptions:
                subscription.missed = True
            listeners = list(self._subscriptions)
        _call(listeners)

    def _is_new(self, gate: Snapshot) -> bool:
        # Two threads may come here in another order than that of their changes.
        if gate.version <= self._versions.get(gate.gate.id, 0):
            return False
        self._versions[gate.gate.id] = gate.version
        self._versions.move_to_end(gate.gate.id)
        return True

    def _add(self, news: News) -> list[Subscription]:
        for subscription in self._subscriptions:
            subscription.missed |= len(subscription.unread) == subscription.unread.maxlen
            subscription.unread.append(news)
        return list(self._subscriptions)


class Counts:
    """How many gates wait, as it was last counted. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the two below; nothing is counted while it is held
        self._known: dict[Selection, int] = {}
        self._changes = 0

    def get(self, among: Selection, count: Callable[[], int]) -> int:
        """What ``count`` said since the last change."""
        with self._lock:
            known, changes = self._known.get(among), self._changes
        if known is None:
            known = count()
            with self._lock:
                if changes == self._changes:
                    self._known[among] = known
                    if len(self._known) > MOST_COUNTS:
                        del self._known[next(iter(self._known))]
        return known

    def clear(self) -> None:
        """Something has changed."""
        with self._lock:
            self._known.clear()
            self._changes += 1


class Bell:
    """Calls whoever listens, without saying what happened. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the listeners; none is called while it is held
        self._listeners: list[Callable[[], None]] = []

    def listen(self, notify: Callable[[], None]) -> Callable[[], None]:
        """Call ``notify``, from any thread, at each ring; returns what ends that."""
        with self._lock:
            self._listeners.append(notify)

        def end() -> None:
            with self._lock, suppress(ValueError):  # it was ended before
                self._listeners.remove(notify)

        return end

    def ring(self) -> None:
        """Call all listeners."""
        with self._lock:
            listeners = list(self._listeners)
        for notify in listeners:
            try:
                notify()
            except Exception as error:  # one listener's trouble is not the others'
                report_failure("a listener failed", error)


def _call(subscriptions: list[Subscription]) -> None:
    for subscription in subscriptions:
        if subscription.closed:
            continue
        try:
            subscription.notify()
        except Exception as error:  # one listener's trouble is not the others'
            report_failure("a listener of the gate bus failed", error)
