"""What it costs that gates survive: parking, waking another process, looking through many."""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

from imagegate.comfy.node import ImageGate
from imagegate.core.model import Gate, State
from imagegate.gate_bus import GateBus
from imagegate.operator.service import Service
from tests.live.comfyui import node
from tests.support.comfy_stand_in import Comfy, Executor
from tests.support.stored import bus_over, closing_store, storage_of, store_of

from .load import API, GATES
from .measure import ROOT, NotRun, Row, Times, figure, photo, ratio, samples
from .served import served
from .stores import KINDS, Store, store
from .waiting import Image, Mark

POLL = 0.5
"""Seconds between looks at the row, as others do it."""
PARKED = 500
PARK_TARGET = 60
WAITER = "benchmarks.storing"


# -- park


def park(quick: bool) -> list[Row]:
    """From queuing a prompt until its gate is parked and the prompt has ended.

    Less what the same prompt takes without a gate, in the same stand-in for ComfyUI. Counted are
    preview, exact files, the prompt with its workflow, the commit; the image's fingerprint is taken
    afterwards, in the background, beside the next prompt.
    """
    rows = []
    for kind in KINDS:
        try:
            with store(kind) as place, closing_store(place.bus()) as bus:
                rows += _park(kind, bus, quick)
        except NotRun as missing:
            rows.append(Row(f"park, {kind}", f"not run: {missing}", "", None))
    return rows


def _park(kind: str, bus: GateBus[Any], quick: bool) -> list[Row]:
    rows = []
    for name, image in _images():
        side = image.shape[1]
        with _prompts(bus) as (parked, plain):
            few = quick or side > 2000
            count = 5 if few else 100
            nothing = samples(count, partial(plain, image))
            before = store_of(bus).gates.used_bytes()
            whole = [parked(image) for _ in range(count + 2)][2:]
            kept = (store_of(bus).gates.used_bytes() - before) / (count + 2)
        extra = Times([seconds * 1000 - nothing.p50 for seconds in whole])
        target = "60 ms" if side == 1024 else ""
        rows.append(
            Row(
                f"park, {name}, {kind}",
                str(extra),
                target,
                extra.p50 <= PARK_TARGET if target else None,
                f"without a gate: {nothing}",
                f"N={extra.count}, more than without; {kept / 1e6:.1f} MB of files a gate",
            )
        )
    return rows


def _images() -> Iterator[tuple[str, torch.Tensor]]:
    for side in (1024, 4096):
        image = photo(side)
        if side == 1024:
            yield f"{side} px, exactly 8-bit", (image * 255).round() / 255
        yield f"{side} px, float32", image


@contextmanager
def _prompts(bus: GateBus[Any]) -> Iterator[tuple[Any, Any]]:
    """Run a prompt that parks, and the same without its gate; both give seconds."""
    service = Service(bus, storage_of(bus))

    class Gated(ImageGate):
        def __init__(self) -> None:
            super().__init__(service)

    with pytest.MonkeyPatch.context() as patch:
        comfy = Comfy()
        comfy.install(patch)
        executor = Executor(comfy, {"Image": Image, "Mark": Mark, "ImageGate": Gated})
        extra = {"extra_pnginfo": {"workflow": workflow()}}
        gate = node("ImageGate", image=["1", 0], routes=2, labels="keep, fix", mode="park")
        with_gate = {"1": node("Image"), "2": gate, "3": node("Mark", image=["2", 1])}
        without = {"1": node("Image"), "3": node("Mark", image=["1", 0])}

        def run(prompt: dict[str, Any], image: torch.Tensor) -> float:
            Image.image = image
            # A new number each time, for ComfyUI would keep what it has run already.
            prompt = {**prompt, "1": node("Image", number=time.monotonic_ns())}
            began = time.perf_counter()
            result = executor.execute(prompt, ["3"], f"{time.monotonic_ns()}", extra)
            seconds = time.perf_counter() - began
            executor._cache.clear()
            assert result.status == "success", result.error
            return seconds

        yield partial(run, with_gate), partial(run, without)


def workflow(size: int = 200_000) -> dict[str, Any]:
    """What ComfyUI's page sends along: of this size as JSON, much of it alike."""
    chance = random.Random(1)
    nodes: list[dict[str, Any]] = []
    length = 0
    while length < size:
        number = len(nodes)
        one = {
            "id": number, "type": chance.choice(["KSampler", "CLIPTextEncode", "VAEDecode"]),
            "pos": [chance.uniform(0, 5000), chance.uniform(0, 5000)], "size": [315, 262],
            "flags": {}, "order": number, "mode": 0,
            "inputs": [{"name": "model", "type": "MODEL", "link": number}],
            "properties": {"Node name for S&R": "KSampler"},
            "widgets_values": [chance.getrandbits(50), "fixed", 20, 8, "euler", "normal", 1],
        }  # fmt: skip
        nodes.append(one)
        length += len(json.dumps(one)) + 2
    return {"id": "bench", "nodes": nodes, "links": [], "version": 0.4}


def parked_many(quick: bool) -> list[Row]:
    """500 parked gates with 200 kB of workflow each: the database, and one list of them all."""
    rows = []
    count = 50 if quick else PARKED
    for kind in KINDS:
        what = f"{count} gates parked, {kind}"
        try:
            with store(kind) as place, closing_store(place.bus()) as bus:
                assert bus.count() == 0
                before = place.size()
                with _prompts(bus) as (parked, _):
                    image = photo(64)
                    for _ in range(count):
                        parked(image)
                size = place.size() - before
                listed = samples(20, partial(_listed, bus, count))
        except NotRun as missing:
            rows.append(Row(what, f"not run: {missing}", "", None))
            continue
        rows.append(
            Row(
                what, f"{size / 1e6:.0f} MB", "", None,
                f"of workflow as JSON: {count * len(json.dumps(workflow())) / 1e6:.0f} MB",
                f"database alone, {size / count / 1e3:.0f} kB a gate; the bus lists all in "
                f"{listed} (N={listed.count})",
            )
        )  # fmt: skip
    return rows


def _listed(bus: GateBus[Any], count: int) -> float:
    began = time.perf_counter()
    assert len(bus.pending()) == count
    return time.perf_counter() - began


# -- wake


def wake(quick: bool) -> list[Row]:
    """From `GateBus.decide` in one process until a waiter in another has its answer.

    The commit is part of it. Beside it: the waiter reads the gate's row every 0.5 s, and the
    answer comes at a random moment in between. Both processes read one monotonic clock.
    """
    rows = []
    for kind in KINDS:
        what = f"decision → waiter in another process, {kind}"
        try:
            with store(kind) as place:
                ours, told = _wake(place, "wait", 20 if quick else 300, 0.06)
                plain, _ = _wake(place, "poll", 5 if quick else 50, POLL)
        except NotRun as missing:
            rows.append(Row(what, f"not run: {missing}", "", None))
            continue
        rows.append(
            Row(
                what, str(ours), "", None,
                f"polling each {POLL} s: {plain} (N={plain.count}); {ratio(plain, ours)} faster",
                f"N={ours.count}; who decides is told so after {figure(told.p50)}",
            )
        )  # fmt: skip
    return rows


def _wake(place: Store, how: str, count: int, pause: float) -> tuple[Times, Times]:
    """Until the other process has the answer, and until this one knows that it is recorded."""
    chance = random.Random(1)
    told: list[float] = []
    settings = place.settings
    with (
        closing_store(place.bus("panel")) as bus,
        subprocess.Popen(
            [sys.executable, "-m", WAITER, how, settings.store, settings.pictures],
            cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        ) as waiter,
    ):  # fmt: skip
        assert waiter.stdin
        assert waiter.stdout
        said, asked = waiter.stdout, waiter.stdin

        def once() -> float:
            asked.write("go\n")
            asked.flush()
            gate_id = said.readline().strip()
            time.sleep(0.01 + chance.uniform(0, pause))
            began = time.monotonic()
            bus.decide(gate_id, 1)
            told.append((time.monotonic() - began) * 1000)
            return float(said.readline()) - began

        times = samples(count, once, warm_up=5)
        asked.close()
    return times, Times(told[-times.count :])


def _waiter(how: str, url: str, pictures: str) -> None:
    """The other process: for each line asks at a gate; says its id, then when it was answered."""
    from imagegate.core.settings import Settings
    from imagegate.pictures.tensors import TensorPictures

    settings = Settings(url, pictures, "waiter")
    image = photo(64)
    with closing_store(bus_over(settings, classes=())) as bus:
        for _ in sys.stdin:
            ticket = bus.publish(Gate(("keep", "fix"), 64, 64), TensorPictures(image))
            answered = threading.Event()
            sys.stdout.write(f"{ticket.gate.id}\n")
            sys.stdout.flush()
            if how == "wait":
                ticket.future.result()
            else:
                while bus.get(ticket.gate.id).state is not State.DECIDED:
                    answered.wait(POLL)
            sys.stdout.write(f"{time.monotonic()}\n")
            sys.stdout.flush()


# -- many


def list_of_many(quick: bool) -> list[Row]:
    """One REST call for 50 of 10,000 parked gates, to a panel's process, over an open connection.

    Each time after one more gate was parked: a panel that nothing was told of may answer from what
    it counted last.
    """
    rows = []
    for kind in KINDS:
        what = f"{GATES:,} gates parked: list of 50, {kind}"
        try:
            with store(kind) as place, closing_store(place.bus()) as bus:
                times = _list_of_many(place, bus, 20 if quick else 200)
        except NotRun as missing:
            rows.append(Row(what, f"not run: {missing}", "50 ms", None))
            continue
        how = f"N={times.count}, through REST, from the middle too"
        rows.append(Row(what, str(times), "50 ms", times.p50 <= 50, how=how))
    return rows


def _list_of_many(place: Store, bus: GateBus[Any], count: int) -> Times:
    fill(bus, GATES)
    middle = bus.pending(1, after=GATES // 2)[0].seq
    chance = random.Random(1)
    with served(place.settings) as panel:
        url = urlsplit(panel.publish(0).url)
        connection = http.client.HTTPConnection(str(url.hostname), url.port)

        def once() -> float:
            fill(bus, 1)
            cursor = chance.choice(["", f"&cursor={middle}"])
            began = time.perf_counter()
            connection.request("GET", f"{API}/gates?limit=50{cursor}")
            body = connection.getresponse().read()
            seconds = time.perf_counter() - began
            assert len(json.loads(body)["gates"]) == 50
            return seconds

        times = samples(count, once)
        connection.close()
    return times


def fill(bus: GateBus[Any], count: int) -> None:
    """Park gates that have no pictures."""
    from imagegate.storage.queries.runs import Parked

    prompt = {"2": node("ImageGate", image=["1", 0], routes=3)}
    for number in range(count):
        gate = Gate(("keep", "fix", "reject"), 1024, 1024, title=f"Image {number}", mode="park")
        parked = Parked(root=gate.id, node="2", prompt=prompt, extra={})
        store_of(bus).gates.add(
            gate, worker=storage_of(bus).id, state=State.PARKED, also=[parked.insert(gate.id)]
        )  # fmt: skip


if __name__ == "__main__":
    _waiter(*sys.argv[1:])
