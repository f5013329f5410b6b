"""Kill workers, panel and PostgreSQL at random moments while gates are asked and answered.

python scripts/kill_nine.py [--store postgresql] [--gates 500] [--kills 24] [--seed 1]

Two workers park gates, wait at some, and go on with those that were decided; a panel shows them;
people decide over HTTP. Each is a process of its own, and each is killed with SIGKILL again and
again, and started again; PostgreSQL with all its processes. Then it is compared what workers and
people were told with what the store holds. Returns 1 if anything was lost, or ran wrongly.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from PIL import Image

from imagegate.core.model import StoreError
from imagegate.pictures.encode import encode_png
from imagegate.storage.sql.database import Database
from imagegate.storage.sql.tables import gates
from scripts.kill_nine_tally import Seen, Tally, tally
from scripts.kill_nine_worker import BOX, HEIGHT, ROUTES, WIDTH, Log, painted, read_log
from tests.support.postgres import PostgreSQL

ROOT = Path(__file__).parents[1]
WORKERS = 2
CLIENTS = 2
API = "/imagegate/api"
LINGER = 0.8
"""How probably a person turns away from a gate whose prompt waits, so that kills meet some."""
LOOK = 0.1
"""Seconds between looks at who lives."""
SETTLE = 120.0
"""Seconds in which all that was left must be carried through after the last kill."""
BUSY = (502, 503, 507)
"""Answers that say: ask again. (507 says that what is wrong will not pass by itself; here it
does.)"""


class Victim:
    """A process that is killed, and started again."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self.name = name
        self._command = command
        self._output = folder / f"{name.replace(' ', '-')}.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0
        self.ended_by_itself = 0
        """How often: a panel does if it starts while the database is away."""

    def look(self) -> None:
        """Start it if it is time."""
        if self._process is not None and self._process.poll() is not None:
            self._forget()
            self.ended_by_itself += 1
            self._start_at = time.monotonic() + 0.3
        if self._process is None and time.monotonic() >= self._start_at:
            with self._output.open("ab") as sink:
                self._process = subprocess.Popen(
                    self._command, cwd=ROOT, stdin=subprocess.PIPE, stdout=sink,
                    stderr=subprocess.STDOUT,
                )  # fmt: skip

    def kill(self, pause: float) -> None:
        """SIGKILL; it is started again after a while."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._forget()
        self._start_at = time.monotonic() + pause

    def end(self) -> None:
        """In good order."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self.name == "panel":
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _forget(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process = None


class Client(threading.Thread):
    """A person who answers over HTTP, and repeats what was not answered."""

    def __init__(self, name: str, port: int, log: Log, seed: str) -> None:
        super().__init__(name=name, daemon=True)
        self._port = port
        self._log = log
        self._chance = random.Random(seed)
        self.over = threading.Event()
        self.busy = 0
        """Requests that were repeated."""

    def run(self) -> None:
        while not self.over.is_set():
            listed = self._call("GET", f"{API}/gates?limit=50")
            if listed is None:
                return
            found = listed[1]["gates"]
            if not found:
                self.over.wait(0.1)
                continue
            gate = self._chance.choice(found)
            if gate["mode"] == "wait" and self._chance.random() < LINGER:
                self.over.wait(0.2)
                continue
            if self._paint(gate):
                self._answer(gate["id"])
            self.over.wait(self._chance.uniform(0, 0.5))

    def _paint(self, gate: dict[str, Any]) -> bool:
        """Save the mask, if the gate shall have one; False if it is too late for that."""
        if not painted(int(gate["title"])):
            return True
        said = self._call("PUT", f"{API}/gates/{gate['id']}/mask/0", MASK, "image/png")
        return said is not None and self._expect(gate["id"], said, 200, 409, 410) == 200

    def _answer(self, gate_id: str) -> None:
        route = None if self._chance.random() < 0.1 else self._chance.randint(1, ROUTES)
        what = "stop" if route is None else "decision"
        body = {"by": self.name} | ({} if route is None else {"route": route})
        for _ in range(2 if self._chance.random() < 0.2 else 1):  # some click twice
            said = self._call("POST", f"{API}/gates/{gate_id}/{what}", json.dumps(body).encode())
            if said is None:
                return
            status = self._expect(gate_id, said, 200, 409, 410)
            if status in (200, 409):
                self._log.write(gate=gate_id, route=route, by=self.name, **said[1])
            elif status == 410:
                self._log.write(gate=gate_id, outcome="gone")

    def _expect(self, gate_id: str, said: tuple[int, Any], *allowed: int) -> int:
        if said[0] not in allowed:
            self._log.write(gate=gate_id, outcome="unexpected", text=f"{said[0]} {said[1]}")
        return said[0]

    def _call(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[int, Any] | None:
        """Status and content, sooner or later; None when it is over."""
        headers = {"content-type": kind} if body else {}
        while not self.over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=15)
            try:
                connection.request(method, path, body, headers)
                answer = connection.getresponse()
                status, content = answer.status, answer.read()
                if status not in BUSY:
                    return status, json.loads(content)
            except (OSError, http.client.HTTPException):
                pass  # it is being killed, or started again
            finally:
                connection.close()
            self.busy += 1
            self.over.wait(0.2)
        return None


class Run:
    """All processes, until the last gate is done with."""

    def __init__(self, given: argparse.Namespace, folder: Path, server: PostgreSQL | None) -> None:
        self._given = given
        self._folder = folder
        self._server = server
        self._chance = random.Random(given.seed)
        self._store = server.create("kill_nine") if server else f"sqlite:///{folder / 'g.sqlite'}"
        self._pictures = str(folder / "pictures")
        Database(self._store, "kill-nine").close()  # so that nobody waits for the tables
        self._kills = Log(folder / "kills.jsonl")
        answers = Log(folder / "answers.jsonl")
        port = _free_port()
        self._clients = [
            Client(f"client {i}", port, answers, f"{given.seed} {i}") for i in range(CLIENTS)
        ]
        self._panel = Victim("panel", self._panel_command(port), folder)
        self._workers = [
            Victim(f"worker {i}", self._worker_command(i), folder) for i in range(WORKERS)
        ]
        self._next: list[str] = []
        self._port = port

    def carry_through(self) -> Tally:
        """Returns what was found in the end."""
        started = time.monotonic()
        processes = [self._panel, *self._workers]
        try:
            self._until(self._goes, 90)
            for client in self._clients:
                client.start()
            self._until(self._all_asked, self._kill_all() + 300)
            settled = self._until(self._settled, SETTLE)
        finally:
            for client in self._clients:
                client.over.set()
            if self._server is not None:
                self._server.start()
            for victim in processes:
                victim.end()
        for client in self._clients:
            client.join(20)
        seen = Seen(
            [read_log(self._log_of(i)) for i in range(WORKERS)],
            read_log(self._folder / "answers.jsonl"),
            read_log(self._folder / "kills.jsonl"),
        )
        result = tally(self._store, self._pictures, seen, self._given.gates)
        if not settled:
            result.problems.insert(0, f"it was not all done within {SETTLE:.0f} s")
        result.count("requests repeated", sum(client.busy for client in self._clients))
        result.count("prompts that failed and were queued again", len([*seen.of_workers("failed")]))
        result.count("processes that ended by themselves",
                     sum(victim.ended_by_itself for victim in processes))  # fmt: skip
        result.counts["seconds"] = round(time.monotonic() - started)
        return result

    def _kill_all(self) -> float:
        """Kill one after the other, at random moments; how long it should have taken, in all."""
        given = self._given
        names = [victim.name for victim in (self._panel, *self._workers)]
        names += ["postgresql"] if self._server else []
        for number in range(given.kills):
            self._until(lambda: False, self._chance.uniform(0.2, 1.8) * given.every)
            if not self._next:  # everybody's turn comes, in any order
                self._next = self._chance.sample(names, len(names))
            self._kill(self._next.pop())
            self._progress(f"kill {number + 1} of {given.kills}")
        return float(given.kills * given.every)

    def _kill(self, name: str) -> None:
        pause = self._chance.uniform(0, 1)
        kill: dict[str, Any] = {"kind": "kill", "who": name}
        if name == "postgresql":
            assert self._server is not None
            self._kills.write(**kill)
            self._server.kill()
            time.sleep(pause)
            self._server.start()
            return
        victim = next(v for v in (self._panel, *self._workers) if v.name == name)
        victim.kill(pause)
        if victim in self._workers:
            lines = read_log(self._log_of(self._workers.index(victim)))
            kill["bus"] = next((x["bus"] for x in reversed(lines) if x["kind"] == "started"), "")
        self._kills.write(**kill)

    def _until(self, true: Any, within: float) -> bool:
        """Keep everybody alive until something is true; False if it did not come."""
        deadline = time.monotonic() + within
        told = time.monotonic()
        while time.monotonic() < deadline:
            for victim in (self._panel, *self._workers):
                victim.look()
            if true():
                return True
            if time.monotonic() > told + 10:
                told = time.monotonic()
                self._progress("")
            time.sleep(min(LOOK, max(0.0, deadline - time.monotonic())))
        return False

    def _goes(self) -> bool:
        """Whether the panel answers, and each worker has asked something."""
        logs = [read_log(self._log_of(i)) for i in range(WORKERS)]
        if not all(any(line["kind"] == "published" for line in log) for log in logs):
            return False
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _all_asked(self) -> bool:
        """Whether each worker has put all its questions, and its prompts that waited are over."""
        return all(
            any(line["kind"] == "done" for line in _last_life(read_log(self._log_of(i))))
            for i in range(WORKERS)
        )

    def _settled(self) -> bool:
        """Whether nobody is asked any more, and nothing is due."""
        with contextlib.suppress(StoreError):
            database = Database(self._store, "kill-nine")
            try:
                with database.read() as connection:
                    left = gates.select().where((gates.c.open == 1) | (gates.c.due == 1)).limit(1)
                    return connection.execute(left).first() is None
            finally:
                database.close()
        return False

    def _progress(self, text: str) -> None:
        asked = {
            line["number"]
            for i in range(WORKERS)
            for line in read_log(self._log_of(i))
            if line["kind"] == "published"
        }
        answered = len(read_log(self._folder / "answers.jsonl"))
        sys.stderr.write(f"{len(asked)} asked, {answered} answers; {text}\n")

    def _log_of(self, index: int) -> Path:
        return self._folder / f"worker-{index}.jsonl"

    def _panel_command(self, port: int) -> list[str]:
        return [
            sys.executable, "gradio_app.py", "--store", self._store, "--pictures", self._pictures,
            "--no-browser", "--port", str(port),
        ]  # fmt: skip

    def _worker_command(self, index: int) -> list[str]:
        given = self._given
        numbers = {
            "index": index, "workers": WORKERS, "gates": given.gates, "haste": given.haste,
            "start": time.time() + 4, "seconds": given.kills * given.every * 0.9,
            "store": self._store, "pictures": self._pictures, "log": self._log_of(index),
        }  # fmt: skip
        options = [part for name, value in numbers.items() for part in (f"--{name}", str(value))]
        return [sys.executable, str(ROOT / "scripts" / "kill_nine_worker.py"), *options]


def _last_life(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    starts = [i for i, line in enumerate(log) if line["kind"] == "started"]
    return log[starts[-1] :] if starts else []


def _mask() -> bytes:
    mask = Image.new("L", (WIDTH, HEIGHT))
    rows, columns = BOX
    mask.paste(255, (columns.start, rows.start, columns.stop, rows.stop))
    return encode_png(mask).body


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


MASK = _mask()


@contextlib.contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """Where all of it happens; it is left behind where it was named."""
    if kept is not None:
        kept.mkdir(parents=True)
        yield kept
        return
    place = Path(tempfile.mkdtemp(prefix="imagegate-kill-nine-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main() -> int:
    """Returns 1 if anything that must hold does not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--store", choices=("sqlite", "postgresql"), default="postgresql")
    add("--gates", type=int, default=500)
    add("--kills", type=int, default=24)
    add("--every", type=float, default=5.0, help="seconds between kills, on average")
    add("--seed", default="1", help="of who is killed when, and what is answered")
    add("--haste", type=float, default=1.0,
        help="how many times sooner claims run out and the silent count as dead")  # fmt: skip
    add("--keep", type=Path, metavar="FOLDER", help="work in this new folder, and leave it")
    add("--json", action="store_true", help="print the tally as JSON")
    given = parser.parse_args()
    server = PostgreSQL(lasting=True) if given.store == "postgresql" else None
    with server or contextlib.nullcontext(), _folder(given.keep) as folder:
        result = Run(given, folder, server).carry_through()
    if given.json:
        print(json.dumps({"counts": result.counts, "problems": result.problems}, indent=1))
    else:
        width = max(len(name) for name in result.counts)
        for name, count in result.counts.items():
            print(f"{name:{width}}  {count}")
        for problem in result.problems:
            print(f"WRONG: {problem}")
    return int(bool(result.problems))


if __name__ == "__main__":
    sys.exit(main())
