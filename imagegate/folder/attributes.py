"""What a file has beside its name: content, permissions, times, extended attributes; and locks."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import stat
import sys
from contextlib import suppress
from typing import Any, BinaryIO

Attributes = dict[str, Any]
"""``mode`` (permission bits), ``mtime_ns`` and ``xattrs`` (extended ones, in base64): JSON."""

log = logging.getLogger("imagegate")


def copy(read: BinaryIO, written: BinaryIO) -> tuple[str, Attributes]:
    """Copy a file with its permissions, time and extended attributes, and flush it to disk.

    Returns:
        The content's SHA-256, and the attributes that could not be set on the new file.
    """
    found = hashlib.sha256()
    while block := read.read(2**20):
        found.update(block)
        written.write(block)
    written.flush()
    lost = set_attributes(written, attributes(read))
    os.fsync(written.fileno())
    return found.hexdigest(), lost


def attributes(file: BinaryIO) -> Attributes:
    """A file's permissions, time and extended attributes."""
    about = os.fstat(file.fileno())
    found: Attributes = {"mode": stat.S_IMODE(about.st_mode), "mtime_ns": about.st_mtime_ns}
    if sys.platform == "linux":
        with suppress(OSError):  # the file system has none
            names = os.listxattr(file.fileno())
            values = {name: os.getxattr(file.fileno(), name) for name in names}
            found["xattrs"] = {
                name: base64.b64encode(value).decode() for name, value in values.items()
            }
    return found


def set_attributes(file: BinaryIO, wanted: Attributes) -> Attributes:
    """Set these attributes; returns those that could not be set."""
    lost: Attributes = {}
    if sys.platform == "linux":
        for name, value in wanted.get("xattrs", {}).items():
            try:
                os.setxattr(file.fileno(), name, base64.b64decode(value))
            except OSError as error:
                log.debug("%s is not kept: %s", name, error)
                if not name.startswith("security."):  # the system's own, for that place
                    lost.setdefault("xattrs", {})[name] = value
    mode = wanted.get("mode")
    if mode is not None and sys.platform != "win32":
        with suppress(OSError):  # a file system without permissions
            os.fchmod(file.fileno(), mode)
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) != mode:
            lost["mode"] = mode
    time = wanted.get("mtime_ns")
    if time is not None:
        before = os.fstat(file.fileno())
        if os.utime in os.supports_fd:
            os.utime(file.fileno(), ns=(before.st_atime_ns, time))
        if os.fstat(file.fileno()).st_mtime_ns != time:
            lost["mtime_ns"] = time
    return lost


def sha256_of(file: BinaryIO) -> str:
    """The SHA-256 of an open file, as hex digits."""
    found = hashlib.sha256()
    while block := file.read(2**20):
        found.update(block)
    return found.hexdigest()


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
