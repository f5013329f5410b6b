"""Strangers' pages in a real Chromium, and our own behind other people's proxies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from yarl import URL

from imagegate.gate_bus import GateBus
from imagegate.share.share import Share
from imagegate.storage.links import LinkStore
from imagegate.storage.sql.database import Database
from tests.operator.test_panel import publish, settled, shown, status
from tests.support.browser import PanelServer, chromium
from tests.support.painting import PAINT, open_editor, stroke
from tests.support.proxy import Proxy
from tests.support.stored import PATIENCE

RULES = ",".join(
    f"MAP {name} 127.0.0.1" for name in ("evil.example", "studio.lan", "studio.example")
)
# Newer Chromiums ask their user first; most browsers do not, and here it would hide our part.
ASKS = "LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests"
FLAGS = (f"--host-resolver-rules={RULES}", f"--disable-features={ASKS}")
ATTACK = "attack.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(*FLAGS) as browser:
        yield browser


@pytest.fixture
def links() -> Iterator[LinkStore]:
    links = LinkStore(Database("sqlite://", "t"))
    yield links
    links.database.close()


@pytest.fixture
def panel(bus: GateBus[Any], links: LinkStore) -> Iterator[PanelServer]:
    panel = PanelServer(bus, share=Share(bus, lambda: links))
    yield panel
    panel.stop()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Callable[[], Page]]:
    contexts = []

    def open_tab() -> Page:
        context = browser.new_context(viewport={"width": 1280, "height": 860})
        contexts.append(context)
        context.set_default_timeout(PAINT)
        return context.new_page()

    yield open_tab
    for context in contexts:
        context.close()


def visit(page: Page, url: str) -> None:
    """Open a stranger's page, which is at that address, whatever else is there."""

    def stranger(route: Route) -> None:
        route.fulfill(body="<!doctype html><title>x</title><body>", content_type="text/html")

    page.route(f"**/{ATTACK}", stranger)
    page.goto(f"{url}/{ATTACK}")
    page.unroute_all()  # Playwright answers what a browser asks before a call as long as it routes


# What a page can try, each told as the status it got, the text it read, or "blocked".
TRY = """async ({ base, gate }) => {
  const told = {};
  const tell = async (name, call) => {
    try {
      const reply = await call();
      told[name] = reply.type === "opaque" ? "opaque" : reply.status;
      if (reply.ok) told[name] = await reply.text();
    } catch (error) {
      told[name] = "blocked";
    }
  };
  const json = { "content-type": "application/json" };
  const ours = { ...json, "x-imagegate": "1" };
  const link = `${base}/imagegate/api/links`;
  const decision = `${base}/imagegate/api/gates/${gate}/decision`;
  const mask = `${base}/imagegate/api/gates/${gate}/mask/0`;
  const gradio = `${base}/imagegate/gradio_api`;
  const make = JSON.stringify({ name: "Mallory" });
  const keep = JSON.stringify({ route: 1 });
  for (const path of ["/imagegate/", "/imagegate/api/gates", "/imagegate/api/links",
                      `/imagegate/api/gates/${gate}/image/0`, "/imagegate/config"])
    await tell(`look ${path}`, () => fetch(base + path));
  for (const mode of ["cors", "same-origin", "no-cors"])
    for (const referrerPolicy of ["", "no-referrer"])
      for (const headers of [ours, json, {}, { "content-type": "text/plain" }]) {
        const name = `${mode} ${referrerPolicy} ${JSON.stringify(headers)}`;
        const given = { method: "POST", mode, referrerPolicy, headers };
        await tell(`link ${name}`, () => fetch(link, { ...given, body: make }));
        await tell(`decide ${name}`, () => fetch(decision, { ...given, body: keep }));
      }
  for (const method of ["PUT", "DELETE", "PATCH"])
    await tell(method, () => fetch(mask, { method, headers: ours }));
  const upload = new FormData();
  upload.append("files", new Blob(["x"]), "x.png");
  for (const headers of [{}, { "x-imagegate": "1" }])
    await tell(`upload ${JSON.stringify(headers)}`,
               () => fetch(`${gradio}/upload`, { method: "POST", body: upload, headers }));
  await tell("predict", () => fetch(`${gradio}/run/predict`,
             { method: "POST", body: JSON.stringify({ data: [], fn_index: 2 }), headers: ours }));
  told.beacon = [];
  for (const type of ["text/plain", "application/json"])
    try {
      told.beacon.push(navigator.sendBeacon(decision, new Blob([keep], { type })));
    } catch {
      told.beacon.push("blocked");
    }
  const frame = document.createElement("iframe");
  frame.sandbox = "allow-scripts allow-forms";
  frame.srcdoc = `<script>
    const headers = ${JSON.stringify(ours)};
    fetch(${JSON.stringify(decision)}, { method: "POST", body: '${keep}', headers })
      .catch(() => 0).finally(() => parent.postMessage("done", "*"))<` + "/script>";
  const done = new Promise((resolve) => addEventListener("message", resolve, { once: true }));
  document.body.append(frame);
  await done;
  await new Promise((resolve) => {
    const source = new EventSource(`${base}/imagegate/api/events`);
    source.addEventListener("reload", () => { told.events = "heard"; source.close(); resolve(); });
    source.onerror = () => { told.events = "refused"; source.close(); resolve(); };
  });
  const kinds = ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded"];
  for (const enctype of kinds) {
    const inner = Object.assign(document.createElement("iframe"), { name: enctype });
    const given = { action: link, method: "POST", enctype, target: enctype };
    const form = Object.assign(document.createElement("form"), given);
    form.innerHTML = `<input name='{"name": "Mallory", "x": "' value='"}'>`;
    document.body.append(inner, form);
    const loaded = new Promise((resolve) => (inner.onload = inner.onerror = resolve));
    form.submit();
    await loaded;
  }
  return told;
}"""


def attack(page: Page, base: str, gate: str) -> dict[str, Any]:
    told: dict[str, Any] = page.evaluate(TRY, {"base": base, "gate": gate})
    return told


def nothing_changed(bus: GateBus[Any], links: LinkStore, gate: str) -> None:
    assert bus.get(gate).decision is None
    assert bus.get(gate).masked == ()
    assert links.all() == []


def test_a_rebound_name_gets_nothing(
    bus: GateBus[Any], links: LinkStore, panel: PanelServer, tab: Callable[[], Page]
) -> None:
    """A page of evil.example whose name was made to lead to the panel reads and changes nothing."""
    gate = publish(bus, "Hero").gate.id
    page = tab()
    visit(page, f"http://evil.example:{panel.port}")
    told = attack(page, f"http://evil.example:{panel.port}", gate)
    nothing_changed(bus, links, gate)
    assert told.pop("events") == "refused"
    told.pop("beacon")
    # A fetch without CORS takes no header of ours, and answers of one origin are not opaque.
    assert set(told.values()) <= {403, "blocked"}, told
    assert told["look /imagegate/api/gates"] == 403
    page.goto(f"http://evil.example:{panel.port}/imagegate/")
    expect(page.locator("body")).to_contain_text("IMAGEGATE_ORIGINS=evil.example")


def test_a_rebound_name_at_a_proxy_that_changes_host(
    bus: GateBus[Any], links: LinkStore, panel: PanelServer, tab: Callable[[], Page]
) -> None:
    """A proxy that takes any name and hides it lets such a page look, but change nothing."""
    gate = publish(bus, "Hero").gate.id
    with Proxy(panel.port, lambda _: "comfyui:8188") as proxy:
        page = tab()
        base = f"http://evil.example:{proxy.port}"
        visit(page, base)
        told = attack(page, base, gate)
        page.goto("about:blank")  # else its stream would keep the proxy
    nothing_changed(bus, links, gate)
    changes = {name: value for name, value in told.items() if not name.startswith("look")}
    assert changes.pop("events") == "heard"
    changes.pop("beacon")
    assert {name: v for name, v in changes.items() if v not in (403, "blocked")} == {}


@pytest.mark.parametrize("name", ["evil.example", "localhost", "studio.lan"])
@pytest.mark.parametrize("at", ["127.0.0.1", "studio.lan"])
def test_a_foreign_page_changes_nothing(
    bus: GateBus[Any],
    links: LinkStore,
    panel: PanelServer,
    tab: Callable[[], Page],
    name: str,
    at: str,
) -> None:
    """A page of another origin, at a name of whatever kind, reads and changes nothing."""
    gate = publish(bus, "Hero").gate.id
    page = tab()
    visit(page, f"http://{name}:1999")
    told = attack(page, f"http://{at}:{panel.port}", gate)
    nothing_changed(bus, links, gate)
    assert told.pop("events") == "refused"
    told.pop("beacon")
    assert set(told.values()) <= {"blocked", "opaque"}, told


PROXIES: dict[str, tuple[Callable[[str], str], str, bool]] = {
    "nginx-in-docker-compose": (lambda _: "comfyui:8188", "", False),
    "host-and-server-port": (lambda host: f"{URL(f'http://{host}').host}:80", "", False),
    "an-address": (lambda _: "172.18.0.3:8188", "", False),
    "sub-path": (lambda _: "comfyui:8188", "/comfy", True),
    "host-kept": (lambda host: host, "/a/b", False),
}


@pytest.mark.parametrize("how", PROXIES)
def test_the_panel_works_behind_a_proxy(
    bus: GateBus[Any], links: LinkStore, panel: PanelServer, tab: Callable[[], Page], how: str
) -> None:
    """Over plain HTTP at a name in the network: clicks, masks and links work, with all of Gradio's
    files asked for where the browser sees the page.
    """
    host, path, paints = PROXIES[how]
    first, second = publish(bus, "First"), publish(bus, "Second")
    with Proxy(panel.port, host, path) as proxy:
        base = f"http://studio.lan:{proxy.port}{path}/imagegate/"
        page = tab()
        asked: list[str] = []
        failed: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on(
            "response",
            lambda r: failed.extend([f"{r.status} {r.url}"] * (r.status >= 400)),
        )
        page.goto(base)
        shown(page, "First")
        if paints:  # Gradio's own calls; each takes long
            open_editor(page.main_frame, (96, 64))
            stroke(page.main_frame, (20, 20), (70, 40), steps=2)
            page.click("#ig-mask-save")
            status(page, "Mask saved for First", timeout=PAINT)
        settled(page)
        page.click("#ig-route-1")
        masks = first.wait(PATIENCE).masks
        assert bool(masks) is paints
        shown(page, "Second")
        settled(page)
        page.click("#ig-route-2")
        assert second.wait(PATIENCE).decision.route == 2
        page.click("#ig-share button")
        page.fill("#ig-link-name", "Ada")
        page.click("#ig-link-make")
        expect(page.locator("#ig-sheet")).to_contain_text("Ada")
        assert [link.name for link in links.all()] == ["Ada"]
        page.goto("about:blank")
    assert f"{base}theme.css" in {url.partition("?")[0] for url in asked}
    strange = [u for u in asked if not u.startswith((base, "data:", "blob:", "about:"))]
    assert [url for url in strange if not url.endswith("/favicon.ico")] == []
    # A session without a store has no status.
    known = ("/favicon.ico", "/api/status")
    assert [line for line in failed if not line.endswith(known)] == []


def test_a_public_name_over_plain_http_says_what_to_set(
    bus: GateBus[Any], panel: PanelServer, tab: Callable[[], Page]
) -> None:
    """Behind a proxy that changes Host, too, the page itself names the setting."""
    publish(bus, "First")
    with Proxy(panel.port, lambda _: "comfyui:8188") as proxy:
        page = tab()
        page.goto(f"http://studio.example:{proxy.port}/imagegate/")
        expect(page.locator("body")).to_contain_text("IMAGEGATE_ORIGINS=studio.example")
