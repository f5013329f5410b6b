"""A folder of images as a session of gates: one question a file, answered in the same panel."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .gate_bus import GateBus
from .image_files import PreviewCache, read_full, read_preview, read_size, why
from .image_search import ImageSearch
from .labels import split_labels
from .ledger import BadFolder, Kept, Ledger, folder_names
from .model import MAX_ROUTES, Answer, BadPicture, Gate, GateClosed, NotRecorded, parse_labels
from .pictures import Picture, Pictures, encode_png, read_mask, scale_mask

PREVIEW_BYTES = 64 * 2**20
"""Encoded previews kept in memory, of all files together."""
LISTED = 20
"""Unreadable files that `FolderSession.progress` names."""

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


class FolderPictures:
    """The one image of a gate, read from its file when somebody looks. Thread-safe."""

    __slots__ = ("_session", "file", "gate_id", "height", "kept", "seen", "stamp", "width")

    def __init__(self, session: FolderSession, file: str, stat: os.stat_result) -> None:
        self._session = session
        self.file = file
        self.stamp = _stamp(stat)  # of the file that people are asked about
        self.width, self.height = read_size(session.folder / file)
        self.gate_id = ""
        self.kept: Kept | None = None
        self.seen = False  # a preview of it was made, so it is whole

    def preview(self, index: int) -> Picture:
        """JPEG or WebP. Raises `GateClosed` if the file cannot be read, and ends its gate."""
        previews = self._session.previews
        picture = previews.get(self)
        if picture is None:
            try:
                picture = read_preview(self._path())
            except Exception as error:  # Pillow raises nearly anything on a broken file
                raise self._session.give_up(self, why(error)) from error
            self.seen = True
            previews.put(self, picture)
        return picture

    def full(self, index: int) -> Picture:
        """Lossless PNG. Raises `BadPicture` if the file cannot be read."""
        try:
            return read_full(self._path())
        except Exception as error:  # as above
            raise BadPicture(f"{self.file} cannot be read: {why(error)}") from error

    def start_mask(self, index: int) -> bytes | None:
        """None: painting starts from nothing."""
        return None

    def _path(self) -> Path:
        kept = self.kept
        if kept is not None and kept.moved:
            return self._session.out / kept.out
        return self._session.folder / self.file


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
        self._bus = bus
        self._follow_links = follow_links
        self._title = title
        self._changed = changed
        self._folders = folder_names(self.labels)
        self._ledger = Ledger(folder, out, move=move)
        self._ending = ""  # why, once it ends
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="imagegate-folder", daemon=True)
        self._lock = threading.Lock()  # guards the five below
        self._total = 0
        self._done = 0
        self._earlier = 0
        self._scanning = True
        self._unreadable: dict[str, str] = {}

    def start(self) -> int:
        """Open the sorted folder and start asking, in a thread of its own.

        Returns:
            How many decisions were made in earlier sessions.

        Raises:
            BadFolder: the sorted folder cannot be used.
        """
        earlier = self._ledger.open()
        self._thread.start()
        return earlier

    def end(self, reason: str) -> None:
        """Take all open questions back, soon; returns at once. `ended` says when it is done."""
        self._ending = self._ending or reason
        self._tasks.put(None)

    def close(self, reason: str = "the session has ended") -> None:
        """End, wait until that is done, and let go of the sorted folder."""
        self.end(reason)
        if self._thread.ident is not None:
            self._thread.join()
        self._ledger.close()

    def progress(self) -> dict[str, Any]:
        """How far it is, as JSON.

        ``total`` files were found so far, more while ``scanning``; ``done`` of them are decided,
        ``earlier`` of these before this session. ``unreadable`` lists the first of
        ``unreadable_count`` files as ``{"file", "reason"}``. Once it is ``ended``, ``reason`` says
        why.
        """
        with self._lock:
            total, done, unreadable = self._total, self._done, len(self._unreadable)
            return {
                "total": total,
                "done": done,
                "earlier": self._earlier,
                "waiting": max(0, total - done - unreadable),
                "scanning": self._scanning,
                "all_done": not self._scanning and done + unreadable == total,
                "unreadable_count": unreadable,
                "unreadable": [
                    {"file": _text(file), "reason": reason}
                    for file, reason, _ in zip(
                        self._unreadable, self._unreadable.values(), range(LISTED), strict=False
                    )
                ],
                "folder": _text(str(self.folder)),
                "out": _text(str(self.out)),
                "labels": list(self.labels),
                "ended": bool(self._ending),
                "reason": self._ending,
            }

    # -- the session's own thread

    def _run(self) -> None:
        try:
            search = ImageSearch(self.folder, self.out, follow_links=self._follow_links)
            for file in search:
                if self._ending:
                    break
                self._ask(file)
                while not self._tasks.empty():
                    self._work()
            for file, reason in search.refused.items():
                with self._lock:
                    self._total += 1
                self._set_aside(file, reason)
            with self._lock:
                self._scanning = False
            self._changed()
            while not self._ending:
                self._work()
        except Exception:
            log.exception("the session broke")
            self._ending = self._ending or "the session broke; see the terminal"
        finally:
            # Gates of a folder belong to no prompt.
            self._bus.withdraw_prompt("", self._ending)
            self.ended.set()
            self._changed()

    def _work(self) -> None:
        task = self._tasks.get()
        if task is not None:
            task()

    def _ask(self, file: str) -> None:
        with self._lock:
            self._total += 1
        try:
            stat = (self.folder / file).stat()
            if self._ledger.decided(file, stat):
                with self._lock:
                    self._done += 1
                    self._earlier += 1
                return
            pictures = FolderPictures(self, file, stat)
        except Exception as error:  # Pillow raises nearly anything on a broken file
            self._set_aside(file, why(error))
            return
        name = _text(file)
        gate = Gate(
            self.labels, pictures.width, pictures.height, title=self._title or name, file=name,
            undoable=True,
        )  # fmt: skip
        pictures.gate_id = gate.id
        self._bus.publish(
            gate, pictures,
            record=partial(self._record, pictures), revoke=partial(self._revoke, pictures),
        )  # fmt: skip
        self._changed()

    def _set_aside(self, file: str, reason: str) -> None:
        with self._lock:
            self._unreadable[file] = reason
        log.warning("%s is not shown and stays where it is: %s", _text(file), reason)
        self._changed()

    def _withdraw_unreadable(self, pictures: FolderPictures, reason: str) -> None:
        text = f"{_text(pictures.file)} cannot be read and stays where it is: {reason}"
        if self._bus.withdraw(pictures.gate_id, text):
            self._set_aside(pictures.file, reason)

    def _ask_again(self, pictures: FolderPictures) -> None:
        name = _text(pictures.file)
        if self._bus.withdraw(pictures.gate_id, f"{name} was changed; it is asked about anew"):
            with self._lock:
                self._total -= 1
            self._ask(pictures.file)

    # -- called from whatever thread answers or looks

    def give_up(self, pictures: FolderPictures, reason: str) -> GateClosed:
        """Report a file that turned out to be unreadable; returns what to raise."""
        # Not here and now: this may be the very answer that the bus is waiting for.
        self._tasks.put(partial(self._withdraw_unreadable, pictures, reason))
        return GateClosed(f"{_text(pictures.file)} cannot be read: {reason}")

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
            if _stamp((self.folder / pictures.file).stat()) != pictures.stamp:
                self._tasks.put(partial(self._ask_again, pictures))
                raise GateClosed(f"{_text(pictures.file)} was changed; it is asked about anew")
            if not pictures.seen:  # nobody can have looked at it: is it an image at all?
                pictures.preview(0)
            mask = _mask(answer, pictures.width, pictures.height)
            folder = self._folders[decision.route - 1]
            pictures.kept = self._ledger.keep(pictures.file, folder, decision, mask)
        except FileNotFoundError as error:
            if (self.folder / pictures.file).exists():
                raise _not_recorded("not recorded, the gate waits", error) from error
            raise self.give_up(pictures, why(error)) from error
        except OSError as error:
            raise _not_recorded("not recorded, the gate waits", error) from error
        with self._lock:
            self._done += 1
        self._changed()

    def _revoke(self, pictures: FolderPictures, answer: Answer) -> None:
        if self._ending:
            raise GateClosed("the session has ended; the decision stands")
        assert pictures.kept is not None, "a decision was recorded"
        try:
            self._ledger.take_back(pictures.kept)
        except OSError as error:
            raise _not_recorded("not taken back, the decision stands", error) from error
        pictures.kept = None
        with self._lock:
            self._done -= 1
        self._changed()


def _stamp(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def _mask(answer: Answer, width: int, height: int) -> bytes | None:
    """The painted mask at the image's true size, as PNG; None where nothing is painted."""
    png = answer.masks.get(0)
    if not png:
        return None
    mask = scale_mask(read_mask(png, width, height), width, height)
    return encode_png(mask).body if mask.getbbox() is not None else None


def _not_recorded(failure: str, error: OSError) -> NotRecorded:
    reason = f"{failure}: {error}"
    log.error("%s", reason)
    return NotRecorded(reason)


def _text(path: str) -> str:
    """A path as text that can be sent: names of files need not be valid Unicode."""
    return os.fsencode(path).decode("utf-8", "replace") if os.name == "posix" else path
