"""The approver's app: all that a share link leads to. No Gradio, and no route but those here.

Without a session its guard lets people reach only the entry page of a valid link.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr
from starlette.exceptions import HTTPException

from ..core.bus import Bus
from ..core.failures import report_failure
from ..core.links import NoEntry
from ..core.model import (
    BadAnswer,
    BadPicture,
    Forbidden,
    GateClosed,
    ImageGateError,
    NoAnswer,
    Snapshot,
    StoreError,
    TooLate,
    UnknownGate,
    sayable,
)
from ..core.pictures import Picture
from ..http.access import VISITOR, Body, Guard, LinkDoor, Refused, Visitor
from ..http.answers import (
    NO_STORE,
    STATUS,
    AnswersSoon,
    Nothing,
    SessionProgress,
    answer,
    error_of,
    explain_all,
)
from ..http.cursors import Cursors
from ..http.events import HEARTBEAT, EventStream
from ..http.headers import SafeHeaders
from ..http.images import Easel, Turns
from ..http.lists import PAGE_SIZE, Limit, page_of
from ..http.looking import Looking, looks_at
from ..http.paths import PAGES, PREFIX
from ..http.under_way import UnderWay
from ..pictures.encode import light, thumb
from ..pictures.formats.image_files import PreviewCache, lossy
from ..pictures.masks import to_paint_on
from ..storage.links import LinkStore
from .entry import add_entry
from .limits import InTurn, Pace
from .scoped import ScopedBus

AT_A_TIME = {"thumb": 2, "preview": 4, "zoom": 2, "full": 1}
UNDER_WAY = {"preview": 16, "thumb": 32, "zoom": 2, "full": 1}
"""The most images on their way through one link: what a slow reader has not read is in memory."""
MASKS = 2
"""The most masks read or saved at once: small files, but they may unpack to a lot."""
CHANGES_A_MINUTE = 300
"""The most changes that one link may make in a minute; a fast hand makes half as many."""
LOOKS_A_MINUTE = 600
"""How often in a minute the pages of one link may report what they show."""
LARGEST_BODY = 8 * 2**20
"""Bytes of the largest body; a mask painted here has at most 1536 pixels a side."""
BODY_SECONDS = 60.0
"""Seconds in which a body must arrive."""
STREAMS = 16
"""The most event streams open through one link."""
PREVIEWS = 48 * 2**20
"""Bytes of previews for slow lines that are kept in memory."""

log = logging.getLogger("imagegate")


class RouteChoice(BaseModel):
    """A route, by its number (1-based) or its label. The link says who answers."""

    model_config = ConfigDict(extra="forbid")
    route: StrictInt | StrictStr
    note: StrictStr = ""
    key: StrictStr = ""


async def _scoped(request: Request) -> ScopedBus:
    visitor: Visitor = request.scope[VISITOR]
    links: LinkStore = request.app.state.links
    if request.method != "GET":
        request.app.state.pace.keep(visitor.link.id)
    return ScopedBus(
        request.app.state.bus, visitor.link, lambda: links.session(visitor.secret) is not None
    )


Scoped = Annotated[ScopedBus, Depends(_scoped)]
"""The bus as the caller may see it."""


def create_approver(
    bus: Bus, links: LinkStore, progress: SessionProgress | None = None, names: Iterable[str] = ()
) -> FastAPI:
    """The app of the approver's door.

    Args:
        links: the links that let people in.
        progress: how far a folder's session is.
        names: names of this server in people's networks; see `imagegate.core.origins`.
    """
    # The framework's own redirects would lead to whatever host a request names.
    app = FastAPI(
        title="Image Gate", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    door = LinkDoor(links, PREFIX, Body(LARGEST_BODY, BODY_SECONDS), names)
    app.add_middleware(Guard, door=door, prefix=PREFIX)
    app.add_middleware(SafeHeaders, prefix=PREFIX)
    app.add_middleware(AnswersSoon)
    app.add_middleware(InTurn)
    app.add_exception_handler(ImageGateError, _explain)
    app.add_exception_handler(Refused, _explain_refusal)
    explain_all(app)

    app.state.bus, app.state.links, app.state.pace = bus, links, Pace(CHANGES_A_MINUTE)
    add_entry(app, links)
    _add_page(app)
    _add_gates(app, progress)
    _add_pictures(app)
    _add_answers(app)
    _add_news(app, bus, links, progress)
    return app


# -- the page


def _add_page(app: FastAPI) -> None:
    """The page's files, at URLs that mirror their folders: what is not in this list does not exist.

    The operator's folder is never in it.
    """
    kinds = {".js": "text/javascript", ".css": "text/css"}
    files = {
        path.relative_to(PAGES).as_posix(): path
        for folder in ("approver", "shared")
        for path in (PAGES / folder).rglob("*")
        if path.suffix in kinds
    }

    @app.get(PREFIX)
    def nearly_home() -> Response:
        return RedirectResponse(f"{PREFIX}/", 303)

    @app.get(f"{PREFIX}/")
    def home() -> Response:
        return HTMLResponse((PAGES / "approver" / "approver.html").read_text("utf-8"))

    @app.get(f"{PREFIX}/page/{{name:path}}")
    def page_file(name: str) -> Response:
        path = files.get(name)
        if path is None:
            raise HTTPException(404, "there is no such file")
        return Response(path.read_bytes(), media_type=kinds[path.suffix])


# -- gates


def _add_gates(app: FastAPI, progress: SessionProgress | None) -> None:
    cursors, paces = Cursors(), Pace(LOOKS_A_MINUTE)

    @app.get(f"{PREFIX}/api/me")
    async def me(request: Request) -> dict[str, Any]:
        """Who this is, and what they may see and do."""
        link = request.scope[VISITOR].link
        return {
            "name": link.name, "may": link.may.value, "scope": link.scope()["kind"],
            "link": link.id, "expires_at": link.expires_at, "now": link.expires_at - link.left,
        }  # fmt: skip

    @app.get(f"{PREFIX}/api/gates")
    def gates(bus: Scoped, limit: Limit = PAGE_SIZE, cursor: str = "") -> dict[str, Any]:
        """Gates that wait, oldest first."""
        found = bus.pending(limit + 1, cursors.open(cursor) or 0)
        described, keys = [bus.describe(gate) for gate in found], [gate.seq for gate in found]
        listed = page_of(described, keys, limit, cursors.seal)
        return listed | {"now": time.time()} | _around(bus, progress)

    @app.get(f"{PREFIX}/api/history")
    def history(
        bus: Scoped, limit: Limit = PAGE_SIZE, cursor: str = "", mine: bool = False
    ) -> dict[str, Any]:
        """Gates that ended, newest first; with ``mine=1`` those answered through this link."""
        found = bus.finished(limit + 1, cursors.open(cursor), mine=mine)
        described, keys = [bus.describe(gate) for gate in found], [gate.ended for gate in found]
        return page_of(described, keys, limit, cursors.seal)

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}")
    def gate(gate_id: str, bus: Scoped) -> dict[str, Any]:
        return bus.describe(bus.get(gate_id))

    @app.post(f"{PREFIX}/api/looking")
    def looking(seen: Looking, request: Request) -> dict[str, Any]:
        """Say what this page shows, so that other people are shown something else first."""
        visitor: Visitor = request.scope[VISITOR]
        paces.keep(visitor.link.id)
        bus = ScopedBus(app.state.bus, visitor.link)
        bus.may_decide()
        return looks_at(app.state.bus.viewers, visitor.secret, seen, bus.get)


def _around(bus: ScopedBus, progress: SessionProgress | None) -> dict[str, Any]:
    """How much there is to do; about a folder's session only what names no path."""
    around: dict[str, Any] = {"waiting": bus.count()}
    if progress is not None and bus.link.scope()["kind"] == "all":
        shown = ("session", "total", "done", "scanning", "all_done", "ended")
        around["progress"] = {key: value for key, value in progress().items() if key in shown}
    return around


def _add_pictures(app: FastAPI) -> None:
    easel, masks, out = Easel(AT_A_TIME), Turns(MASKS), UnderWay(UNDER_WAY)
    previews = PreviewCache(PREVIEWS)

    def picture(bus: ScopedBus, gate_id: str, index: int, size: str) -> Picture:
        try:
            return look(bus, gate_id, index, size)
        except BadPicture as error:  # says which file
            log.debug("%s", error)
            raise BadPicture("this image cannot be read") from error

    def look(bus: ScopedBus, gate_id: str, index: int, size: str) -> Picture:
        bus.check()  # it may have waited for its turn
        pictures = bus.pictures(gate_id, index)
        if pictures is None:
            raise GateClosed("its pictures are no longer kept")
        if size == "full":
            return pictures.full(index)
        if size == "zoom":
            return lossy(pictures.full(index))
        kept = previews.get((gate_id, index, size))
        if kept is None:
            kept = (thumb if size == "thumb" else light)(pictures.preview(index))
            previews.put((gate_id, index, size), kept)
        return kept

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}/image/{{index}}")
    async def image(gate_id: str, index: int, bus: Scoped, size: str = "preview") -> Response:
        """``preview``: for a slow line; ``thumb``; ``zoom``: the true size, lossy; ``full``."""
        easel.check(size)
        out.enter(bus.link.id, size)
        try:
            made = await easel.make(size, partial(picture, bus, gate_id, index, size), NO_STORE)
        except BaseException:
            out.leave(bus.link.id, size)
            raise
        return out.held(made, bus.link.id, size)

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}/mask/{{index}}")
    async def get_mask(gate_id: str, index: int, bus: Scoped, size: str = "full") -> Response:
        """The mask so far; 204 where there is none. ``preview``: as large as a preview."""

        def read() -> bytes | None:
            png = bus.mask(gate_id, index)
            if not png or size != "preview":
                return png
            gate = bus.get(gate_id).gate
            return to_paint_on(png, gate.width, gate.height)

        png = await masks.run(read)
        if not png:
            return Response(status_code=204)
        return Response(png, media_type="image/png")

    @app.put(f"{PREFIX}/api/gates/{{gate_id}}/mask/{{index}}")
    async def put_mask(gate_id: str, index: int, request: Request, bus: Scoped) -> dict[str, Any]:
        """Save what was painted: a PNG of the image's aspect ratio, white painted."""
        bus.may_paint()  # before anything is read
        body = await request.body()
        if not body:
            raise BadPicture("the mask is not a PNG file")
        return bus.describe(await masks.run(partial(bus.set_mask, gate_id, index, body)))

    @app.delete(f"{PREFIX}/api/gates/{{gate_id}}/mask/{{index}}")
    def delete_mask(gate_id: str, index: int, bus: Scoped) -> dict[str, Any]:
        """Clear the mask."""
        return bus.describe(bus.set_mask(gate_id, index, b""))


def _add_answers(app: FastAPI) -> None:
    @app.post(f"{PREFIX}/api/gates/{{gate_id}}/decision")
    def decide(gate_id: str, choice: RouteChoice, bus: Scoped) -> JSONResponse:
        """Choose a route. The first answer wins; a later one gets 409 and learns which it was."""
        verdict = bus.decide(gate_id, choice.route, choice.note, choice.key)
        return answer(verdict, lambda: bus.describe_decision(verdict.decision))

    @app.post(f"{PREFIX}/api/gates/{{gate_id}}/undo")
    def undo(gate_id: str, _: Nothing, bus: Scoped) -> dict[str, Any]:
        """Take back what was decided through this link."""
        return bus.describe(bus.undo(gate_id))


def _add_news(app: FastAPI, bus: Bus, links: LinkStore, progress: SessionProgress | None) -> None:
    streams = UnderWay({"page": STREAMS})

    @app.get(f"{PREFIX}/api/events")
    async def events(request: Request) -> Response:
        """Server-sent events; see `EventStream`. ``over`` ends it once the link has ended."""
        visitor: Visitor = request.scope[VISITOR]
        link, scoped = visitor.link, ScopedBus(bus, visitor.link)

        def describe(gate: Snapshot | None) -> dict[str, Any]:
            about = {"gate": scoped.describe(gate)} if gate is not None else {}
            return _around(scoped, progress) | about

        def over() -> str:
            now = links.session(visitor.secret)
            if now is not None:
                links.seen(now)  # the page is open
                return ""
            ended = links.get(link.id)
            return "This session was left." if ended.live else ended.ended

        until = time.monotonic() + link.left

        def left() -> float:
            left = until - time.monotonic()
            return left + 0.1 if left > 0 else HEARTBEAT  # so that it is over by then

        streams.enter(link.id, "page")
        news = EventStream(bus, link.among, describe, bell=links.changed, over=over, left=left)
        return news.response(request, partial(streams.leave, link.id, "page"))


# -- what goes wrong: said without paths, names of machines, or what the store has to say

_MESSAGES: dict[type[ImageGateError], str] = {
    UnknownGate: "there is no such image",
    GateClosed: "it is no longer open",
    TooLate: "too late: it went on already",
}
_AS_IT_IS = (BadAnswer, BadPicture, Forbidden)


async def _explain(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ImageGateError)
    if isinstance(error, NoEntry):
        return error_of(str(error), 401)
    if isinstance(error, _AS_IT_IS):
        return error_of(sayable(str(error)), STATUS[type(error)])
    if type(error) in _MESSAGES:
        log.debug("%s", error)
        return error_of(_MESSAGES[type(error)], STATUS[type(error)])
    report_failure("", error)
    passing = isinstance(error, StoreError) and error.passing
    if isinstance(error, NoAnswer):
        return error_of("the store does not answer", 503)
    failure = "this does not work" if request.method == "GET" else "it could not be recorded"
    return error_of(f"{failure} just now", 503 if passing else 507)


async def _explain_refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    headers = {"retry-after": str(error.after)} if error.after else None
    return error_of(str(error), error.status, headers)
