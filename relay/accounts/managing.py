"""Who manages an account, a sender or a client: people, or the accounts file that declares it."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection, select, update

from relay.database.schema import accounts, clients, secrets, senders

Kind = Literal["account", "sender", "client"]

_KEYS = {"account": accounts.c.id, "sender": senders.c.pattern, "client": clients.c.name}


def set_manager(connection: Connection, kind: Kind, key: int | str, managed_by: str | None) -> None:
    """`managed_by`: the path of the file, None: people. `key`: an account's id, a pattern, a client's name."""
    column = _KEYS[kind]
    connection.execute(update(column.table).where(column == key).values(managed_by=managed_by))


def set_web_hosts(connection: Connection, account_id: int, web_hosts: str | None) -> None:
    """Which hosts of an account were named through the web, with commas between; None: no one."""
    connection.execute(update(accounts).where(accounts.c.id == account_id).values(web_hosts=web_hosts))


def set_secret_manager(connection: Connection, account_id: int, kind: str, managed_by: str | None) -> None:
    """The same for a secret of an account."""
    chosen = (secrets.c.account_id == account_id) & (secrets.c.kind == kind)
    connection.execute(update(secrets).where(chosen).values(managed_by=managed_by))


def managed_secrets(connection: Connection, account_id: int) -> dict[str, str]:
    """The kinds of secret of an account that a file declares, and which file."""
    rows = connection.execute(
        select(secrets.c.kind, secrets.c.managed_by).where(
            secrets.c.account_id == account_id, secrets.c.managed_by.is_not(None)
        )
    )
    return {row.kind: row.managed_by for row in rows}


def release(connection: Connection) -> int:
    """Hand everything that a file declares to people; how many accounts, senders and clients that were."""
    count = 0
    for column in _KEYS.values():
        table = column.table
        count += connection.execute(
            update(table).where(table.c.managed_by.is_not(None)).values(managed_by=None)
        ).rowcount
    connection.execute(update(secrets).where(secrets.c.managed_by.is_not(None)).values(managed_by=None))
    return count
