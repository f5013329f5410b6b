"""How often somebody may do something: changes in a minute, requests in a second."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..http.access import ASKED, Refused, session_secret

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

REQUESTS = (40.0, 100)
"""Requests a second, and at once, of one session; more have to wait."""
STRANGERS = (100.0, 300)
"""The same of all who have no session."""
SESSIONS = 1000
"""Sessions that are known as such, those that were heard of last."""
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


class Budget:
    """Lets so many requests a second through; more have to wait. Thread-safe.

    Nobody is refused, and so nobody kept out: who sends more at once than is let through waits
    longer, on connections of which there are only so many.

    Args:
        a_second: requests that are let through in the long run, from each who asks.
        burst: requests that are let through at once.
    """

    LONGEST = 5.0
    """Seconds that one waits at most."""

    def __init__(
        self, a_second: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._each = 1 / a_second
        self._free = burst / a_second
        self._clock = clock
        self._lock = threading.Lock()  # guards the next
        self._until: dict[str, float] = {}  # up to when what was let through lasts

    def delay(self, who: str) -> float:
        """Count a request; seconds that it has to wait."""
        now = self._clock()
        with self._lock:
            until = max(now, self._until.get(who, now)) + self._each
            self._until[who] = until = min(until, now + self._free + self.LONGEST)
            if len(self._until) > KEPT:
                self._until = {one: at for one, at in self._until.items() if at > now}
        return max(0.0, until - now - self._free)

    async def take(self, who: str) -> None:
        """Count a request, and wait until it is its turn."""
        delay = self.delay(who)
        if delay:
            await asyncio.sleep(delay)


class InTurn:
    """Has requests wait where there are too many, before anything is asked of a store.

    A session has a budget of its own once a request of it was let in: anybody can make one up.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._inside, self._strangers = Budget(*REQUESTS), Budget(*STRANGERS)
        self._lock = threading.Lock()  # guards the next
        self._known: dict[str, None] = {}  # hashes of sessions, the one that came last at the end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from starlette.datastructures import Headers

        secret = session_secret(scope, Headers(scope=scope))
        who = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
        if who in self._known:
            await self._inside.take(who)
        else:
            await self._strangers.take("")
        try:
            await self._app(scope, receive, send)
        finally:
            self._remember(who, ASKED in scope)

    def _remember(self, who: str, let_in: bool) -> None:
        with self._lock:
            self._known.pop(who, None)
            if let_in:
                self._known[who] = None
            if len(self._known) > SESSIONS:
                del self._known[next(iter(self._known))]
