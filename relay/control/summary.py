"""What waits for each account, why, and when it will be gone."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, and_, func, select

from relay.accounts.model import AccountState
from relay.control.context import Control, iso, now_ms
from relay.control.listing import cause_of
from relay.control.queue import account_name
from relay.database.schema import FAR_FUTURE_MS, deliveries
from relay.diagnosis.catalogue import entry_by_id
from relay.diagnosis.conditions import CONDITIONS
from relay.dispatch.forecast import Forecast, Limits, Waiting, forecast, quota_free_at
from relay.dispatch.history import relayed_by_hour
from relay.mail.counted import counted
from relay.queue.waiting import Tally, tally

_DAY_MS = 86_400_000
_MINUTE_MS = 60_000


async def queue_summary(control: Control) -> dict[str, Any]:
    """What is owed: in all, by state, and for each account how much, why it waits, and when it is gone.

    `ends_at` None: a person has to act first, or nobody can say; else when the last one goes if the upstream takes
    everything at the first try, and `limited_by` what that is owed to.  `lane` is None when no daemon runs.
    """
    now = now_ms()
    running = {account.id for account in control.directory.accounts() if account.state is not AccountState.SUSPENDED}

    def read(connection: Connection) -> tuple[Tally, dict[int, list[Waiting]]]:
        found = tally(connection)
        return found, _load(connection, found.states.keys() & running, now)

    found, load = await control.database.read(read)
    entries = {
        account_id: {"deliveries": sum(states.values()), "states": states}
        for account_id, states in found.states.items()
    }
    shown = [await _account(control, account_id, entry, load, now) for account_id, entry in entries.items()]
    in_all = found.in_all()
    return {
        "deliveries": sum(in_all.values()),
        "oldest_s": max(0, now - (found.oldest_at or now)) // 1000,
        "states": in_all,
        "accounts": sorted(shown, key=lambda entry: str(entry["account"])),
    }


def _load(connection: Connection, accounts: Collection[int], now: int) -> dict[int, list[Waiting]]:
    """What is not held, by account: what is due, and for each minute what is due then. One account after the other."""
    due, minute = deliveries.c.due_at, (deliveries.c.due_at // _MINUTE_MS).label("minute")
    counts = (func.count(deliveries.c.message_id.distinct()), func.count())
    load: dict[int, list[Waiting]] = {}
    for account_id in accounts:
        theirs = and_(deliveries.c.account_id == account_id, deliveries.c.settled_at.is_(None))
        count, recipients = connection.execute(select(*counts).where(theirs, due <= now)).one()
        load[account_id] = _evenly(now / 1000, count, recipients) if count else []
        later = select(minute, *counts).where(theirs, due > now, due < FAR_FUTURE_MS).group_by(minute)
        for at, count, recipients in connection.execute(later):
            load[account_id].extend(_evenly((at + 1) * _MINUTE_MS / 1000, count, recipients))
    return load


def _evenly(due_s: float, count: int, recipients: int) -> list[Waiting]:
    """So many messages with so many recipients in all, each with about equally many."""
    each, more = divmod(recipients, count)
    return [Waiting(due_s, each, count - more), Waiting(due_s, each + 1, more)]


async def _account(
    control: Control, account_id: int, entry: dict[str, Any], load: dict[int, list[Waiting]], now: int
) -> dict[str, Any]:
    account = control.directory.account(account_id)
    lane = control.lanes.state(account_id) if control.lanes is not None else None
    held = entry["states"].get("held", 0)
    facts = {
        "account": account_name(control, account_id),
        "state": account.state.value if account is not None else "removed",
        **entry,
        "held": held,
        "lane": lane,
        "per_minute": 0,
        "per_day": 0,
        "sent_today": None,
        "resting_until": None,
        "quota_until": None,
        "ends_at": None,
        "limited_by": None,
        "why": "",
        "remedy": [],
    }
    if account is None:
        return facts | {"why": "its account was removed", "remedy": ["relay sender add PATTERN ACCOUNT"]}
    upstream = control.directory.upstream(account)
    facts |= {"per_minute": upstream.per_minute, "per_day": upstream.per_day}
    if account.state is AccountState.SUSPENDED:
        cause = cause_of(account)
        return facts | {"why": f"suspended: {cause['cause']}", "remedy": list(cause["remedy"])}
    if entry["deliveries"] == held:
        return facts | {"why": "held by an operator", "remedy": [f"relay queue release --account {account.address}"]}
    waiting = load.get(account_id, [])
    sent = await _sent(control, account_id, now) if upstream.per_day else {}
    rest_s = float(lane["resting_s"]) if lane is not None else 0.0  # type: ignore[arg-type]
    limits = Limits(upstream.per_minute, upstream.per_day, upstream.recipients_per_transaction)
    found = await asyncio.to_thread(
        forecast, waiting, limits, now_s=now / 1000, rests_until_s=now / 1000 + rest_s, sent=sent
    )
    quota_until = quota_free_at(1, upstream.per_day, now_s=now / 1000, sent=sent)
    resting_until = now + int(rest_s * 1000) if rest_s else None
    return facts | {
        "sent_today": sum(sent.values()) if upstream.per_day else None,
        "resting_until": iso(resting_until),
        "quota_until": iso(int(quota_until * 1000)) if quota_until is not None else None,
        "ends_at": iso(int(found.end_s * 1000)) if found.end_s is not None else None,
        "limited_by": found.limited_by,
        "why": _why(found, lane, quota_until is not None, limits),
    }


async def _sent(control: Control, account_id: int, now: int) -> dict[int, int]:
    known = control.lanes.sent(account_id) if control.lanes is not None else None
    if known is not None:
        return known
    return await control.database.read(lambda connection: relayed_by_hour(connection, account_id, now - _DAY_MS))


def _why(found: Forecast, lane: dict[str, object] | None, spent: bool, limits: Limits) -> str:
    """In a few words, the most urgent reason first."""
    if spent:
        return f"its quota of {counted(limits.per_day, 'recipient')} a day is used up"
    if lane is not None and lane["resting_s"]:
        cause = str(lane["cause"])
        known = entry_by_id(cause) or CONDITIONS.get(cause)
        return f"resting: {known.cause if known is not None else cause or 'its upstream failed'}"
    match found.limited_by:
        case "quota":
            return f"its quota of {counted(limits.per_day, 'recipient')} a day"
        case "pace":
            return f"paced at {counted(limits.per_minute, 'message')} a minute"
        case "retry":
            return "waits for its next try"
        case _:
            return "on its way" if lane is not None else "no relay runs"
