"""Take the screenshots in docs: the panel over sample images, parked, shared, and a link's page.

python scripts/screenshots.py [--out docs]
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

sys.path.insert(0, str(Path(__file__).parents[1]))

from PIL import Image, ImageOps
from playwright.sync_api import Browser, Page, ViewportSize

from imagegate.core.model import Gate
from imagegate.core.settings import Settings
from imagegate.folder.session import FolderSession
from imagegate.gate_bus import GateBus
from imagegate.http.sockets.listener import Listener
from imagegate.pictures.samples import write_samples
from imagegate.share.app import create_approver
from imagegate.share.share import Share
from imagegate.share.tunnel import Standing, TunnelKeeper
from imagegate.storage.links import LinkStore
from imagegate.storage.queries.runs import Parked
from imagegate.storage.sql.database import Database
from tests.support.browser import PanelServer, chromium
from tests.support.stored import bus_over, storage_of

DESK = ViewportSize(width=1280, height=860)
PHONE = ViewportSize(width=390, height=844)
PROMPT = {"2": {"class_type": "ImageGate", "inputs": {}}}
HOUR = 3600
Scheme: TypeAlias = Literal["light", "dark"]


def open_panel(browser: Browser, url: str, size: ViewportSize, scheme: Scheme) -> Page:
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


def worker(place: Path, name: str) -> GateBus[Any]:
    settings = Settings(f"sqlite:///{place / 'gates.sqlite'}", str(place / "pictures"), name)
    return bus_over(settings, classes=["ImageGate"])


def park(bus: GateBus[Any], file: Path, title: str, hours: float) -> Gate:
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    gate = Gate(
        title=title, labels=("upscale", "repair", "drop"), width=image.width, height=image.height,
        created_at=time.time() - hours * HOUR,
    )  # fmt: skip
    png = io.BytesIO()
    image.save(png, "PNG")
    parked = Parked(title, "2", PROMPT, {})
    return storage_of(bus).parking.park(gate, [("exact-0.png", png.getvalue())], parked).gate


@contextmanager
def parked_panel(place: Path, photos: list[Path]) -> Iterator[str]:
    """A panel over two workers: one gate waits for days, one goes on at the second attempt."""
    bus, other = worker(place, "gpu-1"), worker(place, "gpu-2")
    server = PanelServer(bus, records=storage_of(bus))
    try:
        park(bus, photos[0], "Poster, final choice", 75)
        again = park(other, photos[1], "Cover", 20)
        done = park(bus, photos[2], "Back cover", 19)
        bus.decide(again.id, 1, by="Ben")
        claim = storage_of(bus).claims.take()
        assert claim is not None
        storage_of(bus).claims.put_back(
            claim, "UpscaleModelLoader 7: Value not in list: model_name: '4x.pth' not in []"
        )
        bus.decide(done.id, 2, by="Ada", note="the left hand")
        claim = storage_of(bus).claims.take()
        assert claim is not None
        storage_of(bus).claims.finish(claim)
        bus.decide(again.id, 1, by="Ben", note="the model is there now")
        assert storage_of(bus).claims.take() is not None
        yield server.url
    finally:
        server.stop()
        storage_of(bus).close()
        storage_of(other).close()


class Tunnel(TunnelKeeper):
    """What a tunnel would say: there is none where pictures are taken."""

    standing = Standing(url="https://8f2c41d09be7.gradio.live")

    def __init__(self, port: int, changed: Callable[[], None]) -> None: ...

    def start(self) -> None: ...

    def close(self) -> None: ...


def share_sheet(browser: Browser, url: str, share: Share, out: Path) -> None:
    """The Share tab, with a link that was just made and those from before."""
    ben, _ = share.create("Ben (print shop)", may="look", seconds=72 * HOUR)
    share.create("Cem", may="decide", passphrase="sesame")
    share.revoke(ben.id)
    desk = open_panel(browser, url, {"width": 1280, "height": 900}, "light")
    desk.locator("#ig-share button").first.click()
    desk.locator("dialog input").first.fill("Ada")
    desk.keyboard.press("Enter")
    desk.wait_for_selector("dialog img")
    desk.wait_for_timeout(500)
    desk.screenshot(path=out / "share.png")
    desk.context.close()


def approver_page(browser: Browser, bus: GateBus[Any], links: LinkStore, out: Path) -> None:
    """What a link opens on a phone: the image, and a mask painted by finger."""
    _, token = links.create("Ada", once=False)
    listener = Listener(create_approver(bus, links), "127.0.0.1", 0)
    listener.start()
    schemes: list[tuple[Scheme, str]] = [("light", "approver-phone"), ("dark", "approver-paint")]
    try:
        for scheme, name in schemes:
            page = browser.new_context(
                viewport=PHONE, has_touch=True, is_mobile=True, color_scheme=scheme
            ).new_page()
            page.goto(f"http://127.0.0.1:{listener.port}/imagegate/s/{token}")
            page.get_by_role("button").first.click()
            page.wait_for_selector("#ig-image[data-size]")
            if scheme == "dark":
                page.locator("#ig-mask-edit").click()
                page.wait_for_selector("#ig-editor")
                paint_by_finger(page)
            page.wait_for_timeout(700)
            page.screenshot(path=out / f"{name}.png")
            page.context.close()
    finally:
        listener.close()


def paint_by_finger(page: Page) -> None:
    box = page.locator("#ig-editor").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    line = [(-90, 0), (-60, -40), (0, -50), (60, -20), (80, 30), (30, 50)]
    touch = page.context.new_cdp_session(page)
    for i, (dx, dy) in enumerate(line):
        kind = "touchMove" if i else "touchStart"
        points = [{"x": x + dx, "y": y + dy}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        photos = Path(place) / "photos"
        photos.mkdir()
        write_samples(photos)
        bus: GateBus[Any] = GateBus()
        session = FolderSession(bus, photos, Path(place) / "sorted", ("keep", "fix", "reject"))
        session.start()
        links = LinkStore(Database("sqlite://", "folder"))
        share = Share(bus, lambda: links, tunnel=Tunnel)
        server = PanelServer(bus, session.progress, share=share)
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
                share_sheet(browser, server.url, share, out)
                approver_page(browser, bus, links, out)
        finally:
            server.stop()
            share.close()
            session.close()


if __name__ == "__main__":
    main()
