"""What a crowd costs whoever works: pages that read nothing, and a link that floods."""

from __future__ import annotations

import http.client
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from imagegate.core.model import Gate
from imagegate.pictures.tensors import TensorPictures
from imagegate.share.limits import SESSION_BUDGET

from .measure import Row, Times, photo, samples
from .sharing import API, Caller, Doors, doors_open

STREAMS = 100
FLOODERS = 16
"""Connections on which one link asks without a pause."""


def silent_streams(quick: bool) -> list[Row]:
    """Publishing and deciding, with a hundred event streams open that read nothing, and without."""
    with doors_open() as doors, ExitStack() as stack:
        image = TensorPictures(photo(64))

        def once() -> float:
            began = time.perf_counter()
            ticket = doors.bus.publish(Gate(("keep", "fix"), 64, 64), image)
            doors.bus.decide(ticket.gate.id, 1)
            return time.perf_counter() - began

        count = 20 if quick else 300
        alone = samples(count, once, warm_up=5)
        port = doors.operator().connection.port
        for number in range(STREAMS):
            source = f"127.0.0.{2 + number // 50}", 0  # of one address there are only so many
            peer = stack.enter_context(
                socket.create_connection(("127.0.0.1", port), source_address=source)
            )
            peer.sendall(f"GET {API}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert peer.recv(15).startswith(b"HTTP/1.1 200")
        crowd = samples(count, once, warm_up=5)
    how = f"{STREAMS} event streams open, nothing read; {crowd.p50 / alone.p50:.2f} times as long"
    return [
        Row("publish and decide beside silent pages", str(crowd), "none", None, str(alone), how)
    ]


def flooding_link(quick: bool) -> list[Row]:
    """The operator's click while one link asks for its list without a pause, and without that."""
    with doors_open() as doors:
        image, operator = TensorPictures(photo(64)), doors.operator()

        def once() -> float:
            ticket = doors.bus.publish(Gate(("keep", "fix"), 64, 64), image)
            said = {"route": 1, "key": secrets.token_hex(16)}
            clicked = time.perf_counter()
            operator.call("POST", f"gates/{ticket.gate.id}/decision", said)
            ticket.wait(10)
            return time.perf_counter() - clicked

        count = 20 if quick else 200
        alone: Times = samples(count, once, warm_up=5)
        with _flood(doors):
            beside = samples(count, once, warm_up=5)
    how = f"{FLOODERS} connections of one link; {beside.p50 / alone.p50:.2f} times as long"
    return [
        Row("operator's click beside a flooding link", str(beside), "none", None, str(alone), how)
    ]


@contextmanager
def _flood(doors: Doors) -> Iterator[None]:
    _, token = doors.links.create("Flood")
    first = doors.approver(token)
    over = threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", first.connection.port)
        caller = Caller(connection, first.headers)
        while not over.is_set():
            caller.call("GET", "gates")
            asked.release()
        connection.close()

    asked = threading.Semaphore(0)
    threads = [threading.Thread(target=ask) for _ in range(FLOODERS)]
    for thread in threads:
        thread.start()
    for _ in range(2 * SESSION_BUDGET[1]):  # what goes through at once is over then
        asked.acquire()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
