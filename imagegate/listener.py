"""A port of its own for an app that strangers may call, served in a thread of its own."""

from __future__ import annotations

import logging
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from .connection import Server
from .failures import report_failure

log = logging.getLogger("imagegate")

BACKLOG = 128
"""Connections that the system keeps until they are taken, and that are taken in one go."""
SECURE = "imagegate.secure"
"""In a request's scope: whether the person speaks HTTPS. Nothing that is sent decides it."""
SOURCE = "imagegate.source"
"""In a request's scope: the address it comes from, or `TUNNEL`. Nothing that is sent decides it."""
TUNNEL = "the tunnel"


@dataclass(frozen=True)
class Limits:
    """What strangers may take of a listener.

    Where there is no room for one more connection, the one that has been longest without a request
    makes room; where all are at work, the new one is closed.

    Attributes:
        connections: at once, in all; never more than a quarter of the files that this process may
            have open.
        each: connections at once from one address. From a tunnel all come from one, so that only
            ``connections`` counts there.
        head: seconds within which a request's head must be whole, from the connection's start or
            from its first byte after an answer.
        idle: seconds that a connection is kept on which nothing comes after an answer. Gradio's
            tunnel keeps its own for 60, and this end keeps them longer: it must never close one on
            which a click is just under way.
        stall: seconds that an answer is kept of which the other end takes nothing.
        head_size: bytes of a request's head.
    """

    connections: int = 512
    each: int = 64
    head: float = 10.0
    idle: float = 75.0
    stall: float = 60.0
    head_size: int = 16 * 2**10


LIMITS = Limits()


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket for uvicorn; port 0 takes a free one. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # asyncio sets this on sockets that name their protocol only, which create_server's do not.
    # Without it the body of every answer waits some 40 ms for the browser to confirm its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def address_in_network() -> str:
    """This machine's address in its network; empty where it is in none."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; an address that is nobody's (RFC 5737)
        return str(probe.getsockname()[0])
    return ""


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
