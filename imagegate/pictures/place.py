"""Where the pictures of stored gates lie: a folder, or any place that fsspec knows. No torch.

A gate has a folder there, named by its id. A place belongs to one store and holds that store's id
in `MARK`, so that a machine configured with another place notices at once.
"""

from __future__ import annotations

import errno
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..core.model import StoreError
from ..text.redact import place_url
from .file_systems import Files, Folder, open_files
from .permissions import restrict_tree, say_restricted

MARK = ".imagegate"
"""The file at the root of a place that says which store it belongs to."""

_GATE = re.compile(r"[A-Za-z0-9_-]+")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")
_TEMPORARY = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.ETIMEDOUT,
}

log = logging.getLogger("imagegate")


class PlaceError(StoreError):
    """The place of the pictures cannot be used; the message names it, the file and the reason."""


class PicturePlace:
    """Files of gates at a place. Thread-safe.

    Args:
        url: a path, or a URL as fsspec knows them: ``file://``, ``s3://BUCKET/FOLDER``,
            ``memory://``. Nothing is opened or made before the first use.
        default: whether nobody has chosen it, so that it is made anew if it is missing or empty.

    All methods raise `PlaceError` where the place cannot be used, and `ValueError` for a gate's id
    or a name that could lead out of the gate's folder.
    """

    def __init__(self, url: str, *, default: bool = False) -> None:
        self._redacted = place_url(url)
        self.shown = self._redacted.shown
        """The URL as people may see it, without a password."""
        if not url.strip():
            raise PlaceError("no place is given for the pictures; give a folder or a URL")
        self._url = url
        self._default = default
        self._owner = ""  # the store that it was marked for
        self._lock = threading.Lock()  # guards the making of _made
        self._made: Files | None = None

    def write(self, gate_id: str, name: str, body: bytes, *, durable: bool = False) -> None:
        """Write a file, whole or not at all, in place of the one that has this name, if any.

        ``durable``: in a folder, return only when it would outlast a power cut. Other places say
        so themselves when they take a file.
        """
        folder, name = _checked(gate_id, name)
        with self._in_words(f"write {folder}/{name}"):
            self._files().write(folder, name, body, durable)

    def read(self, gate_id: str, name: str) -> bytes | None:
        """The content of a file; None if there is none."""
        folder, name = _checked(gate_id, name)
        with self._in_words(f"read {folder}/{name}"):
            found = self._files().read(folder, name)
            if found is None:
                self._still_there()  # or is it the whole place that is gone?
            return found

    def names(self, gate_id: str) -> list[str]:
        """The files of a gate, sorted; none for an unknown gate."""
        folder, _ = _checked(gate_id)
        with self._in_words(f"list {folder}"):
            return sorted(n for n in self._files().names(folder) if not n.startswith("."))

    def remove(self, gate_id: str) -> None:
        """Remove all files of a gate; nothing to do if they are gone already."""
        folder, _ = _checked(gate_id)
        with self._in_words(f"remove {folder}"):
            self._files().remove(folder)

    def remove_file(self, gate_id: str, name: str) -> None:
        """Remove one file of a gate; nothing to do if it is gone already."""
        folder, name = _checked(gate_id, name)
        with self._in_words(f"remove {folder}/{name}"):
            self._files().remove_file(folder, name)

    def mark(self, store_id: str, *, first: bool) -> None:
        """Make sure that this is the place of this store.

        ``first``: the store has no place yet, so it takes this one if no other store has.

        Raises:
            PlaceError: it is another store's, or (unless ``first``) nobody's.
        """
        with self._in_words(f"use {MARK}"):
            files = self._files()
            found = files.read("", MARK)
            anew = not first and found is None and self._default and not files.names("")
            if anew:
                log.warning("%s was missing or empty, and is made anew: pictures of earlier gates "
                            "are gone", self.shown)  # fmt: skip
            if (first or anew) and not (found or b"").strip():
                # An empty mark is what a crash left; it is nobody's, so it may be replaced.
                body = f"{store_id}\n".encode()
                if found is None:
                    with suppress(FileExistsError):
                        files.write_new("", MARK, body)
                else:
                    files.write("", MARK, body, True)
                found = files.read("", MARK)
        owner = (found or b"").decode("utf-8", "replace").strip()
        if owner == store_id:
            self._owner = store_id
            return
        wrong = f"{self.shown} is not the place where this store's pictures lie: "
        if owner:
            raise PlaceError(
                f"{wrong}it is another store's ({owner}); set IMAGEGATE_PICTURES to the same place "
                "on every machine, and to a place of its own for each store"
            )
        raise PlaceError(
            f"{wrong}it has no file {MARK}. Is a disk or a share not mounted, or is "
            "IMAGEGATE_PICTURES not the same as on other machines? If the pictures are gone for "
            f"good, write {store_id} into a file {MARK} there, and the place is used again",
            passing=bool(self._owner),  # it was there, so it may come back
        )

    def restrict(self) -> None:
        """Let only the owner read a folder of this machine and what is in it."""
        with self._in_words("use it"):
            files = self._files()
            if isinstance(files, Folder):
                say_restricted(self.shown, restrict_tree(files.root))

    def _still_there(self) -> None:
        """Check that a folder that was this store's still is. Raises `PlaceError`."""
        files = self._files()
        if self._owner and isinstance(files, Folder) and files.read("", MARK) is None:
            self.mark(self._owner, first=False)

    def _files(self) -> Files:
        if self._made is None:
            with self._lock:
                if self._made is None:
                    if not self._redacted.clear:
                        raise PlaceError(
                            f"the place of the pictures, {self.shown}, cannot be used: it is not "
                            "certain where its password ends; give the password to the driver in "
                            "another way (its environment, its settings)"
                        )
                    self._made = open_files(self._url)
                    if isinstance(self._made, Folder):
                        self._made.before_folder = self._still_there
        return self._made

    @contextmanager
    def _in_words(self, doing: str) -> Iterator[None]:
        try:
            yield
        except PlaceError:
            raise
        except Exception as error:  # each kind of place has its own errors, not only OSError
            text = (error.strerror if isinstance(error, OSError) else "") or str(error)
            text = self._redacted.text(text)[:300] or type(error).__name__
            raise PlaceError(
                f"the place of the pictures, {self.shown}: cannot {doing}: {text}",
                reason=text,
                passing=isinstance(error, (ConnectionError, TimeoutError))
                or (isinstance(error, OSError) and error.errno in _TEMPORARY),
            ) from self._redacted.cause(error)


def _checked(gate_id: str, name: str = "-") -> tuple[str, str]:
    if not _GATE.fullmatch(gate_id):
        raise ValueError(f"{gate_id!r} is not the id of a gate")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name that a gate's file can have")
    return gate_id, name
