"""How much each account still owes."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from relay.database.schema import deliveries


def waiting(connection: Connection) -> dict[int, int]:
    """Owed deliveries by account."""
    counted = connection.execute(
        select(deliveries.c.account_id, func.count())
        .where(deliveries.c.settled_at.is_(None))
        .group_by(deliveries.c.account_id)
    )
    return {int(account_id): int(count) for account_id, count in counted}
