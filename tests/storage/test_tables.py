"""The tables as they are declared, and as the migrations make them."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from imagegate.storage.sql.database import Database
from imagegate.storage.sql.migrations import MIGRATIONS
from imagegate.storage.sql.tables import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    return str(
        request.getfixturevalue("postgresql_url") if request.param == "postgresql" else "sqlite://"
    )


def described(engine: sa.Engine, schema: str | None = None) -> dict[str, Any]:
    """Every table by name: its columns, keys and indexes, whatever order they stand in."""
    inspector = sa.inspect(engine)
    found = {}
    for table in inspector.get_table_names(schema):
        key = inspector.get_pk_constraint(table, schema)["constrained_columns"]
        found[table] = {
            "columns": {
                column["name"]: {
                    "type": str(column["type"]),
                    # SQLite takes NULL in a key of text where that was not said; nobody writes it.
                    "nullable": column["nullable"] and column["name"] not in key,
                    "default": column["default"],
                    "identity": column.get("identity", {}).get("always"),
                }
                for column in inspector.get_columns(table, schema)
            },
            "key": key,
            "unique": sorted(
                one["column_names"] for one in inspector.get_unique_constraints(table, schema)
            ),
            "references": sorted(
                (one["constrained_columns"], one["referred_table"], one["referred_columns"])
                for one in inspector.get_foreign_keys(table, schema)
            ),
            "indexes": {
                one["name"]: (
                    one["column_names"],
                    bool(one["unique"]),
                    str(one.get("dialect_options", {}).get(f"{engine.dialect.name}_where")),
                )
                for one in inspector.get_indexes(table, schema)
                if "duplicates_constraint" not in one
            },
        }  # fmt: skip
    return found


def test_the_migrations_make_the_tables_that_are_declared(url: str) -> None:
    """A migrated store has the tables, columns, types, keys and indexes of the `MetaData`."""
    database = Database(url, "test")
    declared = sa.create_engine(database.engine.url)
    schema = None
    try:
        target = declared
        if database.postgresql:
            schema = "declared"
            target = declared.execution_options(schema_translate_map={None: schema})
            with declared.begin() as connection:
                connection.execute(sa.schema.CreateSchema(schema))
        metadata.create_all(target)
        assert described(database.engine) == described(declared, schema)
    finally:
        declared.dispose()
        database.close()


def test_every_declared_column_has_a_type() -> None:
    """Every declared column has a type."""
    untyped = [
        str(column)
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, sa.types.NullType)
    ]
    assert untyped == []


def test_each_migration_has_a_name_of_its_own() -> None:
    """Migrations are numbered in their order, each number once."""
    numbers = [int(name.partition("_")[0]) for name, _ in MIGRATIONS]
    assert numbers == list(range(1, len(MIGRATIONS) + 1))
