"""Strokes in the panel's mask editor: taken back by key, and not lost with the page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from imagegate.gate_bus import GateBus
from imagegate.operator.mask_editor import open_editor as server_editor
from imagegate.pictures.encode import encode_png, read_mask
from tests.operator.test_panel import publish, settled, shown, status
from tests.support.browser import PanelServer, chromium, pages
from tests.support.painting import PAINT, capsule, open_editor, painted, stroke

SIZE = (160, 120)
FIRST, SECOND = ((30, 40), (130, 40)), ((30, 90), (130, 90))


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


def saved(bus: GateBus[Any], page: Page, gate_id: str, index: int = 0) -> Any:
    page.click("#ig-mask-save")
    status(page, "Mask saved", timeout=PAINT)
    png = bus.mask(gate_id, index)
    assert png
    return np.asarray(read_mask(png, *SIZE)) > 127


def covers(mask: Any, line: Any) -> bool:
    drawn = capsule(SIZE, line[0], line[1], 2)
    return bool(mask[drawn].mean() > 0.9)


def test_keys_take_back_a_stroke_and_bring_it_back(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Ctrl+Z takes back the last stroke, Ctrl+Shift+Z and Ctrl+Y bring it back; the image stays."""
    ticket = publish(bus, "Strokes", size=SIZE)
    page = new_page()
    shown(page, "Strokes")
    settled(page)
    open_editor(page.main_frame, SIZE)
    page.keyboard.press("Control+z")  # there is nothing to take back, and nothing goes
    for line in (FIRST, SECOND):
        stroke(page.main_frame, *line)
        painted(page.main_frame, *line)
    for key, there in (("z", False), ("Shift+Z", True), ("z", False), ("y", True), ("z", False)):
        page.keyboard.press(f"Control+{key}")
        painted(page.main_frame, *SECOND, there=there)
    assert page.evaluate("editor.background_image !== null")
    mask = saved(bus, page, ticket.gate.id)
    assert covers(mask, FIRST)
    assert not mask[capsule(SIZE, *SECOND, 2)].any()


def test_strokes_that_are_not_saved_survive_the_page(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """A page that is made anew goes on painting; strokes are no mask until they are saved."""
    ticket = publish(bus, "Kept", size=SIZE, batch=2)
    page = new_page()
    shown(page, "Kept")
    page.click("#ig-thumbs button:nth-child(2)")
    settled(page)
    open_editor(page.main_frame, SIZE)
    stroke(page.main_frame, *FIRST)
    page.wait_for_function("Object.keys(sessionStorage).some((key) => key.includes('draft'))")
    page.reload()
    status(page, "Your unsaved strokes are back", timeout=PAINT)
    assert bus.get(ticket.gate.id).masked == ()
    open_editor(page.main_frame, SIZE, opened=True)
    painted(page.main_frame, *FIRST)
    stroke(page.main_frame, *SECOND)
    painted(page.main_frame, *SECOND)
    mask = saved(bus, page, ticket.gate.id, index=1)
    assert covers(mask, FIRST)
    assert covers(mask, SECOND)
    page.reload()
    shown(page, "Kept")
    settled(page)
    expect(page.locator("#ig-editor")).to_have_count(0)


def test_cancel_throws_strokes_away(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """What a person cancelled does not come back with the page."""
    publish(bus, "Cancelled", size=SIZE)
    page = new_page()
    shown(page, "Cancelled")
    settled(page)
    open_editor(page.main_frame, SIZE)
    stroke(page.main_frame, *FIRST)
    page.wait_for_function("Object.keys(sessionStorage).some((key) => key.includes('draft'))")
    page.click("#ig-mask-cancel")
    page.wait_for_function("!Object.keys(sessionStorage).some((key) => key.includes('draft'))")
    page.reload()
    shown(page, "Cancelled")
    settled(page)
    expect(page.locator("#ig-editor")).to_have_count(0)


@pytest.mark.parametrize("draft", ["x", "data:image/png;base64,", "data:,%", "wide", "huge"])
def test_a_draft_that_is_no_mask_is_passed_over(bus: GateBus[Any], draft: str) -> None:
    """Whatever a page sends as its strokes, the editor opens, with the mask as it is."""
    ticket = publish(bus, "Broken", size=SIZE)
    sizes = {"wide": (400, 10), "huge": (16000, 12000)}
    if draft in sizes:
        png = encode_png(Image.new("1", sizes[draft])).body
        draft = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    update = server_editor(bus, f"{ticket.gate.id} 0 start", draft)
    assert update["visible"] is True
    assert not np.asarray(update["value"]["layers"][0]).any()
