"""Labels, titles and names that are long, alike, invisible or turn the direction of writing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.support.approver import PHONE, Studio
from tests.support.approver import shown as in_front
from tests.support.browser import chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


LONG = tuple(f"{i} {'label ' * 66}" for i in range(10))
SCREENS: dict[str, tuple[str, dict[str, Any]]] = {
    "desk": ("", {"viewport": {"width": 1280, "height": 800}}),
    "phone": ("", PHONE),
    "node": ("?embed=1", {"viewport": {"width": 500, "height": 420}}),
}


@pytest.mark.parametrize("where", SCREENS)
def test_ten_long_labels_leave_stop_in_sight(browser: Browser, where: str) -> None:
    """Ten labels of 400 letters neither push Stop nor the image out of the window."""
    query, screen = SCREENS[where]
    with Studio(browser) as studio:
        studio.publish("Long", LONG, size=(640, 420))
        studio.operator_page()
        page = studio.tab(**screen)
        page.goto(studio.operator_url + query)
        expect(page.locator("#ig-route-10")).to_have_attribute("title", LONG[9])
        expect(page.locator("#ig-stop")).to_be_in_viewport(ratio=1)
        expect(page.locator("#ig-stage")).to_be_in_viewport(ratio=1)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_in_a_node_no_route_is_out_of_sight(browser: Browser) -> None:
    """In the node's panel as it opens all ten routes are seen, however long their labels are."""
    with Studio(browser) as studio:
        studio.publish("Long", LONG, size=(640, 420))
        studio.operator_page()
        page = studio.tab(viewport={"width": 520, "height": 540})
        page.goto(studio.operator_url + "?embed=1")
        for route in range(1, 11):
            expect(page.locator(f"#ig-route-{route}")).to_be_in_viewport(ratio=1)
        expect(page.locator("#ig-stop")).to_be_in_viewport(ratio=1)


def test_labels_that_look_alike_are_told_apart_wherever_they_are_said(browser: Browser) -> None:
    """Status line and history of both pages name the number beside a label that is there twice."""
    with Studio(browser) as studio:
        studio.publish("Twins", ("keep", "keep", "\u3164"))
        page = studio.operator_page()
        expect(page.locator("#ig-route-3")).to_have_text("3 · 3")
        ada = studio.enter("Ada")
        in_front(ada, "Twins")
        ada.evaluate("() => new Promise((done) => setTimeout(done, 300))")  # no double click
        ada.tap("#ig-route-2")
        expect(ada.locator("#ig-status")).to_contain_text("“2 · keep” recorded for Twins")
        expect(page.locator("#ig-status")).to_contain_text("Ada chose “2 · keep”")
        expect(page.locator("#ig-history .ig-answer")).to_have_text("2 · keep")
        expect(ada.locator("#ig-history .ig-answer")).to_have_text("2 · keep")


def test_a_label_cannot_turn_around_what_stands_beside_it(browser: Browser) -> None:
    """A label, title or name with marks of direction leaves the page's own words in their order."""
    turned = "\u202eevil\u2069\u2066"
    with Studio(browser) as studio:
        id_ = studio.publish(f"{turned} title", (f"{turned} keep", "fix"))
        page = studio.operator_page()
        expect(page.locator("#ig-route-1 bdi")).to_have_text(f"{turned} keep")
        expect(page.locator("#ig-title")).to_have_css("unicode-bidi", "isolate")
        studio.bus.decide(id_, 1, by=f"Ada {turned}")
        expect(page.locator("#ig-status")).to_contain_text("chose")
        said = page.locator("#ig-status").inner_text()
        assert "\u202e" not in said
        assert said.count("\u2068") == said.count("\u2069") == 3
