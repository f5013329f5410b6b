"""The approver's app: what comes through a share link. No Gradio, and no route that is not here.

Its guard lets nobody in without a session but to the entry page of a valid link.
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
from ..http.access import ASKED, Asked, Body, Guard, LinkDoor, Refused
from ..http.cursors import Cursors
from ..http.headers import Sealed
from ..http.outstanding import Outstanding
from ..http.serving import (
    HEARTBEAT,
    NO_STORE,
    PAGE,
    PAGES,
    PREFIX,
    STATUS,
    AnswersSoon,
    Easel,
    Limit,
    Looking,
    News,
    Nothing,
    Progress,
    Turns,
    answer,
    error_of,
    explain_all,
    looks_at,
    page_of,
)
from ..pictures.encode import light, thumb
from ..pictures.formats.image_files import PreviewCache, lossy
from ..pictures.masks import to_paint_on
from ..storage.links import LinkStore
from .entry import add_entry
from .limits import InTurn, Pace
from .scoped import LinkedBus

AT_A_TIME = {"thumb": 2, "preview": 4, "zoom": 2, "full": 1}
OUT = {"preview": 16, "thumb": 32, "zoom": 2, "full": 1}
"""Images on their way through one link: what a slow reader has not taken yet lies in memory."""
MASKS = 2
"""Masks that are read or saved at once: small files, but they may unpack to much."""
CHANGES = 300
"""Changes a minute that one link may make; a fast hand makes half as many."""
LOOKS = 600
"""Times a minute that the pages of one link may say what they show."""
LARGEST = 8 * 2**20
"""Bytes of the largest body; a mask painted here has at most 1536 pixels a side."""
PATIENCE = 60.0
"""Seconds that a body may take."""
STREAMS = 16
"""Event streams that may be open through one link."""
PREVIEWS = 48 * 2**20
"""Bytes of previews for slow lines that are kept."""

log = logging.getLogger("imagegate")


class Choice(BaseModel):
    """A route, by its number (1-based) or its label. Who answers is known from the link."""

    model_config = ConfigDict(extra="forbid")
    route: StrictInt | StrictStr
    note: StrictStr = ""
    key: StrictStr = ""


async def _linked(request: Request) -> LinkedBus:
    asked: Asked = request.scope[ASKED]
    links: LinkStore = request.app.state.links
    if request.method != "GET":
        request.app.state.pace.keep(asked.link.id)
    return LinkedBus(
        request.app.state.bus, asked.link, lambda: links.session(asked.secret) is not None
    )


Linked = Annotated[LinkedBus, Depends(_linked)]
"""The bus as whoever asks has it."""


def create_approver(
    bus: Bus, links: LinkStore, progress: Progress | None = None, names: Iterable[str] = ()
) -> FastAPI:
    """The app of the approver's door.

    Args:
        links: who may enter.
        progress: what a folder's session says of itself.
        names: under which people call it in their network; see `imagegate.core.origins`.
    """
    # Redirects of its own would lead to whatever a request names as its host.
    app = FastAPI(
        title="Image Gate", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    door = LinkDoor(links, PREFIX, Body(LARGEST, PATIENCE), names)
    app.add_middleware(Guard, door=door, prefix=PREFIX)
    app.add_middleware(Sealed, prefix=PREFIX)
    app.add_middleware(AnswersSoon)
    app.add_middleware(InTurn)
    app.add_exception_handler(ImageGateError, _explain)
    app.add_exception_handler(Refused, _explain_refusal)
    explain_all(app)

    app.state.bus, app.state.links, app.state.pace = bus, links, Pace(CHANGES)
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
        for path in (PAGES / folder).iterdir()
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


def _add_gates(app: FastAPI, progress: Progress | None) -> None:
    cursors, paces = Cursors(), Pace(LOOKS)

    @app.get(f"{PREFIX}/api/me")
    async def me(request: Request) -> dict[str, Any]:
        """Who this is, and what they may see and do."""
        link = request.scope[ASKED].link
        return {
            "name": link.name, "may": link.may.value, "scope": link.scope()["kind"],
            "link": link.id, "expires_at": link.expires_at, "now": link.expires_at - link.left,
        }  # fmt: skip

    @app.get(f"{PREFIX}/api/gates")
    def gates(bus: Linked, limit: Limit = PAGE, cursor: str = "") -> dict[str, Any]:
        """Gates that wait, oldest first."""
        found = bus.pending(limit + 1, cursors.open(cursor) or 0)
        told, keys = [bus.told(gate) for gate in found], [gate.seq for gate in found]
        listed = page_of(told, keys, limit, cursors.seal)
        return listed | {"now": time.time()} | _around(bus, progress)

    @app.get(f"{PREFIX}/api/history")
    def history(
        bus: Linked, limit: Limit = PAGE, cursor: str = "", mine: bool = False
    ) -> dict[str, Any]:
        """Gates that ended, newest first; ``mine=1``: those answered through this link."""
        found = bus.finished(limit + 1, cursors.open(cursor), mine=mine)
        told, keys = [bus.told(gate) for gate in found], [gate.ended for gate in found]
        return page_of(told, keys, limit, cursors.seal)

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}")
    def gate(gate_id: str, bus: Linked) -> dict[str, Any]:
        return bus.told(bus.get(gate_id))

    @app.post(f"{PREFIX}/api/looking")
    def looking(seen: Looking, request: Request) -> dict[str, Any]:
        """Say what this page shows, so that other people are shown something else first."""
        asked: Asked = request.scope[ASKED]
        paces.keep(asked.link.id)
        bus = LinkedBus(app.state.bus, asked.link)
        bus.may_decide()
        return looks_at(app.state.bus.viewers, asked.secret, seen, bus.get)


def _around(bus: LinkedBus, progress: Progress | None) -> dict[str, Any]:
    """How much there is to do; of a folder's session only what names no path."""
    around: dict[str, Any] = {"waiting": bus.count()}
    if progress is not None and bus.link.scope()["kind"] == "all":
        shown = ("session", "total", "done", "scanning", "all_done", "ended")
        around["progress"] = {key: value for key, value in progress().items() if key in shown}
    return around


def _add_pictures(app: FastAPI) -> None:
    easel, masks, out = Easel(AT_A_TIME), Turns(MASKS), Outstanding(OUT)
    previews = PreviewCache(PREVIEWS)

    def picture(bus: LinkedBus, gate_id: str, index: int, size: str) -> Picture:
        try:
            return look(bus, gate_id, index, size)
        except BadPicture as error:  # says which file
            log.debug("%s", error)
            raise BadPicture("this image cannot be read") from error

    def look(bus: LinkedBus, gate_id: str, index: int, size: str) -> Picture:
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
    async def image(gate_id: str, index: int, bus: Linked, size: str = "preview") -> Response:
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
    async def get_mask(gate_id: str, index: int, bus: Linked, size: str = "full") -> Response:
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
    async def put_mask(gate_id: str, index: int, request: Request, bus: Linked) -> dict[str, Any]:
        """Save what was painted: a PNG of the image's aspect ratio, white painted."""
        bus.may_paint()  # before anything is read
        body = await request.body()
        if not body:
            raise BadPicture("the mask is not a PNG file")
        return bus.told(await masks.run(partial(bus.set_mask, gate_id, index, body)))

    @app.delete(f"{PREFIX}/api/gates/{{gate_id}}/mask/{{index}}")
    def delete_mask(gate_id: str, index: int, bus: Linked) -> dict[str, Any]:
        """Clear the mask."""
        return bus.told(bus.set_mask(gate_id, index, b""))


def _add_answers(app: FastAPI) -> None:
    @app.post(f"{PREFIX}/api/gates/{{gate_id}}/decision")
    def decide(gate_id: str, choice: Choice, bus: Linked) -> JSONResponse:
        """Choose a route. The first answer wins; a later one gets 409 and learns which it was."""
        verdict = bus.decide(gate_id, choice.route, choice.note, choice.key)
        return answer(verdict, lambda: bus.told_decision(verdict.decision))

    @app.post(f"{PREFIX}/api/gates/{{gate_id}}/undo")
    def undo(gate_id: str, _: Nothing, bus: Linked) -> dict[str, Any]:
        """Take back what was decided through this link."""
        return bus.told(bus.undo(gate_id))


def _add_news(app: FastAPI, bus: Bus, links: LinkStore, progress: Progress | None) -> None:
    streams = Outstanding({"page": STREAMS})

    @app.get(f"{PREFIX}/api/events")
    async def events(request: Request) -> Response:
        """Server-sent events; see `News`. ``over`` comes when the link has ended, and ends it."""
        asked: Asked = request.scope[ASKED]
        link, linked = asked.link, LinkedBus(bus, asked.link)

        def told(gate: Snapshot | None) -> dict[str, Any]:
            about = {"gate": linked.told(gate)} if gate is not None else {}
            return _around(linked, progress) | about

        def over() -> str:
            now = links.session(asked.secret)
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
        news = News(bus, link.among, told, bell=links.changed, over=over, left=left)
        return news.response(request, partial(streams.leave, link.id, "page"))


# -- what goes wrong: said without paths, names of machines, or what the store has to say

_SAID: dict[type[ImageGateError], str] = {
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
    if type(error) in _SAID:
        log.debug("%s", error)
        return error_of(_SAID[type(error)], STATUS[type(error)])
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
