"""What a link does not show, does not let its person do, and does not even let them guess."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from imagegate.core.model import BadPicture, NotRecorded, Selection, StoreError
from imagegate.gate_bus import GateBus
from tests.attacks.scene import API, MARK, PREFIX, Answer, Ports, Scene, Visitor, stream
from tests.operator.test_api import png
from tests.support.stored import storage_of, stored_bus

HERO = Selection(title="Hero", workflow_id="w1")


@pytest.fixture(params=["memory", "store"])
def anywhere(shared_ports: Ports, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A scene over each kind of bus."""
    bus = stored_bus() if request.param == "store" else GateBus[Any]()
    scene = Scene(shared_ports, bus)
    try:
        yield scene
    finally:
        scene.close()
        if request.param == "store":
            storage_of(bus).close()


@pytest.fixture(scope="module", params=["memory", "store"])
def everywhere(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A scene over each kind of bus, for what must leave it as it is."""
    bus = stored_bus() if request.param == "store" else GateBus[Any]()
    ports = Ports()
    scene = Scene(ports, bus)
    before = scene.state()
    try:
        yield scene
        assert scene.state() == before
    finally:
        scene.close()
        ports.close()
        if request.param == "store":
            storage_of(bus).close()


Call = Callable[[Visitor, str], Answer]

CALLS: dict[str, Call] = {
    "gate": lambda guest, gate: guest.get(f"gates/{gate}"),
    "preview": lambda guest, gate: guest.get(f"gates/{gate}/image/0"),
    "zoom": lambda guest, gate: guest.get(f"gates/{gate}/image/0?size=zoom"),
    "full": lambda guest, gate: guest.get(f"gates/{gate}/image/0?size=full"),
    "mask": lambda guest, gate: guest.get(f"gates/{gate}/mask/0"),
    "paint": lambda guest, gate: guest.paint(gate, png()),
    "clear": lambda guest, gate: guest.call("DELETE", f"gates/{gate}/mask/0"),
    "decide": lambda guest, gate: guest.decide(gate),
    "decide-by-label": lambda guest, gate: guest.decide(gate, "keep"),
    "undo": lambda guest, gate: guest.post(f"gates/{gate}/undo"),
}
SCOPES = {
    "title": lambda scene: (HERO, scene.hero, [scene.sky, scene.done, scene.twin]),
    "gate": lambda scene: (Selection(gate_id=scene.hero), scene.hero, [scene.twin, scene.sky]),
    "title-anywhere": lambda scene: (Selection(title="Hero"), scene.twin, [scene.sky, scene.done]),
}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("call", CALLS)
def test_a_gate_of_another_scope(anywhere: Scene, call: str, scope: str) -> None:
    """A gate that a link does not cover is answered for as one that never was: another title, the
    same title in another workflow, another gate, one that is decided.
    """
    among, own, others = SCOPES[scope](anywhere)
    guest = anywhere.guest(among=among)
    before = anywhere.state()
    never = CALLS[call](guest, "n" * 22)
    for other in others:
        answer = CALLS[call](guest, other)
        assert (answer.status, answer.body) == (404, never.body)
        assert [key for key, _ in answer.headers] == [key for key, _ in never.headers]
    assert anywhere.state() == before
    if call != "undo":
        assert CALLS[call](guest, own).status in (200, 204)


@pytest.mark.parametrize("scope", SCOPES)
def test_lists_of_another_scope(anywhere: Scene, scope: str) -> None:
    """Lists, history and counts hold what a link covers, and nothing else."""
    among, own, others = SCOPES[scope](anywhere)
    guest = anywhere.guest(among=among)
    anywhere.bus.decide(own, 1, by="Operator")
    told = [guest.get(path) for path in ("gates", "history", "history?mine=1", "me")]
    for answer in told:
        assert answer.status == 200
        for other in others:
            assert other not in answer.whole
        assert "Sky" not in answer.whole
    waiting = told[0].json()
    assert waiting["waiting"] == len(waiting["gates"]) == (1 if scope == "title-anywhere" else 0)
    assert [gate["id"] for gate in told[1].json()["gates"]] == [own]
    assert told[2].json()["gates"] == []


@pytest.mark.parametrize(
    "query",
    [
        "node=", "node=2", "workflow=w2", "workflow=", "title=Sky", "title=", "gate_id=", "link=",
        "among=all", "scope=all", "state=waiting", "mine=0", "may=mask", "limit=500", "cursor=0",
        "limit=500&limit=1", "title[]=Sky", "all=1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["gates", "history"])
def test_a_question_that_widens_the_scope(everywhere: Scene, path: str, query: str) -> None:
    """Nothing that is asked for beside a list shows more than the link does."""
    guest = everywhere.guest(among=HERO)
    answer = guest.get(f"{path}?{query}")
    assert answer.status in (200, 422)
    assert everywhere.twin not in answer.whole
    assert everywhere.sky not in answer.whole
    assert everywhere.done not in answer.whole
    if answer.status == 200:
        assert [gate["id"] for gate in answer.json()["gates"]] == (
            [everywhere.hero] if path == "gates" else []
        )


@pytest.mark.parametrize("path", ["gates", "history"])
def test_a_cursor_counts_nobody_else_s(anywhere: Scene, path: str) -> None:
    """Where a page ends tells nothing of how many gates there are elsewhere, and is taken only as
    it was given.
    """
    guest = anywhere.guest(among=HERO)
    for _ in range(3):
        for _ in range(7):
            anywhere.ask(title="Sky")
        anywhere.ask(title="Hero", workflow_id="w1")
    if path == "history":
        for gate in anywhere.bus.pending(among=HERO):
            anywhere.bus.decide(gate.gate.id, 1)
    seen, cursors, cursor = list[str](), list[str](), ""
    while cursor is not None:
        page = guest.get(f"{path}?limit=1&cursor={cursor}").json()
        seen += [gate["id"] for gate in page["gates"]]
        cursor = page["next"]
        cursors.append(cursor or "")
    assert len(seen) == len(set(seen)) == 4
    assert not any(cursor.isdecimal() for cursor in cursors)
    one = guest.get(f"{path}?limit=1").json()["next"]
    assert guest.get(f"{path}?cursor={one[:-1]}{'0' if one[-1] != '0' else '1'}").status == 422
    for made in ("0", "5", "-1", "1e9", "9" * 18, "9" * 40, "' OR 1=1", "٣"):
        assert guest.get(f"{path}?cursor={quote(made)}").status == 422


@pytest.mark.parametrize(
    "how",
    [
        lambda gate: quote(gate).replace(gate[0], f"%{ord(gate[0]):02X}", 1) + "%20",
        lambda gate: f"{gate}%00",
        lambda gate: f"{gate}%2F..%2F{gate}",
        lambda gate: f"./{gate}",
        lambda gate: f"x/../{gate}",
        lambda gate: f"x/%2e%2e/{gate}",
        lambda gate: f"{gate};a=b",
        lambda gate: f"{gate}%0d%0aX:%20y",
        lambda gate: gate.swapcase(),
        lambda gate: f"%25{ord(gate[0]):02X}{gate[1:]}",
        lambda gate: f"%C0%AF{gate}",
        lambda gate: f"{gate}%EF%BB%BF",
        lambda gate: "*",
        lambda gate: "%25",
        lambda gate: f"{gate[:-1]}_",
    ],
    ids=[
        "space", "nul", "encoded-slash", "dot", "dots", "encoded-dots", "matrix", "line-break",
        "case", "twice-encoded", "overlong", "bom", "star", "percent", "sql-wildcard",
    ],
)  # fmt: skip
def test_an_id_in_another_writing(everywhere: Scene, how: Callable[[str], str]) -> None:
    """An id that is written in another way finds no gate that the link does not cover."""
    guest = everywhere.guest(among=HERO)
    answers = [guest.get(f"gates/{how(everywhere.sky)}"), guest.decide(how(everywhere.sky))]
    for answer in answers:
        assert answer.status in (401, 404, 405, 422)
        assert "Sky" not in answer.whole


@pytest.mark.parametrize("index", ["3", "-1", "99999999999999999999", "0x0", "1e0", "NaN", "../0"])
def test_an_image_that_is_none(still: Scene, index: str) -> None:
    """An image that the batch does not have is refused, whatever it is called."""
    guest = still.guest()
    for path in (f"gates/{still.sky}/image/{index}", f"gates/{still.sky}/mask/{index}"):
        assert guest.get(path).status in (404, 422)
    assert guest.get(f"gates/{still.sky}/image/2").status == 200


@pytest.mark.parametrize("size", ["", "original", "PREVIEW", "../full", "full%00", "4096"])
def test_a_size_that_is_none(still: Scene, size: str) -> None:
    """Only the three sizes are made."""
    guest = still.guest()
    assert guest.get(f"gates/{still.hero}/image/0?size={size}").status == 422


# -- rights

CHANGES: dict[str, Call] = {name: CALLS[name] for name in ("decide", "paint", "clear", "undo")}


@pytest.mark.parametrize(
    ("may", "call"),
    [("look", call) for call in CHANGES] + [("decide", "paint"), ("decide", "clear")],
)
def test_more_than_one_may(anywhere: Scene, may: str, call: str) -> None:
    """Who may look only changes nothing, and who may decide only paints nothing."""
    guest = anywhere.guest(may)
    before = anywhere.state()
    answer = CHANGES[call](guest, anywhere.hero)
    assert answer.status == 403
    assert "this link does not let you" in answer.error
    assert anywhere.state() == before
    assert guest.get(f"gates/{anywhere.hero}").status == 200
    if may == "look":
        assert guest.get(f"gates/{anywhere.hero}").json()["undoable"] is False


@pytest.mark.parametrize(
    "more",
    [
        {"by": "Operator"}, {"link": "x"}, {"at": 0}, {"label": "x"}, {"masks": {}},
        {"may": "mask"}, {"state": "stopped"},
    ],
    ids=lambda more: next(iter(more)),
)  # fmt: skip
def test_an_answer_in_somebody_else_s_name(still: Scene, more: dict[str, Any]) -> None:
    """Who answers, when, and through what cannot be sent along."""
    assert still.guest().decide(still.hero, **more).status == 422


@pytest.mark.parametrize(
    "route", [0, -1, 3, 1.5, True, None, [1], {"1": 1}, "stop", "", "1", "keep\0", 10**30],
    ids=repr,
)  # fmt: skip
def test_a_route_that_is_none(still: Scene, route: Any) -> None:
    """A route that the gate does not have, and Stop above all, is not taken."""
    assert still.guest().decide(still.hero, route).status == 422


@pytest.mark.parametrize(
    "call", ["stop", "ask-again", "history", "expire", "withdraw", "route", "file", "resume"]
)
def test_a_call_of_the_operator_s(still: Scene, call: str) -> None:
    """What only the operator can do to a gate does not exist at the approver's door."""
    guest = still.guest()
    assert guest.post(f"gates/{still.hero}/{call}").status in (404, 405)
    assert guest.get(f"gates/{still.hero}/{call}").status in (404, 405)


def test_taking_back_what_is_not_one_s_own(anywhere: Scene) -> None:
    """An answer of the operator's, or of another link's person of the same name, stays."""
    one, two = anywhere.guest(name="Ada"), anywhere.guest(name="Ada")
    one.decide(anywhere.hero)
    before = anywhere.state()
    assert two.post(f"gates/{anywhere.hero}/undo").status == 403
    assert two.post(f"gates/{anywhere.done}/undo").status == 403
    assert anywhere.state() == before


def test_what_others_answered_is_not_mine(anywhere: Scene) -> None:
    """The list of one's own answers holds none of another link's, though the name is the same."""
    one, two = anywhere.guest(name="Ada"), anywhere.guest(name="Ada")
    one.decide(anywhere.hero)
    assert [gate["id"] for gate in one.get("history?mine=1").json()["gates"]] == [anywhere.hero]
    assert two.get("history?mine=1").json()["gates"] == []
    mine = {gate["id"]: gate["decision"]["mine"] for gate in two.get("history").json()["gates"]}
    assert not any(mine.values())


# -- news


def test_news_of_another_scope(anywhere: Scene) -> None:
    """An open page hears nothing of gates that its link does not cover, not even how many wait."""
    guest = anywhere.guest(among=HERO)
    with stream(guest) as events:
        assert next(events) == ("reload", {"waiting": 1})
        anywhere.ask(title="Sky")
        anywhere.bus.set_mask(anywhere.sky, 0, png())
        anywhere.bus.decide(anywhere.twin, 1)
        anywhere.bus.decide(anywhere.sky, 1)
        own = anywhere.ask(title="Hero", workflow_id="w1")
        kind, told = next(events)
    assert (kind, told["gate"]["id"], told["waiting"]) == ("published", own, 2)


def test_the_rhythm_of_news(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """How often others answer can neither be told from the signs of life, nor keep them away."""
    monkeypatch.setattr("imagegate.http.events.HEARTBEAT", 0.3)
    monkeypatch.setattr("imagegate.share.app.HEARTBEAT", 0.3)
    guest = scene.guest(among=HERO)
    over = threading.Event()

    def others() -> None:
        while not over.wait(0.05):
            scene.ask(title="Sky")

    busy = threading.Thread(target=others)
    with stream(guest) as events:
        assert next(events)[0] == "reload"
        busy.start()
        try:
            assert [next(events) for _ in range(3)] == [("alive", {"waiting": 1})] * 3
        finally:
            over.set()
            busy.join()


# -- what is said of the machine


def everything(guest: Visitor, scene: Scene) -> Iterator[Answer]:
    """All answers there are, the errors too."""
    for path in (
        f"{PREFIX}/", "me", "gates", "gates?limit=1", "history", "history?mine=1",
        "gates?cursor=x", "gates?limit=x", "nothing", f"{PREFIX}/page/approver/approver.js",
        f"{PREFIX}/page/nothing.js", "session",
    ):  # fmt: skip
        yield guest.get(path)
    for gate in (scene.hero, scene.sky, scene.done, "nobody"):
        yield guest.get(f"gates/{gate}")
        for size in ("preview", "zoom", "full", "none"):
            yield guest.get(f"gates/{gate}/image/0?size={size}")
        yield guest.paint(gate, png())
        yield guest.get(f"gates/{gate}/mask/0")
        yield guest.decide(gate, 9)
        yield guest.decide(gate)
        yield guest.post(f"gates/{gate}/undo")


def test_nothing_of_the_machine_is_told(anywhere: Scene) -> None:
    """No answer, and no event, names a node, a prompt, a worker, a file or a store."""
    guest = anywhere.guest()
    with stream(guest) as events:
        answers = list(everything(guest, anywhere))
        told = [next(events) for _ in range(4)]
    assert len(answers) > 40
    for answer in answers:
        assert MARK not in answer.whole
        assert "sqlite" not in answer.whole
        for name in ("node_id", "prompt_id", "worker", "workflow_id", "file"):
            assert f'"{name}"' not in answer.whole
    assert MARK not in json.dumps(told)
    assert {kind for kind, _ in told} >= {"reload", "masked", "decided"}


FAILURES: dict[str, tuple[Exception, int]] = {
    "full-disk": (NotRecorded(f"not recorded: no space left on /srv/{MARK}"), 507),
    "store-away": (StoreError(f"postgresql://user:pw@{MARK}/x is away", passing=True), 503),
    "store-broken": (StoreError(f"sqlite:////srv/{MARK}.db is no database"), 507),
    "unforeseen": (RuntimeError(f"cannot do /srv/{MARK}"), 500),
    "operating-system": (OSError(28, "No space left on device", f"/srv/{MARK}"), 500),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("call", ["decide", "undo", "paint"])
def test_what_a_failure_says(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, failure: str, call: str
) -> None:
    """Where an answer cannot be kept, its error names no path, no machine and no store, and
    carries what every answer does.
    """
    error, status = FAILURES[failure]
    guest = scene.guest()
    guest.decide(scene.twin)

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    for name in ("decide", "undo", "set_mask"):
        monkeypatch.setattr(scene.bus, name, fail)
    answer = CHANGES[call](guest, scene.twin if call == "undo" else scene.hero)
    assert answer.status == status
    assert MARK not in answer.whole
    assert answer.header("cache-control") == "no-store"
    assert "default-src 'none'" in answer.header("content-security-policy")


@pytest.mark.parametrize("size", ["preview", "zoom", "full"])
@pytest.mark.parametrize("kind", [BadPicture, OSError, StoreError])
def test_what_a_broken_picture_says(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, kind: type[Exception], size: str
) -> None:
    """A picture that cannot be read names no file."""
    guest = scene.guest()
    pictures = scene.bus.pictures(scene.hero)

    def fail(_: int) -> Any:
        raise kind(f"/srv/{MARK}/a.png cannot be read")

    monkeypatch.setattr(pictures, "preview", fail)
    monkeypatch.setattr(pictures, "full", fail)
    answer = guest.get(f"gates/{scene.hero}/image/0?size={size}")
    assert answer.status in (422, 500, 507)
    assert MARK not in answer.whole


def test_what_the_end_of_a_gate_says(anywhere: Scene) -> None:
    """Why a gate was withdrawn is not told: the reason may name a machine."""
    guest = anywhere.guest()
    anywhere.bus.withdraw(anywhere.hero, f"worker-{MARK} at 10.0.0.7 has gone")
    for answer in (guest.get(f"gates/{anywhere.hero}"), guest.get("history"),
                   guest.decide(anywhere.hero), guest.paint(anywhere.hero, png())):  # fmt: skip
        assert MARK not in answer.whole
        assert "10.0.0.7" not in answer.whole
    assert guest.get(f"gates/{anywhere.hero}").json()["state"] == "withdrawn"


def test_progress_of_a_folder(shared_ports: Ports) -> None:
    """Of a folder's session an approver learns how far it is, if they see all of it, and never
    where it lies or what could not be read.
    """

    def progress() -> dict[str, Any]:
        return {
            "total": 3, "done": 1, "folder": f"/srv/{MARK}", "out": f"/srv/{MARK}/sorted",
            "unreadable": [{"file": f"{MARK}.png", "reason": f"/srv/{MARK}"}], "reason": MARK,
            "labels": [MARK], "earlier": 77, "ended": False, "scanning": False, "all_done": False,
        }  # fmt: skip

    scene = Scene(shared_ports, progress=progress)
    try:
        whole = scene.guest().get("gates")
        assert whole.json()["progress"]["total"] == 3
        assert MARK not in whole.whole
        part = scene.guest(among=HERO).get("gates")
        assert "progress" not in part.json()
    finally:
        scene.close()


def test_what_is_logged_of_an_attack(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that a stranger sends reaches the log, where it could pass for a line of its own."""
    planted = "%0a2026-01-01 operator logged in"
    guest = scene.guest()
    guest.get(f"gates/{planted}".replace(" ", "%20"))
    scene.stranger().enter(planted)
    scene.stranger(user_agent=planted, referer=planted).get(f"{PREFIX}/s/{quote(planted)}")
    guest.decide(scene.hero, note="operator logged in\nfake line")
    assert all("operator logged in" not in record.getMessage() for record in caplog.records
               if record.levelno > logging.DEBUG)  # fmt: skip
    assert API not in "".join(
        record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG
    )
