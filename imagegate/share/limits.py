"""Rate limits: changes per minute, requests per second."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..http.access import VISITOR, Refused, session_secret

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

SESSION_BUDGET = (40.0, 100)
"""Requests of one session: per second in the long run, and at once; more have to wait."""
STRANGER_BUDGET = (100.0, 300)
"""The same for everybody without a session, together."""
SESSIONS = 1000
"""The most sessions that are remembered, those heard of last."""
MINUTE = 60.0
MOST_COUNTED = 1000
"""The number of counts from which those whose time has passed are dropped."""


class Pace:
    """Refuses more than so many changes per minute. Thread-safe.

    Args:
        a_minute: how many changes pass in a minute, which begins with the first.
        clock: returns seconds that never go back.
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
            if len(self._counts) > MOST_COUNTED:
                self._counts = {one: kept for one, kept in self._counts.items() if kept[0] > now}
        if count >= self._most:
            raise Refused(429, "Too fast. Try again in a moment.", max(1, round(ends - now)))


class Budget:
    """Lets so many requests per second pass; more have to wait. Thread-safe.

    Nobody is refused, and so nobody is locked out: whoever sends more at once waits longer, on a
    limited number of connections.

    Args:
        a_second: requests per second that pass in the long run, for each caller.
        burst: requests that pass at once.
    """

    LONGEST = 5.0
    """The most seconds that a request waits."""

    def __init__(
        self, a_second: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._each = 1 / a_second
        self._free = burst / a_second
        self._clock = clock
        self._lock = threading.Lock()  # guards the next
        self._until: dict[str, float] = {}  # until when the requests that passed use up the budget

    def delay(self, who: str) -> float:
        """Count a request; returns the seconds that it has to wait."""
        now = self._clock()
        with self._lock:
            until = max(now, self._until.get(who, now)) + self._each
            self._until[who] = until = min(until, now + self._free + self.LONGEST)
            if len(self._until) > MOST_COUNTED:
                self._until = {one: at for one, at in self._until.items() if at > now}
        return max(0.0, until - now - self._free)

    async def take(self, who: str) -> None:
        """Count a request, and wait for its turn."""
        delay = self.delay(who)
        if delay:
            await asyncio.sleep(delay)


class InTurn:
    """Makes requests wait when there are too many, before a store is read for them.

    A session gets a budget of its own once a request of it was let in: anybody can invent one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._inside, self._strangers = Budget(*SESSION_BUDGET), Budget(*STRANGER_BUDGET)
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
            self._remember(who, VISITOR in scope)

    def _remember(self, who: str, let_in: bool) -> None:
        with self._lock:
            self._known.pop(who, None)
            if let_in:
                self._known[who] = None
            if len(self._known) > SESSIONS:
                del self._known[next(iter(self._known))]
