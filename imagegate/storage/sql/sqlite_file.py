"""The file of a store in SQLite: its owner's alone, and still the one that was opened.

SQLite goes on with a file that was removed or replaced while it is open. What is written then is
nowhere once the process ends, so each transaction looks whether its file is still at its path.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.pool import StaticPool

from ...core.model import StoreError
from ...pictures.atomic import make_folders
from ...pictures.permissions import FOLDER, make_private_file, restrict, say_restricted
from .deadline import hurried

BUSY = 10.0
"""Seconds that SQLite waits for another process's transaction."""
HURRY = 4.0
"""Seconds that SQLite waits while a person waits for it."""

Identity = tuple[int, int] | None
_PASSING = {5: "database is locked", 6: "database table is locked", 15: "locking protocol"}
"""SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL."""


class StoreFile:
    """Where a store lies, and which file was there when it was opened.

    Args:
        shown: the store's URL as people may see it.
    """

    def __init__(self, path: Path, shown: str) -> None:
        self.path = path.absolute()
        self._log = Path(f"{self.path}-wal")
        self._shown = shown
        make_folders(self.path.parent, FOLDER)
        make_private_file(self.path)
        with_it = [Path(f"{self.path}{suffix}") for suffix in ("", "-wal", "-shm", ".workers")]
        say_restricted(self.path, restrict(with_it))
        self._opened = _identity(self.path)

    def check(self, connection: Any = None) -> None:
        """Look whether the file, and its write-ahead log, are those that were opened.

        Args:
            connection: SQLAlchemy's ``info`` of the one in use, if its log matters.

        Raises:
            StoreError: they are not; the message says what to do.
        """
        now = _identity(self.path)
        if now != self._opened:
            self._refuse("removed or moved away" if now is None else "replaced")
        if connection is None:
            return
        log = _identity(self._log)
        # A connection that is open keeps its log; some file systems allow none.
        known = connection.setdefault("imagegate_log", log) or log
        connection["imagegate_log"] = known
        if log != known:
            self._refuse("separated from its write-ahead log (-wal)")

    def changed(self) -> StoreError:
        """The error for a file whose content is not what was written there."""
        return self._error("overwritten with other content, a backup say,")

    def _refuse(self, what: str) -> None:
        raise self._error(what)

    def _error(self, what: str) -> StoreError:
        return StoreError(
            f"the store {self._shown} cannot be used: its file was {what} while it was open, and "
            "nothing is recorded any more. Put back what was there, or end all processes that use "
            "it and start them again, to go on with what is there now"
        )


def create_engine(url: sa.URL, file: StoreFile | None) -> sa.Engine:
    """An engine whose transactions begin where it is said, and are durable when they end.

    Args:
        file: None for a store in memory.
    """
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY, "check_same_thread": False}}
    if file is None:
        options["poolclass"] = StaticPool
    engine = sa.create_engine(url, hide_parameters=True, **options)

    if file is not None:
        # Only a file that is there is opened: SQLite would make one that everybody can read.
        uri = f"file:{quote(str(file.path))}?mode=rw"

        @event.listens_for(engine, "do_connect")
        def connect(_dialect: Any, _record: Any, _: Any, given: dict[str, Any]) -> Any:
            file.check()
            if given.get("uri"):
                return None  # the author's own, which SQLAlchemy opens
            connection = sqlite3.connect(uri, **{**given, "uri": True})
            try:
                file.check()  # it is this one that was opened
            except BaseException:
                connection.close()
                raise
            return connection

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where it is said below
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        busy = round(1000 * (HURRY if hurried() else BUSY))
        if connection.info.setdefault("imagegate_busy", round(1000 * BUSY)) != busy:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {busy}")
            connection.info["imagegate_busy"] = busy
        # A transaction that reads first and writes later could not wait for another writer.
        writes = connection.get_execution_options().get("imagegate_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def is_passing(error: BaseException) -> bool:
    """Whether what sqlite3 raised may be well again in a moment: others hold a lock."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python 3.10 gives no codes, but SQLite's own text for each
        return str(error) in _PASSING.values()
    return code & 0xFF in _PASSING  # the rest of an extended code says more about it


def _identity(path: Path) -> Identity:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
