"""The gates of a store, which outlive their process and are shared by any number of them.

The store is the truth; what is kept here is which gates are waited for in this process. Changes are
reported after they are durable, those of this process at once, those of others by their
`imagegate.storage.sql.watcher`.
"""

from __future__ import annotations

import atexit
import copy
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..core.bus import (
    NO_HOOKS,
    TIME_IS_UP,
    Change,
    Hooks,
    Listener,
    cancelled,
    kind_of_change,
)
from ..core.failures import report_failure
from ..core.loop import Background
from ..core.model import (
    Answer,
    Decision,
    Gate,
    GateCancelled,
    GateClosed,
    ImageGateError,
    NoAnswer,
    Outcome,
    Selection,
    Snapshot,
    State,
    StoreError,
    TooLate,
    UnknownGate,
    Verdict,
    timed_out,
)
from ..core.pictures import Pictures
from ..core.settings import Settings
from .sql.deadline import limit

if TYPE_CHECKING:  # SQLAlchemy takes a while; it is imported when the store is first used
    from .gates import Line
    from .notified import Untold
    from .open_store import OpenStore, Written
    from .runs import Claim, Parked

TRIES = 10
"""Looks, about a second apart, for the mask of an answer that is not where it should be."""

log = logging.getLogger("imagegate")


@dataclass
class _Waited:
    """A gate that is waited for in this process. ``failures``: to read its answer."""

    gate: Gate
    pictures: Pictures
    failures: int = 0


class SqlStorage:
    """Gates in SQLite or PostgreSQL, as one process sees them; see `GateStorage`. Thread-safe.

    Nothing is opened before it is needed. Beside what a `GateStorage` raises, every call may raise
    `StoreError`: then nothing was changed, or it is found out as soon as the store is back.

    Args:
        settings: says where the store is, when it is first needed.
        kind: of this process, ``comfyui`` or ``panel``.
        classes: of the nodes that this process can run.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        *,
        kind: str = "comfyui",
        classes: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self.id = secrets.token_hex(8)
        self._settings = settings
        self._kind = kind
        self._classes = classes
        # Guards the three below. Nothing is read, written or called while it is held.
        self._lock = threading.Lock()
        self._waited: dict[str, _Waited] = {}
        self._unsure: set[str] = set()  # gates of which it is not known whether they were stored
        self._prompts: set[str] = set()  # those that run here and have parked gates
        self._listener = Listener()
        # Held while the store is opened, and for nothing else; guards the next three.
        self._opening = threading.Lock()
        self._store: OpenStore | None = None
        self._failed: tuple[float, StoreError] | None = None  # the last attempt, and when it ended
        self._closed = False
        self._process = os.getpid()
        self._background = Background()
        self.when_due: Callable[[], None] = lambda: None
        """Called when a prompt of this process has ended, and answered gates of it may go on."""

    # -- the process

    @property
    def store(self) -> OpenStore:
        """The open store; it is opened now if it was not."""
        store = self._store
        if store is not None and self._process == os.getpid():
            return store
        asked = time.monotonic()
        if not self._opening.acquire(timeout=limit()):
            raise NoAnswer("the store does not answer: it is still being opened")
        try:
            if self._process != os.getpid():
                raise StoreError("the store belongs to the process that this one was forked from")
            if self._closed:
                raise StoreError("the store was closed: this process ends")
            if self._store is None:
                if self._failed is not None and self._failed[0] > asked:
                    # It took a while, and this caller has waited for its end already.
                    raise copy.copy(self._failed[1])
                self._store = self._open()
                atexit.register(self.close)
                self._store.start(self._heard, self._lost_sight, self._keep)
            return self._store
        finally:
            self._opening.release()

    def _open(self) -> OpenStore:
        from .open_store import OpenStore

        try:
            return OpenStore(self._settings(), self.id, self._kind, self._classes())
        except StoreError as error:
            self._failed = time.monotonic(), error
            raise

    @property
    def name(self) -> str:
        """What people call this process."""
        return self.store.settings.worker

    def others(self) -> dict[str, str]:
        """The other processes of the store that are alive: id -> name."""
        each = self.store.workers.each()
        return {one.id: one.name for one in each if one.alive and one.id != self.id}

    @property
    def opened(self) -> bool:
        """Whether the store was needed yet."""
        return self._store is not None

    def exists(self) -> bool:
        """Whether there is a store already, so that there may be something to do in it."""
        return self._settings().exists

    def later(self, work: Callable[[], object]) -> None:
        """Do something in the background, one thing after the other."""
        self._background.add(work)

    def close(self) -> None:
        """Take back what is waited for here, and leave the store."""
        if self._process != os.getpid():
            return  # a fork of the process that waits
        reason = "its worker was ended"
        with suppress(StoreError):  # else others find out that this worker has ended
            for gate_id in self._waited_for():
                with suppress(UnknownGate, GateClosed):
                    self._end(gate_id, State.WITHDRAWN, None, reason)
        self._background.close()
        with self._opening:
            self._closed = True
            if self._store is not None:
                self._store.stop()
            store, self._store = self._store, None
        for gate_id in self._waited_for():
            self._give_up(gate_id, reason)
        if store is not None:
            atexit.unregister(self.close)
            store.close()

    def listen(self, listener: Listener) -> None:
        """See `GateStorage.listen`."""
        self._listener = listener

    # -- asking

    def add(self, gate: Gate, pictures: Pictures, hooks: Hooks = NO_HOOKS) -> Gate:
        """Add a gate that waits in this process; see `GateStorage.add`."""
        if hooks.record or hooks.revoke:
            raise ValueError("a store records answers itself")
        store = self.store
        gate = replace(gate, worker=store.settings.worker)
        waited = _Waited(gate, pictures)
        first = pictures.preview(0).body
        with self._lock:
            # Before anybody else can see it, and answer.
            if gate.id in self._waited:
                raise ValueError(f"gate {gate.id} is published already")
            self._waited[gate.id] = waited
        try:
            with store.files(gate.id, [("preview-0", first)]) as written:
                snapshot = self._insert(gate, written)
        except BaseException:
            with self._lock:
                self._waited.pop(gate.id, None)
            raise
        self._announce("published", snapshot)
        if store.shared:
            self.later(lambda: self._share(waited))
        return gate

    def park(
        self,
        gate: Gate,
        files: Iterable[tuple[str, bytes]],
        parked: Parked,
        fingerprint: str = "",
    ) -> Snapshot:
        """Put a question that nobody waits for; whoever answers it makes the prompt go on.

        Args:
            files: its pictures by name, see `imagegate.pictures.stored.StoredPictures`.
            parked: what is needed to go on.
        """
        store = self.store
        gate = replace(gate, mode="park", worker=store.settings.worker, undoable=True)
        with store.files(gate.id, files, durable=True) as written:
            snapshot = self._insert(
                gate, written, state=State.PARKED, fingerprint=fingerprint,
                also=[parked.insert(gate.id)],
            )  # fmt: skip
        self._announce("published", snapshot)
        return snapshot

    def keep_for_later(
        self, gate: Gate, files: Iterable[tuple[str, bytes]], parked: Parked
    ) -> Future[None]:
        """Keep what prompts need of this gate that go on from others of its run.

        It is done in the background, while the person thinks.

        Args:
            files: its pictures, made when their turn comes.
        """
        done: Future[None] = Future()

        def keep() -> None:
            try:
                store = self.store
                with store.files(gate.id, files, durable=True, whole=False) as written:
                    store.parked.add(gate.id, parked)
                store.gates.add_bytes(gate.id, written.size)
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        if not self._background.add(keep):
            done.set_exception(StoreError("the store was closed: this process ends"))
        return done

    # -- answering

    def end(
        self, gate_id: str, state: State, decision: Decision | None, reason: str = ""
    ) -> Verdict:
        """End a gate; see `GateStorage.end`. A withdrawal may be recorded later."""
        try:
            return self._end(gate_id, state, decision, reason)
        except StoreError as error:
            # Nobody waits any more, whatever the store says; `_lost_sight` records it later.
            waited = self._give_up(gate_id, reason) if state is State.WITHDRAWN else None
            if waited is None:
                raise
            title = waited.gate.title
            report_failure(f"gate {title!r} was withdrawn, which is not recorded yet", error)
            return Verdict(Outcome.WON, Decision(None))

    def undo(self, gate_id: str, link: str = "") -> Snapshot:
        """Take the answer to a parked gate back, until a worker goes on."""
        snapshot = self.store.gates.undo(gate_id, link)
        self._announce("published", snapshot)
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
                store.place.remove_file(gate_id, before)
        self._announce("masked", snapshot)
        return snapshot

    # -- looking

    def get(self, gate_id: str) -> Snapshot:
        """One gate, open or finished. Raises `UnknownGate`."""
        return self._with_progress([self.store.gates.get(gate_id)])[0]

    def pictures(self, gate_id: str) -> Pictures | None:
        """The pictures of a gate: those in memory while it is waited for here, else its files."""
        with self._lock:
            waited = self._waited.get(gate_id)
        if waited is not None:
            return waited.pictures
        return self.store.pictures(self.get(gate_id).gate)

    def mask(self, gate_id: str, index: int) -> bytes | None:
        """The mask saved for an image; None if there is none, empty bytes if it was cleared."""
        store = self.store
        store.gates.get(gate_id).gate.index(index)
        file = store.gates.masks(gate_id).get(index)
        return store.place.read(gate_id, file) if file else None if file is None else b""

    def pending(self, limit: int | None, after: int, among: Selection) -> list[Snapshot]:
        """See `GateStorage.pending`."""
        return self._with_progress(self.store.gates.pending(limit, after, among))

    def finished(self, limit: int | None, before: int | None, among: Selection) -> list[Snapshot]:
        """See `GateStorage.finished`."""
        return self._with_progress(self.store.gates.finished(limit, before, among))

    def count(self, among: Selection) -> int:
        """See `GateStorage.count`."""
        return self.store.gates.count(among)

    def answered(self, links: Collection[str]) -> dict[str, int]:
        """How many gates have an answer that came through each of these share links."""
        return self.store.gates.answered(links)

    def waiting_in(self, prompt_id: str) -> list[str]:
        """See `GateStorage.waiting_in`."""
        with self._lock:
            return [i for i, one in self._waited.items() if one.gate.prompt_id == prompt_id]

    def lines(self, gate_id: str) -> list[Line]:
        """The history of one gate, oldest first."""
        return self.store.gates.lines(gate_id)

    def status(self) -> dict[str, Any]:
        """The store, its workers and how much disk its pictures take, as REST tells it."""
        store = self.store
        return {
            "store": store.kind,
            "workers": [worker.to_json() for worker in store.workers.all()],
            "bytes": store.gates.used_bytes(),
            "keep_days": store.settings.keep / 86400,
        }

    # -- going on

    def answer_of(self, gate_id: str) -> tuple[Snapshot, Answer | None]:
        """A gate, and its answer with the masks where it has one with a route."""
        snapshot = self.get(gate_id)
        if snapshot.decision is None or snapshot.decision.route is None:
            return snapshot, None
        return snapshot, self._answer(snapshot, self.store.gates.masks(gate_id))

    def claim(self) -> Claim | None:
        """Take up a parked gate that was decided, if there is one that this process can run."""
        store = self.store
        claim = store.claim()
        for snapshot in claim.gates if claim is not None else ():
            self._announce("decided", snapshot)
        return claim

    def renew(self, claims: Collection[Claim]) -> None:
        """Hold claims for another while, if it is time."""
        if claims and self.store.time_to_renew():
            self.store.parked.renew(claims, self.id)

    def stopped_in(self, prompt_id: str) -> bool:
        """Whether a person, or a timeout, has stopped a gate of this prompt."""
        return self.store.gates.stopped_in(prompt_id)

    def withdraw_parked(self, prompt_id: str, reason: str) -> None:
        """Take back what was asked on the way of a prompt that has failed."""
        store = self.store
        store.parked.forget_answers(prompt_id)
        for gate_id in store.gates.due_in(prompt_id):
            with suppress(TooLate):
                self.undo(gate_id)
        for gate_id in store.gates.parked_in(prompt_id):
            self._withdraw(gate_id, reason)

    def finish(self, claim: Claim, text: str = "") -> bool:
        """The claimed gates have gone on. False if somebody else holds one of them now."""
        settled = self._settled("decided", claim, self.store.parked.finish(claim, self.id, text))
        self._drop_prompts(claim.gate.gate.id)
        return settled

    def put_back(self, claim: Claim, why: str) -> bool:
        """The claimed gates could not go on, and one of them waits again. False as `finish`."""
        return self._settled("published", claim, self.store.parked.put_back(claim, self.id, why))

    def prompt_runs(self, prompt_id: str) -> bool:
        """A prompt of this process asks gates, which do not go on before it ends.

        Returns:
            Whether that is new: somebody has to say when it ends.
        """
        with self._lock:
            new = prompt_id not in self._prompts
            self._prompts.add(prompt_id)
            return new

    def prompt_ended(self, prompt_id: str) -> None:
        """It has ended. Where the store is away, this is recorded later."""
        with self._lock:
            self._prompts.discard(prompt_id)
        self.later(lambda: self._may_go_on(prompt_id))

    def _may_go_on(self, prompt_id: str) -> None:
        due = self.store.parked.prompt_ended(prompt_id, self.id)
        for snapshot in due:
            self._announce("decided", snapshot)
        if due:
            self.when_due()  # no news, if the answers came before the end

    # -- notices

    def untold(self, gate_ids: Collection[str] | None = None) -> list[Untold]:
        """Open gates of this worker that nobody was told of; see `ToldGates`.

        Args:
            gate_ids: only of these.
        """
        store = self.store
        return store.told.untold(self.id, store.settings.worker, gate_ids)

    def several(self, gate_ids: Collection[str]) -> list[Snapshot]:
        """Those of these gates that there are."""
        return self.store.gates.several(gate_ids)

    def told(self, gate_ids: Collection[str], text: str) -> None:
        """People were told that these wait; ``text`` says how. It stands in their history."""
        self.store.told.add(gate_ids, text)

    # -- answers used again

    def remember(self, gate_id: str, fingerprint: str) -> None:
        """By which an equal question is known again."""
        self.store.gates.set_fingerprint(gate_id, fingerprint)

    def reuse(
        self,
        gate: Gate,
        fingerprint: str,
        files: Iterable[tuple[str, bytes]],
        parked: Parked | None = None,
        *,
        due: bool = False,
    ) -> Answer | None:
        """Answer a question as an equal one was answered; None if there was none.

        Args:
            files: pictures for the history, made only if they are needed.
            parked: what prompts need that go on from other gates of the run, if any do.
            due: whether the prompt ends here, and goes on with the answer.
        """
        store = self.store
        source = store.gates.decided_like(fingerprint)
        if source is None:
            return None
        assert source.decision is not None
        names = store.gates.masks(source.gate.id)
        try:
            answer = self._answer(source, names)
        except StoreError as error:
            log.info("gate %r is asked again: %s", gate.title, error)
            return None
        gate = replace(gate, worker=store.settings.worker)
        if due:
            gate = replace(gate, mode="park", undoable=True)
        masks = [(name, answer.masks[i]) for i, name in names.items() if name]
        sizes = {i: (name, len(answer.masks[i])) for i, name in names.items()}
        with store.files(gate.id, [*files, *masks], durable=True) as written:
            snapshot = self._insert(
                gate, written, state=State.DECIDED, decision=source.decision, masks=sizes,
                reason="answered before: the decision was used again", fingerprint=fingerprint,
                due=due, also=[parked.insert(gate.id)] if parked is not None else [],
            )  # fmt: skip
        self._announce("decided", snapshot)
        return answer

    def ask_again(self, gate_id: str) -> Snapshot:
        """Forget that questions like this one were answered."""
        snapshot = self.store.gates.ask_again(gate_id)
        self._listener.missed()  # several gates may have changed
        return snapshot

    # -- inside

    def _insert(self, gate: Gate, written: Written, **given: Any) -> Snapshot:
        """Store a gate whose files are written. They stay where it is not known if it was."""
        gates = self.store.gates
        try:
            return gates.add(gate, worker=self.id, size=written.size, **given)
        except ValueError:  # they belong to the one that was there
            written.stay = True
            raise
        except StoreError:
            try:
                found = gates.several([gate.id])
            except StoreError:
                written.stay = True
                with self._lock:
                    self._unsure.add(gate.id)
                self._in_doubt()
                found = []
            if not found:
                raise
            return found[0]  # only the confirmation was lost

    def _masked(self, gate_id: str, index: int, name: str, written: Written) -> Snapshot | None:
        """The gate, if this mask of it was kept all the same. Its file stays if that is unknown."""
        gates = self.store.gates
        written.stay = True
        self._in_doubt()
        try:
            written.stay = gates.masks(gate_id).get(index) == name
            return gates.get(gate_id) if written.stay else None
        except StoreError:
            return None

    def _give_up(self, gate_id: str, reason: str) -> _Waited | None:
        """Nobody in this process shall wait for a gate any more; None if nobody did."""
        with self._lock:
            waited = self._waited.pop(gate_id, None)
        if waited is not None:
            self._listener.gave_up(gate_id, GateCancelled(State.WITHDRAWN, reason))
        return waited

    def _withdraw(self, gate_id: str, reason: str) -> None:
        with suppress(UnknownGate, GateClosed):
            self.end(gate_id, State.WITHDRAWN, None, reason)

    def _end(
        self, gate_id: str, state: State, decision: Decision | None, reason: str = ""
    ) -> Verdict:
        try:
            verdict, snapshot, files = self.store.gates.end(gate_id, state, decision, reason)
        except StoreError:
            self._in_doubt()
            raise
        if verdict.outcome is Outcome.WON:
            result = self._result(snapshot, files)
            self._announce(kind_of_change(snapshot), snapshot, result)
            if snapshot.gate.mode == "park" and verdict.decision.route is None:
                self._drop_prompts(gate_id)
        return verdict

    def _drop_prompts(self, gate_id: str) -> None:
        """The gate has ended: its prompt is no longer needed, unless by others of its run."""
        with suppress(StoreError):  # else it is done when the store is next swept
            self.store.parked.drop_prompts(gate_id)

    def _result(
        self, snapshot: Snapshot, files: Mapping[int, str] | None = None
    ) -> Answer | ImageGateError | None:
        """What whoever waits in this process gets; None if nobody does, or if it cannot be read."""
        gate_id, decision = snapshot.gate.id, snapshot.decision
        with self._lock:
            waited = self._waited.get(gate_id)
        if waited is None:
            return None
        result: Answer | ImageGateError = cancelled(snapshot)
        if decision is not None and decision.route is not None:
            try:
                if files is None:
                    files = self.store.gates.masks(gate_id)
                result = self._answer(snapshot, files)
            except StoreError as error:
                title = snapshot.gate.title
                report_failure(f"gate {title!r} is answered, but its mask cannot be read", error)
                waited.failures += 1
                if not isinstance(error, _MaskGone) or waited.failures < TRIES:
                    self._in_doubt()
                    return None
                result = error
        with self._lock:
            return result if self._waited.pop(gate_id, None) is not None else None

    def _answer(self, snapshot: Snapshot, files: Mapping[int, str]) -> Answer:
        assert snapshot.decision is not None
        masks: dict[int, bytes] = {}
        for index, file in files.items():
            png = self.store.place.read(snapshot.gate.id, file) if file else b""
            if png is None:
                raise _MaskGone(f"the mask of gate {snapshot.gate.title!r} is no longer kept")
            masks[index] = png
        return Answer(snapshot.decision, masks)

    def _settled(self, kind: str, claim: Claim, settled: list[Snapshot]) -> bool:
        for snapshot in settled:
            self._announce(kind if snapshot.state.open else "decided", snapshot)
        return len(settled) == len(claim.gates)

    def _announce(
        self, kind: str, snapshot: Snapshot, result: Answer | ImageGateError | None = None
    ) -> None:
        found = self._with_progress([snapshot])
        self._listener.changed([Change(kind, one, result) for one in found])

    def _with_progress(self, found: list[Snapshot]) -> list[Snapshot]:
        """With each gate that goes on together with others, how many of them are answered."""
        waits = {
            one.gate.id for one in found
            if one.gate.together and (one.state.open or one.decision) and not one.resuming
        }  # fmt: skip
        if not waits:
            return found
        try:
            progress = self.store.parked.progress(waits)
        except StoreError:  # it is what people like to know, no more
            return found
        return [
            replace(one, waits_for=str(progress[one.gate.id]))
            if one.gate.id in progress and one.state is not State.RESUMED
            else one
            for one in found
        ]

    def _share(self, waited: _Waited) -> None:
        """Keep the full size for the panels of other processes, while people look at it here."""
        try:
            store, gate_id = self.store, waited.gate.id
            for index in range(waited.gate.batch):
                with self._lock:
                    if self._waited.get(gate_id) is not waited:
                        return
                body = waited.pictures.full(index).body
                store.place.write(gate_id, f"full-{index}.png", body)
                store.gates.add_bytes(gate_id, len(body))
        except GateClosed:  # answered meanwhile
            return

    def _waited_for(self) -> list[str]:
        with self._lock:
            return list(self._waited)

    # -- what other processes do

    def _in_doubt(self) -> None:
        """The store failed in the middle: look at what became of the gates, once it is back."""
        if self._store is not None:
            self._store.look_again()

    def _heard(self, kinds: Mapping[str, str]) -> None:
        """Other processes have changed these gates: gate id -> kind of its newest line."""
        changes = []
        followed = [self._follow(one) for one in self.store.gates.several(kinds)]
        shown = self._with_progress([snapshot for snapshot, _ in followed])
        for snapshot, (_, result) in zip(shown, followed, strict=True):
            masked = kinds[snapshot.gate.id] == "masked" and snapshot.state.open
            kind = "masked" if masked else kind_of_change(snapshot)
            changes.append(Change(kind, snapshot, result))
        if changes:
            self._listener.changed(changes)

    def _follow(self, snapshot: Snapshot) -> tuple[Snapshot, Answer | ImageGateError | None]:
        """The gate, and what whoever waits for it here gets, after a change elsewhere."""
        gate_id = snapshot.gate.id
        with self._lock:
            waits = gate_id in self._waited
        if not waits or snapshot.state.open:
            return snapshot, None
        if snapshot.state is State.WITHDRAWN:  # by one who took this process for dead
            reopened = self.store.gates.reopen(gate_id, self.id)
            if reopened is None:
                return snapshot, None
            self.store.workers.revive(self.id)
            return reopened, None
        return snapshot, self._result(snapshot)

    def _lost_sight(self) -> None:
        """Whatever may have happened unseen: look at all that concerns this process."""
        store = self.store
        before = store.gates.waiting_of(self.id)
        held = self._waited_for()
        for found in store.gates.several(held):
            snapshot, result = self._follow(found)
            if result is not None:
                self._listener.changed([Change(kind_of_change(snapshot), snapshot, result)])
        # `before` was read first, so a gate that is published right now is not in it.
        for gate_id in set(before) - set(self._waited_for()) - set(held):
            self._withdraw(gate_id, "its prompt ended")
        with self._lock:
            unsure = list(self._unsure)
        for gate_id in unsure:
            self._make_sure(gate_id)
        self._listener.missed()

    def _make_sure(self, gate_id: str) -> None:
        """It could not be told whether this gate was stored; its prompt has failed."""
        if not self.store.gates.several([gate_id]):
            self.store.place.remove(gate_id)
        else:
            self._withdraw(gate_id, "its prompt failed when it was stored")
        with self._lock:
            self._unsure.discard(gate_id)

    def _keep(self) -> None:
        """What has to be done now and then, by whichever process comes first."""
        store = self.store
        with self._lock:
            running = set(self._prompts)
        for prompt_id in store.parked.said_to_run(self.id) - running:
            self._may_go_on(prompt_id)
        for gate_id in store.gates.overdue():
            gate = store.gates.get(gate_id).gate
            with suppress(GateClosed):
                self.end(gate_id, State.EXPIRED, timed_out(gate), TIME_IS_UP)
        for gate_id, name in store.orphans():
            self._withdraw(gate_id, f"{name}, which it came from, has ended")
        store.sweep()


class _MaskGone(StoreError):
    """The file of a mask is not where it should be."""
