"""Serves an app on listening sockets: reports when it answers, and ends promptly."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from anyio import to_thread

GRACE = 0.5
"""Seconds that answers under way get to finish when a server ends."""


class Server(uvicorn.Server):
    """A uvicorn server that event streams cannot keep from ending.

    Args:
        app: the app; with ``factory``, a function that makes it.
        started: called in the server's thread once it answers.
        ending: called in another thread when it takes no more requests.
        farewell: seconds after that in which open pages can still learn of it.
        threads: the number of worker threads; None for the frameworks' default.
        settings: those of uvicorn.
    """

    def __init__(
        self,
        app: Any,
        started: Callable[[], None],
        *,
        ending: Callable[[], None] = lambda: None,
        farewell: float = 0.0,
        threads: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(uvicorn.Config(app, **settings))
        self._started = started
        self._ending = ending
        self._farewell = farewell
        self._threads = threads

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._threads is not None:
            to_thread.current_default_thread_limiter().total_tokens = self._threads
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(self._threads))
        await super().startup(sockets)
        if not self.should_exit:
            self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.to_thread(self._ending)
        if not self.force_exit:
            await asyncio.sleep(self._farewell)
        asyncio.get_running_loop().call_later(GRACE, self._cut_off)
        await super().shutdown(sockets)

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:  # also where it ends without a shutdown
            for server in getattr(self, "servers", ()):
                server.close()
            self._cut_off()

    def _cut_off(self) -> None:
        # Event streams never end by themselves; their pages connect again.
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
