"""A port of its own for an app that strangers may call, served in a thread of its own."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from ..core.failures import report_failure
from .sockets import LIMITS, Limits, listen

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from .connection import Server

log = logging.getLogger("imagegate")


class Listener:
    """Serves an app to whoever connects, within `Limits`.

    Requests carry `SECURE` and `SOURCE` in their scope. What proxies write into headers means
    nothing here. Nothing of a request is ever logged, as its path may hold a token.

    Args:
        app: what is served. An error that leaves it is logged without its message.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        secure: only a tunnel comes here, to which people speak HTTPS.
        limits: what may be taken of it.

    Attributes:
        port: the one it listens on.

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
        self._lock = threading.Lock()  # guards the next three
        self._server: Server | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def start(self) -> None:
        """Serve, once; returns when requests are answered."""
        from .connection import Server  # not before: it imports uvicorn

        answers: Future[None] = Future()
        server = Server(self._app, self._limits, self._secure, lambda: answers.set_result(None))
        thread = threading.Thread(
            target=self._serve, args=(server, answers), name="imagegate-listener", daemon=True
        )
        with self._lock:
            if self._closed or self._thread is not None:
                raise RuntimeError("a listener is started once, and not after it was closed")
            self._server, self._thread = server, thread
            thread.start()
        answers.result()

    def close(self) -> None:
        """End; streams that are still open, too."""
        with self._lock:
            self._closed = True
            server, thread = self._server, self._thread
        if server is not None:
            server.should_exit = True
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)
        self._socket.close()

    def _serve(self, server: Server, answers: Future[None]) -> None:
        try:
            server.run([self._socket])
        except BaseException as error:  # this is a thread's end; uvicorn leaves by SystemExit, too
            report_failure("a server of links failed", error)
            failure: BaseException = error
        else:
            failure = RuntimeError("it was closed before it had started")
        self._socket.close()
        if not answers.done():
            answers.set_exception(failure)
