"""The panel over a store, in a real Chromium: parked gates, what becomes of them, who shares it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Locator, Page, Route, expect

from imagegate.comfy.parked.run import files_of
from imagegate.core.model import Gate, Outcome, State
from imagegate.core.settings import Settings
from imagegate.gate_bus import GateBus
from imagegate.pictures.tensors import TensorPictures
from imagegate.storage.queries.runs import Claim, Parked
from tests.support.browser import PanelServer, chromium, open_history, pages
from tests.support.stored import PATIENCE, bus_over, storage_of, store_of

DAY = 24 * 3600
PROMPT = {"2": {"class_type": "ImageGate", "inputs": {}}}
MESSAGE = "CheckpointLoaderSimple 4: Value not in list: ckpt_name: 'gone.safetensors' not in "


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GateBus[Any]]:
    bus = worker(tmp_path, "desk")
    yield bus
    storage_of(bus).close()


@pytest.fixture
def server(store: GateBus[Any]) -> Iterator[PanelServer]:
    server = PanelServer(store, records=storage_of(store))
    yield server
    server.stop()


@pytest.fixture
def new_page(browser: Browser, server: PanelServer) -> Iterator[Callable[..., Page]]:
    with pages(browser, server.url) as open_page:
        yield open_page


def worker(place: Path, name: str, kind: str = "comfyui") -> GateBus[Any]:
    """A process that shares the store in this place."""
    settings = Settings(f"sqlite:///{place / 'gates.sqlite'}", str(place / "pictures"), name)
    bus = bus_over(settings, kind, ["ImageGate"])
    assert store_of(bus)  # it has entered
    return bus


def a_gate(title: str, days: float = 0, **more: Any) -> Gate:
    return Gate(
        title=title, labels=("keep", "fix"), width=96, height=64, node_id="7",
        created_at=time.time() - days * DAY, **more,
    )  # fmt: skip


def park(bus: GateBus[Any], title: str = "Portrait", **more: Any) -> Gate:
    """A parked gate over an image that is different for each title."""
    gate = a_gate(title, **more)
    generator = torch.Generator().manual_seed(sum(title.encode()))
    image = torch.rand(1, gate.height, gate.width, 3, generator=generator)
    parked = Parked(f"run of {title}", "2", PROMPT, {})
    return storage_of(bus).parking.park(gate, files_of(image, None), parked, f"like {title}").gate


def park_in_list(bus: GateBus[Any], number: int, of: int, **more: Any) -> Gate:
    """A parked gate of a list that goes on together."""
    gate = a_gate(f"Image {number}", together=of, prompt_id="a prompt", **more)
    image = torch.rand(
        1, gate.height, gate.width, 3, generator=torch.Generator().manual_seed(number)
    )
    parked = Parked("a run", "2", PROMPT, {}, number, of, tuple(range(of)), together=True)
    return storage_of(bus).parking.park(gate, files_of(image, None), parked).gate


def take_up(bus: GateBus[Any]) -> Claim:
    """Play the worker that goes on with what was decided first."""
    claim = storage_of(bus).claims.take()
    assert claim is not None
    return claim


def status(page: Page, text: str | re.Pattern[str]) -> None:
    expect(page.locator("#ig-status")).to_contain_text(text)


def shown(page: Page, title: str) -> None:
    expect(page.locator("#ig-title")).to_have_text(title)
    page.wait_for_function(
        "() => { const i = document.querySelector('#ig-image');"
        " return i.complete && i.naturalWidth > 0 }"
    )


def press(page: Page, route: int) -> None:
    """Decide what is on show, once a press counts that is no double click."""
    expect(page.locator("#ig-pause")).to_be_hidden()
    page.evaluate("() => new Promise((done) => setTimeout(done, 300))")
    page.keyboard.press(str(route))


def row(page: Page, gate: Gate) -> Locator:
    return page.locator(f'#ig-history li[data-gate="{gate.id}"]')


def lines(page: Page, gate: Gate) -> Locator:
    return row(page, gate).locator(".ig-lines [role=listitem]")


def test_a_parked_gate_looks_like_one_that_waits(
    store: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """It is shown with image and routes, marked as parked, with the days that it has waited."""
    park(store, days=3.2)
    page = new_page()
    shown(page, "Portrait")
    expect(page.locator("#ig-parked")).to_have_text("parked")
    expect(page.locator("#ig-clock")).to_have_text("waiting 3 days")
    expect(page.locator("#ig-route-2")).to_have_text("2 · fix")
    expect(page.locator("#ig-notice")).to_be_hidden()
    fresh = store.publish(a_gate("Fresh"), TensorPictures(torch.zeros(1, 64, 96, 3)))
    expect(page.locator("#ig-pending")).to_have_text("2 waiting")
    page.keyboard.press("n")
    shown(page, "Fresh")
    expect(page.locator("#ig-parked")).to_be_hidden()
    expect(page.locator("#ig-clock")).to_contain_text(re.compile(r"waiting \d+:\d\d"))
    fresh.withdraw("over")


def test_the_history_follows_a_parked_gate(
    store: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """After the click the page says that it goes on by itself; its row then follows: soon, where,
    done. Nobody is said to have chosen, and what is on show stays.
    """
    gate, other = park(store), park(store, "Other")
    page = new_page()
    shown(page, "Portrait")
    page.fill("#ig-name", "Ada")
    page.locator("#ig-name").blur()
    press(page, 1)
    recorded = "“keep” recorded for Portrait; it goes on by itself."
    status(page, recorded)
    shown(page, "Other")
    standing = row(page, gate).locator(".ig-standing")
    expect(standing).to_have_text("goes on soon")
    button = row(page, gate).get_by_role("button", name="Undo")
    expect(button).to_be_visible()
    expect(page.locator("#ig-undo")).to_be_enabled()
    store.decide(other.id, 2)
    expect(page.locator("#ig-history li")).to_have_count(2)
    claim = take_up(store)
    expect(standing).to_have_text("going on at desk")
    expect(button).to_have_count(0)
    # Its row stays where it was: below what was decided after it.
    expect(page.locator("#ig-history li").last).to_have_attribute("data-gate", gate.id)
    storage_of(store).claims.finish(claim)
    expect(standing).to_have_text("went on")
    expect(page.locator("#ig-history li").last).to_have_attribute("data-gate", gate.id)
    expect(page.locator("#ig-status")).to_have_text("Other: somebody chose “fix”.")


def test_news_of_what_goes_on_leave_the_page_alone(
    store: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """While gates of others are taken up and go on, gate, note, status and focus stay."""
    done = [park(store, f"Done {i}") for i in range(3)]
    park(store, "Shown")
    for gate in done:
        store.decide(gate.id, 1)
    page = new_page()
    shown(page, "Shown")
    page.fill("#ig-note", "in the middle of a")
    expect(row(page, done[2])).to_be_visible()
    row(page, done[2]).get_by_role("button", name="Undo").focus()
    for gate in done[:2]:
        storage_of(store).claims.finish(take_up(store))
        expect(row(page, gate)).to_contain_text("went on")
    shown(page, "Shown")
    expect(row(page, done[2]).get_by_role("button", name="Undo")).to_be_focused()
    expect(page.locator("#ig-note")).to_have_value("in the middle of a")
    expect(page.locator("#ig-status")).to_be_empty()
    titles = page.locator("#ig-history .ig-what")
    expect(titles).to_have_text(["Done 2", "Done 1", "Done 0"])


def test_a_gate_that_was_put_back_says_why(
    store: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """It comes back to the page that decided it, out of the history, with ComfyUI's message; a
    long one scrolls and leaves the image its place. It can be decided again.
    """
    gate, _ = park(store), park(store, "Other")
    page = new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    shown(page, "Portrait")
    press(page, 1)
    status(page, "recorded for Portrait")
    shown(page, "Other")
    message = MESSAGE + "<b>['" + "', '".join(f"model_{i}" for i in range(200)) + "']"
    storage_of(store).claims.put_back(take_up(store), message)
    status(page, "Portrait could not go on: it waits again.")
    expect(page.locator("#ig-history li")).to_have_count(0)
    expect(page.locator("#ig-notice")).to_be_hidden()  # that is about another gate
    shown(page, "Other")
    page.keyboard.press("n")
    shown(page, "Portrait")
    notice = page.locator("#ig-notice")
    expect(notice).to_contain_text("It could not go on. Decide again to try once more.")
    expect(notice.locator("pre")).to_have_text(message)
    box, stage = notice.bounding_box(), page.locator("#ig-stage").bounding_box()
    assert box is not None
    assert stage is not None
    assert box["height"] < 160
    assert box["y"] + box["height"] <= stage["y"]
    assert stage["height"] > 844 / 3
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    press(page, 2)
    status(page, "recorded for Portrait")
    shown(page, "Other")
    expect(notice).to_be_hidden()
    assert take_up(store).attempt == 2
    open_history(page)
    expect(row(page, gate)).to_contain_text("going on at desk, attempt 2")


def test_a_gate_that_comes_back_before_its_answer_is_confirmed(
    store: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """However late the server's word about a click arrives, what was put back meanwhile waits."""
    park(store)
    page = new_page()
    shown(page, "Portrait")
    held: list[Callable[[], None]] = []

    def late(route: Route) -> None:
        answer = route.fetch()
        held.append(lambda: route.fulfill(response=answer))

    page.route("**/decision", late)
    press(page, 1)
    expect(page.locator("#ig-history li")).to_have_count(1)
    storage_of(store).claims.put_back(take_up(store), "out of memory")
    expect(page.locator("#ig-pending")).to_have_text("1 waiting")
    held[0]()
    shown(page, "Portrait")
    expect(page.locator("#ig-notice pre")).to_have_text("out of memory")


def test_one_put_back_while_nobody_looked(
    store: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """A page that is opened, or reloaded, afterwards shows the message too."""
    gate = park(store)
    store.decide(gate.id, 1)
    storage_of(store).claims.put_back(take_up(store), "out of memory")
    page = new_page("?node=7&embed=1")
    for _ in range(2):
        shown(page, "Portrait")
        expect(page.locator("#ig-notice pre")).to_have_text("out of memory")
        page.reload()


def test_stop_ends_a_parked_gate_only(store: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """Its prompt has ended long ago, so the question is another one than for one that waits."""
    gate, other = park(store), park(store, "Other")
    page = new_page()
    shown(page, "Portrait")
    page.click("#ig-stop")
    status(page, "Stop ends this gate only. Click again to stop.")
    page.evaluate("() => new Promise((done) => setTimeout(done, 300))")
    page.click("#ig-stop")
    status(page, "Stop recorded for Portrait.")
    shown(page, "Other")
    assert store.get(gate.id).state is State.STOPPED
    assert store.get(other.id).state is State.PARKED
    expect(row(page, gate).locator(".ig-answer")).to_have_text("Stop")
    expect(row(page, gate).locator(".ig-standing")).to_be_empty()
    ticket = store.publish(a_gate("Waiting"), TensorPictures(torch.zeros(1, 64, 96, 3)))
    expect(page.locator("#ig-pending")).to_have_text("2 waiting")
    page.keyboard.press("n")
    shown(page, "Waiting")
    page.click("#ig-stop")
    status(page, "Stop ends the whole prompt")
    ticket.withdraw("over")


def test_undo_until_somebody_goes_on(store: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """U takes a parked gate's answer back; once a worker has it, the page says which one."""
    gate = park(store)
    page = new_page()
    shown(page, "Portrait")
    press(page, 1)
    status(page, "recorded for Portrait")
    page.keyboard.press("u")
    shown(page, "Portrait")
    status(page, "Taken back: Portrait waits again.")
    assert store.get(gate.id).state is State.PARKED
    press(page, 2)
    status(page, "“fix” recorded for Portrait")
    claim = take_up(store)
    expect(row(page, gate)).to_contain_text("going on at desk")
    page.click("#ig-undo")
    status(page, "Not undone: too late: desk has taken 'Portrait' up to go on with it")
    storage_of(store).claims.finish(claim)
    expect(row(page, gate)).to_contain_text("went on")
    page.click("#ig-undo")
    status(page, "Not undone: too late: 'Portrait' has gone on with this decision")


def test_undo_is_about_one_s_own_answers(
    store: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """The key does not take back what somebody else decided; that person's row in the history can
    be taken back by its own button.
    """
    gate = park(store)
    park(store, "Other")
    store.decide(gate.id, 1, by="Ben")
    page = new_page()
    shown(page, "Other")
    page.fill("#ig-name", "Ada")
    page.locator("#ig-name").blur()
    expect(row(page, gate)).to_contain_text("Ben")
    page.keyboard.press("u")
    status(page, "Ben chose “keep” for Portrait; the history can take it back.")
    assert store.get(gate.id).state is State.DECIDED
    row(page, gate).get_by_role("button", name="Undo").click()
    shown(page, "Portrait")
    assert store.get(gate.id).state is State.PARKED


def test_the_history_of_one_gate(store: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """A click on a row shows all that happened, each attempt with its message; it follows what
    happens next, and what people wrote is text.
    """
    nasty = "<img src=x onerror='window.pwned=1'>"
    gate = park(store)
    store.decide(gate.id, 1, by="Ada", note=nasty)
    storage_of(store).claims.put_back(take_up(store), f"{MESSAGE}{nasty}")
    store.decide(gate.id, 2, by="Ben")
    page = new_page()
    expect(lines(page, gate)).to_have_count(0)
    row(page, gate).locator(".ig-what").click()
    expect(lines(page, gate)).to_have_count(5)
    said = [
        ("asked at desk", ""),
        ("Ada chose “keep”", nasty),
        ("taken up by desk", ""),
        ("could not go on: it waits again", f"{MESSAGE}{nasty}"),
        ("Ben chose “fix”", ""),
    ]
    for line, (what, why) in zip(lines(page, gate).all(), said, strict=True):
        expect(line).to_contain_text(what)
        expect(line).to_contain_text(why)
        expect(line.locator("time")).to_contain_text(re.compile(r"\d:\d\d"))
    expect(row(page, gate).locator(".ig-seen")).to_be_visible()
    storage_of(store).claims.finish(take_up(store), "nothing hangs on this route")
    expect(lines(page, gate)).to_have_count(7)
    expect(lines(page, gate).nth(5)).to_contain_text("taken up by desk, attempt 2")
    expect(lines(page, gate).nth(6)).to_contain_text("nothing hangs on this route")
    assert page.evaluate("window.pwned") is None
    more = row(page, gate).locator(".ig-more")
    expect(more).to_have_attribute("aria-expanded", "true")
    more.press("Enter")
    expect(lines(page, gate)).to_have_count(0)


def test_lines_that_cannot_be_read(store: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """The row says why, and can be opened again."""
    gate = park(store)
    store.decide(gate.id, 1)
    page = new_page()
    error = {"error": "the store is away"}
    page.route("**/history", lambda route: route.fulfill(status=503, json=error), times=1)
    row(page, gate).locator(".ig-what").click()
    expect(row(page, gate)).to_contain_text("Not read: the store is away")
    row(page, gate).locator(".ig-what").click()
    row(page, gate).locator(".ig-what").click()
    expect(lines(page, gate)).to_have_count(2)


def test_older_entries_have_a_date(store: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """What was decided today shows its time, what was decided before its day as well."""
    gate = park(store)
    store.decide(gate.id, 1)
    page = new_page(locale="en-GB", timezone_id="UTC")
    expect(row(page, gate).locator("small")).to_have_text(re.compile(r"^\d\d:\d\d$"))
    page.clock.set_fixed_time(time.time() + 2 * DAY)
    page.reload()
    expect(row(page, gate).locator("small")).to_have_text(re.compile(r"^\d+ \w{3,4}, \d\d:\d\d$"))
    page.clock.set_fixed_time(time.time() + 400 * DAY)
    page.reload()
    expect(row(page, gate).locator("small")).to_contain_text(re.compile(r" 20\d\d, "))


def test_an_answer_used_again_says_so_and_can_be_asked_again(
    store: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """The row of a reused answer tells why nobody was asked; one click ends that."""
    gate = park(store)
    store.decide(gate.id, 2, by="Ada")
    page = new_page()
    expect(row(page, gate).get_by_role("button", name="Ask again")).to_have_count(0)
    again = a_gate("Portrait")
    answer = storage_of(store).parking.reuse(
        again, "like Portrait", files_of(torch.zeros(1, 64, 96, 3), None)
    )
    assert answer is not None
    expect(row(page, again)).to_contain_text("answered before: the decision was used again")
    row(page, again).get_by_role("button", name="Ask again").click()
    status(page, "Asked again from now on: images like Portrait.")
    expect(page.get_by_role("button", name="Ask again")).to_have_count(0)
    assert storage_of(store).parking.reuse(a_gate("Portrait"), "like Portrait", []) is None
    row(page, again).locator(".ig-what").click()
    expect(lines(page, again).last).to_contain_text("not to be used again")


def test_what_waits_comes_before_what_is_parked(
    store: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """A gate that holds up a prompt is shown first, or next; what is on show stays."""
    for i in range(3):
        park(store, f"Parked {i}")
    page = new_page()
    shown(page, "Parked 0")
    first = store.publish(a_gate("First"), TensorPictures(torch.zeros(1, 64, 96, 3)))
    expect(page.locator("#ig-pending")).to_have_text("4 waiting")
    shown(page, "Parked 0")
    press(page, 1)
    shown(page, "First")
    page.reload()
    shown(page, "First")
    press(page, 1)
    assert first.wait(PATIENCE).decision.route == 1
    shown(page, "Parked 1")


def test_a_node_s_panel_leaves_other_workflows_out(
    store: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """Ids of nodes are small numbers: with ?workflow=ID what another workflow has parked at a node
    of this id is neither shown nor counted.
    """
    park(store, "Elsewhere", workflow_id="there")
    park(store, "Unknown")
    park(store, "Mine", workflow_id="here")
    page = new_page("?node=7&workflow=here&embed=1")
    shown(page, "Mine")
    expect(page.locator("#ig-pending")).to_have_text("1 waiting")
    park(store, "Elsewhere too", workflow_id="there")
    park(store, "Mine too", workflow_id="here")
    expect(page.locator("#ig-pending")).to_have_text("2 waiting")
    press(page, 1)
    shown(page, "Mine too")
    expect(page.locator("#ig-store")).to_be_hidden()


def test_the_store_and_its_workers(
    store: GateBus[Any], tmp_path: Path, new_page: Callable[..., Page]
) -> None:
    """At the end of the page: how much room the pictures take and for how long, who is alive, and
    who was last seen when. With several workers a gate says which it came from.
    """
    there = worker(tmp_path, "attic")
    gate = park(there)
    page = new_page()
    shown(page, "Portrait")
    strip = page.locator("#ig-store")
    expect(strip).to_contain_text(re.compile(r"Pictures: [\d.]+ kB"))
    expect(strip).to_contain_text("those of finished gates are kept 7 days")
    expect(strip.locator("li")).to_have_text(["atticalive", "deskalive"])
    expect(page.locator("#ig-worker")).to_have_text("from attic")
    storage_of(there).close()
    page.clock.set_fixed_time(time.time())  # from here on the page's clock is the test's
    page.reload()
    expect(strip.locator("li.ig-gone")).to_contain_text("atticlast seen")
    expect(page.locator("#ig-worker")).to_have_text("from attic")
    assert store.decide(gate.id, 1).outcome is Outcome.WON
    expect(row(page, gate)).to_contain_text("goes on soon")


def test_the_status_is_asked_now_and_then(
    store: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """An open page looks at the store again every 30 s; while the store fails it shows what it
    knew.
    """
    park(store)
    page = new_page()
    strip = page.locator("#ig-store")
    expect(strip.locator("li")).to_have_count(1)
    told = {"store": "sqlite", "workers": [], "bytes": 1_234_000_000, "keep_days": 0.5}
    page.clock.install()
    page.reload()
    expect(strip.locator("li")).to_have_count(1)
    page.route("**/api/status", lambda route: route.fulfill(json=told))
    page.clock.run_for(31_000)
    expect(strip).to_contain_text("Pictures: 1.2 GB; those of finished gates are kept 12 hours")
    page.unroute("**/api/status")
    page.route("**/api/status", lambda route: route.fulfill(status=503, json={"error": "away"}))
    with page.expect_request("**/api/status"):
        page.clock.run_for(31_000)
    expect(strip).to_contain_text("1.2 GB")


def test_an_answer_without_a_worker(tmp_path: Path, browser: Browser) -> None:
    """A panel whose ComfyUIs are all down takes the answer, and says that it goes on later."""
    there = worker(tmp_path, "attic")
    gate = park(there)
    storage_of(there).close()
    panel = worker(tmp_path, "hall", "panel")
    server = PanelServer(panel, records=storage_of(panel))
    page = browser.new_page()
    try:
        page.goto(server.url)
        shown(page, "Portrait")
        expect(page.locator("#ig-store li.ig-alive")).to_have_text("panel hallalive")
        press(page, 1)
        expect(row(page, gate)).to_contain_text("goes on when a ComfyUI runs again")
    finally:
        page.close()
        server.stop()
        storage_of(panel).close()


@pytest.mark.parametrize("passing", [True, False], ids=["503", "507"])
def test_a_store_that_fails(
    store: GateBus[Any], new_page: Callable[..., Page], passing: bool
) -> None:
    """A click that the store cannot take for the moment is sent again by itself; one that it
    cannot take at all brings the gate back, with the server's words.
    """
    gate = park(store)
    park(store, "Other")
    page = new_page()
    shown(page, "Portrait")
    error = {"error": "the store cannot be used: the disk is full"}
    code = 503 if passing else 507
    page.route("**/decision", lambda route: route.fulfill(status=code, json=error), times=1)
    press(page, 1)
    if passing:
        status(page, "recorded for Portrait; it goes on by itself")
        shown(page, "Other")
        assert store.get(gate.id).state is State.DECIDED
    else:
        status(page, "Not recorded: the store cannot be used: the disk is full")
        shown(page, "Portrait")
        assert store.get(gate.id).state is State.PARKED


def test_another_process_s_changes_reach_the_page(
    store: GateBus[Any], tmp_path: Path, new_page: Callable[..., Page]
) -> None:
    """What a worker elsewhere parks, takes up and puts back is seen without a reload."""
    there = worker(tmp_path, "attic")
    try:
        page = new_page()
        expect(page.locator("#ig-empty")).to_be_visible()
        gate = park(there)
        shown(page, "Portrait")
        press(page, 1)
        status(page, "recorded for Portrait")
        claim = _until(storage_of(there).claims.take)
        expect(row(page, gate)).to_contain_text("going on at attic")
        storage_of(there).claims.put_back(claim, "out of memory")
        shown(page, "Portrait")
        expect(page.locator("#ig-notice pre")).to_have_text("out of memory")
    finally:
        storage_of(there).close()


def test_a_list_that_goes_on_together_counts_its_answers(
    store: GateBus[Any], tmp_path: Path, new_page: Callable[..., Page]
) -> None:
    """While one image of the list is shown, the page follows how many of the others are answered,
    here or in another process, and taken back; what will not run stands below that, and
    nothing there says that it could not go on.
    """
    there = worker(tmp_path, "attic")
    try:
        warning = "'Rebatch Images' (4) takes the whole list"
        gates = [
            park_in_list(there if number == 2 else store, number, of=4, warning=warning)
            for number in range(4)
        ]
        page = new_page()
        shown(page, "Image 0")
        notice = page.locator("#ig-notice pre")
        expect(page.locator("#ig-notice p")).to_be_hidden()
        goes_on = "of 4 answered; the prompt goes on when all are"
        expect(notice).to_have_text(f"0 {goes_on}\n{warning}")
        store.decide(gates[3].id, 1)
        expect(notice).to_have_text(f"1 {goes_on}\n{warning}")
        there.stop(gates[2].id)
        expect(notice).to_have_text(f"2 {goes_on}\n{warning}")
        store.undo(gates[3].id)
        expect(notice).to_have_text(f"1 {goes_on}\n{warning}")
        press(page, 1)
        shown(page, "Image 1")
        expect(notice).to_have_text(f"2 {goes_on}\n{warning}")
    finally:
        storage_of(there).close()


def test_the_folder_s_panel_has_no_store(browser: Browser, bus: Any) -> None:
    """Without a store there is no strip, no rows to open, and no worker."""
    gate: Gate = a_gate("Plain")
    ticket = bus.publish(gate, TensorPictures(torch.zeros(1, 64, 96, 3)))
    bus.decide(gate.id, 1)
    assert ticket.wait(PATIENCE)
    server = PanelServer(bus)
    page = browser.new_page()
    try:
        with page.expect_response("**/api/status") as asked:
            page.goto(server.url)
        assert asked.value.status == 404
        expect(row(page, gate)).to_be_visible()
        expect(page.locator("#ig-store")).to_be_hidden()
        expect(row(page, gate).locator(".ig-more")).to_be_hidden()
    finally:
        page.close()
        server.stop()


def _until(true: Callable[[], Any]) -> Any:
    """The first result that is one."""
    again, deadline = threading.Event(), time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < deadline, "it never came true"
        again.wait(0.05)
    return found


def test_who_came_through_a_link(store: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """The history names the link beside the person, and so does the gate's own line."""
    gate = park(store)
    store.decide(gate.id, 1, by="Ada", link="3fK2x9")
    page = new_page()
    expect(row(page, gate)).to_contain_text("Ada · link 3fK2x9 · ")
    row(page, gate).locator(".ig-more").click()
    expect(lines(page, gate).filter(has_text="Ada chose “keep” · link 3fK2x9")).to_have_count(1)
