"""What senders have to be told about their mail: who is owed what, and that it was paid. `copies` has the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, exists, func, insert, or_, select, update

from relay.database.schema import attempts, contents, deliveries, messages, notices, owed
from relay.mail.dsn import MessageRequest, message_request
from relay.mail.errors import RelayError
from relay.mail.ids import first_id_at
from relay.queue.model import Owed, State

EXCERPT = 65_536  # octets of the original, in wire form, that a notice may show


class PaidBefore(RelayError):
    """Somebody else told the sender meanwhile."""


_unpaid = owed.c.paid_at.is_(None)
_to_tell = and_(_unpaid, owed.c.kind != Owed.COPY.value)


@dataclass(frozen=True, slots=True)
class Debt:
    """What is owed for one recipient, and how its last attempt ended. Times are ms since 1970.

    `kind` is as recorded; `state` what the delivery is in now.  Without an attempt `code` is 0 and `attempted_at` None.
    """

    number: int
    recipient: str
    kind: Owed
    state: State
    notify: str
    orcpt: str
    attempted_at: int | None
    account_id: int  # through which it was tried, or would be
    code: int
    status: str
    reply: str
    cause: str


@dataclass(frozen=True, slots=True)
class Indebted:
    """A message for which something is owed, with what of its content a notice may show.

    `excerpt`: its first EXCERPT octets in wire form; of a spooled content nothing, `spool` names the file; both empty:
    the content is gone.  `waits`: deliveries of it that are still tried.  `told`: senders' notices about it were made.
    """

    id: int
    account_id: int
    reverse_path: str
    original_path: str  # "": the same
    header_message_id: str
    size: int
    eight_bit: bool
    smtputf8: bool
    accepted_at: int
    request: MessageRequest
    heard: bool  # the application heard the verdict itself
    spool: str | None
    excerpt: bytes
    debts: tuple[Debt, ...]
    recipients: int
    waits: int
    told: bool


def sender_is_owed(path: str, original_path: str, notice: str) -> bool:
    """May anybody ever be told about a message from `path`? Not about mail of our own, nor from the null path."""
    return not notice and (original_path or path) not in ("", "<>")


def asked_for(notify: str, kind: Owed) -> bool:
    """Does NOTIFY ("": not said) ask for it? RFC 3461 4.1: not said is FAILURE, and DELAY if we care to."""
    if not notify:
        return kind is not Owed.RELAYED
    names = {Owed.FAILED: "FAILURE", Owed.DELAYED: "DELAY", Owed.RELAYED: "SUCCESS"}
    return names[kind] in notify.split(",")


def owe(connection: Connection, rows: Iterable[tuple[int, int, Owed]], now: int) -> None:
    """Remember what is owed from now on: message id, number of the delivery, kind; what is known stays as it is."""
    for message_id, number, kind in rows:
        key = and_(owed.c.message_id == message_id, owed.c.number == number, owed.c.kind == kind.value)
        if connection.execute(select(owed.c.kind).where(key)).first() is None:
            values = {"message_id": message_id, "number": number, "kind": kind.value, "due_at": now}
            connection.execute(insert(owed).values(**values))


def owe_delayed(
    connection: Connection, *, after: int, before_ms: int, now: int, limit: int
) -> tuple[list[Row[Any]], int, bool]:
    """Owe a word about what still waits and was accepted before `before_ms`.

    What that is, the last id looked at, and whether nothing is left to look at.

    Looks at up to `limit` messages with ids above `after` (ids grow with time), so that each is looked at once while a
    process lives.  What an operator holds waits because somebody wants it to.
    """
    before = first_id_at(before_ms)
    late = and_(deliveries.c.message_id > after, deliveries.c.message_id < before, deliveries.c.settled_at.is_(None))
    chosen = select(deliveries.c.message_id).where(late).distinct().order_by(deliveries.c.message_id).limit(limit)
    ids = [row[0] for row in connection.execute(chosen)]
    if not ids:
        return [], max(after, before - 1), True
    known = select(owed.c.message_id, owed.c.number).where(
        owed.c.message_id.in_(ids), owed.c.kind == Owed.DELAYED.value
    )
    told = {tuple(row) for row in connection.execute(known)}
    rows: Sequence[Row[Any]] = connection.execute(
        select(deliveries, messages.c.reverse_path, messages.c.original_path, messages.c.notice, messages.c.accepted_at)
        .join(messages, messages.c.id == deliveries.c.message_id)
        .where(deliveries.c.message_id.in_(ids), deliveries.c.settled_at.is_(None))
    ).all()
    found = [
        row
        for row in rows
        if row.state != State.HELD.value
        and (row.message_id, row.number) not in told
        and sender_is_owed(row.reverse_path, row.original_path or "", row.notice or "")
        and asked_for(row.notify or "", Owed.DELAYED)
    ]
    owe(connection, [(row.message_id, row.number, Owed.DELAYED) for row in found], now)
    return found, ids[-1], len(ids) < limit


def due(connection: Connection, now: int, limit: int) -> list[int]:
    """Messages for which something is owed and due, the longest due first."""
    first = func.min(owed.c.due_at)
    chosen = (
        select(owed.c.message_id)
        .where(_to_tell, owed.c.due_at <= now)
        .group_by(owed.c.message_id)
        .order_by(first)
        .limit(limit)
    )
    return [row[0] for row in connection.execute(chosen)]


def next_due(connection: Connection) -> int | None:
    """When something is due that is not yet paid; None: nothing is owed."""
    found: int | None = connection.scalar(select(func.min(owed.c.due_at)).where(_to_tell))
    return found


def load(connection: Connection, message_id: int) -> Indebted | None:
    """Everything about a message for which something is owed; None: nothing is (any more)."""
    row = connection.execute(
        select(messages, func.substr(contents.c.body, 1, EXCERPT).label("excerpt"))
        .outerjoin(contents, contents.c.message_id == messages.c.id)
        .where(messages.c.id == message_id)
    ).first()
    found = connection.execute(_DEBTS.where(owed.c.message_id == message_id, _to_tell)).all()
    if row is None or not found:
        return None
    unsettled = func.count().filter(deliveries.c.settled_at.is_(None))
    counted = select(func.count(), unsettled).where(deliveries.c.message_id == message_id)
    recipients, waits = connection.execute(counted).one()
    paid = select(owed.c.number).where(
        owed.c.message_id == message_id, owed.c.notice_id.is_not(None), owed.c.kind == Owed.FAILED.value
    )
    return Indebted(
        row.id,
        row.account_id,
        row.reverse_path,
        row.original_path or "",
        row.header_message_id,
        row.size,
        bool(row.eight_bit),
        bool(row.smtputf8),
        row.accepted_at,
        message_request(row.ret, row.envid),
        row.answer == "direct",
        row.spool,
        bytes(row.excerpt or b""),
        tuple(_debt(one) for one in found),
        recipients,
        waits,
        connection.execute(paid.limit(1)).first() is not None,
    )


def pay(connection: Connection, message_id: int, debts: Sequence[Debt], now: int, notice_id: int | None) -> str | None:
    """These are paid: by that notice, or (None) by the decision to make none. A spool file that may go now, if any.

    Raises PaidBefore when one of them was paid meanwhile: what the transaction did until then is undone.
    """
    for debt in debts:
        changed = connection.execute(
            update(owed)
            .where(
                owed.c.message_id == message_id,
                owed.c.number == debt.number,
                owed.c.kind == debt.kind.value,
                _unpaid,
            )
            .values(paid_at=now, notice_id=notice_id)
        )
        if changed.rowcount != 1:
            raise PaidBefore(message_id)
    return let_go(connection, message_id)


def let_go(connection: Connection, message_id: int) -> str | None:
    """Drop the content unless something of the message is still owed. A spool file that may go now, if any."""
    done = connection.execute(select(messages.c.spool).where(messages.c.id == message_id, ~unfinished())).first()
    if done is None:
        return None
    connection.execute(delete(contents).where(contents.c.message_id == message_id))
    return done.spool  # type: ignore[no-any-return]


def postpone(connection: Connection, message_id: int, until: int) -> None:
    """Look at what is owed for this message later."""
    connection.execute(update(owed).where(owed.c.message_id == message_id, _to_tell).values(due_at=until))


def withheld_since_last(connection: Connection, account_id: int, kind: str, reason: str) -> int:
    """How many notices about mail of this account were withheld for `reason` since the last one that was made."""
    mine = and_(notices.c.account_id == account_id, notices.c.kind == kind)
    last = connection.scalar(select(func.max(notices.c.id)).where(mine, notices.c.outcome == "queued")) or 0
    withheld = and_(mine, notices.c.outcome == "withheld", notices.c.detail == reason, notices.c.id > last)
    return connection.scalar(select(func.count()).where(withheld)) or 0


def unsettled() -> ColumnElement[bool]:
    """Of `messages`: something of it is to be sent."""
    return exists(
        select(deliveries.c.number).where(deliveries.c.message_id == messages.c.id, deliveries.c.settled_at.is_(None))
    )


def unfinished() -> ColumnElement[bool]:
    """Of `messages`: something of it is to be sent, to be told, or to be filed. Until then its content stays."""
    tells = select(owed.c.number).where(owed.c.message_id == messages.c.id, _unpaid)
    return or_(unsettled(), exists(tells))


_DEBTS = (
    select(owed.c.kind, deliveries, attempts.c.at, attempts.c.account_id.label("tried_by"))
    .add_columns(attempts.c.code, attempts.c.status, attempts.c.reply, attempts.c.cause)
    .select_from(
        owed.join(
            deliveries, and_(deliveries.c.message_id == owed.c.message_id, deliveries.c.number == owed.c.number)
        ).outerjoin(
            attempts,
            and_(
                attempts.c.message_id == deliveries.c.message_id,
                attempts.c.number == deliveries.c.number,
                attempts.c.attempt == deliveries.c.attempts,
            ),
        )
    )
    .order_by(owed.c.number, owed.c.kind)
)


def _debt(row: Row[Any]) -> Debt:
    return Debt(
        row.number,
        row.recipient,
        Owed(row.kind),
        State(row.state),
        row.notify or "",
        row.orcpt or "",
        row.at,
        row.tried_by if row.tried_by is not None else row.account_id,
        row.code or 0,
        row.status or "",
        row.reply or "",
        row.cause or "",
    )
