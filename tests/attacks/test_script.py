"""Markup in all that people and files are called, in a real Chromium; and what is written down."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from imagegate.folder.session import FolderSession
from imagegate.folder.sorted.journal import JOURNAL
from imagegate.gate_bus import GateBus
from imagegate.text.labels import shows
from imagegate.text.printable import one_line
from tests.attacks.scene import PREFIX, Operator, Ports, Scene, Visitor
from tests.support.browser import WAIT, chromium
from tests.support.stored import PATIENCE

SCRIPTS = {
    "script": "<script>window.__pwned=1</script>",
    "image": "<img src=x onerror=window.__pwned=1>",
    "svg": '"><svg onload=window.__pwned=1>',
    "quote": "' onmouseover=window.__pwned=1 autofocus onfocus=window.__pwned=1 x='",
    "end-of-script": "</script><script>window.__pwned=1</script>",
    "end-of-json": '"}</script><svg onload=window.__pwned=1>{"',
    "comment": "<!--<script>window.__pwned=1//-->",
    "template": "__LINK__ __NONCE__ ${window.__pwned=1} {{constructor('window.__pwned=1')()}}",
    "url": "javascript:window.__pwned=1//",
    "turned-round": "\u202egnp.exe<b onclick=window.__pwned=1>",
    "line-ends": "a\u2028window.__pwned=1\u2029<iframe srcdoc='<script>parent.__pwned=1</script>'>",
    "style": "</title></style><style>*{display:none!important}</style>",
    "base": "<base href=//evil.example/><meta http-equiv=refresh content=0;url=//evil.example>",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def wild(browser: Browser) -> Iterator[tuple[Scene, Operator]]:
    """Both doors over gates in which everything is a script."""
    ports = Ports()
    scene = Scene(ports)
    panels: list[Operator] = []
    thread = threading.Thread(target=lambda: panels.append(Operator(scene)))
    thread.start()  # Playwright's loop runs in this one
    thread.join(60)
    yield scene, panels[0]
    panels[0].stop()
    scene.close()
    ports.close()


def named(script: str) -> str:
    """The script as a person's name: one printable line, as links take it."""
    return one_line(script, 100).strip() or "x"


def fill(scene: Scene, script: str) -> tuple[str, str]:
    """One gate that waits and one that is decided, with the script wherever text is."""
    among = {"title": script, "labels": (script, f"{script} 2"), "file": f"{script}.png"}
    for gate in scene.bus.pending():
        scene.bus.decide(gate.gate.id, 2)
    done = scene.ask(**among)
    scene.bus.decide(done, 1, by=script[:100], note=script)
    return scene.ask(**among), done


def unharmed(page: Page) -> None:
    """Nothing ran, and no element came of it."""
    assert page.evaluate("window.__pwned") is None
    assert page.locator("iframe, base, [http-equiv=refresh], [onerror], [onload]").count() == 0
    assert page.evaluate("getComputedStyle(document.body).display") != "none"


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_script_on_the_approvers_pages(
    browser: Browser, wild: tuple[Scene, Operator], script: str
) -> None:
    """On the entry page and on the approver's page a script in a person's name, in a title, a
    label, a note or a file's name does not run, and is read as it was written.
    """
    scene, _ = wild
    fill(scene, script)
    _, token = scene.links.create(named(script), once=False)
    context = browser.new_context(viewport={"width": 390, "height": 844})
    context.set_default_timeout(WAIT)
    page = context.new_page()
    refused: list[str] = []
    page.on("request", lambda request: refused.extend([request.url] * ("evil" in request.url)))
    page.goto(f"http://127.0.0.1:{scene.ports[False]}{PREFIX}/s/{token}")
    expect(page.locator("#ig-name")).to_have_text(f"Hello, {named(script)}")
    assert token not in page.url
    assert token not in page.evaluate("JSON.stringify([location.href, history.state])")
    assert page.evaluate("window.__pwned") is None
    page.click("#ig-open")
    expect(page.locator("#ig-title")).to_have_text(script)
    expect(page.locator("#ig-routes button").first).to_contain_text(script.strip())
    page.click("#ig-past-open")
    expect(page.locator("body")).to_contain_text(script.strip())
    unharmed(page)
    assert refused == []
    context.close()


@pytest.fixture(scope="module")
def desk(browser: Browser, wild: tuple[Scene, Operator]) -> Iterator[Page]:
    """The operator's page, open all the while."""
    context = browser.new_context()
    context.set_default_timeout(WAIT)
    page = context.new_page()
    page.goto(wild[1].url)
    yield page
    context.close()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_script_on_the_operators_page(
    desk: Page, wild: tuple[Scene, Operator], script: str
) -> None:
    """On the operator's page, where an approver's note and name are read, neither runs; nor does a
    name in the list of links.
    """
    scene, _ = wild
    waiting, _ = fill(scene, script)
    link, token = scene.links.create(named(script), once=False)
    expect(desk.locator("#ig-title")).to_have_text(script)
    expect(desk.locator("#ig-route-1")).to_contain_text(script.strip())
    assert scene.opened(token).decide(waiting, 1, note=f"said {script}").status == 200
    expect(desk.locator("#ig-history li").first).to_contain_text(f"said {script}".strip())
    expect(desk.locator("#ig-history li").first).to_contain_text(link.name)
    desk.click("#ig-share-open")
    expect(desk.locator("#ig-share-live")).to_contain_text(link.name)
    desk.keyboard.press("Escape")
    unharmed(desk)
    scene.links.revoke(link.id)


def test_a_page_that_runs_nothing_else(browser: Browser, wild: tuple[Scene, Operator]) -> None:
    """On the approver's page not even a script that got in would run: no inline handler, no text,
    no other server's, no frame, no form.
    """
    scene, _ = wild
    fill(scene, "Hero")
    _, token = scene.links.create("Ada", once=False)
    context = browser.new_context()
    context.set_default_timeout(WAIT)
    page = context.new_page()
    evil = socket.create_server(("127.0.0.1", 0))
    evil.setblocking(False)
    page.goto(f"http://127.0.0.1:{scene.ports[False]}{PREFIX}/s/{token}")
    page.click("#ig-open")
    expect(page.locator("#ig-title")).to_have_text("Hero")
    got_in = """async (elsewhere) => {
      document.body.insertAdjacentHTML("beforeend", "<img src='data:,' onerror='__pwned=1'>");
      await new Promise((done) => document.body.lastChild.addEventListener("error", done));
      const made = document.createElement("script");
      made.textContent = "window.__pwned=1";
      document.body.append(made);
      const other = document.createElement("script");
      other.src = elsewhere;
      document.body.append(other);
      try { setTimeout("window.__pwned=1"); } catch {}
      await new Promise((done) => setTimeout(done));
      return fetch(elsewhere).then(() => "sent", () => "refused");
    }"""
    assert page.evaluate(got_in, f"http://127.0.0.1:{evil.getsockname()[1]}/evil.js") == "refused"
    assert page.evaluate("window.__pwned") is None
    with evil, pytest.raises(BlockingIOError):
        evil.accept()
    assert page.evaluate("document.cookie") == ""
    context.close()


def test_a_frame_around_the_approvers_page(browser: Browser, wild: tuple[Scene, Operator]) -> None:
    """Neither the entry page nor the page itself can be put into another page's frame."""
    scene, _ = wild
    _, token = scene.links.create("Ada", once=False)
    context = browser.new_context()
    page = context.new_page()
    for path in (f"{PREFIX}/s/{token}", f"{PREFIX}/"):
        url = f"http://127.0.0.1:{scene.ports[False]}{path}"
        page.goto("about:blank")
        page.set_content(f"<iframe src='{url}'></iframe>")
        page.wait_for_load_state("networkidle")
        frame = page.frames[-1]
        assert "ig-name" not in frame.content()
        assert "chrome-error" in frame.url or frame.url in ("", "about:blank")
    context.close()


@pytest.mark.parametrize(
    "script",
    [*SCRIPTS.values(), "a\nb", '"},\n{"file": "x"', "\0", "\x1b[2J"],
    ids=[*SCRIPTS, "line", "journal-line", "nul", "terminal"],
)
def test_what_is_written_down(
    shared_ports: Ports, tmp_path: Path, script: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In a folder's journal a decision is one line of JSON, whatever its note says, and reads back
    as it was sent.
    """
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "photos" / "a.png")
    name = re.sub(r"[/\0\n]", "_", script)[:60]
    Image.new("RGB", (8, 6)).save(tmp_path / "photos" / f"{name}.png")
    bus: GateBus[Any] = GateBus()
    session = FolderSession(bus, tmp_path / "photos", tmp_path / "out", ("keep", "fix"))
    published = threading.Event()
    subscription = bus.subscribe(lambda: published.set() if bus.count() >= 2 else None)
    session.start()
    assert published.wait(PATIENCE)
    gates = [gate.gate for gate in bus.pending()]
    scene = Scene(shared_ports, bus)
    note = script.strip() if shows(script) else ""  # one that shows nothing is none
    try:
        _, token = scene.link(name=named(script))
        guest = scene.opened(token)
        for gate in gates:
            assert guest.decide(gate.id, 1, note=script).status == 200
        rows = (tmp_path / "out" / JOURNAL).read_bytes().splitlines()
        assert len(rows) == len(gates) == 2
        for row in rows:
            line = json.loads(row)
            assert line["note"] == note
            assert row.isascii()
        assert {json.loads(row)["file"] for row in rows} == {"a.png", f"{name}.png"}
        kept = sorted(path.name for path in (tmp_path / "out" / "keep").iterdir())
        assert kept == sorted(["a.png", f"{name}.png"])
        history = guest.get("history?mine=1").json()["gates"]
        assert {gate["decision"]["note"] for gate in history} == {note}
    finally:
        subscription.close()
        session.close()
        scene.close()
    assert all("\x1b" not in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_script_in_a_refusal(still: Scene, script: str) -> None:
    """What a stranger writes into an address never comes back as markup, on no page."""
    from urllib.parse import quote

    number = list(SCRIPTS.values()).index(script) + 1  # each from a source of its own
    guest = still.guest()
    for visitor in (
        still.stranger(source=f"127.0.4.{number}"),
        Visitor(guest.port, guest.headers, f"127.0.5.{number}"),
    ):
        for path in (f"{PREFIX}/s/{quote(script, safe='')}", f"{PREFIX}/{quote(script, safe='')}",
                     f"{PREFIX}/page/{quote(script, safe='')}?{quote(script)}"):  # fmt: skip
            answer = visitor.get(path, accept="text/html", referer="x")
            assert answer.status >= 400
            assert "__pwned" not in answer.whole
            assert "evil.example" not in answer.whole
