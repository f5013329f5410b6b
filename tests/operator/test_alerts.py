"""Sound and notification, in a real Chromium with stand-ins for both."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

from imagegate.core.model import Gate
from imagegate.gate_bus import GateBus
from imagegate.pictures.tensors import TensorPictures
from tests.support.browser import PanelServer, chromium, pages

STAND_INS = """
window.told = { sounds: 0, notices: [], asked: 0, answer: "granted" };
class Sounding {
  constructor() { told.context = this; }
  state = "suspended"; currentTime = 0; destination = {};
  resume() { this.state = "running"; return Promise.resolve(); }
  createOscillator() {
    return { frequency: {}, connect: (to) => to, start: () => told.sounds++, stop() {} };
  }
  createGain() {
    const gain = { setValueAtTime() {}, linearRampToValueAtTime() {},
                   exponentialRampToValueAtTime() {} };
    return { gain, connect: (to) => to };
  }
}
window.AudioContext = Sounding;
window.Notification = class {
  static permission = sessionStorage.permission ?? "default";
  static async requestPermission() {
    told.asked++;
    return (sessionStorage.permission = this.permission = told.answer);
  }
  constructor(title, options) { told.notices.push(options.body); }
};
const visibility = { get: () => (told.away ? "hidden" : "visible") };
Object.defineProperty(document, "visibilityState", visibility);
"""
TONES = 2
"""Tones of one sound."""


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
        yield functools.partial(open_page, script=STAND_INS)


def publish(bus: GateBus[Any], title: str) -> None:
    gate = Gate(labels=("keep",), width=8, height=8, title=title)
    bus.publish(gate, TensorPictures(torch.zeros(1, 8, 8, 3)))


def waiting(page: Page, count: int) -> None:
    expect(page.locator("#ig-pending")).to_have_text(f"{count} waiting")


def pressed(page: Page, name: str, on: bool) -> None:
    expect(page.locator(f".ig-alert-{name}")).to_have_attribute("aria-pressed", str(on).lower())


def told(page: Page, what: str) -> Any:
    return page.evaluate(f"told.{what}")


def test_nobody_is_disturbed_who_did_not_ask_for_it(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Both are off at first: no sound, no notification, no question for permission."""
    page = new_page()
    pressed(page, "sound", False)
    pressed(page, "notice", False)
    page.evaluate("told.away = true")
    publish(bus, "Portrait")
    waiting(page, 1)
    assert told(page, "sounds") == 0
    assert told(page, "notices") == []
    assert told(page, "asked") == 0


def test_a_sound_when_more_waits(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """Turned on it is heard once, and again when a gate comes; a burst of gates is one sound."""
    page = new_page()
    page.click(".ig-alert-sound")
    pressed(page, "sound", True)
    assert told(page, "sounds") == TONES
    for i in range(4):
        publish(bus, f"Gate {i}")
        waiting(page, i + 1)
    assert told(page, "sounds") == 2 * TONES


def test_a_sound_is_remembered_and_waits_for_a_touch(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """After a reload it is still on, and allowed again by the first click on anything."""
    page = new_page()
    page.click(".ig-alert-sound")
    page.reload()
    waiting(page, 0)
    pressed(page, "sound", True)
    assert told(page, "context") is None
    page.click("#ig-empty")
    assert told(page, "context.state") == "running"
    page.click(".ig-alert-sound")
    pressed(page, "sound", False)
    publish(bus, "Portrait")
    waiting(page, 1)
    assert told(page, "sounds") == 0


def test_a_notification_only_where_nobody_looks(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """It names the gate, and does not come while the page is in sight."""
    page = new_page()
    page.click(".ig-alert-notice")
    pressed(page, "notice", True)
    assert len(told(page, "notices")) == 1  # that it is on
    publish(bus, "Seen")
    waiting(page, 1)
    assert len(told(page, "notices")) == 1
    page.evaluate("told.away = true")
    publish(bus, "Portrait <b>")
    waiting(page, 2)
    assert told(page, "notices")[1:] == ["Portrait <b> · 2 waiting"]
    page.reload()
    waiting(page, 2)
    pressed(page, "notice", True)


def test_a_browser_that_refuses_notifications(new_page: Callable[..., Page]) -> None:
    """Refused, the button stays off and says why."""
    page = new_page()
    page.evaluate("told.answer = 'denied'")
    page.click(".ig-alert-notice")
    button = page.locator(".ig-alert-notice")
    expect(button).to_have_attribute("title", "This browser blocks notifications of this page; "
                                     "its settings for the page can allow them.")  # fmt: skip
    pressed(page, "notice", False)
    page.reload()
    waiting(page, 0)
    pressed(page, "notice", False)


def test_a_browser_without_notifications(new_page: Callable[..., Page]) -> None:
    """There is no button for what the browser does not have, or has for installed apps only."""
    page = new_page(script="delete window.Notification")
    expect(page.locator(".ig-alert-notice")).to_be_hidden()
    expect(page.locator(".ig-alert-sound")).to_be_visible()
    broken = "Notification = class extends Notification { constructor() { throw TypeError() } }"
    page = new_page(script=f"{STAND_INS};{broken}")
    page.click(".ig-alert-notice")
    expect(page.locator(".ig-alert-notice")).to_have_attribute(
        "title", "This browser shows a page no notifications."
    )
    pressed(page, "notice", False)


def test_a_connection_that_comes_back_is_no_news(
    bus: GateBus[Any], server: PanelServer, new_page: Callable[..., Page]
) -> None:
    """What waits when a page opens, or connects again, makes no sound; what comes later does."""
    page = new_page()
    page.click(".ig-alert-sound")
    publish(bus, "Before")
    waiting(page, 1)
    page.reload()
    waiting(page, 1)
    server.stop()
    expect(page.locator("#ig-offline")).to_be_visible()
    publish(bus, "Meanwhile")
    server.start()
    waiting(page, 2)
    assert told(page, "sounds") == 0
    publish(bus, "Afterwards")
    waiting(page, 3)
    page.wait_for_function(f"told.sounds === {TONES}")


def test_a_panel_in_a_node_makes_no_noise(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """Where many panels are open at once, in the nodes, none of them has the buttons."""
    page = new_page("?embed=1")
    expect(page.locator(".ig-alert")).to_have_count(0)
    expect(page.locator("#ig-share")).to_be_hidden()
