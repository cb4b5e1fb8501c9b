"""What a node asks of the shared store in one go: its heartbeat, the accounts it wants, what is due."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from relay.database.schema import FAR_FUTURE_MS, deliveries
from relay.queue import leases, nodes
from relay.queue.leases import JOBS, Lease, Standing, of_account
from relay.queue.nodes import Buried

_LEASES = 10  # who has a lease for so many times its length was dead before the store's clock was set back
_ACCOUNTS = 400  # in one call: PostgreSQL takes less than 8,000 octets


@dataclass(slots=True)
class Seen:
    """`now`: the store's clock, ms since 1970. `held`: accounts by living node. `in_doubt`: of what nobody owned."""

    now: int
    renewed: bool
    leads: bool = False
    buried: list[Buried] = field(default_factory=list)
    in_doubt: list[int] = field(default_factory=list)
    held: dict[int, int] = field(default_factory=dict)


def beat(connection: Connection, node: int, *, lease_ms: int, bury: Callable[[int], bool]) -> Seen:
    """Renew this node's lease, and bury those whose lease has passed, unless `bury`, given the store's clock, says no.

    It does where it is too early to judge.
    """
    now = nodes.store_now(connection)
    judges = bury(now)
    if not nodes.renew(connection, node, now=now, lease_ms=lease_ms):
        return Seen(now, renewed=False)
    seen = Seen(now, renewed=True)
    if judges:
        overdue = nodes.overdue(connection, now=now, longest_ms=_LEASES * lease_ms)
        seen.buried = nodes.bury(connection, overdue, now=now)
    seen.leads = bool(leases.take(connection, node, [JOBS], now=now)[0])
    if seen.leads and judges:
        seen.in_doubt = nodes.sweep(connection, now=now)
    if seen.buried or seen.in_doubt:
        nodes.ring(connection, "freed")
    seen.held = leases.held_by(connection)
    return seen


def ask(connection: Connection, node: int, accounts: Iterable[int], *, now: int) -> tuple[list[Lease], list[int]]:
    """Lease these accounts; tell the nodes that hold the others that something is due for them."""
    names = {of_account(account_id): account_id for account_id in accounts}
    taken, refused = leases.take(connection, node, names, now=now)
    others = [names[name] for name in refused]
    for start in range(0, len(others), _ACCOUNTS):
        nodes.ring(connection, f"due {','.join(map(str, others[start : start + _ACCOUNTS]))}")
    return taken, others


def due(connection: Connection) -> tuple[dict[int, int], dict[int, Standing]]:
    """When the first delivery of each account that nobody has in hand is due; and who submits for which account."""
    waiting = (
        select(deliveries.c.account_id, func.min(deliveries.c.due_at))
        .where(deliveries.c.settled_at.is_(None), deliveries.c.owner.is_(None), deliveries.c.due_at < FAR_FUTURE_MS)
        .group_by(deliveries.c.account_id)
    )
    return {row[0]: row[1] for row in connection.execute(waiting)}, leases.standings(connection)
