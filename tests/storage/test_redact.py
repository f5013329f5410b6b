"""No password of a URL is said anywhere: in errors, the log, REST, pages, notices, the terminal."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import psycopg
import pytest
from fastapi.testclient import TestClient
from fsspec.implementations.memory import MemoryFileSystem

from imagegate.comfy.port.pack import _waiting
from imagegate.command.main import main
from imagegate.core.model import Gate, StoreError
from imagegate.core.settings import Settings, read_notice_settings
from imagegate.gate_bus import GateBus
from imagegate.http.access import HostDoor
from imagegate.operator.rest import create_app
from imagegate.pictures.place import PicturePlace, PlaceError
from imagegate.share.app import create_approver
from imagegate.storage.links import LinkStore
from imagegate.storage.sql.database import Database
from imagegate.storage.sql.postgresql import LimitedConnection
from imagegate.text.redact import Redacted, place_url, store_url
from tests.support.stored import FILES, PLAIN, bus_over, storage_of, store_of, to_go_on

PASSWORD = "tr0ub4dor&"
WRITTEN = "tr0ub4dor%26"

STORES = {
    "plain": f"postgresql+psycopg://ann:{PASSWORD}@127.0.0.1:1/gates",
    "escaped": f"postgresql://ann:{WRITTEN}@127.0.0.1:1/gates",
    "slash": f"postgresql://ann:a/{PASSWORD}@127.0.0.1:1/gates",
    "at": f"postgresql://ann:a@{PASSWORD}@127.0.0.1:1/gates",
    "question": f"postgresql://ann:a?b={PASSWORD}@127.0.0.1:1/gates",
    "hash, and no host": f"postgresql://ann:12#{PASSWORD}/gates",
    "slash, then at": f"postgresql://ann:a/b@{PASSWORD}/c@127.0.0.1:1/gates",
    "query": f"postgresql://ann@127.0.0.1:1/gates?password={WRITTEN}",
    "query of an at": f"postgresql://ann@127.0.0.1:1/gates?password=a@{WRITTEN}",
    "query without a path": f"postgresql://127.0.0.1:1?password=a@{WRITTEN}",
    "query of a slash": f"postgresql:///gates?host=127.0.0.1&port=1&sslpassword=a/{WRITTEN}",
    "unknown option": f"postgresql://ann@127.0.0.1:1/gates?passphrase={WRITTEN}",
    "user of a slash": f"postgresql://a/nn:{PASSWORD}@127.0.0.1:1/gates",
    "port": f"postgresql://ann:x@127.0.0.1:{PASSWORD}/gates",
    "other driver": f"mysql://ann:{PASSWORD}@127.0.0.1:1/gates",
    "conninfo": f"host=127.0.0.1 port=1 user=ann password={PASSWORD}",
    "file": f"sqlite:////dev/null/gates.sqlite?uri=true&key={WRITTEN}",
}
PLACES = {
    "plain": f"echo://ann:{PASSWORD}@host/pictures",
    "escaped": f"echo://ann:{WRITTEN}@host/pictures",
    "at": f"echo://ann:a@{PASSWORD}@host/pictures",
    "slash": f"echo://ann:a/{PASSWORD}@host/pictures",
    "port and slash": f"echo://ann:22/{PASSWORD}@host/pictures",
    "colon": f"echo://ann:a:{PASSWORD}@host:22/pictures",
    "hash": f"echo://ann:a#{PASSWORD}@host/pictures",
    "key": f"echo://AKIA:{PASSWORD}@bucket/pictures?versionId=3",
    "option": f"echo://bucket/pictures?secret={WRITTEN}",
    "option of two colons": f"echo://bucket/pictures?secret=a::{PASSWORD}",
    "without its slashes": f"echo:ann:{PASSWORD}@host/pictures",
    "signature": f"echo://bucket/pictures?{WRITTEN}",
    "fragment": f"echo://bucket/pictures#{PASSWORD}",
    "chain": f"simplecache::echo://ann:{PASSWORD}@host/pictures",
}


class Echo(MemoryFileSystem):
    """A place whose driver repeats, in every error, all that it was given."""

    protocol = "echo"
    cachable = False

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        raise OSError(f"no login with {given!r}")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        raise ValueError(f"cannot read {path!r}, nor {path}")


@pytest.fixture(autouse=True)
def drivers_that_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """psycopg's errors, and a place's, hold all that they were given."""
    fsspec.register_implementation("echo", Echo, clobber=True)

    def connect(**given: Any) -> Any:
        conninfo = psycopg.conninfo.make_conninfo("", **given)
        raise psycopg.OperationalError(f"no login with {given!r}, that is {conninfo}")

    monkeypatch.setattr(LimitedConnection, "connect", connect)


def said(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def hides(text: str) -> None:
    for secret in (PASSWORD, WRITTEN, "tr0ub4dor"):
        assert secret not in text


def the_error(call: Callable[[], object]) -> BaseException:
    with pytest.raises(StoreError) as caught:
        call()
    return caught.value


PNG = {"content-type": "image/png"}


def rest(bus: GateBus[Any]) -> str:
    """All that the operator's calls, and the stream of events, answer with."""
    app = create_app(bus, HostDoor(), records=storage_of(bus))
    with TestClient(app, base_url="http://localhost") as client:
        calls = [
            client.get("/imagegate/api/gates"),
            client.get("/imagegate/api/history"),
            client.get("/imagegate/api/status"),
            client.get("/imagegate/api/gates/x"),
            client.get("/imagegate/api/gates/x/history"),
            client.get("/imagegate/api/gates/x/image/0"),
            client.put("/imagegate/api/gates/x/mask/0", content=b"x", headers=PNG),
            client.post("/imagegate/api/gates/x/decision", json={"route": 1}),
            client.post("/imagegate/api/gates/x/stop", json={}),
        ]
        assert {call.status_code for call in calls} <= {503, 507}
        return "".join(call.text for call in calls)


def panel(bus: GateBus[Any]) -> str:
    """What Gradio's editor says when its mask cannot be kept."""
    from imagegate.operator.mask_editor import save_editor

    return save_editor(bus, "x 0 -", None)


def approver(bus: GateBus[Any]) -> str:
    """What one who has a link reads."""
    app = create_approver(bus, LinkStore(Database("sqlite://", "other")), None)
    with TestClient(app, base_url="http://localhost") as client:
        return "".join(client.get(path).text for path in ("/s/x", "/imagegate/api/me"))


def terminal(bus: GateBus[Any], *arguments: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEGATE_STORE", storage_of(bus)._opener._settings().store)
        patch.setenv("IMAGEGATE_PICTURES", storage_of(bus)._opener._settings().pictures)
        try:
            status: object = main([*arguments, "--no-browser", "--port", "0"])
        except SystemExit as wrong:  # argparse's own
            status = wrong.code
    assert status == 2
    return ""


def parked(bus: GateBus[Any]) -> object:
    return storage_of(bus).parking.park(Gate(("a",), 8, 6), FILES, to_go_on())


WHERE: dict[str, Callable[[GateBus[Any]], object]] = {
    "opening": lambda bus: said(the_error(lambda: store_of(bus))),
    "a prompt that waits": lambda bus: said(
        the_error(lambda: bus.publish(Gate(("a",), 8, 6), PLAIN))
    ),
    "a prompt that parks": lambda bus: said(the_error(lambda: parked(bus))),
    "an answer": lambda bus: said(the_error(lambda: bus.decide("x", 1))),
    "ComfyUI's page": lambda bus: said(the_error(lambda: bus.count() or _waiting(storage_of(bus)))),
    "settings": lambda bus: repr(storage_of(bus)._opener._settings()),
    "the work in the background": lambda bus: (
        storage_of(bus).later(lambda: bus.count()) or storage_of(bus).close()
    ),
    "REST": rest,
    "the panel": panel,
    "a link's page": approver,
    "--store": lambda bus: terminal(bus, "--store"),
    "--store URL": lambda bus: terminal(bus, "--store", storage_of(bus)._opener._settings().store),
    "--pictures": lambda bus: terminal(
        bus, "--store", "--pictures", storage_of(bus)._opener._settings().pictures
    ),
    "a URL for a folder": lambda bus: terminal(bus, storage_of(bus)._opener._settings().store),
    "a URL too many": lambda bus: terminal(
        bus, "photos", storage_of(bus)._opener._settings().store
    ),
    "an option that is none": lambda bus: terminal(
        bus, f"--shop={storage_of(bus)._opener._settings().store}"
    ),
}


def walks(urls: dict[str, str], *everywhere: str) -> Any:
    """Each URL in the places that differ in how they treat one, and a few of them in all others."""
    some = ("opening", "--store URL", "a URL for a folder", "a URL too many")
    pairs = [(w, u) for w in WHERE for u in urls if w in some or u in everywhere]
    return pytest.mark.parametrize(
        ("where", "url"), [pytest.param(WHERE[w], urls[u], id=f"{w}-{u}") for w, u in pairs]
    )


@walks(STORES, "plain", "at", "query")
def test_a_stores_password_is_said_nowhere(
    where: Callable[[GateBus[Any]], object],
    url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Wherever it stands in the URL, and whatever the driver repeats, no text holds it."""
    caplog.set_level(logging.DEBUG)
    settings = Settings(url, str(tmp_path / "pictures"), "here")
    bus = bus_over(settings, "panel", ())
    try:
        hides(str(where(bus)))
    finally:
        storage_of(bus).close()
    hides("".join(capfd.readouterr()))
    hides(caplog.text + "".join(str(vars(record)) for record in caplog.records))


@walks(PLACES, "plain", "option")
def test_a_places_password_is_said_nowhere(
    where: Callable[[GateBus[Any]], object],
    url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """So it is with the place of the pictures, and all that its driver says."""
    caplog.set_level(logging.DEBUG)
    settings = Settings(f"sqlite:///{tmp_path}/gates.sqlite", url, "here")
    bus = bus_over(settings, "panel", ())
    try:
        hides(str(where(bus)))
    finally:
        storage_of(bus).close()
    hides("".join(capfd.readouterr()))
    hides(caplog.text + "".join(str(vars(record)) for record in caplog.records))


@pytest.mark.parametrize("url", PLACES.values(), ids=PLACES)
def test_every_call_of_a_place(url: str) -> None:
    """No call of a place that fails says its password, not even in its traceback."""
    place = PicturePlace(url)
    hides(place.shown)
    calls: list[Callable[[], object]] = [
        lambda: place.read("g", "x"),
        lambda: place.write("g", "x", b""),
        lambda: place.names("g"),
        lambda: place.remove("g"),
        lambda: place.remove_file("g", "x"),
        lambda: place.mark("s", first=True),
    ]
    for call in calls:
        with pytest.raises(PlaceError) as caught:
            call()
        hides(said(caught.value))


@pytest.mark.parametrize(
    ("redact", "url", "shown"),
    [
        (store_url, STORES["plain"], "postgresql+psycopg://ann:***@127.0.0.1:1/gates"),
        (store_url, STORES["at"], "postgresql://***"),
        (store_url, STORES["query"], "postgresql://ann@127.0.0.1:1/gates?password=***"),
        (store_url, "postgresql://h/d?sslmode=require&x=y", "postgresql://h/d?sslmode=require&x=***"),
        (store_url, "postgresql://h/d?password=a&rest=b", "postgresql://h/d?password=***&***"),
        (place_url, "s3://bucket/p?secret=a&rest=b", "s3://bucket/p?secret=***&***"),
        (place_url, "simplecache::zip://a.zip::/mnt/x", "simplecache::zip://a.zip::/mnt/x"),
        (store_url, "sqlite:////home/ann/gates.sqlite", "sqlite:////home/ann/gates.sqlite"),
        (store_url, "nonsense", "nonsense"),
        (place_url, "/mnt/a@b:c/pictures", "/mnt/a@b:c/pictures"),
        (place_url, "sftp://ann@host:22/pictures", "sftp://ann@host:22/pictures"),
        (place_url, PLACES["key"], "echo://AKIA:***@bucket/pictures?versionId=3"),
        (place_url, PLACES["chain"], "simplecache::echo://ann:***@host/pictures"),
        (place_url, PLACES["slash"], "echo://***"),
        (place_url, "s3://bucket/a@b", "s3://bucket/a@b"),
        (place_url, "https://token@host/pictures", "https://***@host/pictures"),
    ],
)  # fmt: skip
def test_what_may_be_said(redact: Callable[[str], Redacted], url: str, shown: str) -> None:
    """All else of a URL is shown, so that one knows which it is."""
    assert redact(url).shown == shown


def test_what_is_unclear_is_not_opened() -> None:
    """A URL that drivers would divide in the wrong place is refused: how to write it is said."""
    with pytest.raises(StoreError, match="in it as %40 %3A"):
        Database(STORES["at"], "one")
    with pytest.raises(PlaceError, match="not certain where its password ends"):
        PicturePlace(PLACES["slash"]).read("g", "x")


def test_the_panels_own_address() -> None:
    """The address for the link in a notice is shown without its password where it is wrong."""
    with pytest.raises(StoreError, match="IMAGEGATE_URL is 'ftp://ann:"):
        read_notice_settings({"IMAGEGATE_URL": f"ftp://ann:{PASSWORD}@host/"})
    try:
        read_notice_settings({"IMAGEGATE_URL": f"ftp://ann:{PASSWORD}@host/"})
    except StoreError as error:
        hides(said(error))


def test_nobody_sees_what_was_written(tmp_path: Path) -> None:
    """The values of a statement that fails, a prompt or a link's hash, are in no error."""
    database = Database(f"sqlite:///{tmp_path}/gates.sqlite", "one")
    with pytest.raises(StoreError) as caught, database.write() as connection:
        connection.exec_driver_sql("INSERT INTO nowhere VALUES (?)", (PASSWORD,))
    hides(said(caught.value))
    database.close()
