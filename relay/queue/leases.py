"""Leases: for each account the one node that submits for it, for the periodic jobs the one that does them.

A lease has no expiry of its own: it is its node's as long as that node is alive (see `nodes`), so that renewing costs
one row whatever the node holds.  Each function works in the caller's transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, and_, func, select, text, update

from relay.database.schema import leases, nodes

JOBS = "jobs"  # retention, expiry, notices to people and senders, what ends soon
_ACCOUNT = "account "
_TURN = 0x72656C61796C  # "relayl": the advisory lock of who changes leases or nodes
_TOKEN = "token "  # noqa: S105 - the name of a lease


def of_account(account_id: int) -> str:
    """The lease without which nothing is submitted for the account."""
    return f"{_ACCOUNT}{account_id}"


def of_token(account_id: int) -> str:
    """The lease under which one node at a time asks for an access token of the account."""
    return f"{_TOKEN}{account_id}"


def account_of(name: str) -> int | None:
    """Which account's lease that is; None: another kind."""
    return int(name.removeprefix(_ACCOUNT)) if name.startswith(_ACCOUNT) else None


@dataclass(frozen=True, slots=True)
class Lease:
    """What the taker has to know. `rest_until`, ms since 1970 by the store's clock, may have passed."""

    name: str
    token: int
    rest_until: int
    rest_cause: str
    rest_failures: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What any node may know of an account's lease. `node` None: anybody's."""

    node: int | None
    node_name: str
    rest_until: int
    rest_cause: str


_TAKE = text(
    """
    INSERT INTO leases (name, node, token, since, rest_until, rest_cause, rest_failures)
    SELECT :name, :node, 1, :now, 0, '', 0 WHERE EXISTS (SELECT 1 FROM nodes WHERE id = :node)
    ON CONFLICT (name) DO UPDATE SET node = excluded.node, token = leases.token + 1, since = excluded.since
    WHERE leases.node IS NULL OR leases.node = excluded.node
       OR NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.id = leases.node)
    RETURNING name, token, rest_until, rest_cause, rest_failures
    """
)


def in_turn(connection: Connection) -> None:
    """Until the transaction ends nobody else changes leases or nodes: whole batches would wait for each other."""
    if connection.dialect.name == "postgresql":
        # A node that stands still in its turn must not keep the others from theirs.
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '1s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _TURN})


def take(connection: Connection, node: int, names: Iterable[str], *, now: int) -> tuple[list[Lease], list[str]]:
    """Lease what is nobody's, or of a node that is buried; what that gave, and the names that others hold.

    A node that was buried itself gets nothing.
    """
    in_turn(connection)
    taken: list[Lease] = []
    refused: list[str] = []
    for name in sorted(names):
        row = connection.execute(_TAKE, {"name": name, "node": node, "now": now}).first()
        if row is None:
            refused.append(name)
        else:
            taken.append(Lease(row.name, row.token, row.rest_until, row.rest_cause, row.rest_failures))
    return taken, refused


def free(connection: Connection, node: int, names: Iterable[str]) -> int:
    """Give leases up; how many. What others took over meanwhile is not touched."""
    in_turn(connection)
    mine = and_(leases.c.node == node, leases.c.name.in_(sorted(names)))
    return connection.execute(update(leases).where(mine).values(node=None)).rowcount


def rests(connection: Connection, node: int, name: str, *, until: int, cause: str, failures: int) -> None:
    """The account of this lease rests; 0: not any more. Without effect when it is another's by now."""
    in_turn(connection)
    mine = and_(leases.c.node == node, leases.c.name == name)
    values = {"rest_until": until, "rest_cause": cause, "rest_failures": failures}
    connection.execute(update(leases).where(mine).values(**values))


def holds(connection: Connection, node: int, name: str) -> bool:
    """Does the node hold that lease?

    Unlocked: it is freed by itself, after its claims have come, or by being buried, when it sends nothing any more.
    """
    mine = select(leases.c.token).where(leases.c.name == name, leases.c.node == node)
    return connection.scalar(mine) is not None


def holder(connection: Connection, name: str) -> int | None:
    """The living node that has that lease; None: it is anybody's."""
    chosen = select(nodes.c.id).join(leases, leases.c.node == nodes.c.id).where(leases.c.name == name)
    found: int | None = connection.scalar(chosen)
    return found


def held_by(connection: Connection) -> dict[int, int]:
    """How many accounts each living node holds, 0 included."""
    mine = and_(leases.c.node == nodes.c.id, leases.c.name.like(f"{_ACCOUNT}%"))
    counted = select(nodes.c.id, func.count(leases.c.name)).select_from(nodes.outerjoin(leases, mine))
    return {row[0]: row[1] for row in connection.execute(counted.group_by(nodes.c.id))}


def standings(connection: Connection) -> dict[int, Standing]:
    """Of every account that ever had a lease."""
    chosen = select(
        leases.c.name, nodes.c.id, nodes.c.name.label("node_name"), leases.c.rest_until, leases.c.rest_cause
    )
    found: dict[int, Standing] = {}
    rows: Iterable[Row[Any]] = connection.execute(
        chosen.select_from(leases.outerjoin(nodes, nodes.c.id == leases.c.node)).where(
            leases.c.name.like(f"{_ACCOUNT}%")
        )
    )
    for row in rows:
        account_id = account_of(row.name)
        if account_id is not None:
            found[account_id] = Standing(row.id, row.node_name or "", row.rest_until, row.rest_cause)
    return found


def surplus(held: dict[int, int], node: int) -> tuple[int, int]:
    """How many accounts a node should hand over now, and to which: (0, 0) when it holds no more than its share.

    A node that holds more than one above the even share gives a quarter of what is above it (at least one) to the one
    with the fewest.  Pure; every node comes to the same answer from the same counts.
    """
    if node not in held or len(held) < 2:
        return 0, 0
    share = -(-sum(held.values()) // len(held))
    above = held[node] - share
    poorest = min(held, key=lambda other: (held[other], other))
    if above < 1 or poorest == node or held[node] - held[poorest] < 2:
        return 0, 0
    return max(1, above // 4), poorest
