"""The journal of a sorted folder, ``decisions.jsonl``: one line per decision, append-only."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

from ..attributes import lock
from ..tree import Tree

JOURNAL = "decisions.jsonl"
TORN = "decisions.torn"

Entry = dict[str, Any]
"""One line of the journal, as JSON."""

log = logging.getLogger("imagegate")


class InUse(Exception):
    """Another process writes this journal."""


class Journal:
    """The journal of one sorted folder, locked and read. For one thread.

    Args:
        out: the sorted folder.

    Attributes:
        standing: the lines of decisions that were not taken back, by `decision_key`, oldest first.
        decided: for each file that is decided, by its `origin`, the line that counts.
        clicks: the clicks that counted, by the gate's id, including those of undone decisions.
        last: the last line, or None.

    Raises:
        InUse: another process has it.
        OSError: it cannot be made, read or written.
    """

    def __init__(self, out: Tree) -> None:
        self.path = out.root / JOURNAL
        self.standing: dict[str, Entry] = {}
        self.decided: dict[str, Entry] = {}
        self.clicks: dict[str, frozenset[str]] = {}
        self.last: Entry | None = None
        self._out = out
        self._elsewhere: dict[str, set[str]] = {}  # origins, by the path within their folder
        self._cut: int | None = None  # where a line starts that could not be taken off yet
        self._file = out.append_to(JOURNAL)
        try:
            if not lock(self._file):
                raise InUse(str(self.path))
            out.sync("")
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Close the file and release its lock."""
        os.close(self._file)

    def append(self, line: Entry) -> int:
        """Add a line, flushed to disk; returns where it starts. If this fails, nothing is added.

        The line does not count in `decided` until `count` is called.
        """
        mine = os.fstat(self._file)
        try:
            there = self._out.stat(JOURNAL)
        except FileNotFoundError:
            raise OSError(f"{self.path} was deleted; start again") from None
        if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            raise OSError(f"{self.path} is another file now; start again")
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
        """Remove the line just added, which was not yet reported to anybody."""
        self._cut = start  # tried again before the next line, should this fail
        os.ftruncate(self._file, start)
        os.fsync(self._file)
        self._cut = None

    def count(self, line: Entry) -> None:
        """Make a line count."""
        key, source = decision_key(line), origin(line["folder"], line["file"])
        if line.get("undo"):
            self.standing.pop(key, None)
            if source in self.decided and decision_key(self.decided[source]) == key:
                del self.decided[source]
            return
        self.standing.pop(key, None)  # the last one comes last
        self.standing[key] = self.decided[source] = line
        self._elsewhere.setdefault(line["file"], set()).add(source)
        if line["click"]:
            gate = line["gate"]
            self.clicks[gate] = self.clicks.get(gate, frozenset()) | {line["click"]}

    def candidates(self, folder: str, file: str) -> list[Entry]:
        """Decisions that may be about this file; the caller compares the contents.

        A decision about the file at this very path is the only candidate. Without one: decisions
        about a file of this name in other folders, which may have been moved here, and in older
        journals, which do not name the folder.
        """
        own = self.decided.get(origin(folder, file))
        if own is not None:
            return [own]
        others = self._elsewhere.get(file, ())
        return [self.decided[source] for source in tuple(others) if source in self.decided]

    def _write(self, text: bytes) -> None:
        os.lseek(self._file, 0, os.SEEK_END)
        while text:
            text = text[os.write(self._file, text) :]
        os.fsync(self._file)

    def _read(self) -> None:
        with open(self._file, "rb", closefd=False) as file:
            file.seek(0)  # on Windows `lock` leaves it far behind the end
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
        with os.fdopen(self._out.append_to(TORN), "r+b") as aside:
            aside.seek(0, os.SEEK_END)
            aside.write(torn + b"\n")
            aside.flush()
            os.fsync(aside.fileno())
        self.take_off(start)
        log.warning(
            "the last line of %s was cut off and does not count; it was set aside in %s",
            self.path, TORN,
        )  # fmt: skip


def parse(row: bytes) -> Entry | None:
    """A line of the journal, with all its keys; None if it is not a valid line."""
    try:
        line = json.loads(row)
    except ValueError:
        return None
    texts = ("file", "sha256", "out")
    if not isinstance(line, dict) or not all(isinstance(line.get(key), str) for key in texts):
        return None
    return ABSENT | line


ABSENT: Entry = {
    "mask": None, "made": True, "moved": False, "size": -1, "mtime_ns": -1, "folder": "",
    "gate": "", "click": "", "width": 0, "height": 0, "lost": {},
}  # fmt: skip
"""Defaults for keys that lines of older versions lack."""


def origin(folder: str, file: str) -> str:
    """The path that a file came from; only its path within the folder if that is not known."""
    return f"{folder.rstrip('/')}/{file}" if folder else file


def decision_key(line: Entry) -> str:
    """Identifies a decision, in its own line and in the line that takes it back."""
    return line["gate"] or f"{origin(line['folder'], line['file'])}\0{line['sha256']}"
