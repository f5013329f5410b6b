"""Take the README's screenshots: the panel over the sample images, in a folder and parked.

python scripts/screenshots.py [--out docs]
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from PIL import Image, ImageOps
from playwright.sync_api import Browser, Page

from imagegate.folder import FolderSession
from imagegate.gate_bus import GateBus
from imagegate.model import Gate
from imagegate.parked import Parked
from imagegate.samples import write_samples
from imagegate.settings import Settings
from imagegate.stored_bus import StoredBus
from tests.browser import PanelServer, chromium

DESK = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}
PROMPT = {"2": {"class_type": "ImageGate", "inputs": {}}}
HOUR = 3600


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


def worker(place: Path, name: str) -> StoredBus:
    settings = Settings(f"sqlite:///{place / 'gates.sqlite'}", str(place / "pictures"), name)
    return StoredBus(lambda: settings, classes=lambda: ["ImageGate"])


def park(bus: StoredBus, file: Path, title: str, hours: float) -> Gate:
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    gate = Gate(
        title=title, labels=("upscale", "repair", "drop"), width=image.width, height=image.height,
        created_at=time.time() - hours * HOUR,
    )  # fmt: skip
    png = io.BytesIO()
    image.save(png, "PNG")
    parked = Parked(title, "2", PROMPT, {})
    return bus.park(gate, [("exact-0.png", png.getvalue())], parked).gate


@contextmanager
def parked_panel(place: Path, photos: list[Path]) -> Iterator[str]:
    """A panel over two workers: one gate waits for days, one goes on at the second attempt."""
    bus, other = worker(place, "gpu-1"), worker(place, "gpu-2")
    server = PanelServer(bus, records=bus)
    try:
        park(bus, photos[0], "Poster, final choice", 75)
        again = park(other, photos[1], "Cover", 20)
        done = park(bus, photos[2], "Back cover", 19)
        bus.decide(again.id, 1, by="Ben")
        claim = bus.claim()
        assert claim is not None
        bus.put_back(
            claim, "UpscaleModelLoader 7: Value not in list: model_name: '4x.pth' not in []"
        )
        bus.decide(done.id, 2, by="Ada", note="the left hand")
        claim = bus.claim()
        assert claim is not None
        bus.finish(claim)
        bus.decide(again.id, 1, by="Ben", note="the model is there now")
        assert bus.claim() is not None
        yield server.url
    finally:
        server.stop()
        bus.close()
        other.close()


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
                originals = sorted(photos.iterdir())
                with parked_panel(Path(place), originals) as url:
                    parked = open_panel(browser, url, {"width": 1280, "height": 700}, "light")
                    parked.locator("#ig-history li", has_text="Cover").first.click()
                    parked.wait_for_selector("#ig-history time")
                    parked.wait_for_timeout(500)
                    parked.screenshot(path=out / "panel-parked.png", full_page=True)
                    parked.context.close()
        finally:
            server.stop()
            session.close()


if __name__ == "__main__":
    main()
