"""The panel as a component of somebody else's Gradio app: the example of docs/gradio.md."""

from __future__ import annotations

import asyncio
import importlib.util
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from imagegate.gate_bus import GateBus
from imagegate.http.paths import PAGES
from imagegate.operator.gate_panel import GatePanel
from imagegate.pictures.encode import read_mask
from tests.operator.test_panel import publish, settled, shown, status
from tests.support.browser import Served, chromium, open_history, pages
from tests.support.painting import PAINT, open_editor, stroke

# Gradio asks Starlette for a name that newer versions call another.
pytestmark = pytest.mark.filterwarnings("ignore:'HTTP_422_UNPROCESSABLE_ENTITY' is deprecated")

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "gate_panel.py"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def example() -> Any:
    spec = importlib.util.spec_from_file_location("gate_panel_example", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(bus: GateBus[Any]) -> Iterator[Served]:
    async def make() -> FastAPI:  # where a loop runs that ends; see `new_panel`
        app: FastAPI = example().build(bus)
        return app

    with ThreadPoolExecutor(1) as apart:
        app = apart.submit(asyncio.run, make()).result()
    server = Served(app)
    yield server
    server.stop()


@pytest.fixture
def new_page(browser: Browser, server: Served) -> Iterator[Callable[..., Page]]:
    with pages(browser, f"{server.address}/studio/") as open_page:
        yield open_page


def test_the_panel_decides_in_a_foreign_app(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Click, key, note and history work beside other components; the app's page stays its own."""
    first, second = publish(bus, "First", ("keep", "fix", "reject")), publish(bus, "Second")
    page = new_page()
    shown(page, "First")
    expect(page).to_have_title("Studio")
    expect(page.locator("h1", has_text="Studio")).to_be_visible()
    expect(page.locator("#ig-route-3")).to_have_text("3 · reject")
    expect(page.locator("#ig-route-4")).to_have_count(0)
    page.fill("#ig-note", "too dark")
    settled(page)
    page.click("#ig-route-2")
    answer = first.wait(10).decision
    assert (answer.route, answer.note) == (2, "too dark")
    shown(page, "Second")
    expect(page.locator("#ig-route-3")).to_have_count(0)
    expect(page.locator("#ig-note")).to_have_value("")
    page.locator("#ig-note").blur()
    settled(page)
    page.keyboard.press("1")
    assert second.wait(10).decision.route == 1
    open_history(page)
    expect(page.locator("#ig-history li").last).to_contain_text("too dark")


def test_the_example_asks_and_waits_for_the_answer(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """A Gradio event of the app publishes an image and gets the answer that the panel sends."""
    page = new_page()
    out = io.BytesIO()
    Image.new("RGB", (96, 64), "teal").save(out, "PNG")
    page.locator("input[type=file]").first.set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": out.getvalue()}
    )
    expect(page.locator("img[src*='a.png'], img[src*='/file=']").first).to_be_visible()
    page.click("#ask")
    shown(page, "Good enough?")
    page.keyboard.press("Shift")
    settled(page)
    page.locator("#ig-title").click()  # the first press only says that the new image was seen
    page.click("#ig-route-2")
    if bus.count():
        settled(page)
        page.click("#ig-route-2")
    expect(page.locator("#answer :is(input, textarea)")).to_have_value("sent to fix")


@pytest.mark.slow
def test_a_mask_is_painted_in_a_foreign_app(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """The mask editor opens, saves and closes by the events that the component brings along."""
    size = (160, 120)
    ticket = publish(bus, "Painted", size=size)
    page = new_page()
    shown(page, "Painted")
    settled(page)
    open_editor(page.main_frame, size)
    stroke(page.main_frame, (60, 60), (100, 60))
    page.click("#ig-mask-save")
    status(page, "Mask saved for Painted", timeout=PAINT)
    expect(page.locator("#ig-editor")).to_have_count(0)
    page.click("#ig-route-1")
    mask = np.asarray(read_mask(ticket.wait(10).masks[0], *size))
    assert mask[60, 80] == 255
    assert mask[10, 10] == 0


def test_rest_of_a_foreign_app_is_guarded(server: Served) -> None:
    """REST lies below /imagegate only, behind the door; the app's own paths are the app's."""
    gates = f"{server.address}/imagegate/api/gates"
    assert httpx.get(gates).json()["gates"] == []
    foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert httpx.get(gates, headers=foreign).status_code == 403
    assert httpx.get(f"{server.address}/imagegate/page/operator/panel.js").status_code == 200
    assert httpx.get(f"{server.address}/imagegate/page/../operator/panel.py").status_code == 404
    assert httpx.get(f"{server.address}/studio/").status_code == 200
    assert httpx.get(f"{server.address}/nothing").status_code == 404


def test_the_buttons_are_generated_by_gradio_and_have_no_event(bus: GateBus[Any]) -> None:
    """Ten routes, Stop, Skip, Undo and the mask's tools are Gradio's; a click asks REST alone."""
    import gradio as gr

    async def make() -> tuple[gr.Blocks, GatePanel]:  # where a loop runs that ends
        with gr.Blocks() as blocks:
            return blocks, GatePanel(bus)

    with ThreadPoolExecutor(1) as apart:
        blocks, panel = apart.submit(asyncio.run, make()).result()
    buttons = {b.elem_id: b for b in blocks.blocks.values() if isinstance(b, gr.Button)}
    routes = [f"ig-route-{route}" for route in range(1, 11)]
    tools = ["ig-stop", "ig-skip", "ig-undo", "ig-mask-edit", "ig-mask-save", "ig-mask-clear"]
    assert {*routes, *tools} <= set(buttons)
    kinds = {type(b).__name__ for b in blocks.blocks.values()}
    assert {"Textbox", "Accordion", "ImageEditor"} <= kinds
    assert isinstance(panel, gr.HTML)
    listening = {target[0] for fn in blocks.fns.values() for target in fn.targets}
    assert not {buttons[name]._id for name in (*routes, *tools)} & listening


def test_the_package_offers_the_panel_without_importing_gradio() -> None:
    """Only who asks for the component waits for Gradio."""
    import subprocess
    import sys

    code = (
        "import sys, imagegate.operator as o; assert 'gradio' not in sys.modules;"
        "o.mount_gates; assert 'gradio' not in sys.modules;"
        "o.GatePanel; assert 'gradio' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert list(PAGES.parent.rglob("*.pyi")) == []  # which Gradio writes beside its components
