"""How soon a person sees the image."""

from __future__ import annotations

import base64
import io
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page

from imagegate.core.model import Gate
from imagegate.core.settings import Settings
from imagegate.gate_bus import GateBus, Ticket
from imagegate.http.access import HostDoor
from imagegate.operator.panel import create_panel
from imagegate.operator.service import Service
from imagegate.pictures.tensors import TensorPictures
from tests.support.browser import chromium
from tests.support.stored import bus_over, storage_of

from .measure import NotRun, Row, Times, figure, photo, ratio, samples

SIDES = (1024, 4096)
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # removed when Python ends

# Told when the image in front is complete, decoded, and the frame that has it has been drawn.
WATCH = """
(() => {
  const seen = new Map(), asked = new Map();
  document.addEventListener("load", async ({ target }) => {
    if (target.id !== "ig-image") return;
    const id = target.src.match(/gates\\/([^/]+)\\/image/)[1];
    await target.decode();
    requestAnimationFrame(() => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        const now = { at: performance.now(), wall: Date.now() / 1000 };
        seen.set(id, now);
        seen.first ??= now;
        asked.get(id)?.(now);
        asked.get("first")?.(now);
      };
      port2.postMessage(0);
    });
  }, true);
  window.igSeen = (id) =>
    new Promise((done) => {
      const now = id === "first" ? seen.first : seen.get(id);
      now ? done(now) : asked.set(id, done);
    });
})();
"""

CLICK = """
async (next) => {
  const clicked = performance.now();
  document.querySelector("#ig-route-1").click();
  return (await igSeen(next)).at - clicked;
}
"""


@contextmanager
def browser() -> Iterator[Browser]:
    """The tests' Chromium. Raises `NotRun` without one."""
    started = chromium()
    try:
        found = started.__enter__()
    except (pytest.skip.Exception, pytest.fail.Exception):
        raise NotRun("no Chromium") from None
    try:
        yield found
    finally:
        started.__exit__(None, None, None)


def serve(settings: Settings | None = None) -> tuple[GateBus[Any], str]:
    """The panel as the node starts it, with a door that lets a browser in; it ends with Python.

    Args:
        settings: of the store; by default a new one in SQLite.
    """
    if settings is None:
        folder = tempfile.TemporaryDirectory(prefix="imagegate-bench-")
        _FOLDERS.append(folder)
        settings = Settings(f"sqlite:///{folder.name}/gates.sqlite", f"{folder.name}/p", "bench")
    known = settings
    bus = bus_over(known, classes=())
    service = Service(
        bus,
        storage_of(bus),
        lambda service: create_panel(service.bus, HostDoor(), records=service.storage),
    )
    return service.bus, f"{service.start().result(60)}/imagegate/"


def open_page(context: BrowserContext, url: str) -> Page:
    """A panel that has connected."""
    page = context.new_page()
    page.goto(url)
    page.wait_for_function("document.querySelector('#ig-pending')?.textContent.includes('waiting')")
    return page


def new_context(browser: Browser) -> BrowserContext:
    """A person's browser: its own cache, a desk's screen, and a watch on the image."""
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.add_init_script(WATCH)
    return context


def preview_ready(quick: bool) -> list[Row]:
    """From the tensor in hand until the gate's preview is encoded (`TensorPictures`).

    Beside it: the full-size PNG, by Pillow's defaults, as base64.
    """
    rows = []
    for side, target in zip(SIDES, (15, 150), strict=True):
        image = photo(side)
        few = quick or side > 2000
        ours = samples(10 if few else 50, partial(_timed, TensorPictures, image))
        plain = samples(1 if few else 5, partial(_timed, _plain, image), warm_up=0)
        wanted = 20 if side == SIDES[-1] else 0
        rows.append(
            Row(
                f"publish → preview ready, {side} px",
                str(ours),
                f"{target} ms" + (", 20 times" if wanted else ""),
                ours.p50 <= target and plain.p50 > wanted * ours.p50,
                f"PNG + base64: {figure(plain.p50)} (N={plain.count}); {ratio(plain, ours)} faster",
                f"N={ours.count}, float32 on the CPU",
            )
        )
    return rows


def _timed(work: Any, image: torch.Tensor) -> float:
    started = time.perf_counter()
    work(image)
    return time.perf_counter() - started


def _plain(image: torch.Tensor) -> bytes:
    pixels = (image[0].numpy() * 255).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return base64.b64encode(out.getvalue())


def visible(quick: bool) -> list[Row]:
    """From the tensor in hand until an open page has drawn the frame with its decoded preview.

    Making the preview is part of it. Python's and the page's wall clock are one: same machine.
    """
    rows = []
    with browser() as chrome:
        bus, url = serve()
        page = open_page(new_context(chrome), url)
        for side, target in zip(SIDES, (200, 400), strict=True):
            image = photo(side)

            def once(image: torch.Tensor = image) -> float:
                page.locator("#ig-empty").wait_for(state="visible")
                page.wait_for_timeout(100)
                published = time.time()
                ticket = _publish(bus, image)
                seen = page.evaluate("(id) => igSeen(id)", ticket.gate.id)["wall"] - published
                ticket.withdraw("measured")
                return float(seen)

            times = samples(8 if quick else 30, once)
            rows.append(
                Row(
                    f"publish → visible in an open page, {side} px",
                    str(times),
                    f"{target} ms",
                    times.p50 <= target,
                    how=f"N={times.count}, headless Chromium, no GPU",
                )
            )
        page.context.close()
    return rows


def next_image(quick: bool) -> list[Row]:
    """In the page: from the click on a route until the frame with the next image is drawn.

    The image was fetched while the person looked at the one before; it is of the largest size a
    preview has.
    """
    count, warm_up = (10 if quick else 50), 2
    image = photo(1536)
    taken: list[float] = []
    with browser() as chrome:
        bus, url = serve()
        tickets = [_publish(bus, image.roll(37 * i, 2)) for i in range(count + warm_up + 1)]
        page = open_page(new_context(chrome), url)
        page.evaluate("performance.setResourceTimingBufferSize(10000)")
        page.evaluate("igSeen('first')")
        for after in tickets[1:]:
            page.wait_for_function(
                "(id) => performance.getEntriesByType('resource')"
                ".some((e) => e.name.includes(id) && e.responseEnd > 0)",
                arg=after.gate.id,
            )
            page.wait_for_timeout(400)  # a person looks; clicks in the first 250 ms do not count
            taken.append(page.evaluate(CLICK, after.gate.id))
        page.context.close()
    times = Times(taken[warm_up:])
    return [
        Row(
            "click → next image visible, prefetched",
            str(times),
            "100 ms",
            times.p50 <= 100,
            how=f"N={times.count}, previews of 1536 px, headless Chromium",
        )
    ]


def _publish(bus: GateBus[Any], image: torch.Tensor) -> Ticket:
    _, height, width, _ = image.shape
    pictures = TensorPictures(image)
    ticket = bus.publish(Gate(("keep", "fix"), width, height), pictures)
    pictures.release()  # the preview stays; this process need not hold all tensors
    return ticket
