"""What ComfyUI's page is told of gates, in a real Chromium: `web/image_gate.js` over a stand-in for
ComfyUI's front end. With the real one it is tested in `tests/live`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.support.browser import chromium

WEB = Path(__file__).parents[2] / "imagegate" / "web"
WAITING, PARKED = "#f5a524", "#a99cf5"

# As much of ComfyUI's page as is needed to show gates. Node 7 is a gate, node 8 is not.
APP = """
const graph = {
  id: "here", nodes: {}, trigger() {}, getNodeById(id) { return this.nodes[id]; },
};
for (const [id, comfyClass] of [["7", "ImageGate"], ["8", "KSampler"]]) {
  graph.nodes[id] = {
    id, comfyClass, graph, size: [200, 100], setSize() {}, computeSize: () => [200, 100],
    strokeStyles: { running: () => (globalThis.runs ? { color: "green" } : undefined) },
    addDOMWidget(name, type, element) { document.body.append(element); return {}; },
  };
}
export const app = {
  rootGraph: graph,
  canvas: {
    graph, canvas: new EventTarget(), setDirty() {},
    centerOnNode(node) { globalThis.centre = node.id; },
    selectNode() {}, setGraph(graph) { this.graph = graph; },
    openSubgraph(subgraph) { this.graph = subgraph; },
  },
  extensionManager: { toast: {
    shown: [],
    add(message) { this.shown.push(message); },
    remove(message) { this.shown = this.shown.filter((one) => one !== message); },
  } },
  registerExtension(extension) { globalThis.ready = extension.setup(); },
};
globalThis.LiteGraph = { NODE_TITLE_HEIGHT: 30 };
globalThis.app = app;
globalThis.toasts = () => app.extensionManager.toast.shown;
globalThis.mark = (id) => {
  const node = graph.nodes[id];
  let text = "";
  const ctx = new Proxy({}, { set: () => true, get: (_, name) => (...args) => {
    if (name === "fillText") text = args[0];
    return { width: 50 };
  } });
  node.onDrawForeground?.(ctx);
  return [text, node.strokeStyles.running.call(node)?.color ?? ""];
};
"""
API = """
export const api = new EventTarget();
api.fileURL = (path) => path;
globalThis.tell = (kind, { id, node_id, state }) =>
  api.dispatchEvent(new CustomEvent(`imagegate.${kind}`, { detail: { id, node_id, state } }));
globalThis.pending = 0; // answers that were not read yet
const { fetch } = globalThis;
globalThis.fetch = async (...given) => {
  pending += 1;
  const reply = await fetch(...given);
  const body = await reply.json();
  const json = async () => { pending -= 1; return body; };
  return { ok: reply.ok, status: reply.status, statusText: reply.statusText, json };
};
"""
KNOWN: dict[str, dict[str, Any]] = {}
"""What the server says of each gate when it is asked."""
PAGE = '<script type="module" src="/extensions/imagegate/image_gate.js"></script>'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def front(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens ComfyUI's page while these gates wait; its clock is the test's."""
    pages = []

    def open_page(*gates: dict[str, Any]) -> Page:
        bodies = {
            "/": ("text/html", PAGE),
            "/scripts/app.js": ("text/javascript", APP),
            "/scripts/api.js": ("text/javascript", API),
            "/imagegate/notices": ("application/json", json.dumps({"waiting": gates})),
        }
        for script in WEB.glob("*.js"):
            bodies[f"/extensions/imagegate/{script.name}"] = ("text/javascript", script.read_text())

        def answer(route: Route) -> None:
            path = route.request.url.removeprefix("http://comfy.test")
            if "?ids=" in path:
                named = [KNOWN[gate_id] for gate_id in path.partition("=")[2].split(",")]
                route.fulfill(json={"gates": named})
                return
            kind, body = bodies.get(path, ("text/html", ""))
            route.fulfill(content_type=kind, body=body)

        page = browser.new_page()
        pages.append(page)
        page.route("**/*", answer)
        page.clock.install()
        page.goto("http://comfy.test/")
        page.wait_for_function("globalThis.ready")
        page.evaluate("ready")
        page.clock.run_for(300)
        return page

    yield open_page
    for page in pages:
        page.close()


def gate(gate_id: str, state: str = "parked", **more: Any) -> dict[str, Any]:
    known = {"title": "Portrait", "labels": ["keep", "fix"], "node_id": "7", "workflow_id": "here"}
    return known | {"id": gate_id, "state": state, "version": 1} | more


def tell(page: Page, kind: str, told: dict[str, Any]) -> None:
    KNOWN[told["id"]] = told
    page.evaluate("([kind, gate]) => tell(kind, gate)", [kind, told])
    page.clock.run_for(50)
    page.wait_for_function("pending === 0")
    page.clock.run_for(300)


def toasts(page: Page) -> list[str]:
    return [toast["summary"] for toast in page.evaluate("toasts()")]


def panels(page: Page) -> int:
    return page.locator("iframe").count()


def test_many_that_are_parked_make_one_toast(front: Callable[..., Page]) -> None:
    """One toast, which counts while it is shown; what waits has its own."""
    page = front()
    tell(page, "published", gate("a"))
    assert toasts(page) == ["An image is parked, waiting for you"]
    for name in "bc":
        page.clock.run_for(3000)
        tell(page, "published", gate(name))
    assert toasts(page) == ["3 images are parked, waiting for you"]
    tell(page, "published", gate("d", "waiting"))
    assert toasts(page)[1:] == ["An image waits for you"]
    page.clock.run_for(10_000)
    tell(page, "published", gate("e"))
    assert toasts(page)[2:] == ["An image is parked, waiting for you"]


def test_what_is_parked_when_the_page_is_loaded(front: Callable[..., Page]) -> None:
    """It is said once and marks its node, but no panel opens by itself; one that is parked from now
    on opens it, at its own node and workflow.
    """
    page = front(gate("a"), gate("b"))
    assert toasts(page) == ["2 images are parked, waiting for you"]
    assert page.evaluate("mark('7')") == ["2 parked, waiting for you", PARKED]
    assert panels(page) == 0
    tell(page, "published", gate("c"))
    assert panels(page) == 1
    source = page.locator("iframe").get_attribute("src") or ""
    assert source.startswith("/imagegate/?node=7&workflow=here&embed=1")


def test_what_waits_opens_its_panel_also_after_a_reload(front: Callable[..., Page]) -> None:
    """A prompt is held up: the panel is there at once."""
    page = front(gate("a", "waiting"))
    assert toasts(page) == ["An image waits for you"]
    assert panels(page) == 1


def test_marks_tell_what_waits_from_what_is_parked(front: Callable[..., Page]) -> None:
    """Another color and other words; what waits goes first; a node that runs looks like it."""
    page = front()
    assert page.evaluate("mark('7')") == ["", ""]
    tell(page, "published", gate("a"))
    assert page.evaluate("mark('7')") == ["parked, waiting for you", PARKED]
    page.evaluate("runs = true")
    assert page.evaluate("mark('7')") == ["parked, waiting for you", "green"]
    tell(page, "published", gate("b", "waiting"))
    assert page.evaluate("mark('7')") == ["waiting for you · 1 parked", WAITING]
    page.evaluate("runs = false")
    tell(page, "decided", gate("b", "decided", version=2))
    tell(page, "decided", gate("a", "decided", version=2))
    assert page.evaluate("mark('7')") == ["", ""]


@pytest.mark.parametrize(
    "more",
    [{"workflow_id": ""}, {"workflow_id": "there"}, {"node_id": "8"}, {"node_id": "9"}],
    ids=["unknown", "elsewhere", "another class", "gone"],
)
def test_a_parked_gate_of_another_workflow_marks_nothing(
    front: Callable[..., Page], more: dict[str, Any]
) -> None:
    """Days later a node's number may stand for something else: only a toast tells of it."""
    page = front()
    tell(page, "published", gate("a", **more))
    assert toasts(page) == ["An image is parked, waiting for you"]
    assert [page.evaluate(f"mark('{node}')")[0] for node in "78"] == ["", ""]
    assert panels(page) == 0


def test_a_prompt_without_a_workflow_still_marks_its_node(front: Callable[..., Page]) -> None:
    """What waits was queued just now, so its node is the one on the screen."""
    page = front()
    tell(page, "published", gate("a", "waiting", workflow_id=""))
    assert page.evaluate("mark('7')") == ["waiting for you", WAITING]
    assert "workflow=&" in (page.locator("iframe").get_attribute("src") or "")


def test_going_on_says_nothing_unless_it_fails(front: Callable[..., Page]) -> None:
    """Decided, taken up, gone on: no toast. Put back: a warning with ComfyUI's message. Taken back
    by a person: the mark only.
    """
    page = front(gate("a"), gate("b"))
    for version, more in enumerate(({}, {"resuming": "desk"}, {"state": "resumed"}), 2):
        tell(page, "decided", gate("a", "decided", version=version) | more)
    tell(page, "decided", gate("b", "decided", version=2))
    assert toasts(page) == ["2 images are parked, waiting for you"]
    assert page.evaluate("mark('7')") == ["", ""]
    tell(page, "published", gate("b", version=3))
    assert page.evaluate("mark('7')") == ["parked, waiting for you", PARKED]
    assert len(toasts(page)) == 1
    tell(page, "decided", gate("b", "decided", version=4))
    tell(page, "published", gate("b", version=5, reason="out of memory " * 50))
    assert toasts(page)[1:] == ["\u2068Portrait\u2069 could not go on"]
    toast = page.evaluate("toasts()")[-1]
    assert toast["severity"] == "warn"
    assert toast["detail"].startswith("out of memory")
    assert len(toast["detail"]) < 320
    assert panels(page) == 1


def test_a_toast_leads_to_the_node(front: Callable[..., Page]) -> None:
    """A click on the toast brings the node on the screen, also in another open workflow; where none
    has it, its gate is shown in a tab of the browser.
    """
    page = front()
    # As PrimeVue draws it.
    page.evaluate(
        """() => {
          app.extensionManager.toast.add = (message) => {
            const box = document.createElement("div");
            box.className = `p-toast-message ${message.styleClass}`;
            box.append(message.summary, document.createElement("button"));
            document.body.append(box);
          };
        }"""
    )
    page.evaluate("() => { open = (...asked) => { globalThis.opened = asked; }; }")
    tell(page, "published", gate("a", "waiting"))
    toast = page.locator(".p-toast-message")
    toast.locator("button").click()
    assert page.evaluate("globalThis.centre") is None, "that button closes it"
    toast.click(position={"x": 2, "y": 2})
    assert page.evaluate("centre") == "7"
    page.evaluate(
        """() => {
          const there = { id: "there", getNodeById: () => ({ id: "3", graph: there }) };
          app.extensionManager.workflow = { openWorkflows: [
            { activeState: null }, { activeState: { id: "there" }, path: "other tab" }] };
          app.loadGraphData = async (state, clean, view, workflow) => {
            globalThis.loaded = workflow.path;
            app.rootGraph = there;
          };
        }"""
    )
    tell(page, "published", gate("b", "waiting", workflow_id="there", node_id="3"))
    toast.last.click(position={"x": 2, "y": 2})
    page.wait_for_function("centre === '3'")
    assert page.evaluate("loaded") == "other tab"
    tell(page, "published", gate("c", "waiting", workflow_id="gone", node_id="4:5"))
    toast.last.click(position={"x": 2, "y": 2})
    page.wait_for_function("globalThis.opened")
    assert page.evaluate("opened[0]") == "/imagegate/?node=4%3A5&workflow=gone"


def test_a_toast_has_a_button_where_the_front_end_has_them(front: Callable[..., Page]) -> None:
    """Front ends from 1.58 on show the way as a button of the toast, and take it away again."""
    page = front()
    page.evaluate(
        """() => {
          const shown = (globalThis.shown = new Map());
          const add = (title, more) => { shown.set(title, more); return title; };
          Object.assign(app.extensionManager.toast, {
            info: add, warning: add, dismiss: (id) => shown.delete(id) });
        }"""
    )
    tell(page, "published", gate("a"))
    tell(page, "published", gate("b"))
    assert page.evaluate("[...shown.keys()]") == ["2 images are parked, waiting for you"]
    page.evaluate("[...shown.values()][0].action.onClick()")
    assert page.evaluate("centre") == "7"


def test_the_title_says_how_many_wait(front: Callable[..., Page]) -> None:
    """It stands before whatever ComfyUI writes there, and goes with the last one."""
    page = front(gate("a"))
    assert page.title().startswith("(1) ")
    page.evaluate("document.title = 'portrait - ComfyUI'")
    page.wait_for_function("document.title === '(1) portrait - ComfyUI'")
    tell(page, "published", gate("b", "waiting"))
    assert page.title() == "(2) portrait - ComfyUI"
    for name in "ab":
        tell(page, "decided", gate(name, "decided", version=2))
    assert page.title() == "portrait - ComfyUI"
