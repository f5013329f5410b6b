"""Threads that start, wake and close in one way, and pause after failures. Standard library only.

They are daemons, so that none keeps Python from ending. No failure ends one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from .failures import report_failure


class Loop:
    """A named thread, started at most once, until it is closed. Thread-safe.

    Args:
        name: of the thread.
        run: what it does. It must return soon after `closing` is true; an error that leaves it
            is reported.
        waker: called by `wake`, for a ``run`` that waits for something of its own.
    """

    def __init__(
        self, name: str, run: Callable[[], object], *, waker: Callable[[], None] = lambda: None
    ) -> None:
        self.name = name
        self._run = run
        self._waker = waker
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards the thread
        self._thread: threading.Thread | None = None

    def start(self) -> bool:
        """Start the thread; False if it was started before, or closed."""
        with self._lock:
            if self._thread is not None or self._closing.is_set():
                return False
            self._thread = threading.Thread(target=self._survive, name=self.name, daemon=True)
            self._thread.start()
            return True

    def wake(self) -> None:
        """Make `wait` return now, or at its next call."""
        self._woken.set()
        self._waker()

    def close(self, seconds: float | None = 10.0) -> bool:
        """End, and wait so many seconds for that (None: for ever); returns whether it has ended."""
        self._closing.set()
        self.wake()
        with self._lock:
            thread = self._thread
        if thread is None:
            return True
        if thread is threading.current_thread():
            return False
        thread.join(seconds)
        return not thread.is_alive()

    @property
    def closing(self) -> bool:
        """Whether it is to end."""
        return self._closing.is_set()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        with self._lock:
            return self._thread is not None and self._thread.is_alive()

    # -- for what runs in it

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it is woken or closed, for so many seconds at most."""
        if not self.closing:
            self._woken.wait(seconds and min(max(0.0, seconds), threading.TIMEOUT_MAX))

    def pause(self, seconds: float) -> bool:
        """Wait until it is closed, for so many seconds at most; returns whether it is closed."""
        return self._closing.wait(seconds)

    def repeat(self, turn: Callable[[], float | None], failed: str, again: float) -> None:
        """Do one turn after another until it is closed.

        Args:
            turn: returns the seconds to wait for the next, unless woken; None waits for ever.
            failed: what to report when a turn fails.
            again: seconds to wait after a failure.
        """
        while not self.closing:
            self._woken.clear()  # before the turn, so that nothing goes unnoticed that comes in it
            rest: float | None = again
            try:
                rest = turn()
            except Exception as error:  # the next one may fare better
                report_failure(failed, error)
            self.wait(rest)

    def _survive(self) -> None:
        try:
            self._run()
        except Exception as error:  # nobody waits for a thread's result
            report_failure(f"the thread {self.name} ended", error)


class Background:
    """Runs low-priority work, one piece after another, in a thread that the first piece starts.

    This is not an executor: when Python ends, it waits for all the work of those.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards the next, so that nothing is added after the end
        self._closed = False
        self._loop = Loop("imagegate-pictures", self._run, waker=lambda: self._work.put(None))

    def add(self, work: Callable[[], object]) -> bool:
        """Add work; False if it is being closed, and will not be done."""
        with self._lock:
            if self._closed:
                return False
            self._work.put(work)
            self._loop.start()
            return True

    def close(self) -> None:
        """Finish the piece under way, drop the rest, and wait for that."""
        with self._lock:
            self._closed = True
        self._loop.close()

    def _run(self) -> None:
        while (work := self._work.get()) is not None and not self._loop.closing:
            try:
                work()
            except Exception as error:  # nobody waits for it
                report_failure("work in the background failed", error)
            del work  # it may hold an image


class Backoff:
    """The pause before the next attempt, by the number of failures in a row.

    Args:
        pauses: seconds after the first, the second, ... failure; the last one holds for all later.
    """

    def __init__(self, pauses: Sequence[float]) -> None:
        self.pauses = pauses
        self.failures = 0

    @property
    def exhausted(self) -> bool:
        """Whether there was a failure for each pause."""
        return self.failures >= len(self.pauses)

    def fail(self) -> float:
        """Count a failure; returns the seconds to pause."""
        self.failures += 1
        return self.pauses[min(self.failures, len(self.pauses)) - 1]

    def reset(self) -> None:
        """Note that an attempt succeeded."""
        self.failures = 0
