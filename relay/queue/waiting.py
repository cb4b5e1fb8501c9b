"""How much each account still owes."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from relay.database.schema import deliveries, messages
from relay.queue.model import SETTLED, State

_OWED = tuple(state.value for state in State if state not in SETTLED)


class Tally(NamedTuple):
    """`states`: by account how many owed deliveries are in each state; none: not in it. `oldest_at`: ms since 1970."""

    states: dict[int, dict[str, int]]
    oldest_at: int | None

    def in_all(self) -> dict[str, int]:
        """By state alone."""
        found: dict[str, int] = {}
        for states in self.states.values():
            for state, count in states.items():
                found[state] = found.get(state, 0) + count
        return found


def tally(connection: Connection) -> Tally:
    """What is owed, by account and state, and since when. In the order of the index: nothing is sorted."""
    counts = [func.count().filter(deliveries.c.state == state) for state in _OWED]
    counted = connection.execute(
        select(deliveries.c.account_id, func.min(deliveries.c.message_id), *counts)
        .where(deliveries.c.settled_at.is_(None))
        .group_by(deliveries.c.account_id)
    ).all()
    states = {
        int(account_id): {state: int(count) for state, count in zip(_OWED, found, strict=True) if count}
        for account_id, _, *found in counted
    }
    oldest = min((row[1] for row in counted), default=0)  # ids grow with time
    return Tally(states, connection.scalar(select(messages.c.accepted_at).where(messages.c.id == oldest)))


def waiting(connection: Connection, accounts: Collection[int] | None = None) -> dict[int, int]:
    """Owed deliveries by account: of these (None: all) that have any."""
    chosen = select(deliveries.c.account_id, func.count()).where(deliveries.c.settled_at.is_(None))
    if accounts is not None:
        chosen = chosen.where(deliveries.c.account_id.in_(accounts))
    counted = connection.execute(chosen.group_by(deliveries.c.account_id))
    return {int(account_id): int(count) for account_id, count in counted}
