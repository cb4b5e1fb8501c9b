"""What an account has sent lately, so that a restart does not give it a second daily quota."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from relay.database.schema import attempts

_HOUR_MS = 3_600_000


def relayed_by_hour(connection: Connection, account_id: int, since: int) -> dict[int, int]:
    """Recipients accepted upstream since `since` (ms since 1970), by hour number since 1970."""
    hour = attempts.c.at // _HOUR_MS
    rows = connection.execute(
        select(hour, func.count())
        .where(attempts.c.account_id == account_id, attempts.c.at >= since, attempts.c.outcome == "accepted")
        .group_by(hour)
    )
    return {int(row[0]): int(row[1]) for row in rows}


def relayed_since(connection: Connection, account_id: int, since: int) -> int:
    """Messages accepted upstream since then (ms since 1970)."""
    lately = (attempts.c.account_id == account_id, attempts.c.at >= since, attempts.c.outcome == "accepted")
    return connection.scalar(select(func.count(attempts.c.message_id.distinct())).where(*lately)) or 0
