"""Every route of either app, called at the wrong door, without a session, or with too little.

The routes are taken from the apps. One that is new fails here until somebody has thought about it,
and has written down what it needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import pytest

from imagegate.gate_bus import GateBus
from imagegate.http.access import KEY_HEADER, HostDoor, KeyDoor
from imagegate.operator.rest import create_app
from imagegate.share.app import create_approver
from imagegate.share.share import Share
from imagegate.storage.links import LinkStore
from imagegate.storage.sql.database import Database
from tests.attacks.scene import API, JSON, PNG, PREFIX, Answer, Operator, Scene, Visitor
from tests.operator.test_api import png

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
NEEDS = {
    (f"{PREFIX}/s/{{token}}", "GET"): "a link",
    (f"{API}/session", "POST"): "a link",
    (f"{API}/session", "DELETE"): "look",
    (f"{API}/me", "GET"): "look",
    (PREFIX, "GET"): "look",
    (f"{PREFIX}/", "GET"): "look",
    (f"{PREFIX}/page/{{name:path}}", "GET"): "look",
    (f"{API}/gates", "GET"): "look",
    (f"{API}/history", "GET"): "look",
    (f"{API}/gates/{{gate_id}}", "GET"): "look",
    (f"{API}/gates/{{gate_id}}/image/{{index}}", "GET"): "look",
    (f"{API}/gates/{{gate_id}}/mask/{{index}}", "GET"): "look",
    (f"{API}/gates/{{gate_id}}/mask/{{index}}", "PUT"): "mask",
    (f"{API}/gates/{{gate_id}}/mask/{{index}}", "DELETE"): "mask",
    (f"{API}/gates/{{gate_id}}/decision", "POST"): "decide",
    (f"{API}/gates/{{gate_id}}/undo", "POST"): "decide",
    (f"{API}/looking", "POST"): "decide",
    (f"{API}/events", "GET"): "look",
}
"""What each call of the approver's door needs: a link that opens, or a session that may."""

OPERATORS = {
    ("/", "GET"), (PREFIX, "GET"), (f"{PREFIX}/page", "*"), (f"{API}/{{rest:path}}", "*"),
    (f"{API}/openapi.json", "GET"), (f"{API}/openapi.json", "HEAD"), (f"{API}/gates", "GET"),
    (f"{API}/history", "GET"), (f"{API}/gates/{{gate_id}}", "GET"),
    (f"{API}/gates/{{gate_id}}/image/{{index}}", "GET"),
    (f"{API}/gates/{{gate_id}}/mask/{{index}}", "GET"),
    (f"{API}/gates/{{gate_id}}/mask/{{index}}", "PUT"),
    (f"{API}/gates/{{gate_id}}/mask/{{index}}", "DELETE"),
    (f"{API}/gates/{{gate_id}}/decision", "POST"), (f"{API}/gates/{{gate_id}}/stop", "POST"),
    (f"{API}/gates/{{gate_id}}/undo", "POST"), (f"{API}/gates/{{gate_id}}/history", "GET"),
    (f"{API}/gates/{{gate_id}}/ask-again", "POST"), (f"{API}/status", "GET"),
    (f"{API}/links", "GET"), (f"{API}/links", "POST"), (f"{API}/qr", "POST"),
    (f"{API}/links/{{link_id}}/reissue", "POST"), (f"{API}/links/{{link_id}}/revoke", "POST"),
    (f"{API}/looking", "POST"), (f"{API}/events", "GET"),
}  # fmt: skip
"""The calls of the operator's door that are not Gradio's."""

USED_OF_GRADIO = re.compile(
    r"/imagegate/((config|static|assets|theme\.css|favicon\.ico|robots\.txt)(/.*)?$|$"
    r"|gradio_api/(run/|upload|upload_progress|file=|queue/(join|data)|heartbeat/|app_id/?$"
    r"|startup-events|theme\.css))"
)
"""What Gradio's page needs at the operator's door; all else that Gradio adds is closed."""

WORDS = (
    "config", "config/", "info", "info/", "file=/etc/passwd", "file/etc/passwd", "file=../a",
    "gradio_api/file=/etc/passwd", "gradio_api/file=/proc/self/environ", "gradio_api/info",
    "gradio_api/upload", "gradio_api/queue/join", "gradio_api/queue/data?session_hash=x",
    "gradio_api/heartbeat/x", "gradio_api/startup-events", "gradio_api/mcp/sse",
    "gradio_api/mcp/schema", "gradio_api/call/save_editor", "gradio_api/run/predict",
    "upload", "queue/join", "queue/data", "queue/status", "heartbeat/x", "theme.css",
    "static/img/logo.svg", "assets/index.js", "svelte/svelte.js", "api_info", "openapi.json",
    "api/openapi.json", "docs", "redoc", "login", "login/google", "logout", "token", "user",
    "mcp", "mcp/sse", "monitoring", "deep_link", "manifest.json", "pwa_icon", "robots.txt",
    "favicon.ico", "proxy=http://127.0.0.1/", "custom_component/x/client/component/index.js",
    "component_server", "reset", "stream/x", "vibe-edit", "api/links", "api/qr", "api/status",
    "api/links/x/revoke", "notices", ".env", ".git/config", "page/panel.js",
    "page/operator/panel.js", "page/operator/records.js",
    "page/operator/operator_gates.js", "page/operator/share/share.js",
    "page/operator/painting.js", "page/operator/", "page/operator/panel.css", "page/",
    "page/shared/", "page/enter.html",
    "page/approver/approver.html", "page/approver/enter.html", "page/approver.js",
    "s/", "s", "admin", "server-status",
)  # fmt: skip
"""Paths that somebody who knows what this is made of would try."""


def routes_of(routes: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Path and method of each route, those of mounted and of included apps too."""
    for route in routes:
        path = prefix + str(getattr(route, "path", ""))
        router = getattr(route, "original_router", None) or getattr(route, "app", None)
        inside = getattr(router, "routes", None)
        if inside and not getattr(route, "methods", None):
            yield from routes_of(inside, path)
        else:
            for method in getattr(route, "methods", None) or ["*"]:
                yield path, method


def links() -> LinkStore:
    return LinkStore(Database("sqlite://", "t"))


def approver_routes() -> list[tuple[str, str]]:
    return list(routes_of(create_approver(GateBus(), links()).routes))


@pytest.fixture(scope="module")
def operator_routes(panel: Operator) -> list[tuple[str, str]]:
    """Those of the panel, and those that REST has over a store."""
    share = Share(GateBus[Any](), links)
    rest = create_app(GateBus(), HostDoor(), dict, cast(Any, object()), share)
    return sorted({*routes_of(panel.app.routes), *routes_of(rest.routes)})


def filled(path: str, scene: Scene) -> str:
    """The path of a route with something in each of its places."""
    path = path.replace("{gate_id}", scene.hero).replace("{index}", "0")
    path = path.replace("{name:path}", "approver/approver.js").replace("{token}", "t" * 43)
    return re.sub(r"\{[^}]*\}", "x", path)


def send(visitor: Visitor, method: str, path: str) -> Answer:
    """A call as whoever made its page would send it."""
    if path == f"{API}/session" and method == "POST":
        return visitor.enter("t" * 43)
    if path.endswith("/decision") and method == "POST":
        return visitor.post(path, {"route": 1})
    if path.endswith("/looking") and method == "POST":
        return visitor.post(path, {"page": "1", "gates": []})
    if method in ("PUT", "PATCH"):
        return visitor.call(method, path, png(), **PNG)
    if method == "POST":
        return visitor.call(method, path, b"{}", **JSON)
    return visitor.call(method, path)


def closed(answer: Answer, *allowed: int) -> None:
    """Refused, and with nothing of any image, person or page in it."""
    assert answer.status in allowed, answer
    for told in ("Hero", "Sky", "Operator", "Ada", "gradio", "<script", "labels"):
        assert told not in answer.body.decode("utf-8", "replace")
    assert "image/" not in answer.header("content-type")
    assert "set-cookie" not in answer.whole.lower()


def test_every_route_of_the_approvers_is_known() -> None:
    """What the approver's app has is what is written down here, call by call."""
    assert sorted(approver_routes()) == sorted(NEEDS)


def test_every_route_of_the_operators_is_known(operator_routes: list[tuple[str, str]]) -> None:
    """What the operator's app has beside Gradio's is what is written down here, call by call."""
    gradio = re.compile(
        r"/imagegate/(?!api/|page$)|/imagegate$"  # mounted there; its own routes are walked below
    )
    assert {route for route in operator_routes if not gradio.match(route[0])} == {
        route for route in OPERATORS if not gradio.match(route[0])
    }
    assert len(operator_routes) > len(OPERATORS) + 20, "Gradio's routes were not found"


@pytest.mark.parametrize("secure", [False, True], ids=["network", "tunnel"])
@pytest.mark.parametrize("path", sorted({path for path, _ in NEEDS}))
def test_a_call_without_a_session(still: Scene, path: str, secure: bool) -> None:
    """Without a session every method of every route is refused, as if there were no other."""
    stranger = still.stranger(secure, source="127.0.0.9")
    for method in METHODS:
        answer = send(stranger, method, filled(path, still))
        if NEEDS.get((path, method)) == "a link":
            closed(answer, 403, 429)
        elif path.endswith("/s/{token}") and method == "HEAD":
            closed(answer, 405)
        else:
            closed(answer, 401)


@pytest.mark.parametrize(
    ("may", "path", "method"),
    [
        (may, *call)
        for may, lacks in (("look", ("decide", "mask")), ("decide", ("mask",)))
        for call, need in NEEDS.items()
        if need in lacks
    ],
)
def test_a_call_with_too_little(scene: Scene, path: str, method: str, may: str) -> None:
    """A session that may look only, or only decide, changes nothing beyond that by any call."""
    guest = scene.guest(may)
    before = scene.state()
    assert send(guest, method, filled(path, scene)).status == 403
    assert scene.state() == before


@pytest.mark.parametrize("path", sorted({path for path, _ in NEEDS}))
def test_a_method_that_is_none(still: Scene, path: str) -> None:
    """With a session, too, a route takes the methods that are written down here and no other."""
    guest = still.guest()
    for method in METHODS:
        if (path, method) not in NEEDS:
            answer = guest.call(method, filled(path, still))
            assert answer.status in (405, 415), (method, answer)
            assert "Hero" not in answer.whole


def test_the_operators_calls_at_the_approvers_door(
    still: Scene, operator_routes: list[tuple[str, str]]
) -> None:
    """No call of the operator's app, and none that Gradio adds to it, is there at the approver's
    door, with a session or without.
    """
    guest, stranger = still.guest(), still.stranger(source="127.0.0.10")
    tried = 0
    for path, method in operator_routes:
        if (path, method) in NEEDS:
            continue
        for verb in METHODS if method == "*" else (method,):
            where = filled(path, still)
            closed(send(stranger, verb, where), 401)
            if not path.startswith(f"{PREFIX}/page"):
                closed(send(guest, verb, where), 401, 404, 405)
            tried += 1
    assert tried > 60


@pytest.mark.parametrize("path", WORDS)
def test_a_path_that_somebody_tries(still: Scene, path: str) -> None:
    """A path that is Gradio's, a framework's or the operator's leads nowhere at the approver's
    door, below the prefix or not.
    """
    guest, stranger = still.guest(), still.stranger(source="127.0.0.11")
    for where in (f"{PREFIX}/{path}", f"/{path}", f"{PREFIX}/api/{path}"):
        closed(stranger.get(where), 401)
        closed(stranger.call("POST", where, b"{}", **JSON), 401)
        closed(guest.get(where), 404, 405)
        closed(guest.call("POST", where, b"{}", **JSON), 404, 405)


def test_what_gradio_adds_at_the_operators_door(
    still: Scene, operator: Visitor, operator_routes: list[tuple[str, str]]
) -> None:
    """Of what Gradio adds to the operator's app only what its page needs is open, and nothing that
    would list or call its events.
    """
    refused = 0
    for path, method in operator_routes:
        where = filled(path, still)
        if method == "*" or (path, method) in OPERATORS or USED_OF_GRADIO.match(where):
            continue
        answer = send(operator, method, where)
        assert answer.status in (404, 405), (path, method, answer)
        refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/passwd", "gradio_api/file=/proc/self/environ",
        "gradio_api/file=../../../../etc/passwd", "gradio_api/file=%2fetc%2fpasswd",
        "gradio_api/file=C:/Windows/win.ini", "gradio_api/file=file:///etc/passwd",
        "gradio_api/file=//evil.example/x", "static/../../../../../etc/passwd",
        "static/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "assets/..%2f..%2f..%2fetc/passwd",
        "page/../access.py", "page/%2e%2e/access.py", "page/..%2faccess.py",
        "page//etc/passwd", "page/%2fetc%2fpasswd", "page/..%5caccess.py",
        "//gradio_api/info", "gradio_api//info", "%67radio_api/info", "gradio_api/info%00",
    ],
)  # fmt: skip
def test_a_file_at_the_operators_door(operator: Visitor, path: str) -> None:
    """No path at the operator's door, however it is written, leads to a file that is not its
    page's.
    """
    answer = operator.get(f"{PREFIX}/{path}")
    assert answer.status in (403, 404), answer
    assert "root:" not in answer.whole
    assert "PATH=" not in answer.whole
    assert "Who is asking" not in answer.whole


# -- the other way round


def test_a_link_at_the_operators_door(still: Scene, operator: Visitor) -> None:
    """A share link's address is nothing at the operator's door, nor can a session begin there."""
    _, token = still.link()
    for method in ("GET", "HEAD", "POST"):
        assert operator.call(method, f"{PREFIX}/s/{token}").status in (404, 405)
    for method in ("POST", "DELETE", "GET"):
        answer = operator.call(method, "session", {"token": token})
        assert answer.status in (404, 405)
        assert "set-cookie" not in answer.whole.lower()
    assert operator.get("me").status == 404


def test_a_session_at_the_operators_door(still: Scene, operator: Visitor) -> None:
    """A session's cookie makes nobody anything at the operator's door: who comes under a name that
    is not the server's stays out.
    """
    guest = still.guest()
    rebound = Visitor(operator.port, {**guest.headers, "host": "evil.example"})
    assert rebound.get("gates").status == 403
    assert rebound.get("links").status == 403


def test_a_session_at_comfyuis_key_door(still: Scene) -> None:
    """Neither a session nor a token opens the port that belongs to ComfyUI."""
    from starlette.testclient import TestClient

    _, token = still.link()
    secret = still.opened(token).headers["cookie"].partition("=")[2]
    app = create_app(still.bus, KeyDoor("k" * 32))
    with TestClient(app, base_url="http://localhost") as client:
        for given in (
            {"cookie": f"imagegate={secret}"}, {"cookie": f"__Host-imagegate={secret}"},
            {KEY_HEADER: secret}, {KEY_HEADER: token}, {KEY_HEADER: ""},
        ):  # fmt: skip
            assert client.get(f"{API}/gates", headers=given).status_code == 403
        assert client.get(f"{API}/gates", headers={KEY_HEADER: "k" * 32}).status_code == 200


def test_the_operators_page_is_not_in_the_approvers(still: Scene) -> None:
    """No file that the approver's door serves holds a control, or a call, of the operator's."""
    guest = still.guest()
    page = guest.get(f"{PREFIX}/").whole
    names = ["approver/approver.js", "approver/approver.css", "shared/gates.js", "shared/sender.js"]
    files = [guest.get(f"{PREFIX}/page/{name}") for name in names]
    assert all(answer.status == 200 for answer in files)
    for text in (page, *(answer.whole for answer in files)):
        for word in ('ig-stop"', "ig-share", "/stop", "ask-again", "api/links", "api/status"):
            assert word not in text
