"""Everything that happened to one message, in order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Column, ColumnElement, Connection, Table, select, true

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
    return await _stories(control, found[::-1])


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


class _Rows(NamedTuple):
    """What is kept of one message beside its own row."""

    parts: Sequence[Any]
    tried: Sequence[Any]
    ordered: Sequence[Any]
    told: Sequence[Any]
    back: Sequence[Any]
    copies: Sequence[Any]


class _Tables(NamedTuple):
    """The same of several: rows by message id; `ordered` and `told` by the id as people see it."""

    parts: Mapping[Any, Sequence[Any]]
    tried: Mapping[Any, Sequence[Any]]
    ordered: Mapping[Any, Sequence[Any]]
    told: Mapping[Any, Sequence[Any]]
    back: Mapping[Any, Sequence[Any]]
    copies: Mapping[Any, Sequence[Any]]

    def of(self, message_id: int) -> _Rows:
        """Those of one of them."""
        name = format_id(message_id)
        return _Rows(
            self.parts.get(message_id, ()),
            self.tried.get(message_id, ()),
            self.ordered.get(name, ()),
            self.told.get(name, ()),
            self.back.get(message_id, ()),
            self.copies.get(message_id, ()),
        )


async def _stories(control: Control, found: Sequence[Any]) -> list[dict[str, Any]]:
    """The stories of these rows of `messages`, in that order: six questions, however many they are."""
    ids = [message.id for message in found]
    names = [format_id(message_id) for message_id in ids]
    filed = (owed.c.kind == Owed.COPY.value, owed.c.paid_at.is_not(None))

    def read(connection: Connection) -> _Tables:
        return _Tables(
            _by(connection, deliveries.c.message_id, ids),
            _by(connection, attempts.c.message_id, ids),
            _by(connection, audit.c.target, names),
            _by(connection, notices.c.about, names),
            _by(connection, returned.c.message_id, ids),
            _by(connection, owed.c.message_id, ids, *filed),
        )

    tables = await control.database.read(read)
    return [_story(control, message, tables.of(message.id)) for message in found]


def _by(
    connection: Connection, key: Column[Any], values: Sequence[Any], *conditions: ColumnElement[bool]
) -> dict[Any, list[Any]]:
    """The rows of the table of `key` that have one of `values` in it, by value, each in the order of its own key."""
    table = key.table
    assert isinstance(table, Table)
    chosen = select(table).where(key.in_(values), *conditions).order_by(*table.primary_key.columns)
    found: dict[Any, list[Any]] = {}
    for row in connection.execute(chosen):
        found.setdefault(getattr(row, key.name), []).append(row)
    return found


def _story(control: Control, message: Any, rows: _Rows) -> dict[str, Any]:
    parts, tried, ordered, told, back, copies = rows
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
