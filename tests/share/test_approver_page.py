"""The approver's page in a real Chromium: phones with touch, beside the operator's panel."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from playwright.sync_api import Browser, Page, Route, expect

from imagegate.core.model import Outcome, State
from imagegate.http.paths import PAGES
from imagegate.pictures.encode import read_mask
from tests.support.approver import PHONE, Studio, shown
from tests.support.browser import chromium
from tests.support.fingers import Fingers
from tests.support.painting import capsule

LONG = tuple(f"{label}, then ask the client once more" for label in "abcdefghij")

# Counts the images that a page holds, and what it asks for.
COUNTING = """
globalThis.blobs = new Set();
const [make, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
URL.createObjectURL = (blob) => { const url = make.call(URL, blob); blobs.add(url); return url; };
URL.revokeObjectURL = (url) => { blobs.delete(url); revoke.call(URL, url); };
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def studio(browser: Browser) -> Iterator[Studio]:
    with Studio(browser) as studio:
        yield studio


def status(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.locator("#ig-status")).to_contain_text(text)


def settled(page: Page) -> None:
    """Wait out the moment in which a double tap would not count."""
    page.evaluate("() => new Promise((done) => setTimeout(done, 300))")


def middle(page: Page) -> tuple[float, float]:
    box = page.locator("#ig-stage").bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def width(page: Page) -> float:
    """CSS pixels that the image is wide, as it is seen."""
    box = page.locator("#ig-frame").bounding_box()
    assert box is not None
    return float(box["width"])


def bytes_of(page: Page, size: str) -> list[int]:
    """What the images of this size took on the line."""
    script = """(size) => performance.getEntriesByType("resource")
      .filter((entry) => entry.name.includes(`size=${size}`) && entry.name.includes("/image/"))
      .map((entry) => entry.encodedBodySize)"""
    found: list[int] = page.evaluate(script, size)
    return found


# -- entering


def test_the_token_leaves_the_address_bar_and_the_page_opens(studio: Studio) -> None:
    """Whoever opens a link reads for whom it is, taps once, and is at the gate that waits."""
    studio.publish("First")
    page = studio.tab(**PHONE)
    address = studio.invite("Ada")
    page.goto(address)
    expect(page.locator("#ig-name")).to_have_text("Hello, Ada")
    token = address.rpartition("/")[2]
    assert token not in page.url
    assert token not in page.content()
    page.tap("#ig-open")
    shown(page, "First")
    expect(page.locator("#ig-pending")).to_have_text("1 left")
    assert token not in page.url
    assert page.title() == "(1) Image Gate"


def test_a_passphrase_is_asked_for(studio: Studio) -> None:
    """A wrong one is refused with a sentence, the right one opens the page."""
    studio.publish("Secret")
    page = studio.tab(**PHONE)
    page.goto(studio.invite("Ada", passphrase="otter"))
    page.fill("#ig-passphrase", "beaver")
    page.tap("#ig-open")
    expect(page.locator("#ig-status")).to_have_text("That is not the passphrase.")
    page.fill("#ig-passphrase", "otter")
    page.tap("#ig-open")
    shown(page, "Secret")


def test_whoever_opens_a_link_over_a_bad_line_gets_in(studio: Studio) -> None:
    """The page tries again by itself, with the key that it began with, whether nothing answers or
    a page of the tunnel does; a second tap in between changes nothing.
    """
    studio.publish("Far")
    page = studio.tab(**PHONE)
    page.goto(studio.invite("Ada"))
    keys: list[str] = []

    def bad_line(route: Route) -> None:
        keys.append(json.loads(route.request.post_data or "")["key"])
        if len(keys) == 1:
            route.abort()
        elif len(keys) == 2:
            route.fulfill(status=404, content_type="text/html", body="<p>No such tunnel.</p>")
        else:
            route.continue_()

    page.route("**/api/session", bad_line)
    page.tap("#ig-open")
    expect(page.locator("#ig-open")).to_have_text("Connecting …")
    expect(page.locator("#ig-open")).to_be_disabled()
    shown(page, "Far")
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert re.fullmatch("[0-9a-f]{32}", keys[0])


def test_without_a_connection_the_entry_says_so(studio: Studio) -> None:
    """After some attempts; then the button is there again."""
    studio.publish("Far")
    page = studio.tab(**PHONE)
    page.clock.install()
    page.goto(studio.invite("Ada"))
    page.route("**/api/session", lambda route: route.abort())
    page.tap("#ig-open")
    for _ in range(5):
        expect(page.locator("#ig-open")).to_have_text("Connecting …")
        with page.expect_request("**/api/session"):
            page.clock.run_for(10_000)
    expect(page.locator("#ig-status")).to_contain_text("There is no connection.")
    page.unroute("**/api/session")
    page.tap("#ig-open")
    shown(page, "Far")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_an_old_link_says_so_on_a_page_like_the_entry(studio: Studio, scheme: str) -> None:
    """The sentence of a refusal stands on a card, in the colours of the system, with no script and
    nothing that breaks its own policy.
    """
    address = studio.invite("Ada")
    studio.revoke("Ada")
    page = studio.tab(**PHONE, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    for url, sentence in (
        (address, "This link was revoked. Ask whoever sent it for a new one."),
        (studio.door.url, "Open the link that you were sent."),
    ):
        answer = page.goto(url)
        assert answer is not None
        expect(page.locator("main p")).to_have_text(sentence)
        colour = page.eval_on_selector("main", "(e) => getComputedStyle(e).backgroundColor")
        assert colour == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 27, 40)"}[scheme]
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "script-src" not in policy
    assert [text for text in said if "status of 40" not in text] == []


# -- deciding


def test_a_tap_decides_and_the_operator_sees_who(studio: Studio) -> None:
    """Beside the operator's panel a phone decides, with a note, and the next gate comes."""
    first = studio.publish("First", ("keep", "fix", "reject"))
    operator = studio.operator_page()
    phone = studio.enter("Ada")
    shown(phone, "First")
    expect(operator.locator("#ig-title")).to_have_text("First")
    studio.publish("Second")
    expect(phone.locator("#ig-pending")).to_have_text("2 left")
    expect(phone.locator("#ig-route-3")).to_have_text("3 · reject")
    phone.tap("#ig-note-open")
    phone.fill("#ig-note", "too dark")
    settled(phone)
    phone.tap("#ig-route-3")
    status(phone, "“reject” recorded for First")
    shown(phone, "Second")
    expect(phone.locator("#ig-pending")).to_have_text("1 left")
    decision = studio.bus.get(first).decision
    assert decision is not None
    assert (decision.label, decision.by, decision.note) == ("reject", "Ada", "too dark")
    expect(operator.locator("#ig-status")).to_contain_text("First: Ada chose “reject”")
    expect(operator.locator("#ig-title")).to_have_text("Second")


def test_a_double_tap_decides_one_gate(studio: Studio) -> None:
    """The second tap of a double tap does not fall on the gate that has just come."""
    studio.publish("First")
    second = studio.publish("Second")
    page = studio.enter("Ada")
    shown(page, "First")
    settled(page)
    page.dblclick("#ig-route-1")
    shown(page, "Second")
    status(page, "recorded for First")
    assert studio.bus.get(second).state is State.PARKED


def test_what_i_have_done_can_be_taken_back_by_me_alone(studio: Studio) -> None:
    """The sheet lists my decisions, each with Undo; those of others have none."""
    gates = [studio.publish(title) for title in ("First", "Second", "Third", "Fourth")]
    ada = studio.enter("Ada")
    for title in ("First", "Second"):
        shown(ada, title)
        settled(ada)
        ada.tap("#ig-route-1")
        status(ada, f"recorded for {title}")
    shown(ada, "Third")
    ben = studio.enter("Ben")
    shown(ben, "Fourth")  # nobody looks at it
    settled(ben)
    ben.tap("#ig-route-2")
    status(ben, "recorded for Fourth")
    ada.tap("#ig-past-open")
    expect(ada.locator("#ig-person")).to_contain_text("for another 24 hours.")
    rows = ada.locator("#ig-history li")
    expect(rows).to_have_count(2)
    ada.tap("#ig-past-all")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text("Ben")
    expect(rows.first.locator(".ig-back")).to_have_count(0)
    ada.tap("#ig-past-mine")
    expect(rows).to_have_count(2)
    rows.last.locator(".ig-back").tap()
    expect(rows).to_have_count(1)
    assert studio.bus.get(gates[0]).state is State.PARKED
    ada.tap("#ig-past-close")
    shown(ada, "First")
    ada.tap("#ig-undo")
    shown(ada, "Second")
    expect(ada.locator("#ig-undo")).to_be_disabled()
    assert studio.bus.get(gates[3]).state is State.DECIDED


def test_of_two_at_once_the_first_wins_and_the_other_reads_who_and_what(studio: Studio) -> None:
    """Also of the gate in front, before the other has tapped anything."""
    studio.publish("First")
    ada, ben = studio.enter("Ada"), studio.enter("Ben")
    shown(ada, "First")
    shown(ben, "First")
    gates = {title: studio.publish(title) for title in ("Second", "Third")}
    expect(ben.locator("#ig-pending")).to_have_text("3 left")
    settled(ben)
    ben.tap("#ig-route-1")
    status(ada, "First: Ben chose “keep” first")
    expect(ada.locator("#ig-title")).to_have_text(re.compile("Second|Third"))
    title = ada.locator("#ig-title").inner_text()
    shown(ada, title)
    expect(ada.locator("#ig-pause")).to_be_hidden()

    def lose(route: Route) -> None:  # Ben's answer arrives while this one is on its way
        outcome = studio.bus.decide(gates[title], 1, by="Ben").outcome
        assert outcome is Outcome.WON
        route.continue_()

    ada.route("**/decision", lose)
    ada.tap("#ig-route-2")
    status(ada, re.compile(f"{title}: Ben chose “keep” first"))
    decision = studio.bus.get(gates[title]).decision
    assert decision is not None
    assert decision.label == "keep"
    shown(ada, "Third" if title == "Second" else "Second")


def test_a_tap_while_the_server_is_away_counts_once(studio: Studio) -> None:
    """It says that the answer is kept, sends it with the same key when the server is back, and
    nothing is decided twice: not even where the first sending was heard and its answer was lost.
    """
    gate = studio.publish("Patient", ("keep", "fix"))
    studio.publish("After")
    page = studio.enter("Ada")
    keys: list[str] = []

    def cut(route: Route) -> None:  # it is heard, and the answer to it is lost
        keys.append(json.loads(route.request.post_data or "")["key"])
        if len(keys) == 1:
            route.fetch()
            studio.door.stop()
            route.abort()
        else:
            route.continue_()

    page.route("**/decision", cut)
    shown(page, "Patient")
    settled(page)
    page.tap("#ig-route-2")
    expect(page.locator("#ig-offline")).to_be_visible()
    expect(page.locator("#ig-offline")).to_contain_text("Your answer is kept here")
    assert page.evaluate("() => !dispatchEvent(new Event('beforeunload', { cancelable: true }))"), (
        "it does not warn whoever leaves"
    )
    studio.door.start()
    status(page, "“fix” recorded for Patient")
    expect(page.locator("#ig-offline")).to_be_hidden()
    shown(page, "After")
    assert len(keys) > 1
    assert len(set(keys)) == 1
    assert studio.bus.get(gate).state is State.DECIDED
    expect(page.locator("#ig-history li")).to_have_count(1)


@pytest.mark.parametrize("refusal", [403, 413, 507])
def test_an_answer_that_is_not_recorded_loses_nothing(studio: Studio, refusal: int) -> None:
    """The gate comes back with the note that went along, and is still there when the lists are
    read again; what is recorded takes its note with it.
    """
    gate = studio.publish("Patient")
    studio.publish("Later")
    page = studio.enter("Ada")
    shown(page, "Patient")
    page.tap("#ig-note-open")
    page.fill("#ig-note", "too dark")
    said = {"error": "not now"}
    page.route("**/decision", lambda route: route.fulfill(status=refusal, json=said))
    settled(page)
    page.tap("#ig-route-1")
    status(page, "Not recorded: not now")
    shown(page, "Patient")
    expect(page.locator("#ig-note")).to_have_value("too dark")
    page.unroute("**/decision")
    studio.door.stop()
    expect(page.locator("#ig-offline")).to_be_visible()
    studio.door.start()
    expect(page.locator("#ig-offline")).to_be_hidden()
    studio.publish("Last")
    expect(page.locator("#ig-pending")).to_have_text("3 left")
    shown(page, "Patient")
    settled(page)
    page.tap("#ig-route-1")
    status(page, "recorded for Patient")
    decision = studio.bus.get(gate).decision
    assert decision is not None
    assert decision.note == "too dark"
    page.tap("#ig-undo")
    shown(page, "Patient")
    expect(page.locator("#ig-note")).to_have_value("")


def test_keys_work_at_a_desk(studio: Studio) -> None:
    """Digits decide, N skips, U takes back, Space zooms; in the note they are letters."""
    for title in ("One", "Two"):
        studio.publish(title, tuple("abcdefghij"))
    page = studio.enter("Ada", viewport={"width": 1280, "height": 860})
    shown(page, "One")
    settled(page)
    page.click("#ig-note")
    page.keyboard.type("1n0 u")
    expect(page.locator("#ig-note")).to_have_value("1n0 u")
    page.keyboard.press("Escape")
    before = width(page)
    page.keyboard.press("Space")
    settled(page)
    assert width(page) > before * 1.5
    page.keyboard.press("n")
    shown(page, "Two")
    settled(page)
    page.keyboard.press("0")
    status(page, "“j” recorded for Two")
    shown(page, "One")
    expect(page.locator("#ig-note")).to_have_value("1n0 u")
    page.keyboard.press("u")
    shown(page, "Two")


# -- looking


def test_two_fingers_zoom_until_every_pixel_is_there(studio: Studio) -> None:
    """A noisy image of 4096 px is shown first as a preview under 400 kB; whoever comes closer gets
    its own pixels in the same place.
    """
    generator = torch.Generator().manual_seed(4)
    studio.publish("Noise", image=torch.rand(1, 4096, 4096, 3, generator=generator))
    page = studio.enter("Ada")
    shown(page, "Noise")
    (preview,) = bytes_of(page, "preview")
    assert 0 < preview < 400_000
    assert bytes_of(page, "zoom") == []
    image = page.locator("#ig-image")
    assert page.evaluate("() => document.querySelector('#ig-image').naturalWidth") <= 1536
    before = width(page)
    fingers = Fingers(page)
    fingers.pinch(middle(page), (60, 300))
    assert width(page) > before * 3
    expect(image).to_have_attribute("data-size", "zoom")
    assert page.evaluate("() => document.querySelector('#ig-image').naturalWidth") == 4096
    assert width(page) > before * 3
    left = page.locator("#ig-frame").bounding_box()
    fingers.draw([middle(page), (200, 400), (260, 460), (260, 460)])
    now = page.locator("#ig-frame").bounding_box()
    assert left is not None
    assert now is not None
    assert now["x"] > left["x"] + 20
    fingers.pinch(middle(page), (300, 20))
    assert width(page) == pytest.approx(before, abs=1)


def test_a_double_tap_zooms_in_and_out(studio: Studio) -> None:
    """Without a second hand one comes closer, too."""
    studio.publish("Near", size=(1200, 900))
    page = studio.enter("Ada")
    shown(page, "Near")
    fingers, before = Fingers(page), width(page)
    for zoomed in (True, False):
        fingers.tap(middle(page))
        fingers.tap(middle(page))
        settled(page)
        assert (width(page) > before * 2) is zoomed


def test_the_page_holds_the_image_in_front_and_the_next_two(studio: Studio) -> None:
    """In its own memory: nothing is kept by the browser, and what was decided is let go."""
    for i in range(6):
        studio.publish(f"Gate {i}")
    page = studio.tab(**PHONE)
    page.add_init_script(COUNTING)
    kept: list[str] = []
    page.on("response", lambda answer: kept.extend(
        [answer.headers.get("cache-control", "")] * ("/image/" in answer.url)
    ))  # fmt: skip
    studio.enter("Ada", page)
    for i in range(3):
        shown(page, f"Gate {i}")
        settled(page)
        assert page.evaluate("() => blobs.size") == 3
        page.tap("#ig-route-1")
    assert set(kept) == {"no-store"}


def test_an_image_that_fails_can_be_asked_for_again(studio: Studio) -> None:
    """The page says that it failed, and shows it when a second attempt succeeds."""
    studio.publish("Stubborn")
    page = studio.tab(**PHONE)
    page.route("**/image/**", lambda route: route.abort())
    studio.enter("Ada", page)
    expect(page.locator("#ig-failed")).to_contain_text("could not be loaded")
    expect(page.locator("#ig-image")).to_be_hidden()
    page.unroute("**/image/**")
    page.tap("#ig-retry")
    shown(page, "Stubborn")
    expect(page.locator("#ig-failed")).to_be_hidden()


def test_each_image_of_a_batch_can_be_looked_at(studio: Studio) -> None:
    """A tap on its thumbnail brings it to the front, and so does a swipe."""
    studio.publish("Batch", batch=3)
    page = studio.enter("Ada")
    shown(page, "Batch")
    thumbs = page.locator("#ig-thumbs button")
    expect(thumbs).to_have_count(3)
    expect(page.locator("#ig-thumbs canvas")).to_have_count(3)
    thumbs.nth(1).tap()
    expect(page.locator("#ig-facts")).to_contain_text("2 of 3")
    shown(page, "Batch")
    x, y = middle(page)
    Fingers(page).draw([(x + 80, y), (x, y), (x - 80, y)])
    expect(page.locator("#ig-facts")).to_contain_text("3 of 3")
    expect(thumbs.nth(2)).to_have_attribute("aria-selected", "true")


# -- painting


def test_a_finger_paints_and_the_saved_mask_covers_the_stroke(studio: Studio) -> None:
    """One finger paints where it goes; two move the image and leave no mark; what was there before
    stays; a stroke that was taken back is not saved.
    """
    size = (640, 480)
    start = torch.zeros(1, size[1], size[0])
    start[0, 20:60, 30:90] = 1.0
    gate = studio.publish("Masked", size=size, mask=start)
    page = studio.enter("Ada")
    shown(page, "Masked")
    expect(page.locator("#ig-mask")).to_be_visible()
    page.tap("#ig-mask-edit")
    expect(page.locator("#ig-mask-save")).to_be_enabled()
    box = page.locator("#ig-editor").bounding_box()
    assert box is not None
    scale = box["width"] / size[0]

    def on_screen(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x * scale, box["y"] + y * scale

    def line(start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
        parts = [step / 8 for step in range(9)]
        return [
            on_screen(start[0] + (end[0] - start[0]) * p, start[1] + (end[1] - start[1]) * p)
            for p in parts
        ]

    fingers = Fingers(page)
    fingers.draw(line((200, 300), (450, 300)))
    fingers.draw(line((100, 400), (500, 400)))
    page.tap("#ig-paint-undo")
    fingers.pinch(on_screen(320, 240), (60, 160))
    assert width(page) > box["width"] * 1.5
    page.tap("#ig-mask-save")
    status(page, "Mask saved")
    expect(page.locator("#ig-editor")).to_have_count(0)
    expect(page.locator("#ig-mask")).to_be_visible()
    png = studio.bus.mask(gate, 0)
    assert png
    got = np.asarray(read_mask(png, *size))
    radius = 18 / scale  # of the brush, which has 36 px on the screen
    drawn = capsule(size, (200, 300), (450, 300), radius)
    before = start[0].numpy() > 0.5
    assert (got[before] == 255).all()
    painted = (got >= 128) & ~before
    assert (painted & drawn).sum() / (painted | drawn).sum() > 0.95
    settled(page)
    page.tap("#ig-route-1")
    status(page, "recorded for Masked")


def test_what_nobody_painted_over_stays_as_fine_and_soft_as_it_was(studio: Studio) -> None:
    """Of a mask finer than the canvas, and soft, only what a finger touched is changed."""
    size = (2560, 1920)
    soft = torch.linspace(0, 1, size[0]).repeat(size[1], 1)[None]
    soft[0, :400:2] = 1.0  # lines of one pixel
    gate = studio.publish("Soft", size=size, mask=soft)
    page = studio.enter("Ada")
    shown(page, "Soft")
    page.tap("#ig-mask-edit")
    expect(page.locator("#ig-mask-save")).to_be_enabled()
    box = page.locator("#ig-editor").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2
    Fingers(page).draw([(x, y), (x + 20, y), (x + 40, y)])
    page.tap("#ig-mask-save")
    status(page, "Mask saved")
    png = studio.bus.mask(gate, 0)
    assert png
    got = np.asarray(read_mask(png, *size)).astype(int)
    before = (soft[0] * 255).round().int().numpy()
    scale = box["width"] / size[0]
    start, end = (size[0] / 4, size[1] / 2), (size[0] / 4 + 40 / scale, size[1] / 2)
    assert (got[capsule(size, start, end, 16 / scale)] == 255).all()
    far = ~capsule(size, start, end, 20 / scale)
    assert (got[far] == before[far]).all()


def test_a_mask_can_be_erased_cleared_and_cancelled(studio: Studio) -> None:
    """The eraser takes paint away, Clear takes all, Cancel keeps what was saved."""
    size = (320, 240)
    gate = studio.publish("Cleared", size=size, mask=torch.ones(1, size[1], size[0]))
    page = studio.enter("Ada")
    shown(page, "Cleared")
    fingers = Fingers(page)
    x, y = middle(page)

    def paint() -> None:
        page.tap("#ig-mask-edit")
        expect(page.locator("#ig-mask-save")).to_be_enabled()

    paint()
    page.tap("#ig-mask-clear")
    page.tap("#ig-mask-cancel")
    expect(page.locator("#ig-editor")).to_have_count(0)
    assert studio.bus.get(gate).masked == ()
    paint()
    page.tap("#ig-paint-eraser")
    fingers.draw([(x - 30, y), (x, y), (x + 30, y)])
    page.tap("#ig-mask-save")
    status(page, "Mask saved")
    png = studio.bus.mask(gate, 0)
    assert png
    got = np.asarray(read_mask(png, *size))
    assert (got[size[1] // 2, size[0] // 2], got[0, 0]) == (0, 255)
    paint()
    page.tap("#ig-mask-clear")
    page.tap("#ig-mask-save")
    status(page, "Mask cleared")
    expect(page.locator("#ig-mask")).to_be_hidden()
    assert not studio.bus.mask(gate, 0)


def test_a_gate_that_is_decided_elsewhere_ends_the_painting(studio: Studio) -> None:
    """The page says who was first, and the next gate comes with its buttons."""
    gate = studio.publish("Painted")
    studio.publish("Next")
    page = studio.enter("Ada")
    shown(page, "Painted")
    page.tap("#ig-mask-edit")
    expect(page.locator("#ig-editor")).to_be_visible()
    studio.bus.decide(gate, 2, by="Ben")
    status(page, "Painted: Ben chose “fix” first")
    shown(page, "Next")
    expect(page.locator("#ig-editor")).to_have_count(0)
    expect(page.locator("#ig-route-1")).to_be_visible()


# -- what a link allows


def test_a_link_to_look_shows_and_offers_nothing_to_press(studio: Studio) -> None:
    """No route, note, mask or undo is in the page; what others decide is listed."""
    gate = studio.publish("Shown")
    studio.publish("Also shown")
    page = studio.enter("Ada", may="look")
    shown(page, "Shown")
    for part in ("routes", "route-1", "note", "mask-edit", "mask-save", "undo", "paint", "stop"):
        expect(page.locator(f"#ig-{part}")).to_have_count(0)
    for key in "1mu":
        page.keyboard.press(key)
    page.tap("#ig-skip")
    shown(page, "Also shown")
    assert studio.bus.get(gate).state is State.PARKED
    studio.bus.decide(gate, 1, by="Ben")
    page.tap("#ig-past-open")
    expect(page.locator("#ig-history li")).to_contain_text("Ben")
    expect(page.locator("#ig-history button")).to_have_count(0)


def test_a_link_to_decide_has_no_mask_tools(studio: Studio) -> None:
    """Routes and undo are there, painting is not."""
    studio.publish("Plain")
    page = studio.enter("Ada", may="decide")
    shown(page, "Plain")
    expect(page.locator("#ig-route-1")).to_be_visible()
    for part in ("mask-edit", "mask-save", "mask-clear", "paint", "stop", "share"):
        expect(page.locator(f"#ig-{part}")).to_have_count(0)


def test_no_operator_control_is_in_any_source_that_the_page_loads(studio: Studio) -> None:
    """Nor in what it could load: stop, asking again, the store's status, links, a gate's lines."""
    studio.publish("Shown")
    page = studio.tab(**PHONE)
    sources: dict[str, str] = {}

    def read(answer: Any) -> None:
        if "/page/" in answer.url or answer.url.endswith("/imagegate/"):
            sources[answer.url] = ""

    page.on("response", read)
    studio.enter("Ada", page)
    shown(page, "Shown")
    for url in sources:
        sources[url] = page.request.get(url).text()
    assert any(url.endswith("approver/approver.js") for url in sources)
    assert any(url.endswith("shared/gates.js") for url in sources)
    control = re.compile(
        r"""\big-(?:stop|share|store|again)\b|["'`/]stop["'`]|ask-again|askAgain"""
        r"""|(?:api/|url\(["'`])(?:status|links|qr|openapi)|/history[`"']"""
    )
    found = {url: control.findall(text) for url, text in sources.items()}
    assert {url: hits for url, hits in found.items() if hits} == {}
    operators = [path.relative_to(PAGES).as_posix() for path in (PAGES / "operator").rglob("*.*")]
    assert "operator/panel.js" in operators
    for name in (*operators, "panel.js", "approver/../operator/panel.js", "approver.js"):
        assert page.request.get(f"{studio.door.url}page/{name}").status == 404


# -- the end


def test_a_page_goes_dark_when_its_link_is_revoked(studio: Studio) -> None:
    """No image, text or note stays; nothing more is asked; one sentence is left."""
    studio.publish("Confidential", ("keep", "hide"))
    page = studio.tab(**PHONE)
    page.add_init_script(COUNTING)
    studio.enter("Ada", page)
    shown(page, "Confidential")
    page.tap("#ig-note-open")
    page.fill("#ig-note", "for nobody else")
    studio.revoke("Ada")
    expect(page.locator("#ig-over")).to_be_visible()
    assert page.inner_text("body") == ("This link was revoked. Ask whoever sent it for a new one.")
    html = page.evaluate("() => document.documentElement.outerHTML")
    for secret in ("Confidential", "hide", "Ada", "for nobody else", "<img", "<canvas", "blob:"):
        assert secret not in html
    assert page.evaluate("() => blobs.size") == 0
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    studio.publish("Later")
    settled(page)
    assert asked == []
    assert page.title() == "Image Gate"


def test_a_page_without_its_stream_goes_dark_at_the_next_call(studio: Studio) -> None:
    """A line that lost the last event: the first refusal says the same."""
    studio.publish("Confidential")
    page = studio.tab(**PHONE)
    page.add_init_script("delete globalThis.SharedWorker")
    page.route("**/api/events", lambda route: route.abort())
    studio.enter("Ada", page)
    studio.revoke("Ada")
    expect(page.locator("#ig-over")).to_have_text(
        "This page was left, or the link is no longer valid. "
        "To come back, open your link again or ask for a new one."
    )


def test_a_second_link_in_the_same_browser_ends_the_first_page(studio: Studio) -> None:
    """The page of the first says that its session was left, not that its link is over."""
    studio.publish("Both")
    first = studio.enter("Ada")
    shown(first, "Both")
    second = first.context.new_page()
    studio.enter("Ada again", second)
    shown(second, "Both")
    expect(first.locator("#ig-over")).to_have_text(
        "This session was left. To come back, open your link again or ask for a new one."
    )


def test_another_s_link_going_dark_leaves_mine(studio: Studio) -> None:
    """Revoking Ben's ends his page and not Ada's."""
    studio.publish("Shared")
    ada, ben = studio.enter("Ada"), studio.enter("Ben")
    shown(ada, "Shared")
    shown(ben, "Shared")
    studio.revoke("Ben")
    expect(ben.locator("#ig-over")).to_be_visible()
    expect(ada.locator("#ig-title")).to_have_text("Shared")
    settled(ada)
    ada.tap("#ig-route-1")
    status(ada, "recorded for Shared")


def test_whoever_leaves_is_out(studio: Studio) -> None:
    """Leave asks once; after that the page is dark and its session opens nothing."""
    studio.publish("Left")
    page = studio.enter("Ada")
    shown(page, "Left")
    page.tap("#ig-past-open")
    page.tap("#ig-leave")
    expect(page.locator("#ig-leave")).to_contain_text("Really leave?")
    settled(page)  # a double tap does not leave
    page.tap("#ig-leave")
    expect(page.locator("#ig-over")).to_contain_text("You have left.")
    assert page.request.get(f"{studio.door.url}api/gates").status == 401


# -- how it looks


def test_what_people_wrote_is_text(studio: Studio) -> None:
    """Markup in title, label, note and name does not run and is shown as written."""
    nasty = "<img src=x onerror='window.pwned=1'><script>window.pwned=1</script>"
    gate = studio.publish(nasty, (nasty, "b"))
    studio.publish("Next")
    page = studio.tab(**PHONE)
    page.goto(studio.invite(nasty))
    expect(page.locator("#ig-name")).to_have_text(f"Hello, {nasty}")
    page.tap("#ig-open")
    shown(page, nasty)
    expect(page.locator("#ig-route-1")).to_have_text(f"1 · {nasty}")
    studio.bus.decide(gate, 1, by=nasty, note=nasty)
    status(page, nasty)
    page.tap("#ig-past-open")
    page.tap("#ig-past-all")
    expect(page.locator("#ig-history li q")).to_have_text(nasty)
    settled(page)
    assert page.evaluate("window.pwned") is None


@pytest.mark.parametrize("labels", [("keep", "fix"), LONG], ids=["two", "ten long"])
@pytest.mark.parametrize("size", [(390, 844), (320, 568)], ids=["phone", "small phone"])
def test_on_a_phone_everything_is_within_reach(
    studio: Studio, size: tuple[int, int], labels: tuple[str, ...]
) -> None:
    """Nothing is cut off sideways, the page itself does not scroll, every route can be tapped with
    a thumb, and the image has a quarter of the screen at least, half of it where it can.
    """
    gate = studio.publish("Phone", labels, size=(1024, 768))
    wide, high = size
    page = studio.enter("Ada", **PHONE | {"viewport": {"width": wide, "height": high}})
    shown(page, "Phone")
    scrolls = "() => [document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    assert page.evaluate(scrolls) == [wide, high]
    stage = page.locator("#ig-stage").bounding_box()
    assert stage is not None
    assert stage["height"] > high / (2 if len(labels) == 2 else 4)
    settled(page)
    last = page.locator(f"#ig-route-{len(labels)}")
    last.scroll_into_view_if_needed()
    box = last.bounding_box()
    assert box is not None
    assert box["height"] >= 44
    assert box["y"] > high / 2
    assert box["x"] + box["width"] <= wide
    assert box["y"] + box["height"] <= high
    last.tap()
    status(page, "recorded for Phone")
    decision = studio.bus.get(gate).decision
    assert decision is not None
    assert decision.route == len(labels)


@pytest.mark.parametrize("wide", [390, 320])
def test_many_long_labels_can_be_told_apart(studio: Studio, wide: int) -> None:
    """Ten that differ only at their end are read to the end, each beside its number."""
    labels = tuple(f"Send it back to the retoucher, variant {letter}" for letter in "abcdefghij")
    studio.publish("Phone", labels, size=(1024, 768))
    page = studio.enter("Ada", **PHONE | {"viewport": {"width": wide, "height": 844}})
    shown(page, "Phone")
    last = page.locator("#ig-route-10")
    expect(last).to_have_attribute("title", labels[9])
    expect(last).to_have_text(f"10 · {labels[9]}")
    lines, hidden = last.evaluate("""(button) => {
        const span = button.firstElementChild;
        const range = document.createRange();
        range.setStart(span.firstChild, 0);
        range.setEnd(span.firstChild, "10 · Send".length);
        return [new Set([...range.getClientRects()].map((r) => r.top)).size,
          span.scrollHeight > span.clientHeight + 1];
    }""")
    assert (lines, hidden) == (1, False)


def test_a_sentence_leaves_the_image_in_sight(studio: Studio) -> None:
    """Over it a long title is cut short."""
    title = "W" * 200
    studio.publish(title, ("k" * 90, "fix"))
    studio.publish("Next")
    page = studio.enter("Ada")
    shown(page, title)
    settled(page)
    page.tap("#ig-route-1")
    status(page, f"“{'k' * 27}…” recorded for {'W' * 27}…")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system(studio: Studio, scheme: str) -> None:
    """Text stands out from the page in both schemes."""
    studio.publish("Scheme")
    page = studio.enter("Ada", color_scheme=scheme)
    shown(page, "Scheme")

    def brightness(selector: str, style: str) -> float:
        colour = page.eval_on_selector(selector, f"(e) => getComputedStyle(e).{style}")
        return sum(float(part) for part in re.findall(r"[\d.]+", colour)[:3]) / 3

    text, ground = brightness("#ig-title", "color"), brightness("#ig-head", "backgroundColor")
    assert abs(text - ground) > 120
    assert (text < ground) == (scheme == "light")


def test_the_page_keeps_to_its_own_rules(studio: Studio) -> None:
    """Nothing is asked of another server, and nothing the page does breaks its own policy."""
    studio.publish("Closed", batch=2)
    page = studio.tab(**PHONE)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    studio.enter("Ada", page)
    shown(page, "Closed")
    page.tap("#ig-past-open")
    page.tap("#ig-past-close")
    page.tap("#ig-mask-edit")
    expect(page.locator("#ig-mask-save")).to_be_enabled()
    page.tap("#ig-mask-cancel")
    assert [url for url in asked if not url.startswith((studio.door.url, "blob:", "data:"))] == []
    assert said == []


def test_an_open_empty_page_shows_what_comes(studio: Studio) -> None:
    """It says that nothing waits; a gate appears by itself, with the time that is left for it."""
    page = studio.enter("Ada")
    expect(page.locator("#ig-empty")).to_contain_text("Nothing waits for you")
    expect(page.locator("#ig-dock")).to_be_hidden()
    gate = studio.publish("Fresh", seconds=100)
    shown(page, "Fresh")
    expect(page.locator("#ig-clock")).to_contain_text("to decide")
    assert page.title() == "(1) Image Gate"
    studio.bus.decide(gate, 1, by="Ben")
    expect(page.locator("#ig-empty")).to_be_visible()
    assert page.title() == "Image Gate"


def test_older_decisions_are_read_when_asked_for(studio: Studio) -> None:
    """The sheet begins with the newest thirty, and goes on as far as there are any."""
    link, _ = studio.links.create("Earlier", reach="network")
    for i in range(33):
        studio.bus.decide(studio.publish(f"Gate {i}", size=(8, 6)), 1, by="Earlier", link=link.id)
    page = studio.enter("Ada", may="look")
    page.tap("#ig-past-open")
    rows = page.locator("#ig-history li")
    expect(rows).to_have_count(30)
    page.tap("#ig-past-more")
    expect(rows).to_have_count(33)
    expect(rows.last).to_contain_text("Gate 0")
    expect(page.locator("#ig-past-more")).to_be_hidden()
