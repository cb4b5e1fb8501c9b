"""Mail that came back after an upstream took it: which message it was, and that it is remembered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select

from relay.database.schema import deliveries, messages, returned
from relay.mail.dsn import decoded_xtext
from relay.mail.ids import first_id_at, format_id, parse_id
from relay.queue.model import State

MOST_KEPT = 200  # a message: whoever got one can write as many notifications about it as they like
_MOST_SEEN = 20  # messages of one Message-ID
_LONGEST = 1024  # characters


@dataclass(frozen=True, slots=True)
class Failure:
    """What a notification says of one recipient: both its addresses, and what the refusal means."""

    final: str
    original: str
    host: str
    code: int
    status: str
    reply: str
    cause: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What was remembered: the message, its sender, the recipient, why."""

    message_id: int
    sender: str
    recipient: str
    failure: Failure


def message_of(
    connection: Connection,
    *,
    account_id: int,
    address: str,
    ids: Sequence[str],
    message_ids: Sequence[str],
    envelope_id: str,
    since_ms: int,
) -> int | None:
    """The message of that account, or of that sender, that a notification is about; None: none of `since_ms` or later.

    By our own id in the header that came back, which is found at once; then by Message-ID, then by ENVID.
    """
    numbers = [number for number in map(parse_id, ids) if number is not None]
    recent = messages.c.id >= first_id_at(since_ms)
    through = select(deliveries.c.message_id).where(
        deliveries.c.message_id == messages.c.id, deliveries.c.account_id == account_id
    )
    theirs = or_(
        messages.c.account_id == account_id, func.lower(messages.c.reverse_path) == address.lower(), through.exists()
    )
    named: list[ColumnElement[bool]] = []
    if numbers:
        named.append(messages.c.id.in_(numbers))
    if message_ids:
        named.append(messages.c.header_message_id.in_(message_ids))
    for one in named:
        chosen = select(messages.c.id).where(recent, one, theirs).order_by(messages.c.id.desc()).limit(1)
        found: int | None = connection.scalar(chosen)
        if found is not None:
            return found
    return _by_envelope_id(connection, and_(recent, theirs), envelope_id) if envelope_id else None


def _by_envelope_id(connection: Connection, theirs: ColumnElement[bool], wanted: str) -> int | None:
    """RFC 3464 2.2.1: it comes back decoded; some give it back as it was."""
    chosen = select(messages.c.id, messages.c.envid).where(messages.c.envid.is_not(None), theirs)
    for row in connection.execute(chosen.order_by(messages.c.id.desc())):
        if wanted in (row.envid, decoded_xtext(row.envid)):
            return int(row.id)
    return None


def keep(connection: Connection, message_id: int, failures: Iterable[Failure], now: int) -> list[Kept]:
    """Remember what came back of a message; what was new. No delivery changes.

    Only what an upstream took can come back: of recipients whose delivery is not relayed nothing is kept.
    """
    sender = connection.scalar(select(messages.c.reverse_path).where(messages.c.id == message_id)) or ""
    sent = connection.execute(
        select(deliveries.c.number, deliveries.c.recipient, deliveries.c.state)
        .where(deliveries.c.message_id == message_id)
        .order_by(deliveries.c.number)
    ).all()
    known = {
        (row.recipient, row.status, row.reply)
        for row in connection.execute(select(returned).where(returned.c.message_id == message_id))
    }
    new: list[Kept] = []
    for failure in failures:
        addresses = {address.lower() for address in (failure.original, failure.final) if address}
        row = next((one for one in sent if one.recipient.lower() in addresses), sent[0] if len(sent) == 1 else None)
        relayed = [one for one in sent if one.state == State.RELAYED.value]
        if (row is None and not relayed) or (row is not None and row not in relayed):
            continue
        recipient = (row.recipient if row is not None else failure.final or failure.original)[:_LONGEST]
        key = (recipient, failure.status, failure.reply)
        if key in known or len(known) >= MOST_KEPT:
            continue
        known.add(key)
        connection.execute(
            insert(returned).values(
                message_id=message_id,
                number=row.number if row is not None else None,
                recipient=recipient,
                at=now,
                host=failure.host,
                code=failure.code,
                status=failure.status,
                reply=failure.reply,
                cause=failure.cause,
            )
        )
        new.append(Kept(message_id, sender, recipient, failure))
    return new


def shown(kept: Kept) -> str:
    """The id of its message as people see it."""
    return format_id(kept.message_id)
