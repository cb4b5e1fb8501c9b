"""What waits and what became of it: lists, counts, single messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select

from relay.accounts.model import Account
from relay.control.contents import header_of
from relay.control.context import Control, ControlError, iso
from relay.control.selection import Selection, beyond, place, select_by, shown
from relay.database.schema import FAR_FUTURE_MS, attempts, deliveries, messages, returned
from relay.mail.counted import counted
from relay.mail.ids import format_id, parse_id
from relay.mail.mended import mended
from relay.telemetry.tracing import trace_id

MAX_ROWS = 100_000

_last = and_(
    attempts.c.message_id == deliveries.c.message_id,
    attempts.c.number == deliveries.c.number,
    attempts.c.attempt == deliveries.c.attempts,
)
_back = returned.alias()
_came_back = (
    select(func.max(_back.c.id))
    .where(_back.c.message_id == deliveries.c.message_id, _back.c.number == deliveries.c.number)
    .correlate(deliveries)
    .scalar_subquery()
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
    returned.c.at.label("returned_at"),
    returned.c.code.label("returned_code"),
    returned.c.status.label("returned_status"),
    returned.c.reply.label("returned_reply"),
    returned.c.cause.label("returned_cause"),
).select_from(
    deliveries.join(messages, messages.c.id == deliveries.c.message_id)
    .outerjoin(attempts, _last)
    .outerjoin(returned, returned.c.id == _came_back),
)


async def queue_list(
    control: Control,
    *,
    account: str | None = None,
    state: str | None = None,
    sender: str | None = None,
    recipient: str | None = None,
    client: str | None = None,
    older_than: str | None = None,
    after: str | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """One entry a delivery that fits every filter (see `select_by`); without `state` those that are owed, oldest first.

    With a settled state: the latest first.  `limit` is between 1 and MAX_ROWS; `after` is the `place` of the last
    entry of the page before.
    """
    selection = select_by(
        control,
        account=account,
        state=state,
        sender=sender,
        recipient=recipient,
        client=client,
        older_than=older_than,
    )
    chosen = _picked(selection, after, max(1, min(limit, MAX_ROWS)))
    rows = await control.database.read(lambda connection: connection.execute(chosen).all())
    return [_entry(control, row) for row in rows]


def _picked(selection: Selection, after: str | None, limit: int) -> Select[Any]:
    """First the places of the page alone, from as little as tells them, then what is shown of each."""
    keys = (deliveries.c.message_id, deliveries.c.number)
    wanted = select(*keys).where(selection.of_delivery)
    if selection.of_messages:
        wanted = wanted.join(messages, messages.c.id == deliveries.c.message_id).where(selection.of_message)
    if after is not None:
        wanted = wanted.where(beyond(after, latest_first=selection.settled))
    order: Sequence[ColumnElement[Any]] = keys
    if selection.settled:
        order = [column.desc() for column in keys]
    elif selection.counted:  # all of it is in the index of what is owed, while the order of ids goes past what is done
        order = [column + 0 for column in keys]
    page = wanted.order_by(*order).limit(limit).subquery()
    places = and_(page.c.message_id == deliveries.c.message_id, page.c.number == deliveries.c.number)
    shown_in = [column.desc() for column in keys] if selection.settled else keys
    return _ROWS.join(page, places).order_by(*shown_in)


async def queue_show(control: Control, *, id: str) -> dict[str, Any]:
    """One message with all its deliveries, and its header section while it is kept; never its body.

    Refused when there is none of that id.
    """
    number = (await known_ids(control, [id]))[0]

    def read(connection: Connection) -> tuple[Any, Sequence[Any]]:
        message = connection.execute(select(messages).where(messages.c.id == number)).one()
        return message, connection.execute(_ROWS.where(messages.c.id == number).order_by(deliveries.c.number)).all()

    message, rows = await control.database.read(read)
    entries = [_entry(control, row) for row in rows]
    return {**message_facts(control, message), "header": await header_of(control, message), "deliveries": entries}


def suspended_account(control: Control, account_id: int) -> str | None:
    """The address of that account if it waits for somebody to resume it, else None."""
    account = control.directory.account(account_id)
    return account.address if account is not None and account.state.value == "suspended" else None


def is_suspended(control: Control, account_id: int) -> bool:
    """Whether that account waits for somebody to resume it."""
    return suspended_account(control, account_id) is not None


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
        days = counted(control.settings.queue.history_days, "day")
        raise ControlError(
            f"there is no message {format_id(min(missing))}",
            f"`relay queue list` shows what waits; history is kept for {days}",
        )
    return list(numbers)


def account_named(control: Control, address: str) -> Account:
    """The account of that address. Refused when there is none."""
    account = control.directory.by_address(address)
    if account is None:
        raise ControlError(f"there is no account {shown(address)}", "`relay account list` shows them", "not-found")
    return account


def account_name(control: Control, account_id: int) -> str:
    """The address of an account, also of one that was removed."""
    account = control.directory.account(account_id)
    return account.address if account is not None else f"(removed account {account_id})"


def message_facts(control: Control, message: Any) -> dict[str, Any]:
    """A row of `messages` for people. `original_sender` None: the application named that sender itself.

    `session_id` None: mail of our own, or from before this was kept. `repairs`: what `repaired` means.
    `trace_id`: as a tracing tool shows it; None: nothing is traced.
    """
    traced = control.settings.telemetry.otlp_endpoint
    return {
        "id": format_id(message.id),
        "sender": message.reverse_path,
        "original_sender": message.original_path,
        "account": account_name(control, message.account_id),
        "message_id_header": message.header_message_id,
        "client": message.client,
        "size": message.size,
        "accepted_at": iso(message.accepted_at),
        "session_id": format_id(message.session) if message.session is not None else None,
        "repaired": (repaired := message.repaired.split(",") if message.repaired else []),
        "repairs": mended(repaired),
        "trace_id": trace_id(message.id, message.header_message_id) if traced else None,
        "answer": message.answer or "queued",
        "envid": message.envid,
        "ret": message.ret,
    }


def _entry(control: Control, row: Any) -> dict[str, Any]:
    stopped = row.settled_at is None and is_suspended(control, row.account_id)
    waits = row.settled_at is None and row.due_at < FAR_FUTURE_MS and not stopped
    reply = _quoted(row.code, row.status, row.reply) if row.reply else ""
    return {
        "id": format_id(row.message_id),
        "place": place(row.message_id, row.number),
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
        "returned": _returned(row),
        "notify": row.notify,
        "orcpt": row.orcpt,
    }


def _returned(row: Any) -> dict[str, Any] | None:
    """What a notification in the account's mailbox said of it later; None: nothing did."""
    if row.returned_at is None:
        return None
    reply = _quoted(row.returned_code, row.returned_status, row.returned_reply)
    return {"at": iso(row.returned_at), "reply": reply, "cause": row.returned_cause}


def _quoted(code: int | None, status: str, reply: str) -> str:
    return " ".join(part for part in (str(code or ""), status, reply) if part)
