"""What time does to the queue: deliveries expire, history is forgotten."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, select, text, update

from relay.database.schema import attempts, contents, deliveries, messages
from relay.mail.content import Content
from relay.mail.ids import first_id_at
from relay.queue.model import Delivery, Message, State
from relay.queue.ours import prune_record

_FREE_PAGES = 4096
_PAGES_AT_A_TIME = 2048


def expire(
    connection: Connection, cutoff: int, now: int, limit: int
) -> tuple[list[tuple[Message, Delivery]], list[str]]:
    """Settle as expired what waits and was accepted before `cutoff`; the deliveries, and spool files done with."""
    late = and_(
        deliveries.c.settled_at.is_(None),
        deliveries.c.owner.is_(None),
        deliveries.c.state != State.HELD.value,
        messages.c.accepted_at < cutoff,
    )
    rows = connection.execute(
        select(deliveries, messages.c.reverse_path, messages.c.header_message_id, messages.c.client)
        .add_columns(messages.c.size, messages.c.spool, messages.c.accepted_at)
        .join(messages, messages.c.id == deliveries.c.message_id)
        .where(late)
        .limit(limit)
    ).all()
    expired: list[tuple[Message, Delivery]] = []
    for row in rows:
        connection.execute(
            update(deliveries)
            .where(deliveries.c.message_id == row.message_id, deliveries.c.number == row.number)
            .values(state=State.EXPIRED.value, settled_at=now)
        )
        delivery = Delivery(row.number, row.recipient, State.EXPIRED, row.due_at, row.attempts, row.token)
        content = Content(row.size, spool=row.spool)
        expired.append(
            (
                Message(
                    row.message_id,
                    row.account_id,
                    row.reverse_path,
                    row.header_message_id,
                    row.client,
                    content,
                    False,
                    False,
                    row.accepted_at,
                    [delivery],
                ),
                delivery,
            )
        )
    ids = {message.id for message, _ in expired}
    done = connection.execute(select(messages.c.id, messages.c.spool).where(messages.c.id.in_(ids), ~_owed())).all()
    connection.execute(delete(contents).where(contents.c.message_id.in_([row.id for row in done])))
    return expired, [row.spool for row in done if row.spool is not None]


def prune(connection: Connection, cutoff: int, limit: int) -> int:
    """Delete messages accepted before `cutoff` of which nothing is owed, with all their history; how many."""
    before = and_(messages.c.id < first_id_at(cutoff), messages.c.accepted_at < cutoff)  # ids grow with time
    old = select(messages.c.id).where(before, ~_owed()).order_by(messages.c.id).limit(limit)
    ids = [row.id for row in connection.execute(old)]
    for table, column in (
        (attempts, attempts.c.message_id),
        (deliveries, deliveries.c.message_id),
        (contents, contents.c.message_id),
        (messages, messages.c.id),
    ):
        connection.execute(delete(table).where(column.in_(ids)))
    prune_record(connection, cutoff)
    return len(ids)


def owed_files(connection: Connection) -> set[str]:
    """The spool files of messages of which something is owed; every other file may go."""
    named = select(messages.c.spool).where(messages.c.spool.is_not(None), _owed())
    return {row.spool for row in connection.execute(named)}


def shrink(connection: Connection) -> None:
    """Cut free pages off the file, some at a time, once there are many (sqlite.org/pragma.html, incremental_vacuum)."""
    if connection.dialect.name == "sqlite" and connection.scalar(text("PRAGMA freelist_count")) > _FREE_PAGES:
        connection.execute(text(f"PRAGMA incremental_vacuum({_PAGES_AT_A_TIME})")).all()


def _owed() -> ColumnElement[bool]:
    return exists(
        select(deliveries.c.number).where(deliveries.c.message_id == messages.c.id, deliveries.c.settled_at.is_(None))
    )
