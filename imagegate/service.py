"""Puts one of each together, once per process, and starts the panel when it is first needed."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from .listener import listen
from .share import Share
from .stored_bus import StoredBus

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger("imagegate")

INSTALL = (
    "Image Gate's panel could not be loaded ({error}). Install what it needs into ComfyUI's Python "
    'and queue again: pip install -r requirements.txt (it brings "gradio>=6.7,<6.16")'
)


class PanelUnavailable(Exception):
    """The panel cannot start; the message says what to do."""


class Service:
    """The bus, what of it is shared, and the panel's server on a loopback port of its own.

    The port answers nobody who does not know ``key``, a secret of this process: another user of
    the machine, or a page in a browser, gets nothing from it.

    Args:
        bus: whose gates are shown.
        build: makes the ASGI app; by default the panel's.
    """

    def __init__(self, bus: StoredBus, build: Callable[[Service], FastAPI] | None = None) -> None:
        self.bus = bus
        self.key = secrets.token_urlsafe(32)
        self.share = Share(bus, lambda: bus.house.links, worker=lambda: bus.name)
        self._build = build or _build_panel
        self._lock = threading.Lock()  # guards _panel
        self._panel: Future[str] | None = None

    def start(self) -> Future[str]:
        """Start the panel in the background unless it runs; its future resolves to its base URL.

        The future fails with `PanelUnavailable`; the next call then tries again.
        """
        with self._lock:
            if self._panel is not None and not (
                self._panel.done() and self._panel.exception() is not None
            ):
                return self._panel
            ready: Future[str] = Future()
            self._panel = ready
            ready.set_running_or_notify_cancel()
        threading.Thread(
            target=self._serve, args=(ready,), name="imagegate-panel", daemon=True
        ).start()
        return ready

    @property
    def started(self) -> bool:
        """Whether somebody has needed the panel yet."""
        with self._lock:
            return self._panel is not None

    def _serve(self, ready: Future[str]) -> None:
        try:
            import uvicorn

            class Server(uvicorn.Server):
                async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                    await super().startup(sockets)
                    if not self.should_exit:
                        ready.set_result(url)

            app = self._build(self)
            listener = listen("127.0.0.1", 0)
        except BaseException as error:  # a broken gradio can raise anything on import, exits too
            log.exception("the panel could not be started")
            ready.set_exception(PanelUnavailable(INSTALL.format(error=error)))
            return
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with listener:
            try:
                # ComfyUI's proxy keeps idle connections for 15 s. This end keeps them longer: it
                # must never close one on which a click is just under way.
                config = uvicorn.Config(
                    app, log_level="warning", lifespan="on", timeout_keep_alive=75
                )
                Server(config).run([listener])
            except BaseException:  # this is a thread's end; uvicorn leaves by SystemExit, too
                log.exception("the panel's server failed")
        with self._lock:
            if self._panel is ready:
                self._panel = None  # whoever needs the panel next starts another
        if not ready.done():
            ready.set_exception(
                PanelUnavailable("Image Gate's panel did not start; ComfyUI's log says why")
            )


def _build_panel(service: Service) -> FastAPI:
    from .access import KeyDoor
    from .panel import create_panel

    return create_panel(service.bus, KeyDoor(service.key), records=service.bus, share=service.share)
