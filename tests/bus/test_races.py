"""Real processes at the same gates at the same moment: one answer each, one that goes on."""

from __future__ import annotations

import multiprocessing
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from imagegate.core.model import Outcome, State
from tests.support.stored import FILES, PATIENCE, PLAIN, Store, gate, storage_of, store_of, to_go_on

pytestmark = [pytest.mark.slow, pytest.mark.processes]

PROCESSES = 8
GATES = 100
# A fresh interpreter each: nothing of the parent's threads and connections comes along.
context = multiprocessing.get_context("spawn")


def test_eight_processes_at_a_hundred_gates(shared: Store) -> None:
    """Of eight answers to each gate one wins, and all the others name it; of eight processes that
    go on with what was decided each gate is taken up by one.
    """
    bus = shared.bus()

    def park(_: int) -> str:
        one = storage_of(bus).parking.park(gate(), FILES, to_go_on()).gate
        bus.decide(one.id, 1)
        return one.id

    with ThreadPoolExecutor(PROCESSES) as threads:
        tickets = list(threads.map(lambda _: bus.publish(gate(), PLAIN), range(GATES)))
        parked = list(threads.map(park, range(GATES)))

    answers, claims = race(shared, [ticket.gate.id for ticket in tickets])

    assert len(answers) == PROCESSES * GATES
    won = {gate_id: by for gate_id, by, outcome, _ in answers if outcome is Outcome.WON}
    outcomes = Counter(outcome for _, _, outcome, _ in answers)
    assert outcomes == {Outcome.WON: GATES, Outcome.LOST: (PROCESSES - 1) * GATES}
    assert all(won[gate_id] == counts for gate_id, _, _, counts in answers)
    for ticket in tickets:
        assert ticket.wait(PATIENCE).decision.by == won[ticket.gate.id]
        (line,) = [line for line in storage_of(bus).lines(ticket.gate.id) if line.kind == "decided"]
        assert line.body["by"] == won[ticket.gate.id]

    assert Counter(claims) == Counter(parked)
    for gate_id in parked:
        found = bus.get(gate_id)
        assert (found.state, found.attempts) == (State.RESUMED, 1)
        kinds = [line.kind for line in storage_of(bus).lines(gate_id)]
        assert kinds == ["published", "decided", "claimed", "resumed"]


def test_a_new_store_opened_by_all_at_once(shared: Store) -> None:
    """A store is made once, whoever comes first."""
    run(shared, open_it, [])
    bus = shared.bus()
    assert len([worker for worker in store_of(bus).workers.each() if not worker.alive]) == PROCESSES


def race(shared: Store, gate_ids: list[str]) -> tuple[list[Any], list[str]]:
    answers, claims = [], []
    for one in run(shared, answer_and_go_on, gate_ids):
        answers += one[0]
        claims += one[1]
    return answers, claims


def run(shared: Store, work: Callable[..., Any], gate_ids: list[str]) -> list[Any]:
    """What each process has found; they start together."""
    barrier = context.Barrier(PROCESSES)
    ends = []
    for n in range(PROCESSES):
        ours, theirs = context.Pipe(duplex=False)
        where = (shared.kind, shared.url, shared.pictures)
        process = context.Process(target=work, args=(where, n, barrier, gate_ids, theirs))
        process.start()
        theirs.close()
        ends.append((process, ours))
    found = [ours.recv() for _, ours in ends]  # ends with EOFError where a process has failed
    for process, ours in ends:
        ours.close()
        process.join(PATIENCE)
        assert process.exitcode == 0
    return found


def answer_and_go_on(
    where: tuple[str, str, Path], n: int, barrier: Any, gate_ids: list[str], told: Any
) -> None:
    with Store(*where) as store:
        bus = store.bus(worker=f"worker {n}")
        answers, claims = [], []
        barrier.wait(60)
        for gate_id in gate_ids:
            verdict = bus.decide(gate_id, random.choice((1, 2)), by=f"person {n}")
            answers.append((gate_id, f"person {n}", verdict.outcome, verdict.decision.by))
        barrier.wait(60)
        while (claim := storage_of(bus).claims.take()) is not None:
            claims.append(claim.gate.gate.id)
            assert storage_of(bus).claims.finish(claim)
        told.send((answers, claims))


def open_it(
    where: tuple[str, str, Path], n: int, barrier: Any, gate_ids: list[str], told: Any
) -> None:
    with Store(*where) as store:
        bus = store.unopened(worker=f"worker {n}")
        barrier.wait(60)
        told.send(bus.count())
