"""Mail of our own: put into the queue in the same transaction that says why, and the record of what was told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from relay.database.schema import contents, deliveries, messages, notices
from relay.queue.model import State

MAIL = "mail"  # the channel of what goes through the queue


@dataclass(frozen=True, slots=True)
class OwnMail:
    """A notice ready to go: small enough for a row, to one recipient, through an account that was chosen for it.

    `content` is in wire form, 7-bit unless `smtputf8`.  `kind` marks it: nothing is ever owed for such mail.
    """

    id: int  # from `Queue.new_id`
    kind: str
    account_id: int
    reverse_path: str  # "": null
    recipient: str
    header_message_id: str
    content: bytes
    smtputf8: bool


@dataclass(frozen=True, slots=True)
class Told:
    """One line of the record: what was told to whom, by which way, and what became of it.

    `outcome` is queued, sent, failed, withheld or withdrawn; `about` the id of a message or of a catalogue entry.
    """

    kind: str
    account_id: int | None
    about: str
    channel: str
    recipient: str
    outcome: str
    detail: str = ""
    message_id: int | None = None


def put(connection: Connection, mail: OwnMail, now: int) -> None:
    """Make it a message of the queue, due at once, in nobody's hand: `Queue.on_backlog` tells its lane."""
    connection.execute(
        insert(messages).values(
            id=mail.id,
            account_id=mail.account_id,
            reverse_path=mail.reverse_path,
            header_message_id=mail.header_message_id,
            client="relay",
            size=len(mail.content),
            eight_bit=int(not mail.content.isascii()),
            smtputf8=int(mail.smtputf8),
            accepted_at=now,
            notice=mail.kind,
        )
    )
    connection.execute(insert(contents).values(message_id=mail.id, body=mail.content))
    connection.execute(
        insert(deliveries).values(
            message_id=mail.id,
            number=0,
            recipient=mail.recipient,
            account_id=mail.account_id,
            state=State.QUEUED.value,
            due_at=now,
            attempts=0,
            token=1,
        )
    )


def record(connection: Connection, told: Told, now: int) -> int:
    """Keep a line of the record; its id."""
    row = connection.execute(
        insert(notices).values(
            at=now,
            kind=told.kind,
            account_id=told.account_id,
            about=told.about,
            channel=told.channel,
            recipient=told.recipient,
            message_id=told.message_id,
            outcome=told.outcome,
            detail=told.detail,
        )
    )
    assert row.inserted_primary_key is not None
    return int(row.inserted_primary_key[0])


def told_since(
    connection: Connection,
    since: int,
    *,
    kinds: Sequence[str],
    recipient: str | None = None,
    account_id: int | None = None,
) -> int:
    """How many mails of these kinds were queued since then (ms since 1970); None: to anybody, about any account."""
    chosen = select(func.count()).where(
        notices.c.at >= since,
        notices.c.kind.in_(kinds),
        notices.c.outcome == "queued",
        notices.c.channel == MAIL,
    )
    if recipient is not None:
        chosen = chosen.where(notices.c.recipient == recipient)
    if account_id is not None:
        chosen = chosen.where(notices.c.account_id == account_id)
    return connection.scalar(chosen) or 0


def stuck(connection: Connection, kind: str, accounts: Sequence[int]) -> list[tuple[int, str]]:
    """Mails of that kind that wait, in nobody's hand, for one of `accounts`: id, and what each is about."""
    waits = and_(deliveries.c.settled_at.is_(None), deliveries.c.owner.is_(None))
    rows = connection.execute(
        select(messages.c.id, notices.c.about)
        .join(deliveries, deliveries.c.message_id == messages.c.id)
        .join(notices, notices.c.message_id == messages.c.id)
        .where(waits, deliveries.c.account_id.in_(accounts), messages.c.notice == kind)
    )
    return [(row.id, row.about) for row in rows]


def take_back(connection: Connection, ids: Sequence[int], now: int) -> None:
    """Give up mails of ours that wait; what they said will be said another way."""
    waits = and_(deliveries.c.settled_at.is_(None), deliveries.c.owner.is_(None), deliveries.c.message_id.in_(ids))
    connection.execute(update(deliveries).where(waits).values(state=State.REMOVED.value, settled_at=now))
    connection.execute(delete(contents).where(contents.c.message_id.in_(ids)))
    connection.execute(update(notices).where(notices.c.message_id.in_(ids)).values(outcome="withdrawn"))


def prune_record(connection: Connection, before: int) -> None:
    """Forget what was told before (ms since 1970)."""
    connection.execute(delete(notices).where(notices.c.at < before))
