"""Connections to PostgreSQL that never wait for ever, even for a server that is frozen.

Such a server keeps its connections: the network notices nothing, and the time limits that the
server is asked to keep do not run. So the time is kept on this side as well.

The only module that imports psycopg; it is imported when a store in PostgreSQL is opened.
"""

from __future__ import annotations

import select
import time
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError

from .deadline import CHECKED_WITHIN, SOON, hurried, left

# Seconds, and milliseconds: a network that has died says nothing by itself.
_CONNECTION = {
    "application_name": "imagegate", "connect_timeout": 5, "keepalives_idle": 10,
    "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000,
}  # fmt: skip
# Milliseconds. The last is for a process that was stopped in the middle and holds locks.
_SESSION = {
    "statement_timeout": 60_000, "lock_timeout": 4_000,
    "idle_in_transaction_session_timeout": 30_000,
}  # fmt: skip
_PASSING_CLASSES = ("08", "40", "57")
"""Of SQLSTATE: no connection, rolled back because of others, an operator intervened."""
_PASSING_STATES = ("25P03", "53200", "53300", "55P03")
"""Idle for too long, out of memory, too many connections, a lock is held by others."""


class NoAnswer(psycopg.OperationalError):
    """The server did not answer in time. The connection is closed: nobody knows its state."""


class LimitedConnection(psycopg.Connection[Any]):
    """A connection on which nothing waits longer than `imagegate.storage.sql.deadline.left`."""

    def wait(self, gen: Any, *_: Any, **__: Any) -> Any:
        """Run one exchange with the server, as psycopg's own ``wait`` does, but not for ever."""
        until = time.monotonic() + left()
        try:
            wanted = next(gen)
            while True:
                try:
                    ready = _ready(self.pgconn.socket, int(wanted), until)
                except BaseException:  # in the middle of an exchange, so it is of no use any more
                    self.pgconn.finish()
                    raise
                wanted = gen.send(ready)
        except StopIteration as ended:
            return ended.value


def _ready(socket: int, wanted: int, until: float) -> int:
    """Wait until a socket can be read (1) or written (2), as is wanted. Raises `NoAnswer`."""
    reads, writes = ([socket] if wanted & flag else [] for flag in (1, 2))
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(socket, (select.POLLIN if reads else 0) | (select.POLLOUT if writes else 0))
        while (rest := until - time.monotonic()) > 0:
            for _, found in poll.poll(rest * 1000):
                able = 2 if found & select.POLLOUT else 0
                # A connection that is gone can be read: then it says so.
                return able | (1 if found & ~select.POLLOUT else 0)
    else:
        rest = max(0.0, until - time.monotonic())
        can_read, can_write, _ = select.select(reads, writes, [], rest)
        if can_read or can_write:
            return (1 if can_read else 0) | (2 if can_write else 0)
    raise NoAnswer("it does not answer")


def create_engine(url: sa.URL) -> sa.Engine:
    """An engine with such connections. Raises `ArgumentError` for another driver than psycopg."""
    if url.get_driver_name() != "psycopg":
        raise ArgumentError(f"{url.drivername} is not supported")
    settings = {key: value for key, value in _CONNECTION.items() if key not in url.query}
    engine = sa.create_engine(
        url, pool_pre_ping=True, pool_size=5, max_overflow=20, pool_timeout=SOON,
        connect_args=settings, hide_parameters=True,
        isolation_level="READ COMMITTED",  # whatever the server's default is
    )  # fmt: skip

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, _: Any, given: dict[str, Any]) -> Any:
        if hurried():
            given["connect_timeout"] = round(CHECKED_WITHIN)
        connection = LimitedConnection.connect(**given)
        try:
            connection.autocommit = True  # so that the settings outlast the transaction
            for name, value in _SESSION.items():
                connection.execute(f"SET {name} = {value}")
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    return engine


def without_limits(connection: sa.Connection) -> None:
    """This transaction may take as long as it needs: it changes tables."""
    for name in ("statement_timeout", "lock_timeout"):
        connection.exec_driver_sql(f"SET LOCAL {name} = 0")


def is_passing(error: BaseException) -> bool:
    """Whether what psycopg raised may be well again in a moment."""
    state = getattr(error, "sqlstate", None)
    if state is None:  # nothing came from the server: there is no connection
        return isinstance(error, psycopg.OperationalError)
    return str(state)[:2] in _PASSING_CLASSES or state in _PASSING_STATES


def is_silent(error: BaseException) -> bool:
    """Whether the server has said nothing at all."""
    return isinstance(error, (NoAnswer, psycopg.errors.ConnectionTimeout))
