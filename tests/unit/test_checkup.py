"""What ends soon: warned of 30, 7 and 1 days before, once each, and over when it was renewed; turns of logins."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from relay.accounts import conditions, store
from relay.accounts.conditions import Condition
from relay.accounts.directory import Directory
from relay.accounts.health import Health
from relay.accounts.model import Account, Upstream
from relay.accounts.unknown_replies import all_unknown
from relay.config.settings import RelaySettings, UpstreamDefaults
from relay.credentials.expiry import ends_of
from relay.credentials.tries import Tries
from relay.credentials.vault import open_vault
from relay.daemon.checkup import DAY_MS, Checkup
from relay.daemon.kin import Kinship
from relay.database.engine import Database, open_database
from relay.database.schema import accounts
from relay.mail.outcome import Accepted, Refused, Stage, Unreachable
from relay.mail.reply import Reply
from relay.telemetry.counters import snapshot
from tests.store import lay_store

NOW = 1_790_000_000_000
APP = {"provider": "microsoft", "client_id": "an-app", "tenant": "contoso.example"}


class House:
    """A store with accounts, and the worker that looks after them; `logins` are those it made."""

    def __init__(self, database: Database, directory: Directory, checkup: Checkup, clock: list[int]) -> None:
        self.database, self.directory, self.checkup, self.clock = database, directory, checkup, clock
        self.logins: list[str] = []

    async def add(self, address: str, **oauth: Any) -> int:
        def write(connection: Any) -> int:
            added = store.add_account(connection, address, now_ms=NOW, provider="m365", auth="oauth-app")
            connection.execute(
                update(accounts).where(accounts.c.id == added).values(oauth=json.dumps({**APP, **oauth}))
            )
            return added

        account_id = await self.database.write(write)
        await self.directory.reload()
        return account_id

    async def look(self, days: float) -> list[Condition]:
        """What lasts after a look, so many days from the start."""
        self.clock[0] = NOW + int(days * DAY_MS)
        await self.checkup.watch_expiries()
        return await self.database.read(conditions.open_conditions)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_database(lay_store(tmp_path) / "relay.db") as database:
        directory = await Directory.open(database, UpstreamDefaults())
        vault = await open_vault(database, RelaySettings(data_dir=tmp_path).keys_dir, environ={})
        clock = [NOW]
        health = Health(database, directory, clock=lambda: clock[0])

        async def log_in(upstream: Upstream) -> Accepted | Refused | Unreachable:
            made.logins.append(upstream.account)
            if upstream.account.startswith("odd"):
                return Refused(Reply(554, "5.0.0", f"the moon is wrong for {upstream.account}"), Stage.AUTH)
            if upstream.account.startswith("bad"):
                return Refused(Reply(535, "5.7.3", "Authentication unsuccessful"), Stage.AUTH)
            return Accepted(Reply(235, "2.7.0", "ok"))

        checkup = Checkup(
            database=database,
            directory=directory,
            health=health,
            tries=Tries(database, lambda: clock[0]),
            kinship=Kinship(directory, database, vault),
            log_in=log_in,
            period_s=86_400,
            clock=lambda: clock[0],
        )
        made = House(database, directory, checkup, clock)
        yield made


async def test_a_secret_is_warned_of_at_30_7_and_1_days_and_closed_when_renewed(house: House) -> None:
    account_id = await house.add("ann@contoso.example", secret_expires_at=NOW + 40 * DAY_MS)
    assert await house.look(9) == []
    [month] = await house.look(10.5)
    assert (month.cause, month.who) == ("secret-expiring", "administrator")
    assert month.detail.endswith("in 29 days")
    assert await house.look(20) == [month]
    [week] = await house.look(33.5)
    assert week.id != month.id
    assert "in 6 days" in week.detail
    [day] = await house.look(39.5)
    assert day.id not in (month.id, week.id)
    assert [ended.detail for ended in await house.look(41)] == [day.detail]
    gauges = snapshot()["relay_credential_expires_seconds"]
    assert gauges[(("account", "ann@contoso.example"),)] == pytest.approx(-86_400)
    await house.database.write(lambda c: conditions.noticed(c, [day.id], NOW))
    new = json.dumps({**APP, "secret_expires_at": NOW + 400 * DAY_MS})
    await house.database.write(
        lambda c: c.execute(update(accounts).where(accounts.c.id == account_id).values(oauth=new)).rowcount
    )
    await house.directory.reload()
    assert await house.look(42) == []
    [over] = await house.database.read(conditions.closed_unannounced)
    assert over.id == day.id


async def test_accounts_of_one_app_are_one_notice(house: House) -> None:
    for name in ("ann", "bob"):
        await house.add(f"{name}@contoso.example", certificate_expires_at=NOW + DAY_MS)
    await house.look(0.5)
    [group] = await house.database.read(lambda c: conditions.due_for_notice(c, now_ms=NOW, repeat_ms=DAY_MS))
    assert len(group.conditions) == 2


async def test_each_account_has_its_own_time_of_the_day(house: House) -> None:
    names = [f"{name}@contoso.example" for name in ("ann", "bob", "cat")] + ["bad@contoso.example"]
    for name in names:
        await house.add(name)
    looked, at = NOW, []
    for _ in range(24):
        house.clock[0] += DAY_MS // 24
        before = len(house.logins)
        looked = await house.checkup.check_logins(looked)
        at += [house.clock[0]] * (len(house.logins) - before)
    assert sorted(house.logins) == sorted(names)
    assert len(set(at)) >= 3
    refused = house.directory.by_address("bad@contoso.example")
    assert refused is not None
    assert refused.state == "suspended"
    house.clock[0] += DAY_MS
    await house.checkup.check_logins(looked)
    assert len(house.logins) == 7


async def test_words_that_nobody_knows_are_remembered(house: House) -> None:
    for name in ("odd", "bad"):
        await house.add(f"{name}@contoso.example")
    house.clock[0] += DAY_MS
    await house.checkup.check_logins(NOW)
    [found] = await house.database.read(all_unknown)
    assert (found.provider, found.stage, found.sample) == ("m365", "auth", "554 5.0.0 the moon is wrong for <address>")


def test_a_sign_in_lasts_from_its_last_use() -> None:
    account = Account(1, "ann@contoso.example", "m365", "oauth-device", oauth=json.dumps(APP))
    [end] = ends_of(account, NOW)
    assert (end.cause, end.at_ms) == ("grant-expiring", NOW + 90 * DAY_MS)
    assert ends_of(account, None) == []
