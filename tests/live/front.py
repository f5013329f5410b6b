"""ComfyUI's own page in Chromium, as the live tests work with it."""

from __future__ import annotations

import io
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import FrameLocator, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

from tests.live.comfyui import Comfy, until

EXAMPLE = "/api/workflow_templates/imagegate/keep_or_fix.json"
MARK_COLOR = (0xF5, 0xA5, 0x24)
PARKED_COLOR = (0xA9, 0x9C, 0xF5)
GATE = "live.node(2)"  # of the example workflow
TOAST = '.p-toast-message, [data-testid="toast"]'  # before 1.58, and since
both = pytest.mark.parametrize("front", ["canvas", "vue"], indirect=True)

# What the tests ask of ComfyUI's page. `app` is its public object, the graph what extensions use.
LIVE_JS = """
window.api ??= window.comfyAPI?.api?.api ?? app.api;
window.live = {
  root: () => app.rootGraph ?? app.graph,
  node: (id) => live.root().getNodeById(id),
  outputs: (node) => node.outputs.map((slot) => slot.label ?? slot.name),
  linked: (node) => node.outputs.map((slot) => slot.links?.length ?? 0),
  widget: (node, name) => node.widgets.find((widget) => widget.name === name),
  // Where a point of a node, given in the graph's units, is on the screen.
  screen: (node, x, y) => {
    const { ds, canvas } = app.canvas;
    const { left, top } = canvas.getBoundingClientRect();
    return [left + (node.pos[0] + x + ds.offset[0]) * ds.scale,
            top + (node.pos[1] + y + ds.offset[1]) * ds.scale];
  },
  slot: (node, index) => {
    const [x, y] = node.getOutputPos(index);
    return live.screen(node, x - node.pos[0], y - node.pos[1]);
  },
};
"""


class Front:
    """ComfyUI's front end in one tab."""

    def __init__(self, page: Page, comfy: Comfy, vue: bool, shots: Path) -> None:
        self.page = page
        self.comfy = comfy
        self.vue = vue
        self.shots = shots
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self._complain(f"{error.message}\n{error.stack}"))
        page.on("console", lambda line: self._complain(f"{line.text} {line.location}", line.type))

    def _complain(self, text: str, kind: str = "error") -> None:
        if "/imagegate/assets/" in text or "GL Driver Message" in text:
            return  # Gradio's mask editor has its own troubles, and so has a machine without a GPU
        if kind in ("error", "warning") and re.search("image_gate|imagegate|ImageGate", text):
            self.complaints.append(text)

    def open(self) -> None:
        """Open, or reload, the page and wait until it can be worked with."""
        self.page.goto(self.comfy.url)
        self.page.wait_for_function("window.app?.canvas?.graph && app.extensionManager?.toast")
        self.page.evaluate(LIVE_JS)
        expect(self.page.locator(".p-blockui-mask, .p-progressspinner")).to_have_count(0)

    def do(self, script: str, argument: Any = None) -> Any:
        """Evaluate in the page."""
        return self.page.evaluate(script, argument)

    def see(self, script: str, wanted: Any, what: str) -> None:
        """Wait until an expression has a value."""
        seen: list[Any] = []

        def probe() -> bool:
            seen[:] = [self.do(script)]
            return bool(seen[0] == wanted)

        try:
            until(probe, what, within=10)
        except AssertionError as error:
            raise AssertionError(f"{error}: {seen[0]!r} is not {wanted!r}") from None

    def load_example(self) -> None:
        """Open the example workflow, as the template browser does."""
        self.do(f"fetch('{EXAMPLE}').then((r) => r.json()).then((w) => app.loadGraphData(w))")
        self.see(f"{GATE}?.type", "ImageGate", "example workflow")
        self.see_outputs(["mask", "keep", "fix"])

    def see_outputs(self, wanted: list[str], of: str = GATE) -> None:
        """The outputs of a gate node, by what the user reads on them."""
        self.see(f"live.outputs({of})", wanted, "outputs")
        if self.vue and of == GATE:
            slots = self.page.locator('[data-node-id="2"] .lg-slot--output')
            expect(slots).to_have_text(wanted)

    def queue(self) -> str:
        """Queue as ComfyUI's button does; returns the prompt's id, maybe before it runs."""
        return str(self.do("app.graphToPrompt().then((p) => api.queuePrompt(0, p))")["prompt_id"])

    def switch_tab(self, by: int) -> None:
        """Go to the next (+1) or the previous (-1) workflow tab."""
        command = "Next" if by > 0 else "Previous"
        self.do(f"app.extensionManager.command.execute('Workspace.{command}OpenedWorkflow')")

    def run(self) -> str:
        """Queue with the key that ComfyUI has for it; returns the prompt's id."""
        before = {gate["prompt_id"] for gate in self.comfy.gates()}
        self.page.keyboard.press("Control+Enter")
        [gate] = until(
            lambda: [g for g in self.comfy.gates() if g["prompt_id"] not in before], "gate"
        )
        return str(gate["prompt_id"])

    def see_toast(self, text: str) -> None:
        """Wait until one of ComfyUI's toasts says this."""
        expect(self.page.locator(TOAST).filter(has_text=text)).to_be_visible()

    def panel(self) -> FrameLocator:
        """The panel inside the node."""
        return self.page.frame_locator('iframe[title="Image Gate"]')

    def click_route(self, number: int) -> None:
        """Click a route in the panel, again if it was too soon.

        The panel ignores clicks on what has only just appeared.
        """
        waiting = len(self.comfy.gates())
        button = self.panel().locator(f"#ig-route-{number}")
        expect(button).to_be_visible()
        for _ in range(10):
            with suppress(PlaywrightTimeoutError):  # it went: the click before is on its way
                button.click(timeout=1000)
            with suppress(AssertionError):
                until(lambda: len(self.comfy.gates()) < waiting, "decision", within=1)
                return
        raise AssertionError(f"route {number} was clicked ten times, and nothing was decided")

    def marked(self, color: tuple[int, int, int] = MARK_COLOR) -> bool:
        """Whether something on the screen has the mark's color, as a person would see it."""
        pixels = np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"), int)
        return bool((np.abs(pixels - color).max(axis=2) <= 4).sum() > 300)

    def see_mark(self, there: bool, color: tuple[int, int, int] = MARK_COLOR) -> None:
        """Wait until the mark is there, or gone."""
        until(lambda: self.marked(color) is there, "mark" if there else "end of the mark")

    def shot(self, name: str) -> None:
        """A picture for a person to look at."""
        self.page.screenshot(path=self.shots / f"{name}.png")

    def until_kept(self, text: str) -> None:
        """Wait until ComfyUI has put the workflow as it is now where a reload finds it."""
        self.see(
            "Object.entries({...localStorage, ...sessionStorage})"
            f".some(([, kept]) => kept.includes({json.dumps(text)}))",
            True,
            "workflow kept by the browser",
        )
