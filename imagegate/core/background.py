"""A thread for what nobody waits for. Standard library only."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from .failures import report_failure


class Background:
    """Does one thing after the other in a thread of its own, which the first one starts.

    Not an executor: Python waits for all that these have to do when it ends.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # guards the next two
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, work: Callable[[], object]) -> bool:
        """Do this, too; False if it is being closed, and does not."""
        with self._lock:
            if self._closed:
                return False
            self._work.put(work)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="imagegate-pictures", daemon=True
                )
                self._thread.start()
            return True

    def close(self) -> None:
        """End after what is being done now, and wait for that."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self._work.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(10)

    def _run(self) -> None:
        while (work := self._work.get()) is not None and not self._closed:
            try:
                work()
            except Exception as error:  # nobody waits for it
                report_failure("work in the background failed", error)
            del work  # it may hold an image
