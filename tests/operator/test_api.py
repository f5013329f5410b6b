"""The REST contract. Streaming is tested over a real uvicorn."""

from __future__ import annotations

import http.client
import io
import json
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from imagegate.core.model import Answer, Gate, State, TooLate
from imagegate.core.pictures import Picture
from imagegate.gate_bus import GateBus, Ticket
from imagegate.http import events as events_module
from imagegate.http.access import MAX_BODY, HostDoor, KeyDoor
from imagegate.operator import rest as api_module
from imagegate.operator.rest import create_app
from imagegate.pictures.encode import encode_png, encode_preview
from tests.conftest import Watch
from tests.support.stored import PATIENCE

API = "/imagegate/api"
WIDTH, HEIGHT = 64, 48


class Photos:
    """Pictures of a batch of plain images."""

    def __init__(self, batch: int = 1) -> None:
        self.images = [Image.new("RGB", (WIDTH, HEIGHT), (i, 128, 255)) for i in range(batch)]

    def preview(self, index: int) -> Picture:
        return encode_preview(self.images[index])

    def full(self, index: int) -> Picture:
        return encode_png(self.images[index])

    def start_mask(self, index: int) -> bytes | None:
        return None


def publish(bus: GateBus[Any], batch: int = 1, **given: Any) -> Ticket:
    hooks = {key: given.pop(key) for key in ("record", "revoke") if key in given}
    given = {"labels": ("keep", "fix", "same", "same"), "width": WIDTH, "height": HEIGHT, **given}
    return bus.publish(Gate(batch=batch, **given), Photos(batch), **hooks)


@pytest.fixture
def client(bus: GateBus[Any]) -> Iterator[TestClient]:
    app = create_app(bus, HostDoor())
    with TestClient(app, base_url="http://localhost", follow_redirects=False) as client:
        yield client


def png(mode: str = "L", size: tuple[int, int] = (WIDTH, HEIGHT), color: Any = 255) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, color).save(out, "PNG")
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def made_png(width: int, height: int, rows: bytes = b"", depth: int = 8, color: int = 0) -> bytes:
    """A PNG whose header may promise more than there is."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def error(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    message = response.json()["error"]
    assert isinstance(message, str)
    return message


# -- looking


def test_the_list_of_gates(client: TestClient, bus: GateBus[Any]) -> None:
    """GET gates lists what waits, with every promised field, and GET gates/ID the same gate."""
    ticket = publish(bus, 2, title="Sky", node_id="4:2", prompt_id="p")
    answer = client.get(f"{API}/gates?state=waiting").json()
    (one,) = answer["gates"]
    assert answer["next"] is None
    assert one["id"] == ticket.gate.id
    assert (one["title"], one["node_id"], one["prompt_id"]) == ("Sky", "4:2", "p")
    assert one["labels"] == ["keep", "fix", "same", "same"]
    assert (one["width"], one["height"], one["batch"]) == (WIDTH, HEIGHT, 2)
    assert (one["state"], one["mode"]) == ("waiting", "wait")
    assert client.get(f"{API}/gates/{ticket.gate.id}").json() == one


class Scan(Photos):
    """A scan of 12 bits in a 16-bit file."""

    def preview(self, index: int) -> Picture:
        return replace(super().preview(index), remarks=("shown brighter: grün",))

    def full(self, index: int) -> Picture:
        return encode_png(Image.new("I;16", (WIDTH, HEIGHT), 4095))


def test_an_image_says_what_is_to_be_said_about_it(client: TestClient, bus: GateBus[Any]) -> None:
    """Its header lists the remarks, and ``zoom`` is as bright as the preview; others have none."""
    gate = Gate(labels=("keep",), width=WIDTH, height=HEIGHT)
    bus.publish(gate, Scan())
    image = f"{API}/gates/{gate.id}/image/0"
    assert json.loads(client.get(image).headers["imagegate-remarks"]) == ["shown brighter: grün"]
    with Image.open(io.BytesIO(client.get(f"{image}?size=zoom").content)) as zoomed:
        assert (zoomed.size, zoomed.convert("L").getpixel((5, 5))) == ((WIDTH, HEIGHT), 255)
    plain = publish(bus).gate.id
    assert "imagegate-remarks" not in client.get(f"{API}/gates/{plain}/image/0").headers


def test_paging_is_complete(client: TestClient, bus: GateBus[Any]) -> None:
    """Paging over 1,000 gates shows each once, also when some are answered on the way."""
    ids = [publish(bus).gate.id for _ in range(1000)]
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = client.get(f"{API}/gates", params={"limit": 170, "cursor": cursor}).json()
        seen += [gate["id"] for gate in page["gates"]]
        cursor = page["next"]
        bus.decide(seen[-1], 1)
        bus.decide(seen[-170 if len(seen) >= 170 else 0], 1)
    assert seen == ids
    ended: list[str] = []
    cursor = ""
    while cursor is not None:
        page = client.get(f"{API}/history", params={"limit": 3, "cursor": cursor}).json()
        ended += [gate["id"] for gate in page["gates"]]
        cursor = page["next"]
    assert len(ended) == len(set(ended)) == 12


def test_an_exact_page_has_no_next(client: TestClient, bus: GateBus[Any]) -> None:
    """When a page holds the last gate, it names no next one."""
    for _ in range(3):
        publish(bus)
    assert client.get(f"{API}/gates?limit=3").json()["next"] is None
    assert client.get(f"{API}/gates?limit=2").json()["next"] is not None


def test_the_gates_of_one_node(client: TestClient, bus: GateBus[Any]) -> None:
    """The node filter lists and counts the gates of that node only, in the history too."""
    other = publish(bus, node_id="1").gate.id
    mine = publish(bus, node_id="4:2").gate.id
    answer = client.get(f"{API}/gates", params={"node": "4:2"}).json()
    assert [gate["id"] for gate in answer["gates"]] == [mine]
    assert answer["waiting"] == 1
    bus.decide(mine, 1)
    bus.decide(other, 1)
    answer = client.get(f"{API}/history", params={"node": "4:2", "limit": 1}).json()
    assert [gate["id"] for gate in answer["gates"]] == [mine]
    assert answer["next"] is None


def test_the_history(client: TestClient, bus: GateBus[Any]) -> None:
    """History is newest first and says who decided what."""
    ids = [publish(bus).gate.id for _ in range(3)]
    bus.decide(ids[1], "fix", by="Ann", note="sky")
    bus.stop(ids[0], by="Bob")
    bus.withdraw(ids[2], "its prompt ended")
    gates = client.get(f"{API}/history").json()["gates"]
    assert [gate["id"] for gate in gates] == [ids[2], ids[0], ids[1]]
    assert [gate["state"] for gate in gates] == ["withdrawn", "stopped", "decided"]
    said = gates[2]["decision"]
    assert (said["route"], said["label"], said["by"], said["note"]) == (2, "fix", "Ann", "sky")


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        ("gates?limit=0", 422, "limit"),
        ("gates?limit=501", 422, "500"),
        ("gates?limit=x", 422, "limit"),
        ("history?limit=-1", 422, "limit"),
        ("gates?cursor=x", 422, "cursor"),
        ("gates?cursor=-1", 422, "cursor"),
        ("gates?cursor=" + "9" * 30, 422, "cursor"),
        ("gates?cursor=²", 422, "cursor"),
        ("history?cursor=1.5", 422, "cursor"),
        ("gates?state=decided", 422, "waiting"),
        ("gates/nobody", 404, "nobody"),
        ("gates/%ED%A0%80", 404, "no gate"),
        ("gates/nobody/image/0", 404, "nobody"),
        ("gates/nobody/mask/0", 404, "nobody"),
        ("gates/ID/image/2", 422, "0 to 1"),
        ("gates/ID/image/-1", 422, "0 to 1"),
        ("gates/ID/image/x", 422, "index"),
        ("gates/ID/image/" + "9" * 4400, 422, "index"),
        ("gates/ID/image/0?size=huge", 422, "'zoom' and 'full'"),
        ("gates/ID/mask/2", 422, "0 to 1"),
        ("nothing", 404, ""),
    ],
)
def test_a_bad_question(
    client: TestClient, bus: GateBus[Any], path: str, status: int, named: str
) -> None:
    """A question that cannot be answered gets a 4xx that names what was wrong."""
    ticket = publish(bus, 2)
    before = bus.get(ticket.gate.id)
    response = client.get(f"{API}/{path.replace('ID', ticket.gate.id)}")
    assert named in error(response, status)
    assert bus.get(ticket.gate.id) == before


def test_pictures(client: TestClient, bus: GateBus[Any]) -> None:
    """The preview is a JPEG, the full image a PNG with the very pixels; both may be cached."""
    i = publish(bus, 2).gate.id
    preview = client.get(f"{API}/gates/{i}/image/1")
    assert preview.headers["content-type"] == "image/jpeg"
    assert "immutable" in preview.headers["cache-control"]
    assert Image.open(io.BytesIO(preview.content)).size == (WIDTH, HEIGHT)
    full = client.get(f"{API}/gates/{i}/image/1?size=full")
    assert full.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(full.content)).getpixel((5, 5)) == (1, 128, 255)


def test_pictures_that_are_no_longer_kept(client: TestClient, bus: GateBus[Any]) -> None:
    """Once the pictures of an old gate are let go, 410 says so."""
    i = publish(bus).gate.id
    bus.decide(i, 1)
    for _ in range(100):
        bus.decide(publish(bus).gate.id, 1)
    assert "no longer kept" in error(client.get(f"{API}/gates/{i}/image/0"), 410)


def test_get_never_decides(client: TestClient, bus: GateBus[Any]) -> None:
    """GET and HEAD on the calls that decide are refused, and nothing comes of them."""
    i = publish(bus).gate.id
    before = bus.get(i)
    for call in ("decision", "stop", "undo"):
        for method in ("GET", "HEAD"):
            response = client.request(method, f"{API}/gates/{i}/{call}?route=1")
            assert response.status_code == 405
    assert bus.get(i) == before


def test_the_prefix_is_where_one_lands(client: TestClient) -> None:
    """The root and the bare prefix lead to the panel."""
    for path in ("/", "/imagegate"):
        response = client.get(path)
        assert response.is_redirect
        assert response.headers["location"] == "/imagegate/"
        assert client.get(f"{path}?node=4").headers["location"] == "/imagegate/?node=4"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PATCH", "MAKE-IT-SO"])
def test_a_wrong_method_names_the_right_ones(client: TestClient, method: str) -> None:
    """Whatever the method, 405 says which ones a call takes."""
    headers = {"content-type": "application/json"}
    response = client.request(method, f"{API}/gates/x/decision", headers=headers)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    if method != "HEAD":
        assert response.json()["error"].endswith("allowed are POST")
    allowed = client.request(method, f"{API}/gates/x/mask/0").headers.get("allow")
    assert allowed in ("DELETE, GET, PUT", None if method == "GET" else "DELETE, GET, PUT")


@pytest.mark.parametrize("path", ["", "gates/", "/gates", "nothing", "gates/x/y/z"])
def test_an_unknown_call(client: TestClient, path: str) -> None:
    """A path that is no call gets 404 from REST itself, naming it."""
    assert path in error(client.get(f"{API}/{path}"), 404)


def test_an_error_with_half_a_character(client: TestClient, bus: GateBus[Any]) -> None:
    """An error that names a file whose name is no valid Unicode is still told."""

    def revoke(_: Answer) -> None:
        raise TooLate("there is a caf\udce9.png in its old place")

    ticket = publish(bus, record=lambda _: None, revoke=revoke, undoable=True)
    bus.decide(ticket.gate.id, 1)
    response = client.post(f"{API}/gates/{ticket.gate.id}/undo", json={})
    assert error(response, 409) == "there is a caf?.png in its old place"


# -- answers


@pytest.mark.parametrize("route", [2, "fix"])
def test_a_decision(client: TestClient, bus: GateBus[Any], route: int | str) -> None:
    """A decision by number or label wins, reaches the waiter, and is told with the gate."""
    ticket = publish(bus)
    body = {"route": route, "by": "Ann", "note": "the sky ☁"}
    response = client.post(f"{API}/gates/{ticket.gate.id}/decision", json=body)
    assert (response.status_code, response.json()) == (200, {"outcome": "won"})
    said = ticket.wait(0).decision
    assert (said.route, said.by, said.note) == (2, "Ann", "the sky ☁")
    told = client.get(f"{API}/gates/{ticket.gate.id}").json()
    assert told["state"] == "decided"
    assert told["decision"]["label"] == "fix"


def test_later_decisions(client: TestClient, bus: GateBus[Any]) -> None:
    """The same again is a replay; another one is lost with 409, saying who, what and when."""
    i = publish(bus).gate.id
    path = f"{API}/gates/{i}/decision"
    assert client.post(path, json={"route": 1, "by": "Ann"}).json() == {"outcome": "won"}
    assert client.post(path, json={"route": "keep", "by": "Ann"}).json() == {"outcome": "replay"}
    lost = client.post(path, json={"route": 2, "by": "Bob"})
    assert lost.status_code == 409
    assert lost.json()["outcome"] == "lost"
    first = lost.json()["decision"]
    assert (first["by"], first["route"], first["label"]) == ("Ann", 1, "keep")
    assert first["at"] > 1e9
    assert client.post(f"{API}/gates/{i}/stop", json={}).status_code == 409


@pytest.mark.parametrize("body", ["", "{}", '{"by": "Ann", "note": "no"}'])
def test_stop(client: TestClient, bus: GateBus[Any], body: str) -> None:
    """Stop takes an optional name and note."""
    ticket = publish(bus)
    response = client.post(
        f"{API}/gates/{ticket.gate.id}/stop",
        content=body,
        headers={"content-type": "application/json"},
    )
    assert response.json() == {"outcome": "won"}
    assert bus.get(ticket.gate.id).state is State.STOPPED


@pytest.mark.parametrize("end", ["withdraw", "expire"])
def test_a_gate_that_ended(client: TestClient, bus: GateBus[Any], end: str) -> None:
    """A gate that was withdrawn or expired answers 410 to whatever comes, saying why."""
    i = publish(bus, on_timeout=2).gate.id
    if end == "withdraw":
        bus.withdraw(i, "its prompt ended")
        why = "its prompt ended"
    else:
        bus.expire(i)
        why = "nobody answered in time"
    path = f"{API}/gates/{i}"
    assert why in error(client.post(f"{path}/decision", json={"route": 1}), 410)
    assert why in error(client.post(f"{path}/stop", json={}), 410)
    put = client.put(f"{path}/mask/0", content=png(), headers={"content-type": "image/png"})
    assert why in error(put, 410)


def test_an_answer_that_cannot_be_recorded(client: TestClient, bus: GateBus[Any]) -> None:
    """ "won" is said only when it is durable: else 507, and the gate waits."""

    def record(_: Answer) -> None:
        raise OSError("disk full")

    i = publish(bus, record=record).gate.id
    response = client.post(f"{API}/gates/{i}/decision", json={"route": 1})
    assert "disk full" in error(response, 507)
    assert bus.get(i).state is State.WAITING


def test_undo(client: TestClient, bus: GateBus[Any]) -> None:
    """Undo brings a gate back where that is possible; elsewhere 409 says why not."""
    fixed, free = publish(bus), publish(bus, undoable=True, revoke=lambda _: None)
    for ticket in (fixed, free):
        bus.decide(ticket.gate.id, 1)
    assert "too late" in error(client.post(f"{API}/gates/{fixed.gate.id}/undo", json={}), 409)
    assert client.post(f"{API}/gates/{free.gate.id}/undo", json={}).json()["state"] == "waiting"


JSON = "application/json"


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        (b'{"route": 5}', 422, "1 (keep), 2 (fix)"),
        (b'{"route": 0}', 422, "1 (keep), 2 (fix)"),
        (b'{"route": -1}', 422, "1 (keep)"),
        (b'{"route": "none"}', 422, "1 (keep)"),
        (b'{"route": "same"}', 422, "not unique"),
        (b'{"route": true}', 422, "route"),
        (b'{"route": 1.0}', 422, "route"),
        (b'{"route": null}', 422, "route"),
        (b'{"route": NaN}', 422, "route"),
        (b'{"route": 1e999}', 422, "route"),
        (b'{"route": ' + b"9" * 3000 + b"}", 422, "route"),
        (b'{"route": ' + b"9" * 5000 + b"}", 400, "body"),
        (b'{"route": [1]}', 422, "route"),
        (b'{"route": "\\ud800"}', 422, "route"),
        (b'{"route": 1, "by": "\\ud800"}', 422, "by"),
        (b'{"route": 1, "note": "\\udfff x"}', 422, "note"),
        (b'{"route": 1, "by": 5}', 422, "by"),
        (b'{"route": 1, "by": null}', 422, "by"),
        (b'{"route": 1, "by": "' + b"x" * 101 + b'"}', 422, "at most 100"),
        (b'{"route": 1, "note": "' + b"x" * 2001 + b'"}', 422, "at most 2000"),
        (b'{"route": 1, "to": "x"}', 422, "to"),
        (b"{}", 422, "route"),
        (b"[]", 422, ""),
        (b'[{"route": 1}]', 422, ""),
        (b'"keep"', 422, ""),
        (b"null", 422, ""),
        (b"", 422, ""),
        (b"{", 422, "JSON"),
        (b"route=1", 422, "JSON"),
        (b"\xff\xfe", 422, ""),
        (b"[" * 20_000, 400, "body"),
        (b'{"route": 1}' + b" " * 70_000, 413, "65536"),
    ],
)
def test_a_bad_answer(
    client: TestClient, bus: GateBus[Any], body: bytes, status: int, named: str
) -> None:
    """An answer that cannot be taken gets a 4xx naming what can; the gate is as before."""
    ticket = publish(bus)
    before = bus.get(ticket.gate.id)
    path = f"{API}/gates/{ticket.gate.id}/decision"
    assert named in error(client.post(path, content=body, headers={"content-type": JSON}), status)
    assert bus.get(ticket.gate.id) == before
    assert not ticket.future.done()


@pytest.mark.parametrize("call", ["decision", "stop", "undo"])
def test_an_answer_to_nobody(client: TestClient, call: str) -> None:
    """An answer to a gate that never was gets 404."""
    assert "nobody" in error(
        client.post(f"{API}/gates/nobody/{call}", json={"route": 1} if call == "decision" else {}),
        404,
    )


def test_names_that_are_half_a_character(client: TestClient, bus: GateBus[Any]) -> None:
    """A title, label or file name with a lone surrogate breaks no list."""
    odd = "x\udce9"
    i = publish(bus, title=odd, file=odd, labels=(odd, "fix")).gate.id
    assert client.get(f"{API}/gates").json()["gates"][0]["title"] == "x?"
    bus.decide(i, 1)
    assert client.get(f"{API}/history").json()["gates"][0]["decision"]["label"] == "x?"
    assert client.post(f"{API}/gates/{i}/stop", json={}).status_code == 409


# -- masks


def test_a_mask_there_and_back(client: TestClient, bus: GateBus[Any]) -> None:
    """A mask is saved, read back, listed, cleared, and comes with the answer."""
    ticket = publish(bus, 2)
    path = f"{API}/gates/{ticket.gate.id}/mask/1"
    assert client.get(path).status_code == 204
    mask = Image.new("L", (WIDTH, HEIGHT))
    mask.putpixel((3, 4), 255)
    out = io.BytesIO()
    mask.save(out, "PNG")
    put = client.put(path, content=out.getvalue(), headers={"content-type": "image/png"})
    assert put.json()["masked"] == [1]
    got = client.get(path)
    assert got.headers["content-type"] == "image/png"
    assert got.headers["cache-control"] == "no-store"
    assert Image.open(io.BytesIO(got.content)).tobytes() == mask.tobytes()
    assert client.delete(path).json()["masked"] == []
    assert client.get(path).status_code == 204
    bus.decide(ticket.gate.id, 1)
    assert ticket.wait(0).masks == {1: b""}
    late = client.put(path, content=png(), headers={"content-type": "image/png"})
    assert "decided" in error(late, 409)


@pytest.mark.parametrize(
    ("mode", "white", "black"),
    [
        ("1", 1, 0),
        ("L", 255, 0),
        ("LA", (255, 255), (255, 0)),
        ("P", 1, 0),
        ("RGB", (255, 255, 255), (0, 0, 0)),
        ("RGBA", (255, 255, 255, 255), (255, 255, 255, 0)),
        ("RGBA", (255, 255, 255, 255), (0, 0, 0, 255)),
        ("I;16", 65535, 0),
        ("I;16", 0x8080, 0),
    ],
)
def test_white_is_painted_in_every_mode(
    client: TestClient, bus: GateBus[Any], mode: str, white: Any, black: Any
) -> None:
    """Whatever kind of PNG comes, white is painted, black and transparent are not."""
    i = publish(bus).gate.id
    image = Image.new(mode, (WIDTH, HEIGHT), black)
    if mode == "P":
        image.putpalette([0, 0, 0, 255, 255, 255] + [0] * 762)
    for x, y in ((0, 0), (5, 7), (WIDTH - 1, HEIGHT - 1)):
        image.putpixel((x, y), white)
    out = io.BytesIO()
    image.save(out, "PNG")
    path = f"{API}/gates/{i}/mask/0"
    put = client.put(path, content=out.getvalue(), headers={"content-type": "image/png"})
    assert put.status_code == 200, put.text
    kept = Image.open(io.BytesIO(client.get(path).content))
    assert (kept.mode, kept.size) == ("L", (WIDTH, HEIGHT))
    level = 128 if white == 0x8080 else 255
    expected = bytearray(WIDTH * HEIGHT)
    for x, y in ((0, 0), (5, 7), (WIDTH - 1, HEIGHT - 1)):
        expected[y * WIDTH + x] = level
    assert kept.tobytes() == bytes(expected)


def test_a_smaller_mask_of_the_same_shape(client: TestClient, bus: GateBus[Any]) -> None:
    """A mask may be smaller or larger than the image when its shape is the same."""
    i = publish(bus).gate.id
    for size in ((32, 24), (128, 96), (33, 25)):
        put = client.put(
            f"{API}/gates/{i}/mask/0", content=png(size=size), headers={"content-type": "image/png"}
        )
        assert put.status_code == 200, put.text


def jpeg(kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT)).save(out, kind)
    return out.getvalue()


WHOLE = png()


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "not a PNG"),
        (b"hello", "not a PNG"),
        (jpeg(), "not a PNG"),
        (jpeg("WEBP"), "not a PNG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='48'/>", "not a PNG"),
        (WHOLE[:20], "not a PNG"),
        (WHOLE[:40], "broken"),
        (WHOLE[:-30], "broken"),
        (WHOLE[:45] + bytes(20) + WHOLE[65:], "broken"),
        (made_png(WIDTH, HEIGHT, b"short"), "broken"),
        (made_png(WIDTH, HEIGHT, bytes(65 * 48), depth=3), "broken"),
        (made_png(65535, 65535), "pixels"),
        (made_png(2**31 - 1, 2**31 - 1), "pixels"),
        (made_png(2**32 - 1, 1), "pixels"),
        (made_png(0, 0), "0 x 0"),
        (made_png(64, 0), "64 x 0"),
        (png(size=(48, 64)), "64 x 48"),
        (png(size=(64, 64)), "64 x 48"),
        (png(size=(640, 400)), "64 x 48"),
    ],
    ids=str.split(
        "empty text jpeg webp svg head no-data truncated corrupt short bad-depth bomb bigger-bomb "
        "one-row-bomb zero no-height upright square wide"
    ),
)
def test_a_bad_mask(client: TestClient, bus: GateBus[Any], body: bytes, named: str) -> None:
    """What is no mask for this image is refused, saying why; the gate keeps the mask it had."""
    ticket = publish(bus)
    path = f"{API}/gates/{ticket.gate.id}/mask/0"
    client.put(path, content=WHOLE, headers={"content-type": "image/png"})
    before, mask = bus.get(ticket.gate.id), bus.mask(ticket.gate.id, 0)
    response = client.put(path, content=body, headers={"content-type": "image/png"})
    assert named in error(response, 422)
    assert (bus.get(ticket.gate.id), bus.mask(ticket.gate.id, 0)) == (before, mask)


def test_a_mask_that_unpacks_to_much(client: TestClient, bus: GateBus[Any]) -> None:
    """A small file that unpacks to the most pixels allowed is taken, and kept small."""
    i = publish(bus, width=8192, height=8192).gate.id
    rows = bytes(8193) * 8192
    body = made_png(8192, 8192, rows)
    assert len(body) < 100_000
    put = client.put(f"{API}/gates/{i}/mask/0", content=body, headers={"content-type": "image/png"})
    assert put.status_code == 200
    assert len(bus.mask(i, 0) or b"") < 1_000_000


@pytest.mark.parametrize(
    ("index", "named"), [("1", "0 to 0"), ("-1", "0 to 0"), ("x", "index"), ("1.5", "index")]
)
@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
def test_a_mask_for_no_image(
    client: TestClient, bus: GateBus[Any], method: str, index: str, named: str
) -> None:
    """A mask for an image that the batch does not have is refused, naming those it has."""
    i = publish(bus).gate.id
    before = bus.get(i)
    given: dict[str, Any] = {}
    if method == "PUT":
        given = {"content": WHOLE, "headers": {"content-type": "image/png"}}
    response = client.request(method, f"{API}/gates/{i}/mask/{index}", **given)
    assert named in error(response, 422)
    assert bus.get(i) == before


# -- who asks


CHANGES: list[tuple[str, str, bytes, str]] = [
    ("POST", "decision", b'{"route": 1}', JSON),
    ("POST", "stop", b"{}", JSON),
    ("POST", "undo", b"{}", JSON),
    ("PUT", "mask/0", WHOLE, "image/png"),
    ("DELETE", "mask/0", b"", ""),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c[1])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"origin": "http://localhost.evil.example"},
        {"origin": "nonsense"},
        {"origin": "http://[::1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "origin": "http://localhost"},
        {"sec-fetch-site": ""},
        {"sec-fetch-site": "cross-site", "x-imagegate": "1"},
        {"origin": "null", "x-imagegate": "1"},
        {"origin": "http://evil.example", "x-imagegate": "1"},
        {"origin": "http://localhost"},
        {"sec-fetch-site": "same-origin"},
    ],
    ids=lambda h: "+".join(f"{k}={v}" for k, v in h.items()),
)
def test_a_page_of_another_origin_changes_nothing(
    client: TestClient,
    bus: GateBus[Any],
    change: tuple[str, str, bytes, str],
    headers: dict[str, str],
) -> None:
    """A page of a foreign origin can neither answer nor paint."""
    ticket = publish(bus)
    before = bus.get(ticket.gate.id)
    method, call, body, kind = change
    response = client.request(
        method,
        f"{API}/gates/{ticket.gate.id}/{call}",
        content=body,
        headers=headers | {"content-type": kind},
    )
    assert "another origin" in error(response, 403)
    assert bus.get(ticket.gate.id) == before


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://localhost", "x-imagegate": "1"},
        {"origin": "https://localhost", "x-imagegate": "1"},
        {
            "sec-fetch-site": "same-origin",
            "origin": "https://named.by.a.proxy",
            "x-imagegate": "1",
        },
        {"sec-fetch-site": "none", "x-imagegate": "1"},
        {},
    ],
)
def test_ones_own_page_may_answer(
    client: TestClient, bus: GateBus[Any], headers: dict[str, str]
) -> None:
    """The panel's own page, and programs that are no browser, may answer."""
    i = publish(bus).gate.id
    response = client.post(f"{API}/gates/{i}/decision", json={"route": 1}, headers=headers)
    assert response.json() == {"outcome": "won"}


@pytest.mark.parametrize("change", CHANGES[:4], ids=lambda c: c[1])
@pytest.mark.parametrize(
    "kind", ["", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded",
             "application/jsonp", "image/svg+xml", "image/jpeg", "wrong"],
)  # fmt: skip
def test_a_wrong_content_type(
    client: TestClient, bus: GateBus[Any], change: tuple[str, str, bytes, str], kind: str
) -> None:
    """What a form could send across origins, or is something else, is refused with 415."""
    ticket = publish(bus)
    before = bus.get(ticket.gate.id)
    method, call, body, right = change
    path = f"{API}/gates/{ticket.gate.id}/{call}"
    response = client.request(method, path, content=body, headers={"content-type": kind})
    assert right in error(response, 415)
    assert bus.get(ticket.gate.id) == before


def test_content_type_parameters_are_fine(client: TestClient, bus: GateBus[Any]) -> None:
    """A charset after the content type changes nothing."""
    i = publish(bus).gate.id
    kind = "Application/JSON; charset=utf-8"
    response = client.post(
        f"{API}/gates/{i}/decision", content=b'{"route": 1}', headers={"content-type": kind}
    )
    assert response.json() == {"outcome": "won"}


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "127.0.0.1.nip.io"])
def test_a_name_that_is_not_ours(client: TestClient, bus: GateBus[Any], host: str) -> None:
    """A host name that somebody pointed at this machine (DNS rebinding) gets nothing, not even
    a look.
    """
    i = publish(bus).gate.id
    for method, path in (("GET", "/gates"), ("GET", f"/gates/{i}/image/0"), ("GET", "/events")):
        error(client.request(method, f"{API}{path}", headers={"host": host}), 403)
    post = client.post(f"{API}/gates/{i}/decision", json={"route": 1}, headers={"host": host})
    error(post, 403)
    assert bus.get(i).state is State.WAITING


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:7861", "LOCALHOST", "127.0.0.1:1", "[::1]:80", "192.168.1.5"]
)
def test_names_that_are_ours(client: TestClient, host: str) -> None:
    """localhost and addresses are answered."""
    assert client.get(f"{API}/gates", headers={"host": host}).status_code == 200


def test_a_further_name(bus: GateBus[Any]) -> None:
    """A host name that was allowed is answered."""
    with TestClient(
        create_app(bus, HostDoor(["studio.example"])), base_url="http://localhost"
    ) as c:
        assert c.get(f"{API}/gates", headers={"host": "studio.example:80"}).status_code == 200


def test_the_key_door(bus: GateBus[Any]) -> None:
    """Without the very key, ComfyUI's private port gives nothing."""
    with TestClient(create_app(bus, KeyDoor("secret")), base_url="http://localhost") as client:
        for key in (None, "", "Secret", "secretx", "sécret"):
            headers = {} if key is None else {"x-imagegate-key": key.encode("latin-1")}
            error(client.get(f"{API}/gates", headers=headers), 403)
        assert client.get(f"{API}/gates", headers={"x-imagegate-key": "secret"}).status_code == 200


# -- too much


@pytest.mark.parametrize("told", [True, False], ids=["content-length", "chunked"])
@pytest.mark.parametrize("call", ["decision", "mask/0"])
def test_a_body_too_large(client: TestClient, bus: GateBus[Any], told: bool, call: str) -> None:
    """A body too large gets 413, whether it says its length or not, and is not taken."""
    ticket = publish(bus)
    before = bus.get(ticket.gate.id)
    mask = call == "mask/0"
    size = MAX_BODY + 1 if mask else 65_537
    pieces = [b" " * 65_536] * (size // 65_536) + [b" " * (size % 65_536)]
    content: Any = b"".join(pieces) if told else iter(pieces)
    kind = "image/png" if mask else JSON
    response = client.request(
        "PUT" if mask else "POST",
        f"{API}/gates/{ticket.gate.id}/{call}",
        content=content,
        headers={"content-type": kind},
    )
    assert ("content-length" in response.request.headers) is told
    assert "larger than" in error(response, 413)
    assert bus.get(ticket.gate.id) == before


def test_a_content_length_that_is_none(client: TestClient, bus: GateBus[Any]) -> None:
    """A content length that is no number is refused."""
    i = publish(bus).gate.id
    response = client.post(
        f"{API}/gates/{i}/decision",
        content=b'{"route": 1}',
        headers={"content-type": JSON, "content-length": "-5"},
    )
    assert "content-length" in error(response, 400)


# -- the event stream, over a real server


@pytest.fixture
def server(bus: GateBus[Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(events_module, "HEARTBEAT", 0.1)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(bus, HostDoor()), log_level="warning", lifespan="off")
    running = uvicorn.Server(config)
    config.timeout_graceful_shutdown = 1
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}{API}"
    running.should_exit = True
    thread.join(PATIENCE)
    listener.close()
    assert not thread.is_alive()


def events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = ""
    for line in lines:
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            yield kind, json.loads(line[6:])


def test_an_answer_never_waits_for_pictures(server: str, bus: GateBus[Any]) -> None:
    """However many full images are asked for, few are made at a time; a click counts at once."""
    most = api_module.AT_A_TIME["full"]
    begun, go_on = threading.Semaphore(0), threading.Event()
    made_at_once: list[int] = []
    busy: set[int] = set()

    class Slow(Photos):
        def full(self, index: int) -> Picture:
            busy.add(threading.get_ident())
            made_at_once.append(len(busy))
            begun.release()
            assert go_on.wait(PATIENCE)
            busy.discard(threading.get_ident())
            return Picture(b"png", "image/png")

    gate = Gate(("keep", "fix"), WIDTH, HEIGHT)
    bus.publish(gate, Slow())
    url = urlsplit(server)
    asked = [http.client.HTTPConnection(str(url.hostname), url.port) for _ in range(60)]
    try:
        for connection in asked:
            connection.request("GET", f"{API}/gates/{gate.id}/image/0?size=full")
        assert all(begun.acquire(timeout=PATIENCE) for _ in range(most))
        with httpx.Client(timeout=PATIENCE) as client:
            answer = client.post(f"{server}/gates/{gate.id}/decision", json={"route": 1})
        assert answer.json() == {"outcome": "won"}
        go_on.set()
        assert [connection.getresponse().read() for connection in asked] == [b"png"] * len(asked)
    finally:
        go_on.set()
        for connection in asked:
            connection.close()
    assert max(made_at_once) == most


def test_events(server: str, bus: GateBus[Any]) -> None:
    """The stream tells of gates published, decided and withdrawn, as it happens."""
    publish(bus)
    with (
        httpx.Client(timeout=PATIENCE) as client,
        client.stream("GET", f"{server}/events") as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = events(stream.iter_lines())
        assert next(told) == ("reload", {"waiting": 1})
        one, two = publish(bus, title="One"), publish(bus, title="Two")
        kind, content = next(told)
        assert (kind, content["gate"]["title"]) == ("published", "One")
        assert next(told)[0] == "published"
        bus.decide(one.gate.id, 2, by="Ann")
        kind, content = next(told)
        assert (kind, content["gate"]["decision"]["by"]) == ("decided", "Ann")
        two.withdraw("its prompt ended")
        kind, content = next(told)
        assert (kind, content["gate"]["reason"]) == ("withdrawn", "its prompt ended")
        assert content["waiting"] == 1


def test_a_quiet_stream_gives_signs_of_life(server: str) -> None:
    """While nothing happens, a page still learns that its connection lives."""
    with (
        httpx.Client(timeout=PATIENCE) as client,
        client.stream("GET", f"{server}/events") as stream,
    ):
        told = events(stream.iter_lines())
        assert [next(told)[0] for _ in range(3)] == ["reload", "alive", "alive"]


def test_a_listener_that_left_is_forgotten(server: str, bus: GateBus[Any], watch: Watch) -> None:
    """Tabs that are closed leave no listener behind, within a heartbeat."""
    own = bus.listeners
    left = threading.Event()
    unsubscribe = bus._feed.remove

    def counted(subscription: Any) -> None:
        unsubscribe(subscription)
        if bus.listeners == own:
            left.set()

    bus._feed.remove = counted  # type: ignore[method-assign]
    with httpx.Client(timeout=PATIENCE) as client:
        for _ in range(20):
            with client.stream("GET", f"{server}/events") as stream:
                told = events(stream.iter_lines())
                next(told)
                assert bus.listeners > own
    assert left.wait(PATIENCE)


def test_a_too_slow_listener_is_told_to_read_anew(
    server: str, bus: GateBus[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that missed news says "reload" instead of telling half of it."""
    subscribe, notices = bus.subscribe, []

    def subscribe_slow(notify: Callable[[], None]) -> Any:
        notices.append(notify)  # called below, once there is more news than it keeps
        return subscribe(limit=1)

    monkeypatch.setattr(bus, "subscribe", subscribe_slow)
    with (
        httpx.Client(timeout=PATIENCE) as client,
        client.stream("GET", f"{server}/events") as stream,
    ):
        told = events(stream.iter_lines())
        assert next(told)[0] == "reload"
        publish(bus)
        publish(bus)
        notices[0]()
        assert next(told) == ("reload", {"waiting": 2})


def test_a_body_too_large_over_the_wire(server: str, bus: GateBus[Any]) -> None:
    """A client that promises too much is answered before it has sent anything."""
    i = publish(bus).gate.id
    host, port = server.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        connection.sendall(
            f"PUT {API}/gates/{i}/mask/0 HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
            f"Content-Length: {MAX_BODY + 1}\r\n\r\n".encode()
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
