"""A real Chromium and a real panel for the tests that look at the page."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect, sync_playwright

from imagegate.core.bus import Bus, Records
from imagegate.http.access import HostDoor
from imagegate.http.sockets.listening import listen
from imagegate.http.sockets.server import Server
from imagegate.operator.panel import create_panel
from imagegate.share.share import Share
from tests.support.stored import PATIENCE

WAIT = 60_000
"""Milliseconds after which a page is taken to be stuck; a machine may be busy."""
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--no-first-run",
]


def chromium_path() -> str:
    """The installed Chromium; without one the test is skipped, in CI it fails."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no Chromium; .ci/run installs it")
        pytest.skip("no Chromium here; install one, or name it in $CHROMIUM")
    return found


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    path = chromium_path()
    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*CHROMIUM_FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def pages(browser: Browser, url: str) -> Iterator[Callable[..., Page]]:
    """Opens the panel in tabs of their own, each once it is connected, and closes them.

    A ``script`` runs in the tab before those of the page.
    """
    contexts = []

    def open_page(query: str = "", *, script: str = "", **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}} | options)
        contexts.append(context)
        context.set_default_timeout(WAIT)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.goto(url + query)
        page.wait_for_function(
            "document.querySelector('#ig-pending')?.textContent.includes('waiting')"
        )
        return page

    yield open_page
    for context in contexts:
        context.close()


def open_history(page: Page) -> None:
    """Open the history, which begins closed on a small page."""
    button = page.locator("#ig-past > button")
    button.wait_for()
    if "open" not in (button.get_attribute("class") or "").split():
        button.click()


def new_panel(
    bus: Bus, progress: Any = None, records: Records | None = None, share: Share | None = None
) -> FastAPI:
    """A panel for whoever calls from this machine.

    It is made where a loop runs that ends: Gradio makes loops where there are none, and leaves them
    open.
    """

    async def make() -> FastAPI:
        return create_panel(bus, HostDoor(), progress, records, share)

    with ThreadPoolExecutor(1) as apart:  # Playwright's loop runs in this thread
        return apart.submit(asyncio.run, make()).result()


class Served:
    """An app on a loopback port that it keeps over a restart."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.port = 0
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        started = threading.Event()

        listener = listen("127.0.0.1", self.port)
        self.port = listener.getsockname()[1]
        self._server = Server(
            self.app, started.set, log_level="warning", timeout_graceful_shutdown=1
        )
        self._thread = threading.Thread(target=self._server.run, args=([listener],))
        self._thread.start()
        assert started.wait(PATIENCE), "the panel did not start"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the panel did not stop"


class PanelServer(Served):
    """The panel over a bus."""

    def __init__(
        self,
        bus: Bus,
        progress: Any = None,
        records: Records | None = None,
        share: Share | None = None,
    ) -> None:
        super().__init__(new_panel(bus, progress, records, share))

    @property
    def url(self) -> str:
        return f"{self.address}/imagegate/"
