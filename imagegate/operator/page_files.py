"""The page's files, and what an app serves beside a `GatePanel` of its own."""

from __future__ import annotations

import mimetypes
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from ..core.bus import Bus, Records
from ..http.access import Door, HostDoor
from ..http.paths import PAGES, PREFIX
from .rest import create_app


def add_page(app: FastAPI) -> None:
    """Serve the pages' files where they lie on disk, below ``page/``."""
    # A Windows registry may call it plain text, which no browser runs as a module.
    mimetypes.add_type("text/javascript", ".js")
    app.mount(f"{PREFIX}/page", _Page(directory=PAGES))


def mount_gates(
    app: FastAPI, bus: Bus, door: Door | None = None, records: Records | None = None
) -> None:
    """Serve below ``/imagegate`` what a `GatePanel` of the same app needs: REST, and its files.

    Args:
        app: the app that the Gradio app with the panel is mounted on, too.
        bus: whose gates are shown.
        door: who may call REST; by default whoever calls from a page of this server, or from no
            browser at all.
        records: what a store knows beyond the bus.
    """
    calls = create_app(bus, door or HostDoor(), records=records)
    add_page(calls)
    app.mount(PREFIX, _Whole(calls))


class _Whole:
    """An app that knows its paths whole, mounted below the prefix that they begin with."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root = str(scope.get("root_path", "")).removesuffix(PREFIX)
        await self._app({**scope, "root_path": root}, receive, send)


class _Page(StaticFiles):
    """The page's own files, asked for anew each time: an update comes as a whole or not at all."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers["cache-control"] = "no-cache"
        return response
