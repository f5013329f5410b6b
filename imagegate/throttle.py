"""Slows down, and then locks out, who guesses tokens and passphrases. Built on `limits`."""

from __future__ import annotations

import logging
import time

from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from .access import Refused

SLOW = RateLimitItemPerMinute(5)
"""Wrong attempts after which one has to wait for the rest of the minute."""
LOCK = RateLimitItemPerHour(20)
"""Wrong attempts after which one is locked out for the rest of the hour."""

log = logging.getLogger("imagegate")


class Pace:
    """Holds back who asks for more than so many changes a minute."""

    def __init__(self, a_minute: int) -> None:
        self._item = RateLimitItemPerMinute(a_minute)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def keep(self, who: str) -> None:
        """Count a change. Raises `Refused` if there were too many."""
        if not self._limiter.hit(self._item, who):
            until = self._limiter.get_window_stats(self._item, who).reset_time
            raise Refused(
                429, "Too fast. Try again in a moment.", max(1, round(until - time.time()))
            )


class Throttle:
    """Counts wrong attempts, each by all that it is counted for: a source, a link.

    It is kept in memory, and is gone with the process, as its links' addresses mostly are.
    """

    def __init__(self) -> None:
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def check(self, *whose: str) -> None:
        """Raises `Refused` if one of these has guessed too often."""
        for item in (LOCK, SLOW):
            for one in whose:
                if not self._limiter.test(item, one):
                    until = self._limiter.get_window_stats(item, one).reset_time
                    wait = max(1, round(until - time.time()))
                    raise Refused(
                        429, f"Too many wrong attempts. Try again in {_span(wait)}.", wait
                    )

    def wrong(self, what: str, *whose: str) -> None:
        """Count a wrong attempt. ``what`` and ``whose`` go into the log: no secret may."""
        for one in whose:
            self._limiter.hit(SLOW, one)
            self._limiter.hit(LOCK, one)
            left = self._limiter.get_window_stats(LOCK, one).remaining
            if left:
                log.warning("%s, from %s; %d more and it is locked out", what, one, left)
            else:
                log.warning("%s, from %s; it is locked out for up to %s", what, one,
                            _span(LOCK.get_expiry()))  # fmt: skip


def _span(seconds: int) -> str:
    if seconds < 120:
        return f"{seconds} seconds"
    return f"{-(-seconds // 60)} minutes"
