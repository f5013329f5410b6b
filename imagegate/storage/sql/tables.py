"""The tables of a store, with their types. SQLAlchemy Core.

The migrations make them; a test compares what they make with what stands here.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, Index, Integer, Table, Text

metadata = sa.MetaData()

_BIG = sa.BigInteger()
_SECONDS: sa.types.TypeEngine[float] = sa.Double().with_variant(
    sa.REAL(), "sqlite"
)  # since the epoch
_NUMBER: sa.types.TypeEngine[int] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str, **more: Any) -> Column[Any]:
    return Column(name, Text, nullable=False, **more)


def _int(name: str, **more: Any) -> Column[Any]:
    return Column(name, Integer, nullable=False, **more)


def _counted(name: str) -> Column[Any]:
    """A number that the database gives out and never gives again."""
    return Column(name, _NUMBER, sa.Identity(always=True), primary_key=True)


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


migrations = Table(
    "migrations",
    metadata,
    Column("name", Text, primary_key=True),
    Column("at", _SECONDS, nullable=False),
)
"""Which migrations this store has had."""

meta = Table(
    "meta", metadata, Column("name", Text, primary_key=True), Column("value", Text, nullable=False)
)
"""Facts about the store itself: its id, whether its pictures' folder is marked."""

gates = Table(
    "gates",
    metadata,
    _counted("seq"),
    _text("id", unique=True),
    _text("record"),  # what never changes of a gate, as JSON
    _text("mode"),
    _text("node_id"),
    _text("workflow_id"),
    _text("prompt_id"),
    _text("worker"),
    Column("deadline", _SECONDS),
    _text("state"),
    _int("open"),
    _int("version"),
    Column("decision", Text),
    _text("reason"),
    _text("masked"),
    Column("ended", _BIG),
    Column("ended_at", _SECONDS),
    _int("due"),
    _text("claimed_by"),
    _text("resuming"),
    Column("lease", _SECONDS),
    _int("attempts"),
    _text("fingerprint"),
    _int("reusable"),
    Column("bytes", _BIG, nullable=False),
    _int("kept"),
    _text("title", server_default=""),
    _text("link", server_default=""),
    # The partial ones stay small, however many gates have ended.
    Index("gates_open", "seq", **_where("open = 1")),
    Index("gates_due", "ended", **_where("due = 1")),
    Index("gates_kept", "ended_at", **_where("kept = 1")),
    Index("gates_ended", "ended"),
    Index("gates_fingerprint", "fingerprint", "reusable"),
    Index("gates_prompt", "prompt_id"),
    Index("gates_open_title", "title", "seq", **_where("open = 1")),
    Index("gates_title", "title", "ended"),
    Index("gates_link", "link", "ended", **_where("link <> ''")),
    sqlite_autoincrement=True,
)

lines = Table(
    "lines",
    metadata,
    _counted("id"),
    _text("gate_id"),
    Column("at", _SECONDS, nullable=False),
    _text("kind"),
    _text("origin"),
    _text("body"),
    sa.ForeignKeyConstraint(["gate_id"], ["gates.id"]),
    Index("lines_gate", "gate_id", "id"),
    sqlite_autoincrement=True,
)
"""The history, which only grows."""

mask_files = Table(
    "masks",
    metadata,
    Column("gate_id", Text, ForeignKey("gates.id"), primary_key=True),
    Column("image", Integer, primary_key=True, autoincrement=False),
    _text("file"),
    Column("bytes", _BIG, nullable=False),
)

clicks = Table(
    "clicks",
    metadata,
    Column("gate_id", Text, ForeignKey("gates.id"), primary_key=True),
    Column("key", Text, primary_key=True),
)
"""Answers that were counted, so that the same click counts once."""

parked = Table(
    "parked",
    metadata,
    Column("gate_id", Text, ForeignKey("gates.id"), primary_key=True),
    _text("root"),
    _text("node"),
    _int("item"),
    _text("told"),
    _text("classes"),
    _text("record"),
    _int("length", server_default=sa.text("1")),
    _text("live", server_default="[]"),
    _int("together", server_default=sa.text("0")),
    _text("running", server_default=""),
    Index("parked_root", "root"),
    Index("parked_prompts", "root", **_where("record <> ''")),
    Index("parked_running", "running"),
)
"""What the prompts of parked gates go on with."""

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    _text("name"),
    _text("kind"),
    _text("host"),
    _int("pid"),
    Column("started_at", _SECONDS, nullable=False),
    Column("seen_at", _SECONDS, nullable=False),
    _text("classes"),
    _int("ended"),
)

links = Table(
    "links",
    metadata,
    Column("id", Text, primary_key=True),
    _text("name"),
    _text("may"),
    _text("scope"),
    _text("reach"),
    _text("door"),
    _int("once"),
    _text("passphrase"),  # of this and the token only hashes are kept
    _text("token", unique=True),
    _int("opened"),
    _text("worker"),
    Column("created_at", _SECONDS, nullable=False),
    Column("expires_at", _SECONDS, nullable=False),
    Column("revoked_at", _SECONDS),
    Column("seen_at", _SECONDS),
    Index("links_created", "created_at"),
)

sessions = Table(
    "sessions",
    metadata,
    Column("secret", Text, primary_key=True),
    _text("link"),
    Column("opened_at", _SECONDS, nullable=False),
    _text("key"),
    sa.ForeignKeyConstraint(["link"], ["links.id"]),
    Index("sessions_link", "link"),
)

wrong_passphrases = Table(
    "wrong_passphrases",
    metadata,
    Column("id", Text, primary_key=True),
    _text("link"),
    Column("at", _SECONDS, nullable=False),
    sa.ForeignKeyConstraint(["link"], ["links.id"]),
    Index("wrong_passphrases_link", "link", "at"),
)
