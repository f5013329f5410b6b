"""REST over a store: its status, the history of a gate, asking again, and a store that fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from imagegate.core.model import ALL, Gate, State, StoreError
from imagegate.gate_bus import GateBus
from imagegate.http.access import HostDoor
from imagegate.http.events import EventStream, while_it_lasts
from imagegate.operator.rest import create_app
from imagegate.storage.queries.gates import GateStore
from imagegate.storage.queries.runs import Parked
from tests.support.stored import storage_of, store_of, stored_bus

API = "/imagegate/api"
PROMPT = {"2": {"class_type": "ImageGate", "inputs": {}}}


@pytest.fixture
def store() -> Iterator[GateBus[Any]]:
    bus = stored_bus()
    yield bus
    storage_of(bus).close()


@pytest.fixture
def client(store: GateBus[Any]) -> Iterator[TestClient]:
    app = create_app(store, HostDoor(), records=storage_of(store))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def park(bus: GateBus[Any], **given: Any) -> Gate:
    gate = Gate(**{"labels": ("keep", "fix"), "width": 8, "height": 6, **given})
    return (
        storage_of(bus)
        .parking.park(gate, [("preview-0", b"x" * 50)], Parked("r", "2", PROMPT, {}), "like")
        .gate
    )


def test_a_parked_gate_in_the_list(client: TestClient, store: GateBus[Any]) -> None:
    """Parked gates wait for a person like any other; who asks, and that undo works, is told."""
    gate = park(store)
    [found] = client.get(f"{API}/gates").json()["gates"]
    assert (found["id"], found["state"], found["mode"]) == (gate.id, "parked", "park")
    assert (found["worker"], found["undoable"]) == ("here", True)
    assert client.get(f"{API}/gates").json()["waiting"] == 1


def test_gates_of_one_workflow(client: TestClient, store: GateBus[Any]) -> None:
    """A node's number says little once gates outlive their workflow: both can be asked for."""
    here = park(store, node_id="2", workflow_id="w")
    park(store, node_id="2", workflow_id="other")
    park(store, node_id="3", workflow_id="w")
    answer = client.get(f"{API}/gates?node=2&workflow=w").json()
    assert ([gate["id"] for gate in answer["gates"]], answer["waiting"]) == ([here.id], 1)
    store.stop(here.id)
    assert client.get(f"{API}/gates?node=2&workflow=w").json()["waiting"] == 0
    assert len(client.get(f"{API}/gates?workflow=w").json()["gates"]) == 1
    [past] = client.get(f"{API}/history?node=2&workflow=w").json()["gates"]
    assert past["id"] == here.id
    assert client.get(f"{API}/history?node=2&workflow=other").json()["gates"] == []


def test_what_a_client_sees_of_going_on(client: TestClient, store: GateBus[Any]) -> None:
    """Decided, taken up, put back with the reason, decided again, gone on: each state is told, and
    undo is refused from the moment it is taken up, with the reason.
    """
    gate = park(store)
    url = f"{API}/gates/{gate.id}"
    client.post(f"{url}/decision", json={"route": 1, "by": "Ann"})
    assert client.get(url).json()["undoable"]
    claim = storage_of(store).claims.take()
    assert claim is not None
    told = client.get(url).json()
    assert (told["resuming"], told["attempts"], told["undoable"]) == ("here", 1, False)
    undo = client.post(f"{url}/undo", json={})
    assert undo.status_code == 409
    assert "here has taken" in undo.json()["error"]
    storage_of(store).claims.put_back(claim, "model is missing")
    told = client.get(url).json()
    assert (told["state"], told["reason"]) == ("parked", "model is missing")
    assert "decision" not in told
    client.post(f"{url}/decision", json={"route": 2, "note": "n"})
    claim = storage_of(store).claims.take()
    assert claim is not None
    storage_of(store).claims.finish(claim)
    assert client.get(url).json()["state"] == "resumed"
    lines = client.get(f"{url}/history").json()["lines"]
    assert [line["kind"] for line in lines] == [
        "published", "decided", "claimed", "put back", "decided", "claimed", "resumed"
    ]  # fmt: skip
    assert (lines[1]["by"], lines[1]["label"], lines[3]["text"], lines[4]["note"]) == (
        "Ann", "keep", "model is missing", "n"
    )  # fmt: skip
    assert all(line["at"] > 1e9 for line in lines)


def test_ask_again(client: TestClient, store: GateBus[Any]) -> None:
    """An answer that could be used again is forgotten by one call."""
    gate = park(store)
    client.post(f"{API}/gates/{gate.id}/decision", json={"route": 1})
    assert client.get(f"{API}/gates/{gate.id}").json()["reusable"]
    answer = client.post(f"{API}/gates/{gate.id}/ask-again", json={})
    assert answer.status_code == 200
    assert "reusable" not in answer.json()
    assert store_of(store).gates.decided_like("like") is None
    assert client.get(f"{API}/gates/{gate.id}/ask-again").status_code == 405


def test_the_status(client: TestClient, store: GateBus[Any]) -> None:
    """Which store it is, who shares it, and how much disk the pictures take."""
    park(store)
    status = client.get(f"{API}/status").json()
    assert (status["store"], status["bytes"], status["keep_days"]) == ("memory", 50, 7)
    [worker] = status["workers"]
    assert (worker["name"], worker["kind"], worker["alive"]) == ("here", "comfyui", True)


@pytest.mark.parametrize("gate_id", ["nobody", "%00", "%ED%A0%80", "a" * 5000, "..%2f..%2fetc"])
@pytest.mark.parametrize("what", ["", "/history", "/image/0", "/mask/0"])
def test_a_gate_that_there_is_not(client: TestClient, gate_id: str, what: str) -> None:
    """However odd the id, the answer is that there is no such gate."""
    assert client.get(f"{API}/gates/{gate_id}{what}").status_code == 404


def test_a_folder_has_no_such_calls() -> None:
    """Without a store there is neither status nor history of a gate; REST says so."""
    bus: GateBus[Any] = GateBus()
    with TestClient(create_app(bus, HostDoor()), base_url="http://localhost") as client:
        assert client.get(f"{API}/status").status_code == 404
        assert client.get(f"{API}/gates/x/history").status_code == 404


@pytest.mark.parametrize(("passing", "status"), [(True, 503), (False, 507)])
def test_a_store_that_fails(
    client: TestClient,
    store: GateBus[Any],
    monkeypatch: pytest.MonkeyPatch,
    passing: bool,
    status: int,
) -> None:
    """A click that could not be recorded says why, does not count, and can be repeated: 503 where a
    page shall try by itself, 507 where somebody has to see to it.
    """
    gate = park(store)

    def fails(*_: Any, **__: Any) -> Any:
        raise StoreError("the store x cannot be used: the disk is full", passing=passing)

    with monkeypatch.context() as broken:
        broken.setattr(GateStore, "end", fails)
        answer = client.post(f"{API}/gates/{gate.id}/decision", json={"route": 1})
    assert answer.status_code == status
    assert "disk is full" in answer.json()["error"]
    assert store.get(gate.id).state is State.PARKED
    again = client.post(f"{API}/gates/{gate.id}/decision", json={"route": 1})
    assert again.json() == {"outcome": "won"}


async def test_a_stream_ends_with_the_store(
    store: GateBus[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is away a stream ends without a traceback: the page then knows, and asks
    again by itself.
    """

    class Request:
        async def is_disconnected(self) -> bool:
            return False

    news = EventStream(store, ALL, lambda _: {"waiting": store.count()})
    events = while_it_lasts(news.events(Request()))  # type: ignore[arg-type]
    first = (await anext(events)).decode()
    assert first.startswith("event: reload")
    assert json.loads(first.partition("data: ")[2]) == {"waiting": 0}

    def fails(*_: Any) -> int:
        raise StoreError("away", passing=True)

    park(store)
    monkeypatch.setattr(GateStore, "count", fails)
    assert [event async for event in events] == []
    assert store.listeners == 0
