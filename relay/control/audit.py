"""Reads the audit trail: who changed what, and when."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from relay.control.context import Control, ControlError, iso, now_ms
from relay.database.schema import audit

_AGE = re.compile(r"(\d{1,6})\s*([smhdw])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_MAX_ROWS = 10_000


async def audit_list(control: Control, *, since: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
    """The last `limit` entries, oldest first. `since`: an age such as 2h or 7d, or a time in ISO 8601 (UTC)."""
    chosen = select(audit).order_by(audit.c.id.desc()).limit(max(1, min(limit, _MAX_ROWS)))
    if since is not None:
        chosen = chosen.where(audit.c.at >= _start(since, now_ms()))
    rows = await control.database.read(lambda connection: connection.execute(chosen).all())
    return [
        {
            "at": iso(row.at),
            "actor": row.actor,
            "action": row.action,
            "target": row.target,
            "detail": json.loads(row.detail),
        }
        for row in reversed(rows)
    ]


def _start(since: str, now: int) -> int:
    """Milliseconds since 1970."""
    if match := _AGE.fullmatch(since.strip().lower()):
        return now - int(match[1]) * _UNITS_S[match[2]] * 1000
    try:
        moment = datetime.fromisoformat(since.strip())
    except ValueError:
        raise ControlError("--since is neither an age nor a time", "give 30m, 2h, 7d, or 2026-11-23T08:00:00") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)
