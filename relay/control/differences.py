"""What a change did to what is registered: for the audit trail, never with a secret."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from relay.accounts import store
from relay.accounts.errors import AccountNotFound
from relay.accounts.normalise import BadAddress, normalise_pattern
from relay.database.schema import accounts, clients, secrets, senders

_OF_NO_INTEREST = frozenset({"id", "account_id", "revision", "created_at", "state_since", "state_reply"})
_HIDDEN = frozenset({"password_hash"})


def registered(connection: Connection, action: str, target: str) -> dict[str, Any]:
    """What is registered under `target` for an action such as account.set; empty: nothing, or another kind of action.

    Of a secret only since when it is there (ms since 1970), under `secret <kind>`.
    """
    kind = action.partition(".")[0]
    if kind == "account":
        return _account(connection, target)
    if kind == "sender":
        return _sender(connection, target)
    if kind == "client":
        found = connection.execute(select(clients).where(clients.c.name == target)).one_or_none()
        return _facts(found._asdict()) if found is not None else {}
    return {}


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """`before` and `after` with the fields that differ, each only where there is one; empty: nothing differs."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    sides = {
        "before": {name: before[name] for name in names if before.get(name) is not None},
        "after": {name: after[name] for name in names if after.get(name) is not None},
    }
    return {side: values for side, values in sides.items() if values}


def _account(connection: Connection, address: str) -> dict[str, Any]:
    try:
        account_id = store.find_account(connection, address).id
    except AccountNotFound:
        return {}
    row = connection.execute(select(accounts).where(accounts.c.id == account_id)).one()
    sealed = select(secrets.c.kind, secrets.c.changed_at).where(secrets.c.account_id == account_id)
    kept = {f"secret {kind}": changed_at for kind, changed_at in connection.execute(sealed)}
    return _facts(row._asdict()) | kept


def _sender(connection: Connection, text: str) -> dict[str, Any]:
    try:
        pattern = normalise_pattern(text)
    except BadAddress:
        return {}
    row = connection.execute(
        select(senders.c.pattern, senders.c.from_policy, accounts.c.address.label("account"))
        .join(accounts, accounts.c.id == senders.c.account_id)
        .where(senders.c.pattern == pattern)
    ).one_or_none()
    return _facts(row._asdict()) if row is not None else {}


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns for people: JSON within JSON is opened, what nobody may see is only said to be there."""
    facts = {name: _opened(value) for name, value in row.items() if name not in _OF_NO_INTEREST}
    facts |= facts.pop("options", {})  # of a client: its less common fields
    return {name: "set" if name in _HIDDEN and value is not None else value for name, value in facts.items()}


def _opened(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
