"""What a client says of itself: names, origins, methods, lengths, and paths in odd writings."""

from __future__ import annotations

from contextlib import suppress

import pytest

from imagegate.http.access import KEY_HEADER
from tests.attacks.scene import API, PREFIX, Scene, Visitor, connect, raw, rest, statuses
from tests.operator.test_api import png

CLAIMS = {
    "host-of-the-operator": {"host": "127.0.0.1:7865"},
    "host-localhost": {"host": "localhost"},
    "x-forwarded-for": {"x-forwarded-for": "127.0.0.1"},
    "x-forwarded-host": {"x-forwarded-host": "localhost", "x-forwarded-server": "localhost"},
    "x-forwarded-proto": {"x-forwarded-proto": "https", "x-forwarded-port": "443"},
    "x-forwarded-prefix": {"x-forwarded-prefix": "/imagegate/page", "x-script-name": "/x"},
    "forwarded": {"forwarded": "for=127.0.0.1;host=localhost;proto=https"},
    "x-real-ip": {"x-real-ip": "127.0.0.1", "x-client-ip": "::1", "true-client-ip": "127.0.0.1"},
    "x-original-url": {"x-original-url": f"{API}/gates", "x-rewrite-url": f"{API}/gates"},
    "x-http-method-override": {"x-http-method-override": "POST", "x-method-override": "POST"},
    "comfyui's-key": {KEY_HEADER: "", "x-imagegate-secure": "1", "imagegate.visitor": "1"},
    "gradio": {"x-gradio-user": "app", "x-gradio-server": "http://127.0.0.1", "x-gradio-token": ""},
    "user": {"remote-user": "operator", "x-remote-user": "operator", "x-user": "operator"},
    "own-page": {"sec-fetch-site": "same-origin", "origin": "http://localhost"},
    "websocket": {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13",
                  "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="},
    "http-2": {"upgrade": "h2c", "connection": "upgrade, http2-settings", "http2-settings": "AAMA"},
    "range": {"range": "bytes=0-", "if-none-match": "*"},
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("secure", [False, True], ids=["network", "tunnel"])
def test_a_claim_without_a_session(still: Scene, claim: str, secure: bool) -> None:
    """No header makes anybody of a stranger, nor says at which door they stand."""
    stranger = still.stranger(secure)
    for path in (f"{PREFIX}/", f"{API}/gates", f"{API}/links", f"{API}/gates/{still.hero}/image/0"):
        answer = stranger.call("GET", path, **CLAIMS[claim])
        assert answer.status == 401
        assert "Hero" not in answer.whole
    before = still.state()
    assert stranger.decide(still.hero).status == 401
    decision = stranger.post(f"gates/{still.hero}/decision", {"route": 1}, **CLAIMS[claim])
    assert decision.status == 401
    assert still.state() == before


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_beside_a_session(still: Scene, claim: str) -> None:
    """Beside a session no header turns a look into a change, opens what is the operator's, or
    comes back in an answer.
    """
    guest = still.guest(may="look")
    for path, allowed in (
        (f"{API}/gates/{still.hero}/decision", (405,)), (f"{API}/gates/{still.hero}", (200,)),
        (f"{API}/links", (404,)), (PREFIX, (303,)), (f"{API}/gates/", (404,)),
    ):  # fmt: skip
        answer = guest.call("GET", path, **CLAIMS[claim])
        assert answer.status in allowed, (path, answer)
        assert "localhost" not in answer.whole
        assert "7865" not in answer.whole
        assert "access-control" not in answer.whole.lower()


@pytest.mark.parametrize("proto", ["https", "http", "wss"])
def test_who_says_they_speak_https(scene: Scene, proto: str) -> None:
    """Whether a session's cookie is one for HTTPS is known from the port, not from a header."""
    _, token = scene.link()
    claims = {"x-forwarded-proto": proto, "forwarded": f"proto={proto}"}
    assert "Secure" not in scene.stranger().enter(token, **claims).header("set-cookie")
    assert "Secure" in scene.stranger(secure=True).enter(token, **claims).header("set-cookie")


# -- other sites

OTHERS = {
    "another-site": {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    "another-site-old-browser": {"origin": "https://evil.example"},
    "sandboxed-frame": {"origin": "null"},
    "sandboxed-frame-new": {"origin": "null", "sec-fetch-site": "cross-site"},
    "sibling-of-the-tunnel": {"origin": "https://x.gradio.live", "sec-fetch-site": "same-site"},
    "other-port": {"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-site"},
    "other-port-old-browser": {"origin": "http://127.0.0.1:1"},
    "name-that-begins-alike": {"origin": "http://127.0.0.1.evil.example"},
    "user-in-the-origin": {"origin": "http://127.0.0.1@evil.example"},
    "file": {"origin": "file://"},
    "extension": {"origin": "chrome-extension://abcdef"},
    "no-url": {"origin": "http://[::1"},
    "unknown-site": {"sec-fetch-site": "anything"},
    "empty-site": {"sec-fetch-site": ""},
    "our-header-from-another-site": {"sec-fetch-site": "cross-site", "x-imagegate": "1"},
    "our-header-from-a-sandbox": {"origin": "null", "x-imagegate": "1"},
    "our-header-from-a-public-name": {"origin": "http://evil.example", "x-imagegate": "1"},
}
CHANGES = {
    "decide": ("POST", "gates/{}/decision", b'{"route": 1}', "application/json"),
    "undo": ("POST", "gates/{}/undo", b"{}", "application/json"),
    "paint": ("PUT", "gates/{}/mask/0", png(), "image/png"),
    "clear": ("DELETE", "gates/{}/mask/0", None, ""),
    "leave": ("DELETE", "session", None, ""),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_from_another_site(still: Scene, change: str, other: str) -> None:
    """A page of another origin changes nothing in the browser of somebody who has a session."""
    guest = still.guest()
    method, path, body, kind = CHANGES[change]
    given = {"content-type": kind} if kind else {}
    answer = guest.call(method, path.format(still.hero), body, **given, **OTHERS[other])
    assert answer.status == 403
    assert guest.get("me").status == 200


@pytest.mark.parametrize("other", OTHERS)
def test_a_login_from_another_site(scene: Scene, other: str) -> None:
    """A page of another origin cannot open a link in somebody's browser, nor use one up."""
    link, token = scene.link(once=True)
    answer = scene.stranger().enter(token, **OTHERS[other])
    assert answer.status == 403
    assert "set-cookie" not in answer.whole.lower()
    assert scene.links.get(link.id).opened == 0


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain", "",
        "text/plain; application/json", "application/json+x", "application/jsonp", "text/json",
        "application/x-www-form-urlencoded, application/json", "image/png",
    ],
)  # fmt: skip
def test_a_form(still: Scene, kind: str) -> None:
    """What a form of any page can send without asking is not taken, from any origin."""
    guest = still.guest()
    for path, body in (
        (f"gates/{still.hero}/decision", b'{"route": 1, "note": "="}'),
        ("session", b'{"token": ""}'),
        (f"gates/{still.hero}/decision", b"route=1"), (f"gates/{still.done}/undo", b"{}"),
    ):  # fmt: skip
        answer = guest.call("POST", path, body, **({"content-type": kind} if kind else {}))
        assert answer.status == 415


@pytest.mark.parametrize("secure", [False, True], ids=["network", "tunnel"])
def test_a_question_before_a_cross_site_call(still: Scene, secure: bool) -> None:
    """A browser that asks whether another site may call is told no, with a session or without."""
    for visitor in (still.stranger(secure), still.guest(secure=secure)):
        answer = visitor.call(
            "OPTIONS", f"gates/{still.hero}/decision", origin="https://evil.example",
            access_control_request_method="POST", access_control_request_headers="content-type",
        )  # fmt: skip
        assert answer.status in (401, 405)
        assert "access-control" not in answer.whole.lower()


def test_reading_from_another_site(still: Scene) -> None:
    """No answer may be read by a page of another origin, or be shown in its frame."""
    guest = still.guest()
    for path in (
        "gates",
        f"gates/{still.hero}/image/0",
        f"{PREFIX}/",
        f"{PREFIX}/page/approver/approver.js",
    ):
        answer = guest.get(path, origin="https://evil.example", sec_fetch_site="cross-site")
        assert "access-control" not in answer.whole.lower()
        assert answer.header("cross-origin-resource-policy") == "same-origin"
        assert "frame-ancestors 'none'" in answer.header("content-security-policy")
        assert answer.header("x-content-type-options") == "nosniff"


# -- a name that leads here, of somebody else's

NAMES = [
    "evil.example", "evil.example:7865", "localhost.evil.example", "127.0.0.1.evil.example",
    "127.0.0.1.nip.io", "evil.example#@127.0.0.1", "evil.example\\@127.0.0.1",
    "127.0.0.1@evil.example", "localhost@evil.example", "0x7f000001", "2130706433",
    "127.1", "localhost.", "LOCALHOST.evil.example", "", "[::1].evil.example", "[evil",
    "127.0.0.1, evil.example", "xn--localhost-evil.example", "evil.example.", "EVIL.Example",
    "evil.example:80:80", "127.0.0.1.", "0177.0.0.1", "1.2.3", "256.1.1.1", "home.arpa",
    "evil.local.", ".local", "evil..local", "-.local", "evil.example/.local", "[fe80::1%25eth0]",
    "[127.0.0.1", "[evil.local]", "evil\xe9.local", "fritz.box",
    "evil.localhost.example", "evilhome.arpa",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_rebinding_at_the_operators_door(operator: Visitor, still: Scene, name: str) -> None:
    """A page whose own name was made to lead to the operator's port gets nothing from it."""
    for path in (f"{PREFIX}/", f"{API}/gates", f"{API}/links", f"{PREFIX}/config"):
        answer = operator.get(path, host=name)
        assert answer.status == 403
        assert "Hero" not in answer.whole
    origin = {"origin": f"http://{name}", "sec-fetch-site": "same-origin"}
    assert operator.post("links", {"name": "Mallory"}, host=name, **origin).status == 403
    assert "Mallory" not in [link.name for link in still.links.all()]
    assert operator.get("gates").status == 200


def test_rebinding_at_the_approvers_door(still: Scene) -> None:
    """A page whose own name was made to lead to the approver's port has no cookie of it, and so is
    a stranger.
    """
    rebound = still.stranger(host="evil.example", origin="http://evil.example",
                             sec_fetch_site="same-origin")  # fmt: skip
    assert rebound.get("gates").status == 401
    assert rebound.decide(still.hero).status == 401


@pytest.mark.parametrize("name", [name for name in NAMES if name])
def test_rebinding_at_the_approvers_door_with_a_session(still: Scene, name: str) -> None:
    """Even with a session such a page gets nothing, nor can it open a link or learn that there is
    one; through the tunnel, to which people speak TLS, any name is the share server's own.
    """
    guest, before = still.guest(), still.state()
    for path in ("gates", "me", f"gates/{still.hero}/image/0", f"{PREFIX}/"):
        answer = guest.get(path, host=name)
        assert answer.status == 403
        assert "Hero" not in answer.whole
    ours = {"host": name, "origin": f"http://{name}", "x-imagegate": "1"}
    assert guest.post(f"gates/{still.hero}/decision", {"route": 1}, **ours).status == 403
    _, token = still.link()
    assert still.stranger().get(f"{PREFIX}/s/{token}", host=name).status == 403
    assert still.stranger().enter(token, **ours).status == 403
    assert still.state() == before
    public = {"host": "x.gradio.live"}
    assert still.guest(secure=True).get("gates", **public).status == 200


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("path", ["links", "links/x/revoke", "qr", "gates/{}/stop"])
def test_the_operators_calls_from_another_site(
    operator: Visitor, still: Scene, path: str, other: str
) -> None:
    """A page that the operator has open elsewhere makes no link, revokes none and stops nothing."""
    before = len(still.links.all())
    body = {"name": "Mallory"} if path == "links" else {}
    assert operator.post(path.format(still.hero), body, **OTHERS[other]).status == 403
    assert len(still.links.all()) == before


# -- methods, versions, lengths

STRANGE = {
    "trace": b"TRACE /imagegate/api/gates HTTP/1.1\r\nHost: d\r\n\r\n",
    "connect": b"CONNECT 127.0.0.1:7865 HTTP/1.1\r\nHost: d\r\n\r\n",
    "propfind": b"PROPFIND /imagegate/ HTTP/1.1\r\nHost: d\r\n\r\n",
    "patch": b"PATCH /imagegate/api/gates HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n",
    "lower-case": b"get /imagegate/api/gates HTTP/1.1\r\nHost: d\r\n\r\n",
    "made-up": b"JEFF /imagegate/api/gates HTTP/1.1\r\nHost: d\r\n\r\n",
    "absolute": b"GET http://127.0.0.1:7865/imagegate/api/gates HTTP/1.1\r\nHost: d\r\n\r\n",
    "absolute-own": b"GET http://d/imagegate/ HTTP/1.1\r\nHost: d\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: d\r\n\r\n",
    "http-1.0": b"GET /imagegate/api/gates HTTP/1.0\r\n\r\n",
    "http-0.9": b"GET /imagegate/api/gates\r\n\r\n",
    "http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "no-host": b"GET /imagegate/api/gates HTTP/1.1\r\n\r\n",
    "two-hosts": b"GET /imagegate/api/gates HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "space-before-colon": b"GET /imagegate/api/gates HTTP/1.1\r\nHost : d\r\n\r\n",
    "nul-in-a-header": b"GET /imagegate/api/gates HTTP/1.1\r\nHost: d\r\nX: a\0b\r\n\r\n",
    "fold": b"GET /imagegate/api/gates HTTP/1.1\r\nHost: d\r\nX: a\r\n b\r\n\r\n",
    "only-line-feeds": b"GET /imagegate/api/gates HTTP/1.1\nHost: d\n\n",
    "carriage-return": b"GET /imagegate/api/gates HTTP/1.1\rHost: d\r\r",
}


@pytest.mark.parametrize("how", STRANGE)
@pytest.mark.parametrize("secure", [False, True], ids=["network", "tunnel"])
def test_a_request_of_another_kind(still: Scene, how: str, secure: bool) -> None:
    """A method, version, target or header that is unusual opens nothing."""
    got = raw(still.ports[secure], STRANGE[how])
    assert all(status in (400, 401, 405, 501) for status in statuses(got)), got
    assert b"Hero" not in got
    assert b"TRACE" not in got


HIDDEN = b"GET /imagegate/api/me HTTP/1.1\r\nHost: d\r\nX: "
SMUGGLED = {
    "length-and-chunked": (b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
    "chunked-and-length": (b"Transfer-Encoding: chunked\r\nContent-Length: 99\r\n", b"0\r\n\r\n"),
    "two-lengths": (b"Content-Length: 2\r\nContent-Length: 200\r\n", b"{}"),
    "length-list": (b"Content-Length: 2, 200\r\n", b"{}"),
    "length-plus": (b"Content-Length: +2\r\n", b"{}"),
    "length-negative": (b"Content-Length: -1\r\n", b"{}"),
    "length-hex": (b"Content-Length: 0x2\r\n", b"{}"),
    "chunked-misspelt": (b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"),
    "chunked-twice": (b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"),
    "chunked-and-more": (b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"),
    "chunked-tabbed": (b"Transfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\n"),
    "chunked-folded": (b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 2\r\n", b"{}"),
    "chunk-size-huge": (b"Transfer-Encoding: chunked\r\n", b"f" * 40 + b"\r\n"),
    "chunk-size-negative": (b"Transfer-Encoding: chunked\r\n", b"-1\r\n\r\n"),
}


@pytest.mark.parametrize("how", SMUGGLED)
def test_a_request_hidden_in_another(still: Scene, how: str) -> None:
    """A request whose length can be read in two ways is answered alone, and its connection closed:
    what was hidden behind it is not taken for the next one's.
    """
    guest = still.guest()
    lengths, body = SMUGGLED[how]
    sent = (
        b"POST /imagegate/api/session HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n"
        + lengths + b"\r\n" + body + HIDDEN
    )  # fmt: skip
    own = f"\r\nCookie: {guest.headers['cookie']}\r\n\r\n".encode()
    with connect(still.ports[False], "127.0.0.12") as peer:
        peer.sendall(sent)
        with suppress(OSError):
            peer.sendall(own)  # what another's request would add, on a connection that is shared
        got = rest(peer)
    assert statuses(got) in ([400], [501], [413]), got
    assert b"Ada" not in got


PATHS = {
    "dots": f"{PREFIX}/page/../../access.py",
    "encoded-dots": f"{PREFIX}/page/%2e%2e/%2e%2e/access.py",
    "twice-encoded-dots": f"{PREFIX}/page/%252e%252e/%252e%252e/access.py",
    "encoded-slash": f"{PREFIX}/page/..%2f..%2faccess.py",
    "backslash": f"{PREFIX}/page/..\\..\\access.py",
    "encoded-backslash": f"{PREFIX}/page/..%5c..%5caccess.py",
    "overlong": f"{PREFIX}/page/%c0%ae%c0%ae/access.py",
    "half-of-utf-8": f"{PREFIX}/page/%ff%fe",
    "nul": f"{PREFIX}/page/approver/approver.js%00.png",
    "absolute": f"{PREFIX}/page//etc/passwd",
    "encoded-absolute": f"{PREFIX}/page/%2fetc%2fpasswd",
    "drive": f"{PREFIX}/page/C:/Windows/win.ini",
    "unc": f"{PREFIX}/page/\\\\evil.example\\share",
    "url": f"{PREFIX}/page/http://evil.example/",
    "other-case": f"{PREFIX}/page/approver/APPROVER.JS",
    "template": f"{PREFIX}/page/enter.html",
    "template-below": f"{PREFIX}/page/approver/enter.html",
    "other-page": f"{PREFIX}/page/operator/panel.js",
    "other-page-by-dots": f"{PREFIX}/page/approver/../operator/panel.js",
    "folder": f"{PREFIX}/page/shared/",
    "source": f"{PREFIX}/page/../approver.py",
    "out-of-the-prefix": f"{PREFIX}/../etc/passwd",
    "two-slashes": f"//{PREFIX}/api/gates",
    "slash-within": f"{PREFIX}//api//gates",
    "host-in-the-path": "//evil.example/imagegate/",
    "semicolon": f"{PREFIX}/;/api/gates",
    "dot-segment": f"{PREFIX}/./api/./gates",
    "prefix-only-alike": "/imagegatex/api/gates",
    "long": f"{PREFIX}/page/" + "a" * 12_000,
    "many-dots": f"{PREFIX}/page/" + "../" * 3_000,
    "trailing-slash": f"{API}/gates/",
    "format": f"{API}/gates.json",
    "line-break": f"{PREFIX}/page/x%0d%0aSet-Cookie:%20imagegate=x",
    "to-the-entry": f"{PREFIX}/s/../api/gates",
    "entry-of-nothing": f"{PREFIX}/s/",
    "entry-of-two": f"{PREFIX}/s/a/b",
    "entry-encoded-slash": f"{PREFIX}/s/..%2fapi%2fgates",
}


@pytest.mark.parametrize("how", PATHS)
def test_a_path_in_another_writing(still: Scene, how: str) -> None:
    """No writing of a path leads to a file, past the session, or to another host."""
    stranger, guest = still.stranger(source="127.0.0.13"), still.guest()
    first = stranger.get(PATHS[how])
    assert first.status == 401
    second = guest.get(PATHS[how])
    assert second.status == 404
    for answer in (first, second):
        assert "root:" not in answer.whole
        assert "import" not in answer.whole
        assert "location" not in {key.lower() for key, _ in answer.headers}
        assert "set-cookie" not in answer.whole.lower()
        assert "evil" not in answer.body.decode()


@pytest.mark.parametrize("secure", [False, True], ids=["network", "tunnel"])
def test_what_every_answer_carries(still: Scene, secure: bool) -> None:
    """Every answer, refusals too, says that it is nobody's to keep, to frame or to sniff, and
    nothing of what made it.
    """
    guest, stranger = still.guest(secure=secure), still.stranger(secure)
    for answer in (
        stranger.get("gates"), stranger.get(f"{PREFIX}/", accept="text/html"), stranger.enter("x"),
        guest.get("gates"), guest.get(f"{PREFIX}/"), guest.get("nothing"),
        guest.get("gates?limit=x"), guest.get(f"gates/{still.hero}/image/0"),
        guest.post(f"gates/{still.hero}/stop"),
        guest.decide(still.hero, 99), guest.get(f"{PREFIX}/page/approver/approver.js"),
    ):  # fmt: skip
        assert answer.header("cache-control") == "no-store"
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("referrer-policy") == "no-referrer"
        assert "default-src 'none'" in answer.header("content-security-policy")
        assert "unsafe" not in answer.header("content-security-policy")
        for name in ("server", "x-powered-by", "via", "etag", "last-modified"):
            assert answer.header(name) == ""
