"""Files that are sent as masks, and what of other files would go out with an image."""

from __future__ import annotations

import gzip
import io
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from imagegate.folder.session import FolderSession
from imagegate.gate_bus import GateBus
from imagegate.share import app as approver
from tests.attacks.scene import API, HEIGHT, MARK, PNG, WIDTH, Ports, Scene, connect
from tests.operator.test_api import chunk, jpeg, made_png, png
from tests.support.stored import PATIENCE

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def header(width: int, height: int, depth: int = 8, color: int = 0, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace))


def saved(kind: str, **given: Any) -> bytes:
    out = io.BytesIO()
    Image.new("L", (WIDTH, HEIGHT), 255).save(out, kind, **given)
    return out.getvalue()


def two_headers() -> bytes:
    """One that is looked at, and one that Pillow goes by."""
    pixels = chunk(b"IDAT", zlib.compress(bytes(9001 * 9000), 9))
    return SIGNATURE + header(WIDTH, HEIGHT) + header(9000, 9000) + pixels + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    body = b"Comment\0\0" + zlib.compress(bytes(90 * 2**20), 9)
    return png()[:33] + chunk(b"zTXt", body) + png()[33:]


def profile_bomb() -> bytes:
    body = b"x\0\0" + zlib.compress(bytes(90 * 2**20), 9)
    return png()[:33] + chunk(b"iCCP", body) + png()[33:]


def apng() -> bytes:
    frames = [Image.new("L", (WIDTH, HEIGHT), value) for value in range(0, 250, 10)]
    out = io.BytesIO()
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:])
    return out.getvalue()


REFUSED = {
    "bomb-30000": lambda: made_png(30_000, 22_500, bytes(2**20)),
    "bomb-2-billion": lambda: made_png(2**31 - 1, 2**31 - 1),
    "bomb-wide": lambda: made_png(2**31 - 1, 1),
    "bomb-16-bit": lambda: made_png(20_000, 15_000, bytes(2**20), depth=16, color=6),
    "two-headers": two_headers,
    "profile-bomb": profile_bomb,
    "text-bomb": text_bomb,
    "nothing-wide": lambda: made_png(0, 48),
    "truncated": lambda: png()[:-30],
    "header-only": lambda: png()[:33],
    "signature-only": lambda: SIGNATURE,
    "no-pixels": lambda: made_png(WIDTH, HEIGHT),
    "wrong-sum": lambda: png()[:-20] + b"\0" * 8 + png()[-12:],
    "wrong-aspect": lambda: png(size=(WIDTH, HEIGHT + 9)),
    "sideways": lambda: png(size=(HEIGHT, WIDTH)),
    "jpeg": jpeg,
    "gif": lambda: saved("GIF"),
    "bmp": lambda: saved("BMP"),
    "tiff": lambda: saved("TIFF"),
    "webp": lambda: saved("WEBP"),
    "eps": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n(%pipe%id) (w) file\n",
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "svg-with-doctype": lambda: b'<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg/>',
    "html": lambda: b"<!doctype html><script>alert(1)</script>",
    "html-first": lambda: b"<script>alert(1)</script>" + png(),
    "zip": lambda: b"PK\x03\x04" + bytes(60),
    "pickle": lambda: b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94" + bytes(40),
    "other-signature": lambda: b"\x89PNG\r\n\x1a\r" + png()[8:],
    "empty": lambda: b"",
    "nul": lambda: bytes(500),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_mask_that_is_none(scene: Scene, what: str) -> None:
    """What is no whole PNG of the image's shape, or unpacks to too much, is refused in words of
    our own, whether there was a mask before, which stays, or none.
    """
    guest = scene.guest()
    assert guest.paint(scene.hero, png()).status == 200
    before = scene.state()
    for gate in (scene.hero, scene.twin):
        answer = guest.paint(gate, REFUSED[what]())
        assert answer.status == 422
        assert "0x" not in answer.error, "it names a place in memory"
        assert "PIL" not in answer.error
    assert scene.state() == before


PAYLOAD = b"<script>window.__pwned=1</script><?php system($_GET['x']); ?>"


def noise() -> bytes:
    return bytes(range(256)) * 8


POLYGLOTS = {
    "html-behind": lambda: png() + PAYLOAD,
    "zip-behind": lambda: png() + b"PK\x03\x04" + PAYLOAD + b"PK\x05\x06" + bytes(18),
    "script-in-text": lambda: png()[:33] + chunk(b"tEXt", b"Comment\0" + PAYLOAD) + png()[33:],
    "script-in-long-text": lambda: (
        png()[:33] + chunk(b"zTXt", b"C\0\0" + zlib.compress(PAYLOAD)) + png()[33:]
    ),
    "xmp": lambda: (
        png()[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + PAYLOAD) + png()[33:]
    ),
    "exif": lambda: png()[:33] + chunk(b"eXIf", b"II*\0" + PAYLOAD) + png()[33:],
    "profile": lambda: png()[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(PAYLOAD)) + png()[33:],
    "chunk-of-its-own": lambda: png()[:33] + chunk(b"juNK", PAYLOAD) + png()[33:],
    "animated": apng,
    "interlaced": lambda: png()[:28] + b"\0" + png()[29:],
    "sixteen-bits": lambda: made_png(WIDTH, HEIGHT, (b"\0" + PAYLOAD * 3)[:129] * HEIGHT, depth=16),
    "palette": lambda: saved_palette(),
}


def saved_palette() -> bytes:
    image = Image.new("P", (WIDTH, HEIGHT))
    image.putpalette((PAYLOAD * 13)[:768])
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("what", POLYGLOTS)
def test_a_mask_that_is_something_else_too(scene: Scene, what: str) -> None:
    """Of a PNG that is also something else only what it shows is kept: the mask that is given back
    is a plain grey PNG, without any text, profile, frame or byte beside its pixels.
    """
    guest = scene.guest()
    assert guest.paint(scene.hero, POLYGLOTS[what]()).status == 200
    for body in (guest.get(f"gates/{scene.hero}/mask/0").body, scene.bus.mask(scene.hero, 0)):
        assert body is not None
        with Image.open(io.BytesIO(body)) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (WIDTH, HEIGHT))
            assert image.info == {}
            assert getattr(image, "n_frames", 1) == 1
        assert body.endswith(b"IEND\xaeB`\x82")
        assert b"script" not in body
        kinds = [body[at - 4 : at] for at in chunk_bodies(body)]
        assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}
    assert guest.get(f"gates/{scene.hero}/mask/0").header("content-type") == "image/png"


def chunk_bodies(body: bytes) -> Iterator[int]:
    at = 8
    while at < len(body):
        yield at + 8
        at += 12 + int.from_bytes(body[at : at + 4], "big")


@pytest.mark.parametrize(
    "kind",
    ["", "image/svg+xml", "image/jpeg", "application/octet-stream", "text/html", "image/png2",
     "multipart/form-data; boundary=x", "application/json"],
)  # fmt: skip
def test_a_mask_of_another_content_type(still: Scene, kind: str) -> None:
    """A mask that is not called a PNG is refused before it is looked at."""
    answer = still.guest().call("PUT", f"gates/{still.hero}/mask/0", png(), content_type=kind)
    assert answer.status == 415


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_a_compressed_mask(still: Scene, encoding: str) -> None:
    """A body is taken as it comes, and never unpacked first."""
    body = gzip.compress(png()) if encoding == "gzip" else zlib.compress(png())
    answer = still.guest().paint(still.hero, body, content_encoding=encoding)
    assert answer.status == 422


@pytest.mark.parametrize(("what", "limit"), [("mask", 8 * 2**20), ("decision", 64 * 2**10)])
@pytest.mark.parametrize("told", [True, False], ids=["with-length", "chunked"])
def test_a_body_that_is_too_large(still: Scene, what: str, limit: int, told: bool) -> None:
    """A body over the limit is refused by the length it says, or else as soon as it is over."""
    guest = still.guest()
    kind = "image/png" if what == "mask" else "application/json"
    method = "PUT" if what == "mask" else "POST"
    path = f"gates/{still.hero}/mask/0" if what == "mask" else f"gates/{still.hero}/decision"
    length = f"Content-Length: {limit + 1}" if told else "Transfer-Encoding: chunked"
    with connect(guest.port) as peer:
        peer.sendall(
            f"{method} {API}/{path} HTTP/1.1\r\nHost: d\r\nCookie: {guest.headers['cookie']}\r\n"
            f"Content-Type: {kind}\r\n{length}\r\n\r\n".encode()
        )
        if not told:
            piece = b"10000\r\n" + b"a" * 2**16 + b"\r\n"
            try:
                for _ in range(limit // 2**16 + 1):
                    peer.sendall(piece)
            except OSError:
                pass
        assert peer.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("what", ["mask", "decision", "session"])
def test_a_body_that_does_not_come(
    shared_ports: Ports, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """A body of which bytes come too slowly is given up, with a session or without."""
    monkeypatch.setattr(approver, "BODY_SECONDS", 0.2)
    scene = Scene(shared_ports)
    guest = scene.guest()
    method, path, kind = {
        "mask": ("PUT", f"gates/{scene.hero}/mask/0", "image/png"),
        "decision": ("POST", f"gates/{scene.hero}/decision", "application/json"),
        "session": ("POST", "session", "application/json"),
    }[what]
    with connect(guest.port) as peer:
        peer.sendall(
            f"{method} {API}/{path} HTTP/1.1\r\nHost: d\r\nCookie: {guest.headers['cookie']}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: 1000\r\n\r\n{{".encode()
        )
        assert peer.recv(65536).startswith(b"HTTP/1.1 408 ")
    assert guest.get("gates").json()["waiting"] == 3
    scene.close()


def test_many_masks_that_unpack_to_much(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many masks are sent at once, two are unpacked, and answers do not wait for them."""
    guest = scene.guest()
    at_once, most, going = 0, 0, threading.Condition()
    let = threading.Event()

    def slow(*_: Any) -> Any:
        nonlocal at_once, most
        with going:
            at_once += 1
            most = max(most, at_once)
            going.notify_all()
        assert let.wait(PATIENCE)
        with going:
            at_once -= 1
        return scene.bus.get(scene.hero)

    monkeypatch.setattr("imagegate.share.scoped.save_painted", slow)
    threads = [threading.Thread(target=guest.paint, args=(scene.hero, png())) for _ in range(50)]
    for thread in threads:
        thread.start()
    with going:
        assert going.wait_for(lambda: at_once == 2, PATIENCE)
    assert guest.decide(scene.twin).status == 200  # with all threads taken it would wait
    let.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert most == 2


# -- what a file says beside its pixels

SECRET = f"{MARK}: 52.5163 N 13.3777 E, C:/Users/artist/ComfyUI"


def exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = exif[0x8298] = SECRET
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 58.68), 3: "E", 4: (13.0, 22.0, 39.7),
                                 29: SECRET})  # fmt: skip
    return exif


def image(mode: str = "RGB", size: tuple[int, int] = (300, 200)) -> Image.Image:
    return Image.effect_noise(size, 90).convert(mode)


def write(folder: Path, kind: str) -> Path:
    path = folder / f"a.{kind.partition('-')[0]}"
    if kind.startswith("png"):
        text = PngImagePlugin.PngInfo()
        for key in ("workflow", "prompt", "parameters"):
            text.add_text(key, SECRET)
        text.add_itxt("XML:com.adobe.xmp", SECRET)
        text.add_text("long", SECRET, zip=True)
        mode = "RGBA" if kind == "png-transparent" else "P" if kind == "png-palette" else "RGB"
        image(mode).save(path, pnginfo=text, exif=exif())
    elif kind.startswith("jpg"):
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        size = (2400, 1800) if kind == "jpg-large" else (300, 200)
        image(size=size).save(path, "JPEG", exif=exif(), comment=SECRET.encode(),
                              xmp=SECRET.encode(), icc_profile=srgb)  # fmt: skip
    elif kind == "gif":
        image("P").save(path, comment=SECRET.encode())
    elif kind == "webp":
        image().save(path, exif=exif(), xmp=SECRET.encode())
    else:
        image().save(path, tiffinfo={270: SECRET, 305: SECRET, 700: SECRET.encode()})
    assert MARK.encode() in path.read_bytes()
    return path


@pytest.mark.parametrize("size", ["preview", "zoom", "full"])
@pytest.mark.parametrize(
    "kind", ["jpg", "jpg-large", "png", "png-transparent", "png-palette", "gif", "webp", "tiff"]
)
def test_what_a_file_says_beside_its_pixels(
    shared_ports: Ports, tmp_path: Path, kind: str, size: str
) -> None:
    """No size of an image holds where, by whom or with which workflow it was made."""
    (tmp_path / "photos").mkdir()
    write(tmp_path / "photos", kind)
    bus: GateBus[Any] = GateBus()
    session = FolderSession(bus, tmp_path / "photos", tmp_path / "out", ("keep", "fix"), title="A")
    scene = Scene(shared_ports, bus)
    published = threading.Event()
    subscription = bus.subscribe(published.set)
    session.start()
    try:
        assert published.wait(PATIENCE)
        (gate,) = [gate.gate for gate in bus.pending() if gate.gate.title == "A"]
        answer = scene.guest().get(f"gates/{gate.id}/image/0?size={size}")
        assert answer.status == 200
        assert MARK.encode() not in answer.body
        with Image.open(io.BytesIO(answer.body)) as shown:
            shown.load()
            assert not shown.getexif()
            kept = {key: value for key, value in shown.info.items() if MARK in repr(value)}
            assert kept == {}
            assert not {"exif", "comment", "xmp", "XML:com.adobe.xmp"} & set(shown.info)
    finally:
        subscription.close()
        session.close()
        scene.close()


def test_a_mask_that_is_not_this_link_s(scene: Scene) -> None:
    """A mask in a gate of another scope can neither be read, replaced nor cleared."""
    scene.guest().paint(scene.sky, png())
    from imagegate.core.model import Selection

    guest = scene.guest(among=Selection(title="Hero"))
    before = scene.state()
    assert guest.get(f"gates/{scene.sky}/mask/0").status == 404
    assert guest.call("PUT", f"gates/{scene.sky}/mask/0", png(color=0), **PNG).status == 404
    assert guest.call("DELETE", f"gates/{scene.sky}/mask/0").status == 404
    assert scene.state() == before
