"""The rows of a group commit as statements for PostgreSQL: one to accept, one to settle, one to forget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from relay.database.postgresql.faults import TORN
from relay.database.statements import Statement
from relay.queue.kinds import ACCEPT, FENCED, FORGET, NOTE, OWE, RECORD, SETTLE, TELL
from relay.queue.spool_rows import CHUNK, SWEEP

_MESSAGE = (
    ("id", "bigint"),
    ("account_id", "bigint"),
    ("reverse_path", "text"),
    ("header_message_id", "text"),
    ("client", "text"),
    ("size", "int"),
    ("eight_bit", "int"),
    ("smtputf8", "int"),
    ("spool", "text"),
    ("session", "bigint"),
    ("repaired", "text"),
    ("accepted_at", "bigint"),
    ("original_path", "text"),
    ("ret", "text"),
    ("envid", "text"),
    ("answer", "text"),
)
_SIZE, _SPOOL = (next(at for at, (name, _) in enumerate(_MESSAGE) if name == wanted) for wanted in ("size", "spool"))
_DELIVERY = (
    ("message_id", "bigint"),
    ("number", "int"),
    ("recipient", "text"),
    ("account_id", "bigint"),
    ("due_at", "bigint"),
    ("owner", "bigint"),
    ("notify", "text"),
    ("orcpt", "text"),
)
_STATE = (
    ("message_id", "bigint"),
    ("number", "int"),
    ("token", "int"),
    ("state", "text"),
    ("due_at", "bigint"),
    ("attempts", "int"),
    ("account_id", "bigint"),
    ("settled_at", "bigint"),
    ("possible_duplicate", "int"),
)
_ATTEMPT = (
    ("message_id", "bigint"),
    ("number", "int"),
    ("attempt", "int"),
    ("at", "bigint"),
    ("account_id", "bigint"),
    ("outcome", "text"),
    ("stage", "text"),
    ("code", "int"),
    ("status", "text"),
    ("reply", "text"),
    ("cause", "text"),
    ("elapsed_ms", "int"),
)
_OWED = (("message_id", "bigint"), ("number", "int"), ("kind", "text"), ("due_at", "bigint"))

Columns = Sequence[tuple[str, str]]


def _names(columns: Columns) -> str:
    return ", ".join(name for name, _ in columns)


def _rows(columns: Columns) -> str:
    """Arrays, one a column, as rows."""
    return f"unnest({', '.join(f'%s::{kind}[]' for _, kind in columns)}) AS row({_names(columns)})"


# ruff: noqa: S608 - made of the names above, and parameters
_ACCEPT_SQL = f"""
WITH message AS (INSERT INTO messages ({_names(_MESSAGE)}) SELECT * FROM {_rows(_MESSAGE)}),
     content AS (INSERT INTO contents (message_id, body) SELECT * FROM unnest(%s::bigint[], %b::bytea[]))
INSERT INTO deliveries ({_names(_DELIVERY)}, state, attempts, token, possible_duplicate)
SELECT {_names(_DELIVERY)}, 'queued', 0, 1, 0 FROM {_rows(_DELIVERY)}
"""
# The rows of a large content were committed without waiting for the device: a server that crashed, or a standby that
# took over, since then may lack some, and only this transaction can tell.
_WHOLE_SQL = f"""
SELECT relay_expect(count(*), %s, '{TORN}') FROM chunks WHERE spool = ANY(%s::text[])
"""
# Before it, so that it sees what a sweep did that took these rows for a dead node's, and any later sweep the message.
_NO_SWEEP_SQL = f"SELECT pg_advisory_xact_lock_shared({SWEEP})"
_SETTLE_SQL = f"""
WITH changed AS (
         UPDATE deliveries AS d
         SET state = row.state, due_at = coalesce(row.due_at, d.due_at), attempts = row.attempts,
             account_id = coalesce(row.account_id, d.account_id), owner = NULL, settled_at = row.settled_at,
             possible_duplicate = row.possible_duplicate
         FROM {_rows(_STATE)}
         WHERE d.message_id = row.message_id AND d.number = row.number AND d.token = row.token
               AND d.settled_at IS NULL
         RETURNING 1),
     recorded AS (INSERT INTO attempts ({_names(_ATTEMPT)}) SELECT * FROM {_rows(_ATTEMPT)}),
     told AS (INSERT INTO owed ({_names(_OWED)}) SELECT * FROM {_rows(_OWED)} ON CONFLICT DO NOTHING)
SELECT relay_expect(count(*), %s, '{FENCED}') FROM changed
"""
# A statement of its own: it has to see what the one before did.
_FORGET_SQL = """
WITH done AS (
         SELECT m.id, m.spool FROM messages AS m
         WHERE m.id = ANY(%s::bigint[])
         AND NOT EXISTS (SELECT 1 FROM deliveries AS d WHERE d.message_id = m.id AND d.settled_at IS NULL)
         AND NOT EXISTS (SELECT 1 FROM owed AS o WHERE o.message_id = m.id AND o.paid_at IS NULL)),
     chunk AS (DELETE FROM chunks USING done WHERE chunks.spool = done.spool)
DELETE FROM contents USING done WHERE contents.message_id = done.id
"""


def plan(rows: Sequence[tuple[Any, ...]]) -> list[Statement]:
    """The statements for `rows`, each the number of its kind and the values of it (see `operations`)."""
    kinds: dict[int, list[tuple[Any, ...]]] = {}
    for row in rows:
        kinds.setdefault(row[0], []).append(row[1:])
    statements: list[Statement] = []
    if ACCEPT in kinds:
        statements.append(_accept(kinds[ACCEPT], kinds.get(OWE, ()), kinds.get(NOTE, ())))
        sizes = {row[_SPOOL]: row[_SIZE] for row in kinds[ACCEPT] if row[_SPOOL] is not None}
        if sizes:
            statements.append((_NO_SWEEP_SQL, ()))
            statements.append((_WHOLE_SQL, (sum(-(-size // CHUNK) for size in sizes.values()), _texts(sizes))))
    if SETTLE in kinds or RECORD in kinds or TELL in kinds:
        states = kinds.get(SETTLE, ())
        values = (
            *_arrays(states, _STATE),
            *_arrays(kinds.get(RECORD, ()), _ATTEMPT),
            *_arrays(kinds.get(TELL, ()), _OWED),
        )
        statements.append((_SETTLE_SQL, (*values, len(states))))
    if FORGET in kinds:
        statements.append((_FORGET_SQL, (_numbers([row[0] for row in kinds[FORGET]]),)))
    return statements


def _accept(accepts: Sequence[tuple[Any, ...]], owed: Sequence[tuple[Any, ...]], notes: Iterable[Any]) -> Statement:
    """What few messages have comes with their rows: an UPDATE in the same statement would not see them."""
    noted = {(note[0], note[1]): note[2:] for note in notes}
    none: tuple[None, ...] = (None,) * 4
    messages, bodies, deliveries = [], [], []
    for row in accepts:
        *message, body, recipient, owner = row
        message_id, account_id, accepted_at = message[0], message[1], message[-1]
        messages.append((*message, *noted.get((message_id, None), none)[:4]))
        if body is not None:
            bodies.append((message_id, body))
        asked = _notes_of(noted, message_id, 0)
        deliveries.append((message_id, 0, recipient, account_id, accepted_at, owner, *asked))
    deliveries += [(*row, *_notes_of(noted, row[0], row[1])) for row in owed]
    return _ACCEPT_SQL, (
        *_arrays(messages, _MESSAGE),
        _numbers([message_id for message_id, _ in bodies]),
        [body for _, body in bodies],
        *_arrays(deliveries, _DELIVERY),
    )


def _notes_of(noted: dict[tuple[int, int | None], tuple[Any, ...]], message_id: int, number: int) -> tuple[Any, ...]:
    found = noted.get((message_id, number))
    return found[4:6] if found is not None else (None, None)


def _arrays(rows: Sequence[tuple[Any, ...]], columns: Columns) -> list[str]:
    """The literals of arrays (postgresql.org/docs/current/arrays.html, 8.15.6), a column each.

    Literals, not lists: the driver would give an array of numbers the type of its largest, and a statement with other
    types of parameters is another one, to be parsed and kept anew.
    """
    if not rows:
        return ["{}"] * len(columns)
    return [
        _texts(values) if kind == "text" else _numbers(values)
        for values, (_, kind) in zip(zip(*rows, strict=True), columns, strict=True)
    ]


def _numbers(values: Iterable[int | None]) -> str:
    return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"


def _texts(values: Iterable[str | None]) -> str:
    return "{" + ",".join(["NULL" if value is None else _quoted(value) for value in values]) + "}"


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text or "\0" in text:
        # PostgreSQL keeps no NUL; where one came this far, it is in what is only shown.
        text = text.replace("\\", "\\\\").replace('"', '\\"').replace("\0", "\ufffd")
    return f'"{text}"'
