"""A folder of images as a session of gates: one question per file, answered in the panel."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..core.failures import report_failure
from ..core.loop import Loop
from ..core.model import MAX_ROUTES, parse_labels
from ..core.pictures import Pictures
from ..gate_bus import GateBus
from ..storage.memory import MemoryStorage
from ..text.labels import split_labels
from .pictures import FolderPictures, Stamp, stamp_of
from .pictures import as_text as _text
from .questions import STABLE, Questions
from .sorted.label_folders import BadFolder, folder_names
from .sorted.ledger import Ledger
from .source import SourceFolder
from .tally import LISTED, MOVED, WAITING, Tally

RESCAN = 2.0
"""Seconds between scans of the folder; longer where a scan takes long."""

log = logging.getLogger("imagegate")


def read_routes(text: str) -> tuple[str, ...]:
    """The labels in ``"keep, fix, reject"``; an empty label between others becomes its number.

    Raises:
        BadFolder: there are none or too many, or two that look the same.
    """
    text = text.strip().strip(",\n").strip()
    count = len(split_labels(text)) if text else 0
    if not 1 <= count <= MAX_ROUTES:
        raise BadFolder(f"there are {count} routes in {text!r}; a gate has 1 to {MAX_ROUTES}")
    labels = parse_labels(text, count)
    folder_names(labels)
    return labels


class FolderSession:
    """Asks about every image below a folder, and sorts the files by the answers.

    Args:
        bus: where the gates are published; nobody else may publish there.
        folder: the folder of images.
        out: the sorted folder, with a subfolder for each label and ``decisions.jsonl``. Files
            that were decided according to it are not asked about again.
        labels: the routes.
        move: whether decided files are moved rather than copied.
        follow_links: whether links to files and folders outside ``folder`` are followed.
        title: the title of all gates; by default each is titled with its file's name.
        changed: called, from any thread, when `progress` has changed.

    Raises:
        BadFolder: ``folder`` is not a folder, or would be sorted into itself; labels that cannot
            name folders.
    """

    def __init__(
        self,
        bus: GateBus[Pictures],
        folder: Path,
        out: Path,
        labels: Sequence[str],
        *,
        move: bool = False,
        follow_links: bool = False,
        title: str = "",
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise BadFolder(f"{folder} {what}; name a folder of images")
        if Path(os.path.realpath(out)) in (
            here := Path(os.path.realpath(folder)),
            *here.parents,
        ):
            raise BadFolder(f"{folder} lies in {out}, where it would be sorted to; choose another")
        self.folder = folder
        self.out = out
        self.labels = tuple(labels)
        self.ended = threading.Event()
        """Set when the session is over and no gate waits any more."""
        if not isinstance(bus.storage, MemoryStorage):
            raise TypeError("a folder is sorted with a bus in memory: the log is its record")
        self._bus = bus
        self._storage = bus.storage
        self._changed = changed
        self._source = SourceFolder(folder, out, follow_links=follow_links)
        self._ledger = Ledger(folder, out, move=move, follow_links=follow_links)
        self._tally = Tally()
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._questions = Questions(
            bus, bus.storage, self._source, self._ledger, self._tally, self.labels, title,
            later=self._tasks.put, look=self._look, stop=self.end, changed=changed,
        )  # fmt: skip
        self._loop = Loop("imagegate-folder", self._run, waker=lambda: self._tasks.put(None))
        self._pause = RESCAN
        self._kept: list[FolderPictures] = []  # of earlier sessions, until they are checked

    def start(self) -> int:
        """Open the sorted folder and start asking, in a thread of its own.

        Returns:
            How many decisions were made in earlier sessions.

        Raises:
            BadFolder: the sorted folder cannot be used.
        """
        earlier = self._ledger.open()
        self._storage.incomplete = f"the folder {_text(str(self.folder))} is still being read"
        for line in self._ledger.past():
            self._kept.append(self._questions.restore(line))
        self._loop.start()
        return earlier

    def end(self, reason: str) -> None:
        """Take back all open questions, soon. Returns at once; `ended` is set when it is done."""
        self._questions.ending = self._questions.ending or reason
        self._tasks.put(None)

    def close(self, reason: str = "the session has ended") -> None:
        """End, wait until that is done, and release the sorted folder."""
        self.end(reason)
        self._loop.close(None)
        self._ledger.close()

    def progress(self) -> dict[str, Any]:
        """How far the session is, as JSON.

        ``total`` files have been found, and more may be while ``scanning``; ``done`` of them are
        decided, ``earlier`` of these before this session. ``unreadable`` lists the first of
        ``unreadable_count`` files as ``{"file", "reason"}``; ``missing`` likewise lists sorted
        files that are gone or were changed since. ``away`` says why the folder cannot be reached at
        the moment. Once the session has ``ended``, ``reason`` says why. ``session`` is different
        after each start.
        """
        return self._tally.to_json() | {
            "folder": _text(str(self.folder)),
            "out": _text(str(self.out)),
            "labels": list(self.labels),
            "ended": bool(self._questions.ending),
            "reason": self._questions.ending,
        }

    # -- the session's own thread

    def _run(self) -> None:
        try:
            self._look_through()
            patience = time.monotonic() + 2 * STABLE
            while (
                self._questions.growing
                and not self._questions.ending
                and time.monotonic() < patience
            ):
                self._work(STABLE / 4)
                self._look_at_growing()
            self._tally.say(scanning=False)
            self._storage.incomplete = self._tally.away
            self._changed()
            self._check_sorted()
            while not self._questions.ending:
                if not self._work(self._pause):
                    self._look()
        except Exception as error:
            report_failure("the session broke", error)
            self._questions.ending = self._questions.ending or "the session broke; see the terminal"
        finally:
            self._storage.incomplete = ""
            for gate in self._bus.pending():
                self._bus.withdraw(gate.gate.id, self._questions.ending)
            self.ended.set()
            self._changed()

    def _work(self, seconds: float) -> bool:
        """Do one task, if there is one within this time."""
        try:
            task = self._tasks.get(timeout=seconds)
        except queue.Empty:
            return False
        if task is not None:
            task()
        return True

    def _look(self) -> None:
        """Check whether the folder is there, and what was added or removed.

        No system reports that a share has come back, or that another machine has put a file there,
        so the folder is scanned every few seconds: one call for each folder while nothing changes.
        """
        began = time.monotonic()
        away, before = self._source.away(), self._tally.away
        text = f"the folder {_text(str(self.folder))} is away ({away})" if away else ""
        if bool(text) != bool(before):
            waiting = self._tally.count(WAITING)
            log.warning("%s", f"{text}; its {waiting} images wait" if text else
                        f"the folder {_text(str(self.folder))} is there again")  # fmt: skip
            self._tally.say(away=text)
            self._storage.incomplete = text
            self._changed()
        if not away:
            self._look_at_growing()
            for file, stamp in self._tally.aside():
                if stamp is not None and self._stamp_now(file) != stamp:
                    self._tally.set(file, None)
                    self._questions.ask(file)
            if before or self._source.changed():
                self._look_through()
        self._pause = max(RESCAN, 20 * (time.monotonic() - began))

    def _look_through(self) -> None:
        """Ask about new files, and withdraw the gates of files that are gone."""
        found = set()
        for file in self._source.search():
            if self._questions.ending:
                return
            found.add(file)
            if self._tally.state(file) in (None, MOVED):
                self._questions.ask(file)
            while not self._tasks.empty():
                self._work(0)
        if self._source.away():
            return
        for file, reason in self._source.refused.items():
            if self._tally.state(file) is None:
                self._questions.set_aside(file, reason)
        here = found | self._source.refused.keys()
        for pictures in self._tally.waiting():
            file = pictures.file
            if pictures.key == file and file not in here and not self._source.away(file):
                self._questions.withdraw_gone(pictures)
        for file, _ in self._tally.aside():
            if file not in here:
                self._tally.set(file, None)
        self._changed()

    def _look_at_growing(self) -> None:
        for file in list(self._questions.growing):
            self._questions.ask(file)

    def _stamp_now(self, file: str) -> Stamp | None:
        try:
            return stamp_of(self._source.tree.stat(file))
        except OSError:
            return None

    def _check_sorted(self) -> None:
        """Report sorted files that are gone or were changed since."""
        changed = 0
        for pictures in self._kept:
            kept = pictures.kept
            if kept is None or self._questions.ending:
                continue
            try:
                stat = os.lstat(self.out / kept.out)
                was = "was changed" if stat.st_size not in (kept.size, -1) else ""
            except FileNotFoundError:
                was = "is gone"
            except OSError as error:
                was = f"cannot be looked at: {error.strerror}"
            if was and pictures.kept is kept:
                reason = f"{_text(kept.out)} {was}"
                self._tally.miss(kept.out, was)
                self._storage.remark(pictures.gate_id, reason)
                changed += 1
                if changed <= LISTED:
                    log.warning("%s: %s since it was sorted", _text(str(self.out)), reason)
        self._kept.clear()
        if changed > LISTED:
            log.warning("%d sorted files are gone or were changed", changed)
        if changed:
            self._changed()
