"""Parked gates in the store: what is needed to go on, and who goes on. SQLAlchemy Core.

A decided gate is *due*. A worker claims it for a while, re-queues its prompt and renews the claim
until that has ended; a claim that is not renewed runs out, and any worker may try again.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from .database import Database
from .model import Decision, Snapshot, State, plain
from .prompts import told_by
from .store import DUE, OPEN, REOPENED, gates, snapshot

LEASE = 30.0
"""Seconds that a claim holds without being renewed."""

parked = sa.table(
    "parked",
    *(sa.column(name) for name in ("gate_id", "root", "node", "item", "told", "classes", "record")),
)


# As a literal, so that both databases know that the partial index serves.
_STORED = parked.c.record != sa.literal_column("''")
_DROPPED = json.dumps({"prompt": {}, "extra": {}, "targets": [], "client": ""})


@dataclass(frozen=True)
class Parked:
    """What is needed to go on with a parked gate; without its prompt once that has gone on.

    Attributes:
        root: of the run of a prompt that a person queued; the prompts that go on from its gates
            belong to it, too.
        node: the gate's key in ``prompt``. ``item``: its place in a list input, else 0.
        prompt: in API format, as it was queued.
        extra: the prompt's extra data, without secrets.
        targets: the output nodes the prompt was queued for; empty for all.
        client: the id of the page that queued it, which its news go to.
    """

    root: str
    node: str
    prompt: Mapping[str, Any]
    extra: Mapping[str, Any]
    item: int = 0
    targets: tuple[str, ...] = ()
    client: str = ""

    @property
    def classes(self) -> list[str]:
        """The classes of all its nodes, each once."""
        found = {str(node.get("class_type")) for node in self.prompt.values()}
        return sorted(found)

    def insert(self, gate_id: str) -> sa.Insert:
        """What adds it to the store, with its gate."""
        record = {
            "prompt": self.prompt, "extra": self.extra, "targets": self.targets,
            "client": self.client,
        }  # fmt: skip
        return parked.insert().values(
            gate_id=gate_id, root=plain(self.root), node=json.dumps(self.node), item=self.item,
            told=json.dumps(told_by(self.prompt)), classes=json.dumps(self.classes),
            record=json.dumps(record),
        )  # fmt: skip


@dataclass(frozen=True)
class Sibling:
    """A gate that was asked in the same run of a prompt.

    ``told``: the gates that its own prompt had gone on from, by node. ``taken``: its answer was
    used, or is being used, by an earlier claim.
    """

    gate_id: str
    node: str
    item: int
    state: State
    told: Mapping[str, str] = field(default_factory=dict)
    taken: bool = False


@dataclass(frozen=True)
class Claim:
    """A gate taken up to go on with it. ``attempt`` counts from 1."""

    gate: Snapshot
    parked: Parked
    attempt: int
    siblings: tuple[Sibling, ...] = ()

    @property
    def decision(self) -> Decision:
        """The answer it goes on with."""
        assert self.gate.decision is not None
        return self.gate.decision


class ParkedGates:
    """The parked gates of a database. Thread-safe; raises as `GateStore` does."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def get(self, gate_id: str) -> Parked | None:
        """What is needed to go on with a gate; None for one that never was parked."""
        query = sa.select(*parked.c).where(parked.c.gate_id == gate_id)
        with self.database.read() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else _parked(row)

    def forget(self, gate_id: str) -> None:
        """It is over: nobody will go on from its prompt any more."""
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

    def claim(
        self,
        worker: str,
        name: str,
        can_run: Collection[str],
        *,
        ours: Collection[str] = (),
        others: Collection[Collection[str]] = (),
    ) -> Claim | None:
        """Take up the gate that was decided first, of those this worker can run.

        Args:
            worker: its id. ``name``: what people call it.
            can_run: the classes of its nodes.
            ours: ids of this worker's processes, earlier ones included. A gate that came from one
                of them and that nobody alive can run is taken up too, so that ComfyUI's refusal
                reaches a person.
            others: the classes of each other worker that is alive.
        """
        now, free = self.database.now(), self._free()
        join = parked.join(gates, gates.c.id == parked.c.gate_id)
        kinds = sa.select(parked.c.classes).select_from(join).where(*free).distinct()
        runs, hopeless = [], []
        with self.database.read() as connection:
            for kind in connection.execute(kinds).scalars():
                needs = set(json.loads(kind))
                if needs <= set(can_run):
                    runs.append(kind)
                elif not any(needs <= set(other) for other in others):
                    hopeless.append(kind)
        if not runs and not hopeless:
            return None
        mine = parked.c.classes.in_(runs) | (
            parked.c.classes.in_(hopeless) & gates.c.worker.in_(list(ours))
        )
        first = (
            sa.select(gates.c.id).select_from(join).where(*free, mine)
            .order_by(gates.c.ended).limit(1)
        )  # fmt: skip
        with self.database.read() as connection:  # no lock for what is not ours
            if connection.execute(first).first() is None:
                return None
        first = first.with_for_update(skip_locked=True, of=gates)
        with self.database.write() as connection:
            gate_id = connection.execute(first).scalar()
            if gate_id is None:
                return None
            taken = sa.select(*parked.c).where(parked.c.gate_id == gate_id)
            stored = connection.execute(taken).one()
            if self.database.postgresql:
                # Of two gates whose answers meet in one output, the later claim sees the earlier.
                run = sa.func.hashtextextended(stored.root, 0)
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(run)))
            row = connection.execute(
                gates.update().where(gates.c.id == gate_id).values(
                    claimed_by=worker, resuming=name, lease=now + LEASE,
                    attempts=gates.c.attempts + 1, version=gates.c.version + 1,
                ).returning(*gates.c)
            ).one()  # fmt: skip
            body = {"worker": name, "attempt": row.attempts}
            self.database.add_line(connection, gate_id, "claimed", body)
            siblings = self._siblings(connection, stored.root)
        return Claim(snapshot(row), _parked(stored), row.attempts, siblings)

    def renew(self, claims: Iterable[Claim], worker: str) -> None:
        """Hold claims for another while."""
        lease = self.database.now() + LEASE
        with self.database.write() as connection:
            for claim in claims:
                update = gates.update().where(*_held(claim, worker)).values(lease=lease)
                connection.execute(update)

    def finish(self, claim: Claim, worker: str, text: str = "") -> Snapshot | None:
        """Its prompt has ended well. None if somebody else holds the claim now."""
        return self._settle(
            claim, worker, "resumed", text,
            {
                "state": State.RESUMED.value, "due": 0, "claimed_by": "", "resuming": "",
                "lease": None, "version": gates.c.version + 1,
            },
        )  # fmt: skip

    def put_back(self, claim: Claim, worker: str, why: str) -> Snapshot | None:
        """It could not go on: a person is asked again, and told why. None as `finish`."""
        again = REOPENED | {
            "state": State.PARKED.value, "reason": plain(why), "reusable": 0, "deadline": None,
        }  # fmt: skip
        return self._settle(claim, worker, "put back", why, again)

    # -- inside

    def _alive(self) -> sa.Select[Any]:
        """Selects the runs with a gate that is still open, or due."""
        mine = parked.alias()
        return sa.select(mine.c.root).join(gates, gates.c.id == mine.c.gate_id).where(OPEN | DUE)

    def _settle(
        self, claim: Claim, worker: str, kind: str, text: str, values: Mapping[str, Any]
    ) -> Snapshot | None:
        update = gates.update().where(*_held(claim, worker)).values(dict(values))
        with self.database.write() as connection:
            row = connection.execute(update.returning(*gates.c)).one_or_none()
            if row is None:
                return None
            body = {"attempt": claim.attempt} | ({"text": text} if text else {})
            self.database.add_line(connection, claim.gate.gate.id, kind, body)
        return snapshot(row)

    def _free(self) -> tuple[Any, ...]:
        return (DUE, (gates.c.claimed_by == "") | (gates.c.lease < self.database.now()))

    def _siblings(self, connection: sa.Connection, root: str) -> tuple[Sibling, ...]:
        query = (
            sa.select(
                parked.c.gate_id,
                parked.c.node,
                parked.c.item,
                parked.c.told,
                gates.c.state,
                sa.case(
                    ((gates.c.claimed_by != "") & (gates.c.lease >= self.database.now()), 1),
                    else_=0,
                ).label("going"),
            )
            .join(gates, gates.c.id == parked.c.gate_id)
            .where(parked.c.root == plain(root))
            .order_by(gates.c.seq)
        )
        return tuple(
            Sibling(
                row.gate_id, json.loads(row.node), row.item, State(row.state), json.loads(row.told),
                taken=bool(row.going) or row.state == State.RESUMED.value,
            )
            for row in connection.execute(query)
        )  # fmt: skip


def _held(claim: Claim, worker: str) -> tuple[Any, ...]:
    return (
        gates.c.id == claim.gate.gate.id,
        DUE,
        gates.c.claimed_by == worker,
        gates.c.attempts == claim.attempt,
    )


def _parked(row: Any) -> Parked:
    record = json.loads(row.record or _DROPPED)
    return Parked(
        root=row.root,
        node=json.loads(row.node),
        item=row.item,
        prompt=record["prompt"],
        extra=record["extra"],
        targets=tuple(record["targets"]),
        client=record["client"],
    )
