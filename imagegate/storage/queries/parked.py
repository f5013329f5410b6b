"""Gates of prompts that go on later: what is needed for it, and who goes on. SQLAlchemy Core.

All gates that were asked since a person queued a prompt make a *run*. A decided gate is *due*. A
worker claims it for a while, re-queues its prompt and renews the claim until that has ended; a
claim that is not renewed runs out, and any worker may try again. Only one prompt of a run goes on
at a time, so that it knows all that those before it have asked.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import sqlalchemy as sa

from ...core.model import Snapshot, State, plain
from ..sql.database import Database
from ..sql.tables import gates, parked
from .gate_rows import DUE, OPEN, REOPENED, snapshot
from .runs import Claim, Parked, Progress, Sibling, parked_of

LEASE = 30.0
"""Seconds that a claim holds without being renewed."""
_TRIES = 5
"""Gates to try for one that no other worker takes up at the same moment."""

_others = parked.alias("others")
_their = gates.alias("their")

# As a literal, so that both databases know that the partial index serves.
_STORED = parked.c.record != sa.literal_column("''")


class ParkedGates:
    """The parked gates of a database. Thread-safe; raises as `GateStore` does."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def get(self, gate_id: str) -> Parked | None:
        """What is needed to go on with a gate; None for one that never was parked."""
        query = sa.select(*parked.c).where(parked.c.gate_id == gate_id)
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else parked_of(row)

    def add(self, gate_id: str, one: Parked) -> None:
        """Keep a gate of a run for the prompts that go on from the others."""
        with self.database.write() as connection:
            connection.execute(one.insert(gate_id))

    def forget(self, gate_id: str) -> None:
        """Forget a gate from whose prompt nobody will go on any more."""
        with self.database.write() as connection:
            connection.execute(parked.delete().where(parked.c.gate_id == gate_id))

    def drop_prompts(self, gate_id: str = "") -> None:
        """Drop the prompts that nothing can go on from any more: of this gate's run, or of all.

        As long as a gate of a run is open or due, all prompts of that run are kept.
        """
        over = [_STORED, parked.c.root.not_in(self._alive())]
        if gate_id:
            run = sa.select(parked.c.root).where(parked.c.gate_id == gate_id)
            over.append(parked.c.root == run.scalar_subquery())
        with self.database.read() as connection:  # most often there is nothing to write
            if (
                connection.execute(sa.select(parked.c.gate_id).where(*over).limit(1)).first()
                is None
            ):
                return
        with self.database.write() as connection:
            connection.execute(parked.update().where(*over).values(record=""))

    def siblings(self, root: str) -> tuple[Sibling, ...]:
        """All gates that were parked in the same run, oldest first."""
        with self.database.read() as connection:
            return self._siblings(connection, root)

    def needed(self) -> sa.Select[Any]:
        """Selects the ids of gates whose pictures one may need that is still open, or due."""
        return sa.select(parked.c.gate_id).where(parked.c.root.in_(self._alive()))

    def any_due(self) -> bool:
        """Whether there is anything to go on with that nobody has taken up."""
        with self.database.read() as connection:
            free = sa.select(gates.c.seq).where(*self._free()).limit(1)
            return connection.execute(free).first() is not None

    def progress(self, gate_ids: Iterable[str]) -> dict[str, Progress]:
        """Of those of these gates that go on together with others: how far that is."""
        mine = parked.alias("mine")
        same = (_others.c.root == mine.c.root) & (_others.c.node == mine.c.node)
        query = (
            sa.select(
                mine.c.gate_id,
                sa.func.sum(sa.case((_their.c.open == 0, 1), else_=0)),
                sa.func.count(),
            )
            .select_from(mine.join(_others, same).join(_their, _their.c.id == _others.c.gate_id))
            .where(mine.c.gate_id.in_(list(gate_ids)), mine.c.together == 1)
            .where(_their.c.state != State.WITHDRAWN.value)
            .group_by(mine.c.gate_id)
        )
        with self.database.read() as connection:
            return {row[0]: Progress(int(row[1]), int(row[2])) for row in connection.execute(query)}

    def prompt_ended(self, prompt_id: str, worker: str) -> list[Snapshot]:
        """Record the end of a prompt: its gates may go on. Returns those that are due now."""
        mine = sa.select(gates.c.id).where(gates.c.prompt_id == plain(prompt_id))
        update = parked.update().where(parked.c.gate_id.in_(mine), parked.c.running == worker)
        due = sa.select(*gates.c).where(gates.c.prompt_id == plain(prompt_id), DUE)
        with self.database.write() as connection:
            connection.execute(update.values(running=""))
            return [snapshot(row) for row in connection.execute(due)]

    def said_to_run(self, worker: str) -> set[str]:
        """The prompts that have asked gates in a process, and of which no end is recorded."""
        join = parked.join(gates, gates.c.id == parked.c.gate_id)
        query = sa.select(gates.c.prompt_id).select_from(join).where(parked.c.running == worker)
        with self.database.read() as connection:
            return {str(prompt_id) for prompt_id in connection.execute(query).scalars()}

    def forget_answers(self, prompt_id: str) -> None:
        """Forget what was answered while a prompt waited that has failed."""
        waited = sa.select(gates.c.id).where(
            gates.c.prompt_id == plain(prompt_id), gates.c.mode == "wait"
        )
        with self.database.write() as connection:
            connection.execute(parked.delete().where(parked.c.gate_id.in_(waited)))

    def claim(
        self,
        worker: str,
        name: str,
        can_run: Collection[str],
        *,
        ours: Collection[str] = (),
        others: Mapping[str, Collection[str]] | None = None,
    ) -> Claim | None:
        """Take up the gate that was decided first, of those this worker can run.

        With it are taken up all that can only go on together with it.

        Args:
            worker: its id. ``name``: what people call it.
            can_run: the classes of its nodes.
            ours: ids of this worker's processes, earlier ones included. A gate that came from one
                of them and that nobody alive can run is taken up too, so that ComfyUI's refusal
                reaches a person.
            others: of each other worker that is alive, by its id, the classes.
        """
        others = others or {}
        free = self._ready({worker, *others})
        join = parked.join(gates, gates.c.id == parked.c.gate_id)
        kinds = sa.select(parked.c.classes).select_from(join).where(*free).distinct()
        runs, hopeless = [], []
        with self.database.read() as connection:
            for kind in connection.execute(kinds).scalars():
                needs = set(json.loads(kind))
                if needs <= set(can_run):
                    runs.append(kind)
                elif not any(needs <= set(other) for other in others.values()):
                    hopeless.append(kind)
        if not runs and not hopeless:
            return None
        mine = parked.c.classes.in_(runs) | (
            parked.c.classes.in_(hopeless) & gates.c.worker.in_(list(ours))
        )
        first = (
            sa.select(gates.c.id, parked.c.root).select_from(join).where(*free, mine)
            .order_by(gates.c.ended).limit(_TRIES)
        )  # fmt: skip
        with self.database.read() as connection:  # no lock for what is not ours
            found = connection.execute(first).all()
        for gate_id, root in found:
            claim = self._take(gate_id, root, worker, name, free)
            if claim is not None:
                return claim
        return None

    def _take(
        self, gate_id: str, root: str, worker: str, name: str, free: tuple[Any, ...]
    ) -> Claim | None:
        """Take up this gate, if it still can be."""
        with self.database.write() as connection:
            if self.database.postgresql:  # SQLite has one writer at a time
                run = sa.func.hashtextextended(root, 0)
                locked = sa.select(sa.func.pg_try_advisory_xact_lock(run))
                if not connection.execute(locked).scalar():
                    return None  # another worker takes up one of the same run
            join = parked.join(gates, gates.c.id == parked.c.gate_id)
            wanted = sa.select(parked.c.node, parked.c.together).select_from(join)
            chosen = connection.execute(wanted.where(gates.c.id == gate_id, *free)).one_or_none()
            if chosen is None:
                return None
            same = [parked.c.gate_id == gate_id]
            if chosen.together:
                same = [parked.c.root == root, parked.c.node == chosen.node]
            due = sa.select(*parked.c).select_from(join).where(*same, *self._free())
            stored = connection.execute(due.order_by(parked.c.item).with_for_update(of=gates)).all()
            lease = self.database.now() + LEASE
            taken = []
            for row in stored:
                update = gates.update().where(gates.c.id == row.gate_id, DUE).values(
                    claimed_by=worker, resuming=name, lease=lease,
                    attempts=gates.c.attempts + 1, version=gates.c.version + 1,
                )  # fmt: skip
                gate = connection.execute(update.returning(*gates.c)).one()
                self.database.add_line(
                    connection, row.gate_id, "claimed", {"worker": name, "attempt": gate.attempts}
                )
                taken.append(snapshot(gate))
            return Claim(
                tuple(taken), tuple(parked_of(row) for row in stored),
                self._siblings(connection, root),
            )  # fmt: skip

    def renew(self, claims: Iterable[Claim], worker: str) -> None:
        """Hold claims for another while."""
        lease = self.database.now() + LEASE
        with self.database.write() as connection:
            for claim in claims:
                for gate in claim.gates:
                    update = gates.update().where(*_held(gate, worker)).values(lease=lease)
                    connection.execute(update)

    def finish(self, claim: Claim, worker: str, text: str = "") -> list[Snapshot]:
        """Record that its prompt has ended well. Returns the gates that nobody else holds now."""
        values = {"state": State.RESUMED.value, "due": 0, **_RELEASED}
        with self.database.write() as connection:
            done = [
                self._settle(connection, gate, worker, "resumed", text, values)
                for gate in claim.gates
            ]
        return [gate for gate in done if gate is not None]

    def put_back(self, claim: Claim, worker: str, why: str) -> list[Snapshot]:
        """Ask a person again, and say why it could not go on. Returns as `finish`.

        Of several that go on together only the one that was answered last is asked again; then all
        are tried once more.
        """
        again = REOPENED | {
            "state": State.PARKED.value, "reason": plain(why), "reusable": 0, "deadline": None,
        }  # fmt: skip
        in_order = sorted(claim.gates, key=lambda gate: gate.ended)
        with self.database.write() as connection:
            done = [
                self._settle(connection, gate, worker, "released", why, _RELEASED)
                for gate in in_order[:-1]
            ]
            done.append(self._settle(connection, in_order[-1], worker, "put back", why, again))
        return [gate for gate in done if gate is not None]

    # -- inside

    def _alive(self) -> sa.Select[Any]:
        """Selects the runs with a gate that is still open, or due."""
        mine = parked.alias()
        return sa.select(mine.c.root).join(gates, gates.c.id == mine.c.gate_id).where(OPEN | DUE)

    def _settle(
        self,
        connection: sa.Connection,
        gate: Snapshot,
        worker: str,
        kind: str,
        text: str,
        values: Mapping[str, Any],
    ) -> Snapshot | None:
        update = gates.update().where(*_held(gate, worker)).values(dict(values))
        row = connection.execute(update.returning(*gates.c)).one_or_none()
        if row is None:
            return None
        body = {"attempt": gate.attempts} | ({"text": text} if text else {})
        self.database.add_line(connection, gate.gate.id, kind, body)
        return snapshot(row)

    def _free(self) -> tuple[Any, ...]:
        return (DUE, (gates.c.claimed_by == "") | (gates.c.lease < self.database.now()))

    def _ready(self, alive: Collection[str]) -> tuple[Any, ...]:
        """Of a gate that can be taken up: it is due, and its run lets it.

        Nothing else of the run goes on, the prompt that asked it has ended, and what goes on
        together with it is answered.
        """
        same_run = _others.c.root == parked.c.root
        goes_on = (_their.c.claimed_by != "") & (_their.c.lease >= self.database.now())
        goes_on = goes_on & (_their.c.due == 1)
        asks = _others.c.running.in_(list(alive))
        unanswered = (
            (parked.c.together == 1) & (_others.c.node == parked.c.node) & (_their.c.open == 1)
        )
        hindered = (
            sa.select(_others.c.gate_id)
            .select_from(_others.join(_their, _their.c.id == _others.c.gate_id))
            .where(same_run, goes_on | asks | unanswered)
            .correlate(parked)
        )
        return (*self._free(), ~hindered.exists())

    def _siblings(self, connection: sa.Connection, root: str) -> tuple[Sibling, ...]:
        goes_on = (gates.c.claimed_by != "") & (gates.c.lease >= self.database.now())
        used = (gates.c.mode == "wait") | (gates.c.state == State.RESUMED.value) | goes_on
        query = (
            sa.select(
                parked.c.gate_id, parked.c.node, parked.c.item, parked.c.length, parked.c.live,
                gates.c.state, gates.c.decision, sa.case((used, 1), else_=0).label("used"),
            )
            .join(gates, gates.c.id == parked.c.gate_id)
            .where(parked.c.root == plain(root))
            .order_by(gates.c.seq)
        )  # fmt: skip
        found = []
        for row in connection.execute(query):
            decision = json.loads(row.decision) if row.decision else {}
            usable = bool(row.used) and decision.get("route") is not None
            found.append(
                Sibling(
                    row.gate_id, json.loads(row.node), row.item, State(row.state), row.length,
                    tuple(json.loads(row.live)), usable,
                )
            )  # fmt: skip
        return tuple(found)


_RELEASED: dict[str, Any] = {
    "claimed_by": "", "resuming": "", "lease": None, "version": gates.c.version + 1,
}  # fmt: skip


def _held(gate: Snapshot, worker: str) -> tuple[Any, ...]:
    return (
        gates.c.id == gate.gate.id,
        DUE,
        gates.c.claimed_by == worker,
        gates.c.attempts == gate.attempts,
    )
