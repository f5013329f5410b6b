"""The news of a bus over every storage: in order, drained once, and none is lost unnoticed."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial
from typing import Any

from imagegate.core.model import (
    Outcome,
    State,
)
from imagegate.gate_bus import GateBus
from tests.conftest import Watch
from tests.support.racing import Later, races, together
from tests.support.stored import PATIENCE, PLAIN, gate


def test_news_come_in_order(bus: GateBus[Any]) -> None:
    """A listener is told what happened, in order, each with the gate as it was then."""
    with bus.subscribe() as news:
        a, b = bus.publish(gate(title="a"), PLAIN), bus.publish(gate(title="b"), PLAIN)
        bus.set_mask(a.gate.id, 0, b"x")
        bus.decide(a.gate.id, 1)
        bus.stop(b.gate.id)
        c = bus.publish(gate(title="c"), PLAIN)
        c.withdraw("over")
        told, missed = news.drain()
    assert not missed
    assert [(n.kind, n.gate.gate.title, n.gate.state.value) for n in told] == [
        ("published", "a", "waiting"),
        ("published", "b", "waiting"),
        ("masked", "a", "waiting"),
        ("decided", "a", "decided"),
        ("decided", "b", "stopped"),
        ("published", "c", "waiting"),
        ("withdrawn", "c", "withdrawn"),
    ]
    assert [n.gate.version for n in told if n.gate.gate.title == "a"] == [1, 2, 3]


def test_news_are_drained_once(bus: GateBus[Any]) -> None:
    """Each piece of news is read once."""
    with bus.subscribe() as news:
        bus.publish(gate(), PLAIN)
        assert len(news.drain()[0]) == 1
        assert news.drain() == ([], False)


def test_a_slow_listener_loses_old_news_and_is_told(bus: GateBus[Any]) -> None:
    """A listener that does not read keeps the newest news, and learns once that some are lost."""
    with bus.subscribe(limit=3) as news:
        tickets = [bus.publish(gate(), PLAIN) for _ in range(5)]
        told, missed = news.drain()
        assert missed
        assert [n.gate.gate.id for n in told] == [t.gate.id for t in tickets[2:]]
        bus.decide(tickets[0].gate.id, 1)
        told, missed = news.drain()
        assert not missed
        assert [n.kind for n in told] == ["decided"]


def test_exactly_full_is_not_missed(bus: GateBus[Any]) -> None:
    """As many news as fit are not too many."""
    with bus.subscribe(limit=3) as news:
        for _ in range(3):
            bus.publish(gate(), PLAIN)
        assert news.drain()[1] is False


def test_a_raising_listener_harms_nobody(bus: GateBus[Any], caplog: Any) -> None:
    """A listener that raises neither stops the bus nor keeps others from being told."""
    told: list[str] = []

    def bad() -> None:
        raise RuntimeError("listener broke")

    with bus.subscribe(bad), bus.subscribe(lambda: told.append("x")), bus.subscribe(bad):
        ticket = bus.publish(gate(), PLAIN)
        assert bus.decide(ticket.gate.id, 1).outcome is Outcome.WON
    assert told == ["x", "x"]
    assert "listener broke" in caplog.text


def test_a_blocked_listener_does_not_hold_the_bus(bus: GateBus[Any]) -> None:
    """While one thread is stuck in a listener, others publish, answer and read."""
    stuck, release = threading.Event(), threading.Event()

    def block() -> None:
        if threading.current_thread() is not threading.main_thread():
            stuck.set()
            assert release.wait(PATIENCE)

    with bus.subscribe(block):
        slow = Later(lambda: bus.publish(gate(), PLAIN))
        assert stuck.wait(PATIENCE)
        ticket = bus.publish(gate(), PLAIN)
        assert bus.decide(ticket.gate.id, 1).outcome is Outcome.WON
        release.set()
        slow.result()


def test_a_closed_subscription_leaves_nothing(bus: GateBus[Any]) -> None:
    """After close there are no news, no calls, and nothing that holds the listener."""
    calls: list[int] = []
    subscriptions = [bus.subscribe(lambda: calls.append(1)) for _ in range(200)]
    refs = [weakref.ref(subscription) for subscription in subscriptions]
    for subscription in subscriptions:
        subscription.close()
        subscription.close()
    assert bus.listeners == 0
    bus.publish(gate(), PLAIN)
    assert calls == []
    del subscriptions, subscription
    gc.collect()
    assert not any(ref() for ref in refs)


def test_closing_within_a_notice_is_heeded(bus: GateBus[Any]) -> None:
    """A listener that another one closes while news go round is not called any more."""
    called: list[int] = []
    subscriptions: list[Any] = []

    def close_the_others(me: int) -> None:
        called.append(me)
        for n, subscription in enumerate(subscriptions):
            if n != me:
                subscription.close()

    subscriptions += [bus.subscribe(partial(close_the_others, n)) for n in range(3)]
    bus.publish(gate(), PLAIN)
    assert len(called) == 1


def test_a_subscription_and_the_list_together_miss_nothing(bus: GateBus[Any]) -> None:
    """Who subscribes first and reads the list then knows every gate, whatever happens meanwhile."""
    for _ in races(bus):
        mine: dict[str, Any] = {}

        def listen(mine: dict[str, Any] = mine) -> None:
            mine["news"] = bus.subscribe()
            mine["list"] = {s.gate.id for s in bus.pending()}

        _, ticket = together(listen, lambda: bus.publish(gate(), PLAIN))
        told = {n.gate.gate.id for n in mine["news"].drain()[0]}
        assert ticket.gate.id in mine["list"] | told
        mine["news"].close()


def test_watch_sees_the_end(bus: GateBus[Any], watch: Watch) -> None:
    """The tests' own way of waiting wakes up when the bus has news."""
    ticket = bus.publish(gate(), PLAIN)
    later = Later(lambda: bus.decide(ticket.gate.id, 1))
    watch.until(lambda: bus.get(ticket.gate.id).state is State.DECIDED)
    later.result()
