"""What a process has made goes on in the next one of its user directory, and in no other."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from imagegate.comfy.pack import _waiting
from imagegate.core.model import BadAnswer
from imagegate.share.share import Share
from imagegate.storage import open_store as house_module
from imagegate.storage.links import LinkStore
from tests.support.stored import FILES, PATIENCE, Store, StoredBus, gate, sql, to_go_on

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house_module, "BEAT", 0.05)
    # On a busy machine one beat takes longer than that, as if the store had been away.
    monkeypatch.setattr(house_module, "DEAD", 0.0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "user" / "imagegate"


def until(links: LinkStore, link_id: str, worker: str) -> None:
    """Wait until a link is served by this process."""
    rung = threading.Event()
    forget = links.changed.listen(rung.set)
    try:
        while links.get(link_id).worker != worker:
            assert rung.wait(PATIENCE), f"it belongs to {links.get(link_id).worker}"
            rung.clear()
    finally:
        forget()


def looked(bus: StoredBus, times: int = 3) -> None:
    """Wait until the process has looked for predecessors so often from now on."""
    house, done, left = bus.house, threading.Event(), [times]
    succeed = house._succeed

    def counting() -> None:
        succeed()
        left[0] -= 1
        if left[0] <= 0:
            done.set()

    house._succeed = counting
    assert done.wait(PATIENCE)


@pytest.mark.parametrize(
    "name", ["host:8189", "renamed:8188", "the-studio", "host:8188"],
    ids=["another port", "another host", "another IMAGEGATE_WORKER", "the same"],
)  # fmt: skip
def test_the_next_process_of_a_user_directory(shared: Store, home: Path, name: str) -> None:
    """Whatever the port, the host or the name are after a restart, links that were made before are
    served, their old address is said to be moved, they can have a new one, people are told of what
    was parked before, and it goes by the new name: ComfyUI's page marks its node.
    """
    before = shared.bus(worker="host:8188", home=home)
    link, _ = before.house.links.create("Ada", reach="network", worker=before.id)
    before.house.links.lead(before.id, {"network": "http://10.0.0.1:7866/imagegate"})
    parked = before.park(gate(), FILES, to_go_on()).gate
    before.close()
    after = shared.bus(worker=name, home=home)
    until(after.house.links, link.id, after.id)
    with served(after) as share:
        wait(share, lambda: share.door()["network"]["url"])
        (told,) = share.to_json()["links"]
        assert (told["id"], told["worker"], told["moved"]) == (link.id, "", True)
        again, new = share.reissue(link.id)
        wait(share, lambda: share.address(again, new)[0])
        assert after.house.links.find(new).id == link.id
        wait(share, lambda: not share.to_json()["links"][0]["moved"])
    assert [untold.gate_id for untold in after.untold()] == [parked.id]
    assert [waiting.gate.id for waiting in _waiting(after)] == [parked.id]


@contextmanager
def served(bus: StoredBus) -> Iterator[Share]:
    """The links of a process, served."""
    share = Share(bus, lambda: bus.house.links, worker=bus.id, others=bus.others, port=0)
    try:
        share.start()
        yield share
    finally:
        share.close()


def wait(share: Share, true: Any) -> None:
    changed = threading.Condition()

    def look() -> None:
        with changed:
            changed.notify_all()

    forget = share.changed.listen(look)
    try:
        with changed:
            assert changed.wait_for(true, PATIENCE), share.door()
    finally:
        forget()


def test_two_processes_of_one_user_directory(shared: Store, home: Path) -> None:
    """Two that run at once have their own links; when one ends the other takes them on, and after
    both the next one has all.
    """
    one, two = shared.bus(home=home), shared.bus(home=home)
    ones, _ = one.house.links.create("Ada", worker=one.id)
    twos, _ = two.house.links.create("Ben", worker=two.id)
    looked(one)
    looked(two)
    assert [two.house.links.get(link.id).worker for link in (ones, twos)] == [one.id, two.id]
    one.close()
    until(two.house.links, ones.id, two.id)
    two.close()
    three = shared.bus(home=home)
    until(three.house.links, twos.id, three.id)
    assert three.house.links.get(ones.id).worker == three.id


def test_a_copied_user_directory(shared: Store, home: Path, tmp_path: Path) -> None:
    """Of two machines whose user directories are copies of each other neither takes on what the
    other has made while it runs, also when one of them is started again.
    """
    original = shared.bus(worker="original", home=home)
    link, _ = original.house.links.create("Ada", worker=original.id)
    elsewhere = tmp_path / "copy" / "imagegate"
    shutil.copytree(home, elsewhere)
    (elsewhere / "workers" / f"{original.id}.lock").unlink()  # locks do not reach that far
    copy = shared.bus(worker="copy", home=elsewhere)
    copys, _ = copy.house.links.create("Ben", worker=copy.id)
    if shared.kind == "postgresql":  # it gives signs of life only now and then
        looked(copy)
        sql(copy, "UPDATE workers SET seen_at = seen_at + 1 WHERE id = :id", id=original.id)
    looked(copy)
    original.close()
    looked(copy)
    assert copy.house.links.get(link.id).worker == original.id
    again = shared.bus(worker="original", home=home)
    until(again.house.links, link.id, again.id)
    assert again.house.links.get(copys.id).worker == copy.id


@pytest.mark.processes
def test_a_process_that_was_killed(shared: Store, home: Path) -> None:
    """What a process has made that was killed is taken on as soon as it is known to be dead, and
    not before.
    """
    code = f"""
    import os, signal
    from pathlib import Path
    from imagegate.core.settings import Settings
    from tests.support.stored import StoredBus
    home = Path({str(home)!r})
    settings = Settings({shared.url!r}, {str(shared.pictures)!r}, "host:8188", home=home)
    bus = StoredBus(lambda: settings)
    print(bus.house.links.create("Ada", worker=bus.id)[0].id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True,
        timeout=6 * PATIENCE, check=False,
    )  # fmt: skip
    link_id = done.stdout.strip()
    assert link_id, done.stderr
    after = shared.bus(worker="host:8189", home=home)
    if shared.kind == "postgresql":
        looked(after)
        assert after.house.links.get(link_id).worker != after.id  # it may run elsewhere
        sql(after, "UPDATE workers SET seen_at = seen_at - 60 WHERE id <> :id", id=after.id)
    until(after.house.links, link_id, after.id)


def test_a_link_of_a_process_that_is_gone(shared: Store, home: Path, tmp_path: Path) -> None:
    """A link whose process is gone for good gets a new address anywhere, and is served there; one
    whose process is alive only at that.
    """
    gone = shared.bus(worker="gone", home=home)
    alive = shared.bus(worker="alive", home=tmp_path / "other")
    link, _ = gone.house.links.create("Ada", worker=gone.id)
    theirs, _ = alive.house.links.create("Ben", worker=alive.id)
    gone.close()
    shutil.rmtree(home)
    here = shared.bus(worker="here", home=home)
    share = Share(here, lambda: here.house.links, worker=here.id, others=here.others, port=0)
    try:
        told = {link["name"]: (link["worker"], link["moved"]) for link in share.to_json()["links"]}
        assert told == {"Ada": ("", True), "Ben": ("alive", False)}
        again, _ = share.reissue(link.id)
        assert again.worker == here.id
        with pytest.raises(BadAnswer, match="made at alive"):
            share.reissue(theirs.id)
    finally:
        share.close()


def test_links_from_an_earlier_version(shared: Store, home: Path) -> None:
    """Links that were kept under their worker's name go on where that name runs."""
    early = shared.bus(worker="elsewhere")
    link, _ = early.house.links.create("Ada", worker="host:8188")
    after = shared.bus(worker="host:8188", home=home)
    until(after.house.links, link.id, after.id)


def test_a_panel_of_its_own(shared: Store) -> None:
    """A panel that has no user directory goes on with what an earlier one of its name has made."""
    before = shared.bus(kind="panel", worker="desk")
    link, _ = before.house.links.create("Ada", worker=before.id)
    before.close()
    other = shared.bus(kind="panel", worker="another")
    after = shared.bus(kind="panel", worker="desk")
    until(after.house.links, link.id, after.id)
    looked(other)
    assert other.house.links.get(link.id).worker == after.id


def test_a_user_directory_that_cannot_be_written(
    shared: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process whose user directory cannot be used says so, and works all the same."""
    file = tmp_path / "file"
    file.touch()
    bus = shared.bus(home=file)
    link, _ = bus.house.links.create("Ada", worker=bus.id)
    looked(bus)
    assert bus.house.links.get(link.id).worker == bus.id
    assert "links made now end with this process" in caplog.text
