"""The journal of a sorted folder, ``decisions.jsonl``: one line a decision, only ever added to."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from . import disk

JOURNAL = "decisions.jsonl"
TORN = "decisions.torn"

Line = dict[str, Any]

log = logging.getLogger("imagegate")


class InUse(Exception):
    """Another process writes this journal."""


class Journal:
    """The journal of one sorted folder, opened and read. For one thread.

    Attributes:
        decided: for each file that is decided, the line that counts.
        last: the last line there is, or None.

    Raises:
        InUse: another process has it.
        OSError: it cannot be made, read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self.decided: dict[str, Line] = {}
        self.last: Line | None = None
        self._cut: int | None = None  # where a line starts that could not be taken off yet
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._file = os.open(self.path, flags, 0o666)
        try:
            if not disk.lock(self._file):
                raise InUse(str(self.path))
            disk.sync_folder(folder)
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._file)

    def append(self, line: Line) -> int:
        """Add a line for good; returns where it starts. If this fails, nothing was added.

        The line does not count in `decided` until `count` is called.
        """
        if os.fstat(self._file).st_nlink == 0:
            raise OSError(f"{self.path} was deleted; start again")
        if self._cut is not None:
            self.take_off(self._cut)
        start = os.lseek(self._file, 0, os.SEEK_END)
        try:
            self._write(json.dumps(line).encode() + b"\n")
        except BaseException:
            self.take_off(start)
            raise
        return start

    def take_off(self, start: int) -> None:
        """Remove the line just added, which nobody was told of."""
        self._cut = start  # tried again before the next line, should this fail
        os.ftruncate(self._file, start)
        os.fsync(self._file)
        self._cut = None

    def count(self, line: Line) -> None:
        """Let a line count in `decided`."""
        if line.get("undo"):
            self.decided.pop(line["file"], None)
        else:
            self.decided[line["file"]] = line

    def _write(self, text: bytes) -> None:
        os.lseek(self._file, 0, os.SEEK_END)
        while text:
            text = text[os.write(self._file, text) :]
        os.fsync(self._file)

    def _read(self) -> None:
        with open(self._file, "rb", closefd=False) as file:
            file.seek(0)  # on Windows `disk.lock` leaves it far behind the end
            text = file.read()
        end = text.rfind(b"\n") + 1
        whole, torn = text[:end], text[end:]
        if torn and parse(torn) is not None:  # only its end is missing
            whole = text
            self._write(b"\n")
        elif torn:
            self._set_aside(torn, end)
        for number, row in enumerate(whole.split(b"\n"), 1):
            line = parse(row)
            if line is not None:
                self.count(line)
                self.last = line
            elif row.strip():
                log.warning("line %d of %s is not understood and left alone", number, self.path)

    def _set_aside(self, torn: bytes, start: int) -> None:
        with open(self.path.with_name(TORN), "ab") as aside:
            aside.write(torn + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        self.take_off(start)
        log.warning(
            "the last line of %s was cut off and does not count; it was set aside in %s",
            self.path, TORN,
        )  # fmt: skip


def parse(row: bytes) -> Line | None:
    """A line of the journal, with what it must have; None if it is none."""
    try:
        line = json.loads(row)
    except ValueError:
        return None
    texts = ("file", "sha256", "out")
    if not isinstance(line, dict) or not all(isinstance(line.get(key), str) for key in texts):
        return None
    return {"mask": None, "made": True, "moved": False, "size": -1, "mtime_ns": -1} | line
