"""The text of a notice: what waits, for how long, and where to answer. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.model import Gate, Snapshot, State
from ..text.labels import told_apart
from ..text.printable import one_line

MOST_TITLES = 10
"""The most titles in one notice."""
LONGEST_TITLE = 100
"""The most characters of a title or label. Some services cut or refuse long texts."""

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


@dataclass(frozen=True)
class Message:
    """A notice, in plain text."""

    title: str
    body: str


@dataclass(frozen=True)
class Waits:
    """A gate that waits, and the seconds it has waited."""

    gate: Snapshot
    seconds: float


def message(waiting: Sequence[Waits], url: str) -> Message:
    """The notice of one gate, or the list of several.

    Args:
        waiting: at least one, the oldest first.
        url: the panel's address.
    """
    if len(waiting) == 1:
        return _of_one(waiting[0], url)
    listed = [f"{_title(one.gate.gate)} ({span(one.seconds)})" for one in waiting[:MOST_TITLES]]
    if len(waiting) > MOST_TITLES:
        listed.append(f"and {len(waiting) - MOST_TITLES} more")
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
    return one_line(gate.title, LONGEST_TITLE) or "an image waits"


def _several(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"
