"""The records everybody shares: gates, decisions, outcomes, and the rules they follow.

Standard library only, and of this package only `labels`. All records are frozen, so they may cross
threads freely.

The errors::

    ImageGateError
    ├── UnknownGate     no gate has this id                                   (HTTP 404)
    ├── GateClosed      the gate was withdrawn or expired before the answer   (HTTP 410)
    ├── BadAnswer       a route, label or note the gate cannot take           (HTTP 422)
    ├── BadPicture      a mask that is broken, too big or of another shape    (HTTP 422)
    ├── Forbidden       more than whoever asks may do                         (HTTP 403)
    ├── TooLate         an undo, or a mask, after it could still count        (HTTP 409)
    ├── NotRecorded     the answer could not be made durable; the gate waits  (HTTP 507)
    ├── StoreError      the store cannot be used: full, locked, broken, away  (HTTP 503)
    │   └── NoAnswer    it has said nothing for seconds: frozen, most likely
    └── GateCancelled   what a waiter gets when its gate ends without a route
"""

from __future__ import annotations

import secrets
import time
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any

from ..text.labels import shows, split_labels, told_apart

MAX_ROUTES = 10
MAX_NOTE = 2000
"""Characters of a note, and (see `MAX_NAME`) of a name, that are kept; more is refused."""
MAX_NAME = 100
MAX_KEY = 64
"""Characters of the key of a click."""


class ImageGateError(Exception):
    """Base of all errors this package raises on purpose."""


class UnknownGate(ImageGateError):
    """No gate has this id."""


class GateClosed(ImageGateError):
    """The gate ended (withdrawn or expired) before the answer came."""


class BadAnswer(ImageGateError, ValueError):
    """The gate cannot take this answer; the message names what it can take."""


class BadPicture(ImageGateError, ValueError):
    """A mask that cannot be used; the message names what can."""


class Forbidden(ImageGateError):
    """The caller is not allowed to do this; the message says what is allowed."""


class TooLate(ImageGateError):
    """It is too late for what was asked."""


class NotRecorded(ImageGateError):
    """The answer could not be made durable, so it does not count and the gate still waits."""


class StoreError(ImageGateError):
    """The store, or its pictures' folder, cannot be used; the message says which and why.

    ``passing``: it may be well again in a moment, so trying again makes sense. ``conflict``: what
    was to be added is there already. ``reason``: the part of the message that is the same for all
    gates, if it is not all of it.
    """

    def __init__(
        self, message: str, *, passing: bool = False, conflict: bool = False, reason: str = ""
    ) -> None:
        super().__init__(message)
        self.passing = passing
        self.conflict = conflict
        self.reason = reason


class NoAnswer(StoreError):
    """The store does not respond, not even with an error."""

    def __init__(self, message: str) -> None:
        super().__init__(message, passing=True)


class GateCancelled(ImageGateError):
    """The gate ended without a route; ``state`` says how: stopped, expired or withdrawn."""

    def __init__(self, state: State, reason: str) -> None:
        super().__init__(reason)
        self.state = state


class State(str, Enum):
    """Where a gate is in its life. Only ``WAITING`` and ``PARKED`` take an answer."""

    WAITING = "waiting"
    PARKED = "parked"
    DECIDED = "decided"
    RESUMED = "resumed"
    STOPPED = "stopped"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"

    @property
    def open(self) -> bool:
        """Whether a human can still answer."""
        return self in (State.WAITING, State.PARKED)


class Outcome(str, Enum):
    """What became of an answer: the first one wins, a repetition of it is harmless."""

    WON = "won"
    REPLAY = "replay"
    LOST = "lost"


def new_gate_id() -> str:
    """An unguessable, URL-safe id (128 bits)."""
    return secrets.token_urlsafe(16)


def parse_labels(text: str, routes: int) -> tuple[str, ...]:
    """Split comma or newline separated labels; one that is missing or blank is its number.

    Args:
        text: e.g. ``keep, "fix, then upscale"``; a label with a comma in it is written in double
            quotes. Labels beyond ``routes`` are ignored.
        routes: how many routes there are, 1 to `MAX_ROUTES`.

    Returns:
        Exactly ``routes`` labels.

    Raises:
        BadAnswer: ``routes`` is out of range.
    """
    if not 1 <= routes <= MAX_ROUTES:
        raise BadAnswer(f"routes is {routes}; a gate has 1 to {MAX_ROUTES}")
    given = split_labels(text)[:routes]
    return _numbered((*given, *[""] * (routes - len(given))))


@dataclass(frozen=True)
class Gate:
    """One question put to a person: which way shall this image go?

    Attributes:
        labels: one a route, in order; routes count from 1. One that shows nothing is its number.
        width, height: of the image in pixels. ``batch``: how many images, at least 1.
        node_id: of the node as the front end knows it (``"12"``, ``"4:2"`` in a subgraph).
        prompt_id: the running prompt; empty in folder mode.
        workflow_id: of the workflow as the front end knows it; empty where it sent none. With
            ComfyUI's ``--multi-user`` its user follows, as in ``ID@USER``.
        mode: ``wait`` holds the prompt, ``park`` lets it end and goes on after the answer.
        file: the path of the image relative to its folder; empty in ComfyUI.
        worker: the name of the process that asks, where several share a store.
        created_at: seconds since the epoch. ``deadline``: likewise, or None for never.
        on_timeout: the route taken at the deadline, or None for stop.
        undoable: whether an answer may be taken back.
        gather: whether each route is the list of its own images, for one that stands in a list.
        together: how many items of a list go on in one prompt; 0 for one that goes on by itself.
        warning: what a person should know before the answer.
    """

    labels: tuple[str, ...]
    width: int
    height: int
    title: str = "Image Gate"
    batch: int = 1
    node_id: str = ""
    prompt_id: str = ""
    workflow_id: str = ""
    mode: str = "wait"
    file: str = ""
    worker: str = ""
    deadline: float | None = None
    on_timeout: int | None = None
    undoable: bool = False
    gather: bool = False
    together: int = 0
    warning: str = ""
    created_at: float = field(default_factory=time.time)
    id: str = field(default_factory=new_gate_id)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", _numbered(self.labels))

    def route(self, wanted: object) -> int:
        """The number, 1-based, of the route that ``wanted`` (a number or a label) names.

        Raises:
            BadAnswer: there is no such route, or several have this label.
        """
        if isinstance(wanted, int) and not isinstance(wanted, bool):
            if 1 <= wanted <= len(self.labels):
                return wanted
        elif isinstance(wanted, str):
            matches = [i for i, label in enumerate(self.labels, 1) if label == wanted.strip()]
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise BadAnswer(
                    f"label {wanted!r} is not unique: routes {_listed(matches)} all have it; "
                    "give the route's number"
                )
        raise BadAnswer(f"no route {wanted!r}; this gate has {self.routes_text()}")

    def index(self, wanted: int) -> int:
        """``wanted`` if the batch has an image of that 0-based index.

        Raises:
            BadAnswer: it has not.
        """
        if 0 <= wanted < self.batch:
            return wanted
        raise BadAnswer(f"no image {wanted}; this gate has images 0 to {self.batch - 1}")

    def said(self, route: int | None) -> str:
        """The label of a route in a sentence: with its number where others look like it."""
        return "stop" if route is None else told_apart(self.labels, route)

    def routes_text(self) -> str:
        """All routes for a message: ``1 (keep), 2 (fix)``."""
        return _listed(f"{i} ({label})" for i, label in enumerate(self.labels, 1))


@dataclass(frozen=True)
class Selection:
    """Selects gates; an empty field matches any.

    ``link``: only those that were answered through it.
    """

    node_id: str = ""
    workflow_id: str = ""
    title: str = ""
    gate_id: str = ""
    link: str = ""

    def covers(self, gate: Gate, decision: Decision | None = None) -> bool:
        """Whether this gate, with this answer, is one of them."""
        return (
            self.node_id in ("", gate.node_id)
            and self.workflow_id in ("", gate.workflow_id)
            and self.title in ("", gate.title)
            and self.gate_id in ("", gate.id)
            and (not self.link or (decision is not None and decision.link == self.link))
        )


ALL = Selection()


@dataclass(frozen=True)
class Decision:
    """The answer to a gate: a route (1-based), or None to stop; by whom, when, why.

    ``link`` is the id of the share link it came through, if any. ``key`` names the click: however
    often it is sent, it counts once.
    """

    route: int | None
    label: str = ""
    by: str = ""
    note: str = ""
    at: float = field(default_factory=time.time)
    link: str = ""
    key: str = ""

    @property
    def click(self) -> str:
        """The key, qualified by its link: keys of one link mean nothing at another."""
        return f"{self.link}/{self.key}" if self.key else ""

    def same_answer(self, other: Decision) -> bool:
        """Whether the same person says the same thing."""
        return (self.route, self.by, self.link) == (other.route, other.by, other.link)

    def record(self) -> dict[str, Any]:
        """The decision as it is stored and shown: without its key, which is private."""
        kept = asdict(self)
        del kept["key"]
        if not self.link:
            del kept["link"]
        return kept


@dataclass(frozen=True)
class Answer:
    """What a waiter receives: the decision, and the masks as they were when it was made.

    ``masks`` maps a 0-based image index to PNG bytes; empty bytes say that a person cleared it.
    """

    decision: Decision
    masks: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What became of an answer; ``decision`` is the one that counts."""

    outcome: Outcome
    decision: Decision


@dataclass(frozen=True)
class Snapshot:
    """A gate as it stands at one moment; ``masked`` lists the images a mask was saved for.

    ``seq`` orders gates by age, ``ended`` the finished ones by their end, ``version`` grows with
    each change of this one, ``reason`` says why a withdrawn gate was, or why one was put back.
    ``attempts`` counts how often a parked gate was taken up to go on, ``resuming`` names the worker
    that does so now; ``reusable`` says that an equal image is not asked for again; ``waits_for``
    says what else has to be answered before its prompt goes on.
    """

    gate: Gate
    state: State
    seq: int
    version: int = 0
    decision: Decision | None = None
    masked: tuple[int, ...] = ()
    reason: str = ""
    ended: int = 0
    attempts: int = 0
    resuming: str = ""
    reusable: bool = False
    waits_for: str = ""

    @property
    def undoable(self) -> bool:
        """Whether the answer can be taken back now."""
        return self.gate.undoable and self.state is State.DECIDED and not self.resuming

    def to_json(self) -> dict[str, Any]:
        """The gate as REST, the event stream and ComfyUI's websocket return it."""
        record: dict[str, Any] = {
            key: sayable(value) if isinstance(value, str) else value
            for key, value in asdict(self.gate).items()
        }
        record |= {
            "labels": [sayable(label) for label in self.gate.labels],
            "state": self.state.value,
            "version": self.version,
            "masked": list(self.masked),
            "undoable": self.gate.undoable if self.state.open else self.undoable,
        }
        if self.attempts:
            record |= {"attempts": self.attempts, "resuming": self.resuming}
        if self.reusable:
            record["reusable"] = True
        if self.decision is not None:
            record["decision"] = self.decision.record() | {"label": sayable(self.decision.label)}
        if self.reason:
            record["reason"] = self.reason
        if self.waits_for:
            record["waits_for"] = self.waits_for
        return record


def sayable(text: str) -> str:
    """``text`` without lone surrogates, which no JSON or HTML in UTF-8 can carry.

    They come in prompts written by hand, and in file names that are not UTF-8.
    """
    return text.encode("utf-8", "replace").decode("utf-8")


def plain(text: str) -> str:
    """``text`` as every database accepts it: without lone surrogates and NUL."""
    return sayable(text).replace("\0", "\ufffd")


@lru_cache(256)  # a folder's gates all have the same
def _numbered(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The labels, with each invisible one replaced by its number."""
    return tuple(label if shows(label) else str(i) for i, label in enumerate(labels, 1))


def _listed(items: Any) -> str:
    return ", ".join(str(item) for item in items)
