"""The sorted folder: decided files, their masks, and the line about each in ``decisions.jsonl``.

A decision's line and its files appear together or not at all. First the files are staged in a
hidden folder and flushed to disk; then the line is appended and flushed, which is the moment the
decision counts; then the files get their names, which takes no space and never replaces anything.
A process killed before the line has changed nothing; one killed after it is finished by the next
`Ledger.open`. An undo goes the same way.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath
from typing import TypeVar

from . import disk
from .journal import InUse, Journal, Line, parse
from .model import Decision, GateClosed, ImageGateError, TooLate

STAGE = ".imagegate"
_UNSAFE = re.compile(r'[<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])(\..*)?|decisions\.(jsonl|torn)", re.I)

log = logging.getLogger("imagegate")

T = TypeVar("T")


class BadFolder(ImageGateError, ValueError):
    """The session cannot start like this; the message says what is wrong."""


@dataclass(frozen=True)
class Kept:
    """What one decision left behind; ``out`` and ``mask`` are relative to the sorted folder.

    ``made``: the file was put there, rather than found there with the same content.
    ``size`` (bytes) and ``mtime_ns`` are those of the original when it was decided.
    """

    file: str
    sha256: str
    out: str
    mask: str | None
    made: bool
    moved: bool
    size: int
    mtime_ns: int


def folder_names(labels: Sequence[str]) -> tuple[str, ...]:
    """A folder name for each label: the label itself wherever every system can take it.

    What some system cannot take is replaced, and such a name ends with a few characters of the
    label's hash: the same label always gives the same folder, and no other label does.

    Raises:
        BadFolder: two labels are the same, or differ only in upper and lower case, which some
            systems do not tell apart.
    """
    names = tuple(_folder_name(label) for label in labels)
    seen: dict[str, str] = {}
    for label, name in zip(labels, names, strict=True):
        if name.casefold() in seen:
            raise BadFolder(
                f"labels {seen[name.casefold()]!r} and {label!r} would share the folder {name!r}; "
                "labels must differ by more than upper and lower case"
            )
        seen[name.casefold()] = label
    return names


def _folder_name(label: str) -> str:
    name = unicodedata.normalize("NFC", label)
    safe = "".join("_" if unicodedata.category(c)[0] == "C" else c for c in name)
    safe = _UNSAFE.sub("_", safe).lstrip(". ").rstrip(". ")[:60].rstrip(". ")
    if _RESERVED.fullmatch(safe):
        safe = f"_{safe}"
    if safe and safe == name:
        return safe
    mark = hashlib.sha256(label.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    return f"{safe or 'route'}~{mark}"


class Ledger:
    """Keeps decisions about the files of one folder in a sorted folder. Thread-safe.

    Args:
        folder: the originals.
        out: the sorted folder; made by `open` if need be.
        move: whether originals go away once they are decided.
    """

    def __init__(self, folder: Path, out: Path, *, move: bool = False) -> None:
        self.folder = folder
        self.out = out
        self._move = move
        self._stage = out / STAGE
        self._image = self._stage / "image.part"
        self._mask = self._stage / "mask.part"
        self._undo = self._stage / "undo.json"
        # Whatever is written is written by this one thread: no two decisions ever interleave, and
        # `close` waits for the one under way.
        self._writer = ThreadPoolExecutor(1, "imagegate-ledger")
        self._opened: Journal | None = None

    def open(self) -> int:
        """Read what was decided before, and finish what a killed process left half done.

        Returns:
            How many files are decided.

        Raises:
            BadFolder: another session uses the sorted folder, or it cannot be written.
        """
        try:
            return self._do(self._open)
        except InUse:
            raise BadFolder(
                f"another session is sorting into {self.out}; end it, or choose another folder"
            ) from None
        except OSError as error:
            raise BadFolder(f"cannot sort into {self.out}: {error}") from error

    def close(self) -> None:
        """Finish what is under way; nothing is kept from here on."""
        self._writer.shutdown(wait=True)
        if self._opened is not None:
            self._clear_stage()
            with suppress(OSError):
                self._stage.rmdir()
            self._opened.close()
            self._opened = None

    def decided(self, file: str, stat: os.stat_result) -> bool:
        """Whether this file, with this content, was decided. Read only if its time differs."""
        line = self._journal.decided.get(file)
        # A moved original that is there again was put back by a person, to be asked about again.
        if line is None or line["moved"] or line["size"] != stat.st_size:
            return False
        same_time: bool = line["mtime_ns"] == stat.st_mtime_ns
        return same_time or line["sha256"] == disk.fingerprint(self.folder / file)

    def keep(self, file: str, label_folder: str, decision: Decision, mask: bytes | None) -> Kept:
        """Copy or move a file to its label's folder, with its mask (PNG), and write its line.

        Raises:
            OSError: it could not be done, and nothing was.
            GateClosed: the session has ended.
        """
        return self._do(lambda: self._keep(file, label_folder, decision, mask))

    def take_back(self, kept: Kept) -> None:
        """Undo `keep`: the files go, a moved original returns, and an undo line is written.

        Raises:
            TooLate: somebody changed the kept file, or something lies where the original was.
            OSError: it could not be done, and nothing was.
            GateClosed: the session has ended.
        """
        self._do(lambda: self._take_back(kept))

    def _do(self, action: Callable[[], T]) -> T:
        try:
            task = self._writer.submit(action)
        except RuntimeError:  # shut down
            raise GateClosed("the session has ended") from None
        return task.result()

    @property
    def _journal(self) -> Journal:
        assert self._opened is not None, "open() comes first"
        return self._opened

    # -- from here on in the writer's thread

    def _open(self) -> int:
        self.out.mkdir(parents=True, exist_ok=True)
        journal = self._opened = Journal(self.out)
        self._stage.mkdir(exist_ok=True)
        if journal.last is not None:
            if self._undo.exists():
                self._finish_undo(journal.last)
            elif not journal.last.get("undo"):
                self._finish(journal.last)
        self._clear_stage()
        return len(journal.decided)

    def _finish(self, line: Line) -> None:
        # Staged files are cleared away once a decision is complete: if they are there, it is not.
        if not self._image.exists() or disk.fingerprint(self._image) != line["sha256"]:
            return
        log.info("finishing what was decided about %s when the last session broke", line["file"])
        out, original = self.out / line["out"], self.folder / line["file"]
        if line["mask"] is not None and self._mask.exists():
            self._finish_file(self._mask, self.out / line["mask"])
        if line["made"]:
            self._finish_file(self._image, out)
        if line["moved"] and out.exists() and original.exists():
            stat = original.stat()
            if (stat.st_size, stat.st_mtime_ns) == (line["size"], line["mtime_ns"]):
                original.unlink()

    def _finish_file(self, staged: Path, target: Path) -> None:
        disk.make_folders(target.parent)
        if not os.path.lexists(target):
            disk.place(staged, target)
        elif target.stat().st_size == 0:  # claimed by `place`, on a system without hard links
            os.replace(staged, target)

    def _finish_undo(self, last: Line) -> None:
        undo = parse(self._undo.read_bytes())
        if undo is None:
            return
        out, original = self.out / undo["out"], self.folder / undo["file"]
        disk.part_of(original).unlink(missing_ok=True)
        if undo == last:  # it counts
            if undo["mask"] is not None:
                (self.out / undo["mask"]).unlink(missing_ok=True)
            if undo["made"]:
                out.unlink(missing_ok=True)
            return
        # It does not: the decision stands, and an original that was put back already goes again.
        size = out.stat().st_size if undo.get("returned") and out.exists() else -1
        if disk.is_same(original, size, undo["sha256"]):
            original.unlink()

    def _keep(self, file: str, label_folder: str, decision: Decision, mask: bytes | None) -> Kept:
        original = self.folder / file
        stat = original.stat()
        new_folders: list[Path] = []
        try:
            sha256 = self._stage_files(original, mask)
            for out in _names(label_folder, file):
                target = self.out / out
                new_folders += disk.make_folders(target.parent)
                masked = f"{out}.mask.png" if mask is not None else None
                made = not os.path.lexists(target)
                if not made and not disk.is_same(target, stat.st_size, sha256):
                    continue
                if masked is not None and os.path.lexists(self.out / masked):
                    continue
                kept = Kept(
                    file, sha256, out, masked, made, self._move, stat.st_size, stat.st_mtime_ns
                )
                try:
                    self._commit(kept, decision)
                except FileExistsError:
                    continue  # somebody was quicker to take this name
                return kept
            raise AssertionError("names never end")
        except BaseException:
            for folder in reversed(new_folders):
                with suppress(OSError):  # not empty
                    folder.rmdir()
            raise
        finally:
            self._clear_stage()

    def _stage_files(self, original: Path, mask: bytes | None) -> str:
        self._clear_stage()
        linked = False
        if self._move and not original.is_symlink():
            with suppress(OSError):  # another disk, or no hard links there: then it is copied
                os.link(original, self._image)
                linked = True
        sha256 = disk.fingerprint(self._image) if linked else disk.copy(original, self._image)
        if mask is not None:
            disk.write_new(self._mask, mask)
        disk.sync_folder(self._stage)
        return sha256

    def _commit(self, kept: Kept, decision: Decision) -> None:
        line: Line = decision.record() | asdict(kept) | {"when": _iso(decision.at)}
        del line["at"]
        start = self._journal.append(line)
        placed: list[Path] = []
        try:
            if kept.mask is not None:
                placed.append(disk.place(self._mask, self.out / kept.mask))
            if kept.made:
                placed.append(disk.place(self._image, self.out / kept.out))
            disk.sync_folder((self.out / kept.out).parent)
            if kept.moved:
                (self.folder / kept.file).unlink()
        except BaseException:
            for path in placed:
                path.unlink(missing_ok=True)
            self._journal.take_off(start)
            raise
        self._journal.count(line)

    def _take_back(self, kept: Kept) -> None:
        out, original = self.out / kept.out, self.folder / kept.file
        returned = not os.path.lexists(original)
        if kept.moved and not returned:
            raise TooLate(f"there is a {kept.file} in its old place; nothing is overwritten")
        if kept.made and out.exists() and not disk.is_same(out, kept.size, kept.sha256):
            raise TooLate(f"{out} was changed since; take it back by hand")
        line = {
            "undo": True, "file": kept.file, "sha256": kept.sha256,
            "when": _iso(datetime.now(timezone.utc).timestamp()), "out": kept.out,
            "mask": kept.mask, "made": kept.made, "returned": returned,
        }  # fmt: skip
        put_back = False
        try:
            self._clear_stage()
            disk.write_new(self._undo, json.dumps(line).encode())
            disk.sync_folder(self._stage)
            if returned:  # it was moved, or removed by a person: then the kept file is the only one
                disk.make_folders(original.parent)
                disk.restore(out, original)
                put_back = True
            start = self._journal.append(line)
            try:
                if kept.mask is not None:
                    (self.out / kept.mask).unlink(missing_ok=True)
                if kept.made:
                    out.unlink(missing_ok=True)
            except BaseException:
                self._journal.take_off(start)
                raise
        except BaseException:
            if put_back:
                original.unlink(missing_ok=True)
            raise
        finally:
            self._clear_stage()
        self._journal.count(line)
        folder = out.parent
        with suppress(OSError):  # not empty
            while folder != self.out:
                folder.rmdir()
                folder = folder.parent

    def _clear_stage(self) -> None:
        for path in (self._image, self._mask, self._undo):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _names(label_folder: str, file: str) -> Iterator[str]:
    """Where a file may go, best first; it keeps its subfolder below the label."""
    path = PurePosixPath(label_folder) / file
    yield str(path)
    number = 1
    while True:
        number += 1
        yield str(path.with_name(f"{path.stem} ({number}){path.suffix}"))


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
