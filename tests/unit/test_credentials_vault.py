"""The vault on a real store: what goes in comes out, nothing else does, and a wrong or lost key changes nothing."""

from __future__ import annotations

import asyncio
import itertools
import os
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update

from relay.credentials import vault as vault_module
from relay.credentials.errors import (
    KeyInUse,
    KeyMissing,
    KeyNotDroppable,
    NoSuchAccount,
    SecretMissing,
    SecretRefused,
    SecretUnreadable,
    WrongKey,
)
from relay.credentials.sealed_rows import Problem
from relay.credentials.secret import Secret
from relay.credentials.vault import Rotation, Vault, open_vault
from relay.database.engine import Database, open_database
from relay.database.schema import accounts, secrets
from relay.telemetry.redaction import LIVE, unmask
from tests.store import lay_store

ACCOUNTS = 12


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(lay_store(tmp_path) / "relay.db") as database:
        await database.write(_add_accounts)
        yield database


@pytest.fixture
def keys_dir(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
async def vault(database: Database, keys_dir: Path) -> Vault:
    return await _open(database, keys_dir)


def _add_accounts(connection: Connection) -> None:
    connection.execute(
        insert(accounts),
        [
            {"address": f"a{n}@example.org", "provider": "custom", "auth": "password", "created_at": 0}
            for n in range(ACCOUNTS)
        ],
    )


async def _open(database: Database, keys_dir: Path, **options: Any) -> Vault:
    return await open_vault(database, keys_dir, environ={}, secrets_dir=None, **options)


async def _rows(database: Database) -> list[Any]:
    return await database.read(lambda c: list(c.execute(select(secrets).order_by(secrets.c.account_id))))


async def _revision(database: Database, account_id: int) -> int:
    return await database.read(
        lambda c: c.execute(select(accounts.c.revision).where(accounts.c.id == account_id)).scalar_one()
    )


async def _damage(database: Database, account_id: int) -> None:
    def flip(connection: Connection) -> None:
        condition = secrets.c.account_id == account_id
        sealed = bytearray(connection.execute(select(secrets.c.sealed).where(condition)).scalar_one())
        sealed[-1] ^= 1
        connection.execute(update(secrets).where(condition).values(sealed=bytes(sealed)))

    await database.write(flip)


async def test_what_was_stored_is_fetched_and_replaced(vault: Vault, database: Database) -> None:
    await vault.store(1, "password", "first")
    await vault.store(2, "password", Secret("other"))
    await vault.store(1, "password", "second ☃")
    assert await vault.fetch(1, "password") == "second ☃"
    assert await vault.fetch(2, "password") == "other"
    assert await vault.kinds(1) == ["password"]
    assert all(b"second" not in row.sealed and row.changed_at > 0 for row in await _rows(database))


async def test_a_new_credential_is_a_new_revision(vault: Vault, database: Database) -> None:
    before = await _revision(database, 1)
    await vault.store(1, "password", "one")
    assert await _revision(database, 1) == before + 1
    assert await vault.forget(1) == 1
    assert await _revision(database, 1) == before + 2
    assert await vault.forget(1) == 0
    assert await _revision(database, 1) == before + 2
    assert await _revision(database, 2) == before


async def test_storing_is_part_of_the_callers_transaction(vault: Vault, database: Database) -> None:
    def fail_after_sealing(connection: Connection) -> None:
        vault.seal_into(connection, 1, "password", "one")
        assert vault.open_from(connection, 1, "password") == "one"
        raise LookupError

    with pytest.raises(LookupError):
        await database.write(fail_after_sealing)
    with pytest.raises(SecretMissing):
        await vault.fetch(1, "password")
    assert await _revision(database, 1) == 1


async def test_forgetting_takes_one_kind_or_all(vault: Vault) -> None:
    for kind in ("password", "refresh_token", "client_secret"):
        await vault.store(1, kind, kind)
    await vault.store(2, "password", "kept")
    assert await vault.forget(1, "password") == 1
    assert await vault.kinds(1) == ["client_secret", "refresh_token"]
    assert await vault.forget(1) == 2
    assert await vault.kinds(1) == []
    assert await vault.fetch(2, "password") == "kept"


async def test_what_is_not_there_or_not_possible_is_said(vault: Vault, database: Database) -> None:
    with pytest.raises(SecretMissing):
        await vault.fetch(1, "password")
    with pytest.raises(NoSuchAccount):
        await vault.store(999, "password", "one")
    for kind, secret in (("Password", "one"), ("password", ""), ("password", "x" * 70_000)):
        with pytest.raises(SecretRefused):
            await vault.store(1, kind, secret)
    assert await _rows(database) == []


async def test_every_swap_of_rows_is_detected(vault: Vault, database: Database) -> None:
    names = [(account, kind) for account in (1, 2, 3) for kind in ("password", "refresh_token")]
    for account, kind in names:
        await vault.store(account, kind, f"{kind} of {account}")
    sealed = {(row.account_id, row.kind): row.sealed for row in await _rows(database)}

    def put(account: int, kind: str, value: bytes) -> Any:
        chosen = update(secrets).where(secrets.c.account_id == account, secrets.c.kind == kind)
        return database.write(lambda c: c.execute(chosen.values(sealed=value)) and None)

    for source, target in itertools.permutations(names, 2):
        await put(*target, sealed[source])
        with pytest.raises(SecretUnreadable):
            await vault.fetch(*target)
        await put(*target, sealed[target])
    assert await vault.verify() == []


async def test_verify_names_what_does_not_open(vault: Vault, database: Database) -> None:
    for account in (1, 2, 3):
        await vault.store(account, "password", "one")
    key_id = vault.ring.primary.id
    await _damage(database, 2)
    assert await vault.verify() == [Problem(2, "password", key_id, "unreadable")]
    await database.write(
        lambda c: c.execute(update(secrets).where(secrets.c.account_id == 3).values(key_id="gone")) and None
    )
    assert await vault.verify() == [
        Problem(2, "password", key_id, "unreadable"),
        Problem(3, "password", "gone", "key-missing"),
    ]


async def test_verify_reads_page_by_page(vault: Vault, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vault_module, "_PAGE_ROWS", 3)
    for account in range(1, ACCOUNTS + 1):
        for kind in ("password", "refresh_token"):
            await vault.store(account, kind, "one")
    await database.write(lambda c: c.execute(update(secrets).values(sealed=b"\1")) and None)
    problems = await vault.verify()
    assert len(set(problems)) == len(problems) == 2 * ACCOUNTS
    assert {problem.cause for problem in problems} == {"wrong-key"}


# Starting


async def test_the_first_key_is_made_once_and_said(database: Database, keys_dir: Path) -> None:
    first = await _open(database, keys_dir)
    again = await _open(database, keys_dir)
    assert (first.created_key, again.created_key) == (True, False)
    assert first.ring.primary.same_material(again.ring.primary)


async def test_looking_makes_no_key(database: Database, keys_dir: Path) -> None:
    vault = await _open(database, keys_dir, create=False)
    assert vault.ring.ids == frozenset()
    assert not keys_dir.exists()
    with pytest.raises(KeyMissing):
        await vault.store(1, "password", "one")


async def test_a_lost_key_stops_the_start_and_nothing_is_changed(
    vault: Vault, database: Database, keys_dir: Path
) -> None:
    await vault.store(1, "password", "one")
    key_id, before = vault.ring.primary.id, await _rows(database)
    path = keys_dir / f"{key_id}.key"
    material = path.read_bytes()
    path.unlink()
    for _ in range(2):
        with pytest.raises(KeyMissing, match=key_id) as caught:
            await _open(database, keys_dir)
        assert caught.value.key_ids == (key_id,)
    other = keys_dir / "other.key"
    other.write_text(os.urandom(32).hex())
    other.chmod(0o600)
    with pytest.raises(KeyMissing, match=key_id):  # another key does not help
        await _open(database, keys_dir)
    assert await _rows(database) == before
    assert sorted(path.name for path in keys_dir.iterdir()) == [".lock", "other.key"]
    path.write_bytes(material)
    path.chmod(0o600)
    assert await (await _open(database, keys_dir)).fetch(1, "password") == "one"


async def test_a_wrong_key_of_the_right_name_stops_the_start(vault: Vault, database: Database, keys_dir: Path) -> None:
    for account in range(1, ACCOUNTS + 1):
        await vault.store(account, "password", "one")
    key_id, before = vault.ring.primary.id, await _rows(database)
    path = keys_dir / f"{key_id}.key"
    right = path.read_bytes()
    path.write_text(os.urandom(32).hex())
    with pytest.raises(WrongKey, match=key_id) as caught:
        await _open(database, keys_dir)
    assert caught.value.key_id == key_id
    assert await _rows(database) == before
    path.write_bytes(right)
    assert await (await _open(database, keys_dir)).verify() == []


async def test_one_damaged_row_does_not_stop_everybody(vault: Vault, database: Database, keys_dir: Path) -> None:
    for account in (1, 2):
        await vault.store(account, "password", "one")
    await _damage(database, 1)
    again = await _open(database, keys_dir)
    assert await again.fetch(2, "password") == "one"
    with pytest.raises(SecretUnreadable, match="account 1"):
        await again.fetch(1, "password")


# Keys


async def test_rotation_moves_every_row_and_frees_the_old_key(vault: Vault, database: Database, keys_dir: Path) -> None:
    for account in range(1, ACCOUNTS + 1):
        await vault.store(account, "password", f"secret {account}")
    old, revisions = vault.ring.primary.id, [await _revision(database, n) for n in range(1, ACCOUNTS + 1)]
    with pytest.raises(KeyNotDroppable):
        await vault.drop_key(old)
    new = await vault.add_key()
    assert await vault.key_usage() == {old: ACCOUNTS, new: 0}
    with pytest.raises(KeyInUse) as caught:
        await vault.drop_key(old)
    assert caught.value.rows == ACCOUNTS
    assert await vault.rotate(batch=5) == Rotation(ACCOUNTS, ())
    assert await vault.rotate(batch=5) == Rotation(0, ())
    assert await vault.key_usage() == {old: 0, new: ACCOUNTS}
    await vault.drop_key(old)
    assert [await _revision(database, n) for n in range(1, ACCOUNTS + 1)] == revisions  # connections are kept
    again = await _open(database, keys_dir)
    assert again.ring.ids == {new}
    assert [await again.fetch(n, "password") for n in range(1, ACCOUNTS + 1)] == [
        f"secret {n}" for n in range(1, ACCOUNTS + 1)
    ]


async def test_rotation_leaves_what_it_cannot_open(vault: Vault, database: Database) -> None:
    for account in range(1, ACCOUNTS + 1):
        await vault.store(account, "password", "one")
    old = vault.ring.primary.id
    await _damage(database, 1)
    await _damage(database, 7)
    before = {row.account_id: row.sealed for row in await _rows(database)}
    await vault.add_key()
    result = await vault.rotate(batch=2)
    assert result.resealed == ACCOUNTS - 2
    assert [problem.account_id for problem in result.unreadable] == [1, 7]
    after = {row.account_id: row.sealed for row in await _rows(database)}
    assert [account for account in before if before[account] == after[account]] == [1, 7]
    with pytest.raises(KeyInUse):
        await vault.drop_key(old)


async def test_rotation_stopped_after_any_batch_is_readable_and_goes_on(
    vault: Vault, database: Database, keys_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for account in range(1, ACCOUNTS + 1):
        await vault.store(account, "password", f"secret {account}")
    for batches in range(ACCOUNTS):
        new = await vault.add_key()
        with monkeypatch.context() as patch:
            patch.setattr(database, "write", _failing_after(database, batches))
            with pytest.raises(OSError, match="pulled"):
                await vault.rotate(batch=1)
        vault = await _open(database, keys_dir)
        assert vault.ring.primary.id == new
        assert (await vault.key_usage())[new] == batches
        assert [await vault.fetch(n, "password") for n in range(1, ACCOUNTS + 1)] == [
            f"secret {n}" for n in range(1, ACCOUNTS + 1)
        ]
    assert (await vault.rotate()).resealed == ACCOUNTS - batches
    for key_id in vault.ring.ids - {vault.ring.primary.id}:
        await vault.drop_key(key_id)
    assert await vault.verify() == []


def _failing_after(database: Database, count: int) -> Any:
    real, calls = database.write, itertools.count()

    async def write(function: Any) -> Any:
        if next(calls) >= count:
            raise OSError("plug pulled")
        return await real(function)

    return write


async def test_a_password_set_during_a_rotation_wins(vault: Vault, database: Database) -> None:
    for account in range(1, ACCOUNTS + 1):
        await vault.store(account, "password", "old")
    await vault.add_key()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(vault.rotate(batch=1))
        for account in range(1, ACCOUNTS + 1):
            tasks.create_task(vault.store(account, "password", f"new {account}"))
    assert [await vault.fetch(n, "password") for n in range(1, ACCOUNTS + 1)] == [
        f"new {n}" for n in range(1, ACCOUNTS + 1)
    ]
    assert (await vault.key_usage())[vault.ring.primary.id] == ACCOUNTS


async def test_no_secret_in_the_store_or_in_any_traceback(vault: Vault, database: Database, tmp_path: Path) -> None:
    await vault.store(1, "password", Secret("hunter2-hunter2"))
    await vault.store(2, "password", Secret("hunter2-hunter2"))
    await _damage(database, 1)
    shown = [repr(vault), repr(vault.ring), str(await vault.verify())]
    for attempt in (
        vault.fetch(1, "password"),
        vault.store(999, "password", Secret("hunter2-hunter2")),
        vault.store(2, "Kind", Secret("hunter2-hunter2")),
    ):
        with pytest.raises(Exception) as caught:
            await attempt
        shown += traceback.format_exception(caught.value)
        shown.append(repr(caught.value))
    assert "hunter2" not in "".join(shown)
    for path in tmp_path.iterdir():
        assert path.is_dir() or b"hunter2" not in path.read_bytes()


async def test_what_passes_through_is_masked_from_then_on(database: Database, keys_dir: Path) -> None:
    stored, fetched = (f"vault-{os.urandom(8).hex()}" for _ in range(2))
    vault = await _open(database, keys_dir)
    await vault.store(1, "password", stored)
    assert stored not in LIVE.masked(f"reply was {stored}")
    await vault.store(2, "password", fetched)
    unmask(fetched)  # as after a restart
    assert fetched in LIVE.masked(f"reply was {fetched}")
    await vault.fetch(2, "password")
    assert fetched not in LIVE.masked(f"reply was {fetched}")
