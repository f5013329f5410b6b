"""The operator's page over a folder, in a real Chromium, over restarts of the session."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from imagegate.folder import session as folder
from tests.support.browser import PanelServer, chromium, new_panel, pages
from tests.support.folder_sessions import Review, files, paint, png, until


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def shown(page: Page, title: str) -> None:
    """Waits for an image, and for the moment in which a double click would not count."""
    expect(page.locator("#ig-title")).to_have_text(title)
    page.wait_for_function(
        "() => { const i = document.querySelector('#ig-image');"
        " return i.complete && i.naturalWidth > 0 }"
    )
    page.evaluate("() => new Promise((done) => setTimeout(done, 300))")


def test_a_click_outlasts_a_restart_and_so_does_undo(browser: Browser, tmp_path: Path) -> None:
    """Clicked while no server is there, it is recorded by the next one; what the session before
    decided is in the history, with Undo, and waits again with its mask.
    """
    photos, out = tmp_path / "photos", tmp_path / "sorted"
    for name in "abc":
        paint(photos / f"{name}.png", size=(320, 240))
    first = Review(photos, out)
    server = PanelServer(first.bus, first.session.progress)
    with pages(browser, server.url) as open_page:
        page = open_page()
        shown(page, "a.png")
        first.bus.set_mask(first.gate("a.png"), 0, png((320, 240), white=(0, 0, 160, 240)))
        page.locator("#ig-route-1").click()
        shown(page, "b.png")
        until(lambda: files(out) == ["keep/a.png", "keep/a.png.mask.png"])
        server.stop()
        expect(page.locator("#ig-offline")).to_be_visible()
        page.locator("#ig-route-2").click()
        first.session.close()  # nobody hears of it
        assert files(out) == ["keep/a.png", "keep/a.png.mask.png"]
        with Review(photos, out) as second:
            server.app = new_panel(second.bus, second.session.progress)
            server.start()
            try:
                until(lambda: "fix/b.png" in files(out))
                expect(page.locator("#ig-title")).to_have_text("c.png")
                expect(page.locator("#ig-pending")).to_have_text("1 waiting")
                rows = page.locator("#ig-history li")
                expect(rows).to_have_count(2)
                rows.filter(has_text="a.png").get_by_role("button", name="Undo").click()
                expect(page.locator("#ig-title")).to_have_text("a.png")
                expect(page.locator("#ig-mask")).to_be_visible()
                assert files(out) == ["fix/b.png"]
            finally:
                server.stop()


def test_a_folder_that_is_away_is_said(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says what it waits for, and a click counts once the folder is back."""
    monkeypatch.setattr(folder, "RESCAN", 0.05)
    photos, out = tmp_path / "card", tmp_path / "sorted"
    for name in "ab":
        paint(photos / f"{name}.png", size=(320, 240))
    with Review(photos, out) as review:
        server = PanelServer(review.bus, review.session.progress)
        try:
            with pages(browser, server.url) as open_page:
                page = open_page()
                shown(page, "a.png")
                photos.rename(tmp_path / "pulled")
                page.locator("#ig-route-1").click()
                expect(page.locator("#ig-away")).to_contain_text("is away")
                expect(page.locator("#ig-away")).to_contain_text("2 images wait for it")
                (tmp_path / "pulled").rename(photos)
                until(lambda: files(out) == ["keep/a.png"])
                expect(page.locator("#ig-progress")).to_contain_text("1 of 2 decided")
        finally:
            server.stop()
    shutil.rmtree(out)
