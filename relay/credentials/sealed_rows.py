"""The table of sealed secrets: rows in and out, nothing opened here."""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, delete, func, insert, literal, or_, select, union_all, update

from relay.credentials.errors import NoSuchAccount, SecretMissing, SecretRefused
from relay.database.schema import accounts, console_users, secrets

_KIND = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_COLUMNS = (secrets.c.account_id, secrets.c.kind, secrets.c.key_id, secrets.c.sealed)

TOTP = "console-totp"  # of a console user: its row is in console_users, and its number is that user's

# Whatever is sealed, wherever it is: what a change of keys goes through.
_ALL = union_all(
    select(*_COLUMNS),
    select(console_users.c.id, literal(TOTP), console_users.c.totp_key, console_users.c.totp_sealed).where(
        console_users.c.totp_sealed.is_not(None)
    ),
).subquery()


@dataclass(frozen=True, slots=True)
class Row:
    """One sealed secret."""

    account_id: int
    kind: str
    key_id: str
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Problem:
    """A secret that does not open. `cause`: key-missing, wrong-key (the key opens no row at all), unreadable."""

    account_id: int
    kind: str
    key_id: str
    cause: str

    @classmethod
    def of(cls, row: Row, cause: str) -> Problem:
        """The problem with `row`."""
        return cls(row.account_id, row.kind, row.key_id, cause)


def put(connection: Connection, row: Row, at_ms: int) -> None:
    """Insert or replace `row`; the account's revision grows. Raises NoSuchAccount, SecretRefused (bad kind)."""
    if not _KIND.fullmatch(row.kind):
        raise SecretRefused("kind", "must be a lower-case word")
    grown = connection.execute(
        update(accounts).where(accounts.c.id == row.account_id).values(revision=accounts.c.revision + 1)
    )
    if grown.rowcount == 0:
        raise NoSuchAccount(row.account_id)
    values = {"key_id": row.key_id, "sealed": row.sealed, "changed_at": at_ms}
    changed = connection.execute(update(secrets).where(_is(row.account_id, row.kind)).values(values))
    if changed.rowcount == 0:
        connection.execute(insert(secrets).values(account_id=row.account_id, kind=row.kind, **values))


def get(connection: Connection, account_id: int, kind: str) -> Row:
    """Raises SecretMissing."""
    found = connection.execute(select(*_COLUMNS).where(_is(account_id, kind))).one_or_none()
    if found is None:
        raise SecretMissing(account_id, kind)
    return Row(*found)


def remove(connection: Connection, account_id: int, kind: str | None) -> int:
    """Delete one kind, or all; the account's revision grows if there were any. How many there were."""
    condition = secrets.c.account_id == account_id if kind is None else _is(account_id, kind)
    count = connection.execute(delete(secrets).where(condition)).rowcount
    if count:
        connection.execute(update(accounts).where(accounts.c.id == account_id).values(revision=accounts.c.revision + 1))
    return count


def exchange(connection: Connection, old: Row, new: Row) -> int:
    """Put `new` in the place of `old` if that is still there: 1, else 0. The revision stays: same secret."""
    if old.kind == TOTP:
        here = and_(console_users.c.id == old.account_id, console_users.c.totp_sealed == old.sealed)
        values = {"totp_key": new.key_id, "totp_sealed": new.sealed}
        return connection.execute(update(console_users).where(here).values(values)).rowcount
    return connection.execute(
        update(secrets)
        .where(_is(old.account_id, old.kind), secrets.c.sealed == old.sealed)
        .values(key_id=new.key_id, sealed=new.sealed)
    ).rowcount


def kinds(connection: Connection, account_id: int) -> list[str]:
    """The kinds the account has, sorted."""
    chosen = select(secrets.c.kind).where(secrets.c.account_id == account_id).order_by(secrets.c.kind)
    return list(connection.execute(chosen).scalars())


def usage(connection: Connection) -> dict[str, int]:
    """Rows by key id."""
    counted = connection.execute(select(_ALL.c.key_id, func.count()).group_by(_ALL.c.key_id))
    return {str(key_id): int(count) for key_id, count in counted}


def under(connection: Connection, key_id: str, limit: int) -> list[Row]:
    """Up to `limit` rows sealed under `key_id`."""
    return [Row(*found) for found in connection.execute(select(_ALL).where(_ALL.c.key_id == key_id).limit(limit))]


def page(connection: Connection, after: Row | None, limit: int, *, other_than: str | None = None) -> list[Row]:
    """Up to `limit` rows after `after` in the order of the table; `other_than`: not those under that key."""
    chosen = select(_ALL).order_by(_ALL.c.account_id, _ALL.c.kind).limit(limit)
    if after is not None:
        same = and_(_ALL.c.account_id == after.account_id, _ALL.c.kind > after.kind)
        chosen = chosen.where(or_(_ALL.c.account_id > after.account_id, same))
    if other_than is not None:
        chosen = chosen.where(_ALL.c.key_id != other_than)
    return [Row(*found) for found in connection.execute(chosen)]


def _is(account_id: int, kind: str) -> ColumnElement[bool]:
    return and_(secrets.c.account_id == account_id, secrets.c.kind == kind)
