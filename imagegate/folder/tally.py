"""Counts a session's files: which wait, which are decided, which cannot be read."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, zip_longest
from typing import Any

from .pictures import FolderPictures, Stamp, as_text

LISTED = 20
"""The most files of each kind that `Tally.to_json` names."""

WAITING, DECIDED, MOVED, UNDOING, ASIDE = "waiting", "decided", "moved", "undoing", "aside"
"""States of a file: asked about; decided, with the original still there or moved; being undone;
unreadable."""


class Tally:
    """Counts files by their state. Thread-safe."""

    def __init__(self) -> None:
        self._session = secrets.token_urlsafe(8)
        self._lock = threading.Lock()  # guards all below
        self._states: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._waiting: dict[str, FolderPictures] = {}
        self._aside: dict[str, tuple[str, Stamp | None]] = {}
        self._reasons: dict[str, dict[str, None]] = {}
        self._earlier: set[str] = set()
        self._missing: dict[str, str] = {}
        self._left: dict[str, None] = {}
        self._scanning = True
        self._away = ""

    @property
    def away(self) -> str:
        """Why the folder is not there, if it is not."""
        with self._lock:
            return self._away

    def say(self, *, scanning: bool | None = None, away: str | None = None) -> None:
        """Note whether the session is scanning, and why the folder is away."""
        with self._lock:
            self._scanning = self._scanning if scanning is None else scanning
            self._away = self._away if away is None else away

    def state(self, key: str) -> str | None:
        """The state of a file; None if it is not counted."""
        with self._lock:
            return self._states.get(key)

    def count(self, state: str) -> int:
        """How many files are in a state."""
        with self._lock:
            return self._counts[state]

    def set(
        self,
        key: str,
        state: str | None,
        pictures: FolderPictures | None = None,
        *,
        reason: str = "",
        stamp: Stamp | None = None,
        earlier: bool = False,
    ) -> bool:
        """Set a file's state; None stops counting it.

        Args:
            pictures: the pictures of a file that waits.
            reason, stamp: why a file is set aside, and its stamp.
            earlier: whether it was decided before this session.

        Returns:
            Whether it is the first that is set aside for this reason.
        """
        with self._lock:
            before = self._states.pop(key, None)
            if before is not None:
                self._counts[before] -= 1
            self._waiting.pop(key, None)
            if (aside := self._aside.pop(key, None)) is not None:
                self._reasons[aside[0]].pop(key)
            if state is None:
                self._earlier.discard(key)
                return False
            self._states[key] = state
            self._counts[state] += 1
            if pictures is not None:
                self._waiting[key] = pictures
            if earlier:
                self._earlier.add(key)
            if state != ASIDE:
                return False
            self._aside[key] = reason, stamp
            first = reason not in self._reasons
            self._reasons.setdefault(reason, {})[key] = None
            return first

    def waiting(self) -> list[FolderPictures]:
        """The files that people are asked about."""
        with self._lock:
            return list(self._waiting.values())

    def aside(self) -> list[tuple[str, Stamp | None]]:
        """The files that cannot be read, each with the stamp it had then, if any."""
        with self._lock:
            return [(key, stamp) for key, (_, stamp) in self._aside.items()]

    def miss(self, file: str, reason: str) -> None:
        """Note what has happened to a sorted file."""
        with self._lock:
            self._missing[file] = reason

    def leave(self, files: Sequence[str]) -> None:
        """Note files that stayed behind when the image beside them was moved."""
        with self._lock:
            self._left |= dict.fromkeys(files)

    def to_json(self) -> dict[str, Any]:
        """See `imagegate.folder.session.FolderSession.progress`."""
        with self._lock:
            total, unreadable = len(self._states), self._counts[ASIDE]
            done = self._counts[DECIDED] + self._counts[MOVED] + self._counts[UNDOING]
            all_done = not self._scanning and not self._away and done + unreadable == total
            reasons = {reason: keys for reason, keys in self._reasons.items() if keys}
            return {
                "session": self._session,
                "total": total,
                "done": done,
                "earlier": len(self._earlier),
                "waiting": total - done - unreadable,
                "scanning": self._scanning,
                "all_done": all_done,
                "away": self._away,
                "unreadable_count": unreadable,
                "unreadable": [_named(*each) for each in _some(reasons)],
                "unreadable_reasons": [
                    {"reason": reason, "count": len(keys)}
                    for reason, keys in islice(reasons.items(), LISTED)
                ],
                "missing_count": len(self._missing),
                "missing": [_named(*each) for each in islice(self._missing.items(), LISTED)],
                "left_count": len(self._left),
                "left": [as_text(file) for file in islice(self._left, LISTED)],
            }


def _some(reasons: Mapping[str, Iterable[str]]) -> list[tuple[str, str]]:
    """Files to name, each with its reason; every reason is named once before any is named twice."""
    first = {reason: list(islice(keys, LISTED)) for reason, keys in reasons.items()}
    turns = (key for turn in zip_longest(*first.values()) for key in turn if key is not None)
    named = set(islice(turns, LISTED))
    return [(key, reason) for reason, keys in first.items() for key in keys if key in named]


def _named(file: str, reason: str) -> dict[str, str]:
    return {"file": as_text(file), "reason": reason}
