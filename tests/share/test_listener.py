"""The port that strangers may call: who is let in, for how long, and what is said of them."""

from __future__ import annotations

import json
import logging
import os
import resource
import selectors
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from imagegate.http.sockets.listener import Listener
from imagegate.http.sockets.listening import BACKLOG, SECURE, SOURCE, TUNNEL, Limits
from imagegate.http.sockets.server import Server
from tests.support.stored import PATIENCE

TOKEN = "Zm9yLW5vLWV5ZXMtYnV0LWhlcnM"
HONEST, ATTACKER = "127.0.0.2", "127.0.0.3"
LARGE = 32 * 2**20
"""Bytes; more than the system's own buffers hold of an answer that nobody takes."""


class App:
    """Answers, streams, fails and refuses, and knows which streams are open."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.open = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"]
        if "fails" in path:
            raise RuntimeError(f"cannot serve {path}")
        if path == "/stream":
            await self._stream(receive, send)
            return
        if path == "/body":
            while (await receive()).get("more_body"):
                pass
        seen = {
            "secure": scope[SECURE],
            "source": scope[SOURCE],
            "scheme": scope["scheme"],
            "client": scope["client"][0],
        }
        if path == "/large":
            await respond(send, *[bytes(2**20)] * (LARGE // 2**20))
        else:
            await respond(send, bytes(LARGE) if path == "/whole" else json.dumps(seen).encode())

    async def _stream(self, receive: Any, send: Any) -> None:
        self._count(1)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            self._count(-1)

    def _count(self, by: int) -> None:
        with self.changed:
            self.open += by
            self.changed.notify_all()

    def until_open(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.open == count, PATIENCE), self.open


async def respond(send: Any, *pieces: bytes) -> None:
    headers = [(b"content-length", str(sum(map(len, pieces))).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


@contextmanager
def listening(app: Any = None, host: str = "127.0.0.1", **given: Any) -> Iterator[Listener]:
    listener = Listener(app or App(), host, 0, **given)
    try:
        listener.start()
        yield listener
    finally:
        listener.close()


def connect(listener: Listener, source: str = ATTACKER) -> socket.socket:
    address = ("127.0.0.1", listener.port)
    return socket.create_connection(address, PATIENCE, source_address=(source, 0))


def head(path: str = "/", *more: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: door", *more, "", ""]).encode()


def read_answer(peer: socket.socket) -> tuple[bytes, bytes]:
    """The head and the body of an answer that has a length."""
    got = b""
    while b"\r\n\r\n" not in got:
        piece = peer.recv(65536)
        assert piece, got
        got += piece
    top, _, body = got.partition(b"\r\n\r\n")
    length = int(top.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        piece = peer.recv(65536)
        assert piece, f"only {len(body)} of {length} bytes came"
        body += piece
    return top, body


def ask(listener: Listener, *more: str, source: str = HONEST, path: str = "/") -> dict[str, Any]:
    """What an honest request, on a connection of its own, was seen as."""
    with connect(listener, source) as peer:
        peer.sendall(head(path, *more))
        answer: dict[str, Any] = json.loads(read_answer(peer)[1])
        return answer


def closed(peer: socket.socket) -> bool:
    """Waits until the other end closes a connection, and says whether it was without a word."""
    try:
        return peer.recv(65536) == b""
    except ConnectionError:
        return True


def until(true: Callable[[], Any]) -> None:
    """Looks again and again until something is true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s"
        os.sched_yield()


def files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("source", ["127.0.0.1", HONEST])
def test_no_header_says_where_a_request_comes_from(source: str) -> None:
    """A request carries the address it came from, whatever its headers claim."""
    with listening() as listener:
        seen = ask(
            listener, "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https",
            "X-Forwarded-Host: evil", "X-Real-IP: 10.0.0.1", "Forwarded: for=10.0.0.1;proto=https",
            source=source,
        )  # fmt: skip
    assert seen == {"secure": False, "source": source, "scheme": "http", "client": source}


def test_what_comes_through_the_tunnel_is_secure() -> None:
    """On the tunnel's port a request counts as HTTPS and as the tunnel's, headers or not."""
    with listening(secure=True) as listener:
        seen = ask(listener, "X-Forwarded-Proto: http", "X-Forwarded-For: 10.0.0.1")
    assert (seen["secure"], seen["source"]) == (True, TUNNEL)


def test_an_answer_does_not_name_the_server() -> None:
    """Nothing but what the app says, and the date, is in an answer's head."""
    with listening() as listener, connect(listener) as peer:
        peer.sendall(head())
        names = {row.partition(b":")[0].lower() for row in read_answer(peer)[0].split(b"\r\n")[1:]}
    assert names == {b"content-length", b"date"}


def test_heads_that_never_end() -> None:
    """Two hundred connections that dribble a head are closed when its time is up, and an honest
    request is answered meanwhile.
    """
    with listening(limits=Limits(head=0.4, each=1000)) as listener, ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for _ in range(200):
            peer = stack.enter_context(connect(listener))
            peer.sendall(b"GET / HTTP/1.1\r\n")
            selector.register(peer, selectors.EVENT_READ)
        assert ask(listener)["source"] == HONEST
        deadline = time.monotonic() + PATIENCE
        while open_ones := dict(selector.get_map()):
            assert time.monotonic() < deadline, f"{len(open_ones)} are still open"
            for key, _ in selector.select(0.05):
                assert closed(key.fileobj)  # type: ignore[arg-type]
                selector.unregister(key.fileobj)
            for key in list(selector.get_map().values()):
                with_more = b"X-More: a\r\n"
                try:
                    key.fileobj.send(with_more)
                except ConnectionError:
                    selector.unregister(key.fileobj)


def test_a_connection_that_never_says_anything() -> None:
    """A connection without a byte is closed when the time for a head is up."""
    with listening(limits=Limits(head=0.2)) as listener, connect(listener) as peer:
        assert closed(peer)


def test_idle_after_an_answer() -> None:
    """After an answer a connection is kept for the idle time, which is longer than a head's, and
    then closed.
    """
    limits = Limits(head=0.1, idle=0.5)
    with listening(limits=limits) as listener, connect(listener) as peer:
        began = time.monotonic()
        peer.sendall(head())
        read_answer(peer)
        assert closed(peer)
    assert time.monotonic() - began >= 0.45


def test_a_body_that_never_ends_after_its_answer() -> None:
    """A body that goes on coming after the answer ends with the time for a head."""
    with listening(limits=Limits(head=0.3)) as listener, connect(listener) as peer:
        peer.sendall(head("/", f"Content-Length: {10**9}", method="POST"))
        read_answer(peer)
        peer.settimeout(0.02)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                peer.send(b"x")
                if peer.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("it is still open")


def test_a_head_that_is_too_large() -> None:
    """A head over the limit is refused before it is whole, and its connection closed."""
    with listening() as listener, connect(listener) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nX-Large: " + b"a" * (20 * 2**10))
        assert peer.recv(65536).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("path", ["/large", "/whole"])
def test_an_answer_that_nobody_takes(path: str) -> None:
    """An answer of which nothing is taken is given up after the time for that, whether the app is
    still sending it or has done so.
    """
    before = files()
    with listening(limits=Limits(stall=0.3)) as listener, connect(listener) as peer:
        peer.sendall(head(path) * 3)
        assert ask(listener)["source"] == HONEST  # so that the other one was let in before
        until(lambda: files() == before + 5)  # a loop's three, the port, this end


@pytest.mark.parametrize("path", ["/large", "/whole"])
def test_an_answer_that_is_taken_slowly(path: str) -> None:
    """A slow reader gets the whole answer, though it takes longer than any single limit."""
    pause = threading.Event()
    limits = Limits(head=0.2, idle=0.2, stall=0.3)
    with listening(limits=limits) as listener, connect(listener) as peer:
        peer.sendall(head(path))
        left, began = LARGE, time.monotonic()
        while left > 0:
            piece = peer.recv(2**20)
            assert piece, f"{left} bytes did not come"
            left -= len(piece)
            pause.wait(0.02)  # this is how slow it is; nothing is waited for
        assert time.monotonic() - began > limits.stall


def test_thousands_of_connections_from_one_address() -> None:
    """While one address opens three thousand connections, another gets its answers, and the
    listener holds no more of them than it may.
    """
    before = files()
    with listening(limits=Limits(each=64)) as listener:
        mine: deque[socket.socket] = deque()
        most = 0
        for i in range(3000):
            mine.append(connect(listener))
            if len(mine) > 150:
                mine.popleft().close()
            if i % 300 == 0:
                assert ask(listener)["source"] == HONEST
            most = max(most, files() - before - len(mine))
        assert most <= 64 + BACKLOG + 16, most
        for peer in mine:
            peer.close()
        assert ask(listener)["source"] == HONEST
    until(lambda: files() == before)


def test_the_oldest_one_without_a_request_makes_room() -> None:
    """At the limit of an address its connection that has been longest without a request goes."""
    with listening(limits=Limits(each=3)) as listener, ExitStack() as stack:
        peers = [stack.enter_context(connect(listener)) for _ in range(3)]
        for i in (0, 1, 2, 1, 0):  # an answer makes it the youngest
            peers[i].sendall(head())
            read_answer(peers[i])
        for gone, fresh in ((2, 3), (1, 4), (0, 5)):
            peers.append(stack.enter_context(connect(listener)))
            assert closed(peers[gone])
            peers[fresh].sendall(head())
            read_answer(peers[fresh])


def test_the_tunnel_counts_in_all_only() -> None:
    """On the tunnel's port one address may hold as many connections as all may, and a request is
    answered even when strangers hold them all.
    """
    limits = Limits(each=1, connections=20)
    with listening(secure=True, limits=limits) as listener, ExitStack() as stack:
        peers = [stack.enter_context(connect(listener)) for _ in range(20)]
        for peer in peers:
            peer.sendall(head())
            read_answer(peer)
        assert ask(listener, source=ATTACKER)["source"] == TUNNEL
        assert closed(peers[0])


def test_where_all_are_at_work_a_new_one_is_closed() -> None:
    """Requests under way are never ended for a new connection: that one is closed at once."""
    app = App()
    with listening(app, limits=Limits(connections=4)) as listener, ExitStack() as stack:
        for _ in range(4):
            peer = stack.enter_context(connect(listener))
            peer.sendall(head("/stream"))
        app.until_open(4)
        with connect(listener, HONEST) as late:
            assert closed(late)
        assert app.open == 4
    app.until_open(0)


def test_files_are_left_for_the_rest_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener takes no more than a quarter of the files that the process may have open."""
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (40, 4096))
    with listening(secure=True) as listener, ExitStack() as stack:
        peers = [stack.enter_context(connect(listener)) for _ in range(11)]
        assert closed(peers[0])


def test_a_streams_end_is_noticed() -> None:
    """When its browser goes away a stream ends, with the file it had open."""
    app = App()
    with listening(app) as listener:
        ask(listener)
        before = files()
        with connect(listener) as peer:
            peer.sendall(head("/stream"))
            app.until_open(1)
        app.until_open(0)
        until(lambda: files() <= before)


def test_close_ends_streams(caplog: pytest.LogCaptureFixture) -> None:
    """Closing ends open streams, quietly, and leaves no thread and no file."""
    threads, before = set(threading.enumerate()), files()
    app = App()
    with ExitStack() as stack:
        with listening(app) as listener:
            peers = [stack.enter_context(connect(listener)) for _ in range(5)]
            for peer in peers[:4]:
                peer.sendall(head("/stream"))
            app.until_open(4)
        for peer in peers:
            while peer.recv(65536):
                pass
    assert not caplog.records
    assert set(threading.enumerate()) == threads
    assert files() == before
    app.until_open(0)


def test_nothing_of_a_request_is_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """No log holds a token, a path or a stranger's words, even with uvicorn's logs turned on and
    an app that fails with the path in its message.
    """
    loggers = [logging.getLogger(f"uvicorn{name}") for name in ("", ".error", ".access", ".asgi")]
    stream = logging.StreamHandler()
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
        logger.addHandler(stream)
    try:
        with caplog.at_level(1), listening() as listener:
            ask(listener, path=f"/s/{TOKEN}")
            for rude in (
                head(f"/{TOKEN}/fails"),
                f"{TOKEN}\r\n\r\n".encode(),
                head(f"/{TOKEN}", "Upgrade: websocket", "Connection: Upgrade"),
                head(f"/{TOKEN}", "Transfer-Encoding: chunked", method="POST") + TOKEN.encode() * 9,
            ):
                with connect(listener) as peer:
                    peer.sendall(rude)
                    peer.shutdown(socket.SHUT_WR)
                    while peer.recv(65536):
                        pass
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
            logger.removeHandler(stream)
    out, err = capfd.readouterr()
    assert TOKEN not in caplog.text + out + err
    assert [record.name for record in caplog.records if record.levelno >= logging.WARNING] == [
        "imagegate"
    ]
    assert "a request failed: RuntimeError" in caplog.text
    assert "test_listener.py" in caplog.text


def test_no_http_after_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """What is no HTTP and comes after the answer closes the connection, without a traceback."""
    with listening() as listener, connect(listener) as peer:
        peer.sendall(head("/", "Transfer-Encoding: chunked", method="POST"))
        read_answer(peer)
        peer.sendall(b"no chunk at all\r\n\r\n")
        assert closed(peer)
    assert not caplog.records


def test_a_failure_is_answered() -> None:
    """An app that fails before its answer leaves a plain 500."""
    with listening() as listener, connect(listener) as peer:
        peer.sendall(head("/fails"))
        assert peer.recv(65536).startswith(b"HTTP/1.1 500 ")


def test_a_port_that_is_taken() -> None:
    """Where somebody else listens there is an OSError, before anything is started."""
    with listening() as listener, pytest.raises(OSError, match="in use"):
        Listener(App(), "127.0.0.1", listener.port)


def test_a_listener_is_used_once() -> None:
    """It cannot be started twice, nor after it was closed; closing twice is nothing."""
    with listening() as listener, pytest.raises(RuntimeError):
        listener.start()
    listener.close()
    never = Listener(App(), "127.0.0.1", 0)
    never.close()
    with pytest.raises(RuntimeError):
        never.start()


def test_a_server_that_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What keeps the server from starting is raised where it was started."""

    def run(server: Any, sockets: Any) -> None:
        raise SystemExit(3)

    monkeypatch.setattr(Server, "run", run)
    listener = Listener(App(), "127.0.0.1", 0)
    with pytest.raises(SystemExit):
        listener.start()
    listener.close()
    assert "a server of links failed" in caplog.text


def test_signals_stay_with_the_process() -> None:
    """The listener takes no signal for itself and leaves uvicorn's loggers as they were."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    access = logging.getLogger("uvicorn.access")
    before = (list(access.handlers), access.propagate, access.level)
    with listening():
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
        assert (list(access.handlers), access.propagate, access.level) == before
