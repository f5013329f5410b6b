"""Messages and progress in the terminal."""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from typing import Any


class StatusLine(logging.Handler):
    """Writes messages to the terminal, and below them one line that changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self._terminal = threading.RLock()  # one message after the other
        self._text = ""
        self._at = 0.0
        self._tty = sys.stdout.isatty()

    def emit(self, record: logging.LogRecord) -> None:
        self.say(self.format(record))

    def say(self, message: str) -> None:
        """Print a message that stays."""
        with self._terminal:
            self._write(f"{self._clear()}{message}\n{self._text if self._tty else ''}")

    def draw(self, address: str) -> None:
        """Print an address as a QR code, if there is a terminal."""
        if self._tty:
            import segno

            out = io.StringIO()
            segno.make_qr(address, error="l").terminal(out, compact=True)
            self.say(out.getvalue().rstrip())

    def show(self, text: str) -> None:
        """Change the last line; without a terminal, print one more."""
        with self._terminal:
            if text == self._text:
                return
            self._text = text
            now = time.monotonic()
            if not self._tty:
                if not text.startswith("looking"):
                    self._write(f"{text}\n")
            elif now - self._at > 0.05 or not text.startswith("looking"):
                self._at = now
                self._write(f"{self._clear()}{text}")

    def close(self) -> None:
        """Remove the last line."""
        with self._terminal:
            if self._tty and self._text:
                self._write(self._clear())
            self._text = ""
        super().close()

    def _clear(self) -> str:
        return "\r\x1b[K" if self._tty and self._text else ""

    def _write(self, text: str) -> None:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()


def progress_text(progress: dict[str, Any]) -> str:
    """How far a session is, on one line."""
    text = f"{progress['done']} of {progress['total']} decided"
    if progress["unreadable_count"]:
        text += f", {progress['unreadable_count']} unreadable"
    if progress["missing_count"]:
        text += f", {progress['missing_count']} sorted files changed or gone since"
    if progress["ended"]:
        return text
    if progress["away"]:
        return f"{progress['away']}; {progress['waiting']} images wait for it"
    if progress["scanning"]:
        return f"looking for images: {progress['total']} found"
    if progress["all_done"]:
        text += f"; all done, sorted into {progress['out']}. Ctrl+C ends the session"
    return text
