"""What is stored of the gates of a run, and what goes on of it. SQLAlchemy Core.

All gates that were asked since a person queued a prompt make a run; see `parked`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ...core.model import Decision, Snapshot, State, plain
from ..sql.tables import parked


@dataclass(frozen=True)
class Parked:
    """What is needed to go on with a gate, or with others of its run.

    Attributes:
        root: of the run of a prompt that a person queued; the prompts that go on from its gates
            belong to it, too.
        node: the gate's key in ``prompt``.
        prompt: in API format, as the person queued it; empty for a gate that was waited for, and
            once nothing may go on from the run.
        extra: the prompt's extra data, without secrets.
        item: the gate's index in a list input, else 0. ``length``: that of the list.
        live: the indexes of the items that were asked together with it.
        together: whether all items of the list go on in one prompt, once all are answered.
        running: the id of the process in which the prompt that asked still runs.
        targets: the output nodes the prompt was queued for; empty for all.
        client: the id of the page that queued it, which its news go to.
    """

    root: str
    node: str
    prompt: Mapping[str, Any]
    extra: Mapping[str, Any]
    item: int = 0
    length: int = 1
    live: tuple[int, ...] = (0,)
    together: bool = False
    running: str = ""
    targets: tuple[str, ...] = ()
    client: str = ""

    @property
    def classes(self) -> list[str]:
        """The classes of all its nodes, each once."""
        found = {str(node.get("class_type")) for node in self.prompt.values()}
        return sorted(found)

    def insert(self, gate_id: str) -> sa.Insert:
        """What adds it to the store, with its gate."""
        record = {
            "prompt": self.prompt, "extra": self.extra, "targets": self.targets,
            "client": self.client,
        }  # fmt: skip
        return parked.insert().values(
            gate_id=gate_id, root=plain(self.root), node=json.dumps(self.node), item=self.item,
            length=self.length, live=json.dumps(self.live), together=int(self.together),
            running=self.running, told="{}", classes=json.dumps(self.classes),
            record=json.dumps(record),
        )  # fmt: skip


@dataclass(frozen=True)
class Sibling:
    """A gate that was asked in the same run of a prompt.

    ``usable``: it has an answer with a route that the next prompt of the run may use: a prompt has
    waited for it, or has gone on, or goes on now, with it.
    """

    gate_id: str
    node: str
    item: int
    state: State
    length: int = 1
    live: tuple[int, ...] = (0,)
    usable: bool = False


@dataclass(frozen=True)
class Claim:
    """Gates of one node that were taken up to go on with them: one, or all of a list.

    Attributes:
        stored: what was stored with each of ``gates``.
        siblings: all gates of the run, these too, oldest first.
    """

    gates: tuple[Snapshot, ...]
    stored: tuple[Parked, ...]
    siblings: tuple[Sibling, ...] = ()

    @property
    def gate(self) -> Snapshot:
        """The first of them."""
        return self.gates[0]

    @property
    def parked(self) -> Parked:
        """What was stored with the first; the prompt is that of all."""
        return self.stored[0]

    @property
    def attempt(self) -> int:
        """Counts from 1."""
        return self.gate.attempts

    @property
    def decision(self) -> Decision:
        """The answer to the first."""
        return self.decisions[0]

    @property
    def title(self) -> str:
        """What people call the gate."""
        return self.gate.gate.title

    @property
    def decisions(self) -> list[Decision]:
        """The answers that they go on with."""
        return [gate.decision for gate in self.gates if gate.decision is not None]

    @property
    def labels(self) -> str:
        """The routes that they take, for a message."""
        routes = (
            gate.gate.said(one.route) for gate, one in zip(self.gates, self.decisions, strict=True)
        )
        return ", ".join(dict.fromkeys(map(repr, routes)))


@dataclass(frozen=True)
class Progress:
    """How many of the gates that go on together are answered."""

    answered: int
    of: int

    def __str__(self) -> str:
        if self.answered >= self.of:
            return ""
        return f"{self.answered} of {self.of} answered; the prompt goes on when all are"


_DROPPED = json.dumps({"prompt": {}, "extra": {}, "targets": [], "client": ""})


def parked_of(row: Any) -> Parked:
    """What a row of `parked` holds."""
    record = json.loads(row.record or _DROPPED)
    return Parked(
        root=row.root,
        node=json.loads(row.node),
        item=row.item,
        length=row.length,
        live=tuple(json.loads(row.live)),
        together=bool(row.together),
        running=row.running,
        prompt=record["prompt"],
        extra=record["extra"],
        targets=tuple(record["targets"]),
        client=record["client"],
    )
