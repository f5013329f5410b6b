"""The rules that the bus and all of its storages follow. Standard library only."""

from __future__ import annotations

from ..core.model import (
    MAX_KEY,
    MAX_NAME,
    MAX_NOTE,
    BadAnswer,
    Decision,
    Forbidden,
    Gate,
    GateClosed,
    Outcome,
    Snapshot,
    State,
    TooLate,
    Verdict,
    sayable,
)
from ..text.labels import shows


def signed(by: str, note: str, key: str = "") -> tuple[str, str]:
    """A name and a note as they are kept; a ``key`` that comes with them is looked at, too.

    Raises:
        BadAnswer: too long, or not text.
    """
    for name, text, most in (("by", by, MAX_NAME), ("note", note, MAX_NOTE), ("key", key, MAX_KEY)):
        if len(text) > most:
            raise BadAnswer(f"{name} has {len(text)} characters; at most {most} are kept")
        if sayable(text) != text:
            raise BadAnswer(f"{name} holds half a character (a lone surrogate)")
    return by.strip() if shows(by) else "", note.strip() if shows(note) else ""


def second(gate: Snapshot, decision: Decision | None) -> Verdict:
    """What becomes of an answer to a gate that has ended.

    Raises:
        GateClosed: it ended without anybody's answer.
    """
    if gate.decision is None or gate.state is State.EXPIRED:
        raise closed(gate)
    replay = decision is not None and gate.decision.same_answer(decision)
    return Verdict(Outcome.REPLAY if replay else Outcome.LOST, gate.decision)


def closed(gate: Snapshot) -> GateClosed:
    """The error for whoever comes after the end."""
    return GateClosed(f"gate {gate.gate.title!r} is {gate.state.value}: {gate.reason}")


def check_undo(gate: Snapshot, link: str = "") -> None:
    """Whether an answer can be taken back, by whoever came through this link.

    Raises:
        TooLate: it cannot; the message says why.
        Forbidden: it did not come through this link.
    """
    title = gate.gate.title
    if link and (gate.decision is None or gate.decision.link != link):
        raise Forbidden(f"the answer to {title!r} is not yours to take back")
    if gate.resuming:
        raise TooLate(f"too late: {gate.resuming} has taken {title!r} up to go on with it")
    if gate.state is State.RESUMED:
        raise TooLate(f"too late: {title!r} has gone on with this decision")
    if gate.state is not State.DECIDED:
        raise TooLate(f"{title!r} is {gate.state.value}, not decided")
    if not gate.gate.undoable:
        raise TooLate("too late: the prompt already went on with this decision")


def timed_out(gate: Gate) -> Decision:
    """The answer that the gate itself gives when its time is up."""
    label = gate.labels[gate.on_timeout - 1] if gate.on_timeout else ""
    return Decision(gate.on_timeout, label, by="timeout")


def again(gate: Snapshot, decision: Decision) -> Verdict:
    """What becomes of a click that has counted before, even if it was taken back since."""
    return Verdict(Outcome.REPLAY, gate.decision or decision)
