"""The approver's app: what comes through a share link. No Gradio, and no route that is not here.

Its guard lets nobody in without a session but to the entry page of a valid link.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, StrictInt, StrictStr
from starlette.exceptions import HTTPException

from .access import (
    ASKED,
    Asked,
    Guard,
    LinkDoor,
    Refused,
    outside,
    session_cookie,
    session_secret,
)
from .bus import Bus
from .cursors import Cursors
from .image_files import PreviewCache, lossy
from .link_store import LinkStore
from .linked import LinkedBus
from .links import Link, NoEntry
from .listener import SOURCE
from .masks import to_paint_on
from .model import (
    BadAnswer,
    BadPicture,
    Forbidden,
    GateClosed,
    ImageGateError,
    Snapshot,
    StoreError,
    TooLate,
    UnknownGate,
    sayable,
)
from .pictures import Picture, light
from .sealed import Sealed
from .serving import (
    HEARTBEAT,
    NO_STORE,
    PAGE,
    PREFIX,
    STATUS,
    Easel,
    Limit,
    News,
    Progress,
    Turns,
    answer,
    error_of,
    explain_all,
    page_of,
)
from .throttle import Throttle

FILES = Path(__file__).parent / "page"
AT_A_TIME = {"preview": 4, "zoom": 2, "full": 1}
MASKS = 2
"""Masks that are saved at once: small files, but they may unpack to much."""
LARGEST = 8 * 2**20
"""Bytes of the largest body; a mask painted here has at most 1536 pixels a side."""
PATIENCE = 60.0
"""Seconds that a body may take."""
STREAMS = 16
"""Event streams that may be open through one link."""
PREVIEWS = 48 * 2**20
"""Bytes of previews for slow lines that are kept."""

log = logging.getLogger("imagegate")

T = TypeVar("T")


class Opening(BaseModel):
    """How a browser gets in."""

    model_config = ConfigDict(extra="forbid")
    token: StrictStr
    passphrase: StrictStr = ""
    key: StrictStr = ""


class Choice(BaseModel):
    """A route, by its number (1-based) or its label. Who answers is known from the link."""

    model_config = ConfigDict(extra="forbid")
    route: StrictInt | StrictStr
    note: StrictStr = ""
    key: StrictStr = ""


class Nothing(BaseModel):
    """An empty object."""

    model_config = ConfigDict(extra="forbid")


async def _linked(request: Request) -> LinkedBus:
    asked: Asked = request.scope[ASKED]
    links: LinkStore = request.app.state.links
    return LinkedBus(
        request.app.state.bus, asked.link, lambda: links.session(asked.secret) is not None
    )


Linked = Annotated[LinkedBus, Depends(_linked)]
"""The bus as whoever asks has it."""


def create_approver(bus: Bus, links: LinkStore, progress: Progress | None = None) -> FastAPI:
    """The app of the approver's door.

    Args:
        links: who may enter.
        progress: what a folder's session says of itself.
    """
    # Redirects of its own would lead to whatever a request names as its host.
    app = FastAPI(
        title="Image Gate", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    door = LinkDoor(links, PREFIX)
    app.add_middleware(Guard, door=door, prefix=PREFIX, largest=LARGEST, patience=PATIENCE)
    app.add_middleware(Sealed, prefix=PREFIX)
    app.add_exception_handler(ImageGateError, _explain)
    app.add_exception_handler(Refused, _explain_refusal)
    explain_all(app)

    app.state.bus, app.state.links = bus, links
    _add_entry(app, links)
    _add_page(app)
    _add_gates(app, progress)
    _add_pictures(app)
    _add_answers(app)
    _add_news(app, bus, links, progress)
    return app


# -- getting in


def _add_entry(app: FastAPI, links: LinkStore) -> None:
    throttle = Throttle()
    template = (FILES / "approver" / "enter.html").read_text("utf-8")
    turns, one_by_one = Turns(1), threading.Lock()  # the lock: there may be two doors

    async def attempt(request: Request, token: str, act: Callable[[Link], T]) -> T:
        """Try a token, one at a time, so that nobody can guess faster than wrong ones count."""
        source = str(request.scope.get(SOURCE, "?"))
        throttle.check(source)
        return await turns.run(partial(try_it, source, outside(request.scope), token, act))

    def try_it(source: str, beyond: bool, token: str, act: Callable[[Link], T]) -> T:
        with one_by_one:
            throttle.check(source)
            whose = [source]
            try:
                link = links.find(token)
                if not link.opens(outside=beyond):
                    raise NoEntry("This link opens in its own network only.")
                whose.append(f"all who try {link.name}'s link {link.id}")
                throttle.check(*whose)
                return act(link)
            except NoEntry as error:
                if error.guessed:
                    what = "a wrong passphrase" if len(whose) > 1 else "a wrong link"
                    throttle.wrong(what, *whose)
                mistyped = error.guessed and len(whose) > 1  # then the link itself is good
                advice = "" if mistyped else " Ask whoever sent it for a new one."
                raise Refused(403, f"{error}{advice}") from error

    @app.get(f"{PREFIX}/s/{{token}}")
    async def enter(token: str, request: Request) -> Response:
        """The entry page of a link; looking at it changes nothing."""
        asked: Asked | None = request.scope.get(ASKED)
        if asked is not None:
            with_it = await to_thread.run_sync(_same_link, links, token, asked.link)
            if with_it:
                return RedirectResponse(f"{PREFIX}/", 303)
        link = await attempt(request, token, _unopened)
        told = {
            "token": token, "name": link.name, "passphrase": link.passphrase, "once": link.once,
            "may": link.may.value, "expires_at": link.expires_at, "now": time.time(),
        }  # fmt: skip
        nonce = secrets.token_urlsafe(16)
        told_safely = json.dumps(told).replace("<", "\\u003c")
        body = template.replace("__NONCE__", nonce).replace("__LINK__", told_safely)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; "
            "form-action 'none'"
        )
        return HTMLResponse(body, headers={"content-security-policy": policy})

    @app.post(f"{PREFIX}/api/session")
    async def open_session(opening: Opening, request: Request) -> Response:
        """Open a link in this browser: its session is a new one, whatever the browser has."""
        token, passphrase = opening.token, opening.passphrase
        link, secret = await attempt(request, token, lambda _: links.open(token, passphrase))
        before = session_secret(request.scope, request.headers)
        if before:
            await to_thread.run_sync(links.leave, before)
        log.info("%s opened the link %s", link.name, link.id)
        response = JSONResponse({"ok": True})
        _set_cookie(response, request, secret, max(1, round(link.expires_at - time.time())))
        return response

    @app.delete(f"{PREFIX}/api/session")
    async def leave(request: Request) -> Response:
        """Leave: this browser's session ends."""
        asked: Asked = request.scope[ASKED]
        await to_thread.run_sync(links.leave, asked.secret)
        response = Response(status_code=204)
        _set_cookie(response, request, "", 0)
        return response

    @app.get(f"{PREFIX}/api/me")
    async def me(request: Request) -> dict[str, Any]:
        """Who this is, and what they may see and do."""
        link = request.scope[ASKED].link
        return {
            "name": link.name, "may": link.may.value, "scope": link.scope()["kind"],
            "link": link.id, "expires_at": link.expires_at, "now": time.time(),
        }  # fmt: skip


def _same_link(links: LinkStore, token: str, link: Link) -> bool:
    try:
        return links.find(token).id == link.id
    except NoEntry:
        return False


def _unopened(link: Link) -> Link:
    if link.once and link.opened:
        raise NoEntry("This link was opened in another browser already.")
    return link


def _set_cookie(response: Response, request: Request, secret: str, seconds: int) -> None:
    name, path = session_cookie(request.scope)
    response.set_cookie(
        name, secret, max_age=seconds, path=path, secure=name.startswith("__Host-"),
        httponly=True, samesite="lax",
    )  # fmt: skip


# -- the page


def _add_page(app: FastAPI) -> None:
    """The page's files, each by its name: what is not in this list does not exist."""
    kinds = {".js": "text/javascript", ".css": "text/css"}
    found = [*(FILES / "approver").iterdir(), *(FILES / "shared").iterdir()]
    files = {
        str(path.relative_to(FILES)).replace("\\", "/").removeprefix("approver/"): path
        for path in found
        if path.suffix in kinds
    }

    @app.get(PREFIX)
    def nearly_home() -> Response:
        return RedirectResponse(f"{PREFIX}/", 303)

    @app.get(f"{PREFIX}/")
    def home() -> Response:
        return HTMLResponse((FILES / "approver" / "approver.html").read_text("utf-8"))

    @app.get(f"{PREFIX}/page/{{name:path}}")
    def page_file(name: str) -> Response:
        path = files.get(name)
        if path is None:
            raise HTTPException(404, "there is no such file")
        return Response(path.read_bytes(), media_type=kinds[path.suffix])


# -- gates


def _add_gates(app: FastAPI, progress: Progress | None) -> None:
    cursors = Cursors()

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


def _around(bus: LinkedBus, progress: Progress | None) -> dict[str, Any]:
    """How much there is to do; of a folder's session only what names no path."""
    around: dict[str, Any] = {"waiting": bus.count()}
    if progress is not None and bus.link.scope()["kind"] == "all":
        shown = ("total", "done", "scanning", "all_done", "ended")
        around["progress"] = {key: value for key, value in progress().items() if key in shown}
    return around


def _add_pictures(app: FastAPI) -> None:
    easel, masks = Easel(AT_A_TIME), Turns(MASKS)
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
        kept = previews.get((gate_id, index))
        if kept is None:
            kept = light(pictures.preview(index))
            previews.put((gate_id, index), kept)
        return kept

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}/image/{{index}}")
    async def image(gate_id: str, index: int, bus: Linked, size: str = "preview") -> Response:
        """``preview``: light enough for a slow line; ``zoom``: the true size, lossy; ``full``."""
        easel.check(size)
        return await easel.make(size, partial(picture, bus, gate_id, index, size), NO_STORE)

    @app.get(f"{PREFIX}/api/gates/{{gate_id}}/mask/{{index}}")
    def get_mask(gate_id: str, index: int, bus: Linked, size: str = "full") -> Response:
        """The mask so far; 204 where there is none. ``preview``: as large as a preview."""
        png = bus.mask(gate_id, index)
        if not png:
            return Response(status_code=204)
        if size == "preview":
            gate = bus.get(gate_id).gate
            png = to_paint_on(png, gate.width, gate.height)
        return Response(png, media_type="image/png")

    @app.put(f"{PREFIX}/api/gates/{{gate_id}}/mask/{{index}}")
    async def put_mask(gate_id: str, index: int, request: Request, bus: Linked) -> dict[str, Any]:
        """Save what was painted: a PNG of the image's aspect ratio, white painted."""
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
    counting = threading.Lock()  # guards the streams that are open, by their link
    streams: Counter[str] = Counter()

    def enter(link_id: str) -> None:
        with counting:
            if streams[link_id] >= STREAMS:
                raise Refused(429, f"this link has {STREAMS} pages open; close one", 10)
            streams[link_id] += 1

    def go(link_id: str) -> None:
        with counting:
            streams[link_id] -= 1
            if not streams[link_id]:
                del streams[link_id]

    @app.get(f"{PREFIX}/api/events")
    async def events(request: Request) -> Response:
        """Server-sent events; see `News`. ``over`` comes when the link has ended, and ends it."""
        asked: Asked = request.scope[ASKED]
        link, linked = asked.link, LinkedBus(bus, asked.link)

        def told(gate: Snapshot | None) -> dict[str, Any]:
            about = {"gate": linked.told(gate)} if gate is not None else {}
            return _around(linked, progress) | about

        def over() -> str:
            if links.session(asked.secret) is not None:
                return ""
            ended = links.get(link.id)
            return f"This link was {ended.state}." if not ended.live else "This session was left."

        def left() -> float:
            left = link.expires_at - time.time()
            return left + 0.1 if left > 0 else HEARTBEAT  # so that it is over by then

        enter(link.id)
        news = News(bus, link.among, told, bell=links.changed, over=over, left=left)
        return news.response(request, partial(go, link.id))


# -- what goes wrong: said without paths, names of machines, or what the store has to say

_SAID: dict[type[ImageGateError], str] = {
    UnknownGate: "there is no such image",
    GateClosed: "it is no longer open",
    TooLate: "too late: it went on already",
}
_AS_IT_IS = (BadAnswer, BadPicture, Forbidden)


async def _explain(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ImageGateError)
    if isinstance(error, NoEntry):
        return error_of(str(error), 401)
    if isinstance(error, _AS_IT_IS):
        return error_of(sayable(str(error)), STATUS[type(error)])
    if type(error) in _SAID:
        log.debug("%s", error)
        return error_of(_SAID[type(error)], STATUS[type(error)])
    log.warning("%s", error)
    passing = isinstance(error, StoreError) and error.passing
    return error_of("it could not be recorded just now", 503 if passing else 507)


async def _explain_refusal(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    headers = {"retry-after": str(error.after)} if error.after else None
    return error_of(str(error), error.status, headers)
