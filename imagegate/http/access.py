"""Who is calling: the guard in front of every request, at either door.

The operator's door lets in whoever sits at this machine or came through ComfyUI; the approver's
door lets in whoever opened a share link, and shows everybody else the entry page and nothing more.
They are two apps on two ports, so nothing in a request decides which door it comes to.

Pure ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..core.failures import report_failure
from ..core.model import NoAnswer, StoreError
from ..core.origins import SAFE_METHODS, Origins
from .headers import error_page, wants_page

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ..core.links import Link
    from ..storage.links import LinkStore

KEY_HEADER = "x-imagegate-key"
MAX_BODY = 40 * 2**20
"""Bytes of the largest request body that is read at all."""
MAX_JSON = 64 * 2**10
VISITOR = "imagegate.visitor"
"""Key in a request's scope: the `Visitor` at the approver's door."""


class Refused(Exception):
    """A request that is refused.

    ``after``: seconds after which it may be tried again; 0 for not at all. ``last``: whether its
    connection is closed after it.
    """

    def __init__(self, status: int, message: str, after: int = 0, *, last: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.after = after
        self.last = last


@dataclass(frozen=True)
class Body:
    """The limits on a request's body: bytes, and seconds for it to arrive (None: any time)."""

    size: int = MAX_BODY
    seconds: float | None = None


STRANGERS_BODY = Body(4 * 2**10, 10.0)
"""The limits for somebody without a session, whose body only has to hold a token."""


class Door(Protocol):
    """Decides whether a request may enter, and with how large a body. Raises `Refused`."""

    async def admit(self, scope: Scope, headers: Headers) -> Body: ...


class KeyDoor:
    """Lets in whoever knows the key: ComfyUI's own server, on behalf of those that it lets in."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    async def admit(self, scope: Scope, headers: Headers) -> Body:
        if not hmac.compare_digest(headers.get(KEY_HEADER, "").encode(), self._key):
            raise Refused(403, "this port belongs to ComfyUI; open /imagegate/ on ComfyUI's port")
        return Body()


class HostDoor:
    """Lets in calls from pages of ours, under a name of ours, and calls from no browser at all.

    Args:
        names: names under which people reach this server; see `Origins`.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._origins = Origins(names)

    async def admit(self, scope: Scope, headers: Headers) -> Body:
        _check_origin(self._origins, scope, headers)
        return Body()


@dataclass(frozen=True)
class Visitor:
    """Who calls at the approver's door: the link they came through, and their session's secret."""

    link: Link
    secret: str


class LinkDoor:
    """Lets in whoever has opened a share link. Everybody else sees the entry page only.

    Args:
        links: looked up at each request, so that a revoked link ends at once.
        prefix: the prefix of all paths.
        inside: the limits on a body for somebody who is in.
        names: names of this server in people's networks; see `Origins`.
    """

    def __init__(
        self, links: LinkStore, prefix: str, inside: Body, names: Iterable[str] = ()
    ) -> None:
        self._links = links
        self._origins = Origins(names)
        self._inside = inside
        self._address = f"{prefix}/s/"
        self._session = f"{prefix}/api/session"

    async def admit(self, scope: Scope, headers: Headers) -> Body:
        secret = session_secret(scope, headers)
        link = await self.find(secret, outside=outside(scope)) if secret else None
        if link is None and not self._way_in(scope):
            raise Refused(401, "Open the link that you were sent.")
        _check_origin(self._origins, scope, headers, tls=outside(scope))
        if link is None:
            return STRANGERS_BODY
        scope[VISITOR] = Visitor(link, secret)
        return self._inside

    async def find(self, secret: str, *, outside: bool) -> Link | None:
        """The live link of a session. Raises `Refused` while the store cannot be read.

        Args:
            outside: whether the request comes through the tunnel.
        """
        try:
            return await asyncio.to_thread(self._find, secret, outside)
        except StoreError as error:
            report_failure("", error)
            silent = isinstance(error, NoAnswer)
            why = "The store does not answer." if silent else "This does not work for the moment."
            raise Refused(503, f"{why} Try again.", 5) from error

    def _find(self, secret: str, outside: bool) -> Link | None:
        link = self._links.session(secret)
        if link is None or not link.opens(outside=outside):
            return None
        self._links.seen(link)
        return link

    def _way_in(self, scope: Scope) -> bool:
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD"):
            token: str = path[len(self._address) :]
            return path.startswith(self._address) and bool(token) and "/" not in token
        return bool(method == "POST" and path == self._session)


def outside(scope: Scope) -> bool:
    """Whether a request comes through the tunnel, where people speak HTTPS."""
    from .sockets.listening import SECURE

    return bool(scope.get(SECURE))


def session_cookie(scope: Scope) -> tuple[str, str]:
    """Name and path of the cookie that holds a session's secret.

    Over HTTPS a browser takes a ``__Host-`` cookie from this very host only (RFC 6265bis, section
    4.1.3): another page below the tunnel's domain cannot put its own in its place.
    """
    return ("__Host-imagegate", "/") if outside(scope) else ("imagegate", "/imagegate")


def session_secret(scope: Scope, headers: Headers) -> str:
    """The secret of the session that a request claims to belong to."""
    from starlette.requests import cookie_parser

    name, _ = session_cookie(scope)
    return cookie_parser(headers.get("cookie", "")).get(name, "")


class Guard:
    """Refuses what must not reach the app: strangers, foreign origins, oversized bodies.

    Args:
        door: decides who may enter.
        prefix: the prefix of all paths.
        pages: whether the refusal of a page is itself a page.
    """

    def __init__(self, app: ASGIApp, door: Door, prefix: str, *, pages: bool = False) -> None:
        self._app = app
        self._door = door
        self._pages = pages
        self._api = f"{prefix}/api/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        # Not above: ComfyUI loads this module for KEY_HEADER, and no web framework with it.
        from starlette.datastructures import Headers

        headers = Headers(scope=scope)
        try:
            if scope["type"] == "websocket":
                raise Refused(403, "no websockets here")
            if "transfer-encoding" in headers and "content-length" in headers:
                # RFC 9112, section 6.1: a proxy may have read another length than we do.
                raise Refused(400, "a body has one length, not two", last=True)
            taken = await self._door.admit(scope, headers)
            limit = self._check(scope, headers, taken.size)
        except Refused as refused:
            person = self._pages and not scope["path"].startswith(self._api)
            await _refuse(refused, scope, send, person and wants_page(headers.getlist("accept")))
            return
        body = _Reader(receive, limit, taken.seconds)
        started = answered = False

        async def watched(message: Message) -> None:
            nonlocal started, answered
            if answered:
                return
            if body.refused is not None and not started:
                answered = True  # instead of what the app says, which may take it for a broken body
                await _refuse(body.refused, scope, send)
                return
            started = True
            await send(message)

        try:
            await self._app(scope, body.receive, watched)
        except Refused as refused:
            if answered:
                return
            if started:
                raise
            await _refuse(refused, scope, send)

    def _check(self, scope: Scope, headers: Headers, limit: int) -> int:
        """Check what holds at every door; returns how large the body may be."""
        method, path = scope["method"], scope["path"]
        if method in SAFE_METHODS:
            return limit
        if path.startswith(self._api):
            if method == "POST":
                _expect(headers, "application/json")
                limit = min(limit, MAX_JSON)
            elif method == "PUT":
                _expect(headers, "image/png")
        length = headers.get("content-length", "0")
        if not length.isdigit():
            raise Refused(400, f"content-length is {length!r}, not a number")
        if int(length) > limit:
            raise _too_large(limit)
        return limit


def _check_origin(origins: Origins, scope: Scope, headers: Headers, *, tls: bool = False) -> None:
    why = origins.refusal(scope["method"], headers.getlist, tls=tls)
    if why:
        raise Refused(403, why)


class _Reader:
    """Counts a request's body while it is read; raises `Refused` if it is too large or late."""

    def __init__(self, receive: Receive, limit: int, patience: float | None) -> None:
        self._receive = receive
        self._left = limit
        self._limit = limit
        self._patience = patience
        self._until: float | None = None
        self._whole = False
        self.refused: Refused | None = None

    async def receive(self) -> Message:
        if self._whole or self._patience is None:
            message = await self._receive()
        else:
            message = await self._in_time(self._patience)
        if message["type"] == "http.request":
            self._whole = not message.get("more_body", False)
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self.refused = _too_large(self._limit)
                raise self.refused
        return message

    async def _in_time(self, patience: float) -> Message:
        loop = asyncio.get_running_loop()
        if self._until is None:
            self._until = loop.time() + patience
        try:
            return await asyncio.wait_for(self._receive(), max(0.0, self._until - loop.time()))
        except asyncio.TimeoutError:
            self.refused = Refused(408, f"the body did not arrive within {patience:g} s")
            raise self.refused from None


def _expect(headers: Headers, wanted: str) -> None:
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise Refused(415, f"content type is {given!r}; this call takes {wanted!r}")


def _too_large(limit: int) -> Refused:
    return Refused(413, f"the body is larger than {limit} bytes")


async def _refuse(refused: Refused, scope: Scope, send: Send, page: bool = False) -> None:
    from starlette.responses import Response

    if page:
        body, headers = error_page(str(refused))
    else:
        body = json.dumps({"error": str(refused)}).encode()
        headers = {"content-type": "application/json"}
    if refused.after:
        headers["retry-after"] = str(refused.after)
    if refused.last:
        headers["connection"] = "close"
    await Response(body, refused.status, headers)({**scope, "type": "http"}, _no_body, send)


async def _no_body() -> Message:
    return {"type": "http.disconnect"}
