"""Gradio's own calls, which only the page should make: uploads without end, calls of nothing."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from PIL import Image

from imagegate.operator import uploads as uploads_module
from imagegate.operator.uploads import Uploads, keep_from_other_users
from tests.attacks.scene import PREFIX, Answer, Operator, Scene, Visitor, connect, rest, statuses
from tests.support.stored import PATIENCE

GRADIO = f"{PREFIX}/gradio_api"
OPEN, SAVE, CLOSE = 0, 2, 4


@pytest.fixture
def uploads(panel: Operator) -> Iterator[Uploads]:
    found: Uploads = panel.app.state.uploads
    yield found
    for session in list(found._editors):
        found.closed(session)


def image(side: int = 8) -> bytes:
    out = io.BytesIO()
    Image.new("RGBA", (side, side), (255, 255, 255, 153)).save(out, "PNG")
    return out.getvalue()


def upload(visitor: Visitor, *bodies: bytes, **headers: str) -> Answer:
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + body + b"\r\n"
        for body in bodies
    ]
    sent = b"".join(parts) + b"--b--\r\n"
    kind = "multipart/form-data; boundary=b"
    return visitor.call("POST", f"{GRADIO}/upload", sent, content_type=kind, **headers)


def call(visitor: Visitor, event: Any, *data: Any, session: Any = "s1", **given: Any) -> Answer:
    body = {"fn_index": event, "session_hash": session, "data": list(data), **given}
    return visitor.post(f"{GRADIO}/run/predict", body)


def kept(uploads: Uploads) -> list[Path]:
    return uploads._files()


@contextmanager
def page(visitor: Visitor, session: str) -> Iterator[socket.socket]:
    """An open page, as Gradio hears of it."""
    with connect(visitor.port) as peer:
        peer.sendall(
            f"GET {GRADIO}/heartbeat/{session} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        got = b""
        while b"ALIVE" not in got:
            piece = peer.recv(65536)
            assert piece, got
            got += piece
        yield peer


def test_painting(operator: Visitor, still: Scene, uploads: Uploads) -> None:
    """What the page does to paint goes through; nothing of it is kept once the editor closes."""
    gate = still.ask(title="Painted")
    answer = call(operator, OPEN, f"{gate} 0 blank", "")
    assert answer.status == 200, answer.body
    (layer,) = json.loads(answer.body)["data"][0]["value"]["layers"]
    assert operator.get(f"{GRADIO}/file={layer['path']}").status == 200
    background = upload(operator, image()).json()[0]
    painted = {"background": {"path": background}, "layers": [layer], "composite": None}
    answer = call(operator, SAVE, f"{gate} 0 blank", painted)
    assert json.loads(answer.body)["data"] == [f"saved {gate} 0 blank"], answer.body
    assert still.bus.mask(gate, 0)
    assert kept(uploads)
    assert call(operator, CLOSE).status == 200
    assert kept(uploads) == []
    assert operator.get(f"{GRADIO}/file={layer['path']}").status == 404
    still.bus.withdraw(gate, "done")
    still.bus.storage._finished.pop(gate)


def test_uploads_without_end(
    operator: Visitor, still: Scene, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All uploads together take so many bytes and files and no more; what comes while no mask is
    painted is not kept for long.
    """
    assert upload(operator, image()).status == 200
    monkeypatch.setattr(uploads_module, "UNSEEN", 0.0)
    deadline = time.monotonic() + PATIENCE
    while kept(uploads) and time.monotonic() < deadline:  # the call ends after its answer is here
        uploads.close_unseen()
    assert kept(uploads) == []
    monkeypatch.setattr(uploads_module, "UNSEEN", 600.0)
    monkeypatch.setattr(uploads_module, "MOST_BYTES", 2**20)
    monkeypatch.setattr(uploads_module, "MOST_FILES", 6)
    call(operator, OPEN, f"{still.hero} 0 blank", "")
    got = [upload(operator, image(side)).status for side in range(1, 9)]
    assert got[0] == 200
    assert got[-1] == 413
    assert len(kept(uploads)) <= 6
    call(operator, CLOSE)
    assert kept(uploads) == []
    call(operator, OPEN, f"{still.hero} 0 blank", "")
    assert [upload(operator, bytes(600_000)).status, upload(operator, b"x" * 600_000).status] == [
        200,
        413,
    ]
    call(operator, CLOSE)


def test_many_files_in_one_upload(operator: Visitor, still: Scene, uploads: Uploads) -> None:
    """One request cannot bring hundreds of files."""
    call(operator, OPEN, f"{still.hero} 0 blank", "")
    before = len(kept(uploads))
    assert upload(operator, *(b"%d" % n for n in range(500))).status == 413
    assert len(kept(uploads)) == before


def test_a_tab_that_is_closed(
    operator: Visitor, still: Scene, uploads: Uploads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the tab of an open editor closes, nothing of it is kept, and of a tab that was never
    heard of neither.
    """
    with page(operator, "s2"):
        call(operator, OPEN, f"{still.hero} 0 blank", "", session="s2")
        assert upload(operator, image()).status == 200
        assert kept(uploads)
        monkeypatch.setattr(uploads_module, "UNSEEN", 0.0)
        uploads._editors.pop("")
        uploads.close_unseen()
        assert kept(uploads)
    with page(operator, "s3"):  # its end is noticed while something is sent
        until(lambda: not kept(uploads), operator)
    call(operator, OPEN, f"{still.hero} 0 blank", "", session="s4")
    uploads.close_unseen()
    assert kept(uploads) == []


def until(true: Any, operator: Visitor) -> None:
    for _ in range(2000):
        if true():
            return
        operator.get("gates")
    raise AssertionError("it never came")


def test_what_an_earlier_run_left(tmp_path: Path) -> None:
    """Uploads that a process left behind go when another starts, those of one that runs stay."""
    left, running = tmp_path / "imagegate-left", tmp_path / "imagegate-runs"
    for folder in (left, running):
        (folder / "x").mkdir(parents=True)
        (folder / "x" / "a.png").write_bytes(b"1")
    other = tmp_path / "another-program"
    other.mkdir()
    with FileLock(running / "lock"):
        uploads = Uploads(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([other, running, uploads.folder])
    assert uploads.folder.stat().st_mode & 0o777 == 0o700
    uploads.close()
    assert not uploads.folder.exists()


@pytest.mark.skipif(os.name != "posix", reason="no users who share a folder")
def test_a_folder_that_belongs_to_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the folder that Gradio has for all users is another user's, or a link, this user's own
    is taken, and a new one if there is something else in that one's place.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    me = os.getuid()

    def used() -> str:
        monkeypatch.setenv(setting, "")
        keep_from_other_users()
        return os.environ[setting]

    setting = "GRADIO_TEMP_DIR"
    assert used() == ""
    (tmp_path / "gradio").mkdir()
    assert used() == ""
    (tmp_path / "gradio").rename(tmp_path / "elsewhere")
    (tmp_path / "gradio").symlink_to("elsewhere")
    own = tmp_path / f"gradio-{me}"
    assert used() == str(own) == used()
    assert own.stat().st_mode & 0o777 == 0o700
    own.rmdir()
    own.symlink_to("elsewhere")
    new = Path(used())
    assert new.parent == tmp_path
    assert new not in (own, tmp_path / "gradio")
    assert new.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    (tmp_path / "gradio").unlink()
    (tmp_path / "gradio").mkdir()
    assert used().startswith(str(tmp_path / "gradio-"))
    monkeypatch.setenv(setting, "/mine")
    keep_from_other_users()
    assert os.environ[setting] == "/mine"


STRANGE: dict[str, tuple[str, str, Any]] = {
    "unknown event": ("POST", "run/predict", {"fn_index": 99, "session_hash": "s", "data": []}),
    "negative event": ("POST", "run/predict", {"fn_index": -1, "session_hash": "s", "data": []}),
    "script's event": ("POST", "run/predict", {"fn_index": 1, "session_hash": "s", "data": [""]}),
    "no event": ("POST", "run/predict", {"session_hash": "s", "data": []}),
    "event as text": ("POST", "run/predict", {"fn_index": "0", "session_hash": "s", "data": []}),
    "no session": ("POST", "run/predict", {"fn_index": 4, "data": []}),
    "odd session": ("POST", "run/predict", {"fn_index": 4, "session_hash": "../x", "data": []}),
    "no data": ("POST", "run/predict", {"fn_index": 0, "session_hash": "s"}),
    "too little": ("POST", "run/predict", {"fn_index": 0, "session_hash": "s", "data": []}),
    "too much": ("POST", "run/predict", {"fn_index": 4, "session_hash": "s", "data": ["a"]}),
    "data as object": ("POST", "run/predict", {"fn_index": 0, "session_hash": "s", "data": {}}),
    "no target": ("POST", "run/predict", {"fn_index": 0, "session_hash": "s", "data": [None, ""]}),
    "odd target": ("POST", "run/predict", {"fn_index": 0, "session_hash": "s", "data": ["a", ""]}),
    "a list": ("POST", "run/predict", []),
    "null": ("POST", "run/predict", b"null"),
    "no json": ("POST", "run/predict", b"{"),
    "nothing": ("POST", "run/predict", b""),
    "deep": ("POST", "run/predict", b"[" * 50_000),
    "large": ("POST", "run/predict", b'"' + b"x" * 100_000 + b'"'),
    "not utf-8": ("POST", "run/predict", b'{"fn_index": "\xff"}'),
    "value as text": (
        "POST", "run/predict", {"fn_index": 2, "session_hash": "s", "data": ["a 0 x", "y"]}
    ),
    "another's file": (
        "POST", "run/predict",
        {"fn_index": 2, "session_hash": "s", "data": ["a 0 x", {"layers": [{"path": "/x"}]}]},
    ),
    "a url as file": (
        "POST", "run/predict",
        {"fn_index": 2, "session_hash": "s", "data": ["a 0 x", {"layers": [{"path": "http://x/"}]}]},
    ),
    "event by name": ("POST", "run/open_editor", {"fn_index": 0, "data": [""]}),
    "api": ("POST", "api/predict", {"fn_index": 0, "session_hash": "s", "data": []}),
    "call": ("POST", "call/predict", {"data": []}),
    "call v2": ("POST", "call/v2/predict", {"data": []}),
    "join": ("POST", "queue/join", {"fn_index": 99, "session_hash": "s", "data": []}),
    "queue": ("GET", "queue/data?session_hash=nobody", None),
    "queue of none": ("GET", "queue/data", None),
    "cancel": ("POST", "cancel", {"session_hash": "s", "fn_index": 0, "event_id": "x"}),
    "reset": ("POST", "reset", {"event_id": "x"}),
    "component server": (
        "POST", "component_server",
        {"data": 1, "component_id": 99, "session_hash": "s", "fn_name": "x"},
    ),
    "progress": ("GET", "upload_progress?upload_id=nothing", None),
    "stream": ("GET", "stream/s/1/1/playlist.m3u8", None),
    "file outside": ("GET", "file=/etc/passwd", None),
    "file up": ("GET", "file=../../etc/passwd", None),
    "file with nul": ("GET", "file=a%00b", None),
    "file of nothing": ("GET", "file=", None),
    "file as url": ("GET", "file=http://localhost/", None),
    "long file": ("GET", "file=" + "a" * 8000, None),
    "proxy": ("GET", "proxy=http://localhost/", None),
    "info": ("GET", "info", None),
    "heartbeat by post": ("POST", "heartbeat/s", {}),
    "odd heartbeat": ("GET", "heartbeat/..%2Fx", None),
    "upload by get": ("GET", "upload", None),
    "no multipart": ("POST", "upload", {"a": 1}),
}  # fmt: skip


@pytest.mark.parametrize("what", STRANGE)
def test_calls_of_nothing(
    operator: Visitor,
    what: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A call that no page makes (an unknown event, session or file, a body that is none) is refused
    with a 4xx and a whole answer, without a traceback, and its connection goes on.
    """
    method, path, body = STRANGE[what]
    caplog.set_level(logging.WARNING)
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = f"{method} {GRADIO}/{path} HTTP/1.1\r\nHost: localhost\r\n"
    if content is not None:
        sent += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    again = f"GET {PREFIX}/api/gates HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connect(operator.port) as peer:
        peer.sendall(sent.encode() + b"\r\n" + (content or b"") + again.encode())
        got = rest(peer)
    first, *after = statuses(got)
    assert 400 <= first < 500, got
    if first != 413:  # a body that was not read ends the connection
        assert after == [200], got
    assert "Traceback" not in caplog.text + capfd.readouterr().err


@pytest.mark.parametrize("body", [b"", b"no image", image()[:40], image(5000)])
def test_a_file_that_is_no_image(
    operator: Visitor, still: Scene, capfd: pytest.CaptureFixture[str], body: bytes
) -> None:
    """A layer that cannot be read, or is too large, is refused with a reason."""
    call(operator, OPEN, f"{still.hero} 0 blank", "")
    (path,) = upload(operator, body).json()
    answer = call(operator, SAVE, f"{still.hero} 0 blank", {"layers": [{"path": path}]})
    assert answer.status == 422
    call(operator, CLOSE)
    assert "Traceback" not in capfd.readouterr().err


def test_a_gate_that_went(
    operator: Visitor, uploads: Uploads, capfd: pytest.CaptureFixture[str]
) -> None:
    """To paint what is no longer there opens no editor, and is no failure."""
    answer = call(operator, OPEN, "nobody 0 blank", "")
    assert answer.status == 200
    assert json.loads(answer.body)["data"][0]["visible"] is False
    assert "Traceback" not in capfd.readouterr().err
