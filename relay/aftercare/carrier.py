"""Which account carries mail of our own: never one in trouble, nor one that nobody gave a credential yet."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from relay.accounts.model import Account, AccountState, Auth
from relay.accounts.normalise import normalise
from relay.database.schema import attempts
from relay.database.schema import secrets as secrets_table

LOOKED_AT = 50_000  # attempts; an account that sends less often than once among them counts as unproved

# Kinds of the vault, any of which is enough to log in; empty: none is needed.
_CREDENTIALS: Mapping[Auth, frozenset[str]] = {
    "none": frozenset(),
    "password": frozenset({"password"}),
    "oauth-code": frozenset({"refresh_token"}),
    "oauth-device": frozenset({"refresh_token"}),
    "oauth-app": frozenset({"client_secret", "client_certificate"}),
    "service-account": frozenset({"service_account"}),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """What the store knows of accounts, by id: the kinds of secrets of each, and whose mail an upstream took lately."""

    secrets: Mapping[int, Collection[str]]
    proved: Collection[int]

    def equipped(self, account: Account) -> bool:
        """Has it what it logs in with?"""
        needed = _CREDENTIALS[account.auth]
        return not needed or bool(needed & set(self.secrets.get(account.id, ())))


def standing(connection: Connection) -> Standing:
    """Of all accounts. Of the history the LOOKED_AT latest attempts count: a stretch of its key, however long it is."""
    kinds: dict[int, set[str]] = {}
    for row in connection.execute(select(secrets_table.c.account_id, secrets_table.c.kind)):
        kinds.setdefault(row.account_id, set()).add(row.kind)
    latest = (
        select(attempts.c.account_id, attempts.c.outcome)
        .order_by(attempts.c.message_id.desc(), attempts.c.number.desc(), attempts.c.attempt.desc())
        .limit(LOOKED_AT)
        .subquery()
    )
    proved = select(latest.c.account_id).where(latest.c.outcome == "accepted").distinct()
    return Standing(kinds, frozenset(connection.scalars(proved)))


def carriers(
    accounts: Iterable[Account], known: Standing, *, named: str, near: str, troubled: Callable[[Account], bool]
) -> list[Account]:
    """The accounts that can carry a notice, best first.

    The `named` one; then those through which mail went, of `near`'s domain before others; then those that have a
    credential which nothing proved yet, likewise.  `near` is an address; `troubled` says whether an account is in
    trouble although its state does not say so.
    """
    wanted, domain = normalise(named), normalise(near).rpartition("@")[2]

    def rank(account: Account) -> tuple[int, int, str]:
        address = normalise(account.address)
        if wanted and address == wanted:
            return 0, 0, address
        return 1 if account.id in known.proved else 2, int(address.rpartition("@")[2] != domain), address

    def able(account: Account) -> bool:
        return account.state is AccountState.OK and known.equipped(account) and not troubled(account)

    return sorted(filter(able, accounts), key=rank)
