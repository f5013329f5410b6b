"""Takes up parked gates that were answered, and records what became of their prompts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import TYPE_CHECKING

from ...core.model import Snapshot, TooLate
from .announcements import Announcements
from .opener import StoreOpener

if TYPE_CHECKING:  # it brings SQLAlchemy
    from ..queries.runs import Claim


class Claims:
    """What this process goes on with, and which of its prompts still run. Thread-safe.

    Every method may raise `StoreError`.

    Args:
        undo: takes an answer back.
        withdraw: takes a question back; it may have ended.
    """

    def __init__(
        self,
        opener: StoreOpener,
        announcements: Announcements,
        undo: Callable[[str], object],
        withdraw: Callable[[str, str], object],
    ) -> None:
        self._opener = opener
        self._announcements = announcements
        self._undo = undo
        self._withdraw = withdraw
        self.when_due: Callable[[], None] = lambda: None
        """Called when a prompt of this process has ended, and answered gates of it may go on."""
        self._lock = threading.Lock()  # guards the next
        self._prompts: set[str] = set()  # those that run here and have parked gates

    def take(self) -> Claim | None:
        """Take up a parked gate that was decided, if there is one that this process can run."""
        claim = self._opener.store.claim()
        for snapshot in claim.gates if claim is not None else ():
            self._announcements.one("decided", snapshot)
        return claim

    def renew(self, claims: Collection[Claim]) -> None:
        """Hold claims for another while, if it is time."""
        if claims and self._opener.store.time_to_renew():
            self._opener.store.parked.renew(claims, self._opener.id)

    def finish(self, claim: Claim, text: str = "") -> bool:
        """The claimed gates have gone on. False if somebody else holds one of them now."""
        store, me = self._opener.store, self._opener.id
        settled = self._settled("decided", claim, store.parked.finish(claim, me, text))
        store.drop_prompts(claim.gate.gate.id)
        return settled

    def put_back(self, claim: Claim, why: str) -> bool:
        """The claimed gates could not go on, and one of them waits again. Returns as `finish`."""
        parked = self._opener.store.parked
        return self._settled("published", claim, parked.put_back(claim, self._opener.id, why))

    def withdraw_parked(self, prompt_id: str, reason: str) -> None:
        """Take back what was asked on the way of a prompt that has failed."""
        store = self._opener.store
        store.parked.forget_answers(prompt_id)
        for gate_id in store.gates.due_in(prompt_id):
            with suppress(TooLate):
                self._undo(gate_id)
        for gate_id in store.gates.parked_in(prompt_id):
            self._withdraw(gate_id, reason)

    # -- prompts that run

    def prompt_runs(self, prompt_id: str) -> bool:
        """A prompt of this process asks gates, which do not go on before it ends.

        Returns:
            Whether that is new: `prompt_ended` has to be called when it ends.
        """
        with self._lock:
            new = prompt_id not in self._prompts
            self._prompts.add(prompt_id)
            return new

    def prompt_ended(self, prompt_id: str) -> None:
        """It has ended. Where the store is away, this is recorded later."""
        with self._lock:
            self._prompts.discard(prompt_id)
        self._opener.background.add(lambda: self._may_go_on(prompt_id))

    def look_after_prompts(self) -> None:
        """Record the end of prompts that was not recorded when they ended."""
        with self._lock:
            running = set(self._prompts)
        for prompt_id in self._opener.store.parked.said_to_run(self._opener.id) - running:
            self._may_go_on(prompt_id)

    # -- inside

    def _may_go_on(self, prompt_id: str) -> None:
        due = self._opener.store.parked.prompt_ended(prompt_id, self._opener.id)
        for snapshot in due:
            self._announcements.one("decided", snapshot)
        if due:
            self.when_due()  # no news, if the answers came before the end

    def _settled(self, kind: str, claim: Claim, settled: list[Snapshot]) -> bool:
        for snapshot in settled:
            self._announcements.one(kind if snapshot.state.open else "decided", snapshot)
        return len(settled) == len(claim.gates)
