"""How a `Listener` treats those who connect. The only module that relies on uvicorn's internals."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .listening import BACKLOG, SECURE, SOURCE, TUNNEL, Limits
from .server import GRACE, Server

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger("imagegate")

THREADS = 6
"""Threads that serve everybody who calls at one listener."""

# For what uvicorn logs about a connection: any stranger can provoke it, and the message of an
# error may hold a token.
_unheard = logging.Logger("imagegate.unheard", logging.CRITICAL + 1)


def server_of(app: ASGIApp, limits: Limits, secure: bool, started: Callable[[], None]) -> Server:
    """A server for an app, in which `Connection` handles each connection.

    Args:
        app: what is served.
        limits: what strangers may take.
        secure: see `Listener`.
        started: called in the server's thread once it answers.
    """

    class Own(Connection):
        room = Room(limits, each=not secure)

    server = Server(
        _Marked(app, secure),
        started,
        threads=THREADS,  # not the operator's, nor all of the processor
        http=Own,
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,  # the loggers belong to the process
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        h11_max_incomplete_event_size=limits.head_size,
        timeout_keep_alive=math.ceil(limits.idle) + 1,  # a connection knows its own time
        timeout_graceful_shutdown=1,
    )
    server.config.load()
    # Where the process logs everything, uvicorn wraps the app to log all that comes in.
    server.config.loaded_app = server.config.app
    return server


class Connection(H11Protocol):
    """One stranger's connection: plain HTTP/1.1, with limits on time."""

    room: ClassVar[Room]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _unheard
        self.access_log = False
        self.peer: str | None = None  # None: it was not let in
        self._timer: asyncio.TimerHandle | None = None
        self._unsent = 0  # bytes of answers when the timer was set
        self._silent = False  # since the last answer

    @property
    def waits(self) -> bool:
        """Whether it has neither a complete request nor an answer on its way."""
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy and self.cycle.more_body:
            return True  # its body may never come
        return not busy and not self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        peer = transport.get_extra_info("peername")
        name = str(peer[0]) if peer else ""
        if not self.room.enter(self, name):
            transport.abort()
            return
        self.peer = name
        super().connection_made(transport)
        self._set(self.room.limits.head)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.peer is None:
            return
        self._unset()
        self.room.leave(self)
        super().connection_lost(exc)

    def leave(self) -> None:
        """Close the connection, whatever is under way."""
        self.room.leave(self)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._silent:
            self._silent = False
            self._set(self.room.limits.head)
        try:
            super().data_received(data)
        except h11.LocalProtocolError:  # no HTTP, after the request was answered already
            self.leave()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is before:
            return
        # The head of a request has come. Its answer may have to wait for the one before.
        self._silent = False
        self._unset()
        if self.flow.write_paused:
            self._set(self.room.limits.stall)

    def on_response_complete(self) -> None:
        self._silent = True
        self.room.wait(self)
        self._set(self.room.limits.idle)
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set(self.room.limits.stall)

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.cycle.response_complete:
            self._unset()

    def shutdown(self) -> None:
        with suppress(h11.LocalProtocolError):  # it is being closed already
            super().shutdown()
        self._unset()
        self._timer = self.loop.call_later(GRACE, self.leave)

    def _set(self, seconds: float) -> None:
        self._unset()
        self._unsent = self.transport.get_write_buffer_size()
        if self._unsent:
            seconds = self.room.limits.stall
        self._timer = self.loop.call_later(seconds, self._late)

    def _unset(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self.transport.get_write_buffer_size() < self._unsent:
            self._set(self.room.limits.idle)  # a slow one, but it takes what it is sent
        else:
            self.leave()


class Room:
    """Who is connected to a listener, and who has to make room. Lives in the listener's thread.

    Args:
        limits: how many there may be.
        each: whether there is a limit for each address.
    """

    def __init__(self, limits: Limits, each: bool) -> None:
        self.limits = limits
        self._total = min(limits.connections, _quarter_of_files())
        self._each = limits.each if each else self._total
        # In the order in which they came or, later, began to wait for a request.
        self._all: dict[Connection, str] = {}
        self._of: dict[str, dict[Connection, None]] = {}

    def enter(self, connection: Connection, name: str) -> bool:
        """Whether there is room for one more from this address; another may be closed for it."""
        mine = self._of.get(name, {})
        if len(mine) >= self._each and not self._make_room(mine):
            return False
        if len(self._all) >= self._total and not self._make_room(self._all):
            return False
        self._all[connection] = name
        self._of.setdefault(name, {})[connection] = None
        return True

    def leave(self, connection: Connection) -> None:
        name = self._all.pop(connection, None)
        if name is not None:
            mine = self._of[name]
            del mine[connection]
            if not mine:
                del self._of[name]

    def wait(self, connection: Connection) -> None:
        """It has had its answer: all others that wait have now waited longer."""
        name = self._all.pop(connection, None)
        if name is not None:
            self._all[connection] = name
            self._of[name][connection] = self._of[name].pop(connection)

    def _make_room(self, among: dict[Connection, Any]) -> bool:
        longest = next((connection for connection in among if connection.waits), None)
        if longest is not None:
            longest.leave()
        return longest is not None


class _Marked:
    """Marks each request with where it comes from, and keeps the app's errors short in the log."""

    def __init__(self, app: ASGIApp, secure: bool) -> None:
        self._app = app
        self._secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client")
        scope[SECURE] = self._secure
        scope[SOURCE] = TUNNEL if self._secure else str(client[0]) if client else ""
        try:
            await self._app(scope, receive, send)
        except Exception as error:  # without its message, which may hold a token
            frames = "".join(traceback.format_tb(error.__traceback__))
            log.error(f"a request failed: %s\n{_literally(frames)}", type(error).__name__)


def _literally(text: str) -> str:
    return text.replace("%", "%%")  # in the format of a message


def _quarter_of_files() -> int:
    try:
        import resource
    except ImportError:  # on Windows
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(1, soft // 4)
