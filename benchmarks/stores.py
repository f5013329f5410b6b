"""New stores to measure: SQLite in a file, and PostgreSQL where there is one."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagegate.core.settings import Settings
from imagegate.gate_bus import GateBus
from tests.support.postgres import NoPostgreSQL, PostgreSQL
from tests.support.stored import bus_over

from .measure import NotRun

KINDS = ("SQLite", "PostgreSQL")
CLASSES = ("Image", "ImageGate", "Mark")
"""Of the nodes that a worker here can run."""


@dataclass(frozen=True)
class Store:
    """A store with nothing in it, durable as a real one, and the folder of its pictures."""

    settings: Settings
    folder: Path
    server: PostgreSQL | None

    def bus(self, kind: str = "comfyui") -> GateBus[Any]:
        """A process's part in it. Close it when done."""
        return bus_over(self.settings, kind, CLASSES)

    def size(self) -> int:
        """Bytes of the database, without pictures, all written out."""
        if self.server is None:
            with closing(sqlite3.connect(self.folder / "gates.sqlite")) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return sum(file.stat().st_size for file in self.folder.glob("gates.sqlite*"))
        with self.server.connect(self.settings.store.rpartition("/")[2]) as connection:
            connection.execute("CHECKPOINT")
            row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def store(kind: str) -> Iterator[Store]:
    """One of `KINDS`, gone afterwards. Raises `NotRun` where there is no such server."""
    with tempfile.TemporaryDirectory(prefix="imagegate-bench-") as temporary:
        folder = Path(temporary)
        try:
            server = PostgreSQL(lasting=True) if kind == "PostgreSQL" else None
            with server or nullcontext():
                url = server.create() if server else f"sqlite:///{folder / 'gates.sqlite'}"
                yield Store(Settings(url, str(folder / "pictures"), "bench"), folder, server)
        except NoPostgreSQL as error:
            raise NotRun(str(error)) from error
