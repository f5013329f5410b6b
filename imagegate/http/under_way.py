"""Limits what is under way through each link, so that no link uses up everything."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from .access import Refused


class UnderWay:
    """Counts what has begun and not ended yet, for each link and kind. Thread-safe.

    Args:
        most: how many of each kind one link may have under way.
    """

    def __init__(self, most: Mapping[str, int]) -> None:
        self._most = most
        self._lock = threading.Lock()  # guards the counts
        self._counts: Counter[tuple[str, str]] = Counter()

    def enter(self, link_id: str, kind: str) -> None:
        """One more begins. Raises `Refused` if there are too many."""
        with self._lock:
            if self._counts[link_id, kind] >= self._most[kind]:
                most = f"at most {self._most[kind]} of kind {kind!r} are under way for one link"
                raise Refused(429, most, 2)
            self._counts[link_id, kind] += 1

    def leave(self, link_id: str, kind: str) -> None:
        """One has ended."""
        with self._lock:
            self._counts[link_id, kind] -= 1
            if not self._counts[link_id, kind]:
                del self._counts[link_id, kind]

    def held(self, answer: Response, link_id: str, kind: str) -> Response:
        """The answer, counted until it has been sent: until then its body is in memory."""
        return _Counted(answer, lambda: self.leave(link_id, kind))


class _Counted(Response):
    def __init__(self, answer: Response, sent: Callable[[], None]) -> None:
        self._answer = answer
        self._sent = sent
        self.status_code = answer.status_code
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._answer(scope, receive, send)
        finally:
            self._sent()
