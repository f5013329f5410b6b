"""The questions of a folder's session: one gate for each file, and what its answer does."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..core.bus import Hooks
from ..core.failures import report_failure
from ..core.model import Answer, Gate, GateClosed, ImageGateError, NotRecorded, StoreError
from ..core.pictures import Pictures
from ..gate_bus import GateBus
from ..pictures.formats.image_files import PreviewCache, read_preview, read_size, why
from ..storage.memory import MemoryStorage
from .history import decision_of, labels_with
from .pictures import FolderPictures, Stamp, own_name, stamp_of
from .pictures import as_text as _text
from .sorted.journal import Entry, origin
from .sorted.kept import Kept, Original
from .sorted.label_folders import folder_names
from .sorted.ledger import Ledger
from .source import SourceFolder
from .tally import ASIDE, DECIDED, MOVED, UNDOING, WAITING, Tally
from .tree import Tree

PREVIEW_BYTES = 64 * 2**20
"""Bytes of encoded previews kept in memory, for all files together."""
FRESH = 5.0
"""Seconds after its last change during which a file may still be being written."""
STABLE = 1.0
"""Seconds for which an incomplete file has to stay unchanged to count as finished."""

_SHARE_ERRORS = frozenset(
    getattr(errno, name, -1)
    for name in ("EIO", "ESTALE", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENODEV")
)
"""Errors of a network share or a memory card that is in trouble: they may pass."""

log = logging.getLogger("imagegate")


class Questions:
    """Asks about files, and carries out the answers. `ask` and `restore` are for one thread.

    Args:
        bus: where the gates are published, ``storage`` its storage.
        source: the folder of the files.
        ledger: where answers are recorded.
        tally: counts what becomes of each file.
        labels: the routes.
        title: the title of every gate; by default each is titled with its file's path.
        later: runs a task in the session's thread, soon.
        look: the task that looks at the folder.
        stop: ends the session, for a reason.
        changed: called when the tally has changed.

    Attributes:
        ending: why the session ends; empty while it goes on.
        growing: files that may still be being written, with their stamp and since when it is so.
    """

    def __init__(
        self,
        bus: GateBus[Pictures],
        storage: MemoryStorage[Pictures],
        source: SourceFolder,
        ledger: Ledger,
        tally: Tally,
        labels: tuple[str, ...],
        title: str,
        *,
        later: Callable[[Callable[[], None]], None],
        look: Callable[[], None],
        stop: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self.ending = ""
        self.growing: dict[str, tuple[Stamp, float]] = {}
        self._bus = bus
        self._storage = storage
        self._source = source
        self._ledger = ledger
        self._tally = tally
        self._labels = labels
        self._folders = folder_names(labels)
        self._title = title
        self._previews = PreviewCache(PREVIEW_BYTES)
        self._later = later
        self._look = look
        self._stop = stop
        self._changed = changed

    def ask(self, file: str, folder: str = "") -> None:
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
                fresh = abs(time.time() - stat.st_mtime) < FRESH or file in self.growing
                if fresh and not _is_complete(path) and self._grows(file, stamp):
                    return
                self.growing.pop(file, None)
                pictures = self._pictures(tree, file, key, stamp, read_size(path))
        except Exception as error:  # Pillow raises nearly anything on a broken file
            self.growing.pop(file, None)
            if isinstance(error, FileNotFoundError) or self._source.away(file if own else ""):
                return  # if it comes back, the next look finds it
            self.set_aside(key, why(error), stamp)
            return
        pictures.gate_id = self._ledger.gate_id(folder or self._ledger.here, file, *stamp)
        self._tally.set(key, WAITING, pictures)
        gate = self._gate(pictures, self._labels)
        self._bus.publish(
            gate, pictures, record=partial(self._record, pictures),
            revoke=partial(self._revoke, pictures), clicks=self._ledger.clicks(gate.id),
        )  # fmt: skip
        self._changed()

    def _grows(self, file: str, stamp: Stamp) -> bool:
        """Whether a file that is not whole may still be being written."""
        before, since = self.growing.get(file, (None, 0.0))
        now = time.monotonic()
        if before != stamp:
            self.growing[file] = stamp, now
            return True
        return now - since < STABLE

    def restore(self, line: Entry) -> FolderPictures:
        """Put a decision of an earlier session into the history."""
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
            self._gate(pictures, labels_with(self._labels, decision)), decision, pictures,
            Hooks(
                partial(self._record, pictures), partial(self._revoke, pictures),
                self._ledger.clicks(kept.gate),
            ),
        )  # fmt: skip
        return pictures

    def _pictures(
        self, tree: Tree, file: str, key: str, stamp: Stamp, size: tuple[int, int]
    ) -> FolderPictures:
        return FolderPictures(
            tree, file, self._ledger.out, key=key, stamp=stamp, size=size,
            trouble=self._trouble, previews=self._previews,
        )  # fmt: skip

    def _gate(self, pictures: FolderPictures, labels: tuple[str, ...]) -> Gate:
        name = _text(pictures.file)
        if pictures.key != pictures.file:  # of another folder
            name = f"{_text(pictures.originals.root.name)}/{name}"
        return Gate(
            labels, pictures.width, pictures.height, title=self._title or own_name(name),
            file=name, undoable=True, id=pictures.gate_id,
        )  # fmt: skip

    def set_aside(self, key: str, reason: str, stamp: Stamp | None = None) -> None:
        first = self._tally.set(key, ASIDE, reason=reason, stamp=stamp)
        # A folder may have thousands that need the same package: the panel counts them.
        level = logging.WARNING if first else logging.DEBUG
        log.log(level, "%s is not shown and stays where it is: %s", own_name(_text(key)), reason)
        self._changed()

    def _withdraw_unreadable(self, pictures: FolderPictures, reason: str) -> None:
        text = f"{_text(pictures.file)} cannot be read and stays where it is: {reason}"
        if self._bus.withdraw(pictures.gate_id, text):
            self.set_aside(pictures.key, reason, pictures.stamp)

    def withdraw_gone(self, pictures: FolderPictures) -> None:
        if self._bus.withdraw(pictures.gate_id, text := _gone(pictures)):
            self._tally.set(pictures.key, None)
            log.info("%s", text)
            self._changed()

    def _ask_anew(self, pictures: FolderPictures) -> None:
        name = _text(pictures.file)
        if self._bus.withdraw(pictures.gate_id, f"{name} was changed; it is asked about anew"):
            self._tally.set(pictures.key, None)
            own = pictures.key == pictures.file
            self.ask(pictures.file, "" if own else str(pictures.originals.root))

    # -- called from any thread that answers or reads

    def _trouble(self, pictures: FolderPictures, error: Exception) -> ImageGateError:
        """What to raise when an image cannot be read; its gate ends, soon, if that is for good.

        (Not here and now: this may be the very answer that the bus is waiting for.)
        """
        name, kept = _text(pictures.file), pictures.kept
        if kept is not None:
            return GateClosed(f"{self._ledger.out.root / kept.out} cannot be read: {why(error)}")
        own = pictures.key == pictures.file
        away = self._source.away(pictures.file) if own else _away(pictures.originals)
        if away:
            self._later(self._look)
            return StoreError(f"{name} cannot be read, its folder is away: {away}", passing=True)
        if isinstance(error, FileNotFoundError):
            self._later(partial(self.withdraw_gone, pictures))
            return GateClosed(_gone(pictures))
        if isinstance(error, OSError) and error.errno in _SHARE_ERRORS:
            return StoreError(f"{name} cannot be read just now: {why(error)}", passing=True)
        self._later(partial(self._withdraw_unreadable, pictures, why(error)))
        return GateClosed(f"{name} cannot be read: {why(error)}")

    def _record(self, pictures: FolderPictures, answer: Answer) -> None:
        decision = answer.decision
        if decision.route is None:
            by = f" by {decision.by}" if decision.by else ""
            note = f": {decision.note}" if decision.note else ""
            self._stop(f"the session was stopped{by}{note}")
            return
        if self.ending:
            raise GateClosed("the session has ended")
        try:
            changed = pictures.changed()
        except OSError as error:
            raise self._trouble(pictures, error) from error
        if changed:
            self._later(partial(self._ask_anew, pictures))
            raise GateClosed(f"{_text(pictures.file)} was changed; it is asked about anew")
        if not pictures.seen:  # nobody can have looked at it: is it an image at all?
            pictures.preview(0)
        original = Original(
            str(pictures.originals.root) if pictures.key != pictures.file else "",
            pictures.file, pictures.gate_id, pictures.width, pictures.height,
        )  # fmt: skip
        try:
            mask = pictures.mask(answer)
            kept = self._ledger.keep(original, self._folders[decision.route - 1], decision, mask)
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
        if self.ending:
            raise GateClosed("the session has ended; the decision stands")
        kept = pictures.kept
        assert kept is not None, "a decision was recorded"
        folder = self._ledger.folder_now(kept)
        own = folder == self._ledger.here
        key = kept.file if own else origin(folder, kept.file)
        before = self._tally.state(key)
        self._tally.set(key, UNDOING)  # its file comes back before its gate does
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
            self._later(partial(self._ask_anew, pictures))
        self._changed()
        return self._gate(pictures, self._labels)


def _is_complete(path: Path) -> bool:
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
