"""The image of a folder's gate and the mask beside it, read when somebody looks."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable

from ..core.model import Answer, BadPicture, ImageGateError
from ..core.pictures import Picture
from ..pictures.encode import MAX_MASK_BYTES, clean_mask, encode_png, read_mask, scale_mask
from ..pictures.formats.image_files import PreviewCache, read_full, read_preview, read_size, why
from .search import MASK_SUFFIX
from .sorted.kept import Kept
from .tree import Tree

Stamp = tuple[int, int]

log = logging.getLogger("imagegate")


class FolderPictures:
    """The image of a file, or the copy of it in the sorted folder once it is decided. Thread-safe.

    Args:
        originals: the tree that holds it, ``file`` its path there.
        out: the sorted folder's tree.
        key: the name under which the session counts it.
        stamp: the stamp of the file that people are asked about.
        size: width and height.
        trouble: returns what to raise when the original cannot be read.
        previews: where previews are kept.
    """

    __slots__ = (
        "_out", "_previews", "_start", "_trouble", "file", "gate_id", "height", "kept", "key",
        "originals", "seen", "stamp", "width",
    )  # fmt: skip

    def __init__(
        self,
        originals: Tree,
        file: str,
        out: Tree,
        *,
        key: str,
        stamp: Stamp,
        size: tuple[int, int],
        trouble: Callable[[FolderPictures, Exception], ImageGateError],
        previews: PreviewCache,
    ) -> None:
        self.originals = originals
        self.file = file
        self.key = key
        self.stamp = stamp
        self.width, self.height = size
        self.gate_id = ""
        self.kept: Kept | None = None
        self.seen = False  # a preview of it was made, so it is whole
        self._out = out
        self._trouble = trouble
        self._previews = previews
        self._start: bytes | None = None  # the mask of a decision that was taken back

    def preview(self, index: int) -> Picture:
        """JPEG or WebP. Raises what ``trouble`` returns if the file cannot be read."""
        picture = self._previews.get(self)
        if picture is None:
            tree, file = self._where()
            try:
                with tree.reading(file) as path:
                    picture = read_preview(path)
            except Exception as error:  # Pillow raises nearly anything on a broken file
                raise self._trouble(self, error) from error
            self.seen = True
            self._previews.put(self, picture)
        return picture

    def full(self, index: int) -> Picture:
        """Lossless PNG. Raises `BadPicture` if the file cannot be read."""
        tree, file = self._where()
        try:
            with tree.reading(file) as path:
                return read_full(path)
        except Exception as error:  # as above
            raise BadPicture(f"{as_text(self.file)} cannot be read: {why(error)}") from error

    def start_mask(self, index: int) -> bytes | None:
        """The mask beside the image, or the one that an undo took back; None if there is none."""
        if self._start is not None:
            return self._start
        tree, file = self._where()
        try:
            with tree.open(f"{file}{MASK_SUFFIX}") as opened:
                png = opened.read(MAX_MASK_BYTES + 1)
            return clean_mask(png, self.width, self.height)
        except OSError:
            return None
        except (BadPicture, ZeroDivisionError) as error:
            log.debug("%s%s is not used: %s", as_text(file), MASK_SUFFIX, error)
            return None

    def mask(self, answer: Answer) -> bytes | None:
        """The mask that goes with an answer, at the image's true size; None if nothing is painted.

        A mask that nobody has changed is taken from beside the image.
        """
        png = answer.masks.get(0)
        if png is None:
            png = self.start_mask(0)
        if not png:
            return None
        mask = scale_mask(read_mask(png, self.width, self.height), self.width, self.height)
        return encode_png(mask).body if mask.getbbox() is not None else None

    def changed(self) -> bool:
        """Whether the original differs from what people were asked about. Raises `OSError`."""
        return stamp_of(self.originals.stat(self.file)) != self.stamp

    def ask_again(self, originals: Tree, mask: bytes | None) -> bool:
        """Return to the original after an undo, with the mask that was decided then.

        Returns:
            Whether the original is still what was decided about; if not, it is another question.
        """
        self.originals, self.kept, self._start = originals, None, mask
        try:
            if not self.width:  # an older journal does not say
                with originals.reading(self.file) as path:
                    self.width, self.height = read_size(path)
            return not self.changed()
        except Exception as error:  # as above
            log.debug("%s: %s", as_text(self.file), error)
            return False

    def _where(self) -> tuple[Tree, str]:
        if self.kept is not None and (self.kept.moved or self._out.exists(self.kept.out)):
            return self._out, self.kept.out
        return self.originals, self.file


def stamp_of(stat: os.stat_result) -> Stamp:
    """What changes with a file's content: its size in bytes, and its time in nanoseconds."""
    return stat.st_size, stat.st_mtime_ns


def as_text(path: str) -> str:
    """A path as text that can be sent: a file's name need not be valid Unicode."""
    return os.fsencode(path).decode("utf-8", "replace") if os.name == "posix" else path


def own_name(path: str) -> str:
    """The file's own name, on one line."""
    name = re.sub(r"[\n\r]", "↵", path.rpartition("/")[2])
    return re.sub(r"[\0-\x1f]", "\ufffd", name)
