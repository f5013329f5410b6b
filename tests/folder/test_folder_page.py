"""A folder's session in a real Chromium: the first view, names, remarks, what is not shown."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from imagegate.folder.session import FolderSession
from imagegate.gate_bus import GateBus
from tests.support.browser import PanelServer, chromium, open_history, pages
from tests.support.stored import PATIENCE

DEEP = "2026 Iceland/Day 03 Vatnajökull to Höfn/DCIM/100CANON/selected by Ada/second pass"
LONG = "IMG_20260614_" + "very_long_" * 20 + "0001.png"
SIZES = {
    "desk": {"width": 1280, "height": 800},
    "laptop": {"width": 1366, "height": 768},
    "phone": {"width": 390, "height": 844},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / DEEP).mkdir(parents=True)
    return folder


@pytest.fixture
def look(
    bus: GateBus[Any], browser: Browser, photos: Path, tmp_path: Path
) -> Iterator[Callable[..., Page]]:
    """Starts a session over the photos, and opens its panel once they are scanned."""
    scanned = threading.Event()
    opened: list[Any] = []

    def changed() -> None:
        if not session.progress()["scanning"]:
            scanned.set()

    session = FolderSession(bus, photos, tmp_path / "sorted", ("keep", "fix", "reject"),
                            changed=changed)  # fmt: skip

    def look(size: str = "desk") -> Page:
        if not opened:
            session.start()
            assert scanned.wait(PATIENCE)
            opened.append(PanelServer(bus, session.progress))
        page: Page = open_page(viewport=SIZES[size])
        expect(page.locator("#ig-progress")).to_be_visible()
        return page

    # The server's address is known only once it runs.
    with pages(browser, "") as open_there:

        def open_page(**options: Any) -> Page:
            return open_there(opened[0].url, **options)

        yield look
    for server in opened:
        server.stop()
    session.close()


def paint(path: Path, colour: str = "teal") -> Path:
    Image.new("RGB", (300, 200), colour).save(path)
    return path


def in_view(page: Page, *selectors: str) -> None:
    """All of these lie within the window, without scrolling, and nothing sticks out sideways."""
    page.wait_for_function(
        """(selectors) => selectors.every((selector) => {
          const box = document.querySelector(selector).getBoundingClientRect();
          return box.width > 0 && box.top >= 0 && box.left >= 0
            && box.bottom <= innerHeight && box.right <= innerWidth;
        }) && scrollY === 0 && document.documentElement.scrollWidth <= innerWidth""",
        arg=list(selectors),
    )


@pytest.mark.parametrize("size", SIZES)
def test_what_a_newcomer_needs_is_in_the_first_view(
    look: Callable[..., Page], photos: Path, size: str
) -> None:
    """Name, image, routes, tools, progress and what is not shown need no scrolling; nor do keys
    where there is a keyboard.
    """
    paint(photos / DEEP / LONG)
    paint(photos / DEEP / "b.png")
    for number in range(3):
        (photos / f"{number}.pdf").write_bytes(b"%PDF-1.7")
    page = look(size)
    wanted = ["#ig-title", "#ig-image", "#ig-route-1", "#ig-route-3", "#ig-skip", "#ig-stop",
              "#ig-progress", "#ig-unreadable summary", "#ig-status"]  # fmt: skip
    page.keyboard.press("n")
    in_view(page, *wanted, *([".ig-keys"] if size != "phone" else []))
    expect(page.locator("#ig-progress")).to_contain_text("0 of 2")


def test_on_a_phone_the_line_over_the_image_fits(
    bus: GateBus[Any], look: Callable[..., Page], photos: Path
) -> None:
    """However many files are not shown, Share is in sight, and no part lies over another."""
    paint(photos / "a.png")
    for number in range(120):
        (photos / f"{number}.pdf").write_bytes(b"%PDF-1.7")
    page = look("phone")
    page.evaluate("""() => {
      const share = document.querySelector("#ig-share"); // as it is where people can be invited
      share.hidden = false;
      share.innerHTML = '<button type="button" class="ig-share-open">Share</button>';
    }""")
    in_view(page, "#ig-share button", "#ig-alerts", "#ig-unreadable summary", "#ig-progress span")
    assert page.evaluate("""() => {
      const parts = ["#ig-progress span", "#ig-unreadable summary", "#ig-alerts", "#ig-share"];
      const boxes = parts.map((part) => document.querySelector(part).getBoundingClientRect());
      return boxes.every((box, i) => !i || box.left >= boxes[i - 1].right);
    }""")


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_in_the_history_a_files_own_name_comes_first(
    look: Callable[..., Page], photos: Path, size: str
) -> None:
    """Its name has both ends, a deep folder what room is left; the whole path is in the tooltip."""
    paint(photos / DEEP / LONG)
    paint(photos / DEEP / "z.png")
    page = look(size)
    page.wait_for_function("() => document.querySelector('#ig-image').naturalWidth > 0")
    page.evaluate("() => new Promise((done) => setTimeout(done, 300))")  # no double click
    page.locator("#ig-route-1").click()
    expect(page.locator("#ig-title")).to_contain_text("z.png")
    open_history(page)
    what = page.locator("#ig-history .ig-what")
    expect(what).to_have_attribute("title", f"{DEEP}/{LONG}")
    expect(what).to_have_text(f"{LONG}{DEEP}")
    what.scroll_into_view_if_needed()
    expect(what.locator("span > span").last).to_be_in_viewport(ratio=1)
    assert what.bounding_box()["height"] < 30  # type: ignore[index]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("size", SIZES)
def test_the_files_own_name_comes_first_and_keeps_its_end(
    look: Callable[..., Page], photos: Path, size: str
) -> None:
    """However long the name or deep the folder: the name's start and end are seen, and of the
    folder the last part; the whole path is in the tooltip, and a click shows it.
    """
    paint(photos / DEEP / LONG)
    page = look(size)
    title = page.locator("#ig-title")
    expect(title).to_have_text(LONG)
    assert title.get_attribute("title") == f"{DEEP}/{LONG}"
    in_view(page, "#ig-title span span:last-child", "#ig-facts .ig-in span span:last-child")
    end = page.locator("#ig-title span span:last-child")
    assert (end.text_content() or "").endswith("0001.png")
    assert (page.locator(".ig-in span span").last.text_content() or "") == "/second pass"
    assert page.locator("#ig-title").bounding_box()["height"] < 40  # type: ignore[index]
    page.locator(".ig-in").click()
    page.wait_for_function("() => document.querySelector('.ig-in').innerText.includes('100CANON')")
    in_view(page, "#ig-facts", "#ig-title")


def test_names_that_turn_the_line_or_break_it(look: Callable[..., Page], photos: Path) -> None:
    """A name from right to left, and one with a line break, stay on their line, whole."""
    paint(photos / "a\nb.png")
    paint(photos / "صورة من الرحلة 12.png")
    page = look("phone")
    expect(page.locator("#ig-title")).to_have_text("a↵b.png")
    page.keyboard.press("n")
    expect(page.locator("#ig-title")).to_have_text("صورة من الرحلة 12.png")
    in_view(page, "#ig-title", "#ig-facts")


def test_remarks_about_an_image_are_shown_with_it(look: Callable[..., Page], photos: Path) -> None:
    """A broken file, pages and a brightened scan are marked; the next image is not."""
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    Image.fromarray(noise).save(photos / "1.jpg")
    (photos / "1.jpg").write_bytes((photos / "1.jpg").read_bytes()[:20_000])
    os.utime(photos / "1.jpg", (1, 1))  # else it could be one that is just being written
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(photos / "2.png")
    paint(photos / "3.png")
    pages = [Image.new("L", (30, 20), 9 * i) for i in range(12)]
    pages[0].save(photos / "4.tif", save_all=True, append_images=pages[1:])
    page = look()
    said = ["broken: the end of the file is missing", "shown brighter: 12 bits in a 16-bit file",
            "", "1 of 12 pages"]  # fmt: skip
    for number, remark in enumerate(said, 1):
        expect(page.locator("#ig-title")).to_contain_text(f"{number}.")
        expect(page.locator("#ig-remarks")).to_have_text(remark)
        page.locator("#ig-skip").click()
    expect(page.locator("#ig-title")).to_contain_text("1.jpg")
    expect(page.locator(".ig-broken")).to_be_visible()


def test_what_is_not_shown_is_listed_with_the_reason(
    look: Callable[..., Page], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One click away: the reasons, with how many files and their names; Escape closes it."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for number in range(30):
        (photos / f"{number}.heic").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(40))
    (photos / "film.mov").write_bytes(b"\0\0\0\x14ftypqt  \0\0\0\0qt  ")
    paint(photos / "a.png")
    page = look()
    summary, listed = page.locator("#ig-unreadable summary"), page.locator("#ig-unreadable > div")
    expect(summary).to_have_text("31 not shown: why?")
    summary.click()
    expect(listed).to_contain_text("HEIC needs a package: pip install pillow-heif (30 files)")
    expect(listed).to_contain_text("0.heic")
    expect(listed).to_contain_text("and 11 more")
    expect(listed).to_contain_text("a video: only still images are shown")
    in_view(page, "#ig-unreadable > div")
    page.keyboard.press("Escape")
    expect(listed).to_be_hidden()
    summary.click()
    page.locator("#ig-stage").click(position={"x": 10, "y": 300})
    expect(listed).to_be_hidden()
    expect(page.locator("#ig-progress")).to_have_text("0 of 1 decided")


def test_a_folder_of_which_nothing_can_be_shown_says_so(
    look: Callable[..., Page], photos: Path
) -> None:
    """It is not called done, as if there had been something to do."""
    (photos / "a.pdf").write_bytes(b"%PDF-1.7")
    page = look()
    expect(page.locator("#ig-empty")).to_contain_text("Nothing here can be shown.")
    expect(page.locator("#ig-empty")).to_contain_text("1 not shown: why?")
