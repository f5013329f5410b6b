"""The files below one folder, reached without going through links that lie in it.

Where the system allows it (everywhere but on Windows), each folder on the way is opened relative to
the one before, refusing links, so that replacing a folder by a link meanwhile gains nothing. Only
new files are written: nothing is ever replaced, and all of it survives a power cut.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from .attributes import Attributes, copy, set_attributes, sha256_of

Links = Literal["none", "inside", "all"]

_RELATIVE = {os.open, os.link, os.unlink, os.mkdir, os.rmdir, os.rename, os.stat}
_AT = os.supports_dir_fd >= _RELATIVE and hasattr(os, "O_NOFOLLOW")
_LINK = {"follow_symlinks": False} if os.link in os.supports_follow_symlinks else {}
_NOFOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
_FOLDER: int = getattr(os, "O_DIRECTORY", 0)
_BINARY: int = getattr(os, "O_BINARY", 0)
_AT_ONCE: int = getattr(os, "O_NONBLOCK", 0)
"""Opening a pipe would wait for its other end."""
_JUNCTION = 0xA0000003
"""The tag that Windows gives to its other kind of link to a folder."""


class Tree:
    """Files below a folder, named by paths relative to it with ``/`` between their parts.

    Any method raises `OSError`, also if there is a link where none may be.

    Args:
        root: the folder; it may itself be a link, and need not be there yet.
        links: which links below it are followed: ``none``, those to files ``inside`` it, or
            ``all``.
    """

    def __init__(self, root: Path, links: Links = "none") -> None:
        self.root = root
        self._links = links

    # -- looking

    def open(self, file: str) -> BinaryIO:
        """Open a file for reading."""
        flags = os.O_RDONLY | _BINARY | _AT_ONCE
        if self._links == "all":
            number = os.open(self.root / file, flags)
        else:
            try:
                number = self._open(file, flags)
            except OSError as error:
                if self._links != "inside" or not _is_link(self.root / file):
                    raise
                number = self._open(self._inside(file, error), flags)
        try:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise OSError(errno.EINVAL, "not a file but a folder, pipe, socket or device", file)
            return os.fdopen(number, "rb")
        except BaseException:
            os.close(number)
            raise

    def stat(self, file: str) -> os.stat_result:
        """The status of the file that `open` would open."""
        with self._at(file) as (name, at):
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            return found
        with self.open(file) as opened:
            return os.fstat(opened.fileno())

    def is_link(self, file: str) -> bool:
        """Whether the name belongs to a link."""
        with self._at(file) as (name, at):
            return stat.S_ISLNK(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)

    def exists(self, file: str) -> bool:
        """Whether the name is taken, even by a link that leads nowhere."""
        try:
            with self._at(file) as (name, at):
                os.stat(name, dir_fd=at, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def sha256(self, file: str) -> str:
        """The SHA-256 of a file, as hex digits."""
        with self.open(file) as opened:
            return sha256_of(opened)

    def is_same(self, file: str, size: int, sha256: str) -> bool:
        """Whether there is a file with this content."""
        try:
            with self.open(file) as opened:
                return os.fstat(opened.fileno()).st_size == size and sha256_of(opened) == sha256
        except OSError:
            return False

    @contextmanager
    def reading(self, file: str) -> Iterator[Path]:
        """The path of a file, for code that can only open paths; checked before and afterwards."""
        path = self.root / file
        with self.open(file) as opened:
            one = os.fstat(opened.fileno())
            for turn in range(2):
                there = os.stat(path)
                if (there.st_dev, there.st_ino) != (one.st_dev, one.st_ino):
                    raise OSError(errno.ELOOP, "is another file now", str(path))
                if turn == 0:
                    yield path

    # -- changing

    def create(self, file: str, mode: int = 0o666) -> BinaryIO:
        """Create a file for writing."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY
        return os.fdopen(self._open(file, flags, mode), "wb")

    def write_new(self, file: str, content: bytes, mode: int = 0o666) -> None:
        """Write a new file, and flush it to disk."""
        with self.create(file, mode) as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())

    def append_to(self, file: str, mode: int = 0o666) -> int:
        """Open a file, new or not, for reading and writing."""
        return self._open(file, os.O_RDWR | os.O_CREAT | _BINARY, mode)

    def copy_from(self, other: Tree, source: str, file: str) -> tuple[str, Attributes]:
        """Copy a file of another tree to a new one; see `attributes.copy`."""
        with other.open(source) as read, self.create(file) as written:
            sha256, lost = copy(read, written)
        self._set_time(file, lost)
        return sha256, lost

    def link_from(self, other: Tree, source: str, file: str) -> None:
        """Hard-link a file of another tree into this one. Raises where that is not possible."""
        with other._at(source) as (old, old_at), self._at(file) as (new, new_at):
            os.link(old, new, src_dir_fd=old_at, dst_dir_fd=new_at, **_LINK)
            if not stat.S_ISREG(os.stat(new, dir_fd=new_at, follow_symlinks=False).st_mode):
                os.unlink(new, dir_fd=new_at)
                raise OSError(errno.ELOOP, "is a link", str(other.root / source))

    def place(self, staged: str, target: str) -> str:
        """Give a finished file its name. Raises `FileExistsError` rather than replace a file."""
        try:
            self.link_from(self, staged, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links: claim the name, then fill it
            self.create(target).close()
            try:
                self.replace(staged, target)
            except BaseException:
                self.unlink(target)
                raise
        return target

    def replace(self, staged: str, target: str) -> None:
        """Move a finished file to the name of an empty one."""
        with self._at(staged) as (old, old_at), self._at(target) as (new, new_at):
            os.replace(old, new, src_dir_fd=old_at, dst_dir_fd=new_at)

    def restore(self, other: Tree, source: str, file: str, lost: Attributes) -> None:
        """Copy a file so that its name is only ever seen with all of its content.

        Args:
            lost: attributes that the source could not hold.
        """
        part = part_of(file)
        self.unlink(part, missing_ok=True)
        try:
            with other.open(source) as read, self.create(part) as written:
                _, unset = copy(read, written)
                unset |= set_attributes(written, lost)
            self._set_time(part, unset)
            self.place(part, file)
            self.sync(_parent(file))
        finally:
            self.unlink(part, missing_ok=True)

    def unlink(self, file: str, missing_ok: bool = False) -> None:
        """Remove a file, or a link itself."""
        try:
            with self._at(file) as (name, at):
                os.unlink(name, dir_fd=at)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def make_folders(self, folder: str) -> list[str]:
        """Make a folder and those above it; returns the ones that were missing, outermost first."""
        made: list[str] = []
        parts = PurePosixPath(folder).parts
        for count in range(1, len(parts) + 1):
            each = "/".join(parts[:count])
            with suppress(FileExistsError), self._at(each) as (name, at):
                os.mkdir(name, dir_fd=at)
                made.append(each)
                self.sync(_parent(each))
        return made

    def rmdir(self, folder: str) -> None:
        """Remove a folder that is empty."""
        with self._at(folder) as (name, at):
            os.rmdir(name, dir_fd=at)

    def sync(self, folder: str) -> None:
        """Make a folder's names durable, too. Windows has no such call; some shares refuse it."""
        if os.name != "posix":
            return
        number = self._open(folder or ".", os.O_RDONLY | _FOLDER)
        try:
            with suppress(OSError):
                os.fsync(number)
        finally:
            os.close(number)

    # -- inside

    def _open(self, file: str, flags: int, mode: int = 0o666) -> int:
        with self._at(file) as (name, at):
            try:
                return os.open(name, flags | (0 if self._links == "all" else _NOFOLLOW), mode,
                               dir_fd=at)  # fmt: skip
            except OSError as error:
                raise self._explain(error, self.root / file) from None

    def _set_time(self, file: str, lost: Attributes) -> None:
        if "mtime_ns" in lost and os.utime not in os.supports_fd:  # Windows
            time: int = lost.pop("mtime_ns")
            os.utime(self.root / file, ns=(time, time))

    @contextmanager
    def _at(self, file: str) -> Iterator[tuple[str, int | None]]:
        """The name of a file, and the open folder that it is relative to."""
        *folders, name = PurePosixPath(file).parts or (".",)
        if self._links == "all" or not _AT:
            self._check(folders)
            yield str(self.root.joinpath(*folders, name)), None
            return
        at = os.open(self.root, os.O_RDONLY | _FOLDER)
        try:
            for count, folder in enumerate(folders, 1):
                try:
                    inner = os.open(folder, os.O_RDONLY | _FOLDER | _NOFOLLOW, dir_fd=at)
                except OSError as error:
                    where = self.root.joinpath(*folders[:count])
                    raise self._explain(error, where) from None
                os.close(at)
                at = inner
            yield name, at
        finally:
            os.close(at)

    def _check(self, folders: list[str]) -> None:
        if self._links == "all":
            return
        for count in range(1, len(folders) + 1):
            path = self.root.joinpath(*folders[:count])
            if _is_link(path):
                raise OSError(errno.ELOOP, "is a link, which is not gone through", str(path))

    def _explain(self, error: OSError, path: Path) -> OSError:
        if error.errno in (errno.ELOOP, errno.ENOTDIR) and _is_link(path):
            return OSError(errno.ELOOP, "is a link, which is not gone through", str(path))
        return OSError(error.errno, error.strerror, str(path))

    def _inside(self, file: str, error: OSError) -> str:
        real = Path(os.path.realpath(self.root / file))
        try:
            return real.relative_to(os.path.realpath(self.root)).as_posix()
        except ValueError:
            raise error from None


def part_of(file: str) -> str:
    """Where `Tree.restore` writes until it is done."""
    path = PurePosixPath(file)
    return str(path.with_name(f".{path.name}.imagegate-part"))


def _parent(file: str) -> str:
    parent = str(PurePosixPath(file).parent)
    return "" if parent == "." else parent


def _is_link(path: Path) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(found.st_mode) or getattr(found, "st_reparse_tag", 0) == _JUNCTION
