"""What time does to the queue: deliveries expire, history is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sqlalchemy import LABEL_STYLE_TABLENAME_PLUS_COL, Connection, Row, and_, delete, select, text, update

from relay.database.engine import Database
from relay.database.schema import (
    FAR_FUTURE_MS,
    attempts,
    audit,
    conditions,
    contents,
    deliveries,
    login_tries,
    messages,
    notices,
    owed,
    returned,
)
from relay.mail.content import Content
from relay.mail.dsn import NO_MESSAGE_REQUEST, NO_RECIPIENT_REQUEST, message_request, recipient_request
from relay.mail.ids import first_id_at
from relay.queue.model import Delivery, Message, Owed, State
from relay.queue.ours import prune_record
from relay.queue.owed import asked_for, owe, owe_delayed, sender_is_owed, unfinished, unsettled
from relay.queue.spool import Spool

_FREE_PAGES = 4096
# What lies ahead of a clock that was set back would hold notices up, or keep limits shut, for as long.
_MOMENTS = (owed.c.due_at, notices.c.at, conditions.c.notified_at, login_tries.c.at)
_PAGES_AT_A_TIME = 2048


class Aging:
    """What time does, done when it is asked for. `owed` is called when a sender has to be told something.

    `announce` gets the accounts of what may be due sooner.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        *,
        announce: Callable[[int], None],
        owed: Callable[[], None],
        clock: Callable[[], int],
    ) -> None:
        self._database = database
        self._spool = spool
        self._on_backlog = announce
        self._on_owed = owed
        self._clock = clock

    async def expire(self, lifetime_ms: int, *, limit: int) -> list[tuple[Message, Delivery]]:
        """Settle what waits in the store longer than its lifetime (held deliveries excepted); what was expired."""
        cutoff = self._clock() - lifetime_ms
        expired, files = await self._database.write(lambda c: _expire(c, cutoff, self._clock(), limit))
        await asyncio.to_thread(self._spool.remove, files)
        if expired:
            self._on_owed()
        return expired

    async def follow_clock(self, by_ms: int) -> None:
        """The clock was set by so much (negative: back) while this ran: ages and waits stay as they are."""
        now = self._clock()
        for account_id in await self._database.write(lambda c: _follow_clock(c, by_ms, now)):
            self._on_backlog(account_id)

    async def delay(self, age_ms: int, *, after: int, limit: int) -> tuple[list[Row[Any]], int, bool]:
        """Owe a word about what waits for `age_ms`; see `owed.owe_delayed`."""
        now = self._clock()
        found, last, done = await self._database.write(
            lambda c: owe_delayed(c, after=after, before_ms=now - age_ms, now=now, limit=limit)
        )
        if found:
            self._on_owed()
        return found, last, done

    async def prune(self, history_ms: int, *, limit: int) -> int:
        """Forget settled messages older than `history_ms`, at most `limit`; how many."""
        cutoff = self._clock() - history_ms
        return await self._database.write(lambda c: _prune(c, cutoff, limit))

    async def prune_audit(self, kept_ms: int, *, limit: int) -> int:
        """Forget entries of the audit trail that are older than `kept_ms`, at most `limit`; how many."""
        cutoff = self._clock() - kept_ms
        return await self._database.write(lambda c: _prune_audit(c, cutoff, limit))

    async def shrink(self) -> None:
        """Give some of the store's free pages back to the device."""
        await self._database.write(_shrink)


def _expire(
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
        select(deliveries, messages)
        .join(messages, messages.c.id == deliveries.c.message_id)
        .where(late)
        .limit(limit)
        .set_label_style(LABEL_STYLE_TABLENAME_PLUS_COL)
    ).all()
    expired: list[tuple[Message, Delivery]] = []
    for row in rows:
        message, delivery = _as_expired(row)
        connection.execute(
            update(deliveries)
            .where(deliveries.c.message_id == message.id, deliveries.c.number == delivery.number)
            .values(state=State.EXPIRED.value, settled_at=now)
        )
        expired.append((message, delivery))
    owe(
        connection,
        [
            (message.id, delivery.number, Owed.FAILED)
            for message, delivery in expired
            if sender_is_owed(message.reverse_path, message.original_path, message.notice)
            and asked_for(delivery.request.notify, Owed.FAILED)
        ],
        now,
    )
    ids = {message.id for message, _ in expired}
    done = connection.execute(select(messages.c.id, messages.c.spool).where(messages.c.id.in_(ids), ~unfinished()))
    rows_done = done.all()
    connection.execute(delete(contents).where(contents.c.message_id.in_([row.id for row in rows_done])))
    return expired, [row.spool for row in rows_done if row.spool is not None]


def _follow_clock(connection: Connection, by_ms: int, now: int) -> list[int]:
    """The clock was set by `by_ms`, to `now`: keep ages and waits; the accounts of what waits.

    Set forward: what was accepted before is younger than it seems; that its waits are over early harms nobody.  Set
    back: waits would last so much longer, and so would limits of what was told and tried in the last hour; that what
    was accepted before seems too young only lets it be tried longer.  Doing it twice, as after a crash, is no harm.
    """
    if by_ms > 0:
        before = and_(messages.c.accepted_at <= now - by_ms, unsettled())
        connection.execute(update(messages).where(before).values(accepted_at=messages.c.accepted_at + by_ms))
    else:
        waits = and_(deliveries.c.settled_at.is_(None), deliveries.c.due_at > now, deliveries.c.due_at < FAR_FUTURE_MS)
        connection.execute(update(deliveries).where(waits).values(due_at=deliveries.c.due_at + by_ms))
        for column in _MOMENTS:
            ahead = and_(column > now, column < FAR_FUTURE_MS)
            connection.execute(update(column.table).where(ahead).values({column.name: column + by_ms}))
    waiting = select(deliveries.c.account_id).where(deliveries.c.settled_at.is_(None)).distinct()
    return list(connection.scalars(waiting))


def _as_expired(row: Row[Any]) -> tuple[Message, Delivery]:
    """With what was asked about notices, and without content: nothing of it will be sent."""
    asked = recipient_request(row.deliveries_notify, row.deliveries_orcpt)
    delivery = Delivery(
        row.deliveries_number,
        row.deliveries_recipient,
        State.EXPIRED,
        row.deliveries_due_at,
        row.deliveries_attempts,
        row.deliveries_token,
        bool(row.deliveries_possible_duplicate),
        asked,
    )
    request = message_request(row.messages_ret, row.messages_envid)
    message = Message(
        row.messages_id,
        row.deliveries_account_id,
        row.messages_reverse_path,
        row.messages_header_message_id,
        row.messages_client,
        Content(row.messages_size, spool=row.messages_spool),
        bool(row.messages_eight_bit),
        bool(row.messages_smtputf8),
        row.messages_accepted_at,
        [delivery],
        original_path=row.messages_original_path or "",
        request=request,
        asks=request is not NO_MESSAGE_REQUEST or asked is not NO_RECIPIENT_REQUEST,
        answer=row.messages_answer or "",
        notice=row.messages_notice or "",
    )
    return message, delivery


def _prune(connection: Connection, cutoff: int, limit: int) -> int:
    """Delete messages accepted before `cutoff` of which nothing is to be sent, with all their history; how many.

    What nobody could be told of by then goes as well: nothing is kept for ever.
    """
    before = and_(messages.c.id < first_id_at(cutoff), messages.c.accepted_at < cutoff)  # ids grow with time
    old = select(messages.c.id).where(before, ~unsettled()).order_by(messages.c.id).limit(limit)
    ids = [row.id for row in connection.execute(old)]
    for table, column in (
        (attempts, attempts.c.message_id),
        (owed, owed.c.message_id),
        (returned, returned.c.message_id),
        (deliveries, deliveries.c.message_id),
        (contents, contents.c.message_id),
        (messages, messages.c.id),
    ):
        connection.execute(delete(table).where(column.in_(ids)))
    prune_record(connection, cutoff)
    return len(ids)


def _prune_audit(connection: Connection, cutoff: int, limit: int) -> int:
    """Delete entries of the audit trail of before `cutoff`, oldest first; how many. A trigger refuses younger ones."""
    old = select(audit.c.id).where(audit.c.at < cutoff).order_by(audit.c.id).limit(limit)
    ids = list(connection.scalars(old))
    if ids:
        connection.execute(delete(audit).where(audit.c.id.in_(ids)))
    return len(ids)


def owed_files(connection: Connection) -> set[str]:
    """The spool files of messages of which something is owed to anybody; every other file may go."""
    named = select(messages.c.spool).where(messages.c.spool.is_not(None), unfinished())
    return {row.spool for row in connection.execute(named)}


def _shrink(connection: Connection) -> None:
    """Cut free pages off the file, some at a time, once there are many (sqlite.org/pragma.html, incremental_vacuum)."""
    if connection.dialect.name == "sqlite" and connection.scalar(text("PRAGMA freelist_count")) > _FREE_PAGES:
        connection.execute(text(f"PRAGMA incremental_vacuum({_PAGES_AT_A_TIME})")).all()
