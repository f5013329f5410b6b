"""Failures in the log: one line each, and each once a minute at most. Standard library only.

Loops try again, and pages ask again: what fails once fails many times. What is outside our power (a
store that is away, a full disk, a network) is one line, its traceback at debug level; what
should not happen is logged with its traceback.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from .model import ImageGateError, StoreError

AGAIN = 60.0
"""Seconds until the same failure is logged again."""
KNOWN = 1000
"""Failures that are remembered."""

log = logging.getLogger("imagegate")


class FailureLog:
    """Reports failures. Thread-safe.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards what was reported when, and how often it was not
        self._reported: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def report(
        self,
        what: str,
        error: BaseException,
        *,
        outside: tuple[type[BaseException], ...] = (),
        level: int = logging.WARNING,
    ) -> None:
        """Log that something failed, unless that was logged within the last minute.

        Args:
            what: in words that are the same each time.
            outside: further kinds of errors that are outside our power.
        """
        reason = " ".join(str(error).split()) or type(error).__name__
        ours = not isinstance(error, (ImageGateError, OSError, *outside))
        same = (isinstance(error, StoreError) and error.reason) or reason
        first, times = self._count(f"{what}\n{type(error).__name__}\n{same}")
        if not first:
            return
        more = f" ({times} more times in the last minutes)" if times else ""
        text = f"{what}: {reason}{more}" if what else f"{reason}{more}"
        if ours:
            log.error("%s", text, exc_info=error)
        else:
            log.log(level, "%s", text)
            log.debug("%s", text, exc_info=error)

    def forget(self) -> None:
        """Log anew whatever fails from now on."""
        with self._lock:
            self._reported.clear()

    def _count(self, key: str) -> tuple[bool, int]:
        """Whether it is to be logged now, and how often it was not since the last time."""
        now = self._clock()
        with self._lock:
            since, times = self._reported.get(key, (-AGAIN, 0))
            if now - since < AGAIN:
                self._reported[key] = since, times + 1
                return False, 0
            self._reported[key] = now, 0
            self._reported.move_to_end(key)
            while len(self._reported) > KNOWN:
                self._reported.popitem(last=False)
            return True, times


_failures = FailureLog()
report_failure = _failures.report
