"""The vault: keeps each account's secrets sealed in the store, opens them, moves them to another key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from relay.credentials import sealed_rows
from relay.credentials.errors import KeyInUse, KeyMissing, SecretUnreadable, WrongKey
from relay.credentials.keyring import SECRETS_DIR, KeyRing, create_first_key, load_key_ring
from relay.credentials.sealed_rows import Problem, Row
from relay.credentials.secret import Secret, reveal
from relay.database.engine import Database
from relay.telemetry.redaction import mask

_PAGE_ROWS = 500
_SAMPLE_ROWS = 8  # a key opens at least one of so many rows, or it is not the key they were sealed with


@dataclass(frozen=True, slots=True)
class Rotation:
    """`resealed` rows are under the primary key now; `unreadable` ones were left as they are."""

    resealed: int
    unreadable: tuple[Problem, ...]


class Vault:
    """Made by `open_vault`. The methods with a `connection` run inside an operation of `Database.write`.

    Every secret that passes through is masked in the log from then on.
    """

    def __init__(
        self,
        database: Database,
        ring: KeyRing,
        *,
        created_key: bool = False,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.ring = ring
        self.created_key = created_key  # the first key was made just now: tell the operator to back it up
        self._database = database
        self._now_ms = now_ms
        self._keys_change = asyncio.Lock()

    # Secrets

    def seal_into(self, connection: Connection, account_id: int, kind: str, secret: str | Secret) -> None:
        """Store or replace the secret and let the account's revision grow, in the caller's transaction.

        Raises SecretRefused (empty, not UTF-8, over 64 KiB), NoSuchAccount, KeyMissing (empty ring).
        """
        value = reveal(secret)
        mask(value)
        key = self.ring.primary
        sealed_rows.put(connection, Row(account_id, kind, key.id, key.seal(account_id, kind, value)), self._now_ms())

    def open_from(self, connection: Connection, account_id: int, kind: str) -> str:
        """The secret in clear. Raises SecretMissing, SecretUnreadable, KeyMissing."""
        row = sealed_rows.get(connection, account_id, kind)
        value = self._open(row)
        mask(value)
        return value

    def forget_in(self, connection: Connection, account_id: int, kind: str | None = None) -> int:
        """Delete the account's secret of that kind, None: all of them; how many there were."""
        return sealed_rows.remove(connection, account_id, kind)

    async def store(self, account_id: int, kind: str, secret: str | Secret) -> None:
        """`seal_into` as an operation of its own; durable on return."""
        await self._database.write(lambda connection: self.seal_into(connection, account_id, kind, secret))

    async def fetch(self, account_id: int, kind: str) -> str:
        """`open_from` as a read of its own."""
        return await self._database.read(lambda connection: self.open_from(connection, account_id, kind))

    async def forget(self, account_id: int, kind: str | None = None) -> int:
        """`forget_in` as an operation of its own; durable on return."""
        return await self._database.write(lambda connection: self.forget_in(connection, account_id, kind))

    async def kinds(self, account_id: int) -> list[str]:
        """Which kinds of secret the account has, sorted."""
        return await self._database.read(lambda connection: sealed_rows.kinds(connection, account_id))

    async def verify(self) -> list[Problem]:
        """Open every secret there is; what does not open, and why. Nothing is masked or changed."""
        closed: list[tuple[Row, str]] = []
        opened: set[str] = set()
        last: Row | None = None
        while rows := await self._database.read(partial(sealed_rows.page, after=last, limit=_PAGE_ROWS)):
            last = rows[-1]
            for row in rows:
                cause = self._cause(row)
                if cause is None:
                    opened.add(row.key_id)
                else:
                    closed.append((row, cause))
        return [
            Problem.of(row, "wrong-key" if cause == "unreadable" and row.key_id not in opened else cause)
            for row, cause in closed
        ]

    # Keys

    async def key_usage(self) -> dict[str, int]:
        """How many secrets are sealed under each key; keys of the ring without any count 0."""
        used = await self._database.read(sealed_rows.usage)
        return {key_id: used.get(key_id, 0) for key_id in sorted(self.ring.ids | used.keys())}

    async def add_key(self, *, primary: bool = True) -> str:
        """Make a key; its id. `primary`: seal with it from now on (`rotate` moves the rest). Raises KeyRefused."""
        async with self._keys_change:
            key = await asyncio.to_thread(self.ring.add)
            if primary:
                await asyncio.to_thread(self.ring.make_primary, key.id)
        return key.id

    async def make_primary(self, key_id: str) -> None:
        """Seal with `key_id` from now on. Raises NoSuchKey, KeyRefused."""
        async with self._keys_change:
            await asyncio.to_thread(self.ring.make_primary, key_id)

    async def rotate(self, batch: int = 100, *, told: Callable[[int], None] = lambda _: None) -> Rotation:
        """Seal every secret anew that is not under the primary key, `batch` rows a write; `told`: how many by now.

        May be stopped or killed anywhere: each row is under its old key or its new one, both are in the ring,
        and the next call goes on with what is left.  Rows that do not open are left as they are.
        """
        resealed, unreadable = 0, list[Problem]()
        last: Row | None = None
        async with self._keys_change:
            while True:
                done = await self._database.write(partial(self._reseal, after=last, batch=batch))
                if done.last is None:
                    return Rotation(resealed, tuple(unreadable))
                last = done.last
                resealed += done.resealed
                unreadable += done.unreadable
                told(resealed)

    async def drop_key(self, key_id: str) -> None:
        """Remove a key and its file for good. Raises NoSuchKey, KeyNotDroppable, KeyInUse, KeyRefused.

        It is not primary and the keys do not change meanwhile, so that no new row can come under it.
        """
        async with self._keys_change:
            self.ring.check_droppable(key_id)
            rows = (await self._database.write(sealed_rows.usage)).get(key_id, 0)  # behind every seal under way
            if rows:
                raise KeyInUse(key_id, rows)
            await asyncio.to_thread(self.ring.drop, key_id)

    def _reseal(self, connection: Connection, *, after: Row | None, batch: int) -> _Batch:
        key = self.ring.primary
        rows = sealed_rows.page(connection, after, batch, other_than=key.id)
        resealed, unreadable = 0, list[Problem]()
        for row in rows:
            cause = self._cause(row)
            if cause is not None:
                unreadable.append(Problem.of(row, cause))
                continue
            sealed = key.seal(row.account_id, row.kind, self._open(row))
            resealed += sealed_rows.exchange(connection, row, Row(row.account_id, row.kind, key.id, sealed))
        return _Batch(rows[-1] if rows else None, resealed, unreadable)

    def _open(self, row: Row) -> str:
        return self.ring.key(row.key_id).open(row.account_id, row.kind, row.sealed)

    def _cause(self, row: Row) -> str | None:
        """Why the row does not open; None: it does."""
        try:
            self._open(row)
        except KeyMissing:
            return "key-missing"
        except SecretUnreadable:
            return "unreadable"
        return None

    def check_keys(self, connection: Connection) -> None:
        """Raise KeyMissing when a key that rows need is not in the ring, WrongKey when one opens none of them."""
        used = sealed_rows.usage(connection)
        missing = used.keys() - self.ring.ids
        if missing:
            raise KeyMissing(missing)
        for key_id in sorted(used):
            sample = sealed_rows.under(connection, key_id, _SAMPLE_ROWS)
            if sample and all(self._cause(row) is not None for row in sample):
                raise WrongKey(key_id)


@dataclass(frozen=True, slots=True)
class _Batch:
    last: Row | None  # None: there was nothing left
    resealed: int
    unreadable: list[Problem]


async def open_vault(
    database: Database,
    keys_dir: Path,
    *,
    environ: MutableMapping[str, str],
    secrets_dir: Path | None = SECRETS_DIR,
    create: bool = True,
) -> Vault:
    """Load the key ring and prove that it fits the store; with `create`, make the first key of an empty one.

    A key is made only when the ring is empty and no secret is sealed yet; `Vault.created_key` says so.
    RELAY_MASTER_KEY is taken out of `environ`.  Raises KeyRefused, KeyMissing, WrongKey; nothing was changed then.
    """
    ring = await asyncio.to_thread(load_key_ring, keys_dir, environ=environ, secrets_dir=secrets_dir)
    await database.read(Vault(database, ring).check_keys)
    created = False
    if create:
        ring, created = await asyncio.to_thread(create_first_key, keys_dir, ring)
    return Vault(database, ring, created_key=created)
