"""Gradio's tunnel, up to where the network ends: what lies beyond is a stand-in."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio import networking, tunneling

from imagegate.http.sockets.listener import Listener
from imagegate.http.sockets.listening import SOURCE, TUNNEL
from imagegate.share import tunnel
from imagegate.share.tunnel import Standing, TunnelKeeper
from tests.support.share_server import ROOT_CA, ShareServer, use
from tests.support.stored import PATIENCE

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]


class Kept:
    """A keeper, all it has told, and a way to wait for more."""

    def __init__(self, port: int) -> None:
        self.told: list[Standing] = []
        self._heard = threading.Condition()
        self.keeper = TunnelKeeper(port, self._changed)

    def _changed(self) -> None:
        with self._heard:
            self.told.append(self.keeper.standing)
            self._heard.notify_all()

    def until(self, true: Callable[[Standing], Any], after: int = 0) -> Standing:
        """The first standing that was told, after so many others, of which this is true."""

        def found() -> Standing | None:
            return next((standing for standing in self.told[after:] if true(standing)), None)

        with self._heard:
            assert self._heard.wait_for(found, PATIENCE), self.told
        standing = found()
        assert standing
        return standing

    def opens(self, after: int = 0) -> str:
        return self.until(lambda standing: standing.url, after).url

    def fails(self, after: int = 0) -> str:
        standing = self.until(lambda standing: standing.problem, after)
        assert standing.trying
        assert not standing.url
        return standing.problem


@pytest.fixture
def server() -> Iterator[ShareServer]:
    with ShareServer() as server:
        yield server


@pytest.fixture
def program(server: ShareServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The stand-in for Gradio's program; nothing is slow in these tests."""
    monkeypatch.setattr(tunnel, "PAUSES", (0.01, 0.05))
    return use(monkeypatch, server, tmp_path)


@pytest.fixture
def keep(program: Path) -> Iterator[Callable[..., Kept]]:
    """Starts keepers, and sees to it that each leaves nothing behind."""
    before = set(threading.enumerate())
    kept: list[Kept] = []

    def keep(port: int = 9) -> Kept:
        kept.append(Kept(port))
        kept[-1].keeper.start()
        return kept[-1]

    yield keep
    for one in kept:
        one.keeper.close()
        assert one.keeper.standing == Standing()
    left = [t for t in set(threading.enumerate()) - before if t.name != "share-server"]
    assert not [thread for thread in left if "imagegate" in thread.name], left


async def hello(scope: Any, receive: Any, send: Any) -> None:
    body = json.dumps([scope["path"], scope[SOURCE], len((await receive())["body"])]).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextmanager
def shared_port() -> Iterator[int]:
    listener = Listener(hello, "127.0.0.1", 0, secure=True)
    listener.start()
    try:
        yield listener.port
    finally:
        listener.close()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as port:
        number: int = port.getsockname()[1]
        return number


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(true: Callable[[], Any]) -> None:
    """Looks again and again until something is true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s"
        os.sched_yield()


@contextmanager
def downloads(answer: bytes, status: int = 200) -> Iterator[str]:
    """A place to download from; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as place:
        thread = threading.Thread(target=place.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{place.server_port}/frpc"
        place.shutdown()
        thread.join()


def test_the_command_is_gradios_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is run with exactly the arguments that Gradio's own Tunnel gives it."""
    seen: list[list[str]] = []

    def run(command: list[str], **given: Any) -> None:
        seen.append(command)
        raise OSError("seen enough")

    monkeypatch.setattr(subprocess, "Popen", run)
    monkeypatch.setattr(tunneling, "CURRENT_TUNNELS", [])
    with pytest.raises(OSError, match="seen enough"):
        tunneling.Tunnel("a.b", 7000, "127.0.0.1", 7866, "T", "ca.pem")._start_tunnel("frpc")
    own = tunnel._command("frpc", "T", 7866, "a.b:7000")
    assert seen == [[*own, "--tls_enable", "--tls_trusted_ca_file", "ca.pem"]]


def test_a_request_comes_through(server: ShareServer, keep: Callable[..., Kept]) -> None:
    """What is asked of the public address is answered by the shared port, and told is its HTTPS
    address, without a problem.
    """
    with shared_port() as port:
        kept = keep(port)
        assert kept.keeper.standing.trying or kept.keeper.standing.url
        assert kept.opens() == server.url.replace("http:", "https:")
        assert kept.told[0] == Standing(trying=True)
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            for _ in range(3):
                assert client.get("/s/x").json() == ["/s/x", TUNNEL, 0]
            assert client.post("/y", content=bytes(40_000)).json()[:2] == ["/y", TUNNEL]
    assert server.logins[0]["tls"] is True
    assert server.logins[0]["ca"] == hashlib.sha256(ROOT_CA.encode()).hexdigest()


@pytest.mark.parametrize("mood", ["", "stubborn"])
def test_a_tunnel_that_is_cut(
    mood: str, server: ShareServer, keep: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tunnel that the share server cuts is told of, and opened again under the same name, whether
    the program ends by itself or would rather go on trying.
    """
    monkeypatch.setenv("SHARE_FRPC", mood)
    kept = keep()
    kept.opens()
    first, so_far = server.logins[0], len(kept.told)
    server.drop()
    assert kept.fails(so_far) == "The tunnel was cut"
    kept.opens(so_far)
    assert kept.keeper.standing == Standing(url=server.url.replace("http:", "https:"))
    assert server.logins[1]["name"] == first["name"]
    assert not alive(first["pid"])


def test_a_new_address_is_told(server: ShareServer, keep: Callable[..., Kept]) -> None:
    """A program that is killed is started again, and an address that differs is told."""
    kept = keep()
    old, so_far = kept.opens(), len(kept.told)
    server.move()
    os.kill(server.logins[0]["pid"], signal.SIGKILL)
    assert kept.opens(so_far) == server.url.replace("http:", "https:") != old


def test_an_address_that_changes_while_open(server: ShareServer, keep: Callable[..., Kept]) -> None:
    """An address that the program names later counts from then on."""
    kept = keep()
    kept.opens()
    server.say("[x] start proxy success: https://other.gradio.live")
    kept.until(lambda standing: standing.url == "https://other.gradio.live")


def test_a_share_server_of_ones_own(
    server: ShareServer,
    keep: Callable[..., Kept],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """GRADIO_SHARE_SERVER_ADDRESS names another share server, and Gradio's is not asked."""
    monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", server.address)
    monkeypatch.setattr(networking, "GRADIO_API_SERVER", f"http://127.0.0.1:{closed_port()}")
    keep().opens()
    assert (server.logins[0]["tls"], server.logins[0]["ca"]) == (False, None)


def test_a_share_server_that_is_no_address(
    keep: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GRADIO_SHARE_SERVER_ADDRESS of another form is named, with the form it takes."""
    monkeypatch.setattr(networking, "GRADIO_SHARE_SERVER_ADDRESS", "share.example.org")
    expected = "GRADIO_SHARE_SERVER_ADDRESS is 'share.example.org'; it takes HOST:PORT"
    assert keep().fails() == expected


def test_no_network(
    keep: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch, server: ShareServer
) -> None:
    """Where Gradio's server cannot be reached one sentence says so, and it opens once it can."""
    nowhere = f"127.0.0.1:{closed_port()}"
    monkeypatch.setattr(networking, "GRADIO_API_SERVER", f"http://{nowhere}/v3")
    kept = keep()
    assert kept.fails() == (
        f"Gradio's server for share links ({nowhere}) cannot be reached (Connection refused)"
    )
    monkeypatch.setattr(networking, "GRADIO_API_SERVER", server.api)
    kept.opens()


@pytest.mark.parametrize(
    "told",
    [b"<html>", b"[]", b"{}", b'[{"host": "x", "port": "y", "root_ca": ""}]',
     b'[{"host": "-c evil", "port": 1, "root_ca": ""}]', b'[{"host": "x", "port": 1}]'],
)  # fmt: skip
def test_an_api_server_that_talks_nonsense(
    told: bytes, server: ShareServer, keep: Callable[..., Kept]
) -> None:
    """An answer that names no share server is a problem like any other."""
    server.told = told
    assert "did not say where to connect to" in keep().fails()


def test_no_share_server(server: ShareServer, keep: Callable[..., Kept]) -> None:
    """Where the share server cannot be reached the sentence says which, and what was wrong."""
    port = closed_port()
    server.address = f"127.0.0.1:{port}"
    problem = keep().fails()
    assert problem.startswith(f"The share server 127.0.0.1:{port} did not let us in (dial tcp ")
    assert problem.endswith("Connection refused)")


def test_a_login_that_is_refused(server: ShareServer, keep: Callable[..., Kept]) -> None:
    """A share server that refuses is quoted, and asked again until it does not."""
    server.refuse = "authorization failed"
    kept = keep()
    assert kept.fails() == (
        f"The share server {server.address} did not let us in (authorization failed)"
    )
    server.until_logins(3)
    server.refuse = ""
    kept.opens()


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("broken", "ended before there was an address (panic: no route for ...)"),
        ("garbage", "gave something that is not an address"),
        ("dumb", "gave no address in 0 s"),
        ("babbling", "gave no address in 0 s"),
    ],
)
def test_a_program_that_misbehaves(
    mood: str,
    said: str,
    keep: Callable[..., Kept],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A program that ends, talks nonsense, says nothing or never stops talking is ended, and one
    sentence, without the secret name, says what it did.
    """
    monkeypatch.setenv("SHARE_FRPC", mood)
    if mood in ("dumb", "babbling"):
        monkeypatch.setattr(tunnel, "OPEN_SECONDS", 0.3)
    assert keep().fails().endswith(said)


def test_much_output(server: ShareServer, keep: Callable[..., Kept]) -> None:
    """A program that says more than a pipe holds is not blocked by it."""
    with shared_port() as port:
        keep(port).opens()
        for _ in range(20):
            server.say("something of no interest, " * 40, times=100)
        with httpx.Client(base_url=server.url, trust_env=False) as client:
            assert client.get("/").status_code == 200


def test_no_download(
    program: Path, keep: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the program, and without a way to download it, the sentence says where to put it."""
    program.unlink()
    place = f"127.0.0.1:{closed_port()}"
    monkeypatch.setattr(tunneling, "BINARY_URL", f"http://{place}/frpc")
    assert keep().fails() == (
        f"Gradio's tunnel program could not be downloaded from {place} (Connection refused); "
        f"on a machine without internet it can be put at {program}"
    )


def test_no_program_for_this_machine(
    program: Path, keep: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A platform that Gradio has no program for is named."""
    program.unlink()
    with downloads(b"", status=403) as url:
        monkeypatch.setattr(tunneling, "BINARY_URL", url)
        assert keep().fails().startswith("Gradio has no tunnel program for this machine (Linux ")


@pytest.mark.parametrize("there", [False, True])
def test_a_program_of_somebody_else(
    there: bool, program: Path, keep: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that is not the published one is neither kept nor ever run, not even one that is
    there already.
    """
    ran = program.with_name("ran")
    evil = f"#!/bin/sh\ntouch {ran}\n".encode()
    program.unlink()
    if there:
        program.write_bytes(evil)
        program.chmod(0o700)
    with downloads(evil) as url:
        monkeypatch.setattr(tunneling, "BINARY_URL", url)
        monkeypatch.setitem(tunneling.CHECKSUMS, url, "0" * 64)
        kept = keep()
        assert kept.fails().endswith("published, and was not kept")
        kept.keeper.close()
    assert not ran.exists()
    assert program.exists() is there
    assert {path.name for path in program.parent.iterdir()} <= {"frpc"}


@pytest.mark.parametrize("torn", [False, True])
def test_a_program_that_is_downloaded(
    torn: bool, program: Path, keep: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing program, or one that was cut off in the middle, is downloaded and used."""
    content = program.read_bytes()
    program.unlink()
    if torn:
        program.write_bytes(content[:20])
    with downloads(content) as url:
        monkeypatch.setattr(tunneling, "BINARY_URL", url)
        monkeypatch.setitem(tunneling.CHECKSUMS, url, hashlib.sha256(content).hexdigest())
        keep().opens()
    assert program.read_bytes() == content


def test_a_program_that_cannot_be_run(
    program: Path, keep: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that the system does not take is named, with the system's reason."""
    program.write_bytes(b"\x7fELF, but not really")
    monkeypatch.setattr(tunneling, "BINARY_URL", "https://127.0.0.1/unknown")
    assert f"cannot be run here (Exec format error); without {program}" in keep().fails()


def test_a_broken_gradio(keep: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Gradio the sentence says what to install."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    problem = keep().fails()
    assert problem.startswith("Gradio, which brings the tunnel, could not be loaded (")
    assert problem.endswith("pip install -r requirements.txt")


@pytest.mark.parametrize("place", ["api", "login", "download"])
def test_close_in_the_middle(
    place: str, program: Path, server: ShareServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever an attempt is when it is closed, nothing is reported and nothing starts any more."""
    monkeypatch.setattr(tunnel, "HTTP_SECONDS", 1.0)
    if place == "login":
        monkeypatch.setenv("SHARE_FRPC", "dumb")
    kept = Kept(9)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        nowhere = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        if place == "api":
            monkeypatch.setattr(networking, "GRADIO_API_SERVER", nowhere)
        if place == "download":
            program.unlink()
            monkeypatch.setattr(tunneling, "BINARY_URL", nowhere)
        kept.keeper.start()
        if place == "login":
            until(lambda: kept.keeper._process is not None)
        else:
            deaf.accept()[0].detach()
        kept.keeper.close()
    assert kept.keeper._loop.close(PATIENCE)
    assert kept.told == [Standing(trying=True)]
    assert kept.keeper.standing == Standing()
    assert not server.logins


def test_close_while_pausing(keep: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing does not wait for the end of a pause."""
    monkeypatch.setattr(tunnel, "PAUSES", (PATIENCE * 10,))
    monkeypatch.setattr(networking, "GRADIO_API_SERVER", f"http://127.0.0.1:{closed_port()}")
    kept = keep()
    kept.fails()
    kept.keeper.close()
    assert not kept.keeper._loop.alive


def test_nothing_is_left(
    program: Path, server: ShareServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After closing there is no process, thread, file or temporary folder, and nobody, neither
    Gradio nor the interpreter for its exit, keeps hold of it.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("SHARE_FRPC", "stubborn")
    threads = {thread for thread in threading.enumerate() if thread.name != "share-server"}
    pids = []
    keepers = []

    def once() -> None:
        kept = Kept(9)
        kept.keeper.start()
        kept.opens()
        pids.append(server.logins[-1]["pid"])
        kept.keeper.close()
        keepers.append(weakref.ref(kept.keeper))

    once()
    until(lambda: server._control is None)
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        once()
    assert not [pid for pid in pids if alive(pid)]
    left = {thread for thread in threading.enumerate() if thread.name != "share-server"}
    assert left == threads
    gc.collect()
    assert [keeper() for keeper in keepers] == [None] * 4
    assert not tunneling.CURRENT_TUNNELS
    assert not list((tmp_path / "temporary").iterdir())
    until(lambda: len(os.listdir("/proc/self/fd")) <= files)


def test_pauses_grow() -> None:
    """Pauses grow from one second, over a minute, to five."""
    assert tunnel.PAUSES[0] == 1
    assert list(tunnel.PAUSES) == sorted(tunnel.PAUSES)
    assert 60 in tunnel.PAUSES
    assert tunnel.PAUSES[-1] == 300


def test_a_folder_that_is_read_only(
    server: ShareServer, keep: Callable[..., Kept], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is written into the current folder, which may be read-only."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o500)
    monkeypatch.chdir(folder)
    keep().opens()
    assert server.logins[0]["cwd"] == str(folder)
    assert not list(folder.iterdir())


def test_no_secret_is_logged(
    server: ShareServer,
    keep: Callable[..., Kept],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The secret name of the tunnel is in no log, no problem and no output."""
    with caplog.at_level(logging.DEBUG):
        kept = keep()
        kept.opens()
        secret = server.logins[0]["name"]
        server.refuse = f"who is {secret}?"
        so_far = len(kept.told)
        server.drop()
        kept.until(lambda standing: "let us in" in standing.problem, so_far)
    out, err = capfd.readouterr()
    assert len(secret) >= 40
    assert secret not in caplog.text + out + err + repr(kept.told) + repr(kept.keeper)
    assert out + err == ""
    assert "the tunnel is open: https://127.0.0.1" in caplog.text


def test_a_listener_that_fails(server: ShareServer, program: Path) -> None:
    """A callback that raises does not end the tunnel."""
    called = threading.Semaphore(0)

    def changed() -> None:
        called.release()
        raise ValueError("not today")

    keeper = TunnelKeeper(9, changed)
    keeper.start()
    for _ in range(2):
        assert called.acquire(timeout=PATIENCE)
    assert keeper.standing.url
    keeper.close()


PARENT = """
import signal, sys
from gradio import networking, tunneling
from imagegate.share.tunnel import TunnelKeeper
networking.GRADIO_SHARE_SERVER_ADDRESS, tunneling.BINARY_PATH = sys.argv[1:3]
tunneling.BINARY_URL = "https://127.0.0.1/unknown"
TunnelKeeper(9, lambda: None).start()
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["killed", "ends"])
def test_the_program_ends_with_the_process(how: str, server: ShareServer, program: Path) -> None:
    """The program ends with our process, whether that ends by itself or by kill -9."""
    if how == "killed" and sys.platform != "linux":
        pytest.skip("only Linux ends it after kill -9")
    command = [sys.executable, "-c", PARENT, server.address, str(program)]
    environment = {**os.environ, "SHARE_FRPC": "stubborn"}
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, env=environment) as parent:
        with server.changed:
            assert server.changed.wait_for(lambda: server.logins, 60)
        pid = server.logins[0]["pid"]
        assert alive(pid)
        if how == "killed":
            parent.kill()
        else:
            assert parent.stdin
            parent.stdin.close()
        parent.wait(PATIENCE)
    until(lambda: not alive(pid))


def test_gradio_is_not_imported_first() -> None:
    """Making and starting a keeper does not wait for Gradio to be imported."""
    code = (
        "import sys, imagegate.share.tunnel as t; k = t.TunnelKeeper(9, lambda: None)\n"
        "assert 'gradio' not in sys.modules and 'httpx' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
