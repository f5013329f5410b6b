"""Notices what other processes do in a store: by NOTIFY in PostgreSQL, by polling SQLite.

A notice is a hint, the row is the truth. Whatever may have been missed (before the first look,
while the connection was away) is made up for by looking at everything again.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ...core.failures import report_failure
from ...core.loop import Backoff, Loop
from ..queries.gates import GateStore
from .database import NOTIFIED, Database

LOOK = 0.05
"""Seconds between looks at SQLite, which reports no changes: one number, read from memory."""
ALIVE = 10.0
"""Seconds of silence after which a connection to PostgreSQL is tried."""
PAUSES = (0.1, 0.5, 1.0, 2.0)
"""Seconds between attempts to connect again."""
AGAIN = 1.0
"""Seconds at least from one look at everything to the next that somebody asks for."""
LINK = "link"
"""The kind of a notice that is about share links, not about a gate."""
MANY = 500
"""More changes than this at once are not reported one by one."""

log = logging.getLogger("imagegate")


class Watcher:
    """A thread that reports what other processes do.

    Args:
        heard: called with changes of other processes: gate id -> kind of its newest line.
        lost_sight: called when changes may have been missed.
        look: called when something else than gates may have changed.
    """

    def __init__(
        self,
        database: Database,
        gates: GateStore,
        heard: Callable[[Mapping[str, str]], None],
        lost_sight: Callable[[], None],
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._gates = gates
        self._heard = heard
        self._lost_sight = lost_sight
        self._look_at_rest = look
        self._doubt = threading.Event()
        self._looked = -AGAIN  # when everything was last looked at
        self._backoff = Backoff(PAUSES)  # since it last had a connection
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._loop = Loop("imagegate-watcher", self._run, waker=self._ring)

    def start(self) -> None:
        """Begin."""
        self._loop.start()

    def close(self) -> None:
        """End, and wait until it has."""
        self._loop.close()
        self._waker.close()
        self._woken.close()

    def look_again(self) -> None:
        """Look at everything soon: something was missed, or could not be done."""
        self._doubt.set()
        self._loop.wake()

    def _ring(self) -> None:
        with suppress(OSError):  # it is woken already, or has ended
            self._waker.send(b"x")

    def _run(self) -> None:
        while not self._loop.closing:
            try:
                if self._database.in_memory:
                    self._wait()
                    continue
                connection = self._database.watch()
                try:
                    watch = self._listen if self._database.postgresql else self._look
                    watch(connection)
                finally:
                    connection.close()
            except Exception as error:
                if isinstance(error, self._database.driver_error):
                    error = self._database.explained(error)
                if not self._loop.closing:
                    report_failure("no news of other processes for now", error)
                self._loop.pause(self._backoff.fail())

    def _see(self) -> None:
        """Look at everything."""
        self._doubt.clear()
        self._looked = time.monotonic()
        self._lost_sight()
        self._look_at_rest()
        if self._backoff.failures:
            log.info("news of other processes come again")
        self._backoff.reset()

    def _rest(self) -> float:
        """Look again if there is doubt, but not all the time; seconds until that is needed next."""
        if not self._doubt.is_set():
            return ALIVE
        rest = self._looked + AGAIN - time.monotonic()
        if rest > 0:
            return rest
        self._see()
        return AGAIN if self._doubt.is_set() else ALIVE

    # -- in memory

    def _wait(self) -> None:
        """Without other processes, only retry what could not be done."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._loop.closing:
                if selector.select(self._rest()):
                    self._woken.recv(4096)

    # -- PostgreSQL

    def _listen(self, connection: Any) -> None:
        """Watch until the connection breaks. It listens already, so nothing is missed."""
        notices: list[str] = []
        connection.add_notify_handler(lambda notice: notices.append(notice.payload))
        self._see()
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._loop.closing:
                ready = selector.select(self._rest())
                if any(key.fileobj is self._woken for key, _ in ready):
                    self._woken.recv(4096)
                if not ready:
                    connection.execute("SELECT 1")  # a dead network says nothing by itself
                connection.pgconn.consume_input()
                while notice := connection.pgconn.notifies():
                    notices.append(notice.extra.decode())
                self._tell([tuple(notice.split(" ", 2)) for notice in notices])
                notices.clear()

    # -- SQLite

    def _look(self, connection: Any) -> None:
        """Until the database cannot be read."""
        version = self._version(connection)
        last = self._gates.last_line()
        self._see()
        while not self._loop.pause(LOOK):
            self._database.check_file()
            self._rest()
            now = self._version(connection)
            if now == version:
                continue
            version = now
            while lines := self._gates.lines_after(last):
                last = lines[-1].id
                self._tell([(line.origin, line.kind, line.gate_id) for line in lines])
            self._look_at_rest()

    @staticmethod
    def _version(connection: Any) -> int:
        return int(connection.execute("PRAGMA data_version").fetchone()[0])

    # -- both

    def _tell(self, changes: list[Any]) -> None:
        others = [c[1:] for c in changes if len(c) == 3 and c[0] != self._database.origin]
        if any(kind == LINK for kind, _ in others):
            self._look_at_rest()
        kinds = {gate_id: kind for kind, gate_id in others if kind not in (LINK, NOTIFIED)}
        if len(kinds) > MANY:
            self._lost_sight()
        elif kinds:
            self._heard(kinds)
