"""Taking deliveries in hand: what is due for an account, and everything a dead node held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, delete, func, insert, or_, select, update

from relay.database.schema import FAR_FUTURE_MS, accounts, contents, deliveries, messages, nodes
from relay.mail.content import Content
from relay.mail.dsn import NO_MESSAGE_REQUEST, NO_RECIPIENT_REQUEST, message_request, recipient_request
from relay.queue.leases import holds, of_account
from relay.queue.model import Delivery, Message, State
from relay.queue.operations import Fenced

_AT_ONCE = 500  # ids in a statement
OVERHEAD = 2048  # octets a message in memory costs besides its content


def untried() -> ColumnElement[str]:
    """The state of a delivery that is given back: without the mark of a dot that never went out."""
    before = case((deliveries.c.attempts > 0, State.DEFERRED.value), else_=State.QUEUED.value)
    return case((deliveries.c.state == State.ACTIVE.value, before), else_=deliveries.c.state)


def claim(
    connection: Connection,
    account_id: int,
    node: int,
    *,
    now: int,
    limit: int,
    budget: int,
    at_least_one: bool,
    shared: bool = False,
) -> tuple[list[Message], int | None]:
    """Own up to `limit` due deliveries within `budget` octets of memory; and when the next one is due.

    `shared`: by several nodes; nothing for one that does not hold the account's lease.
    """
    if shared and not holds(connection, node, of_account(account_id)):
        return [], None
    waiting = and_(
        deliveries.c.account_id == account_id, deliveries.c.settled_at.is_(None), deliveries.c.owner.is_(None)
    )
    chosen = select(deliveries).where(waiting, deliveries.c.due_at <= now).order_by(deliveries.c.due_at).limit(limit)
    found = connection.execute(chosen.with_for_update(skip_locked=True) if shared else chosen).all()
    by_message: dict[int, list[Delivery]] = {}
    for row in found:
        delivery = Delivery(
            row.number,
            row.recipient,
            State(row.state),
            row.due_at,
            row.attempts,
            row.token + 1,
            bool(row.possible_duplicate),
            recipient_request(row.notify, row.orcpt),
        )
        by_message.setdefault(row.message_id, []).append(delivery)
    claimed: list[Message] = []
    if by_message:
        rows = connection.execute(
            select(messages, contents.c.body)
            .outerjoin(contents, contents.c.message_id == messages.c.id)
            .where(messages.c.id.in_(by_message))
        )
        details = {row.id: row for row in rows}
        for message_id, owed in by_message.items():
            row = details[message_id]
            cost = OVERHEAD + (len(row.body) if row.body is not None else 0)
            if budget < cost and (claimed or not at_least_one):
                break
            budget -= cost
            content = Content(row.size, inline=row.body, spool=row.spool)
            request = message_request(row.ret, row.envid)
            claimed.append(
                Message(
                    message_id,
                    account_id,
                    row.reverse_path,
                    row.header_message_id,
                    row.client,
                    content,
                    bool(row.eight_bit),
                    bool(row.smtputf8),
                    row.accepted_at,
                    owed,
                    cost,
                    original_path=row.original_path or "",
                    request=request,
                    asks=request is not NO_MESSAGE_REQUEST
                    or any(delivery.request is not NO_RECIPIENT_REQUEST for delivery in owed),
                    answer=row.answer or "",
                    notice=row.notice or "",
                )
            )
            connection.execute(
                update(deliveries)
                .where(deliveries.c.message_id == message_id, deliveries.c.number.in_([d.number for d in owed]))
                .values(owner=node, token=deliveries.c.token + 1)
            )
    next_due = connection.execute(
        select(func.min(deliveries.c.due_at)).where(waiting, deliveries.c.due_at < FAR_FUTURE_MS)
    ).scalar()
    return claimed, next_due


def join(
    connection: Connection, interrupted: set[int] | None, *, now: int, lease_ms: int
) -> tuple[list[int], int, int]:
    """Be the only node of a store from now on. Ids that may be upstream already, the largest id, our node.

    `interrupted`: whose dots were out as the ledger has it; None: nobody knows.  Whatever else a dead node held stays
    its own until `take_over`, which takes longer the more waits; where nobody knows it is taken over here.
    """
    known = connection.scalars(select(nodes.c.id)).all()
    node = connection.execute(insert(nodes).values(started_at=now, lease_until=now + lease_ms)).inserted_primary_key
    assert node is not None
    if interrupted is None or not known:
        suspects = take_over(connection, None, interrupted, now=now)
    else:
        suspects = _doubt(connection, _held_by_others(None), deliveries.c.message_id.in_(interrupted), now)
    connection.execute(delete(nodes).where(nodes.c.id != node[0]))  # not before: its number must not be one of theirs
    largest = connection.execute(select(func.max(messages.c.id))).scalar() or 0
    return suspects, largest, node[0]


def take_over(connection: Connection, node: int | None, interrupted: set[int] | None, *, now: int) -> list[int]:
    """Take what anybody but `node` holds; ids of messages that may be upstream already.

    `interrupted`: as for `join`.
    """
    if interrupted is None:  # the ledger did not survive: whoever makes no durable marks may be in doubt
        unmarked = deliveries.c.account_id.not_in(_holding())
    else:
        unmarked = deliveries.c.message_id.in_(interrupted)
    theirs = _held_by_others(node)
    suspects = _doubt(connection, theirs, or_(_marked(), unmarked), now)
    connection.execute(update(deliveries).where(theirs).values(owner=None))
    return suspects


def give_up(connection: Connection, node: int, *, now: int) -> list[int]:
    """Take everything from a node that is not heard of any more; ids of messages that may be upstream already.

    Those are the ones that it marked before their dot: on a shared store it marks every one.  All tokens grow: what
    the node still writes, should it live, changes nothing, and it gets no mark for another dot.
    """
    return _give_up(connection, deliveries.c.owner == node, now)


def give_up_orphans(connection: Connection, *, now: int) -> list[int]:
    """Likewise what is owned by nodes that were buried before they wrote it."""
    known = select(nodes.c.id)
    return _give_up(connection, and_(deliveries.c.owner.is_not(None), deliveries.c.owner.not_in(known)), now)


def release(connection: Connection, node: int) -> int:
    """Give back what a node holds whose dots are all settled; how many deliveries."""
    mine = and_(deliveries.c.settled_at.is_(None), deliveries.c.owner == node)
    return connection.execute(update(deliveries).where(mine).values(owner=None, state=untried())).rowcount


def disown(connection: Connection, node: int, message_ids: Iterable[int]) -> None:
    """Messages of which nobody knew whether they are in the store: if they are, they are in nobody's hand."""
    mine = and_(deliveries.c.owner == node, deliveries.c.settled_at.is_(None))
    connection.execute(update(deliveries).where(deliveries.c.message_id.in_(message_ids), mine).values(owner=None))


def mark(connection: Connection, message_id: int, tokens: Mapping[int, int]) -> None:
    """Mark claimed deliveries, by number, as being in their dot. Raises Fenced when somebody else changed one."""
    for number, token in tokens.items():
        marked = (
            update(deliveries)
            .where(_claimed(message_id, number, token), deliveries.c.settled_at.is_(None))
            .values(state=State.ACTIVE.value)
        )
        if not connection.execute(marked).rowcount:
            raise Fenced("a delivery was changed by somebody else")


def give_back(connection: Connection, given: Sequence[tuple[int, int, Delivery]], not_before: int | None) -> None:
    """Put deliveries (message, account, delivery) back that are untried; None: they are due as before."""
    for message_id, account_id, delivery in given:
        connection.execute(
            update(deliveries)
            .where(_claimed(message_id, delivery.number, delivery.token))
            .values(
                owner=None,
                account_id=account_id,
                state=untried(),
                due_at=deliveries.c.due_at if not_before is None else max(delivery.due_at, not_before),
            )
        )


def _held_by_others(node: int | None) -> ColumnElement[bool]:
    held = and_(deliveries.c.settled_at.is_(None), deliveries.c.owner.is_not(None))
    return held if node is None else and_(held, deliveries.c.owner != node)


def _doubt(connection: Connection, held: ColumnElement[bool], which: ColumnElement[bool], now: int) -> list[int]:
    """All that is held of a message may be upstream already if one of it is `which`; ids of such messages."""
    suspects = sorted(connection.scalars(select(deliveries.c.message_id).where(held, which).distinct()))
    for start in range(0, len(suspects), _AT_ONCE):
        some = deliveries.c.message_id.in_(suspects[start : start + _AT_ONCE])
        connection.execute(update(deliveries).where(held, some).values(_in_doubt(now)))
    return suspects


def _claimed(message_id: int, number: int, token: int) -> ColumnElement[bool]:
    """That delivery, unless it was claimed anew since."""
    return and_(deliveries.c.message_id == message_id, deliveries.c.number == number, deliveries.c.token == token)


def _give_up(connection: Connection, of: ColumnElement[bool], now: int) -> list[int]:
    theirs = and_(deliveries.c.settled_at.is_(None), of)
    moved = {"owner": None, "token": deliveries.c.token + 1}
    doubtful = (
        update(deliveries)
        .where(theirs, _marked())
        .values({**_in_doubt(now), **moved})
        .returning(deliveries.c.message_id)
    )
    suspects = set(connection.scalars(doubtful))
    connection.execute(update(deliveries).where(theirs).values(moved))
    return sorted(suspects)


def _marked() -> ColumnElement[bool]:
    """Durably, before their dot."""
    return deliveries.c.state == State.ACTIVE.value


def _holding() -> Select[Any]:
    """The accounts that hold what is in doubt."""
    return select(accounts.c.id).where(accounts.c.in_doubt == "hold")


def _in_doubt(now: int) -> dict[str, Any]:
    holds = deliveries.c.account_id.in_(_holding())
    return {
        "possible_duplicate": 1,
        "state": case((holds, State.HELD.value), else_=State.IN_DOUBT.value),
        "due_at": case((holds, FAR_FUTURE_MS), else_=now),
    }
