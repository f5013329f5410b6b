"""Parks gates, keeps what prompts need of them, and answers a question as an equal one was."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING

from ...core.model import Answer, Gate, Snapshot, State, StoreError
from .additions import Additions
from .announcements import Announcements
from .opener import StoreOpener
from .waited import read_answer

if TYPE_CHECKING:  # it brings SQLAlchemy
    from ..queries.runs import Parked

log = logging.getLogger("imagegate")


class Parking:
    """Gates that nobody waits for: their prompts go on once they are answered. Thread-safe.

    Every method may raise `StoreError`.
    """

    def __init__(
        self, opener: StoreOpener, additions: Additions, announcements: Announcements
    ) -> None:
        self._opener = opener
        self._additions = additions
        self._announcements = announcements

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
            fingerprint: recognizes an equal question.

        Raises:
            ValueError: there is a gate of this id already.
        """
        store = self._opener.store
        gate = replace(gate, mode="park", worker=store.name, undoable=True)
        with store.files(gate.id, files, durable=True) as written:
            snapshot = self._additions.add(
                gate, written, state=State.PARKED, fingerprint=fingerprint,
                also=[parked.insert(gate.id)],
            )  # fmt: skip
        self._announcements.one("published", snapshot)
        return snapshot

    def keep_for_later(
        self, gate: Gate, files: Iterable[tuple[str, bytes]], parked: Parked
    ) -> Future[None]:
        """Keep what prompts need of this gate that go on from others of its run.

        This runs in the background, while the person thinks.

        Args:
            files: its pictures, made when their turn comes.

        Returns:
            Resolves once it is stored, or to the error.
        """
        done: Future[None] = Future()

        def keep() -> None:
            try:
                store = self._opener.store
                with store.files(gate.id, files, durable=True, whole=False) as written:
                    store.parked.add(gate.id, parked)
                store.gates.add_bytes(gate.id, written.size)
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        if not self._opener.background.add(keep):
            done.set_exception(StoreError("the store was closed: this process ends"))
        return done

    def answer_of(self, gate_id: str) -> tuple[Snapshot, Answer | None]:
        """A gate, and its answer with the masks where it has one with a route.

        Raises:
            UnknownGate: no gate has this id.
        """
        gates = self._opener.store.gates
        snapshot = self._announcements.with_progress([gates.get(gate_id)])[0]
        if snapshot.decision is None or snapshot.decision.route is None:
            return snapshot, None
        return snapshot, read_answer(self._opener, snapshot, gates.masks(gate_id))

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
        store = self._opener.store
        source = store.gates.decided_like(fingerprint)
        if source is None:
            return None
        assert source.decision is not None
        names = store.gates.masks(source.gate.id)
        try:
            answer = read_answer(self._opener, source, names)
        except StoreError as error:
            log.info("gate %r is asked again: %s", gate.title, error)
            return None
        gate = replace(gate, worker=store.name)
        if due:
            gate = replace(gate, mode="park", undoable=True)
        masks = [(name, answer.masks[i]) for i, name in names.items() if name]
        sizes = {i: (name, len(answer.masks[i])) for i, name in names.items()}
        with store.files(gate.id, [*files, *masks], durable=True) as written:
            snapshot = self._additions.add(
                gate, written, state=State.DECIDED, decision=source.decision, masks=sizes,
                reason="answered before: the decision was used again", fingerprint=fingerprint,
                due=due, also=[parked.insert(gate.id)] if parked is not None else [],
            )  # fmt: skip
        self._announcements.one("decided", snapshot)
        return answer
