"""A port of its own for an app that strangers may call, served in a thread of its own."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ...core.failures import report_failure
from ...core.loop import Loop
from .listening import LIMITS, Limits, listen

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from .server import Server

log = logging.getLogger("imagegate")


class Listener:
    """Serves an app to whoever connects, within `Limits`.

    Requests carry `SECURE` and `SOURCE` in their scope; headers that proxies write are ignored.
    Nothing about a request is ever logged, because its path may hold a token.

    Args:
        app: what is served. An error that leaves it is logged without its message.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        secure: whether only a tunnel connects, to which people speak HTTPS.
        limits: what strangers may use up.

    Attributes:
        port: the port it listens on.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(
        self, app: ASGIApp, host: str, port: int, *, secure: bool = False, limits: Limits = LIMITS
    ) -> None:
        self._app = app
        self._secure = secure
        self._limits = limits
        self._socket = listen(host, port)
        self.port: int = self._socket.getsockname()[1]
        self._server: Server | None = None
        self._answers: Future[None] = Future()
        self._loop = Loop("imagegate-listener", self._serve, waker=self._end)

    def start(self) -> None:
        """Start serving, once; returns when requests are answered."""
        from .connection import server_of  # not before: it imports uvicorn

        if self._server is not None or self._loop.closing:
            raise RuntimeError("a listener is started once, and not after it was closed")
        self._server = server_of(
            self._app, self._limits, self._secure, lambda: self._answers.set_result(None)
        )
        if not self._loop.start():  # it was closed at this moment
            raise RuntimeError("the listener was closed before it had started")
        self._answers.result()

    def close(self) -> None:
        """Stop serving, and cut off streams that are still open."""
        self._loop.close(5)
        self._socket.close()

    def _end(self) -> None:
        if self._server is not None:
            self._server.should_exit = True

    def _serve(self) -> None:
        assert self._server is not None
        try:
            self._server.run([self._socket])
        except BaseException as error:  # this is a thread's end; uvicorn leaves by SystemExit, too
            report_failure("a server of links failed", error)
            failure: BaseException = error
        else:
            failure = RuntimeError("it was closed before it had started")
        self._socket.close()
        if not self._answers.done():
            self._answers.set_exception(failure)
