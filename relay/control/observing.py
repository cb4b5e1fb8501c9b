"""What machines ask of a running daemon: is it alive, can it take mail, its metrics; and the overview for people."""

from __future__ import annotations

import os
from typing import Any

import relay
from relay.accounts.model import AccountState
from relay.accounts.transitions import OPERATOR
from relay.config.described import describe
from relay.control.context import Control, now_ms
from relay.control.listing import cause_of
from relay.control.summary import queue_summary
from relay.queue.waiting import tally
from relay.telemetry.counters import BUCKETS_S, COUNTERS
from relay.telemetry.logging import recent_lines
from relay.telemetry.redaction import secret_key
from relay.telemetry.sampler import SAMPLER, Minute

_RECENT_S = 3600


async def health(control: Control) -> dict[str, Any]:
    """{"ready": bool, "reasons": [...]}: whether a mail would be taken now, and if not, why."""
    reasons = []
    room = control.queue.room
    if not room.enough():
        reasons.append(f"storage: {room.free_bytes} octets are free, {room.floor_bytes} are kept free")
    if not control.database.available:
        reasons.append(f"storage: {control.database.trouble}")
    if control.lanes is None:
        reasons.append("no daemon runs")
    elif not control.lanes.flowing():
        reasons.append("storage: outcomes cannot be recorded")
    return {"ready": not reasons, "reasons": reasons, "version": relay.__version__}


async def metrics(control: Control) -> dict[str, Any]:
    """Every series of the process: {"numbers": {metric: [[labels, value], …]}, "histograms": {metric: …}}.

    Gauges of the queue are counted now; `buckets` are not cumulated, the last one is above all bounds.
    """
    await _measure(control)
    return {
        "numbers": {
            name: [[dict(labels), value] for labels, value in series.items()]
            for name, series in COUNTERS.snapshot().items()
        },
        "histograms": {
            name: {"buckets": found.buckets, "total": found.total, "bounds": list(BUCKETS_S)}
            for name, found in COUNTERS.histograms().items()
        },
    }


async def overview(control: Control, *, waits: bool = False) -> dict[str, Any]:
    """What an administrator looks at first: outcomes, the queue, the accounts that need somebody.

    `waits`: with the summary of the queue, under that name, for little more than the same count.
    """
    now = now_ms()
    if waits:
        summary = await queue_summary(control)
        states, oldest_s, more = summary["states"], summary["oldest_s"], {"waits": summary}
    else:
        (states, oldest_s), more = await _queue(control, now), {}
    accounts = control.directory.accounts()
    troubled = [
        {
            "account": account.address,
            "since": account.state_since,
            "operator": account.state_cause == OPERATOR,
            **cause_of(account),
        }
        for account in accounts
        if account.state is AccountState.SUSPENDED
    ]
    lanes = control.lanes
    resting = [
        {"account": account.address, **lanes.state(account.id)}
        for account in accounts
        if lanes is not None and lanes.state(account.id).get("resting_s")
    ]
    minutes = SAMPLER.since(_RECENT_S)
    return {
        "at_ms": now,
        "hour": {name: sum(getattr(minute, name) for minute in minutes) for name in Minute._fields[1:]},
        "minutes": minutes,
        "queue": states,
        "oldest_s": oldest_s,
        "accounts": {"all": len(accounts), "suspended": len(troubled), "resting": len(resting)},
        "troubled": troubled,
        "resting": resting,
        **more,
        **await health(control),
    }


async def log_tail(control: Control, *, limit: int = 200) -> list[dict[str, Any]]:
    """The last lines of the log, newest first; secrets are masked in them as in the log itself."""
    lines = []
    for line in reversed(recent_lines()[-max(1, min(limit, 500)) :]):
        lines.append({"line": line.decode("utf-8", "replace").rstrip()})
    return lines


async def settings_show(control: Control) -> list[dict[str, Any]]:
    """Every setting with its value and where it came from; a value that may be secret is not shown."""
    return [
        {
            "name": one.name,
            "value": "***" if one.value and secret_key(one.name) else one.value,
            "origin": one.origin,
            "default": one.default,
            "meaning": one.meaning,
        }
        for one in describe(control.settings, os.environ)
    ]


async def _measure(control: Control) -> None:
    states, oldest_s = await _queue(control, now_ms())
    for state in ("queued", "active", "deferred", "held", "in_doubt"):
        COUNTERS.gauge("relay_queue_deliveries", states.get(state, 0), state=state)
    COUNTERS.gauge("relay_queue_oldest_seconds", oldest_s)
    COUNTERS.gauge("relay_ready", float((await health(control))["ready"]))
    COUNTERS.gauge("relay_storage_free_bytes", control.queue.room.free_bytes)
    for account in control.directory.accounts():
        lane = control.lanes.state(account.id) if control.lanes is not None else {}
        connections = lane.get("connections", 0)
        COUNTERS.gauge(
            "relay_upstream_connections", connections if isinstance(connections, int) else 0, account=account.address
        )


async def _queue(control: Control, now: int) -> tuple[dict[str, int], int]:
    """Deliveries that are owed, by state, and for how many seconds the oldest is (0: none)."""
    found = await control.database.read(tally)
    return found.in_all(), max(0, now - (found.oldest_at or now)) // 1000
