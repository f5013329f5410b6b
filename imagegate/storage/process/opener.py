"""Opens a store when it is first needed, and closes it when its process ends."""

from __future__ import annotations

import copy
import os
import secrets
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from ...core.loop import Background
from ...core.model import NoAnswer, StoreError
from ...core.settings import Settings
from ..sql.deadline import limit

if TYPE_CHECKING:  # SQLAlchemy takes a while; it is imported when the store is first used
    from ..open_store import OpenStore


class StoreOpener:
    """A store that is opened when it is first needed, by one process. Thread-safe.

    Args:
        settings: says where the store is, when it is first needed.
        kind: of this process, ``comfyui`` or ``panel``.
        classes: of the nodes that this process can run.
        begin: called once with the store that was opened.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        kind: str,
        classes: Callable[[], Collection[str]],
        begin: Callable[[OpenStore], None],
    ) -> None:
        self.id = secrets.token_hex(8)
        self.background = Background()
        self._settings = settings
        self._kind = kind
        self._classes = classes
        self._begin = begin
        # Held while the store is opened, and for nothing else; guards the next three.
        self._opening = threading.Lock()
        self._store: OpenStore | None = None
        self._failed: tuple[float, StoreError] | None = None  # the last attempt, and when it ended
        self._closed = False
        self._process = os.getpid()

    @property
    def store(self) -> OpenStore:
        """The open store; it is opened now if it was not.

        Raises:
            StoreError: it cannot be opened, or was closed.
        """
        store = self._store
        if store is not None and not self.forked:
            return store
        asked = time.monotonic()
        if not self._opening.acquire(timeout=limit()):
            raise NoAnswer("the store does not answer: it is still being opened")
        try:
            if self.forked:
                raise StoreError("the store belongs to the process that this one was forked from")
            if self._closed:
                raise StoreError("the store was closed: this process ends")
            if self._store is None:
                if self._failed is not None and self._failed[0] > asked:
                    # It took a while, and this caller has waited for its end already.
                    raise copy.copy(self._failed[1])
                self._store = self._open()
                self._begin(self._store)
            return self._store
        finally:
            self._opening.release()

    @property
    def opened(self) -> bool:
        """Whether the store is open, which is so once somebody has needed it."""
        return self._store is not None

    @property
    def forked(self) -> bool:
        """Whether this process is a fork of the one that the store belongs to."""
        return self._process != os.getpid()

    def exists(self) -> bool:
        """Whether there is a store already, so that there may be something to do in it."""
        return self._settings().exists

    def look_again(self) -> None:
        """The store failed in the middle: look at what became of the gates, once it is back."""
        if self._store is not None:
            self._store.look_again()

    def stop(self) -> OpenStore | None:
        """End the background work and the store's threads, and never open a store again.

        Returns:
            The store, if it was open, which is still to be closed.
        """
        self.background.close()
        with self._opening:
            self._closed = True
            if self._store is not None:
                self._store.stop()
            store, self._store = self._store, None
        return store

    def _open(self) -> OpenStore:
        from ..open_store import OpenStore

        try:
            return OpenStore(self._settings(), self.id, self._kind, self._classes())
        except StoreError as error:
            self._failed = time.monotonic(), error
            raise
