"""A click has a key: however often it is sent, it counts once. On every bus."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagegate.core.model import MAX_KEY, BadAnswer, Forbidden, Gate, Outcome, Selection, State
from imagegate.gate_bus import GateBus
from tests.support.stored import FILES, PLAIN, Store, gate, sql, storage_of, to_go_on


class Memory:
    """The bus of a folder, whose answers can be undone."""

    def __init__(self) -> None:
        self.bus: GateBus[Any] = GateBus()

    def ask(self, **given: Any) -> Gate:
        one = gate(undoable=True, **given)
        hooks: dict[str, Any] = {"record": lambda _: None, "revoke": lambda _: None}
        return self.bus.publish(one, PLAIN, **hooks).gate


class Stored:
    """Parked gates of a store, which can be undone, too."""

    def __init__(self, store: Store) -> None:
        self.bus = store.bus()

    def ask(self, **given: Any) -> Gate:
        return storage_of(self.bus).parking.park(gate(**given), FILES, to_go_on()).gate


@pytest.fixture(params=["folder", "memory", "sqlite", "postgresql"])
def asker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    if request.param == "folder":
        yield Memory()
        return
    from tests.conftest import new_store

    with new_store(request, request.param, tmp_path) as store:
        yield Stored(store)


def test_a_click_sent_twice_counts_once(asker: Any) -> None:
    """The same click again is a replay."""
    one = asker.ask()
    said = {"by": "Ada", "link": "l1", "key": "k"}
    assert asker.bus.decide(one.id, 1, **said).outcome is Outcome.WON
    assert asker.bus.decide(one.id, 1, **said).outcome is Outcome.REPLAY


def test_a_click_that_was_taken_back_does_not_count_again(asker: Any) -> None:
    """Sent again after an undo, a click changes nothing; a new click does."""
    one = asker.ask()
    asker.bus.decide(one.id, 1, by="Ada", key="k")
    asker.bus.undo(one.id)
    assert asker.bus.decide(one.id, 1, by="Ada", key="k").outcome is Outcome.REPLAY
    assert asker.bus.get(one.id).state.open
    assert asker.bus.decide(one.id, 1, by="Ada", key="k2").outcome is Outcome.WON


def test_a_late_click_does_not_pass_for_the_first(asker: Any) -> None:
    """A key of one's own makes no answer out of somebody else's."""
    one = asker.ask()
    asker.bus.decide(one.id, 1, by="Ada", link="l1", key="k1")
    verdict = asker.bus.decide(one.id, 1, by="Ada", link="l2", key="k2")
    assert verdict.outcome is Outcome.LOST
    assert verdict.decision.link == "l1"


def test_the_same_click_from_many_threads_counts_once(asker: Any) -> None:
    """Of one click sent by eight threads at once, one wins and seven are replays."""
    one, outcomes = asker.ask(), []
    barrier = threading.Barrier(8)

    def click() -> None:
        barrier.wait()
        outcomes.append(asker.bus.decide(one.id, 2, by="Ada", key="k").outcome)

    threads = [threading.Thread(target=click) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.value for outcome in outcomes) == ["replay"] * 7 + ["won"]


def test_a_key_is_told_to_nobody(asker: Any) -> None:
    """What is told of a decision has its link, and not its key."""
    one = asker.ask()
    asker.bus.decide(one.id, 1, by="Ada", link="l1", key="secret-key")
    told = asker.bus.get(one.id).to_json()
    assert told["decision"]["link"] == "l1"
    assert "secret-key" not in json.dumps(told)


@pytest.mark.parametrize("key", ["x" * (MAX_KEY + 1), "\ud800"])
def test_a_strange_key_is_refused(asker: Any, key: str) -> None:
    """A key that is too long, or no text, is refused and nothing is decided."""
    one = asker.ask()
    with pytest.raises(BadAnswer, match="key"):
        asker.bus.decide(one.id, 1, key=key)
    assert asker.bus.get(one.id).state.open


def test_whoever_comes_through_a_link_takes_back_their_own_only(asker: Any) -> None:
    """An undo through a link takes back what came through it, and nothing else."""
    one = asker.ask()
    asker.bus.decide(one.id, 1, by="Ada", link="l1")
    with pytest.raises(Forbidden, match="not yours"):
        asker.bus.undo(one.id, link="l2")
    assert asker.bus.get(one.id).state is State.DECIDED
    assert asker.bus.undo(one.id, link="l1").state.open


def test_what_was_decided_through_a_link_can_be_listed(asker: Any) -> None:
    """The history of a link has what was decided through it, until it is taken back."""
    mine, other, third = (asker.ask(title=title) for title in ("a", "b", "b"))
    asker.bus.decide(mine.id, 1, link="l1")
    asker.bus.decide(other.id, 1, link="l2")
    asker.bus.decide(third.id, 1)
    of_link = Selection(link="l1")
    assert [s.gate.id for s in asker.bus.finished(among=of_link)] == [mine.id]
    assert [s.gate.id for s in asker.bus.finished(among=Selection(title="b"))] == [
        third.id, other.id,
    ]  # fmt: skip
    asker.bus.undo(mine.id, link="l1")
    assert asker.bus.finished(among=of_link) == []


def test_gates_of_a_title_and_one_gate(asker: Any) -> None:
    """A selection by title, or of one gate, lists and counts those only."""
    hero, other = asker.ask(title="Hero"), asker.ask(title="Other")
    assert [s.gate.id for s in asker.bus.pending(among=Selection(title="Hero"))] == [hero.id]
    assert [s.gate.id for s in asker.bus.pending(among=Selection(gate_id=other.id))] == [other.id]
    assert asker.bus.count(Selection(title="Hero")) == 1
    assert asker.bus.count(Selection(title="hero")) == 0


def test_titles_of_gates_from_before_are_filled_in(shared: Store) -> None:
    """A store that is brought up to date knows its old gates by their titles, strange ones too."""
    old = shared.bus()
    titles = ["Hero", "half \ud800", "nul \0", "ü"]
    ids = [
        storage_of(old).parking.park(gate(title=title), FILES, to_go_on()).gate.id
        for title in titles
    ]
    for statement in (
        "DROP INDEX gates_open_title", "DROP INDEX gates_title", "DROP INDEX gates_link",
        "ALTER TABLE gates DROP COLUMN title", "ALTER TABLE gates DROP COLUMN link",
        "DROP TABLE wrong_passphrases", "DROP TABLE clicks", "DROP TABLE sessions",
        "DROP TABLE links",
        "DELETE FROM migrations WHERE name IN ('0002_links', '0004_wrong_passphrases')",
    ):  # fmt: skip
        sql(old, statement)
    new = shared.bus()
    for id_, title in zip(ids, titles, strict=True):
        assert [s.gate.id for s in new.pending(among=Selection(title=title))] == [id_]
