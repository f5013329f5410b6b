"""Who looks at which gate: pages report it, and hear it of others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictStr

from ..core.model import MAX_KEY, Selection, Snapshot, UnknownGate
from ..core.viewers import Viewers

MOST_GATES = 20
"""The most gates that a page may name, of which it shows one."""


class Looking(BaseModel):
    """What a page shows: the first of these gates that nobody else looks at, else the first."""

    model_config = ConfigDict(extra="forbid")
    page: StrictStr = Field(max_length=MAX_KEY)
    gates: list[StrictStr] = Field(max_length=MOST_GATES)


def looks_at(
    viewers: Viewers, person: str, asked: Looking, get: Callable[[str], Snapshot]
) -> dict[str, Any]:
    """The gate that a page shows; ``you``: the name of its person in `looks`."""
    gates = []
    for gate_id in asked.gates:
        with suppress(UnknownGate):
            gates.append(get(gate_id).gate)
    gate, who = viewers.look(person, asked.page, gates)
    return {"gate": gate.id if gate else None, "you": who}


def looks(viewers: Viewers, among: Selection) -> dict[str, Any]:
    """Who looks at which of these gates, and for how many seconds that holds."""
    found = [look for look in viewers.looks() if among.covers(look.gate)]
    return {"looks": [[look.gate.id, look.who, viewers.left(look)] for look in found]}
