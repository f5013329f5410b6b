"""Finds the image files below a folder, without following links out of it."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path, PurePath
from stat import S_ISDIR, S_ISREG
from typing import NamedTuple

from ..pictures.formats.kinds import HEAD, is_image_name, kind_of

MASK_SUFFIX = ".mask.png"
SETTLING = 3.0
"""Seconds after a change in which a folder may change again under the same time stamp."""

log = logging.getLogger("imagegate")


class ImageSearch:
    """All image files below a folder, lazily, in the order people count: ``2.jpg``, ``10.jpg``.

    A folder's own files come before those of its subfolders. Files that nothing here can read are
    found, too: `open_image` says why. Names that start with a dot are left out, and so are masks
    (``a.jpg.mask.png``), which this program puts beside images. A link to an image that is found
    anyway is skipped; a link to any other file inside the folder is found once.

    Args:
        skip: a folder that is left out.
        follow_links: whether links to files and folders outside ``folder`` are followed. Each
            folder is entered once, so that circular links end.

    Attributes:
        refused: image files and folders that cannot or must not be read, with the reason.
        sidecars: files that are not images, by the name they share: ``a`` for ``a.txt``.
        folders: the folders that were entered, each with its stamp from just before.
    """

    def __init__(self, folder: Path, skip: Path | None = None, *, follow_links: bool = False):
        self.folder = folder
        self.refused: dict[str, str] = {}
        self.sidecars: dict[str, list[str]] = {}
        self.folders: dict[str, FolderStamp] = {}
        self._follow = follow_links
        self._root = os.path.realpath(folder)
        self._skip = os.path.realpath(skip) if skip is not None else ""
        self._entered: set[tuple[int, int]] = set()
        self._targets: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        """Yields paths relative to ``folder``, with ``/`` between their parts."""
        folders = [""]
        while folders:
            below = folders.pop()
            entries = self._enter(below)
            inner = []
            for entry in entries:
                path, image = below + entry.name, _is_image_name(entry.name)
                try:
                    if self._is_folder(entry):
                        inner.append(f"{path}/")
                    elif (image or _looks_so(entry)) and self._is_image(entry, path):
                        yield path
                except OSError as error:
                    if image or self._follow:
                        self.refused[path] = _link_trouble(error)
            folders += reversed(inner)

    def _enter(self, below: str) -> list[os.DirEntry[str]]:
        path = self.folder / below
        try:
            stamp = folder_stamp(path)
            if (stamp.device, stamp.inode) in self._entered and stamp.inode:
                return []
            self._entered.add((stamp.device, stamp.inode))
            self.folders[below] = stamp
            with os.scandir(path) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            if below and error.errno != errno.ENOENT:  # else it went just now
                self.refused[below] = f"cannot be looked into: {error.strerror}"
            log.debug("cannot look into %s: %s", path, error)
            return []
        entries.sort(key=_as_counted)
        for entry in entries:
            name = entry.name
            if not _is_image_name(name) and not entry.is_dir(follow_symlinks=False):
                parts = name.split(".")
                for count in range(1, len(parts)):
                    stem = below + ".".join(parts[:count])
                    self.sidecars.setdefault(stem, []).append(below + name)
        return entries

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        if entry.is_dir(follow_symlinks=False):
            return not self._skips(os.path.realpath(entry.path))
        if not self._follow or not entry.is_symlink() or not entry.is_dir():
            return False
        real = os.path.realpath(entry.path)
        inside = self._inside(real)
        return not self._skips(real) and (inside is None or _is_hidden(inside))

    def _is_image(self, entry: os.DirEntry[str], path: str) -> bool:
        if not entry.is_symlink():
            return self._is_file(entry.is_file(), path)
        # (`is_file` would not say that it leads nowhere.)
        mode = os.stat(entry.path).st_mode
        if S_ISDIR(mode) or not self._is_file(S_ISREG(mode), path):
            return False
        real = os.path.realpath(entry.path)
        inside = self._inside(real)
        if inside is None:
            if not self._follow:
                self.refused[path] = "a link to a file outside the folder; see --follow-links"
            return self._follow
        if self._skips(real) or real in self._targets:
            return False
        if not _is_hidden(inside) and is_image_name(real):
            return False  # it is found by its own name
        self._targets.add(real)
        return True

    def _is_file(self, is_file: bool, path: str) -> bool:
        if not is_file:
            self.refused[path] = "not a file but a pipe, socket or device"
        return is_file

    def _inside(self, real: str) -> PurePath | None:
        try:
            return PurePath(real).relative_to(self._root)
        except ValueError:
            return None

    def _skips(self, real: str) -> bool:
        return bool(self._skip) and (
            real == self._skip or self._skip in map(str, Path(real).parents)
        )


def find_images(folder: Path, skip: Path | None = None) -> Iterator[str]:
    """The images of an `ImageSearch`."""
    return iter(ImageSearch(folder, skip))


class FolderStamp(NamedTuple):
    """What changes when something is added to a folder or removed."""

    device: int
    inode: int
    mtime_ns: int
    ctime_ns: int
    settled: bool

    def still(self, path: Path) -> bool:
        """Whether nothing was added or removed since. Raises `OSError`."""
        return self.settled and self == folder_stamp(path)


def folder_stamp(path: Path) -> FolderStamp:
    """The current stamp of a folder; not settled while it may change again within the same tick.

    Raises:
        OSError: it cannot be looked at.
    """
    stat = os.stat(path)
    settled = abs(time.time() - stat.st_mtime) > SETTLING
    return FolderStamp(stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, settled)


def _is_image_name(name: str) -> bool:
    name = name.lower()
    masked = name[: -len(MASK_SUFFIX)] if name.endswith(MASK_SUFFIX) else ""
    return is_image_name(name) and not is_image_name(masked)


def _looks_so(entry: os.DirEntry[str]) -> bool:
    """Whether a file without an extension, as many downloads are, begins like an image."""
    if "." in entry.name or not entry.is_file(follow_symlinks=False):
        return False
    with open(entry.path, "rb") as file:
        return kind_of(file.read(HEAD)) is not None


def _is_hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _link_trouble(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "a link to a file that is not there"
    if error.errno == errno.ELOOP:
        return "a link that leads back to itself"
    return f"a link that cannot be followed: {error.strerror}"


def _as_counted(entry: os.DirEntry[str]) -> tuple[list[str | int], str]:
    parts = re.split(r"(\d+)", entry.name.casefold())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], entry.name
