"""Sharing end to end: a link is made, its door opens, its person comes in, and it all ends again.

What lies beyond the network is a stand-in (`tests.support.share_server`); all else is real.
"""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import segno
from starlette.testclient import TestClient

from imagegate.core.links import Link
from imagegate.core.model import BadAnswer, Selection, State
from imagegate.gate_bus import GateBus
from imagegate.http.access import HostDoor
from imagegate.http.paths import PREFIX
from imagegate.http.sockets.listener import Listener
from imagegate.operator.rest import create_app
from imagegate.share import tunnel as tunnel_module
from imagegate.share.share import Share
from imagegate.storage.links import LinkStore
from imagegate.storage.sql.database import Database
from tests.operator.test_api import png, publish
from tests.support.share_server import ShareServer, use
from tests.support.stored import FILES, PATIENCE, Store, gate, storage_of, store_of, to_go_on

API = f"{PREFIX}/api"


class Sharing:
    """A share, and a way to wait for what it does."""

    def __init__(self, share: Share, links: Callable[[], LinkStore]) -> None:
        self.share = share
        self.links = links
        self._changed = threading.Condition()
        share.changed.listen(self._look)

    def _look(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def until(self, true: Callable[[], Any]) -> Any:
        with self._changed:
            found = self._changed.wait_for(true, PATIENCE)
        assert found, f"not within {PATIENCE} s: {self.share.door()}"
        return found

    def link(self, name: str = "Ada", **given: Any) -> tuple[Link, str]:
        """A new link, and its address once there is one."""
        link, token = self.share.create(name, **given)
        address: str = self.until(lambda: self.share.address(link, token)[0])
        # The stand-in's public side speaks plain HTTP; Gradio's speaks HTTPS only.
        return link, address.replace("https://", "http://")


@contextmanager
def sharing(bus: Any, links: Any, **given: Any) -> Iterator[Sharing]:
    share = Share(bus, links, port=0, **given)
    try:
        yield Sharing(share, links)
    finally:
        share.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ShareServer]:
    monkeypatch.setattr(tunnel_module, "PAUSES", (0.05,))
    with ShareServer() as server:
        use(monkeypatch, server, tmp_path)
        yield server


@pytest.fixture
def links() -> Iterator[LinkStore]:
    store = LinkStore(Database("sqlite://", "folder"))
    yield store
    store.database.close()


@pytest.fixture
def here(bus: GateBus[Any], links: LinkStore) -> Iterator[Sharing]:
    with sharing(bus, lambda: links) as found:
        yield found


@contextmanager
def enter(address: str, passphrase: str = "") -> Iterator[httpx.Client]:
    """A browser that has opened a link."""
    base, _, token = address.partition("/imagegate/s/")
    with httpx.Client(base_url=base, timeout=PATIENCE) as client:
        assert client.get(f"{PREFIX}/s/{token}").status_code == 200
        opened = client.post(f"{API}/session", json={"token": token, "passphrase": passphrase})
        assert opened.status_code == 200, opened.text
        cookie = opened.headers["set-cookie"].partition(";")[0]
        client.headers["cookie"] = cookie  # a client that is no browser sends no Secure one
        yield client


def test_over_the_internet(
    server: ShareServer, here: Sharing, bus: GateBus[Any], links: LinkStore
) -> None:
    """Through the tunnel a person looks, paints and decides, and it is known who did, by what."""
    ticket = publish(bus, title="Sky")
    link, address = here.link()
    assert address.startswith(f"{server.url}/imagegate/s/")
    with enter(address) as client:
        (told,) = client.get(f"{API}/gates").json()["gates"]
        assert told["title"] == "Sky"
        at = f"{API}/gates/{told['id']}"
        assert client.get(f"{at}/image/0").headers["content-type"] == "image/jpeg"
        painted = client.put(f"{at}/mask/0", content=png(), headers={"content-type": "image/png"})
        assert painted.status_code == 200
        said = {"route": "keep", "note": "lovely", "key": "1"}
        assert client.post(f"{at}/decision", json=said).json() == {"outcome": "won"}
    answer = ticket.wait(PATIENCE)
    decision = answer.decision
    assert (decision.label, decision.by, decision.note) == ("keep", "Ada", "lovely")
    assert decision.link == link.id
    assert answer.masks[0]
    assert here.share.to_json()["links"][0]["decisions"] == 1
    assert links.get(link.id).seen_at is not None


def test_the_cookie_of_the_tunnel_is_for_https(
    server: ShareServer, here: Sharing, bus: GateBus[Any]
) -> None:
    """What comes through the tunnel gets a cookie that only HTTPS, and this host, ever sees."""
    _, address = here.link()
    base, _, token = address.partition("/imagegate/s/")
    opened = httpx.post(f"{base}{API}/session", json={"token": token})
    cookie = opened.headers["set-cookie"]
    assert cookie.startswith("__Host-imagegate=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))


def test_in_this_network(here: Sharing, bus: GateBus[Any]) -> None:
    """A link for this network opens on the machine's address, and no tunnel is opened for it."""
    publish(bus)
    _, address = here.link(reach="network")
    assert here.share.door()["internet"] == {"url": "", "problem": "", "trying": False}
    with enter(address) as client:
        assert client.get(f"{API}/me").json()["name"] == "Ada"


def test_without_a_network(
    bus: GateBus[Any],
    here: Sharing,
    server: ShareServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Where no tunnel can be opened one sentence says why, and the network's address serves."""
    server.refuse = "no more tunnels today"
    link, token = here.share.create("Ada")
    address, problem = here.until(lambda: (found := here.share.address(link, token))[0] and found)
    assert "no more tunnels today" in problem
    assert ". " not in problem
    assert address.startswith("http://")
    with enter(address) as client:
        assert client.get(f"{API}/me").status_code == 200
    ticket = publish(bus)
    bus.decide(ticket.gate.id, 1)
    assert ticket.wait(PATIENCE).decision.route == 1


def test_the_tunnel_comes_back(server: ShareServer, here: Sharing, bus: GateBus[Any]) -> None:
    """After the tunnel dropped, the click that was under way counts once when it is sent again."""
    ticket = publish(bus, undoable=True, record=lambda _: None, revoke=lambda _: None)
    _, address = here.link()
    with enter(address) as client:
        server.drop()
        server.until_logins(2)
        here.until(lambda: here.share.door()["internet"]["url"])
        click = {"route": 1, "key": "one"}
        outcomes = [
            client.post(f"{API}/gates/{ticket.gate.id}/decision", json=click).json()["outcome"]
            for _ in range(2)
        ]
    assert outcomes == ["won", "replay"]


def test_a_tunnel_that_comes_back_elsewhere(
    server: ShareServer, here: Sharing, bus: GateBus[Any]
) -> None:
    """Where the tunnel gets another address, the list says which links lead nowhere now."""
    link, _ = here.link()

    def moved() -> bool:
        return bool(here.share.to_json()["links"][0]["moved"])

    assert not moved()
    before = here.until(lambda: here.share.door()["internet"]["url"])
    here.until(lambda: here.links().get(link.id).door == before)
    server.move()
    server.drop()
    here.until(moved)
    _, token = here.share.reissue(link.id)
    here.until(lambda: not moved())
    address, _ = here.share.address(link, token)
    assert address.startswith(here.share.door()["internet"]["url"])


def test_the_door_closes_with_the_last_link(
    server: ShareServer, here: Sharing, bus: GateBus[Any]
) -> None:
    """The tunnel stays while there is a link for it, and ends with the last."""
    one, first = here.link("Ada")
    two, _ = here.link("Ben")
    here.share.revoke(one.id)
    assert httpx.get(first).status_code == 403
    assert here.share.door()["internet"]["url"]
    here.share.revoke(two.id)
    here.until(lambda: not here.share.door()["internet"]["url"])
    assert httpx.get(first).status_code == 404  # nothing is shared there any more


def test_the_door_closes_when_the_last_link_expires(here: Sharing, bus: GateBus[Any]) -> None:
    """When the time of the last link is over its door closes by itself."""
    _, address = here.link(reach="network", seconds=0.5)
    port = httpx.URL(address).port or 0
    here.until(lambda: not here.share.door()["network"]["url"])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), PATIENCE).close()


def events(client: httpx.Client) -> Iterator[tuple[str, dict[str, Any]]]:
    with client.stream("GET", f"{API}/events") as stream:
        kind = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield kind, json.loads(line.removeprefix("data: "))


def test_pages_go_dark_when_a_link_is_revoked(here: Sharing, bus: GateBus[Any]) -> None:
    """The open pages of a link that is revoked are told so, and their stream ends."""
    publish(bus)
    link, address = here.link(reach="network")
    _, elsewhere = here.link("Ben", reach="network")
    with enter(address) as client, enter(elsewhere) as ben:
        news, bens = events(client), events(ben)
        assert next(news)[0] == "reload"
        assert next(bens)[0] == "reload"
        here.share.revoke(link.id)
        rest = [kind for kind, _ in news if kind != "alive"]
        assert rest == ["over"]
        assert client.get(f"{API}/gates").status_code == 401
        assert ben.get(f"{API}/gates").status_code == 200


def test_pages_go_dark_when_a_link_expires(here: Sharing, bus: GateBus[Any]) -> None:
    """The open pages of a link whose time is over are told so."""
    here.link("Ben", reach="network")
    _, address = here.link(reach="network", seconds=1)
    with enter(address) as client:
        kinds = [(kind, said) for kind, said in events(client) if kind != "alive"]
    assert [kind for kind, _ in kinds] == ["reload", "over"]
    assert "expired" in kinds[-1][1]["reason"]


def test_another_process_revokes(shared: Store) -> None:
    """A link that is revoked in another process goes dark here all the same."""
    ours, theirs = shared.bus(), shared.bus()
    with sharing(
        ours, lambda: store_of(ours).links, worker=storage_of(ours).id, others=store_of(ours).others
    ) as here:
        link, address = here.link(reach="network")
        with enter(address) as client:
            news = events(client)
            assert next(news)[0] == "reload"
            store_of(theirs).links.revoke(link.id)
            assert [kind for kind, _ in news if kind != "alive"] == ["over"]


def test_a_link_of_another_process(shared: Store) -> None:
    """A link is listed, and can be revoked, wherever its store is; its address is made anew only
    where its door is.
    """
    ours, theirs = shared.bus(worker="gpu-1"), shared.bus(worker="gpu-2")
    link, _ = store_of(theirs).links.create("Ada", reach="network", worker=storage_of(theirs).id)
    with sharing(
        ours, lambda: store_of(ours).links, worker=storage_of(ours).id, others=store_of(ours).others
    ) as here:
        (listed,) = here.share.to_json()["links"]
        assert (listed["id"], listed["worker"]) == (link.id, "gpu-2")
        with pytest.raises(BadAnswer, match="made at gpu-2"):
            here.share.reissue(link.id)
        assert here.share.revoke(link.id).state == "revoked"


def test_links_from_before_a_restart(tmp_path: Path) -> None:
    """A process that starts again opens the door for the links it had made."""
    with Store("sqlite", f"sqlite:///{tmp_path}/gates.sqlite", tmp_path / "pictures") as store:
        before = store.bus()
        with sharing(
            before,
            lambda: store_of(before).links,
            worker=storage_of(before).id,
            others=store_of(before).others,
        ) as first:
            link, token = first.share.create("Ada", reach="network")
        storage_of(before).close()
        after = store.unopened()
        with sharing(
            after,
            lambda: store_of(after).links,
            worker=storage_of(after).id,
            others=lambda: store_of(after).others(),
        ) as here:
            here.share.start_with(after.subscribe, lambda: storage_of(after).opened)
            assert not storage_of(after).opened  # it opens no store by itself
            assert here.share.door()["network"]["url"] == ""
            assert store_of(after)
            address = here.until(lambda: here.share.address(link, token)[0])
            with enter(address) as client:
                assert client.get(f"{API}/me").json()["link"] == link.id


def test_a_parked_gate_through_a_link(shared: Store) -> None:
    """A gate of a store is decided, and undone, through a link; its history says by which."""
    bus = shared.bus()
    hero = storage_of(bus).parking.park(gate(title="Hero"), FILES, to_go_on()).gate
    storage_of(bus).parking.park(gate(title="Other"), FILES, to_go_on())
    with sharing(
        bus, lambda: store_of(bus).links, worker=storage_of(bus).id, others=store_of(bus).others
    ) as here:
        link, address = here.link(reach="network", among=Selection(title="Hero"))
        with enter(address) as client:
            listed = client.get(f"{API}/gates").json()
            assert [one["title"] for one in listed["gates"]] == ["Hero"]
            assert listed["waiting"] == 1
            at = f"{API}/gates/{hero.id}"
            client.post(f"{at}/decision", json={"route": 1, "key": "a"})
            assert here.share.to_json()["links"][0]["decisions"] == 1
            (past,) = client.get(f"{API}/history?mine=1").json()["gates"]
            assert (past["decision"]["mine"], past["undoable"]) == (True, True)
            assert client.post(f"{at}/undo", json={}).status_code == 200
        assert bus.get(hero.id).state is State.PARKED
        (decided,) = [line for line in storage_of(bus).lines(hero.id) if line.kind == "decided"]
        assert decided.to_json()["link"] == link.id


def test_two_people_at_once(here: Sharing, bus: GateBus[Any]) -> None:
    """Of two people who decide the same image one is first, and the other learns who, and what."""
    ticket = publish(bus)
    _, first = here.link("Ada", reach="network")
    _, second = here.link("Ben", reach="network")
    with enter(first) as ada, enter(second) as ben:
        news = events(ben)
        assert next(news)[0] == "reload"
        at = f"{API}/gates/{ticket.gate.id}/decision"
        assert ada.post(at, json={"route": 1, "key": "a"}).status_code == 200
        late = ben.post(at, json={"route": 2, "key": "b"})
        assert late.status_code == 409
        told = late.json()["decision"]
        assert (told["by"], told["label"], told["mine"]) == ("Ada", "keep", False)
        kind, said = next(news)
        assert (kind, said["gate"]["decision"]["by"]) == ("decided", "Ada")


def test_nothing_starts_before_it_is_needed(bus: GateBus[Any], links: LinkStore) -> None:
    """A share that has made no link has no thread, and one without live links no door."""
    threads = set(threading.enumerate())
    with sharing(bus, lambda: links) as here:
        here.share.to_json()
        assert set(threading.enumerate()) == threads
        here.share.start()
        here.until(lambda: True)
        assert here.share.door()["network"]["url"] == ""


def test_a_page_that_cannot_be_loaded(
    here: Sharing, bus: GateBus[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the approver's app cannot be imported one sentence says so, and gates go on."""
    monkeypatch.setitem(sys.modules, "imagegate.share.app", None)
    here.share.create("Ada", reach="network")
    here.until(lambda: "could not be loaded" in here.share.door()["network"]["problem"])
    ticket = publish(bus)
    bus.decide(ticket.gate.id, 1)
    assert ticket.wait(PATIENCE).decision.route == 1


# -- the operator's REST


@pytest.fixture
def client(here: Sharing, bus: GateBus[Any]) -> Iterator[TestClient]:
    app = create_app(bus, HostDoor(), share=here.share)
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def test_a_link_by_rest(client: TestClient) -> None:
    """A link is made with what was asked for; its token is told then, and never again."""
    asked = {
        "name": "Ada", "may": "decide", "scope": {"kind": "title", "title": "Sky", "workflow": ""},
        "hours": 1.5, "passphrase": "sesame", "once": False, "reach": "network",
    }  # fmt: skip
    made = client.post(f"{API}/links", json=asked)
    assert made.status_code == 201
    link, token = made.json()["link"], made.json()["token"]
    assert {key: link[key] for key in ("name", "may", "scope", "once", "reach")} == {
        key: asked[key] for key in ("name", "may", "scope", "once", "reach")
    }
    assert link["expires_at"] - link["created_at"] == pytest.approx(5400)
    assert (link["passphrase"], link["opened"], link["decisions"]) == (True, 0, 0)
    listed = client.get(f"{API}/links").text
    assert link["id"] in listed
    assert token not in listed
    assert "sesame" not in listed


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": ""}, "name"),
        ({"name": None}, "name"),
        ({"may": "rule"}, "'look', 'decide', 'mask'"),
        ({"hours": 721}, "30 days"),
        ({"hours": -1}, "hours"),
        ({"hours": "1"}, "hours"),
        ({"reach": "moon"}, "'internet', 'network'"),
        ({"once": "no"}, "once"),
        ({"scope": {"kind": "some"}}, "'all', 'title', 'gate'"),
        ({"token": "mine"}, "token"),
    ],
)
def test_a_wrong_link_by_rest(client: TestClient, wrong: dict[str, Any], says: str) -> None:
    """A link that cannot be is refused with what it can be, and none is made."""
    answer = client.post(f"{API}/links", json={"name": "Ada", "reach": "network", **wrong})
    assert answer.status_code == 422
    assert says in answer.json()["error"]
    assert client.get(f"{API}/links").json()["links"] == []


def test_revoke_and_reissue_by_rest(client: TestClient) -> None:
    """A link gets another address, is revoked, and then gets none any more."""
    made = client.post(f"{API}/links", json={"name": "Ada", "reach": "network"}).json()
    at = f"{API}/links/{made['link']['id']}"
    again = client.post(f"{at}/reissue", json={}).json()
    assert again["link"]["id"] == made["link"]["id"]
    assert again["token"] != made["token"]
    assert client.post(f"{at}/revoke", json={}).json()["link"]["state"] == "revoked"
    assert client.post(f"{at}/reissue", json={}).status_code == 422
    assert client.post(f"{API}/links/nobody/revoke", json={}).status_code == 404


def test_a_qr_code(client: TestClient) -> None:
    """A QR code is the one of the text that was sent, as an image that stands alone."""
    text = "https://example.gradio.live/imagegate/s/" + "x" * 43
    svg = client.post(f"{API}/qr", json={"text": text}).json()["svg"]
    assert svg.startswith("<svg ")
    made, out = segno.make_qr(text, error="m"), io.BytesIO()
    made.save(out, kind="svg", scale=4, border=4, dark="#000", light="#fff", xmldecl=False)
    assert svg == out.getvalue().decode()
    assert client.post(f"{API}/qr", json={"text": "x" * 1001}).status_code == 422


def test_a_page_hears_of_links(here: Sharing, bus: GateBus[Any]) -> None:
    """The operator's pages hear when a link, or the door, has changed."""
    app = create_app(bus, HostDoor(), share=here.share)
    listener = Listener(app, "127.0.0.1", 0)
    listener.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{listener.port}", timeout=PATIENCE) as page:
            news = events(page)
            assert next(news)[0] == "reload"
            here.share.create("Ada", reach="network")
            assert next(kind for kind, _ in news if kind != "alive") == "links"
    finally:
        listener.close()


def test_without_sharing(bus: GateBus[Any]) -> None:
    """An app that shares nothing has no such calls."""
    with TestClient(create_app(bus, HostDoor()), base_url="http://localhost") as client:
        assert client.get(f"{API}/links").status_code == 404
