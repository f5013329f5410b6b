"""ComfyUI's own page in Chromium, with the node, its marks and the panel in it."""

from __future__ import annotations

import json
import re
from contextlib import suppress

import pytest
from playwright.sync_api import Frame, Locator, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.live.comfyui import Comfy, gated, node, noise, until
from tests.live.front import GATE, PARKED_COLOR, TOAST, Front, both
from tests.support.painting import PAINT, capsule, open_editor, painted, stroke


@pytest.mark.parametrize("front", ["canvas", "light", "vue"], indirect=True)
def test_from_the_queue_to_the_click(
    front: Front, comfy: Comfy, request: pytest.FixtureRequest
) -> None:
    """The example pauses, says so, shows image and routes in its node, and goes the way clicked."""
    shot = f"{request.node.callspec.id}-{comfy.version}"
    front.load_example()
    size = front.do(f"[...{GATE}.size]")
    values = front.do(f"{GATE}.widgets.map((widget) => widget.value)")
    assert front.page.locator("iframe").count() == 0, "no panel before it is needed"
    assert not front.marked()
    front.shot(f"{shot}-1-before")
    run = front.run()
    front.see_toast("An image waits for you")
    panel = front.panel()
    expect(panel.locator("#ig-title")).to_contain_text("Keep or fix?")
    expect(panel.locator("#ig-route-1")).to_have_text("1 · keep")
    expect(panel.locator("#ig-route-2")).to_have_text("2 · fix")
    expect(panel.locator("#ig-stop")).to_be_visible()
    until(lambda: panel.locator("#ig-image").evaluate("(image) => image.naturalWidth > 0"), "image")
    front.see_mark(True)
    front.shot(f"{shot}-2-waiting")
    saved = front.do(f"{GATE}.serialize()")
    assert list(saved["size"]) == size, "the panel is not saved with the workflow"
    assert saved["widgets_values"] == values
    assert not {"color", "bgcolor"} & set(saved), "nor is the mark"
    front.click_route(1)
    outputs = comfy.finished(run).outputs
    assert "3" in outputs
    assert "4" not in outputs
    front.see_mark(False)
    front.shot(f"{shot}-3-after")


@both
def test_a_parked_gate_goes_on_from_the_node(
    front: Front, comfy: Comfy, request: pytest.FixtureRequest
) -> None:
    """The prompt ends, a toast says that it is parked, the node is marked in a color of its own and
    shows the panel; a click there, or after a reload, makes it go on.
    """
    shot = f"park-{request.node.callspec.id}-{comfy.version}"
    front.load_example()
    assert "decision" not in front.do(f"{GATE}.widgets.map((widget) => widget.name)")
    front.do(f"live.widget({GATE}, 'mode').value = 'park'")
    for reload in (False, True):
        run = front.run()
        assert "execution_success" in comfy.finished(run).events
        front.see_toast("An image is parked, waiting for you")
        front.see_mark(True, PARKED_COLOR)
        [gate] = comfy.gates(run)
        if reload:
            front.open()
            front.see(f"{GATE}?.type", "ImageGate", "workflow as it was")
            front.see_mark(True, PARKED_COLOR)
            assert comfy.decide(gate, 2).status_code == 200
        else:
            expect(front.panel().locator("#ig-parked")).to_be_visible()
            front.shot(f"{shot}-1-parked")
            front.click_route(1)
        comfy.state(gate, "resumed")
        front.see_mark(False, PARKED_COLOR)
        last = list(comfy.http.get("/history").json().values())[-1]
        assert set(last["outputs"]) & {"3", "4"} == ({"4"} if reload else {"3"})
    front.shot(f"{shot}-2-after")


@both
def test_two_runs_pause_twice_in_the_same_panel(front: Front, comfy: Comfy) -> None:
    """The panel stays in the node; the second run appears in it, and goes its own way."""
    front.load_example()
    run = front.run()
    front.click_route(1)
    assert "4" not in comfy.finished(run).outputs
    front.see_mark(False)
    again = front.run()
    front.see_mark(True)
    assert front.page.locator('iframe[title="Image Gate"]').count() == 1
    front.click_route(2)
    outputs = comfy.finished(again).outputs
    assert "4" in outputs
    assert "3" not in outputs


@both
def test_a_mask_painted_in_the_node_comes_out_where_it_was_drawn(
    front: Front, comfy: Comfy, request: pytest.FixtureRequest
) -> None:
    """A stroke in the node's panel covers the same pixels in what the mask output gives."""
    name, size = f"painted-{request.node.callspec.id}", (320, 240)
    front.load_example()  # its gate has the id of the gate that is queued here
    run = comfy.queue(gated(name, noise(width=size[0], height=size[1])))
    expect(front.panel().locator("#ig-route-1")).to_be_visible()
    [frame] = [frame for frame in front.page.frames if "/imagegate/?node=2" in frame.url]
    open_editor(frame, size)
    stroke(frame, (100, 120), (220, 120))
    front.shot(f"painted-{'vue' if front.vue else 'canvas'}-{comfy.version}")
    frame.locator("#ig-mask-save").click()
    expect(frame.locator("#ig-status")).to_contain_text("Mask saved", timeout=PAINT)
    front.click_route(1)
    comfy.finished(run)
    [mask] = comfy.sunk(f"{name}-mask")
    assert mask.shape == (1, size[1], size[0])
    painted, drawn = mask[0] > 0.5, capsule(size, (100, 120), (220, 120), 8)
    assert (painted & drawn).sum() / (painted | drawn).sum() > 0.9
    [kept], [source] = comfy.sunk(f"{name}-keep"), comfy.sunk(f"{name}-source")
    assert (kept == source).all()


@both
def test_strokes_that_are_not_saved_survive_in_the_node(front: Front, comfy: Comfy) -> None:
    """They are back after a collapsed node, another workflow tab and a reload; Ctrl+Z in the editor
    takes back a stroke of it, and nothing of the workflow.
    """
    size, first, second = (768, 512), ((200, 150), (500, 150)), ((200, 350), (500, 350))
    front.load_example()
    _step(front, +1)  # a change that ComfyUI could undo
    front.until_kept("ImageGate")
    run = front.run()
    expect(front.panel().locator("#ig-route-1")).to_be_visible()

    def frame(opened: bool) -> Frame:
        expect(front.panel().locator("#ig-route-1")).to_be_visible(timeout=PAINT)
        here = (frame for frame in front.page.frames if "/imagegate/?node=2" in frame.url)
        editor = next(here)
        open_editor(editor, size, opened=opened)
        return editor

    editor = frame(opened=False)
    for line in (first, second):
        stroke(editor, *line)
        painted(editor, *line)
    front.page.keyboard.press("Control+z")
    painted(editor, *second, there=False)
    assert front.do(f"live.widget({GATE}, 'routes').value") == 3

    def kept(frame: Frame) -> None:
        painted(frame, *first)
        painted(frame, *second, there=False)

    front.do(f"{GATE}.collapse()")
    front.do(f"{GATE}.collapse()")
    kept(frame(opened=True))
    front.do("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    front.see("live.root().nodes.length", 0, "empty workflow")
    front.switch_tab(-1)
    front.see(f"{GATE}?.type", "ImageGate", "first tab")
    kept(frame(opened=True))
    front.open()
    front.see(f"{GATE}?.type", "ImageGate", "workflow after the reload")
    editor = frame(opened=True)
    kept(editor)
    assert comfy.waiting(run)[0]["masked"] == []
    editor.locator("#ig-mask-save").click()
    expect(editor.locator("#ig-status")).to_contain_text("Mask saved", timeout=PAINT)
    assert comfy.waiting(run)[0]["masked"] == [0]


@both
def test_the_outputs_follow_routes(front: Front) -> None:
    """`routes` 2 -> 4, clicked in the widget, shows two more outputs; 4 -> 2 takes them away."""
    front.load_example()
    _step(front, +1)
    _step(front, +1)
    front.see_outputs(["mask", "keep", "fix", "3", "4"])
    front.shot(f"routes-{'vue' if front.vue else 'canvas'}-{front.comfy.version}")
    _step(front, -1)
    _step(front, -1)
    front.see_outputs(["mask", "keep", "fix"])


@both
def test_a_connected_output_is_never_hidden(front: Front) -> None:
    """`routes` 2 -> 1 keeps route 2 as long as something hangs on it."""
    front.load_example()
    _step(front, -1)
    front.see("live.widget(live.node(2), 'routes').value", 1, "routes")
    front.see_outputs(["mask", "keep", "fix"])
    assert front.do(f"live.linked({GATE})") == [0, 1, 1]
    front.do("live.node(4).disconnectInput(0)")
    front.see_outputs(["mask", "keep"])


@both
def test_a_label_is_edited_on_its_output(front: Front, comfy: Comfy) -> None:
    """A double click on an output renames its route everywhere; a reload and undo know it."""
    front.load_example()
    dialog = _double_click_output(front, 1)
    expect(dialog.get_by_role("textbox")).to_have_value("keep")
    front.shot(f"rename-{'vue' if front.vue else 'canvas'}-{comfy.version}")
    dialog.get_by_role("textbox").fill("yes, please")  # written in quotes
    front.page.keyboard.press("Enter")
    front.see_outputs(["mask", "yes, please", "fix"])
    front.see("live.widget(live.node(2), 'labels').value", '"yes, please", fix', "labels")
    expect(dialog).to_have_count(0)

    front.until_kept("yes, please")
    front.open()
    front.see(f"{GATE}?.type", "ImageGate", "workflow after the reload")
    front.see_outputs(["mask", "yes, please", "fix"])
    run = front.run()
    assert comfy.waiting(run)[0]["labels"] == ["yes, please", "fix"]
    expect(front.panel().locator("#ig-route-1")).to_have_text("1 · yes, please")


@both
def test_labels_that_are_not_used_stay(front: Front) -> None:
    """`routes` 2 -> 1 leaves the labels as they are, says so, and 1 -> 2 uses the second again."""
    front.load_example()
    front.do("live.node(4).disconnectInput(0)")
    name = front.do(f"live.widget({GATE}, 'labels').label ?? 'labels'")
    _step(front, -1)
    front.see_outputs(["mask", "keep"])
    front.see(f"live.widget({GATE}, 'labels').value", "keep, fix", "labels")
    front.see(f"live.widget({GATE}, 'labels').label", f"{name} · 1 not used", "note")
    if front.vue:
        expect(front.page.locator('[data-node-id="2"]')).to_contain_text("1 not used")
    front.shot(f"unused-{'vue' if front.vue else 'canvas'}-{front.comfy.version}")
    _step(front, +1)
    front.see_outputs(["mask", "keep", "fix"])
    front.see(f"live.widget({GATE}, 'labels').label ?? 'labels'", name, "note gone")


def test_a_double_click_anywhere_on_a_label_renames_it(front: Front) -> None:
    """Also on its first letter, far from the dot of the output."""
    front.load_example()
    front.do(f"live.widget({GATE}, 'labels').value = 'keep all of them, fix'")
    front.do(f"live.widget({GATE}, 'labels').callback()")
    dialog = front.page.get_by_role("dialog")

    def opened() -> bool:
        x, y = front.do(f"live.slot({GATE}, 1)")
        front.page.mouse.dblclick(x - 80, y)
        with suppress(PlaywrightTimeoutError):
            dialog.wait_for(timeout=2000)
        return dialog.is_visible()

    until(opened, "dialog")
    expect(dialog.get_by_role("textbox")).to_have_value("keep all of them")


@both
def test_the_toast_leads_to_the_gate(front: Front, comfy: Comfy) -> None:
    """From another workflow tab a click on it goes to the tab, into the subgraph, to the node."""
    front.load_example()
    front.do(
        "(() => { const made = app.canvas.graph.convertToSubgraph(new Set([live.node(2)]));"
        " live.outer = made.node; })()"
    )
    front.page.mouse.click(300, 750)  # ComfyUI keeps what a person did, not what a script did
    front.until_kept("subgraphs")
    run = front.queue()
    front.do("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
    front.see("live.root().nodes.length", 0, "empty workflow")
    comfy.waiting(run)
    toast = front.page.locator(TOAST).filter(has_text="An image waits for you")
    button = toast.get_by_role("button", name="Show")
    if front.do("Boolean(app.extensionManager.toast.info)"):
        button.click()
    else:
        toast.get_by_text("An image waits for you").click()
    front.see("app.canvas.graph.nodes.map((n) => n.type)", ["ImageGate"], "graph of the gate")
    expect(front.panel().locator("#ig-route-1")).to_have_text("1 · keep")
    assert re.match(r"\(1\) ", front.page.title())


def test_undo_takes_back_a_label(front: Front) -> None:
    """ComfyUI's undo and redo take outputs and widget along."""
    front.load_example()
    _double_click_output(front, 2).get_by_role("textbox").fill("redo")
    front.page.keyboard.press("Enter")
    front.see_outputs(["mask", "keep", "redo"])
    _step(front, +1)
    front.see_outputs(["mask", "keep", "redo", "3"])
    for key, wanted in (
        ("Control+z", ["mask", "keep", "redo"]),
        ("Control+z", ["mask", "keep", "fix"]),
        ("Control+y", ["mask", "keep", "redo"]),
        ("Control+y", ["mask", "keep", "redo", "3"]),
    ):
        front.page.keyboard.press(key)
        front.see_outputs(wanted)


def test_the_built_in_rename_lands_in_the_widget(front: Front) -> None:
    """ "Rename Slot" of ComfyUI's own menu changes the label that travels in the prompt."""
    front.load_example()
    front.page.mouse.click(*front.do(f"live.slot({GATE}, 2)"), button="right")
    front.page.get_by_text("Rename Slot").click()
    front.page.keyboard.press("Control+a")
    front.page.keyboard.type("redo")
    front.page.keyboard.press("Enter")
    front.see_outputs(["mask", "keep", "redo"])
    front.see("live.widget(live.node(2), 'labels').value", "keep, redo", "labels")


@both
def test_api_workflows_and_copies_keep_their_links(front: Front) -> None:
    """An API workflow, and a copy of it, show the right outputs and lose no link."""
    prompt = {
        "1": node("PreviewImage", images=["2", 4]),
        "2": node("ImageGate", image=["3", 0], routes=4, labels="a, b, c, d"),
        "3": node("LoadImage", image="example.png"),
        "4": node("PreviewImage", images=["5", 7]),  # beyond its routes, and still a link
        "5": node("ImageGate", image=["3", 0], routes=2, labels="x"),
    }
    front.do("async (prompt) => { await app.loadApiJson(prompt, 'api') }", prompt)
    front.see_outputs(["mask", "a", "b", "c", "d"])
    front.see_outputs(["mask", "x", "2", "3", "4", "5", "6", "7"], of="live.node(5)")
    assert front.do("live.linked(live.node(2))") == [0, 0, 0, 0, 1]
    assert front.do("live.linked(live.node(5))")[7] == 1
    front.do("app.canvas.selectItems(live.root().nodes)")
    front.do("app.canvas.copyToClipboard()")
    front.do("app.canvas.pasteFromClipboard()")
    pasted = front.do(
        "live.root().nodes.filter((n) => n.type === 'ImageGate' && ![2, 5].includes(Number(n.id)))"
        ".map((n) => [live.outputs(n), live.linked(n).at(-1)])"
    )
    assert sorted(pasted) == [
        [["mask", "a", "b", "c", "d"], 1],
        [["mask", "x", "2", "3", "4", "5", "6", "7"], 1],
    ]


@both
def test_a_reload_while_it_waits_loses_nothing(front: Front, comfy: Comfy) -> None:
    """After a browser reload mark and panel are back, and a click still works."""
    front.load_example()
    run = front.run()
    [gate] = comfy.waiting(run)
    front.see_mark(True)
    front.until_kept("ImageGate")
    front.open()
    front.see_mark(True)
    assert [waiting["id"] for waiting in comfy.gates(run)] == [gate["id"]]
    expect(front.panel().locator("#ig-route-2")).to_have_text("2 · fix")
    front.click_route(2)
    outputs = comfy.finished(run).outputs
    assert "4" in outputs
    assert "3" not in outputs
    front.see_mark(False)


@both
def test_the_mark_goes_when_the_prompt_is_cancelled(front: Front, comfy: Comfy) -> None:
    """ComfyUI's cancel takes the mark off the node, and the panel says that nothing waits."""
    front.load_example()
    run = front.run()
    front.see_mark(True)
    comfy.interrupt()
    assert comfy.finished(run).interrupted
    front.see_mark(False)
    expect(front.panel().locator("#ig-route-1")).to_be_hidden()


@both
def test_a_gate_in_a_subgraph_marks_the_outside_too(front: Front, comfy: Comfy) -> None:
    """The subgraph's node is marked outside; inside, the gate is, and shows its panel."""
    front.load_example()
    front.do(
        "(() => { const made = app.canvas.graph.convertToSubgraph(new Set([live.node(2)]));"
        " live.outer = made.node; })()"
    )
    assert front.do("live.outputs([...live.outer.subgraph.nodes][0])") == ["mask", "keep", "fix"]
    run = front.run()
    [gate] = comfy.waiting(run)
    assert re.fullmatch(r"\d+:\d+", gate["node_id"])
    front.see_mark(True)
    shot = f"subgraph-{'vue' if front.vue else 'canvas'}-{comfy.version}"
    front.shot(f"{shot}-outside")
    front.do("app.canvas.openSubgraph(live.outer.subgraph, live.outer)")
    expect(front.panel().locator("#ig-route-1")).to_have_text("1 · keep")
    front.see_mark(True)
    front.shot(f"{shot}-inside")
    front.click_route(2)
    assert "4" in comfy.finished(run).outputs
    front.see_mark(False)


@both
def test_a_gate_of_another_workflow_marks_nothing_here(front: Front, comfy: Comfy) -> None:
    """A node of the same id in another workflow waits: a toast says so, this workflow is left."""
    front.load_example()
    gate = node("ImageGate", image=["1", 0], routes=2)
    prompt = {"1": node("LoadImage", image="example.png"), "2": gate}
    prompt["3"] = node("PreviewImage", images=["2", 1])
    comfy.queue(prompt, workflow={"id": "of-another-tab", "nodes": []})
    front.see_toast("An image waits for you")
    assert not front.marked()
    assert front.page.locator("iframe").count() == 0


@both
def test_the_menu_opens_the_panel_in_a_tab(front: Front) -> None:
    """The node's context menu has "Open panel"; it shows what waits at that node."""
    front.load_example()
    workflow = front.do("live.root().id")
    at = front.do(f"live.screen({GATE}, 60, -12)")
    front.page.mouse.click(*at, button="right")
    with front.page.expect_popup() as popup:
        front.page.get_by_text("Open panel", exact=True).click()
    popup.value.wait_for_url(f"**/imagegate/?node=2&workflow={workflow}")


def test_many_gates_at_once_are_said_once(front: Front, comfy: Comfy, name: str) -> None:
    """The items of a list make one toast, not one each."""
    sink = node("LiveSink", name=name, image=["2", 1])
    images = node("LiveImages", seed=1, count=5)
    gate = node("ImageGate", image=["1", 0], routes=1)
    run = comfy.queue({"1": images, "2": gate, "3": sink})
    front.see_toast("5 images wait for you")
    expect(front.page.locator(TOAST)).to_have_count(1)
    comfy.stop(comfy.waiting(run, 5)[0])


def _double_click_output(front: Front, index: int) -> Locator:
    """The dialog it opens. On a busy machine two clicks can be too slow to be a double one."""
    dialog = front.page.get_by_role("dialog")

    def opened() -> bool:
        if front.vue:
            slots = front.page.locator('[data-node-id="2"] .lg-slot--output')
            slots.nth(index).locator("span").dblclick()
        else:
            front.page.mouse.dblclick(*front.do(f"live.slot({GATE}, {index})"))
        with suppress(PlaywrightTimeoutError):
            dialog.wait_for(timeout=2000)
        return dialog.is_visible()

    until(opened, "dialog")
    return dialog


def _step(front: Front, by: int) -> None:
    """Click an arrow of the `routes` widget."""
    before = front.do(f"live.widget({GATE}, 'routes').value")
    if front.vue:
        side = "increment" if by > 0 else "decrement"
        front.page.locator(f'[data-node-id="2"] [data-testid="{side}"]').first.click()
    else:
        # Not twice at one point: two quick clicks there are a double click, which steps once.
        inset = 18 if before % 2 else 34
        left = f"width - {inset}" if by > 0 else str(inset)
        at = front.do(
            f"(() => {{ const n = {GATE}, width = n.size[0];"
            f" return live.screen(n, {left}, live.widget(n, 'routes').y + 10); }})()"
        )
        front.page.mouse.click(*at)
    front.see(f"live.widget({GATE}, 'routes').value", before + by, "routes")


PALETTES = {"light": False, "dark": True, "mine": False, "nord": True}


@both
def test_the_panel_has_the_palette_of_comfyui(front: Front, comfy: Comfy) -> None:
    """Whatever palette is chosen, ComfyUI's or one's own, the panel is as dark or light at once."""
    mine = {"id": "mine", "name": "Mine", "light_theme": True, "colors": {}}
    mine["colors"] = {"node_slot": {}, "litegraph_base": {}, "comfy_base": {"bg-color": "#ffffe0"}}
    comfy.http.post("/settings/Comfy.CustomColorPalettes", content=json.dumps({"mine": mine}))
    front.open()
    front.load_example()
    front.run()
    title = front.panel().locator("#ig-title")
    expect(title).to_contain_text("Keep or fix?")
    for palette, dark in PALETTES.items():
        front.do("(id) => app.extensionManager.setting.set('Comfy.ColorPalette', id)", palette)

        def agrees(dark: bool = dark) -> bool:
            ink = title.evaluate("(title) => getComputedStyle(title).color")
            return bool((sum(map(int, re.findall(r"\d+", ink)[:3])) > 384) == dark)

        until(agrees, f"panel as the palette {palette}")
    front.do("app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
