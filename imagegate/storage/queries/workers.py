"""Which processes share a store, and which of them are alive. SQLAlchemy Core."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock, Timeout

from ...core.model import StoreError
from ...pictures.permissions import FILE, FOLDER
from ..sql.database import Database
from ..sql.tables import gates, workers
from .gate_rows import DUE, OPEN

BEAT = 5.0
"""Seconds between signs of life."""
DEAD = 30.0
"""Seconds without one after which a worker is taken for dead."""
SHOWN = 7 * 24 * 3600
"""Seconds that a worker is remembered."""


@dataclass(frozen=True)
class Worker:
    """A process that asks or answers. ``kind`` is comfyui or panel; times as since the epoch."""

    id: str
    name: str
    kind: str
    alive: bool
    started_at: float
    seen_at: float
    classes: frozenset[str]

    def to_json(self) -> dict[str, Any]:
        """The worker as REST returns it."""
        return {
            "name": self.name, "kind": self.kind, "alive": self.alive,
            "started_at": self.started_at, "seen_at": self.seen_at,
        }  # fmt: skip


class Workers:
    """The processes of a database. Thread-safe; raises as `GateStore` does.

    With PostgreSQL a worker is alive while its signs of life are fresh, by the database's clock.
    SQLite serves the processes of one machine: there each holds a file lock, which ends with it.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._lock: FileLock | None = None
        self._mine: dict[str, Any] = {}

    def enter(self, worker: str, name: str, kind: str, classes: Collection[str]) -> None:
        """Register a process. ``classes``: of the nodes it can run."""
        now = self.database.now()
        self._mine = {
            "id": worker, "name": name, "kind": kind, "host": socket.gethostname(),
            "pid": os.getpid(), "started_at": now, "classes": json.dumps(sorted(classes)),
        }  # fmt: skip
        if self.database.folder is not None:
            path = self._lock_file(worker)
            try:
                path.parent.mkdir(FOLDER, exist_ok=True)
                self._lock = FileLock(path, mode=FILE, thread_local=False)
                self._lock.acquire(timeout=0)
            except OSError as error:
                raise StoreError(
                    f"the store {self.database.shown} cannot be used: {error}"
                ) from error
        try:
            with self.database.write() as connection:
                self._forget(connection)
                connection.execute(workers.insert().values(seen_at=now, ended=0, **self._mine))
        except BaseException:
            self._unlock(worker)
            raise

    def beat(self, worker: str) -> None:
        """Give a sign of life, where the database needs one."""
        if not self.database.postgresql:
            return
        now = self.database.now()
        with self.database.write() as connection:
            here = workers.update().where(workers.c.id == worker).values(seen_at=now, ended=0)
            if connection.execute(here.returning(workers.c.id)).first() is None:
                # Silent for so long that it was forgotten: a laptop that slept for weeks.
                connection.execute(workers.insert().values(seen_at=now, ended=0, **self._mine))

    def revive(self, worker: str) -> None:
        """Mark a worker as alive that was taken for dead."""
        with self.database.write() as connection:
            connection.execute(workers.update().where(workers.c.id == worker).values(ended=0))

    def leave(self, worker: str) -> None:
        """Record that a process ends in good order."""
        try:
            with self.database.write() as connection:
                here = workers.update().where(workers.c.id == worker)
                connection.execute(here.values(ended=1, seen_at=self.database.now()))
        finally:
            self._unlock(worker)

    def all(self) -> list[Worker]:
        """Every worker that is remembered, by name; of several processes of a name the newest."""
        latest = {(worker.name, worker.kind): worker for worker in self.each()}
        return list(latest.values())

    def each(self) -> list[Worker]:
        """Every process that is remembered, by name and age."""
        alive = self._alive().label("alive")
        query = sa.select(*workers.c, alive).order_by(workers.c.name, workers.c.started_at)
        with self.database.read() as connection:
            rows = connection.execute(query).all()
        beats, now = self.database.postgresql, time.time()
        return [
            Worker(
                row.id, row.name, row.kind, bool(row.alive), row.started_at,
                now if row.alive and not beats else row.seen_at,  # its lock was seen just now
                frozenset(json.loads(row.classes)),
            )
            for row in rows
        ]  # fmt: skip

    def orphans(self, silent_too: bool) -> list[tuple[str, str]]:
        """Waiting gates whose worker is dead: (gate id, the worker's name).

        Args:
            silent_too: also of those that have merely not been heard of. Who has just lost sight
                of the database itself cannot tell whose silence that was.
        """
        join = gates.outerjoin(workers, workers.c.id == gates.c.worker)
        alive = self._alive() if silent_too else workers.c.ended == 0
        query = (
            sa.select(gates.c.id, workers.c.name)
            .select_from(join)
            .where(OPEN, gates.c.state == "waiting")
            .where(workers.c.id.is_(None) | sa.not_(alive))
        )
        with self.database.read() as connection:
            return [(gate_id, name or "a worker") for gate_id, name in connection.execute(query)]

    def bury(self, worker: str) -> None:
        """Find the processes of this machine that have ended without leaving. SQLite only."""
        if self.database.folder is None:
            return
        query = sa.select(workers.c.id).where(workers.c.ended == 0, workers.c.id != worker)
        with self.database.read() as connection:
            gone = [i for i in connection.execute(query).scalars() if not self._holds(i)]
        if not gone:
            return
        with self.database.write() as connection:
            dead = workers.update().where(workers.c.id.in_(gone))
            connection.execute(dead.values(ended=1, seen_at=self.database.now()))
        for one in gone:
            self._unlock(one)

    def _forget(self, connection: sa.Connection) -> None:
        """Drop the workers that were silent for `SHOWN`."""
        still = sa.select(gates.c.worker).where(OPEN | DUE)
        old = [workers.c.seen_at < self.database.now() - SHOWN, workers.c.id.not_in(still)]
        if not self.database.postgresql:  # there those that live give no sign of it
            old.append(workers.c.ended == 1)
        connection.execute(workers.delete().where(*old))

    def _alive(self) -> sa.ColumnElement[bool]:
        here = workers.c.ended == 0
        if self.database.postgresql:
            return here & (workers.c.seen_at > self.database.now() - DEAD)
        return here

    def _holds(self, worker: str) -> bool:
        if not self._lock_file(worker).exists():
            return False
        try:
            with FileLock(self._lock_file(worker), timeout=0, mode=FILE):
                return False
        except Timeout:
            return True

    def _unlock(self, worker: str) -> None:
        if self.database.folder is None:
            return
        with suppress(OSError):  # the file may as well stay
            if self._lock is not None and worker == self._mine["id"]:
                self._lock.release()
            self._lock_file(worker).unlink(missing_ok=True)

    def _lock_file(self, worker: str) -> Path:
        assert self.database.folder is not None
        return self.database.folder / f"{worker}.lock"
