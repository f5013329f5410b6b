"""The panel: Gradio Blocks around a page of our own, mounted on the REST app.

What has to be fast and never lose a click (image, routes, keys, news) is `page/operator/panel.js`
over REST; Gradio gives the frame, the theme and the mask editor. The only module that imports
gradio.
"""

from __future__ import annotations

import base64
import io
import logging
import mimetypes
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from PIL import Image
from starlette.middleware import Middleware
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.bus import Bus, Records
from ..core.model import Gate, ImageGateError
from ..core.origins import PAGE_HEADER
from ..http.access import Door
from ..http.answers import SessionProgress
from ..http.paths import PREFIX
from ..pictures.encode import PREVIEW_SIDE, encode_png, preview_size, read_mask, scale_mask
from ..pictures.masks import covered, save_painted, start_mask
from ..share.share import Share
from .editor_calls import EditorCalls
from .rest import create_app
from .uploads import Uploads

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # reads the setting above when it is imported
from gradio.routes import App as GradioApp
from gradio.utils import get_upload_folder

log = logging.getLogger("imagegate")

Headers = list[tuple[bytes, bytes]]

PAGE = Path(__file__).parents[1] / "page"
NOWHERE = b"imagegate.invalid"
"""The only host that Gradio knows, and writes into its answers; see `_PageOnly`."""

# Layers of Gradio's editor are RGBA; painted is white at this alpha, so that the image shows
# through. Strokes have soft edges: from half of it on a pixel counts as painted.
PAINT_ALPHA = 153

# Relative to the page, which may be behind a path of somebody's proxy.
_HEAD = """<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="page/operator/panel.css">
<link rel="stylesheet" href="page/operator/share/share.css">
<script type="module">
import(new URL("page/operator/panel.js", location.href.split(/[?#]/)[0].replace(/\\/?$/, "/")));
</script>"""


def create_panel(
    bus: Bus,
    door: Door,
    progress: SessionProgress | None = None,
    records: Records | None = None,
    share: Share | None = None,
) -> FastAPI:
    """The whole ASGI app under `imagegate.operator.rest.PREFIX`: REST and panel.

    Args:
        door: who may enter.
        progress: what a folder session says of itself.
        records: what a store knows beyond the bus.
        share: the links that can be made here.
    """
    app = create_app(bus, door, progress, records, share)
    # A Windows registry may call it plain text, which no browser runs as a module.
    mimetypes.add_type("text/javascript", ".js")
    app.mount(f"{PREFIX}/page", _Page(directory=PAGE))
    blocks, events = _blocks(bus)
    uploads = Uploads(Path(get_upload_folder()))
    app.state.uploads = uploads
    app.user_middleware += [  # innermost: behind the guard
        Middleware(_PageOnly),
        Middleware(EditorCalls, uploads=uploads, events=events),
    ]
    for block in (blocks, *blocks.blocks.values()):
        block.GRADIO_CACHE = str(uploads.folder)
    whole: FastAPI = gr.mount_gradio_app(
        app,
        blocks,
        path=PREFIX,
        root_path=PREFIX,
        theme=_theme(),
        head=_HEAD,
        ssr_mode=False,
        footer_links=[],
        max_file_size="32mb",
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,
    )
    for route in whole.routes:
        if isinstance(route, Mount) and isinstance(route.app, GradioApp):
            route.app.uploaded_file_dir = str(uploads.folder)
    return whole


def _theme() -> gr.themes.Base:
    # System fonts only: a studio's machine may see no other network.
    return gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )


def _blocks(bus: Bus) -> tuple[Any, dict[int, str]]:
    """Two places that the page fills, and between them the editor, there while somebody paints.

    Also what each event does that the server hears of, by its number.
    """
    private: dict[str, Any] = {
        "queue": False,
        "api_visibility": "private",
        "show_progress": "hidden",
    }
    with gr.Blocks(
        title="Image Gate", fill_width=True, analytics_enabled=False, delete_cache=(600, 3600)
    ) as blocks:
        gr.HTML('<div id="ig-top"></div>', js_on_load=None, apply_default_css=False)
        editor = gr.ImageEditor(
            type="pil",
            image_mode="RGBA",
            format="png",
            sources=(),
            transforms=(),
            layers=False,
            brush=_brush(32),
            eraser=gr.Eraser(default_size=32),
            buttons=["fullscreen"],
            show_label=False,
            container=False,
            interactive=True,
            visible=False,
            elem_id="ig-editor",
        )
        gr.HTML('<div id="ig-bottom"></div>', js_on_load=None, apply_default_css=False)
        target = gr.Textbox(visible="hidden", elem_id="ig-edit-target")
        draft = gr.Textbox(visible="hidden", elem_id="ig-edit-draft")
        result = gr.Textbox(visible="hidden", elem_id="ig-edit-result")
        opens = gr.Button(visible="hidden", elem_id="ig-edit-open")
        saves = gr.Button(visible="hidden", elem_id="ig-edit-save")
        closes = gr.Button(visible="hidden", elem_id="ig-edit-close")

        def open_editor(wanted: str, draft: str) -> Any:
            try:
                return _open_editor(bus, wanted, draft)
            except ImageGateError as error:  # the gate went while the click was on its way
                log.debug("the editor does not open: %s", error)
                return gr.update(visible=False)

        def save_editor(wanted: str, value: dict[str, Any] | None) -> str:
            return _save_editor(bus, wanted, value)

        opened = opens.click(
            open_editor,
            [target, draft],
            [editor],
            js="() => [imageGate.target(), imageGate.draft()]",
            **private,
        )
        opened.then(None, None, None, js="() => imageGate.opened()")
        saved = saves.click(
            save_editor,
            [target, editor],
            [result],
            js="(_, value) => [imageGate.target(), value]",
            **private,
        )
        saved.then(None, [result], None, js="(result) => imageGate.saved(result)")
        closed = closes.click(lambda: gr.update(visible=False), None, [editor], **private)
    named = {"open": opened, "save": saved, "close": closed}
    return blocks, {event["id"]: name for name, event in named.items()}


def _brush(size: int) -> gr.Brush:
    """White, and nothing else. ``size``: the brush's radius in pixels of the canvas."""
    white = ("#ffffff", PAINT_ALPHA / 255)
    return gr.Brush(colors=[white], default_color=white, default_size=size, color_mode="fixed")


def _open_editor(bus: Bus, wanted: str, draft: str = "") -> Any:
    """The editor over the preview of the image, with the mask so far as its layer.

    Args:
        wanted: gate id, image index, and ``blank`` to start from an empty mask.
        draft: strokes that were not saved, as the data URL of a PNG; they take the mask's place.
    """
    gate_id, index, how = _target(wanted)
    gate = bus.get(gate_id).gate
    pictures = bus.pictures(gate_id)
    if pictures is None:
        return gr.update(visible=False)
    size = preview_size(gate.width, gate.height)
    with Image.open(io.BytesIO(pictures.preview(index).body)) as preview:
        background = preview.convert("RGBA").resize(size)
    painted = np.zeros((size[1], size[0]), dtype=bool)
    before = _draft_mask(draft, gate)
    start = None if how == "blank" else start_mask(bus, pictures, gate_id, index)
    if before is None and start is not None:
        before = read_mask(start, gate.width, gate.height)
    if before is not None:
        painted = np.asarray(covered(scale_mask(before, *size))) > 0
    layer = np.zeros((size[1], size[0], 4), dtype=np.uint8)
    layer[painted] = (255, 255, 255, PAINT_ALPHA)
    # Always with a layer, an empty one too: without it Undo takes the background away.
    value = {"background": background, "layers": [Image.fromarray(layer)], "composite": None}
    radius = max(2, round(max(size) / 40))
    return gr.update(
        visible=True,
        canvas_size=size,
        value=value,
        brush=_brush(radius),
        eraser=gr.Eraser(default_size=radius),
    )


def _draft_mask(draft: str, gate: Gate) -> Image.Image | None:
    """The strokes that a page kept; None where it kept none, or what it sent is no mask."""
    if not draft:
        return None
    try:
        png = base64.b64decode(draft.partition(",")[2], validate=True)
        return read_mask(png, gate.width, gate.height, PREVIEW_SIDE**2)
    except (ValueError, ImageGateError):
        log.debug("strokes that a page kept are no mask for gate %s", gate.id)
        return None


def _save_editor(bus: Bus, wanted: str, value: dict[str, Any] | None) -> str:
    """Keep what was painted; returns ``saved`` and the target, or why it could not be kept."""
    try:
        gate_id, index, _ = _target(wanted)
        gate = bus.get(gate_id).gate
        size = preview_size(gate.width, gate.height)
        layers = (value or {}).get("layers") or []
        painted = np.zeros((size[1], size[0]), dtype=bool)
        for layer in layers:
            if layer.size != size:
                return f"the editor gave back {layer.size} pixels instead of {size}"
            painted |= np.asarray(layer.convert("RGBA"))[..., 3] * 2.0 >= PAINT_ALPHA
        mask = Image.fromarray(painted.astype(np.uint8) * 255)
        save_painted(bus, gate_id, index, encode_png(mask).body)
    except ImageGateError as error:
        return str(error)
    return f"saved {wanted}"


def _target(wanted: str) -> tuple[str, int, str]:
    gate_id, index, how = wanted.split(" ")[:3]
    return gate_id, int(index), how


class _Page(StaticFiles):
    """The page's own files, asked for anew each time: an update comes as a whole or not at all."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["cache-control"] = "no-cache"
        return response


class _PageOnly:
    """Lets through what Gradio's page itself asks for, and keeps the page to this server.

    Gradio's private events are not listed, but its ``/call`` and ``/run`` routes would still take
    them from anybody. Its page also names other servers, which are not to be asked.

    Gradio makes URLs from the Host header and others of a request, which proxies change, and
    allows pages of other origins to read its answers. It is shown none of these headers: the page
    says itself how the browser sees it (`page/operator/home.js`), and no other origin is known.
    """

    _USED = re.compile(
        # A file that is a URL would be answered by a redirect to it, wherever it leads.
        r"/gradio_api/(run/predict/?|upload/?|file=(?!https?:).*|heartbeat/\w+|app_id/?"
        r"|startup-events|theme\.css)$"
    )
    _UNUSED = re.compile(
        r"/(monitoring|pwa_icon|manifest\.json|openapi\.json|svelte|login|logout)(/|$)"
    )
    _ELSEWHERE = re.compile(
        rb'<link\s+rel="preconnect"[^>]*>|<script\s+src="https://[^>]*></script>'
        rb'|<link\s+rel="manifest"[^>]*>|<meta\s+(?:property|name)="(?:og|twitter):[^>]*>'
    )
    _FIRST = b'<script src="page/operator/home.js"></script></head>'
    _OURS = re.compile(rb'\b(src|href)="http://%s%s/' % (re.escape(NOWHERE), PREFIX.encode()))
    _POLICY = (
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        b"connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
        b"frame-ancestors 'self'; base-uri 'self'; form-action 'self'"
    )
    _HIDDEN = frozenset(
        {b"host", b"origin", b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server"}
    )
    _HOME = re.compile(rb"https?://[!#-\[\]-~]{1,2000}")
    """What may stand within a string of JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(f"{PREFIX}/"):
            await self._app(scope, receive, send)
            return
        path = scope["path"][len(PREFIX) :]
        if path.startswith(("/api/", "/page/")):
            await self._app(scope, receive, send)
            return
        strange = path.startswith("/gradio_api") and not self._USED.match(path)
        if strange or self._UNUSED.match(path):
            refusal = JSONResponse({"error": f"no {path!r} here; the API is REST"}, 404)
            await refusal(scope, receive, send)
            return
        hidden = self._HIDDEN
        change: Callable[[bytes], tuple[bytes, Headers]] | None = None
        if path == "/":
            change = self._clean
        elif path.startswith("/gradio_api/run/"):
            home = dict(scope["headers"]).get(PAGE_HEADER.encode(), b"")
            change = partial(self._locate, home if self._HOME.fullmatch(home) else PREFIX.encode())
        if change is not None:
            hidden = hidden | {b"accept-encoding"}  # else it could not be read here
            send = _Rewritten(send, change).send
        headers = [(name, value) for name, value in scope["headers"] if name not in hidden]
        headers.append((b"host", NOWHERE))
        await self._app({**scope, "scheme": "http", "headers": headers}, receive, send)

    def _clean(self, body: bytes) -> tuple[bytes, Headers]:
        body = self._ELSEWHERE.sub(b"", body).replace(b"</head>", self._FIRST, 1)
        body = self._OURS.sub(rb'\1="', body)  # the page's own address ends in a slash
        return body, [
            (b"content-security-policy", self._POLICY),
            (b"referrer-policy", b"same-origin"),
        ]

    def _locate(self, home: bytes, body: bytes) -> tuple[bytes, Headers]:
        """Files lie where the browser sees the page."""
        return body.replace(b"http://" + NOWHERE + PREFIX.encode(), home), []


class _Rewritten:
    """Collects a small response and sends it as ``change`` made it."""

    def __init__(self, send: Send, change: Callable[[bytes], tuple[bytes, Headers]]) -> None:
        self._send = send
        self._change = change
        self._start: Message = {}
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self._whole()

    async def _whole(self) -> None:
        body, more = self._change(self._body)
        kept = [(k, v) for k, v in self._start["headers"] if k.lower() != b"content-length"]
        length = (b"content-length", str(len(body)).encode())
        await self._send({**self._start, "headers": [*kept, length, *more]})
        await self._send({"type": "http.response.body", "body": body})
