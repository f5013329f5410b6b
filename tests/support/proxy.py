"""A reverse proxy in front of a server, as people put nginx there: another Host, or a sub path."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType

import aiohttp
from aiohttp import web

from tests.support.stored import PATIENCE


class Proxy:
    """Passes what comes to its port on to another, in a thread of its own.

    Args:
        port: of the server behind it, on loopback.
        host: makes the Host header that the server sees from the one that came.
        path: below which the server is found; it is taken off.
    """

    def __init__(self, port: int, host: Callable[[str], str], path: str = "") -> None:
        self._upstream = f"http://127.0.0.1:{port}"
        self._host = host
        self._path = path
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="proxy")
        self.port = 0

    def __enter__(self) -> Proxy:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._run())
        self._loop.close()

    async def _run(self) -> None:
        self._ended = asyncio.Event()
        app = web.Application(client_max_size=2**26)
        app.router.add_route("*", self._path + "/{tail:.*}", self._pass_on)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        async with aiohttp.ClientSession(auto_decompress=False) as self._client:
            self._ready.set()
            await self._ended.wait()
            await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        headers = request.headers.copy()
        headers["Host"] = self._host(request.host)
        path = request.raw_path[len(self._path) :]
        body = await request.read()
        try:
            async with self._client.request(
                request.method, self._upstream + path, headers=headers, data=body or None,
                allow_redirects=False, skip_auto_headers=("User-Agent", "Accept"),
            ) as answer:  # fmt: skip
                response = web.StreamResponse(status=answer.status)
                for name, value in answer.headers.items():
                    if name.lower() not in ("transfer-encoding", "connection"):
                        response.headers.add(name, value)
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                return response
        except (aiohttp.ClientError, ConnectionError):
            raise web.HTTPBadGateway from None
