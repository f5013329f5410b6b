"""From which pages and by which names the server may be called: the table of SECURITY.md."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from starlette.testclient import TestClient
from yarl import URL

from imagegate.core import origins as origins_module
from imagegate.core.model import Gate, StoreError
from imagegate.core.origins import Origins, host_name, is_private, name_in
from imagegate.core.settings import read_names
from imagegate.gate_bus import GateBus
from imagegate.http.access import HostDoor
from imagegate.operator.rest import create_app
from imagegate.operator.service import Service
from tests.comfy.test_gate_server import Front, Photo, build, end_panels, servers
from tests.support.stored import stored_bus, with_storage

__all__ = ["servers"]  # a fixture for every test here

SECURITY = Path(__file__).parents[2] / "SECURITY.md"
OURS = {"x-imagegate": "1"}
SAME = {"sec-fetch-site": "same-origin"}
CROSS = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}


class Case(NamedTuple):
    """A row of the table: what arrives, and whether it may look and change something."""

    setup: str
    host: str
    look: dict[str, str]
    change: dict[str, str]
    looks: bool
    changes: bool
    names: str = ""


def page(origin: str, fetch: bool = True) -> tuple[dict[str, str], dict[str, str]]:
    """What a browser says for a page of ours that it sees at ``origin``."""
    said = SAME if fetch else {}
    return said, {**said, "origin": origin, **OURS}


def foreign(origin: str, site: str = "cross-site") -> tuple[dict[str, str], dict[str, str]]:
    said = {"origin": origin}
    if site:
        said |= {"sec-fetch-site": site, "sec-fetch-mode": "cors"}
    return said, said


YES, NO = True, False
TABLE = [
    # Set-ups that work with nothing to configure.
    Case("This machine", "127.0.0.1:8188", *page("http://127.0.0.1:8188"), YES, YES),
    Case("SSH tunnel", "localhost:9000", *page("http://localhost:9000"), YES, YES),
    Case("Address in the network", "192.168.1.5:8188",
         *page("http://192.168.1.5:8188", fetch=False), YES, YES),
    Case("Name in the network", "gpu1.local:8188",
         *page("http://gpu1.local:8188", fetch=False), YES, YES),
    Case("nginx as it is, in docker compose", "comfyui:8188",
         *page("http://192.168.1.5", fetch=False), YES, YES),
    Case("nginx with $host:$server_port", "studio.lan:80",
         *page("http://studio.lan:8080", fetch=False), YES, YES),
    Case("nginx to an address", "172.18.0.3:8188", *page("http://studio", fetch=False), YES, YES),
    Case("HTTPS proxy, cloud", "pod-8188.cloud.example",
         *page("https://pod-8188.cloud.example"), YES, YES),
    Case("HTTPS proxy that changes Host", "gpu1.studio.example:8188",
         *page("https://panel.studio.example"), YES, YES),
    Case("Script, no browser", "192.168.1.5:8188", {}, {}, YES, YES),
    Case("Link from another page", "localhost:8188",
         {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, *page("http://localhost:8188")[1:],
         YES, YES),
    # Set-ups that need IMAGEGATE_ORIGINS.
    Case("Public name over plain HTTP", "gpu1.studio.example:8188",
         *page("http://gpu1.studio.example:8188", fetch=False), NO, NO),
    Case("the same, named in IMAGEGATE_ORIGINS", "gpu1.studio.example:8188",
         *page("http://gpu1.studio.example:8188", fetch=False), YES, YES, "gpu1.studio.example"),
    Case("Public name over plain HTTP, at a proxy that changes Host", "comfyui:8188",
         *page("http://studio.example", fetch=False), YES, NO),
    Case("the same, named in IMAGEGATE_URL", "comfyui:8188",
         *page("http://studio.example", fetch=False), YES, YES, "http://studio.example/imagegate/"),
    Case("HTTPS proxy, browser of before 2023", "studio.example",
         *page("https://studio.example", fetch=False), NO, YES),
    Case("Script, to a public name", "studio.example", {}, {}, NO, NO),
    # Attacks.
    Case("Foreign page", "localhost:8188", *foreign("https://evil.example"), NO, NO),
    Case("Foreign page over plain HTTP, in the network", "192.168.1.5:8188",
         *foreign("http://evil.example", ""), NO, NO),
    Case("Foreign page, --enable-cors-header", "localhost:8188",
         CROSS | {"origin": "https://evil.example"},
         CROSS | {"origin": "https://evil.example"} | OURS, NO, NO),
    Case("Form or beacon of a foreign page", "192.168.1.5:8188",
         {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
         {"origin": "https://evil.example"}, NO, NO),
    Case("Page without an origin (sandbox, file)", "192.168.1.5:8188",
         *foreign("null", ""), NO, NO),
    Case("Page at another port of this machine", "localhost:8188",
         *foreign("http://localhost:3000", "same-site"), NO, NO),
    Case("Rebound name", "evil.example:8188",
         *page("http://evil.example:8188", fetch=False), NO, NO),
    Case("Rebound name, its Origin taken off", "evil.example:8188", {}, {"origin": "null", **OURS},
         NO, NO),
    Case("Rebound name, at a proxy that takes any name and changes Host", "comfyui:8188",
         *page("http://evil.example", fetch=False), YES, NO),
    Case("Rebound name there, its Origin taken off", "comfyui:8188", {}, {"origin": "null", **OURS},
         YES, NO),
]  # fmt: skip


@pytest.fixture(autouse=True)
def names_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has no name of its own here."""
    monkeypatch.setattr("socket.gethostname", lambda: "here")


def names(case: Case) -> tuple[str, ...]:
    kind = "IMAGEGATE_URL" if "://" in case.names else "IMAGEGATE_ORIGINS"
    return read_names({kind: case.names})


@pytest.fixture
def bus() -> GateBus[Any]:
    return GateBus()


def publish(bus: Any) -> str:
    gate = Gate(labels=("keep", "fix"), width=8, height=6, title="Hero")
    bus.publish(gate, Photo())
    return gate.id


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.setup)
def test_the_table_at_the_panels_own_port(bus: GateBus[Any], case: Case) -> None:
    """Each row of the table holds for looking and for deciding; a refusal says why."""
    gate = publish(bus)
    app = create_app(bus, HostDoor(names(case)))
    with TestClient(app, base_url="http://localhost") as client:
        host = {"host": case.host}
        for path in ("gates", f"gates/{gate}/image/0", "openapi.json"):
            answer = client.get(f"/imagegate/api/{path}", headers=host | case.look)
            assert answer.status_code == (200 if case.looks else 403)
            assert case.looks or "Hero" not in answer.text
        answer = client.post(
            f"/imagegate/api/gates/{gate}/decision", json={"route": 1}, headers=host | case.change
        )
    assert answer.status_code == (200 if case.changes else 403)
    assert case.changes or "another origin" in answer.json()["error"]
    assert (bus.get(gate).decision is not None) is case.changes


@pytest.mark.slow
async def test_the_table_at_comfyuis_port() -> None:
    """Each row of the table holds for every call of the pack at ComfyUI's port."""
    for case in TABLE:
        async with Front(Service(*with_storage(stored_bus()), build, names(case))) as front:
            gate = publish(front.bus)
            host = {"Host": case.host}
            for path in ("notices", "", "api/gates", "api/gates/x/image/0", "gradio_api/x"):
                look = front.call(
                    "GET", f"/imagegate/{path}", headers=host | case.look, allow_redirects=False
                )
                async with look as answer:
                    assert (answer.status != 403) is case.looks, (case, path)
            bare = front.call("GET", "/imagegate", headers=host | case.look, allow_redirects=False)
            async with bare as answer:
                assert answer.status == (308 if case.looks else 403), case
            path = f"/imagegate/api/gates/{gate}/decision"
            change = front.call("POST", path, json={"route": 1}, headers=host | case.change)
            async with change as answer:
                assert answer.status == (200 if case.changes else 403), case
            upload = front.call(
                "POST", "/imagegate/gradio_api/upload", data=b"x", headers=host | case.change
            )
            async with upload as answer:
                assert (answer.status != 403) is case.changes, case
            assert (front.bus.get(gate).decision is not None) is case.changes
        end_panels()


def test_security_md_has_the_same_table() -> None:
    """What SECURITY.md says of each set-up is what is tested here."""
    rows = [line for line in SECURITY.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows]
    told = {row[0]: tuple(row[-2:]) for row in cells if len(row) == 5}
    words = {YES: "yes", NO: "**no**"}
    for case in TABLE:
        assert told.get(case.setup) == (words[case.looks], words[case.changes]), case.setup
    assert len(told) == len(TABLE) + 1  # its head


# -- names

PRIVATE = [
    "localhost", "127.0.0.1", "::1", "10.0.0.7", "203.0.113.9", "fe80::1", "comfyui", "comfy_ui",
    "gpu1", "gpu1.local", "a.b.lan", "db.internal", "nas.home.arpa", "x.localhost", "xn--bro-joa",
]  # fmt: skip
PUBLIC = [
    "evil.example", "local.example", "evil.local.example", "127.0.0.1.nip.io", "lan.evil.example",
    "home.arpa", "evilhome.arpa", "notlocal.com", "xn--e1afmkfd.xn--p1ai", "fritz.box", "a.test",
]  # fmt: skip
NONE = [
    "", " ", "evil.example.", "localhost.", ".local", "a..local", "-a.local", "a-.local", "a b",
    "user@localhost", "localhost/", "localhost#x", "http://localhost", "localhost:80:80",
    "localhost:port", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "1.2.3.4.5", "256.0.0.1",
    "127.0.0.1.", "[evil.local]", "[::1", "::1", "[fe80::1%25eth0]", "[1.2.3.4]x", "büro.local",
    "evil.exam\u212ale", "a.local,b", "a\tb", "evil.example\\.local", "a%2elocal", "*.local",
]  # fmt: skip


@pytest.mark.parametrize("name", PRIVATE)
def test_names_that_no_stranger_can_own(name: str) -> None:
    """Addresses, single labels and private domains need no setting, in any case and at any port."""
    host = f"[{name}]" if ":" in name else name
    for written in (host, host.upper(), f"{host}:8188", f"{host}:"):
        assert host_name(written) == name
    assert is_private(name)


@pytest.mark.parametrize("name", PUBLIC)
def test_names_that_a_stranger_can_own(name: str) -> None:
    """All other names can be bought, or made to lead anywhere."""
    assert host_name(name.upper() + ":80") == name
    assert not is_private(name)


@pytest.mark.parametrize("host", NONE)
def test_what_is_no_name(host: str) -> None:
    """What no browser writes into a Host header is no name, whatever it looks like."""
    assert host_name(host) == ""


@pytest.mark.parametrize(
    "headers",
    [
        [("host", "localhost"), ("host", "evil.example")],
        [("host", "evil.example"), ("host", "localhost")],
        [("host", "localhost"), ("host", "localhost")],
        [("host", "localhost, evil.example")],
        [("host", "evil.example"), ("x-forwarded-host", "localhost")],
        [("host", "evil.example"), ("forwarded", "host=localhost;proto=https")],
        [("host", "evil.example"), ("x-forwarded-proto", "https"), ("x-forwarded-ssl", "on")],
        [("host", "localhost"), ("origin", "http://localhost"), ("origin", "http://evil.example")],
        [("host", "localhost"), ("origin", "http://localhost, http://evil.example")],
        [("host", "localhost"), ("origin", "http://localhost@evil.example")],
        [("host", "localhost"), ("origin", "http://localhost/")],
        [("host", "localhost"), ("origin", "")],
        [("host", "localhost"), ("origin", "file://")],
        [("host", "localhost"), ("origin", "chrome-extension://abcdef")],
        [("host", "evil.example"), ("origin", "https://")],
        [("host", "evil.example"), ("origin", "https://evil.example."), ("host", "localhost")],
        [("host", "evil.example"), ("referer", "https://evil.example/")],
        [],
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "DELETE", "PATCH", "X"]
)
def test_claims_that_count_for_nothing(method: str, headers: list[tuple[str, str]]) -> None:
    """Several hosts or origins, what proxies say, and half an origin open nothing."""

    def values(name: str) -> list[str]:
        return [value for key, value in [*headers, *OURS.items()] if key == name]

    assert Origins().refusal(method, values)


def test_tls_is_known_from_the_socket() -> None:
    """Over TLS a public name passes, of which the browser has seen a certificate."""
    host = {"host": ["studio.example"]}
    assert Origins().refusal("GET", lambda name: host.get(name, []))
    assert not Origins().refusal("GET", lambda name: host.get(name, []), tls=True)


# -- settings


def test_what_can_be_named() -> None:
    """IMAGEGATE_ORIGINS takes names and origins; IMAGEGATE_URL's name and the machine's count."""
    given = {
        "IMAGEGATE_ORIGINS": " Studio.example, http://gpu.example:8188 ,https://[::2]/x,, a:80",
        "IMAGEGATE_URL": "https://panel.example/imagegate/",
    }
    wanted = ("here", "studio.example", "gpu.example", "::2", "a", "panel.example")
    assert read_names(given) == wanted
    assert read_names({}) == ("here",)


@pytest.mark.parametrize(
    "text", ["*", "*.studio.example", "a b", "ftp://x.example", "http://", "x.example."]
)
def test_a_setting_that_cannot_be_used(text: str) -> None:
    """What is no name is refused, and the message says what is one."""
    with pytest.raises(StoreError, match=r"IMAGEGATE_ORIGINS.*studio\.example") as caught:
        read_names({"IMAGEGATE_ORIGINS": f"studio.example, {text}"})
    assert text in str(caught.value)
    with pytest.raises(ValueError, match="neither a name nor an origin"):
        name_in(text)


# -- said


def test_a_refusal_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log names the setting, once a minute however often somebody calls."""
    now = [1000.0]
    monkeypatch.setattr("imagegate.core.origins.time.monotonic", lambda: now[0])
    origins = Origins()
    host = {"host": ["evil.example"]}
    for _ in range(50):
        assert "IMAGEGATE_ORIGINS=evil.example" in origins.refusal("GET", lambda n: host.get(n, []))
    with caplog.at_level(logging.WARNING, "imagegate"):
        assert len(caplog.records) == 1
        now[0] += origins_module.QUIET
        origins.refusal("GET", lambda n: host.get(n, []))
        assert len(caplog.records) == 2
    assert "IMAGEGATE_ORIGINS=evil.example" in caplog.text


def test_a_person_reads_why(bus: GateBus[Any]) -> None:
    """A browser that opens the panel by such a name shows a page that names the setting."""
    with TestClient(create_app(bus, HostDoor()), base_url="http://localhost") as client:
        given = {"host": "studio.example", "accept": "text/html,*/*"}
        answer = client.get("/imagegate/", headers=given)
        assert answer.status_code == 403
        assert answer.headers["content-type"].startswith("text/html")
        assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
        assert "IMAGEGATE_ORIGINS=studio.example" in answer.text
        rest = client.get("/imagegate/api/gates", headers=given)
        assert "IMAGEGATE_ORIGINS=studio.example" in rest.json()["error"]


async def test_a_person_reads_why_in_the_node() -> None:
    """So it is at ComfyUI's port, where the node shows the page."""
    async with Front(Service(*with_storage(stored_bus()), build)) as front:
        given = {"Host": "studio.example", "Accept": "text/html"}
        async with front.call("GET", "/imagegate/?node=1", headers=given) as answer:
            assert answer.status == 403
            assert "frame-ancestors 'self'" in answer.headers["Content-Security-Policy"]
            assert "IMAGEGATE_ORIGINS=studio.example" in await answer.text()
        async with front.call("GET", "/imagegate/notices", headers=given) as answer:
            assert "IMAGEGATE_ORIGINS=studio.example" in (await answer.json())["error"]
        assert not front.service.started
    assert URL(front.base).host == "127.0.0.1"
