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

from imagegate.comfy.port.pack import _waiting
from imagegate.core.model import BadAnswer
from imagegate.gate_bus import GateBus
from imagegate.share.share import Share
from imagegate.storage import open_store as open_store_module
from imagegate.storage.links import LinkStore
from tests.support.stored import FILES, PATIENCE, Store, gate, sql, storage_of, store_of, to_go_on

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_store_module, "BEAT", 0.05)
    # On a busy machine one beat takes longer than that, as if the store had been away.
    monkeypatch.setattr(open_store_module, "DEAD", 0.0)


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


def looked(bus: GateBus[Any], times: int = 3) -> None:
    """Wait until the process has looked for predecessors so often from now on."""
    opened, done, left = store_of(bus), threading.Event(), [times]
    succeed = opened._succeed

    def counting() -> None:
        succeed()
        left[0] -= 1
        if left[0] <= 0:
            done.set()

    opened._succeed = counting  # type: ignore[method-assign]
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
    link, _ = store_of(before).links.create("Ada", reach="network", worker=storage_of(before).id)
    store_of(before).links.lead(
        storage_of(before).id, {"network": "http://10.0.0.1:7866/imagegate"}
    )
    parked = storage_of(before).parking.park(gate(), FILES, to_go_on()).gate
    storage_of(before).close()
    after = shared.bus(worker=name, home=home)
    until(store_of(after).links, link.id, storage_of(after).id)
    with served(after) as share:
        wait(share, lambda: share.door()["network"]["url"])
        (told,) = share.to_json()["links"]
        assert (told["id"], told["worker"], told["moved"]) == (link.id, "", True)
        again, new = share.reissue(link.id)
        wait(share, lambda: share.address(again, new)[0])
        assert store_of(after).links.find(new).id == link.id
        wait(share, lambda: not share.to_json()["links"][0]["moved"])
    assert [one.gate_id for one in store_of(after).unnotified()] == [parked.id]
    assert [waiting.gate.id for waiting in _waiting(storage_of(after))] == [parked.id]


@contextmanager
def served(bus: GateBus[Any]) -> Iterator[Share]:
    """The links of a process, served."""
    share = Share(
        bus,
        lambda: store_of(bus).links,
        worker=storage_of(bus).id,
        others=store_of(bus).others,
        port=0,
    )
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
    ones, _ = store_of(one).links.create("Ada", worker=storage_of(one).id)
    twos, _ = store_of(two).links.create("Ben", worker=storage_of(two).id)
    looked(one)
    looked(two)
    assert [store_of(two).links.get(link.id).worker for link in (ones, twos)] == [
        storage_of(one).id,
        storage_of(two).id,
    ]
    storage_of(one).close()
    until(store_of(two).links, ones.id, storage_of(two).id)
    storage_of(two).close()
    three = shared.bus(home=home)
    until(store_of(three).links, twos.id, storage_of(three).id)
    assert store_of(three).links.get(ones.id).worker == storage_of(three).id


def test_a_copied_user_directory(shared: Store, home: Path, tmp_path: Path) -> None:
    """Of two machines whose user directories are copies of each other neither takes on what the
    other has made while it runs, also when one of them is started again.
    """
    original = shared.bus(worker="original", home=home)
    link, _ = store_of(original).links.create("Ada", worker=storage_of(original).id)
    elsewhere = tmp_path / "copy" / "imagegate"
    shutil.copytree(home, elsewhere)
    (
        elsewhere / "workers" / f"{storage_of(original).id}.lock"
    ).unlink()  # locks do not reach that far
    copy = shared.bus(worker="copy", home=elsewhere)
    copys, _ = store_of(copy).links.create("Ben", worker=storage_of(copy).id)
    if shared.kind == "postgresql":  # it gives signs of life only now and then
        looked(copy)
        sql(
            copy,
            "UPDATE workers SET seen_at = seen_at + 1 WHERE id = :id",
            id=storage_of(original).id,
        )
    looked(copy)
    storage_of(original).close()
    looked(copy)
    assert store_of(copy).links.get(link.id).worker == storage_of(original).id
    again = shared.bus(worker="original", home=home)
    until(store_of(again).links, link.id, storage_of(again).id)
    assert store_of(again).links.get(copys.id).worker == storage_of(copy).id


@pytest.mark.processes
def test_a_process_that_was_killed(shared: Store, home: Path) -> None:
    """What a process has made that was killed is taken on as soon as it is known to be dead, and
    not before.
    """
    code = f"""
    import os, signal
    from pathlib import Path
    from imagegate.core.settings import Settings
    from tests.support.stored import bus_over, storage_of, store_of
    home = Path({str(home)!r})
    settings = Settings({shared.url!r}, {str(shared.pictures)!r}, "host:8188", home=home)
    bus = bus_over(settings, classes=())
    print(store_of(bus).links.create("Ada", worker=storage_of(bus).id)[0].id, flush=True)
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
        # It may run elsewhere.
        assert store_of(after).links.get(link_id).worker != storage_of(after).id
        sql(
            after,
            "UPDATE workers SET seen_at = seen_at - 60 WHERE id <> :id",
            id=storage_of(after).id,
        )
    until(store_of(after).links, link_id, storage_of(after).id)


def test_a_link_of_a_process_that_is_gone(shared: Store, home: Path, tmp_path: Path) -> None:
    """A link whose process is gone for good gets a new address anywhere, and is served there; one
    whose process is alive only at that.
    """
    gone = shared.bus(worker="gone", home=home)
    alive = shared.bus(worker="alive", home=tmp_path / "other")
    link, _ = store_of(gone).links.create("Ada", worker=storage_of(gone).id)
    theirs, _ = store_of(alive).links.create("Ben", worker=storage_of(alive).id)
    storage_of(gone).close()
    shutil.rmtree(home)
    here = shared.bus(worker="here", home=home)
    share = Share(
        here,
        lambda: store_of(here).links,
        worker=storage_of(here).id,
        others=store_of(here).others,
        port=0,
    )
    try:
        told = {link["name"]: (link["worker"], link["moved"]) for link in share.to_json()["links"]}
        assert told == {"Ada": ("", True), "Ben": ("alive", False)}
        again, _ = share.reissue(link.id)
        assert again.worker == storage_of(here).id
        with pytest.raises(BadAnswer, match="made at alive"):
            share.reissue(theirs.id)
    finally:
        share.close()


def test_links_from_an_earlier_version(shared: Store, home: Path) -> None:
    """Links that were kept under their worker's name go on where that name runs."""
    early = shared.bus(worker="elsewhere")
    link, _ = store_of(early).links.create("Ada", worker="host:8188")
    after = shared.bus(worker="host:8188", home=home)
    until(store_of(after).links, link.id, storage_of(after).id)


def test_a_panel_of_its_own(shared: Store) -> None:
    """A panel that has no user directory goes on with what an earlier one of its name has made."""
    before = shared.bus(kind="panel", worker="desk")
    link, _ = store_of(before).links.create("Ada", worker=storage_of(before).id)
    storage_of(before).close()
    other = shared.bus(kind="panel", worker="another")
    after = shared.bus(kind="panel", worker="desk")
    until(store_of(after).links, link.id, storage_of(after).id)
    looked(other)
    assert store_of(other).links.get(link.id).worker == storage_of(after).id


def test_a_user_directory_that_cannot_be_written(
    shared: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process whose user directory cannot be used says so, and works all the same."""
    file = tmp_path / "file"
    file.touch()
    bus = shared.bus(home=file)
    link, _ = store_of(bus).links.create("Ada", worker=storage_of(bus).id)
    looked(bus)
    assert store_of(bus).links.get(link.id).worker == storage_of(bus).id
    assert "links made now end with this process" in caplog.text
