"""News for whoever listens. Standard library only.

Adding news happens under the bus's lock, so that all listeners get them in the order in which
things happened; calling the listeners happens after it is released, so that none of them can block
the bus.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from .failures import report_failure
from .model import Snapshot

KEPT_NEWS = 1_000
"""News a subscriber may leave unread before the oldest are lost to it."""


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
    """Hands news to all subscriptions.

    Args:
        lock: the bus's; it also guards what is in here.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock
        self._subscriptions: set[Subscription] = set()

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

    def add(self, news: News) -> list[Subscription]:
        """Add news for everybody. The caller holds the lock, and calls `tell` without it."""
        for subscription in self._subscriptions:
            subscription.missed |= len(subscription.unread) == subscription.unread.maxlen
            subscription.unread.append(news)
        return list(self._subscriptions)

    def lose(self) -> list[Subscription]:
        """Have everybody read the current state anew. The caller does as after `add`."""
        for subscription in self._subscriptions:
            subscription.missed = True
        return list(self._subscriptions)


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


def tell(subscriptions: list[Subscription]) -> None:
    """Call the listeners that `Feed.add` named."""
    for subscription in subscriptions:
        if subscription.closed:
            continue
        try:
            subscription.notify()
        except Exception as error:  # one listener's trouble is not the others'
            report_failure("a listener of the gate bus failed", error)
