"""Several people at one queue are shown different gates first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from imagegate.core.model import Gate
from imagegate.core.origins import PAGE_HEADER
from imagegate.core.viewers import ATTENTION, Viewers
from imagegate.gate_bus import GateBus
from imagegate.pictures.tensors import TensorPictures
from tests.support.approver import Studio
from tests.support.browser import PanelServer, chromium, pages


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def gate(title: str) -> Gate:
    return Gate(labels=("keep", "fix"), width=8, height=8, title=title)


A, B, C = (gate(title) for title in "ABC")


def test_each_is_shown_the_first_that_nobody_else_looks_at() -> None:
    """One person alone gets the oldest; others get the next; when all are looked at, the oldest."""
    viewers = Viewers(Clock())
    queue = [A, B]
    assert viewers.look("ada", "1", queue)[0] == A
    assert viewers.look("ben", "1", queue)[0] == B
    assert viewers.look("cyd", "1", queue)[0] == A
    assert viewers.look("ada", "1", [C])[0] == C


def test_pages_of_one_person_are_not_in_each_other_s_way() -> None:
    """Two tabs of one person both show the oldest gate."""
    viewers = Viewers(Clock())
    assert viewers.look("ada", "1", [A, B])[0] == A
    assert viewers.look("ada", "2", [A, B])[0] == A


def test_a_gate_that_nobody_attends_to_is_shown_to_others() -> None:
    """Left open on a screen, a gate counts as looked at for a while only: none is starved."""
    clock = Clock()
    viewers = Viewers(clock)
    viewers.look("ada", "1", [A])
    clock.now = ATTENTION - 1
    assert viewers.look("ben", "1", [A, B])[0] == B
    clock.now = ATTENTION + 1
    assert viewers.look("ben", "1", [A, B])[0] == A
    assert [look.gate for look in viewers.looks()] == [A]


def test_who_leaves_looks_at_nothing() -> None:
    """A page that shows no gate is in nobody's way; an unknown page may leave, too."""
    viewers = Viewers(Clock())
    viewers.look("ada", "1", [A])
    assert viewers.look("ada", "1", [])[0] is None
    assert viewers.look("ben", "1", [A, B])[0] == A
    assert viewers.look("cyd", "1", [])[0] is None


def test_nobody_is_told_of_one_person_alone() -> None:
    """The bell rings when somebody looks at another gate and there are others to hear of it."""
    viewers, rings = Viewers(Clock()), []
    viewers.changed.listen(lambda: rings.append(1))
    viewers.look("ada", "1", [A])
    viewers.look("ada", "1", [B])
    assert not rings
    viewers.look("ben", "1", [A])
    assert len(rings) == 1
    viewers.look("ben", "1", [A])
    assert len(rings) == 1


# -- with pages


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def server(bus: GateBus[Any]) -> Iterator[PanelServer]:
    server = PanelServer(bus)
    yield server
    server.stop()


@pytest.fixture
def new_page(browser: Browser, server: PanelServer) -> Iterator[Callable[..., Page]]:
    with pages(browser, server.url) as open_page:
        yield open_page


def publish(bus: GateBus[Any], title: str) -> Any:
    return bus.publish(gate(title), TensorPictures(torch.rand(1, 8, 8, 3)))


def title(page: Page) -> str:
    expect(page.locator("#ig-title")).not_to_be_empty()
    return page.locator("#ig-title").inner_text()


def test_people_at_one_queue_start_at_different_gates(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """The first sees the oldest gate, everybody who comes later another one; whoever decides goes
    on to one that nobody looks at; a tab more of one person shows the oldest that is theirs.
    """
    for i in range(6):
        publish(bus, f"Gate {i}")
    ada, ben, cyd = new_page(), new_page(), new_page()
    assert [title(page) for page in (ada, ben, cyd)] == ["Gate 0", "Gate 1", "Gate 2"]
    second = ada.context.new_page()
    second.goto(ada.url)
    assert title(second) == "Gate 0"
    ada.bring_to_front()
    ada.click("#ig-skip")
    expect(ada.locator("#ig-title")).to_have_text("Gate 3")
    bus.decide(bus.pending()[0].gate.id, 1, by="script")  # Gate 0, at the second tab
    expect(second.locator("#ig-title")).to_have_text(re.compile("Gate [1-5]"))


def test_whoever_s_image_is_taken_is_shown_one_that_nobody_looks_at(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Two who look at the only gate go on to different ones when one of them decides it."""
    publish(bus, "Only")
    ada, ben = new_page(), new_page()
    assert [title(ada), title(ben)] == ["Only", "Only"]
    for name in ("Next", "Last"):
        publish(bus, name)
    for page in (ada, ben):
        expect(page.locator("#ig-pending")).to_have_text("3 waiting")
    expect(ada.locator("#ig-routes")).not_to_have_attribute("aria-disabled", "true")
    ada.click("#ig-route-1")
    expect(ada.locator("#ig-title")).to_have_text("Next")
    expect(ben.locator("#ig-title")).to_have_text("Last")


def test_approvers_and_the_operator_are_not_in_each_other_s_way(browser: Browser) -> None:
    """People behind links count, and those who may only look are in nobody's way."""
    with Studio(browser) as studio:
        for i in range(3):
            studio.publish(f"Gate {i}")
        looker = studio.enter("Guest", may="look")
        assert title(looker) == "Gate 0"
        assert title(studio.operator_page()) == "Gate 0"
        assert title(studio.enter("Ada")) == "Gate 1"
        assert title(studio.enter("Ben")) == "Gate 2"


def test_a_look_names_nothing_that_is_not_there(bus: GateBus[Any], server: PanelServer) -> None:
    """Unknown gates are passed over, and what is no list of ids is refused."""
    known = publish(bus, "Known").gate.id
    asked = {"person": "somebody", "page": "1", "gates": ["nothing", known]}
    origin = {"origin": server.url.removesuffix("/imagegate/"), PAGE_HEADER: "1"}
    answer = httpx.post(f"{server.url}api/looking", json=asked, headers=origin)
    assert (answer.status_code, answer.json()["gate"]) == (200, known)
    for wrong in ({"gates": ["x"] * 21}, {"person": "x"}, {"page": "x" * 65}, {"more": 1}):
        answer = httpx.post(f"{server.url}api/looking", json=asked | wrong, headers=origin)
        assert answer.status_code == 422, wrong
