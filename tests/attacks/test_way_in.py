"""Links and sessions that are none, no longer, or somebody else's."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from imagegate.core.links import Link
from tests.attacks.scene import API, PREFIX, Answer, Scene, Visitor, connect, raw, statuses, stream
from tests.operator.test_api import png
from tests.support.stored import PATIENCE

Tamper = Callable[[str, Link], str]

TAMPERED: dict[str, Tamper] = {
    "another-character": lambda token, _: token[:-1] + ("A" if token[-1] != "A" else "E"),
    "first-character": lambda token, _: ("B" if token[0] != "B" else "C") + token[1:],
    "one-short": lambda token, _: token[:-1],
    "one-long": lambda token, _: token + "A",
    "base64-padding": lambda token, _: token + "=",
    "other-case": lambda token, _: token.swapcase(),
    "reversed": lambda token, _: token[::-1],
    "space-after": lambda token, _: token + " ",
    "nul-after": lambda token, _: token + "\0",
    "half-a-character": lambda token, _: token + "\ud800",
    "full-width": lambda token, _: "".join(chr(ord(c) + 0xFEE0) for c in token),
    "its-hash": lambda token, _: hashlib.sha256(token.encode()).hexdigest(),
    "the-id": lambda _, link: link.id,
    "the-name": lambda _, link: link.name,
    "nothing": lambda *_: "",
    "sql": lambda *_: "' OR 1=1 --",
    "sql-wildcard": lambda *_: "%",
    "template": lambda *_: "__LINK__",
    "long": lambda *_: "A" * 60_000,
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_tampered_token(scene: Scene, how: str) -> None:
    """A token that was changed opens nothing, and does not use the true one up."""
    link, token = scene.link(once=True)
    tampered = TAMPERED[how](token, link)
    answer = scene.stranger().enter(tampered)
    assert answer.status == (413 if how == "long" else 403)
    assert "set-cookie" not in answer.whole.lower()
    assert token not in answer.whole
    assert scene.stranger().enter(token).status == 200


@pytest.mark.parametrize(
    "token", [None, 0, True, [], ["x"], {"$ne": ""}, {"$gt": ""}, 1e999, "__TRUE__"],
    ids=["null", "zero", "true", "list", "texts", "not-equal", "greater", "infinity", "twice"],
)  # fmt: skip
def test_a_token_of_another_kind(scene: Scene, token: Any) -> None:
    """A token that is no text, or is given twice, opens nothing."""
    _, true = scene.link(once=True)
    if token == "__TRUE__":
        body: Any = f'{{"token": "{true}", "token": "x"}}'.encode()
        answer = scene.stranger().post("session", body, content_type="application/json")
        assert answer.status == 403
    else:
        assert scene.stranger().post("session", {"token": token}).status == 422
    assert scene.stranger().enter(true).status == 200


@pytest.mark.parametrize("more", ["name", "may", "scope", "link", "once", "expires_at", "reach"])
def test_a_right_that_one_gives_oneself(scene: Scene, more: str) -> None:
    """What a link may do cannot be sent along when it is opened."""
    _, token = scene.link(may="look", once=True)
    body = {"token": token, more: "mask"}
    assert scene.stranger().post("session", body).status == 422
    assert scene.opened(token).get("me").json()["may"] == "look"


ENDS: dict[str, Callable[[Scene, Link, Visitor], object]] = {
    "revoked": lambda scene, link, _: scene.links.revoke(link.id),
    "expired": lambda scene, link, _: scene.expire(link),
    "left": lambda _, __, guest: guest.call("DELETE", "session"),
}


@pytest.mark.parametrize("how", ENDS)
def test_a_cookie_after_its_end(scene: Scene, how: str) -> None:
    """The cookie of a link that was revoked, has expired or was left opens nothing any more."""
    link, token = scene.link()
    guest = scene.opened(token)
    assert guest.get("gates").status == 200
    ENDS[how](scene, link, guest)
    before = scene.state()
    for answer in (
        guest.get(f"{PREFIX}/"), guest.get("me"), guest.get("gates"), guest.get("events"),
        guest.get(f"gates/{scene.hero}/image/0"), guest.decide(scene.hero),
        guest.paint(scene.hero, png()), guest.post(f"gates/{scene.done}/undo"),
    ):  # fmt: skip
        assert answer.status == 401
        assert "Hero" not in answer.whole
    assert scene.state() == before


@pytest.mark.parametrize("how", ["revoked", "expired"])
@pytest.mark.parametrize("call", ["page", "session"])
def test_an_address_after_its_end(scene: Scene, how: str, call: str) -> None:
    """The address of a link that has ended opens nothing, and says no name."""
    link, token = scene.link(name="Secret Person")
    ENDS[how](scene, link, scene.stranger())
    stranger = scene.stranger()
    answer = stranger.enter(token) if call == "session" else stranger.get(f"{PREFIX}/s/{token}")
    assert answer.status == 403
    assert "Secret Person" not in answer.whole
    assert "set-cookie" not in answer.whole.lower()


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_an_open_page_goes_dark(scene: Scene, how: str) -> None:
    """An open page hears at once that its link has ended, and nothing after that."""
    link, token = scene.link()
    guest = scene.opened(token)
    with stream(guest) as events:
        assert next(events)[0] == "reload"
        ENDS[how](scene, link, guest)
        scene.ask(title="Too late for them")
        told = list(events)
    assert told[-1][0] == "over"
    assert link.name not in str(told)
    assert "Too late" not in str(told)


def test_a_link_for_one_used_in_another_browser(scene: Scene) -> None:
    """A link that was opened opens in no other browser, and its page is not shown there."""
    _, token = scene.link(once=True)
    first = scene.opened(token)
    other = scene.stranger()
    assert other.enter(token).status == 403
    answer = other.get(f"{PREFIX}/s/{token}")
    assert answer.status == 403
    assert "Ada" not in answer.whole
    assert first.get("me").status == 200


def test_a_link_for_one_in_many_browsers_at_once(scene: Scene) -> None:
    """Of sixteen browsers that open a link for one at the same moment, one gets in."""
    _, token = scene.link(once=True)
    stranger = scene.stranger()
    barrier, got = threading.Barrier(16), list[int]()

    def enter() -> None:
        barrier.wait()
        got.append(stranger.enter(token).status)

    threads = [threading.Thread(target=enter) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(got) == [200] + [403] * 15


def test_the_old_address_after_a_new_one(scene: Scene) -> None:
    """Once a link has a new address the old one opens nothing, not even its page."""
    link, old = scene.link(once=True)
    _, new = scene.links.reissue(link.id)
    scene.secrets.append(new)
    stranger = scene.stranger()
    assert stranger.enter(old).status == 403
    assert stranger.get(f"{PREFIX}/s/{old}").status == 403
    assert stranger.enter(new).status == 200


@pytest.mark.parametrize("passphrase", ["", "Sesame", "sesame ", "sesam", "s" * 5000, "sesame\0"])
def test_a_link_without_its_passphrase(scene: Scene, passphrase: str) -> None:
    """A token alone does not open a link that has a passphrase, and does not use it up."""
    _, token = scene.link(once=True, passphrase="sesame")
    refused = 413 if len(passphrase) > 4096 else 403
    assert scene.stranger().enter(token, passphrase).status == refused
    assert scene.stranger().enter(token, "sesame").status == 200


@pytest.mark.parametrize("may", ["look", "decide", "mask"])
def test_a_link_of_the_network_through_the_tunnel(scene: Scene, may: str) -> None:
    """A link that is for the network only opens nothing that comes through the tunnel, neither by
    its token nor by a session that it has in the network.
    """
    _, token = scene.link(reach="network", may=may)
    home = scene.opened(token)
    outside = scene.stranger(secure=True)
    assert outside.enter(token).status == 403
    assert outside.get(f"{PREFIX}/s/{token}").status == 403
    secret = home.headers["cookie"].partition("=")[2]
    stolen = scene.stranger(secure=True, cookie=f"__Host-imagegate={secret}")
    assert stolen.get("gates").status == 401
    assert home.get("gates").status == 200


# -- a request that was let in before the end, and goes on after it


def held_back(guest: Visitor, method: str, path: str, kind: str, body: bytes) -> socket.socket:
    """A request of which only the last byte is missing, let in already."""
    peer = connect(guest.port)
    peer.sendall(
        f"{method} {API}/{path} HTTP/1.1\r\nHost: door\r\nCookie: {guest.headers['cookie']}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        .encode()
    )  # fmt: skip
    assert peer.recv(65536).startswith(b"HTTP/1.1 100 ")  # the app waits for the body
    peer.sendall(body[:-1])
    return peer


@pytest.mark.parametrize("how", ["revoked", "expired", "left"])
@pytest.mark.parametrize("what", ["decision", "mask", "undo"])
def test_a_body_held_back_until_after_the_end(scene: Scene, what: str, how: str) -> None:
    """Who sends all but the last byte of an answer, and that one after the link has ended, changes
    nothing.
    """
    link, token = scene.link()
    guest = scene.opened(token)
    guest.decide(scene.twin)
    json = "application/json"
    peer = {
        "decision": lambda: held_back(
            guest, "POST", f"gates/{scene.hero}/decision", json, b'{"route": 1}'
        ),
        "mask": lambda: held_back(guest, "PUT", f"gates/{scene.hero}/mask/0", "image/png", png()),
        "undo": lambda: held_back(guest, "POST", f"gates/{scene.twin}/undo", json, b"{}"),
    }[what]()
    ENDS[how](scene, link, guest)
    before = scene.state()
    last = {"decision": b"}", "mask": png()[-1:], "undo": b"}"}[what]
    with peer:
        peer.sendall(last)
        assert peer.recv(65536).startswith(b"HTTP/1.1 401 ")
    assert scene.state() == before


def test_a_picture_queued_until_after_the_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture that is asked for before a link ends is not given once it has ended."""
    link, token = scene.link()
    guest, other = scene.opened(token), scene.guest()
    begun, go = threading.Event(), threading.Event()
    pictures = scene.bus.pictures(scene.sky)
    full = pictures.full

    def slow(index: int) -> Any:
        begun.set()
        assert go.wait(PATIENCE)
        return full(index)

    monkeypatch.setattr(pictures, "full", slow)
    answers: dict[int, Answer] = {}

    def look(index: int) -> None:
        answers[index] = other.get(f"gates/{scene.sky}/image/{index}?size=full")

    first = threading.Thread(target=look, args=(0,))
    first.start()
    assert begun.wait(PATIENCE)
    with connect(guest.port) as peer:  # one makes these at a time: this one has to wait
        peer.sendall(
            f"GET {API}/gates/{scene.sky}/image/1?size=full HTTP/1.1\r\nHost: door\r\n"
            f"Cookie: {guest.headers['cookie']}\r\nConnection: close\r\n\r\n".encode()
        )
        assert guest.get("me").status == 200  # it was let in, too, by now
        scene.links.revoke(link.id)
        go.set()
        first.join(PATIENCE)
        got = b""
        while piece := peer.recv(65536):
            got += piece
    assert answers[0].status == 200  # being made already
    assert got.startswith(b"HTTP/1.1 401 ")


# -- session fixation, and what is no session


def test_a_session_chosen_by_somebody_else(scene: Scene) -> None:
    """A cookie that was planted before a link is opened is not adopted, but a new one made."""
    _, token = scene.link()
    planted = scene.stranger(cookie="imagegate=planted-by-somebody")
    answer = planted.enter(token)
    assert answer.status == 200
    assert "planted" not in answer.whole
    assert planted.get("me").status == 401


def test_a_session_of_the_attacker_s_own_link(scene: Scene) -> None:
    """Who opens a link in a browser with another link's session gets their own session, and the
    one that was planted is over.
    """
    attacker = scene.guest(name="Mallory")
    _, token = scene.link(name="Ada")
    victim = scene.stranger(cookie=attacker.headers["cookie"])
    answer = victim.enter(token)
    cookie = answer.header("set-cookie").partition(";")[0]
    assert cookie != attacker.headers["cookie"]
    assert scene.stranger(cookie=cookie).get("me").json()["name"] == "Ada"
    assert attacker.get("me").status == 401


def test_each_opening_is_a_session_of_its_own(scene: Scene) -> None:
    """Opening the same link again, in the same browser, makes a new secret; the old one is over."""
    _, token = scene.link()
    first = scene.opened(token)
    answer = first.enter(token)
    assert answer.status == 200
    assert answer.header("set-cookie").partition(";")[0] != first.headers["cookie"]
    assert first.get("me").status == 401


@pytest.mark.parametrize(
    "cookie",
    [
        "imagegate={}",
        "__Host-ImageGate={}",
        "__Secure-imagegate={}",
        " __Host-imagegate ={}; imagegate={}",
        "x=1, __Host-imagegate={}",
        "$Version=1; imagegate={}; $Path=/",
    ],
    ids=["parent-domain", "other-case", "secure-only", "both", "comma", "rfc-2109"],
)
def test_a_cookie_of_another_name_over_https(scene: Scene, cookie: str) -> None:
    """Over HTTPS only the cookie that no other host can set is looked at."""
    guest = scene.guest(secure=True)
    secret = guest.headers["cookie"].partition("=")[2]
    assert guest.get("me").status == 200
    tossed = cookie.replace("{}", secret)
    if cookie.startswith(" __Host"):
        tossed = f"imagegate={secret}; __Host-imagegate=wrong"
    assert scene.stranger(secure=True, cookie=tossed).get("me").status == 401


def test_a_tossed_cookie_beside_the_true_one(scene: Scene) -> None:
    """Over HTTPS a cookie that another host planted beside the true one changes nothing."""
    guest, attacker = scene.guest(secure=True), scene.guest(name="Mallory", secure=True)
    planted = attacker.headers["cookie"].partition("=")[2]
    both = f"imagegate={planted}; {guest.headers['cookie']}; imagegate={planted}"
    assert scene.stranger(secure=True, cookie=both).get("me").json()["name"] == "Ada"


def test_the_cookie_of_the_tunnel_in_the_network(scene: Scene) -> None:
    """The tunnel's cookie opens nothing at the network's port."""
    guest = scene.guest(secure=True)
    assert scene.stranger(cookie=guest.headers["cookie"]).get("me").status == 401


@pytest.mark.parametrize("secure", [False, True], ids=["network", "tunnel"])
def test_what_the_cookie_is(scene: Scene, secure: bool) -> None:
    """No script can read a session's cookie, no other site's form sends it, and over HTTPS neither
    another host can set it nor a plain connection carry it; it ends with its link.
    """
    link, token = scene.link(seconds=3600)
    header = scene.stranger(secure).enter(token).header("set-cookie")
    name, *attributes = [part.strip() for part in header.split(";")]
    given = {part.partition("=")[0].lower(): part.partition("=")[2] for part in attributes}
    assert "httponly" in given
    assert given["samesite"].lower() in ("lax", "strict")
    assert 3590 <= int(given["max-age"]) <= 3600
    assert "domain" not in given
    assert name.startswith("__Host-imagegate=" if secure else "imagegate=")
    assert ("secure" in given) is secure
    assert given["path"] == ("/" if secure else PREFIX)
    assert link.id not in header


PLACES: dict[str, Callable[[Visitor, str], Answer]] = {
    "query": lambda visitor, it: visitor.get(f"gates?imagegate={it}&session={it}&token={it}"),
    "fragment": lambda visitor, it: visitor.get(f"gates#{it}"),
    "path": lambda visitor, it: visitor.get(f"{PREFIX}/{it}/api/gates"),
    "matrix": lambda visitor, it: visitor.get(f"gates;imagegate={it}"),
    "bearer": lambda visitor, it: visitor.get("gates", authorization=f"Bearer {it}"),
    "basic": lambda visitor, it: visitor.get("gates", authorization=f"Basic {it}"),
    "x-header": lambda visitor, it: visitor.get("gates", x_imagegate=it, x_session=it),
    "key-header": lambda visitor, it: visitor.get("gates", x_imagegate_key=it),
    "cookie2": lambda visitor, it: visitor.get("gates", cookie2=f"imagegate={it}"),
    "set-cookie": lambda visitor, it: visitor.get("gates", set_cookie=f"imagegate={it}"),
    "body": lambda visitor, it: visitor.call("GET", "gates", {"imagegate": it, "token": it}),
    "user": lambda visitor, it: visitor.get("gates", host=f"{it}@127.0.0.1"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", ["secret", "token"])
def test_a_session_in_another_place(scene: Scene, place: str, what: str) -> None:
    """A session's secret, or a link's token, is taken nowhere but where it belongs."""
    _, token = scene.link()
    guest = scene.opened(token)
    secret = guest.headers["cookie"].partition("=")[2]
    assert PLACES[place](scene.stranger(), secret if what == "secret" else token).status == 401
    assert guest.get("gates").status == 200


@pytest.mark.parametrize("what", ["token", "id", "hash", "empty", "quoted-empty", "sql", "long"])
def test_a_cookie_that_is_no_session(scene: Scene, what: str) -> None:
    """A cookie that holds anything but a session's secret opens nothing."""
    link, token = scene.link()
    guest = scene.opened(token)
    secret = guest.headers["cookie"].partition("=")[2]
    value = {
        "token": token, "id": link.id, "hash": hashlib.sha256(secret.encode()).hexdigest(),
        "empty": "", "quoted-empty": '""', "sql": "' OR '1'='1", "long": "A" * 10_000,
    }[what]  # fmt: skip
    assert scene.stranger(cookie=f"imagegate={value}").get("gates").status == 401
    assert guest.get("gates").status == 200


def test_one_session_is_not_another_s_way_out(scene: Scene) -> None:
    """Leaving ends one's own session only."""
    one, two = scene.guest(), scene.guest(name="Ben")
    assert one.call("DELETE", "session").status == 204
    assert two.get("me").status == 200
    assert scene.stranger().call("DELETE", "session").status == 401


# -- what replays


def test_a_click_replayed_after_undo(scene: Scene) -> None:
    """A decision that was recorded on its way and is sent again after an undo does not count."""
    guest = scene.guest()
    assert guest.decide(scene.hero, 1, key="click-1").json() == {"outcome": "won"}
    assert guest.post(f"gates/{scene.hero}/undo").status == 200
    assert guest.decide(scene.hero, 1, key="click-1").json() == {"outcome": "replay"}
    assert scene.bus.get(scene.hero).decision is None
    assert guest.decide(scene.hero, 1, key="click-2").json() == {"outcome": "won"}


@pytest.mark.parametrize("key", ["", "click-1"], ids=["without-key", "with-its-key"])
def test_a_click_replayed_by_another_link(scene: Scene, key: str) -> None:
    """A decision sent again through another link does not change whose it is."""
    one, two = scene.guest(name="Ada"), scene.guest(name="Ada")
    assert one.decide(scene.hero, 1, key=key or "own").status == 200
    answer = two.decide(scene.hero, 2, key=key)
    decision = scene.bus.get(scene.hero).decision
    assert (decision.route, decision.link) == (1, one.get("me").json()["link"])
    assert (answer.status, answer.json()["outcome"]) == (409, "lost")
    assert answer.json()["decision"]["mine"] is False
    assert two.post(f"gates/{scene.hero}/undo").status == 403


def test_a_mask_replayed_after_the_decision(scene: Scene) -> None:
    """A mask that is sent again after the decision changes nothing."""
    guest = scene.guest()
    assert guest.paint(scene.hero, png()).status == 200
    guest.decide(scene.hero)
    before = scene.state()
    assert guest.paint(scene.hero, png(color=0)).status == 409
    assert guest.call("DELETE", f"gates/{scene.hero}/mask/0").status == 409
    assert scene.state() == before


def test_an_undo_replayed(scene: Scene) -> None:
    """An undo sent again, after somebody else's answer, takes nothing back."""
    guest = scene.guest()
    guest.decide(scene.hero)
    assert guest.post(f"gates/{scene.hero}/undo").status == 200
    scene.bus.decide(scene.hero, 2, by="Operator")
    assert guest.post(f"gates/{scene.hero}/undo").status == 403
    assert scene.bus.get(scene.hero).decision.route == 2


# -- link previewers and mail scanners

PREVIEWERS = {
    "slack": "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "whatsapp": "WhatsApp/2.23.20.0",
    "facebook": "facebookexternalhit/1.1",
    "teams": "Mozilla/5.0 (Windows NT 6.1; WOW64) SkypeUriPreview Preview/0.5",
    "outlook": "Mozilla/5.0 (compatible; Microsoft Outlook SafeLinks)",
    "google": "Mozilla/5.0 (compatible; Google-InspectionTool/1.0)",
}


@pytest.mark.parametrize("agent", PREVIEWERS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_link_previewer(scene: Scene, method: str, agent: str) -> None:
    """However often a previewer looks at a link, it is not used up, nobody was seen, and nothing
    was decided.
    """
    link, token = scene.link(once=True)
    before = scene.state()
    scanner = scene.stranger(user_agent=PREVIEWERS[agent], accept="text/html,*/*")
    for _ in range(8):
        answer = scanner.call(method, f"{PREFIX}/s/{token}")
        assert answer.status in (200, 401, 405)
        assert "set-cookie" not in answer.whole.lower()
    now = scene.links.get(link.id)
    assert (now.opened, now.seen_at) == (0, None)
    assert scene.state() == before
    assert scene.stranger().enter(token).status == 200


def test_a_page_that_a_previewer_keeps(scene: Scene) -> None:
    """What a previewer may keep of a link names no image, and is neither kept nor indexed."""
    _, token = scene.link()
    answer = scene.stranger().get(f"{PREFIX}/s/{token}")
    assert answer.status == 200
    assert "Hero" not in answer.whole
    assert "og:" not in answer.whole
    assert answer.header("cache-control") == "no-store"
    assert "noindex" in answer.header("x-robots-tag")
    assert "referrer" in answer.whole


def test_prefetching_decides_nothing(scene: Scene) -> None:
    """A browser that fetches ahead all that a page could lead to changes nothing."""
    guest = scene.guest()
    before = scene.state()
    for path in ("decision", "undo", "stop", "mask/0", "decision?route=1", "undo?x=1"):
        answer = guest.get(f"gates/{scene.hero}/{path}", sec_purpose="prefetch")
        assert answer.status in (204, 404, 405)
    assert guest.get("session").status == 405
    assert scene.state() == before


def test_a_head_that_never_becomes_a_request(scene: Scene) -> None:
    """Half a request that names a token opens nothing."""
    link, token = scene.link(once=True)
    sent = f"POST {API}/session HTTP/1.1\r\nHost: door\r\nContent-Type: application/json\r\n"
    sent += f'Content-Length: 400\r\n\r\n{{"token": "{token}"}}'
    assert 200 not in statuses(raw(scene.ports[False], sent.encode()))
    assert scene.links.get(link.id).opened == 0
