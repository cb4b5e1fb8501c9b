"""The audit trail: before and after of every change, never a secret, append-only, and its own retention."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError

from relay.cli.history import _details
from relay.config.settings import RelaySettings
from relay.control import registry
from relay.control.context import Control
from relay.daemon.build import open_control
from relay.database.schema import audit
from relay.queue.model import Settlement, State
from tests.store import TAKEN, arrival, lay_store, open_store

PASSWORD = "a-password-for-the-audit-tests"
DAY_MS = 86_400_000


async def _last(control: Control) -> dict[str, Any]:
    entry = (await registry.run(control, "audit", {"limit": 1}))[0]
    assert PASSWORD not in str(entry)
    detail: dict[str, Any] = entry["detail"]
    return detail


async def test_every_change_is_kept_with_before_and_after(tmp_path: Path) -> None:
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path))) as opened:
        control = opened.asked_by("tester", lambda _: None)

        async def act(action: str, **arguments: Any) -> dict[str, Any]:
            await registry.run(control, action, arguments)
            return await _last(control)

        added = await act("account.add", address="ann@example.com", host="mail.example.com", password=PASSWORD)
        assert "before" not in added
        assert added["after"]["host"] == "mail.example.com"
        assert added["after"]["secret password"] > 0
        changed = await act("account.set", account="ANN@example.com", port=465, tls="implicit")
        assert "before" not in changed  # they were the defaults
        assert changed["after"] == {"port": 465, "tls": "implicit"}
        changed = await act("account.set", account="ann@example.com", port=587)
        assert (changed["before"], changed["after"]) == ({"port": 465}, {"port": 587})
        assert "port 465 -> 587" in _details(changed)
        changed = await act("account.set_password", account="ann@example.com", password=f"{PASSWORD}2")
        assert list(changed["after"]) == ["secret password"]
        assert "password stored" in _details(changed)
        changed = await act("account.suspend", account="ann@example.com")
        assert (changed["before"]["state"], changed["after"]["state"]) == ("ok", "suspended")
        changed = await act("sender.add", pattern="@Shop.example.com", account="ann@example.com")
        assert changed["after"] == {"pattern": "@shop.example.com", "from_policy": "keep", "account": "ann@example.com"}
        changed = await act("sender.remove", pattern="@shop.example.com")
        assert changed["before"]["account"] == "ann@example.com"
        assert "after" not in changed
        settings = {"login": "erp", "auth": "login", "password": PASSWORD}
        added = await act("client.add", name="erp", networks=["10.0.0.0/8"], **settings)
        assert (added["after"]["networks"], added["after"]["password_hash"]) == (["10.0.0.0/8"], "set")
        changed = await act("client.set", name="erp", networks=["10.1.0.0/16"])
        assert (changed["before"]["networks"], changed["after"]["networks"]) == (["10.0.0.0/8"], ["10.1.0.0/16"])
        removed = await act("account.remove", account="ann@example.com")
        assert removed["before"]["address"] == "ann@example.com"


async def test_nothing_in_it_can_be_changed_and_only_the_old_can_go(tmp_path: Path) -> None:
    now = time.time_ns() // 1_000_000
    async with open_store(tmp_path) as store:
        row = {"actor": "a", "action": "b", "target": "c", "detail": "{}"}
        ages = [401, 401, 401, 399, 364, 0]
        await store.database.write(
            lambda c: c.execute(insert(audit), [{**row, "at": now - days * DAY_MS} for days in ages])
        )
        for statement in ("UPDATE audit SET actor = 'x'", "DELETE FROM audit", "DELETE FROM audit WHERE id = 5"):
            with pytest.raises(IntegrityError, match="audit trail"):
                await store.database.write(lambda c, statement=statement: c.execute(text(statement)))
        assert await store.queue.aging.prune_audit(400 * DAY_MS, limit=2) == 2  # bounded by pass
        assert await store.queue.aging.prune_audit(400 * DAY_MS, limit=2) == 1
        assert await store.database.read(lambda c: c.scalar(select(func.count()).select_from(audit))) == 3


async def test_history_goes_in_bounded_passes_and_what_is_owed_stays(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        for number in range(5):
            await store.queue.accept(arrival(f"{number}@x.org"))
        for message in store.fresh[:4]:
            await store.queue.settle(message, [Settlement(message.deliveries[0], State.RELAYED, 0, TAKEN)])
        assert await store.queue.aging.prune(30 * DAY_MS, limit=10) == 0
        pruned = [await store.queue.aging.prune(-1000, limit=3) for _ in range(3)]
        assert pruned == [3, 1, 0]
        for table, left in (("messages", 1), ("deliveries", 1), ("attempts", 0), ("contents", 1)):
            statement = text(f"SELECT count(*) FROM {table}")
            assert await store.database.read(lambda c, statement=statement: c.scalar(statement)) == left
