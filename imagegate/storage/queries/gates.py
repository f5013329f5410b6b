"""Adds gates to a database, ends them, and takes answers back. SQLAlchemy Core.

The row of a gate is the truth. An answer is one conditional UPDATE, so that the first one wins
inside the database, whichever process it comes from. History only ever grows.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from ...core.model import (
    Decision,
    Gate,
    Outcome,
    Snapshot,
    State,
    StoreError,
    TooLate,
    UnknownGate,
    Verdict,
    plain,
)
from ..rules import again, check_undo, closed, second
from ..sql.tables import clicks, gates, lines, mask_files
from .gate_lookup import GateLookup
from .gate_rows import CLOSED, DUE, OPEN, REOPENED, answer_body, dumped, possible, snapshot


class GateStore(GateLookup):
    """The gates of a database. Every change is a transaction of its own. Thread-safe.

    Every call raises `StoreError` when the database cannot be used, and `UnknownGate` for an id
    that no gate has.
    """

    # -- asking and answering

    def add(
        self,
        gate: Gate,
        *,
        worker: str,
        state: State = State.WAITING,
        decision: Decision | None = None,
        reason: str = "",
        fingerprint: str = "",
        masks: Mapping[int, tuple[str, int]] = MappingProxyType({}),
        size: int = 0,
        due: bool = False,
        also: Iterable[sa.Insert] = (),
    ) -> Snapshot:
        """Add a gate.

        Args:
            worker: the id of the process that asks.
            decision: for one that needs no answer.
            masks: the files that come with it, and their sizes, by image.
            size: bytes of its pictures.
            due: whether its prompt is to go on with the decision.
            also: what belongs to it and is added with it or not at all.
        """
        row: dict[str, Any] = {
            "id": gate.id, "record": json.dumps(asdict(gate)), "mode": gate.mode,
            "node_id": plain(gate.node_id), "title": plain(gate.title), "link": "",
            "workflow_id": plain(gate.workflow_id), "prompt_id": plain(gate.prompt_id),
            "worker": worker, "deadline": gate.deadline, "state": state.value,
            "open": int(state.open), "version": 1, "decision": dumped(decision),
            "reason": plain(reason), "due": int(due),
            "masked": json.dumps(sorted(i for i, (file, _) in masks.items() if file)),
            "claimed_by": "", "resuming": "", "attempts": 0, "fingerprint": fingerprint,
            "reusable": int(decision is not None), "bytes": size, "kept": 1,
        }  # fmt: skip
        try:
            with self.database.write() as connection:
                added = connection.execute(gates.insert().values(row).returning(*gates.c)).one()
                for insert in also:
                    connection.execute(insert)
                for image, (file, bytes_) in masks.items():
                    mask = {"gate_id": gate.id, "image": image, "file": file, "bytes": bytes_}
                    connection.execute(mask_files.insert().values(mask))
                body = {"worker": gate.worker} if gate.worker else {}
                line = self._line(connection, gate.id, "published", body)
                if decision is not None:
                    body = answer_body(decision) | {"text": reason}
                    line = self._line(connection, gate.id, "reused", body)
                if not state.open:
                    ending = {"ended": line, "ended_at": self.database.now()}
                    added = self._changed(connection, gate.id, [], ending)
        except StoreError as error:
            if error.conflict:
                raise ValueError(f"gate {gate.id} is published already") from error
            raise
        return snapshot(added)

    def end(
        self, gate_id: str, state: State, decision: Decision | None, reason: str = ""
    ) -> tuple[Verdict, Snapshot, dict[int, str]]:
        """End a gate: by the first answer, by its deadline, or by withdrawing it.

        Returns:
            What became of it, the gate as it is now, and the files of its masks by image.

        Raises:
            GateClosed: it ended before without an answer.
        """
        # The line comes first, because its number orders the gate in the history.
        kind = "withdrawn" if state is State.WITHDRAWN else state.value
        body = answer_body(decision) | ({"text": reason} if reason else {})
        routed = decision is not None and decision.route is not None
        with self._attempt(gate_id) as connection:
            line = self._line(connection, gate_id, kind, body)
            row = self._changed(
                connection, gate_id, [OPEN],
                CLOSED | {
                    "state": state.value, "decision": dumped(decision), "reason": plain(reason),
                    "ended": line, "ended_at": self.database.now(),
                    "due": sa.case((gates.c.mode == "park", int(routed)), else_=0),
                    "reusable": int(routed and state is State.DECIDED),
                    "link": decision.link if decision else "",
                },
            )  # fmt: skip
            if row is None:
                raise _Lost
            if decision is not None and decision.key:  # refused if it was there: it counts once
                click = {"gate_id": gate_id, "key": plain(decision.click)}
                connection.execute(clicks.insert().values(click))
            files = self._masks(connection, gate_id)
            return Verdict(Outcome.WON, decision or Decision(None)), snapshot(row), files
        now = self.get(gate_id)
        if decision is not None and self._clicked(gate_id, decision.click):
            return again(now, decision), now, {}
        return second(now, decision), now, {}

    def undo(self, gate_id: str, link: str = "") -> Snapshot:
        """Take an answer back, unless somebody has gone on with it.

        Args:
            link: only one that came through it.

        Raises:
            TooLate, Forbidden: as `check_undo`.
        """
        with self._attempt(gate_id) as connection:
            self._line(connection, gate_id, "undone", {})
            free = [
                gates.c.state == State.DECIDED.value,
                DUE,
                gates.c.claimed_by == "",
            ]
            if link:
                free.append(gates.c.link == link)
            again = REOPENED | {"state": State.PARKED.value, "reason": "", "reusable": 0}
            row = self._changed(connection, gate_id, free, again)
            if row is None:
                raise _Lost
            return snapshot(row)
        check_undo(self.get(gate_id), link)
        raise TooLate("too late: the prompt already went on with this decision")

    def set_mask(self, gate_id: str, image: int, file: str, size: int) -> tuple[Snapshot, str]:
        """Keep the name of a mask's file; an empty one says that the mask was cleared.

        Returns:
            The gate, and the file that was there before or an empty string.

        Raises:
            GateClosed, TooLate: the gate ended before.
        """
        with self._attempt(gate_id) as connection:
            # First of all, so that another one of the same gate waits for this transaction.
            if self._changed(connection, gate_id, [OPEN],
                             {"version": gates.c.version + 1}) is None:  # fmt: skip
                raise _Lost
            here = (mask_files.c.gate_id == gate_id) & (mask_files.c.image == image)
            was = connection.execute(
                mask_files.delete().where(here).returning(mask_files.c.file, mask_files.c.bytes)
            ).one_or_none()
            before, less = was or ("", 0)
            mask = {"gate_id": gate_id, "image": image, "file": file, "bytes": size}
            connection.execute(mask_files.insert().values(mask))
            masked = sorted(i for i, name in self._masks(connection, gate_id).items() if name)
            changes = {"masked": json.dumps(masked), "bytes": gates.c.bytes + size - less}
            row = self._changed(connection, gate_id, [], changes)
            self._line(connection, gate_id, "masked", {"image": image, "cleared": not file})
            return snapshot(row), str(before)
        now = self.get(gate_id)
        if now.state in (State.EXPIRED, State.WITHDRAWN):
            raise closed(now)
        raise TooLate(f"gate {now.gate.title!r} was decided before the mask was saved")

    def reopen(self, gate_id: str, worker: str) -> Snapshot | None:
        """Reopen a gate whose worker was wrongly taken for dead; None if it has ended.

        What the worker has withdrawn itself stays so.
        """
        with self._attempt(gate_id) as connection:
            self._line(connection, gate_id, "reopened", {})
            ending = sa.select(lines.c.origin).where(lines.c.id == gates.c.ended)
            was = [
                gates.c.state == State.WITHDRAWN.value,
                gates.c.worker == worker,
                ending.scalar_subquery() != worker,
            ]
            again = REOPENED | {"state": State.WAITING.value, "reason": ""}
            row = self._changed(connection, gate_id, was, again)
            if row is None:
                raise _Lost
            return snapshot(row)
        return None

    def take_on(self, worker: str, name: str, before: Collection[str]) -> None:
        """Give this process what earlier processes have parked, and what is to go on.

        Args:
            name: what people call it, which may not be what they called those before it.
        """
        theirs = gates.c.worker.in_(list(before))
        parked = theirs & ((OPEN & (gates.c.state == State.PARKED.value)) | DUE)
        with self.database.read() as connection:  # most often there is nothing
            if connection.execute(sa.select(gates.c.seq).where(parked).limit(1)).first() is None:
                return
        with self.database.write() as connection:
            for seq, record in connection.execute(
                sa.select(gates.c.seq, gates.c.record).where(parked)
            ).all():
                named = json.dumps(json.loads(record) | {"worker": name})
                here = gates.update().where(gates.c.seq == seq, parked)
                connection.execute(here.values(worker=worker, record=named))

    # -- answers used again

    def set_fingerprint(self, gate_id: str, fingerprint: str) -> None:
        """Store what recognizes an equal question."""
        with self.database.write() as connection:
            self._changed(connection, gate_id, [], {"fingerprint": fingerprint})

    def ask_again(self, gate_id: str) -> Snapshot:
        """Forget that questions like this one were answered."""
        self.get(gate_id)
        with self.database.write() as connection:
            row = self._changed(connection, gate_id, [], {})
            alike = gates.c.id == gate_id
            if row.fingerprint:
                alike = alike | (gates.c.fingerprint == row.fingerprint)
            alike = alike & (gates.c.reusable == 1)
            # In one order, so that two who do this at once do not wait for each other.
            in_order = sa.select(gates.c.id).where(alike).order_by(gates.c.seq).with_for_update()
            connection.execute(in_order).all()
            changes = {"reusable": 0, "version": gates.c.version + 1}
            connection.execute(gates.update().where(alike).values(changes))
            self._line(connection, gate_id, "ask again", {})
            return snapshot(self._changed(connection, gate_id, [], {}))

    # -- pictures

    def pictures_gone(self, gate_id: str) -> None:
        """Record that its pictures are no longer kept."""
        with self.database.write() as connection:
            self._changed(connection, gate_id, [], {"kept": 0, "bytes": 0})

    def add_bytes(self, gate_id: str, size: int) -> None:
        """Record that so many more bytes are kept for it."""
        with self.database.write() as connection:
            self._changed(connection, gate_id, [], {"bytes": gates.c.bytes + size})

    # -- inside

    @contextmanager
    def _attempt(self, gate_id: str) -> Iterator[sa.Connection]:
        """A transaction that leaves nothing behind if what it attempts is lost."""
        if not possible(gate_id):
            raise UnknownGate(f"no gate has the id {gate_id!r}")
        try:
            with self.database.write() as connection:
                yield connection
        except _Lost:
            return
        except StoreError as error:
            if not error.conflict:
                raise  # else there is no such gate

    def _line(
        self, connection: sa.Connection, gate_id: str, kind: str, body: dict[str, Any]
    ) -> int:
        return self.database.add_line(connection, gate_id, kind, body)

    def _changed(
        self,
        connection: sa.Connection,
        gate_id: str,
        conditions: Iterable[Any],
        values: Mapping[str, Any],
    ) -> Any:
        """The row after the change; None if there is none, or the conditions do not hold."""
        mine = [gates.c.id == gate_id, *conditions]
        if not values:
            return connection.execute(sa.select(*gates.c).where(*mine)).one_or_none()
        update = gates.update().where(*mine).values(dict(values))
        return connection.execute(update.returning(*gates.c)).one_or_none()

    def _clicked(self, gate_id: str, click: str) -> bool:
        if not click:
            return False
        here = (clicks.c.gate_id == gate_id) & (clicks.c.key == plain(click))
        with self.database.read() as connection:
            return connection.execute(sa.select(clicks.c.key).where(here)).first() is not None


class _Lost(Exception):
    """The conditions no longer hold; the transaction is rolled back."""
