"""How soon the waiter has the answer."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from imagegate.comfy.node import ImageGate
from imagegate.core.model import Gate
from imagegate.gate_bus import GateBus, Ticket
from imagegate.http.access import KEY_HEADER
from imagegate.operator.service import Service
from imagegate.pictures.tensors import TensorPictures
from tests.live.comfyui import Comfy, node, until
from tests.support.comfy_stand_in import Comfy as StandIn
from tests.support.comfy_stand_in import Executor
from tests.support.stored import closing_store, storage_of

from .measure import ROOT, NotRun, Row, Times, photo, ratio, samples
from .stores import store

POLL = 0.1  # s, the plain way
REST_TARGET = "10 / 50 ms"


def in_process(quick: bool) -> list[Row]:
    """From `GateBus.decide` in one thread until `Ticket.wait` has returned in another.

    Beside it: the same, but the waiter looks every 0.1 s whether there is an answer, which comes
    at a random moment in between.
    """

    def poll(ticket: Ticket) -> None:
        while not ticket.future.done():
            time.sleep(POLL)

    def wait(ticket: Ticket) -> Any:
        return ticket.wait()

    memory: GateBus[Any] = GateBus()
    ours = _decide_and_wait(memory, 200 if quick else 2000, wait, 0.001)
    plain = _decide_and_wait(memory, 10 if quick else 50, poll, POLL)
    with store("SQLite") as place, closing_store(place.bus()) as bus:
        durable = _decide_and_wait(bus, 50 if quick else 500, wait, 0.001)
        disk = _flushes(place.folder, 50 if quick else 500)
    return [
        Row(
            "decision → waiter, in process",
            str(ours),
            "p50 0.5 ms, 100 times",
            ours.p50 < 0.5 and plain.p50 > 100 * ours.p50,
            f"polling each 0.1 s: {plain} (N={plain.count}); {ratio(plain, ours)} faster",
            f"N={ours.count}, two threads, nothing is stored",
        ),
        Row(
            "decision → waiter, in process, stored in SQLite",
            str(durable),
            "",
            None,
            f"4 kB written and flushed to this disk: {disk}",
            f"N={durable.count}, two threads, as in ComfyUI: after the commit",
        ),
    ]


def _flushes(folder: Path, count: int) -> Times:
    """What no durable answer can be faster than."""
    with (folder / "flushed").open("wb", 0) as file:

        def once() -> float:
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            return time.perf_counter() - began

        return samples(count, once)


def _decide_and_wait(
    bus: GateBus[Any], count: int, wait: Callable[[Ticket], Any], pause: float
) -> Times:
    """Times of ``wait``, asked to decide up to ``pause`` seconds after it began to wait."""
    chance = random.Random(1)
    pictures = TensorPictures(photo(64))

    def once() -> float:
        ticket = bus.publish(Gate(("keep", "fix"), 64, 64), pictures)
        had: list[float] = []
        begun = threading.Event()

        def waiter() -> None:
            begun.set()
            wait(ticket)
            had.append(time.perf_counter())

        thread = threading.Thread(target=waiter)
        thread.start()
        begun.wait()
        time.sleep(0.001 + chance.uniform(0, pause))
        decided = time.perf_counter()
        bus.decide(ticket.gate.id, 1)
        thread.join()
        return had[0] - decided

    return samples(count, once, warm_up=min(count, 50))


def rest_click(quick: bool) -> list[Row]:
    """From sending the POST until the node behind the gate runs.

    In the stand-in for ComfyUI: the real node, bus and panel, gates stored in SQLite, uvicorn on a
    loopback port, one connection that stays open as a browser's does. Client, server and prompt
    share one process.
    """
    with store("SQLite") as place, closing_store(place.bus()) as bus:
        times, answered = _in_stand_in(bus, 30 if quick else 200)
    return [
        Row(
            "REST click → next node runs, stand-in",
            str(times),
            REST_TARGET,
            times.p50 <= 10 and times.p99 <= 50,
            how=f"N={times.count}, 1024 px image; the client has its answer after {answered}",
        )
    ]


class Image:
    """A source: the same image each time."""

    FUNCTION = "run"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)
    image: Any = None

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}, "optional": {"number": ("INT", {})}}

    def run(self, number: int = 0) -> tuple[Any]:
        return (self.image,)


class Mark(Image):
    """The node behind the gate: says when it runs."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE", {})}}

    def run(self, image: Any = None) -> tuple[Any]:
        return (time.perf_counter(),)


def _in_stand_in(bus: GateBus[Any], count: int) -> tuple[Times, Times]:
    """Until the next node runs, and until the client has read the answer to its click."""
    prompt = {
        "1": node("Image"),
        "2": node("ImageGate", image=["1", 0], routes=2, labels="keep, fix"),
        "3": node("Mark", image=["2", 1]),
    }
    service = Service(bus, storage_of(bus))
    came = threading.Semaphore(0)
    answers: list[float] = []

    class Gated(ImageGate):
        def __init__(self) -> None:
            super().__init__(service)

    def notify() -> None:
        for news in subscription.drain()[0]:
            if news.kind == "published":
                came.release()

    subscription = service.bus.subscribe(notify)
    Image.image = photo(1024)
    comfy = StandIn()
    with pytest.MonkeyPatch.context() as patch, subscription:
        comfy.install(patch)
        executor = Executor(comfy, {"Image": Image, "Mark": Mark, "ImageGate": Gated})
        url = urlsplit(service.start().result(60))
        connection = http.client.HTTPConnection(str(url.hostname), url.port)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        headers = {"content-type": "application/json", KEY_HEADER: service.key}

        def once() -> float:
            run = executor.start(prompt, ["3"])
            came.acquire()
            [gate] = service.bus.pending()
            time.sleep(0.02)  # by now it waits
            clicked = time.perf_counter()
            path = f"/imagegate/api/gates/{gate.gate.id}/decision"
            connection.request("POST", path, json.dumps({"route": 1}), headers)
            assert json.load(connection.getresponse()) == {"outcome": "won"}
            answers.append((time.perf_counter() - clicked) * 1000)
            ran: float = run.result().value("3")
            return ran - clicked

        times = samples(count, once, warm_up=5)
        connection.close()
    return times, Times(answers[-times.count :])


def rest_click_comfyui(quick: bool) -> list[Row]:
    """The same in a real ComfyUI, through its own port and the proxy.

    ``COMFYUI_DIR`` and ``COMFYUI_PYTHON`` name it, as for ``tests/live``. Both processes read one
    monotonic clock.
    """
    with _comfyui() as comfy:

        def once() -> float:
            run = comfy.queue(
                {
                    "1": node("BenchImage", side=1024),
                    "2": node("ImageGate", image=["1", 0], routes=2),
                    "3": node("BenchMark", image=["2", 1]),
                }
            )
            [gate] = comfy.waiting(run)
            time.sleep(0.02)
            clicked = time.monotonic()
            assert comfy.decide(gate, 1).status_code == 200
            ran: float = comfy.finished(run).outputs["3"]["at"][0]
            return ran - clicked

        times = samples(10 if quick else 100, once)
    return [
        Row(
            "REST click → next node runs, ComfyUI",
            str(times),
            REST_TARGET,
            times.p50 <= 10 and times.p99 <= 50,
            how=f"N={times.count}, through ComfyUI's port, 1024 px image",
        )
    ]


@contextmanager
def _comfyui() -> Iterator[Comfy]:
    checkout, python = os.environ.get("COMFYUI_DIR"), os.environ.get("COMFYUI_PYTHON")
    if not checkout or not python:
        missing = "COMFYUI_PYTHON" if checkout else "COMFYUI_DIR"
        raise NotRun(f"{missing} is not set")
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        for folder in ("custom_nodes", "input", "output", "temp", "models", "user/default"):
            (base / folder).mkdir(parents=True)
        (base / "custom_nodes" / "imagegate").symlink_to(ROOT)
        (base / "custom_nodes" / "bench_nodes").symlink_to(Path(__file__).parent / "comfy_nodes")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        log = base / "comfyui.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [python, "main.py", "--cpu", "--disable-api-nodes", "--port", str(port),
                 "--base-directory", temporary, "--user-directory", str(base / "user"),
                 "--database-url", "sqlite:///:memory:"],
                cwd=checkout, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
            )  # fmt: skip
        comfy = Comfy(f"http://127.0.0.1:{port}", base, log, set(), process)

        def listens() -> bool:
            assert process.poll() is None, f"ComfyUI ended:\n{log.read_text()[-4000:]}"
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        try:
            until(listens, "answer of ComfyUI", within=120)
            until(comfy.panel_runs, "panel", within=60)
            yield comfy
        finally:
            comfy.http.close()
            process.terminate()
            process.wait()
