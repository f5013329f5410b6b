"""The worker of `kill_nine`: asks at gates, goes on with decided ones, writes down what it saw.

The node, the bus and the `Resumer` are the real ones; the prompts run in the tests' stand-in for
ComfyUI, one after the other as there. Standard input says when to end.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest
import torch

from imagegate.comfy.node import ImageGate
from imagegate.comfy.parked import resume
from imagegate.comfy.parked.resume import End, Resumer
from imagegate.core.model import Gate, Snapshot, StoreError
from imagegate.core.pictures import Pictures
from imagegate.core.settings import Settings
from imagegate.gate_bus import GateBus, Ticket
from imagegate.operator.service import Service
from imagegate.pictures.tensors import digest
from imagegate.storage import open_store
from imagegate.storage.queries import parked, workers
from imagegate.storage.sql_storage import SqlStorage
from tests.support.comfy_stand_in import Comfy, Executor, Prompt, Result

WIDTH, HEIGHT, ROUTES = 64, 48, 3
BOX = (slice(8, 24), slice(16, 48))
"""Rows and columns of what is painted."""
AGAIN = 0.5
"""Seconds before a prompt that failed is queued again."""
WORK = 0.2
"""Seconds, at most, that an output takes before it is done, and again until its prompt has ended:
kills shall come in the middle."""
QUEUED = 5
"""Prompts that wait for their turn; more are not asked for meanwhile."""


# -- what each gate is: all of it follows from its number


def waits(number: int) -> bool:
    """Whether its prompt waits for the answer instead of parking."""
    return number % 10 == 7


def painted(number: int) -> bool:
    """Whether a mask is painted on it."""
    return number % 5 == 0


def image_of(number: int) -> torch.Tensor:
    """Its image ``[1,H,W,C]``: every second one is exactly 8-bit, so both ways of keeping occur."""
    generator = torch.Generator().manual_seed(number)
    size = (1, HEIGHT, WIDTH, 3)
    if number % 2:
        return torch.rand(size, generator=generator)
    return torch.randint(0, 256, size, generator=generator).float() / 255.0


def mask_of(number: int) -> torch.Tensor:
    """The mask ``[1,H,W]`` that shall come out."""
    mask = torch.zeros(1, HEIGHT, WIDTH)
    if painted(number):
        mask[0][BOX] = 1.0
    return mask


def prompt_of(number: int) -> Prompt:
    """Source -> gate -> an output on each route."""
    mode = "wait" if waits(number) else "park"
    gate = {"image": ["1", 0], "routes": ROUTES, "labels": "keep, fix, reject",
            "title": str(number), "mode": mode}  # fmt: skip
    save = {"mask": ["2", 0], "number": number}
    return {
        "1": {"class_type": "Load", "inputs": {"number": number}},
        "2": {"class_type": "ImageGate", "inputs": gate},
    } | {
        str(2 + route): {
            "class_type": "Save", "inputs": save | {"image": ["2", route], "route": route}
        }
        for route in range(1, ROUTES + 1)
    }  # fmt: skip


# -- what is written down


class Log:
    """A file of JSON lines that outlives any kill: what is written is on disk."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, **line: Any) -> None:
        os.write(self._file, f"{json.dumps(line | {'at': time.time()})}\n".encode())
        os.fsync(self._file)


def read_log(path: Path) -> list[dict[str, Any]]:
    """All lines so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class LoggedStorage(SqlStorage):
    """Writes down each parked gate that it has stored."""

    def __init__(self, settings: Settings, log: Log) -> None:
        super().__init__(lambda: settings, classes=lambda: ["ImageGate", "Load", "Save"])
        park = self.parking.park

        def logged(
            gate: Gate, files: Iterable[tuple[str, bytes]], parked: Any, fingerprint: str = ""
        ) -> Snapshot:
            snapshot = park(gate, files, parked, fingerprint)
            log.write(kind="published", gate=gate.id, number=int(gate.title), mode="park")
            return snapshot

        self.parking.park = logged  # type: ignore[method-assign]


class LoggedBus(GateBus[Any]):
    """Writes down each gate that it has published."""

    current = ""
    """The gate that a prompt waited at last."""

    def __init__(self, storage: SqlStorage, log: Log) -> None:
        super().__init__(storage)
        self.log = log

    def publish(self, gate: Gate, pictures: Pictures, **hooks: Any) -> Ticket:
        ticket = super().publish(gate, pictures, **hooks)
        self.current = gate.id
        self.log.write(kind="published", gate=gate.id, number=int(gate.title), mode="wait")
        return ticket


# -- ComfyUI's part


class NoPanel(Service):
    """A service whose panel is another process, so that none is started here."""

    def start(self) -> Future[str]:
        ready: Future[str] = Future()
        ready.set_result("")
        return ready


class Queue:
    """ComfyUI's queue: one prompt runs at a time, those in front first."""

    ready = True

    def __init__(self, bus: LoggedBus, storage: SqlStorage, log: Log) -> None:
        self._bus = bus
        self._storage = storage
        self._log = log
        self._changed = threading.Condition()  # guards the two below
        self._waiting: deque[tuple[str, Mapping[str, Any], Future[Result]]] = deque()
        self._futures: dict[str, Future[Result]] = {}
        self._going_on = ""
        comfy = Comfy()
        comfy.install(pytest.MonkeyPatch())
        self._executor = Executor(comfy, self._nodes())
        threading.Thread(target=self._run, name="prompts", daemon=True).start()

    def is_output(self, class_type: str) -> bool:
        return class_type == "Save"

    def submit(self, request: Mapping[str, Any]) -> str:
        self.put(request)
        return ""

    def put(self, request: Mapping[str, Any]) -> Future[Result]:
        """Queue a prompt; how it ended comes later."""
        future: Future[Result] = Future()
        item = (request["prompt_id"], request, future)
        with self._changed:
            self._futures[request["prompt_id"]] = future
            self._waiting.appendleft(item) if request.get("front") else self._waiting.append(item)
            self._changed.notify_all()
        return future

    def ended(self, prompt_id: str) -> End | None:
        with self._changed:
            future = self._futures[prompt_id]
        if not future.done():
            return None
        result = future.result()
        return End("" if result.status == "success" else f"{result.node_id}: {result.error}")

    def remove(self, prompt_id: str) -> bool:
        return False

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                prompt_id, request, future = self._waiting.popleft()
            prompt = request["prompt"]
            self._going_on = prompt["2"]["inputs"].get("decision", "")
            try:
                targets = request["partial_execution_targets"]
                future.set_result(self._executor.execute(prompt, targets, prompt_id, {}))
            except BaseException as error:
                future.set_exception(error)

    def _nodes(self) -> dict[str, type]:
        queue, bus, log = self, self._bus, self._log
        service = NoPanel(bus, self._storage)

        class Bound(ImageGate):
            def __init__(self) -> None:
                super().__init__(service)

        class Load:
            FUNCTION = "run"
            RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)

            @classmethod
            def INPUT_TYPES(cls) -> dict[str, Any]:
                return {"required": {"number": ("INT", {})}}

            def run(self, number: int) -> tuple[torch.Tensor]:
                log.write(kind="loaded", number=number, again=bool(queue._going_on))
                return (image_of(number),)

        class Save:
            FUNCTION = "run"
            RETURN_TYPES: ClassVar[tuple[str, ...]] = ()
            OUTPUT_NODE = True

            @classmethod
            def INPUT_TYPES(cls) -> dict[str, Any]:
                kinds = {"image": "IMAGE", "mask": "MASK", "route": "INT", "number": "INT"}
                return {"required": {name: (kind, {}) for name, kind in kinds.items()}}

            def run(
                self, image: torch.Tensor, mask: torch.Tensor, route: int, number: int
            ) -> tuple[Any, ...]:
                time.sleep(random.uniform(0, WORK))
                log.write(
                    kind="ran", gate=queue._going_on or bus.current, number=number, route=route,
                    image=digest(image), mask=digest(mask),
                )  # fmt: skip
                time.sleep(random.uniform(0, WORK))
                return ()

        return {"ImageGate": Bound, "Load": Load, "Save": Save}


def ask(queue: Queue, log: Log, numbers: Iterator[tuple[int, float]]) -> None:
    """Queue the prompt of each number when it is time, again while it could not ask."""
    mine: list[Future[Result]] = []
    for number, due in numbers:
        time.sleep(max(0.0, due - time.time()))
        while True:
            mine = [future for future in mine if not future.done()]
            if len(mine) < QUEUED:
                break
            mine[0].exception()
        mine.append(_asked(queue, log, number))
    for future in mine:
        future.exception()
    log.write(kind="done")


def _asked(queue: Queue, log: Log, number: int) -> Future[Result]:
    """Completed when the question was put, and answered if its prompt waits for that."""
    whole: Future[Result] = Future()

    def attempt() -> None:
        request = {
            "prompt_id": str(uuid.uuid4()), "prompt": prompt_of(number),
            "partial_execution_targets": [str(2 + route) for route in range(1, ROUTES + 1)],
        }  # fmt: skip
        queue.put(request).add_done_callback(ended)

    def ended(future: Future[Result]) -> None:
        result = future.result()
        # What was cancelled, by a Stop or as its gate was withdrawn, has been asked.
        if result.status != "error":
            whole.set_result(result)
            return
        log.write(kind="failed", number=number, error=str(result.error))
        threading.Timer(AGAIN, attempt).start()

    attempt()
    return whole


def hasten(factor: float) -> None:
    """Make claims run out, and the silent be taken for dead, so many times sooner."""
    for module in (open_store, parked, resume, workers):
        for name in ("BEAT", "DEAD", "IDLE", "LEASE"):
            if hasattr(module, name):
                setattr(module, name, getattr(module, name) / factor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("store", "pictures", "log"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("index", "workers", "gates"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("start", "seconds", "haste"):
        parser.add_argument(f"--{name}", type=float, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(message)s")
    torch.set_num_threads(1)
    hasten(given.haste)
    asked = {line["number"] for line in read_log(Path(given.log)) if line["kind"] == "published"}
    settings = Settings(given.store, given.pictures, f"worker {given.index}")
    log = Log(Path(given.log))
    storage = LoggedStorage(settings, log)
    bus = LoggedBus(storage, log)
    log.write(kind="started", bus=storage.id, pid=os.getpid())
    queue = Queue(bus, storage, log)
    resumer = Resumer(bus, storage, queue)
    resumer.start()
    numbers = (
        (number, given.start + number * given.seconds / given.gates)
        for number in range(given.index, given.gates, given.workers)
        if number not in asked
    )
    threading.Thread(target=ask, args=(queue, log, numbers), name="asking", daemon=True).start()
    sys.stdin.read()
    resumer.close()
    try:
        storage.close()
    except StoreError as error:
        logging.warning("the store was left as it is: %s", error)


if __name__ == "__main__":
    main()
