"""Puts one of each together, once per process, and starts the panel when it is first needed."""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from ..core.failures import report_failure
from ..core.loop import Backoff, Loop
from ..core.pictures import Pictures
from ..gate_bus import GateBus
from ..http.sockets.listening import listen
from ..share.share import Share
from ..storage.sql_storage import SqlStorage

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..http.sockets.server import Server

log = logging.getLogger("imagegate")

INSTALL = (
    "Image Gate's panel could not be loaded ({error}). Install what it needs into ComfyUI's Python "
    'and queue again: pip install -r requirements.txt (it brings "gradio>=6.7,<6.18")'
)


PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds from the end of a server to the start of the next, by how many have failed in a row."""
SETTLED = 30.0
"""Seconds after which a server that ends is no failure to start."""


class PanelUnavailable(Exception):
    """The panel cannot start; the message says what to do."""


class Service:
    """The bus, what of it is shared, and the panel's server on a loopback port of its own.

    The port answers nobody who does not know ``key``, a secret of this process: another user of
    the machine, or a page in a browser, gets nothing from it.

    Args:
        bus: whose gates are shown.
        storage: of that bus.
        build: makes the ASGI app; by default the panel's.
        names: under which people call this machine; see `imagegate.core.origins`.
    """

    def __init__(
        self,
        bus: GateBus[Pictures],
        storage: SqlStorage,
        build: Callable[[Service], FastAPI] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self.bus = bus
        self.storage = storage
        self.names = names
        self.key = secrets.token_urlsafe(32)
        self.share = Share(
            bus, lambda: storage.store.links, worker=storage.id,
            others=lambda: storage.store.others(), names=names,
        )  # fmt: skip
        self._build = build or _build_panel
        self._lock = threading.Lock()  # guards the rest
        self._panel: _Panel | None = None
        self._backoff = Backoff(PAUSES)
        self._retry_at = 0.0

    def start(self) -> Future[str]:
        """Start the panel in the background unless it runs; its future resolves to its base URL.

        The future fails with `PanelUnavailable`. A later call tries again, the sooner the fewer
        attempts have failed in a row (`PAUSES`).
        """
        with self._lock:
            panel = self._panel
            if panel is not None and not panel.ended:
                return panel.ready
            if panel is not None and time.monotonic() < self._retry_at:
                return _paused() if panel.url else panel.ready
            panel = self._panel = _Panel()
            panel.ready.set_running_or_notify_cancel()
        Loop("imagegate-panel", partial(self._serve, panel)).start()
        return panel.ready

    def replace(self, url: str) -> None:
        """Nothing answers at this address: end what is left of that server.

        Its event streams end, so that pages connect again; the next `start` starts another server.
        Who calls late, when there is another one already, changes nothing.
        """
        with self._lock:
            panel = self._panel
            if panel is None or panel.url != url or panel.ended:
                return
            self._mark_ended(panel)
        log.warning("the panel's server does not answer; another one is started")
        if panel.server is not None:
            panel.server.should_exit = True

    @property
    def started(self) -> bool:
        """Whether somebody has needed the panel yet."""
        with self._lock:
            return self._panel is not None

    def _serve(self, panel: _Panel) -> None:
        try:
            app = self._build(self)
            listener = listen("127.0.0.1", 0)
        except BaseException as error:  # a broken gradio can raise anything on import, exits too
            report_failure("the panel could not be started", error)
            self._ended(panel, PanelUnavailable(INSTALL.format(error=error)))
            return
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with listener:
            try:
                from ..http.sockets.server import Server  # not before: it imports uvicorn

                # ComfyUI's proxy keeps idle connections for 15 s. This end keeps them longer: it
                # must never close one on which a click is just under way.
                panel.server = Server(
                    app, lambda: panel.answers(url), ending=lambda: self._ended(panel),
                    log_level="warning", lifespan="on", timeout_keep_alive=75,
                )  # fmt: skip
                panel.server.run([listener])
            except BaseException as error:  # a thread's end; uvicorn leaves by SystemExit, too
                report_failure("the panel's server failed", error)
        self._ended(panel)

    def _ended(self, panel: _Panel, why: PanelUnavailable | None = None) -> None:
        """A server takes no more requests: whoever needs the panel next starts another."""
        with self._lock:
            if not panel.ended:
                self._mark_ended(panel)
        if not panel.ready.done():
            said = "Image Gate's panel did not start; ComfyUI's log says why"
            panel.ready.set_exception(why or PanelUnavailable(said))

    def _mark_ended(self, panel: _Panel) -> None:
        panel.ended = True
        # One that has served for a while is no sign that the next one fails as well.
        if panel.age > SETTLED:
            self._backoff.reset()
            self._retry_at = time.monotonic()
        else:
            self._retry_at = time.monotonic() + self._backoff.fail()


class _Panel:
    """One server of the panel, from when it is first needed to its end."""

    def __init__(self) -> None:
        self.ready: Future[str] = Future()
        self.url = ""
        self.server: Server | None = None
        self.ended = False
        self._since = math.inf

    @property
    def age(self) -> float:
        """Seconds since it answered first; below 0 if it never did."""
        return time.monotonic() - self._since

    def answers(self, url: str) -> None:
        self.url, self._since = url, time.monotonic()
        self.ready.set_result(url)


def _paused() -> Future[str]:
    refused: Future[str] = Future()
    said = "Image Gate's panel has failed several times in a row; it is started again in a moment"
    refused.set_exception(PanelUnavailable(said))
    return refused


def _build_panel(service: Service) -> FastAPI:
    from ..http.access import KeyDoor
    from .uploads import keep_from_other_users

    keep_from_other_users()
    from .panel import create_panel

    door = KeyDoor(service.key)
    return create_panel(service.bus, door, records=service.storage, share=service.share)
