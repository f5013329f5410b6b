"""Who is asking: the guard in front of every request, REST and panel alike.

Pure ASGI, so that streams pass through it untouched.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

KEY_HEADER = "x-imagegate-key"
MAX_BODY = 40 * 2**20
"""Bytes of the largest request body that is read at all."""
MAX_JSON = 64 * 2**10

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class Refused(Exception):
    """A request that goes no further."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Door(Protocol):
    """Decides from the headers alone whether a request may enter. Raises `Refused`."""

    def check(self, headers: Headers) -> None: ...


class KeyDoor:
    """Lets in who knows the key: ComfyUI's own server, for whoever it lets in."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def check(self, headers: Headers) -> None:
        if not hmac.compare_digest(headers.get(KEY_HEADER, "").encode(), self._key):
            raise Refused(403, "this port belongs to ComfyUI; open /imagegate/ on ComfyUI's port")


class HostDoor:
    """Lets in who calls the server by a name that is its own (against DNS rebinding).

    Args:
        hosts: further names, beside ``localhost`` and IP addresses, which no rebinding can fake.
    """

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self._hosts = {"localhost", *hosts}

    def check(self, headers: Headers) -> None:
        name = _hostname(headers.get("host", ""))
        if name in self._hosts or _is_address(name):
            return
        raise Refused(403, f"this server is not called {name!r}; call it by its address")


class Guard:
    """Turns away what must not reach the app: strangers, foreign origins, oversized bodies."""

    def __init__(self, app: ASGIApp, door: Door, prefix: str) -> None:
        self._app = app
        self._door = door
        self._api = f"{prefix}/api/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        # Not above: ComfyUI's side needs KEY_HEADER when it loads the pack, and no web framework.
        from starlette.datastructures import Headers

        headers = Headers(scope=scope)
        try:
            self._door.check(headers)
            if scope["type"] == "websocket":
                raise Refused(403, "no websockets here")
            limit = self._check(scope, headers)
        except Refused as refused:
            await _refuse(refused, send)
            return
        body = _Body(receive, limit)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if body.refused is not None and not started:
                raise body.refused  # the app may have taken it for a broken body
            started = True
            await send(message)

        try:
            await self._app(scope, body.receive, watched)
        except Refused as refused:
            if started:
                raise
            await _refuse(refused, send)

    def _check(self, scope: Scope, headers: Headers) -> int:
        """What holds for every door; returns how large the body may be."""
        method, path = scope["method"], scope["path"]
        if method in _SAFE_METHODS:
            return MAX_BODY
        check_origin(headers)
        limit = MAX_BODY
        if path.startswith(self._api):
            if method == "POST":
                _expect(headers, "application/json")
                limit = MAX_JSON
            elif method == "PUT":
                _expect(headers, "image/png")
        length = headers.get("content-length", "0")
        if not length.isdigit():
            raise Refused(400, f"content-length is {length!r}, not a number")
        if int(length) > limit:
            raise _too_large(limit)
        return limit


def check_origin(headers: Headers) -> None:
    """Refuse a state-changing request that a page of another origin makes in somebody's browser.

    Browsers say ``Sec-Fetch-Site`` themselves and no page can change it; without it ``Origin``
    must name the host that was called. A program that is no browser sends neither.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        if site in ("same-origin", "none"):
            return
        raise Refused(403, f"a page of another origin ({site}) may not change anything here")
    origin = headers.get("origin")
    if origin is not None and _netloc(origin) != headers.get("host", "").lower():
        raise Refused(
            403, f"a page of another origin ({origin[:100]}) may not change anything here"
        )


class _Body:
    """Counts a request body while it is read; raises `Refused` once it is too large."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._left = limit
        self._limit = limit
        self.refused: Refused | None = None

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self.refused = _too_large(self._limit)
                raise self.refused
        return message


def _expect(headers: Headers, wanted: str) -> None:
    given = headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != wanted:
        raise Refused(415, f"content type is {given!r}; this call takes {wanted!r}")


def _too_large(limit: int) -> Refused:
    return Refused(413, f"the body is larger than {limit} bytes")


async def _refuse(refused: Refused, send: Send) -> None:
    body = json.dumps({"error": str(refused)}).encode()
    headers: list[Any] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
