"""What the calls of both doors have in common: lists, pictures, streams of news, errors."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar
from weakref import WeakKeyDictionary

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..core.bus import Bus
from ..core.model import (
    MAX_KEY,
    BadAnswer,
    BadPicture,
    Forbidden,
    GateClosed,
    ImageGateError,
    NotRecorded,
    Outcome,
    Selection,
    Snapshot,
    StoreError,
    TooLate,
    UnknownGate,
    Verdict,
    sayable,
)
from ..core.news import Bell
from ..core.pictures import Picture
from ..core.viewers import Viewers
from ..storage.sql.deadline import SOON, limited
from .shared_events import SharedEvents

PREFIX = "/imagegate"
PAGES = Path(__file__).parents[1] / "page"
"""What browsers load: of the operator's page, the approver's, and both."""
PAGE = 50
MAX_PAGE = 500
LOOKED_AT = 20
"""Gates of which a page may look at one."""
HEARTBEAT = 5.0
"""Seconds between signs of life on the event stream; a closed tab is noticed at the latest then."""
TOLD = 5
"""Of what is wrong with a request, the first so many things are told."""
UNREAD = 50
"""News that a stream is behind with after which its page reads the lists anew instead."""
NO_STORE = {"cache-control": "no-store"}
REMARKS = "imagegate-remarks"
"""The header of an image that says what people should know about it: a JSON list of sentences."""

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
T = TypeVar("T")


class AnswersSoon:
    """Makes calls that tell a person within seconds if the store does not answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with limited(SOON):
            await self._app(scope, receive, send)


class Nothing(BaseModel):
    """An empty object."""

    model_config = ConfigDict(extra="forbid")


# -- lists


def page_of(
    gates: list[dict[str, Any]],
    keys: list[int],
    limit: int,
    cursor: Callable[[int], str] = str,
) -> dict[str, Any]:
    """A page of a list that was read one gate further than it is long.

    ``cursor``: how the key of its last gate is told.
    """
    more = len(gates) > limit
    return {"gates": gates[:limit], "next": cursor(keys[limit - 1]) if more else None}


def cursor_of(text: str) -> int | None:
    """Where a page starts. Raises `BadAnswer`."""
    if not text:
        return None
    if not text.isdecimal() or len(text) > 18:
        raise BadAnswer(f"cursor is {text!r}; give the 'next' of the page before")
    return int(text)


# -- pictures


class Turns:
    """Runs calls in threads, only so many at a time; who waits for their turn holds no thread.

    An app may be served by two listeners, each in a loop of its own, and a limiter belongs to one.

    Args:
        at_a_time: calls that run at once, in each loop.
    """

    def __init__(self, at_a_time: int) -> None:
        self._at_a_time = at_a_time
        self._lock = threading.Lock()  # guards the next
        self._limiters: WeakKeyDictionary[Any, CapacityLimiter] = WeakKeyDictionary()

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns, once it was its turn."""
        loop = asyncio.get_running_loop()
        with self._lock:
            limiter = self._limiters.get(loop)
            if limiter is None:
                limiter = self._limiters[loop] = CapacityLimiter(self._at_a_time)
        return await to_thread.run_sync(call, limiter=limiter)


class Easel:
    """Makes pictures for requests, only so many at a time.

    So they take neither all memory nor the threads that answer.

    Args:
        at_a_time: pictures made at once, by their size's name.
    """

    def __init__(self, at_a_time: Mapping[str, int]) -> None:
        self._turns = {size: Turns(most) for size, most in at_a_time.items()}

    def check(self, size: str) -> None:
        """Raises `BadAnswer` if there is no such size."""
        if size not in self._turns:
            *most, last = map(repr, self._turns)
            raise BadAnswer(f"size is {size!r}; allowed are {', '.join(most)} and {last}")

    async def make(
        self, size: str, picture: Callable[[], Picture], headers: Mapping[str, str]
    ) -> Response:
        """The answer with a picture, once it is its turn."""
        made = await self._turns[size].run(picture)
        if made.remarks:
            headers = {**headers, REMARKS: json.dumps(made.remarks)}
        return Response(made.body, media_type=made.media_type, headers=headers)


# -- answers


def answer(verdict: Verdict, tell: Callable[[], dict[str, Any]]) -> JSONResponse:
    """What became of an answer; ``tell`` says which one was first."""
    content: dict[str, Any] = {"outcome": verdict.outcome.value}
    if verdict.outcome is Outcome.LOST:
        return JSONResponse(content | {"decision": tell()}, status_code=409)
    return JSONResponse(content)


# -- who looks at what


class Looking(BaseModel):
    """What a page shows: the first of these gates that nobody else looks at, else the first."""

    model_config = ConfigDict(extra="forbid")
    page: StrictStr = Field(max_length=MAX_KEY)
    gates: list[StrictStr] = Field(max_length=LOOKED_AT)


def looks_at(
    viewers: Viewers, person: str, asked: Looking, get: Callable[[str], Snapshot]
) -> dict[str, Any]:
    """Which gate a page shows; ``you``: how `looks` calls its person."""
    gates = []
    for gate_id in asked.gates:
        with suppress(UnknownGate):
            gates.append(get(gate_id).gate)
    gate, who = viewers.look(person, asked.page, gates)
    return {"gate": gate.id if gate else None, "you": who}


def looks(viewers: Viewers, among: Selection) -> dict[str, Any]:
    """Who looks at which of these gates, and for how many seconds that is to be believed."""
    found = [look for look in viewers.looks() if among.covers(look.gate)]
    return {"looks": [[look.gate.id, look.who, viewers.left(look)] for look in found]}


# -- news


class News:
    """A stream of server-sent events: published, masked, decided, withdrawn; each with its gate.

    ``looking`` says who looks at what, when that changes and there are several.

    ``reload`` comes first, and whenever news were lost: read the lists anew. ``alive`` comes when
    nothing was said for a while, however much happens that is not theirs to hear.

    Args:
        told: what is said of a gate, or without one.
        bell: something else to listen for. ``kind``: of the event that says it rang, if any.
        over: asked at each news, and before each sign of life; a text ends the stream with an
            event ``over``.
        left: seconds until ``over`` has to be asked in any case.
        shared: by all streams for which ``told`` says the same.
    """

    def __init__(
        self,
        bus: Bus,
        among: Selection,
        told: Callable[[Snapshot | None], dict[str, Any]],
        *,
        bell: Bell | None = None,
        kind: str = "",
        over: Callable[[], str] | None = None,
        left: Callable[[], float] = lambda: HEARTBEAT,
        shared: SharedEvents | None = None,
    ) -> None:
        self._bus = bus
        self._shared = shared
        self._among = among
        self._told = told
        self._bell = Bell() if bell is None else bell
        self._kind = kind
        self._over = over
        self._left = left

    def response(
        self, request: Request, ended: Callable[[], None] = lambda: None
    ) -> StreamingResponse:
        """The stream as an answer; ``ended`` is called when it is over, however."""
        return _Stream(
            ended,
            while_it_lasts(self.events(request)),
            media_type="text/event-stream",
            headers=NO_STORE | {"x-accel-buffering": "no"},
        )

    async def events(self, request: Request) -> AsyncIterator[bytes]:
        """The events, until the one who listens goes."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        rung = False
        looked = False

        def wake() -> None:
            if not woken.is_set():  # one who reads nothing is woken once
                loop.call_soon_threadsafe(woken.set)

        def ring() -> None:
            nonlocal rung
            rung = True
            wake()

        def look() -> None:
            nonlocal looked
            looked = True
            wake()

        viewers = self._bus.viewers
        forget, blind = self._bell.listen(ring), viewers.changed.listen(look)
        try:
            with self._bus.subscribe(wake) as subscription:
                # It may have ended since the request was let in.
                reason = await self._ended()
                if not reason:
                    # Who has just (re)connected, or was too slow, reads the list anew.
                    yield await self._say("reload")
                    if viewers.looks():
                        yield _event("looking", looks(viewers, self._among))
                due = loop.time() + HEARTBEAT
                while not reason and not await request.is_disconnected():
                    await _within(woken, max(0.0, min(due - loop.time(), self._left())))
                    woken.clear()
                    reason = await self._ended()
                    if reason:
                        break
                    told: list[tuple[str, Snapshot | None]] = []
                    if rung and self._kind:
                        told.append((self._kind, None))
                    rung = False
                    news, missed = subscription.drain()
                    if missed or len(news) > UNREAD:
                        told.append(("reload", None))
                    else:
                        ours = [item for item in news if self._among.covers(item.gate.gate)]
                        told += [(item.kind, item.gate) for item in ours]
                    if not told and loop.time() >= due:
                        # A sign of life, by which a page knows that its connection is not dead.
                        told.append(("alive", None))
                    if looked:
                        looked = False
                        yield _event("looking", looks(viewers, self._among))
                        due = loop.time() + HEARTBEAT
                    for kind, gate in told:
                        yield await self._say(kind, gate)
                        due = loop.time() + HEARTBEAT
                if reason:
                    yield _event("over", {"reason": reason})
        finally:
            forget()
            blind()

    async def _ended(self) -> str:
        return await to_thread.run_sync(self._over) if self._over is not None else ""

    async def _say(self, kind: str, gate: Snapshot | None = None) -> bytes:
        def say() -> bytes:
            return _event(kind, self._told(gate))

        # Counting may ask a database, which is not to hold up all other streams.
        if self._shared is None:
            return await to_thread.run_sync(say)
        which = (gate.gate.id, gate.version) if gate is not None else None
        return await self._shared.once((self._among, kind, which), say, keep=gate is not None)


class _Stream(StreamingResponse):
    def __init__(self, ended: Callable[[], None], *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


async def _within(event: asyncio.Event, seconds: float) -> None:
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def while_it_lasts(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Ends the stream when the store is away: the page connects again, and asks what is so."""
    try:
        async for event in events:
            yield event
    except StoreError as error:
        log.debug("a stream ends: %s", error)


def _event(kind: str, content: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(content)}\n\n".encode()


# -- what goes wrong


class NoSuchCall:
    """Says what is wrong with a request that no call takes.

    Without it the panel's page, which is mounted on the operator's app, would answer for REST.
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
        raise HTTPException(404, f"no call {path!r}; docs/rest.md lists those there are")


def explain_all(app: FastAPI) -> None:
    """Answer a request that the framework itself refuses as all others are."""
    app.add_exception_handler(RequestValidationError, _explain_input)
    app.add_exception_handler(HTTPException, _explain_http)


async def _explain_http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return error_of(error.detail, error.status_code, error.headers)


async def _explain_input(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = [
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors()[:TOLD]
    ]
    return error_of("; ".join(problems), 422)


def error_of(message: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An error as all calls tell it."""
    # Names of files come in messages, too, and need not be valid Unicode.
    return JSONResponse({"error": sayable(message)}, status, headers)
