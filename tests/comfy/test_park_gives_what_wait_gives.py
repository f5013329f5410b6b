"""Park gives what wait gives: the same outputs, each once, with the same bits, in every order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imagegate.comfy.parked import resume as resume_module
from tests.support.comfy_stand_in import Comfy
from tests.support.random_graphs import Prompt, difference, graphs, waiting
from tests.support.stage import Stage

pytestmark = pytest.mark.slow


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> Comfy:
    monkeypatch.setattr(resume_module, "QUEUE_LOOK", 0.002)
    monkeypatch.setattr(resume_module, "IDLE", 0.05)
    comfy = Comfy(BaseException)
    comfy.install(monkeypatch)
    return comfy


def play(comfy: Comfy, prompt: Prompt, **order: Any) -> Stage:
    stage = Stage(comfy, **order)
    try:
        stage.play(prompt)
    finally:
        stage.close()
    return stage


def check(comfy: Comfy, prompt: Prompt, **order: Any) -> None:
    waited = play(comfy, waiting(prompt))
    parked = play(comfy, prompt, **order)
    assert difference(parked.asked, waited.asked) == ([], [])
    assert difference(parked.outputs, waited.outputs) == ([], [])
    assert sorted(parked.made) == sorted(waited.made)


@given(prompt=graphs(), seed=st.integers(0, 3))
@settings(
    max_examples=30, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_park_gives_what_wait_gives(comfy: Comfy, prompt: Prompt, seed: int) -> None:
    """Whatever hangs behind the gates, and whoever answers first: what is asked, what comes out,
    and what runs before the gates is as if all gates had waited.
    """
    check(comfy, prompt, seed=seed)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def gate(image: list[Any], mode: str, **more: Any) -> dict[str, Any]:
    return node("ImageGate", image=image, routes=2, mode=mode, **more)


def meeting(
    first: str, second: str, in_a_row: bool, meet: str, sizes: tuple[int, int], **more: Any
) -> Prompt:
    """Two gates, and an output of both.

    Args:
        meet: image, mask or both: what of them meets.
        sizes: of the lists that they stand in.
    """
    prompt = {
        "1": node("TestList", seed=1, count=sizes[0]),
        "2": node("TestList", seed=2, count=sizes[1]),
        "3": gate(["1", 0], first, **more),
        "4": gate(["3", 1] if in_a_row else ["2", 0], second, **more),
        "5": node("TestOfMask", mask=["3", 0]),
        "6": node("TestOfMask", mask=["4", 0]),
    }
    pairs = {
        "image": [(["3", 1], ["4", 1]), (["3", 1], ["4", 2])],
        "mask": [(["5", 0], ["6", 0])],
        "both": [(["3", 1], ["6", 0]), (["5", 0], ["4", 1]), (["5", 0], ["4", 2])],
    }[meet]
    for number, (one, other) in enumerate(pairs, 7):
        prompt[str(number)] = node("TestOut", name=str(number), a=one, b=other)
    return prompt


@pytest.mark.parametrize("sizes", [(3, 3), (3, 1), (1, 3)])
@pytest.mark.parametrize("meet", ["image", "mask", "both"])
@pytest.mark.parametrize("in_a_row", [True, False], ids=["in a row", "side by side"])
@pytest.mark.parametrize(
    ("first", "second"), [("wait", "park"), ("park", "wait"), ("park", "park")]
)
def test_gates_that_meet_again(
    comfy: Comfy, first: str, second: str, in_a_row: bool, meet: str, sizes: tuple[int, int]
) -> None:
    """What needs two gates runs once, with both answers, whoever answers first; nobody is asked
    twice, and nothing that was painted is lost.
    """
    prompt = meeting(first, second, in_a_row, meet, sizes)
    for one in ("3", "4"):
        check(comfy, prompt, first=one)


@pytest.mark.parametrize("first", ["3", "4"])
def test_answers_are_known_though_the_cache_is_empty(comfy: Comfy, first: str) -> None:
    """What came before the gates, waiting or parked, does not run again, whatever was cached."""
    prompt = meeting("wait", "park", False, "both", (3, 3))
    check(comfy, prompt, first=first, forgets=True)


@pytest.mark.parametrize("how", ["keep places", "gather"])
@pytest.mark.parametrize("kind", ["TestWhole", "TestTotal", "TestTwice"])
@pytest.mark.parametrize(("first", "second"), [("wait", "park"), ("park", "park")])
def test_whole_lists_behind_gates_that_meet(
    comfy: Comfy, first: str, second: str, kind: str, how: str
) -> None:
    """Nodes that take or make whole lists run once, with all items, after the last answer."""
    prompt = meeting(first, second, False, "image", (3, 3), list=how)
    name = "image" if kind == "TestTwice" else "images"
    prompt["10"] = node("TestMix", a=["3", 1], b=["4", 1])
    prompt["11"] = node(kind, **{name: ["10", 0]})
    prompt["12"] = node("TestOut", name="12", a=["11", 0])
    prompt["13"] = node(kind, **{name: ["3", 2]})
    prompt["14"] = node("TestOut", name="14", a=["13", 0])
    for one in ("3", "4"):
        check(comfy, prompt, first=one)
