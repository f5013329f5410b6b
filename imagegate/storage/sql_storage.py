"""The gates of a store, which outlive their process and are shared by any number of them.

The store is the truth; what is kept here is which gates are waited for in this process. Changes are
reported after they are durable, those of this process at once, those of others by their
`imagegate.storage.sql.watcher`.
"""

from __future__ import annotations

import atexit
import secrets
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..core.bus import NO_HOOKS, Hooks, Listener, kind_of_change
from ..core.failures import report_failure
from ..core.model import (
    Decision,
    Gate,
    GateCancelled,
    GateClosed,
    Outcome,
    Selection,
    Snapshot,
    State,
    StoreError,
    UnknownGate,
    Verdict,
)
from ..core.pictures import Pictures
from ..core.settings import Settings
from .process.additions import Additions
from .process.announcements import Announcements
from .process.claims import Claims
from .process.following import Following
from .process.opener import StoreOpener
from .process.parking import Parking
from .process.waited import Waited, WaitedGates

if TYPE_CHECKING:  # SQLAlchemy takes a while; it is imported when the store is first used
    from .open_store import OpenStore, Written
    from .queries.gate_rows import Line


class SqlStorage:
    """Gates in SQLite or PostgreSQL, as one process sees them; see `GateStorage`. Thread-safe.

    Nothing is opened before it is needed. Beside what a `GateStorage` raises, every call may raise
    `StoreError`: then nothing was changed, or it is found out as soon as the store is back.

    Args:
        settings: says where the store is, when it is first needed.
        kind: of this process, ``comfyui`` or ``panel``.
        classes: of the nodes that this process can run.

    Attributes:
        parking: parks gates, and uses answers again.
        claims: goes on with parked gates that were answered.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        *,
        kind: str = "comfyui",
        classes: Callable[[], Collection[str]] = tuple,
    ) -> None:
        opener = self._opener = StoreOpener(settings, kind, classes, self._begin)
        announcements = self._announcements = Announcements(opener)
        self._additions = Additions(opener)
        self._waited = WaitedGates(opener)
        self.parking = Parking(opener, self._additions, announcements)
        self.claims = Claims(opener, announcements, self.undo, self._withdraw)
        self._following = Following(
            opener, self._waited, self._additions, announcements, self.claims, self.end
        )

    # -- the process

    @property
    def id(self) -> str:
        """The id of this process in its store."""
        return self._opener.id

    @property
    def store(self) -> OpenStore:
        """The open store; it is opened now if it was not. Raises `StoreError`."""
        return self._opener.store

    @property
    def opened(self) -> bool:
        """Whether the store is open, which is so once somebody has needed it."""
        return self._opener.opened

    def exists(self) -> bool:
        """Whether there is a store already, so that there may be something to do in it."""
        return self._opener.exists()

    def later(self, work: Callable[[], object]) -> None:
        """Do something in the background, one thing after the other."""
        self._opener.background.add(work)

    def close(self) -> None:
        """Take back what is waited for here, and leave the store."""
        if self._opener.forked:
            return  # a fork of the process that waits
        reason = "its worker was ended"
        with suppress(StoreError):  # else others find out that this worker has ended
            for gate_id in self._waited.ids:
                with suppress(UnknownGate, GateClosed):
                    self._end(gate_id, State.WITHDRAWN, None, reason)
        store = self._opener.stop()
        for gate_id in self._waited.ids:
            self._give_up(gate_id, reason)
        if store is not None:
            atexit.unregister(self.close)
            store.close()

    def listen(self, listener: Listener) -> None:
        """See `GateStorage.listen`."""
        self._announcements.listener = listener

    # -- asking

    def add(self, gate: Gate, pictures: Pictures, hooks: Hooks = NO_HOOKS) -> Gate:
        """Add a gate that waits in this process; see `GateStorage.add`."""
        if hooks.record or hooks.revoke:
            raise ValueError("a store records answers itself")
        store = self.store
        gate = replace(gate, worker=store.name)
        waited = Waited(gate, pictures)
        first = pictures.preview(0).body
        self._waited.add(waited)  # before anybody else can see it, and answer
        try:
            with store.files(gate.id, [("preview-0", first)]) as written:
                snapshot = self._additions.add(gate, written)
        except BaseException:
            self._waited.remove(gate.id)
            raise
        self._announcements.one("published", snapshot)
        if store.shared:
            self._opener.background.add(lambda: self._share(waited))
        return gate

    # -- answering

    def end(
        self, gate_id: str, state: State, decision: Decision | None, reason: str = ""
    ) -> Verdict:
        """End a gate; see `GateStorage.end`. A withdrawal may be recorded later."""
        try:
            return self._end(gate_id, state, decision, reason)
        except StoreError as error:
            # Nobody waits any more, whatever the store says; `Following.lost_sight` records it.
            waited = self._give_up(gate_id, reason) if state is State.WITHDRAWN else None
            if waited is None:
                raise
            title = waited.gate.title
            report_failure(f"gate {title!r} was withdrawn, which is not recorded yet", error)
            return Verdict(Outcome.WON, Decision(None))

    def undo(self, gate_id: str, link: str = "") -> Snapshot:
        """Take the answer to a parked gate back, until a worker goes on."""
        snapshot = self.store.gates.undo(gate_id, link)
        self._announcements.one("published", snapshot)
        return snapshot

    def set_mask(self, gate_id: str, index: int, png: bytes) -> Snapshot:
        """Keep a mask; see `GateStorage.set_mask`."""
        store = self.store
        store.gates.get(gate_id).gate.index(index)
        # A new name each time: whoever reads the one before reads it whole.
        name = f"mask-{index}-{secrets.token_hex(4)}.png" if png else ""
        with store.files(gate_id, [(name, png)] if png else [], whole=False) as written:
            try:
                snapshot, before = store.gates.set_mask(gate_id, index, name, written.size)
            except StoreError:
                found = self._masked(gate_id, index, name, written)
                if found is None:
                    raise
                snapshot, before = found, ""  # only the confirmation was lost
        if before:
            with suppress(StoreError):  # it only takes room, until the gate's pictures go
                store.picture_files.remove_file(gate_id, before)
        self._announcements.one("masked", snapshot)
        return snapshot

    def ask_again(self, gate_id: str) -> Snapshot:
        """Forget that questions like this one were answered."""
        snapshot = self.store.gates.ask_again(gate_id)
        self._announcements.listener.missed()  # several gates may have changed
        return snapshot

    # -- looking

    def get(self, gate_id: str) -> Snapshot:
        """One gate, open or finished. Raises `UnknownGate`."""
        return self._announcements.with_progress([self.store.gates.get(gate_id)])[0]

    def pictures(self, gate_id: str) -> Pictures | None:
        """The pictures of a gate: those in memory while it is waited for here, else its files."""
        waited = self._waited.get(gate_id)
        if waited is not None:
            return waited.pictures
        return self.store.pictures(self.get(gate_id).gate)

    def mask(self, gate_id: str, index: int) -> bytes | None:
        """The mask saved for an image; None if there is none, empty bytes if it was cleared."""
        store = self.store
        store.gates.get(gate_id).gate.index(index)
        file = store.gates.masks(gate_id).get(index)
        return store.picture_files.read(gate_id, file) if file else None if file is None else b""

    def pending(self, limit: int | None, after: int, among: Selection) -> list[Snapshot]:
        """See `GateStorage.pending`."""
        return self._announcements.with_progress(self.store.gates.pending(limit, after, among))

    def finished(self, limit: int | None, before: int | None, among: Selection) -> list[Snapshot]:
        """See `GateStorage.finished`."""
        return self._announcements.with_progress(self.store.gates.finished(limit, before, among))

    def count(self, among: Selection) -> int:
        """See `GateStorage.count`."""
        return self.store.gates.count(among)

    def answered(self, links: Collection[str]) -> dict[str, int]:
        """See `GateStorage.answered`."""
        return self.store.gates.answered(links)

    def lines(self, gate_id: str) -> list[Line]:
        """The history of one gate, oldest first."""
        return self.store.gates.lines(gate_id)

    def status(self) -> dict[str, Any]:
        """The store, its workers and the disk space of its pictures, as REST returns it."""
        return self.store.status()

    # -- inside

    def _begin(self, store: OpenStore) -> None:
        atexit.register(self.close)
        following = self._following
        store.start(following.heard, following.lost_sight, following.keep)

    def _withdraw(self, gate_id: str, reason: str) -> None:
        self._following.withdraw(gate_id, reason)

    def _masked(self, gate_id: str, index: int, name: str, written: Written) -> Snapshot | None:
        """The gate, if this mask of it was kept all the same. Its file stays if that is unknown."""
        gates = self.store.gates
        written.stay = True
        self._opener.look_again()
        try:
            written.stay = gates.masks(gate_id).get(index) == name
            return gates.get(gate_id) if written.stay else None
        except StoreError:
            return None

    def _give_up(self, gate_id: str, reason: str) -> Waited | None:
        """End the wait for a gate in this process; None if nobody waited."""
        waited = self._waited.remove(gate_id)
        if waited is not None:
            listener = self._announcements.listener
            listener.gave_up(gate_id, GateCancelled(State.WITHDRAWN, reason))
        return waited

    def _end(
        self, gate_id: str, state: State, decision: Decision | None, reason: str = ""
    ) -> Verdict:
        store = self.store
        try:
            verdict, snapshot, files = store.gates.end(gate_id, state, decision, reason)
        except StoreError:
            self._opener.look_again()
            raise
        if verdict.outcome is Outcome.WON:
            result = self._waited.result(snapshot, files)
            self._announcements.one(kind_of_change(snapshot), snapshot, result)
            if snapshot.gate.mode == "park" and verdict.decision.route is None:
                store.drop_prompts(gate_id)
        return verdict

    def _share(self, waited: Waited) -> None:
        """Keep the full size for the panels of other processes, while people look at it here."""
        try:
            store, gate_id = self.store, waited.gate.id
            for index in range(waited.gate.batch):
                if self._waited.get(gate_id) is not waited:
                    return
                body = waited.pictures.full(index).body
                store.picture_files.write(gate_id, f"full-{index}.png", body)
                store.gates.add_bytes(gate_id, len(body))
        except GateClosed:  # answered meanwhile
            return
