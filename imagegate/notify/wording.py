"""What a notice says: what waits, for how long, and where to answer. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.model import Gate, Snapshot, State
from ..text.labels import told_apart
from ..text.printable import one_line

LISTED = 10
"""Titles in one notice."""
LONGEST = 100
"""Characters of a title or label. Some services cut, or refuse, what is long."""

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


@dataclass(frozen=True)
class Message:
    """A notice, in plain text."""

    title: str
    body: str


@dataclass(frozen=True)
class Waits:
    """A gate that waits, and for how many seconds it has."""

    gate: Snapshot
    seconds: float


def message(waiting: Sequence[Waits], url: str) -> Message:
    """The notice of one gate, or the list of several.

    Args:
        waiting: at least one, the oldest first.
        url: of the panel.
    """
    if len(waiting) == 1:
        return _of_one(waiting[0], url)
    listed = [f"{_title(one.gate.gate)} ({span(one.seconds)})" for one in waiting[:LISTED]]
    if len(waiting) > LISTED:
        listed.append(f"and {len(waiting) - LISTED} more")
    return Message(f"Image Gate: {len(waiting)} images wait", "\n".join([*listed, url]).strip())


def span(seconds: float) -> str:
    """A time in the largest unit it fills: ``2 minutes``."""
    for unit, size in _UNITS:
        if seconds >= size:
            return _several(int(seconds // size), unit)
    return _several(max(0, int(seconds)), "second")


def _of_one(waits: Waits, url: str) -> Message:
    gate, parked = waits.gate.gate, waits.gate.state is State.PARKED
    said = [f"{'Parked' if parked else 'Waiting'} for {span(waits.seconds)}."]
    if gate.batch > 1:
        said.append(f"{gate.batch} images")
    labels = [one_line(label, 40) for label in gate.labels]
    routes = (told_apart(labels, i) for i in range(1, len(labels) + 1))
    said.append("Routes: " + ", ".join(routes))
    return Message(f"Image Gate: {_title(gate)}", "\n".join([*said, url]).strip())


def _title(gate: Gate) -> str:
    return one_line(gate.title, LONGEST) or "an image waits"


def _several(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
