"""What people must hear about: opened once, told in groups, repeated, closed, told that it is over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine

from relay.accounts import conditions
from relay.accounts.conditions import JOIN_MS, Condition, ConditionKind, NoticeGroup
from relay.database.schema import metadata
from relay.diagnosis.model import Who

NOW = 1_790_000_000_000
DAY = 86_400_000
CAUSE = "m365-smtp-auth-disabled-tenant"


@pytest.fixture
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        metadata.create_all(connection)
        yield connection
    engine.dispose()


def opened(connection: Connection, account_id: int | None, **given: object) -> Condition:
    values: dict[str, object] = {
        "kind": ConditionKind.SUSPENDED,
        "cause": CAUSE,
        "who": Who.ADMINISTRATOR,
        "detail": "535 5.7.139 no",
        "now_ms": NOW,
    }
    return conditions.open_condition(connection, account_id=account_id, **{**values, **given})  # type: ignore[arg-type]


def due(connection: Connection, now_ms: int) -> list[NoticeGroup]:
    return conditions.due_for_notice(connection, now_ms=now_ms, repeat_ms=DAY)


def test_the_same_trouble_is_opened_once(connection: Connection) -> None:
    first = opened(connection, 1)
    assert opened(connection, 1, now_ms=NOW + 5, detail="other words") == first
    other = opened(connection, 1, cause="auth-refused")
    assert [condition.id for condition in conditions.open_conditions(connection)] == [first.id, other.id]
    relay_wide = opened(connection, None)
    assert opened(connection, None) == relay_wide


def test_after_it_was_closed_it_is_another(connection: Connection) -> None:
    first = opened(connection, 1)
    [closed] = conditions.close_conditions(connection, account_id=1, kind=ConditionKind.SUSPENDED, now_ms=NOW + 9)
    assert (closed.id, closed.closed_at) == (first.id, NOW + 9)
    assert opened(connection, 1).id != first.id
    assert conditions.close_conditions(connection, account_id=2, kind=ConditionKind.SUSPENDED, now_ms=NOW) == []


def test_forty_accounts_that_one_cause_stopped_are_one_notice(connection: Connection) -> None:
    for account_id in range(1, 41):
        opened(connection, account_id, group_key="tenant contoso.example")
    opened(connection, 41, group_key="tenant other.example")
    opened(connection, 42)
    opened(connection, 43)
    assert [len(group.conditions) for group in due(connection, NOW)] == [40, 1, 1, 1]


def test_a_notice_is_repeated_daily_while_it_lasts(connection: Connection) -> None:
    opened(connection, 1)
    [group] = due(connection, NOW)
    assert not group.repeated
    conditions.noticed(connection, group.ids, NOW)
    assert due(connection, NOW + DAY - 1) == []
    [again] = due(connection, NOW + DAY)
    assert again.repeated
    conditions.noticed(connection, again.ids, NOW + DAY)
    assert due(connection, NOW + DAY + 1) == []


def test_who_joins_a_group_is_told_with_the_others_that_do(connection: Connection) -> None:
    opened(connection, 1, group_key="app")
    conditions.noticed(connection, due(connection, NOW)[0].ids, NOW)
    opened(connection, 2, group_key="app", now_ms=NOW + 1)
    opened(connection, 3, group_key="app", now_ms=NOW + 2)
    assert due(connection, NOW + JOIN_MS - 1) == []
    [group] = due(connection, NOW + JOIN_MS)
    assert [condition.account_id for condition in group.conditions] == [1, 2, 3]


def test_what_expires_is_told_once_not_daily(connection: Connection) -> None:
    first = opened(connection, 1, kind=ConditionKind.EXPIRING, cause="secret-expiring", detail="in 30 days")
    conditions.noticed(connection, [first.id], NOW)
    assert due(connection, NOW + 20 * DAY) == []
    conditions.close_conditions(
        connection, account_id=1, kind=ConditionKind.EXPIRING, now_ms=NOW + 23 * DAY, silently=True
    )
    assert conditions.closed_unannounced(connection) == []
    opened(connection, 1, kind=ConditionKind.EXPIRING, cause="secret-expiring", detail="in 7 days")
    [group] = due(connection, NOW + 23 * DAY)
    assert group.conditions[0].detail == "in 7 days"


def test_a_clock_that_was_set_back_does_not_silence_anybody(connection: Connection) -> None:
    conditions.noticed(connection, [opened(connection, 1).id], NOW + 400 * DAY)
    assert len(due(connection, NOW)) == 1


def test_people_hear_that_it_is_over_if_they_heard_of_it(connection: Connection) -> None:
    told, untold = opened(connection, 1), opened(connection, 2)
    conditions.noticed(connection, [told.id], NOW)
    for account_id in (1, 2):
        conditions.close_conditions(connection, account_id=account_id, kind=ConditionKind.SUSPENDED, now_ms=NOW + 1)
    assert [condition.id for condition in conditions.closed_unannounced(connection)] == [told.id]
    conditions.closing_announced(connection, [told.id], NOW + 2)
    assert conditions.closed_unannounced(connection) == []
    assert conditions.prune_conditions(connection, NOW + 1) == 0
    assert conditions.prune_conditions(connection, NOW + 2) == 2
    assert untold.id != told.id


def test_a_detail_is_bounded_and_one_printable_line(connection: Connection) -> None:
    condition = opened(connection, 1, detail="535 no\r\n\x1b[31m" + "x" * 5000)
    assert condition.detail.isprintable()
    assert len(condition.detail.encode()) <= 1024


def test_that_an_account_moved_is_told_once(connection: Connection) -> None:
    moved = opened(connection, 1, kind=ConditionKind.MOVED, cause="moved-to-graph")
    conditions.noticed(connection, [moved.id], NOW)
    assert due(connection, NOW + 20 * DAY) == []
