"""An open store with all that belongs to it: tables, picture files, threads."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..core.loop import Loop
from ..core.model import Gate, ImageGateError, StoreError
from ..core.settings import Settings
from ..pictures.permissions import restrict, say_restricted
from ..pictures.place import PicturePlace
from ..pictures.stored import StoredPictures
from .links import LinkStore
from .queries.gates import GateStore
from .queries.notified import NotifiedGates, Unnotified
from .queries.parked import LEASE, ParkedGates
from .queries.runs import Claim
from .queries.workers import BEAT, DEAD, Workers
from .sql.database import Database
from .sql.predecessors import Predecessors
from .sql.tables import meta
from .sql.watcher import Watcher

SWEEP = 3600.0
"""Seconds between looks for pictures that were kept long enough."""
SHORTEST = 60.0
"""Seconds that pictures are kept in any case: somebody may be about to read them."""
PATIENCE = 5.0
"""Seconds to wait at the end for what is being done in the store."""
SLOW = BEAT
"""Seconds after which a store that answers was silent: no worker could give a sign of life."""

log = logging.getLogger("imagegate")


@dataclass
class Written:
    """Files that were written for something; ``stay``: even if it seems to have failed."""

    size: int = 0
    stay: bool = False


class OpenStore:
    """A store that one process has opened. Thread-safe; raises as `GateStore` does.

    Args:
        worker: the id of this process.
        kind: of this process, ``comfyui`` or ``panel``.
        classes: of the nodes that it can run.

    Attributes:
        gates, parked, notified, workers, links: its tables.
        picture_files: the files of its gates.

    Raises:
        StoreError: the store, or the folder of its pictures, cannot be used.
    """

    def __init__(
        self, settings: Settings, worker: str, kind: str, classes: Collection[str]
    ) -> None:
        self.settings = settings
        self._worker = worker
        self._classes = frozenset(classes)
        if settings.folder is not None:
            say_restricted(settings.folder, restrict([settings.folder]))
        self.database = Database(settings.store, worker)
        self.gates = GateStore(self.database)
        self.parked = ParkedGates(self.database)
        self.notified = NotifiedGates(self.database)
        self.workers = Workers(self.database)
        self.links = LinkStore(self.database)
        self.picture_files = PicturePlace(settings.pictures, default=settings.beside)
        home = settings.home / "workers" if settings.home is not None else None
        self._predecessors = Predecessors(home, worker)
        try:
            self._mark_pictures()
            self.picture_files.restrict()
            self.workers.enter(worker, settings.worker, kind, self._classes)
            self._predecessors.enter()
        except BaseException:
            self.database.close()
            raise
        self._begun = self._seen_since = time.monotonic()  # without a gap
        self._swept = -SWEEP
        self._renewed = 0.0
        self._watcher: Watcher | None = None
        self._keeper = Loop("imagegate-keeper", self._look_after)
        self._keep: Callable[[], None] = lambda: None
        self._failing = False  # whether the store could not be looked after at last

    @property
    def name(self) -> str:
        """What people call this process."""
        return self.settings.worker

    @property
    def kind(self) -> str:
        """memory, sqlite or postgresql."""
        if self.database.in_memory:
            return "memory"
        return "postgresql" if self.database.postgresql else "sqlite"

    @property
    def shared(self) -> bool:
        """Whether other machines may look at its gates."""
        return self.database.postgresql

    def start(
        self,
        heard: Callable[[Mapping[str, str]], None],
        lost_sight: Callable[[], None],
        keep: Callable[[], None],
    ) -> None:
        """Follow other processes, and look after the store every `BEAT`, in threads.

        Args:
            heard, lost_sight: see `Watcher`.
            keep: looks after the gates.
        """
        self._watcher = Watcher(self.database, self.gates, heard, lost_sight, self.links.look)
        self._watcher.start()
        self._keep = keep
        self._keeper.start()

    def stop(self) -> None:
        """End what `start` has begun, and wait for that."""
        self._keeper.close(PATIENCE)
        if self._watcher is not None:
            self._watcher.close()

    def close(self) -> None:
        """Leave the store."""
        self.stop()
        with suppress(StoreError):
            self.workers.leave(self._worker)
        self._predecessors.leave()
        self.database.close()

    def look_again(self) -> None:
        """Have `lost_sight` called soon: something may have happened unseen."""
        if self._watcher is not None:
            self._watcher.look_again()

    # -- pictures

    def pictures(self, gate: Gate) -> StoredPictures:
        """The pictures of a gate, from its files."""
        return StoredPictures(self.picture_files, gate)

    @contextmanager
    def files(
        self,
        gate_id: str,
        files: Iterable[tuple[str, bytes]],
        *,
        durable: bool = False,
        whole: bool = True,
    ) -> Iterator[Written]:
        """Write files, and take them away again if what they are for fails.

        Args:
            whole: they are all that the gate has.
        """
        written = Written()
        names: list[str] = []
        try:
            for name, body in files:
                names.append(name)
                # A preview can be made again; each flush takes its time on a disk that turns.
                lasting = durable and not name.startswith("preview-")
                self.picture_files.write(gate_id, name, body, durable=lasting)
                written.size += len(body)
            yield written
        except BaseException:
            with suppress(ImageGateError):
                if whole and not written.stay:
                    self.picture_files.remove(gate_id)
                elif not written.stay:
                    for name in names:
                        self.picture_files.remove_file(gate_id, name)
            raise

    def sweep(self) -> None:
        """Remove what is needed no more: prompts, and pictures kept long enough; now and then."""
        if time.monotonic() - self._swept < SWEEP:
            return
        begun = time.monotonic()
        self.parked.drop_prompts()
        keep, needed = max(self.settings.keep, SHORTEST), self.parked.needed()
        while stale := self.gates.stale(keep, needed):
            for gate_id in stale:
                if self._keeper.closing or time.monotonic() - begun > BEAT:
                    return  # a slow disk must not keep this process from giving signs of life
                self.picture_files.remove(gate_id)
                self.parked.forget(gate_id)
                self.gates.pictures_gone(gate_id)
        self._swept = time.monotonic()

    def drop_prompts(self, gate_id: str) -> None:
        """Drop the prompt of a gate that has ended, unless others of its run need it."""
        with suppress(StoreError):  # else it is done when the store is next swept
            self.parked.drop_prompts(gate_id)

    # -- looking

    def status(self) -> dict[str, Any]:
        """The store, its workers and how much disk its pictures take, as REST returns it."""
        return {
            "store": self.kind,
            "workers": [worker.to_json() for worker in self.workers.all()],
            "bytes": self.gates.used_bytes(),
            "keep_days": self.settings.keep / 86400,
        }

    def unnotified(self, gate_ids: Collection[str] | None = None) -> list[Unnotified]:
        """Open gates of this worker that nobody was notified of; see `NotifiedGates`.

        Args:
            gate_ids: only of these.
        """
        return self.notified.missing(self._worker, self.name, gate_ids)

    def others(self) -> dict[str, str]:
        """The other processes of the store that are alive: id -> name."""
        each = self.workers.each()
        return {one.id: one.name for one in each if one.alive and one.id != self._worker}

    # -- other processes

    def claim(self) -> Claim | None:
        """Take up a parked gate that was decided, if this process can run it."""
        if not self.parked.any_due():
            return None  # most often; the rest takes longer
        ours: list[str] = []
        others: dict[str, Collection[str]] = {}
        for worker in self.workers.each():
            if worker.name == self.settings.worker:
                ours.append(worker.id)
            if worker.alive and worker.id != self._worker:
                others[worker.id] = worker.classes
        return self.parked.claim(
            self._worker, self.settings.worker, self._classes, ours=ours, others=others
        )

    def _succeed(self) -> None:
        """Take on what processes before this one have made, once it is known that they ended."""
        if self._begun != self._seen_since and time.monotonic() - self._seen_since <= DEAD:
            return  # the store was away: nobody could give a sign of life
        workers = {worker.id: worker for worker in self.workers.each()}
        me, ended = workers.get(self._worker), self._predecessors.ended(workers)
        gone = [*ended, self.settings.worker]  # links were once kept under the name
        if me is not None and self.settings.home is None:
            gone += [
                one.id for one in workers.values()
                if (one.name, one.kind, one.alive) == (me.name, me.kind, False)
            ]  # fmt: skip
        self.links.take_on(self._worker, gone)
        self.gates.take_on(self._worker, self.settings.worker, gone)
        self._predecessors.drop(ended)

    def time_to_renew(self) -> bool:
        """Whether claims were last renewed long enough ago."""
        due = time.monotonic() - self._renewed > LEASE / 4
        if due:
            self._renewed = time.monotonic()
        return due

    def orphans(self) -> list[tuple[str, str]]:
        """Gates whose worker has ended: (gate id, the worker's name)."""
        self.workers.bury(self._worker)
        begun = time.monotonic()
        found = self.workers.orphans(begun - self._seen_since > DEAD)
        if time.monotonic() - begun > SLOW:  # nobody could give a sign of life meanwhile
            self._seen_since = time.monotonic()
            return []
        return found

    # -- inside

    def _look_after(self) -> None:
        self._keeper.repeat(self._turn, "looking after the store failed", BEAT)

    def _turn(self) -> float:
        begun, was_failing, self._failing = time.monotonic(), self._failing, True
        self.workers.beat(self._worker)
        # A store that was silent, or away, has heard of no worker meanwhile.
        if was_failing or time.monotonic() - begun > SLOW:
            self._seen_since = time.monotonic()
        self._keep()
        self._succeed()
        self._failing = False
        if was_failing:
            log.info("the store is back")
        return BEAT

    def _mark_pictures(self) -> None:
        marked = sa.select(meta.c.value).where(meta.c.name == "pictures")
        with self.database.read() as connection:
            known = connection.execute(marked).scalar() is not None
        self.picture_files.mark(self.database.id, first=not known)
        if not known:
            with self.database.write() as connection:
                mark = "INSERT INTO meta (name, value) VALUES ('pictures', '1')"
                connection.exec_driver_sql(f"{mark} ON CONFLICT DO NOTHING")
