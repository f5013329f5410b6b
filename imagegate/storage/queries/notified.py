"""Which gates people have been notified of, and which not yet. SQLAlchemy Core."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ...core.model import State
from ..sql.database import NOTIFIED, Database
from ..sql.tables import gates, lines, workers
from .gate_rows import AT_ONCE, OPEN

ASKED = ("published", "undone", "put back", "reopened")
"""Kinds of the lines after which a gate waits. After each, people are notified anew."""


@dataclass(frozen=True)
class Unnotified:
    """An open gate that nobody was notified of since it was last asked.

    Attributes:
        asked: the number of the line that says that it was asked.
        age: seconds since then.
    """

    gate_id: str
    asked: int
    age: float


class NotifiedGates:
    """The notices that went out, in a database. Thread-safe; raises as `GateStore` does."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def missing(
        self, worker: str, name: str, gate_ids: Collection[str] | None = None
    ) -> list[Unnotified]:
        """Open gates of a worker that nobody was notified of, ordered by when they were asked.

        Args:
            worker: its id.
            name: what people call it. What an earlier process of that name has parked belongs to
                this worker, too; what still seems to wait there will be withdrawn.
            gate_ids: only of these.
        """
        mine = (gates.c.worker == worker) | (gates.c.state == State.PARKED.value)
        of_worker = [mine, workers.c.name == name]
        if gate_ids is None:
            return self._missing(*of_worker)
        wanted = list(gate_ids)
        found: list[Unnotified] = []
        for start in range(0, len(wanted), AT_ONCE):
            some = gates.c.id.in_(wanted[start : start + AT_ONCE])
            found += self._missing(*of_worker, some)
        return sorted(found, key=lambda one: one.asked)

    def add(self, gate_ids: Collection[str], text: str) -> None:
        """Record that a notice of these gates went out; ``text`` says how."""
        wanted, columns = list(gate_ids), ["gate_id", "at", "kind", "origin", "body"]
        values = (NOTIFIED, self.database.origin, json.dumps({"text": text} if text else {}))
        with self.database.write() as connection:
            for start in range(0, len(wanted), AT_ONCE):
                some = gates.c.id.in_(wanted[start : start + AT_ONCE])
                now, said = self.database.now(), [sa.literal(value) for value in values]
                line = sa.select(gates.c.id, now, *said).where(some)
                connection.execute(lines.insert().from_select(columns, line))

    def _missing(self, *conditions: Any) -> list[Unnotified]:
        # From their lines, each read once, by index: a plan that is good however many there are.
        join = gates.join(workers, workers.c.id == gates.c.worker)
        of = sa.select(gates.c.id).select_from(join).where(OPEN, *conditions)
        again = lines.c.kind.in_(ASKED)
        asked = sa.func.max(sa.case((again, lines.c.id)))
        notified = sa.func.max(sa.case((lines.c.kind == NOTIFIED, lines.c.id)))
        age = self.database.now() - sa.func.max(sa.case((again, lines.c.at)))
        query = (
            sa.select(lines.c.gate_id, asked.label("asked"), age.label("age"))
            .where(lines.c.gate_id.in_(of), lines.c.kind.in_([*ASKED, NOTIFIED]))
            .group_by(lines.c.gate_id)
            .having(asked > sa.func.coalesce(notified, 0))
            .order_by(asked)
        )
        with self.database.read() as connection:
            return [
                Unnotified(row.gate_id, row.asked, row.age) for row in connection.execute(query)
            ]
