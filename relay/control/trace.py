"""Everything that happened to one message, in order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, select, true

from relay.accounts.advice import steps_for
from relay.control.context import Control, ControlError, iso, now_ms
from relay.control.moments import moment_ms
from relay.control.queue import account_name, is_suspended, message_facts
from relay.control.selection import fits
from relay.database.schema import FAR_FUTURE_MS, attempts, audit, deliveries, messages, notices, owed, returned
from relay.diagnosis.conditions import entry_of
from relay.diagnosis.responsibility import who_must_act
from relay.mail.counted import counted
from relay.mail.ids import first_id_at, format_id, parse_id
from relay.queue.model import Owed

_MAX_MESSAGES = 20  # unless more are asked for: an application may send one Message-ID again and again
_MOST = 100


async def trace(
    control: Control,
    *,
    id: str | None = None,
    recipient: str | None = None,
    sender: str | None = None,
    since: str | None = None,
    limit: int = _MAX_MESSAGES,
) -> list[dict[str, Any]]:
    """The messages of an id of ours or a Message-ID, or to a recipient, or of a sender: oldest first, with `events`.

    Of more than `limit` (at most 100) the latest.  `recipient` and `sender` as `select_by` has them; `since`: an age
    such as 2h, or a time.  `asked`: the recipients for which the application asked something about notices (RFC 3461).
    Refused when there is none (any more), or nothing to look for.
    """
    if id is None and recipient is None and sender is None:
        raise ControlError("nothing to look for was given", "give an id, a Message-ID, --recipient or --sender")
    wanted = _wanted(recipient, sender, since)

    most = max(1, min(limit, _MOST))

    def read(connection: Connection) -> Sequence[Any]:
        for named in _named(id) if id is not None else [true()]:
            chosen = select(messages.c.id).where(named, *wanted).order_by(messages.c.id.desc()).limit(most)
            if recipient is not None:  # found in `deliveries`, whose order is that of ids
                theirs = chosen.join(deliveries, deliveries.c.message_id == messages.c.id).distinct()
                chosen = theirs.order_by(None).order_by(deliveries.c.message_id.desc())
                chosen = chosen.with_only_columns(deliveries.c.message_id)
            numbers = list(connection.scalars(chosen))
            if numbers:
                kept = select(messages).where(messages.c.id.in_(numbers)).order_by(messages.c.id.desc())
                return connection.execute(kept).all()
        return []

    found = await control.database.read(read)
    if not found:
        raise ControlError(
            "there is no message of that id" if id is not None else "there is no such message",
            "give the id of `250 2.0.0 Ok: queued as <id>` or the Message-ID; "
            f"history is kept for {counted(control.settings.queue.history_days, 'day')}",
        )
    return [await _story(control, message) for message in reversed(found)]


def _named(id: str) -> list[ColumnElement[bool]]:
    """What an id may be, the likelier first: ours is found at once, a Message-ID by looking at every message."""
    number = parse_id(id)
    bare = id.strip().removeprefix("<").removesuffix(">")
    header = messages.c.header_message_id.in_([f"<{bare}>", bare])
    return [header] if number is None else [messages.c.id == number, header]


def _wanted(recipient: str | None, sender: str | None, since: str | None) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if sender is not None:
        wanted.append(fits(messages.c.reverse_path, sender))
    if since is not None:
        start = moment_ms(since, now_ms(), "--since")
        wanted += [messages.c.id >= first_id_at(start), messages.c.accepted_at >= start]
    if recipient is not None:
        wanted.append(fits(deliveries.c.recipient, recipient))
    return wanted


async def _story(control: Control, message: Any) -> dict[str, Any]:
    shown = format_id(message.id)

    def read(connection: Connection) -> tuple[Sequence[Any], ...]:
        return (
            connection.execute(select(deliveries).where(deliveries.c.message_id == message.id)).all(),
            connection.execute(select(attempts).where(attempts.c.message_id == message.id)).all(),
            connection.execute(select(audit).where(audit.c.target == shown)).all(),
            connection.execute(select(notices).where(notices.c.about == shown)).all(),
            connection.execute(select(returned).where(returned.c.message_id == message.id)).all(),
            connection.execute(
                select(owed).where(
                    owed.c.message_id == message.id, owed.c.kind == Owed.COPY.value, owed.c.paid_at.is_not(None)
                )
            ).all(),
        )

    parts, tried, ordered, told, back, copies = await control.database.read(read)
    recipients = {row.number: row.recipient for row in parts}
    events = [(message.accepted_at, 0, {"event": "accepted", "client": message.client, "size": message.size})]
    events += [(row.at, 1, _attempt(control, row, recipients)) for row in tried]
    events += [(row.at, 2, {"event": row.action, "by": row.actor, "detail": json.loads(row.detail)}) for row in ordered]
    events += [
        (row.settled_at, 3, {"event": row.state, "recipient": row.recipient, **_doubt(row)})
        for row in parts
        if row.settled_at is not None
    ]
    events += [(row.at, 4, _notice(row)) for row in told]
    events += [(row.paid_at, 5, {"event": "copy.filed" if row.begun_at else "copy.given_up"}) for row in copies]
    events += [(row.at, 6, _returned(control, message, row)) for row in back]
    events.sort(key=lambda event: event[:2])
    story = [{"at": iso(at), **event} for at, _, event in events]
    story += [_waiting(control, row) for row in parts if row.settled_at is None]
    asked = [
        {"recipient": row.recipient, "notify": row.notify, "orcpt": row.orcpt}
        for row in parts
        if row.notify is not None or row.orcpt is not None
    ]
    facts = message_facts(control, message)
    return {**facts, "recipients": list(recipients.values()), "asked": asked, "events": story}


def _attempt(control: Control, row: Any, recipients: dict[int, str]) -> dict[str, Any]:
    entry = entry_of(row.cause) if row.cause else None
    return {
        "event": f"attempt.{row.outcome}",
        "recipient": recipients.get(row.number, ""),
        "attempt": row.attempt,
        "account": account_name(control, row.account_id),
        "stage": row.stage,
        "code": row.code,
        "status": row.status,
        "reply": row.reply,
        "remedy": row.cause,
        "cause": entry.cause if entry is not None else "",
        "who": who_must_act(entry).value if entry is not None else "",
        "steps": steps_for(entry.cls, entry.remedy, control.directory.account(row.account_id))
        if entry is not None
        else [],
        "elapsed_ms": row.elapsed_ms,
    }


def _returned(control: Control, message: Any, row: Any) -> dict[str, Any]:
    """What a notification in the account's mailbox said."""
    entry = entry_of(row.cause)
    return {
        "event": "returned",
        "recipient": row.recipient,
        "host": row.host,
        "code": row.code,
        "status": row.status,
        "reply": row.reply,
        "remedy": row.cause,
        "cause": entry.cause,
        "who": who_must_act(entry).value,
        "steps": steps_for(entry.cls, entry.remedy, control.directory.account(message.account_id)),
    }


def _doubt(row: Any) -> dict[str, bool]:
    """Was there a final dot without a known outcome? Then it may have arrived more than once."""
    return {"possible_duplicate": bool(row.possible_duplicate)}


def _notice(row: Any) -> dict[str, Any]:
    return {
        "event": f"notice.{row.outcome}",
        "recipient": row.recipient,
        "message_id": format_id(row.message_id) if row.message_id is not None else None,
        "detail": row.detail,
    }


def _waiting(control: Control, row: Any) -> dict[str, Any]:
    account = control.directory.account(row.account_id)
    return {
        "at": None,
        "event": "waiting",
        "recipient": row.recipient,
        "state": row.state,
        **_doubt(row),
        "attempts": row.attempts,
        "next_attempt_at": iso(row.due_at)
        if row.due_at < FAR_FUTURE_MS and not is_suspended(control, row.account_id)
        else None,
        "account": account_name(control, row.account_id),
        "account_state": account.state.value if account is not None else "removed",
    }
