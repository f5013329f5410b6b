"""The database and the place of the pictures: how they are opened, brought up to date, and fail."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from imagegate.core.model import Decision, Outcome, State, StoreError
from imagegate.gate_bus import GateBus
from imagegate.storage.queries.gate_rows import Line
from imagegate.storage.queries.gates import GateStore
from imagegate.storage.sql import database as database_module
from imagegate.storage.sql import sqlite_file
from imagegate.storage.sql.database import Database
from imagegate.storage.sql.migrations import MIGRATIONS
from imagegate.storage.sql.tables import meta
from tests.support.postgres import PostgreSQL
from tests.support.stored import (
    FILES,
    PATIENCE,
    PLAIN,
    Store,
    gate,
    sql,
    statements,
    storage_of,
    store_of,
    to_go_on,
)

NOBODY = 65534


def tables(database: Database) -> set[str]:
    return set(sa.inspect(database.engine).get_table_names())


def migrated(database: Database) -> list[str]:
    with database.read() as connection:
        names = connection.execute(sa.text("SELECT name FROM migrations ORDER BY at"))
        return list(names.scalars())


# -- migrations


def test_a_store_is_made_once(store: Store) -> None:
    """Opening it again changes nothing."""
    database = Database(store.url, "one")
    assert migrated(database) == [name for name, _ in MIGRATIONS]
    if store.kind != "memory":
        again = Database(store.url, "two")
        assert (again.id, migrated(again)) == (database.id, migrated(database))
        again.close()
    database.close()


def test_an_old_store_is_brought_up_to_date(shared: Store, monkeypatch: Any) -> None:
    """What is new is added, what was stored stays."""
    bus = shared.bus()
    gate_id = storage_of(bus).parking.park(gate(), FILES, to_go_on()).gate.id
    storage_of(bus).close()
    later = ("9999_more", ["CREATE TABLE more (name TEXT)"])
    monkeypatch.setattr(database_module, "MIGRATIONS", [*MIGRATIONS, later])
    bus = shared.bus()
    assert "more" in tables(store_of(bus).database)
    assert migrated(store_of(bus).database)[-1] == "9999_more"
    assert bus.get(gate_id).state is State.PARKED


def test_a_migration_that_fails(shared: Store, monkeypatch: Any) -> None:
    """Nothing of it is left, what came before it is recorded, and the next try goes on there."""
    second = ("9998_more", ["CREATE TABLE more (name TEXT)", "this is no SQL"])
    monkeypatch.setattr(database_module, "MIGRATIONS", [*MIGRATIONS, second])
    with pytest.raises(StoreError, match=r"cannot be used: .*syntax error"):
        Database(shared.url, "one")
    monkeypatch.setattr(database_module, "MIGRATIONS", MIGRATIONS)
    database = Database(shared.url, "two")
    assert migrated(database) == [name for name, _ in MIGRATIONS]
    assert "more" not in tables(database)
    database.close()
    monkeypatch.setattr(database_module, "MIGRATIONS", [*MIGRATIONS, (second[0], second[1][:1])])
    database = Database(shared.url, "three")
    assert "more" in tables(database)
    database.close()


def test_a_store_of_a_newer_version_is_refused(shared: Store) -> None:
    """It is not touched, and the message says what to do."""
    bus = shared.bus()
    sql(bus, "INSERT INTO migrations (name, at) VALUES ('9999_colours', 0)")
    storage_of(bus).close()
    with pytest.raises(StoreError, match=r"newer Image Gate \(9999_colours\); update this one"):
        shared.unopened().count()


def test_a_role_that_may_not_make_tables(postgresql: PostgreSQL, postgresql_url: str,
                                         tmp_path: Path) -> None:  # fmt: skip
    """A store that is up to date needs no more rights than to read and write its rows."""
    Database(postgresql_url, "owner").close()
    name = postgresql_url.rpartition("/")[2]
    with postgresql.connect(name) as connection:
        connection.execute("DROP ROLE IF EXISTS clerk")
        connection.execute("CREATE ROLE clerk LOGIN")
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public "
                           "TO clerk")  # fmt: skip
    url = postgresql_url.replace("postgres@", "clerk@")
    with Store("postgresql", url, tmp_path) as store:
        bus = store.bus()
        ticket = bus.publish(gate(), PLAIN)
        bus.decide(ticket.gate.id, 1)
    with postgresql.connect(name) as connection:
        connection.execute("DROP OWNED BY clerk")
        connection.execute("DROP ROLE clerk")


# -- what it promises


def test_sqlite_is_durable(tmp_path: Path) -> None:
    """Written ahead, flushed on each commit, with references that hold."""
    database = Database(f"sqlite:///{tmp_path}/a/b/gates.sqlite", "one")
    with database.read() as connection:
        said = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert said == ["wal", 2, 1]
    database.close()


def test_history_only_grows(store: Store) -> None:
    """A line, once written, stays as it is, whatever happens to the gate."""
    bus = store.bus()
    gate_id = storage_of(bus).parking.park(gate(), FILES, to_go_on()).gate.id
    seen: list[Line] = []

    def grown() -> None:
        now = storage_of(bus).lines(gate_id)
        assert now[: len(seen)] == seen
        assert len(now) > len(seen)
        seen[:] = now

    steps: list[Callable[[], Any]] = [
        lambda: bus.set_mask(gate_id, 0, b"x"),
        lambda: bus.decide(gate_id, 1, by="Ann", note="sharp"),
        lambda: bus.undo(gate_id),
        lambda: bus.decide(gate_id, 2),
        lambda: storage_of(bus).claims.take(),
        lambda: storage_of(bus).ask_again(gate_id),
    ]
    grown()
    for step in steps:
        step()
        grown()
    assert len({line.id for line in seen}) == len(seen) == 7
    said = seen[2].to_json()
    assert (said["kind"], said["route"], said["label"], said["by"], said["note"]) == (
        "decided", 1, "keep", "Ann", "sharp"
    )  # fmt: skip
    assert [line.at for line in seen] == sorted(line.at for line in seen)


def test_a_lost_answer_leaves_no_line(store: Store) -> None:
    """Only what happened is in the history."""
    bus = store.bus()
    gate_id = bus.publish(gate(), PLAIN).gate.id
    bus.decide(gate_id, 1, by="Ann")
    before = storage_of(bus).lines(gate_id)
    gates = store_of(bus).gates
    for state, late in ((State.STOPPED, Decision(None, by="Bob")), (State.WITHDRAWN, None)):
        assert gates.end(gate_id, state, late)[0].outcome is Outcome.LOST
    assert storage_of(bus).lines(gate_id) == before


@pytest.mark.slow
def test_the_list_of_ten_thousand_uses_an_index(store: Store) -> None:
    """The first page, a later one, the history and what is due are read by the index that was made
    for them, behind however many gates that ended.
    """
    bus = store.bus()
    database = store_of(bus).database
    record = json.dumps(asdict(gate()))
    row = (
        "'{}' || i, :record, 'park', CAST(i % 7 AS TEXT), '', '', 'w', NULL, {}, 1, NULL, '', "
        "'[]', {}, {}, 0, '', '', NULL, 0, '', 0, 0, 1"
    )
    names = (
        "id, record, mode, node_id, workflow_id, prompt_id, worker, deadline, state, open, "
        "version, decision, reason, masked, ended, ended_at, due, claimed_by, resuming, lease, "
        "attempts, fingerprint, reusable, bytes, kept"
    )
    for prefix, count, state, ended in (("f", 20_000, "'resumed', 0", "i"),
                                        ("o", 10_000, "'parked', 1", "NULL")):  # fmt: skip
        numbers = (
            f"generate_series(1, {count}) AS s(i)"
            if database.postgresql
            else f"(WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s "
            f"WHERE i < {count}) SELECT i FROM s)"
        )
        values = row.format(prefix, state, ended, ended)
        sql(bus, f"INSERT INTO gates ({names}) SELECT {values} FROM {numbers}", record=record)
    sql(bus, "ANALYZE")
    gates = store_of(bus).gates
    middle = gates.pending(5000, 0)[-1].seq
    reads: dict[str, Callable[[], Any]] = {
        "gates_open": lambda: [gates.pending(50, 0), gates.pending(50, middle)],
        "gates_due": lambda: storage_of(bus).claims.take(),
        "gates_ended": lambda: [gates.finished(50, None), gates.finished(50, 10_000)],
    }
    for index, read in reads.items():
        with statements(bus) as seen:
            read()
        for statement, parameters in seen:
            if "gates" in statement and statement.startswith("SELECT"):
                plan = explained(database, statement, parameters)
                assert index in plan, plan
                assert "Seq Scan on gates" not in plan
                assert "SCAN gates" not in plan.replace("SCAN gates USING INDEX", "")
    assert len(gates.pending(50, middle)) == 50
    assert bus.count() == 10_000


def explained(database: Database, statement: str, parameters: Any) -> str:
    words = "EXPLAIN" if database.postgresql else "EXPLAIN QUERY PLAN"
    with database.read() as connection:
        rows = connection.exec_driver_sql(f"{words} {statement}", parameters).all()
    return "\n".join(str(row[-1]) for row in rows)


# -- what cannot be opened


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("nonsense", "'nonsense' cannot be opened"),
        ("", "cannot be opened"),
        ("mysql://u:secret@host/name", "cannot be opened"),
        ("postgresql+psycopg2://u:secret@host/name", "give sqlite:///FILE or postgresql\\+psycopg"),
        ("postgresql+psycopg://u:secret@host:many/name", "cannot be opened"),
        ("postgresql+psycopg://u:s@secret@host:port/name", "cannot be opened"),
        ("oracle+none://u:secret@host", "cannot be opened"),
        ("sqlite:////dev/null/gates.sqlite", "/dev/null/gates.sqlite cannot be opened"),
    ],
)
def test_a_url_that_cannot_be(url: str, why: str) -> None:
    """The message names the store, says what can be given, and holds no password."""
    with pytest.raises(StoreError, match=why) as caught:
        Database(url, "one")
    assert "secret" not in str(caught.value)


def test_no_server_there(tmp_path: Path, postgresql: PostgreSQL, postgresql_url: str) -> None:
    """The message names the server, without the password; once it is there, it works."""
    url = postgresql_url.replace("postgres@", "postgres:secret@")
    postgresql.stop()
    with Store("postgresql", url, tmp_path) as store:
        bus = store.unopened()
        with pytest.raises(StoreError, match=rf"127.0.0.1:{postgresql.port}/.* refused") as caught:
            bus.publish(gate(), PLAIN)
        assert caught.value.passing
        assert "secret" not in str(caught.value)
        postgresql.start()
        assert bus.publish(gate(), PLAIN)


def test_a_database_that_is_not_there(postgresql: PostgreSQL, tmp_path: Path) -> None:
    """PostgreSQL's own reason is told."""
    postgresql.start()
    with (
        Store("postgresql", postgresql.url("nowhere"), tmp_path) as store,
        pytest.raises(StoreError, match='database "nowhere" does not exist'),
    ):
        store.unopened().count()


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    """A file of something else is refused, and not touched."""
    path = tmp_path / "gates.sqlite"
    path.write_bytes(b"not a database, but somebody's notes. " * 400)
    before = path.read_bytes()
    with Store("sqlite", f"sqlite:///{path}", tmp_path / "pictures") as store:
        bus = store.unopened()
        with pytest.raises(StoreError, match=r"gates.sqlite cannot be used: file is not a data"):
            bus.count()
        assert path.read_bytes() == before
        path.unlink()
        assert bus.count() == 0


def test_the_place_of_another_store(shared: Store, tmp_path: Path) -> None:
    """A store is not opened with pictures that are not its own, and leaves them as they are."""
    shared.bus()
    other = Store("sqlite", f"sqlite:///{tmp_path}/other.sqlite", shared.pictures)
    with other, pytest.raises(StoreError, match=r"not the place where this store's.*another store"):
        other.unopened().count()
    shared.pictures = tmp_path / "elsewhere"
    with pytest.raises(StoreError, match=r"not the place where this store's.*no file"):
        shared.unopened().count()


# -- what fails later


def goes_on(bus: GateBus[Any], ticket: Any) -> None:
    """The waiter waits still, and everything works again."""
    assert not ticket.future.done()
    assert bus.get(ticket.gate.id).state is State.WAITING
    assert bus.decide(ticket.gate.id, 1).outcome is Outcome.WON
    assert ticket.wait(PATIENCE).decision.route == 1
    assert bus.publish(gate(), PLAIN)


def refuses(bus: GateBus[Any], ticket: Any, match: str) -> None:
    """Whatever writes says why it cannot, and leaves nothing behind."""
    before = [(found.gate.id, found.version) for found in bus.pending()]
    asked = gate()
    writes: list[Callable[[], Any]] = [
        lambda: bus.decide(ticket.gate.id, 1),
        lambda: bus.stop(ticket.gate.id),
        lambda: bus.set_mask(ticket.gate.id, 0, b"mask"),
        lambda: bus.publish(asked, PLAIN),
        lambda: storage_of(bus).parking.park(asked, FILES, to_go_on()),
    ]
    for write in writes:
        with pytest.raises(StoreError, match=match):
            write()
    assert [(found.gate.id, found.version) for found in bus.pending()] == before
    assert store_of(bus).picture_files.names(asked.id) == []
    assert store_of(bus).picture_files.names(ticket.gate.id) == ["preview-0"]
    assert bus.mask(ticket.gate.id, 0) is None
    assert not ticket.future.done()


@pytest.fixture
def on_sqlite(tmp_path: Path, monkeypatch: Any) -> Iterator[GateBus[Any]]:
    monkeypatch.setattr(sqlite_file, "BUSY", 0.05)
    with Store("sqlite", f"sqlite:///{tmp_path}/gates.sqlite", tmp_path / "pictures") as store:
        yield store.bus()


def test_a_full_disk_under_the_database(on_sqlite: GateBus[Any]) -> None:
    """What does not fit is refused whole; the rest goes on, and all of it once there is room."""
    bus = on_sqlite
    ticket = bus.publish(gate(), PLAIN)
    engine = store_of(bus).database.engine
    full = [True]

    def limit(connection: Any, *_: Any) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages if full[0] else 2**30}")

    sa.event.listen(engine, "checkout", limit)
    large = gate(title="x" * 100_000)
    with pytest.raises(StoreError, match=r"gates.sqlite cannot be used: database or disk is full"):
        storage_of(bus).parking.park(large, FILES, to_go_on())
    assert store_of(bus).picture_files.names(large.id) == []
    assert [found.gate.id for found in bus.pending()] == [ticket.gate.id]
    full[0] = False
    storage_of(bus).parking.park(large, FILES, to_go_on())
    goes_on(bus, ticket)


def test_a_full_disk_under_the_pictures(shared: Store) -> None:
    """A gate whose pictures do not fit is not stored, nor is half of them."""
    bus = shared.bus()
    ticket = bus.publish(gate(), PLAIN)
    large, room = gate(), resource.getrlimit(resource.RLIMIT_FSIZE)
    files = [("preview-0", b"preview"), ("exact-0.png", b"x" * 2**24)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**23, room[1]))
    try:
        with pytest.raises(StoreError, match=r"pictures.*cannot write .*exact-0.png: File too lar"):
            storage_of(bus).parking.park(large, files, to_go_on())
        with pytest.raises(StoreError, match="File too large"):
            bus.set_mask(ticket.gate.id, 0, b"x" * 2**24)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
    assert not (shared.pictures / large.id).exists()
    assert not list((shared.pictures / ticket.gate.id).glob("*mask*"))
    assert bus.mask(ticket.gate.id, 0) is None
    assert [found.gate.id for found in bus.pending()] == [ticket.gate.id]
    assert storage_of(bus).parking.park(large, files, to_go_on())
    goes_on(bus, ticket)


def test_a_locked_database(on_sqlite: GateBus[Any], tmp_path: Path) -> None:
    """Who holds it too long is named as the reason; reading goes on meanwhile."""
    ticket = on_sqlite.publish(gate(), PLAIN)
    with closing(sqlite3.connect(tmp_path / "gates.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refuses(on_sqlite, ticket, r"gates.sqlite cannot be used: database is locked")
        with pytest.raises(StoreError) as caught:
            on_sqlite.decide(ticket.gate.id, 1)
        assert caught.value.passing
        other.execute("ROLLBACK")
    goes_on(on_sqlite, ticket)


def test_a_corrupt_database(on_sqlite: GateBus[Any], tmp_path: Path) -> None:
    """Nothing is answered from it, and nobody who waits is told a wrong thing."""
    bus = on_sqlite
    ticket = bus.publish(gate(), PLAIN)
    path = tmp_path / "gates.sqlite"
    sql(bus, "UPDATE gates SET reason = ''")
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    page = int.from_bytes(whole[16:18], "big")
    with path.open("r+b") as file:  # SQLite's own header stays: it is found out when it reads
        file.seek(page)
        file.write(b"\xff" * (len(whole) - page))
    store_of(bus).database.engine.dispose()
    for use in (
        lambda: bus.decide(ticket.gate.id, 1),
        bus.pending,
        lambda: bus.publish(gate(), PLAIN),
    ):
        with pytest.raises(StoreError, match=r"gates.sqlite cannot be used: .*malformed"):
            use()
    assert not ticket.future.done()
    with path.open("r+b") as file:
        file.write(whole)
    store_of(bus).database.engine.dispose()
    goes_on(bus, ticket)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's right to write everywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may look into, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp(prefix="imagegate-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_read_only_database(open_folder: Path) -> None:
    """What can be read is shown, what would be written is refused until it may be again."""
    url = f"sqlite:///{open_folder}/gates.sqlite"
    with Store("sqlite", url, open_folder / "pictures") as store:
        bus = store.bus()
        ticket = bus.publish(gate(), PLAIN)
        files = [file for file in open_folder.glob("gates.sqlite*") if file.is_file()]
        for file in files:
            file.chmod(0o444)
        store_of(bus).database.engine.dispose()
        with as_nobody():
            assert bus.get(ticket.gate.id).state is State.WAITING
            with pytest.raises(StoreError, match=r"gates.sqlite cannot be used: .*readonly"):
                bus.decide(ticket.gate.id, 1)
        for file in files:
            file.chmod(0o644)
        goes_on(bus, ticket)


def test_a_place_that_may_not_be_written(open_folder: Path) -> None:
    """The gate is not stored without its pictures, and a mask that is not there is not promised."""
    pictures = open_folder / "pictures"
    with Store("sqlite", f"sqlite:///{open_folder}/gates.sqlite", pictures) as store:
        bus = store.bus()
        ticket = bus.publish(gate(), PLAIN)
        asked = gate()
        folders = [pictures, pictures / ticket.gate.id]
        for folder in folders:
            folder.chmod(0o555)
        open_folder.chmod(0o777)  # a connection may have to be opened meanwhile
        for file in open_folder.glob("gates.sqlite*"):
            file.chmod(0o666)
        with as_nobody():
            for write in (
                lambda: bus.publish(asked, PLAIN),
                lambda: storage_of(bus).parking.park(asked, FILES, to_go_on()),
                lambda: bus.set_mask(ticket.gate.id, 0, b"mask"),
            ):
                with pytest.raises(StoreError, match=r"pictures: cannot write .*: Permission"):
                    write()
        for folder in folders:
            folder.chmod(0o755)
        assert bus.mask(ticket.gate.id, 0) is None
        assert bus.get(ticket.gate.id).version == 1
        goes_on(bus, ticket)


def test_a_store_is_not_opened_halfway(open_folder: Path) -> None:
    """A folder where nothing may be written gives one sentence, and no thread or lock stays."""
    with Store("sqlite", f"sqlite:///{open_folder}/a/gates.sqlite", open_folder / "p") as store:
        open_folder.chmod(0o555)
        bus = store.unopened()
        with as_nobody(), pytest.raises(StoreError, match=r"gates.sqlite cannot be opened: .*Perm"):
            bus.count()
        assert not storage_of(bus).opened
        open_folder.chmod(0o755)
        assert bus.count() == 0


def test_a_gate_store_is_a_transaction_a_call(store: Store) -> None:
    """Every change and its line are written together or not at all."""
    bus = store.bus()
    gate_id = bus.publish(gate(), PLAIN).gate.id
    database = store_of(bus).database

    class Failing(GateStore):
        def _line(self, *_: Any) -> int:
            raise StoreError("the line cannot be written")

    failing = Failing(database)
    before = bus.get(gate_id)
    for change in (
        lambda: failing.end(gate_id, State.STOPPED, None),
        lambda: failing.set_mask(gate_id, 0, "file", 1),
        lambda: failing.ask_again(gate_id),
        lambda: failing.add(gate(), worker="w"),
    ):
        with pytest.raises(StoreError, match="the line"):
            change()
    assert bus.get(gate_id) == before
    assert store_of(bus).gates.masks(gate_id) == {}
    assert bus.count() == 1


def test_who_still_uses_a_store_that_is_closed_closes_the_connection(shared: Store) -> None:
    """A transaction that is under way ends well and leaves no connection open, and none begins any
    more.
    """
    database = store_of(shared.bus()).database
    inside, closed = threading.Event(), threading.Event()
    used: list[Any] = []

    def read() -> None:
        with database.read() as connection:
            used.append(connection.connection.driver_connection)
            inside.set()
            assert closed.wait(PATIENCE)
            assert connection.execute(sa.select(meta.c.value)).first() is not None

    reader = threading.Thread(target=read)
    reader.start()
    assert inside.wait(PATIENCE)
    database.close()
    closed.set()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    with pytest.raises(Exception, match="closed"):
        used[0].execute("SELECT 1")
    with pytest.raises(StoreError, match="is closed"), database.read():
        pass
