"""Listens, serves the panel, and prints its address in the terminal."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import socket
import threading
import webbrowser
from collections.abc import Callable, Sequence

from fastapi import FastAPI

from ..core.settings import read_names
from ..folder.sorted.label_folders import BadFolder
from ..http.paths import PREFIX
from ..http.sockets.listening import listen
from ..http.sockets.server import Server
from ..share.share import Share
from .terminal import StatusLine

PORT = 7865
"""The panel's port, unless another is given; if it is taken, the next free one."""
FAREWELL = 1.0
"""Seconds in which open pages can learn that the session has ended, before the server stops."""


def panel_server(
    build: Callable[[], FastAPI], end: Callable[[], None], opened: Callable[[], None]
) -> Server:
    """A server that runs until it is ended, and lets open pages know before it stops.

    Args:
        build: makes the app, once the server starts.
        end: called when it ends.
        opened: called once it answers.
    """

    def ending() -> None:
        end()
        # Streams to open pages are cut off soon, which deserves no traceback.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

    return Server(
        build, opened, ending=ending, farewell=FAREWELL, factory=True, log_level="warning",
        access_log=False, timeout_graceful_shutdown=1,
    )  # fmt: skip


def own_names(host: str) -> list[str]:
    """The names under which people reach this server, including the one it listens on."""
    return [*read_names(), *([host.lower()] if host else [])]


def announce(
    chosen: argparse.Namespace, listener: socket.socket, line: StatusLine, end: str, share: Share
) -> None:
    """Print where the server answers, and open it in a browser."""
    shown = "127.0.0.1" if chosen.host in ("0.0.0.0", "::", "") else chosen.host  # noqa: S104
    shown = f"[{shown}]" if ":" in shown else shown
    url = f"http://{shown}:{listener.getsockname()[1]}{PREFIX}/"
    line.say(f"Image Gate: open {url} (Ctrl+C {end})")
    if not _is_loopback(chosen.host):
        line.say(
            f"Warning: --host {chosen.host} lets anybody on the network see and decide; "
            "--share NAME gives a link to one person."
        )
    if not chosen.no_browser:
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    _invite(share, chosen.share, line)


def _invite(share: Share, names: Sequence[str], line: StatusLine) -> None:
    """Make a link for each of these people, and print its address once there is one."""
    if not names:
        return
    invited = [share.create(name) for name in names]
    said: dict[str, tuple[str, str]] = {}
    one_by_one = threading.Lock()

    def look() -> None:
        with one_by_one:
            for link, token in invited:
                address, problem = share.address(link, token)
                if (address, problem) == said.get(link.id, ("", "")) or not share.waits_for(link):
                    continue
                said[link.id] = address, problem
                if problem:
                    line.say(f"{problem}. {'In this network:' if address else 'Trying again ...'}")
                if address:
                    line.say(f"{link.name}'s link, for 24 hours and one browser: {address}")
                    line.draw(address)

    line.say("Opening the way in for the people you named ...")
    share.changed.listen(look)
    look()


def open_listener(host: str, port: int | None) -> socket.socket:
    """Listen on this port; if none is given, on the first free one from ``PORT`` on."""
    for wanted in (port,) if port is not None else (*range(PORT, PORT + 20), 0):
        try:
            return listen(host, wanted)
        except socket.gaierror:
            raise BadFolder(f"--host {host} is not an address of this machine") from None
        except OSError as error:
            failure = f"cannot listen on {host} port {wanted}: {error.strerror}"
    raise BadFolder(f"{failure}; choose another --port")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
