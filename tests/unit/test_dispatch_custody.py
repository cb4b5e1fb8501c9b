"""What waits follows its sender's route when routes change, and is not looked at when anything else does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from sqlalchemy import Connection

from relay.accounts import store as accounts
from relay.accounts.directory import Directory
from relay.config.settings import UpstreamDefaults
from relay.dispatch.custody import Custody
from relay.dispatch.lane import Lane
from tests.store import arrival, open_store


async def test_only_another_route_has_what_waits_looked_at(tmp_path: Path) -> None:
    async with open_store(tmp_path, memory_bytes=0) as store:

        def registered(connection: Connection) -> tuple[int, int]:
            at: dict[str, Any] = {"now_ms": 1, "provider": "custom", "host": "localhost"}
            first = accounts.add_account(connection, "one@x.org", **at)
            second = accounts.add_account(connection, "two@x.org", **at)
            accounts.add_sender(connection, "a@x.org", second, now_ms=1)
            return first, second

        first, second = await store.database.write(registered)
        directory = await Directory.open(store.database, UpstreamDefaults())
        woken: list[int] = []

        def lane_of(account_id: int) -> Lane:
            return cast("Lane", SimpleNamespace(backlog=lambda _: woken.append(account_id)))

        def nothing_in_hand(*_: object) -> Any:
            raise AssertionError

        custody = Custody(store.queue, directory, lanes={}, lane_of=lane_of, spawn=nothing_in_hand, clock=lambda: 0)
        await store.queue.accept(arrival(sender="a@x.org", account=first))
        await custody.reroute()
        assert woken == [second]
        await store.queue.accept(arrival(sender="a@x.org", account=first))
        await store.database.write(lambda c: accounts.update_account(c, second, per_minute=7))
        await directory.reload()
        await custody.reroute()
        assert woken == [second]
        await store.database.write(lambda c: accounts.add_sender(c, "b@x.org", second, now_ms=2))
        await directory.reload()
        await custody.reroute()
        assert woken == [second, second]
        assert list(await store.queue.due_times()) == [second]
