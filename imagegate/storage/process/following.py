"""Follows what other processes do to the gates of a store, and looks after the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from ...core.bus import TIME_IS_UP, Change, kind_of_change
from ...core.model import (
    Answer,
    Decision,
    GateClosed,
    ImageGateError,
    Snapshot,
    State,
    UnknownGate,
)
from ..rules import timed_out
from .additions import Additions
from .announcements import Announcements
from .claims import Claims
from .opener import StoreOpener
from .waited import WaitedGates


class Following:
    """What the threads of an open store do with the gates. Thread-safe.

    Args:
        end: ends a gate; see `GateStorage.end`.
    """

    def __init__(
        self,
        opener: StoreOpener,
        waited: WaitedGates,
        additions: Additions,
        announcements: Announcements,
        claims: Claims,
        end: Callable[[str, State, Decision | None, str], object],
    ) -> None:
        self._opener = opener
        self._waited = waited
        self._additions = additions
        self._announcements = announcements
        self._claims = claims
        self._end = end

    def heard(self, kinds: Mapping[str, str]) -> None:
        """Other processes have changed these gates: gate id -> kind of its newest line."""
        changes = []
        for found in self._opener.store.gates.several(kinds):
            snapshot, result = self._follow(found)
            masked = kinds[snapshot.gate.id] == "masked" and snapshot.state.open
            kind = "masked" if masked else kind_of_change(snapshot)
            changes.append(Change(kind, snapshot, result))
        self._announcements.several(changes)

    def lost_sight(self) -> None:
        """Whatever may have happened unseen: look at all that concerns this process."""
        store = self._opener.store
        before = store.gates.waiting_of(self._opener.id)
        held = self._waited.ids
        for found in store.gates.several(held):
            snapshot, result = self._follow(found)
            if result is not None:
                change = Change(kind_of_change(snapshot), snapshot, result)
                self._announcements.listener.changed([change])
        # `before` was read first, so a gate that is published right now is not in it.
        for gate_id in set(before) - set(self._waited.ids) - set(held):
            self.withdraw(gate_id, "its prompt ended")
        for gate_id in self._additions.failed():
            self.withdraw(gate_id, "its prompt failed when it was stored")
            self._additions.settle(gate_id)
        self._announcements.listener.missed()

    def keep(self) -> None:
        """Do what has to be done now and then, by whichever process comes first."""
        store = self._opener.store
        self._claims.look_after_prompts()
        for gate_id in store.gates.overdue():
            gate = store.gates.get(gate_id).gate
            with suppress(GateClosed):
                self._end(gate_id, State.EXPIRED, timed_out(gate), TIME_IS_UP)
        for gate_id, name in store.orphans():
            self.withdraw(gate_id, f"{name}, which it came from, has ended")
        store.sweep()

    def withdraw(self, gate_id: str, reason: str) -> None:
        """Take a question back, if it still waits."""
        with suppress(UnknownGate, GateClosed):
            self._end(gate_id, State.WITHDRAWN, None, reason)

    def _follow(self, snapshot: Snapshot) -> tuple[Snapshot, Answer | ImageGateError | None]:
        """The gate, and what whoever waits for it here gets, after a change elsewhere."""
        gate_id = snapshot.gate.id
        if self._waited.get(gate_id) is None or snapshot.state.open:
            return snapshot, None
        store = self._opener.store
        if snapshot.state is State.WITHDRAWN:  # by one who took this process for dead
            reopened = store.gates.reopen(gate_id, self._opener.id)
            if reopened is None:
                return snapshot, None
            store.workers.revive(self._opener.id)
            return reopened, None
        return snapshot, self._waited.result(snapshot)
