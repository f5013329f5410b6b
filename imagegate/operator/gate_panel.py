"""The panel as a Gradio component, for any Gradio app.

What has to be fast and never lose a click (image, routes, keys, news) is `page/operator/panel.js`
over REST. It listens on the elements that Gradio generates here; only the mask editor has events of
Gradio's own.
"""

from __future__ import annotations

import logging
from abc import ABCMeta
from typing import Any

import gradio as gr
from gradio.component_meta import ComponentMeta

from ..core.bus import Bus
from ..core.model import MAX_ROUTES, ImageGateError
from ..http.paths import PAGES
from .mask_editor import brush, open_editor, save_editor

log = logging.getLogger("imagegate")

LONGEST_NOTE = 2000
LONGEST_NAME = 100

_STAGE = (PAGES / "operator" / "stage" / "stage.html").read_text("utf-8")

_CSS = "#ig-bottom:not(.ig-drawn) { visibility: hidden; }"
"""Until the script has given the buttons their words; all other rules are in `panel.css`."""

_SCRIPT = """
const own = props.url === "";
const page = location.href.split(/[?#]/)[0].replace(/\\/?$/, "/");
const home = own ? page : new URL(props.url.replace(/\\/?$/, "/"), page);
const styles = ["shared/tokens.css", "operator/panel.css", "operator/share/share.css"];
for (const name of own ? [] : styles) {
  const href = new URL(`page/${name}`, home).href;
  document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href }));
}
import(new URL("page/operator/panel.js", home)).then(({ start }) => start({ own, ...props }));
"""

_PRIVATE: dict[str, Any] = {
    "queue": False,
    "api_visibility": "private",
    "show_progress": "hidden",
}


class _NoStub(ComponentMeta):
    """Makes the class alone. Gradio's own metaclass also writes a ``.pyi`` beside its source."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> type:
        return ABCMeta.__new__(cls, name, bases, attributes)


class GatePanel(gr.HTML, metaclass=_NoStub):
    """Shows the gate in front, with the buttons to decide it, the mask editor and the history.

    Put it inside a `gr.Blocks`, once on a page, and serve what its script calls with
    `imagegate.operator.mount_gates`.

    Args:
        bus: whose gates are shown; masks are saved here.
        url: where `mount_gates` serves, as the browser sees it: a path, or a URL relative to the
            page. Empty: the page itself is Image Gate's own, and lies there.
        node: only this node's gates; all by default.
        workflow: only this workflow's gates; all by default.
        embed: the compact panel, without names, history and store.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        url: str = "/imagegate/",
        node: str = "",
        workflow: str = "",
        embed: bool = False,
    ) -> None:
        super().__init__(
            html_template=_STAGE,
            css_template=_CSS,
            js_on_load=_SCRIPT,
            apply_default_css=False,
            elem_id="ig-panel",
            url=url,
            node=node,
            workflow=workflow,
            embed=embed,
        )
        with self:
            editor = gr.ImageEditor(
                type="pil",
                image_mode="RGBA",
                format="png",
                sources=(),
                transforms=(),
                layers=False,
                brush=brush(32),
                eraser=gr.Eraser(default_size=32),
                buttons=["fullscreen"],
                show_label=False,
                container=False,
                interactive=True,
                visible=False,
                elem_id="ig-editor",
            )
            with gr.Column(elem_id="ig-bottom"):
                _controls()
            self.editor_events = _editor_events(bus, editor)
            """What each event of the mask editor does, by Gradio's number."""

    def get_block_name(self) -> str:
        """Gradio's page draws it as what it is made of."""
        return "html"


def _controls() -> None:
    """Everything to click and to write into; the page's script listens, and puts the words in."""
    with gr.Row(elem_id="ig-routes"):
        for route in range(1, MAX_ROUTES + 1):
            gr.Button(str(route), variant="primary", elem_id=f"ig-route-{route}")
    with gr.Row(elem_id="ig-tools", elem_classes="ig-row"):
        gr.Button("Paint mask", elem_id="ig-mask-edit")
        gr.Button("Save mask", variant="primary", elem_id="ig-mask-save", elem_classes="ig-primary")
        gr.Button("Cancel", elem_id="ig-mask-cancel")
        gr.Button("Clear mask", elem_id="ig-mask-clear")
        gr.Button("Zoom", elem_id="ig-zoom")
        _html('<a id="ig-full" download>Full size</a>', "ig-full-box")
        gr.Button("Skip", elem_id="ig-skip")
        gr.Button("Undo", elem_id="ig-undo")
        gr.Button("Stop", variant="stop", elem_id="ig-stop")
    with gr.Row(elem_id="ig-words", elem_classes="ig-row"):
        _field("Note", "Note to go with the decision", LONGEST_NOTE, "off", "ig-note-box")
        _field("Your name", "Your name", LONGEST_NAME, "nickname", "ig-name-box")
    _html(_SAID, "ig-said-box")
    with gr.Accordion("History", open=True, elem_id="ig-past"):
        _html('<ol id="ig-history"></ol>', "ig-history-box")
    _html(
        '<div id="ig-store" hidden><span></span><ul aria-label="Who shares the store"></ul></div>',
        "ig-store-box",
    )


_SAID = """<div class="ig-said">
  <p id="ig-status" role="status" aria-live="polite"></p>
  <p class="ig-keys"><kbd>1</kbd>–<kbd>9</kbd>, <kbd>0</kbd> routes · <kbd>M</kbd> mask ·
    <kbd>N</kbd> skip · <kbd>U</kbd> undo · <kbd>Space</kbd> zoom</p>
</div>"""


def _html(html: str, elem_id: str) -> None:
    gr.HTML(html, js_on_load=None, apply_default_css=False, elem_id=elem_id)


def _field(label: str, placeholder: str, longest: int, autocomplete: str, elem_id: str) -> None:
    gr.Textbox(
        label=label,
        placeholder=placeholder,
        max_length=longest,
        lines=1,
        max_lines=1,
        show_label=False,
        container=False,
        interactive=True,
        html_attributes=gr.InputHTMLAttributes(autocomplete=autocomplete),
        elem_id=elem_id,
    )


def _editor_events(bus: Bus, editor: gr.ImageEditor) -> dict[int, str]:
    """The mask editor opens, saves and closes by buttons that the page's script presses."""
    target = gr.Textbox(visible="hidden", elem_id="ig-edit-target")
    draft = gr.Textbox(visible="hidden", elem_id="ig-edit-draft")
    result = gr.Textbox(visible="hidden", elem_id="ig-edit-result")
    opens = gr.Button(visible="hidden", elem_id="ig-edit-open")
    saves = gr.Button(visible="hidden", elem_id="ig-edit-save")
    closes = gr.Button(visible="hidden", elem_id="ig-edit-close")

    def open_for(wanted: str, draft: str) -> Any:
        try:
            return open_editor(bus, wanted, draft)
        except ImageGateError as error:  # the gate went while the click was on its way
            log.debug("the editor does not open: %s", error)
            return gr.update(visible=False)

    def save_for(wanted: str, value: dict[str, Any] | None) -> str:
        return save_editor(bus, wanted, value)

    opened = opens.click(
        open_for,
        [target, draft],
        [editor],
        js="() => [imageGate.target(), imageGate.draft()]",
        **_PRIVATE,
    )
    opened.then(None, None, None, js="() => imageGate.opened()")
    saved = saves.click(
        save_for,
        [target, editor],
        [result],
        js="(_, value) => [imageGate.target(), value]",
        **_PRIVATE,
    )
    saved.then(None, [result], None, js="(result) => imageGate.saved(result)")
    closed = closes.click(lambda: gr.update(visible=False), None, [editor], **_PRIVATE)
    named = {"open": opened, "save": saved, "close": closed}
    return {event["id"]: name for name, event in named.items()}
