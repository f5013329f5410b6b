"""Whose a gate is, where ComfyUI has several users."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from imagegate.comfy.host import EXTRA_USER
from imagegate.comfy.port import pack as gate_server_module
from imagegate.comfy.port.users import follow_users, is_for, owned
from imagegate.operator.service import Service
from tests.comfy.test_gate_server import Front, build, servers
from tests.support.stored import stored_bus, with_storage

__all__ = ["servers"]  # a fixture for every test here


class Queue:
    """What is used of ComfyUI's server, where prompts are queued."""

    def __init__(self) -> None:
        self.app = web.Application()
        self.handlers: list[Any] = []
        self.queued: list[dict[str, Any]] = []
        self.app.router.add_post("/prompt", self._post)

    def add_on_prompt_handler(self, handler: Any) -> None:
        self.handlers.append(handler)

    async def _post(self, request: web.Request) -> web.Response:
        queued = await request.json()
        for handler in self.handlers:
            queued = handler(queued)
        self.queued.append(queued)
        return web.json_response({})


async def test_a_prompt_keeps_who_queued_it() -> None:
    """The user that the front end names goes along; a prompt that goes on has its own already."""
    queue = Queue()
    follow_users(queue)
    async with TestClient(TestServer(queue.app)) as client:
        for headers, extra in (
            ({"Comfy-User": "ada"}, {"client_id": "x"}),
            ({"Comfy-User": "ben"}, {EXTRA_USER: "ada"}),
            ({}, {EXTRA_USER: "ada"}),
            ({}, {}),
            ({"Comfy-User": "ada"}, None),
        ):
            body = {"prompt": {}, **({} if extra is None else {"extra_data": extra})}
            async with client.post("/prompt", json=body, headers=headers) as answer:
                assert answer.status == 200
    users = [queued["extra_data"].get(EXTRA_USER) for queued in queue.queued]
    assert users == ["ada", "ben", "ada", None, "ada"]


def test_two_users_of_one_template_have_each_their_own() -> None:
    """A workflow's id is one user's; what nobody is named for is everybody's."""
    assert owned("w", "") == "w"
    assert owned("w", "ada") != owned("w", "ben")
    assert is_for("ada", owned("w", "ada"))
    assert is_for("ada", owned("", "ada"))
    assert not is_for("ada", owned("w", "ben"))
    assert not is_for("", owned("w", "ben"))
    assert is_for("", "w")
    assert is_for("ada", "")


async def test_the_nodes_panel_hears_of_its_own_users_gates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a gate that another user queued, ComfyUI's page gets neither title nor anything else, and
    the panel in the node does not list it.
    """
    monkeypatch.setattr(gate_server_module, "multi_user", lambda: True)
    monkeypatch.setattr(gate_server_module, "follow_users", lambda _: None)
    async with Front(Service(*with_storage(stored_bus()), build)) as front:
        own = front.publish(title="Own", node_id="2", workflow_id="w@ada").gate
        other = front.publish(title="Other", node_id="2", workflow_id="w@ben").gate
        script = front.publish(title="Script", node_id="2", workflow_id="w").gate
        headers = {"Comfy-User": "ada"}
        async with front.call("GET", "/imagegate/notices", headers=headers) as answer:
            waiting = (await answer.json())["waiting"]
        assert [gate["title"] for gate in waiting] == ["Own", "Script"]
        ids = ",".join(gate.id for gate in (own, other, script))
        async with front.call("GET", f"/imagegate/notices?ids={ids}", headers=headers) as answer:
            assert "Other" not in await answer.text()
        listed = front.call("GET", "/imagegate/api/gates?node=2&workflow=w@ada")
        async with listed as answer:
            assert [gate["title"] for gate in (await answer.json())["gates"]] == ["Own"]
