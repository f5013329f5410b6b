"""Prompts with gates in them, run by a real ComfyUI and answered over REST."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.live.comfyui import Comfy, gated, node, noise, sink, until

Cancel = Callable[[Comfy, dict[str, object]], httpx.Response]
BY_STOP = pytest.param(lambda comfy, gate: comfy.stop(gate), id="stop")
BY_INTERRUPT = pytest.param(lambda comfy, _: comfy.interrupt(), id="interrupt")


@pytest.mark.parametrize(("route", "runs", "blocked"), [(1, "keep", "fix"), ("fix", "fix", "keep")])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_only_the_chosen_route_runs(
    comfy: Comfy, name: str, channels: int, route: int | str, runs: str, blocked: str
) -> None:
    """The image leaves by the chosen route bit for bit, and nothing runs behind the other."""
    run = comfy.queue(gated(name, noise(seed=channels, channels=channels)))
    [gate] = comfy.waiting(run)
    assert (gate["width"], gate["height"], gate["batch"]) == (64, 48, 1)
    assert comfy.decide(gate, route).json() == {"outcome": "won"}
    assert "execution_success" in comfy.finished(run).events
    [image] = comfy.sunk(f"{name}-{runs}")
    [source] = comfy.sunk(f"{name}-source")
    assert image.shape == (1, 48, 64, channels)
    assert image.tobytes() == source.tobytes()
    assert comfy.sunk(f"{name}-{blocked}") == []
    [mask] = comfy.sunk(f"{name}-mask")
    assert mask.shape == (1, 48, 64)
    assert mask.dtype == np.float32
    assert not mask.any()


def test_nothing_behind_the_gate_runs_while_it_waits(comfy: Comfy, name: str) -> None:
    """Until the click, neither a route nor the mask has an image."""
    run = comfy.queue(gated(name))
    [gate] = comfy.waiting(run)
    until(lambda: comfy.sunk(f"{name}-source"), "image at the sink before the gate")
    assert [comfy.sunk(f"{name}-{part}") for part in ("keep", "fix", "mask")] == [[], [], []]
    comfy.decide(gate, 2)
    comfy.finished(run)
    assert len(comfy.sunk(f"{name}-fix")) == 1


def test_a_painted_mask_comes_out_at_the_right_pixels(comfy: Comfy, name: str) -> None:
    """A mask painted on one image of a batch covers those pixels of that image, no others."""
    run = comfy.queue(gated(name, noise(width=200, height=120, batch=3)))
    [gate] = comfy.waiting(run)
    painted = Image.new("L", (200, 120))
    ImageDraw.Draw(painted).rectangle((20, 10, 69, 39), fill=255)
    answer = comfy.http.put(
        f"/imagegate/api/gates/{gate['id']}/mask/1",
        content=_png(painted),
        headers={"content-type": "image/png"},
    )
    assert answer.status_code == 200, answer.text
    comfy.decide(gate, "keep")
    comfy.finished(run)
    [mask] = comfy.sunk(f"{name}-mask")
    expected = np.zeros((3, 120, 200), np.float32)
    expected[1, 10:40, 20:70] = 1
    np.testing.assert_array_equal(mask, expected)
    [image] = comfy.sunk(f"{name}-keep")
    assert image.shape == (3, 120, 200, 3)


def test_the_mask_input_comes_out_where_nothing_is_painted(comfy: Comfy, name: str) -> None:
    """A connected mask leaves unchanged if nobody paints."""
    prompt = gated(name, mask=["7", 0])
    prompt["7"] = node("SolidMask", value=0.25, width=64, height=48)
    run = comfy.queue(prompt)
    [gate] = comfy.waiting(run)
    comfy.decide(gate, 1)
    comfy.finished(run)
    [mask] = comfy.sunk(f"{name}-mask")
    np.testing.assert_array_equal(mask, np.full((1, 48, 64), 0.25, np.float32))


@pytest.mark.parametrize("cancel", [BY_STOP, BY_INTERRUPT])
def test_a_cancelled_prompt_ends_cleanly(comfy: Comfy, name: str, cancel: Cancel) -> None:
    """Stop and ComfyUI's cancel end the prompt as interrupted; the next one in the queue runs."""
    run = comfy.queue(gated(name))
    next_run = comfy.queue({"1": noise(seed=99), "2": sink(f"{name}-next", ["1", 0])})
    [gate] = comfy.waiting(run)
    logged = len(comfy.said())
    assert cancel(comfy, gate).status_code == 200
    assert comfy.finished(run).interrupted
    assert "execution_success" in comfy.finished(next_run).events
    assert len(comfy.sunk(f"{name}-next")) == 1
    assert comfy.sunk(f"{name}-keep") + comfy.sunk(f"{name}-fix") == []
    assert comfy.gates() == []
    assert "Traceback" not in comfy.said()[logged:]


@pytest.mark.parametrize("cancel", [BY_STOP, BY_INTERRUPT])
def test_a_busy_branch_does_not_delay_a_cancel(comfy: Comfy, name: str, cancel: Cancel) -> None:
    """The prompt ends as fast while another branch keeps ComfyUI's event loop busy."""
    prompt = gated(name)
    prompt["7"] = node("LiveStep", name=name)
    prompt["8"] = node("LiveBusy", name=name, after=["7", 0])
    run = comfy.queue(prompt)
    [gate] = comfy.waiting(run)
    comfy.output(f"{name}.go").touch()
    until(comfy.output(f"{name}.busy").exists, "busy branch")
    assert cancel(comfy, gate).status_code == 200
    assert comfy.finished(run).interrupted
    assert comfy.gates() == []


def test_a_gate_whose_prompt_failed_is_withdrawn(comfy: Comfy, name: str) -> None:
    """When another branch fails, the gate is withdrawn, and a click that comes after gets 410."""
    prompt = gated(name)
    prompt["7"] = node("LiveStep", name=name, fail=True)
    run = comfy.queue(prompt)
    [gate] = comfy.waiting(run)
    comfy.output(f"{name}.go").touch()
    assert "execution_error" in comfy.finished(run).events
    assert until(lambda: comfy.gate(gate["id"])["state"] != "waiting", "end of the gate")
    assert comfy.gate(gate["id"])["state"] == "withdrawn"
    assert comfy.decide(gate, 1).status_code == 410
    assert comfy.sunk(f"{name}-keep") == []


def test_another_branch_runs_on_while_the_gate_waits(comfy: Comfy, name: str) -> None:
    """A branch that does not hang on the gate goes on to its end before anybody clicks."""
    prompt = gated(name)
    prompt["7"] = node("LiveStep", name=name)
    run = comfy.queue(prompt)
    [gate] = comfy.waiting(run)
    comfy.output(f"{name}.go").touch()
    until(comfy.output(f"{name}.done").exists, "end of the other branch")
    assert comfy.gate(gate["id"])["state"] == "waiting"
    comfy.decide(gate, 1)
    assert "execution_success" in comfy.finished(run).events


def test_the_same_prompt_asks_every_time(comfy: Comfy, name: str) -> None:
    """Two runs of one prompt pause twice, each time as a new gate."""
    prompt = gated(name)
    first, second = comfy.queue(prompt), comfy.queue(prompt)
    [gate] = comfy.waiting(first)
    assert comfy.gates(second) == []
    comfy.decide(gate, 1)
    [again] = comfy.waiting(second)
    assert again["id"] != gate["id"]
    comfy.decide(again, 2)
    comfy.finished(second)
    assert (len(comfy.sunk(f"{name}-keep")), len(comfy.sunk(f"{name}-fix"))) == (1, 1)


def test_the_items_of_a_list_are_asked_together(comfy: Comfy, name: str) -> None:
    """Each item of a list is a gate of its own, all wait at once, and each goes its own way."""
    run = comfy.queue(gated(name, node("LiveImages", seed=5, count=3)))
    gates = sorted(comfy.waiting(run, 3), key=lambda gate: gate["width"])
    assert [gate["width"] for gate in gates] == [32, 40, 48]
    for gate, route in reversed(list(zip(gates, (1, 2, 1), strict=True))):
        assert comfy.decide(gate, route).json() == {"outcome": "won"}
    assert "execution_success" in comfy.finished(run).events
    sources = comfy.sunk(f"{name}-source")
    kept, fixed = comfy.sunk(f"{name}-keep"), comfy.sunk(f"{name}-fix")
    assert [image.shape[2] for image in kept + fixed] == [32, 48, 40]
    for image, source in zip(kept + fixed, (sources[0], sources[2], sources[1]), strict=True):
        assert image.tobytes() == source.tobytes()


@pytest.mark.parametrize("cancel", [BY_STOP, BY_INTERRUPT])
def test_cancelling_one_of_several_ends_all(comfy: Comfy, name: str, cancel: Cancel) -> None:
    """While several gates of a prompt wait, a cancel ends the prompt, and all of them, at once."""
    run = comfy.queue(gated(name, node("LiveImages", seed=6, count=4)))
    gates = comfy.waiting(run, 4)
    assert cancel(comfy, gates[2]).status_code == 200
    assert comfy.finished(run).interrupted
    assert comfy.gates() == []
    states = [comfy.gate(gate["id"])["state"] for gate in gates]
    assert states.count("withdrawn") >= 3
    assert comfy.decide(gates[0], 1).status_code == 410


def test_two_gates_of_one_prompt_do_not_mix(comfy: Comfy, name: str) -> None:
    """Two gates wait together, and each image goes where its own gate was told."""
    prompt = gated(f"{name}-a", noise(seed=11), title="first")
    for key, part in gated(f"{name}-b", noise(seed=12), title="second").items():
        inputs = {
            field: [f"1{value[0]}", value[1]] if isinstance(value, list) else value
            for field, value in part["inputs"].items()
        }
        prompt[f"1{key}"] = {**part, "inputs": inputs}
    run = comfy.queue(prompt)
    gates = {gate["title"]: gate for gate in comfy.waiting(run, 2)}
    assert {title: gate["node_id"] for title, gate in gates.items()} == {
        "first": "2",
        "second": "12",
    }
    comfy.decide(gates["second"], "fix")
    comfy.decide(gates["first"], "keep")
    comfy.finished(run)
    for label, route, other in (("a", "keep", "fix"), ("b", "fix", "keep")):
        [image] = comfy.sunk(f"{name}-{label}-{route}")
        [source] = comfy.sunk(f"{name}-{label}-source")
        assert image.tobytes() == source.tobytes()
        assert comfy.sunk(f"{name}-{label}-{other}") == []


def test_a_gate_in_a_subgraph_is_known_by_its_whole_id(comfy: Comfy, name: str) -> None:
    """A gate of id `4:2` says so, and its image goes on as any other."""
    prompt = {
        "1": noise(),
        "4:2": node("ImageGate", image=["1", 0], routes=2),
        "3": sink(name, ["4:2", 2]),
    }
    run = comfy.queue(prompt)
    [gate] = comfy.waiting(run)
    assert gate["node_id"] == "4:2"
    comfy.decide(gate, 2)
    comfy.finished(run)
    assert len(comfy.sunk(name)) == 1


def test_every_turn_of_a_loop_asks(comfy: Comfy, name: str) -> None:
    """A gate in a loop asks once a turn, under the id of the node that the author sees."""
    prompt = {
        "1": noise(seed=21),
        "5": node("LiveLoop", image=["1", 0], turns=3),
        "6": sink(name, ["5", 0]),
        "7": sink(f"{name}-source", ["1", 0]),
    }
    run = comfy.queue(prompt)
    seen = set()
    for turn in ("turn 1", "turn 2", "turn 3"):
        [gate] = until(partial(_titled, comfy, run, turn), f"gate of {turn}")
        assert gate["node_id"] == "5"
        seen.add(gate["id"])
        comfy.decide(gate, 1)
    comfy.finished(run)
    assert len(seen) == 3
    assert comfy.sunk(name)[0].tobytes() == comfy.sunk(f"{name}-source")[0].tobytes()


def test_a_timeout_takes_its_route(comfy: Comfy, name: str) -> None:
    """Nobody answers: after `timeout` seconds the image goes where `on_timeout` says."""
    run = comfy.queue(gated(name, timeout=1, on_timeout="route 2"))
    [gate] = comfy.waiting(run)
    assert "execution_success" in comfy.finished(run, within=5).events
    assert comfy.gate(gate["id"])["state"] == "expired"
    assert (len(comfy.sunk(f"{name}-fix")), len(comfy.sunk(f"{name}-keep"))) == (1, 0)
    assert comfy.decide(gate, 1).status_code == 410


def test_a_timeout_can_stop(comfy: Comfy, name: str) -> None:
    """With `on_timeout` stop, the prompt ends as interrupted when the time is up."""
    run = comfy.queue(gated(name, timeout=1, on_timeout="stop"))
    comfy.waiting(run)
    assert comfy.finished(run, within=5).interrupted
    assert comfy.sunk(f"{name}-keep") + comfy.sunk(f"{name}-fix") == []


def test_bad_clicks_do_not_reach_the_gate(comfy: Comfy, name: str) -> None:
    """Through ComfyUI's port too: wrong route 422, unknown gate 404, second opinion 409."""
    run = comfy.queue(gated(name))
    [gate] = comfy.waiting(run)
    wrong = comfy.decide(gate, 7)
    assert wrong.status_code == 422
    assert "keep" in wrong.text
    assert comfy.decide({"id": "no-such-gate"}, 1).status_code == 404
    foreign = comfy.http.post(
        f"/imagegate/api/gates/{gate['id']}/decision",
        json={"route": 1},
        headers={"origin": "https://example.com"},
    )
    assert foreign.status_code == 403
    assert comfy.gate(gate["id"])["state"] == "waiting"
    assert comfy.decide(gate, "keep").json() == {"outcome": "won"}
    lost = comfy.decide(gate, "fix")
    assert lost.status_code == 409
    assert lost.json()["decision"]["label"] == "keep"
    comfy.finished(run)


def _titled(comfy: Comfy, run: str, title: str) -> list[dict[str, Any]]:
    return [gate for gate in comfy.gates(run) if gate["title"] == title]


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
