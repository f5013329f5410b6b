"""Where the panel is drawn on ComfyUI's page: in its node, or nowhere."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.live.comfyui import Comfy, node, until
from tests.live.front import GATE, Front, both

# Looks in every frame of the page whether a panel can be seen outside of its node.
WATCH_JS = """
live.astray = [];
live.panels = () => [...document.querySelectorAll('iframe[title="Image Gate"]')]
  .filter((iframe) => iframe.checkVisibility({ visibilityProperty: true }))
  .map((iframe) => iframe.getBoundingClientRect())
  .filter(({ width, height }) => width > 0 && height > 0);
live.around = (node) => {
  const element = document.querySelector(`.lg-node[data-node-id="${node.id}"]`);
  if (element) return element.getBoundingClientRect(); // Nodes 2.0
  const [left, top] = live.screen(node, 0, 0);
  const [right, bottom] = live.screen(node, ...node.size);
  return { left, top, right, bottom };
};
live.inside = ({ left, top, right, bottom }) =>
  (app.canvas.graph?.nodes ?? []).some((node) => {
    if (!node.widgets?.some(({ name }) => name === "panel")) return false;
    const box = live.around(node);
    const spare = 30;
    return left > box.left - spare && top > box.top - spare
      && right < box.right + spare && bottom < box.bottom + spare;
  });
(function watch() {
  const wrong = live.panels().filter((box) => !live.inside(box));
  if (wrong.length) live.astray.push(...wrong.map((box) => JSON.stringify(box)));
  requestAnimationFrame(watch);
})();
"""


def placed(front: Front) -> None:
    """The panel is in its node, and works; it was never seen anywhere else."""
    front.see("live.panels().length", 1, "panel")
    until(lambda: front.do("live.panels().every(live.inside)"), "place of the panel")
    expect(front.panel().locator("#ig-route-1")).to_be_visible()
    assert front.do("live.astray") == []


def hidden(front: Front) -> None:
    """No panel is seen, and none was where it does not belong."""
    front.see("live.panels().length", 0, "hidden panel")
    assert front.do("live.astray") == []


def drawn_before_it_is_in_the_page(front: Front, comfy: Comfy) -> None:
    """ComfyUI draws its canvas after the widget was made and before it is in the page."""
    front.load_example()
    front.do(
        f"(() => {{ const n = {GATE}, add = n.addDOMWidget; n.addDOMWidget = function (...a) {{"
        " queueMicrotask(() => app.canvas.draw(true, true)); return add.apply(this, a); }; })()"
    )
    front.run()
    placed(front)


def placed_by_search_then_another_tab(front: Front, comfy: Comfy) -> None:
    """A gate is placed in one workflow tab, the example is opened in another and runs."""
    front.do("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    front.see("live.root().nodes.length", 0, "empty workflow")
    front.do(
        "(() => { const gate = LiteGraph.createNode('ImageGate'); gate.pos = [100, 100];"
        " live.root().add(gate); })()"
    )
    front.load_example()
    comfy.http.post("/free", json={"unload_models": True, "free_memory": True})
    front.run()
    placed(front)


def in_a_subgraph(front: Front, comfy: Comfy) -> None:
    """The gate comes while another graph is on the screen, which is left and entered again."""
    front.load_example()
    front.do(
        "(() => { const made = app.canvas.graph.convertToSubgraph(new Set([live.node(2)]));"
        " live.outer = made.node; })()"
    )
    front.run()
    front.see_mark(True)
    for _ in range(2):
        hidden(front)
        front.do("app.canvas.openSubgraph(live.outer.subgraph, live.outer)")
        placed(front)
        front.do("app.canvas.setGraph(live.root())")
    hidden(front)


def in_a_collapsed_node(front: Front, comfy: Comfy) -> None:
    """The gate comes while its node is collapsed, which is opened, collapsed and opened again."""
    front.load_example()
    front.do(f"{GATE}.collapse()")
    front.run()
    front.see_mark(True)
    for _ in range(2):
        hidden(front)
        front.do(f"{GATE}.collapse()")
        placed(front)
        front.do(f"{GATE}.collapse()")
    hidden(front)


def removed_and_undone(front: Front, comfy: Comfy) -> None:
    """The node is removed while its gate waits, and comes back by undo."""
    front.load_example()
    front.run()
    placed(front)
    front.do(f"app.canvas.selectNode({GATE})")
    front.page.mouse.move(60, 500)
    front.page.locator("#graph-canvas").focus()
    front.page.keyboard.press("Delete")
    front.see(f"{GATE} ?? null", None, "removed node")
    hidden(front)
    front.page.keyboard.press("Control+z")
    front.see(f"{GATE}?.type", "ImageGate", "node that came back")
    placed(front)


def copied(front: Front, comfy: Comfy) -> None:
    """A copy of the node, made while its gate waits, has no panel."""
    front.load_example()
    front.run()
    placed(front)
    front.do(f"app.canvas.selectItems([{GATE}])")
    front.do("app.canvas.copyToClipboard()")
    front.do("app.canvas.pasteFromClipboard()")
    front.see("live.root().nodes.filter((n) => n.type === 'ImageGate').length", 2, "copy")
    placed(front)


def in_another_tab(front: Front, comfy: Comfy) -> None:
    """The gate comes while another workflow tab is open; tabs are switched back and forth."""
    front.load_example()
    example = front.do("app.extensionManager.workflow.activeWorkflow.path")
    run = front.queue()
    front.do("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    front.see("live.root().nodes.length", 0, "empty workflow")
    comfy.waiting(run)
    for _ in range(2):
        hidden(front)
        front.switch_tab(-1)
        front.see("app.extensionManager.workflow.activeWorkflow.path", example, "first tab")
        placed(front)
        front.switch_tab(+1)
        front.see("live.root().nodes.length", 0, "empty workflow")
    hidden(front)


def far_away_and_out_of_sight(front: Front, comfy: Comfy) -> None:
    """The canvas is zoomed out to low quality, and moved until the node is not on it."""
    front.load_example()
    front.run()
    placed(front)
    front.do("(app.canvas.ds.scale = 0.2, app.canvas.setDirty(true, true))")
    placed(front)
    front.do("(app.canvas.ds.offset[0] += 50000, app.canvas.setDirty(true, true))")
    front.see("live.panels().filter(({ left }) => left < innerWidth).length", 0, "sight")
    front.do("(app.canvas.ds.offset[0] -= 50000, app.canvas.setDirty(true, true))")
    placed(front)


ORDERS = [
    drawn_before_it_is_in_the_page,
    placed_by_search_then_another_tab,
    in_a_subgraph,
    in_a_collapsed_node,
    removed_and_undone,
    copied,
    in_another_tab,
    far_away_and_out_of_sight,
]


@both
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__.replace("_", "-"))
def test_a_panel_is_in_its_node_or_nowhere(
    front: Front, comfy: Comfy, order: Callable[[Front, Comfy], None]
) -> None:
    """Whatever order nodes, tabs and events come in, no frame shows a panel outside its node."""
    front.do(WATCH_JS)
    order(front, comfy)


@pytest.mark.parametrize("front", ["vue"], indirect=True)
def test_a_panel_follows_the_kind_of_node(front: Front, comfy: Comfy) -> None:
    """Nodes 2.0 turned off and on while a gate waits: the panel is in the node of that kind."""
    front.do(WATCH_JS)
    front.load_example()
    front.run()
    placed(front)
    for on in (False, True, False):
        front.do("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", on)
        expect(front.page.locator(".lg-node iframe")).to_have_count(int(on))
        until(lambda: front.do("live.panels().length === 1"), "panel")
        expect(front.panel().locator("#ig-route-1")).to_be_visible()
    # ComfyUI moves the nodes apart for the other kind: for a frame the panel may be behind.
    assert all(json.loads(box)["left"] > 200 for box in front.do("live.astray"))


def test_a_prompt_of_another_page_shows_its_panel_here(front: Front, comfy: Comfy) -> None:
    """A gate that nobody queued on this page comes to a node that was only just made."""
    front.do(WATCH_JS)
    front.load_example()
    workflow = front.do("live.root().id")
    gate = node("ImageGate", image=["1", 0], routes=2)
    prompt = {"1": node("LoadImage", image="example.png"), "2": gate}
    prompt["3"] = node("PreviewImage", images=["2", 1])
    front.load_example()
    comfy.queue(prompt, workflow={"id": workflow, "nodes": []})
    placed(front)
