"""Several people at one queue: nobody decides an image they did not mean. In a real Chromium."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from imagegate.core.model import Gate
from imagegate.gate_bus import GateBus, Ticket
from imagegate.pictures.tensors import TensorPictures
from tests.support.approver import Studio
from tests.support.approver import shown as in_front
from tests.support.browser import WAIT, PanelServer, chromium, pages


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


def publish(bus: GateBus[Any], title: str, **more: Any) -> Ticket:
    gate = Gate(labels=("keep", "fix"), width=32, height=24, title=title, node_id="7", **more)
    return bus.publish(gate, TensorPictures(torch.rand(1, 24, 32, 3)))


def shown(page: Page, title: str) -> None:
    expect(page.locator("#ig-title")).to_have_text(title)
    page.wait_for_function(
        "() => { const i = document.querySelector('#ig-image');"
        " return i.complete && i.naturalWidth > 0 }"
    )


PRESS_AT_THE_SWAP = """() => new MutationObserver((_, watch) => {
  watch.disconnect();
  requestAnimationFrame(() => {
    const key = (name) => new KeyboardEvent("keydown", { key: name, bubbles: true });
    document.body.dispatchEvent(key("1"));
    window.pressed = performance.now();
  });
}).observe(document.querySelector("#ig-title"), { childList: true })"""
"""Has the page itself press 1 right after another image came to the front: no test is as quick."""


def press_until(page: Page, key: str, ticket: Ticket) -> int | None:
    """Press a key as a person does who sees that it was not taken; the route it decided."""
    deadline = time.monotonic() + WAIT / 1000
    while not ticket.future.done() and time.monotonic() < deadline:
        page.keyboard.press(key)
        with contextlib.suppress(TimeoutError):
            ticket.wait(0.5)
    return ticket.wait(0).decision.route


@pytest.mark.parametrize("how", ["somebody decides", "it is withdrawn", "its time is up"])
def test_a_key_meant_for_the_image_that_went_decides_nothing(
    bus: GateBus[Any], new_page: Callable[..., Page], how: str
) -> None:
    """Whatever takes an image away, a key that was meant for it does not decide the next one: the
    page says what happened, and takes the next key.
    """
    first, second = publish(bus, "First"), publish(bus, "Second")
    page = new_page()
    shown(page, "First")
    page.evaluate(PRESS_AT_THE_SWAP)
    if how == "somebody decides":
        bus.decide(first.gate.id, 1, by="Ada")
    elif how == "it is withdrawn":
        first.withdraw("its prompt ended")
    else:
        bus.expire(first.gate.id)
    page.wait_for_function("() => window.pressed")
    said = {"somebody decides": "Ada chose “keep”", "it is withdrawn": "its prompt ended"}
    expect(page.locator("#ig-status")).to_contain_text(said.get(how, "nobody answered in time"))
    expect(page.locator("#ig-status")).to_contain_text("“1” was not taken")
    assert not second.future.done()
    shown(page, "Second")
    assert press_until(page, "2", second) == 2


def test_a_key_does_not_decide_what_comes_to_an_empty_page(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """A key that is pressed just as a new gate arrives is not taken for it."""
    page = new_page()
    page.evaluate(PRESS_AT_THE_SWAP)
    ticket = publish(bus, "New")
    page.wait_for_function("() => window.pressed")
    expect(page.locator("#ig-status")).to_contain_text("“1” was not taken")
    assert not ticket.future.done()
    assert press_until(page, "1", ticket) == 1


def test_a_key_does_not_decide_what_somebody_else_takes_back(browser: Browser) -> None:
    """A key that is pressed just as an undo elsewhere brings an image back is not taken for it."""
    with Studio(browser) as studio:
        id_ = studio.publish("Back")
        studio.bus.decide(id_, 1, by="Ada")
        page = studio.operator_page()
        expect(page.locator("#ig-empty")).to_be_visible()
        page.evaluate(PRESS_AT_THE_SWAP)
        studio.bus.undo(id_)
        page.wait_for_function("() => window.pressed")
        expect(page.locator("#ig-status")).to_contain_text("“1” was not taken")
        assert studio.bus.get(id_).state.open
        shown(page, "Back")
        expect(page.locator("#ig-pause")).to_be_hidden()
        page.keyboard.press("2")
        expect(page.locator("#ig-status")).to_contain_text("“fix” recorded for Back")


def test_a_key_does_not_decide_what_a_reconnection_brings(
    bus: GateBus[Any], server: PanelServer, new_page: Callable[..., Page]
) -> None:
    """What was decided elsewhere while the connection was lost is said once it is back; a key that
    was meant for it decides nothing.
    """
    first, second = publish(bus, "First"), publish(bus, "Second")
    page = new_page()
    shown(page, "First")
    server.stop()
    expect(page.locator("#ig-offline")).to_be_visible()
    bus.decide(first.gate.id, 1, by="Ada")
    page.evaluate(PRESS_AT_THE_SWAP)
    server.start()
    page.wait_for_function("() => window.pressed")
    expect(page.locator("#ig-status")).to_contain_text("First: Ada chose “keep”.")
    expect(page.locator("#ig-status")).to_contain_text("“1” was not taken")
    assert not second.future.done()
    shown(page, "Second")
    assert press_until(page, "2", second) == 2


UNDO_AS_ROWS_MOVE = """() => new MutationObserver((_, watch) => {
  watch.disconnect();
  const undo = document.querySelector("#ig-history").children[1].querySelector(".ig-back");
  const how = { bubbles: true, detail: 1, pointerType: "touch" };
  undo.dispatchEvent(new PointerEvent("click", how));
  window.pressed = performance.now();
}).observe(document.querySelector("#ig-history"), { childList: true })"""
"""Has the page itself click the Undo that has just come where another one was."""


@pytest.mark.parametrize("whose", ["operator", "approver"])
def test_undo_takes_back_no_answer_that_came_under_the_pointer(
    browser: Browser, whose: str
) -> None:
    """A click on an Undo of a list whose rows have just moved is not taken, and shown not to be; a
    moment later it is.
    """
    with Studio(browser) as studio:
        ids = [studio.publish(title) for title in ("First", "Second", "Third")]
        page = studio.enter("Ada") if whose == "approver" else studio.operator_page()
        in_front(page, "First") if whose == "approver" else shown(page, "First")
        if whose == "approver":
            for title in ("First", "Second"):
                in_front(page, title)
                expect(page.locator("#ig-pause")).to_be_hidden()
                page.evaluate("() => new Promise((done) => setTimeout(done, 300))")
                page.tap("#ig-route-1")
                expect(page.locator("#ig-status")).to_contain_text(f"recorded for {title}")
            page.tap("#ig-past-open")
            page.tap("#ig-past-all")
        else:
            for id_ in ids[:2]:
                studio.bus.decide(id_, 1, by="")
        rows = page.locator("#ig-history li")
        expect(rows).to_have_count(2)
        page.evaluate(UNDO_AS_ROWS_MOVE)
        studio.bus.decide(ids[2], 1, by="Ben")
        page.wait_for_function("() => window.pressed")
        expect(page.locator("#ig-status")).to_contain_text("“Undo” was not taken")
        assert not any(studio.bus.get(id_).state.open for id_ in ids)
        page.evaluate("() => new Promise((done) => setTimeout(done, 800))")  # to aim anew
        rows.nth(1).locator(".ig-back").click()
        expect(rows).to_have_count(2)
        assert studio.bus.get(ids[1]).state.open


def test_what_is_typed_about_an_image_that_went_is_lost_to_no_other(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Whoever writes a note as its image goes writes nothing about the next one by accident."""
    first, second = publish(bus, "First"), publish(bus, "Second")
    page = new_page()
    shown(page, "First")
    page.click("#ig-note")
    page.keyboard.type("too da")
    page.evaluate(PRESS_AT_THE_SWAP.replace("document.body", "document.activeElement"))
    bus.decide(first.gate.id, 1, by="Ada")
    page.wait_for_function("() => window.pressed")
    shown(page, "Second")
    expect(page.locator("#ig-note")).to_have_value("")
    expect(page.locator("#ig-note")).to_be_editable()
    page.keyboard.type("sharp")
    expect(page.locator("#ig-note")).to_have_value("sharp")
    assert not second.future.done()


def test_a_second_of_rest_is_enough(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """Whoever presses nothing after a change need acknowledge nothing."""
    first, second = publish(bus, "First"), publish(bus, "Second")
    page = new_page()
    shown(page, "First")
    bus.decide(first.gate.id, 1, by="Ada")
    shown(page, "Second")
    expect(page.locator("#ig-pause")).to_contain_text("Ada chose “keep”")
    expect(page.locator("#ig-pause")).to_be_hidden()
    page.keyboard.press("2")
    assert second.wait(WAIT / 1000).decision.route == 2


def test_every_key_is_taken_or_shown_not_to_be(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Of keys pressed faster than images come each either decides or is said not to be taken."""
    tickets = [publish(bus, f"Gate {i}") for i in range(31)]
    page = new_page()
    shown(page, "Gate 0")
    page.evaluate(
        """() => {
          window.missed = 0;
          const sign = document.querySelector("#ig-pause");
          new MutationObserver(() => sign.textContent.includes("not taken") && window.missed++)
            .observe(sign, { childList: true });
        }"""
    )
    for _ in range(30):
        page.keyboard.press("1")
    taken = page.evaluate("window.missed")
    expect(page.locator("#ig-pending")).to_have_text(f"{31 - (30 - taken)} waiting")
    assert sum(ticket.future.done() for ticket in tickets) == 30 - taken


def test_an_approver_decides_no_image_they_did_not_mean(browser: Browser) -> None:
    """On the page of a link, too, a key meant for the image that went decides nothing."""
    with Studio(browser) as studio:
        ids = [studio.publish(title) for title in ("First", "Second")]
        page = studio.enter("Ada", viewport={"width": 1280, "height": 860})
        in_front(page, "First")
        page.evaluate(PRESS_AT_THE_SWAP)
        studio.bus.decide(ids[0], 1, by="Ben")
        page.wait_for_function("() => window.pressed")
        expect(page.locator("#ig-status")).to_contain_text("Ben chose “keep” first")
        expect(page.locator("#ig-status")).to_contain_text("“1” was not taken")
        in_front(page, "Second")
        assert studio.bus.get(ids[1]).state.open
        expect(page.locator("#ig-pause")).to_be_hidden()
        page.keyboard.press("2")
        expect(page.locator("#ig-status")).to_contain_text("“fix” recorded for Second")


@pytest.mark.parametrize("whose", ["operator", "approver"])
def test_an_image_that_failed_is_asked_for_again(browser: Browser, whose: str) -> None:
    """An image whose request failed comes by itself; until then a route asks once more."""
    with Studio(browser) as studio:
        id_ = studio.publish("Portrait")
        page = studio.tab()
        fails = [True]

        def fail(route: Any) -> None:
            if fails[0]:
                route.abort()
            else:
                route.continue_()

        page.route("**/image/0?**", fail)
        page = studio.enter("Ada", page) if whose == "approver" else studio.operator_page(page)
        expect(page.locator("#ig-failed")).to_contain_text("could not be loaded")
        page.keyboard.press("1")
        expect(page.locator("#ig-status")).to_contain_text("The image is not shown")
        assert studio.bus.get(id_).state.open
        fails[0] = False
        expect(page.locator("#ig-failed")).to_be_hidden()
        expect(page.locator("#ig-image")).to_be_visible()
        page.keyboard.press("1")
        expect(page.locator("#ig-status")).to_contain_text("“keep” recorded for Portrait")


def test_an_approver_reads_a_sentence_once(browser: Browser) -> None:
    """What stands over the image is not said below it too; once it is gone it is read there."""
    with Studio(browser) as studio:
        ids = [studio.publish(title) for title in ("First", "Second")]
        page = studio.enter("Ada")
        in_front(page, "First")
        studio.bus.decide(ids[0], 1, by="Ben")
        expect(page.locator("#ig-pause")).to_contain_text("Ben chose “keep” first.")
        expect(page.locator("#ig-status")).to_have_text("First: Ben chose “keep” first.")
        assert page.evaluate("""() => new Promise((done) => {
          const [over, below] = ["#ig-pause", "#ig-status"].map((id) => document.querySelector(id));
          const look = () => {
            const shown = getComputedStyle(below).visibility === "visible";
            over.hidden ? (shown ? done(true) : requestAnimationFrame(look))
              : shown ? done(false) : requestAnimationFrame(look);
          };
          look();
        })""")


def test_an_image_that_is_not_shown_can_be_decided_all_the_same(browser: Browser) -> None:
    """Who confirms it decides without the image."""
    with Studio(browser) as studio:
        studio.publish("Portrait")
        page = studio.tab()
        page.route("**/image/0?**", lambda route: route.abort())
        page = studio.operator_page(page)
        expect(page.locator("#ig-failed")).to_be_visible()
        page.evaluate("() => new Promise((done) => setTimeout(done, 300))")  # no double click
        page.click("#ig-route-2")
        expect(page.locator("#ig-status")).to_contain_text("Send it to “fix” all the same?")
        page.evaluate("() => new Promise((done) => setTimeout(done, 700))")
        page.click("#ig-route-2")
        expect(page.locator("#ig-status")).to_contain_text("“fix” recorded for Portrait")
