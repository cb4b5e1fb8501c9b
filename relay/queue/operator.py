"""What an operator may do to queued deliveries: hold, release, retry, remove, move to another lane."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, delete, select, update

from relay.database.engine import Database
from relay.database.schema import FAR_FUTURE_MS, contents, deliveries, messages
from relay.queue.model import State
from relay.queue.owed import unfinished
from relay.queue.spool import Spool

Only = ColumnElement[bool] | None
Resolve = Callable[[str, int, bool], int | None]

_waits = and_(deliveries.c.settled_at.is_(None), deliveries.c.owner.is_(None))


class Operator:
    """What an operator asks for. What is in hand is withdrawn first, by `withdraw`, which the dispatcher sets.

    `claiming` is held meanwhile: a lane with room would take it in hand again at once.  `announce` gets the accounts
    of what may go on.  `only` is a condition on `deliveries`: those of the messages that it does not fit are left
    alone.
    """

    def __init__(
        self,
        database: Database,
        spool: Spool,
        *,
        claiming: asyncio.Lock,
        announce: Callable[[int], None],
        clock: Callable[[], int],
    ) -> None:
        self._database = database
        self._spool = spool
        self._claiming = claiming
        self._on_backlog = announce
        self._clock = clock
        self.withdraw: Callable[[Sequence[int]], Awaitable[None]] = _nothing_in_hand

    async def hold(self, ids: Sequence[int], only: Only = None) -> int:
        """Stop deliveries that wait; how many were stopped. One in an attempt right now goes on."""
        async with self._claiming:
            await self.withdraw(ids)
            return await self._database.write(lambda c: _hold(c, ids, only))

    async def release(self, ids: Sequence[int], only: Only = None) -> int:
        """Let held deliveries go on at once; how many."""
        changed = await self._database.write(lambda c: _release(c, ids, self._clock(), only))
        await self._announce(ids)
        return changed

    async def retry(self, ids: Sequence[int], only: Only = None) -> int:
        """Make deferred deliveries due now; how many."""
        changed = await self._database.write(lambda c: _retry(c, ids, self._clock(), only))
        await self._announce(ids)
        return changed

    async def remove(self, ids: Sequence[int], only: Only = None) -> int:
        """Settle waiting deliveries without sending them; how many. One in an attempt right now goes on."""
        async with self._claiming:
            await self.withdraw(ids)
            changed, files = await self._database.write(lambda c: _remove(c, ids, self._clock(), only))
        await asyncio.to_thread(self._spool.remove, files)
        return changed

    async def reroute(self, resolve: Resolve) -> int:
        """Move what waits in the store to the lanes its senders route to now; how many deliveries moved.

        `resolve` gives the account of a reverse-path that waits for an account now; True: the application said another.
        """
        await self._database.write(lambda _: None)  # what was taken by the routes of before is in the store now
        moves = []
        for reverse_path, account_id, replaced in await self._database.read(_routed):  # looks at all that waits
            target = resolve(reverse_path, account_id, replaced)
            if target is not None and target != account_id:
                moves.append((reverse_path, account_id, replaced, target))
        return await self._database.write(lambda c: _move(c, moves)) if moves else 0

    async def _announce(self, ids: Sequence[int]) -> None:
        query = select(deliveries.c.account_id).where(deliveries.c.message_id.in_(list(ids))).distinct()
        for account_id in await self._database.read(lambda c: [row[0] for row in c.execute(query)]):
            self._on_backlog(account_id)


async def _nothing_in_hand(ids: Sequence[int]) -> None:
    """Without a dispatcher every delivery waits in the store."""


def _hold(connection: Connection, ids: Sequence[int], only: Only = None) -> int:
    """Stop deliveries that wait; how many. Those in hand are not touched: the caller withdraws them first."""
    return _change(
        connection,
        ids,
        deliveries.c.state != State.HELD.value,
        {"state": State.HELD.value, "due_at": FAR_FUTURE_MS},
        only,
    )


def _release(connection: Connection, ids: Sequence[int], now: int, only: Only = None) -> int:
    """Let held deliveries go on, due now; how many."""
    tried = case((deliveries.c.attempts > 0, State.DEFERRED.value), else_=State.QUEUED.value)
    return _change(connection, ids, deliveries.c.state == State.HELD.value, {"state": tried, "due_at": now}, only)


def _retry(connection: Connection, ids: Sequence[int], now: int, only: Only = None) -> int:
    """Make waiting deliveries due now, held ones excepted; how many."""
    return _change(connection, ids, deliveries.c.state != State.HELD.value, {"due_at": now}, only)


def _remove(connection: Connection, ids: Sequence[int], now: int, only: Only = None) -> tuple[int, list[str]]:
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


def _routed(connection: Connection) -> list[tuple[str, int, bool]]:
    """The reverse-paths that wait, for which account; True: the application said another."""
    chosen = (
        select(messages.c.reverse_path, deliveries.c.account_id, messages.c.original_path.is_not(None))
        .join(messages, messages.c.id == deliveries.c.message_id)
        .where(_waits, messages.c.notice.is_(None))  # mail of our own has no route: its account was chosen
        .distinct()
    )
    return [(path, account_id, bool(replaced)) for path, account_id, replaced in connection.execute(chosen)]


def _move(connection: Connection, moves: Sequence[tuple[str, int, bool, int]]) -> int:
    """What waits as `_routed` has it goes to the account at the end of each; how many deliveries moved."""
    moved = 0
    for reverse_path, account_id, replaced, target in moves:
        theirs = select(messages.c.id).where(
            messages.c.reverse_path == reverse_path,
            messages.c.original_path.is_not(None) == replaced,
            messages.c.notice.is_(None),
        )
        moving = and_(_waits, deliveries.c.account_id == account_id, deliveries.c.message_id.in_(theirs))
        moved += connection.execute(update(deliveries).where(moving).values(account_id=target)).rowcount
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
