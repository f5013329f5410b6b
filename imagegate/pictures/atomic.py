"""Files that are whole or not there at all: written under a temporary name, then renamed."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from .permissions import FILE, private


def temporary_name() -> str:
    """A name for a file that is not finished; it begins with a dot."""
    return f".{secrets.token_hex(8)}.part"


def write_file(
    path: Path, body: bytes, *, mode: int = FILE, durable: bool = False, replace: bool = True
) -> None:
    """Write a file so that its name is only ever seen with all of its content.

    Args:
        mode: its permission bits, whatever the process's umask is.
        durable: whether the content is flushed to disk first; `sync_folder` does so for the name.
        replace: whether a file that has this name is replaced.

    Raises:
        FileNotFoundError: its folder is not there.
        FileExistsError: the name is taken, and ``replace`` is false.
        OSError: it cannot be written. Nothing is left behind.
    """
    staged = path.with_name(temporary_name())
    try:
        with open(staged, "xb", opener=private) as file:
            if mode != FILE:
                with suppress(OSError):  # not every file system has modes
                    staged.chmod(mode)
            file.write(body)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if replace:
            os.replace(staged, path)
        else:
            place(staged, path)
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


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
