"""Looks at the gates of a database and at their history. SQLAlchemy Core."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import sqlalchemy as sa

from ...core.model import ALL, Selection, Snapshot, State, UnknownGate, plain
from ..sql.database import Database
from ..sql.tables import gates, lines, mask_files
from .gate_rows import AT_ONCE, DUE, KEPT, OPEN, Line, line_of, possible, snapshot, within

_LARGEST = 2**63 - 1


class GateLookup:
    """Reads the gates of a database. Thread-safe.

    Every call raises `StoreError` when the database cannot be used; those that name one gate raise
    `UnknownGate`.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def get(self, gate_id: str) -> Snapshot:
        """One gate."""
        found = self.several([gate_id])
        if not found:
            raise UnknownGate(f"no gate has the id {gate_id!r}")
        return found[0]

    def several(self, gate_ids: Iterable[str]) -> list[Snapshot]:
        """Those of these gates that there are."""
        wanted = [gate_id for gate_id in gate_ids if possible(gate_id)]
        found: list[Snapshot] = []
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            found += self._select(sa.select(*gates.c).where(gates.c.id.in_(some)))
        return found

    def masks(self, gate_id: str) -> dict[int, str]:
        """The files of its masks by image; empty for one that was cleared."""
        if not possible(gate_id):
            return {}
        with self.database.read() as connection:
            return self._masks(connection, gate_id)

    def pending(self, limit: int | None, after: int, among: Selection = ALL) -> list[Snapshot]:
        """Open gates, oldest first: at most ``limit`` of those whose ``seq`` is above ``after``."""
        query = sa.select(*gates.c).where(OPEN, gates.c.seq > _number(after))
        return self._select(within(query, among).order_by(gates.c.seq).limit(limit))

    def finished(
        self, limit: int | None, before: int | None, among: Selection = ALL
    ) -> list[Snapshot]:
        """Finished gates, newest first: at most ``limit`` whose ``ended`` is below ``before``."""
        query = sa.select(*gates.c).where(gates.c.ended.is_not(None))
        if before is not None:
            query = query.where(gates.c.ended < _number(before))
        return self._select(within(query, among).order_by(gates.c.ended.desc()).limit(limit))

    def count(self, among: Selection = ALL) -> int:
        """How many gates wait for a person."""
        query = sa.select(sa.func.count()).select_from(gates).where(OPEN)
        with self.database.read() as connection:
            return int(connection.execute(within(query, among)).scalar_one())

    def answered(self, links: Collection[str]) -> dict[str, int]:
        """How many gates have an answer that came through each of these share links."""
        through = [gates.c.link.in_(list(links)), gates.c.link != sa.literal_column("''")]
        query = sa.select(gates.c.link, sa.func.count()).where(*through).group_by(gates.c.link)
        with self.database.read() as connection:
            return {str(link): int(count) for link, count in connection.execute(query)}

    def waiting_of(self, worker: str) -> list[str]:
        """Ids of the waiting (not parked) gates of a worker."""
        query = sa.select(gates.c.id).where(
            OPEN, gates.c.state == State.WAITING.value, gates.c.worker == worker
        )
        with self.database.read() as connection:
            return list(connection.execute(query).scalars())

    def stopped_in(self, prompt_id: str) -> bool:
        """Whether a gate at which this prompt waited was stopped, by a person or a timeout."""
        ends = [State.STOPPED.value, State.EXPIRED.value]
        query = sa.select(*gates.c).where(
            gates.c.prompt_id == plain(prompt_id), gates.c.mode == "wait", gates.c.state.in_(ends)
        )
        found = self._select(query)
        return any(gate.decision is None or gate.decision.route is None for gate in found)

    def parked_in(self, prompt_id: str) -> list[str]:
        """Ids of open gates at which this prompt was parked."""
        query = sa.select(gates.c.id).where(
            gates.c.prompt_id == plain(prompt_id),
            gates.c.open == 1,
            gates.c.state == State.PARKED.value,
        )
        with self.database.read() as connection:
            return list(connection.execute(query).scalars())

    def due_in(self, prompt_id: str) -> list[str]:
        """Ids of gates at which this prompt was parked, and that are decided but not gone on."""
        query = sa.select(gates.c.id).where(gates.c.prompt_id == plain(prompt_id), DUE)
        with self.database.read() as connection:
            return list(connection.execute(query).scalars())

    def overdue(self) -> list[str]:
        """Ids of parked gates whose time is up."""
        query = sa.select(gates.c.id).where(
            OPEN,
            gates.c.state == State.PARKED.value,
            gates.c.deadline <= self.database.now(),
        )
        with self.database.read() as connection:
            return list(connection.execute(query).scalars())

    def decided_like(self, fingerprint: str) -> Snapshot | None:
        """The newest gate that a person decided for an equal question, unless to be asked again."""
        query = sa.select(*gates.c).where(
            gates.c.fingerprint == fingerprint, gates.c.reusable == 1, gates.c.ended.is_not(None)
        )
        found = self._select(query.order_by(gates.c.ended.desc()).limit(1))
        return found[0] if found else None

    # -- history

    def lines(self, gate_id: str) -> list[Line]:
        """The history of one gate, oldest first."""
        self.get(gate_id)
        query = sa.select(*lines.c).where(lines.c.gate_id == gate_id).order_by(lines.c.id)
        with self.database.read() as connection:
            return [line_of(row) for row in connection.execute(query)]

    def last_line(self) -> int:
        """The number of the newest line; 0 before the first."""
        with self.database.read() as connection:
            return connection.execute(sa.select(sa.func.max(lines.c.id))).scalar() or 0

    def lines_after(self, line: int, limit: int = 1000) -> list[Line]:
        """Lines that came after one, oldest first. (Only SQLite commits them in this order.)"""
        query = sa.select(*lines.c).where(lines.c.id > line).order_by(lines.c.id).limit(limit)
        with self.database.read() as connection:
            return [line_of(row) for row in connection.execute(query)]

    # -- pictures

    def stale(self, keep: float, needed: sa.Select[Any], limit: int = 100) -> list[str]:
        """Ids of gates that ended more than ``keep`` seconds ago and still have pictures.

        Args:
            needed: selects the ids of those that keep theirs all the same.
        """
        query = sa.select(gates.c.id).where(
            KEPT,
            gates.c.ended_at < self.database.now() - keep,
            gates.c.due == 0,
            gates.c.id.not_in(needed),
        )
        with self.database.read() as connection:
            return list(connection.execute(query.limit(limit)).scalars())

    def used_bytes(self) -> int:
        """Bytes of all pictures that are kept."""
        query = sa.select(sa.func.sum(gates.c.bytes)).where(KEPT)
        with self.database.read() as connection:
            return int(connection.execute(query).scalar() or 0)

    # -- inside

    def _masks(self, connection: sa.Connection, gate_id: str) -> dict[int, str]:
        query = sa.select(mask_files.c.image, mask_files.c.file).where(
            mask_files.c.gate_id == gate_id
        )
        return {int(image): str(file) for image, file in connection.execute(query)}

    def _select(self, query: sa.Select[Any]) -> list[Snapshot]:
        with self.database.read() as connection:
            return [snapshot(row) for row in connection.execute(query)]


def _number(wanted: int) -> int:
    return max(-_LARGEST, min(wanted, _LARGEST))
