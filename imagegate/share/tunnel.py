"""Keeps Gradio's tunnel open to one local port.

It takes from Gradio what Gradio's own `Tunnel` uses: the servers' addresses, and the program (frpc,
from the same place, checked in the same way). It does not use that class, which spins for half a
minute when the program ends early, never reads the program's later output, keeps each tunnel for
ever, writes into the current folder, and runs a program that it has just found to be the wrong one.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import os
import platform
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from ..core.failures import report_failure
from ..core.loop import Backoff, Loop
from ..pictures.atomic import write_file

log = logging.getLogger("imagegate")

PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds before the next attempt, after the first, second, ... failure in a row."""
STEADY = 60.0
"""Seconds after which a tunnel that is cut no longer counts as one more failure in a row."""
OPEN_SECONDS = 30.0
"""Seconds in which the program must report an address."""
HTTP_SECONDS = 10.0
"""Seconds to wait for a server."""
LARGEST_PROGRAM = 100 * 2**20
"""The most bytes of a program to download."""

_ADDRESS = re.compile(r"start proxy success: (\S+)")
_REFUSED = re.compile(r"(?:login to server failed|start error): *(.*)")
# The program would go on by itself, but perhaps to a server that is no longer the right one.
_CUT = ("try to reconnect to server", "reconnect to server error")

# Linux ends the program with the thread that started it, which lives as long as the program is
# wanted; even kill -9 of this process takes the program along. It has to ask for that itself.
_LAUNCHER = """
import os, signal, sys
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
except Exception:
    pass
if os.getppid() == int(sys.argv[1]):
    try:
        os.execv(sys.argv[2], sys.argv[2:])
    except OSError as error:
        sys.stdout.write("cannot be run: %s" % error.strerror)
"""
_CANNOT_RUN = re.compile(r"cannot be run: (.+)")


class TunnelFailed(Exception):
    """There is no tunnel. The message tells a person why, and holds no secret."""


@dataclass(frozen=True)
class Standing:
    """The state of a tunnel.

    Attributes:
        url: the address at which people reach the port; "" while there is none.
        problem: why there is none, in one sentence; "" if nothing failed.
        trying: whether it is being opened, or will be after a pause.
    """

    url: str = ""
    problem: str = ""
    trying: bool = False


class TunnelKeeper:
    """Opens a tunnel to a port of this machine, and reopens it whenever it is cut. Thread-safe.

    Args:
        port: the port on 127.0.0.1.
        changed: called when `standing` has changed, in the keeper's thread and without a lock;
            no longer called after `close`.
    """

    def __init__(self, port: int, changed: Callable[[], None]) -> None:
        self._port = port
        self._changed = changed
        # Whoever knows it can take over the address. In hex it never looks like an option.
        self._token = secrets.token_hex(32)
        self._lock = threading.Lock()  # guards the next two
        self._standing = Standing()
        self._process: subprocess.Popen[bytes] | None = None
        self._loop = Loop("imagegate-tunnel", self._run, waker=self._end_program)

    @property
    def standing(self) -> Standing:
        with self._lock:
            return self._standing

    def start(self) -> None:
        """Start trying, once; returns at once."""
        with self._lock:
            self._standing = Standing(trying=True)
        atexit.register(self.close)
        self._loop.start()

    def close(self) -> None:
        """End the tunnel, and its program, for good.

        A request to Gradio's servers that is under way may keep the thread alive for another
        `HTTP_SECONDS`; it does nothing more.
        """
        self._loop.close(2)
        atexit.unregister(self.close)

    def _end_program(self) -> None:
        with self._lock:
            process = self._process
            self._standing = Standing()
        if process is not None:
            process.kill()

    def _run(self) -> None:
        self._announce()
        backoff = Backoff(PAUSES)
        while not self._loop.closing:
            try:
                steady = self._attempt() >= STEADY
                problem = "The tunnel was cut"
            except TunnelFailed as error:
                steady, problem = False, str(error)
            except Exception as error:  # whatever it is, the panel goes on, and so does this
                steady = False
                problem = f"The tunnel could not be opened ({self._hidden(str(error))})"
            if steady:
                backoff.reset()
            self._stand(Standing(problem=problem, trying=True))
            self._loop.pause(backoff.fail())

    def _attempt(self) -> float:
        """Open the tunnel; returns once it is cut, with the seconds that it was open."""
        networking, tunneling = _gradio()
        with tempfile.TemporaryDirectory(prefix="imagegate-") as place:
            certificate = Path(place) / "certificate.pem"
            server, is_theirs = _server(networking, certificate)
            program = self._program(tunneling)
            command = _command(program, self._token, self._port, server)
            if is_theirs:
                command += ["--tls_enable", "--tls_trusted_ca_file", str(certificate)]
            return self._keep(command, server)

    def _program(self, tunneling: Any) -> str:
        """The path of Gradio's program, which is downloaded if it is missing."""
        path, url = Path(tunneling.BINARY_PATH), str(tunneling.BINARY_URL)
        wanted = tunneling.CHECKSUMS.get(url)
        if not path.exists() or (wanted and _sha256(path.read_bytes()) != wanted):
            content = self._download(url, path, known=wanted is not None)
            if wanted and _sha256(content) != wanted:
                raise TunnelFailed(
                    f"What {urlsplit(url).netloc} sent is not the tunnel program that Gradio "
                    "published, and was not kept"
                )
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_file(path, content, mode=0o700)
            except OSError as error:
                raise TunnelFailed(
                    f"Gradio's tunnel program could not be stored at {path}: {error.strerror}"
                ) from error
        return str(path)

    def _download(self, url: str, path: Path, known: bool) -> bytes:
        import httpx  # Gradio brings it

        content = bytearray()
        try:
            with httpx.stream("GET", url, timeout=HTTP_SECONDS) as answer:
                if answer.status_code in (403, 404) and not known:
                    machine = f"{platform.system()} {platform.machine()}"
                    raise TunnelFailed(f"Gradio has no tunnel program for this machine ({machine})")
                answer.raise_for_status()
                for piece in answer.iter_bytes():
                    content += piece
                    if len(content) > LARGEST_PROGRAM or self._loop.closing:
                        raise TunnelFailed("Gradio's tunnel program is not downloaded further")
        except (httpx.HTTPError, OSError) as error:
            raise TunnelFailed(
                f"Gradio's tunnel program could not be downloaded from {urlsplit(url).netloc} "
                f"({_reason(error)}); on a machine without internet it can be put at {path}"
            ) from error
        return bytes(content)

    def _keep(self, command: list[str], server: str) -> float:
        """Run the program until the tunnel is cut; returns how long it was open."""
        began, opened, last = time.monotonic(), None, ""
        process = self._launch(command)
        late = threading.Timer(OPEN_SECONDS, process.kill)
        late.daemon = True
        late.start()
        try:
            assert process.stdout is not None
            for line in _lines(process.stdout):
                if found := _ADDRESS.search(line):
                    late.cancel()
                    opened = opened or time.monotonic()
                    self._stand(Standing(url=_public(found[1], server)))
                elif opened is not None and any(words in line for words in _CUT):
                    break
                elif refused := _REFUSED.search(line):
                    why = self._hidden(refused[1])
                    raise TunnelFailed(f"The share server {server} did not let us in ({why})")
                elif failed := _CANNOT_RUN.match(line):
                    raise _not_run(command[0], failed[1])
                last = line or last
        finally:
            late.cancel()
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
            late.join()
            with self._lock:
                self._process = None
        if opened is not None:
            return time.monotonic() - opened
        if time.monotonic() - began >= OPEN_SECONDS:
            raise TunnelFailed(f"The share server {server} gave no address in {OPEN_SECONDS:.0f} s")
        raise TunnelFailed(
            "Gradio's tunnel program ended before there was an address "
            f"({self._hidden(last) or process.returncode})"
        )

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        guarded = sys.platform == "linux" and bool(sys.executable)
        prefix = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())] if guarded else []
        try:
            process = subprocess.Popen(  # noqa: S603
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # Ctrl+C in a terminal is ours to answer, not the program's.
                start_new_session=guarded,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise _not_run(command[0], error.strerror) from error
        with self._lock:
            self._process = process
        if self._loop.closing:  # and `close` may have come too early to see it
            process.kill()
        return process

    def _stand(self, standing: Standing) -> None:
        with self._lock:
            if self._loop.closing or self._standing == standing:
                return
            self._standing = standing
        if standing.url:
            log.info("the tunnel is open: %s", standing.url)
        else:
            problem = TunnelFailed(f"{standing.problem}; trying again")
            report_failure("", problem, outside=(TunnelFailed,))
        self._announce()

    def _announce(self) -> None:
        try:
            self._changed()
        except Exception as error:  # the tunnel does not depend on who listens
            report_failure("a listener to the tunnel failed", error)

    def _hidden(self, words: str) -> str:
        """The program's output, shortened, and without the token that it was given."""
        return words.replace(self._token, "...").strip()[:200]


def _gradio() -> tuple[Any, Any]:
    try:
        from gradio import networking, tunneling
    except BaseException as error:  # a broken gradio can raise anything on import, exits too
        raise TunnelFailed(
            f"Gradio, which brings the tunnel, could not be loaded ({error}); "
            "pip install -r requirements.txt"
        ) from error
    return networking, tunneling


def _server(networking: Any, certificate: Path) -> tuple[str, bool]:
    """The share server's HOST:PORT; whether it is Gradio's, whose certificate is then written."""
    own = networking.GRADIO_SHARE_SERVER_ADDRESS
    if own:
        if not re.fullmatch(r"[\w.-]+:\d{1,5}", own):
            raise TunnelFailed(f"GRADIO_SHARE_SERVER_ADDRESS is {own!r}; it takes HOST:PORT")
        return own, False
    import httpx  # Gradio brings it

    url = networking.GRADIO_API_SERVER
    name = f"Gradio's server for share links ({urlsplit(url).netloc})"
    try:
        answer = httpx.get(url, timeout=HTTP_SECONDS)
        answer.raise_for_status()
    except (httpx.HTTPError, OSError) as error:
        raise TunnelFailed(f"{name} cannot be reached ({_reason(error)})") from error
    try:
        given = answer.json()[0]
        server = f"{given['host']}:{int(given['port'])}"
        if not re.fullmatch(r"[\w.-]+:\d{1,5}", server):
            raise ValueError(server)
        root = str(given["root_ca"])
    except (LookupError, TypeError, ValueError) as error:
        raise TunnelFailed(f"{name} did not say where to connect to") from error
    certificate.write_text(root)
    return server, True


def _command(program: str, token: str, port: int, server: str) -> list[str]:
    """The command that Gradio's own `Tunnel` would run; a test compares the two."""
    return [
        program, "http", "-n", token, "-l", str(port), "-i", "127.0.0.1", "--uc", "--sd", "random",
        "--ue", "--server_addr", server, "--disable_log_color",
    ]  # fmt: skip


def _lines(output: IO[bytes]) -> Iterator[str]:
    """The program's output, line by line to its end; an endless line comes in pieces."""
    while line := output.readline(2**16):
        yield line.decode("utf-8", "replace").strip()


def _public(given: str, server: str) -> str:
    """The address for people, who always speak HTTPS to a share server, as with Gradio."""
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not re.fullmatch(r"[\w.-]+(:\d+)?", parts.netloc):
        raise TunnelFailed(f"The share server {server} gave something that is not an address")
    return f"https://{parts.netloc}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _reason(error: Exception) -> str:
    """Why a request failed, in a few words."""
    import httpx

    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time"
    if isinstance(error, httpx.HTTPStatusError):
        return f"it answered {error.response.status_code}"
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__


def _not_run(program: str, why: str | None) -> TunnelFailed:
    return TunnelFailed(
        f"Gradio's tunnel program cannot be run here ({why}); without {program} it is downloaded "
        "again"
    )
