"""How long to wait for the store: shorter for a person than for a prompt. Standard library only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SOON = 4.5
"""Seconds after which a person reads that the store does not answer."""
PATIENT = 90.0
"""Seconds that everything else waits for it."""
CHECKED_WITHIN = 2.0
"""Seconds, where a person waits, in which a connection has to be there."""

_limit: ContextVar[float] = ContextVar("imagegate_limit", default=PATIENT)
_until: ContextVar[float | None] = ContextVar("imagegate_until", default=None)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Within this context, and in threads that work for it, each transaction has so long."""
    token = _limit.set(seconds)
    try:
        yield
    finally:
        _limit.reset(token)


def limit() -> float:
    """Seconds that a transaction may take."""
    return _limit.get()


def hurried() -> bool:
    """Whether a person waits for this."""
    return limit() <= SOON


@contextmanager
def running(seconds: float) -> Iterator[None]:
    """Whatever waits for a server within this context ends when the time is up."""
    token = _until.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        _until.reset(token)


def left() -> float:
    """Seconds until what runs now has to end."""
    until = _until.get()
    return limit() if until is None else until - time.monotonic()
