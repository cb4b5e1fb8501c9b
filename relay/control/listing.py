"""Accounts as people see them: settings filled in, state and its cause, senders, how much waits. Never a secret."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, select

from relay.accounts.model import Account, AccountState
from relay.control.advice import steps_for
from relay.control.context import Control, iso
from relay.control.queue import account_named
from relay.database.schema import deliveries
from relay.diagnosis.catalogue import entry_by_id

OPERATOR = "operator"  # the cause of a suspension that only a person ends


async def account_list(control: Control) -> list[dict[str, Any]]:
    """Every account with its settings filled in, state, senders, and how much waits."""
    counts = await control.database.read(waiting)
    return [_facts(control, account, counts.get(account.id, 0)) for account in control.directory.accounts()]


async def account_show(control: Control, *, account: str) -> dict[str, Any]:
    """One account, with the cause of its suspension and what to do. Never a secret, only which kinds are stored."""
    found = account_named(control, account)
    facts = await entry(control, found)
    facts["secrets"] = await control.vault.kinds(found.id)
    return {**facts, **cause_of(found)}


def waiting(connection: Connection) -> dict[int, int]:
    """Owed deliveries by account."""
    counted = connection.execute(
        select(deliveries.c.account_id, func.count())
        .where(deliveries.c.settled_at.is_(None))
        .group_by(deliveries.c.account_id)
    )
    return {int(account_id): int(count) for account_id, count in counted}


async def entry(control: Control, account: Account) -> dict[str, Any]:
    counts = await control.database.read(waiting)
    return _facts(control, account, counts.get(account.id, 0))


def _facts(control: Control, account: Account, owed: int) -> dict[str, Any]:
    upstream = control.directory.upstream(account)
    return {
        "address": account.address,
        "provider": upstream.provider,
        "host": upstream.host,
        "port": upstream.port,
        "tls": upstream.tls,
        "trust": upstream.trust,
        "login": upstream.login,
        "auth": upstream.auth,
        "max_connections": upstream.max_connections,
        "per_minute": upstream.per_minute,
        "per_day": upstream.per_day,
        "in_doubt": upstream.in_doubt,
        "state": account.state.value,
        "state_cause": account.state_cause,
        "state_reply": account.state_reply,
        "state_since": iso(account.state_since),
        "senders": [sender.pattern for sender in control.directory.senders() if sender.account_id == account.id],
        "waiting": owed,
        "lane": control.lanes.state(account.id) if control.lanes is not None else None,
        "created_at": iso(account.created_at),
    }


def cause_of(account: Account) -> Mapping[str, Any]:
    """Why it is suspended and what to do; empty when it is not."""
    if account.state is not AccountState.SUSPENDED:
        return {"cause": "", "remedy": []}
    if account.state_cause == OPERATOR:
        return {"cause": "an operator suspended it", "remedy": [f"relay account resume {account.address}"]}
    entry = entry_by_id(account.state_cause or "")
    return (
        {"cause": entry.cause, "remedy": steps_for(entry.cls, entry.remedy, account)}
        if entry is not None
        else {"cause": "", "remedy": []}
    )
