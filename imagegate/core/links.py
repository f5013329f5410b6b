"""What a share link is: whose, what it shows, what it lets them do. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .model import ALL, BadAnswer, ImageGateError, Selection, sayable

HOUR = 3600.0
LONGEST = 30 * 24 * HOUR
"""Seconds that a link can be valid at most."""


class May(str, Enum):
    """What a link lets its person do; each includes the one before."""

    LOOK = "look"
    DECIDE = "decide"
    MASK = "mask"

    @property
    def decides(self) -> bool:
        """Whether answers are taken."""
        return self is not May.LOOK


class Reach(str, Enum):
    """From where a link can be opened."""

    INTERNET = "internet"
    NETWORK = "network"


class NoEntry(ImageGateError):
    """A token that opens nothing; the message says why, to whoever holds it."""


class WrongPassphrase(NoEntry):
    """``left``: how many more wrong ones are tried within the hour."""

    def __init__(self, left: int) -> None:
        super().__init__("That is not the passphrase.")
        self.left = left


class TooManyAttempts(ImageGateError):
    """A passphrase was wrong too often; ``after`` seconds from now it is tried again."""

    def __init__(self, after: float) -> None:
        self.after = max(1, math.ceil(after))
        minutes = -(-self.after // 60)
        span = f"{self.after} seconds" if self.after < 120 else f"{minutes} minutes"
        super().__init__(f"Too many wrong attempts. Try again in {span}.")


class UnknownLink(ImageGateError):
    """No link has this id."""


@dataclass(frozen=True)
class Link:
    """A link as it stands. Times are seconds since the epoch.

    Attributes:
        id: short, and no secret. ``name``: of its person.
        among: the gates that it shows.
        door: where its address leads, below which its token stands; empty until that is known.
        once: only the first browser that opens its address gets in.
        passphrase: whether one is asked for.
        worker: the id of the process whose door it opens.
        opened: how many browsers have opened it.
        live: neither expired nor revoked. ``idle``: seconds since its person was last
            seen. ``left``: seconds until it expires, by the clock that decides that.
    """

    id: str
    name: str
    may: May
    among: Selection
    reach: Reach
    door: str
    once: bool
    passphrase: bool
    opened: int
    worker: str
    created_at: float
    expires_at: float
    revoked_at: float | None
    seen_at: float | None
    live: bool
    idle: float | None = None
    left: float = 0.0

    @property
    def state(self) -> str:
        """live, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "live" if self.live else "expired"

    def opens(self, *, outside: bool) -> bool:
        """Whether it opens anything for who comes through the tunnel, or from the network.

        One for the internet does so in the network too, which is where it leads without a tunnel.
        """
        return self.reach is Reach.INTERNET or not outside

    @property
    def ended(self) -> str:
        """How it ended, in a sentence for its person."""
        return "This link was revoked." if self.revoked_at is not None else "This link has expired."

    def scope(self) -> dict[str, str]:
        """What it shows, as REST returns it."""
        if self.among.gate_id:
            return {"kind": "gate", "gate": self.among.gate_id}
        if self.among.title:
            title, workflow = self.among.title, self.among.workflow_id
            return {"kind": "title", "title": sayable(title), "workflow": sayable(workflow)}
        return {"kind": "all"}

    def to_json(self) -> dict[str, Any]:
        """The link as the operator's REST returns it: no token, no hash."""
        return {
            "id": self.id, "name": self.name, "may": self.may.value, "scope": self.scope(),
            "reach": self.reach.value, "once": self.once, "passphrase": self.passphrase,
            "created_at": self.created_at, "expires_at": self.expires_at,
            "revoked_at": self.revoked_at, "seen_at": self.seen_at, "opened": self.opened,
            "state": self.state,
        }  # fmt: skip


def read_scope(scope: Mapping[str, Any]) -> Selection:
    """What a link shall show: all gates, those of a title (in one workflow), or a single one.

    Raises:
        BadAnswer: it says none of these.
    """
    kind, rest = scope.get("kind"), {k: v for k, v in scope.items() if k != "kind"}
    wanted = {"all": (), "title": ("title", "workflow"), "gate": ("gate",)}
    if not isinstance(kind, str) or kind not in wanted:
        raise BadAnswer(f"a link shows {kind!r}; it can show {', '.join(map(repr, wanted))}")
    if strange := sorted(set(rest) - set(wanted[kind])):
        raise BadAnswer(f"a scope of kind {kind!r} has no {strange[0]!r}")
    if not all(isinstance(value, str) for value in rest.values()):
        raise BadAnswer(f"a scope of kind {kind!r} holds text only")
    if kind == "all":
        return ALL
    if not rest.get(kind):  # empty would stand for any
        raise BadAnswer(f"a link that shows one {kind} has to name it")
    if kind == "gate":
        return Selection(gate_id=rest["gate"])
    return Selection(title=rest["title"], workflow_id=rest.get("workflow", ""))
