"""What can be set from outside, read from the environment once."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .model import MAX_NAME, StoreError, sayable

KEEP_DAYS = 7.0


@dataclass(frozen=True)
class Settings:
    """Where gates are remembered, and who remembers.

    Attributes:
        store: SQLAlchemy's URL: ``sqlite:///FILE`` or ``postgresql+psycopg://...``.
        pictures: a folder, or any place that fsspec knows.
        worker: the name of this process where several share a store.
        keep: seconds that the pictures of finished gates are kept.
    """

    store: str
    pictures: str
    worker: str
    keep: float = KEEP_DAYS * 24 * 3600

    @property
    def exists(self) -> bool:
        """Whether there may be a store: a server, or a file that is there."""
        scheme, _, file = self.store.partition(":///")
        file = file.partition("?")[0]
        return not scheme.startswith("sqlite") or (bool(file) and Path(file).exists())


def read_settings(
    folder: Path,
    *,
    worker: str = "",
    environment: Mapping[str, str] = os.environ,
) -> Settings:
    """The settings of this process.

    ``IMAGEGATE_STORE``, ``IMAGEGATE_PICTURES``, ``IMAGEGATE_WORKER``, ``IMAGEGATE_KEEP_DAYS``.

    Args:
        folder: for the store and its pictures where nothing else is set.
        worker: the name where none is set.

    Raises:
        StoreError: a setting that cannot be used; the message names it.
    """
    store = environment.get("IMAGEGATE_STORE", "").strip()
    pictures = environment.get("IMAGEGATE_PICTURES", "").strip()
    if not store:
        store = f"sqlite:///{folder / 'gates.sqlite'}"
    if not pictures:
        scheme, _, file = store.partition(":///")
        if not scheme.startswith("sqlite") or not file or file == ":memory:":
            raise StoreError(
                "IMAGEGATE_STORE is set and IMAGEGATE_PICTURES is not; name a folder, or an fsspec "
                "URL, that every machine which shares the store can reach"
            )
        pictures = str(Path(file.partition("?")[0]).parent / "pictures")
    text = environment.get("IMAGEGATE_KEEP_DAYS", "").strip()
    try:
        days = float(text or KEEP_DAYS)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise StoreError(f"IMAGEGATE_KEEP_DAYS is {text!r}; give a number of days, 0 or more")
    name = environment.get("IMAGEGATE_WORKER", "").strip() or worker or socket.gethostname()
    return Settings(store, pictures, sayable(name)[:MAX_NAME], days * 24 * 3600)
