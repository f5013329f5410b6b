"""A stand-in for ComfyUI with gates in lists, parked and waiting, and a person who answers them."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import sqlalchemy as sa
from PIL import Image

from imagegate.comfy.decisions import ImageGateDecisions
from imagegate.comfy.node import ImageGate
from imagegate.comfy.parked.resume import Resumer
from imagegate.core.model import Snapshot, State
from imagegate.storage.sql.tables import gates, parked
from tests.comfy.test_gate import QuietService, png
from tests.comfy.test_park import ExecutorQueue
from tests.support.comfy_stand_in import Comfy, Executor, Run
from tests.support.graph_nodes import SIZE, Output, classes, seen
from tests.support.random_graphs import Prompt, outputs_of, paints, route
from tests.support.stored import PATIENCE, storage_of, store_of, stored_bus


class Stage:
    """A ComfyUI, and a person who answers all that is asked, in an order of their own.

    Args:
        seed: of the order.
        first: the gate node that is answered before all others, where it can be.
        forgets: whether ComfyUI's cache is emptied before each prompt.
    """

    def __init__(self, comfy: Comfy, seed: int = 0, first: str = "", forgets: bool = False) -> None:
        self.made: list[int] = []
        self.outputs: list[Output] = []
        self.asked: list[tuple[str, str]] = []
        self.runs: list[Run] = []
        self.bus = stored_bus()
        self.random = random.Random(seed)
        self.first, self.forgets = first, forgets
        service = QuietService(self.bus, storage_of(self.bus))

        class Bound(ImageGate):
            def __init__(self) -> None:
                super().__init__(service)

        kinds = classes(self.made.append, self.outputs.append)
        gates = {"ImageGate": Bound, "ImageGateDecisions": ImageGateDecisions}
        self.executor = Executor(comfy, {**kinds, **gates})
        storage_of(self.bus)._opener._classes = lambda: list(self.executor.nodes)
        self.queue = ExecutorQueue(self)  # type: ignore[arg-type]
        self.resumer = Resumer(self.bus, storage_of(self.bus), self.queue)
        self.resumer.start()

    def start(self, prompt: Prompt, *outputs: str, **extra: Any) -> Run:
        if self.forgets:
            self.executor._cache.clear()
        self.runs.append(self.executor.start(prompt, list(outputs), **extra))
        return self.runs[-1]

    def play(self, prompt: Prompt) -> None:
        """Run a prompt, and answer until nothing is left to do."""
        self.start(prompt, *outputs_of(prompt))
        while gate := self.until(self.next_gate, "gate or end"):
            if gate == "end":
                break
            assert isinstance(gate, Snapshot)
            self.answer(gate)
        for run in self.runs:
            result = run.result()
            assert result.status == "success", (result.node_id, result.error)

    def next_gate(self) -> Snapshot | str | None:
        """A gate to answer, as soon as nothing happens by itself; "end" if there is none."""
        with store_of(self.bus).database.read() as connection:
            due = connection.exec_driver_sql("SELECT id FROM gates WHERE due = 1").all()
        pending = self.bus.pending()
        waits = any(snapshot.state is State.WAITING for snapshot in pending)
        if not waits and not all(run.over for run in self.runs):
            return None
        if due and not waits and not self.idle():
            return None
        if pending:
            wanted = [snapshot for snapshot in pending if snapshot.gate.node_id == self.first]
            return self.random.choice(wanted or pending)
        return "end" if not due and all(run.over for run in self.runs) else None

    def idle(self) -> bool:
        """Whether nothing that is due can go on before something else is answered."""
        table = parked.join(gates, gates.c.id == parked.c.gate_id)
        stored = store_of(self.bus).parked
        ready = (
            sa.select(gates.c.id)
            .select_from(table)
            .where(*stored._ready({storage_of(self.bus).id}))
        )
        claimed = sa.select(gates.c.id).where(gates.c.claimed_by != "", gates.c.due == 1)
        running = sa.select(parked.c.gate_id).where(parked.c.running != "")
        with store_of(self.bus).database.read() as connection:
            return not any(connection.execute(query).first() for query in (ready, claimed, running))

    def answer(self, snapshot: Snapshot) -> None:
        gate = snapshot.gate
        pictures = self.bus.pictures(gate.id)
        assert pictures is not None
        with Image.open(io.BytesIO(pictures.full(0).body)) as full:
            image = seen(np.asarray(full.convert("RGB")))
        self.asked.append((gate.node_id, image))
        if paints(gate.node_id, image):
            _, height, width, _ = SIZE
            self.bus.set_mask(gate.id, 0, png(width, height, (1, 2), (3, 1)))
        self.bus.decide(gate.id, route(gate.node_id, image))

    def until(self, probe: Callable[[], Any], what: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            if found := probe():
                return found
            assert time.monotonic() < deadline, f"no {what}: {self.state()}"
            time.sleep(0.001)

    def state(self) -> str:
        with store_of(self.bus).database.read() as connection:
            query = (
                "SELECT gates.id, node, item, length, live, together, running, state, due, reason "
                "FROM gates LEFT JOIN parked ON gate_id = id"
            )
            rows = connection.exec_driver_sql(query).all()
        return "\n".join(str(tuple(row)) for row in rows)

    def close(self) -> None:
        self.resumer.close()
        for run in self.runs:
            if not run.over:
                self.executor.comfy.interrupt()
        storage_of(self.bus).close()
