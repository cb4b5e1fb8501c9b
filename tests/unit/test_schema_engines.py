"""The migrations build what the metadata says, on both engines, with the same conditions on their indexes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError

from relay.config.database import DatabaseSettings
from relay.database import migration
from relay.database.engine import connect_sqlite
from relay.database.schema import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def migrated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "sqlite":
        engine = connect_sqlite(tmp_path / "relay.db")
        migration.upgrade(engine)
    else:
        from relay.database.postgresql.connecting import Place
        from relay.database.postgresql.store import connect_postgresql
        from tests.postgresql import server

        place = Place(DatabaseSettings(url=server().fresh()))
        engine = connect_postgresql(place, session={}, pooled=False, application="test")
    yield engine
    engine.dispose()


def test_tables_columns_and_indexes_are_those_of_the_metadata(migrated: Engine) -> None:
    with migrated.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_an_index_has_its_condition_on_either_engine(migrated: Engine) -> None:
    inspector = inspect(migrated)
    dialect = migrated.dialect.name
    for table in metadata.tables.values():
        found = {index["name"]: index for index in inspector.get_indexes(table.name)}
        for index in table.indexes:
            wanted = index.dialect_options["sqlite"]["where"]
            there = found[index.name]["dialect_options"].get(f"{dialect}_where")
            plain = str(there).strip("()").lower() if there is not None else None
            assert plain == (str(wanted).lower() if wanted is not None else None), index.name


def test_the_audit_trail_is_append_only(migrated: Engine) -> None:
    with migrated.begin() as connection:
        connection.execute(
            text("INSERT INTO audit (at, actor, action, target, detail) VALUES (1, 'a', 'b', 'c', '{}')")
        )
        connection.execute(
            text("INSERT INTO audit (at, actor, action, target, detail) VALUES (9999999999999, 'a', 'b', 'c', '{}')")
        )
    for statement in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit WHERE at > 1"):
        with pytest.raises(DBAPIError, match="audit trail"), migrated.begin() as connection:
            connection.execute(text(statement))
    with migrated.begin() as connection:
        assert connection.execute(text("DELETE FROM audit WHERE at = 1")).rowcount == 1


def test_a_newer_schema_is_refused_and_an_older_one_named_with_the_command(migrated: Engine) -> None:
    with migrated.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(migration.SchemaTooNew):
        migration.prove(migrated)
    with migrated.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    with pytest.raises(migration.SchemaTooOld, match="relay migrate"):
        migration.prove(migrated)
