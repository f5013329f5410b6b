"""Events of streams, made once for all streams that send the same."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from anyio import to_thread

KEPT = 200
"""Events that are kept as they were made."""


class SharedEvents:
    """Makes each event once. For the streams of one loop."""

    def __init__(self) -> None:
        self._tasks: OrderedDict[Any, asyncio.Task[bytes]] = OrderedDict()

    async def once(self, key: Any, make: Callable[[], bytes], *, keep: bool) -> bytes:
        """What ``make`` makes, or has made. ``keep``: for those, too, who ask after that."""
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(to_thread.run_sync(make))
            while len(self._tasks) > KEPT:
                self._tasks.popitem(last=False)
        try:
            event = await asyncio.shield(task)
        except BaseException:
            self._drop(key, task)
            raise
        if not keep:
            self._drop(key, task)
        return event

    def _drop(self, key: Any, task: asyncio.Task[bytes]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]
