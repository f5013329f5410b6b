"""Gates in lists: what they say before the answer, what gathers, what goes on together."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from imagegate.comfy.host import is_blocker
from imagegate.comfy.parked import resume as resume_module
from imagegate.comfy.parked.graph import Graph, Lists
from imagegate.core.model import Gate, GateClosed, Snapshot, State
from tests.support.comfy_stand_in import Comfy
from tests.support.graph_nodes import digest, mixed, picture
from tests.support.stage import Stage
from tests.support.stored import storage_of, store_of

KINDS = {
    "TestWhole": Lists(takes=True, makes=True), "TestTotal": Lists(takes=True),
    "TestTwice": Lists(makes=True), "TestList": Lists(makes=True),
}  # fmt: skip


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def gate(image: list[Any], mode: str = "park", **more: Any) -> dict[str, Any]:
    return node("ImageGate", image=image, routes=2, mode=mode, **more)


def listed(mode: str = "park", **more: Any) -> dict[str, Any]:
    """A list of three -> gate -> an output on the first route, and one for the list as a whole."""
    return {
        "1": node("TestList", seed=1, count=3),
        "2": gate(["1", 0], mode, **more),
        "3": node("TestOut", name="each", a=["2", 1]),
        "4": node("TestTotal", images=["2", 1]),
        "5": node("TestOut", name="whole", a=["4", 0]),
        "6": node("TestOfMask", mask=["2", 0]),
        "7": node("TestOut", name="mask", a=["6", 0]),
    }


IMAGES = [picture(10 + i) for i in range(3)]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(resume_module, "QUEUE_LOOK", 0.002)
    monkeypatch.setattr(resume_module, "IDLE", 0.05)
    comfy = Comfy(BaseException)
    comfy.install(monkeypatch)
    stage = Stage(comfy)
    yield stage
    stage.close()


def asked(stage: Stage, count: int = 3) -> list[Gate]:
    """The gates of a list, in its order."""
    found = stage.until(lambda: len(pending := stage.bus.pending()) == count and pending, "gates")
    return [snapshot.gate for snapshot in found]


def settled(stage: Stage) -> None:
    """Wait until nothing happens by itself."""
    stage.until(lambda: all(run.over for run in stage.runs) and stage.idle(), "rest")


def got(stage: Stage, name: str) -> list[str]:
    return [output[1] for output in stage.outputs if output[0] == name]


@pytest.mark.parametrize("mode", ["wait", "park"])
def test_a_gate_names_what_will_not_run(
    stage: Stage, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With `keep places`, the nodes for whole lists on its routes are named before the answer: at
    each image, and once in the log, with the cure.
    """
    caplog.set_level(logging.WARNING, "imagegate")
    stage.start(listed(mode), "3", "5", "7")
    for one in asked(stage):
        assert "'TestTotal' (4) takes the whole list" in one.warning
        assert "list = gather" in one.warning
        stage.bus.decide(one.id, 1)
    settled(stage)
    assert caplog.text.count("takes the whole list") == 1


def test_a_gate_says_nothing_without_a_reason(stage: Stage) -> None:
    """A single image, a gate that gathers, and one with a gathering gate before those nodes, has
    nothing to say.
    """
    single = listed()
    single["1"]["inputs"]["count"] = 1
    later = listed("wait") | {"8": gate(["2", 1], "wait", list="gather")}
    later["4"]["inputs"]["images"] = ["8", 1]
    for prompt, count in ((single, 1), (listed(list="gather"), 3), (later, 3)):
        run = stage.start(prompt, "3", "5", "7")
        gates = asked(stage, count)
        assert [one.warning for one in gates] == [""] * count
        for one in gates:
            with suppress(GateClosed):  # a Stop ends all that wait in its prompt
                stage.bus.stop(one.id)
        run.result()


@pytest.mark.parametrize("mode", ["wait", "park"])
def test_a_gate_gathers(stage: Stage, mode: str) -> None:
    """Each route is the list of its own images, so that a node for whole lists runs; the mask stays
    a list as long as the input, and a route that got nothing is blocked once.
    """
    prompt = listed(mode, list="gather")
    prompt["8"] = node("TestWhole", images=["2", 2])
    prompt["9"] = node("TestOut", name="other", a=["8", 0])
    run = stage.start(prompt, "3", "5", "7", "9")
    first, second, third = asked(stage)
    for one, route in ((third, 1), (first, 1), (second, 2)):
        stage.bus.decide(one.id, route)
    settled(stage)
    assert run.result().status == "success"
    assert got(stage, "each") == [digest(IMAGES[0]), digest(IMAGES[2])]
    assert got(stage, "whole") == [digest(mixed(IMAGES[0], IMAGES[2]))]
    assert got(stage, "other") == [digest(IMAGES[1])]
    assert len(got(stage, "mask")) == 3
    slots = stage.runs[-1].result().outputs["2"]
    assert [len(slot) for slot in slots] == [3, 2, 1, *[1] * 8]
    assert all(is_blocker(slot[0]) for slot in slots[3:])


def test_a_hole_is_left_out_by_a_gate_that_gathers(stage: Stage) -> None:
    """What an earlier gate sent elsewhere is no image of a gate that gathers."""
    prompt = listed("wait") | {"8": gate(["2", 1], "wait", list="gather")}
    prompt["4"]["inputs"]["images"] = ["8", 1]
    stage.start(prompt, "5")
    for one, route in zip(asked(stage), (1, 2, 1), strict=True):
        stage.bus.decide(one.id, route)
    for one in asked(stage, 2):
        stage.bus.decide(one.id, 1)
    settled(stage)
    assert got(stage, "whole") == [digest(mixed(IMAGES[0], IMAGES[2]))]


def test_a_list_goes_on_together(stage: Stage) -> None:
    """Where whole lists matter behind, all go on in one prompt after the last answer; until then
    each gate says how many are answered, and answers can be undone.
    """
    stage.start(listed(), "3", "5", "7")
    first, second, third = asked(stage)
    assert [one.together for one in (first, second, third)] == [3, 3, 3]
    stage.bus.decide(first.id, 1)
    stage.bus.decide(second.id, 1)
    settled(stage)
    assert stage.outputs == []
    for one in (first, third):
        assert stage.bus.get(one.id).to_json()["waits_for"].startswith("2 of 3 answered")
    assert stage.bus.undo(first.id).state is State.PARKED
    stage.bus.decide(third.id, 1)
    settled(stage)
    assert stage.outputs == []
    stage.bus.decide(first.id, 1)
    settled(stage)
    assert got(stage, "whole") == [digest(mixed(*IMAGES))]
    assert sorted(got(stage, "each")) == sorted(digest(image) for image in IMAGES)
    assert len(stage.queue.runs) == 1
    assert "waits_for" not in stage.bus.get(third.id).to_json()


@pytest.mark.parametrize("how", ["keep places", "gather"])
def test_an_image_that_is_stopped_counts_as_answered(stage: Stage, how: str) -> None:
    """The others go on without it."""
    stage.start(listed(list=how), "3", "5", "7")
    first, second, third = asked(stage)
    stage.bus.decide(first.id, 1)
    stage.bus.decide(third.id, 1)
    stage.bus.stop(second.id)
    settled(stage)
    assert got(stage, "each") == [digest(IMAGES[0]), digest(IMAGES[2])]
    whole = [digest(mixed(IMAGES[0], IMAGES[2]))] if how == "gather" else []
    assert got(stage, "whole") == whole


def test_without_whole_lists_each_goes_on_by_itself(stage: Stage) -> None:
    """One is answered, and goes on in its place, whatever the others do."""
    prompt = {key: value for key, value in listed().items() if key in "123"}
    prompt["3"]["inputs"]["b"] = ["1", 0]
    stage.start(prompt, "3")
    first, second, third = asked(stage)
    stage.bus.decide(second.id, 1)
    settled(stage)
    assert stage.outputs == [("each", digest(IMAGES[1]), digest(IMAGES[1]))]
    stage.bus.decide(third.id, 1)
    stage.bus.stop(first.id)
    settled(stage)
    assert stage.outputs[1:] == [("each", digest(IMAGES[2]), digest(IMAGES[2]))]


def test_answers_used_again_go_on_with_the_list(stage: Stage) -> None:
    """Of a list that goes on together, images that were decided before wait for the others."""
    again = {"repeat": "reuse decision", "title": "T"}
    single = listed("wait", **again)
    single["1"] = node("TestList", seed=1, count=1)
    stage.start(single, "3")
    [one] = asked(stage, 1)
    stage.bus.decide(one.id, 1)
    settled(stage)
    stage.until(
        lambda: store_of(stage.bus).gates.decided_like(_fingerprint(stage, one)), "fingerprint"
    )
    stage.outputs.clear()
    stage.start(listed(**again), "3", "5")
    second, third = asked(stage, 2)
    settled(stage)
    assert stage.outputs == []
    stage.bus.decide(second.id, 1)
    stage.bus.decide(third.id, 1)
    settled(stage)
    assert got(stage, "whole") == [digest(mixed(*IMAGES))]


def _fingerprint(stage: Stage, gate: Gate) -> str:
    with store_of(stage.bus).database.read() as connection:
        query = f"SELECT fingerprint FROM gates WHERE id = '{gate.id}'"
        return str(connection.exec_driver_sql(query).scalar())


def test_nothing_goes_on_while_its_prompt_runs(stage: Stage) -> None:
    """A parked gate that is answered while another one still waits goes on after that prompt."""
    prompt = {
        "1": node("TestList", seed=1, count=1),
        "2": gate(["1", 0]),
        "3": gate(["1", 0], "wait"),
        "4": node("TestOut", name="both", a=["2", 1], b=["3", 1]),
    }
    run = stage.start(prompt, "4")
    gates = {one.node_id: one for one in asked(stage, 2)}
    stage.bus.decide(gates["2"].id, 1)
    assert storage_of(stage.bus).claims.take() is None
    assert not run.over
    stage.bus.decide(gates["3"].id, 1)
    settled(stage)
    assert stage.outputs == [("both", digest(IMAGES[0]), digest(IMAGES[0]))]
    assert stage.bus.count() == 0


def test_what_failed_is_asked_once_more(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a list that goes on together only the image that was answered last is asked again."""
    stage.start(listed(), "5")
    first, second, third = asked(stage)
    kinds: Any = stage.executor.nodes["TestTotal"]
    run = kinds.run

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("out of memory")

    monkeypatch.setattr(kinds, "run", broken)
    for one in (second, third, first):
        stage.bus.decide(one.id, 1)
    back: Snapshot = stage.until(lambda: stage.bus.pending() and stage.bus.pending()[0], "gate")
    assert back.gate.id == first.id
    assert "out of memory" in back.reason
    assert stage.bus.get(second.id).undoable
    monkeypatch.setattr(kinds, "run", run)
    stage.bus.decide(first.id, 1)
    settled(stage)
    assert got(stage, "whole") == [digest(mixed(*IMAGES))]


# -- the graph


def lists(kind: str) -> Lists:
    return KINDS.get(kind, Lists())


@pytest.mark.parametrize("kind", ["TestWhole", "TestTotal", "TestTwice"])
def test_whole_lists_are_found_through_other_gates(kind: str) -> None:
    """On the mask or on a route, directly or behind other nodes and gates."""
    prompt = {
        "1": node("TestList"), "2": gate(["1", 0]), "3": node("TestMix", a=["2", 1], b=["2", 1]),
        "4": gate(["3", 0], "wait"), "5": node(kind, image=["4", 2]), "6": gate(["1", 0]),
        "7": node(kind, image=["6", 0]), "8": gate(["1", 0]), "9": node("TestOut", a=["8", 1]),
    }  # fmt: skip
    graph = Graph(prompt, lists)
    assert [graph.together(n) for n in ("2", "4", "6", "8")] == [True, True, True, False]
    assert graph.stopped_by_a_hole("6") == []  # a mask is not blocked by the choice of a route


def test_which_answers_are_kept() -> None:
    """That of a waiting gate which meets a parked one behind, or leads past it; no other."""
    prompt = {
        "1": node("TestList"), "2": gate(["1", 0], "wait"), "3": gate(["2", 1], "park"),
        "4": node("TestOut", a=["3", 1]),
    }  # fmt: skip
    assert not Graph(prompt).needed_later("2")
    past = prompt | {"5": node("TestMix", a=["3", 1], b=["2", 0])}
    assert Graph(past).needed_later("2")
    beside = prompt | {"5": gate(["1", 0], "wait"), "6": node("TestMix", a=["5", 1], b=["3", 2])}
    assert Graph(beside).needed_later("5")
    assert not Graph(beside | {"6": node("TestOut", a=["5", 1])}).needed_later("5")
    behind = prompt | {"5": gate(["3", 1], "wait"), "6": node("TestOut", a=["5", 1])}
    assert not Graph(behind).needed_later("5")


def test_no_list_shows_in_the_class() -> None:
    """Outside of joining its rows, the node has no OUTPUT_IS_LIST: it looks as it always has."""
    from imagegate.comfy.node import ImageGate

    assert not hasattr(ImageGate, "OUTPUT_IS_LIST")
    assert not hasattr(ImageGate.__new__(ImageGate), "OUTPUT_IS_LIST")
