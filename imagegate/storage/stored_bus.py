"""The bus over a store: gates that outlive their process, shared by any number of them.

It has the surface of `imagegate.gate_bus.GateBus`. The store is the truth; what is held here is
who waits in this process and who listens. A change is told to listeners after it is durable, those
of this process at once, those of others by their `imagegate.storage.sql.watcher`.
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
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..core.background import Background
from ..core.failures import report_failure
from ..core.model import (
    ALL,
    Answer,
    Decision,
    Gate,
    GateCancelled,
    GateClosed,
    NoAnswer,
    Outcome,
    Selection,
    Snapshot,
    State,
    StoreError,
    TooLate,
    UnknownGate,
    Verdict,
    second,
    signed,
    timed_out,
)
from ..core.news import KEPT_NEWS, Subscription
from ..core.pictures import Pictures
from ..core.settings import Settings
from ..core.viewers import Viewers
from ..gate_bus import TIME_IS_UP, Ticket
from .newsroom import Newsroom
from .sql.deadline import limit

if TYPE_CHECKING:  # SQLAlchemy takes a while; it is imported when the store is first used
    from .gates import Line
    from .notified import Untold
    from .open_store import House, Written
    from .runs import Claim, Parked

TRIES = 10
"""Looks, about a second apart, for the mask of an answer that is not where it should be."""
COUNTS = 1000
"""Counts of waiting gates that are kept."""

log = logging.getLogger("imagegate")


@dataclass
class _Held:
    """A gate that somebody in this process waits for. ``failures``: to read its answer."""

    gate: Gate
    pictures: Pictures
    failures: int = 0
    future: Future[Answer] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.future.set_running_or_notify_cancel()  # from here on nobody can cancel it


class StoredBus:
    """All gates of a store, as one process sees them. Thread-safe.

    Nothing is opened before it is needed. Beside what `GateBus` raises, every call may raise
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
        self.viewers = Viewers()  # at this panel; another process has its own
        self._settings = settings
        self._kind = kind
        self._classes = classes
        # Guards the three below. Nothing is read, written or called while it is held.
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        self._unsure: set[str] = set()  # gates of which it is not known whether they were stored
        self._prompts: set[str] = set()  # those that run here and have parked gates
        self._news = Newsroom()
        # Held while the store is opened, and for nothing else; guards the next three.
        self._opening = threading.Lock()
        self._house: House | None = None
        self._failed: tuple[float, StoreError] | None = None  # the last attempt, and when it ended
        self._closed = False
        self._process = os.getpid()
        self._background = Background()

    # -- the process

    @property
    def house(self) -> House:
        """The store and what belongs to it, opened now if it was not."""
        house = self._house
        if house is not None and self._process == os.getpid():
            return house
        asked = time.monotonic()
        if not self._opening.acquire(timeout=limit()):
            raise NoAnswer("the store does not answer: it is still being opened")
        try:
            if self._process != os.getpid():
                raise StoreError("the store belongs to the process that this one was forked from")
            if self._closed:
                raise StoreError("the store was closed: this process ends")
            if self._house is None:
                if self._failed is not None and self._failed[0] > asked:
                    # It took a while, and this caller has waited for its end already.
                    raise copy.copy(self._failed[1])
                self._house = self._open()
                atexit.register(self.close)
                self._house.start(self._heard, self._lost_sight, self._keep)
            return self._house
        finally:
            self._opening.release()

    def _open(self) -> House:
        from .open_store import House

        try:
            return House(self._settings(), self.id, self._kind, self._classes())
        except StoreError as error:
            self._failed = time.monotonic(), error
            raise

    @property
    def name(self) -> str:
        """What people call this process."""
        return self.house.settings.worker

    def others(self) -> dict[str, str]:
        """The other processes of the store that are alive: id -> name."""
        each = self.house.workers.each()
        return {one.id: one.name for one in each if one.alive and one.id != self.id}

    @property
    def opened(self) -> bool:
        """Whether the store was needed yet."""
        return self._house is not None

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
            if self._house is not None:
                self._house.stop()
            house, self._house = self._house, None
        for gate_id in self._waited_for():
            self._let_go(gate_id, reason)
        if house is not None:
            atexit.unregister(self.close)
            house.close()

    # -- the waiter's side

    def publish(self, gate: Gate, pictures: Pictures) -> Ticket:
        """Put a question, and wait for its answer in this process.

        Raises:
            ValueError: there is a gate of this id already.
        """
        house = self.house
        gate = replace(gate, worker=house.settings.worker)
        held = _Held(gate, pictures)
        first = pictures.preview(0).body
        with self._lock:
            # Before anybody else can see it, and answer.
            if gate.id in self._held:
                raise ValueError(f"gate {gate.id} is published already")
            self._held[gate.id] = held
        try:
            with house.files(gate.id, [("preview-0", first)]) as written:
                snapshot = self._add(gate, written)
        except BaseException:
            with self._lock:
                self._held.pop(gate.id, None)
            raise
        self._announce("published", snapshot)
        if house.shared:
            self.later(lambda: self._share(held))
        return Ticket(held, self._take_back)

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
        house = self.house
        gate = replace(gate, mode="park", worker=house.settings.worker, undoable=True)
        with house.files(gate.id, files, durable=True) as written:
            snapshot = self._add(
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
                house = self.house
                with house.files(gate.id, files, durable=True, whole=False) as written:
                    house.parked.add(gate.id, parked)
                house.gates.add_bytes(gate.id, written.size)
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        if not self._background.add(keep):
            done.set_exception(StoreError("the store was closed: this process ends"))
        return done

    def withdraw(self, gate_id: str, reason: str) -> bool:
        """Take a question back; False if it was answered, withdrawn or forgotten already."""
        try:
            verdict = self._end(gate_id, State.WITHDRAWN, None, reason)
        except (UnknownGate, GateClosed):
            return False
        except StoreError as error:
            # Nobody waits any more, whatever the store says; `_lost_sight` tells it later.
            held = self._let_go(gate_id, reason)
            if held is None:
                raise
            title = held.gate.title
            report_failure(f"gate {title!r} was withdrawn, which is not recorded yet", error)
            return True
        return verdict.outcome is Outcome.WON

    def withdraw_prompt(self, prompt_id: str, reason: str) -> int:
        """Take back all questions of one prompt that are waited for; says how many there were."""
        with self._lock:
            ids = [i for i, held in self._held.items() if held.gate.prompt_id == prompt_id]
        return sum(self.withdraw(gate_id, reason) for gate_id in ids)

    def expire(self, gate_id: str) -> None:
        """End a gate whose time is up, by its own rule. An answer recorded before it wins."""
        decision = timed_out(self.get(gate_id).gate)
        with suppress(GateClosed):
            self._end(gate_id, State.EXPIRED, decision, TIME_IS_UP)

    # -- the person's side

    def decide(
        self,
        gate_id: str,
        route: object,
        *,
        by: str = "",
        note: str = "",
        link: str = "",
        key: str = "",
    ) -> Verdict:
        """Answer with a route; see `GateBus.decide`."""
        now = self.get(gate_id)
        number = now.gate.route(route)
        words = signed(by, note, key)
        decision = Decision(number, now.gate.labels[number - 1], *words, link=link, key=key)
        if not now.state.open and not key:
            return second(now, decision)
        return self._end(gate_id, State.DECIDED, decision)

    def stop(self, gate_id: str, *, by: str = "", note: str = "") -> Verdict:
        """Answer with Stop; see `GateBus.stop`. A parked gate merely ends."""
        return self._end(gate_id, State.STOPPED, Decision(None, "", *signed(by, note)))

    def undo(self, gate_id: str, *, link: str = "") -> Snapshot:
        """Take the answer to a parked gate back, until a worker goes on; see `GateBus.undo`."""
        snapshot = self.house.gates.undo(gate_id, link)
        self._announce("published", snapshot)
        return snapshot

    def set_mask(self, gate_id: str, index: int, png: bytes) -> Snapshot:
        """Keep a mask; see `GateBus.set_mask`."""
        house = self.house
        house.gates.get(gate_id).gate.index(index)
        # A new name each time: whoever reads the one before reads it whole.
        name = f"mask-{index}-{secrets.token_hex(4)}.png" if png else ""
        with house.files(gate_id, [(name, png)] if png else [], whole=False) as written:
            try:
                snapshot, before = house.gates.set_mask(gate_id, index, name, written.size)
            except StoreError:
                found = self._masked(gate_id, index, name, written)
                if found is None:
                    raise
                snapshot, before = found, ""  # only the confirmation was lost
        if before:
            with suppress(StoreError):  # it only takes room, until the gate's pictures go
                house.place.remove_file(gate_id, before)
        self._announce("masked", snapshot)
        return snapshot

    # -- looking

    def get(self, gate_id: str) -> Snapshot:
        """One gate, open or finished. Raises `UnknownGate`."""
        return self._with_progress([self.house.gates.get(gate_id)])[0]

    def pictures(self, gate_id: str) -> Pictures | None:
        """The pictures of a gate: those in memory while it is waited for here, else its files."""
        with self._lock:
            held = self._held.get(gate_id)
        return held.pictures if held is not None else self.house.pictures(self.get(gate_id).gate)

    def mask(self, gate_id: str, index: int) -> bytes | None:
        """The mask saved for an image; None if there is none, empty bytes if it was cleared."""
        house = self.house
        house.gates.get(gate_id).gate.index(index)
        file = house.gates.masks(gate_id).get(index)
        return house.place.read(gate_id, file) if file else None if file is None else b""

    def pending(
        self,
        limit: int | None = None,
        after: int = 0,
        among: Selection = ALL,
    ) -> list[Snapshot]:
        """Open gates, oldest first: at most ``limit`` of those whose ``seq`` is above ``after``."""
        return self._with_progress(self.house.gates.pending(limit, after, among))

    def finished(
        self,
        limit: int | None = None,
        before: int | None = None,
        among: Selection = ALL,
    ) -> list[Snapshot]:
        """Finished gates, newest first: at most ``limit`` whose ``ended`` is below ``before``."""
        return self._with_progress(self.house.gates.finished(limit, before, among))

    def count(self, among: Selection = ALL) -> int:
        """How many gates wait for a person."""
        return self._news.count(among, lambda: self.house.gates.count(among))

    def answered(self, links: Collection[str]) -> dict[str, int]:
        """How many gates have an answer that came through each of these share links."""
        return self.house.gates.answered(links)

    def subscribe(
        self, notify: Callable[[], None] = lambda: None, *, limit: int = KEPT_NEWS
    ) -> Subscription:
        """Be told of everything from now on; see `Subscription`. Close it when done."""
        return self._news.feed.subscribe(notify, limit=limit)

    @property
    def listeners(self) -> int:
        """How many subscriptions are open."""
        return len(self._news.feed)

    def lines(self, gate_id: str) -> list[Line]:
        """The history of one gate, oldest first."""
        return self.house.gates.lines(gate_id)

    def status(self) -> dict[str, Any]:
        """The store, its workers and how much disk its pictures take, as REST tells it."""
        house = self.house
        return {
            "store": house.kind,
            "workers": [worker.to_json() for worker in house.workers.all()],
            "bytes": house.gates.used_bytes(),
            "keep_days": house.settings.keep / 86400,
        }

    # -- going on

    def answer_of(self, gate_id: str) -> tuple[Snapshot, Answer | None]:
        """A gate, and its answer with the masks where it has one with a route."""
        snapshot = self.get(gate_id)
        if snapshot.decision is None or snapshot.decision.route is None:
            return snapshot, None
        return snapshot, self._answer(snapshot, self.house.gates.masks(gate_id))

    def claim(self) -> Claim | None:
        """Take up a parked gate that was decided, if there is one that this process can run."""
        house = self.house
        claim = house.claim()
        for snapshot in claim.gates if claim is not None else ():
            self._announce("decided", snapshot)
        return claim

    def renew(self, claims: Collection[Claim]) -> None:
        """Hold claims for another while, if it is time."""
        if claims and self.house.time_to_renew():
            self.house.parked.renew(claims, self.id)

    def stopped_in(self, prompt_id: str) -> bool:
        """Whether a person, or a timeout, has stopped a gate of this prompt."""
        return self.house.gates.stopped_in(prompt_id)

    def withdraw_parked(self, prompt_id: str, reason: str) -> None:
        """Take back what was asked on the way of a prompt that has failed."""
        house = self.house
        house.parked.forget_answers(prompt_id)
        for gate_id in house.gates.due_in(prompt_id):
            with suppress(TooLate):
                self.undo(gate_id)
        for gate_id in house.gates.parked_in(prompt_id):
            self.withdraw(gate_id, reason)

    def finish(self, claim: Claim, text: str = "") -> bool:
        """The claimed gates have gone on. False if somebody else holds one of them now."""
        settled = self._settled("decided", claim, self.house.parked.finish(claim, self.id, text))
        self._drop_prompts(claim.gate.gate.id)
        return settled

    def put_back(self, claim: Claim, why: str) -> bool:
        """The claimed gates could not go on, and one of them waits again. False as `finish`."""
        return self._settled("published", claim, self.house.parked.put_back(claim, self.id, why))

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
        for snapshot in self.house.parked.prompt_ended(prompt_id, self.id):
            self._announce("decided", snapshot)

    # -- notices

    def untold(self, gate_ids: Collection[str] | None = None) -> list[Untold]:
        """Open gates of this worker that nobody was told of; see `ToldGates`.

        Args:
            gate_ids: only of these.
        """
        house = self.house
        return house.told.untold(self.id, house.settings.worker, gate_ids)

    def several(self, gate_ids: Collection[str]) -> list[Snapshot]:
        """Those of these gates that there are."""
        return self.house.gates.several(gate_ids)

    def told(self, gate_ids: Collection[str], text: str) -> None:
        """People were told that these wait; ``text`` says how. It stands in their history."""
        self.house.told.add(gate_ids, text)

    # -- answers used again

    def remember(self, gate_id: str, fingerprint: str) -> None:
        """By which an equal question is known again."""
        self.house.gates.set_fingerprint(gate_id, fingerprint)

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
        house = self.house
        source = house.gates.decided_like(fingerprint)
        if source is None:
            return None
        assert source.decision is not None
        names = house.gates.masks(source.gate.id)
        try:
            answer = self._answer(source, names)
        except StoreError as error:
            log.info("gate %r is asked again: %s", gate.title, error)
            return None
        gate = replace(gate, worker=house.settings.worker)
        if due:
            gate = replace(gate, mode="park", undoable=True)
        masks = [(name, answer.masks[i]) for i, name in names.items() if name]
        sizes = {i: (name, len(answer.masks[i])) for i, name in names.items()}
        with house.files(gate.id, [*files, *masks], durable=True) as written:
            snapshot = self._add(
                gate, written, state=State.DECIDED, decision=source.decision, masks=sizes,
                reason="answered before: the decision was used again", fingerprint=fingerprint,
                due=due, also=[parked.insert(gate.id)] if parked is not None else [],
            )  # fmt: skip
        self._announce("decided", snapshot)
        return answer

    def ask_again(self, gate_id: str) -> Snapshot:
        """Forget that questions like this one were answered."""
        snapshot = self.house.gates.ask_again(gate_id)
        self._news.lose()  # several gates may have changed
        return snapshot

    # -- inside

    def _add(self, gate: Gate, written: Written, **given: Any) -> Snapshot:
        """Store a gate whose files are written. They stay where it is not known if it was."""
        gates = self.house.gates
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
        gates = self.house.gates
        written.stay = True
        self._in_doubt()
        try:
            written.stay = gates.masks(gate_id).get(index) == name
            return gates.get(gate_id) if written.stay else None
        except StoreError:
            return None

    def _let_go(self, gate_id: str, reason: str) -> _Held | None:
        """Nobody in this process shall wait for a gate any more; None if nobody did."""
        with self._lock:
            held = self._held.pop(gate_id, None)
        if held is not None:
            held.future.set_exception(GateCancelled(State.WITHDRAWN, reason))
        return held

    def _end(
        self, gate_id: str, state: State, decision: Decision | None, reason: str = ""
    ) -> Verdict:
        try:
            verdict, snapshot, files = self.house.gates.end(gate_id, state, decision, reason)
        except StoreError:
            self._in_doubt()
            raise
        if verdict.outcome is Outcome.WON:
            self._resolve(snapshot, files)
            self._announce(_kind(snapshot), snapshot)
            if snapshot.gate.mode == "park" and verdict.decision.route is None:
                self._drop_prompts(gate_id)
        return verdict

    def _drop_prompts(self, gate_id: str) -> None:
        """The gate has ended: its prompt is no longer needed, unless by others of its run."""
        with suppress(StoreError):  # else it is done when the store is next swept
            self.house.parked.drop_prompts(gate_id)

    def _take_back(self, gate_id: str, reason: str) -> bool:
        """`withdraw` for a ticket: what is answered is known here, without asking the store."""
        with self._lock:
            waits = gate_id in self._held
        return waits and self.withdraw(gate_id, reason)

    def _resolve(self, snapshot: Snapshot, files: Mapping[int, str] | None = None) -> None:
        """Wake whoever waits in this process."""
        gate_id, decision = snapshot.gate.id, snapshot.decision
        with self._lock:
            held = self._held.get(gate_id)
        if held is None:
            return
        routed = decision is not None and decision.route is not None
        failure: StoreError | None = None
        if routed:
            try:
                if files is None:
                    files = self.house.gates.masks(gate_id)
                answer = self._answer(snapshot, files)
            except StoreError as error:
                title = snapshot.gate.title
                report_failure(f"gate {title!r} is answered, but its mask cannot be read", error)
                held.failures += 1
                if not isinstance(error, _MaskGone) or held.failures < TRIES:
                    self._in_doubt()
                    return
                failure = error
        with self._lock:
            held = self._held.pop(gate_id, None)
        if held is None:
            return
        if failure is not None:
            held.future.set_exception(failure)
        elif routed:
            held.future.set_result(answer)
        else:
            reason = snapshot.reason or "stopped by a person"
            held.future.set_exception(GateCancelled(snapshot.state, reason))

    def _answer(self, snapshot: Snapshot, files: Mapping[int, str]) -> Answer:
        assert snapshot.decision is not None
        masks: dict[int, bytes] = {}
        for index, file in files.items():
            png = self.house.place.read(snapshot.gate.id, file) if file else b""
            if png is None:
                raise _MaskGone(f"the mask of gate {snapshot.gate.title!r} is no longer kept")
            masks[index] = png
        return Answer(snapshot.decision, masks)

    def _settled(self, kind: str, claim: Claim, settled: list[Snapshot]) -> bool:
        for snapshot in settled:
            self._announce(kind if snapshot.state.open else "decided", snapshot)
        return len(settled) == len(claim.gates)

    def _announce(self, kind: str, snapshot: Snapshot) -> None:
        self._news.announce([(kind, one) for one in self._with_progress([snapshot])])

    def _with_progress(self, found: list[Snapshot]) -> list[Snapshot]:
        """With each gate that goes on together with others, how many of them are answered."""
        waits = {
            one.gate.id for one in found
            if one.gate.together and (one.state.open or one.decision) and not one.resuming
        }  # fmt: skip
        if not waits:
            return found
        try:
            progress = self.house.parked.progress(waits)
        except StoreError:  # it is what people like to know, no more
            return found
        return [
            replace(one, waits_for=str(progress[one.gate.id]))
            if one.gate.id in progress and one.state is not State.RESUMED
            else one
            for one in found
        ]

    def _share(self, held: _Held) -> None:
        """Keep the full size for the panels of other processes, while people look at it here."""
        try:
            house, gate_id = self.house, held.gate.id
            for index in range(held.gate.batch):
                if held.future.done():
                    return
                body = held.pictures.full(index).body
                house.place.write(gate_id, f"full-{index}.png", body)
                house.gates.add_bytes(gate_id, len(body))
        except GateClosed:  # answered meanwhile
            return

    def _waited_for(self) -> list[str]:
        with self._lock:
            return list(self._held)

    # -- what other processes do

    def _in_doubt(self) -> None:
        """The store failed in the middle: look at what became of the gates, once it is back."""
        if self._house is not None:
            self._house.look_again()

    def _heard(self, kinds: Mapping[str, str]) -> None:
        """Other processes have changed these gates: gate id -> kind of its newest line."""
        news = []
        changed = [self._follow(one) for one in self.house.gates.several(kinds)]
        for snapshot in self._with_progress(changed):
            masked = kinds[snapshot.gate.id] == "masked" and snapshot.state.open
            news.append(("masked" if masked else _kind(snapshot), snapshot))
        if news:
            self._news.announce(news)

    def _follow(self, snapshot: Snapshot) -> Snapshot:
        """Do here what another process's change asks for."""
        gate_id = snapshot.gate.id
        with self._lock:
            waits = gate_id in self._held
        if not waits or snapshot.state.open:
            return snapshot
        if snapshot.state is State.WITHDRAWN:  # by one who took this process for dead
            reopened = self.house.gates.reopen(gate_id, self.id)
            if reopened is None:
                return snapshot
            self.house.workers.revive(self.id)
            return reopened
        self._resolve(snapshot)
        return snapshot

    def _lost_sight(self) -> None:
        """Whatever may have happened unseen: look at all that concerns this process."""
        house = self.house
        before = house.gates.waiting_of(self.id)
        held = self._waited_for()
        for snapshot in house.gates.several(held):
            self._follow(snapshot)
        # `before` was read first, so a gate that is published right now is not in it.
        for gate_id in set(before) - set(self._waited_for()) - set(held):
            self.withdraw(gate_id, "its prompt ended")
        with self._lock:
            unsure = list(self._unsure)
        for gate_id in unsure:
            self._make_sure(gate_id)
        self._news.lose()

    def _make_sure(self, gate_id: str) -> None:
        """It could not be told whether this gate was stored; its prompt has failed."""
        if not self.house.gates.several([gate_id]):
            self.house.place.remove(gate_id)
        else:
            self.withdraw(gate_id, "its prompt failed when it was stored")
        with self._lock:
            self._unsure.discard(gate_id)

    def _keep(self) -> None:
        """What has to be done now and then, by whichever process comes first."""
        house = self.house
        with self._lock:
            running = set(self._prompts)
        for prompt_id in house.parked.said_to_run(self.id) - running:
            self._may_go_on(prompt_id)
        for gate_id in house.gates.overdue():
            self.expire(gate_id)
        for gate_id, name in house.orphans():
            self.withdraw(gate_id, f"{name}, which it came from, has ended")
        house.sweep()


class _MaskGone(StoreError):
    """The file of a mask is not where it should be."""


def _kind(snapshot: Snapshot) -> str:
    """Of the news about a gate that has just come to this state."""
    if snapshot.state.open:
        return "published"
    gone = snapshot.state in (State.WITHDRAWN, State.EXPIRED)
    return "withdrawn" if gone else "decided"
