"""Going on with parked gates: which prompt is queued, what runs of it, and what if that fails."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from imagegate.comfy.parked import resume as resume_module
from imagegate.comfy.parked.prompts import as_queued, read_decisions
from imagegate.comfy.parked.resume import End, PromptRefused, Resumer, going_on
from imagegate.core.model import Decision, Gate, Snapshot, State, StoreError, TooLate
from imagegate.core.pictures import Picture
from imagegate.storage.process.claims import Claims
from imagegate.storage.queries.runs import Claim, Parked, Sibling
from tests.conftest import Watch
from tests.support.stored import PATIENCE, storage_of, store_of, stored_bus


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def graph(**gate: Any) -> dict[str, Any]:
    """Source -> gate -> an output on each of two routes and on the mask, and one before it."""
    return {
        "1": node("Load", seed=7),
        "2": node("ImageGate", image=["1", 0], **{"routes": 2, **gate}),
        "3": node("Scale", image=["2", 1]),
        "4": node("Save", image=["3", 0]),
        "5": node("Save", image=["2", 2]),
        "6": node("Save", image=["1", 0]),
        "7": node("Save", mask=["2", 0]),
    }


def is_output(class_type: str) -> bool:
    return class_type == "Save"


class Queue:
    """ComfyUI's queue: what it was given, and what the test says became of it."""

    def __init__(self) -> None:
        self.ready = True
        self.requests: list[dict[str, Any]] = []
        self.ends: dict[str, End] = {}
        self.refuses: list[Exception] = []
        self.left_out = ""
        self.gone = False
        self.removed: list[str] = []
        self.changed = threading.Condition()

    def is_output(self, class_type: str) -> bool:
        return is_output(class_type)

    def submit(self, request: Mapping[str, Any]) -> str:
        with self.changed:
            self.requests.append(dict(request))
            self.changed.notify_all()
        if self.refuses:
            raise self.refuses.pop(0)
        return self.left_out

    def ended(self, prompt_id: str) -> End | None:
        return End("it is not there", gone=True) if self.gone else self.ends.get(prompt_id)

    def remove(self, prompt_id: str) -> bool:
        self.removed.append(prompt_id)
        return True

    def request(self, number: int) -> dict[str, Any]:
        """The request of that number, as soon as there is one."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.requests) > number, PATIENCE)
        return self.requests[number]

    def end(self, number: int, error: str = "", interrupted: bool = False) -> None:
        self.ends[self.request(number)["prompt_id"]] = End(error, interrupted)


class Worker:
    """A ComfyUI with a store, which goes on with what is decided."""

    def __init__(self, **settings: Any) -> None:
        self.bus = stored_bus(**settings)
        self.queue = Queue()
        self.watch = Watch(self.bus)
        self.resumer = Resumer(self.bus, storage_of(self.bus), self.queue)

    def park(self, prompt: dict[str, Any] | None = None, **given: Any) -> Gate:
        gate = Gate(labels=("keep", "fix"), width=8, height=6, node_id=given.get("node", "2"))
        how: dict[str, Any] = {"node": "2", "prompt": prompt or graph(), "extra": {}}
        how["root"] = secrets.token_hex(4)
        return (
            storage_of(self.bus)
            .parking.park(gate, [("preview-0", b"x")], Parked(**how | given))
            .gate
        )

    def until(self, gate: Gate, state: State) -> Snapshot:
        self.watch.until(lambda: self.bus.get(gate.id).state is state)
        return self.bus.get(gate.id)

    def until_put_back(self, gate: Gate) -> Snapshot:
        self.watch.until(lambda: self.bus.get(gate.id).reason)
        return self.bus.get(gate.id)

    def kinds(self, gate: Gate) -> list[str]:
        return [line.kind for line in storage_of(self.bus).lines(gate.id)]

    def close(self) -> None:
        self.resumer.close()
        self.watch.close()
        storage_of(self.bus).close()


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(resume_module, "QUEUE_LOOK", 0.005)
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def runs(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that has all nodes and has been started."""
    monkeypatch.setattr(
        storage_of(worker.bus)._opener, "_classes", lambda: ["ImageGate", "Load", "Scale", "Save"]
    )
    worker.resumer.start()
    return worker


# -- the prompt


def claim(prompt: dict[str, Any], route: int, *siblings: Sibling, **parked: Any) -> Claim:
    gate = Gate(labels=("keep", "fix"), width=8, height=6, id="me")
    decided = Snapshot(gate, State.DECIDED, 1, decision=Decision(route, "x"))
    how: dict[str, Any] = {"root": "run", "node": "2", "prompt": prompt, "extra": {}, **parked}
    stored = Parked(**how)
    me = Sibling("me", stored.node, stored.item, State.DECIDED, stored.length, usable=True)
    return Claim((decided,), (stored,), (me, *siblings))


@pytest.mark.parametrize(("route", "targets"), [(1, ["4", "7"]), (2, ["5", "7"])])
def test_only_what_hangs_on_the_route_runs(route: int, targets: list[str]) -> None:
    """The outputs behind the chosen route, and those behind the mask, are asked for; no others."""
    assert going_on(claim(graph(), route), is_output)[1] == targets


def test_outputs_that_were_not_asked_for_stay_out() -> None:
    """A prompt that was queued for some of its outputs goes on to those only."""
    assert going_on(claim(graph(), 1, targets=("4", "6")), is_output)[1] == ["4"]


def test_the_prompt_is_that_of_the_first_pass() -> None:
    """Everything stays as it was queued, but that the gate is told its decision, and cut off from
    what came before it: that neither runs nor is checked.
    """
    prompt = graph(labels="keep, fix", title="Look")
    stored = claim(prompt, 1)
    sent, _ = going_on(stored, is_output)
    assert sent["2"]["inputs"] == {
        "image": None, "routes": 2, "labels": "keep, fix", "title": "Look", "decision": "me"
    }  # fmt: skip
    assert {n: sent[n] for n in sent if n != "2"} == {n: prompt[n] for n in prompt if n != "2"}
    assert stored.parked.prompt["2"]["inputs"]["image"] == ["1", 0]  # untouched


def test_what_was_linked_into_the_gate_is_not_asked_for_again() -> None:
    """A mask, a title or a number that other nodes made is left out."""
    prompt = graph(routes=["8", 0], title=["9", 0], labels="keep, fix", mask=["8", 1])
    prompt |= {"8": node("Number"), "9": node("Caption")}
    inputs = going_on(claim(prompt, 1), is_output)[0]["2"]["inputs"]
    assert inputs == {
        "image": None, "routes": 10, "labels": "keep, fix", "decision": "me"
    }  # fmt: skip


def decisions(prompt: dict[str, Any], node_id: str) -> list[str] | None:
    """What a gate is given, one for each item of its list; None for one that is asked."""
    found = prompt[node_id]["inputs"].get("decision")
    if isinstance(found, list):
        assert prompt[found[0]]["class_type"] == "ImageGateDecisions"
        return read_decisions(prompt[found[0]]["inputs"]["decisions"])
    return None if found is None else [found]


def test_other_gates_of_the_run_are_not_asked_twice() -> None:
    """Each other gate gets the ids of its own gates, one for each item of its list."""
    prompt = graph()
    prompt["8"] = node("ImageGate", image=["1", 0], routes=2)
    prompt["9"] = node("ImageGate", image=["1", 0], routes=2)
    others = [
        Sibling("open", "8", 0, State.PARKED),
        Sibling("item 0", "9", 0, State.DECIDED, 3, (0, 2), usable=True),
        Sibling("item 2", "9", 2, State.STOPPED, 3, (0, 2)),
    ]
    sent, _ = going_on(claim(prompt, 1, *others), is_output)
    assert {n: decisions(sent, n) for n in ("2", "8", "9")} == {
        "2": ["me"], "8": ["wait:open"], "9": ["item 0", "wait:", "wait:item 2"]
    }  # fmt: skip
    assert sent["9"]["inputs"]["image"] is None


def test_an_item_goes_on_in_its_place() -> None:
    """The list keeps its length: items that do not go on now are blocked."""
    prompt = graph()
    others = [
        Sibling("before", "2", 0, State.RESUMED, 4, (0, 1, 3), usable=True),
        Sibling("open", "2", 3, State.PARKED, 4, (0, 1, 3)),
    ]
    sent, _ = going_on(claim(prompt, 1, *others, item=1, length=4), is_output)
    assert decisions(sent, "2") == ["wait:", "me", "wait:", "wait:"]


def test_only_answers_that_were_taken_up_are_used() -> None:
    """Of two gates that meet in one output, the one that is taken up later has both answers; the
    earlier one blocks there, so that it runs once.
    """
    prompt = graph()
    prompt["8"] = node("ImageGate", image=["1", 0], routes=2)
    decided = Sibling("other", "8", 0, State.DECIDED)
    for usable, given in ((False, "wait:other"), (True, "other")):
        sent, _ = going_on(claim(prompt, 1, replace(decided, usable=usable)), is_output)
        assert sent["8"]["inputs"]["decision"] == given


def test_items_of_a_list_through_two_gates() -> None:
    """At the second gate only the items are asked that have not been; the first one, when the
    second goes on, has the answers that led to it.
    """
    prompt = graph()
    prompt["8"] = node("ImageGate", image=["2", 1], routes=2)
    prompt["9"] = node("Save", image=["8", 1])
    a1 = Sibling("a1", "2", 1, State.RESUMED, 2, (0, 1), usable=True)
    b1 = Sibling("b1", "8", 1, State.RESUMED, 2, (1,), usable=True)
    sent, targets = going_on(claim(prompt, 1, a1, length=2), is_output)
    assert decisions(sent, "8") is None
    assert sent["8"]["inputs"]["image"] == ["2", 1]
    assert "9" in targets
    sent, _ = going_on(claim(prompt, 1, a1, b1, length=2), is_output)
    assert decisions(sent, "8") == ["", "b1"]
    assert sent["8"]["inputs"]["image"] == ["2", 1]
    a0 = Sibling("a0", "2", 0, State.PARKED, 2, (0, 1))
    sent, _ = going_on(claim(prompt, 1, a0, a1, node="8", item=1, length=2), is_output)
    assert decisions(sent, "2") == ["wait:a0", "a1"]
    assert decisions(sent, "8") == ["wait:", "me"]


def test_a_gate_that_was_withdrawn_is_asked_anew() -> None:
    """What came of an attempt that failed is not told to the next one."""
    prompt = graph()
    prompt["8"] = node("ImageGate", image=["2", 1], routes=2)
    gone = Sibling("b", "8", 0, State.WITHDRAWN)
    assert decisions(going_on(claim(prompt, 1, gone), is_output)[0], "8") is None


def test_an_output_whose_class_is_gone_is_still_asked_for() -> None:
    """What the prompt was queued for stays asked for, so that ComfyUI can say what is missing."""
    prompt = graph()
    prompt["5"]["class_type"] = "Gone"
    assert going_on(claim(prompt, 2, targets=("4", "5")), is_output)[1] == ["5"]


def test_a_prompt_as_it_was_queued() -> None:
    """What ComfyUI wrote into it goes, and lists that it unwrapped are wrapped again."""
    prompt: dict[str, dict[str, Any]] = {
        "1": {"class_type": "A", "inputs": {"points": [1, 2], "image": ["2", 0], "n": 1},
              "is_changed": [1], "_meta": {"title": "T"}},
        "2": {"class_type": "B"},
    }  # fmt: skip
    assert as_queued(prompt) == {
        "1": {"class_type": "A", "_meta": {"title": "T"},
              "inputs": {"points": {"__value__": [1, 2]}, "image": ["2", 0], "n": 1}},
        "2": {"class_type": "B", "inputs": {}},
    }  # fmt: skip
    assert prompt["1"]["is_changed"] == [1]


# -- going on


def test_a_decided_gate_goes_on_by_itself(runs: Worker) -> None:
    """It is queued in front, for the page that queued it, with its extra data, and then resumed."""
    extra = {"extra_pnginfo": {"workflow": {"id": "w"}}}
    gate = runs.park(extra=extra, client="page")
    runs.bus.decide(gate.id, "fix", by="Ann")
    request = runs.queue.request(0)
    assert request["extra_data"] == extra
    assert (request["client_id"], request["front"]) == ("page", True)
    assert request["partial_execution_targets"] == ["5", "7"]
    assert request["prompt"]["2"]["inputs"]["decision"] == gate.id
    going = runs.bus.get(gate.id)
    assert (going.state, going.resuming, going.attempts) == (State.DECIDED, "here", 1)
    with pytest.raises(TooLate, match="here has taken"):
        runs.bus.undo(gate.id)
    runs.queue.end(0)
    done = runs.until(gate, State.RESUMED)
    assert done.decision is not None
    assert (done.decision.label, done.resuming) == ("fix", "")
    assert runs.kinds(gate) == ["published", "decided", "claimed", "resumed"]
    with pytest.raises(TooLate, match="has gone on"):
        runs.bus.undo(gate.id)


def test_a_stopped_gate_does_not_go_on(runs: Worker) -> None:
    """Stop ends a parked gate; nothing is queued for it."""
    stopped, decided = runs.park(), runs.park()
    runs.bus.stop(stopped.id)
    runs.bus.decide(decided.id, 1)
    request = runs.queue.request(0)
    assert request["prompt"]["2"]["inputs"]["decision"] == decided.id
    runs.queue.end(0)
    runs.until(decided, State.RESUMED)
    assert len(runs.queue.requests) == 1


@pytest.mark.parametrize("how", ["refused", "failed", "left out"])
def test_what_cannot_go_on_waits_again(runs: Worker, how: str) -> None:
    """A refusal, a failure, or an output that would not run brings the gate back with ComfyUI's own
    words, and it can be tried again.
    """
    gate = runs.park()
    if how == "refused":
        runs.queue.refuses.append(PromptRefused("model is missing"))
    if how == "left out":
        runs.queue.left_out = "Save 4: model is missing"
    runs.bus.decide(gate.id, 1, by="Ann")
    if how == "failed":
        runs.queue.end(0, "Scale: model is missing")
    back = runs.until_put_back(gate)
    assert back.state is State.PARKED
    assert back.reason.endswith("model is missing")
    assert back.decision is None
    assert len(runs.queue.removed) == (how == "left out")
    runs.queue.left_out = ""
    runs.bus.decide(gate.id, 1, by="Ann")
    runs.queue.end(1)
    assert runs.until(gate, State.RESUMED).attempts == 2
    assert runs.kinds(gate) == [
        "published", "decided", "claimed", "put back", "decided", "claimed", "resumed"
    ]  # fmt: skip


@pytest.mark.parametrize("stopped", [True, False], ids=["at a later gate", "in ComfyUI"])
def test_a_prompt_that_was_interrupted(runs: Worker, stopped: bool) -> None:
    """A Stop at a later gate of the prompt ends both; a cancel in ComfyUI, which may have meant
    another prompt, brings the gate back.
    """
    gate = runs.park()
    runs.bus.decide(gate.id, 1)
    prompt_id = runs.queue.request(0)["prompt_id"]
    if stopped:
        later = Gate(labels=("a",), width=8, height=6, prompt_id=prompt_id)
        runs.bus.publish(later, Photo())
        runs.bus.stop(later.id)
    runs.queue.end(0, "it was cancelled in ComfyUI", interrupted=True)
    if stopped:
        runs.until(gate, State.RESUMED)
    else:
        assert "cancelled" in runs.until_put_back(gate).reason


class Photo:
    """The picture of a gate that waits."""

    def preview(self, index: int) -> Picture:
        return Picture(b"x", "image/jpeg")

    full = preview

    def start_mask(self, index: int) -> None: ...


def test_an_answer_that_was_lost_is_looked_for(runs: Worker) -> None:
    """Where ComfyUI did not answer, what became of the prompt counts, not the error."""
    gate = runs.park()
    runs.queue.refuses.append(ConnectionResetError("gone"))
    runs.bus.decide(gate.id, 1)
    runs.queue.end(0)
    assert runs.until(gate, State.RESUMED).attempts == 1


def test_a_prompt_that_never_came_to_be(runs: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ComfyUI neither answered nor queued it, the gate waits again with what was said."""
    monkeypatch.setattr(resume_module, "UNSURE", 0.05)
    gate = runs.park()
    runs.queue.refuses.append(TimeoutError("timed out"))
    runs.queue.gone = True
    runs.bus.decide(gate.id, 1)
    assert "did not answer: timed out" in runs.until_put_back(gate).reason


def test_a_prompt_that_cannot_be_prepared(runs: Worker) -> None:
    """Whatever goes wrong on the way is said at the gate, and not tried for ever."""
    gate = runs.park(
        {"2": node("ImageGate"), "4": {"class_type": "Save", "inputs": {"a": ["2", 1]}}}
    )
    runs.queue.refuses.append(KeyError("odd"))
    runs.bus.decide(gate.id, 1)
    assert "odd" in runs.until_put_back(gate).reason


def test_what_a_failed_attempt_had_asked_is_taken_back(runs: Worker) -> None:
    """A later gate that parked on the way of a prompt which then failed is withdrawn: it is asked
    again when that prompt is.
    """
    gate = runs.park()
    runs.bus.decide(gate.id, 1)
    prompt_id = runs.queue.request(0)["prompt_id"]
    later = Gate(labels=("a",), width=8, height=6, prompt_id=prompt_id)
    storage_of(runs.bus).parking.park(later, [], Parked("run", "8", graph(), {}))
    runs.queue.end(0, "out of memory")
    runs.until_put_back(gate)
    runs.watch.until(lambda: runs.bus.get(later.id).state is State.WITHDRAWN)
    assert "failed" in runs.bus.get(later.id).reason


def test_a_gate_that_went_on_by_its_timeout_is_no_stop(runs: Worker) -> None:
    """Only a gate that was stopped ends the prompt on purpose; a cancel later on does not."""
    gate = runs.park()
    runs.bus.decide(gate.id, 1)
    prompt_id = runs.queue.request(0)["prompt_id"]
    later = Gate(labels=("a",), width=8, height=6, prompt_id=prompt_id, on_timeout=1)
    runs.bus.publish(later, Photo())
    runs.bus.expire(later.id)
    runs.queue.end(0, "it was cancelled in ComfyUI", interrupted=True)
    assert "cancelled" in runs.until_put_back(gate).reason


def test_a_route_that_leads_nowhere(runs: Worker) -> None:
    """If nothing hangs on the route, nothing is queued, and the gate has gone on."""
    prompt = graph()
    for output in ("5", "7"):
        del prompt[output]
    gate = runs.park(prompt)
    runs.bus.decide(gate.id, 2)
    runs.until(gate, State.RESUMED)
    assert runs.queue.requests == []
    assert "nothing hangs" in storage_of(runs.bus).lines(gate.id)[-1].body["text"]


def test_only_some_are_taken_up_at_a_time(runs: Worker) -> None:
    """With many decided, two go on and the others can still be taken back."""
    gates = [runs.park() for _ in range(5)]
    for gate in gates:
        runs.bus.decide(gate.id, 1)
    runs.queue.request(1)
    assert runs.bus.undo(gates[4].id).state is State.PARKED
    for number in range(4):
        runs.queue.end(number)
    for gate in gates[:4]:
        runs.until(gate, State.RESUMED)
    assert len(runs.queue.requests) == 4


def test_what_the_worker_has_no_nodes_for_is_left_to_others(runs: Worker) -> None:
    """A gate of another worker, whose nodes are missing here, stays due."""
    prompt = graph()
    prompt["3"] = node("Missing", image=["2", 1])
    foreign = runs.park(prompt)
    with store_of(runs.bus).database.write() as connection:
        connection.execute(sa.text("UPDATE gates SET worker = 'another'"))
    ours = runs.park()
    runs.bus.decide(foreign.id, 1)
    runs.bus.decide(ours.id, 1)
    runs.queue.end(0)
    runs.until(ours, State.RESUMED)
    assert runs.bus.get(foreign.id).state is State.DECIDED
    assert len(runs.queue.requests) == 1


def test_a_claim_that_ran_out_is_taken_up_again(
    runs: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash between queuing and the end somebody tries again, and only he may finish."""
    monkeypatch.setattr(resume_module, "IDLE", 0.01)
    gate = runs.park()
    with store_of(runs.bus).database.write() as connection:
        connection.execute(
            sa.text(
                "UPDATE gates SET state='decided', open=0, due=1, claimed_by='dead', lease=0, "
                "attempts=1, resuming='dead', ended=1, "
                """decision='{"route": 1, "label": "keep"}'"""
            )
        )
    request = runs.queue.request(0)
    assert request["prompt"]["2"]["inputs"]["decision"] == gate.id
    runs.queue.end(0)
    assert runs.until(gate, State.RESUMED).attempts == 2


def test_nothing_is_opened_for_nothing(tmp_path: Path) -> None:
    """Where there is no store yet, looking for what is due does not make one."""
    file = tmp_path / "gates.sqlite"
    worker = Worker(store=f"sqlite:///{file}", pictures=str(tmp_path / "pictures"))
    worker.resumer.start()
    worker.resumer.close()
    assert not storage_of(worker.bus).opened
    assert list(tmp_path.iterdir()) == []
    worker.close()


def test_a_restart_goes_on_with_what_was_decided_meanwhile(tmp_path: Path) -> None:
    """A decision made while no worker ran is carried out by the next one, with no page open."""
    place = {"store": f"sqlite:///{tmp_path / 'g.sqlite'}", "pictures": str(tmp_path / "p")}
    first = Worker(**place)
    gate = first.park({"2": node("ImageGate", routes=2), "4": node("Save", image=["2", 1])})
    first.bus.decide(gate.id, 1)
    first.watch.close()
    storage_of(first.bus).close()
    second = Worker(**place)
    storage_of(second.bus)._opener._classes = lambda: ["ImageGate", "Save"]
    second.resumer.start()
    second.queue.end(0)
    assert second.until(gate, State.RESUMED).attempts == 1
    second.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a resumer that starts after this not wait long before it looks again."""
    monkeypatch.setattr(resume_module, "IDLE", 0.01)


@pytest.mark.usefixtures("impatient")
def test_a_store_that_fails_is_tried_again(runs: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trouble with the store ends nothing: the gate goes on when that is over."""
    gate = runs.park()
    take = Claims.take
    failures = iter([StoreError("the store is away"), RuntimeError("odd")])

    def failing(claims: Claims) -> Any:
        if error := next(failures, None):
            raise error
        return take(claims)

    monkeypatch.setattr(Claims, "take", failing)
    runs.bus.decide(gate.id, 1)
    runs.queue.end(0)
    runs.until(gate, State.RESUMED)


def test_what_also_hangs_on_another_gate_is_said(runs: Worker) -> None:
    """The history of a gate that has gone on names the open gates that hold back the rest."""
    prompt = graph()
    prompt["8"] = node("ImageGate", image=["1", 0], routes=2)
    prompt["3"]["inputs"]["mask"] = ["8", 0]
    one, other = runs.park(prompt, root="run"), runs.park(prompt, root="run", node="8")
    runs.bus.decide(one.id, 1)
    runs.queue.end(0)
    runs.until(one, State.RESUMED)
    assert "also hangs on 'Image Gate'" in storage_of(runs.bus).lines(one.id)[-1].body["text"]
    runs.bus.decide(other.id, 1)
    runs.queue.end(1)
    runs.until(other, State.RESUMED)
    assert "text" not in storage_of(runs.bus).lines(other.id)[-1].body
