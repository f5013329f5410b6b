"""The sorted folder: decided files, their masks, and the line about each in ``decisions.jsonl``.

A decision's line and its files appear together or not at all. First the files are staged in a
hidden folder and flushed to disk; then the line is appended and flushed, which is the moment the
decision counts; then the files get their names, which takes no space and never replaces anything.
A process killed before the line has changed nothing; one killed after it is finished by the next
`Ledger.open`. An undo goes the same way.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from itertools import count
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ..core.bus import digest_of
from ..core.model import Decision, GateClosed, TooLate
from ..pictures import atomic as disk
from ..pictures.atomic import Attributes
from .gate_ids import gate_id, read_key
from .label_folders import BadFolder, names_in
from .log import ABSENT, InUse, Journal, Line, origin, parse
from .tree import Links, Tree, part_of

STAGE = ".imagegate"
IMAGE, MASK, UNDO = f"{STAGE}/image.part", f"{STAGE}/mask.part", f"{STAGE}/undo.json"
KEY = f"{STAGE}/key"
"""By it the ids of gates are made; it stays when a session ends."""
log = logging.getLogger("imagegate")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kept:
    """What one decision left behind; ``out`` and ``mask`` are relative to the sorted folder.

    ``folder`` is where ``file`` came from, as an absolute path; empty in older journals.
    ``made``: the file was put there, rather than found there with the same content.
    ``size`` (bytes) and ``mtime_ns`` are those of the original when it was decided, ``width`` and
    ``height`` what people saw, 0 in older journals. ``lost``: attributes that a moved original had
    and the kept file has not. ``gate`` is the gate's id, ``click`` names the click.
    """

    folder: str
    file: str
    sha256: str
    out: str
    mask: str | None
    made: bool
    moved: bool
    size: int
    mtime_ns: int
    width: int = 0
    height: int = 0
    gate: str = ""
    click: str = ""
    lost: Attributes = field(default_factory=dict)

    @classmethod
    def of(cls, line: Line) -> Kept:
        """What a line of the journal says."""
        return cls(**{name: line[name] for name in _KEPT})


_KEPT = tuple(each.name for each in fields(Kept))


@dataclass(frozen=True)
class Asked:
    """A file, and the gate that asks about it."""

    folder: str
    file: str
    gate: str = ""
    width: int = 0
    height: int = 0


class Ledger:
    """Keeps decisions about the files of one folder in a sorted folder. Thread-safe.

    Args:
        folder: the originals.
        out: the sorted folder; made by `open` if need be.
        move: whether originals go away once they are decided.
        follow_links: whether originals may be links to outside their folder.
    """

    def __init__(
        self, folder: Path, out: Path, *, move: bool = False, follow_links: bool = False
    ) -> None:
        self.here = os.path.realpath(folder)
        self.out = Tree(out)
        self._links: Links = "all" if follow_links else "inside"
        self._move = move
        # Whatever is written is written by this one thread: no two decisions ever interleave, and
        # `close` waits for the one under way.
        self._writer = ThreadPoolExecutor(1, "imagegate-ledger")
        self._opened: Journal | None = None
        self._key = b""
        self._trees: dict[str, Tree] = {}

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
                f"another session is sorting into {self.out.root}; end it, or choose another folder"
            ) from None
        except OSError as error:
            raise BadFolder(f"cannot sort into {self.out.root}: {error}") from error

    def close(self) -> None:
        """Finish what is under way; nothing is kept from here on."""
        self._writer.shutdown(wait=True)
        if self._opened is not None:
            self._clear_stage()
            self._opened.close()
            self._opened = None

    def tree(self, folder: str) -> Tree:
        """The originals of a folder; the empty one is the ledger's own."""
        folder = folder or self.here
        if folder not in self._trees:
            self._trees[folder] = Tree(Path(folder), self._links)
        return self._trees[folder]

    def decided(self, file: str, stat: os.stat_result) -> Line | None:
        """What was decided about this file, with this content. Read only if need be."""
        sha256 = ""
        for line in self._journal.candidates(self.here, file):
            # A moved original that is there again was put back by a person, to be asked about.
            if line["moved"] or line["size"] != stat.st_size:
                continue
            # One of another folder may have the same name, size and time, and differ.
            if line["mtime_ns"] == stat.st_mtime_ns and line["folder"] in ("", self.here):
                return line
            sha256 = sha256 or self.tree("").fingerprint(file)
            if line["sha256"] == sha256:
                return line
        return None

    def past(self) -> list[Line]:
        """The decisions that stand, oldest first."""
        return list(self._journal.standing.values())

    def clicks(self, gate: str) -> frozenset[str]:
        """The clicks that have counted for this gate."""
        return self._journal.clicks.get(gate, frozenset())

    def gate_id(self, folder: str, file: str, size: int, mtime_ns: int) -> str:
        """The id of the gate about this content of this file: in every session the same.

        If a decision with that id stands (its file was put back by hand), it is another question.
        """
        what = f"{origin(folder, file)}\0{size}\0{mtime_ns}"
        ids = (gate_id(self._key, f"{what}\0{again}") for again in count())
        return next(gate for gate in ids if gate not in self._journal.standing)

    def keep(self, asked: Asked, label_folder: str, decision: Decision, mask: bytes | None) -> Kept:
        """Copy or move a file to its label's folder, with its mask (PNG), and write its line.

        Raises:
            OSError: it could not be done, and nothing was.
            GateClosed: the session has ended.
        """
        return self._do(lambda: self._keep(asked, label_folder, decision, mask))

    def take_back(self, kept: Kept) -> bytes | None:
        """Undo `keep`: the files go, a moved original returns, and an undo line is written.

        Returns:
            The mask that lay beside the file.

        Raises:
            TooLate: somebody changed or took the kept file, or something lies where the original
                was.
            OSError: it could not be done, and nothing was.
            GateClosed: the session has ended.
        """
        return self._do(lambda: self._take_back(kept))

    def folder_now(self, kept: Kept) -> str:
        """Where the original is, or was: its folder may have been moved here since.

        Raises:
            TooLate: it is in neither place.
        """
        if kept.folder in ("", self.here) or os.path.isdir(kept.folder):
            return kept.folder or self.here
        if self.tree("").exists(kept.file):
            return self.here
        raise TooLate(f"the folder {kept.folder} is not there, to which {kept.file} belongs")

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
        self.out.root.mkdir(parents=True, exist_ok=True)
        journal = self._opened = Journal(self.out)
        self.out.make_folders(STAGE)
        self._key = read_key(self.out, KEY)
        if journal.last is not None:
            if self.out.exists(UNDO):
                self._finish_undo(journal.last)
            elif not journal.last.get("undo"):
                self._finish(journal.last)
        self._clear_stage()
        return len(journal.decided)

    def _finish(self, line: Line) -> None:
        # Staged files are cleared away once a decision is complete: if they are there, it is not.
        if not self.out.exists(IMAGE) or self.out.fingerprint(IMAGE) != line["sha256"]:
            return
        log.info("finishing what was decided about %s when the last session broke", line["file"])
        if line["mask"] is not None and self.out.exists(MASK):
            self._finish_file(MASK, line["mask"])
        if line["made"]:
            self._finish_file(IMAGE, line["out"])
        originals, file = self.tree(line["folder"]), line["file"]
        if not line["moved"] or not self.out.exists(line["out"]):
            return
        with suppress(OSError):  # it went, or its folder is away
            stat = originals.stat(file)
            if (stat.st_size, stat.st_mtime_ns) == (line["size"], line["mtime_ns"]):
                originals.unlink(file)

    def _finish_file(self, staged: str, target: str) -> None:
        self.out.make_folders(_folder_of(target))
        if not self.out.exists(target):
            self.out.place(staged, target)
        elif self.out.stat(target).st_size == 0:  # claimed by `place`, without hard links
            self.out.replace(staged, target)

    def _finish_undo(self, last: Line) -> None:
        with self.out.open(UNDO) as file:
            undo = parse(file.read())
        if undo is None:
            return
        originals = self.tree(undo.get("folder_now") or undo["folder"])
        file_name = undo["file"]
        with suppress(OSError):  # its folder is away
            originals.unlink(part_of(file_name), missing_ok=True)
        if {**undo, "folder_now": ""} == {**last, "folder_now": ""}:  # it counts
            if undo["mask"] is not None:
                self.out.unlink(undo["mask"], missing_ok=True)
            if undo["made"]:
                self.out.unlink(undo["out"], missing_ok=True)
            return
        # It does not: the decision stands, and an original that was put back already goes again.
        if not undo.get("returned") or not self.out.exists(undo["out"]):
            return
        if originals.is_same(file_name, self.out.stat(undo["out"]).st_size, undo["sha256"]):
            originals.unlink(file_name)

    def _keep(
        self, asked: Asked, label_folder: str, decision: Decision, mask: bytes | None
    ) -> Kept:
        originals, file = self.tree(asked.folder), asked.file
        stat = originals.stat(file)
        new_folders: list[str] = []
        try:
            sha256, lost = self._stage_files(originals, file, mask)
            for out in names_in(label_folder, file):
                new_folders += self.out.make_folders(_folder_of(out))
                masked = f"{out}.mask.png" if mask is not None else None
                made = not self.out.exists(out)
                if not made and not self.out.is_same(out, stat.st_size, sha256):
                    continue
                if masked is not None and self.out.exists(masked):
                    continue
                if self._move and not made:  # what lies there has attributes of its own
                    with originals.open(file) as opened:
                        lost = disk.attributes(opened)
                kept = Kept(
                    asked.folder or self.here, file, sha256, out, masked, made, self._move,
                    stat.st_size, stat.st_mtime_ns, asked.width, asked.height, asked.gate,
                    digest_of(decision), lost if self._move else {},
                )  # fmt: skip
                try:
                    self._commit(originals, kept, decision)
                except FileExistsError:
                    continue  # somebody was quicker to take this name
                return kept
            raise AssertionError("names never end")
        except BaseException:
            for folder in reversed(new_folders):
                with suppress(OSError):  # not empty
                    self.out.rmdir(folder)
            raise
        finally:
            self._clear_stage()

    def _stage_files(
        self, originals: Tree, file: str, mask: bytes | None
    ) -> tuple[str, Attributes]:
        self._clear_stage()
        sha256, lost = "", Attributes()
        if self._move and not originals.is_link(file):
            with suppress(OSError):  # another disk, or no hard links there: then it is copied
                self.out.link_from(originals, file, IMAGE)
                sha256 = self.out.fingerprint(IMAGE)
        if not sha256:
            self.out.unlink(IMAGE, missing_ok=True)
            sha256, lost = self.out.copy_from(originals, file, IMAGE)
        if mask is not None:
            self.out.write_new(MASK, mask)
        self.out.sync(STAGE)
        return sha256, lost

    def _commit(self, originals: Tree, kept: Kept, decision: Decision) -> None:
        line: Line = decision.record() | asdict(kept) | {"when": _iso(decision.at)}
        del line["at"]
        start = self._journal.append({key: line[key] for key in line if _says(key, line[key])})
        placed: list[str] = []
        try:
            if kept.mask is not None:
                placed.append(self.out.place(MASK, kept.mask))
            if kept.made:
                placed.append(self.out.place(IMAGE, kept.out))
            self.out.sync(_folder_of(kept.out))
            if kept.moved:
                originals.unlink(kept.file)
        except BaseException:
            for path in placed:
                self.out.unlink(path, missing_ok=True)
            self._journal.take_off(start)
            raise
        self._journal.count(line)

    def _take_back(self, kept: Kept) -> bytes | None:
        out, file, folder = kept.out, kept.file, self.folder_now(kept)
        originals = self.tree(folder)
        returned = not originals.exists(file)
        there = self.out.exists(out)
        if kept.moved and not returned:
            raise TooLate(f"there is a {file} in its old place; nothing is overwritten")
        if kept.made and there and not self.out.is_same(out, kept.size, kept.sha256):
            raise TooLate(f"{self.out.root / out} was changed since; take it back by hand")
        if returned and not there:
            raise TooLate(f"{self.out.root / out} is gone; put it back there to undo this")
        line = {
            "undo": True, "folder": kept.folder, "file": file, "sha256": kept.sha256,
            "when": _iso(datetime.now(timezone.utc).timestamp()), "out": out, "mask": kept.mask,
            "made": kept.made, "returned": returned, "gate": kept.gate,
        }  # fmt: skip
        line = {key: line[key] for key in line if _says(key, line[key])}
        put_back, mask = False, None
        try:
            self._clear_stage()
            self.out.write_new(UNDO, json.dumps(line | {"folder_now": folder}).encode())
            self.out.sync(STAGE)
            if kept.mask is not None and self.out.exists(kept.mask):
                with self.out.open(kept.mask) as opened:
                    mask = opened.read()
            if returned:  # it was moved, or removed by a person: then the kept file is the only one
                originals.make_folders(_folder_of(file))
                self._put_back(kept, originals)
                put_back = True
            start = self._journal.append(line)
            try:
                if kept.mask is not None:
                    self.out.unlink(kept.mask, missing_ok=True)
                if kept.made:
                    self.out.unlink(out, missing_ok=True)
            except BaseException:
                self._journal.take_off(start)
                raise
        except BaseException:
            if put_back:
                originals.unlink(file, missing_ok=True)
            raise
        finally:
            self._clear_stage()
        self._journal.count(ABSENT | line)
        emptied = PurePosixPath(out).parent
        with suppress(OSError):  # not empty
            while emptied.name:
                self.out.rmdir(str(emptied))
                emptied = emptied.parent
        return mask

    def _put_back(self, kept: Kept, originals: Tree) -> None:
        if kept.made and not kept.lost:
            with suppress(OSError):  # another disk, or no hard links there
                originals.link_from(self.out, kept.out, kept.file)
                originals.sync(_folder_of(kept.file))
                return
        originals.restore(self.out, kept.out, kept.file, kept.lost)

    def _clear_stage(self) -> None:
        for file in (IMAGE, MASK, UNDO):
            with suppress(OSError):
                self.out.unlink(file, missing_ok=True)


def _says(key: str, value: object) -> bool:
    """Whether a line has to say this; what else lacks is understood."""
    return bool(value) or key not in ("lost", "click", "gate")


def _folder_of(file: str) -> str:
    parent = str(PurePosixPath(file).parent)
    return "" if parent == "." else parent


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
