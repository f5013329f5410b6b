"""What is stored is its owner's alone, and noticed when it is gone."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from imagegate.core.model import Outcome, StoreError
from imagegate.core.settings import Settings, read_settings
from imagegate.gate_bus import GateBus
from imagegate.pictures import permissions
from imagegate.pictures.place import MARK, PicturePlace, PlaceError
from tests.support.stored import (
    FILES,
    PLAIN,
    Store,
    bus_over,
    gate,
    sql,
    storage_of,
    store_of,
    to_go_on,
)

posix = pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def modes(root: Path) -> dict[str, str]:
    """The rights of all that lies in a folder, and of itself."""
    found = [root, *root.rglob("*")]
    return {str(p.relative_to(root)): oct(stat.S_IMODE(p.lstat().st_mode)) for p in found}


def owners_alone(root: Path) -> None:
    for path in [root, *root.rglob("*")]:
        allowed = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.lstat().st_mode) == allowed, path


@contextmanager
def opened(settings: Settings) -> Iterator[GateBus[Any]]:
    bus = bus_over(settings, classes=())
    try:
        yield bus
    finally:
        storage_of(bus).close()


def used(bus: GateBus[Any]) -> None:
    """All kinds of files are written."""
    parked = storage_of(bus).parking.park(gate(), FILES, to_go_on()).gate.id
    bus.set_mask(parked, 0, b"mask")
    ticket = bus.publish(gate(), PLAIN)
    bus.decide(ticket.gate.id, 1)


# -- for their owner only


@posix
@pytest.mark.parametrize("mask", [0o022, 0o000, 0o077])
def test_new_files_are_the_owners(tmp_path: Path, mask: int) -> None:
    """Store, write-ahead log, locks and pictures, whatever the umask; while it is open, too."""
    with umask(mask), opened(read_settings(tmp_path / "user" / "imagegate", environment={})) as bus:
        used(bus)
        owners_alone(tmp_path / "user" / "imagegate")
        assert {"gates.sqlite-wal", "gates.sqlite-shm"} <= set(modes(tmp_path / "user/imagegate"))


@posix
def test_no_file_is_open_to_others_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file has its mode from the moment it is made: none is made first and closed then."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a mode was changed")

    with umask(0):
        with opened(read_settings(tmp_path / "imagegate", environment={})) as bus:
            assert bus.count() == 0
            for name in ("chmod", "fchmod"):
                monkeypatch.setattr(os, name, never)
            used(bus)
        owners_alone(tmp_path / "imagegate")


@posix
def test_old_files_are_put_right_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What an older version left open to others is closed, which the log says once."""
    caplog.set_level(logging.INFO)
    folder = tmp_path / "imagegate"
    settings = read_settings(folder, environment={})
    with opened(settings) as bus:
        used(bus)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    with opened(settings) as bus:
        assert bus.count() == 1
        owners_alone(folder)
    said = [r.getMessage() for r in caplog.records if "only its owner can read" in r.getMessage()]
    assert [text.partition(" could")[0] for text in said] == [
        str(folder), str(folder / "gates.sqlite"), str(folder / "pictures"),
    ]  # fmt: skip
    caplog.clear()
    with opened(settings) as bus:
        assert bus.count() == 1
    assert "could be read" not in caplog.text


@posix
def test_a_folder_of_somebodys_own_is_left(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The folder that a store was put into by name keeps its rights; our files in it do not."""
    unused = tmp_path_factory.mktemp("unused")
    tmp_path.chmod(0o755)
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "notes").chmod(0o644)
    environment = {"IMAGEGATE_STORE": f"sqlite:///{tmp_path}/gates.sqlite"}
    with opened(read_settings(unused, environment=environment)) as bus:
        used(bus)
        found = modes(tmp_path)
        assert (found.pop("."), found.pop("notes")) == ("0o755", "0o644")
        assert set(found.values()) == {"0o600", "0o700"}


@posix
def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """What a link in the folder of pictures leads to keeps its rights."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "mine").chmod(0o644)
    (tmp_path / "pictures").mkdir(mode=0o755)
    (tmp_path / "pictures" / "link").symlink_to(tmp_path / "mine")
    PicturePlace(str(tmp_path / "pictures")).restrict()
    assert modes(tmp_path)["mine"] == "0o644"
    assert modes(tmp_path)["pictures"] == "0o700"


@posix
def test_a_folder_for_a_group_stays_one(tmp_path: Path) -> None:
    """A folder with the set-group-ID bit, which its group may write, is shared with that group."""
    root = tmp_path / "pictures"
    root.mkdir()
    root.chmod(0o2775)
    place = PicturePlace(str(root))
    with umask(0o022):
        place.mark("store", first=True)
        place.restrict()
        place.write("g", "x", b"x", durable=True)
    assert modes(root) == {".": "0o2770", MARK: "0o660", "g": "0o2770", "g/x": "0o660"}


@posix
def test_a_share_that_keeps_no_modes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file system that refuses or forgets modes is used all the same, and nothing is claimed."""
    folder = tmp_path / "imagegate"
    settings = read_settings(folder, environment={})
    with opened(settings) as bus:
        used(bus)
    folder.chmod(0o755)
    (folder / "pictures").chmod(0o755)

    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    caplog.set_level(logging.INFO)
    for chmod in (refuses, lambda *_, **__: None):
        with monkeypatch.context() as patch, opened(settings) as bus:
            patch.setattr(os, "chmod", chmod)
            patch.setattr(Path, "chmod", chmod)
            used(bus)
        assert "could be read" not in caplog.text
    assert permissions.restrict([tmp_path / "nothing"]) == 0


# -- the folder of pictures is gone


def without_pictures(folder: Path, how: str) -> None:
    shutil.rmtree(folder)
    if how == "emptied":
        folder.mkdir()


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_pictures_gone_at_the_start(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At the default place the folder is made anew, which the log says, and gates go on."""
    settings = read_settings(tmp_path, environment={})
    with opened(settings) as bus:
        old = storage_of(bus).parking.park(gate(), FILES, to_go_on()).gate.id
    without_pictures(tmp_path / "pictures", how)
    with opened(settings) as bus:
        used(bus)
        assert "missing or empty, and is made anew" in caplog.text
        assert bus.decide(old, 1).outcome is Outcome.WON
    caplog.clear()
    with opened(settings) as bus:
        assert bus.count() == 1
    assert not caplog.text


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_pictures_gone_while_running(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the same while gates are asked, and the next start finds what was written since."""
    settings = read_settings(tmp_path, environment={})
    with opened(settings) as bus:
        used(bus)
        without_pictures(tmp_path / "pictures", how)
        gate_id = storage_of(bus).parking.park(gate(), FILES, to_go_on()).gate.id
        assert caplog.text.count("missing or empty, and is made anew") == 1
        assert store_of(bus).picture_files.read(gate_id, "exact-0.png") == b"exact"
    with opened(settings) as bus:
        assert store_of(bus).picture_files.read(gate_id, "exact-0.png") == b"exact"


@pytest.mark.parametrize("how", ["deleted", "emptied"])
def test_pictures_gone_at_a_place_of_ones_own(shared: Store, how: str) -> None:
    """A share that is not mounted gets no files; the message says what to do, and that helps."""
    bus = shared.bus()
    used(bus)
    without_pictures(shared.pictures, how)
    with pytest.raises(PlaceError, match="not mounted, or is IMAGEGATE_PICTURES") as caught:
        storage_of(bus).parking.park(gate(), FILES, to_go_on())
    assert caught.value.passing
    with pytest.raises(PlaceError, match="not mounted"):
        store_of(bus).picture_files.read("g", "x")
    assert how == "emptied" or not shared.pictures.exists()
    assert how == "deleted" or not list(shared.pictures.iterdir())
    other = shared.unopened()
    with pytest.raises(
        PlaceError, match=rf"write {store_of(bus).database.id} into a file \.imagegate"
    ):
        other.count()
    shared.pictures.mkdir(exist_ok=True)
    (shared.pictures / MARK).write_text(store_of(bus).database.id)
    assert other.count() == 1
    used(bus)


def test_a_folder_of_something_else_is_not_taken(tmp_path: Path) -> None:
    """Where there are files and no mark, the default place is not taken for an empty one."""
    settings = read_settings(tmp_path, environment={})
    with opened(settings) as bus:
        used(bus)
    (tmp_path / "pictures" / MARK).unlink()
    with opened(settings) as bus, pytest.raises(PlaceError, match=r"it has no file \.imagegate"):
        bus.count()


# -- the file of the store is gone


def gone(path: Path) -> None:
    path.unlink()


def moved(path: Path) -> None:
    path.rename(path.with_name("kept.sqlite"))


def replaced(path: Path) -> None:
    copy = path.with_name("copy.sqlite")
    shutil.copy(path, copy)
    copy.replace(path)


def another(path: Path) -> None:
    """Another store's content, in the same file."""
    other = path.with_name("other")
    with opened(read_settings(other, environment={})) as bus:
        used(bus)
    with sqlite3.connect(other / "gates.sqlite") as source, sqlite3.connect(path) as target:
        source.backup(target)


def older(path: Path) -> None:
    """An older state of its own, in the same file."""
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM lines")
        connection.execute("UPDATE sqlite_sequence SET seq = 0 WHERE name = 'lines'")


def without_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


LOST = [gone, moved, replaced, another, older, without_log]


@pytest.mark.parametrize("lose", LOST)
def test_a_store_that_is_gone_records_nothing(
    tmp_path: Path, lose: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """An answer that would be nowhere is refused, with what happened and what to do."""
    with opened(read_settings(tmp_path, environment={})) as bus:
        used(bus)
        gate_id = storage_of(bus).parking.park(gate(), FILES, to_go_on()).gate.id
        lose(tmp_path / "gates.sqlite")
        with pytest.raises(StoreError, match="while it was open") as caught:
            bus.decide(gate_id, 1)
        assert not caught.value.passing
        for call in (lambda: bus.stop(gate_id), lambda: bus.publish(gate(), PLAIN)):
            with pytest.raises(StoreError, match="start them again"):
                call()
        assert not [
            found for found in tmp_path.glob("gates.sqlite") if lose in (gone, moved)
        ]  # nor is an empty one made in its place


@pytest.mark.parametrize("lose", LOST)
def test_a_store_lost_between_answer_and_confirmation(
    tmp_path: Path, lose: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noticed even if it happens while the answer is being written."""
    if lose in (another, older):
        pytest.skip("SQLite's lock is in the way of these")
    with opened(read_settings(tmp_path, environment={})) as bus:
        gates = store_of(bus).gates
        gate_id = storage_of(bus).parking.park(gate(), FILES, to_go_on()).gate.id
        line = gates._line

        def lost(*given: Any) -> int:
            lose(tmp_path / "gates.sqlite")
            return line(*given)

        monkeypatch.setattr(gates, "_line", lost)
        with pytest.raises(StoreError, match="while it was open"):
            bus.decide(gate_id, 1)


def test_a_store_put_back_goes_on(tmp_path: Path) -> None:
    """A file that was moved away and back again is used as if nothing had happened."""
    path = tmp_path / "gates.sqlite"
    with opened(read_settings(tmp_path, environment={})) as bus:
        gate_id = storage_of(bus).parking.park(gate(), FILES, to_go_on()).gate.id
        moved(path)
        with pytest.raises(StoreError, match="removed or moved away"):
            bus.count()
        path.with_name("kept.sqlite").rename(path)
        assert bus.decide(gate_id, 1).outcome is Outcome.WON
        [[state]] = sql(bus, "SELECT state FROM gates WHERE id = :id", id=gate_id)
        assert state == "decided"
