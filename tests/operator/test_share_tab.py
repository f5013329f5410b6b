"""The Share tab of the operator's panel, in a real Chromium over the real links."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import segno
import torch
from playwright.sync_api import Browser, Locator, Page, expect

from imagegate.core.model import Gate
from imagegate.gate_bus import GateBus
from imagegate.pictures.tensors import TensorPictures
from imagegate.share.share import Share
from imagegate.share.tunnel import Standing
from imagegate.storage.links import LinkStore
from imagegate.storage.sql.database import Database
from tests.support.browser import WAIT, PanelServer, chromium, pages
from tests.support.stored import PATIENCE

TUNNEL = "https://1a2b3c.gradio.live/imagegate"
LAN = r"http://192\.168\.1\.7:\d+/imagegate"
REFUSED = "The tunnel could not be opened: this machine does not reach api.gradio.app"
SCRIPT = "<img src=x onerror=window.broken=1>"
OPEN = Standing(url="https://1a2b3c.gradio.live")


class Tunnel:
    """In place of a tunnel: says what the test wants it to."""

    def __init__(self) -> None:
        self.standing = OPEN
        self._asked = threading.Event()

    def to(self, _: int, changed: Callable[[], None]) -> Any:
        self._changed = changed
        self._asked.set()
        return self

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def becomes(self, standing: Standing) -> None:
        assert self._asked.wait(PATIENCE), "nobody asked for a tunnel"
        self.standing = standing
        self._changed()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def tunnel() -> Tunnel:
    return Tunnel()


@pytest.fixture
def share(bus: GateBus[Any], tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Share]:
    monkeypatch.setattr("imagegate.share.share.address_in_network", lambda: "192.168.1.7")
    links = LinkStore(Database("sqlite://", "folder"))
    share = Share(bus, lambda: links, port=0, tunnel=tunnel.to)
    yield share
    share.close()


@pytest.fixture
def new_page(browser: Browser, bus: GateBus[Any], share: Share) -> Iterator[Callable[..., Page]]:
    """Opens the sheet in tabs of their own."""
    server = PanelServer(bus, share=share)

    def open_sheet(**options: Any) -> Page:
        page = open_page(**options)
        page.click("#ig-share")
        return page

    with pages(browser, server.url) as open_page:
        yield open_sheet
    server.stop()


def publish(bus: GateBus[Any], title: str, **more: Any) -> Gate:
    gate = Gate(labels=("keep", "fix"), width=8, height=8, title=title, **more)
    return bus.publish(gate, TensorPictures(torch.zeros(1, 8, 8, 3))).gate


def make(page: Page, name: str = "Ada", **fields: str) -> None:
    page.fill("#ig-link-name", name)
    for field, choice in fields.items():
        page.select_option(f"#ig-link-{field}", label=choice)
    page.click("#ig-link-make")


def address(page: Page, start: str = TUNNEL) -> str:
    """The address that the page shows, once it is there."""
    field = page.locator("#ig-made-url")
    expect(field).to_have_value(re.compile(rf"^{start}/s/[\w-]{{43}}$"), timeout=WAIT)
    return field.input_value()


def row(page: Page, name: str) -> Locator:
    return page.locator("#ig-links li", has_text=name)


def links(page: Page) -> list[dict[str, Any]]:
    """What the server knows, newest first."""
    known: list[dict[str, Any]] = page.evaluate(
        "fetch('api/links').then((r) => r.json()).then((r) => r.links)"
    )
    return known


def qr(text: str) -> str:
    """The picture, as the library draws it."""
    out = io.BytesIO()
    segno.make_qr(text, error="m").save(out, kind="svg")
    return out.getvalue().decode()


def shape(svg: str) -> str:
    """The dark squares of it, which are stroked."""
    found = re.search(r'class="qrline"[^>]* d="([^"]+)"', svg)
    assert found, svg
    return found[1]


def test_an_address_to_copy_and_to_scan(new_page: Callable[..., Page]) -> None:
    """A link is made with a name and two clicks; its address is copied, and is in the QR code."""
    page = new_page(permissions=["clipboard-read", "clipboard-write"])
    make(page)
    url = address(page)
    page.click("#ig-made-copy")
    expect(page.locator("#ig-made-copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == url
    expect(page.locator("#ig-made-qr")).to_be_visible()
    drawn = page.evaluate("fetch(document.querySelector('#ig-made-qr').src).then((r) => r.text())")
    assert shape(drawn) == shape(qr(url))
    (link,) = links(page)
    assert [link[key] for key in ("name", "may", "scope", "once", "reach", "passphrase")] == [
        "Ada", "mask", {"kind": "all"}, True, "internet", False,
    ]  # fmt: skip
    assert link["expires_at"] - link["created_at"] == pytest.approx(24 * 3600)
    expect(row(page, "Ada")).to_contain_text("decides and paints masks · all gates")
    expect(row(page, "Ada")).to_contain_text("expires in 24 hours · not opened yet")
    expect(page.locator("#ig-share-open")).to_have_text("Share · 1")


def test_copying_where_the_clipboard_is_closed(new_page: Callable[..., Page]) -> None:
    """Over plain HTTP a page has no clipboard of its own; the old way copies too."""
    page = new_page(
        script="Object.defineProperty(navigator, 'clipboard', { value: undefined });"
        "document.addEventListener('copy', ({ target: field }) => (window.copied ="
        " field.value.slice(field.selectionStart, field.selectionEnd)))"
    )
    make(page)
    url = address(page)
    page.click("#ig-made-copy")
    expect(page.locator("#ig-made-copy")).to_have_text("Copied")
    assert page.evaluate("window.copied") == url


def test_what_a_link_is_for_is_chosen(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """Right, gates, time, reach, passphrase and browsers come to the server as they were set."""
    front = publish(bus, "Poster", workflow_id="one")
    publish(bus, "Cover", workflow_id="one")
    publish(bus, "Cover", workflow_id="two")
    page = new_page()
    page.fill("#ig-link-passphrase", "teapot")
    page.uncheck("#ig-link-once")
    make(page, may="Look only", scope="Gates titled “Cover”, workflow two", hours="7 days",
         reach="In this network")  # fmt: skip
    address(page, LAN)
    page.click("#ig-made-done")
    make(page, "Ben", may="Decide", scope="Only “Poster”, in front now")
    address(page)
    ben, ada = links(page)
    assert (ada["may"], ada["once"], ada["reach"]) == ("look", False, "network")
    assert ada["scope"] == {"kind": "title", "title": "Cover", "workflow": "two"}
    assert ada["passphrase"] is True
    assert ada["expires_at"] - ada["created_at"] == pytest.approx(7 * 24 * 3600)
    assert (ben["may"], ben["scope"]) == ("decide", {"kind": "gate", "gate": front.id})
    expect(row(page, "Ada")).to_contain_text("looks only · gates titled “Cover” · in this network")
    expect(row(page, "Ben")).to_contain_text("decides · only “Poster” · over the internet")


def test_the_address_comes_when_the_tunnel_is_open(
    new_page: Callable[..., Page], tunnel: Tunnel
) -> None:
    """While the tunnel opens the page says so; the address is filled in by itself."""
    tunnel.standing = Standing(trying=True)
    page = new_page()
    make(page)
    expect(page.locator("#ig-made-busy")).to_have_text("Opening the tunnel …")
    expect(page.locator("#ig-made-url")).to_be_hidden()
    tunnel.becomes(OPEN)
    address(page)
    expect(page.locator("#ig-made-busy")).to_be_hidden()
    expect(page.locator("#ig-doors")).to_have_text("Open over the internet at 1a2b3c.gradio.live")
    tunnel.becomes(Standing(problem=REFUSED, trying=True))
    address(page, LAN)
    expect(page.locator("#ig-doors")).to_have_text(f"{REFUSED}.")


def test_without_a_tunnel_there_is_the_network(
    new_page: Callable[..., Page], tunnel: Tunnel
) -> None:
    """What is wrong is one sentence, with the address in this network."""
    tunnel.standing = Standing(problem=REFUSED)
    page = new_page()
    make(page)
    address(page, LAN)
    expect(page.locator("#ig-made-problem")).to_have_text(
        f"{REFUSED}. In this network the address below works."
    )
    expect(page.locator("#ig-made-qr")).to_be_visible()


def test_revoking_asks_once(new_page: Callable[..., Page]) -> None:
    """The first click asks, the second ends the link; it and its address go at once."""
    page = new_page()
    make(page)
    address(page)
    button = row(page, "Ada").locator(".ig-revoke")
    button.dblclick()
    expect(button).to_have_text("Really?")
    assert links(page)[0]["state"] == "live"
    page.evaluate("() => new Promise((done) => setTimeout(done, 300))")
    button.click()
    expect(row(page, "Ada")).to_have_count(0)
    expect(page.locator("#ig-made")).to_be_hidden()
    expect(page.locator("#ig-share-open")).to_have_text("Share")
    assert links(page)[0]["state"] == "revoked"
    page.click("#ig-share-over summary")
    expect(page.locator("#ig-links-over li")).to_contain_text(re.compile("Ada.*revoked .* ago"))


def test_a_new_address(new_page: Callable[..., Page]) -> None:
    """A link that was lost gets another address, shown as the first one was."""
    page = new_page()
    make(page)
    first = address(page)
    page.click("#ig-made-done")
    expect(page.locator("#ig-made")).to_be_hidden()
    expect(page.locator("#ig-link")).to_be_visible()
    row(page, "Ada").locator(".ig-reissue").click()
    second = address(page)
    assert second != first
    expect(page.locator("#ig-made-qr")).to_be_visible()
    assert len(links(page)) == 1


def test_links_of_one_name_can_be_told_apart(new_page: Callable[..., Page]) -> None:
    """While there are two, each row says which it is and when it was made."""
    page = new_page()
    for name in ("Ada", "Ben", "Ada"):
        make(page, name)
        address(page)
        page.click("#ig-made-done")
    newest, _, oldest = links(page)
    for link in (newest, oldest):
        which = page.locator(f"#ig-links [data-link='{link['id']}'] small").first
        expect(which).to_contain_text(f"link {link['id']}, made ")
    expect(row(page, "Ben")).not_to_contain_text(", made ")
    page.locator(f"#ig-links [data-link='{oldest['id']}'] .ig-revoke").click()
    page.evaluate("() => new Promise((done) => setTimeout(done, 300))")
    page.locator(f"#ig-links [data-link='{oldest['id']}'] .ig-revoke").click()
    expect(page.locator("#ig-links li")).to_have_count(2)
    expect(row(page, "Ada")).not_to_contain_text(", made ")


def test_tokens_stay_in_the_page_s_memory(new_page: Callable[..., Page]) -> None:
    """Nothing that the browser keeps holds a token; a reloaded page does not know it any more."""
    page = new_page()
    make(page)
    token = address(page).rpartition("/")[2]
    kept = page.evaluate(
        "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href,"
        " history.state])"
    )
    assert token not in kept
    page.reload()
    page.click("#ig-share")
    expect(row(page, "Ada")).to_be_visible()
    assert token not in page.content()
    expect(page.locator("#ig-made-url")).to_have_value("")


def test_what_people_wrote_is_text(bus: GateBus[Any], new_page: Callable[..., Page]) -> None:
    """Script in a name or a title is read, never run."""
    publish(bus, SCRIPT)
    page = new_page()
    make(page, SCRIPT, scope=f"Only “{SCRIPT}”, in front now")
    address(page)
    expect(row(page, SCRIPT)).to_contain_text(f"only “{SCRIPT}”")
    expect(page.locator("#ig-made-title")).to_have_text(f"Link for {SCRIPT}")
    assert page.evaluate("window.broken") is None


def test_what_the_server_refuses_is_said(new_page: Callable[..., Page]) -> None:
    """The server's own sentence is shown, and what was typed stays."""
    page = new_page()
    make(page, "   ")
    expect(page.locator("#ig-share-status")).to_contain_text(
        "Not made: a link needs a person's name"
    )
    expect(page.locator("#ig-link")).to_be_visible()


def test_keys_decide_nothing_behind_the_sheet(
    bus: GateBus[Any], new_page: Callable[..., Page]
) -> None:
    """While the sheet covers the gates a digit does not answer one; Escape brings them back."""
    publish(bus, "First")
    publish(bus, "Second")
    page = new_page()
    page.click("#ig-sheet-title")
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    expect(page.locator("#ig-sheet")).to_be_hidden()
    page.keyboard.press("n")
    expect(page.locator("#ig-title")).to_have_text("Second")
    assert bus.count() == 2


def test_the_list_follows_what_a_link_is_used_for(
    bus: GateBus[Any], new_page: Callable[..., Page], browser: Browser
) -> None:
    """Where it was opened, when its person was seen and what they decided comes by itself."""
    publish(bus, "Poster")
    page = new_page()
    make(page, reach="In this network")
    url = address(page, LAN).replace("192.168.1.7", "127.0.0.1")
    with browser.new_context() as context:
        visitor = context.new_page()
        visitor.goto(url)
        visitor.click("#ig-open")
        expect(row(page, "Ada")).to_contain_text(
            "opened in 1 browser · seen just now · 0 decisions"
        )
        expect(visitor.locator("#ig-title")).to_have_text("Poster")
        visitor.evaluate("() => new Promise((done) => setTimeout(done, 300))")
        visitor.click("#ig-route-2")
        expect(page.locator("#ig-pending")).to_have_text("0 waiting")
        expect(row(page, "Ada")).to_contain_text("1 decision")
        (link,) = links(page)
        expect(page.locator("#ig-history li")).to_contain_text(f"Ada · link {link['id']}")
        page.click("#ig-made-done")
        row(page, "Ada").locator(".ig-reissue").click()
        expect(page.locator("#ig-made-hints")).to_contain_text("stays in; Revoke ends that.")


def test_a_panel_that_has_no_links(bus: GateBus[Any], browser: Browser) -> None:
    """Where the server has none to give there is no Share."""
    server = PanelServer(bus)
    try:
        with pages(browser, server.url) as open_page:
            page = open_page()
            with page.expect_response("**/api/links") as answer:
                page.reload()
            assert answer.value.status == 404
            assert page.evaluate("fetch('api/links').then((r) => r.status)") == 404  # a moment on
            expect(page.locator("#ig-share")).to_be_hidden()
    finally:
        server.stop()
