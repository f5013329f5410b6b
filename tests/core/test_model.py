"""The records and the rules they follow."""

from __future__ import annotations

import dataclasses
import json

import pytest

from imagegate.core.model import (
    BadAnswer,
    BadPicture,
    Decision,
    Gate,
    GateCancelled,
    ImageGateError,
    Snapshot,
    State,
    new_gate_id,
    parse_labels,
)


def gate(*labels: str, batch: int = 1) -> Gate:
    return Gate(labels=labels, width=8, height=6, batch=batch)


@pytest.mark.parametrize(
    ("text", "routes", "labels"),
    [
        ("", 2, ("1", "2")),
        ("  \n ", 2, ("1", "2")),
        ("keep, fix ,reject", 3, ("keep", "fix", "reject")),
        ("keep\nfix\r\nreject", 3, ("keep", "fix", "reject")),
        ("keep", 3, ("keep", "2", "3")),
        (",fix", 2, ("1", "fix")),
        ("a,b,c", 2, ("a", "b")),
        ("a,a", 2, ("a", "a")),
        ("gut, schön, 🗑", 3, ("gut", "schön", "🗑")),
    ],
)
def test_labels(text: str, routes: int, labels: tuple[str, ...]) -> None:
    """Labels are comma or newline separated and trimmed; a missing one is its number."""
    assert parse_labels(text, routes) == labels


@pytest.mark.parametrize("routes", [0, -1, 11])
def test_labels_need_a_possible_number_of_routes(routes: int) -> None:
    """A number of routes out of range is refused, naming the range."""
    with pytest.raises(BadAnswer, match="1 to 10"):
        parse_labels("", routes)


def test_a_route_is_named_by_number_or_label() -> None:
    """A route is found by its number, counted from 1, and by its label, spaces aside."""
    three = gate("keep", "fix", "3")
    assert [three.route(wanted) for wanted in (1, 2, "keep", " fix ", "3")] == [1, 2, 1, 2, 3]


@pytest.mark.parametrize("wanted", [0, 3, -1, True, False, 1.0, None, "Keep", "", "1", [1], 10**50])
def test_no_such_route(wanted: object) -> None:
    """What names no route is refused with the list of those that exist."""
    with pytest.raises(BadAnswer, match=r"1 \(keep\), 2 \(fix\)"):
        gate("keep", "fix").route(wanted)


def test_a_label_that_is_not_unique_is_refused() -> None:
    """A label that several routes have is refused, naming their numbers."""
    with pytest.raises(BadAnswer, match=r"not unique.*2, 3"):
        gate("keep", "fix", "fix").route("fix")


def test_a_number_wins_over_a_label_that_looks_like_one() -> None:
    """The number 1 is the first route, also where the second one is labelled 1."""
    odd = gate("2", "1")
    assert odd.route(1) == 1
    assert odd.route("1") == 2


@pytest.mark.parametrize("index", [-1, 3, 10**30])
def test_no_such_image(index: int) -> None:
    """An image that the batch does not have is refused, naming those it has."""
    with pytest.raises(BadAnswer, match="0 to 2"):
        gate("a", batch=3).index(index)


@pytest.mark.parametrize("index", [0, 2])
def test_an_image_of_the_batch(index: int) -> None:
    """Each image of the batch has its index, counted from 0."""
    assert gate("a", batch=3).index(index) == index


def test_ids_are_unguessable_and_safe_in_urls() -> None:
    """Each gate gets an id of its own, of at least 128 bits, that needs no escaping."""
    ids = {new_gate_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(i) >= 22 and i.replace("-", "").replace("_", "").isalnum() for i in ids)
    assert gate("a").id != gate("a").id


def test_only_waiting_and_parked_are_open() -> None:
    """Only a waiting or parked gate takes an answer."""
    assert {state for state in State if state.open} == {State.WAITING, State.PARKED}


def test_records_are_frozen() -> None:
    """Records cannot be changed, so they may cross threads."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        gate("a").title = "other"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Decision(1).route = 2  # type: ignore[misc]


def test_the_same_answer_is_the_same_route_by_the_same_person() -> None:
    """Notes and times do not make an answer another one; the person and the route do."""
    first = Decision(1, "keep", "Ann", "sharp", at=1.0)
    assert first.same_answer(Decision(1, "keep", "Ann", "blurred", at=2.0))
    assert not first.same_answer(Decision(1, "keep", "Bob"))
    assert not first.same_answer(Decision(2, "fix", "Ann"))
    assert not first.same_answer(Decision(None, "", "Ann"))


def test_a_snapshot_as_json() -> None:
    """A snapshot becomes plain JSON with the fields that REST promises."""
    shown = gate("keep", "fix")
    said = Decision(1, "keep", "Ann")
    record = json.loads(json.dumps(Snapshot(shown, State.DECIDED, 4, 2, said, (0,)).to_json()))
    promised = [
        "id",
        "title",
        "node_id",
        "prompt_id",
        "labels",
        "state",
        "mode",
        "created_at",
        "width",
        "height",
        "batch",
    ]
    assert set(promised) <= set(record)
    assert record["state"] == "decided"
    assert record["decision"]["by"] == "Ann"
    assert record["masked"] == [0]
    assert "decision" not in Snapshot(shown, State.WAITING, 1).to_json()


def test_the_error_tree() -> None:
    """Every error is an ImageGateError; those of bad input are ValueErrors too."""
    assert issubclass(BadAnswer, (ImageGateError, ValueError))
    assert issubclass(BadAnswer, ValueError)
    assert issubclass(BadPicture, ValueError)
    error = GateCancelled(State.STOPPED, "stopped by a person")
    assert isinstance(error, ImageGateError)
    assert error.state is State.STOPPED
