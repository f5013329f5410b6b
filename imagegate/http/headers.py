"""The headers of every answer of the approver's app: nothing is kept, framed, indexed or leaked."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex, nofollow",
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


class SafeHeaders:
    """Adds the headers that an answer lacks, and shows refusals to people as a page."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._api = f"{prefix}/api/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not above: ComfyUI's side needs `error_page` when it loads the pack, and no web framework.
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import JSONResponse

        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        accepts = Headers(scope=scope).getlist("accept")
        person = wants_page(accepts) and not scope["path"].startswith(self._api)
        held: Message | None = None  # the start of a refusal that a person shall read
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal held, started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if person and message["status"] >= 400:
                    held = message
                    return
            elif held is not None:
                start, held = held, None
                body = _as_page(message.get("body", b""))
                headers = MutableHeaders(scope=start)
                headers["content-type"] = "text/html; charset=utf-8"
                headers["content-length"] = str(len(body))
                headers["content-security-policy"] = _SENTENCE_POLICY % "'none'"
                await send(start)
                message = {"type": "http.response.body", "body": body}
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        except Exception:
            if not started:
                failure = JSONResponse({"error": "This does not work."}, 500)
                await failure(scope, receive, with_headers)
            raise


def _as_page(body: bytes) -> bytes:
    """The error in a small JSON answer, as a page."""
    try:
        said = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        said = "This does not work."
    return _sentence(said)


def wants_page(accept: Iterable[str]) -> bool:
    """Whether a person asks with a browser, so that an error is shown as a page."""
    return "text/html" in ",".join(accept)


def error_page(message: str) -> tuple[bytes, dict[str, str]]:
    """A page that says why the panel is not shown, which the node may embed, and its headers."""
    return _sentence(message), {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": _SENTENCE_POLICY % "'self'",
        "cache-control": "no-store",
    }


def _sentence(said: str) -> bytes:
    return _SENTENCE.replace("SAID", html.escape(said)).encode()
