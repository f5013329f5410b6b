"""Files that are written whole or not at all, never over another, and outlast a power cut."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("imagegate")


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is not there yet, flushed to disk."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def copy(source: Path, target: Path) -> str:
    """Copy content and time to a new file, flushed to disk; returns the content's SHA-256."""
    digest = hashlib.sha256()
    with open(source, "rb") as read, open(target, "xb") as written:
        while block := read.read(2**20):
            digest.update(block)
            written.write(block)
        written.flush()
        os.fsync(written.fileno())
    stat = source.stat()
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return digest.hexdigest()


def place(staged: Path, target: Path) -> Path:
    """Give a finished file its name. Raises `FileExistsError` rather than replace a file."""
    try:
        os.link(staged, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: claim the name, then fill it
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            os.replace(staged, target)
        except BaseException:
            target.unlink()
            raise
    return target


def part_of(target: Path) -> Path:
    """Where `restore` writes until it is done."""
    return target.with_name(f".{target.name}.imagegate-part")


def restore(source: Path, target: Path) -> None:
    """Copy a file so that its name is only ever seen with all of it; never replaces a file."""
    part = part_of(target)
    part.unlink(missing_ok=True)
    try:
        copy(source, part)
        place(part, target)
        sync_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)


def make_folders(folder: Path, mode: int = 0o777, *, durable: bool = True) -> list[Path]:
    """Make a folder and those above it; returns the ones that were missing, outermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    missing.reverse()
    for each in missing:
        each.mkdir(mode, exist_ok=True)
        if durable:
            sync_folder(each.parent)
    return missing


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file, as hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def is_same(path: Path, size: int, sha256: str) -> bool:
    """Whether there is a file with this content."""
    return path.is_file() and path.stat().st_size == size and fingerprint(path) == sha256


def sync_folder(folder: Path) -> None:
    """Make a folder's names durable, too. Windows has no such call, and some shares refuse it."""
    if os.name != "posix":
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(place)
    finally:
        os.close(place)


def lock(file: int) -> bool:
    """Lock a file for this process until it is closed; False if another process has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(file, 2**40, os.SEEK_SET)  # a byte nobody reads: Windows locks are strict
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:  # a share without locks
        log.debug("no lock: %s", error)
    return True
