"""Who looks at which gate, so that several people at one queue are shown different ones first.

It is a courtesy, kept in memory: it locks nothing, and everybody can answer every gate.
Standard library only.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .model import Gate
from .news import Bell

ATTENTION = 60.0
"""Seconds for which a gate counts as looked at, from its viewer's last key or click: one that
is left open on a screen is shown to others again."""
MOST = 500
"""Pages that are remembered."""


@dataclass(frozen=True)
class Look:
    """One page's gate. ``who`` names its person to the other pages, and says nothing else."""

    gate: Gate
    who: str
    until: float


class Viewers:
    """The gates that people look at now. Thread-safe.

    Args:
        clock: seconds, as `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards the two below
        self._looks: dict[tuple[str, str], Look] = {}  # (person, page) -> what it shows
        self._names: dict[str, str] = {}  # person -> as the others know them
        self.changed = Bell()

    def look(self, person: str, page: str, gates: Sequence[Gate]) -> tuple[Gate | None, str]:
        """A page shows one of these gates: the first that nobody else looks at, else the first.

        Args:
            person: whose pages do not get out of each other's way; a secret of theirs.
            gates: in the order of the queue; none, if the page shows none any more.

        Returns:
            the gate, and how the person is called in `looks`.
        """
        with self._lock:
            self._forget()
            who = self._names.setdefault(person, secrets.token_urlsafe(6))
            others = {look.gate.id for look in self._looks.values() if look.who != who}
            free = (gate for gate in gates if gate.id not in others)
            gate = next(free, gates[0] if gates else None)
            before = self._looks.pop((person, page), None)
            if gate is not None:
                self._looks[person, page] = Look(gate, who, self._clock() + ATTENTION)
                while len(self._looks) > MOST:
                    del self._looks[next(iter(self._looks))]
            alone = len({look.who for look in self._looks.values()} | {who}) == 1
        if not alone and (gate and gate.id) != (before and before.gate.id):
            self.changed.ring()
        return gate, who

    def looks(self) -> list[Look]:
        """What everybody looks at."""
        with self._lock:
            self._forget()
            return list(self._looks.values())

    def left(self, look: Look) -> float:
        """Seconds for which somebody still counts as looking."""
        return max(0.0, look.until - self._clock())

    def _forget(self) -> None:
        now = self._clock()
        self._looks = {page: look for page, look in self._looks.items() if look.until > now}
        here = {person for person, _ in self._looks}
        self._names = {person: who for person, who in self._names.items() if person in here}
