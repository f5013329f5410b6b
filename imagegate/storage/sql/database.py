"""One database, SQLite or PostgreSQL by URL: transactions, its migrations, its errors in words.

SQLAlchemy Core. Whatever is written, is written in a transaction that takes the write lock at its
start, and other processes are notified as part of it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sqlalchemy as sa
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import StaticPool

from ...core.model import NoAnswer, StoreError
from ...text.redact import store_url
from . import sqlite_file
from .deadline import CHECKED_WITHIN, hurried, limit, running
from .migrations import MIGRATIONS
from .sqlite_file import StoreFile
from .tables import lines, meta, migrations

CHANNEL = "imagegate"
"""The channel of PostgreSQL's NOTIFY."""
NOTIFIED = "notified"
"""Kind of the line that says that a notice went out. It changes nothing of its gate, so no process
is told of it."""
MIGRATING = 600.0
"""Seconds in which a store has to be up to date."""

_MIGRATING = 7_341_205  # PostgreSQL's advisory lock while a store is brought up to date


class Database:
    """An open store. Thread-safe.

    Args:
        url: ``sqlite://`` (in memory), ``sqlite:///FILE`` or ``postgresql+psycopg://...``.
        origin: who writes here, so that a process can tell its own changes from others'.

    Raises:
        StoreError: it cannot be opened, or a newer Image Gate has changed it.
    """

    def __init__(self, url: str, origin: str) -> None:
        self.origin = origin
        self._redacted = store_url(url)
        self.shown = self._redacted.shown
        """The URL as people may see it."""
        self._file: StoreFile | None = None
        self.engine = self._open(url)
        self.postgresql = self.engine.dialect.name == "postgresql"
        self.in_memory = isinstance(self.engine.pool, StaticPool)
        # Beside SQLite's file: for the locks of the processes that use it.
        self.folder = self._file and Path(f"{self._file.path}.workers")
        self.id = ""
        self._last_line = 0  # in SQLite: no line comes after it with a smaller number
        self._closed = False
        self._silent = False  # whether the server did not answer the last time
        self._asks = threading.Lock()  # held by the one who then finds out whether it does again
        # One connection serves all threads of a database that lives in memory.
        self._one: Any = threading.RLock() if self.in_memory else nullcontext()
        try:
            self._migrate()
            with self.read() as connection:
                query = sa.select(meta.c.value).where(meta.c.name == "store")
                self.id = str(connection.execute(query).scalar_one())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give all connections back; whoever still uses one closes it when done."""
        self._closed = True
        with self._one:  # SQLite itself crashes where another thread still uses the only one
            self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads. Raises `StoreError`."""
        with self._connected() as connection, connection.begin():
            self._check_content(connection)
            yield connection

    @contextmanager
    def write(self, seconds: float | None = None) -> Iterator[sa.Connection]:
        """A transaction that writes; durable once this context is left. Raises `StoreError`.

        Args:
            seconds: that it may take, if not `imagegate.storage.sql.deadline.limit`.
        """
        with self._connected(seconds) as connection:
            connection = connection.execution_options(imagegate_writes=True)
            with connection.begin():
                self._check_content(connection)
                yield connection
            if self._file is not None:  # else what was written is nowhere
                self._file.check(connection.info)
                self._last_line = max(self._last_line, connection.info.pop("imagegate_line", 0))

    def now(self) -> sa.ColumnElement[float]:
        """The database's own clock, in seconds since the epoch: machines' clocks differ."""
        if self.postgresql:
            return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)
        return sa.literal(time.time())

    def tell(self, connection: sa.Connection, kind: str, about: str) -> None:
        """Tell other processes of a change that is no line of history, once it is durable.

        In PostgreSQL; who shares a file looks for itself.
        """
        if self.postgresql:
            notice = f"{self.origin} {kind} {about}"
            connection.execute(sa.select(sa.func.pg_notify(CHANNEL, notice)))

    def add_line(
        self, connection: sa.Connection, gate_id: str, kind: str, body: dict[str, Any]
    ) -> int:
        """Write a line of history and notify other processes; returns its number."""
        wanted: list[Any] = [lines.c.id]
        if self.postgresql:
            wanted.append(sa.func.pg_notify(CHANNEL, f"{self.origin} {kind} {gate_id}"))
        line = lines.insert().values(
            gate_id=gate_id, at=self.now(), kind=kind, origin=self.origin, body=json.dumps(body)
        )
        number = int(connection.execute(line.returning(*wanted)).scalar_one())
        if self._file is not None:
            if number <= self._last_line:  # history only grows
                raise self._file.changed()
            connection.info["imagegate_line"] = number
        return number

    def watch(self) -> Any:
        """A connection of its own, in autocommit, by which other processes' changes are noticed.

        psycopg's, which listens to `CHANNEL`; or sqlite3's, for ``PRAGMA data_version``.
        """
        connection: Any = None
        try:
            with self._translated(), self._answered(), running(limit()):
                proxy = self.engine.raw_connection()
                connection = proxy.driver_connection
                proxy.detach()
            if self.postgresql:
                connection.autocommit = True
                connection.execute(f"LISTEN {CHANNEL}")
        except self.driver_error as error:
            if connection is not None:
                connection.close()
            raise self.explained(error) from self._redacted.cause(error)
        return connection

    def check_file(self) -> None:
        """Look whether SQLite's file is still the one that was opened. Raises `StoreError`."""
        if self._file is not None:
            self._file.check()

    @property
    def driver_error(self) -> type[Exception]:
        """What the driver raises, where it is used without SQLAlchemy (see `watch`)."""
        error: type[Exception] = self.engine.dialect.loaded_dbapi.Error
        return error

    # -- opening

    def _open(self, url: str) -> sa.Engine:
        wanted = (
            'give sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME (pip install "psycopg'
            '[binary]")'
        )
        if not self._redacted.clear:
            raise StoreError(
                f"the store {self.shown!r} cannot be opened: it is no URL, or it is not certain "
                "where its password ends; write @ : / ? # % in it as %40 %3A %2F %3F %23 %25; "
                + wanted
            )
        try:
            parsed = sa.make_url(url)
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            if parsed.get_backend_name() == "postgresql":
                from .postgresql import create_engine

                return create_engine(parsed)
            if parsed.get_backend_name() != "sqlite":
                raise ArgumentError(f"{parsed.drivername} is not supported")
            if parsed.database not in (None, "", ":memory:"):
                path = str(parsed.database)
                if parsed.query.get("uri"):
                    path = unquote(path.removeprefix("file:").partition("?")[0])
                self._file = StoreFile(Path(path), self.shown)
            return sqlite_file.create_engine(parsed, self._file)
        except OSError as error:
            raise StoreError(f"the store {self.shown} cannot be opened: {error}") from error
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
            reason = self._redacted.text(str(error))
            raise StoreError(
                f"the store {self.shown!r} cannot be opened: {reason}; {wanted}"
            ) from self._redacted.cause(error)

    def _migrate(self) -> None:
        with self.read() as connection:
            done = self._migrated(connection)
        words = _TYPES[self.engine.dialect.name]
        if self.postgresql:
            from .postgresql import without_limits
        for name, steps in MIGRATIONS:
            if name in done:
                continue
            with self.write(MIGRATING) as connection:
                if self.postgresql:  # two processes may open a new store at the same moment
                    without_limits(connection)
                    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
                if name in self._migrated(connection):
                    continue
                for step in [_FIRST, *steps]:
                    if isinstance(step, str):
                        connection.exec_driver_sql(step.format_map(words))
                    else:
                        step(connection)
                connection.execute(migrations.insert().values(name=name, at=time.time()))

    def _migrated(self, connection: sa.Connection) -> set[str]:
        """The migrations it has. Raises `StoreError` if there are some that are not known here."""
        if not sa.inspect(connection).has_table("migrations"):
            return set()
        done = set(connection.execute(sa.select(migrations.c.name)).scalars())
        if strange := sorted(done - {name for name, _ in MIGRATIONS}):
            raise StoreError(
                f"the store {self.shown} was changed by a newer Image Gate ({', '.join(strange)}); "
                "update this one, or give it another store"
            )
        return done

    # -- inside

    @contextmanager
    def _connected(self, seconds: float | None = None) -> Iterator[sa.Connection]:
        """A connection that works, for one transaction, and within the time there is for it."""
        with self._one, self._translated(), self._answered(), running(seconds or limit()):
            pool = self.engine.pool  # `close` brings a new one, which nobody would close again
            if self._closed:
                raise StoreError(f"the store {self.shown} is closed")
            # One from the pool is tried first; another is opened where that one is broken.
            with running(CHECKED_WITHIN) if hurried() and not seconds else nullcontext():
                connection = self.engine.connect()
            with connection:
                if self._file is not None:
                    self._file.check(connection.info)
                    connection.info.pop("imagegate_line", None)
                try:
                    yield connection
                finally:
                    # All others were closed meanwhile; nothing closes one that is given back now.
                    if pool is not self.engine.pool and not connection.invalidated:
                        connection.detach()

    def _check_content(self, connection: sa.Connection) -> None:
        """Look whether this is still the store that was opened: a file can be overwritten."""
        if self._file is None or not self.id:
            return
        query = sa.select(meta.c.value).where(meta.c.name == "store")
        if connection.execute(query).scalar() != self.id:
            raise self._file.changed()

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """While the server is silent, one caller tries it; all others fail at once."""
        asks = self._silent and hurried()
        if asks and not self._asks.acquire(blocking=False):
            raise self._no_answer()
        try:
            yield
            self._silent = False
        except DBAPIError as error:
            self._silent = self._is_silent(error)
            raise
        finally:
            if asks:
                self._asks.release()

    def _is_silent(self, error: BaseException) -> bool:
        if not self.postgresql:
            return False
        from .postgresql import is_silent

        return is_silent(getattr(error, "orig", None) or error)

    def _no_answer(self) -> NoAnswer:
        return NoAnswer(f"the store does not answer ({self.shown})")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise self.explained(error) from self._redacted.cause(error)

    def explained(self, error: Exception) -> StoreError:
        """What SQLAlchemy, or the driver, has raised, as an error of ours."""
        if self._is_silent(error):
            return self._no_answer()
        original = getattr(error, "orig", None) or error
        reason = " ".join(self._redacted.text(str(original)).split())[:300]
        passing = isinstance(error, PoolTimeout) or self._is_passing(error, original)
        conflict = isinstance(error, IntegrityError)
        if self.folder is not None and not passing and not conflict:
            # SQLite sees some cures only when it opens the file again: its permissions, say.
            self.engine.dispose()
        return StoreError(
            f"the store {self.shown} cannot be used: {reason}", passing=passing, conflict=conflict
        )

    def _is_passing(self, error: Exception, original: BaseException) -> bool:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        if not self.postgresql:
            return sqlite_file.is_passing(original)
        from .postgresql import is_passing

        return is_passing(original)


_FIRST = "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, at {real} NOT NULL)"
_TYPES = {
    "sqlite": {
        "key": "INTEGER PRIMARY KEY AUTOINCREMENT", "real": "REAL", "hex": "hex(randomblob(16))",
    },
    "postgresql": {
        "key": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        "real": "DOUBLE PRECISION",
        "hex": "replace(gen_random_uuid()::text, '-', '')",
    },
}  # fmt: skip
