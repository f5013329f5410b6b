"""The panel in a real Chromium."""

from __future__ import annotations

import io
import mimetypes
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, Request, expect

from imagegate.core.model import Gate, Outcome, State
from imagegate.gate_bus import GateBus, GateCancelled, Ticket
from imagegate.pictures.encode import read_mask
from imagegate.pictures.tensors import TensorPictures
from tests.support.browser import WAIT, PanelServer, chromium, new_panel, pages
from tests.support.painting import PAINT, capsule, open_editor, stroke
from tests.support.stored import PATIENCE


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


def publish(
    bus: GateBus[Any],
    title: str = "Portrait",
    labels: tuple[str, ...] = ("keep", "fix"),
    size: tuple[int, int] = (96, 64),
    batch: int = 1,
    mask: torch.Tensor | None = None,
    **more: Any,
) -> Ticket:
    """A gate over an image that is different for each title."""
    width, height = size
    generator = torch.Generator().manual_seed(sum(title.encode()))
    coarse = torch.rand(batch, 3, 4, 4, generator=generator)
    image = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    gate = Gate(
        title=title, labels=labels, width=width, height=height, batch=batch, node_id="7", **more
    )
    pictures = TensorPictures(image.permute(0, 2, 3, 1).contiguous(), mask)
    hooks: Any = {"record": lambda _: None, "revoke": lambda _: None} if gate.undoable else {}
    return bus.publish(gate, pictures, **hooks)


def status(page: Page, text: str | re.Pattern[str], timeout: float = WAIT) -> None:
    expect(page.locator("#ig-status")).to_contain_text(text, timeout=timeout)


def settled(page: Page) -> None:
    """Wait out the moment in which a double click would not count."""
    page.evaluate("() => new Promise((done) => setTimeout(done, 300))")


def shown(page: Page, title: str) -> None:
    expect(page.locator("#ig-title")).to_have_text(title)
    page.wait_for_function(
        "() => { const i = document.querySelector('#ig-image');"
        " return i.complete && i.naturalWidth > 0 }"
    )


def test_a_click_on_a_route_decides_and_the_next_gate_is_there(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """One click sends the answer and brings the next gate."""
    first, second = publish(bus, "First", ("keep", "fix", "reject")), publish(bus, "Second")
    page = new_page()
    shown(page, "First")
    expect(page.locator("#ig-pending")).to_have_text("2 waiting")
    expect(page.locator("#ig-route-3")).to_have_text("3 · reject")
    page.fill("#ig-note", "too dark")
    page.fill("#ig-name", "Ada")
    settled(page)
    page.click("#ig-route-3")
    decision = first.wait(PATIENCE).decision
    assert (decision.route, decision.label, decision.by, decision.note) == (
        3,
        "reject",
        "Ada",
        "too dark",
    )
    shown(page, "Second")
    expect(page.locator("#ig-route-3")).to_have_count(0)
    expect(page.locator("#ig-pending")).to_have_text("1 waiting")
    status(page, "“reject” recorded for First")
    expect(page.locator("#ig-history li").first).to_contain_text("too dark")
    assert not second.future.done()


def test_keys_work_unless_somebody_types(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """Digits decide, N skips, Space zooms; in the note they are letters."""
    tickets = {t: publish(bus, t, tuple("abcdefghij")) for t in ("One", "Two", "Three")}
    page = new_page()
    shown(page, "One")
    settled(page)
    page.click("#ig-note")
    page.keyboard.type("1n0 ")
    expect(page.locator("#ig-note")).to_have_value("1n0 ")
    expect(page.locator("#ig-title")).to_have_text("One")
    page.locator("#ig-note").blur()
    page.keyboard.press("n")
    shown(page, "Two")
    settled(page)
    page.keyboard.press("0")
    assert tickets["Two"].wait(PATIENCE).decision.route == 10
    shown(page, "Three")
    status(page, "recorded for Two")  # else it may come after what zooming says
    page.keyboard.press("Space")
    status(page, "Full size, 96 × 64")
    page.keyboard.press("Space")
    settled(page)
    page.keyboard.press("2")
    assert tickets["Three"].wait(PATIENCE).decision.route == 2
    shown(page, "One")  # what was skipped comes again
    assert not tickets["One"].future.done()


def test_a_double_click_decides_one_gate(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """The second click of a double click does not fall on the gate that has just come."""
    first, second = publish(bus, "First"), publish(bus, "Second")
    page = new_page()
    shown(page, "First")
    settled(page)
    page.dblclick("#ig-route-1")
    first.wait(PATIENCE)
    shown(page, "Second")
    status(page, "recorded for First")
    assert not second.future.done()


def test_a_rhythm_of_four_clicks_a_second_loses_none(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Whoever clicks four times a second decides a gate with each click."""
    tickets = [publish(bus, f"Gate {i}") for i in range(9)]
    page = new_page()
    shown(page, "Gate 0")
    settled(page)
    page.evaluate(
        "() => new Promise((done) => { let left = 8; const beat = setInterval(() => {"
        " document.querySelector('#ig-route-1').click();"
        " if (!--left) done(clearInterval(beat)); }, 250) })"
    )
    assert [ticket.wait(PATIENCE).decision.route for ticket in tickets[:8]] == [1] * 8
    assert not tickets[8].future.done()


def test_undo_means_the_answer_that_is_still_on_its_way(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """U right after a click takes that one back; each further U the one before it."""
    tickets = [publish(bus, f"Gate {i}", undoable=True) for i in range(4)]
    page = new_page()
    for i in range(2):
        shown(page, f"Gate {i}")
        settled(page)
        page.keyboard.press("1")
    shown(page, "Gate 2")
    settled(page)
    held = []
    page.route("**/decision", lambda route: held.append(route))
    page.keyboard.press("1")
    page.keyboard.press("u")
    page.keyboard.press("u")
    page.wait_for_function("() => document.querySelector('#ig-title').textContent === 'Gate 3'")
    settled(page)
    held[0].continue_()
    shown(page, "Gate 1")
    expect(page.locator("#ig-pending")).to_have_text("3 waiting")
    assert bus.get(tickets[0].gate.id).state is State.DECIDED


def test_a_gate_published_while_the_list_is_read_is_not_lost(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """News that overtake the list they are not in yet still count."""
    publish(bus, "Listed")
    page = new_page()
    shown(page, "Listed")

    def late(route: Any) -> None:  # the list as it was a moment ago
        answer = route.fetch()
        publish(bus, "Overtaking")
        page.wait_for_timeout(300)
        route.fulfill(response=answer)

    page.route("**/api/gates?**", late, times=1)
    page.reload()
    shown(page, "Listed")
    page.keyboard.press("n")
    shown(page, "Overtaking")


def test_undo_does_not_throw_away_what_is_painted(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """While a mask is painted another gate does not come to the front."""
    done = publish(bus, "Done", undoable=True)
    publish(bus, "Painted", undoable=True)
    page = new_page()
    shown(page, "Done")
    settled(page)
    page.keyboard.press("1")
    shown(page, "Painted")
    status(page, "recorded for Done")  # else there is nothing to take back yet
    page.keyboard.press("m")
    page.keyboard.press("u")
    status(page, "Save or cancel the mask first")
    assert bus.get(done.gate.id).state is State.DECIDED


def test_another_gate_never_shows_under_the_picture_before_it(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Until its own image is there the stage is empty."""
    publish(bus, "First")
    page = new_page()
    shown(page, "First")
    held = []
    page.route("**/image/0?**", lambda route: held.append(route))
    publish(bus, "Second")
    expect(page.locator("#ig-pending")).to_have_text("2 waiting")
    page.keyboard.press("n")
    expect(page.locator("#ig-title")).to_have_text("Second")
    expect(page.locator("#ig-image")).to_be_hidden()
    for route in held:
        route.continue_()
    page.unroute("**/image/0?**")
    shown(page, "Second")
    expect(page.locator("#ig-image")).to_be_visible()


def test_a_note_outlasts_an_answer_that_is_not_recorded(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """The gate comes back with its note, and takes it along at the second attempt."""
    first = publish(bus, "First")
    publish(bus, "Second")
    page = new_page()
    shown(page, "First")
    page.fill("#ig-note", "too dark")
    page.route("**/decision", lambda route: route.fulfill(status=422, json={"error": "not now"}))
    settled(page)
    page.click("#ig-route-1")
    status(page, "Not recorded: not now")
    shown(page, "First")
    expect(page.locator("#ig-note")).to_have_value("too dark")
    page.unroute("**/decision")
    settled(page)
    page.click("#ig-route-1")
    assert first.wait(PATIENCE).decision.note == "too dark"
    shown(page, "Second")
    expect(page.locator("#ig-note")).to_have_value("")


def test_focus_and_note_stay_where_they_are(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Tab and Enter decide one gate after the other; a note waits with its gate."""
    first = publish(bus, "First")
    publish(bus, "Second"), publish(bus, "Third")
    page = new_page()
    shown(page, "First")
    settled(page)
    page.focus("#ig-route-2")
    page.keyboard.press("Enter")
    assert first.wait(PATIENCE).decision.route == 2
    shown(page, "Second")
    expect(page.locator("#ig-route-2")).to_be_focused()
    page.fill("#ig-note", "look again")
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    shown(page, "Third")
    expect(page.locator("#ig-note")).to_have_value("")
    page.keyboard.press("n")
    shown(page, "Second")
    expect(page.locator("#ig-note")).to_have_value("look again")


def test_a_new_gate_appears_by_itself(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """An open, empty page says what to do, and shows a gate as soon as it is published."""
    page = new_page()
    expect(page.locator("#ig-empty")).to_contain_text("Nothing waits for you")
    expect(page.locator("#ig-stop")).to_be_hidden()
    ticket = publish(bus, "Fresh", deadline=time.time() + 100)
    shown(page, "Fresh")
    expect(page.locator("#ig-clock")).to_contain_text("left")
    assert page.title() == "(1) Image Gate"
    ticket.withdraw("its prompt ended")
    expect(page.locator("#ig-empty")).to_be_visible()
    status(page, "Fresh: its prompt ended")


def test_two_tabs_and_a_second_person_see_the_same_truth(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """What one page decides leaves the other, which reads who decided what."""
    ticket = publish(bus, "Shared")
    mine, other = new_page(), new_page()
    shown(mine, "Shared")
    shown(other, "Shared")
    mine.fill("#ig-name", "Ada")
    settled(mine)
    mine.click("#ig-route-2")
    ticket.wait(PATIENCE)
    status(other, "Shared: Ada chose “fix”")
    expect(other.locator("#ig-empty")).to_be_visible()
    expect(other.locator("#ig-history li").first).to_contain_text("Ada")


def test_the_loser_of_a_race_reads_who_was_first(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """A click that comes second says who decided what, and changes nothing."""
    ticket = publish(bus, "Raced")
    page = new_page()
    shown(page, "Raced")
    settled(page)

    def lose(route: Any) -> None:  # Ada's answer arrives while this click is on its way
        assert bus.decide(ticket.gate.id, 1, by="Ada").outcome is Outcome.WON
        route.continue_()

    page.route("**/decision", lose)
    page.click("#ig-route-2")
    status(page, re.compile("Too late for Raced: Ada chose “keep” first|Ada chose “keep”"))
    assert ticket.wait(PATIENCE).decision.label == "keep"


def test_a_reload_loses_nothing(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """After a reload the same gate waits, its mask over it, and its history is there."""
    done, ticket = publish(bus, "Done"), publish(bus, "Still here")
    bus.decide(done.gate.id, 1, by="Ada")
    buffer = io.BytesIO()
    Image.new("L", (96, 64), 255).save(buffer, "PNG")
    bus.set_mask(ticket.gate.id, 0, buffer.getvalue())
    page = new_page()
    for _ in range(2):
        shown(page, "Still here")
        expect(page.locator("#ig-mask")).to_be_visible()
        expect(page.locator("#ig-history li")).to_have_count(1)
        page.reload()
    settled(page)
    shown(page, "Still here")
    settled(page)
    page.click("#ig-route-1")
    assert ticket.wait(PATIENCE).masks[0] == buffer.getvalue()


def test_stop_asks_once(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """The first click on Stop asks, the second one stops; no key does."""
    ticket = publish(bus, "Doomed")
    page = new_page()
    shown(page, "Doomed")
    settled(page)
    page.dblclick("#ig-stop")
    status(page, "Click again to stop")
    assert bus.get(ticket.gate.id).state is State.WAITING
    settled(page)
    page.click("#ig-stop")
    with pytest.raises(GateCancelled):
        ticket.wait(PATIENCE)
    assert bus.get(ticket.gate.id).state is State.STOPPED
    status(page, "Stop recorded for Doomed")


def test_undo_takes_the_last_decision_back(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """U brings a decided gate back to the front; where it cannot, the button is off."""
    ticket = publish(bus, "Undone", undoable=True)
    publish(bus, "Next")
    page = new_page()
    shown(page, "Undone")
    expect(page.locator("#ig-undo")).to_be_disabled()
    settled(page)
    page.click("#ig-route-1")
    shown(page, "Next")
    expect(page.locator("#ig-undo")).to_be_enabled()
    page.keyboard.press("u")
    shown(page, "Undone")
    status(page, "Taken back")
    assert bus.get(ticket.gate.id).state is State.WAITING
    expect(page.locator("#ig-pending")).to_have_text("2 waiting")


def test_a_click_without_connection_is_sent_when_it_is_back(
    bus: GateBus[Any], server: PanelServer, new_page: Callable[..., Page]
) -> None:
    """The page says that the connection is lost, mends it itself and sends what was clicked."""
    ticket = publish(bus, "Patient")
    page = new_page()
    shown(page, "Patient")
    settled(page)
    server.stop()
    expect(page.locator("#ig-offline")).to_be_visible()
    page.click("#ig-route-2")
    status(page, "sending")
    server.start()
    assert ticket.wait(PATIENCE).decision.label == "fix"
    expect(page.locator("#ig-offline")).to_be_hidden()
    status(page, "“fix” recorded for Patient")
    late = publish(bus, "After")
    shown(page, "After")
    late.withdraw("over")


def test_the_next_three_previews_are_in_the_browser_already(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Going on asks the server for no picture that is about to be shown."""
    tickets = [publish(bus, f"Gate {i}") for i in range(6)]
    page = new_page()
    asked: list[str] = []
    shown(page, "Gate 0")
    page.wait_for_function("() => performance.getEntriesByType('resource')"
                           ".filter((e) => e.name.includes('/image/0')).length === 4")  # fmt: skip
    settled(page)
    page.on("request", lambda request: asked.append(request.url))
    page.click("#ig-route-1")
    shown(page, "Gate 1")
    page.wait_for_function("() => performance.getEntriesByType('resource')"
                           ".filter((e) => e.name.includes('/image/0')).length === 5")  # fmt: skip
    pictures = [url for url in asked if "/image/" in url]
    assert len(pictures) == 1
    assert tickets[4].gate.id in pictures[0]


def test_what_people_wrote_is_text(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """Markup in title, label, note and name does not run and is shown as written."""
    nasty = "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script>"
    ticket = publish(bus, nasty, (nasty, "b"))
    page = new_page()
    expect(page.locator("#ig-title")).to_have_text(nasty)
    expect(page.locator("#ig-route-1")).to_have_text(f"1 · {nasty}")
    bus.decide(ticket.gate.id, 1, by=nasty[:100], note=nasty)
    expect(page.locator("#ig-history li").first).to_contain_text(nasty)
    settled(page)
    assert page.evaluate("window.pwned") is None


@pytest.mark.parametrize("labels", [("keep", "fix"), tuple(f"choice {i}" for i in range(10))])
def test_on_a_phone_everything_is_within_reach(
    bus: GateBus[Any], new_page: Callable[..., Page], labels: tuple[str, ...]
) -> None:
    """At 390 px nothing is cut off sideways and the image has at least a third of the screen."""
    publish(bus, "Phone", labels, size=(1024, 768))
    page = new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    shown(page, "Phone")
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#ig-stage").bounding_box()["height"] > 844 / 3  # type: ignore[index]
    box = page.locator(f"#ig-route-{len(labels)}").bounding_box()
    assert box is not None
    assert box["height"] >= 44
    assert box["x"] + box["width"] <= 390
    if len(labels) == 2:
        assert box["y"] + box["height"] <= 844


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system(
    bus: GateBus[Any], new_page: Callable[..., Page], scheme: str
) -> None:
    """Text stands out from the page in both schemes."""
    publish(bus, "Scheme")
    page = new_page(color_scheme=scheme)
    shown(page, "Scheme")

    def brightness(selector: str, style: str) -> float:
        colour = page.eval_on_selector(selector, f"(e) => getComputedStyle(e).{style}")
        return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3

    text, ground = brightness("#ig-title", "color"), brightness("body", "backgroundColor")
    assert abs(text - ground) > 120
    assert (text < ground) == (scheme == "light")


def test_a_node_s_panel_shows_only_its_own_gates(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """With ?node=ID the gates of other nodes are neither shown nor counted."""
    publish(bus, "Mine")
    other = Gate(labels=("a",), width=8, height=8, title="Other", node_id="9")
    bus.publish(other, TensorPictures(torch.zeros(1, 8, 8, 3)))
    page = new_page("?node=9&embed=1")
    shown(page, "Other")
    expect(page.locator("#ig-pending")).to_have_text("1 waiting")
    expect(page.locator("#ig-skip")).to_be_disabled()


def test_each_image_of_a_batch_can_be_looked_at(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """A thumbnail brings its image to the front."""
    publish(bus, "Batch", batch=3)
    page = new_page()
    shown(page, "Batch")
    expect(page.locator("#ig-thumbs button")).to_have_count(3)
    page.click("#ig-thumbs button:nth-child(3)")
    expect(page.locator("#ig-image")).to_have_attribute("src", re.compile("/image/2"))
    expect(page.locator("#ig-thumbs button:nth-child(3)")).to_have_attribute(
        "aria-selected", "true"
    )


def test_nothing_is_asked_of_another_server_and_no_event_is_an_api(
    bus: GateBus[Any], server: PanelServer, browser: Browser
) -> None:
    """The page works in a closed network, and Gradio's events cannot be called from outside."""
    publish(bus, "Closed")
    context = browser.new_context()
    page = context.new_page()
    asked: list[Request] = []
    page.on("request", lambda request: asked.append(request))
    page.goto(server.url)
    shown(page, "Closed")
    elsewhere = [r.url for r in asked if not r.url.startswith((server.url, "data:", "blob:"))]
    assert [url for url in elsewhere if not url.endswith("/favicon.ico")] == []
    for path in ("info", "call/open_editor", "run/open_editor", "openapi.json"):
        assert context.request.get(f"{server.url}gradio_api/{path}").status == 404
        assert context.request.post(f"{server.url}gradio_api/{path}", data={}).status == 404
    context.close()


@pytest.mark.slow
def test_the_page_leads_nowhere_else(server: PanelServer) -> None:
    """No address below the panel redirects to another server or lists Gradio's own API."""
    for path in ("gradio_api/file=https://evil.example/", "gradio_api/file=%68ttp://evil.example/",
                 "openapi.json", "openapi.json/"):  # fmt: skip
        response = httpx.get(server.url + path)
        assert (response.status_code, response.headers.get("location")) == (404, None), path


@pytest.mark.slow
def test_the_page_is_never_half_old(
    bus: GateBus[Any], server: PanelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A browser asks for the page's scripts anew each time, and may run them: also where the
    system takes them for plain text, as some Windows registries do.
    """
    mimetypes.init()
    monkeypatch.setattr(mimetypes, "_db", mimetypes.MimeTypes())
    mimetypes.add_type("text/plain", ".js")
    new_panel(bus)
    for name in ("operator/panel.js", "shared/gates.js"):
        response = httpx.get(f"{server.url}page/{name}")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["content-type"].startswith("text/javascript")
        unchanged = {"if-none-match": response.headers["etag"]}
        again = httpx.get(f"{server.url}page/{name}", headers=unchanged)
        assert (again.status_code, again.headers["cache-control"]) == (304, "no-cache")


@pytest.mark.slow
def test_rest_answers_for_itself(server: PanelServer) -> None:
    """Beside the page, too, a wrong method or path of REST gets an answer of REST."""
    response = httpx.get(f"{server.url}api/gates/x/decision")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert "nothing" in httpx.get(f"{server.url}api/nothing").json()["error"]


# -- masks


def test_a_mask_comes_back_pixel_by_pixel(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """What was there before stays to the pixel, soft edges too; a stroke is where it was drawn."""
    size = (320, 240)
    start = torch.zeros(1, size[1], size[0])
    start[0, 20:60, 30:90] = 1.0
    start[0, 0, 0] = start[0, -1, -1] = 1.0
    start[0, 200:220, 10:60] = 100 / 255  # soft: below the editor's half, nobody paints there
    ticket = publish(bus, "Masked", size=size, mask=start)
    page = new_page()
    shown(page, "Masked")
    expect(page.locator("#ig-mask")).to_be_visible()
    expect(page.locator("#ig-editor")).to_have_count(0)
    settled(page)
    open_editor(page.main_frame, size)
    stroke(page.main_frame, (150, 150), (250, 150))
    page.click("#ig-mask-save")
    status(page, "Mask saved for Masked", timeout=PAINT)
    expect(page.locator("#ig-editor")).to_have_count(0)
    page.click("#ig-route-1")
    png = ticket.wait(PATIENCE).masks[0]
    got = np.asarray(read_mask(png, *size)).astype(int)
    before = (start[0] * 255).round().int().numpy()
    drawn = capsule(size, (150, 150), (250, 150), 8)
    far = ~capsule(size, (150, 150), (250, 150), 11)
    assert (got[far] == before[far]).all()
    painted = got >= 128
    both = painted & ~(before >= 128)
    assert (both & drawn).sum() / (both | drawn).sum() > 0.96


def test_a_route_clicked_while_painting_takes_the_mask_along(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Deciding before saving saves first: nothing that was painted is lost."""
    size = (160, 120)
    ticket = publish(bus, "Hurried", size=size, batch=2)
    page = new_page()
    shown(page, "Hurried")
    page.click("#ig-thumbs button:nth-child(2)")
    settled(page)
    open_editor(page.main_frame, size)
    stroke(page.main_frame, (60, 60), (100, 60))
    page.click("#ig-route-2")
    answer = ticket.wait(PAINT / 1000)
    assert answer.decision.route == 2
    assert list(answer.masks) == [1]
    assert np.asarray(read_mask(answer.masks[1], *size))[60, 80] == 255


def test_painting_can_be_cleared_cancelled_and_interrupted(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Clear starts from nothing, Cancel keeps what was; a gate that ends closes the editor."""
    size = (160, 120)
    ticket = publish(bus, "Cleared", size=size, mask=torch.ones(1, size[1], size[0]))
    page = new_page()
    shown(page, "Cleared")
    settled(page)
    open_editor(page.main_frame, size)
    page.click("#ig-mask-cancel")
    expect(page.locator("#ig-editor")).to_have_count(0)
    assert bus.get(ticket.gate.id).masked == ()
    open_editor(page.main_frame, size)
    page.click("#ig-mask-clear")
    page.click("#ig-mask-save")  # at once: whatever the editor still shows, nothing is painted
    status(page, "Mask saved for Cleared", timeout=PAINT)
    png = bus.mask(ticket.gate.id, 0)
    assert png
    assert np.asarray(read_mask(png, *size)).max() == 0
    open_editor(page.main_frame, size)
    threading.Thread(target=bus.stop, args=(ticket.gate.id,), kwargs={"by": "Ada"}).start()
    status(page, "Ada stopped it")
    expect(page.locator("#ig-editor")).to_have_count(0)
    expect(page.locator("#ig-empty")).to_be_visible()


def test_no_listener_stays_behind(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """Pages that are closed leave no subscription."""
    pages = [new_page() for _ in range(3)]
    assert bus.listeners == 3
    for page in pages:
        page.close()
    deadline = time.monotonic() + PATIENCE
    gone = threading.Event()
    while bus.listeners and time.monotonic() < deadline:
        gone.wait(0.1)
    assert bus.listeners == 0


def test_all_pages_of_a_browser_share_one_connection(
    bus: GateBus[Any], server: PanelServer, browser: Browser
) -> None:
    """Ten panels leave a browser its other five connections: they have one stream together."""
    context = browser.new_context()
    ticket = publish(bus, "Everywhere")
    pages = [context.new_page() for _ in range(10)]
    for page in pages:
        page.goto(server.url)
    for page in pages:
        shown(page, "Everywhere")
    assert bus.listeners == 1
    ticket.withdraw("over")
    for page in pages:
        expect(page.locator("#ig-empty")).to_be_visible()
    context.close()
