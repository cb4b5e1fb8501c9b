"""Copies that mailboxes' Sent folders are owed: which are due, that one was begun, that it was filed or given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, func, select, update

from relay.database.schema import attempts, deliveries, messages, owed
from relay.mail.content import Content
from relay.queue.model import Owed, State
from relay.queue.owed import let_go

_owed = and_(owed.c.kind == Owed.COPY.value, owed.c.paid_at.is_(None))


@dataclass(frozen=True, slots=True)
class Copy:
    """A message that was relayed through `account_id`. Times are ms since 1970.

    `content` has no octets: `Queue.piece` reads them.  `doubtful`: it was begun before, and may lie in the folder.
    """

    message_id: int
    account_id: int
    header_message_id: str
    content: Content
    accepted_at: int
    relayed_at: int
    doubtful: bool


def due(connection: Connection, now: int, limit: int) -> list[Copy]:
    """What is due, the longest due first."""
    chosen = select(owed.c.message_id).where(_owed, owed.c.due_at <= now).order_by(owed.c.due_at).limit(limit)
    ids = list(connection.scalars(chosen))
    if not ids:
        return []
    taken = (
        select(deliveries.c.message_id, func.min(deliveries.c.settled_at).label("at"))
        .where(deliveries.c.message_id.in_(ids), deliveries.c.state == State.RELAYED.value)
        .group_by(deliveries.c.message_id)
        .subquery()
    )
    through = (
        select(attempts.c.message_id, func.min(attempts.c.account_id).label("account_id"))
        .where(attempts.c.message_id.in_(ids), attempts.c.outcome == "accepted")
        .group_by(attempts.c.message_id)
        .subquery()
    )
    rows = connection.execute(
        select(messages, owed.c.begun_at, owed.c.due_at, taken.c.at, through.c.account_id.label("tried_by"))
        .join(owed, and_(owed.c.message_id == messages.c.id, _owed))
        .outerjoin(taken, taken.c.message_id == messages.c.id)
        .outerjoin(through, through.c.message_id == messages.c.id)
        .where(messages.c.id.in_(ids))
        .order_by(owed.c.due_at, messages.c.id)
    )
    return [
        Copy(
            row.id,
            row.tried_by if row.tried_by is not None else row.account_id,
            row.header_message_id,
            Content(row.size, spool=row.spool),
            row.accepted_at,
            row.at if row.at is not None else row.accepted_at,
            row.begun_at is not None,
        )
        for row in rows
    ]


def next_due(connection: Connection) -> int | None:
    """When the next one is due; None: none is owed."""
    found: int | None = connection.scalar(select(func.min(owed.c.due_at)).where(_owed))
    return found


def begin(connection: Connection, message_id: int, now: int) -> None:
    """It goes out next: whoever finds it after a crash looks in the folder first."""
    connection.execute(update(owed).where(_of(message_id)).values(begun_at=now))


def doubt_all(connection: Connection, now: int) -> None:
    """A store of before is in use again: any copy may have been filed since."""
    connection.execute(update(owed).where(_owed).values(begun_at=now))


def not_taken(connection: Connection, message_id: int) -> None:
    """The server said so: it does not lie in the folder."""
    connection.execute(update(owed).where(_of(message_id)).values(begun_at=None))


def postpone(connection: Connection, message_ids: Sequence[int], until: int) -> None:
    """Try these later."""
    theirs = and_(_owed, owed.c.message_id.in_(list(message_ids)))
    connection.execute(update(owed).where(theirs).values(due_at=until))


def settle(connection: Connection, message_id: int, now: int, *, filed: bool) -> str | None:
    """It is filed (`begun_at` stays as the time of that), or given up. A spool file that may go now, if any."""
    values = {"paid_at": now, "begun_at": now if filed else None}
    connection.execute(update(owed).where(_of(message_id)).values(**values))
    return let_go(connection, message_id)


def _of(message_id: int) -> ColumnElement[bool]:
    return and_(owed.c.message_id == message_id, _owed)
