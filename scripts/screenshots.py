"""Take the README's screenshots: the panel over the sample images, in a real Chromium.

python scripts/screenshots.py [--out docs]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Browser, Page

from imagegate.folder import FolderSession
from imagegate.gate_bus import GateBus
from imagegate.samples import write_samples
from tests.browser import PanelServer, chromium

DESK = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}


def open_panel(browser: Browser, url: str, size: dict[str, int], scheme: str) -> Page:
    page = browser.new_context(viewport=size, color_scheme=scheme, device_scale_factor=1).new_page()
    page.set_default_timeout(60_000)
    page.goto(url)
    page.wait_for_function("document.querySelector('#ig-image')?.naturalWidth > 0")
    return page


def decide(page: Page, route: int) -> None:
    page.wait_for_timeout(400)  # the page ignores the second click of a double click
    page.keyboard.press(str(route))
    page.wait_for_function("document.querySelector('#ig-status').textContent.includes('recorded')")


def paint(page: Page) -> None:
    page.keyboard.press("m")
    page.wait_for_function(
        "document.querySelector('#ig-status').textContent.startsWith('Paint what')"
        " && window.editor?.background_image"
    )
    page.wait_for_timeout(3000)  # until the canvas has its final size
    box = page.locator("#ig-editor canvas").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 90, y)
    page.mouse.down()
    for dx, dy in ((-40, -50), (30, -40), (80, 10), (20, 50)):
        page.mouse.move(x + dx, y + dy, steps=8)
    page.mouse.up()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        photos.mkdir()
        write_samples(photos)
        bus: GateBus = GateBus()
        session = FolderSession(bus, photos, Path(place) / "sorted", ("keep", "fix", "reject"))
        session.start()
        server = PanelServer(bus, session.progress)
        try:
            with chromium() as browser:
                desk = open_panel(browser, server.url, DESK, "light")
                desk.fill("#ig-name", "Ada")
                desk.locator("#ig-name").blur()
                decide(desk, 1)
                decide(desk, 3)
                desk.wait_for_timeout(500)
                desk.screenshot(path=out / "panel-light.png")
                phone = open_panel(browser, server.url, PHONE, "dark")
                phone.wait_for_timeout(500)
                phone.screenshot(path=out / "panel-phone.png")
                paint(desk)
                desk.screenshot(path=out / "panel-paint.png")
        finally:
            server.stop()
            session.close()


if __name__ == "__main__":
    main()
