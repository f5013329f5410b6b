"""ComfyUI's side of the web: the panel behind ComfyUI's own port, and notices to its front end.

With `imagegate.comfy.port.users` the only module that knows ComfyUI's web framework, aiohttp.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import Any, Protocol

import aiohttp
from aiohttp import web
from yarl import URL

from ...core.failures import report_failure
from ...core.model import ALL, ImageGateError, Snapshot, State, StoreError, UnknownGate
from ...core.news import Subscription
from ...core.origins import CORS, Origins
from ...core.settings import read_notice_settings
from ...http.access import KEY_HEADER
from ...http.headers import error_page, wants_page
from ...http.paths import PREFIX
from ...notify.notices import Notices
from ...operator.service import PanelUnavailable, Service
from ...storage.sql.deadline import SOON, limited
from ...storage.sql_storage import SqlStorage
from ..host import multi_user
from ..parked.queue import ComfyQueue, panel_address
from ..parked.resume import Resumer
from .users import follow_users, is_for, user_of

log = logging.getLogger("imagegate")

MARKED = 200
"""Gates that ComfyUI's page hears of when it is loaded, at most."""
READ = 500
"""Gates read from the store at a time."""
PROBE = 10.0
"""Seconds in which a server that dropped a request has to answer another one."""
SILENT = 30.0
"""Seconds of silence after which an event stream is dead; it gives a sign of life every 5."""

# RFC 9110, section 7.6.1: these concern one connection and are not passed on.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_ADDED_BY_AIOHTTP = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


class PromptServer(Protocol):
    """What is used of ComfyUI's ``server.PromptServer``."""

    routes: web.RouteTableDef
    app: web.Application

    def send_sync(self, event: str, data: Any, sid: str | None = None) -> None:
        """Send to one client's websocket, or to all; may be called from any thread."""


def attach(server: PromptServer, service: Service) -> None:
    """Give ComfyUI the routes ``/imagegate/...`` and send its clients news of gates.

    ComfyUI takes routes only while it loads its packs. Nothing is started by this; parked gates go
    on, and people are notified of those that wait, once ComfyUI itself has started.
    """
    entrance = _Entrance(service)
    several = multi_user()
    if several:
        follow_users(server)
    proxy = _Proxy(service, entrance)

    @server.routes.get(f"{PREFIX}/notices")
    async def notices(request: web.Request) -> web.Response:
        """The gates that wait, for a page that was just loaded, or those that it had news of.

        Never starts the panel.
        """
        if refused := entrance.refuse(request):
            return refused
        ids = request.query.get("ids")
        try:
            with limited(SOON):
                if ids is None:
                    key, gates = "waiting", await asyncio.to_thread(_waiting, service.storage)
                else:
                    named = ids.split(",")
                    key, gates = "gates", await asyncio.to_thread(_named, service.storage, named)
        except ImageGateError as error:
            return web.json_response({"error": str(error)}, status=503)
        if several:
            user = user_of(request.headers)
            gates = [gate for gate in gates if is_for(user, gate.gate.workflow_id)]
        return web.json_response({key: [gate.to_json() for gate in gates]})

    @server.routes.route("*", PREFIX)
    async def home(request: web.Request) -> web.Response:
        if refused := entrance.refuse(request):
            return refused
        # Relative, because ComfyUI may itself be behind a path of somebody's proxy.
        raise web.HTTPPermanentRedirect(URL("imagegate/").with_query(request.query))

    server.routes.route("*", PREFIX + "/{tail:.*}")(proxy.forward)
    server.app.on_response_prepare.append(_to_no_other_origin)
    _announce(server, service)

    async def go_on(_: web.Application) -> None:
        # What was decided while this worker was away goes on, even with no page open.
        Resumer(service.bus, service.storage, ComfyQueue(server)).start()
        service.share.start_with(service.bus.subscribe, lambda: service.storage.opened)
        try:
            settings = read_notice_settings()
        except StoreError as error:  # a gate waits as well without
            report_failure("no notices are sent", error, level=logging.ERROR)
        else:
            Notices(service.bus, service.storage, settings, lambda: panel_address(server)).start()

    server.app.on_startup.append(go_on)


class _Entrance:
    """Checks every call of the pack at ComfyUI's port."""

    def __init__(self, service: Service) -> None:
        self._origins = Origins(service.names)

    def refuse(self, request: web.Request) -> web.Response | None:
        """The answer to a call that is refused, or None; see `Origins`."""

        def values(name: str) -> list[str]:
            return request.headers.getall(name, [])

        why = self._origins.refusal(request.method, values, tls=request.secure)
        if not why:
            return None
        call = request.path.partition(PREFIX)[2].startswith(("/api/", "/notices"))
        if not call and wants_page(values("accept")):
            body, headers = error_page(why)
            return web.Response(status=403, body=body, headers=headers)
        return web.json_response({"error": why}, status=403)


async def _to_no_other_origin(request: web.Request, response: web.StreamResponse) -> None:
    """``--enable-cors-header`` opens ComfyUI to pages of other origins, and not the panel."""
    path = request.path.removeprefix("/api")
    if path == PREFIX or path.startswith(f"{PREFIX}/"):
        for name in [name for name in response.headers if name.lower().startswith(CORS)]:
            del response.headers[name]


def _waiting(storage: SqlStorage) -> list[Snapshot]:
    """What waits for the people at this ComfyUI; a shared store may hold more."""
    # A page that is merely opened does not make a store.
    if not (storage.opened or storage.exists()):
        return []
    found: list[Snapshot] = []
    page = storage.pending(READ, 0, ALL)
    while page:
        found += [gate for gate in page if gate.gate.worker == storage.store.name]
        found.sort(key=lambda gate: gate.state is not State.WAITING)  # it holds the queue up
        del found[MARKED:]
        page = storage.pending(READ, page[-1].seq, ALL)
    return found


def _named(storage: SqlStorage, ids: list[str]) -> list[Snapshot]:
    """The gates of this ComfyUI with these ids, in whatever state they are."""
    if not (storage.opened or storage.exists()):
        return []
    found = []
    for gate_id in ids[:MARKED]:
        with suppress(UnknownGate):
            found.append(storage.get(gate_id))
    return [gate for gate in found if gate.gate.worker == storage.store.name]


def _announce(server: PromptServer, service: Service) -> Subscription:
    in_order = threading.Lock()  # two threads may have news at the same time

    def notify() -> None:
        with in_order:
            news, _ = subscription.drain()  # drained at once, so none is ever lost
            for item in news:
                if item.kind != "masked" and item.gate.gate.worker == service.storage.store.name:
                    server.send_sync(f"imagegate.{item.kind}", _public_part(item.gate))

    subscription = service.bus.subscribe(notify)
    return subscription


def _public_part(gate: Snapshot) -> dict[str, str]:
    """What the websocket may carry of a gate: ComfyUI lets pages of other origins listen to it."""
    whole = gate.to_json()
    return {key: whole[key] for key in ("id", "node_id", "state")}


class _Proxy:
    """Streams requests to the panel's loopback port, and answers back, byte by byte."""

    def __init__(self, service: Service, entrance: _Entrance) -> None:
        self._service = service
        self._entrance = entrance
        self._session: aiohttp.ClientSession | None = None

    async def forward(self, request: web.Request) -> web.StreamResponse:
        if refused := self._entrance.refuse(request):
            return refused
        for again in (True, False):
            try:
                # Already running, so a browser that goes away cannot cancel it for the others.
                base = await asyncio.wrap_future(self._service.start())
            except PanelUnavailable as error:
                return web.json_response({"error": str(error)}, status=503)
            try:
                return await self._stream(request, URL(base + _path(request), encoded=True))
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                # Nothing was sent yet, so that it can be sent to the server that comes after.
                log.debug("the panel's server cannot be reached: %r", error)
                self._service.replace(base)
                if again:
                    continue
            except aiohttp.ClientConnectionError as error:
                report_failure("the panel did not answer", error, outside=(aiohttp.ClientError,))
                if not await self._answers(base):
                    self._service.replace(base)
            break
        return web.json_response({"error": "the panel did not answer"}, status=502)

    async def _answers(self, base: str) -> bool:
        """Whether a server that has dropped a request still answers another one."""
        probe = self._client().get(base, timeout=aiohttp.ClientTimeout(total=PROBE))
        try:
            async with probe:
                return True  # whatever it says
        except (aiohttp.ClientError, asyncio.TimeoutError):
            return False

    async def _stream(self, request: web.Request, url: URL) -> web.StreamResponse:
        headers = _end_to_end(request.headers)
        headers[KEY_HEADER] = self._service.key
        headers.setdefault("X-Forwarded-Proto", request.scheme)
        async with self._client().request(
            request.method,
            url,
            headers=headers,
            data=request.content if request.body_exists else None,
            allow_redirects=False,
            # Else an answer could be compressed for a client that never said it can read that.
            skip_auto_headers=_ADDED_BY_AIOHTTP,
        ) as answer:
            response = web.StreamResponse(status=answer.status, headers=_end_to_end(answer.headers))
            await response.prepare(request)
            silent = SILENT if answer.content_type == "text/event-stream" else None
            try:
                while chunk := await asyncio.wait_for(answer.content.readany(), silent):
                    await response.write(chunk)
                await response.write_eof()
            except (ConnectionResetError, aiohttp.ClientError, asyncio.TimeoutError) as error:
                # One side went. Closing `answer` shows the panel that; the browser is cut off.
                log.debug("%s was cut off: %s", request.path, error)
                if request.transport is not None:
                    request.transport.abort()
            return response

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                auto_decompress=False,
                # Event streams stay open for as long as a page does.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=15),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


def _path(request: web.Request) -> str:
    # Everything is served below /api too by ComfyUI; the panel knows one prefix only. The raw
    # path is used, so that what is percent-encoded stays so.
    _, found, tail = request.raw_path.partition(PREFIX)
    if not found:  # the prefix itself was written with escapes
        raise web.HTTPNotFound
    return PREFIX + tail


def _end_to_end(headers: Any) -> Any:
    connection = ",".join(headers.getall("Connection", []))
    named = {name.strip().lower() for name in connection.split(",")}
    kept = headers.copy()
    for name in {name for name in kept if name.lower() in _HOP_BY_HOP | named | {KEY_HEADER}}:
        kept.popall(name)
    return kept
