"""The folder that the images come from: what is in it, and whether it can be reached."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from .search import FolderStamp, ImageSearch, folder_stamp
from .tree import Tree

SAMPLE = 50
"""Files whose presence shows that a folder mounted again is the same one."""


class SourceFolder:
    """A folder on a disk, a memory card or a network share. For one thread, except `away`.

    Args:
        folder: a folder that exists.
        out: a folder below it that is left out.
        follow_links: whether links to outside it are followed.

    Attributes:
        refused: what the last search could not reach, with the reason.
    """

    def __init__(self, folder: Path, out: Path, *, follow_links: bool = False) -> None:
        self.folder = folder
        self.tree = Tree(folder, "all" if follow_links else "inside")
        self.refused: dict[str, str] = {}
        self._out = out
        self._follow_links = follow_links
        self._folders: dict[str, FolderStamp] = {}
        self._known: list[str] = []
        self._sidecars: dict[str, list[str]] = {}
        self._root = folder_stamp(folder)

    def search(self) -> Iterator[str]:
        """All images in it, by their paths within it; see `ImageSearch`."""
        search = ImageSearch(self.folder, self._out, follow_links=self._follow_links)
        self._sidecars = search.sidecars
        for file in search:
            if len(self._known) < SAMPLE and file not in self._known:
                self._known.append(file)
            yield file
        self.refused = search.refused
        if "" in search.folders:  # else it is away
            self._folders = search.folders

    def beside(self, file: str) -> list[str]:
        """Files beside an image that share its name: ``a.txt``, ``a.jpg.xmp``."""
        return self._sidecars.get(file.rpartition(".")[0], [])

    def changed(self) -> bool:
        """Whether anything may have been added or removed since the last search."""
        with suppress(OSError):
            return not all(stamp.still(self.folder / f) for f, stamp in self._folders.items())
        return True

    def away(self, file: str = "") -> str:
        """Why the folder, or the part of it that holds this file, is away; empty if it is there.

        A card that was pulled leaves no folder or an empty one; a network share that is gone
        answers with errors. A folder that somebody deleted inside it is not away.
        """
        try:
            root = os.stat(self.folder)
            with os.scandir(self.folder) as entries:
                empty = next(entries, None) is None
        except OSError as error:
            return error.strerror or str(error)
        if (root.st_dev, root.st_ino) != (self._root.device, self._root.inode):
            if empty:
                return "an empty folder is in its place"
            if self._known and not any(os.path.lexists(self.folder / f) for f in self._known):
                return "another folder is in its place"
            self._root = folder_stamp(self.folder)
        return self._part_away(file) if file else ""

    def _part_away(self, file: str) -> str:
        for parent in reversed(PurePosixPath(file).parents[:-1]):
            path = self.folder / parent
            before = self._folders.get(f"{parent}/")
            try:
                now = os.stat(path)
            except FileNotFoundError as error:
                # A link is still there where what it leads to is not.
                return (error.strerror or str(error)) if os.path.lexists(path) else ""
            except OSError as error:
                return error.strerror or str(error)
            if before is not None and before.device != now.st_dev:
                return f"{parent} is not mounted"
        return ""
