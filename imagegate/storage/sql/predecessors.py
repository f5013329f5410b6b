"""Earlier processes of the same user directory, whose links and parked gates a later one takes on.

A process goes by an id of its own. What it had made belongs to whichever process has its user
directory after it, whatever that one's port, name or host are.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ...core.failures import report_failure
from ...pictures.permissions import restrict_tree
from ..queries.workers import Worker

log = logging.getLogger("imagegate")


class Predecessors:
    """The processes that a user directory has had: an empty file and a lock file for each.

    Two that run at once each hold their own lock, so that neither takes the other for one that has
    ended. A copied directory names processes that may still run elsewhere: one that still gives
    signs of life there is none of ours.

    Args:
        folder: where the files are; None for a process that has no directory.
        me: the id of this process.
    """

    def __init__(self, folder: Path | None, me: str) -> None:
        self._folder = folder
        self._me = me
        self._lock: FileLock | None = None
        self._seen: dict[str, float] = {}  # its last sign of life when it was first looked at

    def enter(self) -> None:
        """Register this process in the directory."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            restrict_tree(self._folder)  # an earlier version left it open
            self._lock = self._lock_of(self._me)
            self._lock.acquire(timeout=0)
            (self._folder / self._me).touch(mode=0o600)
        except (OSError, NotImplementedError) as error:
            what = f"links made now end with this process: {self._folder} cannot be used"
            report_failure(what, error, outside=(NotImplementedError,))
            self._folder = None

    def ended(self, workers: dict[str, Worker]) -> list[str]:
        """Those that have ended and were not dropped.

        Args:
            workers: all that the store knows, by id.
        """
        if self._folder is None:
            return []
        found = []
        for path in sorted(self._folder.iterdir()):
            one = path.name
            if path.suffix or one == self._me or self._runs_here(one):
                continue
            worker = workers.get(one)
            if worker is None or not worker.alive:
                found.append(one)
            elif worker.seen_at > self._seen.setdefault(one, worker.seen_at):
                log.info("%s runs elsewhere: this user directory is a copy of its own", worker.name)
                self.drop([one])
        return found

    def drop(self, ids: list[str]) -> None:
        """Forget processes of which nothing is left to take on."""
        if self._folder is None:
            return
        for one in ids:
            with suppress(OSError):
                (self._folder / one).unlink(missing_ok=True)
                (self._folder / f"{one}.lock").unlink(missing_ok=True)

    def leave(self) -> None:
        """This process ends; its file stays for the next."""
        if self._lock is not None:
            self._lock.release()

    def _runs_here(self, one: str) -> bool:
        try:
            with self._lock_of(one).acquire(timeout=0):
                return False
        except (Timeout, OSError):
            return True

    def _lock_of(self, one: str) -> FileLock:
        assert self._folder is not None
        return FileLock(self._folder / f"{one}.lock", mode=0o600, thread_local=False)
