"""What tests of folder mode share: images, and sessions over a folder."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from imagegate.folder.session import FolderSession
from imagegate.gate_bus import GateBus
from tests.support.stored import PATIENCE

OWN = ("decisions.jsonl", ".imagegate/key")


class Review:
    """One session over a folder, scanned, with a bus of its own."""

    def __init__(self, photos: Path, out: Path, **options: Any) -> None:
        self.bus: GateBus[Any] = GateBus()
        scanned = threading.Event()

        def changed() -> None:
            if not self.session.progress()["scanning"]:
                scanned.set()

        options = {"labels": ("keep", "fix"), **options}
        self.session = FolderSession(self.bus, photos, out, changed=changed, **options)
        self.session.start()
        assert scanned.wait(PATIENCE)

    @property
    def progress(self) -> dict[str, Any]:
        return self.session.progress()

    @property
    def asked(self) -> dict[str, str]:
        """The ids of gates that wait, by their files."""
        return {found.gate.file: found.gate.id for found in self.bus.pending()}

    @property
    def history(self) -> list[tuple[str, str]]:
        """What was decided, newest first."""
        return [(found.gate.file, found.decision.label) for found in self.bus.finished()
                if found.decision]  # fmt: skip

    def gate(self, file: str) -> str:
        """The id of a gate, open or finished."""
        every = [*self.bus.pending(), *self.bus.finished()]
        return next(found.gate.id for found in every if found.gate.file == file)

    def __enter__(self) -> Review:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()


def until(true: Callable[[], Any]) -> Any:
    """Look again until it is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return found


def paint(path: Path, colour: str = "red", size: tuple[int, int] = (8, 6), **save: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **save)
    return path


def files(folder: Path) -> list[str]:
    """All files but the sorted folder's own."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name not in OWN)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "decisions.jsonl").read_text().splitlines()]


def png(size: tuple[int, int], white: tuple[int, int, int, int] | None = None) -> bytes:
    mask = Image.new("L", size)
    if white:
        mask.paste(255, white)
    body = io.BytesIO()
    mask.save(body, "PNG")
    return body.getvalue()
