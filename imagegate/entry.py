"""The way in at the approver's door: the page of a link, and the session that it becomes."""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, StrictStr

from .access import ASKED, Asked, Refused, outside, session_cookie, session_secret
from .link_store import LinkStore
from .links import Link, NoEntry
from .listener import SOURCE
from .serving import PAGES, PREFIX, Turns
from .throttle import Throttle

log = logging.getLogger("imagegate")

T = TypeVar("T")


class Opening(BaseModel):
    """How a browser gets in. ``key``: of this attempt, the same when it is sent again."""

    model_config = ConfigDict(extra="forbid")
    token: StrictStr
    passphrase: StrictStr = ""
    key: StrictStr = ""


class WayIn:
    """Tries tokens and passphrases, one at a time: nobody guesses faster than wrong ones count.

    Of a token that exists nobody can say that it was guessed. So where all come from one source,
    through the tunnel, it opens however many others were wrong, and a wrong passphrase counts
    against its link alone.
    """

    def __init__(self, links: LinkStore) -> None:
        self._links = links
        self._throttle = Throttle()
        self._turns = Turns(1)
        self._one_by_one = threading.Lock()  # there may be two doors, each with turns of its own

    async def attempt(self, request: Request, token: str, act: Callable[[Link], T]) -> T:
        """What ``act`` makes of the token's link. Raises `Refused`."""
        beyond = outside(request.scope)
        source = str(request.scope.get(SOURCE, "?"))
        own = [] if beyond else [source]
        self._throttle.check(*own)
        return await self._turns.run(partial(self._try, source, own, beyond, token, act))

    def _try(
        self, source: str, own: list[str], beyond: bool, token: str, act: Callable[[Link], T]
    ) -> T:
        with self._one_by_one:
            self._throttle.check(*own)
            try:
                link = self._links.find(token)
            except NoEntry as error:
                self._throttle.check(source)
                if error.guessed:
                    self._throttle.wrong("a wrong link", source)
                raise _refusal(error) from error
            whose = [*own, f"all who try {link.name}'s link {link.id}"]
            self._throttle.check(*whose)
            try:
                if not link.opens(outside=beyond):
                    raise NoEntry("This link opens in its own network only.")
                return act(link)
            except NoEntry as error:
                if error.guessed:
                    self._throttle.wrong("a wrong passphrase", *whose)
                    raise Refused(403, str(error)) from error  # the link itself is good
                raise _refusal(error) from error


def add_entry(app: FastAPI, links: LinkStore) -> None:
    """Add the entry page, and what opens and leaves a session."""
    way_in = WayIn(links)
    template = (PAGES / "approver" / "enter.html").read_text("utf-8")

    @app.get(f"{PREFIX}/s/{{token}}")
    async def enter(token: str, request: Request) -> Response:
        """The entry page of a link; looking at it changes nothing."""
        asked: Asked | None = request.scope.get(ASKED)
        if asked is not None and await to_thread.run_sync(_same_link, links, token, asked.link):
            return RedirectResponse(f"{PREFIX}/", 303)
        link = await way_in.attempt(request, token, _unopened)
        told = {
            "token": token, "name": link.name, "passphrase": link.passphrase, "once": link.once,
            "may": link.may.value, "expires_at": link.expires_at,
            "now": link.expires_at - link.left,
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

        def open_link(_: Link) -> tuple[Link, str]:
            return links.open(opening.token, opening.passphrase, opening.key)

        link, secret = await way_in.attempt(request, opening.token, open_link)
        before = session_secret(request.scope, request.headers)
        if before:
            await to_thread.run_sync(links.leave, before)
        log.info("%s opened the link %s", link.name, link.id)
        response = JSONResponse({"ok": True})
        _set_cookie(response, request, secret, max(1, round(link.left)))
        return response

    @app.delete(f"{PREFIX}/api/session")
    async def leave(request: Request) -> Response:
        """Leave: this browser's session ends."""
        asked: Asked = request.scope[ASKED]
        await to_thread.run_sync(links.leave, asked.secret)
        response = Response(status_code=204)
        _set_cookie(response, request, "", 0)
        return response


def _refusal(error: NoEntry) -> Refused:
    return Refused(403, f"{error} Ask whoever sent it for a new one.")


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
