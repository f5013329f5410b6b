"""REST over the bus: what the panel, scripts and headless clients use."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import Any

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from .. import __version__
from ..core.bus import Bus, Records
from ..core.failures import report_failure
from ..core.model import (
    MAX_KEY,
    BadAnswer,
    GateClosed,
    ImageGateError,
    Selection,
    Snapshot,
    State,
    StoreError,
    Verdict,
    sayable,
)
from ..core.pictures import Picture, Pictures
from ..http.access import Door, Guard
from ..http.answers import (
    NO_STORE,
    STATUS,
    AnswersSoon,
    NoSuchCall,
    SessionProgress,
    answer,
    error_of,
    explain_all,
)
from ..http.events import EventStream, SharedEvents
from ..http.images import Easel
from ..http.lists import PAGE_SIZE, Limit, cursor_of, page_of
from ..http.looking import Looking, looks_at
from ..http.paths import PREFIX
from ..pictures.encode import thumb
from ..pictures.formats.image_files import PreviewCache, lossy
from ..pictures.masks import save_mask
from ..share.share import Share
from .links import add_sharing

AT_A_TIME = {"thumb": 2, "preview": 4, "zoom": 2, "full": 2}
"""Images made at the same time."""
THUMBS = 32 * 2**20
"""Bytes of thumbnails that are kept."""

log = logging.getLogger("imagegate")


class Signed(BaseModel):
    """Who answers, and why."""

    model_config = ConfigDict(extra="forbid")
    by: StrictStr = ""
    note: StrictStr = ""


class Choice(Signed):
    """A route, by its number (1-based) or its label."""

    route: StrictInt | StrictStr
    key: StrictStr = ""


class OperatorLooking(Looking):
    """``person``: the same on all pages of one person, and nobody else's."""

    person: StrictStr = Field(min_length=8, max_length=MAX_KEY)


def create_app(
    bus: Bus,
    door: Door,
    progress: SessionProgress | None = None,
    records: Records | None = None,
    share: Share | None = None,
) -> FastAPI:
    """The operator's REST app, guarded, under the path prefix `PREFIX`.

    Args:
        door: who may enter.
        progress: what a session (of a folder) says of itself in the list of gates.
        records: what a store knows beyond the bus.
        share: the links that can be made here.
    """
    app = FastAPI(title="Image Gate", version=__version__, docs_url=None, redoc_url=None,
                  openapi_url=f"{PREFIX}/api/openapi.json")  # fmt: skip
    app.add_middleware(Guard, door=door, prefix=PREFIX, pages=True)
    app.add_middleware(AnswersSoon)
    app.add_exception_handler(ImageGateError, _explain)
    explain_all(app)
    _add_gates(app, bus, progress)
    _add_pictures(app, bus)
    _add_answers(app, bus)
    if records is not None:
        _add_records(app, records)
    if share is not None:
        add_sharing(app, share)

    shared = SharedEvents()

    @app.get(f"{PREFIX}/api/events")
    async def events(request: Request, node: str = "", workflow: str = "") -> StreamingResponse:
        """Server-sent events; see `EventStream`."""
        among = Selection(node, workflow)
        told = partial(_told, bus, among, progress)
        bell = share.changed if share is not None else None
        news = EventStream(bus, among, told, bell=bell, kind="links", shared=shared)
        return news.response(request)

    app.add_route(f"{PREFIX}/api/{{rest:path}}", NoSuchCall(app.routes))  # type: ignore[arg-type]

    @app.get("/", include_in_schema=False)
    @app.get(PREFIX, include_in_schema=False)
    def home(request: Request) -> RedirectResponse:
        query = request.url.query
        return RedirectResponse(f"{PREFIX}/?{query}" if query else f"{PREFIX}/")

    return app


def _add_gates(app: FastAPI, bus: Bus, progress: SessionProgress | None) -> None:
    @app.get(f"{PREFIX}/api/gates")
    def gates(
        state: str = "waiting",
        limit: Limit = PAGE_SIZE,
        cursor: str = "",
        node: str = "",
        workflow: str = "",
    ) -> dict[str, Any]:
        """Gates that wait for a person, oldest first."""
        if state != State.WAITING.value:
            raise BadAnswer(f"state is {state!r}; this list has 'waiting', /history has the rest")
        among = Selection(node, workflow)
        found = bus.pending(limit + 1, after=cursor_of(cursor) or 0, among=among)
        listed = page_of([gate.to_json() for gate in found], [gate.seq for gate in found], limit)
        listed["waiting"] = bus.count(among)
        listed["now"] = time.time()  # for pages whose clock is wrong
        if progress is not None:
            listed["progress"] = progress()
        return listed

    @app.get(f"{PREFIX}/api/history")
    def history(
        limit: Limit = PAGE_SIZE, cursor: str = "", node: str = "", workflow: str = ""
    ) -> dict[str, Any]:
        """Gates that ended, newest first."""
        found = bus.finished(limit + 1, before=cursor_of(cursor), among=Selection(node, workflow))
        return page_of([gate.to_json() for gate in found], [gate.ended for gate in found], limit)

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}")
    def gate(gate_id: str) -> dict[str, Any]:
        return bus.get(gate_id).to_json()

    @app.post(f"{PREFIX}/api/looking")
    def looking(asked: OperatorLooking) -> dict[str, Any]:
        """Say what a page shows, so that other people are shown something else first."""
        return looks_at(bus.viewers, asked.person, asked, bus.get)


def _add_pictures(app: FastAPI, bus: Bus) -> None:
    def pictures(gate_id: str, index: int) -> Pictures:
        bus.get(gate_id).gate.index(index)
        found = bus.pictures(gate_id)
        if found is None:
            raise GateClosed("the pictures of this gate are no longer kept")
        return found

    easel = Easel(AT_A_TIME)
    thumbs = PreviewCache(THUMBS)

    def small(source: Pictures, gate_id: str, index: int) -> Picture:
        kept = thumbs.get((gate_id, index))
        if kept is None:
            kept = thumb(source.preview(index))
            thumbs.put((gate_id, index), kept)
        return kept

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}/image/{{index}}")
    async def image(gate_id: str, index: int, size: str = "preview") -> Response:
        """``size=preview``: JPEG or WebP; ``thumb``: a small WebP; ``full``: lossless PNG;
        ``zoom``: of that size, but shown as bright as the preview.
        """
        easel.check(size)
        source = await to_thread.run_sync(pictures, gate_id, index)
        make = {
            "preview": partial(source.preview, index),
            "full": partial(source.full, index),
            "zoom": partial(_enlarged, source, index),
            "thumb": partial(small, source, gate_id, index),
        }
        # An id is never used again and its image never changes.
        kept = {"cache-control": "private, max-age=86400, immutable"}
        return await easel.make(size, make[size], kept)

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}/mask/{{index}}")
    def get_mask(gate_id: str, index: int) -> Response:
        """The saved mask, else the one that painting starts from; 204 where there is none."""
        png = bus.mask(gate_id, index)
        if png is None:
            png = pictures(gate_id, index).start_mask(index)
        if not png:
            return Response(status_code=204, headers=NO_STORE)
        return Response(png, media_type="image/png", headers=NO_STORE)

    @app.put(f"{PREFIX}/api/gates/{{gate_id}}/mask/{{index}}")
    async def put_mask(gate_id: str, index: int, request: Request) -> dict[str, Any]:
        """Save a mask: a PNG of the image's aspect ratio, white painted."""
        body = await request.body()
        kept = await asyncio.to_thread(save_mask, bus, gate_id, index, body)
        return kept.to_json()

    @app.delete(f"{PREFIX}/api/gates/{{gate_id}}/mask/{{index}}")
    def delete_mask(gate_id: str, index: int) -> dict[str, Any]:
        """Clear the mask, also one that came from the mask input."""
        return bus.set_mask(gate_id, index, b"").to_json()


def _enlarged(source: Pictures, index: int) -> Picture:
    return lossy(source.full(index))


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
    def first() -> dict[str, Any]:
        told = verdict.decision.record()
        return told | {"label": sayable(verdict.decision.label)}

    return answer(verdict, first)


def _told(
    bus: Bus, among: Selection, progress: SessionProgress | None, gate: Snapshot | None
) -> dict[str, Any]:
    """What an event says: how many wait in all, and around the gate that it is about."""
    told: dict[str, Any] = {"waiting": bus.count(among)}
    if gate is not None:
        node, workflow = gate.gate.node_id, gate.gate.workflow_id
        told["node_waiting"] = bus.count(Selection(node))
        told["place_waiting"] = bus.count(Selection(node, workflow))
        told["gate"] = gate.to_json()
    if progress is not None:
        told["progress"] = progress()
    return told


async def _explain(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ImageGateError)
    if isinstance(error, StoreError):
        # A page asks again by itself after 503, and shows what is wrong after 507.
        report_failure("", error)
        return error_of(str(error), 503 if error.passing else 507)
    return error_of(str(error), STATUS.get(type(error), 500))
