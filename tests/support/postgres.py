"""A private PostgreSQL server in a temporary directory, for tests, benchmarks and scripts."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psycopg

PATIENCE = 60.0
"""Seconds until a server that does not start, or does not end, is given up."""
READY = "database system is ready to accept connections"


class NoPostgreSQL(Exception):
    """There is no PostgreSQL here, or it does not start; the message says what to do."""


def binaries() -> Path:
    """The folder with ``initdb`` and ``postgres``: $POSTGRESQL_BIN, else the newest there is.

    Raises:
        NoPostgreSQL: there is none.
    """
    named = os.environ.get("POSTGRESQL_BIN")
    if named:
        found = [Path(named)]
    else:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
        on_path = shutil.which("initdb")
        found += [Path(on_path).resolve().parent] if on_path else []
    for folder in found:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoPostgreSQL(
        f"no PostgreSQL server in {named}"
        if named
        else "no PostgreSQL server; install Debian's package postgresql, or name the folder of "
        "initdb and postgres in POSTGRESQL_BIN"
    )


class PostgreSQL:
    """A server on a free port of 127.0.0.1, which trusts everybody. Also a context manager.

    It may be killed: what it has recorded is there when it is started again, at the same port.

    Args:
        lasting: it waits for the disk as a real one does; only a machine that goes down needs it.

    Raises:
        NoPostgreSQL: there is none, or it does not start.
    """

    def __init__(self, *, lasting: bool = False) -> None:
        self._lasting = lasting
        self._bin = binaries()
        self._user = _other_user()
        self.folder = Path(tempfile.mkdtemp(prefix="imagegate-pg-"))
        self.data = self.folder / "data"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port: int = taken.getsockname()[1]
        self._process: subprocess.Popen[str] | None = None
        self._said: deque[str] = deque(maxlen=30)
        self._reader: threading.Thread | None = None
        self._databases = 0
        atexit.register(self.close)
        try:
            if self._user:
                shutil.chown(self.folder, self._user)
            self._initialise()
        except BaseException:
            self.close()
            raise

    # -- its life

    def start(self) -> None:
        """Start, and wait until it takes connections. Nothing to do if it runs."""
        if self._process is not None:
            return
        settings = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "",
            "shared_buffers": "16MB", "max_connections": 200, "lc_messages": "C",
            "log_destination": "stderr", "logging_collector": "off",
            **({} if self._lasting else {"fsync": "off", "full_page_writes": "off"}),
        }  # fmt: skip
        options = [part for item in settings.items() for part in ("-c", f"{item[0]}={item[1]}")]
        ready = threading.Event()
        process = self._popen(["postgres", "-D", str(self.data), *options])
        self._reader = threading.Thread(target=self._read, args=(process, ready), daemon=True)
        self._process = process
        self._reader.start()
        if ready.wait(PATIENCE) and process.poll() is None:
            return
        self.kill()
        raise NoPostgreSQL("PostgreSQL does not start:\n" + "".join(self._said))

    def stop(self) -> None:
        """End it in good order, whoever is connected. Nothing to do if it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # "fast"
            self._ended()

    def kill(self) -> None:
        """SIGKILL for all its processes at once, as when its machine goes down."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            # Stopped first, so that no child is born while they are counted.
            os.kill(self._process.pid, signal.SIGSTOP)
            for pid in [*_children(self._process.pid), self._process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._ended()

    def freeze(self) -> None:
        """Stop all its processes where they are: it keeps its connections, and says nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on. Nothing to do if they do."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is None:
            return
        for pid in [self._process.pid, *_children(self._process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        """Whether it was started, and neither stopped nor killed."""
        return self._process is not None

    def close(self) -> None:
        """End it and remove its files."""
        atexit.unregister(self.close)
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> PostgreSQL:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- its databases

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """A connection in autocommit."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname=database, autocommit=True
        )

    def create(self, name: str = "") -> str:
        """Make a database, by default of a new name; its URL."""
        if not name:
            self._databases += 1
            name = f"test{self._databases}"
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop(self, name: str) -> None:
        """Remove a database, whoever is connected."""
        with self.connect() as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    # -- inside

    def _initialise(self) -> None:
        process = self._popen(
            ["initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8",
             "--no-locale", "--no-sync"],
        )  # fmt: skip
        said, _ = process.communicate(timeout=PATIENCE)
        if process.returncode:
            raise NoPostgreSQL(f"initdb failed:\n{said}")

    def _popen(self, command: Sequence[str]) -> subprocess.Popen[str]:
        as_whom: dict[str, Any] = {}
        if self._user:
            group = pwd.getpwnam(self._user).pw_gid
            as_whom = {"user": self._user, "group": group, "extra_groups": []}
        return subprocess.Popen(
            [str(self._bin / command[0]), *command[1:]],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # Ctrl+C is for the tests, not for the server
            **as_whom,
        )

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        """Until its last process has ended."""
        assert process.stdout is not None
        for line in process.stdout:
            self._said.append(line)
            if READY in line:
                ready.set()
        ready.set()  # it never will be

    def _ended(self) -> None:
        process, reader, self._process = self._process, self._reader, None
        assert process is not None
        assert reader is not None
        process.wait(PATIENCE)
        reader.join(PATIENCE)
        if process.stdout is not None and not reader.is_alive():
            process.stdout.close()


def _other_user() -> str:
    """Whom root, for whom PostgreSQL does not run, starts it as; else an empty string."""
    if os.geteuid():
        return ""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise NoPostgreSQL("PostgreSQL does not run as root, and there is no other user")


def _children(pid: int) -> list[int]:
    table = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    pairs = [line.split() for line in table.splitlines()]
    return [int(child) for child, parent in pairs if int(parent) == pid]


def _version(folder: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", folder.parent.name)]
