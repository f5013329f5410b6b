"""Files that the mask editor of open pages sends: how much they may take, and when they go.

Gradio keeps what is uploaded for an hour at least, however much it is. Here there is one folder for
the files of all editors, which is emptied when the last of them closes.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
import weakref
from collections import Counter
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..http.access import Refused

MOST_BYTES = 256 * 2**20
MOST_FILES = 200
AT_ONCE = 8
"""Files in one request; an editor sends its layers, its background and what they look like."""
UNSEEN = 600.0
"""Seconds after its opening, or the last upload, after which an editor counts as closed. If it is
still open, nothing is lost: to save a mask it uploads all once more."""

_SETTING = "GRADIO_TEMP_DIR"
_LOCK = "lock"
_SOME = ""
"""Stands for the session of an upload, which does not say whose it is."""

log = logging.getLogger("imagegate")


def keep_from_other_users() -> None:
    """Have Gradio, which is not imported yet, keep its files in a folder of this user.

    Its own folder is one for all users of a machine, and belongs to whoever ran a Gradio first.
    """
    if os.name != "posix" or os.environ.get(_SETTING):
        return
    shared = Path(tempfile.gettempdir())
    if not (shared / "gradio").exists() or _is_ours(shared / "gradio"):
        return
    own = shared / f"gradio-{os.getuid()}"
    with suppress(FileExistsError):
        own.mkdir(0o700)
    os.environ[_SETTING] = str(own) if _is_ours(own) else tempfile.mkdtemp(prefix="gradio-")


def _is_ours(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


class Uploads:
    """One process's folder for uploads. Thread-safe.

    What earlier processes left is removed, unless they still run.

    Args:
        parent: Gradio's own folder, which it insists on.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_left(parent)
        self.folder = (parent / f"imagegate-{secrets.token_hex(8)}").resolve()
        self.folder.mkdir(mode=0o700)
        held = FileLock(self.folder / _LOCK, thread_local=False)
        held.acquire(timeout=0)
        self.close = weakref.finalize(self, _remove, self.folder, held)
        self._lock = threading.Lock()  # guards the next three
        self._editors: dict[str, float] = {}  # session -> when it was opened
        self._pages: Counter[str] = Counter()  # session -> its heartbeat streams
        self._coming = 0  # bytes of uploads under way

    def opened(self, session: str) -> None:
        """An editor opens."""
        with self._lock:
            self._editors[session] = time.monotonic()

    def closed(self, session: str) -> None:
        """It closed, or its page did; after the last one nothing is kept."""
        with self._lock:
            self._editors.pop(session, None)
            if not self._editors.keys() - {_SOME}:
                self._editors.clear()
        self._empty_if_unused()

    def page_opened(self, session: str) -> None:
        """A page can be heard."""
        with self._lock:
            self._pages[session] += 1

    def page_closed(self, session: str) -> None:
        """It cannot any more."""
        with self._lock:
            self._pages[session] -= 1
            if self._pages[session]:
                return
            del self._pages[session]
        self.closed(session)

    def close_unseen(self) -> None:
        """Close editors whose page has never been heard of."""
        before = time.monotonic() - UNSEEN
        with self._lock:
            unseen = [s for s, at in self._editors.items() if at <= before and s not in self._pages]
        for session in unseen:
            self.closed(session)

    def begin(self, size: int) -> None:
        """An upload of so many bytes begins. Raises `Refused` if there is no room for it."""
        files = [path.stat().st_size for path in self._files()]
        with self._lock:
            if sum(files) + self._coming + size > MOST_BYTES or len(files) >= MOST_FILES:
                raise Refused(
                    413,
                    f"uploads take at most {MOST_BYTES // 2**20} MB and {MOST_FILES} files in all; "
                    "save or cancel a mask that is open in another page",
                )
            self._coming += size
            self._editors[_SOME] = time.monotonic()

    def end(self, size: int) -> None:
        """It has ended."""
        with self._lock:
            self._coming -= size
        self._empty_if_unused()

    def holds(self, path: str) -> bool:
        """Whether this is a file in here."""
        try:
            found = Path(path).resolve()
            return found.is_relative_to(self.folder) and found.is_file() and found.name != _LOCK
        except (OSError, ValueError, RuntimeError):
            return False

    def _files(self) -> list[Path]:
        return [path for path in self.folder.rglob("*") if path.is_file() and path.name != _LOCK]

    def _empty_if_unused(self) -> None:
        with self._lock:
            if self._editors or self._coming:
                return
        for path in list(self.folder.iterdir()):
            if path.name != _LOCK:
                shutil.rmtree(path, ignore_errors=True)


def _remove_left(parent: Path) -> None:
    for folder in parent.glob("imagegate-*"):
        with suppress(OSError, Timeout, NotImplementedError):
            held = FileLock(folder / _LOCK, thread_local=False)
            held.acquire(timeout=0)
            _remove(folder, held)
            log.debug("uploads that an earlier run left were removed: %s", folder)


def _remove(folder: Path, held: FileLock) -> None:
    held.release()
    shutil.rmtree(folder, ignore_errors=True)
