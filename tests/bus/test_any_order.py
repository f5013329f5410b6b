"""A store and the buses over it, in any order of anything that can happen to its gates."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from imagegate.core.model import (
    Answer,
    GateCancelled,
    GateClosed,
    NotRecorded,
    Outcome,
    State,
    TooLate,
)
from imagegate.gate_bus import GateBus, Ticket
from imagegate.storage.queries.runs import Claim
from tests.conftest import Watch
from tests.support.stored import (
    FILES,
    PATIENCE,
    PLAIN,
    Store,
    gate,
    its_lease_runs_out,
    storage_of,
    store_of,
    to_go_on,
)

pytestmark = pytest.mark.slow


@dataclass
class Known:
    """All that matters of a gate, in the plainest way."""

    id: str
    parked: bool
    on_timeout: int | None
    state: State
    ticket: Ticket | None = None
    home: GateBus[Any] | None = None  # where it is waited for
    undoable: bool = False
    recorded: list[Answer] = field(default_factory=list)  # by the hooks of its publisher
    unrecordable: bool = False  # whether the next record fails
    answer: tuple[int | None, str] | None = None
    masks: dict[int, bytes] = field(default_factory=dict)
    ended: int = 0  # its number among those that have ended
    attempts: int = 0
    held: tuple[Claim, GateBus[Any]] | None = None  # the latest claim, unless settled
    leased: bool = False
    version: int = 1
    lines: list[int] = field(default_factory=list)

    @property
    def due(self) -> bool:
        routed = self.answer is not None and self.answer[0] is not None
        return self.parked and routed and self.state in (State.DECIDED, State.EXPIRED)


class Alone:
    """The memory of one process, used like a `Store`."""

    def bus(self, **_: Any) -> GateBus[Any]:
        return GateBus()

    def close(self) -> None:
        """Nothing is open."""


parks = precondition(lambda machine: machine.parks)
records = precondition(lambda machine: not machine.parks)


class AnyOrder(RuleBasedStateMachine):
    """Compares a storage with a dictionary; ``buses`` stand for processes.

    A store parks gates and records answers itself; the memory of one process has hooks for that.
    """

    gates = Bundle("gates")
    claims = Bundle("claims")

    def __init__(self, new_store: Callable[[], Store | Alone], buses: int) -> None:
        super().__init__()
        self.store = new_store()
        self.parks = isinstance(self.store, Store)
        self.buses = [self.store.bus(worker=f"worker {n}") for n in range(buses)]
        self.news = [bus.subscribe(limit=10_000) for bus in self.buses]
        self.known: dict[str, Known] = {}
        self.ends = 0

    @initialize()
    def nothing(self) -> None:
        """`gates` has rules that need one."""

    which = st.integers(0, 1)

    def bus(self, which: int) -> GateBus[Any]:
        return self.buses[which % len(self.buses)]

    # -- what happens

    @rule(target=gates, which=which, timeout=st.sampled_from([None, 2]), undoable=st.booleans())
    def publish(self, which: int, timeout: int | None, undoable: bool) -> Known:
        undoable = undoable and not self.parks
        one = gate(on_timeout=timeout, batch=2, undoable=undoable)
        known = Known(one.id, False, timeout, State.WAITING, undoable=undoable)
        known.home = home = self.bus(which)

        def record(answer: Answer) -> None:
            if known.unrecordable:
                known.unrecordable = False
                raise OSError("disk full")
            known.recorded.append(answer)

        def revoke(answer: Answer) -> None:
            assert known.recorded.pop() is answer

        if self.parks:
            known.ticket = home.publish(one, PLAIN)
        else:
            known.ticket = home.publish(one, PLAIN, record=record, revoke=revoke)
        return self.know(known)

    @records
    @rule(one=gates)
    def the_next_record_fails(self, one: Known) -> None:
        one.unrecordable = one.state.open

    @parks
    @rule(target=gates, which=which, timeout=st.sampled_from([None, 2]))
    def park(self, which: int, timeout: int | None) -> Known:
        one = gate(on_timeout=timeout, batch=2)
        storage_of(self.bus(which)).parking.park(one, FILES, to_go_on())
        return self.know(Known(one.id, True, timeout, State.PARKED, undoable=True))

    @rule(one=gates, which=which, route=st.sampled_from([1, 2]), by=st.sampled_from("AB"))
    def decide(self, one: Known, which: int, route: int, by: str) -> None:
        act = lambda: self.bus(which).decide(one.id, route, by=by)  # noqa: E731
        self.end(one, State.DECIDED, (route, by), act)

    @rule(one=gates, which=which, by=st.sampled_from("AB"))
    def stop(self, one: Known, which: int, by: str) -> None:
        self.end(one, State.STOPPED, (None, by), lambda: self.bus(which).stop(one.id, by=by))

    @rule(one=gates, which=which)
    def expire(self, one: Known, which: int) -> None:
        was_open = one.state.open
        if one.unrecordable:
            with pytest.raises(NotRecorded):
                self.bus(which).expire(one.id)
            return
        self.bus(which).expire(one.id)
        if was_open:
            self.ended(one, State.EXPIRED, (one.on_timeout, "timeout"))

    @rule(one=gates, which=which)
    def withdraw(self, one: Known, which: int) -> None:
        was_open, bus = one.state.open, self.bus(which)
        assert bus.withdraw(one.id, "over") is was_open
        if was_open and one.home in (None, bus):
            self.ended(one, State.WITHDRAWN, None)
        elif was_open and one.home is not None:
            # Who takes another process for dead is told that it lives.
            one.version += 2
            self.ends += 1
            with closing(Watch(one.home)) as watch:
                watch.until(lambda: bus.get(one.id).version == one.version)

    @rule(one=gates, which=which)
    def undo(self, one: Known, which: int) -> None:
        if one.undoable and one.state is State.DECIDED and one.held is None:
            self.bus(which).undo(one.id)
            self.opened(one)
        else:
            with pytest.raises(TooLate):
                self.bus(which).undo(one.id)

    @rule(one=gates, which=which, index=st.sampled_from([0, 1]), png=st.sampled_from([b"", b"x"]))
    def set_mask(self, one: Known, which: int, index: int, png: bytes) -> None:
        if one.state.open:
            self.bus(which).set_mask(one.id, index, png)
            one.masks[index] = png
            one.version += 1
        else:
            with pytest.raises((GateClosed, TooLate)):
                self.bus(which).set_mask(one.id, index, png)

    @parks
    @rule(target=claims, which=which)
    def claim(self, which: int) -> Any:
        free = [one for one in self.known.values() if one.due and not one.leased]
        claim = storage_of(self.bus(which)).claims.take()
        if not free:
            assert claim is None
            return None
        first = min(free, key=lambda one: one.ended)
        assert claim is not None
        assert claim.gate.gate.id == first.id
        first.attempts += 1
        assert claim.attempt == first.attempts
        assert (claim.decision.route, claim.decision.by) == first.answer
        first.held, first.leased = (claim, self.bus(which)), True
        first.version += 1
        return claim, self.bus(which)

    @parks
    @rule(one=gates)
    def nobody_renews(self, one: Known) -> None:
        if one.held is not None:
            its_lease_runs_out(self.buses[0], one.id)
            one.leased = False

    @parks
    @rule(claim=claims, which=which)
    def renew(self, claim: Any, which: int) -> None:
        if claim is not None:
            one = self.known[claim[0].gate.gate.id]
            store_of(self.bus(which)).parked.renew([claim[0]], storage_of(self.bus(which)).id)
            if one.held == (claim[0], self.bus(which)):
                one.leased = True

    @parks
    @rule(claim=claims, which=which, well=st.booleans())
    def settle(self, claim: Any, which: int, well: bool) -> None:
        if claim is None:
            return
        one, bus = self.known[claim[0].gate.gate.id], self.bus(which)
        holds = one.held == (claim[0], bus)
        if well:
            assert storage_of(bus).claims.finish(claim[0]) is holds
        else:
            assert storage_of(bus).claims.put_back(claim[0], "a model is missing") is holds
        if holds and well:
            one.state, one.held, one.leased = State.RESUMED, None, False
            one.version += 1
        elif holds:
            self.opened(one)

    # -- what that means

    def know(self, one: Known) -> Known:
        self.known[one.id] = one
        return one

    def opened(self, one: Known) -> None:
        one.state = State.PARKED if one.parked else State.WAITING
        one.answer, one.held, one.leased = None, None, False
        one.version += 1

    def ended(self, one: Known, state: State, answer: tuple[int | None, str] | None) -> None:
        self.ends += 1
        one.state, one.answer, one.ended = state, answer, self.ends
        one.version += 1
        one.unrecordable = False
        if one.ticket is None:
            return
        # At once by the same process; by another one soon.
        if answer is not None and answer[0] is not None:
            got = one.ticket.wait(PATIENCE)
            assert (got.decision.route, got.decision.by) == answer
            assert got.masks == one.masks
        else:
            with pytest.raises(GateCancelled) as caught:
                one.ticket.wait(PATIENCE)
            assert caught.value.state is state

    def end(
        self, one: Known, state: State, answer: tuple[int | None, str], act: Callable[[], Any]
    ) -> None:
        if one.unrecordable:
            with pytest.raises(NotRecorded):
                act()
        elif one.state.open:
            assert act().outcome is Outcome.WON
            self.ended(one, state, answer)
        elif one.state in (State.WITHDRAWN, State.EXPIRED):
            with pytest.raises(GateClosed):
                act()
        else:
            verdict = act()
            assert verdict.outcome is (Outcome.REPLAY if answer == one.answer else Outcome.LOST)
            if one.answer is not None:
                assert (verdict.decision.route, verdict.decision.by) == one.answer

    # -- what always holds

    @invariant()
    def every_gate_is_as_it_is_known(self) -> None:
        bus = self.buses[-1]
        waiting, ended = bus.pending(), bus.finished()
        expected = [one.id for one in self.known.values() if one.state.open]
        assert [found.gate.id for found in waiting] == expected
        over = [one for one in self.known.values() if not one.state.open]
        over.sort(key=lambda one: -one.ended)
        assert [found.gate.id for found in ended] == [one.id for one in over]
        for found in waiting + ended:
            one = self.known[found.gate.id]
            said = found.decision and (found.decision.route, found.decision.by)
            assert (found.state, said) == (one.state, one.answer)
            assert found.version == one.version
            assert found.attempts == one.attempts
            assert bool(found.resuming) is (one.held is not None)
            assert found.masked == tuple(sorted(i for i, png in one.masks.items() if png))
            assert found.undoable is (one.undoable and one.state is State.DECIDED and not one.held)
            assert one.ticket is None or one.ticket.future.done() is not found.state.open
            if not self.parks:
                said_once = [found.decision] if found.decision else []
                assert [answer.decision for answer in one.recorded] == said_once

    def teardown(self) -> None:
        try:
            for one in self.known.values():
                if self.parks:
                    kinds = [line.kind for line in storage_of(self.buses[0]).lines(one.id)]
                    assert len(kinds) == one.version
                    assert kinds.count("claimed") == one.attempts
                for index in (0, 1):
                    assert self.buses[-1].mask(one.id, index) == one.masks.get(index)
            for news in self.news:
                versions: dict[str, int] = {}
                for item in news.drain()[0]:
                    i = item.gate.gate.id
                    assert item.gate.version > versions.get(i, 0)
                    versions[i] = item.gate.version
                news.close()
        finally:
            self.store.close()


def run(new_store: Callable[[], Store | Alone], buses: int, examples: int) -> None:
    run_state_machine_as_test(
        lambda: AnyOrder(new_store, buses),  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples, stateful_step_count=30, deadline=None, derandomize=True,
            suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
        ),
    )  # fmt: skip


def test_one_process_alone() -> None:
    """No order of anything loses a gate or gives it two answers, records one that does not count,
    or forgets to record one that does.
    """
    run(Alone, 1, 40)


def test_one_process_in_memory(tmp_path: Path) -> None:
    """No order of anything loses a gate, gives it two answers, or lets two go on with it."""
    run(lambda: Store("memory", "sqlite://", tmp_path / secrets.token_hex(4)), 1, 12)


@pytest.mark.parametrize("buses", [1, 2])
def test_processes_on_sqlite(tmp_path: Path, buses: int) -> None:
    """The same on a file, and with two processes that act on each other's gates."""

    def new() -> Store:
        folder = tmp_path / secrets.token_hex(4)
        return Store("sqlite", f"sqlite:///{folder}/gates.sqlite", folder / "pictures")

    run(new, buses, 6)


@pytest.mark.parametrize("buses", [1, 2])
def test_processes_on_postgresql(postgresql: Any, tmp_path: Path, buses: int) -> None:
    """The same on a server."""
    postgresql.start()

    def new() -> Store:
        return Store("postgresql", postgresql.create(), tmp_path / secrets.token_hex(4))

    run(new, buses, 6)
