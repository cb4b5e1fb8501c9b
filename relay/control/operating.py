"""What an operator does to queued mail: hold, release, retry, remove; by id, or everything that fits filters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select, true

from relay.control.context import Control, ControlError
from relay.control.queue import known_ids, suspended_account
from relay.control.selection import FILTERS, Selection, select_by
from relay.database.schema import deliveries, messages
from relay.mail.ids import format_id
from relay.queue.model import State

Act = Callable[[Sequence[int], ColumnElement[bool] | None], Awaitable[int]]

_AT_A_TIME = 200  # messages: bounds a transaction, and how long claiming waits
_HELD = deliveries.c.state == State.HELD.value
_WHICH: dict[str, ColumnElement[bool]] = {  # what each action can change
    "hold": ~_HELD,
    "release": _HELD,
    "retry": ~_HELD,
    "remove": true(),
}


async def queue_count(control: Control, *, action: str, filters: dict[str, str]) -> dict[str, Any]:
    """How many `deliveries` of how many `messages` the action (hold, release, retry, remove) would change."""
    chosen = _chosen(control, action, filters)
    counted = (
        select(func.count(), func.count(deliveries.c.message_id.distinct()))
        .select_from(deliveries.join(messages, messages.c.id == deliveries.c.message_id))
        .where(chosen.condition, _WHICH[action])
    )
    row = (await control.database.read(lambda connection: connection.execute(counted).all()))[0]
    return {"deliveries": row[0], "messages": row[1]}


# Each of these takes ids, or filters by name as `select_by` has them, and is refused when nothing of `ids` fits.


async def queue_hold(
    control: Control, *, ids: list[str] | None = None, filters: dict[str, str] | None = None
) -> dict[str, Any]:
    """Stop messages that wait, until they are released."""
    return await _do(control, "hold", ids, filters, control.queue.operator.hold)


async def queue_release(
    control: Control, *, ids: list[str] | None = None, filters: dict[str, str] | None = None
) -> dict[str, Any]:
    """Let held messages go on."""
    return await _do(control, "release", ids, filters, control.queue.operator.release)


async def queue_remove(
    control: Control, *, ids: list[str] | None = None, filters: dict[str, str] | None = None
) -> dict[str, Any]:
    """Give messages up without sending them."""
    return await _do(control, "remove", ids, filters, control.queue.operator.remove)


async def queue_retry(
    control: Control, *, ids: list[str] | None = None, filters: dict[str, str] | None = None
) -> dict[str, Any]:
    """Try messages now, and end the rest of their accounts."""
    return await _do(control, "retry", ids, filters, control.queue.operator.retry)


async def _do(
    control: Control, action: str, ids: list[str] | None, filters: dict[str, str] | None, act: Act
) -> dict[str, Any]:
    if ids and filters:
        raise ControlError("ids and filters were given", "give one of the two")
    if filters:
        return await _do_all(control, action, _chosen(control, action, filters), act)
    numbers = await known_ids(control, ids or [])
    await control.announce(f"queue.{action}", [format_id(number) for number in numbers], {})
    changed = await act(numbers, None)
    owed = await control.database.read(lambda connection: _owed(connection, numbers))
    in_hand = sum(1 for row in owed if row.owner is not None) if action == "retry" else 0
    if changed + in_hand == 0:
        raise ControlError(*_nothing(action, owed))
    suspended = _wake(control, action, {row.account_id for row in owed})
    return {"changed": changed + in_hand, "ids": [format_id(number) for number in numbers], "suspended": suspended}


async def _do_all(control: Control, action: str, chosen: Selection, act: Act) -> dict[str, Any]:
    """Act on all that fits, oldest first, some messages at a time; what arrives meanwhile is left alone."""
    newest = await control.database.read(lambda connection: connection.scalar(select(func.max(messages.c.id)))) or 0
    changed, last, of = 0, -1, 0
    accounts: set[int] = set()
    while True:
        page = (
            select(deliveries.c.message_id, func.min(deliveries.c.account_id).label("account_id"))
            .join(messages, messages.c.id == deliveries.c.message_id)
            .where(chosen.condition, _WHICH[action], deliveries.c.message_id > last, deliveries.c.message_id <= newest)
            .group_by(deliveries.c.message_id)
            .order_by(deliveries.c.message_id)
            .limit(_AT_A_TIME)
        )
        rows = await control.database.read(partial(_rows, chosen=page))
        if not rows:
            break
        numbers = [row.message_id for row in rows]
        last, of = numbers[-1], of + len(numbers)
        accounts |= {row.account_id for row in rows}
        await control.announce(f"queue.{action}", map(format_id, numbers), {"filter": dict(chosen.given)})
        changed += await act(numbers, and_(chosen.of_delivery, _WHICH[action]))
    return {"changed": changed, "messages": of, "suspended": _wake(control, action, accounts)}


def _chosen(control: Control, action: str, filters: dict[str, str]) -> Selection:
    if action not in _WHICH:
        raise ControlError("there is no such action", f"give one of {', '.join(_WHICH)}")
    if filters.keys() - set(FILTERS):
        raise ControlError("there is no such filter", f"give some of {', '.join(FILTERS)}")
    chosen = select_by(control, **filters)
    if chosen.settled:
        raise ControlError("what is done cannot be changed", "leave out --state, or give one of mail that waits")
    if not chosen.given:
        raise ControlError("neither ids nor filters were given", "give ids, or filters such as --account A")
    return chosen


def _wake(control: Control, action: str, account_ids: set[int]) -> list[str]:
    """Have the lanes look at once; the accounts that are suspended and will not."""
    if action not in ("retry", "release"):
        return []
    if control.lanes is not None:
        for account_id in account_ids:
            control.lanes.wake(account_id)
    return sorted({name for number in account_ids if (name := suspended_account(control, number))})


def _rows(connection: Connection, chosen: Select[Any]) -> Sequence[Any]:
    return connection.execute(chosen).all()


def _owed(connection: Connection, numbers: Sequence[int]) -> Sequence[Any]:
    return connection.execute(
        select(deliveries.c.account_id, deliveries.c.state, deliveries.c.owner).where(
            deliveries.c.message_id.in_(list(numbers)), deliveries.c.settled_at.is_(None)
        )
    ).all()


def _nothing(action: str, owed: Sequence[Any]) -> tuple[str, str]:
    """Why an action changed nothing, and what to do."""
    if not owed:
        return "nothing is owed of it any more", "see `relay trace ID` for what became of it"
    if action == "release":
        return "nothing of it is held", "see `relay queue show ID`"
    if all(row.state == State.HELD.value for row in owed):
        return "it is held", "let it go on with `relay queue release ID`"
    return "it is in an attempt right now", "try again in a moment"
