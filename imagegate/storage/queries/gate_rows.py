"""The rows of gates and of their history, as the rest of the package knows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from ...core.model import Decision, Gate, Selection, Snapshot, State, plain, sayable
from ..sql.tables import gates

# As literals, so that both databases know which of the partial indexes serve.
_ONE: sa.ColumnElement[int] = sa.literal_column("1")
OPEN = gates.c.open == _ONE
DUE = gates.c.due == _ONE
KEPT = gates.c.kept == _ONE
CLOSED: dict[str, Any] = {"open": 0, "version": gates.c.version + 1}
REOPENED: dict[str, Any] = {
    "open": 1, "version": gates.c.version + 1, "ended": None, "ended_at": None, "decision": None,
    "due": 0, "claimed_by": "", "resuming": "", "lease": None, "link": "",
}  # fmt: skip
_LONGEST_ID = 200
AT_ONCE = 500
"""Ids in one query: databases have limits."""
_GATE_FIELDS = {field.name for field in fields(Gate)}


@dataclass(frozen=True)
class Line:
    """One line of history: what happened to a gate, and when (seconds since the epoch)."""

    id: int
    gate_id: str
    at: float
    kind: str
    origin: str
    body: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The line as REST returns it."""
        return {"id": self.id, "at": self.at, "kind": self.kind, **self.body}


def snapshot(row: Any) -> Snapshot:
    """A row of `gates` as the rest of the package knows it."""
    record = {key: value for key, value in json.loads(row.record).items() if key in _GATE_FIELDS}
    record |= {"labels": tuple(record["labels"]), "deadline": row.deadline}
    return Snapshot(
        gate=Gate(**record),
        state=State(row.state),
        seq=row.seq,
        version=row.version,
        decision=Decision(**json.loads(row.decision)) if row.decision else None,
        masked=tuple(json.loads(row.masked)),
        reason=row.reason,
        ended=row.ended or 0,
        attempts=row.attempts,
        resuming=row.resuming,
        reusable=bool(row.reusable),
    )


def possible(gate_id: str) -> bool:
    """Whether a gate could have this id: some texts no database takes, even to look for them."""
    return len(gate_id) <= _LONGEST_ID and plain(gate_id) == gate_id


def line_of(row: Any) -> Line:
    """A row of `lines`."""
    return Line(row.id, row.gate_id, row.at, row.kind, row.origin, json.loads(row.body))


def dumped(decision: Decision | None) -> str | None:
    """A decision as the row of its gate keeps it."""
    return None if decision is None else json.dumps(decision.record())


def answer_body(decision: Decision | None) -> dict[str, Any]:
    """A decision as a line of history keeps it: only what is not empty."""
    if decision is None:
        return {}
    said = decision.record()
    said.pop("at")
    return {key: sayable(v) if isinstance(v, str) else v for key, v in said.items() if v != ""}


def within(query: sa.Select[Any], among: Selection) -> sa.Select[Any]:
    """The query, limited to the gates of a selection."""
    wanted = {"id": among.gate_id, "node_id": among.node_id, "workflow_id": among.workflow_id,
              "title": among.title, "link": among.link}  # fmt: skip
    return query.where(*(gates.c[name] == plain(value) for name, value in wanted.items() if value))
