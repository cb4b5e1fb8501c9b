"""Counts of what is owed are answered by an index alone: a full queue costs them no look at its rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from relay.aftercare.carrier import standing
from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.context import Control
from relay.daemon.build import open_control
from relay.database.engine import connect_sqlite
from tests.store import arrival, lay_store


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"))) as opened:
        for address in ("ann@example.com", "bob@example.com"):
            given = {"address": address, "host": "mail.example.com", "password": "stored-by-the-index-tests"}
            await registry.run(opened, "account.add", given)
        yield opened


async def plans(control: Control, action: str, **arguments: object) -> list[str]:
    """How SQLite finds what `action` asks of `deliveries`."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.append((statement, parameters))

    def engine(connection: Connection) -> Any:
        return connection.engine

    def explain(connection: Connection) -> list[str]:
        found = []
        for statement, parameters in asked:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            found += [row[3] for row in rows if " deliveries" in row[3]]
        return found

    readers = await control.database.read(engine)
    event.listen(readers, "before_cursor_execute", note)
    try:
        await registry.run(control, action, arguments)
    finally:
        event.remove(readers, "before_cursor_execute", note)
    return await control.database.read(explain)


@pytest.mark.parametrize("action", ["overview", "metrics", "queue.summary", "account.list"])
async def test_what_is_owed_is_counted_in_the_index(control: Control, action: str) -> None:
    await control.queue.accept(arrival("x@example.org", account=1, sender="ann@example.com"))
    found = await plans(control, action)
    assert found
    assert [plan for plan in found if "COVERING INDEX ix_deliveries_unsettled" not in plan] == []


@pytest.mark.parametrize("filters", [{}, {"state": "held"}, {"account": "ann@example.com"}])
async def test_a_page_of_the_list_is_chosen_in_the_index(control: Control, filters: dict[str, str]) -> None:
    chosen, *shown = await plans(control, "queue.list", **filters)
    assert "COVERING INDEX ix_deliveries_unsettled" in chosen
    assert all("PRIMARY KEY" in plan for plan in shown)


def test_whose_mail_went_lately_is_read_off_the_end_of_the_history(tmp_path: Path) -> None:
    """Without an index of its own: a bounded stretch of the key, not a look at every attempt for each account."""
    engine = connect_sqlite(lay_store(tmp_path) / "relay.db")
    asked: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda *given: asked.append((given[2], given[3])))
    with engine.begin() as connection:
        standing(connection)
        [(statement, parameters)] = [one for one in asked if "attempts" in one[0]]
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    engine.dispose()
    assert "LIMIT" in statement
    assert "SCAN attempts" in plan
    assert not [line for line in plan if "ORDER BY" in line], "the key is in that order"
