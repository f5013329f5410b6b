"""`gradio_app.py` as a process of its own, reached over HTTP as a person's browser would."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from imagegate.command import main as command
from imagegate.command import serving
from imagegate.core.model import Gate
from imagegate.core.pictures import Picture
from imagegate.core.settings import Settings
from imagegate.pictures.encode import encode_png, encode_preview
from imagegate.pictures.samples import write_samples
from tests.support.stored import bus_over, storage_of

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0

# The whole program, but for gradio, which takes seconds to import and has tests of its own.
REST_ONLY = """
import sys, gradio_app
from imagegate.operator.rest import create_app
sys.exit(gradio_app.main(sys.argv[1:], build=create_app))
"""


# No network lies behind the machine's own.
NO_NETWORK = """
import gradio.networking, gradio.tunneling
gradio.networking.GRADIO_API_SERVER = gradio.tunneling.BINARY_URL = "http://127.0.0.1:9/nobody"
"""


class Session:
    """A running program; reads its output as it comes."""

    def __init__(
        self,
        *arguments: object,
        cwd: Path,
        limit: int = 0,
        panel: bool = False,
        before: str = "",
    ) -> None:
        program = [str(ROOT / "gradio_app.py")] if panel else ["-c", before + REST_ONLY]
        self.process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments), "--no-browser"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", cwd=cwd,
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "TMPDIR": str(cwd)},
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
            if limit else None,
        )  # fmt: skip
        self.said: list[str] = []
        self.errors: list[str] = []
        self._heard = threading.Condition()
        self._threads = [
            threading.Thread(target=self._listen, args=(pipe, kept))
            for pipe, kept in (
                (self.process.stdout, self.said), (self.process.stderr, self.errors)
            )
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()
        self._client: httpx.Client | None = None

    def _listen(self, pipe: Any, kept: list[str]) -> None:
        for line in pipe:
            with self._heard:
                kept.append(line.rstrip("\n"))
                self._heard.notify_all()

    def hears(self, pattern: str) -> str:
        """Waits for a line of output that matches, and returns it."""

        def found() -> str | None:
            return next((line for line in self.said if re.search(pattern, line)), None)

        with self._heard:
            assert self._heard.wait_for(
                lambda: found() or self.process.poll() is not None, PATIENCE
            ), (pattern, self.said, self.errors)
        line = found()
        assert line, (pattern, self.said, self.errors)
        return line

    @property
    def client(self) -> httpx.Client:
        if self._client is None:
            match = re.search(r"http://\S+", self.hears("open http"))
            assert match
            self._client = httpx.Client(base_url=match[0], timeout=PATIENCE, trust_env=False)
        return self._client

    def gates(self, count: int) -> list[dict[str, Any]]:
        """The waiting gates, once the folder is scanned and there are this many."""
        self.hears(r"^\d+ of \d+ decided")  # said for the first time when the scan is over
        answer = self.client.get("api/gates?limit=500")
        assert answer.status_code == 200, self.errors
        found: list[dict[str, Any]] = answer.json()["gates"]
        assert len(found) == count, found
        return found

    def decide(self, gate: dict[str, Any], route: object, **more: Any) -> httpx.Response:
        return self.client.post(f"api/gates/{gate['id']}/decision", json={"route": route, **more})

    def post(self, gate: dict[str, Any], what: str) -> httpx.Response:
        return self.client.post(f"api/gates/{gate['id']}/{what}", json={})

    def ends(self) -> int:
        """The exit code."""
        code = self.process.wait(PATIENCE)
        self.close()
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self._client is not None:
            self._client.close()
        for thread in self._threads:
            thread.join()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Session]]:
    sessions = []

    def run(*arguments: object, **options: Any) -> Session:
        session = Session(*arguments, cwd=tmp_path, **options)
        sessions.append(session)
        return session

    yield run
    for session in sessions:
        session.close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate("abcde"):
        Image.new("RGB", (20 + i, 10), (40 * i, 0, 0)).save(folder / f"{name}.png")
    return folder


def files(folder: Path) -> list[str]:
    """All files but the key of a sorted folder."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if name != ".imagegate/key")


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "decisions.jsonl").read_text().splitlines()]


def test_a_folder_is_sorted_undone_stopped_and_gone_on_with(
    run: Callable[..., Session], photos: Path, tmp_path: Path
) -> None:
    """Decide, undo, Stop with an open page listening, exit 0, and the next run has the rest."""
    first = run(photos, "--routes", "keep,fix")
    a, b, c, *_ = first.gates(5)
    assert first.decide(a, "keep", by="Ada", note="nice").json() == {"outcome": "won"}
    assert first.decide(b, 2).json() == {"outcome": "won"}
    assert first.post(b, "undo").json()["state"] == "waiting"
    heard = []
    with first.client.stream("GET", "api/events") as page:
        news = page.iter_lines()
        next(news)
        assert first.post(c, "stop").json() == {"outcome": "won"}
        for line in news:
            if line.startswith("data:") and "gate" in (told := json.loads(line[5:])):
                heard.append((told["gate"]["file"], told["gate"]["state"]))
            if len(heard) == 4:
                break
    assert first.client.get("api/gates").json()["progress"]["ended"]
    assert first.decide(b, 1).status_code == 410
    assert first.ends() == 0
    assert ("c.png", "stopped") in heard
    assert ("e.png", "withdrawn") in heard
    assert first.said[-2:] == [
        "The session was stopped; start again to go on.",
        "1 of 5 decided. Sorted into sorted.",
    ]
    assert first.errors == []
    assert files(tmp_path / "sorted") == ["decisions.jsonl", "keep/a.png"]

    second = run(photos, "--routes", "keep,fix")
    assert [gate["file"] for gate in second.gates(4)] == ["b.png", "c.png", "d.png", "e.png"]
    second.hears("^1 decided in earlier sessions")
    for gate in second.gates(4):
        second.decide(gate, "fix")
    assert "sorted into sorted" in second.hears("5 of 5 decided; all done")
    assert second.post(gate, "undo").status_code == 200
    assert len(second.gates(1)) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_like_stop(run: Callable[..., Session], photos: Path, number: int) -> None:
    """Ctrl+C, or a polite kill, ends with exit code 0 and a summary, and without a traceback."""
    session = run(photos, "--out", "here")
    session.decide(session.gates(5)[0], 1)
    session.process.send_signal(number)
    assert session.ends() == 0
    assert session.said[-1] == "1 of 5 decided. Sorted into here."
    assert session.errors == []


@pytest.mark.parametrize("move", [False, True])
def test_kill_9_loses_nothing_that_was_said_to_be_recorded(
    run: Callable[..., Session], photos: Path, tmp_path: Path, move: bool
) -> None:
    """Killed in the middle of a burst of decisions: afterwards each file is decided or asked."""
    for number in range(100):
        Image.new("RGB", (1 + number, 7)).save(photos / f"x{number}.png")
    names = set(files(photos))
    options = [photos, "--routes", "keep,fix", *(["--move"] if move else [])]
    session = run(*options)
    won: list[str] = []
    enough = threading.Event()

    def click() -> None:
        try:
            for gate in session.gates(105):
                if session.decide(gate, 1).json() == {"outcome": "won"}:
                    won.append(gate["file"])
                if len(won) >= 25:
                    enough.set()
        except httpx.HTTPError:
            pass  # killed
        finally:
            enough.set()

    clicking = threading.Thread(target=click)
    clicking.start()
    assert enough.wait(PATIENCE)
    assert len(won) >= 25, session.errors
    session.process.kill()
    assert session.process.wait(PATIENCE) == -signal.SIGKILL
    clicking.join()

    again = run(*options)
    decided = {line["file"] for line in lines(tmp_path / "sorted")}
    again.hears("^Image Gate")
    assert set(won) <= decided
    assert len(decided) <= len(won) + 1
    waiting = {gate["file"] for gate in again.gates(len(names - decided))}
    assert waiting == names - decided
    kept = set(files(tmp_path / "sorted")) - {"decisions.jsonl"}
    assert {name for name in kept if not name.startswith(".")} == {f"keep/{n}" for n in decided}
    assert set(files(photos)) == (waiting if move else names)


def test_a_click_sent_to_a_server_that_was_killed_counts_at_the_next(
    run: Callable[..., Session], photos: Path, tmp_path: Path
) -> None:
    """The same request, sent until somebody answers, is recorded once, in time for a gate that the
    new server has yet to find; the history goes back over the restart, and so does Undo.
    """
    first = run(photos, "--routes", "keep,fix")
    a, b, *_ = first.gates(5)
    assert first.decide(b, "fix", by="Ada", key="b").json() == {"outcome": "won"}
    first.process.kill()
    first.process.wait(PATIENCE)
    second = run(photos, "--routes", "keep,fix")
    answers = [second.decide(a, "keep", key="a") for _ in range(2)]
    while answers[0].status_code == 503:
        answers = [second.decide(a, "keep", key="a") for _ in range(2)]
    assert [answer.json()["outcome"] for answer in answers] == ["won", "replay"]
    assert second.decide(b, "fix", key="b").json() == {"outcome": "replay"}
    history = second.client.get("api/history").json()["gates"]
    assert [(gate["file"], gate["id"]) for gate in history] == [
        ("a.png", a["id"]), ("b.png", b["id"]),
    ]  # fmt: skip
    assert second.post(b, "undo").json()["state"] == "waiting"
    assert files(tmp_path / "sorted") == ["decisions.jsonl", "keep/a.png"]


def test_a_full_disk_is_told_and_the_gate_goes_on_waiting(
    run: Callable[..., Session], photos: Path, tmp_path: Path
) -> None:
    """507 with the reason, no trace on the disk, smaller files still work (a real limit)."""
    noise = Image.effect_noise((400, 400), 90)
    noise.save(photos / "big.png")
    session = run(photos, "--routes", "keep,fix", limit=20_000)
    gates = {gate["file"]: gate for gate in session.gates(6)}
    refused = session.decide(gates["big.png"], "keep")
    assert refused.status_code == 507
    assert "the gate waits" in refused.json()["error"]
    assert "File too large" in refused.json()["error"]
    assert files(tmp_path / "sorted") == ["decisions.jsonl"]
    assert session.decide(gates["a.png"], "keep").json() == {"outcome": "won"}
    assert files(tmp_path / "sorted") == ["decisions.jsonl", "keep/a.png"]
    assert "big.png" in [gate["file"] for gate in session.gates(5)]


def test_without_arguments_there_are_samples(run: Callable[..., Session]) -> None:
    """One command, nothing else: six images of different shapes, each with its preview."""
    session = run("--port", "0")
    gates = session.gates(6)
    assert len({(gate["width"], gate["height"]) for gate in gates}) == 6
    portrait = next(gate for gate in gates if "lighthouse" in gate["file"])
    assert (portrait["width"], portrait["height"]) == (1000, 1500)
    for gate in gates:
        assert session.client.get(f"api/gates/{gate['id']}/image/0").status_code == 200
    session.decide(gates[0], "keep")
    match = re.search(r"images: (\S+)", session.hears("sample images"))
    assert match
    assert files(Path(match[1]).parent / "sorted") == ["decisions.jsonl", "keep/01 dawn.jpg"]


def test_the_samples_are_always_the_same(tmp_path: Path) -> None:
    """Painted twice they are equal; one lies on its side, one is transparent; none is replaced."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        write_samples(folder)
    assert len(files(one)) == 6
    assert all((one / n).read_bytes() == (two / n).read_bytes() for n in files(one))
    with Image.open(one / "03 lighthouse.jpg") as image:
        assert (image.size, image.getexif()[0x0112]) == ((1500, 1000), 6)
    with Image.open(one / "04 balloon.png") as image:
        assert image.getchannel("A").getextrema() == (0, 255)
    (one / "01 dawn.jpg").write_bytes(b"mine")
    write_samples(one)
    assert (one / "01 dawn.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["photos", "--routes", "a,b,c,d,e,f,g,h,i,j,k"], "11 routes"),
        (["photos", "--routes", "keep,keep"], "share the folder"),
        (["photos", "--out", "photos"], "choose another"),
        (["empty"], "no images below empty"),
        (["photos", "--out", "photos/a.png"], "cannot sort into"),
    ],
)
def test_a_start_that_cannot_be_is_explained(
    arguments: list[str], says: str, photos: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Exit code 2 and one line that names what is wrong, and nothing is left behind."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "load_panel", None)
    before = signal.getsignal(signal.SIGTERM)
    assert command.main([*arguments, "--no-browser", "--port", "0"]) == 2
    signal.signal(signal.SIGTERM, before)
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "sorted").exists()


def test_a_taken_port(
    run: Callable[..., Session], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that was asked for and is taken is an error; without asking the next one is used."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run(photos, "--port", port)
        assert refused.ends() == 2
        assert f"port {port}" in refused.errors[-1]
        monkeypatch.setattr(serving, "PORT", port)
        with serving.open_listener("127.0.0.1", None) as listener:
            assert listener.getsockname()[1] not in (port, 0)


def test_an_open_host_is_warned_of(run: Callable[..., Session], photos: Path) -> None:
    """Beyond loopback one clear warning, and the machine may be called by its name."""
    session = run(photos, "--host", "0.0.0.0", "--port", "0")
    assert "anybody on the network" in session.hears("Warning")
    named = {"host": socket.gethostname()}
    assert session.client.get("api/gates", headers=named).status_code == 200
    assert session.client.get("api/gates", headers={"host": "evil.example"}).status_code == 403


def test_the_real_panel_is_served_and_ends(run: Callable[..., Session], photos: Path) -> None:
    """With gradio: the page is there, a decision works, and Stop ends the process all the same."""
    session = run(photos, "--port", "0", panel=True)
    gates = session.gates(5)
    assert "<html" in session.client.get("").text
    session.decide(gates[0], 1)
    session.post(gates[1], "stop")
    assert session.ends() == 0
    assert "Traceback" not in "\n".join(session.errors)


def test_people_elsewhere_get_a_link_each(
    run: Callable[..., Session], photos: Path, tmp_path: Path
) -> None:
    """``--share`` prints a link a person; without a tunnel it says why, and the links open in the
    network. What is decided through one is sorted, and the journal names who, and the link.
    """
    out = tmp_path / "sorted"
    session = run(photos, "--out", out, "--share", "Ada", "--share", "Ben", before=NO_NETWORK)
    assert "cannot be reached" in session.hears("In this network:")
    for name in ("Ada", "Ben"):
        address = session.hears(f"^{name}'s link, for 24 hours and one browser: http").split()[-1]
        base, _, token = address.partition("/imagegate/s/")
        with httpx.Client(base_url=f"{base}/imagegate/", trust_env=False) as browser:
            assert browser.post("api/session", json={"token": token}).status_code == 200
            gate = browser.get("api/gates").json()["gates"][0]
            said = {"route": 1, "key": name}
            assert browser.post(f"api/gates/{gate['id']}/decision", json=said).status_code == 200
    session.process.send_signal(signal.SIGINT)
    assert session.ends() == 0
    written = lines(out)
    assert [line["by"] for line in written] == ["Ada", "Ben"]
    assert len({line["link"] for line in written}) == 2
    assert all("key" not in line for line in written)


@pytest.mark.parametrize("name", ["", " ", "x" * 101])
def test_a_link_for_nobody(run: Callable[..., Session], photos: Path, name: str) -> None:
    """A link that is for nobody is refused at once, before anything is opened."""
    session = run(photos, "--share", name)
    assert session.ends() == 2
    assert "1 to 100 characters" in session.errors[-1]
    assert session.said == []


def test_a_missing_gradio_is_explained(photos: Path, tmp_path: Path) -> None:
    """Without gradio: exit code 2, one line that says what to install, no traceback."""
    program = (
        "import sys; sys.modules['gradio'] = None; import gradio_app\n"
        f"sys.exit(gradio_app.main([{str(photos)!r}, '--no-browser', '--port', '0']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install -r requirements.txt" in done.stderr
    assert done.stderr.count("\n") == 1


def test_neither_torch_nor_gradio_is_imported_to_sort_a_folder() -> None:
    """In a fresh interpreter, folder mode without the panel needs neither, and starts nothing."""
    program = (
        "import sys, threading; import gradio_app\n"
        "print(sorted({'torch', 'gradio', 'comfy'} & set(sys.modules)), threading.active_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "[] 1\n"


def test_no_torch_even_with_the_panel() -> None:
    """In a fresh interpreter the whole panel comes without torch."""
    program = (
        "import sys; from imagegate.http.access import HostDoor\n"
        "from imagegate.command.main import load_panel\n"
        "from imagegate.gate_bus import GateBus\n"
        "load_panel(GateBus(), HostDoor(), dict)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.endswith("False\n")


# -- over a store


def test_a_panel_over_a_store(run: Callable[..., Session], tmp_path: Path) -> None:
    """`--store` shows what another process asks, takes the answer, and that process hears of it."""
    settings = Settings(
        f"sqlite:///{tmp_path / 'gates.sqlite'}", str(tmp_path / "pictures"), "studio-1"
    )
    worker = bus_over(settings, classes=())
    ticket = worker.publish(Gate(labels=("keep", "fix"), width=8, height=6), Photo())
    session = run("--store", settings.store, "--pictures", settings.pictures)
    session.hears("1 waiting")
    [gate] = session.client.get("api/gates").json()["gates"]
    assert (gate["id"], gate["worker"]) == (ticket.gate.id, "studio-1")
    image = session.client.get(f"api/gates/{gate['id']}/image/0")
    assert image.headers["content-type"] == "image/jpeg"
    names = {w["kind"]: w["alive"] for w in session.client.get("api/status").json()["workers"]}
    assert names == {"comfyui": True, "panel": True}
    assert session.decide(gate, "fix", by="Ann").json() == {"outcome": "won"}
    assert ticket.wait(PATIENCE).decision.by == "Ann"
    session.process.send_signal(signal.SIGINT)
    assert session.ends() == 0
    assert {w["kind"]: w["alive"] for w in storage_of(worker).status()["workers"]}["panel"] is False
    storage_of(worker).close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--store", "oracle://x/y", "--pictures", "p"], "sqlite:///FILE or postgresql+psycopg://"),
        (["--store"], "--store needs a URL, there or in IMAGEGATE_STORE"),
        (["--store", "postgresql+psycopg://u:hidden@127.0.0.1:1/x"], "IMAGEGATE_PICTURES"),
        (
            ["--store", "postgresql+psycopg://u:hidden@127.0.0.1:1/x", "--pictures", "p"],
            "127.0.0.1",
        ),
        (["photos", "--store", "sqlite:///x"], "it takes no folder of images"),
    ],
)
def test_a_store_that_cannot_be_shown(
    run: Callable[..., Session], arguments: list[str], said: str
) -> None:
    """A store that cannot be opened is one sentence on the terminal, without the password."""
    session = run(*arguments)
    assert session.ends() == 2
    [line] = session.errors
    assert said in line
    assert "hidden" not in line


class Photo:
    """The picture of a gate."""

    def preview(self, index: int) -> Picture:
        return encode_preview(Image.new("RGB", (8, 6)))

    def full(self, index: int) -> Picture:
        return encode_png(Image.new("RGB", (8, 6)))

    def start_mask(self, index: int) -> bytes | None:
        return None
