"""Files and folders that only their owner can read."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

FILE = 0o600
FOLDER = 0o700
SHARED_FILE = 0o660
SHARED_FOLDER = 0o2770
"""The mode of folders below one that somebody has set up for a group."""

log = logging.getLogger("imagegate")


def private(path: str, flags: int) -> int:
    """Opens a new file for its owner only; for the ``opener`` of `open`."""
    return os.open(path, flags, FILE)


def make_private_file(path: Path) -> None:
    """Make an empty file for its owner only, unless there is one."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, FILE))


def shared_with_group(folder: Path) -> bool:
    """Whether somebody has set a folder up for its group: set-group-ID, and the group may write."""
    with suppress(OSError):
        mode = folder.stat().st_mode
        return bool(mode & stat.S_ISGID and mode & stat.S_IWGRP)
    return False


def restrict(paths: Iterable[Path], others: int = 0o077) -> int:
    """Let only the owner read those of these that exist; returns how many others could read.

    What cannot be changed (somebody else's file, a network share without modes) stays as it is.

    Args:
        others: the rights to take away.
    """
    return sum(_restrict(path, others) for path in paths)


def restrict_tree(root: Path) -> int:
    """`restrict` a folder with all that is in it, if others can look into it at all."""
    others = 0o007 if shared_with_group(root) else 0o077
    # First of all the root: once that is closed, nobody gets at the rest.
    if not _restrict(root, others):
        return 0
    below = (Path(at, name) for at, names, files in os.walk(root) for name in [*names, *files])
    return 1 + restrict((path for path in below if not path.is_symlink()), others)


def say_restricted(what: object, count: int) -> None:
    """Log how many files and folders were restricted, if any were."""
    if count:
        log.info(
            "%s could be read by other users of this machine; only its owner can read it now "
            "(%d files and folders)", what, count,
        )  # fmt: skip


def _restrict(path: Path, others: int) -> bool:
    if os.name != "posix":
        return False
    with suppress(OSError):
        before = stat.S_IMODE(path.stat().st_mode)
        if before & others:
            path.chmod(before & ~others)
            return not path.stat().st_mode & others
    return False
