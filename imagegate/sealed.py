"""What every answer at the approver's door carries: nothing is kept, framed, indexed or leaked."""

from __future__ import annotations

import html
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
_HEADERS = {
    b"cache-control": b"no-store",
    b"content-security-policy": POLICY.encode(),
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), microphone=(), geolocation=()",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"x-robots-tag": b"noindex, nofollow",
}
_SENTENCE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Image Gate</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"></head>
<body><h1>Image Gate</h1><p>{}</p></body></html>
"""


_FAILURE = b'{"error": "This does not work."}'
_FAILED: list[Any] = [
    {
        "type": "http.response.start",
        "status": 500,
        "headers": [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(_FAILURE)).encode()),
        ],
    },
    {"type": "http.response.body", "body": _FAILURE},
]


class Sealed:
    """Adds the headers, where an answer has none of its own; tells people of refusals in HTML."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._api = f"{prefix}/api/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        accepts = b",".join(v for k, v in scope["headers"] if k == b"accept")
        person = b"text/html" in accepts and not scope["path"].startswith(self._api)
        held: Message | None = None  # the start of a refusal that a person shall read
        started = False

        async def sealing(message: Message) -> None:
            nonlocal held, started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": _sealed(message["headers"])}
                if person and message["status"] >= 400:
                    held = message
                    return
            elif held is not None:
                start, held = held, None
                body = _said(message.get("body", b""))
                kept = (b"content-type", b"content-length")
                headers = [(k, v) for k, v in start["headers"] if k not in kept]
                headers += [
                    (b"content-type", b"text/html; charset=utf-8"),
                    (b"content-length", str(len(body)).encode()),
                ]
                await send({**start, "headers": headers})
                message = {"type": "http.response.body", "body": body}
            await send(message)

        try:
            await self._app(scope, receive, sealing)
        except Exception:
            if not started:
                for message in _FAILED:
                    await sealing(message)
            raise


def _sealed(headers: list[Any]) -> list[Any]:
    headers = [(key.lower(), value) for key, value in headers]
    given = {key for key, _ in headers}
    return headers + [(key, value) for key, value in _HEADERS.items() if key not in given]


def _said(body: bytes) -> bytes:
    """The error of a small JSON answer, as a page."""
    try:
        said = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        said = "This does not work."
    return _SENTENCE.format(html.escape(said)).encode()
