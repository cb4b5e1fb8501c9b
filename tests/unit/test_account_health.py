"""The relay's own changes of an account's state: row, audit, condition, gauge, and whom one cause stops."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from relay.accounts import conditions, store, transitions
from relay.accounts.conditions import Condition
from relay.accounts.directory import Directory
from relay.accounts.health import LONG_REST_MS, Health, Kin
from relay.accounts.model import Account
from relay.accounts.transitions import Change, Trouble
from relay.config.settings import UpstreamDefaults
from relay.database.engine import Database, open_database
from relay.database.schema import audit
from relay.diagnosis import Who
from relay.diagnosis.responsibility import reach_of
from relay.telemetry.counters import snapshot
from tests.store import lay_store

NOW = 1_790_000_000_000
WRONG = Trouble("generic-auth-credentials-invalid", "User name or password is not accepted.", Who.OWNER, "535 no")
TENANT = Trouble("m365-smtp-auth-disabled-tenant", "Off for all.", Who.ADMINISTRATOR, "535 5.7.139 off")
THROTTLED = Trouble("connection-refused", "Nothing listens.", Who.ADMINISTRATOR, "")


class House:
    """A store with the accounts ann and bob, and their health; `changes` are those that lanes heard of."""

    def __init__(self, database: Database, directory: Directory) -> None:
        self.database, self.directory, self.now = database, directory, NOW
        self.changes: list[Change] = []
        self.health = Health(database, directory, clock=lambda: self.now)
        self.health.changed = self.changes.extend

    def account(self, name: str) -> Account:
        found = self.directory.by_address(f"{name}@example.com")
        assert found is not None
        return found

    async def lasting(self) -> list[Condition]:
        return await self.database.read(conditions.open_conditions)

    async def trail(self) -> list[tuple[str, str, dict[str, Any]]]:
        chosen = select(audit.c.action, audit.c.target, audit.c.detail, audit.c.actor).order_by(audit.c.id)
        rows = await self.database.read(lambda connection: connection.execute(chosen).all())
        assert {row.actor for row in rows} <= {"relay"}
        return [(row.action, row.target.partition("@")[0], json.loads(row.detail)) for row in rows]

    async def by_hand(self, name: str) -> None:
        account_id = self.account(name).id
        await self.database.write(lambda c: transitions.suspend_by_hand(c, account_id, actor="root", now_ms=self.now))
        await self.directory.reload()


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_database(lay_store(tmp_path) / "relay.db") as database:
        for name in ("ann", "bob"):
            await database.write(lambda c, name=name: store.add_account(c, f"{name}@example.com", now_ms=NOW))
        made = House(database, await Directory.open(database, UpstreamDefaults()))
        await made.health.start()
        yield made


def shown(name: str) -> str:
    states = snapshot()["relay_account_state"]
    [state] = [
        dict(labels)["state"]
        for labels, value in states.items()
        if dict(labels)["account"] == f"{name}@example.com" and value
    ]
    return state


async def test_a_stop_is_a_state_an_audit_row_a_condition_and_a_gauge(house: House) -> None:
    assert shown("ann") == "ok"
    await house.health.suspend(house.account("ann").id, WRONG)
    account = house.account("ann")
    assert (account.state, account.state_cause, account.state_reply) == ("suspended", WRONG.cause, "535 no")
    [condition] = await house.lasting()
    assert (condition.kind, condition.who, condition.group_key) == ("suspended", "owner", "")
    assert shown("ann") == "suspended"
    await house.health.suspend(account.id, TENANT)  # the first cause stands
    await house.health.resume(account.id, "its login was taken")
    assert (house.account("ann").state, shown("ann"), await house.lasting()) == ("ok", "ok", [])
    stopped = {"cause": WRONG.cause, "who": "owner", "reply": "535 no"}
    assert await house.trail() == [
        ("account.suspend", "ann", stopped),
        ("account.resume", "ann", {"detail": "its login was taken"}),
    ]
    assert [change.state for change in house.changes] == ["suspended", "ok"]


async def test_a_refusal_of_a_credential_that_was_renewed_meanwhile_stops_nothing(house: House) -> None:
    account = house.account("ann")
    await house.database.write(lambda c: store.bump_revision(c, account.id))
    await house.health.suspend(account.id, WRONG, revision=account.revision)
    assert (await house.lasting(), await house.trail(), house.changes) == ([], [], [])


async def test_what_a_person_stopped_is_no_condition_and_only_a_person_lets_it_go_on(house: House) -> None:
    account = house.account("ann")
    await house.health.suspend(account.id, WRONG)
    await house.by_hand("ann")
    assert await house.lasting() == []
    assert await house.database.read(conditions.closed_unannounced) == []
    await house.health.resume(account.id, "")
    assert house.account("ann").state_cause == "operator"


async def test_one_cause_stops_all_and_the_first_success_lets_all_go_on_over_a_restart(house: House) -> None:
    async def kin(account: Account, cause: str) -> Kin:
        return Kin("tenant example.com", (house.account("bob"),))

    house.health.kin = kin
    await house.health.suspend(house.account("ann").id, TENANT)
    assert {condition.group_key for condition in await house.lasting()} == {"tenant example.com"}
    assert house.health.groups == {"tenant example.com"}
    again = Health(house.database, house.directory, clock=lambda: house.now)
    await again.start()
    assert again.groups == {"tenant example.com"}
    await again.resume(house.account("bob").id, "its login was taken")
    assert [house.account(name).state for name in ("ann", "bob")] == ["ok", "ok"]
    assert again.groups == frozenset()


async def test_a_long_row_of_rests_is_a_condition_until_a_mail_gets_through(house: House) -> None:
    account = house.account("ann")
    for minutes in (0, 30, 61, 90):
        house.now = NOW + minutes * 60_000
        await house.health.rests(account.id, THROTTLED, 60, "host mx:587")
        assert len(await house.lasting()) == (house.now - NOW >= LONG_REST_MS)
    assert shown("ann") == "resting"
    house.health.rest_ended(account.id)
    assert (shown("ann"), house.health.troubled(account.id)) == ("ok", True)
    again = Health(house.database, house.directory, clock=lambda: house.now)
    await again.start()
    await again.well(account.id)
    assert (await house.lasting(), again.troubled(account.id)) == ([], False)
    assert [row[:2] for row in await house.trail()] == [("account.rest", "ann"), ("account.recover", "ann")]


async def test_the_gauge_of_a_removed_account_is_gone(house: House) -> None:
    account = house.account("bob")
    await house.health.suspend(account.id, WRONG)
    await house.database.write(lambda c: store.remove_account(c, account.id))
    await house.directory.reload()
    house.health.show()
    accounts = {dict(labels)["account"] for labels in snapshot()["relay_account_state"]}
    assert "bob@example.com" not in accounts
    assert await house.lasting() == []


@pytest.mark.parametrize(
    ("cause", "reach"),
    [
        ("m365-smtp-auth-disabled-tenant", "tenant"),
        ("m365-security-defaults", "tenant-passwords"),
        ("aadsts530035", "tenant"),
        ("aadsts7000222", "app"),
        ("invalid-client", "app"),
        ("invalid-grant", "account"),
        ("m365-smtp-auth-disabled-mailbox", "account"),
    ],
)
def test_how_far_a_cause_reaches(cause: str, reach: str) -> None:
    assert reach_of(cause) == reach
