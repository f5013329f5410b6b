"""What every answer at the approver's door carries: nothing is kept, framed, indexed or leaked."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

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
_STYLE = """
:root { color-scheme: light dark; --page: #eceff4; --surface: #fff; --line: #d5dbe6;
  --text: #131a26; --route: #2563eb; }
@media (prefers-color-scheme: dark) {
  :root { --page: #0b0f17; --surface: #141b28; --line: #2b3649; --text: #eef2f8; }
}
* { box-sizing: border-box; }
html { background: var(--page); -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { display: flex; min-height: 100vh; min-height: 100dvh; margin: 0; padding: 16px;
  color: var(--text); font: 1rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { width: 100%; max-width: 400px; margin: auto; padding: 28px 22px; border-radius: 22px;
  background: var(--surface); box-shadow: 0 0 0 1px var(--line), 0 12px 40px #0b12201a; }
svg { width: 52px; height: 52px; fill: none; stroke: var(--route); stroke-width: 2.5;
  stroke-linecap: round; stroke-linejoin: round; }
h1 { margin: 14px 0; font-size: 1.625rem; line-height: 1.15; }
p { margin: 0; overflow-wrap: anywhere; }
"""
_SENTENCE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Image Gate</title>
<meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">
<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">
<style>{_STYLE}</style></head>
<body><main><svg viewBox="0 0 48 48" aria-hidden="true">
<rect x="5" y="9" width="38" height="30" rx="6"/><path d="M5 31l10-9 8 7 6-5 14 11"/>
<circle cx="31" cy="18" r="3"/></svg><h1>Image Gate</h1><p>SAID</p></main></body></html>
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_SENTENCE_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; img-src data:; frame-ancestors %s; "
    "base-uri 'none'; form-action 'none'"
)


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
                own = {
                    b"content-type": b"text/html; charset=utf-8",
                    b"content-length": str(len(body)).encode(),
                    b"content-security-policy": (_SENTENCE_POLICY % "'none'").encode(),
                }
                headers = [(k, v) for k, v in start["headers"] if k not in own]
                await send({**start, "headers": [*headers, *own.items()]})
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
    return _sentence(said)


def wants_page(accept: Iterable[str]) -> bool:
    """Whether a person asks with a browser, to whom an error is said on a page."""
    return "text/html" in ",".join(accept)


def error_page(message: str) -> tuple[bytes, dict[str, str]]:
    """The operator's page that says why there is none, which the node may show; its headers."""
    return _sentence(message), {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": _SENTENCE_POLICY % "'self'",
        "cache-control": "no-store",
    }


def _sentence(said: str) -> bytes:
    return _SENTENCE.replace("SAID", html.escape(said)).encode()
