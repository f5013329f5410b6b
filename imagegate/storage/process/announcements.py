"""Reports changes of a store's gates to the bus."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ...core.bus import Change, Listener
from ...core.model import Answer, ImageGateError, Snapshot, State, StoreError
from .opener import StoreOpener


class Announcements:
    """Reports changes that are durable to a listener. Thread-safe."""

    def __init__(self, opener: StoreOpener) -> None:
        self._opener = opener
        self.listener = Listener()

    def one(
        self, kind: str, snapshot: Snapshot, result: Answer | ImageGateError | None = None
    ) -> None:
        """Report one change; see `Change`."""
        self.several([Change(kind, snapshot, result)])

    def several(self, changes: Iterable[Change]) -> None:
        """Report changes together."""
        changes = list(changes)
        if not changes:
            return
        shown = self.with_progress([change.gate for change in changes])
        self.listener.changed(
            [replace(change, gate=gate) for change, gate in zip(changes, shown, strict=True)]
        )

    def with_progress(self, found: list[Snapshot]) -> list[Snapshot]:
        """With each gate that goes on together with others, how many of them are answered."""
        waits = {
            one.gate.id for one in found
            if one.gate.together and (one.state.open or one.decision) and not one.resuming
        }  # fmt: skip
        if not waits:
            return found
        try:
            progress = self._opener.store.parked.progress(waits)
        except StoreError:  # it is what people like to know, no more
            return found
        return [
            replace(one, waits_for=str(progress[one.gate.id]))
            if one.gate.id in progress and one.state is not State.RESUMED
            else one
            for one in found
        ]
