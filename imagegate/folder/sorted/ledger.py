"""The ledger: keeps decisions about a folder's files in its sorted folder, from any thread."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import TypeVar

from ...core.model import Decision, GateClosed
from ..tree import Tree
from .files import SortedFiles
from .gate_ids import gate_id
from .journal import Entry, InUse, origin
from .kept import Kept, Original
from .label_folders import BadFolder

T = TypeVar("T")


class Ledger:
    """Keeps decisions about the files of one folder in a sorted folder. Thread-safe.

    Args:
        folder: the originals.
        out: the sorted folder; made by `open` if need be.
        move: whether originals go away once they are decided.
        follow_links: whether originals may be links that lead out of their folder.
    """

    def __init__(
        self, folder: Path, out: Path, *, move: bool = False, follow_links: bool = False
    ) -> None:
        self._files = SortedFiles(
            os.path.realpath(folder),
            Tree(out),
            move=move,
            links="all" if follow_links else "inside",
        )
        # This one thread does all the writing: no two decisions ever interleave, and `close` waits
        # for the one under way.
        self._writer = ThreadPoolExecutor(1, "imagegate-ledger")

    @property
    def here(self) -> str:
        """The real path of the originals' folder."""
        return self._files.here

    @property
    def out(self) -> Tree:
        """The sorted folder."""
        return self._files.out

    def open(self) -> int:
        """Read the earlier decisions, and finish what a killed process left half done.

        Returns:
            How many files are decided.

        Raises:
            BadFolder: another session uses the sorted folder, or it cannot be written.
        """
        try:
            return self._do(self._files.open)
        except InUse:
            raise BadFolder(
                f"another session is sorting into {self.out.root}; end it, or choose another folder"
            ) from None
        except OSError as error:
            raise BadFolder(f"cannot sort into {self.out.root}: {error}") from error

    def close(self) -> None:
        """Finish what is under way; no decision is kept after that."""
        self._writer.shutdown(wait=True)
        self._files.close()

    def tree(self, folder: str) -> Tree:
        """The originals of a folder; the empty name is the ledger's own."""
        return self._files.tree(folder)

    def decided(self, file: str, stat: os.stat_result) -> Entry | None:
        """The decision about this file with this content, which is only read if need be."""
        sha256 = ""
        for line in self._files.journal.candidates(self.here, file):
            # A moved original that is there again was put back by a person, to be asked about.
            if line["moved"] or line["size"] != stat.st_size:
                continue
            # One of another folder may have the same name, size and time, and differ.
            if line["mtime_ns"] == stat.st_mtime_ns and line["folder"] in ("", self.here):
                return line
            sha256 = sha256 or self.tree("").sha256(file)
            if line["sha256"] == sha256:
                return line
        return None

    def past(self) -> list[Entry]:
        """The decisions that stand, oldest first."""
        return list(self._files.journal.standing.values())

    def clicks(self, gate: str) -> frozenset[str]:
        """The clicks that have counted for this gate."""
        return self._files.journal.clicks.get(gate, frozenset())

    def gate_id(self, folder: str, file: str, size: int, mtime_ns: int) -> str:
        """The id of the gate about this content of this file, the same in every session.

        If a decision with that id stands (its file was put back by hand), the id is another one.
        """
        what = f"{origin(folder, file)}\0{size}\0{mtime_ns}"
        ids = (gate_id(self._files.key, f"{what}\0{again}") for again in count())
        return next(gate for gate in ids if gate not in self._files.journal.standing)

    def keep(
        self, original: Original, label_folder: str, decision: Decision, mask: bytes | None
    ) -> Kept:
        """Copy or move a file to its label's folder, with its mask (PNG), and write its line.

        Raises:
            OSError: it failed, and nothing was done.
            GateClosed: the session has ended.
        """
        return self._do(lambda: self._files.keep(original, label_folder, decision, mask))

    def take_back(self, kept: Kept) -> bytes | None:
        """Undo `keep`: the files go, a moved original returns, and an undo line is written.

        Returns:
            The mask that lay beside the file.

        Raises:
            TooLate: somebody changed or took the kept file, or something lies where the original
                was.
            OSError: it failed, and nothing was done.
            GateClosed: the session has ended.
        """
        return self._do(lambda: self._files.take_back(kept))

    def folder_now(self, kept: Kept) -> str:
        """The folder that the original belongs to, which may have been moved. Raises `TooLate`."""
        return self._files.folder_now(kept)

    def _do(self, action: Callable[[], T]) -> T:
        try:
            task = self._writer.submit(action)
        except RuntimeError:  # shut down
            raise GateClosed("the session has ended") from None
        return task.result()
