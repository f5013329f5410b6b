"""What a share link shows of a bus and lets its person do there; nothing else gets through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..core.bus import Bus
from ..core.links import Link, May, NoEntry
from ..core.model import Decision, Forbidden, Snapshot, UnknownGate, Verdict, sayable
from ..core.pictures import Pictures
from ..pictures.masks import save_painted


class ScopedBus:
    """A bus as the person with one link sees it.

    A gate that the link does not cover does not exist here: `UnknownGate`, as for an id that was
    never given. What the link does not allow raises `Forbidden`. Beside these, every method raises
    what the bus raises.

    Args:
        live: whether the link is still live; called just before anything is changed, because a
            link may be revoked between a request's head and the end of its body.
    """

    def __init__(self, bus: Bus, link: Link, live: Callable[[], bool] = lambda: True) -> None:
        self._bus = bus
        self._live = live
        self.link = link

    def check(self) -> None:
        """Raises `NoEntry` if the link has ended since the request was let in."""
        if not self._live():
            raise NoEntry("This link has ended.")

    def get(self, gate_id: str) -> Snapshot:
        """One gate, open or finished."""
        snapshot = self._bus.get(gate_id)
        if not self.link.among.covers(snapshot.gate):
            raise UnknownGate(f"no gate has the id {gate_id!r}")
        return snapshot

    def pictures(self, gate_id: str, index: int) -> Pictures | None:
        """The pictures of a gate that has an image of this index."""
        self.get(gate_id).gate.index(index)
        return self._bus.pictures(gate_id)

    def mask(self, gate_id: str, index: int) -> bytes | None:
        """The saved mask, else the one that painting starts from; None or empty without one."""
        pictures = self.pictures(gate_id, index)
        saved = self._bus.mask(gate_id, index)
        return pictures.start_mask(index) if saved is None and pictures else saved

    def pending(self, limit: int, after: int) -> list[Snapshot]:
        """Open gates, oldest first; as `GateBus.pending`."""
        return self._bus.pending(limit, after, self.link.among)

    def finished(self, limit: int, before: int | None, *, mine: bool) -> list[Snapshot]:
        """Finished gates, newest first; ``mine``: those answered through this link."""
        among = self.link.among
        if mine:
            among = replace(among, link=self.link.id)
        return self._bus.finished(limit, before, among)

    def count(self) -> int:
        """How many gates wait."""
        return self._bus.count(self.link.among)

    def decide(self, gate_id: str, route: object, note: str, key: str) -> Verdict:
        """Answer with a route, in the name of the link's person."""
        self.may_decide()
        self.get(gate_id)
        return self._bus.decide(
            gate_id, route, by=self.link.name, note=note, link=self.link.id, key=key
        )

    def undo(self, gate_id: str) -> Snapshot:
        """Take back an answer that came through this link."""
        self.may_decide()
        self.get(gate_id)
        return self._bus.undo(gate_id, link=self.link.id)

    def may_decide(self) -> None:
        """Raises `Forbidden` if this link does not let its person decide."""
        self._must("decide", self.link.may.decides)

    def may_paint(self) -> None:
        """Raises `Forbidden` if this link does not let its person paint."""
        self._must("paint masks", self.link.may is May.MASK)

    def set_mask(self, gate_id: str, index: int, png: bytes) -> Snapshot:
        """Keep what was painted; empty bytes clear the mask."""
        self.may_paint()
        self.get(gate_id)
        if not png:
            return self._bus.set_mask(gate_id, index, b"")
        return save_painted(self._bus, gate_id, index, png)

    def _must(self, what: str, allowed: bool) -> None:
        if not allowed:
            may = {May.LOOK: "look only", May.DECIDE: "look and decide"}[self.link.may]
            raise Forbidden(f"this link does not let you {what}; you may {may}")
        self.check()

    # -- descriptions list what may be seen, so that whatever is added to a gate stays hidden

    def describe(self, snapshot: Snapshot) -> dict[str, Any]:
        """A gate, with nothing about the machine, the folder or the prompt that it comes from."""
        gate, decision = snapshot.gate, snapshot.decision
        mine = decision is not None and decision.link == self.link.id
        undoable = gate.undoable if snapshot.state.open else snapshot.undoable and mine
        described: dict[str, Any] = {
            "id": gate.id, "title": sayable(gate.title),
            "labels": [sayable(label) for label in gate.labels],
            "width": gate.width, "height": gate.height, "batch": gate.batch,
            "created_at": gate.created_at, "deadline": gate.deadline,
            "state": snapshot.state.value, "version": snapshot.version,
            "masked": list(snapshot.masked), "undoable": undoable and self.link.may.decides,
        }  # fmt: skip
        if decision is not None:
            described["decision"] = self.describe_decision(decision)
        return described

    def describe_decision(self, decision: Decision) -> dict[str, Any]:
        """An answer: who gave it, what and when. ``mine``: it came through this link."""
        return {
            "route": decision.route, "label": sayable(decision.label), "by": decision.by,
            "note": decision.note, "at": decision.at, "mine": decision.link == self.link.id,
        }  # fmt: skip
