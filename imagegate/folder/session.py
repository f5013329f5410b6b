"""A folder of images as a session of gates: one question a file, answered in the same panel."""

from __future__ import annotations

import errno
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..core.bus import Hooks
from ..core.failures import report_failure
from ..core.loop import Loop
from ..core.model import (
    MAX_ROUTES,
    Answer,
    Gate,
    GateClosed,
    ImageGateError,
    NotRecorded,
    StoreError,
    parse_labels,
)
from ..core.pictures import Pictures
from ..gate_bus import GateBus
from ..pictures.formats.image_files import PreviewCache, read_preview, read_size, why
from ..storage.memory import MemoryStorage
from ..text.labels import split_labels
from .history import decision_of, labels_with
from .label_folders import BadFolder, folder_names
from .log import Line, origin
from .pictures import FolderPictures, Stamp, own_name, stamp_of
from .pictures import as_text as _text
from .sorted import Asked, Kept, Ledger
from .source import SourceFolder
from .tally import ASIDE, BUSY, DECIDED, LISTED, MOVED, WAITING, Tally
from .tree import Tree

PREVIEW_BYTES = 64 * 2**20
"""Encoded previews kept in memory, of all files together."""
LOOK = 2.0
"""Seconds between looks at the folder, or more where looking takes long."""
FRESH = 5.0
"""Seconds after its last change in which a file may still be being written."""
SETTLING = 1.0
"""Seconds that a file which is not whole has to stay as it is to count as finished."""

_PASSING = frozenset(
    getattr(errno, name, -1)
    for name in ("EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENODEV")
)
"""What a network share or a card that is in trouble answers with."""

log = logging.getLogger("imagegate")


def read_routes(text: str) -> tuple[str, ...]:
    """The labels in ``"keep, fix, reject"``; an empty one between others is its number.

    Raises:
        BadFolder: there are none, too many, or two that are not told apart.
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
        bus: where it asks; nobody else publishes there.
        folder: the images.
        out: the sorted folder; one subfolder a label, and ``decisions.jsonl``. What it says was
            decided is not asked again.
        labels: the routes.
        move: whether decided files are moved rather than copied.
        follow_links: whether links to files and folders outside ``folder`` are followed.
        title: of all gates; by default each has its file's path.
        changed: called, from any thread, when `progress` has something new to say.

    Raises:
        BadFolder: a folder that is none, or is sorted into itself; labels that cannot be folders.
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
        self.previews = PreviewCache(PREVIEW_BYTES)
        self.ended = threading.Event()
        """Set when the session is over: no gate waits any more."""
        if not isinstance(bus.storage, MemoryStorage):
            raise TypeError("a folder is sorted with a bus in memory: the log is its record")
        self._bus = bus
        self._storage = bus.storage
        self._title = title
        self._changed = changed
        self._folders = folder_names(self.labels)
        self._source = SourceFolder(folder, out, follow_links=follow_links)
        self._ledger = Ledger(folder, out, move=move, follow_links=follow_links)
        self._ending = ""  # why, once it ends
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._loop = Loop("imagegate-folder", self._run, waker=lambda: self._tasks.put(None))
        self._growing: dict[str, tuple[Stamp, float]] = {}  # when it was first seen like this
        self._pause = LOOK
        self._kept: list[FolderPictures] = []  # of earlier sessions, until they are checked
        self._tally = Tally()

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
            self._restore(line)
        self._loop.start()
        return earlier

    def end(self, reason: str) -> None:
        """Take all open questions back, soon; returns at once. `ended` says when it is done."""
        self._ending = self._ending or reason
        self._tasks.put(None)

    def close(self, reason: str = "the session has ended") -> None:
        """End, wait until that is done, and let go of the sorted folder."""
        self.end(reason)
        self._loop.close(None)
        self._ledger.close()

    def progress(self) -> dict[str, Any]:
        """How far it is, as JSON.

        ``total`` files were found so far, more while ``scanning``; ``done`` of them are decided,
        ``earlier`` of these before this session. ``unreadable`` lists the first of
        ``unreadable_count`` files as ``{"file", "reason"}``, ``missing`` likewise what is gone
        from the sorted folder, or was changed there, since it was decided. ``away`` says that the
        folder is not there for the moment. Once it is ``ended``, ``reason`` says why. ``session``
        is another one after each start.
        """
        return self._tally.to_json() | {
            "folder": _text(str(self.folder)),
            "out": _text(str(self.out)),
            "labels": list(self.labels),
            "ended": bool(self._ending),
            "reason": self._ending,
        }

    # -- the session's own thread

    def _run(self) -> None:
        try:
            self._look_through()
            patience = time.monotonic() + 2 * SETTLING
            while self._growing and not self._ending and time.monotonic() < patience:
                self._work(SETTLING / 4)
                self._look_at_growing()
            self._tally.say(scanning=False)
            self._storage.incomplete = self._tally.away
            self._changed()
            self._check_sorted()
            while not self._ending:
                if not self._work(self._pause):
                    self._look()
        except Exception as error:
            report_failure("the session broke", error)
            self._ending = self._ending or "the session broke; see the terminal"
        finally:
            self._storage.incomplete = ""
            # Gates of a folder belong to no prompt.
            self._bus.withdraw_prompt("", self._ending)
            self.ended.set()
            self._changed()

    def _work(self, seconds: float) -> bool:
        """Do one task, if there is one in time."""
        try:
            task = self._tasks.get(timeout=seconds)
        except queue.Empty:
            return False
        if task is not None:
            task()
        return True

    def _look(self) -> None:
        """See whether the folder is there, and what came and went.

        Systems do not tell of a share that comes back, nor of what another machine put there: it is
        looked at again every few seconds, which is a call for each folder while nothing changes.
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
                    self._ask(file)
            if before or self._source.changed():
                self._look_through()
        self._pause = max(LOOK, 20 * (time.monotonic() - began))

    def _look_through(self) -> None:
        """Ask about what is new, and take back what is gone."""
        found = set()
        for file in self._source.search():
            if self._ending:
                return
            found.add(file)
            if self._tally.state(file) in (None, MOVED):
                self._ask(file)
            while not self._tasks.empty():
                self._work(0)
        if self._source.away():
            return
        for file, reason in self._source.refused.items():
            if self._tally.state(file) is None:
                self._set_aside(file, reason)
        here = found | self._source.refused.keys()
        for pictures in self._tally.waiting():
            file = pictures.file
            if pictures.key == file and file not in here and not self._source.away(file):
                self._withdraw_gone(pictures)
        for file, _ in self._tally.aside():
            if file not in here:
                self._tally.set(file, None)
        self._changed()

    def _look_at_growing(self) -> None:
        for file in list(self._growing):
            self._ask(file)

    def _stamp_now(self, file: str) -> Stamp | None:
        try:
            return stamp_of(self._source.tree.stat(file))
        except OSError:
            return None

    def _ask(self, file: str, folder: str = "") -> None:
        """Ask about a file of the session's folder, or of another whose decision was taken back."""
        own = folder in ("", self._ledger.here)
        tree = self._source.tree if own else self._ledger.tree(folder)
        key = file if own else origin(folder, file)
        stamp: Stamp | None = None
        try:
            stat = tree.stat(file)
            stamp = stamp_of(stat)
            if own and self._ledger.decided(file, stat) is not None:
                self._tally.set(key, DECIDED, earlier=True)
                return
            with tree.reading(file) as path:
                fresh = abs(time.time() - stat.st_mtime) < FRESH or file in self._growing
                if fresh and not _is_whole(path) and self._grows(file, stamp):
                    return
                self._growing.pop(file, None)
                pictures = self._pictures(tree, file, key, stamp, read_size(path))
        except Exception as error:  # Pillow raises nearly anything on a broken file
            self._growing.pop(file, None)
            if isinstance(error, FileNotFoundError) or self._source.away(file if own else ""):
                return  # if it comes back, the next look finds it
            self._set_aside(key, why(error), stamp)
            return
        pictures.gate_id = self._ledger.gate_id(folder or self._ledger.here, file, *stamp)
        self._tally.set(key, WAITING, pictures)
        gate = self._gate(pictures, self.labels)
        self._bus.publish(
            gate, pictures, record=partial(self._record, pictures),
            revoke=partial(self._revoke, pictures), clicks=self._ledger.clicks(gate.id),
        )  # fmt: skip
        self._changed()

    def _grows(self, file: str, stamp: Stamp) -> bool:
        """Whether a file that is not whole may still be being written."""
        before, since = self._growing.get(file, (None, 0.0))
        now = time.monotonic()
        if before != stamp:
            self._growing[file] = stamp, now
            return True
        return now - since < SETTLING

    def _restore(self, line: Line) -> None:
        """A decision of an earlier session, as part of the history."""
        kept = Kept.of(line)
        own = kept.folder in ("", self._ledger.here)
        pictures = self._pictures(
            self._ledger.tree(kept.folder), kept.file,
            kept.file if own else origin(kept.folder, kept.file),
            (kept.size, kept.mtime_ns), (kept.width, kept.height),
        )  # fmt: skip
        pictures.kept = kept
        pictures.gate_id = kept.gate or self._ledger.gate_id(
            kept.folder, kept.file, kept.size, kept.mtime_ns
        )
        decision = decision_of(line)
        self._storage.restore(
            self._gate(pictures, labels_with(self.labels, decision)), decision, pictures,
            Hooks(
                partial(self._record, pictures), partial(self._revoke, pictures),
                self._ledger.clicks(kept.gate),
            ),
        )  # fmt: skip
        self._kept.append(pictures)

    def _check_sorted(self) -> None:
        """Say which sorted files are gone, or are no longer what was put there."""
        changed = 0
        for pictures in self._kept:
            kept = pictures.kept
            if kept is None or self._ending:
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

    def _pictures(
        self, tree: Tree, file: str, key: str, stamp: Stamp, size: tuple[int, int]
    ) -> FolderPictures:
        return FolderPictures(
            tree, file, self._ledger.out, key=key, stamp=stamp, size=size,
            trouble=self._trouble, previews=self.previews,
        )  # fmt: skip

    def _gate(self, pictures: FolderPictures, labels: tuple[str, ...]) -> Gate:
        name = _text(pictures.file)
        if pictures.key != pictures.file:  # of another folder
            name = f"{_text(pictures.originals.root.name)}/{name}"
        return Gate(
            labels, pictures.width, pictures.height, title=self._title or own_name(name),
            file=name, undoable=True, id=pictures.gate_id,
        )  # fmt: skip

    def _set_aside(self, key: str, reason: str, stamp: Stamp | None = None) -> None:
        first = self._tally.set(key, ASIDE, reason=reason, stamp=stamp)
        # A folder may have thousands that need the same package: the panel counts them.
        level = logging.WARNING if first else logging.DEBUG
        log.log(level, "%s is not shown and stays where it is: %s", own_name(_text(key)), reason)
        self._changed()

    def _withdraw_unreadable(self, pictures: FolderPictures, reason: str) -> None:
        text = f"{_text(pictures.file)} cannot be read and stays where it is: {reason}"
        if self._bus.withdraw(pictures.gate_id, text):
            self._set_aside(pictures.key, reason, pictures.stamp)

    def _withdraw_gone(self, pictures: FolderPictures) -> None:
        if self._bus.withdraw(pictures.gate_id, text := _gone(pictures)):
            self._tally.set(pictures.key, None)
            log.info("%s", text)
            self._changed()

    def _ask_anew(self, pictures: FolderPictures) -> None:
        name = _text(pictures.file)
        if self._bus.withdraw(pictures.gate_id, f"{name} was changed; it is asked about anew"):
            self._tally.set(pictures.key, None)
            own = pictures.key == pictures.file
            self._ask(pictures.file, "" if own else str(pictures.originals.root))

    # -- called from whatever thread answers or looks

    def _trouble(self, pictures: FolderPictures, error: Exception) -> ImageGateError:
        """What to raise when an image cannot be read; its gate ends, soon, if that is for good.

        (Not here and now: this may be the very answer that the bus is waiting for.)
        """
        name, kept = _text(pictures.file), pictures.kept
        if kept is not None:
            return GateClosed(f"{self.out / kept.out} cannot be read: {why(error)}")
        own = pictures.key == pictures.file
        away = self._source.away(pictures.file) if own else _away(pictures.originals)
        if away:
            self._tasks.put(self._look)
            return StoreError(f"{name} cannot be read, its folder is away: {away}", passing=True)
        if isinstance(error, FileNotFoundError):
            self._tasks.put(partial(self._withdraw_gone, pictures))
            return GateClosed(_gone(pictures))
        if isinstance(error, OSError) and error.errno in _PASSING:
            return StoreError(f"{name} cannot be read just now: {why(error)}", passing=True)
        self._tasks.put(partial(self._withdraw_unreadable, pictures, why(error)))
        return GateClosed(f"{name} cannot be read: {why(error)}")

    def _record(self, pictures: FolderPictures, answer: Answer) -> None:
        decision = answer.decision
        if decision.route is None:
            by = f" by {decision.by}" if decision.by else ""
            note = f": {decision.note}" if decision.note else ""
            self.end(f"the session was stopped{by}{note}")
            return
        if self._ending:
            raise GateClosed("the session has ended")
        try:
            changed = pictures.changed()
        except OSError as error:
            raise self._trouble(pictures, error) from error
        if changed:
            self._tasks.put(partial(self._ask_anew, pictures))
            raise GateClosed(f"{_text(pictures.file)} was changed; it is asked about anew")
        if not pictures.seen:  # nobody can have looked at it: is it an image at all?
            pictures.preview(0)
        asked = Asked(
            str(pictures.originals.root) if pictures.key != pictures.file else "",
            pictures.file, pictures.gate_id, pictures.width, pictures.height,
        )  # fmt: skip
        try:
            mask = pictures.mask(answer)
            kept = self._ledger.keep(asked, self._folders[decision.route - 1], decision, mask)
        except OSError as error:
            if not isinstance(error, FileNotFoundError) or _is_there(pictures):
                raise _not_recorded("not recorded, the gate waits", error) from error
            raise self._trouble(pictures, error) from error
        pictures.kept = kept
        self._tally.set(pictures.key, MOVED if kept.moved else DECIDED)
        if kept.moved:
            self._tally.leave(self._source.beside(pictures.file))
        self._changed()

    def _revoke(self, pictures: FolderPictures, answer: Answer) -> Gate | None:
        if self._ending:
            raise GateClosed("the session has ended; the decision stands")
        kept = pictures.kept
        assert kept is not None, "a decision was recorded"
        folder = self._ledger.folder_now(kept)
        own = folder == self._ledger.here
        key = kept.file if own else origin(folder, kept.file)
        before = self._tally.state(key)
        self._tally.set(key, BUSY)  # its file comes back before its gate does
        try:
            mask = self._ledger.take_back(kept)
        except BaseException as error:
            self._tally.set(key, before)
            if isinstance(error, OSError):
                raise _not_recorded("not taken back, the decision stands", error) from error
            raise
        pictures.key = key
        same = pictures.ask_again(self._ledger.tree(folder), mask)
        self._tally.set(key, WAITING, pictures)
        if not same:
            self._tasks.put(partial(self._ask_anew, pictures))
        self._changed()
        return self._gate(pictures, self.labels)


def _is_whole(path: Path) -> bool:
    try:
        return not any(remark.startswith("broken") for remark in read_preview(path).remarks)
    except Exception:  # Pillow raises nearly anything on a broken file
        return False


def _gone(pictures: FolderPictures) -> str:
    return f"{_text(pictures.file)} is gone; if it comes back, it is asked about again"


def _is_there(pictures: FolderPictures) -> bool:
    try:
        return pictures.originals.exists(pictures.file)
    except OSError:
        return False


def _away(tree: Tree) -> str:
    return "" if tree.root.is_dir() else "it is not there"


def _not_recorded(failure: str, error: OSError) -> NotRecorded:
    reason = f"{failure}: {error}"
    report_failure(failure, error, level=logging.ERROR)
    return NotRecorded(reason)
