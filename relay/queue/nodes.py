"""The nodes on a shared store: they join, renew their lease, leave, and are buried when it has passed.

Each function works in the caller's transaction.  `now` is the store's clock, in ms since 1970: no node's own clock
decides anything.  A node is alive as long as its row is there: only `bury` and `leave` delete rows, and with them, in
one transaction, everything the node held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, func, insert, or_, select, text, update

from relay.database.schema import leases, messages, nodes
from relay.mail.ids import NODES
from relay.queue.claims import give_up, give_up_orphans, release
from relay.queue.leases import in_turn

_CHANNEL = "relay"
_END_STALLED = text(
    """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND application_name LIKE 'relay writer%'
      AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
      AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - interval '1 second'
    """
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who joins. `home` names a data folder whose lock the process holds: no other process of that folder lives."""

    name: str
    home: str
    version: str
    pid: int


@dataclass(frozen=True, slots=True)
class Buried:
    """A node whose lease had passed, or whose process is surely gone. `in_doubt`: message ids, its dots were out."""

    node: int
    name: str
    in_doubt: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """`number` is for `IdSource`, which goes on behind `largest`."""

    node: int
    number: int
    largest: int
    buried: tuple[Buried, ...]


def store_now(connection: Connection) -> int:
    """The store's clock at this moment, ms since 1970 (PostgreSQL)."""
    return int(connection.scalar(text("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")) or 0)


def ring(connection: Connection, payload: str) -> None:
    """Every node hears this once the transaction is committed. At most 7,999 octets (PostgreSQL)."""
    connection.execute(text("SELECT pg_notify(:channel, :payload)"), {"channel": _CHANNEL, "payload": payload})


def join(connection: Connection, who: Identity, *, now: int, lease_ms: int) -> Joined:
    """Become a node, after burying what this one's earlier lives left: that they are dead is proved by the lock."""
    in_turn(connection)
    before = select(nodes.c.id).where(nodes.c.home == who.home).order_by(nodes.c.id)
    buried = bury(connection, list(connection.scalars(before)), now=now)
    taken = {node % NODES for node in connection.scalars(select(nodes.c.id))}
    skipped: list[int] = []  # whose ids would be those of a node that lives
    while True:
        row = connection.execute(
            insert(nodes).values(
                started_at=now,
                lease_until=now + lease_ms,
                name=who.name,
                home=who.home,
                version=who.version,
                pid=who.pid,
            )
        )
        assert row.inserted_primary_key is not None
        node = int(row.inserted_primary_key[0])
        if node % NODES not in taken:
            break
        skipped.append(node)
    connection.execute(delete(nodes).where(nodes.c.id.in_(skipped)))
    largest = connection.execute(select(func.max(messages.c.id))).scalar() or 0
    return Joined(node, node % NODES, largest, tuple(buried))


def renew(connection: Connection, node: int, *, now: int, lease_ms: int) -> bool:
    """Everything the node holds is its own for so much longer; False: it was buried, nothing is."""
    in_turn(connection)
    mine = update(nodes).where(nodes.c.id == node).values(lease_until=now + lease_ms)
    return bool(connection.execute(mine).rowcount)


def overdue(connection: Connection, *, now: int, longest_ms: int) -> list[int]:
    """The nodes whose lease has passed, or would last for longer than any; call it in turn."""
    late = or_(nodes.c.lease_until < now, nodes.c.lease_until > now + longest_ms)
    return list(connection.scalars(select(nodes.c.id).where(late).order_by(nodes.c.id)))


def bury(connection: Connection, ids: Sequence[int], *, now: int) -> list[Buried]:
    """Take everything from these nodes: their leases are anybody's, their deliveries wait in the store again."""
    if ids:
        _end_stalled(connection)
    buried: list[Buried] = []
    for node in ids:
        name = connection.scalar(select(nodes.c.name).where(nodes.c.id == node)) or ""
        in_doubt = give_up(connection, node, now=now)
        connection.execute(update(leases).where(leases.c.node == node).values(node=None))
        connection.execute(delete(nodes).where(nodes.c.id == node))
        buried.append(Buried(node, name, tuple(in_doubt)))
    return buried


def _end_stalled(connection: Connection) -> None:
    """End transactions that have waited for their own node for a second: it may have stopped in the midst of one.

    The rows that it changed would be kept from whoever buries it for as long as its connection lasts: for hours, if
    its machine stands still.  No timeout of the server's ends one that stopped between two statements of a pipeline.
    A node that was only slow connects again, and looks up what became of its commit.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_END_STALLED)


def sweep(connection: Connection, *, now: int) -> list[int]:
    """Take what nodes wrote as their own after they were buried; message ids whose dots may have been out."""
    return give_up_orphans(connection, now=now)


def leave(connection: Connection, node: int) -> None:
    """An orderly end: nothing is in its dot."""
    in_turn(connection)
    release(connection, node)
    connection.execute(update(leases).where(leases.c.node == node).values(node=None))
    connection.execute(delete(nodes).where(nodes.c.id == node))
