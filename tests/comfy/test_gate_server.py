"""The panel behind ComfyUI's own port: a real aiohttp app before a real uvicorn."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from PIL import Image
from yarl import URL

from imagegate.comfy.port import pack as gate_server_module
from imagegate.comfy.port.pack import attach
from imagegate.core.model import Gate, State
from imagegate.core.pictures import Picture
from imagegate.http import events as events_module
from imagegate.http.access import KeyDoor
from imagegate.operator import service as service_module
from imagegate.operator.rest import create_app
from imagegate.operator.service import Service
from imagegate.pictures.encode import encode_png, encode_preview
from tests.conftest import Watch
from tests.support.stored import PATIENCE, storage_of, stored_bus, with_storage


class Photo:
    def preview(self, index: int) -> Picture:
        return encode_preview(Image.new("RGB", (8, 6)))

    def full(self, index: int) -> Picture:
        return encode_png(Image.new("RGB", (8, 6)))

    def start_mask(self, index: int) -> bytes | None:
        return None


class PromptServer:
    """What the proxy uses of ComfyUI's server."""

    def __init__(self) -> None:
        self.routes = web.RouteTableDef()
        self.app = web.Application()
        self.sent: list[tuple[str, Any]] = []

    def send_sync(self, event: str, data: Any, sid: str | None = None) -> None:
        self.sent.append((event, data))


def build(service: Service) -> FastAPI:
    """The REST app, and calls that show what arrives."""
    app = create_app(service.bus, KeyDoor(service.key))

    @app.api_route("/imagegate/echo/{tail:path}", methods=["GET", "POST", "PUT", "DELETE", "HEAD"])
    async def echo(request: Request) -> JSONResponse:
        body = await request.body()
        return JSONResponse(
            {
                "method": request.method,
                "raw_path": request.scope["raw_path"].decode(),
                "query": request.scope["query_string"].decode(),
                "headers": [[k.decode(), v.decode()] for k, v in request.headers.raw],
                "length": len(body),
            },
            headers={"x-answer": "yes", "keep-alive": "timeout=5", "proxy-authenticate": "x"},
        )

    @app.get("/imagegate/breaks")
    async def breaks() -> StreamingResponse:
        async def body() -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.sleep(0)
            server = next(s for s in SERVERS if s.started)
            for connection in list(server.server_state.connections):
                connection.transport.abort()
            yield b"never"

        return StreamingResponse(body())

    @app.get("/imagegate/cookies")
    async def cookies() -> Response:
        response = Response("x" * 5000, media_type="text/plain")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    return app


SERVERS: list[uvicorn.Server] = []


@pytest.fixture(autouse=True)
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[uvicorn.Server]]:
    """Every panel server that is started, ended with its test."""
    monkeypatch.setattr(events_module, "HEARTBEAT", 0.1)
    startup = uvicorn.Server.startup

    async def seen(self: uvicorn.Server, sockets: Any = None) -> None:
        SERVERS.append(self)
        await startup(self, sockets)

    monkeypatch.setattr(uvicorn.Server, "startup", seen)
    SERVERS.clear()
    yield SERVERS
    end_panels()


def end_panels() -> None:
    for server in SERVERS:
        server.should_exit = True
    for thread in threading.enumerate():
        if thread.name == "imagegate-panel":
            thread.join(PATIENCE)
            assert not thread.is_alive()


class Front:
    """A browser's place: ComfyUI's port, with the panel behind it."""

    def __init__(self, service: Service) -> None:
        self.service, self.bus = service, service.bus
        self.comfy = PromptServer()
        attach(self.comfy, service)
        self._runner: web.AppRunner | None = None
        self.client: aiohttp.ClientSession
        self.base = ""

    async def __aenter__(self) -> Front:
        app = web.Application(client_max_size=100 * 2**20)
        # ComfyUI adds each route twice, the second time below /api.
        api_routes = web.RouteTableDef()
        for route in self.comfy.routes:
            assert isinstance(route, web.RouteDef)
            api_routes.route(route.method, "/api" + route.path)(route.handler)
        app.add_routes(api_routes)
        app.add_routes(self.comfy.routes)
        self._runner = web.AppRunner(app, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.base = f"http://{host}:{port}"
        self.client = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        assert self._runner is not None
        await self._runner.cleanup()
        for route in self.comfy.routes:
            proxy = getattr(getattr(route, "handler", None), "__self__", None)
            if proxy is not None and proxy._session is not None:
                await proxy._session.close()

    def call(self, method: str, path: str, **given: Any) -> Any:
        return self.client.request(method, URL(self.base + path, encoded=True), **given)

    def publish(self, **given: Any) -> Any:
        gate = Gate(**{"labels": ("keep", "fix"), "width": 8, "height": 6, **given})
        return self.bus.publish(gate, Photo())


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with Front(Service(*with_storage(stored_bus()), build)) as front:
        yield front


# -- REST through the proxy


@pytest.mark.parametrize("prefix", ["/imagegate/api", "/api/imagegate/api"])
async def test_rest_goes_through(front: Front, prefix: str) -> None:
    """Listing, looking, painting and deciding work through ComfyUI's port, below /api too."""
    ticket = front.publish(title="Sky")
    path = f"{prefix}/gates/{ticket.gate.id}"
    async with front.call("GET", f"{prefix}/gates") as answer:
        assert (await answer.json())["gates"][0]["title"] == "Sky"
    async with front.call("GET", f"{path}/image/0?size=full") as answer:
        assert answer.headers["Content-Type"] == "image/png"
        assert Image.open(io.BytesIO(await answer.read())).size == (8, 6)
    async with front.call("GET", f"{path}/mask/0") as answer:
        assert answer.status == 204
    async with front.call("HEAD", f"{prefix}/nothing") as answer:
        assert answer.status == 404
    async with front.call("POST", f"{path}/decision", json={"route": 9}) as answer:
        assert answer.status == 422
        assert "1 (keep), 2 (fix)" in (await answer.json())["error"]
    async with front.call("POST", f"{path}/decision", json={"route": "fix", "by": "Ann"}) as answer:
        assert (answer.status, await answer.json()) == (200, {"outcome": "won"})
    assert ticket.wait(0).decision.by == "Ann"


async def test_a_large_mask_is_streamed(front: Front) -> None:
    """A body of 5 MB arrives whole, whether its length was said or not."""
    body = bytes(5 * 2**20)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 2**16):
            yield body[start : start + 2**16]

    for content in (io.BytesIO(body), pieces()):
        headers = {"Content-Type": "image/png"}
        async with front.call("PUT", "/imagegate/echo/x", data=content, headers=headers) as answer:
            assert (await answer.json())["length"] == len(body)


async def test_a_real_mask_arrives(front: Front) -> None:
    """A mask saved through the proxy is the mask that the gate has."""
    ticket = front.publish()
    out = io.BytesIO()
    Image.new("L", (8, 6), 255).save(out, "PNG")
    path = f"/imagegate/api/gates/{ticket.gate.id}/mask/0"
    headers = {"Content-Type": "image/png"}
    async with front.call("PUT", path, data=out.getvalue(), headers=headers) as answer:
        assert answer.status == 200
    kept = Image.open(io.BytesIO(front.bus.mask(ticket.gate.id, 0) or b""))
    assert kept.tobytes() == b"\xff" * 48


@pytest.mark.parametrize(
    "tail",
    ["a%2Fb", "a%20b", "%C3%BC", "a%25b", "a+b", "a;b=c", "x?q=a%26b&r=%2B+c", "x?file=/a%20b.png",
     "%C3%BC?=%E2%98%81", "a%3Fb?c", "x?a|b", "%ff"],
)  # fmt: skip
async def test_what_is_percent_encoded_stays_so(front: Front, tail: str) -> None:
    """Path and query reach the panel byte for byte."""
    async with front.call("GET", f"/imagegate/echo/{tail}") as answer:
        got = await answer.json()
    path, _, query = tail.partition("?")
    assert got["raw_path"] == f"/imagegate/echo/{path}"
    assert got["query"] == query


async def test_an_oddly_written_prefix_is_no_crash(front: Front) -> None:
    """The prefix itself written with escapes is served or not found, never an error of ours."""
    async with front.call("GET", "/%69magegate/echo/x") as answer:
        assert answer.status in (200, 404)


async def test_headers(front: Front) -> None:
    """Headers of one connection are not passed on; the key of the client's is replaced."""
    sent = {
        "X-ImageGate-Key": "guess",
        "Connection": "keep-alive, X-Private",
        "X-Private": "1",
        "TE": "trailers",
        "Proxy-Authorization": "secret",
        "X-Public": "1",
    }
    async with front.call("GET", "/imagegate/echo/x", headers=sent) as answer:
        got = [(k.lower(), v) for k, v in (await answer.json())["headers"]]
        assert answer.headers["X-Answer"] == "yes"
        assert "Keep-Alive" not in answer.headers
        assert "Proxy-Authenticate" not in answer.headers
    names = [name for name, _ in got]
    assert [v for k, v in got if k == "x-imagegate-key"] == [front.service.key]
    assert ("x-public", "1") in got
    assert not {"x-private", "te", "proxy-authorization"} & set(names)
    assert ("host", front.base.removeprefix("http://")) in got
    assert ("x-forwarded-proto", "http") in got


async def test_connection_may_be_said_twice(front: Front) -> None:
    """What any of several Connection headers names stays behind."""
    sent = [("Connection", "X-One"), ("Connection", "X-Two"), ("X-One", "1"), ("X-Two", "2")]
    async with front.call("GET", "/imagegate/echo/x", headers=sent) as answer:
        names = {name.lower() for name, _ in (await answer.json())["headers"]}
    assert not {"x-one", "x-two"} & names


async def test_the_proxy_asks_for_nothing_of_its_own(front: Front) -> None:
    """A client that does not say it can read compressed answers is not sent any."""
    own = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
    ask = front.call("POST", "/imagegate/echo/x", data=b"body", skip_auto_headers=own)
    async with ask as answer:
        names = {name.lower() for name, _ in (await answer.json())["headers"]}
    assert not {name.lower() for name in own} & names


async def test_the_key_never_comes_out(front: Front) -> None:
    """No answer tells the browser the key."""
    async with front.call("GET", "/imagegate/cookies") as answer:
        assert front.service.key not in str(answer.headers)
        assert answer.headers.getall("Set-Cookie") == [
            "a=1; Path=/; SameSite=lax", "b=2; Path=/; SameSite=lax"
        ]  # fmt: skip
        assert await answer.text() == "x" * 5000


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}]
)
async def test_a_foreign_page_changes_nothing(front: Front, headers: dict[str, str]) -> None:
    """A page of another origin is refused through the proxy as well."""
    ticket = front.publish()
    path = f"/imagegate/api/gates/{ticket.gate.id}/decision"
    async with front.call("POST", path, json={"route": 1}, headers=headers) as answer:
        assert answer.status == 403
    assert front.bus.get(ticket.gate.id).state is State.WAITING


async def test_ones_own_page_may_decide(front: Front) -> None:
    """The panel's page at ComfyUI's address is of the same origin."""
    ticket = front.publish()
    path = f"/imagegate/api/gates/{ticket.gate.id}/decision"
    headers = {"Origin": front.base, "X-ImageGate": "1"}
    async with front.call("POST", path, json={"route": 1}, headers=headers) as answer:
        assert await answer.json() == {"outcome": "won"}


async def test_the_private_port_answers_nobody_else(front: Front) -> None:
    """Who finds the loopback port gets nothing from it without the key."""
    ticket = front.publish()
    base = await asyncio.wrap_future(front.service.start())
    assert base.startswith("http://127.0.0.1:")
    for headers in ({}, {"X-ImageGate-Key": "guess"}):
        for path in ("/imagegate/", "/imagegate/api/gates", "/imagegate/echo/x"):
            async with front.client.get(base + path, headers=headers) as answer:
                assert answer.status == 403
                assert ticket.gate.id not in await answer.text()
        async with front.client.post(
            f"{base}/imagegate/api/gates/{ticket.gate.id}/decision",
            json={"route": 1},
            headers=headers,
        ) as answer:
            assert answer.status == 403
    assert front.bus.get(ticket.gate.id).state is State.WAITING


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_the_bare_prefix_leads_to_the_panel(front: Front, prefix: str) -> None:
    """Without its slash the prefix redirects, relatively, keeping what is before it."""
    async with front.call("GET", f"{prefix}/imagegate", allow_redirects=False) as answer:
        assert answer.status == 308
        assert answer.url.join(URL(answer.headers["Location"])).path == f"{prefix}/imagegate/"


async def test_the_bare_prefix_keeps_its_query(front: Front) -> None:
    """A node named in the address is not lost on the way to the slash."""
    asked = "/imagegate?node=4:2&embed=1"
    async with front.call("GET", asked, allow_redirects=False) as answer:
        there = answer.url.join(URL(answer.headers["Location"]))
    assert dict(there.query) == {"node": "4:2", "embed": "1"}


# -- streams


async def test_events_arrive_one_by_one(front: Front) -> None:
    """Server-sent events come through as they happen, and end when the browser leaves."""
    listeners = front.bus.listeners
    with_watch = Watch(front.bus)
    async with front.call("GET", "/imagegate/api/events") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")

        async def told() -> tuple[str, Any]:
            kind = ""
            while True:
                line = (await stream.content.readline()).decode().strip()
                if line.startswith("event: "):
                    kind = line[7:]
                elif line.startswith("data: ") and kind != "alive":  # a sign of life, every 5 s
                    return kind, json.loads(line[6:])

        assert (await told())[0] == "reload"
        ticket = front.publish(title="Sky")
        kind, content = await told()
        assert (kind, content["gate"]["title"]) == ("published", "Sky")
        front.bus.decide(ticket.gate.id, 1)
        assert (await told())[0] == "decided"
        assert front.bus.listeners == listeners + 2
    left = asyncio.Event()
    loop, unsubscribe = asyncio.get_running_loop(), front.bus._feed.remove

    def seen(subscription: Any) -> None:
        unsubscribe(subscription)
        loop.call_soon_threadsafe(left.set)

    front.bus._feed.remove = seen  # type: ignore[method-assign]
    if front.bus.listeners > listeners + 1:
        await asyncio.wait_for(left.wait(), PATIENCE)
    assert front.bus.listeners == listeners + 1
    with_watch.close()


async def test_a_panel_that_dies_in_the_middle(front: Front) -> None:
    """When the panel dies in the middle of an answer, the browser sees it cut off, not whole."""
    async with front.call("GET", "/imagegate/breaks") as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientError):
            await answer.read()
    async with front.call("GET", "/imagegate/api/gates") as answer:
        assert answer.status == 200


# -- the panel's life


@pytest.mark.parametrize("kind", [ImportError, SystemExit])
async def test_a_panel_that_cannot_start(kind: type[BaseException]) -> None:
    """Without a panel the proxy answers 503 with what to install, and tries again next time."""
    tries: list[int] = []

    def broken(_: Service) -> FastAPI:
        tries.append(1)
        raise kind("No module named 'gradio'")

    async with Front(Service(*with_storage(stored_bus()), broken)) as front:
        for count in (1, 2):
            async with front.call("GET", "/imagegate/") as answer:
                assert answer.status == 503
                message = (await answer.json())["error"]
            assert "pip install" in message
            assert "gradio" in message
            assert len(tries) == count


async def test_a_panel_whose_startup_fails() -> None:
    """A panel that breaks while it starts up is reported as such, and nobody waits for ever."""

    def broken(_: Service) -> FastAPI:
        app = FastAPI()

        async def lifespan(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "broken"})

        app.router.lifespan = lifespan  # type: ignore[method-assign]
        return app

    async with (
        Front(Service(*with_storage(stored_bus()), broken)) as front,
        front.call("GET", "/imagegate/") as answer,
    ):
        assert answer.status == 503
    end_panels()


async def test_a_panel_that_ended_is_started_again(front: Front) -> None:
    """When the panel's server has ended, the next request starts a new one."""
    async with front.call("GET", "/imagegate/api/gates") as answer:
        assert answer.status == 200
    await asyncio.to_thread(end_panels)
    async with front.call("GET", "/imagegate/api/gates") as answer:
        assert answer.status == 200
    assert len(SERVERS) == 2


async def test_the_panel_starts_once(front: Front) -> None:
    """Many first requests at the same time start one panel."""

    async def ask() -> int:
        async with front.call("GET", "/imagegate/api/gates") as answer:
            return int(answer.status)

    assert await asyncio.gather(*(ask() for _ in range(20))) == [200] * 20
    assert len(SERVERS) == 1


def close_sockets(server: Any) -> None:
    for listening in server.servers:
        listening.close()


def end_thread(_: Any) -> None:
    (serving,) = (t for t in asyncio.all_tasks() if "serve" in t.get_coro().__qualname__)
    serving.cancel()


def end_server(server: Any) -> None:
    server.should_exit = True


@pytest.fixture
def gone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "uvicorn.error")


@pytest.mark.slow
@pytest.mark.usefixtures("gone")
@pytest.mark.parametrize("how", [end_server, close_sockets, end_thread])
async def test_a_server_that_goes_while_a_page_is_open(front: Front, how: Any) -> None:
    """When the panel's server is gone while an event stream is open, by its end, without its
    listening socket or with its thread, the stream ends, one new server is started for all who ask,
    and a click that comes meanwhile counts once.
    """
    ticket = front.publish()
    async with front.call("GET", "/imagegate/api/events") as stream:
        await stream.content.readline()
        (server,) = SERVERS
        loop, done = server.servers[0].get_loop(), threading.Event()

        def go() -> None:
            how(server)
            done.set()  # in the same call: the loop may be closed after it

        loop.call_soon_threadsafe(go)
        assert await asyncio.to_thread(done.wait, PATIENCE)
        if how is not close_sockets:
            await asyncio.to_thread(end_panels)

        async def ask() -> int:
            async with front.call("GET", "/imagegate/api/gates") as answer:
                return int(answer.status)

        path = f"/imagegate/api/gates/{ticket.gate.id}/decision"
        clicked = front.call("POST", path, json={"route": 1, "by": "Ann"})
        click, *got = await asyncio.gather(clicked, *(ask() for _ in range(20)))
        assert (click.status, await click.json()) == (200, {"outcome": "won"})
        assert got == [200] * 20
        with suppress(aiohttp.ClientError):
            await stream.content.read()
    assert len(SERVERS) == 2
    async with front.call("GET", "/imagegate/api/events") as stream:
        assert await stream.content.readline() == b"event: reload\n"


async def test_a_stream_that_falls_silent(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event stream without a sign of life is cut off, so that its page connects again."""
    monkeypatch.setattr(gate_server_module, "SILENT", 0.05)
    monkeypatch.setattr(events_module, "HEARTBEAT", 3600)
    async with front.call("GET", "/imagegate/api/events") as stream:
        with pytest.raises(aiohttp.ClientError):
            await stream.content.read()


async def test_a_panel_that_fails_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panel that cannot start is not tried at every request."""
    monkeypatch.setattr(service_module, "PAUSES", (0.0, 3600.0))
    tries: list[int] = []

    def broken(_: Service) -> FastAPI:
        tries.append(1)
        raise ImportError("No module named 'gradio'")

    async with Front(Service(*with_storage(stored_bus()), broken)) as front:
        for _ in range(5):
            async with front.call("GET", "/imagegate/") as answer:
                assert answer.status == 503
                assert "pip install" in (await answer.json())["error"]
    assert len(tries) == 2


async def test_a_server_that_ends_again_and_again(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that ends as soon as it is started is started again after a pause, and whoever asks
    meanwhile is told so.
    """
    monkeypatch.setattr(front.service._backoff, "pauses", (0.0, 3600.0))
    for _ in range(2):
        async with front.call("GET", "/imagegate/api/gates") as answer:
            assert answer.status == 200
        await asyncio.to_thread(end_panels)
    async with front.call("GET", "/imagegate/api/gates") as answer:
        assert (answer.status, len(SERVERS)) == (503, 2)
        assert "several times" in (await answer.json())["error"]
    monkeypatch.setattr(front.service, "_retry_at", 0.0)
    async with front.call("GET", "/imagegate/api/gates") as answer:
        assert (answer.status, len(SERVERS)) == (200, 3)


# -- notices


async def test_attaching_starts_nothing(front: Front) -> None:
    """Neither attaching nor the list of notices starts the panel."""
    ticket = front.publish(node_id="4:2", title="Sky")
    async with front.call("GET", "/imagegate/notices") as answer:
        (waiting,) = (await answer.json())["waiting"]
    assert (waiting["id"], waiting["node_id"]) == (ticket.gate.id, "4:2")
    assert not front.service.started
    assert SERVERS == []


@pytest.mark.parametrize(
    ("set_to", "told"), [({}, [""]), ({"": "json://host"}, ["json://host"]), ({"_AFTER": "x"}, [])]
)
async def test_people_are_told_once_comfyui_has_started(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    set_to: dict[str, str],
    told: list[str],
) -> None:
    """What the environment says of notices counts when ComfyUI starts; a setting that cannot be
    used is named in the log, and parked gates go on all the same.
    """
    started: list[Any] = []

    class Begins:
        def __init__(self, *given: Any) -> None:
            self.given = given

        def start(self) -> None:
            started.append(self.given)

    monkeypatch.setattr(gate_server_module, "Resumer", Begins)
    monkeypatch.setattr(gate_server_module, "Notices", Begins)
    for name, value in set_to.items():
        monkeypatch.setenv(f"IMAGEGATE_NOTIFY{name}", value)
    service, comfy = Service(*with_storage(stored_bus()), build), PromptServer()
    attach(comfy, service)
    assert started == []
    runner = web.AppRunner(comfy.app)
    await runner.setup()
    await runner.cleanup()
    resumer, *notices = started
    assert resumer[0] is service.bus
    assert [settings.addresses for _, _, settings, _ in notices] == told
    assert ("IMAGEGATE_NOTIFY_AFTER is 'x'" in caplog.text) is (not told)


def test_websocket_notices() -> None:
    """ComfyUI's clients are told of gates published, decided and withdrawn, not of masks."""
    service, comfy = Service(*with_storage(stored_bus()), build), PromptServer()
    attach(comfy, service)
    one, two = (
        service.bus.publish(Gate(labels=("a",), width=1, height=1, node_id=n), Photo())
        for n in ("1", "4:2")
    )
    service.bus.set_mask(one.gate.id, 0, b"x")
    service.bus.decide(one.gate.id, 1)
    two.withdraw("its prompt ended")
    told = [(event, data["node_id"], data["state"]) for event, data in comfy.sent]
    assert told == [
        ("imagegate.published", "1", "waiting"),
        ("imagegate.published", "4:2", "waiting"),
        ("imagegate.decided", "1", "decided"),
        ("imagegate.withdrawn", "4:2", "withdrawn"),
    ]
    # Pages of other origins may listen, too.
    assert {key for _, data in comfy.sent for key in data} == {"id", "node_id", "state"}
    assert json.loads(json.dumps(comfy.sent))
    assert not service.started


async def test_the_rest_of_a_notice_is_asked_for(front: Front) -> None:
    """Of the gates that the websocket named the page asks the rest, in whatever state they are."""
    one, two = front.publish(title="One", node_id="1"), front.publish(title="Two", node_id="2")
    front.bus.decide(one.gate.id, 1)
    ids = f"{one.gate.id},unknown,{two.gate.id},"
    async with front.call("GET", f"/imagegate/notices?ids={ids}") as answer:
        gates = (await answer.json())["gates"]
    assert [(gate["title"], gate["state"]) for gate in gates] == [
        ("One", "decided"),
        ("Two", "waiting"),
    ]
    assert not front.service.started


def test_notices_keep_their_order() -> None:
    """What one thread tells late never overtakes, or is overtaken by, another thread's news."""
    service, comfy = Service(*with_storage(stored_bus()), build), PromptServer()
    in_send, second_sent = threading.Event(), threading.Event()
    send = comfy.send_sync

    def slow(event: str, data: Any, sid: str | None = None) -> None:
        if event == "imagegate.published":
            in_send.set()
            second_sent.wait(0.3)  # the other thread has this long to overtake
        send(event, data)
        if event == "imagegate.decided":
            second_sent.set()

    comfy.send_sync = slow  # type: ignore[method-assign]
    attach(comfy, service)
    gate = Gate(labels=("a",), width=1, height=1)
    publisher = threading.Thread(target=service.bus.publish, args=(gate, Photo()))
    publisher.start()
    assert in_send.wait(PATIENCE)
    service.bus.decide(gate.id, 1)
    publisher.join(PATIENCE)
    assert [event for event, _ in comfy.sent] == ["imagegate.published", "imagegate.decided"]


def test_a_broken_websocket_harms_nothing(caplog: Any) -> None:
    """When ComfyUI cannot send, gates go on."""
    service, comfy = Service(*with_storage(stored_bus()), build), PromptServer()

    def broken(event: str, data: Any, sid: str | None = None) -> None:
        raise RuntimeError("socket gone")

    comfy.send_sync = broken  # type: ignore[method-assign]
    attach(comfy, service)
    ticket = service.bus.publish(Gate(labels=("a",), width=1, height=1), Photo())
    service.bus.decide(ticket.gate.id, 1)
    assert ticket.wait(0).decision.route == 1


async def test_comfyuis_page_hears_of_its_own_gates(tmp_path: Path) -> None:
    """Of a store that is shared, the page of a ComfyUI is told of what was asked there."""
    shared = {"store": f"sqlite:///{tmp_path / 'gates.sqlite'}", "pictures": str(tmp_path / "p")}
    other = stored_bus(worker="other", **shared)
    other.publish(Gate(labels=("a",), width=1, height=1, node_id="7"), Photo())
    async with Front(Service(*with_storage(stored_bus(worker="me", **shared)), build)) as front:
        front.bus.publish(Gate(labels=("a",), width=1, height=1, node_id="4"), Photo())
        watch = Watch(front.bus)
        other.publish(Gate(labels=("a",), width=1, height=1, node_id="8"), Photo())
        await asyncio.to_thread(watch.gates, 3)
        async with front.call("GET", "/imagegate/notices") as answer:
            waiting = (await answer.json())["waiting"]
        assert [gate["node_id"] for gate in waiting] == ["4"]
        assert [data["node_id"] for _, data in front.comfy.sent] == ["4"]
        watch.close()
        storage_of(front.bus).close()
    storage_of(other).close()
