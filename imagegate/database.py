"""One database, SQLite or PostgreSQL by URL: transactions, its migrations, its errors in words.

SQLAlchemy Core. Whatever is written, is written in a transaction that takes the write lock at its
start, and is told to other processes as part of it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    SQLAlchemyError,
)
from sqlalchemy.pool import StaticPool

from .migrations import MIGRATIONS
from .model import StoreError

CHANNEL = "imagegate"
"""Of PostgreSQL's NOTIFY."""
NOTIFIED = "notified"
"""Kind of the line that says that a notice went out. It changes nothing of its gate, so no process
is told of it."""
BUSY = 10.0
"""Seconds that SQLite waits for another process's transaction."""

lines = sa.table(
    "lines",
    *(sa.column(name) for name in ("id", "gate_id", "at", "kind", "origin", "body")),
)
migrations = sa.table("migrations", sa.column("name"), sa.column("at"))
meta = sa.table("meta", sa.column("name"), sa.column("value"))

_MIGRATING = 7_341_205  # PostgreSQL's advisory lock while a store is brought up to date
# Seconds, and milliseconds: a network that has died says nothing by itself.
_CONNECTION = {
    "application_name": "imagegate", "connect_timeout": 5, "keepalives_idle": 10,
    "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 20_000,
}  # fmt: skip
_PASSING = ("locked", "busy", "connection", "server closed", "shutting down", "starting up",
            "terminating", "timeout", "could not connect", "recovery mode")  # fmt: skip


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
        self.shown = url.rpartition("@")[2]  # what stands before it may be a password
        try:
            parsed = sa.make_url(url)
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            self.shown = parsed.render_as_string(hide_password=True)
            self.engine = _engine(parsed)
        except OSError as error:
            raise StoreError(f"the store {self.shown} cannot be opened: {error}") from error
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
            raise StoreError(
                f"the store {self.shown!r} cannot be opened: {error}; give sqlite:///FILE or "
                'postgresql+psycopg://USER@HOST/NAME (pip install "psycopg[binary]")'
            ) from error
        self.postgresql = self.engine.dialect.name == "postgresql"
        self.in_memory = isinstance(self.engine.pool, StaticPool)
        # Beside SQLite's file: for the locks of the processes that use it.
        self.folder: Path | None = None
        if not self.postgresql and not self.in_memory:
            self.folder = Path(f"{parsed.database}.workers").absolute()
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
        """Give all connections back."""
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads. Raises `StoreError`."""
        with self._one, self._translated(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes; durable once this context is left. Raises `StoreError`."""
        with self._one, self._translated(), self.engine.connect() as connection:
            connection = connection.execution_options(imagegate_writes=True)
            with connection.begin():
                yield connection

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
        """Write a line of history and tell other processes; returns its number."""
        told: list[Any] = [lines.c.id]
        if self.postgresql:
            told.append(sa.func.pg_notify(CHANNEL, f"{self.origin} {kind} {gate_id}"))
        line = lines.insert().values(
            gate_id=gate_id, at=self.now(), kind=kind, origin=self.origin, body=json.dumps(body)
        )
        return int(connection.execute(line.returning(*told)).scalar_one())

    def watch(self) -> Any:
        """A connection of its own, in autocommit, by which other processes' changes are noticed.

        psycopg's, which listens to `CHANNEL`; or sqlite3's, for ``PRAGMA data_version``.
        """
        connection: Any = None
        try:
            with self._translated():
                proxy = self.engine.raw_connection()
                connection = proxy.driver_connection
                proxy.detach()
            if self.postgresql:
                connection.autocommit = True
                connection.execute(f"LISTEN {CHANNEL}")
        except self.driver_error as error:
            if connection is not None:
                connection.close()
            raise self._told(error, passing=True) from error
        return connection

    @property
    def driver_error(self) -> type[Exception]:
        """What the driver raises, where it is used without SQLAlchemy (see `watch`)."""
        error: type[Exception] = self.engine.dialect.loaded_dbapi.Error
        return error

    # -- opening

    def _migrate(self) -> None:
        with self.read() as connection:
            done = self._migrated(connection)
        words = _TYPES[self.engine.dialect.name]
        for name, steps in MIGRATIONS:
            if name in done:
                continue
            with self.write() as connection:
                if self.postgresql:  # two processes may open a new store at the same moment
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

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise self._told(error) from error

    def _told(self, error: Exception, *, passing: bool = False) -> StoreError:
        original = getattr(error, "orig", None) or error
        reason = " ".join(str(original).split())[:300]
        gone = isinstance(error, DBAPIError) and error.connection_invalidated
        passing = passing or bool(gone) or any(word in reason.lower() for word in _PASSING)
        if self.folder is not None and not passing and not isinstance(error, IntegrityError):
            # SQLite sees some cures only when it opens the file again: its permissions, say.
            self.engine.dispose()
        return StoreError(f"the store {self.shown} cannot be used: {reason}", passing=passing)


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


def _engine(url: sa.URL) -> sa.Engine:
    if url.get_backend_name() == "postgresql":
        if url.get_driver_name() != "psycopg":
            raise ArgumentError(f"{url.drivername} is not supported")
        settings = {key: value for key, value in _CONNECTION.items() if key not in url.query}
        return sa.create_engine(
            url, pool_pre_ping=True, pool_size=5, max_overflow=20, connect_args=settings,
            isolation_level="READ COMMITTED",  # whatever the server's default is
        )  # fmt: skip
    if url.get_backend_name() != "sqlite":
        raise ArgumentError(f"{url.drivername} is not supported")
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY, "check_same_thread": False}}
    if url.database in (None, "", ":memory:"):
        options["poolclass"] = StaticPool
    else:
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, **options)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where it is said below
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        # A transaction that reads first and writes later could not wait for another writer.
        writes = connection.get_execution_options().get("imagegate_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
