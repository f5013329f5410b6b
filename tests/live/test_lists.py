"""Lists, and gates that meet again, in a real ComfyUI: what waits and what parks gives the same."""

from __future__ import annotations

import io
import json
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from PIL import Image, ImageDraw

from tests.live.comfyui import Comfy, Prompt, node, sink, until
from tests.live.test_park import park
from tests.live.test_prompts import _png
from tests.support.comfy_stand_in import Comfy as StandIn
from tests.support.graph_nodes import SIZE, seen
from tests.support.random_graphs import difference, graphs, paints, route, waiting
from tests.support.stage import Stage

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "grey": (90, 90, 90)}


@pytest.fixture
def folder(comfy: Comfy, name: str) -> Path:
    """A folder of four pictures with a caption each."""
    folder = comfy.base / "input" / name
    folder.mkdir()
    for colour, value in COLOURS.items():
        Image.new("RGB", (32, 24), value).save(folder / f"{colour}.png")
        (folder / f"{colour}.txt").write_text(f"{name}-{colour}")
    return folder


def picture(file: Path) -> Image.Image:
    with Image.open(file) as opened:
        return opened.convert("RGB")


def has(comfy: Comfy, kind: str) -> bool:
    return kind in comfy.http.get("/object_info").json()


def answer(comfy: Comfy, gates: list[dict[str, Any]], *routes: int) -> None:
    """Answer the gates of a list in the order of their images, the last one first."""
    for gate, number in reversed(list(zip(gates, routes, strict=True))):
        assert comfy.decide(gate, number).json() == {"outcome": "won"}


def all_gone_on(comfy: Comfy, gates: list[dict[str, Any]]) -> None:
    for gate in gates:
        comfy.state(gate, "resumed")
    until(comfy.idle, "idle queue")


def test_each_picture_of_a_folder_keeps_its_own_name(comfy: Comfy, folder: Path) -> None:
    """Four pictures with a caption each, parked: four files, each under its own caption."""
    if not has(comfy, "LoadImageTextDataSetFromFolder"):
        pytest.skip("this ComfyUI has no nodes for data sets")
    prompt = {
        "1": node("LoadImageTextDataSetFromFolder", folder=folder.name),
        "2": node("ImageGate", image=["1", 0], routes=2, mode="park"),
        "3": node("SaveImage", images=["2", 1], filename_prefix=["1", 1]),
    }
    gates = park(comfy, prompt, 4)
    answer(comfy, gates, 1, 1, 1, 1)
    all_gone_on(comfy, gates)
    saved = sorted((comfy.base / "output").glob(f"{folder.name}-*.png"))
    assert len(saved) == 4
    for colour, value in COLOURS.items():
        [file] = [file for file in saved if f"-{colour}_" in file.name]
        assert picture(file).getpixel((5, 5)) == value


@pytest.mark.parametrize("how", ["keep places", "gather"])
def test_a_data_set_is_saved_whole(comfy: Comfy, folder: Path, how: str) -> None:
    """A node that saves a whole data set runs once, after the last answer, with all pictures; with
    one sent elsewhere it runs with the others if the gate gathers.
    """
    if not has(comfy, "SaveImageTextDataSetToFolder"):
        pytest.skip("this ComfyUI has no nodes for data sets")
    prompt = {
        "1": node("LoadImageTextDataSetFromFolder", folder=folder.name),
        "2": node("ImageGate", image=["1", 0], routes=2, mode="park", list=how),
        "3": node(
            "SaveImageTextDataSetToFolder", images=["2", 1], texts=["1", 1], mode="overwrite",
            folder_name=folder.name, filename_prefix="image",
        ),
    }  # fmt: skip
    gates = park(comfy, prompt, 4)
    assert [gate["together"] for gate in gates] == [4] * 4
    if how == "keep places":
        assert all("Save Image" in gate["warning"] for gate in gates)
    answer(comfy, gates[1:], 1, 1, 1)
    until(comfy.idle, "idle queue")
    assert not (comfy.base / "output" / folder.name).exists()
    assert comfy.gate(gates[1]["id"])["state"] == "decided"
    comfy.decide(gates[0], 1 if how == "keep places" else 2)
    all_gone_on(comfy, gates)
    saved = sorted((comfy.base / "output" / folder.name).glob("*.png"))
    assert len(saved) == (4 if how == "keep places" else 3)
    if how == "keep places":
        for file in saved:
            colour = file.with_suffix(".txt").read_text().rpartition("-")[2]
            assert picture(file).getpixel((5, 5)) == COLOURS[colour]


@pytest.mark.parametrize("mode", ["wait", "park"])
@pytest.mark.parametrize("how", ["keep places", "gather"])
def test_a_list_of_which_one_goes_elsewhere(comfy: Comfy, name: str, mode: str, how: str) -> None:
    """Nodes for single images get each with its own caption; those for whole lists run if the gate
    gathers, and the gate says before the answer that they else do not.
    """
    prompt = {
        "1": node("LiveImages", seed=70, count=4),
        "2": node("LiveCaptions", name=name, count=4),
        "3": node("ImageGate", image=["1", 0], routes=2, mode=mode, list=how),
        "4": node("RebatchImages", images=["3", 1], batch_size=1),
        "5": sink(f"{name}-whole", ["4", 0]),
        "6": sink(f"{name}-source", ["1", 0]),
        "7": sink(f"{name}-mask", mask=["3", 0]),
    }
    if how == "keep places":
        prompt["8"] = node("SaveImage", images=["3", 1], filename_prefix=["2", 0])
    run = comfy.queue(prompt)
    gates = comfy.waiting(run, 4)
    for gate in gates:
        assert ("Rebatch Images" in gate["warning"]) is (how == "keep places")
    assert ("(4)" in comfy.said() and "list = gather" in comfy.said()) or how == "gather"
    answer(comfy, gates, 1, 2, 1, 1)
    assert "execution_success" in comfy.finished(run).events
    if mode == "park":
        all_gone_on(comfy, gates)
    whole, source = comfy.sunk(f"{name}-whole"), comfy.sunk(f"{name}-source")
    assert [image.shape[2] for image in whole] == ([32, 48, 56] if how == "gather" else [])
    for image, before in zip(whole, [source[0], source[2], source[3]], strict=False):
        assert image.tobytes() == before.tobytes()
    assert [mask.shape[2] for mask in comfy.sunk(f"{name}-mask")] == [32, 40, 48, 56]
    if how == "keep places":
        saved = sorted(file.name for file in (comfy.base / "output").glob(f"{name}-*_.png"))
        assert [file.split("_")[0] for file in saved] == [f"{name}-{i}" for i in (0, 2, 3)]
        assert [picture(comfy.output(file)).width for file in saved] == [32, 48, 56]


class Person:
    """Answers all gates of a graph over HTTP, by what is seen of them alone."""

    def __init__(self, comfy: Comfy, seed: int) -> None:
        self.comfy = comfy
        self.random = random.Random(seed)
        self.asked: list[tuple[str, str]] = []

    def play(self, prompt: Prompt) -> tuple[list[Any], list[Any], list[str]]:
        """Run a prompt and answer until nothing is left to do: outputs, questions, sources."""
        nonce = self.random.getrandbits(30) + time.time_ns() % 2**30
        for one in prompt.values():
            if one["class_type"] in ("TestList", "TestOut"):
                one["inputs"]["nonce"] = nonce
        outputs, made = len(self.outputs()), len(self.comfy.made())
        self.comfy.queue(prompt)
        while gate := until(self.next_gate, "gate or end"):
            if gate == "end":
                break
            self.answer(gate)
        return self.outputs()[outputs:], self.asked, self.comfy.made()[made:]

    def next_gate(self) -> Any:
        gates = self.comfy.gates()
        if any(gate["state"] == "waiting" for gate in gates):
            return self.random.choice(gates)
        if not self.comfy.idle():
            return None
        newest = self.comfy.http.get("/imagegate/api/history?limit=100").json()["gates"]
        due = [g for g in newest if g["mode"] == "park" and g["state"] in ("decided", "expired")]
        ready = [gate for gate in due if not gate.get("waits_for")]
        if ready or not self.comfy.idle():
            return None
        return self.random.choice(gates) if gates else (None if due else "end")

    def answer(self, gate: dict[str, Any]) -> None:
        image = self.comfy.http.get(f"/imagegate/api/gates/{gate['id']}/image/0?size=full").content
        with Image.open(io.BytesIO(image)) as full:
            looks = seen(np.asarray(full.convert("RGB")))
        self.asked.append((gate["node_id"], looks))
        if paints(gate["node_id"], looks):
            mask = Image.new("L", (SIZE[2], SIZE[1]))
            ImageDraw.Draw(mask).point([(1, 2), (3, 1)], fill=255)
            self.comfy.http.put(
                f"/imagegate/api/gates/{gate['id']}/mask/0", content=_png(mask),
                headers={"content-type": "image/png"},
            )  # fmt: skip
        self.comfy.decide(gate, route(gate["node_id"], looks))

    def outputs(self) -> list[Any]:
        log = self.comfy.output("outputs.log")
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def same(comfy: Comfy, prompt: Prompt, seed: int) -> list[Any]:
    """Park gives what wait gives; returns what came out."""
    waited = Person(comfy, 0).play(waiting(prompt))
    parked = Person(comfy, seed).play(prompt)
    for found, wanted in zip(parked, waited, strict=True):
        assert difference(map(tuple, found), map(tuple, wanted)) == ([], [])
    return [tuple(output) for output in waited[0]]


def gate(image: list[Any], mode: str, **more: Any) -> dict[str, Any]:
    return node("ImageGate", image=image, routes=2, mode=mode, **more)


def meeting(first: str, second: str, in_a_row: bool, sizes: tuple[int, int]) -> Prompt:
    """Two gates whose images and masks meet behind."""
    prompt = {
        "1": node("TestList", seed=1, count=sizes[0]),
        "2": node("TestList", seed=2, count=sizes[1]),
        "3": gate(["1", 0], first),
        "4": gate(["3", 1] if in_a_row else ["2", 0], second),
        "5": node("TestOfMask", mask=["3", 0]),
        "6": node("TestOfMask", mask=["4", 0]),
    }
    pairs = [(["3", 1], ["4", 1]), (["5", 0], ["6", 0]), (["3", 1], ["6", 0]), (["5", 0], ["4", 2])]
    for number, (one, other) in enumerate(pairs, 7):
        prompt[str(number)] = node("TestOut", name=str(number), a=one, b=other)
    return prompt


@pytest.mark.parametrize("in_a_row", [True, False], ids=["in a row", "side by side"])
@pytest.mark.parametrize(
    ("first", "second"), [("wait", "park"), ("park", "wait"), ("park", "park")]
)
def test_gates_that_meet_again(comfy: Comfy, first: str, second: str, in_a_row: bool) -> None:
    """Waiting and parked gates in all orders, single and in lists, meeting by image and by mask:
    each output once, as if all had waited; nobody is asked twice.
    """
    for seed, sizes in enumerate([(1, 1), (3, 3), (3, 1)]):
        same(comfy, meeting(first, second, in_a_row, sizes), seed)


@given(prompt=graphs(most=6))
@settings(
    max_examples=8, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_a_sample_of_random_graphs(comfy: Comfy, prompt: Prompt) -> None:
    """Of random graphs park gives what wait gives; and so does the stand-in for ComfyUI, against
    which far more of them are tried.
    """
    outputs = same(comfy, prompt, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        stand_in = StandIn()
        stand_in.install(patch)
        stage = Stage(stand_in)
        try:
            stage.play(waiting(prompt))
        finally:
            stage.close()
    assert difference(stage.outputs, outputs) == ([], [])
