"""The node that parks: what is kept, what comes out when the prompt goes on, and what if it fails.

Prompts run in the stand-in for ComfyUI; going on is done by the real `Resumer`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from imagegate.comfy import asking as asking_module
from imagegate.comfy import waiting as waiting_module
from imagegate.comfy.node import ImageGate
from imagegate.comfy.parked import resume as resume_module
from imagegate.comfy.parked.resume import End, Resumer
from imagegate.core.model import Gate, State, StoreError
from imagegate.operator.service import Service
from tests.comfy.test_gate import Bench, QuietService, graph, photo, png
from tests.support.comfy_stand_in import Comfy, ExecutionBlocker, Run
from tests.support.stored import PATIENCE, storage_of, store_of, stored_bus, with_storage


class ExecutorQueue:
    """ComfyUI's queue: prompts that are submitted run in the bench's executor."""

    ready = True

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.runs: dict[str, Run] = {}
        self.done: list[Run] = []

    def is_output(self, class_type: str) -> bool:
        known: Any = self.bench.executor.nodes[class_type]
        return getattr(known, "OUTPUT_NODE", False) is True

    def submit(self, request: Mapping[str, Any]) -> str:
        targets = request["partial_execution_targets"]
        run = self.bench.start(request["prompt"], *targets, **request["extra_data"])
        self.runs[request["prompt_id"]] = run
        return ""

    def ended(self, prompt_id: str) -> End | None:
        run = self.runs[prompt_id]
        if not run.over:
            return None
        self.done.append(run)
        result = run.result()
        return End("" if result.status == "success" else f"{result.node_id}: {result.error}")

    def remove(self, prompt_id: str) -> bool:
        return False


class ParkBench(Bench):
    """A bench whose parked gates go on by themselves."""

    def __init__(self, comfy: Comfy, service: Service) -> None:
        super().__init__(comfy, service)
        storage_of(service.bus)._opener._classes = lambda: list(self.executor.nodes)
        self.queue = ExecutorQueue(self)
        self.resumer = Resumer(self.bus, storage_of(self.bus), self.queue)
        self.resumer.start()

    def park(self, prompt: dict[str, Any], *outputs: str, **extra: Any) -> Gate:
        """Run a prompt to its end; the one gate that it left behind."""
        assert self.start(prompt, *outputs, **extra).result().status == "success"
        return self.one()

    def settled(self) -> None:
        """Wait for what is done in the background: the image's fingerprint is."""
        done = threading.Event()
        storage_of(self.bus).later(done.set)
        assert done.wait(PATIENCE)

    def resumed(self, gate: Gate) -> Run:
        """How the prompt of a gate went on."""
        self.watch.until(lambda: self.bus.get(gate.id).state is State.RESUMED)
        return self.queue.done[-1]

    def close(self) -> None:
        self.resumer.close()
        for snapshot in self.bus.pending():
            self.bus.stop(snapshot.gate.id)
        super().close()


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> Comfy:
    monkeypatch.setattr(resume_module, "QUEUE_LOOK", 0.005)
    comfy = Comfy(BaseException)
    comfy.install(monkeypatch)
    return comfy


@pytest.fixture
def bench(comfy: Comfy) -> Iterator[ParkBench]:
    bench = ParkBench(comfy, QuietService(*with_storage(stored_bus())))
    bench.tensors["photo"] = photo()
    yield bench
    bench.close()


def parking(slots: tuple[int, ...] = (1,), **gate: Any) -> dict[str, Any]:
    return graph({"mode": "park", **gate}, slots)


def test_the_contract_of_the_new_inputs() -> None:
    """`mode` and `repeat` come after the old inputs, and the hidden `decision` shows no widget."""
    kinds = ImageGate.INPUT_TYPES()
    assert list(kinds["optional"])[-3:] == ["mode", "repeat", "list"]
    assert kinds["optional"]["mode"][0] == ["wait", "park"]
    assert kinds["optional"]["repeat"][0] == ["ask again", "reuse decision"]
    assert kinds["optional"]["list"][0] == ["keep places", "gather"]
    assert kinds["hidden"]["decision"] == ("STRING", {"default": ""})
    assert kinds["optional"]["mask"][1]["lazy"] is True


@pytest.mark.parametrize(("name", "allowed"), [("mode", "wait, park"), ("repeat", "ask again")])
def test_a_choice_that_there_is_not(bench: ParkBench, name: str, allowed: str) -> None:
    """A wrong `mode` or `repeat` is refused before the prompt runs, and says what is allowed."""
    result = bench.start(graph({name: "later"})).result()
    assert result.status == "invalid"
    assert allowed in str(result.error)


def test_a_parked_prompt_ends_with_everything_blocked(bench: ParkBench) -> None:
    """All eleven outputs are blocked without a message, and the prompt is a success."""
    result = bench.start(parking((1, 2)), "out1", "out2").result()
    assert result.status == "success"
    slots = [values[0] for values in result.outputs["gate"]]
    assert len(slots) == 11
    assert all(type(slot) is ExecutionBlocker and slot.message is None for slot in slots)
    gate = bench.one()
    snapshot = bench.bus.get(gate.id)
    assert (snapshot.state, gate.mode, gate.worker) == (State.PARKED, "park", "here")
    assert result.ran == ["load", "gate"]


@pytest.mark.parametrize("exact", [False, True], ids=["float", "8 bit"])
@pytest.mark.parametrize(("batch", "channels"), [(1, 3), (3, 4), (2, 1)])
def test_the_image_comes_back_bit_for_bit(
    bench: ParkBench, batch: int, channels: int, exact: bool
) -> None:
    """What goes on is the image as it was, also once the cache is empty; nothing upstream runs."""
    image = photo(batch, channels=channels)
    if exact:
        image = (image * 255).to(torch.uint8).float() / 255
    bench.tensors["photo"] = image
    gate = bench.park(parking((1, 2)), "out1", "out2")
    bench.executor._cache.clear()
    bench.bus.decide(gate.id, 2)
    result = bench.resumed(gate).result()
    assert result.ran == ["gate", "out2"]
    came = result.value("out2")
    assert came.dtype == torch.float32
    assert torch.equal(came.view(torch.int32), image.contiguous().view(torch.int32))
    assert bench.made == ["photo"]


def test_masks_go_on_too(bench: ParkBench) -> None:
    """A painted mask comes out; an image that was not painted has the mask input, as soft as it
    was; a cleared one has none.
    """
    bench.tensors["photo"] = photo(3)
    soft = torch.full((3, 6, 8), 0.3)
    bench.tensors["soft"] = soft
    prompt = parking(mask=["soft", 0])
    prompt["soft"] = {"class_type": "Load", "inputs": {"name": "soft"}}
    prompt["mask"] = {"class_type": "Take", "inputs": {"mask": ["gate", 0]}}
    gate = bench.park(prompt, "out", "mask")
    bench.bus.set_mask(gate.id, 1, png(8, 6, (2, 3)))
    bench.bus.set_mask(gate.id, 2, b"")
    bench.bus.decide(gate.id, 1)
    mask = bench.resumed(gate).result().value("mask")
    assert torch.equal(mask[0], soft[0])
    assert mask[1].sum() == 1
    assert mask[1, 3, 2] == 1
    assert not mask[2].any()
    assert bench.made == ["soft", "photo"] or bench.made == ["photo", "soft"]


def test_pictures_of_a_parked_gate(bench: ParkBench) -> None:
    """The panel shows a parked gate from its files: preview, full size, the mask to start from."""
    bench.tensors["photo"] = photo(2)
    bench.tensors["soft"] = torch.full((2, 6, 8), 0.3)
    prompt = parking(mask=["soft", 0])
    prompt["soft"] = {"class_type": "Load", "inputs": {"name": "soft"}}
    gate = bench.park(prompt)
    pictures = bench.bus.pictures(gate.id)
    assert pictures is not None
    for index in range(2):
        assert pictures.preview(index).media_type == "image/jpeg"
        assert pictures.full(index).body.startswith(b"\x89PNG")
        assert pictures.start_mask(index) is not None


def test_a_cached_list_is_not_taken_for_several(bench: ParkBench) -> None:
    """Each item of a list goes on once, though what came before it is still in the cache."""
    bench.tensors["list"] = [photo(), photo(height=8), photo(height=10)]
    prompt = parking((1,))
    prompt["load"] = {"class_type": "LoadList", "inputs": {"name": "list"}}
    assert bench.start(prompt).result().status == "success"
    gates = bench.watch.gates(3)
    for gate in gates:
        bench.bus.decide(gate.id, 1)
        images = bench.resumed(gate).result().outputs["out"][0]
        kept = [image for image in images if isinstance(image, torch.Tensor)]
        assert [image.shape[1] for image in kept] == [gate.height]
    assert bench.made == ["list"]


def test_a_gate_that_another_node_makes_cannot_park(bench: ParkBench) -> None:
    """A gate in a loop has no prompt that could go on; it says so."""
    node = ImageGate(bench.service)
    parks = node.run(photo(), mode="park", unique_id="5.0.1", prompt=graph())
    with pytest.raises(ValueError, match=r"cannot park.*set mode to wait"):
        asyncio.run(parks)


@pytest.mark.parametrize("decision", ["nobody", "../etc", "\x00"])
def test_a_decision_that_there_is_not(bench: ParkBench, decision: str) -> None:
    """A prompt with somebody's invented decision fails, and says why."""
    result = bench.start(graph({"decision": decision})).result()
    assert result.status == "error"
    assert "no gate has the id" in str(result.error)


def test_a_decision_of_an_open_gate_blocks(bench: ParkBench) -> None:
    """A gate that still waits is not asked a second time by the prompt of another one."""
    gate = bench.park(parking())
    result = bench.start(graph({"decision": gate.id})).result()
    assert result.status == "success"
    assert result.ran == ["gate"]
    assert bench.bus.count() == 1


def test_a_store_that_is_away_for_a_moment(
    bench: ParkBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that restarts just as the gate goes on takes no answer back: it is waited for."""
    monkeypatch.setattr(waiting_module, "INTERRUPT_LOOK", 0.001)
    monkeypatch.setattr(asking_module, "STORE_LOOK", 0.002)
    answer_of, away = storage_of(bench.bus).parking.answer_of, iter([True, True, False])

    def failing(gate_id: str) -> Any:
        if next(away):
            raise StoreError("connection refused", passing=True)
        return answer_of(gate_id)

    gate = bench.park(parking())
    monkeypatch.setattr(storage_of(bench.bus).parking, "answer_of", failing)
    bench.bus.decide(gate.id, 1)
    assert bench.resumed(gate).result().status == "success"
    assert bench.bus.get(gate.id).attempts == 1


def test_a_cancel_ends_the_wait_for_the_store(
    bench: ParkBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store stays away, ComfyUI's cancel still ends the prompt."""
    gate = bench.park(parking())
    asked = threading.Event()

    def failing(gate_id: str) -> Any:
        asked.set()
        raise StoreError("connection refused", passing=True)

    monkeypatch.setattr(storage_of(bench.bus).parking, "answer_of", failing)
    run = bench.start(graph({"decision": gate.id}))
    assert asked.wait(PATIENCE)
    bench.comfy.interrupt()
    assert run.result().status == "interrupted"


def test_an_answer_before_the_prompt_has_ended(
    bench: ParkBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that is answered while its prompt still runs goes on as soon as that has ended."""
    monkeypatch.setattr(resume_module, "IDLE", 2 * PATIENCE)
    looked, claims = threading.Event(), storage_of(bench.bus).claims
    take, ended = claims.take, claims.prompt_ended

    def look() -> Any:
        answered = not bench.bus.count()
        found = take()
        if answered:
            looked.set()
        return found

    def late(prompt_id: str) -> None:
        assert looked.wait(PATIENCE)
        ended(prompt_id)

    monkeypatch.setattr(claims, "prompt_ended", late)
    run = bench.start(parking())
    gate = bench.one()
    monkeypatch.setattr(claims, "take", look)
    bench.bus.decide(gate.id, 1)
    assert run.result().status == "success"
    assert bench.resumed(gate).result().ran


def test_pictures_that_are_gone(bench: ParkBench) -> None:
    """Where the image is no longer kept, the gate waits again and says so."""
    gate = bench.park(parking())
    store_of(bench.bus).picture_files.remove(gate.id)
    bench.bus.decide(gate.id, 1)
    bench.watch.until(lambda: bench.bus.get(gate.id).reason)
    assert "no longer kept" in bench.bus.get(gate.id).reason
    assert bench.bus.get(gate.id).state is State.PARKED


def test_a_place_that_cannot_be_written(bench: ParkBench, tmp_path: Path) -> None:
    """Without a place for the image the prompt fails clearly, and no half of a gate is left."""
    file = tmp_path / "file"
    file.write_text("no folder")
    bad = stored_bus(store=f"sqlite:///{tmp_path / 'g.sqlite'}", pictures=str(tmp_path / "p"))
    assert bad.count() == 0
    (tmp_path / "p").rename(tmp_path / "away")
    (tmp_path / "p").write_text("no folder any more")
    node = ImageGate(QuietService(bad, storage_of(bad)))
    with pytest.raises(StoreError, match="pictures"):
        asyncio.run(node.run(photo(), mode="park", unique_id="gate", prompt=graph()))
    assert bad.pending() == []
    storage_of(bad).close()


def test_what_was_queued_is_kept(bench: ParkBench) -> None:
    """The prompt and its extra data go on as they were, without what the executor wrote there."""
    extra = {"extra_pnginfo": {"workflow": {"id": "w", "nodes": []}}}
    gate = bench.park(parking(), **extra)
    parked = store_of(bench.bus).parked.get(gate.id)
    assert parked is not None
    assert dict(parked.extra) == extra
    assert parked.prompt["load"] == parking()["load"]
    assert gate.workflow_id == "w"


# -- repeat


def test_an_answer_is_used_again(bench: ParkBench) -> None:
    """An equal image with the same title and labels takes the same route and mask, without a pause,
    and the history says so; anything else is asked.
    """
    settings = {"repeat": "reuse decision", "title": "T", "labels": "keep, fix"}
    prompt = graph(settings, (1, 2))
    prompt["mask"] = {"class_type": "Take", "inputs": {"mask": ["gate", 0]}}
    run = bench.start(prompt, "out1", "out2", "mask")
    first = bench.one()
    bench.bus.set_mask(first.id, 0, png(8, 6, (2, 3)))
    bench.bus.decide(first.id, 2, by="Ann")
    run.result()
    bench.settled()
    result = bench.start(prompt, "out1", "out2", "mask").result()
    assert result.status == "success"
    assert "out2" in result.ran
    assert "out1" not in result.ran
    assert result.value("mask")[0, 3, 2] == 1
    newest = bench.bus.finished(1)[0]
    assert newest.gate.id != first.id
    assert newest.reusable
    assert newest.decision is not None
    assert (newest.decision.by, newest.decision.route) == ("Ann", 2)
    assert "again" in newest.reason
    for other in ({"title": "U"}, {"labels": "keep, fox"}):
        run = bench.start(graph({**settings, **other}, (1,)))
        bench.bus.stop(bench.one().id)
        assert run.result().status == "interrupted"
    storage_of(bench.bus).ask_again(newest.gate.id)
    run = bench.start(prompt, "out1", "out2", "mask")
    bench.bus.decide(bench.one().id, 1)
    assert "out1" in run.result().ran


def test_an_answer_that_was_a_stop_is_not_used_again(bench: ParkBench) -> None:
    """Stop, and the end of the time, are nobody's choice of a route: the image is asked again."""
    settings = {"repeat": "reuse decision", "title": "T"}
    run = bench.start(graph(settings))
    bench.bus.stop(bench.one().id)
    run.result()
    run = bench.start(graph(settings))
    bench.bus.decide(bench.one().id, 1)
    assert run.result().status == "success"


def test_a_parking_gate_uses_an_answer_again(bench: ParkBench) -> None:
    """With `reuse decision`, what was decided while parked does not park again."""
    prompt = parking(repeat="reuse decision", title="T")
    gate = bench.park(prompt)
    bench.bus.decide(gate.id, 1)
    bench.resumed(gate)
    bench.settled()
    result = bench.start(prompt).result()
    assert "out" in result.ran
    assert bench.bus.count() == 0
