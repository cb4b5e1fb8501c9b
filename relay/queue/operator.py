"""What an operator may do to queued deliveries: hold, release, retry, remove, move to another lane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, delete, select, update

from relay.database.schema import FAR_FUTURE_MS, contents, deliveries, messages
from relay.queue.model import State
from relay.queue.owed import unfinished

# `only`: a condition on `deliveries` that narrows what is changed further; None: everything of the messages.
Only = ColumnElement[bool] | None

_waits = and_(deliveries.c.settled_at.is_(None), deliveries.c.owner.is_(None))


def hold(connection: Connection, ids: Sequence[int], only: Only = None) -> int:
    """Stop deliveries that wait; how many. Those in hand are not touched: the caller withdraws them first."""
    return _change(
        connection,
        ids,
        deliveries.c.state != State.HELD.value,
        {"state": State.HELD.value, "due_at": FAR_FUTURE_MS},
        only,
    )


def release(connection: Connection, ids: Sequence[int], now: int, only: Only = None) -> int:
    """Let held deliveries go on, due now; how many."""
    tried = case((deliveries.c.attempts > 0, State.DEFERRED.value), else_=State.QUEUED.value)
    return _change(connection, ids, deliveries.c.state == State.HELD.value, {"state": tried, "due_at": now}, only)


def retry(connection: Connection, ids: Sequence[int], now: int, only: Only = None) -> int:
    """Make waiting deliveries due now, held ones excepted; how many."""
    return _change(connection, ids, deliveries.c.state != State.HELD.value, {"due_at": now}, only)


def remove(connection: Connection, ids: Sequence[int], now: int, only: Only = None) -> tuple[int, list[str]]:
    """Settle waiting deliveries without sending; how many, and the spool files that nobody needs any more."""
    changed = _change(connection, ids, None, {"state": State.REMOVED.value, "settled_at": now}, only)
    done = [
        (row.id, row.spool)
        for row in connection.execute(
            select(messages.c.id, messages.c.spool).where(messages.c.id.in_(list(ids)), ~unfinished())
        )
    ]
    connection.execute(delete(contents).where(contents.c.message_id.in_([message_id for message_id, _ in done])))
    return changed, [spool for _, spool in done if spool is not None]


def reroute(connection: Connection, resolve: Callable[[str, int, bool], int | None]) -> int:
    """Move waiting deliveries to the lane their sender routes to now; those without a route stay; how many moved.

    `resolve` gives the account of a reverse-path that waits for an account now; True: the application said another.
    """
    moved = 0
    lanes = connection.execute(
        select(messages.c.reverse_path, deliveries.c.account_id, messages.c.original_path.is_not(None))
        .join(messages, messages.c.id == deliveries.c.message_id)
        .where(_waits, messages.c.notice.is_(None))  # mail of our own has no route: its account was chosen
        .distinct()
    ).all()
    for reverse_path, account_id, replaced in lanes:
        target = resolve(reverse_path, account_id, bool(replaced))
        if target is None or target == account_id:
            continue
        moved += connection.execute(
            update(deliveries)
            .where(
                _waits,
                deliveries.c.account_id == account_id,
                deliveries.c.message_id.in_(
                    select(messages.c.id).where(
                        messages.c.reverse_path == reverse_path,
                        messages.c.original_path.is_not(None) == bool(replaced),
                        messages.c.notice.is_(None),
                    )
                ),
            )
            .values(account_id=target)
        ).rowcount
    return moved


def _change(
    connection: Connection,
    ids: Sequence[int],
    which: ColumnElement[bool] | None,
    values: dict[str, Any],
    only: Only,
) -> int:
    condition = and_(_waits, deliveries.c.message_id.in_(list(ids)))
    for narrower in (which, only):
        if narrower is not None:
            condition = and_(condition, narrower)
    return connection.execute(update(deliveries).where(condition).values(**values)).rowcount
