"""What can be set from outside, read from the environment once."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..text.printable import one_line
from ..text.redact import place_url
from .model import MAX_NAME, StoreError
from .origins import name_in

KEEP_DAYS = 7.0
NOTIFY_AFTER = 60.0
"""Seconds that a gate waits before somebody is notified."""


@dataclass(frozen=True)
class Settings:
    """Where gates are remembered, and who remembers.

    Attributes:
        store: SQLAlchemy's URL: ``sqlite:///FILE`` or ``postgresql+psycopg://...``.
        pictures: a folder, or any place that fsspec knows.
        worker: the name of this process where several share a store.
        keep: seconds that the pictures of finished gates are kept.
        beside: whether the pictures lie beside the store because nothing else was said.
        folder: the folder that holds the store because nothing else was said.
        home: the folder that one process has after the other, wherever the store is.
    """

    # They may hold a password.
    store: str = field(repr=False)
    pictures: str = field(repr=False)
    worker: str
    keep: float = KEEP_DAYS * 24 * 3600
    beside: bool = False
    folder: Path | None = None
    home: Path | None = None

    @property
    def exists(self) -> bool:
        """Whether there may be a store: a server, or a file that is there."""
        scheme, _, file = self.store.partition(":///")
        file = file.partition("?")[0]
        return not scheme.startswith("sqlite") or (bool(file) and Path(file).exists())


@dataclass(frozen=True)
class NoticeSettings:
    """Who is notified of gates that wait, and when.

    Attributes:
        addresses: Apprise's URLs, separated as Apprise has it. A secret: never logged, nor shown.
        after: seconds that a gate waits first.
        digest: seconds, from the time a first gate is to be told of, whose gates are one notice;
            0 for a notice of each gate.
        image: whether the preview goes with it.
        url: of the panel, for the link; empty for this ComfyUI's own.
    """

    addresses: str = field(default="", repr=False)
    after: float = NOTIFY_AFTER
    digest: float = 0.0
    image: bool = False
    url: str = ""


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
    own = None if store else folder
    if not store:
        store = f"sqlite:///{folder / 'gates.sqlite'}"
    beside = not pictures
    if beside:
        scheme, _, file = store.partition(":///")
        if not scheme.startswith("sqlite") or not file or file == ":memory:":
            raise StoreError(
                "IMAGEGATE_STORE is set and IMAGEGATE_PICTURES is not; name a folder, or an fsspec "
                "URL, that every machine which shares the store can reach"
            )
        pictures = str(Path(file.partition("?")[0]).parent / "pictures")
    days = _number(environment, "IMAGEGATE_KEEP_DAYS", KEEP_DAYS, "days")
    name = environment.get("IMAGEGATE_WORKER", "").strip() or worker or socket.gethostname()
    home = folder if folder != Path() else None
    return Settings(store, pictures, one_line(name, MAX_NAME), days * 24 * 3600, beside, own, home)


def read_notice_settings(environment: Mapping[str, str] = os.environ) -> NoticeSettings:
    """Whom this process notifies of gates that wait.

    ``IMAGEGATE_NOTIFY``, ``IMAGEGATE_NOTIFY_AFTER``, ``IMAGEGATE_NOTIFY_DIGEST``,
    ``IMAGEGATE_NOTIFY_IMAGE``, ``IMAGEGATE_URL``.

    Raises:
        StoreError: a setting that cannot be used; the message names it.
    """
    image = environment.get("IMAGEGATE_NOTIFY_IMAGE", "").strip()
    if image not in ("", "0", "1"):
        raise StoreError(
            f"IMAGEGATE_NOTIFY_IMAGE is {image!r}; give 1 to send the preview along, or 0"
        )
    url = environment.get("IMAGEGATE_URL", "").strip()
    if url and not (url.startswith(("http://", "https://")) and len(url.split()) == 1):
        shown = place_url(url).shown
        raise StoreError(
            f"IMAGEGATE_URL is {shown!r}; give the panel's http:// or https:// address"
        )
    return NoticeSettings(
        addresses=environment.get("IMAGEGATE_NOTIFY", "").strip(),
        after=_number(environment, "IMAGEGATE_NOTIFY_AFTER", NOTIFY_AFTER, "seconds"),
        digest=_number(environment, "IMAGEGATE_NOTIFY_DIGEST", 0.0, "seconds"),
        image=image == "1",
        url=url,
    )


def read_names(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The names under which people call this process, whatever they are.

    ``IMAGEGATE_ORIGINS``: names or origins, separated by commas; ``IMAGEGATE_URL``, which
    `read_notice_settings` checks; and the name that the machine itself has.

    Raises:
        StoreError: a setting that cannot be used; the message names it.
    """
    names = [socket.gethostname().lower()]
    for text in filter(None, map(str.strip, environment.get("IMAGEGATE_ORIGINS", "").split(","))):
        try:
            names.append(name_in(text))
        except ValueError as error:
            raise StoreError(
                f"IMAGEGATE_ORIGINS: {error}; give the names or origins by which the panel is "
                "opened, separated by commas, as in studio.example, http://gpu.example:8188"
            ) from error
    with suppress(ValueError):
        names.append(name_in(environment.get("IMAGEGATE_URL", "").strip()))
    return tuple(names)


def _number(environment: Mapping[str, str], name: str, default: float, unit: str) -> float:
    text = environment.get(name, "").strip()
    try:
        number = float(text or default)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise StoreError(f"{name} is {text!r}; give a number of {unit}, 0 or more")
    return number
