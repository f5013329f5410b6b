"""Strangers' pages, rebound names and other people's proxies, at a real ComfyUI's port."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.http.test_foreign_pages import FLAGS, TRY, visit
from tests.http.test_origins import TABLE, Case
from tests.live.comfyui import Comfy, gated, until
from tests.live.conftest import _free_port, running
from tests.support.browser import chromium

API = "/imagegate/api"
# What needs no setting. Links from other sites ComfyUI refuses itself, as all cross-site calls.
CASES = [case for case in TABLE if not case.names and case.setup != "Link from another page"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(*FLAGS) as browser:
        yield browser


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


def waiting(comfy: Comfy, name: str) -> tuple[str, dict[str, Any]]:
    run = comfy.queue(gated(name, title="Hero"))
    [gate] = comfy.waiting(run)
    return run, gate


def test_the_table_of_security_md(comfy: Comfy, name: str) -> None:
    """Each row holds at ComfyUI's port, as itself and below /api, and for its own notices."""

    def check(case: Case) -> None:
        _, gate = waiting(comfy, f"{name}-{CASES.index(case)}")
        host = {"host": case.host}
        for path in (f"{API}/gates", f"/api{API}/gates", "/imagegate/notices", "/imagegate/"):
            answer = comfy.http.get(path, headers=host | case.look)
            assert answer.status_code == (200 if case.looks else 403), (case, path)
            assert case.looks or "Hero" not in answer.text
        decision = comfy.http.post(
            f"{API}/gates/{gate['id']}/decision", json={"route": 1}, headers=host | case.change
        )
        assert decision.status_code == (200 if case.changes else 403), case
        assert comfy.gate(gate["id"])["state"] == ("decided" if case.changes else "waiting")
        comfy.settle()

    for case in CASES:
        check(case)


def test_a_rebound_name_in_a_browser(comfy: Comfy, tab: Page, name: str) -> None:
    """A page of evil.example that leads to ComfyUI's port makes no link, decides nothing, reads
    nothing, and hears from ComfyUI's websocket a gate's id, node and state alone.
    """
    _, gate = waiting(comfy, name)
    base = f"http://evil.example:{httpx.URL(comfy.url).port}"
    visit(tab, base)
    tab.evaluate(
        "(base) => new Promise((open) => { globalThis.heard = [];"
        " const socket = new WebSocket(base.replace('http', 'ws') + '/ws?clientId=evil');"
        " socket.onopen = open; socket.onmessage = ({ data }) => heard.push(data); })",
        base,
    )
    told = tab.evaluate(TRY, {"base": base, "gate": gate["id"]})
    told.pop("beacon")
    assert told.pop("events") == "refused"
    assert {key: value for key, value in told.items() if value not in (403, "blocked")} == {}
    assert comfy.gate(gate["id"])["state"] == "waiting"
    assert comfy.http.get(f"{API}/links").json()["links"] == []
    comfy.decide(gate, 1)
    tab.wait_for_function("heard.some((line) => String(line).includes('imagegate.decided'))")
    lines = [line for line in tab.evaluate("heard.map(String)") if "imagegate." in line]
    assert all("Hero" not in line and "keep" not in line for line in lines), lines
    tab.goto(f"{base}/imagegate/")
    expect(tab.locator("body")).to_contain_text("IMAGEGATE_ORIGINS=evil.example")


def test_enable_cors_header_opens_nothing_of_ours(tmp_path: Path, tab: Page, name: str) -> None:
    """With ComfyUI's --enable-cors-header a page of another origin uses ComfyUI, and nothing of
    Image Gate.
    """
    with running(tmp_path / "base", "--enable-cors-header") as comfy:
        until(comfy.panel_runs, "panel", within=60)
        _, gate = waiting(comfy, name)
        visit(tab, "http://studio.lan:1999")
        assert tab.evaluate("(url) => fetch(url + '/queue').then((r) => r.ok)", comfy.url)
        told = tab.evaluate(TRY, {"base": comfy.url, "gate": gate["id"]})
        told.pop("beacon")
        assert told.pop("events") == "refused"
        assert set(told.values()) <= {"blocked", "opaque"}, told
        notices = tab.evaluate(
            "(url) => fetch(url + '/imagegate/notices').then((r) => r.text(), () => 'blocked')",
            comfy.url,
        )
        assert notices == "blocked"
        assert comfy.gate(gate["id"])["state"] == "waiting"
        assert comfy.http.get(f"{API}/links").json()["links"] == []
        comfy.decide(gate, 1)


@pytest.mark.parametrize("mode", ["wait", "park"])
def test_users_of_one_comfyui(tmp_path: Path, name: str, mode: str) -> None:
    """With --multi-user ComfyUI's page, and the panel in the node, show each user their own gates,
    though both opened the same workflow.
    """
    workflow = {"id": "the-same", "nodes": []}
    with running(tmp_path / "base", "--multi-user") as comfy:
        until(comfy.panel_runs, "panel", within=60)

        def titles(user: str) -> list[str]:
            told = comfy.http.get("/imagegate/notices", headers={"comfy-user": user}).json()
            return [gate["title"] for gate in told["waiting"]]

        for user in ("ada", "ben"):
            prompt = gated(f"{name}-{user}", title=user, mode="park")
            prompt["2"]["inputs"]["mode"] = mode if user == "ben" else "park"
            body = {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": workflow}}}
            sent = comfy.http.post("/prompt", json=body, headers={"comfy-user": user})
            assert sent.status_code == 200, sent.text
            until(lambda user=user: titles(user) == [user], f"gate of {user}")  # type: ignore[misc]
        for user in ("ada", "ben"):
            query = {"node": "2", "workflow": f"the-same@{user}"}
            listed = comfy.http.get(f"{API}/gates", params=query).json()["gates"]
            assert [gate["title"] for gate in listed] == [user]
        assert titles("mallory") == []
        assert len(comfy.gates()) == 2
        comfy.settle()


NGINX = """
daemon off; master_process off; pid nginx.pid; error_log error.log;
events {}
http {
  access_log off;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  map $http_upgrade $upgrade { default upgrade; '' close; }
  upstream comfyui { server 127.0.0.1:BEHIND; }
  server {
    listen 127.0.0.1:PORT;
    proxy_http_version 1.1;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $upgrade;
    HOST
    location PATH { proxy_pass http://comfyui/; }
  }
}
"""  # noqa: E501
SETUPS = {
    "as-it-is": ("", "/"),
    "host-and-server-port": (
        "proxy_set_header Host $host:$server_port; proxy_set_header Upgrade $http_upgrade;"
        " proxy_set_header Connection $upgrade;",
        "/",
    ),
    "sub-path": ("", "/comfy/"),
}


@contextmanager
def nginx(folder: Path, behind: int, how: str) -> Iterator[str]:
    """A real nginx in front of a port."""
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if found is None:
        pytest.skip("no nginx here")
    host, path = SETUPS[how]
    port = _free_port()
    text = NGINX.replace("HOST", host).replace("PATH", path).replace("BEHIND", str(behind))
    (folder / "nginx.conf").write_text(text.replace("PORT", str(port)))
    process = subprocess.Popen(
        [found, "-p", folder, "-c", "nginx.conf", "-e", "error.log"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: _answers(port), "nginx")
        yield f"http://studio.lan:{port}{path}"
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/").status_code > 0
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("how", SETUPS)
def test_behind_a_real_nginx(comfy: Comfy, tab: Page, tmp_path: Path, name: str, how: str) -> None:
    """Behind nginx, over plain HTTP at a name in the network, a click in the panel decides, and all
    that the page asks for is where the browser sees it.
    """
    run, gate = waiting(comfy, name)
    failed: list[str] = []
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("response", lambda r: failed.extend([f"{r.status} {r.url}"] * (r.status >= 400)))
    port = httpx.URL(comfy.url).port
    assert port is not None
    with nginx(tmp_path, port, how) as url:
        tab.goto(f"{url}imagegate/")
        expect(tab.locator("#ig-title")).to_have_text("Hero")
        _click(tab, lambda: comfy.gate(gate["id"])["state"] == "decided")
        tab.goto("about:blank")
        comfy.finished(run)
        assert [line for line in failed if not line.endswith("/favicon.ico")] == []
        ours = (url + "imagegate/", "data:", "blob:", "about:")
        assert [u for u in asked if not u.startswith(ours) and "/favicon.ico" not in u] == []
        assert f"{url}imagegate/theme.css" in {u.partition("?")[0] for u in asked}


def _click(page: Page, decided: Callable[[], bool]) -> None:
    """Click the first route, again where it was too soon to count."""

    def probe() -> bool:
        if not decided():
            page.locator("#ig-route-1").click()
        return decided()

    until(probe, "decision", within=60)
