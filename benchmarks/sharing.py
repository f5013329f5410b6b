"""What a share link adds, and what it saves: through the approver's door, beside the operator's."""

from __future__ import annotations

import base64
import http.client
import json
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imagegate.core.model import Gate
from imagegate.core.settings import Settings
from imagegate.gate_bus import GateBus
from imagegate.http.access import HostDoor
from imagegate.http.sockets.listener import Listener
from imagegate.operator.rest import create_app
from imagegate.pictures.tensors import TensorPictures
from imagegate.share.app import create_approver
from imagegate.storage.links import LinkStore
from tests.support.stored import bus_over, storage_of, store_of

from .measure import Row, Times, figure, photo, samples

API = "/imagegate/api"
PAGES = 50
"""Open pages of one link, and of others, that are to go dark."""
LIGHT = 400
"""kB of the first picture that a slow line gets."""


@dataclass
class Caller:
    """Somebody at a door, on a connection that stays open."""

    connection: http.client.HTTPConnection
    headers: dict[str, str]

    def call(self, method: str, path: str, body: Any = None) -> bytes:
        sent = None if body is None else json.dumps(body)
        headers = {"content-type": "application/json"} | self.headers if sent else self.headers
        self.connection.request(method, f"{API}/{path}", sent, headers)
        answer = self.connection.getresponse()
        said = answer.read()
        assert answer.status in (200, 204), said
        return said


@dataclass
class Doors:
    """Both doors over one store."""

    bus: GateBus[Any]
    links: LinkStore
    operator: Callable[[], Caller]
    approver: Callable[..., Caller]


@contextmanager
def doors_open() -> Iterator[Doors]:
    with tempfile.TemporaryDirectory(prefix="imagegate-bench-") as place:
        settings = Settings(f"sqlite:///{place}/gates.sqlite", str(Path(place) / "p"), "bench")
        bus = bus_over(settings, classes=())
        links = store_of(bus).links
        inner = Listener(create_app(bus, HostDoor()), "127.0.0.1", 0)
        outer = Listener(create_approver(bus, links), "127.0.0.1", 0)
        connections: list[http.client.HTTPConnection] = []

        def caller(listener: Listener, headers: dict[str, str]) -> Caller:
            connections.append(http.client.HTTPConnection("127.0.0.1", listener.port))
            return Caller(connections[-1], headers)

        def approver(token: str) -> Caller:
            _, secret = links.open(token)
            return caller(outer, {"cookie": f"imagegate={secret}"})

        inner.start()
        outer.start()
        try:
            yield Doors(bus, links, lambda: caller(inner, {}), approver)
        finally:
            for connection in connections:
                connection.close()
            inner.close()
            outer.close()
            storage_of(bus).close()


def link_click(quick: bool) -> list[Row]:
    """From the click of a link's person to the waiter, over SQLite; beside it the operator's."""
    with doors_open() as doors:
        _, token = doors.links.create("Ada")
        image = TensorPictures(photo(64))

        def times(who: Caller) -> Times:
            def once() -> float:
                ticket = doors.bus.publish(Gate(("keep", "fix"), 64, 64), image)
                said = {"route": 1, "key": secrets.token_hex(16)}
                clicked = time.perf_counter()
                who.call("POST", f"gates/{ticket.gate.id}/decision", said)
                ticket.wait(10)
                return time.perf_counter() - clicked

            return samples(20 if quick else 200, once, warm_up=5)

        plain, ours = times(doors.operator()), times(doors.approver(token))
    how = f"SQLite, loopback, N={ours.count}; {ours.p50 / plain.p50:.2f} times the operator's"
    return [Row("click through a link -> waiter", str(ours), "none", None, str(plain), how)]


def link_preview(quick: bool) -> list[Row]:
    """The first picture that a slow line gets of a large image, beside all of it."""
    rows = []
    with doors_open() as doors:
        _, token = doors.links.create("Ada")
        ada = doors.approver(token)
        kinds = {"photo": photo(4096), "noise": torch.rand(1, 4096, 4096, 3)}
        for kind, image in kinds.items():
            pictures = TensorPictures(image)
            ticket = doors.bus.publish(Gate(("keep",), 4096, 4096), pictures)
            asked = time.perf_counter()
            light = len(ada.call("GET", f"gates/{ticket.gate.id}/image/0")) / 1000
            took = (time.perf_counter() - asked) * 1000
            whole = len(base64.b64encode(pictures.full(0).body)) / 1000
            doors.bus.decide(ticket.gate.id, 1)
            how = f"{whole / light:,.0f} times smaller; made in {figure(took)}"
            rows.append(
                Row(f"first picture of a link, 4096 px {kind}", f"{light:.0f} kB",
                    f"{LIGHT} kB", light < LIGHT, f"{whole / 1000:.0f} MB (PNG, base64)", how)
            )  # fmt: skip
    return rows


def going_dark(quick: bool) -> list[Row]:
    """From revoking a link until its open page has been told, while pages of others are open."""
    pages = 5 if quick else PAGES
    one_by_one, all_at_once = _told(pages, wait=True), _told(pages, wait=False)
    met = one_by_one.count == pages and one_by_one.p99 < 1000
    how = f"{pages} links of one page each, one revoked after the other"
    stress = f"all {pages} revoked at once"
    return [
        Row("revoke -> its page is told", str(one_by_one), "1000 ms", met, "", how),
        Row("the same, under stress", str(all_at_once), "none", None, "", stress),
    ]


def _told(pages: int, *, wait: bool) -> Times:
    """How long each page has to wait; ``wait``: for one before the next link is revoked."""
    with doors_open() as doors:
        heard: list[float] = []
        revoked: dict[int, float] = {}

        def page(number: int, who: Caller, ready: threading.Barrier) -> None:
            who.connection.request("GET", f"{API}/events", headers=who.headers)
            answer = who.connection.getresponse()
            while not answer.readline().startswith(b"event: reload"):
                pass
            ready.wait()
            while not answer.readline().startswith(b"event: over"):
                pass
            heard.append((time.perf_counter() - revoked[number]) * 1000)

        ids, threads, ready = [], [], threading.Barrier(pages + 1)
        for number in range(pages):
            link, token = doors.links.create("Ada")
            ids.append(link.id)
            given = (number, doors.approver(token), ready)
            threads.append(threading.Thread(target=page, args=given, daemon=True))
            threads[-1].start()
        ready.wait()
        for number, link_id in enumerate(ids):
            revoked[number] = time.perf_counter()
            doors.links.revoke(link_id)
            if wait:
                threads[number].join(30)
        for thread in threads:
            thread.join(30)
        return Times(heard)
