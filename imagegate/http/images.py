"""Images for requests: made in threads, only so many at a time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from anyio import CapacityLimiter, to_thread
from fastapi.responses import Response

from ..core.model import BadAnswer
from ..core.pictures import Picture

REMARKS = "imagegate-remarks"
"""The header of an image that says what people should know about it: a JSON list of sentences."""

T = TypeVar("T")


class Turns:
    """Runs calls in threads, only so many at a time. Waiting for a turn holds no thread.

    Two listeners may serve one app, each in a loop of its own, and a limiter belongs to one loop.

    Args:
        at_a_time: the most calls that run at once, in each loop.
    """

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time
        self._lock = threading.Lock()  # guards the next
        self._limiters: WeakKeyDictionary[Any, CapacityLimiter] = WeakKeyDictionary()

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns, once it has had its turn."""
        loop = asyncio.get_running_loop()
        with self._lock:
            limiter = self._limiters.get(loop)
            if limiter is None:
                limiter = self._limiters[loop] = CapacityLimiter(self._at_a_time)
        return await to_thread.run_sync(call, limiter=limiter)


class Easel:
    """Makes pictures for requests, only so many at a time.

    This way they use up neither the memory nor the threads that answer.

    Args:
        at_a_time: the most pictures made at once, for each size by its name.
    """

    def __init__(self, at_a_time: Mapping[str, int]) -> None:
        self._turns = {size: Turns(most) for size, most in at_a_time.items()}

    def check(self, size: str) -> None:
        """Raises `BadAnswer` if there is no such size."""
        if size not in self._turns:
            *most, last = map(repr, self._turns)
            raise BadAnswer(f"size is {size!r}; allowed are {', '.join(most)} and {last}")

    async def make(
        self, size: str, picture: Callable[[], Picture], headers: Mapping[str, str]
    ) -> Response:
        """The answer with a picture, once it is its turn."""
        made = await self._turns[size].run(picture)
        if made.remarks:
            headers = {**headers, REMARKS: json.dumps(made.remarks)}
        return Response(made.body, media_type=made.media_type, headers=headers)
