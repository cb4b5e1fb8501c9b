"""Reads and writes what is registered: one function an operation, over a connection inside a transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Unpack

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from relay.accounts import checking
from relay.accounts.checking import AccountSettings
from relay.accounts.clients import add_client, change_client, get_client, read_clients, remove_client
from relay.accounts.conditions import ConditionKind
from relay.accounts.errors import AccountExists, AccountInUse, AccountNotFound, SenderExists, SenderNotFound
from relay.accounts.model import Account, AccountState, Client, FromPolicy, Sender
from relay.accounts.normalise import check_address, normalise, normalise_pattern
from relay.database.schema import (
    accounts,
    conditions,
    console_grants,
    deliveries,
    login_tries,
    mailboxes,
    secrets,
    senders,
)

__all__ = [
    "Snapshot",
    "add_account",
    "add_client",
    "add_sender",
    "bump_revision",
    "change_client",
    "find_account",
    "get_account",
    "get_client",
    "load",
    "remove_account",
    "remove_client",
    "remove_sender",
    "set_state",
    "update_account",
]

_LONGEST_REPLY = 1024  # characters


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything registered, as one transaction saw it."""

    accounts: tuple[Account, ...] = ()
    senders: tuple[Sender, ...] = ()
    clients: tuple[Client, ...] = ()


def load(connection: Connection) -> Snapshot:
    """Read everything, accounts by address, senders by pattern, clients by name."""
    return Snapshot(
        tuple(_account(row) for row in connection.execute(select(accounts).order_by(accounts.c.address))),
        tuple(_sender(row) for row in connection.execute(select(senders).order_by(senders.c.pattern))),
        read_clients(connection),
    )


def add_account(connection: Connection, address: str, *, now_ms: int, **settings: Unpack[AccountSettings]) -> int:
    """Register an account and return its id. `provider` is "default" and `auth` "password" unless given.

    Raises BadAddress, BadSetting, AccountExists.
    """
    address = check_address(address)
    values = checking.checked_settings(settings)
    values.setdefault("provider", "default")
    values.setdefault("auth", "password")
    checking.checked_host_of(values["provider"], values.get("host"))
    existing = _id_of(connection, address)
    if existing is not None:
        raise AccountExists(address, existing)
    row = connection.execute(insert(accounts).values(address=address, created_at=now_ms, **values))
    assert row.inserted_primary_key is not None
    return int(row.inserted_primary_key[0])


def update_account(connection: Connection, account_id: int, **settings: Unpack[AccountSettings]) -> int:
    """Change the settings that are given, None back to the default; the new revision.

    Raises BadSetting, AccountNotFound.
    """
    account = get_account(connection, account_id)
    values = checking.checked_settings(settings)
    checking.checked_host_of(values.get("provider", account.provider), values.get("host", account.host))
    revision = account.revision + 1
    connection.execute(update(accounts).where(accounts.c.id == account_id).values(revision=revision, **values))
    if values.get("transport", account.transport) != account.transport:  # people need no word of where it was before
        moved = (conditions.c.account_id == account_id) & (conditions.c.kind == ConditionKind.MOVED.value)
        connection.execute(delete(conditions).where(moved))
    return revision


def remove_account(connection: Connection, account_id: int) -> None:
    """Remove an account and its stored secrets. Raises AccountNotFound, AccountInUse."""
    account = get_account(connection, account_id)
    used_by = tuple(
        connection.scalars(
            select(senders.c.pattern).where(senders.c.account_id == account_id).order_by(senders.c.pattern)
        )
    )
    waiting = connection.scalar(
        select(func.count()).where(deliveries.c.account_id == account_id, deliveries.c.settled_at.is_(None))
    )
    if used_by or waiting:
        raise AccountInUse(account.address, used_by, waiting or 0)
    for table in (secrets, conditions, login_tries, console_grants, mailboxes):
        connection.execute(delete(table).where(table.c.account_id == account_id))
    connection.execute(delete(accounts).where(accounts.c.id == account_id))


def get_account(connection: Connection, account_id: int) -> Account:
    """One account. Raises AccountNotFound."""
    row = connection.execute(select(accounts).where(accounts.c.id == account_id)).first()
    if row is None:
        raise AccountNotFound(account_id)
    return _account(row)


def find_account(connection: Connection, address: str) -> Account:
    """The account of an address, in any of its spellings. Raises AccountNotFound."""
    account_id = _id_of(connection, address.strip())
    if account_id is None:
        raise AccountNotFound(address)
    return get_account(connection, account_id)


def set_state(
    connection: Connection,
    account_id: int,
    state: AccountState | str,
    cause: str | None = None,
    reply: str | None = None,
    at_ms: int | None = None,
) -> None:
    """Remember an account's health: `cause` is an id of the catalogue or "operator", `reply` what the upstream said.

    A state of "ok" forgets the cause and the reply.  Raises AccountNotFound.
    """
    state = AccountState(state)
    if state is AccountState.OK:
        cause = reply = None
    elif reply is not None:
        reply = "".join(mark if mark.isprintable() else " " for mark in reply[:_LONGEST_REPLY])
    values = {"state": state.value, "state_cause": cause, "state_reply": reply, "state_since": at_ms}
    if not connection.execute(update(accounts).where(accounts.c.id == account_id).values(**values)).rowcount:
        raise AccountNotFound(account_id)


def bump_revision(connection: Connection, account_id: int) -> int:
    """Say that the account's credential changed, so that no connection made with the old one is used; the new revision.

    Raises AccountNotFound.
    """
    return update_account(connection, account_id)


def add_sender(
    connection: Connection, pattern: str, account_id: int, *, now_ms: int, from_policy: FromPolicy = "keep"
) -> str:
    """Route a pattern to an account; the pattern in its stored form. Saying it again changes its From policy alone.

    Raises BadPattern, BadSetting, AccountNotFound, SenderExists.
    """
    pattern = normalise_pattern(pattern)
    checking.checked_from_policy(from_policy)
    get_account(connection, account_id)
    holder = connection.execute(
        select(accounts.c.id, accounts.c.address)
        .join(senders, senders.c.account_id == accounts.c.id)
        .where(senders.c.pattern == pattern)
    ).first()
    if holder is not None and holder.id != account_id:
        raise SenderExists(pattern, holder.address)
    if holder is not None:
        connection.execute(update(senders).where(senders.c.pattern == pattern).values(from_policy=from_policy))
        return pattern
    values = {"pattern": pattern, "account_id": account_id, "from_policy": from_policy, "created_at": now_ms}
    connection.execute(insert(senders).values(**values))
    return pattern


def remove_sender(connection: Connection, pattern: str) -> str:
    """Forget a pattern; its stored form. Raises BadPattern, SenderNotFound."""
    pattern = normalise_pattern(pattern)
    if not connection.execute(delete(senders).where(senders.c.pattern == pattern)).rowcount:
        raise SenderNotFound(pattern)
    return pattern


def _id_of(connection: Connection, address: str) -> int | None:
    wanted = normalise(address)
    rows = connection.execute(select(accounts.c.id, accounts.c.address))
    return next((int(row.id) for row in rows if normalise(row.address) == wanted), None)


def _account(row: Row[Any]) -> Account:
    fields = dict(row._mapping)
    fields["state"] = AccountState(fields["state"])
    fields["oauth"] = fields["oauth"] or ""
    fields["null_sender"] = bool(fields["null_sender"])
    return Account(**fields)


def _sender(row: Row[Any]) -> Sender:
    return Sender(**row._mapping)
