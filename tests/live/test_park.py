"""Parked prompts in a real ComfyUI: they end, they are answered, they go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.live.comfyui import Comfy, Prompt, gated, node, noise, sink, until
from tests.live.conftest import running
from tests.live.test_prompts import _png

MANY = 100


def parked(name: str, source: dict[str, Any] | None = None, **gate: Any) -> Prompt:
    """`gated`, parking."""
    return gated(name, source, mode="park", **gate)


def park(comfy: Comfy, prompt: Prompt, count: int = 1) -> list[dict[str, Any]]:
    """Queue a prompt, wait for its end, and return the gates it left behind."""
    run = comfy.queue(prompt)
    assert "execution_success" in comfy.finished(run).events
    return comfy.waiting(run, count)


@pytest.mark.parametrize("source", ["LiveNoise", "LivePhoto"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_parked_prompt_ends_and_goes_on(
    comfy: Comfy, name: str, source: str, channels: int
) -> None:
    """The prompt ends as a success at the gate, the queue goes on, and after the answer what hangs
    on the route runs with the same bits; nothing before the gate runs again.
    """
    image = noise(seed=channels, channels=channels) | {"class_type": source}
    [gate] = park(comfy, parked(name, image))
    assert (gate["state"], gate["mode"]) == ("parked", "park")
    assert comfy.idle()
    assert [comfy.sunk(f"{name}-{part}") for part in ("keep", "fix", "mask")] == [[], [], []]
    made = comfy.made()
    assert comfy.decide(gate, "keep").json() == {"outcome": "won"}
    comfy.state(gate, "resumed")
    [kept] = comfy.sunk(f"{name}-keep")
    [before] = comfy.sunk(f"{name}-source")
    assert kept.tobytes() == before.tobytes()
    assert kept.shape == (1, 48, 64, channels)
    assert comfy.sunk(f"{name}-fix") == []
    [mask] = comfy.sunk(f"{name}-mask")
    assert mask.shape == (1, 48, 64)
    assert not mask.any()
    assert comfy.made() == made
    assert comfy.idle()
    assert comfy.decide(gate, "fix").status_code == 409


def test_a_painted_mask_comes_out_of_a_parked_gate(comfy: Comfy, name: str) -> None:
    """The mask that was painted, and elsewhere the mask input as soft as it came."""
    prompt = parked(name, noise(width=200, height=120, batch=2), mask=["7", 0])
    prompt["7"] = node("SolidMask", value=0.25, width=200, height=120)
    [gate] = park(comfy, prompt)
    painted = Image.new("L", (200, 120))
    ImageDraw.Draw(painted).rectangle((20, 10, 69, 39), fill=255)
    answer = comfy.http.put(
        f"/imagegate/api/gates/{gate['id']}/mask/1",
        content=_png(painted),
        headers={"content-type": "image/png"},
    )
    assert answer.status_code == 200, answer.text
    comfy.decide(gate, 2)
    comfy.state(gate, "resumed")
    [mask] = comfy.sunk(f"{name}-mask")
    expected = np.full((2, 120, 200), 0.25, np.float32)
    expected[1] = 0
    expected[1, 10:40, 20:70] = 1
    np.testing.assert_array_equal(mask, expected)
    assert comfy.sunk(f"{name}-fix")[0].shape == (2, 120, 200, 3)


def test_gates_in_a_row_park_one_after_the_other(comfy: Comfy, name: str) -> None:
    """The second gate is asked when the first was answered, and goes on in its turn."""
    prompt = {
        "1": noise(seed=31),
        "2": node("ImageGate", image=["1", 0], routes=2, title="first", mode="park"),
        "3": node("ImageGate", image=["2", 1], routes=2, title="second", mode="park"),
        "4": sink(f"{name}-end", ["3", 2]),
        "5": sink(f"{name}-other", ["2", 2]),
        "6": sink(f"{name}-source", ["1", 0]),
    }
    [first] = park(comfy, prompt)
    made = comfy.made()
    comfy.decide(first, 1)
    comfy.state(first, "resumed")
    [second] = [gate for gate in comfy.gates() if gate["title"] == "second"]
    assert comfy.sunk(f"{name}-end") == []
    comfy.decide(second, 2)
    comfy.state(second, "resumed")
    [end] = comfy.sunk(f"{name}-end")
    assert end.tobytes() == comfy.sunk(f"{name}-source")[0].tobytes()
    assert comfy.sunk(f"{name}-other") == []
    assert comfy.made() == made
    assert comfy.gates() == []


def test_what_needs_two_gates_runs_once_both_are_answered(comfy: Comfy, name: str) -> None:
    """Two gates side by side are asked once each; what hangs on both runs after the second answer,
    what hangs on one of them after that one, each once.
    """
    prompt = {
        "1": noise(seed=41),
        "2": noise(seed=42),
        "3": node("ImageGate", image=["1", 0], routes=2, title="a", mode="park"),
        "4": node("ImageGate", image=["2", 0], routes=2, title="b", mode="park"),
        "5": node("LiveBoth", a=["3", 1], b=["4", 1]),
        "6": sink(f"{name}-both", ["5", 0]),
        "7": sink(f"{name}-a", ["3", 1]),
        "8": sink(f"{name}-sa", ["1", 0]),
        "9": sink(f"{name}-sb", ["2", 0]),
    }
    gates = {gate["title"]: gate for gate in park(comfy, prompt, 2)}
    made = comfy.made()
    comfy.decide(gates["a"], 1)
    comfy.state(gates["a"], "resumed")
    assert (len(comfy.sunk(f"{name}-a")), len(comfy.sunk(f"{name}-both"))) == (1, 0)
    assert [gate["title"] for gate in comfy.gates()] == ["b"]
    comfy.decide(gates["b"], 1)
    comfy.state(gates["b"], "resumed")
    assert (len(comfy.sunk(f"{name}-a")), len(comfy.sunk(f"{name}-both"))) == (1, 1)
    [both] = comfy.sunk(f"{name}-both")
    mean = (comfy.sunk(f"{name}-sa")[0] + comfy.sunk(f"{name}-sb")[0]) / 2
    np.testing.assert_array_equal(both, mean)
    assert comfy.made() == made
    assert comfy.gates() == []


def test_two_answers_at_once_run_what_needs_both_once(comfy: Comfy, name: str) -> None:
    """Answers that come while the queue is busy, so that both wait for their turn, make one run."""
    prompt = {
        "1": noise(seed=51),
        "2": noise(seed=52),
        "3": node("ImageGate", image=["1", 0], routes=2, title="a", mode="park"),
        "4": node("ImageGate", image=["2", 0], routes=2, title="b", mode="park"),
        "5": node("LiveBoth", a=["3", 1], b=["4", 1]),
        "6": sink(f"{name}-both", ["5", 0]),
    }
    gates = park(comfy, prompt, 2)
    comfy.queue({"1": node("LiveStep", name=name)})
    for gate in gates:
        comfy.decide(gate, 1)
    comfy.output(f"{name}.go").touch()
    for gate in gates:
        comfy.state(gate, "resumed")
    assert len(comfy.sunk(f"{name}-both")) == 1


def test_a_list_goes_through_two_gates(comfy: Comfy, name: str) -> None:
    """Each item is asked for at the second gate, too, and none takes another's answer."""
    prompt = parked(name, node("LiveImages", seed=60, count=3))
    prompt["7"] = node("ImageGate", image=["2", 1], routes=2, title="second", mode="park")
    prompt["3"] = sink(f"{name}-end", ["7", 1])
    first = sorted(park(comfy, prompt, 3), key=lambda gate: gate["width"])
    made = comfy.made()
    for gate in first:
        comfy.decide(gate, 1)
    for gate in first:
        comfy.state(gate, "resumed")
    second = sorted(comfy.gates(), key=lambda gate: gate["width"])
    assert [gate["width"] for gate in second] == [32, 40, 48]
    for gate, route in zip(second, (1, 2, 1), strict=True):
        comfy.decide(gate, route)
    for gate in second:
        comfy.state(gate, "resumed")
    assert sorted(image.shape[2] for image in comfy.sunk(f"{name}-end")) == [32, 48]
    assert comfy.made() == made


def test_what_came_before_the_gate_may_be_gone(comfy: Comfy, name: str) -> None:
    """A file that was loaded before the gate is neither needed nor checked any more."""
    file = comfy.base / "input" / f"{name}.png"
    Image.new("RGB", (64, 48), (200, 10, 10)).save(file)
    [gate] = park(comfy, parked(name, node("LoadImage", image=file.name)))
    file.unlink()
    comfy.decide(gate, 1)
    comfy.state(gate, "resumed")
    [kept] = comfy.sunk(f"{name}-keep")
    assert kept.tobytes() == comfy.sunk(f"{name}-source")[0].tobytes()


def test_the_items_of_a_list_park_each_for_itself(comfy: Comfy, name: str) -> None:
    """Each item goes its own way, in its own time."""
    gates = park(comfy, parked(name, node("LiveImages", seed=5, count=3)), 3)
    gates.sort(key=lambda gate: gate["width"])
    for gate, route in reversed(list(zip(gates, (1, 2, 1), strict=True))):
        comfy.decide(gate, route)
        comfy.state(gate, "resumed")
    kept, fixed = comfy.sunk(f"{name}-keep"), comfy.sunk(f"{name}-fix")
    assert [image.shape[2] for image in kept + fixed] == [48, 32, 40]
    sources = comfy.sunk(f"{name}-source")
    for image, source in zip(kept + fixed, (sources[2], sources[0], sources[1]), strict=True):
        assert image.tobytes() == source.tobytes()


def test_a_gate_in_a_subgraph_parks(comfy: Comfy, name: str) -> None:
    """A gate of id `4:2` goes on like any other."""
    prompt = {
        "1": noise(),
        "4:2": node("ImageGate", image=["1", 0], routes=2, mode="park"),
        "3": sink(name, ["4:2", 2]),
    }
    [gate] = park(comfy, prompt)
    assert gate["node_id"] == "4:2"
    comfy.decide(gate, 2)
    comfy.state(gate, "resumed")
    assert len(comfy.sunk(name)) == 1


def test_a_gate_in_a_loop_cannot_park(comfy: Comfy, name: str) -> None:
    """A gate that another node has made says that it can only wait."""
    prompt = {
        "1": noise(seed=21),
        "5": node("LiveLoop", image=["1", 0], turns=2, mode="park"),
        "6": sink(name, ["5", 0]),
    }
    run = comfy.finished(comfy.queue(prompt))
    assert "cannot park" in run.error
    assert "set mode to wait" in run.error


def test_stop_ends_a_parked_gate_and_nothing_else(comfy: Comfy, name: str) -> None:
    """Stop on a parked gate ends it: nothing runs, nothing is interrupted."""
    [gate] = park(comfy, parked(name))
    assert comfy.stop(gate).json() == {"outcome": "won"}
    assert comfy.gate(gate["id"])["state"] == "stopped"
    assert comfy.idle()
    run = comfy.queue({"1": noise(seed=99), "2": sink(f"{name}-next", ["1", 0])})
    assert "execution_success" in comfy.finished(run).events
    assert comfy.sunk(f"{name}-keep") + comfy.sunk(f"{name}-fix") == []


def test_a_parked_gate_expires(comfy: Comfy, name: str) -> None:
    """After its timeout a parked gate goes on by itself where `on_timeout` says."""
    [gate] = park(comfy, parked(name, timeout=1, on_timeout="route 2"))
    until(lambda: comfy.sunk(f"{name}-fix"), "image on route 2")
    comfy.state(gate, "resumed")


def test_a_failing_branch_brings_the_gate_back(comfy: Comfy, name: str) -> None:
    """What fails after the answer brings the gate back with ComfyUI's own words; once it is mended,
    deciding again goes on.
    """
    prompt = parked(name)
    prompt["7"] = node("LiveFails", image=["2", 1], name=name)
    prompt["3"] = sink(f"{name}-keep", ["7", 0])
    [gate] = park(comfy, prompt)
    comfy.decide(gate, 1)
    back = until(lambda: comfy.gate(gate["id"]).get("reason"), "reason")
    assert "the live node is broken" in back
    assert comfy.gate(gate["id"])["state"] == "parked"
    comfy.output(f"{name}.mended").touch()
    assert comfy.decide(gate, 1).json() == {"outcome": "won"}
    comfy.state(gate, "resumed")
    assert len(comfy.sunk(f"{name}-keep")) == 1
    lines = comfy.http.get(f"/imagegate/api/gates/{gate['id']}/history").json()["lines"]
    kinds = [line["kind"] for line in lines]
    assert kinds == [
        "published", "decided", "claimed", "put back", "decided", "claimed", "resumed"
    ]  # fmt: skip


def test_an_answer_is_used_again(comfy: Comfy, name: str) -> None:
    """With `reuse decision` an image that was decided is not asked for, until it shall be."""
    prompt = gated(name, noise(seed=77), repeat="reuse decision", title=name)
    run = comfy.queue(prompt)
    [gate] = comfy.waiting(run)
    comfy.decide(gate, "fix")
    comfy.finished(run)
    assert "execution_success" in comfy.finished(comfy.queue(prompt)).events
    assert (len(comfy.sunk(f"{name}-fix")), len(comfy.sunk(f"{name}-keep"))) == (2, 0)
    newest = comfy.http.get("/imagegate/api/history?limit=1").json()["gates"][0]
    assert newest["id"] != gate["id"]
    assert newest["reusable"]
    assert "again" in comfy.said()
    again = comfy.http.post(f"/imagegate/api/gates/{newest['id']}/ask-again", json={})
    assert again.status_code == 200, again.text
    run = comfy.queue(prompt)
    [asked] = comfy.waiting(run)
    comfy.decide(asked, "keep")
    comfy.finished(run)
    assert len(comfy.sunk(f"{name}-keep")) == 1


@pytest.mark.parametrize("arguments", [(), ("--cache-none",)], ids=["cached", "cache-none"])
def test_many_parked_prompts_outlive_a_restart(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A hundred prompts park in one go and leave the queue empty; ComfyUI restarts; each answer
    then sends the right image down the right route, and nothing before the gates runs again.
    """
    base = tmp_path / "base"
    with running(base, *arguments) as comfy:
        for i in range(MANY):
            comfy.queue(parked(f"{i}", noise(seed=i)))
        until(lambda: len(comfy.gates()) == MANY, "parked gates", within=120)
        until(comfy.idle, "empty queue", within=60)
        waits = [comfy.queue(gated(f"wait{i}", noise(seed=i))) for i in range(3)]
        for run in waits:
            [gate] = comfy.waiting(run)
            comfy.decide(gate, 1)
            comfy.finished(run)
        made = comfy.made()
    with running(base, *arguments) as comfy:
        until(comfy.panel_runs, "panel", within=60)
        gates = comfy.gates()
        assert len(gates) == MANY
        routes: dict[str, int] = {}
        for gate in gates:
            number = gate["prompt_id"]
            routes[gate["id"]] = len(routes) % 2 + 1
            assert comfy.decide(gate, routes[gate["id"]]).json() == {"outcome": "won"}, number
        for gate in gates:
            comfy.state(gate, "resumed", within=240)
        assert comfy.idle()
        assert comfy.made() == made
        for i in range(MANY):
            kept, fixed = comfy.sunk(f"{i}-keep"), comfy.sunk(f"{i}-fix")
            assert len(kept) + len(fixed) == 1, i
            assert (kept + fixed)[0].tobytes() == comfy.sunk(f"{i}-source")[0].tobytes(), i
        for i in range(3):  # as a prompt that waited had it
            parked_image = (comfy.sunk(f"{i}-keep") + comfy.sunk(f"{i}-fix"))[0]
            assert parked_image.tobytes() == comfy.sunk(f"wait{i}-keep")[0].tobytes()
        assert sum(len(comfy.sunk(f"{i}-keep")) for i in range(MANY)) == MANY // 2


def test_a_node_that_is_gone_brings_the_gate_back(tmp_path: Path) -> None:
    """When ComfyUI refuses to go on, the gate waits again with its message; after the pack is back,
    deciding again goes on.
    """
    base = tmp_path / "base"
    prompt = parked("gone")
    prompt["7"] = node("LiveGone", image=["2", 1])
    prompt["3"] = sink("gone-keep", ["7", 0])
    with running(base, IMAGEGATE_WORKER="one") as comfy:
        [gate] = park(comfy, prompt)
    with running(base, IMAGEGATE_WORKER="one", LIVE_GONE="LiveGone") as comfy:
        until(comfy.panel_runs, "panel", within=60)
        comfy.decide(gate, 1)
        reason = until(lambda: comfy.gate(gate["id"]).get("reason"), "reason")
        assert "LiveGone" in reason
        assert comfy.gate(gate["id"])["state"] == "parked"
    with running(base, IMAGEGATE_WORKER="one") as comfy:
        until(comfy.panel_runs, "panel", within=60)
        comfy.decide(gate, 1)
        comfy.state(gate, "resumed")
        assert len(comfy.sunk("gone-keep")) == 1


@pytest.fixture
def shared(tmp_path: Path, postgresql_url: str) -> dict[str, str]:
    """The settings of workers that share a store."""
    return {"IMAGEGATE_STORE": postgresql_url, "IMAGEGATE_PICTURES": str(tmp_path / "pictures")}


def test_two_workers_share_a_store(tmp_path: Path, shared: dict[str, str]) -> None:
    """A gate that waits in one worker is answered at the other; one that was parked by a worker
    that is gone goes on in the other.
    """
    with running(tmp_path / "b", IMAGEGATE_WORKER="b", **shared) as b:
        until(b.panel_runs, "panel", within=60)
        with running(tmp_path / "a", IMAGEGATE_WORKER="a", **shared) as a:
            run = a.queue(gated("waits", noise(seed=3)))
            [gate] = b.waiting(run)
            assert gate["worker"] == "a"
            until(
                lambda: b.http.get(
                    f"/imagegate/api/gates/{gate['id']}/image/0?size=full"
                ).status_code == 200,
                "full size at the other worker",
            )  # fmt: skip
            assert b.decide(gate, "keep").json() == {"outcome": "won"}
            assert "execution_success" in a.finished(run).events
            assert len(a.sunk("waits-keep")) == 1
            [left] = park(a, parked("parks", noise(seed=4)))
            source = a.sunk("parks-source")[0]
        b.decide(left, "fix")
        b.state(left, "resumed")
        [image] = b.sunk("parks-fix")
        assert image.tobytes() == source.tobytes()
        assert b.made() == []

        def dead() -> bool:
            found = b.http.get("/imagegate/api/status").json()["workers"]
            return {w["name"]: w["alive"] for w in found} == {"a": False, "b": True}

        until(dead, "sign that worker a is gone", within=60)
