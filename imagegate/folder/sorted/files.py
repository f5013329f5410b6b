"""The sorted folder on disk: decided files, their masks, and the line about each in the journal.

A decision's line and its files appear together or not at all. First the files are staged in a
hidden folder and flushed to disk; then the line is appended and flushed, which is the moment the
decision counts; then the files get their names, which takes no space and never replaces anything.
A process killed before the line has changed nothing; one killed after it is finished by the next
`SortedFiles.open`. An undo goes the same way.
"""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path, PurePosixPath

from ...core.bus import digest_of
from ...core.model import Decision, TooLate
from ..attributes import Attributes, attributes
from ..tree import Links, Tree, part_of
from .gate_ids import read_key
from .journal import ABSENT, Entry, Journal, parse
from .kept import Kept, Original
from .label_folders import names_in

STAGE = ".imagegate"
IMAGE, MASK, UNDO = f"{STAGE}/image.part", f"{STAGE}/mask.part", f"{STAGE}/undo.json"
KEY = f"{STAGE}/key"
"""The key from which gate ids are made; it stays when a session ends."""

log = logging.getLogger("imagegate")


class SortedFiles:
    """The files of a sorted folder. For one thread, except `tree` and `folder_now`.

    Args:
        here: the real path of the folder of originals.
        out: the sorted folder; made by `open` if need be.
        move: whether originals go away once they are decided.
        links: which links to originals are followed; see `Tree`.

    Attributes:
        opened: the journal, between `open` and `close`.
        key: the key from which gate ids are made.
    """

    def __init__(self, here: str, out: Tree, *, move: bool, links: Links) -> None:
        self.here = here
        self.out = out
        self.opened: Journal | None = None
        self.key = b""
        self._links: Links = links
        self._move = move
        self._trees: dict[str, Tree] = {}

    @property
    def journal(self) -> Journal:
        """The opened journal."""
        assert self.opened is not None, "open() comes first"
        return self.opened

    def close(self) -> None:
        """Clear what is staged, and release the journal."""
        if self.opened is not None:
            self._clear_stage()
            self.opened.close()
            self.opened = None

    def tree(self, folder: str) -> Tree:
        """The originals of a folder; the empty name is the session's own."""
        folder = folder or self.here
        if folder not in self._trees:
            self._trees[folder] = Tree(Path(folder), self._links)
        return self._trees[folder]

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

    def open(self) -> int:
        """Lock and read the journal, and finish what a killed process left half done.

        Returns:
            How many files are decided.

        Raises:
            InUse: another process has the journal.
            OSError: the folder cannot be made, read or written.
        """
        self.out.root.mkdir(parents=True, exist_ok=True)
        journal = self.opened = Journal(self.out)
        self.out.make_folders(STAGE)
        self.key = read_key(self.out, KEY)
        if journal.last is not None:
            if self.out.exists(UNDO):
                self._finish_undo(journal.last)
            elif not journal.last.get("undo"):
                self._finish(journal.last)
        self._clear_stage()
        return len(journal.decided)

    def _finish(self, line: Entry) -> None:
        # Staged files are cleared away once a decision is complete: if they are there, it is not.
        if not self.out.exists(IMAGE) or self.out.sha256(IMAGE) != line["sha256"]:
            return
        log.info(
            "finishing the decision about %s that the last session left half done", line["file"]
        )
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

    def _finish_undo(self, last: Entry) -> None:
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

    def keep(
        self, original: Original, label_folder: str, decision: Decision, mask: bytes | None
    ) -> Kept:
        """See `Ledger.keep`."""
        originals, file = self.tree(original.folder), original.file
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
                        lost = attributes(opened)
                kept = Kept(
                    original.folder or self.here, file, sha256, out, masked, made, self._move,
                    stat.st_size, stat.st_mtime_ns, original.width, original.height, original.gate,
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
                sha256 = self.out.sha256(IMAGE)
        if not sha256:
            self.out.unlink(IMAGE, missing_ok=True)
            sha256, lost = self.out.copy_from(originals, file, IMAGE)
        if mask is not None:
            self.out.write_new(MASK, mask)
        self.out.sync(STAGE)
        return sha256, lost

    def _commit(self, originals: Tree, kept: Kept, decision: Decision) -> None:
        line: Entry = decision.record() | asdict(kept) | {"when": _iso(decision.at)}
        del line["at"]
        start = self.journal.append({key: line[key] for key in line if _says(key, line[key])})
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
            self.journal.take_off(start)
            raise
        self.journal.count(line)

    def take_back(self, kept: Kept) -> bytes | None:
        """See `Ledger.take_back`."""
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
            start = self.journal.append(line)
            try:
                if kept.mask is not None:
                    self.out.unlink(kept.mask, missing_ok=True)
                if kept.made:
                    self.out.unlink(out, missing_ok=True)
            except BaseException:
                self.journal.take_off(start)
                raise
        except BaseException:
            if put_back:
                originals.unlink(file, missing_ok=True)
            raise
        finally:
            self._clear_stage()
        self.journal.count(ABSENT | line)
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
    """Whether a line has to hold this key; other empty values are left out."""
    return bool(value) or key not in ("lost", "click", "gate")


def _folder_of(file: str) -> str:
    parent = str(PurePosixPath(file).parent)
    return "" if parent == "." else parent


def _iso(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
