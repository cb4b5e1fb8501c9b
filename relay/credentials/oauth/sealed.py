"""An account's grants in the vault: read, and replaced only where nobody put another there meanwhile.

The account's revision does not grow when a token is renewed: its settings are the same, its connections stay.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from relay.credentials.errors import CredentialError, NoSuchAccount, SecretMissing
from relay.credentials.oauth.answers import Grant
from relay.credentials.oauth.client import AppKeys
from relay.credentials.oauth.providers import PURPOSES, Purpose
from relay.credentials.vault import Vault
from relay.database.schema import accounts, secrets

REFRESH, ACCESS = "refresh_token", "access_token"


@dataclass(frozen=True, slots=True)
class KeptToken:
    """An access token as kept over a restart: `until_s` by the wall clock, `life_s` as the provider gave it."""

    token: str = field(repr=False)
    until_s: float
    life_s: float


@dataclass(frozen=True, slots=True)
class Kept:
    """What the vault has for an account's sign-in."""

    keys: AppKeys
    refresh_token: str | None = field(repr=False)
    access: Mapping[Purpose, KeptToken]


def load(connection: Connection, vault: Vault, account_id: int) -> Kept:
    """Everything at once. Raises SecretUnreadable, KeyMissing; an access token that does not open is left out."""

    def opened(kind: str) -> str | None:
        try:
            return vault.open_from(connection, account_id, kind)
        except SecretMissing:
            return None

    keys = AppKeys(account_id, opened("client_secret"), opened("client_certificate"), opened("service_account"))
    return Kept(keys, opened(REFRESH), _access(connection, vault, account_id))


def keep(
    connection: Connection,
    vault: Vault,
    account_id: int,
    grant: Grant,
    *,
    used: str | None,
    access: Mapping[Purpose, KeptToken],
    now_ms: int,
) -> bool:
    """Put a rotated refresh token and the access token in their places, in the caller's transaction: both or none.

    `used`: the refresh token that was asked with, None for flows without.  False, and nothing changed, when the
    vault has another by now: somebody signed in again.  Raises NoSuchAccount.
    """
    if used is not None:
        try:
            current = vault.open_from(connection, account_id, REFRESH)
        except SecretMissing:
            return False
        if current != used:
            return False
        if grant.refresh_token is not None and grant.refresh_token != used:
            _put(connection, vault, account_id, REFRESH, grant.refresh_token, now_ms)
    if access:
        both = _access(connection, vault, account_id)
        both.update(access)
        text = json.dumps(
            {
                name: {"token": kept.token, "until": kept.until_s, "life": kept.life_s}
                for name, kept in both.items()
                if kept.until_s * 1000 > now_ms
            }
        )
        _put(connection, vault, account_id, ACCESS, text, now_ms)
    return True


def seal_sign_in(connection: Connection, vault: Vault, account_id: int, grant: Grant) -> None:
    """Store the grant of a new sign-in in place of any other; the account's revision grows.

    Raises SecretMissing when there is no refresh token in it: it would end within the hour.
    """
    if grant.refresh_token is None:
        raise SecretMissing(account_id, REFRESH)
    vault.seal_into(connection, account_id, REFRESH, grant.refresh_token)
    drop_access(connection, account_id)


def drop_access(connection: Connection, account_id: int) -> None:
    """Delete the kept access tokens."""
    connection.execute(delete(secrets).where(secrets.c.account_id == account_id, secrets.c.kind == ACCESS))


def last_used(connection: Connection) -> dict[int, int]:
    """Accounts with a refresh token: when it was last asked with, ms since 1970."""
    with_grant = select(secrets.c.account_id).where(secrets.c.kind == REFRESH)
    asked = (
        select(secrets.c.account_id, func.max(secrets.c.changed_at))
        .where(secrets.c.kind.in_((REFRESH, ACCESS)), secrets.c.account_id.in_(with_grant))
        .group_by(secrets.c.account_id)
    )
    return {int(account_id): int(at) for account_id, at in connection.execute(asked)}


def _access(connection: Connection, vault: Vault, account_id: int) -> dict[Purpose, KeptToken]:
    try:
        found: Any = json.loads(vault.open_from(connection, account_id, ACCESS))
        return {
            name: KeptToken(str(found[name]["token"]), float(found[name]["until"]), float(found[name]["life"]))
            for name in PURPOSES
            if name in found
        }
    except (CredentialError, ValueError, KeyError, TypeError):
        return {}  # one more request brings another


def _put(connection: Connection, vault: Vault, account_id: int, kind: str, secret: str, now_ms: int) -> None:
    key = vault.ring.primary
    values = {"key_id": key.id, "sealed": key.seal(account_id, kind, secret), "changed_at": now_ms}
    here = (secrets.c.account_id == account_id, secrets.c.kind == kind)
    if connection.execute(update(secrets).where(*here).values(values)).rowcount:
        return
    if connection.execute(select(accounts.c.id).where(accounts.c.id == account_id)).first() is None:
        raise NoSuchAccount(account_id)
    connection.execute(insert(secrets).values(account_id=account_id, kind=kind, **values))
