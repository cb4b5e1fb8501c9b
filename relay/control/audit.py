"""Reads the audit trail: who changed what, and when."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import select

from relay.control.context import Control, iso, now_ms
from relay.control.moments import moment_ms
from relay.database.schema import audit

_MAX_ROWS = 10_000


async def audit_list(control: Control, *, since: str | None = None, limit: int = 200) -> list[dict[str, Any]]:
    """The last `limit` entries, oldest first. `since`: an age such as 2h or 7d, or a time in ISO 8601 (UTC)."""
    chosen = select(audit).order_by(audit.c.id.desc()).limit(max(1, min(limit, _MAX_ROWS)))
    if since is not None:
        chosen = chosen.where(audit.c.at >= moment_ms(since, now_ms(), "--since"))
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
