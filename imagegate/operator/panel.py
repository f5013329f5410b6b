"""The panel's page: Gradio Blocks that hold one `GatePanel`, mounted on the REST app.

Of Gradio's own calls only those go through that the page makes itself.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.bus import Bus, Records
from ..core.origins import PAGE_HEADER
from ..http.access import Door
from ..http.answers import SessionProgress
from ..http.paths import PREFIX
from ..share.share import Share
from .editor_calls import EditorCalls
from .page_files import add_page
from .rest import create_app
from .uploads import Uploads

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr  # reads the setting above when it is imported
from gradio.routes import App as GradioApp
from gradio.utils import get_upload_folder

from .gate_panel import GatePanel

log = logging.getLogger("imagegate")

Headers = list[tuple[bytes, bytes]]

NOWHERE = b"imagegate.invalid"
"""The only host that Gradio knows, and writes into its answers; see `_PageOnly`."""

# Relative to the page, which may be behind a path of somebody's proxy.
_HEAD = """<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="page/shared/tokens.css">
<link rel="stylesheet" href="page/operator/page.css">
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
    add_page(app)
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


def _blocks(bus: Bus) -> tuple[gr.Blocks, dict[int, str]]:
    """A page that is all panel; and what each of its events does, by the event's number."""
    with gr.Blocks(
        title="Image Gate", fill_width=True, analytics_enabled=False, delete_cache=(600, 3600)
    ) as blocks:
        panel = GatePanel(bus, url="")
    return blocks, panel.editor_events


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
    _ROOT = re.compile(rb'(const root = )"http://%s%s"' % (re.escape(NOWHERE), PREFIX.encode()))
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
        body = self._ROOT.sub(rb'\1"."', body)
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
