"""People are told of gates that wait: through the real Apprise, by services of the test's own."""

from __future__ import annotations

import base64
import json
import logging
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from imagegate.core.model import Gate, Outcome, Snapshot, State, StoreError
from imagegate.core.settings import NoticeSettings
from imagegate.gate_bus import GateBus
from imagegate.notify import apprise as messenger_module
from imagegate.notify import notices as notices_module
from imagegate.notify.apprise import THREAD
from imagegate.notify.notices import Notices
from imagegate.notify.wording import LONGEST_TITLE, Waits, message, span
from imagegate.storage.sql import tables
from imagegate.text.printable import one_line
from tests.support.stored import (
    FILES,
    PATIENCE,
    PLAIN,
    Store,
    gate,
    hears,
    sql,
    storage_of,
    store_of,
    to_go_on,
)

# Of one of Apprise's own imports, which it can do without.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

PANEL = "http://studio:8188/imagegate/"
HOUR = 3600.0
SECRET = "open-sesame"
LATE = 30.0
"""Seconds that nothing which is not held up takes, on a machine however slow."""


class Service:
    """A service that takes notices by HTTP, on a port of its own.

    Attributes:
        got: what was taken: the fields of each notice, or its raw body.
        asked: how many requests came.
        first: the statuses of the first answers. ``status``: of those after them.
    """

    def __init__(self) -> None:
        self.first: list[int] = []
        self.status = 200
        self.got: list[Any] = []
        self.asked = 0
        self.go_on = threading.Event()  # cleared, it does not answer
        self.go_on.set()
        self._changed = threading.Condition()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = service._took(body, self.headers["Content-Type"])
                service.go_on.wait(LATE)
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:  # nobody waited for the answer
                    self.close_connection = True

            def log_message(self, *_: Any) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.block_on_close = False
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self._http.server_port}"

    @property
    def json(self) -> str:
        return f"json://{self.place}"

    @property
    def titles(self) -> list[str]:
        return [notice["title"] for notice in self.got]

    def _took(self, body: bytes, kind: str) -> int:
        with self._changed:
            self.asked += 1
            status = self.first.pop(0) if self.first else self.status
            if status == 200:
                self.got.append(json.loads(body) if kind == "application/json" else body)
            self._changed.notify_all()
            return status

    def until(self, count: int) -> list[Any]:
        """What was taken, once there are so many."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.got) >= count, LATE), self.got
            return list(self.got)

    def until_asked(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.asked >= count, LATE), self.asked

    def close(self) -> None:
        self.go_on.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


Start = Callable[..., Notices]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts notices, of what waits for an hour if nothing else is said."""
    started: list[Notices] = []

    def start(bus: GateBus[Any], addresses: str, **settings: Any) -> Notices:
        given: dict[str, Any] = {"after": HOUR, **settings}
        notices = Notices(bus, storage_of(bus), NoticeSettings(addresses, **given), lambda: PANEL)
        notices.start()
        started.append(notices)
        return notices

    yield start
    for notices in started:
        notices.close()


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[GateBus[Any]]:
    with Store("sqlite", f"sqlite:///{tmp_path}/gates.sqlite", tmp_path / "pictures") as store:
        yield store.bus()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once, nearly."""
    monkeypatch.setattr(messenger_module, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(notices_module, "RETRY", 0.05)


def park(bus: GateBus[Any], title: str = "Sky", **given: Any) -> Gate:
    return storage_of(bus).parking.park(gate(title=title, **given), FILES, to_go_on()).gate


def later(bus: GateBus[Any], seconds: float = HOUR, *gates: Gate) -> None:
    """So much time goes by, for these gates or for all."""
    which = " OR ".join(f"gate_id = '{one.id}'" for one in gates) or "1 = 1"
    sql(bus, f"UPDATE lines SET at = at - :seconds WHERE {which}", seconds=seconds)
    bus._feed.lose()  # what else would have to be a clock


def kinds(bus: GateBus[Any], one: Gate) -> list[str]:
    return [line.kind for line in storage_of(bus).lines(one.id)]


def until_written(bus: GateBus[Any], one: Gate, times: int = 1) -> None:
    """The history says that people were told. Nobody is told of that line: look again."""
    deadline = time.monotonic() + LATE
    while kinds(bus, one).count("notified") < times:
        assert time.monotonic() < deadline, kinds(bus, one)
        threading.Event().wait(0.01)


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(THREAD)]


# -- what is told, and when


def test_off_by_default(bus: GateBus[Any], start: Start) -> None:
    """Without an address there is no thread, and nobody listens."""
    before = bus.listeners
    start(bus, "")
    park(bus)
    later(bus)
    assert (threads(), bus.listeners) == ([], before)


def test_one_notice_after_the_time(shared: Store, service: Service, start: Start) -> None:
    """A gate that has waited long enough is told of once: its title, how long, the routes, where
    to answer, and no image. One that has not waited so long is not.
    """
    bus = shared.bus()
    start(bus, service.json)
    one, two = park(bus, "Sky"), park(bus, "Sea")
    later(bus, HOUR, one)
    (notice,) = service.until(1)
    assert notice["title"] == "Image Gate: Sky"
    assert notice["message"].splitlines() == ["Parked for 1 hour.", "Routes: keep, fix", PANEL]
    assert notice["attachments"] == []
    until_written(bus, one)
    assert kinds(bus, one) == ["published", "notified"]
    assert storage_of(bus).lines(one.id)[-1].body == {"text": "by json"}
    assert bus.get(one.id).version == 1  # nothing of the gate itself has changed
    later(bus)
    service.until(2)
    until_written(bus, two)
    assert service.titles == ["Image Gate: Sky", "Image Gate: Sea"]


def test_the_time_runs_by_itself(bus: GateBus[Any], service: Service, start: Start) -> None:
    """Nothing has to happen for the time to be up; the prompt that waits is told of as waiting."""
    start(bus, service.json, after=0.3, url="https://gate.example/imagegate/")
    begun = time.monotonic()
    asked = gate(title="Sky", batch=4)
    bus.publish(asked, PLAIN)
    (notice,) = service.until(1)
    assert time.monotonic() - begun >= 0.3
    assert notice["message"].splitlines() == [
        "Waiting for 0 seconds.", "4 images", "Routes: keep, fix", "https://gate.example/imagegate/"
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["decide", "stop", "withdraw", "elsewhere"])
def test_what_is_answered_in_time(shared: Store, service: Service, start: Start, how: str) -> None:
    """Nobody is told of a gate that was answered, here or elsewhere, or withdrawn, in time."""
    bus = shared.bus()
    start(bus, service.json)
    one = park(bus, "Sky")
    if how == "elsewhere":
        shared.bus(kind="panel", worker="panel").decide(one.id, 1)
    else:
        end: dict[str, Callable[[], Any]] = {
            "decide": lambda: bus.decide(one.id, 1),
            "stop": lambda: bus.stop(one.id),
            "withdraw": lambda: bus.withdraw(one.id, "its prompt failed"),
        }
        end[how]()
    two = park(bus, "Sea")
    later(bus)
    service.until(1)
    until_written(bus, two)
    assert service.titles == ["Image Gate: Sea"]
    assert "notified" not in kinds(bus, one)


def test_the_image_only_if_allowed(
    bus: GateBus[Any],
    service: Service,
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the setting the preview goes along, as JSON and as a form. One that cannot be
    read keeps no notice back.
    """
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = f"{service.json}, form://{service.place}"
    start(bus, place, image=True)
    bus.publish(gate(title="Sky"), PLAIN)
    later(bus)
    notices = service.until(2)
    (as_json,) = [notice for notice in notices if isinstance(notice, dict)]
    (as_form,) = [notice for notice in notices if isinstance(notice, bytes)]
    (attached,) = as_json["attachments"]
    preview = PLAIN.preview(0).body
    assert base64.b64decode(attached["base64"]) == preview
    assert (attached["filename"], attached["mimetype"]) == ("preview.jpeg", "image/jpeg")
    assert preview in as_form
    assert b"Image Gate: Sky" in as_form
    park(bus, "Sea")  # whose files are no pictures
    later(bus)
    *_, one, two = service.until(4)
    assert [notice["attachments"] for notice in (one, two) if isinstance(notice, dict)] == [[]]
    assert not list(tmp_path.glob("imagegate-*"))


def test_a_digest(bus: GateBus[Any], service: Service, start: Start) -> None:
    """What came up in the time of a digest is one notice: ten titles, and how many more."""
    start(bus, service.json, digest=600, image=True)
    gates = [park(bus, f"Sky {i}") for i in range(15)]
    later(bus, HOUR)
    later(bus, 600, *gates[3:])  # the first of them sets the time for all
    (notice,) = service.until(1)
    assert notice["title"] == "Image Gate: 15 images wait"
    lines = notice["message"].splitlines()
    assert lines[:2] == ["Sky 0 (1 hour)", "Sky 1 (1 hour)"]
    assert lines[10:] == ["and 5 more", PANEL]
    assert notice["attachments"] == []
    for one in gates:
        until_written(bus, one)
    two = park(bus, "Sea")
    later(bus, HOUR + 600)
    service.until(2)
    until_written(bus, two)
    assert service.titles[1:] == ["Image Gate: Sea"]


def test_a_digest_waits_for_its_time(bus: GateBus[Any], service: Service, start: Start) -> None:
    """A digest does not go out before its time is up; what is answered by then is not in it."""
    start(bus, service.json, digest=600)
    one, two = park(bus, "Sky"), park(bus, "Sea")
    later(bus, HOUR + 590)
    assert bus.decide(one.id, 1).outcome is Outcome.WON
    later(bus, 10)
    service.until(1)
    until_written(bus, two)
    assert service.titles == ["Image Gate: Sea"]


@pytest.mark.parametrize(("number", "notices"), [(10, 10), (11, 1)])
def test_many_at_once(
    bus: GateBus[Any], service: Service, start: Start, number: int, notices: int
) -> None:
    """More than ten gates whose time is up at once are one notice, even where each has its own."""
    gates = [park(bus, f"Sky {i}") for i in range(number)]
    later(bus)
    start(bus, service.json)
    service.until(notices)
    for one in gates:
        until_written(bus, one)
    assert len(service.got) == notices


# -- once


def test_once_over_restarts(shared: Store, service: Service, start: Start) -> None:
    """A gate that people were told of before ComfyUI was restarted is not told of again; one that
    waits since before, and that nobody was told of, is.
    """
    first = shared.bus()
    notices = start(first, service.json)
    one = park(first, "Sky")
    later(first)
    service.until(1)
    until_written(first, one)
    notices.close()
    two = park(first, "Sea")
    storage_of(first).close()

    second = shared.unopened()
    start(second, service.json)
    assert not storage_of(second).opened  # nobody opens a store for this
    hears(second, lambda: store_of(second))
    later(second)
    service.until(2)
    until_written(second, two)
    assert service.titles == ["Image Gate: Sky", "Image Gate: Sea"]
    assert kinds(second, one).count("notified") == 1


def test_again_if_it_waits_again(shared: Store, service: Service, start: Start) -> None:
    """When an answer is taken back, or could not be gone on with, the time begins anew."""
    bus = shared.bus()
    start(bus, service.json)
    one = park(bus)
    for times in (1, 2):
        later(bus)
        service.until(times)
        until_written(bus, one, times)
        bus.decide(one.id, 1)
        bus.undo(one.id)
    bus.decide(one.id, 1)
    claim = storage_of(bus).claims.take()
    assert claim is not None
    assert storage_of(bus).claims.put_back(claim, "a model is gone")
    later(bus)
    service.until(3)
    until_written(bus, one, 3)
    later(bus)
    two = park(bus, "Sea")
    later(bus)
    service.until(4)
    until_written(bus, two)
    assert service.titles == [*["Image Gate: Sky"] * 3, "Image Gate: Sea"]


def test_only_of_its_own(shared: Store, service: Service, start: Start) -> None:
    """A worker tells of what it asked, and of what was parked at an earlier process of it; not of
    another worker's gates, nor of what seems to wait in another process of its name.
    """
    earlier, other, bus = shared.bus(), shared.bus(worker="there"), shared.bus()
    earlier.publish(gate(title="waits elsewhere"), PLAIN)
    other.publish(gate(title="waits there"), PLAIN)
    park(other, "parked there")
    parked = park(earlier, "parked here")
    start(bus, service.json)
    later(bus)
    service.until(1)
    until_written(bus, parked)
    bus.publish(gate(title="waits here"), PLAIN)
    later(bus)
    service.until(2)
    assert service.titles == ["Image Gate: parked here", "Image Gate: waits here"]


def test_the_line_is_no_news(shared: Store, service: Service, start: Start) -> None:
    """Other processes are not told that people were: nothing of the gate has changed."""
    bus = shared.bus()
    one = park(bus)
    panel = shared.bus(kind="panel", worker="panel")
    heard: list[str] = []
    listened = threading.Event()

    def listen() -> None:
        heard.extend(item.gate.gate.title for item in news.drain()[0])
        if "Sea" in heard:
            listened.set()

    with panel.subscribe(listen) as news:
        start(bus, service.json)
        later(bus)
        service.until(1)
        until_written(bus, one)
        park(bus, "Sea")
        assert listened.wait(PATIENCE)
    assert heard == ["Sea"]


def test_one_line_however_many_services(bus: GateBus[Any], service: Service, start: Start) -> None:
    """That two services took a notice is one line of history."""
    start(bus, f"{service.json} {service.json}/other")
    one = park(bus)
    later(bus)
    service.until(2)
    until_written(bus, one)
    two = park(bus, "Sea")
    later(bus)
    service.until(4)
    until_written(bus, two)
    assert kinds(bus, one) == ["published", "notified"]


def test_a_store_that_is_away(
    bus: GateBus[Any],
    service: Service,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A line that cannot be written is written later, and nobody is told twice meanwhile."""
    add = store_of(bus).notified.add
    failed: list[Any] = []

    def fails(*given: Any) -> None:
        if len(failed) < 3:
            failed.append(given)
            raise StoreError("the store is locked", passing=True)
        add(*given)

    monkeypatch.setattr(store_of(bus).notified, "add", fails)
    start(bus, service.json)
    one = park(bus)
    later(bus)
    until_written(bus, one)
    assert len(failed) == 3
    assert service.titles == ["Image Gate: Sky"]
    assert caplog.text.count("notices have to wait: the store is locked") == 1


# -- services that fail


def refused() -> str:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("how", ["500", "refused"])
def test_a_failing_service_is_given_up(
    bus: GateBus[Any],
    service: Service,
    start: Start,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    """A service that fails is tried three times and then given up, with one warning that names no
    more of its address than the scheme; the history does not say that people were told.
    """
    caplog.set_level(logging.DEBUG)
    service.status = 500
    place = service.place if how == "500" else refused()
    start(bus, f"json://ada:{SECRET}@{place}/{SECRET}?+token={SECRET}")
    one = park(bus)
    later(bus)
    (warning,) = until_logged(caplog, "json did not take a notice")
    assert ("it answered 500" in warning) is (how == "500")
    assert service.asked == (3 if how == "500" else 0)
    assert SECRET not in caplog.text
    assert "127.0.0.1" not in caplog.text
    assert "notified" not in kinds(bus, one)
    service.status = 200
    bus._feed.lose()
    two = park(bus, "Sea")
    later(bus)
    if how == "500":  # what was given up is not told of again by this process
        service.until(1)
        until_written(bus, two)
        assert service.titles == ["Image Gate: Sea"]
    assert bus.decide(one.id, 1).outcome is Outcome.WON


def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    deadline = time.monotonic() + LATE
    while not (found := [said for said in caplog.messages if text in said]):
        assert time.monotonic() < deadline, caplog.text
        threading.Event().wait(0.01)
    return found


def test_what_fails_is_tried_again(bus: GateBus[Any], service: Service, start: Start) -> None:
    """A service that is well again gets the notice, and what came meanwhile; then it is told."""
    service.first = [503, 503]
    service.go_on.clear()
    start(bus, f"{service.json}?rto={LATE}")
    one = park(bus, "Sky")
    later(bus)
    service.until_asked(1)
    two = park(bus, "Sea")
    later(bus)
    service.go_on.set()
    service.until(2)
    until_written(bus, one)
    until_written(bus, two)
    assert sorted(service.titles) == ["Image Gate: Sea", "Image Gate: Sky"]
    assert service.asked == 4


def test_what_is_answered_meanwhile_is_not_tried_again(
    bus: GateBus[Any], service: Service, start: Start
) -> None:
    """A notice that failed is not sent once its gate is answered."""
    service.first = [500]
    service.go_on.clear()
    start(bus, f"{service.json}?rto={LATE}")
    one = park(bus, "Sky")
    later(bus)
    service.until_asked(1)
    bus.decide(one.id, 1)
    service.go_on.set()
    two = park(bus, "Sea")
    later(bus)
    service.until(1)
    until_written(bus, two)
    assert service.titles == ["Image Gate: Sea"]
    assert service.asked == 2


@pytest.mark.slow
@pytest.mark.parametrize("how", ["500", "refused", "hangs"])
def test_nobody_waits_for_a_service(
    bus: GateBus[Any], service: Service, start: Start, how: str
) -> None:
    """While one service fails or hangs, gates are asked and answered, another service is served,
    and all ends when it shall.
    """
    bad = Service()
    try:
        bad.status = 500
        if how == "hangs":
            bad.go_on.clear()
        place = refused() if how == "refused" else bad.place
        notices = start(bus, f"json://{place}?rto=3600&cto=3600 {service.json}", after=0)
        for i in range(5):
            ticket = bus.publish(gate(title=f"Sky {i}"), PLAIN)
            service.until(i + 1)
            bus.decide(ticket.gate.id, 1)
            assert ticket.wait(PATIENCE).decision.route == 1
        notices.close()
        assert service.titles == [f"Image Gate: Sky {i}" for i in range(5)]
    finally:
        bad.close()


AT_THE_END = """
import sys
from imagegate.notify.notices import Notices
from imagegate.core.settings import NoticeSettings
from tests.support.stored import PLAIN, gate, storage_of, stored_bus

bus = stored_bus()
Notices(bus, storage_of(bus), NoticeSettings(sys.argv[1], after=0), lambda: "http://panel/").start()
bus.publish(gate(), PLAIN)
sys.stdin.readline()
"""


@pytest.mark.processes
def test_a_process_ends_though_a_service_hangs(service: Service) -> None:
    """Python waits for no service when it ends."""
    service.go_on.clear()
    address = f"{service.json}?rto=300"
    process = subprocess.Popen(
        [sys.executable, "-c", AT_THE_END, address],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        service.until_asked(1)
        _, said = process.communicate("end\n", timeout=LATE)
    finally:
        process.kill()
    assert process.returncode == 0, said


def test_without_apprise(
    bus: GateBus[Any],
    service: Service,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where Apprise is not installed one sentence says what to do, and gates go on."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    notices = start(bus, f"{service.json}/{SECRET}", after=0)
    (said,) = until_logged(caplog, "IMAGEGATE_NOTIFY")
    assert "pip install apprise" in said
    ticket = bus.publish(gate(), PLAIN)
    bus.decide(ticket.gate.id, 1)
    notices.close()
    assert threads() == []
    assert SECRET not in caplog.text
    assert len(caplog.records) == 1


def test_an_address_that_is_none(
    bus: GateBus[Any], service: Service, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """An address that Apprise does not understand is said to be there, but not shown; the others
    are told.
    """
    caplog.set_level(logging.DEBUG)
    start(bus, f"{service.json}, nosuch://{SECRET}, discord://{SECRET}")
    park(bus)
    later(bus)
    service.until(1)
    (said,) = until_logged(caplog, "IMAGEGATE_NOTIFY")
    assert said.endswith("it understood json")
    assert SECRET not in caplog.text


def test_others_may_use_apprise(
    bus: GateBus[Any], service: Service, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """What others in the process log through Apprise's logger is still logged."""
    start(bus, service.json)
    park(bus)
    later(bus)
    service.until(1)
    logging.getLogger("apprise").warning("of somebody else")
    assert "of somebody else" in caplog.text


# -- words


@pytest.mark.slow
@pytest.mark.parametrize(
    "title",
    [
        "two\nlines\r\nand\ttabs\0",
        "<script>alert(1)</script> & {{7*7}} %s %(x)s",
        "half a character \udcff",
        "turned \u202egnp.exe",
        "\u2028separated\u2029",
        "日本 🖼️ " * 200,
        "\n\n",
        "*bold* [link](http://x) \\n",
    ],
)
def test_strange_titles(bus: GateBus[Any], service: Service, start: Start, title: str) -> None:
    """Whatever a title holds, a notice has it on one line of reasonable length."""
    start(bus, service.json)
    labels = ("a\nb", "\0", "l" * 500)
    park(bus, title, labels=labels)
    later(bus)
    (notice,) = service.until(1)
    said = notice["title"].removeprefix("Image Gate: ")
    assert said == (one_line(title, LONGEST_TITLE) or "an image waits")
    assert len(said) <= LONGEST_TITLE
    assert not set("\n\r\t\0\u202e\u2028\u2029") & set(notice["title"])
    _, routes, link = notice["message"].splitlines()
    assert routes == f"Routes: a b, 2, {'l' * 39}…"
    assert link == PANEL


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (-1, "0 seconds"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "1 minute"),
        (7199, "1 hour"),
        (7200, "2 hours"),
        (200_000, "2 days"),
    ],
)
def test_spans(seconds: float, said: str) -> None:
    """A time is told in the largest unit that it fills."""
    assert span(seconds) == said


def test_no_address_of_the_panel() -> None:
    """Where the panel's address is not known, the notice ends without one."""
    one = Waits(Snapshot(gate(title="Sky"), State.WAITING, 1), 60)
    assert message([one], "").body == "Waiting for 1 minute.\nRoutes: keep, fix"
    assert message([one, one], "").body == "Sky (1 minute)\nSky (1 minute)"


# -- many

MANY = 10_000


@pytest.mark.slow
def test_ten_thousand(shared: Store, service: Service, start: Start) -> None:
    """Of 10,000 gates that wait there is one notice, and each is recorded as said."""
    bus = shared.bus()
    first = park(bus, "Sky")
    own = ("id", "seq", "record")
    columns = ", ".join(column.name for column in tables.gates.c if column.name not in own)
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {MANY})"
    named, like = "replace(record, id, id || i), id || i", f"WHERE id = '{first.id}'"
    gates = f"{numbers} SELECT {named}, {columns} FROM n, gates {like}"
    sql(bus, f"INSERT INTO gates (record, id, {columns}) {gates}")
    asked = "SELECT gates.id, at, kind, origin, body FROM lines, gates"
    others = f"WHERE gate_id = '{first.id}' AND gates.id <> gate_id"
    sql(bus, f"INSERT INTO lines (gate_id, at, kind, origin, body) {asked} {others}")
    later(bus)
    start(bus, service.json)
    (notice,) = service.until(1)
    assert notice["title"] == f"Image Gate: {MANY} images wait"
    assert f"and {MANY - 10} more" in notice["message"]
    until_written(bus, first)
    assert store_of(bus).unnotified() == []
