"""How people enter by a share link: its entry page, and the session that it opens."""

from __future__ import annotations

import json
import logging
import secrets
from functools import partial

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, StrictStr

from ..core.links import Link, NoEntry, TooManyAttempts, WrongPassphrase
from ..http.access import VISITOR, Refused, Visitor, outside, session_cookie, session_secret
from ..http.images import Turns
from ..http.paths import PAGES, PREFIX
from ..http.sockets.listening import SOURCE
from ..storage.links import LinkStore

log = logging.getLogger("imagegate")

LOOKUPS = 4
"""The most tokens looked up at once: however many come, others are answered meanwhile."""


class Opening(BaseModel):
    """How a browser enters. ``key`` identifies the attempt, also when it is sent again."""

    model_config = ConfigDict(extra="forbid")
    token: StrictStr
    passphrase: StrictStr = ""
    key: StrictStr = ""


class WayIn:
    """Tries tokens and passphrases.

    A token has 256 random bits. Nobody guesses one, so wrong ones lock nobody out, however many
    come. A passphrase is chosen by a person, so the store counts wrong ones.
    """

    def __init__(self, links: LinkStore) -> None:
        self._links = links
        self._looks, self._opens = Turns(LOOKUPS), Turns(1)

    async def look(self, request: Request, token: str) -> Link:
        """The link that this token opens; nothing is changed. Raises `Refused`."""
        return await self._looks.run(partial(self._find, token, outside(request.scope)))

    async def open(self, request: Request, opening: Opening) -> tuple[Link, str]:
        """Open a link: the link, and the secret of its session. Raises `Refused`."""
        link = await self.look(request, opening.token)
        source = str(request.scope.get(SOURCE, "?"))
        return await self._opens.run(partial(self._open, link, opening, source))

    def _find(self, token: str, beyond: bool) -> Link:
        try:
            link = self._links.find(token)
        except NoEntry as error:
            raise _refusal(error) from error
        if not link.opens(outside=beyond):
            raise _refusal(NoEntry("This link opens in its own network only."))
        return link

    def _open(self, link: Link, opening: Opening, source: str) -> tuple[Link, str]:
        try:
            return self._links.open(opening.token, opening.passphrase, opening.key)
        except TooManyAttempts as error:
            raise Refused(429, str(error), error.after) from error
        except WrongPassphrase as error:
            log.warning(
                "a wrong passphrase for %s's link %s, from %s; %d more within the hour and it is "
                "locked", link.name, link.id, source, error.left,
            )  # fmt: skip
            raise Refused(403, str(error)) from error  # the link itself is good
        except NoEntry as error:
            raise _refusal(error) from error


def add_entry(app: FastAPI, links: LinkStore) -> None:
    """Add the entry page, and the calls that open and leave a session."""
    way_in = WayIn(links)
    template = (PAGES / "approver" / "enter.html").read_text("utf-8")
    palette = (PAGES / "shared" / "tokens.css").read_text("utf-8")
    template = template.replace("__TOKENS__", palette)

    @app.get(f"{PREFIX}/s/{{token}}")
    async def enter(token: str, request: Request) -> Response:
        """The entry page of a link; viewing it changes nothing."""
        visitor: Visitor | None = request.scope.get(VISITOR)
        if visitor is not None and await to_thread.run_sync(_same_link, links, token, visitor.link):
            return RedirectResponse(f"{PREFIX}/", 303)
        link = await way_in.look(request, token)
        if link.once and link.opened:
            raise _refusal(NoEntry("This link was opened in another browser already."))
        shown = {
            "token": token, "name": link.name, "passphrase": link.passphrase, "once": link.once,
            "may": link.may.value, "expires_at": link.expires_at,
            "now": link.expires_at - link.left,
        }  # fmt: skip
        nonce = secrets.token_urlsafe(16)
        embedded = json.dumps(shown).replace("<", "\\u003c")
        body = template.replace("__NONCE__", nonce).replace("__LINK__", embedded)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; "
            "form-action 'none'"
        )
        return HTMLResponse(body, headers={"content-security-policy": policy})

    @app.post(f"{PREFIX}/api/session")
    async def open_session(opening: Opening, request: Request) -> Response:
        """Open a link in this browser, always in a new session."""
        link, secret = await way_in.open(request, opening)
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
        visitor: Visitor = request.scope[VISITOR]
        await to_thread.run_sync(links.leave, visitor.secret)
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


def _set_cookie(response: Response, request: Request, secret: str, seconds: int) -> None:
    name, path = session_cookie(request.scope)
    response.set_cookie(
        name, secret, max_age=seconds, path=path, secure=name.startswith("__Host-"),
        httponly=True, samesite="lax",
    )  # fmt: skip
