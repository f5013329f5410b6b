"""Two doors over one bus, as they stand on a studio's machine, and strangers who call at them."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from imagegate.core.links import Link
from imagegate.core.model import Gate, Selection
from imagegate.core.pictures import Picture
from imagegate.gate_bus import GateBus
from imagegate.http.sockets.listener import Listener
from imagegate.pictures.encode import encode_png, encode_preview
from imagegate.share.app import create_approver
from imagegate.share.share import Share
from imagegate.storage.links import LinkStore
from imagegate.storage.sql.database import Database
from imagegate.storage.sql_storage import SqlStorage
from tests.support.browser import PanelServer
from tests.support.stored import PATIENCE

PREFIX = "/imagegate"
API = f"{PREFIX}/api"
WIDTH, HEIGHT = 64, 48
MARK = "e7f1"
"""In everything about the machine that no approver may learn."""
JSON = {"content-type": "application/json"}
PNG = {"content-type": "image/png"}
HOME, STRANGER, GUEST = "127.0.0.1", "127.0.0.3", "127.0.0.4"


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json()["error"])

    def header(self, name: str) -> str:
        return ", ".join(value for key, value in self.headers if key.lower() == name)

    @property
    def whole(self) -> str:
        """All of it, as whoever looks for a secret reads it."""
        return repr(self.headers) + self.body.decode("utf-8", "replace")


@dataclass
class Visitor:
    """Somebody who calls at a port: what they send is exactly what they say."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)
    source: str = HOME

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """``path`` below ``/imagegate/api`` unless it starts with a slash; ``body`` may be JSON."""
        given = {key.replace("_", "-"): value for key, value in headers.items()}
        if isinstance(body, (dict, list)):
            body, given = json.dumps(body).encode(), JSON | given
        if isinstance(body, bytes) or method in ("POST", "PUT", "PATCH"):
            given = {"content-length": str(len(body or b"")), **given}
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=PATIENCE, source_address=(self.source, 0)
        )
        with_it = {**self.headers, **given}
        try:
            target = path if path.startswith("/") else f"{API}/{path}"
            connection.putrequest(
                method, target, skip_host="host" in with_it, skip_accept_encoding=True
            )
            for name, value in with_it.items():
                connection.putheader(name, value.encode("latin-1"))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(answer.status, answer.getheaders(), answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("POST", path, {} if body is None else body, **headers)

    def decide(self, gate: str, route: Any = 1, **given: Any) -> Answer:
        return self.post(f"gates/{gate}/decision", {"route": route, **given})

    def paint(self, gate: str, png: bytes, **headers: str) -> Answer:
        return self.call("PUT", f"gates/{gate}/mask/0", png, **(PNG | headers))

    def enter(self, token: Any, passphrase: str = "", **headers: str) -> Answer:
        return self.post("session", {"token": token, "passphrase": passphrase}, **headers)


class Photos:
    """Pictures of a batch of plain images."""

    def __init__(self, batch: int = 1, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
        self.images = [Image.new("RGB", size, (i, 128, 255)) for i in range(batch)]

    def preview(self, index: int) -> Picture:
        return encode_preview(self.images[index])

    def full(self, index: int) -> Picture:
        return encode_png(self.images[index])

    def start_mask(self, index: int) -> bytes | None:
        return None


def asked(**given: Any) -> Gate:
    """A gate that names the machine wherever it can."""
    return Gate(**{
        "labels": ("keep", "fix"), "width": WIDTH, "height": HEIGHT, "undoable": True,
        "node_id": f"node-{MARK}", "prompt_id": f"prompt-{MARK}", "file": f"/srv/{MARK}/a.png",
        "worker": f"worker-{MARK}", **given,
    })  # fmt: skip


class Ports:
    """The approver's two ports, of the network and of the tunnel, for one scene after the other."""

    def __init__(self) -> None:
        self.app: Any = None
        self._listeners = [Listener(self._play, HOME, 0, secure=secure) for secure in (False, True)]
        for listener in self._listeners:
            listener.start()

    def __getitem__(self, secure: bool) -> int:
        return self._listeners[secure].port

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()

    async def _play(self, *request: Any) -> None:
        await self.app(*request)


class Scene:
    """A bus, its links and the approver's door, on the ports of a network and of a tunnel."""

    def __init__(self, ports: Ports, bus: Any = None, progress: Any = None) -> None:
        self.bus = GateBus[Any]() if bus is None else bus
        self.links = LinkStore(Database("sqlite://", "t"))
        self.ports = ports
        self.app = ports.app = create_approver(self.bus, self.links, progress)
        self.secrets: list[str] = []
        self.hero = self.ask(title="Hero", workflow_id="w1")
        self.twin = self.ask(title="Hero", workflow_id="w2")
        self.sky = self.ask(title="Sky", workflow_id="w1", batch=3)
        self.done = self.ask(title="Sky", workflow_id="w1")
        self.bus.decide(self.done, 1, by="Operator", note="by hand")

    def ask(self, **given: Any) -> str:
        """Put a question; returns its id."""
        gate = asked(**given)
        hooks: Any = {"record": lambda _: None, "revoke": lambda _: None}
        if isinstance(self.bus.storage, SqlStorage):  # a store records by itself
            hooks = {}
        self.bus.publish(gate, Photos(gate.batch), **hooks)
        return gate.id

    def stranger(self, secure: bool = False, source: str = HOME, **headers: str) -> Visitor:
        """Somebody without a session."""
        given = {key.replace("_", "-"): value for key, value in headers.items()}
        return Visitor(self.ports[secure], given, source)

    def link(self, name: str = "Ada", **given: Any) -> tuple[Link, str]:
        link, token = self.links.create(name, **{"once": False, **given})
        self.secrets.append(token)
        return link, token

    def guest(
        self, may: str = "mask", among: Selection | None = None, *, secure: bool = False,
        **given: Any,
    ) -> Visitor:  # fmt: skip
        """Somebody who opened a link of their own."""
        _, token = self.link(may=may, among=among or Selection(), **given)
        return self.opened(token, secure)

    def opened(self, token: str, secure: bool = False) -> Visitor:
        """A browser in which this address was opened."""
        answer = self.stranger(secure).enter(token)
        assert answer.status == 200, answer
        cookie = answer.header("set-cookie").partition(";")[0]
        self.secrets.append(cookie.partition("=")[2])
        return self.stranger(secure, cookie=cookie)

    def expire(self, link: Link) -> None:
        with self.links.database.write() as connection:
            connection.exec_driver_sql("UPDATE links SET expires_at = 1 WHERE id = ?", (link.id,))
        self.links.changed.ring()

    def state(self) -> list[Any]:
        """All that an attacker could have changed."""
        gates = [*self.bus.pending(), *self.bus.finished()]
        return [(gate, [self.bus.mask(gate.gate.id, i) for i in range(gate.gate.batch)])
                for gate in gates]  # fmt: skip

    def close(self) -> None:
        self.links.database.close()


def connect(port: int, source: str = HOME) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(source, 0))


def raw(port: int, sent: bytes, source: str = HOME) -> bytes:
    """All that comes back on a connection on which this is sent and nothing more."""
    with connect(port, source) as peer:
        try:
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
        except OSError:  # it was closed before all was sent
            pass
        return rest(peer)


def rest(peer: socket.socket) -> bytes:
    """What comes until the other end closes."""
    got = b""
    try:
        while piece := peer.recv(65536):
            got += piece
    except ConnectionError:
        pass
    return got


def statuses(answers: bytes) -> list[int]:
    """The status of each answer on a connection; one that a proxy would read as an answer, too."""
    return [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]]


@contextmanager
def stream(visitor: Visitor, path: str = "events") -> Iterator[Iterator[tuple[str, Any]]]:
    """The events of an open page, as they come."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", visitor.port, timeout=PATIENCE, source_address=(visitor.source, 0)
    )
    try:
        connection.request("GET", f"{API}/{path}", headers=visitor.headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        yield _events(answer)
    finally:
        if connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    kind = ""
    while line := answer.readline().decode():
        name, _, value = line.strip().partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            yield kind, json.loads(value)


class Operator(PanelServer):
    """The operator's door over the same bus, with all that it can have."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene.bus, share=Share(scene.bus, lambda: scene.links))
