"""The two operations every message costs, accept and settle, as batches of prepared statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import Connection, Table, delete, exists, insert, null, select, update
from sqlalchemy.sql.elements import ClauseElement

from relay.database.schema import attempts, contents, deliveries, messages
from relay.database.statements import Prepared, Row, Rows
from relay.database.writer import Operation
from relay.mail.errors import RelayError


class Fenced(RelayError):
    """The delivery was changed by somebody else since it was claimed; nothing was written."""


def _insert(table: Table, *columns: str) -> Prepared:
    return Prepared(columns, lambda rows, _: insert(table).values(rows))


_MESSAGE = _insert(
    messages,
    "id",
    "account_id",
    "reverse_path",
    "header_message_id",
    "client",
    "size",
    "eight_bit",
    "smtputf8",
    "spool",
    "accepted_at",
)
_CONTENT = _insert(contents, "message_id", "body")
_DELIVERY = _insert(
    deliveries,
    "message_id",
    "number",
    "recipient",
    "account_id",
    "state",
    "due_at",
    "attempts",
    "owner",
    "token",
    "possible_duplicate",
)
_ATTEMPT = _insert(
    attempts,
    "message_id",
    "number",
    "attempt",
    "at",
    "account_id",
    "outcome",
    "stage",
    "code",
    "status",
    "reply",
    "cause",
    "elapsed_ms",
)


def _finish(rows: Rows, shared: Row) -> ClauseElement:
    return (
        update(deliveries)
        .where(
            deliveries.c.message_id.in_([row["message_id"] for row in rows]),
            deliveries.c.number == shared["number"],
            deliveries.c.token == shared["token"],
            deliveries.c.settled_at.is_(None),
        )
        .values(
            state=shared["state"],
            attempts=shared["attempts"],
            owner=null(),
            settled_at=shared["settled_at"],
            possible_duplicate=shared["possible_duplicate"],
        )
    )


def _settle(rows: Rows, _: Row) -> ClauseElement:
    [row] = rows  # UPDATE ... FROM (VALUES ...) makes SQLite copy what it updates: slower than one at a time
    return (
        update(deliveries)
        .where(
            deliveries.c.message_id == row["the_message"],
            deliveries.c.number == row["the_number"],
            deliveries.c.token == row["the_token"],
            deliveries.c.settled_at.is_(None),
        )
        .values(
            state=row["state"],
            due_at=row["due_at"],
            attempts=row["attempts"],
            account_id=row["lane"],
            owner=null(),
            settled_at=row["settled_at"],
            possible_duplicate=row["possible_duplicate"],
        )
    )


def _forget(rows: Rows, _: Row) -> ClauseElement:
    owed = select(deliveries.c.number).where(
        deliveries.c.message_id == contents.c.message_id, deliveries.c.settled_at.is_(None)
    )
    return delete(contents).where(contents.c.message_id.in_([row["message_id"] for row in rows]), ~exists(owed))


_SETTLE = Prepared(
    (
        "state",
        "due_at",
        "attempts",
        "lane",
        "settled_at",
        "possible_duplicate",
        "the_message",
        "the_number",
        "the_token",
    ),
    _settle,
    most_rows=1,
)
_FINISH = Prepared(
    ("message_id",),
    _finish,
    shared=("state", "attempts", "possible_duplicate", "settled_at", "number", "token"),
)
_FORGET = Prepared(("message_id",), _forget)


@dataclass(slots=True)
class Accept(Operation[None]):
    """Make one message ours: its row, its content if it is small, a delivery for each recipient."""

    prepared: ClassVar[bool] = True
    message: tuple[Any, ...]
    content: tuple[int, bytes] | None
    deliveries: list[tuple[Any, ...]]

    @classmethod
    def apply_all(cls, connection: Connection, operations: Sequence[Accept]) -> list[None]:
        """Three statements for the whole batch."""
        _MESSAGE.run(connection, [operation.message for operation in operations])
        _CONTENT.run(connection, [operation.content for operation in operations if operation.content is not None])
        _DELIVERY.run(connection, [row for operation in operations for row in operation.deliveries])
        return [None] * len(operations)


@dataclass(slots=True)
class Settle(Operation[bool]):
    """Record what an attempt led to. The result: nothing of the message is owed any more, its content is gone.

    Raises Fenced when a delivery was claimed anew or changed by an operator meanwhile; its attempt is
    recorded all the same by `Queue`, its state is not touched.
    """

    prepared: ClassVar[bool] = True
    message_id: int
    finals: list[tuple[str, int, int, int, int]]  # state, attempts, possible_duplicate, number, token
    states: list[tuple[Any, ...]]  # the others, and all of a message that changed its lane
    attempts: list[tuple[Any, ...]]
    settles: bool  # at least one delivery reached a final state
    spooled: bool
    now: int  # ms since 1970

    @classmethod
    def apply_all(cls, connection: Connection, operations: Sequence[Settle]) -> list[bool]:
        """A few statements for the whole batch; spooled messages ask one more question each."""
        states = [row for operation in operations for row in operation.states]
        changed = _SETTLE.run(connection, states)
        alike: dict[tuple[str, int, int, int, int], list[tuple[int]]] = {}  # nearly always one: relayed at once
        for operation in operations:
            for final in operation.finals:
                alike.setdefault(final, []).append((operation.message_id,))
        now = max(operation.now for operation in operations)
        for (state, tried, doubtful, number, token), rows in alike.items():
            changed += _FINISH.run(connection, rows, (state, tried, doubtful, now, number, token))
        if changed != len(states) + sum(len(operation.finals) for operation in operations):
            raise Fenced("a delivery was changed by somebody else")
        _ATTEMPT.run(connection, [row for operation in operations for row in operation.attempts])
        _FORGET.run(connection, [(o.message_id,) for o in operations if o.settles and not o.spooled])
        return [
            operation.settles and operation.spooled and _is_settled(connection, operation.message_id)
            for operation in operations
        ]


def _owed(rows: Rows, _: Row) -> ClauseElement:
    [row] = rows
    return select(deliveries.c.number).where(
        deliveries.c.message_id == row["message_id"], deliveries.c.settled_at.is_(None)
    )


_OWED = Prepared(("message_id",), _owed)


def _is_settled(connection: Connection, message_id: int) -> bool:
    return _OWED.first(connection, (message_id,)) is None
