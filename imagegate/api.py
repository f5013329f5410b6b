"""REST over the bus: what the panel, scripts and headless clients use."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from . import __version__
from .access import Door, Guard
from .bus import Bus, Records
from .model import (
    BadAnswer,
    BadPicture,
    Forbidden,
    Gate,
    GateClosed,
    ImageGateError,
    NotRecorded,
    Outcome,
    Selection,
    Snapshot,
    State,
    StoreError,
    TooLate,
    UnknownGate,
    Verdict,
    sayable,
)
from .pictures import Pictures, clean_mask

PREFIX = "/imagegate"
PAGE = 50
MAX_PAGE = 500
HEARTBEAT = 5.0
"""Seconds between signs of life on the event stream; a closed tab is noticed at the latest then."""

AT_A_TIME = {"preview": 4, "full": 2}
"""Images made at the same time: so many take neither all memory nor the threads of answers."""

STATUS: dict[type[ImageGateError], int] = {
    UnknownGate: 404,
    TooLate: 409,
    GateClosed: 410,
    BadAnswer: 422,
    BadPicture: 422,
    Forbidden: 403,
    NotRecorded: 507,
}

log = logging.getLogger("imagegate")

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Progress = Callable[[], dict[str, Any]]


class Signed(BaseModel):
    """Who answers, and why."""

    model_config = ConfigDict(extra="forbid")
    by: StrictStr = ""
    note: StrictStr = ""


class Choice(Signed):
    """A route, by its number (1-based) or its label."""

    route: StrictInt | StrictStr
    key: StrictStr = ""


def create_app(
    bus: Bus, door: Door, progress: Progress | None = None, records: Records | None = None
) -> FastAPI:
    """The REST app, guarded, under the path prefix `PREFIX`.

    Args:
        door: who may enter.
        progress: what a session (of a folder) says of itself in the list of gates.
        records: what a store knows beyond the bus.
    """
    app = FastAPI(title="Image Gate", version=__version__, docs_url=None, redoc_url=None,
                  openapi_url=f"{PREFIX}/api/openapi.json")  # fmt: skip
    app.add_middleware(Guard, door=door, prefix=PREFIX)
    app.add_exception_handler(ImageGateError, _explain)
    app.add_exception_handler(RequestValidationError, _explain_input)
    app.add_exception_handler(HTTPException, _explain_http)
    _add_gates(app, bus, progress)
    _add_pictures(app, bus)
    _add_answers(app, bus)
    if records is not None:
        _add_records(app, records)

    @app.get(f"{PREFIX}/api/events")
    async def events(request: Request, node: str = "", workflow: str = "") -> StreamingResponse:
        """Server-sent events: published, masked, decided, withdrawn; each with its gate.

        ``reload`` comes first, and whenever news were lost: read the lists anew. ``alive`` comes
        when nothing happened for a while.
        """
        return StreamingResponse(
            _while_it_lasts(_events(request, bus, Selection(node, workflow), progress)),
            media_type="text/event-stream",
            headers={"cache-control": "no-cache", "x-accel-buffering": "no"},
        )

    app.add_route(f"{PREFIX}/api/{{rest:path}}", _NoSuchCall(app.routes))  # type: ignore[arg-type]

    @app.get("/", include_in_schema=False)
    @app.get(PREFIX, include_in_schema=False)
    def home(request: Request) -> RedirectResponse:
        query = request.url.query
        return RedirectResponse(f"{PREFIX}/?{query}" if query else f"{PREFIX}/")

    return app


class _NoSuchCall:
    """Says what is wrong with a request that no call takes.

    Without it the panel's page, which is mounted on this app, would answer for REST.
    """

    def __init__(self, calls: list[BaseRoute]) -> None:
        self._calls = [call for call in calls if isinstance(call, Route)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        partly = [call for call in self._calls if call.matches(scope)[0] is Match.PARTIAL]
        allowed = ", ".join(sorted({name for call in partly for name in call.methods or ()}))
        if allowed:
            message = f"{method} is not allowed on {path}; allowed are {allowed}"
            raise HTTPException(405, message, {"Allow": allowed})
        raise HTTPException(404, f"no call {path!r}; the README lists those there are")


def _add_gates(app: FastAPI, bus: Bus, progress: Progress | None) -> None:
    @app.get(f"{PREFIX}/api/gates")
    def gates(
        state: str = "waiting",
        limit: Limit = PAGE,
        cursor: str = "",
        node: str = "",
        workflow: str = "",
    ) -> dict[str, Any]:
        """Gates that wait for a person, oldest first."""
        if state != State.WAITING.value:
            raise BadAnswer(f"state is {state!r}; this list has 'waiting', /history has the rest")
        found = bus.pending(limit + 1, after=_cursor(cursor) or 0, among=Selection(node, workflow))
        answer = _page([gate.to_json() for gate in found], [gate.seq for gate in found], limit)
        answer["waiting"] = bus.count(Selection(node, workflow))
        answer["now"] = time.time()  # for pages whose clock is wrong
        if progress is not None:
            answer["progress"] = progress()
        return answer

    @app.get(f"{PREFIX}/api/history")
    def history(
        limit: Limit = PAGE, cursor: str = "", node: str = "", workflow: str = ""
    ) -> dict[str, Any]:
        """Gates that ended, newest first."""
        found = bus.finished(limit + 1, before=_cursor(cursor), among=Selection(node, workflow))
        return _page([gate.to_json() for gate in found], [gate.ended for gate in found], limit)

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}")
    def gate(gate_id: str) -> dict[str, Any]:
        return bus.get(gate_id).to_json()


def _add_pictures(app: FastAPI, bus: Bus) -> None:
    def pictures(gate_id: str, index: int) -> Pictures:
        bus.get(gate_id).gate.index(index)
        found = bus.pictures(gate_id)
        if found is None:
            raise GateClosed("the pictures of this gate are no longer kept")
        return found

    limits: dict[str, CapacityLimiter] = {}  # each made within the loop that it is for

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}/image/{{index}}")
    async def image(gate_id: str, index: int, size: str = "preview") -> Response:
        """``size=preview``: JPEG or WebP; ``size=full``: lossless PNG at the true size."""
        if size not in AT_A_TIME:
            raise BadAnswer(f"size is {size!r}; allowed are 'preview' and 'full'")
        source = await to_thread.run_sync(pictures, gate_id, index)
        make = source.preview if size == "preview" else source.full
        limiter = limits.setdefault(size, CapacityLimiter(AT_A_TIME[size]))
        picture = await to_thread.run_sync(make, index, limiter=limiter)
        # An id is never used again and its image never changes.
        kept = {"cache-control": "private, max-age=86400, immutable"}
        return Response(picture.body, media_type=picture.media_type, headers=kept)

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}/mask/{{index}}")
    def get_mask(gate_id: str, index: int) -> Response:
        """The saved mask, else the one that painting starts from; 204 where there is none."""
        png = bus.mask(gate_id, index)
        if png is None:
            png = pictures(gate_id, index).start_mask(index)
        kept = {"cache-control": "no-store"}
        if not png:
            return Response(status_code=204, headers=kept)
        return Response(png, media_type="image/png", headers=kept)

    @app.put(f"{PREFIX}/api/gates/{{gate_id}}/mask/{{index}}")
    async def put_mask(gate_id: str, index: int, request: Request) -> dict[str, Any]:
        """Save a mask: a PNG of the image's aspect ratio, white painted."""
        body = await request.body()
        return await asyncio.to_thread(save_mask, bus, gate_id, index, body)

    @app.delete(f"{PREFIX}/api/gates/{{gate_id}}/mask/{{index}}")
    def delete_mask(gate_id: str, index: int) -> dict[str, Any]:
        """Clear the mask, also one that came from the mask input."""
        return bus.set_mask(gate_id, index, b"").to_json()


def _add_records(app: FastAPI, records: Records) -> None:
    @app.get(f"{PREFIX}/api/status")
    def status() -> dict[str, Any]:
        """The store, its workers, and how much disk its pictures take."""
        return records.status()

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}/history")
    def lines(gate_id: str) -> dict[str, Any]:
        """All that ever happened to one gate, oldest first."""
        return {"lines": [line.to_json() for line in records.lines(gate_id)]}

    @app.post(f"{PREFIX}/api/gates/{{gate_id}}/ask-again")
    def ask_again(gate_id: str, _: Signed) -> dict[str, Any]:
        """Do not reuse this answer: the next equal image is asked for."""
        return records.ask_again(gate_id).to_json()


def save_mask(bus: Bus, gate_id: str, index: int, png: bytes) -> dict[str, Any]:
    """Check a mask and keep it with its gate; raises as `GateBus.set_mask` and `clean_mask` do."""
    gate = bus.get(gate_id).gate
    gate.index(index)
    return bus.set_mask(gate_id, index, clean_mask(png, gate.width, gate.height)).to_json()


def _add_answers(app: FastAPI, bus: Bus) -> None:
    @app.post(f"{PREFIX}/api/gates/{{gate_id}}/decision")
    def decide(gate_id: str, choice: Choice) -> JSONResponse:
        """Choose a route. The first answer wins; a later one gets 409 and learns which it was.

        A ``key`` names the click: however often it is sent, it counts once.
        """
        return _answer(
            bus.decide(gate_id, choice.route, by=choice.by, note=choice.note, key=choice.key)
        )

    @app.post(f"{PREFIX}/api/gates/{{gate_id}}/stop")
    def stop(gate_id: str, signed: Signed | None = None) -> JSONResponse:
        """Stop: the prompt, or the session, ends."""
        signed = signed or Signed()
        return _answer(bus.stop(gate_id, by=signed.by, note=signed.note))

    @app.post(f"{PREFIX}/api/gates/{{gate_id}}/undo")
    def undo(gate_id: str, signed: Signed | None = None) -> dict[str, Any]:
        """Take a decision back, where that is possible; 409 says why not."""
        return bus.undo(gate_id).to_json()


def _answer(verdict: Verdict) -> JSONResponse:
    content: dict[str, Any] = {"outcome": verdict.outcome.value}
    if verdict.outcome is Outcome.LOST:
        first = verdict.decision
        content["decision"] = {
            "route": first.route, "label": sayable(first.label), "by": first.by, "note": first.note,
            "at": first.at,
        }  # fmt: skip
        return JSONResponse(content, status_code=409)
    return JSONResponse(content)


async def _events(
    request: Request, bus: Bus, among: Selection, progress: Progress | None
) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(woken.set)

    def told(gate: Gate | None) -> dict[str, Any]:
        more: dict[str, Any] = {"waiting": bus.count(among)}
        if gate is not None:
            more["node_waiting"] = bus.count(Selection(gate.node_id))
            more["place_waiting"] = bus.count(Selection(gate.node_id, gate.workflow_id))
        if progress is not None:
            more["progress"] = progress()
        return more

    async def say(kind: str, gate: Snapshot | None = None) -> bytes:
        # Counting may ask a database, which is not to hold up all other streams.
        more = await to_thread.run_sync(told, gate.gate if gate else None)
        return _event(kind, more | {"gate": gate.to_json()} if gate else more)

    with bus.subscribe(wake) as subscription:
        # A listener that has just (re)connected, or was too slow, reads the list anew.
        yield await say("reload")
        while not await request.is_disconnected():
            try:
                await asyncio.wait_for(woken.wait(), HEARTBEAT)
            except asyncio.TimeoutError:
                # A sign of life, by which a page knows that its connection is not dead.
                yield await say("alive")
                continue
            woken.clear()
            news, missed = subscription.drain()
            if missed:
                yield await say("reload")
                continue
            for item in news:
                if among.covers(item.gate.gate):
                    yield await say(item.kind, item.gate)


async def _while_it_lasts(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Ends the stream when the store is away: the page connects again, and asks what is so."""
    try:
        async for event in events:
            yield event
    except StoreError as error:
        log.debug("a stream ends: %s", error)


def _event(kind: str, content: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n".encode()


def _page(gates: list[dict[str, Any]], keys: list[int], limit: int) -> dict[str, Any]:
    more = len(gates) > limit
    return {"gates": gates[:limit], "next": str(keys[limit - 1]) if more else None}


def _cursor(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise BadAnswer(f"cursor is {text!r}; give the 'next' of the page before")
    return int(text)


async def _explain(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ImageGateError)
    if isinstance(error, StoreError):
        # A page asks again by itself after 503, and shows what is wrong after 507.
        log.warning("%s", error)
        return _error(str(error), 503 if error.passing else 507)
    return _error(str(error), STATUS.get(type(error), 500))


async def _explain_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return _error(error.detail, error.status_code, error.headers)


async def _explain_input(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors()
    ]
    return _error("; ".join(problems), 422)


def _error(message: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    # Names of files come in messages, too, and need not be valid Unicode.
    return JSONResponse({"error": sayable(message)}, status, headers)
