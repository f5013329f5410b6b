"""Share links in a real ComfyUI: made in its panel, opened at a door of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from tests.live.comfyui import Comfy, gated, until
from tests.live.conftest import running

API = "/imagegate/api"


def share(comfy: Comfy, name: str = "Ada", **given: Any) -> tuple[dict[str, Any], str]:
    """A link into this network, and its address once the door is open."""
    made = comfy.http.post(f"{API}/links", json={"name": name, "reach": "network", **given})
    assert made.status_code == 201, made.text
    return made.json()["link"], f"{door(comfy)}/s/{made.json()['token']}"


def door(comfy: Comfy) -> str:
    """Where the approver's door is, on this machine."""

    def probe() -> str:
        return str(comfy.http.get(f"{API}/links").json()["door"]["network"]["url"])

    url = httpx.URL(until(probe, "approver's door"))
    return f"http://127.0.0.1:{url.port}/imagegate"


@contextmanager
def opened(address: str) -> Iterator[httpx.Client]:
    """A browser that has opened a link."""
    base, _, token = address.partition("/imagegate/s/")
    with httpx.Client(base_url=base, timeout=20) as browser:
        until(lambda: _entered(browser, token), "entry page")
        assert browser.post(f"{API}/session", json={"token": token}).status_code == 200
        yield browser


def _entered(browser: httpx.Client, token: str) -> bool:
    """Whether the entry page is shown; the door of the test before may only just be closing."""
    try:
        return browser.get(f"/imagegate/s/{token}").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def comfy(comfy: Comfy) -> Iterator[Comfy]:
    """The ComfyUI, with no link left behind."""
    yield comfy
    for link in comfy.http.get(f"{API}/links").json()["links"]:
        comfy.http.post(f"{API}/links/{link['id']}/revoke", json={})


@pytest.mark.parametrize("mode", ["wait", "park"])
def test_a_person_far_away_sends_an_image_on(comfy: Comfy, name: str, mode: str) -> None:
    """What is decided through a link goes down that route alone, and who did is remembered."""
    prompt = comfy.queue(gated(name, mode=mode, title=name))
    [gate] = comfy.waiting(prompt)
    link, address = share(comfy, scope={"kind": "title", "title": name})
    with opened(address) as browser:
        [seen] = browser.get(f"{API}/gates").json()["gates"]
        assert seen["id"] == gate["id"]
        assert "prompt_id" not in seen
        at = f"{API}/gates/{seen['id']}"
        assert browser.get(f"{at}/image/0").headers["content-type"] == "image/jpeg"
        said = {"route": "fix", "note": "warmer", "key": "1"}
        assert browser.post(f"{at}/decision", json=said).json() == {"outcome": "won"}
    comfy.state(gate, "decided" if mode == "wait" else "resumed")
    comfy.finished(prompt)
    until(lambda: comfy.sunk(f"{name}-fix"), "image on the route")
    assert comfy.sunk(f"{name}-keep") == []
    decision = comfy.gate(gate["id"])["decision"]
    assert (decision["by"], decision["note"], decision["link"]) == ("Ada", "warmer", link["id"])


def test_the_doors_are_not_mixed(comfy: Comfy, name: str) -> None:
    """The approver's door serves nothing of ComfyUI or the panel, and ComfyUI's port no link."""
    _, address = share(comfy)
    base, _, token = address.partition("/imagegate/s/")
    assert comfy.http.get(f"/imagegate/s/{token}").status_code == 404
    for path in ("/", "/prompt", "/queue", "/system_stats", "/view", "/imagegate/config",
                 "/imagegate/api/links", "/imagegate/gradio_api/info"):  # fmt: skip
        assert httpx.get(f"{base}{path}").status_code == 401
    with opened(address) as browser:
        for path in ("/prompt", "/queue", "/imagegate/config", "/imagegate/api/links",
                     "/imagegate/api/status", "/imagegate/gradio_api/info"):  # fmt: skip
            assert browser.get(path).status_code in (401, 404)
        stop = browser.post(f"{API}/gates/x/stop", json={})
        assert stop.status_code == 404


def test_a_link_survives_a_restart(tmp_path: Path, name: str) -> None:
    """After ComfyUI was started again, whoever had opened a link goes on where they were."""
    here = {"IMAGEGATE_WORKER": "here"}  # else it is called by its port, which is another one then
    with running(tmp_path / "comfyui", **here) as first:
        until(first.panel_runs, "panel", within=60)
        prompt = first.queue(gated(name, mode="park"))
        first.finished(prompt)
        [gate] = first.waiting(prompt)
        _, address = share(first)
        base, _, token = address.partition("/imagegate/s/")
        session = httpx.post(f"{base}{API}/session", json={"token": token})
        cookie = session.headers["set-cookie"].partition(";")[0]
    # The door opens again by itself: nobody has looked at the panel yet.
    with running(tmp_path / "comfyui", **here) as again:
        at = f"{base}{API}/gates/{gate['id']}/decision"

        def probe() -> bool:
            try:
                said = httpx.post(at, json={"route": 1, "key": "k"}, headers={"cookie": cookie})
            except httpx.TransportError:
                return False
            return said.status_code == 200

        until(probe, "answer at the door", within=60)
        until(lambda: again.sunk(f"{name}-keep"), "image on the route", within=60)
