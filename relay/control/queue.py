"""What waits and what became of it: lists, counts, and what an operator does to queued messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, func, select

from relay.control.context import Control, ControlError, iso, now_ms
from relay.database.schema import FAR_FUTURE_MS, attempts, deliveries, messages
from relay.mail.ids import format_id, parse_id
from relay.queue.model import SETTLED, State

MAX_ROWS = 100_000

_last = and_(
    attempts.c.message_id == deliveries.c.message_id,
    attempts.c.number == deliveries.c.number,
    attempts.c.attempt == deliveries.c.attempts,
)
_ROWS = select(
    deliveries.c.message_id,
    deliveries.c.number,
    deliveries.c.recipient,
    deliveries.c.account_id,
    deliveries.c.state,
    deliveries.c.due_at,
    deliveries.c.attempts,
    deliveries.c.owner,
    deliveries.c.possible_duplicate,
    deliveries.c.settled_at,
    deliveries.c.notify,
    deliveries.c.orcpt,
    messages.c.reverse_path,
    messages.c.size,
    messages.c.accepted_at,
    attempts.c.code,
    attempts.c.status,
    attempts.c.reply,
    attempts.c.cause,
).select_from(
    deliveries.join(messages, messages.c.id == deliveries.c.message_id).outerjoin(attempts, _last),
)


async def queue_list(
    control: Control, *, account: str | None = None, state: str | None = None, limit: int = 100
) -> list[dict[str, Any]]:
    """One entry a delivery; without `state` those that are still owed, oldest first.

    With a settled state: the latest first.  `limit` is between 1 and MAX_ROWS.
    """
    chosen = _ROWS.limit(max(1, min(limit, MAX_ROWS)))
    if state is None:
        chosen = chosen.where(deliveries.c.settled_at.is_(None)).order_by(deliveries.c.message_id)
    else:
        wanted = _state(state)
        chosen = chosen.where(deliveries.c.state == wanted.value)
        if wanted in SETTLED:
            chosen = chosen.order_by(deliveries.c.message_id.desc())
        else:
            chosen = chosen.where(deliveries.c.settled_at.is_(None)).order_by(deliveries.c.message_id)
    if account is not None:
        chosen = chosen.where(deliveries.c.account_id == account_named(control, account).id)
    rows = await control.database.read(lambda connection: connection.execute(chosen).all())
    return [_entry(control, row) for row in rows]


async def queue_show(control: Control, *, id: str) -> dict[str, Any]:
    """One message with all its deliveries. Refused when there is none of that id."""
    number = (await known_ids(control, [id]))[0]

    def read(connection: Connection) -> tuple[Any, Sequence[Any]]:
        message = connection.execute(select(messages).where(messages.c.id == number)).one()
        return message, connection.execute(_ROWS.where(messages.c.id == number).order_by(deliveries.c.number)).all()

    message, rows = await control.database.read(read)
    return {**message_facts(control, message), "deliveries": [_entry(control, row) for row in rows]}


async def queue_summary(control: Control) -> dict[str, Any]:
    """What is owed: in all, by state, by account with what its lane does (None when no daemon runs)."""

    def read(connection: Connection) -> Sequence[Any]:
        oldest = func.min(messages.c.accepted_at)
        return connection.execute(
            select(deliveries.c.account_id, deliveries.c.state, func.count(), oldest)
            .join(messages, messages.c.id == deliveries.c.message_id)
            .where(deliveries.c.settled_at.is_(None))
            .group_by(deliveries.c.account_id, deliveries.c.state)
        ).all()

    states: dict[str, int] = {}
    accounts: dict[int, dict[str, Any]] = {}
    oldest_at = now = now_ms()
    for account_id, state, count, accepted_at in await control.database.read(read):
        states[state] = states.get(state, 0) + count
        entry = accounts.setdefault(account_id, _account_summary(control, account_id))
        entry["deliveries"] += count
        entry["states"][state] = count
        oldest_at = min(oldest_at, accepted_at)
    return {
        "deliveries": sum(states.values()),
        "oldest_s": (now - oldest_at) // 1000,
        "states": states,
        "accounts": sorted(accounts.values(), key=lambda entry: str(entry["account"])),
    }


def _account_summary(control: Control, account_id: int) -> dict[str, Any]:
    account = control.directory.account(account_id)
    return {
        "account": account_name(control, account_id),
        "state": account.state.value if account is not None else "removed",
        "deliveries": 0,
        "states": {},
        "lane": control.lanes.state(account_id) if control.lanes is not None else None,
    }


async def queue_hold(control: Control, *, ids: list[str]) -> dict[str, Any]:
    """Stop messages that wait, until they are released. Refused when nothing of them waits."""
    return await _do(control, "queue.hold", ids, control.queue.hold)


async def queue_release(control: Control, *, ids: list[str]) -> dict[str, Any]:
    """Let held messages go on. Refused when nothing of them is held."""
    return await _do(control, "queue.release", ids, control.queue.release)


async def queue_remove(control: Control, *, ids: list[str]) -> dict[str, Any]:
    """Give messages up without sending them. Refused when nothing of them waits."""
    return await _do(control, "queue.remove", ids, control.queue.remove)


async def queue_retry(control: Control, *, ids: list[str]) -> dict[str, Any]:
    """Try messages now, and end the rest of their accounts. Refused when nothing of them waits for a retry."""
    return await _do(control, "queue.retry", ids, control.queue.retry)


async def _do(
    control: Control, action: str, ids: list[str], function: Callable[[Sequence[int]], Awaitable[int]]
) -> dict[str, Any]:
    numbers = await known_ids(control, ids)
    await control.announce(action, [format_id(number) for number in numbers], {})
    changed = await function(numbers)
    owed = await control.database.read(lambda connection: _owed(connection, numbers))
    wakes = action in ("queue.retry", "queue.release")
    in_hand = sum(1 for row in owed if row.owner is not None) if action == "queue.retry" else 0
    if changed + in_hand == 0:
        raise ControlError(*_nothing(action, owed))
    if control.lanes is not None and wakes:
        for account_id in {row.account_id for row in owed}:
            control.lanes.wake(account_id)
    suspended = sorted({name for row in owed if (name := _suspended(control, row.account_id))}) if wakes else []
    return {"changed": changed + in_hand, "ids": [format_id(number) for number in numbers], "suspended": suspended}


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
    if action == "queue.release":
        return "nothing of it is held", "see `relay queue show ID`"
    if all(row.state == State.HELD.value for row in owed):
        return "it is held", "let it go on with `relay queue release ID`"
    return "it is in an attempt right now", "try again in a moment"


def _suspended(control: Control, account_id: int) -> str | None:
    account = control.directory.account(account_id)
    return account.address if account is not None and account.state.value == "suspended" else None


def is_suspended(control: Control, account_id: int) -> bool:
    """Whether that account waits for somebody to resume it."""
    return _suspended(control, account_id) is not None


async def known_ids(control: Control, ids: Sequence[str]) -> list[int]:
    """The numbers of message ids as people write them, distinct. Refused: an id that is none, or of no message."""
    numbers: dict[int, str] = {}
    for text in ids:
        number = parse_id(text)
        if number is None:
            raise ControlError("that is not a message id", "`relay queue list` shows the ids, 13 characters each")
        numbers[number] = text
    if not numbers:
        raise ControlError("no message id was given", "`relay queue list` shows the ids")

    def read(connection: Connection) -> set[int]:
        found: set[int] = set()
        wanted = list(numbers)
        for start in range(0, len(wanted), 500):
            chosen = select(messages.c.id).where(messages.c.id.in_(wanted[start : start + 500]))
            found.update(connection.scalars(chosen))
        return found

    missing = numbers.keys() - await control.database.read(read)
    if missing:
        raise ControlError(
            f"there is no message {format_id(min(missing))}",
            f"`relay queue list` shows what waits; history is kept for {control.settings.queue.history_days} days",
        )
    return list(numbers)


def account_named(control: Control, address: str) -> Any:
    """The account of that address. Refused when there is none."""
    account = control.directory.by_address(address)
    if account is None:
        raise ControlError(f"there is no account {shown(address)}", "`relay account list` shows them", "not-found")
    return account


def account_name(control: Control, account_id: int) -> str:
    """The address of an account, also of one that was removed."""
    account = control.directory.account(account_id)
    return account.address if account is not None else f"(removed account {account_id})"


def shown(text: str) -> str:
    """A value from outside, fit for one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:254])


def message_facts(control: Control, message: Any) -> dict[str, Any]:
    """A row of `messages` for people. `original_sender` None: the application named that sender itself."""
    return {
        "id": format_id(message.id),
        "sender": message.reverse_path,
        "original_sender": message.original_path,
        "account": account_name(control, message.account_id),
        "message_id_header": message.header_message_id,
        "client": message.client,
        "size": message.size,
        "accepted_at": iso(message.accepted_at),
        "answer": message.answer or "queued",
        "envid": message.envid,
        "ret": message.ret,
    }


def _entry(control: Control, row: Any) -> dict[str, Any]:
    stopped = row.settled_at is None and is_suspended(control, row.account_id)
    waits = row.settled_at is None and row.due_at < FAR_FUTURE_MS and not stopped
    reply = " ".join(part for part in (str(row.code or ""), row.status, row.reply) if part) if row.reply else ""
    return {
        "id": format_id(row.message_id),
        "sender": row.reverse_path,
        "recipient": row.recipient,
        "account": account_name(control, row.account_id),
        "state": row.state,
        "attempts": row.attempts,
        "accepted_at": iso(row.accepted_at),
        "next_attempt_at": iso(row.due_at) if waits else None,
        "account_suspended": stopped,
        "settled_at": iso(row.settled_at),
        "possible_duplicate": bool(row.possible_duplicate),
        "size": row.size,
        "reply": reply,
        "cause": row.cause or "",
        "notify": row.notify,
        "orcpt": row.orcpt,
    }


def _state(text: str) -> State:
    try:
        return State(text.lower().replace("-", "_"))
    except ValueError:
        known = ", ".join(state.value for state in State)
        raise ControlError("there is no such state", f"give one of {known}") from None
