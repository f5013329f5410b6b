"""What `kill_nine` counts in the end: the store beside what workers and clients wrote down."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from imagegate.core.model import Gate, ImageGateError, Snapshot, State
from imagegate.pictures.place import PicturePlace
from imagegate.pictures.tensors import decode_exact, digest
from imagegate.storage.queries.gate_rows import Line
from imagegate.storage.queries.gates import GateStore
from imagegate.storage.sql.database import Database
from imagegate.storage.sql.tables import gates
from scripts.kill_nine_worker import image_of, mask_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What was written down outside of the store.

    Attributes:
        workers: the lines of each worker's log, of all its processes.
        answers: what the clients were told after a decision or a Stop.
        kills: who was killed when; of a worker, also which of its processes.
    """

    workers: list[list[Row]]
    answers: list[Row]
    kills: list[Row]

    def of_workers(self, kind: str) -> Iterator[Row]:
        return (line for log in self.workers for line in log if line["kind"] == kind)


@dataclass
class Tally:
    """Counts by name, and what must not have been."""

    counts: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def count(self, name: str, found: int) -> None:
        self.counts[name] = found

    def must_not(self, name: str, found: list[str]) -> None:
        """Count what would be wrong."""
        self.counts[name] = len(found)
        self.problems += [f"{name}: {one}" for one in found]


def tally(store: str, place: str, seen: Seen, numbers: int) -> Tally:
    """Compare the store with what was seen of it while everybody was being killed."""
    database = Database(store, "tally")
    try:
        keeper = GateStore(database)
        with database.read() as connection:
            ids = list(connection.execute(sa.select(gates.c.id).order_by(gates.c.seq)).scalars())
        found = {one: keeper.get(one) for one in ids}
        lines = {one: keeper.lines(one) for one in ids}
    finally:
        database.close()
    result = Tally()
    _killed(result, seen)
    _published(result, seen, found, numbers)
    _pictures(result, PicturePlace(place), found)
    _answers(result, seen, lines)
    _runs(result, seen, found, lines)
    _waited(result, seen, found)
    _history(result, found, lines)
    return result


def _killed(result: Tally, seen: Seen) -> None:
    result.count("kills", len(seen.kills))
    for who, times in sorted(Counter(kill["who"] for kill in seen.kills).items()):
        result.count(f"kills of {who}", times)


def _published(result: Tally, seen: Seen, found: Mapping[str, Snapshot], numbers: int) -> None:
    told = {line["gate"]: line for line in seen.of_workers("published")}
    result.count("gates published (acknowledged by the bus)", len(told))
    result.must_not(
        "published gates not found",
        [f"{one}, number {line['number']}" for one, line in told.items() if one not in found],
    )
    # Killed after the commit and before it was known: asked for again, as a person would.
    result.count("gates found that nobody was told of", len(set(found) - set(told)))
    asked = {line["number"] for line in told.values()}
    result.must_not("numbers never asked", [str(n) for n in sorted(set(range(numbers)) - asked)])


def _pictures(result: Tally, place: PicturePlace, found: Mapping[str, Snapshot]) -> None:
    kept, bad = 0, []
    for one, snapshot in found.items():
        if snapshot.gate.mode != "park":
            continue
        if error := _picture(place, snapshot.gate):
            bad.append(f"{one}: {error}")
        else:
            kept += 1
    result.count("exact images found", kept)
    result.must_not("exact images missing or wrong", bad)


def _picture(place: PicturePlace, gate: Gate) -> str:
    try:
        for suffix in ("png", "safetensors"):
            body = place.read(gate.id, f"exact-0.{suffix}")
            if body is not None:
                same = digest(decode_exact(suffix, body)[None]) == digest(image_of(_number(gate)))
                return "" if same else "another image"
    except ImageGateError as error:
        return str(error)
    return f"none; there are {place.names(gate.id)}"


def _answers(result: Tally, seen: Seen, lines: Mapping[str, list[Line]]) -> None:
    """A decision and a Stop are both answers; a Stop has no route."""
    acknowledged = {
        (row["gate"], row["route"], row["by"]): row
        for row in seen.answers if row["outcome"] in ("won", "replay")
    }  # fmt: skip
    result.count("decisions acknowledged", len(acknowledged))
    result.count("acknowledged again (replay)", _outcomes(seen, "replay"))
    result.count("came second (409, who won was told)", _outcomes(seen, "lost"))
    result.count("refused, for the gate was withdrawn (410)", _outcomes(seen, "gone"))
    recorded = {
        (one, line.body.get("route"), line.body.get("by", ""))
        for one, of_gate in lines.items() for line in of_gate
        if line.kind in ("decided", "stopped")
    }  # fmt: skip
    result.must_not(
        "acknowledged decisions not in the store with the same route",
        [str(answer) for answer in acknowledged if answer not in recorded],
    )
    result.must_not(
        "came second to a decision that is not in the store",
        [
            f"{row['gate']}: {first}"
            for row in seen.answers
            if row["outcome"] == "lost" and (first := row["decision"])
            and (row["gate"], first["route"], first["by"]) not in recorded
        ],
    )  # fmt: skip
    twice = []
    for one, of_gate in lines.items():
        open_now = True
        for line in of_gate:
            if line.kind in ("put back", "reopened"):
                open_now = True
            elif line.kind in ("decided", "stopped"):
                if not open_now:
                    twice.append(one)
                open_now = False
    result.must_not("gates with two answers", twice)
    result.must_not(
        "unexpected answers over HTTP",
        [f"{row['gate']}: {row['text']}" for row in seen.answers if row["outcome"] == "unexpected"],
    )


def _runs(
    result: Tally, seen: Seen, found: Mapping[str, Snapshot], lines: Mapping[str, list[Line]]
) -> None:
    runs: dict[str, list[Row]] = defaultdict(list)
    wrong_route, wrong_image, wrong_mask, right = [], [], [], 0
    for run in seen.of_workers("ran"):
        runs[run["gate"]].append(run)
        snapshot, number = found.get(run["gate"]), run["number"]
        if snapshot is None or run["route"] != _route_at(lines[run["gate"]], run["at"]):
            wrong_route.append(str(run))
        elif number != _number(snapshot.gate) or run["image"] != digest(image_of(number)):
            wrong_image.append(str(run))
        elif run["mask"] != digest(mask_of(number)):
            wrong_mask.append(str(run))
        else:
            right += 1
    result.count("downstream runs, right route, image and mask", right)
    result.must_not("downstream runs, wrong route", wrong_route)
    result.must_not("downstream runs, wrong image", wrong_image)
    result.must_not("downstream runs, wrong mask", wrong_mask)
    result.must_not(
        "runs of what stands upstream of a decided gate",
        [str(line) for line in seen.of_workers("loaded") if line["again"]],
    )
    parked = {one: snapshot for one, snapshot in found.items() if snapshot.gate.mode == "park"}
    result.must_not("parked gates still open", [one for one, s in parked.items() if s.state.open])
    result.must_not(
        "parked gates decided but never run",
        [f"{one} is {s.state.value}" for one, s in parked.items() if _routed(s) and not runs[one]],
    )
    result.must_not(
        "parked gates run and not marked so",
        [
            f"{one} is {s.state.value}" for one, s in parked.items()
            if runs[one] and s.state is not State.RESUMED
        ],
    )  # fmt: skip
    result.must_not(
        "stopped gates that ran",
        [one for one, s in found.items() if s.state is State.STOPPED and runs[one]],
    )
    twice = {one: done for one, done in runs.items() if len(done) > 1}
    claims = {one: [line for line in ls if line.kind == "claimed"] for one, ls in lines.items()}
    again = {one: made for one, made in claims.items() if len(made) > 1}
    result.count("parked gates taken up more than once", len(again))
    result.count("parked gates run more than once", len(twice))
    result.must_not(
        "runs that no attempt in the history stands for",
        [
            f"{one}: {len(done)} runs, {len(claims.get(one, []))} attempts"
            for one, done in runs.items()
            if one in parked and len(done) > len(claims[one])
        ],
    )
    result.must_not(
        "attempts made again though nobody was killed and nothing was put back",
        [
            f"{one}, after attempt {i}"
            for one, made in again.items()
            for i, (this, following) in enumerate(pairwise(made), 1)
            if not _excused(this, following, lines[one], seen)
        ],
    )
    back = [line for of_gate in lines.values() for line in of_gate if line.kind == "put back"]
    result.count("put back, and asked again", len(back))
    result.counts["why put back"] = sorted({str(line.body.get("text", "")) for line in back})


def _waited(result: Tally, seen: Seen, found: Mapping[str, Snapshot]) -> None:
    """Gates whose prompt waits, and ends with its worker."""
    ran = {run["gate"] for run in seen.of_workers("ran")}
    waited = {one: s for one, s in found.items() if s.gate.mode == "wait"}
    states = Counter(s.state.value for s in waited.values())
    result.count("wait gates", len(waited))
    for state in ("decided", "stopped", "withdrawn"):
        result.count(f"wait gates {state}", states.pop(state, 0))
    result.must_not("wait gates left open for a dead worker", [
        one for one, s in waited.items() if s.state.open
    ])  # fmt: skip
    killed = {kill.get("bus") for kill in seen.kills}
    asked_by = {}
    for log in seen.workers:
        process = ""
        for line in log:
            process = line["bus"] if line["kind"] == "started" else process
            if line["kind"] == "published":
                asked_by[line["gate"]] = process
    idle = [one for one, s in waited.items() if _routed(s) and one not in ran]
    result.count("wait gates decided whose worker was killed before it went on", len(idle))
    result.must_not("wait gates decided but never run by a worker that was not killed", [
        one for one in idle if one in asked_by and asked_by[one] not in killed
    ])  # fmt: skip


def _history(result: Tally, found: Mapping[str, Snapshot], lines: Mapping[str, list[Line]]) -> None:
    result.count("lines of history", sum(len(of_gate) for of_gate in lines.values()))
    missing = []
    for one, snapshot in found.items():
        kinds = Counter(line.kind for line in lines[one])
        wanted = {"published": 1}
        if snapshot.state is State.RESUMED:
            wanted["resumed"] = 1
        if not snapshot.state.open and snapshot.state is not State.RESUMED:
            wanted[snapshot.state.value] = 1
        if _routed(snapshot):
            wanted["decided"] = 1
        if snapshot.attempts:
            wanted["claimed"] = snapshot.attempts
        missing += [
            f"{one}: {kind}, {kinds[kind]} of {times}"
            for kind, times in wanted.items() if kinds[kind] < times
        ]  # fmt: skip
    result.must_not("lines of history missing", missing)


def _route_at(lines: list[Line], at: float) -> object:
    """The route of the decision that held at a moment."""
    decided = [line for line in lines if line.kind == "decided" and line.at <= at]
    return decided[-1].body.get("route") if decided else None


def _excused(this: Line, following: Line, lines: list[Line], seen: Seen) -> bool:
    """Whether an attempt ended without the work being done, by a kill or by being put back."""
    between = [line for line in lines if this.id < line.id < following.id]
    return any(line.kind == "put back" for line in between) or any(
        this.at <= kill["at"] <= following.at
        for kill in seen.kills
        if kill["who"] == "postgresql" or kill.get("bus") == this.origin
    )


def _routed(snapshot: Snapshot) -> bool:
    return snapshot.decision is not None and snapshot.decision.route is not None


def _outcomes(seen: Seen, wanted: str) -> int:
    return sum(row["outcome"] == wanted for row in seen.answers)


def _number(gate: Gate) -> int:
    return int(gate.title)
