"""What troubles an account and people must hear about: opened, told, closed, told again."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from relay.database.schema import conditions
from relay.diagnosis.model import Who
from relay.telemetry.cleaning import clean_text

JOIN_MS = 3_600_000  # who joins a group that people know of is told with the others that do within this time
_LONGEST_DETAIL = 1024  # octets


class ConditionKind(enum.StrEnum):
    """What lasts. EXPIRING (30, 7, 1 days before) and MOVED are told once each time they are opened, others daily."""

    SUSPENDED = "suspended"  # the account sends nothing until somebody acted
    RESTING = "resting"  # its upstream has refused or failed it for long; it is tried again by itself
    EXPIRING = "expiring"  # a secret, certificate or sign-in ends soon
    MOVED = "moved"  # it sends another way than it was set up for
    MAILBOX = "mailbox"  # its mailbox cannot be read or written; its mail goes out all the same


_ONCE = frozenset({ConditionKind.EXPIRING, ConditionKind.MOVED})


@dataclass(frozen=True, slots=True)
class Condition:
    """One account's trouble of one cause. Times are ms since 1970, None: not (yet).

    `cause` is an id of the catalogue (`diagnosis.entry_by_id`, `diagnosis.conditions`).  `group_key`: equal for
    accounts that one cause stops together; "": it stands alone.  `detail`: one printable line of at most 1 KiB.
    """

    id: int
    account_id: int | None
    group_key: str
    kind: ConditionKind
    cause: str
    who: Who
    detail: str
    opened_at: int
    closed_at: int | None = None
    notified_at: int | None = None
    notices: int = 0
    closed_notified_at: int | None = None


@dataclass(frozen=True, slots=True)
class NoticeGroup:
    """What one notice is about: open conditions of the same kind, cause and group, the oldest first."""

    kind: ConditionKind
    cause: str
    who: Who
    group_key: str
    conditions: tuple[Condition, ...]

    @property
    def ids(self) -> list[int]:
        """For `noticed`."""
        return [condition.id for condition in self.conditions]

    @property
    def repeated(self) -> bool:
        """Have people heard of it before?"""
        return any(condition.notices for condition in self.conditions)


def open_condition(
    connection: Connection,
    *,
    account_id: int | None,
    kind: ConditionKind,
    cause: str,
    who: Who,
    detail: str,
    group_key: str = "",
    now_ms: int,
) -> Condition:
    """Remember that it lasts from now on; while one of the same account, kind and cause is open, that one is kept."""
    known = _one(connection, account_id, kind, cause)
    if known is not None:
        return known
    row = connection.execute(
        insert(conditions).values(
            account_id=account_id,
            group_key=group_key,
            kind=kind.value,
            cause=cause,
            who=who.value,
            detail=clean_text(detail, _LONGEST_DETAIL),
            opened_at=now_ms,
        )
    )
    assert row.inserted_primary_key is not None
    return _condition(
        connection.execute(select(conditions).where(conditions.c.id == row.inserted_primary_key[0])).one()
    )


def close_conditions(
    connection: Connection,
    *,
    account_id: int | None,
    kind: ConditionKind,
    now_ms: int,
    cause: str | None = None,
    silently: bool = False,
) -> list[Condition]:
    """End every open one of that account and kind (and `cause`, if given), as they are now.

    What nobody heard of needs no word that it is over: it counts as announced.  So does all with `silently`: another
    condition took its place, or the person who ended it knows.
    """
    chosen = select(conditions).where(
        conditions.c.account_id == account_id, conditions.c.kind == kind.value, conditions.c.closed_at.is_(None)
    )
    if cause is not None:
        chosen = chosen.where(conditions.c.cause == cause)
    ids = [row.id for row in connection.execute(chosen)]
    if not ids:
        return []
    connection.execute(update(conditions).where(conditions.c.id.in_(ids)).values(closed_at=now_ms))
    untold = update(conditions).where(conditions.c.id.in_(ids))
    if not silently:
        untold = untold.where(conditions.c.notices == 0)
    connection.execute(untold.values(closed_notified_at=now_ms))
    return _ordered(connection, conditions.c.id.in_(ids))


def open_conditions(connection: Connection) -> list[Condition]:
    """Everything that lasts, the oldest first."""
    return _ordered(connection, conditions.c.closed_at.is_(None))


def lasts(connection: Connection, account_id: int | None, kind: ConditionKind) -> bool:
    """Is one of that account and kind open?"""
    chosen = (conditions.c.account_id == account_id) & (conditions.c.kind == kind.value)
    return (
        connection.scalar(select(conditions.c.id).where(chosen, conditions.c.closed_at.is_(None)).limit(1)) is not None
    )


def open_in_group(connection: Connection, group_key: str, cause: str | None = None) -> list[Condition]:
    """Suspensions that last, of the accounts of a group; `cause` None: whatever stopped them together."""
    chosen = (conditions.c.group_key == group_key) & (conditions.c.kind == ConditionKind.SUSPENDED.value)
    chosen &= conditions.c.closed_at.is_(None)
    return _ordered(connection, chosen if cause is None else chosen & (conditions.c.cause == cause))


def due_for_notice(connection: Connection, *, now_ms: int, repeat_ms: int) -> list[NoticeGroup]:
    """What people should hear of now, one group a notice: all accounts that one cause stops are in one.

    A group is due when nobody heard of it, when the last notice is `repeat_ms` old, or when an account joined it and
    the last notice is JOIN_MS old.  EXPIRING and MOVED ones are due only while nobody heard of them.
    """
    groups: dict[tuple[object, ...], list[Condition]] = {}
    for condition in open_conditions(connection):
        alone = (condition.account_id, condition.id) if not condition.group_key else ()
        groups.setdefault((condition.kind, condition.cause, condition.group_key, *alone), []).append(condition)
    return [
        NoticeGroup(first.kind, first.cause, first.who, first.group_key, tuple(members))
        for members in groups.values()
        if _due(members, now_ms, repeat_ms) and (first := members[0])
    ]


def noticed(connection: Connection, ids: Sequence[int], now_ms: int) -> None:
    """People were told of these."""
    values = {"notified_at": now_ms, "notices": conditions.c.notices + 1}
    connection.execute(update(conditions).where(conditions.c.id.in_(ids)).values(**values))


def unheard(connection: Connection, ids: Sequence[int]) -> None:
    """What people were to be told of these never left: they are due again."""
    connection.execute(update(conditions).where(conditions.c.id.in_(ids)).values(notified_at=None))


def closed_unannounced(connection: Connection) -> list[Condition]:
    """What people were told of and is over, without anybody having told them so; the oldest first."""
    return _ordered(connection, conditions.c.closed_at.is_not(None) & conditions.c.closed_notified_at.is_(None))


def closing_announced(connection: Connection, ids: Sequence[int], now_ms: int) -> None:
    """People were told that these are over."""
    connection.execute(update(conditions).where(conditions.c.id.in_(ids)).values(closed_notified_at=now_ms))


def prune_conditions(connection: Connection, before_ms: int) -> int:
    """Drop what was over, and announced, before `before_ms`; how many that were."""
    old = conditions.c.closed_notified_at.is_not(None) & (conditions.c.closed_at < before_ms)
    return connection.execute(delete(conditions).where(old)).rowcount


def _due(members: Sequence[Condition], now_ms: int, repeat_ms: int) -> bool:
    heard = [condition.notified_at for condition in members if condition.notified_at is not None]
    if not heard:
        return True
    joined = len(heard) < len(members)
    if members[0].kind in _ONCE:
        return joined
    since = now_ms - max(heard)
    return since < 0 or since >= repeat_ms or (joined and since >= JOIN_MS)  # below 0: the clock was set back


def _one(connection: Connection, account_id: int | None, kind: ConditionKind, cause: str) -> Condition | None:
    row = connection.execute(
        select(conditions).where(
            conditions.c.account_id == account_id,
            conditions.c.kind == kind.value,
            conditions.c.cause == cause,
            conditions.c.closed_at.is_(None),
        )
    ).first()
    return _condition(row) if row is not None else None


def _ordered(connection: Connection, which: Any) -> list[Condition]:
    return [_condition(row) for row in connection.execute(select(conditions).where(which).order_by(conditions.c.id))]


def _condition(row: Row[Any]) -> Condition:
    fields = dict(row._mapping)
    fields["kind"], fields["who"] = ConditionKind(fields["kind"]), Who(fields["who"])
    return Condition(**fields)
