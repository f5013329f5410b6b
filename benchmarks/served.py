"""A panel in a process of its own, so that what it needs can be counted.

Each line on standard input is how many more gates to publish. Each is answered by one line of JSON
that says what the process holds now; the end of the input ends it.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from imagegate.core.settings import Settings

from .measure import ROOT, NotRun

SIDE = 64  # px: small, so that what is counted is the gates and not their images


@dataclass(frozen=True)
class Held:
    """What the process holds. ``memory`` in MB, resident; ``files`` without those of the store,
    of which its pool of connections keeps open as many as were ever needed at once.
    """

    url: str
    memory: float
    listeners: int
    threads: int
    files: int


class Served:
    """The other process, as this one sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def publish(self, gates: int = 0) -> Held:
        """Publish so many more gates, 0 to only ask."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{gates}\n")
        self._process.stdin.flush()
        return Held(**json.loads(self._process.stdout.readline()))


@contextmanager
def served(settings: Settings | None = None) -> Iterator[Served]:
    """Start it, and end it. Raises `NotRun` where the system does not say what a process holds.

    Args:
        settings: of the store; by default a new one in SQLite.
    """
    place = [settings.store, settings.pictures] if settings else []
    if not Path("/proc/self/status").exists():
        raise NotRun("no /proc")
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.served", *place],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            yield Served(process)
        finally:
            assert process.stdin
            process.stdin.close()


def _memory() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def _files() -> int:
    found = 0
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one by which they are listed
            found += "gates.sqlite" not in os.readlink(file)
    return found


def _serve(store: str = "", pictures: str = "") -> None:
    from imagegate.core.model import Gate
    from imagegate.pictures.tensors import TensorPictures

    from .looking import serve
    from .measure import photo

    bus, url = serve(Settings(store, pictures, "served") if store else None)
    # One tensor for all: a workflow holds its images with or without a gate.
    image = photo(SIDE)
    TensorPictures(image)
    published = 0
    for line in sys.stdin:
        for _ in range(int(line)):
            published += 1
            bus.publish(
                Gate(("keep", "fix", "reject"), SIDE, SIDE, title=f"Image {published}"),
                TensorPictures(image),
            )
        gc.collect()
        held = Held(
            url=url,
            memory=_memory(),
            listeners=bus.listeners,
            threads=threading.active_count(),
            files=_files(),
        )
        sys.stdout.write(json.dumps(asdict(held)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
