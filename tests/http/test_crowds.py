"""Many who look at once: events made once for all, slow readers, and who has to wait for whom."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from anyio import to_thread

from imagegate.core.model import ALL, Snapshot
from imagegate.gate_bus import GateBus
from imagegate.http import events as events_module
from imagegate.http.access import VISITOR
from imagegate.http.events import EventStream, SharedEvents
from imagegate.http.sockets.connection import THREADS
from imagegate.share import limits as limits_module
from imagegate.share.limits import Budget, InTurn
from tests.operator.test_api import publish
from tests.share.test_listener import listening
from tests.support.stored import PATIENCE


class Page:
    """One who listens, as the framework asks after them."""

    async def is_disconnected(self) -> bool:
        return False


async def test_an_event_is_made_once_for_all(bus: GateBus[Any]) -> None:
    """What an event says is found out once, however many streams it goes to."""
    made: Counter[str] = Counter()

    def told(gate: Snapshot | None) -> dict[str, Any]:
        made[gate.gate.title if gate else ""] += 1
        return {}

    shared = SharedEvents()
    streams = [EventStream(bus, ALL, told, shared=shared).events(Page()) for _ in range(50)]  # type: ignore[arg-type]
    assert {(await anext(stream))[:13] for stream in streams} == {b"event: reload"}
    publish(bus, title="Sky")
    got = await asyncio.wait_for(asyncio.gather(*(anext(one) for one in streams)), PATIENCE)
    assert {event[:16] for event in got} == {b"event: published"}
    assert made["Sky"] == 1
    for stream in streams:
        await stream.aclose()  # type: ignore[attr-defined]


async def test_one_who_fails_makes_no_other_fail(bus: GateBus[Any]) -> None:
    """An event that could not be made is made anew for whoever asks next."""
    tries: Iterator[ValueError | bytes]
    shared, tries = SharedEvents(), iter([ValueError("away"), b"event"])

    def make() -> bytes:
        made = next(tries)
        if isinstance(made, ValueError):
            raise made
        return made

    with pytest.raises(ValueError, match="away"):
        await shared.once("a", make, keep=True)
    assert await shared.once("a", make, keep=True) == b"event"
    assert await shared.once("a", make, keep=True) == b"event"


async def test_one_who_reads_too_slowly(bus: GateBus[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has left many events unread is told to read the lists anew instead of all of them."""
    monkeypatch.setattr(events_module, "MOST_UNREAD", 5)
    stream = EventStream(bus, ALL, lambda _: {}).events(Page())  # type: ignore[arg-type]
    assert (await anext(stream)).startswith(b"event: reload")
    for number in range(6):
        publish(bus, title=str(number))
    assert (await asyncio.wait_for(anext(stream), PATIENCE)).startswith(b"event: reload")
    publish(bus, title="new")
    assert (await asyncio.wait_for(anext(stream), PATIENCE)).startswith(b"event: published")
    await stream.aclose()  # type: ignore[attr-defined]


async def test_one_who_reads_nothing_is_woken_once(bus: GateBus[Any]) -> None:
    """Publishing does not wake a stream again that has not come to what woke it before."""
    stream = EventStream(bus, ALL, lambda _: {}).events(Page())  # type: ignore[arg-type]
    await anext(stream)
    loop, woken = asyncio.get_running_loop(), []
    call = loop.call_soon_threadsafe

    def counting(callback: Any, *given: Any) -> Any:
        woken.append(callback)
        return call(callback, *given)

    loop.call_soon_threadsafe = counting  # type: ignore[method-assign, assignment]
    try:
        publish(bus)
        await asyncio.sleep(0)
        for _ in range(20):
            publish(bus)
    finally:
        loop.call_soon_threadsafe = call  # type: ignore[method-assign]
    assert len(woken) == 1
    await stream.aclose()  # type: ignore[attr-defined]


def test_a_budget() -> None:
    """So many requests go through at once, and so many a second after them; others have their own,
    and nobody waits for ever.
    """
    now = [100.0]
    budget = Budget(10, 5, lambda: now[0])
    assert [budget.delay("a") for _ in range(5)] == pytest.approx([0.0] * 5)
    assert [budget.delay("a") for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert budget.delay("b") == 0.0
    now[0] += 1.0
    assert budget.delay("a") == 0.0
    assert max(budget.delay("a") for _ in range(1000)) == pytest.approx(Budget.LONGEST)
    for number in range(5000):
        budget.delay(str(number))
        now[0] += 0.1
    assert len(budget._until) <= 1001


async def test_sessions_that_are_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up sessions share the budget of strangers; one that was let in once has its own, until
    it is not let in any more.
    """
    takes: list[tuple[str, str]] = []

    class Noted(Budget):
        async def take(self, who: str) -> None:
            takes.append(("session" if who else "strangers", who))

    async def app(scope: Any, *_: Any) -> None:
        if scope["headers"] == [(b"cookie", b"imagegate=true")] and live:
            scope[VISITOR] = "somebody"

    async def ask(secret: str) -> str:
        cookie = [(b"cookie", f"imagegate={secret}".encode())] if secret else []
        await in_turn({"type": "http", "headers": cookie}, None, None)  # type: ignore[arg-type]
        return takes[-1][0]

    monkeypatch.setattr(limits_module, "Budget", Noted)
    monkeypatch.setattr(limits_module, "SESSIONS", 3)
    in_turn, live = InTurn(app), True
    assert {await ask(f"made-up-{number}") for number in range(50)} == {"strangers"}
    assert [await ask("") for _ in range(2)] == ["strangers"] * 2
    assert [await ask("true") for _ in range(3)] == ["strangers", "session", "session"]
    live = False
    assert [await ask("true") for _ in range(2)] == ["session", "strangers"]
    assert not in_turn._known


def test_threads_of_their_own() -> None:
    """The number of threads that work for strangers is bounded, whatever is asked of them."""
    running, most, lock, go = [0], [0], threading.Lock(), threading.Event()

    def work() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
            if running[0] == THREADS:
                go.set()
        assert go.wait(PATIENCE)
        with lock:
            running[0] -= 1

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.gather(*(to_thread.run_sync(work) for _ in range(4 * THREADS)))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with listening(app) as listener:
        connection = http.client.HTTPConnection("127.0.0.1", listener.port, timeout=PATIENCE)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
    assert most[0] == THREADS
