"""The writer: one commit for all that waits, one failure for the one at fault, none of it lost to cancellation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import insert, select, text

from relay.database import migration
from relay.database.engine import StoreLocked, connect_sqlite, open_database
from relay.database.schema import audit, metadata
from relay.mail.errors import StorageFailed, StorageFull


def _row(number: int) -> dict[str, object]:
    return {"id": number, "at": 1, "actor": "a", "action": "b", "target": "c", "detail": "{}"}


async def _count(database, **_) -> int:
    return await database.read(lambda c: len(c.execute(select(audit.c.id)).all()))


async def test_what_waits_is_committed_together(tmp_path: Path) -> None:
    async with open_database(tmp_path / "relay.db") as database:
        await asyncio.gather(*(database.write(lambda c, n=n: c.execute(insert(audit), _row(n))) for n in range(200)))
        assert await _count(database) == 200
        assert database.writer.batches < 100


async def test_one_failing_operation_fails_alone(tmp_path: Path) -> None:
    async with open_database(tmp_path / "relay.db") as database:
        results = await asyncio.gather(
            *(database.write(lambda c, n=n: c.execute(insert(audit), _row(n // 2 * 2))) for n in range(20)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, Exception) for result in results) == 10
        assert await _count(database) == 10


async def test_a_cancelled_caller_does_not_tear_its_commit(tmp_path: Path) -> None:
    async with open_database(tmp_path / "relay.db") as database:
        task = asyncio.create_task(database.write(lambda c: c.execute(insert(audit), _row(1))))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await database.write(lambda c: None)
        assert await _count(database) == 1


async def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    async with open_database(tmp_path / "relay.db"):
        with pytest.raises(StoreLocked):
            async with open_database(tmp_path / "relay.db"):
                pass
    async with open_database(tmp_path / "relay.db"):
        pass


async def test_every_commit_is_synced_and_the_log_is_a_wal(tmp_path: Path) -> None:
    async with open_database(tmp_path / "relay.db") as database:
        for pragma, value in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1)):
            assert await database.write(lambda c, p=pragma: c.execute(text(f"PRAGMA {p}")).scalar()) == value


async def test_readers_cannot_write(tmp_path: Path) -> None:
    async with open_database(tmp_path / "relay.db") as database:
        with pytest.raises(Exception, match="attempt to write"):
            await database.read(lambda c: c.execute(insert(audit), _row(1)))


async def test_a_full_device_is_storage_full_and_the_writer_lives_on(tmp_path: Path) -> None:
    async with open_database(tmp_path / "relay.db") as database:
        pages = await database.write(lambda c: c.execute(text("PRAGMA page_count")).scalar())
        await database.write(lambda c: c.execute(text(f"PRAGMA max_page_count = {pages}")))
        big = _row(1) | {"detail": "x" * 100_000}
        with pytest.raises(StorageFull):
            await database.write(lambda c: c.execute(insert(audit), big))
        await database.write(lambda c: c.execute(text("PRAGMA max_page_count = 1000000")))
        await database.write(lambda c: c.execute(insert(audit), big))
        assert await _count(database) == 1


async def test_after_an_io_error_nothing_is_tried_again(tmp_path: Path) -> None:
    lost: list[BaseException] = []
    async with open_database(tmp_path / "relay.db", on_lost=lost.append) as database:

        class Broken(Exception):
            sqlite_errorcode = 1034  # SQLITE_IOERR_FSYNC

        def fail(_connection: object) -> None:
            raise Broken("disk I/O error")

        with pytest.raises(StorageFailed):
            await database.write(fail)
        with pytest.raises(StorageFailed):
            await database.write(lambda c: c.execute(insert(audit), _row(1)))
        assert len(lost) == 1


def test_the_migrations_build_the_schema_of_the_code(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    engine = connect_sqlite(tmp_path / "relay.db")
    assert migration.upgrade(engine) is True
    assert migration.upgrade(engine) is False
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    scripts = ScriptDirectory(str(Path(migration.__file__).with_name("migrations")))
    assert scripts.get_current_head() == migration.HEAD


def test_any_name_of_a_folder_will_do(tmp_path: Path) -> None:
    path = tmp_path / "a?b=c#d %41&uri=true" / "relay.db"
    path.parent.mkdir()
    engine = connect_sqlite(path)
    assert migration.upgrade(engine) is True
    engine.dispose()
    assert path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.parent.name]


def test_only_a_missing_or_older_store_is_said_to_need_migration(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    assert migration.needed(path)
    engine = connect_sqlite(path)
    migration.upgrade(engine)
    assert not migration.needed(path)
    for version, needed in ("0001", True), ("9999", False):
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE alembic_version SET version_num = '{version}'"))
        assert migration.needed(path) is needed
    other = tmp_path / "other.db"
    other.write_bytes(b"junk" * 2000)
    assert not migration.needed(other)


def test_an_older_program_refuses_a_newer_schema(tmp_path: Path) -> None:
    engine = connect_sqlite(tmp_path / "relay.db")
    migration.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(migration.SchemaTooNew):
        migration.upgrade(engine)
