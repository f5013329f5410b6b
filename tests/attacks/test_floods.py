"""Too much of everything: guesses, streams, connections, nested bodies."""

from __future__ import annotations

import http.client
import io
import json
import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from PIL import Image

from imagegate.core.links import NoEntry
from imagegate.http.access import Body, Refused
from imagegate.http.sockets.listener import Listener
from imagegate.http.under_way import UnderWay
from imagegate.share.app import STREAMS
from imagegate.share.limits import Pace
from imagegate.storage.queries import passphrases as passphrases_module
from imagegate.storage.queries.passphrases import WRONG
from tests.attacks.scene import (
    API,
    GUEST,
    HOME,
    PREFIX,
    STRANGER,
    Operator,
    Scene,
    Visitor,
    connect,
    raw,
    statuses,
    stream,
)
from tests.support.stored import PATIENCE

EVIL = "127.0.0.66"
GUESSES = 60
SLOW, LOCK = (count for count, _ in WRONG)
"""Wrong passphrases in a minute, and in an hour."""


def at_once(call: Callable[[int], Any], count: int = GUESSES, threads: int = 12) -> Counter[Any]:
    """What came of so many calls, made as fast as can be."""
    left, got, lock = iter(range(count)), Counter[Any](), threading.Lock()

    def go() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            result = call(number)
            with lock:
                got[result] += 1

    going = [threading.Thread(target=go) for _ in range(threads)]
    for thread in going:
        thread.start()
    for thread in going:
        thread.join(6 * PATIENCE)
    return got


@pytest.mark.parametrize("secure", [False, True], ids=["network", "tunnel"])
@pytest.mark.parametrize("call", ["session", "page", "both"])
def test_guessing_tokens_at_full_speed(
    scene: Scene, caplog: pytest.LogCaptureFixture, call: str, secure: bool
) -> None:
    """However many wrong tokens come from a source, and be they five hundred, a true one opens from
    there, a browser that is in stays in, and nothing of it is in the log.
    """
    guest = scene.guest(secure=secure)
    _, token = scene.link(passphrase="sesame")
    stranger = scene.stranger(secure, source=EVIL)

    def guess(number: int) -> int:
        token = f"guess-{number}-".ljust(43, "x")
        if call == "session" or (call == "both" and number % 2):
            return stranger.enter(token).status
        return stranger.get(f"{PREFIX}/s/{token}").status

    count = 500 if call == "page" else GUESSES
    assert at_once(guess, count) == {403: count}
    assert stranger.get(f"{PREFIX}/s/{token}").status == 200
    assert stranger.enter(token, "sesame").status == 200
    assert guest.get("gates").status == 200
    assert "guess-" not in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_images_on_a_foreign_page(scene: Scene) -> None:
    """A page anywhere that loads wrong addresses as images, in the browser of somebody whose link
    it is, keeps neither them nor anybody else out.
    """
    _, token = scene.link()
    browser = scene.stranger(source=GUEST, sec_fetch_dest="image", sec_fetch_site="cross-site")
    for path in ("x", "y" * 43, "x") * 25:
        assert browser.get(f"{PREFIX}/s/{path}").status == 403
    assert scene.stranger(source=GUEST).enter(token).status == 200


def test_guessing_a_passphrase_for_an_hour(scene: Scene) -> None:
    """Who waits for each minute to pass is kept out by the count of the hour all the same, and so
    is the true passphrase; when the hour is over it opens.
    """
    _, token = scene.link(passphrase="sesame")
    stranger = scene.stranger(source=EVIL)
    got = []
    for _ in range(6):
        got += [stranger.enter(token, "guess").status for _ in range(SLOW + 1)]
        later(scene, 61)
    assert (got.count(403), got.count(429)) == (LOCK, 6 * (SLOW + 1) - LOCK)
    answer = scene.stranger(source=GUEST).enter(token, "sesame")
    assert answer.status == 429
    assert 0 < int(answer.header("retry-after")) <= 3600
    later(scene, 3600)
    assert scene.stranger(source=GUEST).enter(token, "sesame").status == 200


def later(scene: Scene, seconds: float) -> None:
    """So much time passes since the passphrases that were wrong."""
    with scene.links.database.write() as connection:
        connection.exec_driver_sql("UPDATE wrong_passphrases SET at = at - ?", (seconds,))


@pytest.mark.parametrize(
    "claim", ["x-forwarded-for", "x-real-ip", "forwarded", "client-ip", "cf-connecting-ip", "via"]
)
def test_a_guesser_who_claims_to_be_many(scene: Scene, claim: str) -> None:
    """No header gives a guesser of passphrases a count of their own anew."""
    _, token = scene.link(passphrase="sesame")
    stranger = scene.stranger(source=EVIL)

    def guess(number: int) -> int:
        value = f"10.0.0.{number}"
        given = {claim: f"for={value}" if claim == "forwarded" else value}
        return stranger.enter(token, f"guess {number}", **given).status

    assert at_once(guess, 20) == {403: SLOW, 429: 20 - SLOW}


def test_guessing_a_passphrase_at_full_speed(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of passphrases that are guessed at full speed, from one source or from many, no more are
    compared than may be wrong in a minute for that link; the log names link and source, and no
    passphrase; other links open.
    """
    compared: list[str] = []
    same = passphrases_module._same
    monkeypatch.setattr(
        passphrases_module, "_same", lambda given, kept: compared.append(given) or same(given, kept)
    )
    link, token = scene.link(passphrase="sesame")
    _, other = scene.link(name="Ben")

    def guess(number: int) -> int:
        visitor = scene.stranger(source=f"127.0.1.{number}")
        return visitor.enter(token, f"guess {number}").status

    assert at_once(guess) == {403: SLOW, 429: GUESSES - SLOW}
    assert len(compared) == SLOW
    assert scene.stranger(source=GUEST).enter(token, "sesame").status == 429
    assert scene.stranger(source=GUEST).enter(other).status == 200
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warned) == SLOW
    assert all(link.id in message and "127.0.1." in message for message in warned)
    assert "guess " not in caplog.text


def test_true_passphrases_are_no_wrong_ones(scene: Scene) -> None:
    """A link for several browsers opens for any number of people who know its passphrase, also
    when they come at the same moment.
    """
    _, token = scene.link(passphrase="sesame")
    assert at_once(lambda _: scene.stranger().enter(token, "sesame").status, 30) == {200: 30}


def test_guessing_at_both_doors_at_once(scene: Scene) -> None:
    """Two ports serve the same app in loops of their own: attempts, and pictures, that come to
    both at once are all answered, one count holds for a link, and nothing fails.
    """
    _, token = scene.link(passphrase="sesame")
    guests = [scene.guest(secure=secure) for secure in (False, True)]

    def call(number: int) -> tuple[str, int]:
        secure = bool(number % 2)
        if number % 3 == 0:
            return "guess", scene.stranger(secure, source=f"127.0.2.{number}").enter(
                token, f"guess {number}"
            ).status  # fmt: skip
        size = ("preview", "zoom", "full")[number % 3]
        for _ in range(1000):
            status = guests[secure].get(f"gates/{scene.hero}/image/0?size={size}").status
            if status != 429:  # one link gets a few at a time
                break
        return "look", status

    got = at_once(call, 90, threads=24)
    assert got["look", 200] == 60
    assert got["guess", 403] == SLOW
    assert got["guess", 429] == 30 - SLOW


def test_true_tokens_of_ended_links_are_no_guesses(scene: Scene) -> None:
    """Somebody who comes back to a link that has ended is told so, and is not kept out."""
    link, token = scene.link()
    scene.links.revoke(link.id)
    stranger = scene.stranger(source=EVIL)
    assert {stranger.enter(token).status for _ in range(LOCK + 1)} == {403}
    _, token = scene.link()
    assert stranger.enter(token).status == 200


def test_session_secrets_guessed_at_full_speed(scene: Scene) -> None:
    """A guessed cookie opens nothing, however many are sent, and who is in notices nothing."""
    guest = scene.guest()
    port = scene.ports[False]
    got = at_once(
        lambda n: Visitor(port, {"cookie": f"imagegate={n:043d}"}, EVIL).get("gates").status, 200
    )
    assert got == {401: 200}
    assert guest.get("gates").status == 200


# -- streams


@pytest.mark.parametrize("secure", [False, True], ids=["network", "tunnel"])
def test_more_streams_than_one_may_have(scene: Scene, secure: bool) -> None:
    """Through one link only so many pages may be open, also when all are opened at the same moment;
    another link's are not affected, and one that closes makes room.
    """
    greedy, modest = scene.guest(secure=secure), scene.guest(name="Ben", secure=secure)
    barrier, lock = threading.Barrier(STREAMS * 2), threading.Lock()
    connections: list[http.client.HTTPConnection] = []
    got: Counter[int] = Counter()

    def listen() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", greedy.port, timeout=PATIENCE)
        connection.connect()
        barrier.wait(PATIENCE)
        connection.request("GET", f"{API}/events", headers=greedy.headers)
        status = connection.getresponse().status
        with lock:
            connections.append(connection)
            got[status] += 1

    threads = [threading.Thread(target=listen) for _ in range(STREAMS * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert got == {200: STREAMS, 429: STREAMS}
    with stream(modest) as events:
        assert next(events)[0] == "reload"
    for connection in connections:
        connection.close()
    scene.ask(title="Hero")  # news, by which a stream notices that nobody listens
    tried = 0
    while greedy_stream(greedy) == 429:
        tried += 1
        assert tried < 200
    assert greedy.get("gates").status == 200


def greedy_stream(visitor: Visitor) -> int:
    with connect(visitor.port) as peer:
        peer.sendall(
            f"GET {API}/events HTTP/1.1\r\nHost: d\r\nCookie: {visitor.headers['cookie']}\r\n\r\n"
            .encode()
        )  # fmt: skip
        return statuses(peer.recv(65536))[0]


def test_news_nobody_reads(scene: Scene) -> None:
    """Pages that take none of their news do not keep anybody from deciding."""
    guest, lazy = scene.guest(), scene.guest(name="Lazy")
    with ExitStack() as stack:
        for _ in range(STREAMS):
            peer = stack.enter_context(connect(lazy.port))
            peer.sendall(
                f"GET {API}/events HTTP/1.1\r\nHost: d\r\nCookie: {lazy.headers['cookie']}\r\n\r\n"
                .encode()
            )  # fmt: skip
        for _ in range(200):
            scene.ask(title="Hero", labels=("x" * 2000, "y"))
        assert guest.decide(scene.hero).status == 200


# -- bodies that are hard to read

HARD: dict[str, bytes] = {
    "deep-lists": b"[" * 60_000,
    "deep-objects": b'{"a":' * 10_000,
    "deep-and-whole": b"[" * 30_000 + b"]" * 30_000,
    "long-number": b'{"route": ' + b"9" * 60_000 + b"}",
    "long-exponent": b'{"route": 1e' + b"9" * 400 + b"}",
    "nan": b'{"route": NaN}',
    "infinity": b'{"route": -Infinity}',
    "many-keys": b"{" + b",".join(b'"k%d":1' % n for n in range(6000)) + b"}",
    "long-route": b'{"route": "' + b"x" * 60_000 + b'"}',
    "long-note": b'{"route": 1, "note": "' + b"x" * 60_000 + b'"}',
    "long-key": b'{"route": 1, "key": "' + b"x" * 65 + b'"}',
    "half-a-character": b'{"route": 1, "note": "\\ud800"}',
    "not-utf-8": b'{"route": 1, "note": "\xff\xfe"}',
    "nothing": b"",
    "null": b"null",
    "text": b'"route"',
    "two-objects": b'{"route": 1}{"route": 2}',
    "comment": b'{"route": 1} // yes',
    "prototype": b'{"route": 1, "__proto__": {"may": "mask"}}',
}


@pytest.mark.parametrize("what", HARD)
@pytest.mark.parametrize("where", ["decision", "session"])
def test_a_body_that_is_hard_to_read(still: Scene, what: str, where: str) -> None:
    """JSON that is deep, long, or none is refused in few words, without a failure."""
    guest = still.guest()
    visitor = guest if where == "decision" else still.stranger(source="127.0.0.20")
    path = f"gates/{still.hero}/decision" if where == "decision" else "session"
    answer = visitor.call("POST", path, HARD[what], content_type="application/json")
    assert answer.status in (400, 413, 422), answer
    assert len(answer.body) < 70_000
    assert guest.get(f"gates/{still.hero}").json()["state"] == "waiting"


# -- connections


@pytest.fixture
def door(scene: Scene) -> Iterator[Listener]:
    """A port of its own, so that no other test's connections count."""
    listener = Listener(scene.app, HOME, 0)
    listener.start()
    yield listener
    listener.close()


def test_thousands_of_connections(scene: Scene, door: Listener) -> None:
    """While a stranger opens two thousand connections, half of them with requests, others look and
    decide, and the operator's panel answers as ever.
    """
    guest = Visitor(door.port, scene.guest().headers, GUEST)
    panel = Operator(scene)
    operator = Visitor(panel.port)
    mine: deque[Any] = deque()
    try:
        for number in range(2000):
            try:
                peer = connect(door.port, STRANGER)
                mine.append(peer)
                peer.sendall(b"GET /imagegate/ HTTP/1.1\r\nHost: d\r\n\r\n" if number % 2
                             else b"GET / HT")  # fmt: skip
            except OSError:  # it was closed at once
                pass
            if len(mine) > 300:
                mine.popleft().close()
            if number % 400 == 0:
                assert guest.get("gates").status == 200
                assert operator.get("gates").status == 200
                assert operator.get(f"{PREFIX}/").status == 200
        assert guest.decide(scene.hero).json() == {"outcome": "won"}
        assert operator.decide(scene.twin).json() == {"outcome": "won"}
    finally:
        for peer in mine:
            peer.close()
        panel.stop()


def test_requests_on_one_connection(scene: Scene, door: Listener) -> None:
    """Five hundred requests sent at once on one connection are answered one by one, each as a
    stranger's.
    """
    one = b"GET /imagegate/api/gates HTTP/1.1\r\nHost: d\r\n\r\n"
    got = raw(door.port, one * 500, EVIL)
    assert set(statuses(got)) == {401}
    assert scene.guest().get("gates").status == 200


def test_a_failure_is_not_somebody_else_s(
    scene: Scene, door: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the links cannot be read nobody gets in, nobody is locked out, and it goes on after."""
    from imagegate.core.model import StoreError

    guest = Visitor(door.port, scene.guest().headers)
    with monkeypatch.context() as patch:

        def away(*_: Any) -> Any:
            raise StoreError("postgresql://user:pw@db-e7f1/x is away", passing=True)

        patch.setattr(scene.links, "session", away)
        patch.setattr(scene.links, "find", away)
        for answer in (guest.get("gates"), guest.decide(scene.hero),
                       Visitor(door.port).enter("x" * 43)):  # fmt: skip
            assert answer.status == 503
            assert "e7f1" not in answer.whole
    assert guest.decide(scene.hero).status == 200


def test_no_guess_is_told_from_another(scene: Scene) -> None:
    """What was never a token gets the same answer whatever it is like, so that none is a hint."""
    link, token = scene.link()
    answers = {
        scene.stranger(source=f"127.0.3.{at}").enter(guess).body
        for at, guess in enumerate(("x" * 43, token[:-1], link.id, token + "x", "' OR 1=1"), 1)
    }
    assert len(answers) == 1
    assert json.loads(answers.pop())["error"].startswith("This link is not valid.")
    with pytest.raises(NoEntry):
        scene.links.find("x" * 43)


# -- what is held


def test_bodies_that_are_held_back(scene: Scene, door: Listener) -> None:
    """Strangers who hold the rest of their bodies back make room for whoever comes, and are cut
    off soon.
    """
    guest = Visitor(door.port, scene.guest().headers, GUEST)
    head = f"POST {API}/session HTTP/1.1\r\nHost: door\r\nContent-Type: application/json\r\n"
    with ExitStack() as stack:
        for number in range(600):
            peer = stack.enter_context(connect(door.port, f"127.0.3.{number % 200 + 1}"))
            with suppress(OSError):  # it may have made room already
                peer.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            if number % 100 == 99:
                assert guest.get("me").status == 200
        assert guest.decide(scene.hero).status == 200


def test_a_body_of_a_stranger_that_is_slow(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who has no session has seconds to say what they want, and few bytes."""
    monkeypatch.setattr("imagegate.http.access.STRANGERS_BODY", Body(4096, 0.3))
    with connect(scene.ports[False], EVIL) as peer:
        peer.sendall(
            f"POST {API}/session HTTP/1.1\r\nHost: door\r\nContent-Type: application/json\r\n"
            "Content-Length: 100\r\n\r\n{".encode()
        )
        assert peer.recv(100).startswith(b"HTTP/1.1 408 ")


def test_pictures_that_are_not_taken(scene: Scene) -> None:
    """Of large pictures that its reader does not take, one link holds few in memory."""
    guest = scene.guest()
    path = f"{API}/gates/{scene.hero}/image/0?size=full"
    request = f"GET {path} HTTP/1.1\r\nHost: door\r\nCookie: {guest.headers['cookie']}\r\n\r\n"
    out = UnderWay({"full": 1})
    out.enter("a", "full")
    with pytest.raises(Refused) as refused:
        out.enter("a", "full")
    assert refused.value.status == 429
    out.enter("b", "full")  # another's
    out.leave("a", "full")
    out.enter("a", "full")
    with ExitStack() as stack:
        peers = [stack.enter_context(connect(scene.ports[False], GUEST)) for _ in range(12)]
        for peer in peers:
            peer.sendall(request.encode())
        first = [peer.recv(12) for peer in peers]
    assert set(first) <= {b"HTTP/1.1 200", b"HTTP/1.1 429"}
    assert guest.get(f"gates/{scene.hero}/image/0?size=full").status == 200


def test_changes_without_end(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """One link changes only so much in a minute, and others are not held back by it."""
    monkeypatch.setattr(scene.app.state, "pace", Pace(5))
    guest, other = scene.guest(), scene.guest(name="Ben")
    got = [guest.decide(scene.hero, 99).status for _ in range(7)]
    assert got == [422] * 5 + [429] * 2
    assert guest.get("gates").status == 200
    assert other.decide(scene.hero).status == 200


def test_a_large_mask_of_a_small_image(scene: Scene) -> None:
    """A mask of more pixels than people paint on is refused, however small its file."""
    out = io.BytesIO()
    Image.new("L", (6000, 4500), 255).save(out, "PNG")
    guest = scene.guest()
    answer = guest.call(
        "PUT", f"gates/{scene.hero}/mask/0", out.getvalue(), content_type="image/png"
    )
    assert answer.status == 422
