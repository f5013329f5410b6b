"""Stands in for what lies beyond the network: Gradio's share server, and the server that names it.

`use` makes Gradio's tunnel run `share_frpc.py` and go to them.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shlex
import socket
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.support.share_frpc import read_line, relay
from tests.support.stored import PATIENCE

FRPC = Path(__file__).with_name("share_frpc.py")
ROOT_CA = "-----BEGIN CERTIFICATE-----\nbm8gcmVhbCBvbmU=\n-----END CERTIFICATE-----\n"
NOTHING = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
"""What the public gets while nothing is shared."""


class ShareServer:
    """A share server, and the API server beside it, on loopback ports.

    What visits the public port is relayed to the program that logged in last, and by it to the port
    that is shared. Gradio's API server is at ``api``.

    Attributes:
        url: public address of what is shared; people's would be ``https``.
        address: HOST:PORT that programs log in at.
        logins: what each said of itself: name, tls, ca, pid, cwd.
        visits: connections from the public.
        refuse: why programs are not let in, if not.
        told: what the API server answers, instead of the truth.
    """

    def __init__(self) -> None:
        self.logins: list[dict[str, Any]] = []
        self.visits = 0
        self.refuse = ""
        self.told: bytes | None = None
        self.changed = threading.Condition()
        self._numbers = itertools.count()
        self._visitors: dict[int, socket.socket] = {}
        self._control: socket.socket | None = None
        self._relayed: set[socket.socket] = set()
        self._ended = False
        self._ports: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._door = self._port(self._program)
        self.address = f"127.0.0.1:{self._door.getsockname()[1]}"
        self.url = ""
        self.move()
        self._api = ThreadingHTTPServer(("127.0.0.1", 0), _api(self))
        self._api.daemon_threads = True
        self.api = f"http://127.0.0.1:{self._api.server_port}/v3/tunnel-request"
        self._run(self._api.serve_forever, 0.05)

    def __enter__(self) -> ShareServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        for port in self._ports:
            _end(port)
        self.drop()
        self._api.shutdown()
        self._api.server_close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def move(self) -> None:
        """Whoever logs in from now on is given another public address."""
        port = self._port(self._visitor)
        self.url = f"http://127.0.0.1:{port.getsockname()[1]}"

    def drop(self) -> None:
        """Cut the program off, and all who visit through it."""
        with self.changed:
            ends = {*self._relayed, *self._visitors.values()}
            if self._control is not None:
                ends.add(self._control)
            self._control = None
            self._visitors.clear()
        for end in ends:
            _end(end)

    def say(self, words: str, times: int = 1) -> None:
        """Have the program say something."""
        self._tell({"say": words, "times": times})

    def until_logins(self, count: int) -> dict[str, Any]:
        """Waits for so many logins, and returns the last one."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.logins) >= count, PATIENCE), self.logins
            return self.logins[-1]

    def _port(self, arrived: Any) -> socket.socket:
        port = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._ports.append(port)

        def accept() -> None:
            while not self._ended:
                try:
                    peer, _ = port.accept()
                except OSError:
                    return
                self._run(arrived, peer)

        self._run(accept)
        return port

    def _run(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, name="share-server", daemon=True)
        self._threads = [old for old in self._threads if old.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _program(self, peer: socket.socket) -> None:
        """Somebody came to the door: to log in, or to fetch a visitor."""
        try:
            said = json.loads(read_line(peer))
        except (OSError, ValueError):
            peer.close()
            return
        if "work" not in said:
            self._login(peer, said)
            return
        with self.changed:
            visitor = self._visitors.pop(said["work"], None)
            if visitor is not None:
                self._relayed |= {peer, visitor}
        if visitor is None:
            peer.close()
            return
        relay(visitor, peer)
        with self.changed:
            self._relayed -= {peer, visitor}

    def _login(self, peer: socket.socket, said: dict[str, Any]) -> None:
        answer = {"error": self.refuse} if self.refuse else {"url": self.url}
        with self.changed:
            if not self.refuse:
                self._control = peer
            self.logins.append(said)
            self.changed.notify_all()
            peer.sendall(json.dumps(answer).encode() + b"\n")
        try:
            while not self.refuse and peer.recv(1024):
                pass
        except OSError:
            pass
        with self.changed:
            if self._control is peer:
                self._control = None
        peer.close()

    def _visitor(self, peer: socket.socket) -> None:
        with self.changed:
            self.visits += 1
            number = next(self._numbers)
            self._visitors[number] = peer
        if not self._tell({"work": number}):
            with self.changed:
                self._visitors.pop(number, None)
            peer.sendall(NOTHING)
            peer.close()

    def _tell(self, what: dict[str, Any]) -> bool:
        with self.changed:
            if self._control is None:
                return False
            try:
                self._control.sendall(json.dumps(what).encode() + b"\n")
            except OSError:
                return False
        return True


def use(
    monkeypatch: pytest.MonkeyPatch, server: ShareServer, folder: Path, *, own: bool = False
) -> Path:
    """Have Gradio's tunnel use a stand-in server, and a stand-in program in a folder.

    Args:
        own: as a share server of one's own, instead of one that Gradio's API server names.

    Returns:
        The program.
    """
    from gradio import networking, tunneling

    program = folder / "frpc"
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S {shlex.quote(str(FRPC))} "$@"\n'
    )
    program.chmod(0o700)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(networking, "GRADIO_API_SERVER", server.api)
    monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", server.address if own else None)
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(program))
    checksum = hashlib.sha256(program.read_bytes()).hexdigest()
    monkeypatch.setitem(tunneling.CHECKSUMS, tunneling.BINARY_URL, checksum)
    return program


def _api(server: ShareServer) -> type[BaseHTTPRequestHandler]:
    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host, _, port = server.address.rpartition(":")
            truth = json.dumps([{"host": host, "port": port, "root_ca": ROOT_CA}]).encode()
            body = truth if server.told is None else server.told
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Api


def _end(peer: socket.socket) -> None:
    """Also for a thread that is just reading from it."""
    with suppress(OSError):
        peer.shutdown(socket.SHUT_RDWR)
    peer.close()
