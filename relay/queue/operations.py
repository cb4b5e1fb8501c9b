"""The two operations every message costs, accept and settle: rows of one statement for a whole group commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sqlalchemy import Connection

from relay.database.statements import Batch, Plan
from relay.database.writer import Operation
from relay.mail.errors import RelayError
from relay.queue.kinds import ACCEPT, FENCED, FORGET, NOTE, OWE, RECORD, SETTLE, TELL
from relay.queue.model import SETTLED, Arrival, Message, Owed, Settlement

_FENCED = "fenced"  # what the trigger below raises


class Fenced(RelayError):
    """The delivery was changed by somebody else since it was claimed; nothing was written."""


def _postgresql() -> Plan:
    from relay.queue.postgresql import plan

    return plan


_QUEUE = Batch(
    "queue_batch",
    (
        (  # a message, and what it owes to its first recipient
            (
                "id",
                "account_id",
                "reverse_path",
                "header_message_id",
                "client",
                "size",
                "eight_bit",
                "smtputf8",
                "spool",
                "session",
                "repaired",
                "accepted_at",
                "body",
                "recipient",
                "owner",
            ),
            """
            INSERT INTO messages (id, account_id, reverse_path, header_message_id, client, size, eight_bit, smtputf8,
                                  spool, session, repaired, accepted_at)
            VALUES (:id, :account_id, :reverse_path, :header_message_id, :client, :size, :eight_bit, :smtputf8,
                    :spool, :session, :repaired, :accepted_at);
            INSERT INTO contents (message_id, body) SELECT :id, :body WHERE :body IS NOT NULL;
            INSERT INTO deliveries (message_id, number, recipient, account_id, state, due_at, attempts, owner, token,
                                    possible_duplicate)
            VALUES (:id, 0, :recipient, :account_id, 'queued', :accepted_at, 0, :owner, 1, 0);
            """,
        ),
        (  # what it owes to each other recipient
            ("id", "number", "recipient", "account_id", "accepted_at", "owner"),
            """
            INSERT INTO deliveries (message_id, number, recipient, account_id, state, due_at, attempts, owner, token,
                                    possible_duplicate)
            VALUES (:id, :number, :recipient, :account_id, 'queued', :accepted_at, 0, :owner, 1, 0);
            """,
        ),
        (  # the next state of a delivery; due_at and account_id stay as they are where they are NULL
            (
                "id",
                "number",
                "token",
                "state",
                "due_at",
                "attempts",
                "account_id",
                "settled_at",
                "possible_duplicate",
            ),
            """
            UPDATE deliveries
            SET state = :state, due_at = coalesce(:due_at, due_at), attempts = :attempts,
                account_id = coalesce(:account_id, account_id), owner = NULL, settled_at = :settled_at,
                possible_duplicate = :possible_duplicate
            WHERE message_id = :id AND number = :number AND token = :token AND settled_at IS NULL;
            SELECT RAISE(ABORT, 'fenced') WHERE changes() <> 1;
            """,
        ),
        (  # what an attempt at it led to
            (
                "id",
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
            ),
            """
            INSERT INTO attempts (message_id, number, attempt, at, account_id, outcome, stage, code, status, reply,
                                  cause, elapsed_ms)
            VALUES (:id, :number, :attempt, :at, :account_id, :outcome, :stage, :code, :status, :reply, :cause,
                    :elapsed_ms);
            """,
        ),
        (  # its content, unless more of it is owed, or aftercare needs it
            ("id",),
            """
            DELETE FROM contents WHERE message_id = :id
            AND NOT EXISTS (SELECT 1 FROM deliveries WHERE message_id = :id AND settled_at IS NULL)
            AND NOT EXISTS (SELECT 1 FROM owed WHERE message_id = :id AND paid_at IS NULL);
            """,
        ),
        (  # what few messages have: of the message where number is NULL, of a delivery otherwise
            ("id", "number", "original_path", "ret", "envid", "answer", "notify", "orcpt"),
            """
            UPDATE messages SET original_path = :original_path, ret = :ret, envid = :envid, answer = :answer
            WHERE id = :id AND :number IS NULL;
            UPDATE deliveries SET notify = :notify, orcpt = :orcpt WHERE message_id = :id AND number = :number;
            """,
        ),
        (  # what aftercare has to do: tell its sender, file a copy
            ("id", "number", "kind", "due_at"),
            """
            INSERT INTO owed (message_id, number, kind, due_at) SELECT :id, :number, :kind, :due_at
            WHERE NOT EXISTS (SELECT 1 FROM owed WHERE message_id = :id AND number = :number AND kind = :kind);
            """,
        ),
    ),
    postgresql=_postgresql,
)


@dataclass(slots=True)
class Accept(Operation[None]):
    """Make one message ours: its row, its content if it is small, a delivery for each recipient."""

    batch: ClassVar[Batch | None] = _QUEUE
    message: tuple[Any, ...]  # the values of `messages` in their order, from id to accepted_at
    body: bytes | None
    recipients: Sequence[str]
    owner: int | None
    notes: Sequence[tuple[Any, ...]] = ()  # see the function of that name

    def rows(self) -> list[tuple[Any, ...]]:
        """See `Operation.rows`."""
        message, owner, recipients = self.message, self.owner, self.recipients
        rows: list[tuple[Any, ...]] = [(ACCEPT, *message, self.body, recipients[0], owner)]
        if len(recipients) > 1:
            message_id, account_id, now = message[0], message[1], message[-1]
            rows += [
                (OWE, message_id, number, recipient, account_id, now, owner)
                for number, recipient in enumerate(recipients)
                if number
            ]
        if self.notes:
            rows += self.notes
        return rows

    def result(self, connection: Connection) -> None:
        """See `Operation.result`."""


def notes(message_id: int, arrival: Arrival) -> list[tuple[Any, ...]]:
    """What an arrival asks beyond what every message has, as rows behind those of its Accept; empty: nothing."""
    (ret, envid), requests = arrival.request, arrival.requests
    assert len(requests) in (0, len(arrival.recipients))
    rows: list[tuple[Any, ...]] = []
    if arrival.original_path or ret or envid or arrival.answer:
        path, answer = arrival.original_path or None, arrival.answer or None
        rows.append((NOTE, message_id, None, path, ret or None, envid or None, answer))
    rows += [
        (NOTE, message_id, number, None, None, None, None, notify or None, orcpt or None)
        for number, (notify, orcpt) in enumerate(requests)
        if notify or orcpt
    ]
    return rows


@dataclass(slots=True)
class Settle(Operation[bool]):
    """Record what an attempt led to. The result: nothing of the message is owed to anybody, its file may go.

    Raises Fenced when a delivery was claimed anew or changed by an operator meanwhile; its attempt is
    recorded all the same by `Queue`, its state is not touched.
    """

    batch: ClassVar[Batch | None] = _QUEUE
    patient: ClassVar[bool] = True
    message_id: int
    states: list[tuple[Any, ...]]  # from number to possible_duplicate, one for each delivery
    attempts: list[tuple[Any, ...]]  # from number to elapsed_ms
    settles: bool  # at least one delivery reached a final state
    spooled: bool
    owed: Sequence[tuple[Any, ...]] = ()  # from number to due_at, for what aftercare has to do

    def rows(self) -> list[tuple[Any, ...]]:
        """See `Operation.rows`."""
        message_id = self.message_id
        rows: list[tuple[Any, ...]] = [(SETTLE, message_id, *state) for state in self.states]
        rows += [(RECORD, message_id, *attempt) for attempt in self.attempts]
        if self.owed:  # before the content may go
            rows += [(TELL, message_id, *owed) for owed in self.owed]
        if self.settles and not self.spooled:
            rows.append((FORGET, message_id))
        return rows

    def result(self, connection: Connection) -> bool:
        """See `Operation.result`."""
        return self.settles and self.spooled and _is_settled(connection, self.message_id)

    def failure(self, error: Exception) -> Exception:
        """See `Operation.failure`."""
        return Fenced("a delivery was changed by somebody else") if _is_fence(error) else error


def settle(message: Message, settlements: Sequence[Settlement], now: int, *, wait_ms: int, files: bool) -> Settle:
    """The next state of claimed deliveries. `wait_ms`: until aftercare tells; `files`: large contents are files."""
    states: list[tuple[object, ...]] = []
    records: list[tuple[object, ...]] = []
    tells: list[tuple[object, ...]] = []
    settles = copies = False
    for settlement in settlements:
        delivery, state, attempt = settlement.delivery, settlement.state, settlement.attempt
        tried = delivery.attempts + (attempt is not None)
        final = state in SETTLED
        settles = settles or final
        copies = copies or settlement.copy
        states.append(
            (
                delivery.number,
                delivery.token,
                state.value,
                None if final else settlement.due_at,
                tried,
                message.account_id if message.moved else None,
                now if final else None,
                int(settlement.possible_duplicate),
            )
        )
        if attempt is not None:
            records.append(
                (
                    delivery.number,
                    tried,
                    now,
                    message.account_id,
                    attempt.outcome,
                    attempt.stage,
                    attempt.code,
                    attempt.status,
                    attempt.reply,
                    attempt.cause,
                    attempt.elapsed_ms,
                )
            )
        if settlement.owes is not None:
            tells.append((delivery.number, settlement.owes.value, now + wait_ms))
    if copies:
        tells.append((0, Owed.COPY.value, now))
    return Settle(message.id, states, records, settles, files and message.content.spool is not None, tells)


def _is_fence(error: Exception) -> bool:
    if isinstance(error, sqlite3.IntegrityError):
        return str(error) == _FENCED
    return getattr(error, "sqlstate", None) == FENCED


def _is_settled(connection: Connection, message_id: int) -> bool:
    driver: Any = connection.connection.driver_connection
    owed = (
        "SELECT 1 FROM deliveries WHERE message_id = ?1 AND settled_at IS NULL "
        "UNION ALL SELECT 1 FROM owed WHERE message_id = ?1 AND paid_at IS NULL LIMIT 1"
    )
    return driver.execute(owed, (message_id,)).fetchone() is None
