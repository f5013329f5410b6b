"""The node's contract, against a stand-in for ComfyUI's executor."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image

from imagegate.comfy import waiting as waiting_module
from imagegate.comfy.decisions import ImageGateDecisions
from imagegate.comfy.node import ImageGate
from imagegate.comfy.outputs import mask_from_stash, route_tuple
from imagegate.comfy.question import gate_title
from imagegate.core.model import BadPicture, Gate, GateClosed, Outcome, State
from imagegate.operator.service import Service
from imagegate.pictures.tensors import TensorPictures
from tests.conftest import Watch
from tests.support.comfy_stand_in import Comfy, ExecutionBlocker, Executor, Run
from tests.support.stored import PATIENCE, storage_of, stored_bus, with_storage


class QuietService(Service):
    """A service whose panel is up at once, without a server."""

    def start(self) -> Future[str]:
        ready: Future[str] = Future()
        ready.set_result("http://127.0.0.1:1")
        return ready


class Bench:
    """A ComfyUI with the gate and some other nodes, and a person at the bus."""

    def __init__(self, comfy: Comfy, service: Service) -> None:
        self.comfy, self.service, self.bus = comfy, service, service.bus
        self.watch = Watch(service.bus)
        self.tensors: dict[str, Any] = {}
        self.made: list[str] = []
        self.runs: list[Run] = []
        self.release = threading.Event()
        self.busy = threading.Event()
        self.fail: Future[None] = Future()
        self.executor = Executor(
            comfy,
            {
                "ImageGate": self._gate(),
                "ImageGateDecisions": ImageGateDecisions,
                "Load": self._load(),
                "LoadList": self._load(is_list=True),
                "Take": _Take,
                "Sampler": self._sampler(),
                "Fail": self._fail(),
                "Loop": _Loop,
            },
        )

    def start(self, prompt: dict[str, Any], *outputs: str, **extra: Any) -> Run:
        run = self.executor.start(prompt, list(outputs) or ["out"], **extra)
        self.runs.append(run)
        return run

    def close(self) -> None:
        """End what a failed test left running, for it would disturb the next one."""
        self.release.set()
        left = [run for run in self.runs if not run.over]
        for run in left:
            for snapshot in self.bus.pending():
                self.bus.stop(snapshot.gate.id)
            self.comfy.interrupt()
            run.result()
        self.watch.close()
        assert not left, "a prompt was left running"
        assert self.bus.count() == 0, "a gate was left waiting"
        storage_of(self.bus).close()

    def one(self) -> Gate:
        return self.watch.gates(1)[0]

    def _gate(self) -> type:
        service = self.service

        class Bound(ImageGate):
            def __init__(self) -> None:
                super().__init__(service)

        return Bound

    def _load(self, is_list: bool = False) -> type:
        bench = self

        class Load:
            RETURN_TYPES = ("IMAGE",)
            FUNCTION = "load"
            OUTPUT_IS_LIST = (is_list,)

            @classmethod
            def INPUT_TYPES(cls) -> dict[str, Any]:
                return {"required": {"name": ("STRING", {})}}

            def load(self, name: str) -> tuple[Any]:
                bench.made.append(name)
                return (bench.tensors[name],)

        return Load

    def _sampler(self) -> type:
        bench = self

        class Sampler(_Take):
            """Keeps the loop busy, looking at the interrupt flag as a sampler does."""

            OUTPUT_NODE = False

            def take(self, image: Any = None, mask: Any = None) -> tuple[Any]:
                bench.busy.set()
                while not bench.release.wait(0.005):
                    bench.comfy.throw_if_interrupted()
                return ("sampled",)

        return Sampler

    def _fail(self) -> type:
        bench = self

        class Fail(_Take):
            async def take(self, **_: Any) -> tuple[Any]:  # type: ignore[override]
                await asyncio.wrap_future(bench.fail)
                raise OSError("another branch failed")

        return Fail


class _Take:
    RETURN_TYPES = ("*",)
    FUNCTION = "take"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}, "optional": {"image": ("IMAGE", {}), "mask": ("MASK", {})}}

    def take(self, image: Any = None, mask: Any = None) -> tuple[Any]:
        return (image if mask is None else mask,)


class _Loop:
    """Makes a gate by node expansion, as loop packs do for each turn."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "turn"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"image": ("IMAGE", {"rawLink": True})},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def turn(self, image: Any, unique_id: str) -> dict[str, Any]:
        inner = {
            f"{unique_id}.0.load": {"class_type": "Load", "inputs": {"name": "photo"}},
            f"{unique_id}.0.gate": {
                "class_type": "ImageGate",
                "inputs": {"image": [f"{unique_id}.0.load", 0], "routes": 2},
            },
        }
        return {"expand": inner, "result": ([f"{unique_id}.0.gate", 1],)}


@pytest.fixture(params=[BaseException, Exception], ids=["interrupt-base", "interrupt-exception"])
def comfy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Comfy:
    comfy = Comfy(request.param)
    comfy.install(monkeypatch)
    return comfy


@pytest.fixture
def bench(comfy: Comfy) -> Iterator[Bench]:
    bench = Bench(comfy, QuietService(*with_storage(stored_bus())))
    bench.tensors["photo"] = photo()
    yield bench
    bench.close()


def photo(batch: int = 1, height: int = 6, width: int = 8, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, height, width, channels, generator=generator)


def png(width: int, height: int, *painted: tuple[int, int]) -> bytes:
    mask = Image.new("L", (width, height))
    for x, y in painted:
        mask.putpixel((x, y), 255)
    out = io.BytesIO()
    mask.save(out, "PNG")
    return out.getvalue()


def graph(gate: dict[str, Any] | None = None, slots: tuple[int, ...] = (1,)) -> dict[str, Any]:
    """load -> gate -> one output node for each of ``slots``."""
    prompt: dict[str, Any] = {
        "load": {"class_type": "Load", "inputs": {"name": "photo"}},
        "gate": {"class_type": "ImageGate", "inputs": {"image": ["load", 0], "routes": 2}},
    }
    prompt["gate"]["inputs"].update(gate or {})
    for slot in slots:
        name = "out" if slots == (slot,) else f"out{slot}"
        prompt[name] = {"class_type": "Take", "inputs": {"image": ["gate", slot]}}
    return prompt


def ends(run: Run, status: str = "interrupted") -> None:
    result = run.result()
    assert result.status == status, result


# -- what goes in and comes out


def test_a_prompt_of_image_and_routes_runs(bench: Bench) -> None:
    """A prompt that gives only image and routes pauses, and runs on along the chosen route."""
    run = bench.start(graph(slots=(1, 2)), "out1", "out2")
    gate = bench.one()
    assert (gate.labels, gate.width, gate.height, gate.batch) == (("1", "2"), 8, 6, 1)
    assert not run.over
    bench.bus.decide(gate.id, 2)
    result = run.result()
    assert result.status == "success"
    assert result.ran == ["load", "gate", "out2"]


def test_the_chosen_slot_has_the_very_tensor(bench: Bench) -> None:
    """Eleven outputs come out: the mask, the same tensor object, and blockers without a message."""
    run = bench.start(graph({"routes": 10}, slots=(7,)))
    bench.bus.decide(bench.one().id, 7)
    slots = [values[0] for values in run.result().outputs["gate"]]
    assert len(slots) == 11
    assert slots[7] is bench.tensors["photo"]
    others = slots[1:7] + slots[8:]
    assert all(type(other) is ExecutionBlocker and other.message is None for other in others)
    assert slots[0].shape == (1, 6, 8)


def test_the_class_is_what_workflows_know() -> None:
    """Names, types, order and defaults of the node are those of the contract."""
    kinds = ImageGate.INPUT_TYPES()
    assert ImageGate.CATEGORY == "Datasete Gates"
    assert ("MASK", *["IMAGE"] * 10) == ImageGate.RETURN_TYPES
    assert ("mask", *[f"route_{i}" for i in range(1, 11)]) == ImageGate.RETURN_NAMES
    assert list(kinds["required"]) == ["image", "routes"]
    assert kinds["required"]["image"][1]["lazy"] is True
    assert kinds["required"]["routes"][1] | {"tooltip": ""} == {
        "default": 2, "min": 1, "max": 10, "tooltip": "",
    }  # fmt: skip
    assert list(kinds["optional"])[:2] == ["labels", "title"]
    assert kinds["optional"]["on_timeout"][0] == ["stop", *[f"route {i}" for i in range(1, 11)]]
    assert set(kinds["hidden"]) >= {"unique_id", "prompt", "extra_pnginfo"}
    assert asyncio.iscoroutinefunction(ImageGate.run)


def test_labels_travel_in_the_prompt(bench: Bench) -> None:
    """Labels are split, trimmed and filled up with numbers."""
    run = bench.start(graph({"routes": 3, "labels": " keep ,\nfix"}))
    gate = bench.one()
    assert gate.labels == ("keep", "2", "fix")
    bench.bus.decide(gate.id, "keep")
    assert run.result().status == "success"


@pytest.mark.parametrize("chosen", range(10))
def test_route_tuple(chosen: int) -> None:
    """route_tuple counts from 0 and puts the image nowhere else."""
    assert route_tuple(chosen, "image", None) == (
        *[None] * chosen, "image", *[None] * (9 - chosen)
    )  # fmt: skip


@pytest.mark.parametrize("chosen", [-1, 10])
def test_route_tuple_refuses(chosen: int) -> None:
    """route_tuple refuses a route that does not exist, naming those that do."""
    with pytest.raises(ValueError, match="0 to 9"):
        route_tuple(chosen, "image", None)


def test_is_changed_is_a_fresh_nan() -> None:
    """IS_CHANGED never gives the same object twice, so no cache can hold it."""
    first, second = ImageGate.IS_CHANGED(image=None), ImageGate.IS_CHANGED(image=None)
    assert math.isnan(first)
    assert math.isnan(second)
    assert first is not second


def test_two_runs_pause_twice(bench: Bench) -> None:
    """The same prompt asks again each time, while what is upstream stays cached."""
    for chosen in (1, 1):
        run = bench.start(graph())
        bench.bus.decide(bench.one().id, chosen)
        result = run.result()
        assert "gate" in result.ran
        assert "out" in result.ran
    assert bench.made == ["photo"]
    assert "load" in result.cached


def test_the_stand_in_caches_a_constant_nan(bench: Bench) -> None:
    """The stand-in is honest about NaN: one that is the same object counts as unchanged."""
    constant = float("nan")

    class Constant(_Take):
        @classmethod
        def IS_CHANGED(cls, **_: Any) -> float:
            return constant

    bench.executor.nodes["Constant"] = Constant
    prompt = {"out": {"class_type": "Constant", "inputs": {}}}
    assert bench.start(prompt).result().ran == ["out"]
    assert bench.start(prompt).result().cached == ["out"]


def test_image_is_lazy(bench: Bench) -> None:
    """The node asks for its image, once, and gets it."""
    node = ImageGate(bench.service)
    assert node.check_lazy_status(image=None, routes=2) == ["image"]
    assert node.check_lazy_status(image=photo(), routes=2) == []


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"routes": 0}, "1 to 10"),
        ({"routes": 11}, "1 to 10"),
        ({"timeout": -1}, "0 (never)"),
        ({"timeout": 5, "on_timeout": "route 3"}, "stop, route 1, route 2"),
        ({"timeout": 5, "on_timeout": "route"}, "stop, route 1, route 2"),
    ],
)
def test_a_bad_prompt_is_refused_before_it_runs(
    bench: Bench, given: dict[str, Any], named: str
) -> None:
    """What cannot work is refused by validation, naming what was allowed."""
    result = bench.start(graph(given)).result()
    assert result.status == "invalid"
    assert named in str(result.error)
    assert bench.made == []


def test_routes_from_another_node_are_checked_when_they_come(bench: Bench) -> None:
    """A number of routes that arrives by a link is refused when it is out of range."""
    bench.tensors["twelve"] = 12
    prompt = graph({"routes": ["number", 0]})
    prompt["number"] = {"class_type": "Load", "inputs": {"name": "twelve"}}
    result = bench.start(prompt).result()
    assert result.status == "error"
    assert isinstance(result.error, ValueError)
    assert "1 to 10" in str(result.error)


def test_another_output_than_the_chosen_never_runs(bench: Bench) -> None:
    """What hangs on a route not chosen is skipped, with all that hangs on it."""
    prompt = graph(slots=(1, 2))
    prompt["after"] = {"class_type": "Take", "inputs": {"image": ["out2", 0]}}
    run = bench.start(prompt, "out1", "after")
    bench.bus.decide(bench.one().id, 1)
    assert run.result().ran == ["load", "gate", "out1"]


def test_a_blocked_image_asks_nobody(bench: Bench) -> None:
    """A gate behind a route that was not chosen is skipped: nobody is asked."""
    prompt = graph(slots=(1,))
    prompt["second"] = {"class_type": "ImageGate", "inputs": {"image": ["gate", 2], "routes": 2}}
    prompt["out2"] = {"class_type": "Take", "inputs": {"image": ["second", 1]}}
    run = bench.start(prompt, "out", "out2")
    bench.bus.decide(bench.one().id, 1)
    assert run.result().ran == ["load", "gate", "out"]
    assert len(bench.bus.finished()) == 1


# -- masks


def mask_graph(gate: dict[str, Any] | None = None) -> dict[str, Any]:
    prompt = graph(gate)
    prompt["out"]["inputs"] = {"mask": ["gate", 0]}
    return prompt


def test_not_painted_is_zeros(bench: Bench) -> None:
    """Without paint the mask is float32 zeros of the size of the image and its batch."""
    bench.tensors["photo"] = photo(batch=3)
    run = bench.start(mask_graph())
    bench.bus.decide(bench.one().id, 1)
    mask = run.result().value("out")
    assert mask.dtype == torch.float32
    assert mask.shape == (3, 6, 8)
    assert not mask.any()


def test_the_mask_is_not_blocked_by_the_route(bench: Bench) -> None:
    """The mask comes out whichever route was chosen."""
    run = bench.start(mask_graph())
    bench.bus.decide(bench.one().id, 2)
    assert "out" in run.result().ran


def test_painted_pixels_come_out_exactly(bench: Bench) -> None:
    """A painted mask is 1 where it was painted, 0 elsewhere, for that image of the batch only."""
    bench.tensors["photo"] = photo(batch=3)
    run = bench.start(mask_graph())
    gate = bench.one()
    bench.bus.set_mask(gate.id, 1, png(8, 6, (0, 0), (7, 5), (2, 3)))
    bench.bus.decide(gate.id, 1)
    mask = run.result().value("out")
    painted = torch.zeros(3, 6, 8)
    painted[1, 0, 0] = painted[1, 5, 7] = painted[1, 3, 2] = 1
    assert torch.equal(mask, painted)


def test_a_mask_painted_smaller_is_scaled(bench: Bench) -> None:
    """A mask painted at half the size comes out at the size of the image."""
    bench.tensors["photo"] = photo(height=40, width=80)
    run = bench.start(mask_graph())
    gate = bench.one()
    half = Image.new("L", (40, 20))
    half.paste(255, (0, 0, 20, 20))
    out = io.BytesIO()
    half.save(out, "PNG")
    bench.bus.set_mask(gate.id, 0, out.getvalue())
    bench.bus.decide(gate.id, 1)
    mask = run.result().value("out")[0]
    assert mask.shape == (40, 80)
    assert torch.all(mask[:, :38] == 1)
    assert torch.all(mask[:, 42:] == 0)


def test_the_mask_input_comes_out_where_nothing_was_painted(bench: Bench) -> None:
    """A connected mask passes for images nobody painted; painting and clearing replace it."""
    bench.tensors["photo"] = photo(batch=3)
    start = torch.rand(3, 6, 8)
    bench.tensors["mask"] = start
    prompt = mask_graph({"mask": ["mask", 0]})
    prompt["mask"] = {"class_type": "Load", "inputs": {"name": "mask"}}
    run = bench.start(prompt)
    gate = bench.one()
    pictures = bench.bus.pictures(gate.id)
    assert pictures is not None
    assert pictures.start_mask(0) is not None
    bench.bus.set_mask(gate.id, 1, png(8, 6, (1, 1)))
    bench.bus.set_mask(gate.id, 2, b"")
    bench.bus.decide(gate.id, 1)
    mask = run.result().value("out")
    assert torch.equal(mask[0], start[0])
    assert mask[1].sum() == 1
    assert not mask[2].any()
    assert torch.equal(bench.tensors["mask"], start), "the input itself was changed"
    assert mask.data_ptr() != start.data_ptr()


@pytest.mark.parametrize("shape", [(12, 16), (1, 12, 16), (1, 1, 12, 16), (5, 12, 16)])
def test_a_mask_input_of_another_size_fits(bench: Bench, shape: tuple[int, ...]) -> None:
    """A mask input of another size, batch or number of dimensions is made to fit."""
    bench.tensors["photo"] = photo(batch=2)
    bench.tensors["mask"] = torch.ones(shape)
    prompt = mask_graph({"mask": ["mask", 0]})
    prompt["mask"] = {"class_type": "Load", "inputs": {"name": "mask"}}
    run = bench.start(prompt)
    bench.bus.decide(bench.one().id, 1)
    assert torch.equal(run.result().value("out"), torch.ones(2, 6, 8))


@pytest.mark.parametrize("mask", [torch.ones(2, 3, 4, 5), torch.ones(0, 4, 4), torch.ones(3)])
def test_a_wrong_mask_input_is_a_clear_error(bench: Bench, mask: torch.Tensor) -> None:
    """A mask input that is none ends the prompt with its shape, and asks nobody."""
    bench.tensors["mask"] = mask
    prompt = mask_graph({"mask": ["mask", 0]})
    prompt["mask"] = {"class_type": "Load", "inputs": {"name": "mask"}}
    result = bench.start(prompt).result()
    assert result.status == "error"
    assert isinstance(result.error, BadPicture)
    assert str(list(mask.shape)) in str(result.error)
    assert bench.bus.finished() == []


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("wild", [False, True])
def test_any_image_passes(bench: Bench, channels: int, wild: bool) -> None:
    """Images of 1, 3 and 4 channels pass unchanged, NaN and infinity too, and have a preview."""
    image = photo(batch=2, channels=channels)
    if wild:
        image[0, 0, 0], image[0, 1, 1], image[0, 2, 2] = math.nan, math.inf, -math.inf
        image[1] = math.nan
    bench.tensors["photo"] = image
    run = bench.start(graph())
    gate = bench.one()
    pictures = bench.bus.pictures(gate.id)
    assert pictures is not None
    for index in range(2):
        for picture in (pictures.preview(index), pictures.full(index)):
            assert Image.open(io.BytesIO(picture.body)).size == (8, 6)
    bench.bus.decide(gate.id, 1)
    assert run.result().value("out") is image


@pytest.mark.parametrize(
    "image",
    [
        torch.ones(6, 8, 3),
        torch.ones(1, 6, 8, 2),
        torch.ones(1, 6, 8, 5),
        torch.ones(0, 6, 8, 3),
        torch.ones(1, 0, 8, 3),
        {"samples": torch.ones(1, 4, 8, 8)},
        "a.png",
    ],
    ids=["3-dim", "2-channels", "5-channels", "no-image", "no-height", "latent", "text"],
)
def test_what_is_no_image_is_a_clear_error(bench: Bench, image: Any) -> None:
    """What is no image ends the prompt saying what came and what was expected; nobody is asked."""
    bench.tensors["photo"] = image
    result = bench.start(graph()).result()
    assert result.status == "error"
    assert isinstance(result.error, ValueError)
    assert "[B,H,W,C]" in str(result.error)
    assert bench.bus.finished() == []


@pytest.mark.parametrize("stash", [None, b""])
def test_mask_from_stash_of_nothing(stash: bytes | None) -> None:
    """Nothing painted is zeros for the whole batch."""
    assert torch.equal(mask_from_stash(stash, photo(batch=2)), torch.zeros(2, 6, 8))


def test_mask_from_stash_is_for_the_whole_batch() -> None:
    """One saved mask covers each image of the batch, each with memory of its own."""
    mask = mask_from_stash(png(8, 6, (3, 2)), photo(batch=2))
    assert mask.shape == (2, 6, 8)
    assert mask[0, 2, 3] == mask[1, 2, 3] == 1
    assert mask.sum() == 2
    mask[0] = 0
    assert mask[1].sum() == 1


def test_mask_from_stash_refuses_another_shape() -> None:
    """A mask of another aspect ratio is refused."""
    with pytest.raises(BadPicture, match="aspect"):
        mask_from_stash(png(6, 8), photo())


# -- several gates


def test_a_batch_is_one_gate_and_goes_whole(bench: Bench) -> None:
    """A batch is one question; all of it goes down one route."""
    bench.tensors["photo"] = photo(batch=4)
    run = bench.start(graph())
    gate = bench.one()
    assert gate.batch == 4
    bench.bus.decide(gate.id, 1)
    assert run.result().value("out") is bench.tensors["photo"]


def list_graph() -> dict[str, Any]:
    prompt = graph(slots=(1, 2))
    prompt["load"]["class_type"] = "LoadList"
    return prompt


def test_a_list_shows_all_its_items_at_once(bench: Bench) -> None:
    """Each item of a list is its own gate, all at the same time, answered in any order."""
    items = [photo(height=h) for h in (3, 4, 5)]
    bench.tensors["photo"] = items
    run = bench.start(list_graph(), "out1", "out2")
    gates = bench.watch.gates(3)
    assert [gate.height for gate in gates] == [3, 4, 5]
    assert len({gate.id for gate in gates}) == 3
    assert {gate.prompt_id for gate in gates} == {"prompt-1"}
    for gate, route in zip(reversed(gates), (1, 2, 1), strict=True):
        bench.bus.decide(gate.id, route)
    outputs = run.result().outputs
    first, second = outputs["out1"][0], outputs["out2"][0]
    assert first[0] is items[0]
    assert first[2] is items[2]
    assert second[1] is items[1]
    assert type(first[1]) is ExecutionBlocker


def two_gates() -> dict[str, Any]:
    prompt = graph()
    prompt["gate2"] = {"class_type": "ImageGate", "inputs": {"image": ["load", 0], "routes": 3}}
    prompt["out2"] = {"class_type": "Take", "inputs": {"image": ["gate2", 3]}}
    return prompt


def test_two_gates_never_mix_up(bench: Bench) -> None:
    """Two gates of one prompt wait together; an answer to one leaves the other alone."""
    run = bench.start(two_gates(), "out", "out2")
    by_node = {gate.node_id: gate for gate in bench.watch.gates(2)}
    bench.bus.decide(by_node["gate2"].id, 3)
    assert [gate.node_id for gate in bench.watch.gates(1)] == ["gate"]
    assert not run.over
    bench.bus.decide(by_node["gate"].id, 1)
    assert {"out", "out2"} <= set(run.result().ran)


def test_other_branches_run_meanwhile(bench: Bench) -> None:
    """While a gate waits, another branch of the same prompt runs to its end."""
    ran = threading.Event()

    class Other(_Take):
        def take(self, image: Any = None, mask: Any = None) -> tuple[Any]:
            ran.set()
            return ("done",)

    bench.executor.nodes["Other"] = Other
    prompt = graph()
    prompt["other"] = {"class_type": "Other", "inputs": {}}
    run = bench.start(prompt, "out", "other")
    gate = bench.one()
    assert ran.wait(PATIENCE)
    assert not run.over
    bench.bus.decide(gate.id, 1)
    assert run.result().status == "success"


def test_a_gate_in_a_loop_is_known_by_the_node_on_screen(bench: Bench) -> None:
    """A gate that another node made is shown as that node, which the front end knows."""
    prompt = {
        "photo": {"class_type": "Load", "inputs": {"name": "photo"}},
        "12": {"class_type": "Loop", "inputs": {"image": ["photo", 0]}},
        "out": {"class_type": "Take", "inputs": {"image": ["12", 0]}},
    }
    run = bench.start(prompt)
    gate = bench.one()
    assert gate.node_id == "12"
    bench.bus.decide(gate.id, 1)
    assert run.result().value("out") is bench.tensors["photo"]


# -- titles


WORKFLOW = {
    "nodes": [
        {"id": 2, "type": "ImageGate", "title": "Top two"},
        {"id": 3, "type": "ImageGate"},
        {"id": 4, "type": "sub-a"},
        {"id": 5, "type": "sub-b"},
        {"id": 7, "type": "LoadImage", "title": "not a gate"},
    ],
    "definitions": {
        "subgraphs": [
            {"id": "sub-b", "nodes": [{"id": 2, "type": "ImageGate", "title": "In b"}]},
            {
                "id": "sub-a",
                "nodes": [
                    {"id": 2, "type": "ImageGate", "title": "In a"},
                    {"id": 9, "type": "sub-b"},
                ],
            },
        ]
    },
}


@pytest.mark.parametrize(
    ("node_id", "title"),
    [
        ("2", "Top two"),
        ("3", "Image Gate 3"),
        ("4:2", "In a"),
        ("5:2", "In b"),
        ("4:9:2", "In b"),
        ("7", "Image Gate 7"),
        ("99", "Image Gate 99"),
        ("4:77", "Image Gate 4:77"),
        ("", "Image Gate"),
    ],
)
def test_the_title_comes_from_the_workflow(node_id: str, title: str) -> None:
    """The author's title of exactly this node is shown, in subgraphs too; else its id."""
    assert gate_title(node_id, {"workflow": WORKFLOW}) == title


@pytest.mark.parametrize(
    "extra",
    [None, {}, {"workflow": None}, {"workflow": []}, {"workflow": {"nodes": None}},
     {"workflow": {"nodes": ["x", None]}}, {"workflow": {"definitions": []}}, "text"],
)  # fmt: skip
def test_a_strange_workflow_costs_only_the_title(extra: Any) -> None:
    """A client may send any extra_pnginfo; it never stops a prompt."""
    assert gate_title("4:2", extra) == "Image Gate 4:2"


def test_a_given_title_wins(bench: Bench) -> None:
    """The title input is shown rather than the node's."""
    run = bench.start(graph({"title": " Client's choice "}), extra_pnginfo={"workflow": WORKFLOW})
    gate = bench.one()
    assert gate.title == "Client's choice"
    bench.bus.decide(gate.id, 1)
    assert run.result().status == "success"


# -- endings


def test_stop_ends_the_prompt_as_interrupted(bench: Bench) -> None:
    """Stop in the panel ends the prompt as interrupted, at once."""
    run = bench.start(graph())
    gate = bench.one()
    assert bench.bus.stop(gate.id, by="Ann").outcome is Outcome.WON
    ends(run)
    assert isinstance(run.result().error, bench.comfy.Interrupted)
    assert bench.bus.get(gate.id).state is State.STOPPED


def test_cancel_ends_the_prompt_as_interrupted(bench: Bench) -> None:
    """ComfyUI's own cancel does the same, and the gate is withdrawn."""
    run = bench.start(graph())
    gate = bench.one()
    bench.comfy.interrupt()
    ends(run)
    assert bench.bus.get(gate.id).state is State.WITHDRAWN
    with pytest.raises(GateClosed):
        bench.bus.decide(gate.id, 1)


def ways_to_end(bench: Bench) -> dict[str, Callable[[Gate], object]]:
    return {"cancel": lambda _: bench.comfy.interrupt(), "stop": lambda g: bench.bus.stop(g.id)}


@pytest.mark.parametrize("way", ["cancel", "stop"])
@pytest.mark.parametrize("several", ["list", "branches"])
def test_several_waiting_gates_end_together(bench: Bench, way: str, several: str) -> None:
    """One cancel or Stop ends all gates of a prompt; the others are withdrawn."""
    if several == "list":
        bench.tensors["photo"] = [photo(), photo(), photo()]
        run = bench.start(list_graph(), "out1", "out2")
        gates = bench.watch.gates(3)
    else:
        run = bench.start(two_gates(), "out", "out2")
        gates = bench.watch.gates(2)
    ways_to_end(bench)[way](gates[1])
    ends(run)
    states = [bench.bus.get(gate.id).state for gate in gates]
    assert states.pop(1) is (State.STOPPED if way == "stop" else State.WITHDRAWN)
    assert set(states) == {State.WITHDRAWN}


def test_a_stop_leaves_other_prompts_alone(bench: Bench) -> None:
    """A Stop withdraws the gates of its own prompt only."""
    stranger = bench.bus.publish(
        Gate(labels=("a",), width=1, height=1, prompt_id="another"),
        TensorPictures(torch.zeros(1, 1, 1, 3)),
    )
    run = bench.start(graph())
    gate = bench.watch.gates(2)[1]
    bench.bus.stop(gate.id)
    assert run.result().status == "interrupted"
    assert bench.bus.get(stranger.gate.id).state is State.WAITING
    stranger.withdraw("test over")


@pytest.mark.parametrize("way", ["cancel", "stop", "stop seen by the loop first"])
def test_a_gate_still_to_come_does_not_outlive_the_stop(
    bench: Bench, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the first item of a list is stopped while a later one is still being made, that one
    ends too, instead of waiting for a person after the stop.
    """
    bench.tensors["photo"] = [photo(height=h) for h in (3, 5)]
    if way == "stop seen by the loop first":  # then the one who stops comes too late to interrupt
        monkeypatch.setattr(waiting_module, "_stopping", lambda *_: contextlib.nullcontext())
    begun = threading.Event()
    first_is_over: list[asyncio.Event] = []

    class Slow(bench._gate()):  # type: ignore[misc]
        """Its second item is asked for only after the first one has seen its end."""

        async def run(self, image: Any, **rest: Any) -> Any:
            if image.shape[1] == 5:
                begun.set()
                await first_is_over[0].wait()
                return await super().run(image=image, **rest)
            first_is_over.append(asyncio.Event())
            try:
                return await super().run(image=image, **rest)
            finally:
                first_is_over[0].set()

    bench.executor.nodes["ImageGate"] = Slow
    run = bench.start(list_graph(), "out1", "out2")
    first = bench.one()
    assert begun.wait(PATIENCE)
    ways_to_end(bench)[way.partition(" ")[0]](first)
    ends(run)
    assert first_is_over[0].is_set()
    assert len(bench.bus.finished()) == 2


@pytest.mark.parametrize("way", ["cancel", "stop"])
def test_a_busy_loop_is_ended_too(bench: Bench, way: str) -> None:
    """A Stop ends the prompt at once even while a sampler of another branch blocks the loop."""
    prompt = graph()
    prompt["sampler"] = {"class_type": "Sampler", "inputs": {"image": ["load", 0]}}
    run = bench.start(prompt, "out", "sampler")
    gate = bench.one()
    assert bench.busy.wait(PATIENCE)
    ways_to_end(bench)[way](gate)
    ends(run)
    bench.watch.until(lambda: not bench.bus.get(gate.id).state.open)


@pytest.mark.parametrize("way", ["cancel", "stop"])
def test_the_next_prompt_runs(bench: Bench, way: str) -> None:
    """After a Stop or cancel the queue goes on: the next prompt pauses and runs as ever."""
    for _ in range(5):
        run = bench.start(graph())
        ways_to_end(bench)[way](bench.one())
        assert run.result().status == "interrupted"
    run = bench.start(graph())
    bench.bus.decide(bench.one().id, 1)
    assert run.result().status == "success"


def test_a_stop_after_the_prompt_ended_raises_no_flag(bench: Bench) -> None:
    """A click that comes after the prompt ended gets GateClosed and interrupts nothing."""
    run = bench.start(graph())
    gate = bench.one()
    bench.comfy.interrupt()
    run.result()
    bench.comfy.interrupt(False)
    with pytest.raises(GateClosed):
        bench.bus.stop(gate.id)
    assert not bench.comfy.interrupted


def test_a_route_choice_raises_no_flag(bench: Bench) -> None:
    """Choosing a route never touches ComfyUI's interrupt flag."""
    run = bench.start(graph())
    bench.bus.decide(bench.one().id, 1)
    assert run.result().status == "success"
    assert not bench.comfy.interrupted


def test_a_prompt_that_fails_elsewhere_withdraws_the_gate(bench: Bench) -> None:
    """When another branch fails, the prompt ends at once, the gate is withdrawn and says so."""
    prompt = graph()
    prompt["fail"] = {"class_type": "Fail", "inputs": {}}
    run = bench.start(prompt, "out", "fail")
    gate = bench.one()
    bench.fail.set_result(None)
    ends(run, "error")
    snapshot = bench.bus.get(gate.id)
    assert snapshot.state is State.WITHDRAWN
    assert "its prompt ended" in snapshot.reason
    with pytest.raises(GateClosed, match="withdrawn"):
        bench.bus.decide(gate.id, 1)


@pytest.mark.parametrize("turns", range(6))
async def test_being_cancelled_is_never_missed(comfy: Comfy, turns: int) -> None:
    """A prompt's end reaches a gate also in the very moment in which something else wakes it."""

    class Starting(Service):
        panel: ClassVar[Future[str]]

        def start(self) -> Future[str]:
            return self.panel

    Starting.panel = Future()
    service = Starting(*with_storage(stored_bus()))
    node = ImageGate(service)
    task = asyncio.ensure_future(node.run(photo(), 2))
    for _ in range(5):  # to where it waits
        await asyncio.sleep(0)
    assert service.bus.count() == 1
    Starting.panel.set_result("http://127.0.0.1:1")  # wakes the gate
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=PATIENCE)
    if not done:
        service.bus.stop(service.bus.pending()[0].gate.id)
    assert done, "the cancellation was swallowed"
    assert task.cancelled()


# -- timeout


def test_a_timeout_takes_its_route(bench: Bench) -> None:
    """When the time is up, the route that was named for it is taken, and says so."""
    run = bench.start(graph({"timeout": 1, "on_timeout": "route 2"}, slots=(1, 2)), "out1", "out2")
    gate = bench.one()
    assert gate.deadline is not None
    assert gate.deadline - gate.created_at == 1
    result = run.result()
    assert "out2" in result.ran
    snapshot = bench.bus.get(gate.id)
    assert snapshot.state is State.EXPIRED
    assert snapshot.decision is not None
    assert snapshot.decision.by == "timeout"
    with pytest.raises(GateClosed, match="expired: nobody answered in time"):
        bench.bus.decide(gate.id, 1)


def test_a_timeout_stops(bench: Bench) -> None:
    """When the time is up and nothing else was named, the prompt ends as interrupted."""
    run = bench.start(graph({"timeout": 1}))
    gate = bench.one()
    assert run.result().status == "interrupted"
    assert bench.bus.get(gate.id).state is State.EXPIRED


def test_no_timeout_is_never(bench: Bench) -> None:
    """A timeout of 0 sets no deadline, whatever on_timeout says."""
    run = bench.start(graph({"timeout": 0, "on_timeout": "route 2"}))
    gate = bench.one()
    assert (gate.deadline, gate.on_timeout) == (None, None)
    bench.bus.decide(gate.id, 1)
    assert run.result().status == "success"


def test_an_answer_before_the_expiry_wins(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's answer that is there before the expiry is carried out wins."""
    expire = bench.bus.expire

    def late(gate_id: str) -> None:
        assert bench.bus.decide(gate_id, 1, by="Ann").outcome is Outcome.WON
        expire(gate_id)

    monkeypatch.setattr(bench.bus, "expire", late)
    run = bench.start(graph({"timeout": 1, "on_timeout": "route 2"}, slots=(1, 2)), "out1", "out2")
    gate = bench.one()
    assert "out1" in run.result().ran
    snapshot = bench.bus.get(gate.id)
    assert snapshot.state is State.DECIDED
    assert snapshot.decision is not None
    assert snapshot.decision.by == "Ann"


# -- the panel


def broken(_: Service) -> Any:
    raise ImportError("No module named 'gradio'")


def test_without_a_panel_the_gate_says_what_to_install(comfy: Comfy) -> None:
    """A panel that cannot start ends the prompt with what to install, and withdraws the gate;
    the next run tries again.
    """
    tries: list[Service] = []

    def build(service: Service) -> Any:
        tries.append(service)
        return broken(service)

    bench = Bench(comfy, Service(*with_storage(stored_bus()), build))
    bench.tensors["photo"] = photo()
    for count in (1, 2):
        result = bench.start(graph()).result()
        assert result.status == "error"
        assert isinstance(result.error, RuntimeError)
        assert "No module named 'gradio'" in str(result.error)
        assert "pip install" in str(result.error)
        assert len(tries) == count
        assert bench.bus.count() == 0
        assert bench.bus.finished()[0].state is State.WITHDRAWN
    bench.close()


def test_an_answer_counts_though_the_panel_is_still_starting(comfy: Comfy) -> None:
    """An answer by another way (REST, a script) is taken while the panel is still coming up."""

    class Starting(Service):
        def start(self) -> Future[str]:
            return Future()

    bench = Bench(comfy, Starting(*with_storage(stored_bus())))
    bench.tensors["photo"] = photo()
    run = bench.start(graph())
    bench.bus.decide(bench.one().id, 1)
    assert run.result().status == "success"
    bench.close()


def test_a_finished_gate_lets_its_tensor_go(bench: Bench) -> None:
    """After the answer only the preview is kept; the full image is let go."""
    run = bench.start(graph())
    gate = bench.one()
    bench.bus.decide(gate.id, 1)
    run.result()
    pictures = bench.bus.pictures(gate.id)
    assert pictures is not None
    assert pictures.preview(0).body
    with pytest.raises(GateClosed):
        pictures.full(0)


def test_pictures_can_be_made_in_other_threads(bench: Bench) -> None:
    """Previews and masks of an image made in inference mode can be made by the web's threads."""
    bench.tensors["mask"] = torch.ones(3, 6, 8)
    made: dict[str, Any] = {}

    class Infer(_Take):
        def take(self, image: Any = None, mask: Any = None) -> tuple[Any]:
            made["image"] = torch.rand(3, 6, 8, 3) * 1.0
            return (made["image"],)

    bench.executor.nodes["Infer"] = Infer
    prompt = graph({"mask": ["mask", 0]})
    prompt["mask"] = {"class_type": "Load", "inputs": {"name": "mask"}}
    prompt["load"] = {"class_type": "Infer", "inputs": {}}
    run = bench.start(prompt)
    gate = bench.one()
    pictures = bench.bus.pictures(gate.id)
    assert pictures is not None
    assert made["image"].is_inference()
    assert pictures.preview(2).body
    assert pictures.full(1).body
    assert pictures.start_mask(2)
    bench.bus.decide(gate.id, 1)
    assert run.result().status == "success"
