"""The file systems that pictures may lie in: a folder of this machine, or any that fsspec knows.

Files are whole or not there at all: each is written under a temporary name, which begins with a
dot, and renamed. In a folder of this machine only their owner can read them.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from .atomic import make_folders, sync_folder, temporary_name, write_file
from .permissions import FILE, FOLDER, SHARED_FILE, SHARED_FOLDER, shared_with_group

# fsspec keeps memory:// in plain dicts, which all places in this process share.
_MEMORY = threading.RLock()


class Files(Protocol):
    """What `PicturePlace` needs of a file system; ``folder`` is "" for the root."""

    def write(self, folder: str, name: str, body: bytes, durable: bool) -> None: ...

    def write_new(self, folder: str, name: str, body: bytes) -> None: ...

    def read(self, folder: str, name: str) -> bytes | None: ...

    def names(self, folder: str) -> list[str]: ...

    def remove(self, folder: str) -> None: ...

    def remove_file(self, folder: str, name: str) -> None: ...


class Folder:
    """Files in a folder of this machine. Without fsspec, which can neither flush nor replace."""

    def __init__(self, root: str) -> None:
        self.root = Path(os.path.abspath(os.path.expanduser(root)))
        self.before_folder: Callable[[], None] = lambda: None
        """Called before a folder is made in the root; it may raise."""
        self._entered: set[str] = set()  # folders whose entry in the root is durable

    def write(self, folder: str, name: str, body: bytes, durable: bool) -> None:
        self._write(folder, name, body, durable=durable)
        if durable:
            self._sync(folder)

    def write_new(self, folder: str, name: str, body: bytes) -> None:
        self._write(folder, name, body, durable=True, replace=False)
        self._sync(folder)

    def read(self, folder: str, name: str) -> bytes | None:
        try:
            return self._path(folder, name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            return os.listdir(self._path(folder))
        except FileNotFoundError:
            return []

    def remove(self, folder: str) -> None:
        path = self._path(folder)
        self._entered.discard(folder)
        for _ in range(10):
            # Two processes may remove the same gate: then either finds files gone.
            with suppress(FileNotFoundError):
                shutil.rmtree(path)
            if not os.path.lexists(path):
                return
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    def remove_file(self, folder: str, name: str) -> None:
        self._path(folder, name).unlink(missing_ok=True)

    def _path(self, folder: str, name: str = "") -> Path:
        return self.root / folder / name

    def _write(
        self, folder: str, name: str, body: bytes, *, durable: bool, replace: bool = True
    ) -> None:
        mode = SHARED_FILE if self._shared() else FILE
        _with_folder(
            partial(
                write_file, self._path(folder, name), body,
                mode=mode, durable=durable, replace=replace,
            ),
            partial(self._make_folder, folder, durable),
        )  # fmt: skip

    def _make_folder(self, folder: str, durable: bool) -> None:
        if folder:
            self.before_folder()
        missing = make_folders(self._path(folder), FOLDER, durable=durable)
        if folder and self._shared():
            for each in missing:
                with suppress(OSError):
                    each.chmod(SHARED_FOLDER)

    def _shared(self) -> bool:
        return shared_with_group(self.root)

    def _sync(self, folder: str) -> None:
        sync_folder(self._path(folder))
        if folder not in self._entered:
            # The gate's folder may have been made by a write that was not durable.
            sync_folder(self.root)
            if len(self._entered) > 1000:
                self._entered.clear()
            self._entered.add(folder)


class Anywhere:
    """Files at any other place, by fsspec."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs
        from fsspec.spec import AbstractFileSystem

        # An own instance, not one shared with whoever else uses fsspec here: it must not remember
        # listings, for other machines write to this place, too.
        self._fs, self._root = url_to_fs(url, skip_instance_cache=True)
        self._fs.dircache.use_listings_cache = False
        # Where there is no renaming, fsspec's stand-in would read a "*" in the path as a pattern.
        self._renames = type(self._fs).mv is not AbstractFileSystem.mv
        in_memory = "memory" in self._fs.protocol
        self._alone: AbstractContextManager[Any] = _MEMORY if in_memory else nullcontext()

    def write(self, folder: str, name: str, body: bytes, durable: bool) -> None:
        fs, target = self._fs, self._path(folder, name)
        staged = self._path(folder, temporary_name())
        with self._alone:
            try:
                _with_folder(
                    lambda: fs.pipe_file(staged, body),
                    lambda: fs.makedirs(self._path(folder), exist_ok=True),
                )
                if self._renames:
                    fs.mv(staged, target)
                else:
                    fs.cp_file(staged, target)
                    fs.rm_file(staged)
            except BaseException:
                with suppress(Exception):  # the first error is the one to report
                    fs.rm_file(staged)
                raise

    def write_new(self, folder: str, name: str, body: bytes) -> None:
        # Not every place can refuse to replace a file; the caller looks at what is there then.
        self.write(folder, name, body, True)

    def read(self, folder: str, name: str) -> bytes | None:
        try:
            with self._alone:
                return bytes(self._fs.cat_file(self._path(folder, name)))
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        try:
            with self._alone:
                self._fs.invalidate_cache()
                found = self._fs.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        return [name for path in found if (name := str(path).rpartition("/")[2])]

    def remove(self, folder: str) -> None:
        with self._alone:
            # One by one: fsspec's recursive removal reads a "*" in the path as a pattern.
            for name in self.names(folder):
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self._path(folder, name))
            # A place without folders has none to remove.
            with suppress(FileNotFoundError, NotImplementedError):
                self._fs.rmdir(self._path(folder))

    def remove_file(self, folder: str, name: str) -> None:
        with self._alone, suppress(FileNotFoundError):
            self._fs.rm_file(self._path(folder, name))

    def _path(self, folder: str, name: str = "") -> str:
        return "/".join(part for part in (self._root.rstrip("/"), folder, name) if part)


def open_files(url: str) -> Files:
    scheme, separator, rest = url.partition("://")
    if "::" in url or (separator and scheme not in ("file", "local")):
        return Anywhere(url)
    return Folder(rest if separator else url)


def _with_folder(write: Callable[[], object], make_folder: Callable[[], object]) -> None:
    """Write; make the folder if that is what is missing, even where others remove it meanwhile."""
    for _ in range(3):
        try:
            write()
            return
        except FileNotFoundError:
            make_folder()
    write()
