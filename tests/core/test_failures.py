"""The log stays readable, whatever fails and however often."""

from __future__ import annotations

import ast
import logging
import threading
from pathlib import Path

import pytest

from imagegate.comfy.parked.resume import Resumer
from imagegate.core.failures import AGAIN, FailureLog
from imagegate.core.model import StoreError
from imagegate.pictures.place import PicturePlace, PlaceError
from tests.support.stored import PATIENCE, Store, storage_of, store_of

PACKAGE = Path(__file__).parents[2] / "imagegate"
AWAY = StoreError("the store is away:\n  connection refused", passing=True)
ONCE = {
    "notices": "when it starts, and the second may hold an address",
    "connection": "without its message, which may hold a token",
    "entry": "a wrong passphrase is no failure of ours",
}
"""Modules that log a failure by themselves, and why they may."""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def failures(clock: Clock, caplog: pytest.LogCaptureFixture) -> FailureLog:
    caplog.set_level(logging.DEBUG, "imagegate")
    return FailureLog(clock)


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= level and r.name == "imagegate"]


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error", [AWAY, OSError(28, "No space left on device"), TimeoutError("timed\nout")]
)
def test_what_is_outside_our_power_is_one_line(
    failures: FailureLog, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """It is one line without a traceback; the traceback is at debug level, beside it."""
    failures.report("looking after the store failed", raised(error))
    [seen, detail] = caplog.records
    assert (seen.levelno, seen.exc_info) == (logging.WARNING, None)
    assert seen.getMessage() == f"looking after the store failed: {' '.join(str(error).split())}"
    assert detail.levelno == logging.DEBUG
    assert detail.exc_info


def test_what_should_not_happen_has_its_traceback(
    failures: FailureLog, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of the program is an error with its traceback, unless it is said to be outside."""
    failures.report("a loop failed", raised(KeyError("x")))
    [seen] = caplog.records
    assert seen.levelno == logging.ERROR
    assert seen.exc_info
    caplog.clear()
    failures.report("a service refuses", raised(RuntimeError("no")), outside=(RuntimeError,))
    assert lines(caplog) == ["a service refuses: no"]


def test_each_is_logged_once_a_minute(
    failures: FailureLog, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    """The same failure is logged once a minute, with how often it came; others are as well."""
    for second in range(0, 3 * int(AGAIN), 5):
        clock.now = float(second)
        failures.report("a loop failed", AWAY)
        failures.report("a loop failed", KeyError("x"))
        failures.report("another failed", AWAY)
    told = lines(caplog)
    assert len(told) == 9
    assert len([r for r in caplog.records if r.levelno == logging.DEBUG]) == 6
    assert told[0] == "a loop failed: the store is away: connection refused"
    assert told[3] == f"{told[0]} (11 more times in the last minutes)"


def test_it_is_the_same_for_every_gate(
    tmp_path: Path, failures: FailureLog, caplog: pytest.LogCaptureFixture
) -> None:
    """A place that fails for a thousand gates is one failure, though each message names one."""
    (tmp_path / "file").write_bytes(b"")
    place = PicturePlace(str(tmp_path / "file" / "pictures"))
    for number in range(1000):
        with pytest.raises(PlaceError, match=f"read g{number}/x") as caught:
            place.read(f"g{number}", "x")
        failures.report("", caught.value)
    assert len(lines(caplog)) == 1


def test_memory_is_bounded(failures: FailureLog, caplog: pytest.LogCaptureFixture) -> None:
    """However many different failures there are, it remembers only so many."""
    logging.getLogger("imagegate").setLevel(logging.CRITICAL)
    for number in range(5000):
        failures.report(str(number), AWAY)
    assert len(failures._reported) <= 1000


class NoQueue:
    ready = True


def test_an_outage_in_the_log(
    shared: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store is away, every loop tries again and again, and each logs one line for it."""
    caplog.set_level(logging.DEBUG, "imagegate")
    monkeypatch.setattr("imagegate.storage.open_store.BEAT", 0.01)
    monkeypatch.setattr("imagegate.comfy.parked.resume.IDLE", 0.01)
    monkeypatch.setattr("imagegate.storage.sql.watcher.PAUSES", (0.01,))
    bus = shared.bus()
    resumer = Resumer(bus, storage_of(bus), NoQueue())  # type: ignore[arg-type]
    tries = threading.Semaphore(0)

    def away(*_: object, **__: object) -> None:
        tries.release()
        raise StoreError("the store is away", passing=True)

    with monkeypatch.context() as patch:
        for name in ("read", "write", "watch", "check_file"):
            patch.setattr(store_of(bus).database, name, away)
        caplog.clear()
        resumer.start()
        store_of(bus).look_again()
        for _ in range(300):
            assert tries.acquire(timeout=PATIENCE)
        told = lines(caplog)
        resumer.close()
    assert "parked gates do not go on: the store is away" in told
    assert len(told) == len(set(told)) <= 4
    assert not [r for r in caplog.records if r.levelno > logging.DEBUG and r.exc_info]


def test_failures_are_logged_in_one_way() -> None:
    """No module logs an exception by itself, with or without its traceback."""
    found = []
    for path in PACKAGE.glob("*.py"):
        if path.stem in {"failures", *ONCE}:
            continue
        for handler in ast.walk(ast.parse(path.read_text())):
            if not isinstance(handler, ast.ExceptHandler):
                continue
            for call in ast.walk(handler):
                if not (isinstance(call, ast.Call) and ast.unparse(call.func).startswith("log.")):
                    continue
                kind = ast.unparse(call.func).removeprefix("log.")
                names = {n.id for n in ast.walk(call) if isinstance(n, ast.Name)}
                loud = kind in ("warning", "error", "critical") and handler.name in names
                if kind == "exception" or loud:
                    found.append(f"{path.name}:{call.lineno}")
    assert not found
