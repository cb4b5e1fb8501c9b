"""Notices of trouble over a real store: who is told, when, through which account, and never twice after a crash."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, select

from relay.accounts import conditions, store
from relay.accounts.conditions import ConditionKind
from relay.accounts.directory import Directory
from relay.accounts.model import AccountState
from relay.aftercare.chat import Chats
from relay.aftercare.letters import Postmark
from relay.aftercare.trouble import TroubleNotices
from relay.config.settings import NoticesSettings, UpstreamDefaults
from relay.database.schema import contents, deliveries, messages, notices
from relay.diagnosis.model import Who
from relay.mail.content import unstuff
from tests.peers.webhook import Webhook
from tests.store import Store, open_store

DAY, HOUR = 86_400_000, 3_600_000
CAUSE = "m365-smtp-auth-disabled-tenant"
ADMIN = "it@example.com"


@dataclass
class Office:
    """A store with accounts billing, alarm (owned by eve), other (another domain), and the notices over it."""

    store: Store
    directory: Directory
    urls: tuple[SecretStr, ...] = ()
    now: int = 1_790_000_000_000
    settings: dict[str, object] = field(default_factory=lambda: {"administrator": (ADMIN,)})
    resting: set[int] = field(default_factory=set)

    def notices(self) -> TroubleNotices:
        return TroubleNotices(
            NoticesSettings(**self.settings),  # type: ignore[arg-type]
            database=self.store.database,
            directory=self.directory,
            queue=self.store.queue,
            chats=Chats(self.urls, timeout_s=20, environ=os.environ),
            postmark=Postmark("relay.example.com"),
            resting=self.resting.__contains__,
            clock=lambda: self.now,
        )

    def id(self, name: str) -> int:
        account = self.directory.by_address(name)
        assert account is not None
        return account.id

    async def opened(self, name: str, *, cause: str = CAUSE, group_key: str = "", stop: bool = True) -> None:
        def write(connection: Connection) -> None:
            conditions.open_condition(
                connection,
                account_id=self.id(name),
                kind=ConditionKind.SUSPENDED,
                cause=cause,
                who=Who.ADMINISTRATOR,
                detail="535 5.7.139 no",
                group_key=group_key,
                now_ms=self.now,
            )
            if stop:
                store.set_state(connection, self.id(name), AccountState.SUSPENDED, cause, "535", self.now)

        await self.store.database.write(write)
        await self.directory.reload()
        self.now += 5_000

    async def closed(self, name: str, cause: str = CAUSE) -> None:
        def write(connection: Connection) -> None:
            kind = ConditionKind.SUSPENDED
            conditions.close_conditions(connection, account_id=self.id(name), kind=kind, cause=cause, now_ms=self.now)
            store.set_state(connection, self.id(name), AccountState.OK)

        await self.store.database.write(write)
        await self.directory.reload()
        self.now += 5_000

    async def round(self, notices: TroubleNotices | None = None) -> list[tuple[str, str, str, str]]:
        """One round; (kind, account that carries it, recipient, subject) of each mail that it queued."""
        before = {row[0] for row in await self._mails()}
        await (notices or self.notices()).round()
        return [row[1:] for row in await self._mails() if row[0] not in before]

    async def _mails(self) -> list[tuple[int, str, str, str, str]]:
        query = (
            select(messages, deliveries.c.recipient, contents.c.body)
            .join(deliveries, deliveries.c.message_id == messages.c.id)
            .outerjoin(contents, contents.c.message_id == messages.c.id)
            .order_by(messages.c.id)
        )
        rows = await self.store.database.read(lambda connection: connection.execute(query).all())
        return [
            (
                row.id,
                row.notice,
                row.reverse_path,
                row.recipient,
                str(message_from_bytes(unstuff(row.body), policy=policy.default)["Subject"]) if row.body else "",
            )
            for row in rows
        ]


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    async with open_store(tmp_path) as opened:

        def register(connection: Connection) -> None:
            for address, owner in (
                ("billing@example.com", None),
                ("alarm@example.com", "eve@example.com"),
                ("other@elsewhere.example", None),
            ):
                store.add_account(connection, address, now_ms=1, provider="custom", host="mx", auth="none", owner=owner)

        await opened.database.write(register)
        yield Office(opened, await Directory.open(opened.database, UpstreamDefaults()))


async def test_owner_and_administrator_are_told_once_then_daily_then_that_it_works_again(office: Office) -> None:
    await office.opened("billing@example.com")
    carrier = "alarm@example.com"
    assert await office.round() == [
        ("trouble", carrier, ADMIN, f"Suspended: billing@example.com ({CAUSE})"),
        ("trouble", carrier, "billing@example.com", "Mail from billing@example.com cannot be sent"),
    ]
    assert await office.round() == [], "a restart tells nobody twice"
    office.now += DAY
    again = await office.round()
    assert again[0][3] == f"Still suspended: billing@example.com ({CAUSE})"
    await office.closed("billing@example.com")
    assert {(kind, to, subject) for kind, _, to, subject in await office.round()} == {
        ("over", ADMIN, "Works again: billing@example.com"),
        ("over", "billing@example.com", "Works again: billing@example.com"),
    }
    assert await office.round() == []


async def test_one_cause_of_several_accounts_is_one_notice_for_each_person(office: Office) -> None:
    for name in ("billing@example.com", "alarm@example.com"):
        await office.opened(name, group_key="tenant example.com")
    told = await office.round()
    assert [(carrier, to) for _, carrier, to, _ in told] == [
        ("other@elsewhere.example", ADMIN),
        ("other@elsewhere.example", "billing@example.com"),
        ("other@elsewhere.example", "eve@example.com"),
    ]
    assert told[0][3] == f"Suspended: billing@example.com and alarm@example.com ({CAUSE})"
    assert "alarm" in told[2][3]
    assert "billing" not in told[2][3], "an owner hears of what is theirs"


async def test_an_account_that_rests_or_is_in_trouble_carries_nothing(office: Office) -> None:
    office.resting.add(office.id("alarm@example.com"))
    await office.opened("billing@example.com", stop=False)
    assert {carrier for _, carrier, _, _ in await office.round()} == {"other@elsewhere.example"}


async def test_the_account_of_the_settings_carries_before_others(office: Office) -> None:
    office.settings["account"] = "other@elsewhere.example"
    await office.opened("billing@example.com")
    assert {carrier for _, carrier, _, _ in await office.round()} == {"other@elsewhere.example"}


async def test_without_a_healthy_account_nobody_counts_as_told(office: Office) -> None:
    office.resting |= {office.id("alarm@example.com"), office.id("other@elsewhere.example")}
    notices = office.notices()
    await office.opened("billing@example.com")
    assert await office.round(notices) == []
    office.resting.clear()
    assert await office.round(notices) == [], "not at every look"
    office.now += 600_000
    assert len(await office.round(notices)) == 2


async def test_what_waits_for_a_carrier_that_is_stopped_itself_goes_through_the_next(office: Office) -> None:
    await office.opened("billing@example.com")
    assert {carrier for _, carrier, _, _ in await office.round()} == {"alarm@example.com"}
    await office.opened("alarm@example.com", cause="generic-auth-failed")
    told = await office.round()
    assert {carrier for _, carrier, _, _ in told} == {"other@elsewhere.example"}
    assert [to for _, _, to, _ in told].count(ADMIN) == 2, "the first trouble again, and the second"
    states = select(deliveries.c.state, deliveries.c.settled_at)
    rows = await office.store.database.read(lambda connection: connection.execute(states).all())
    assert sorted(row.state for row in rows) == ["queued"] * 4 + ["removed"] * 2


async def test_that_one_of_two_troubles_passed_is_no_good_news(office: Office) -> None:
    await office.opened("billing@example.com")
    await office.round()
    await office.opened("billing@example.com", cause="m365-tenant-blocked")
    await office.round()
    await office.closed("billing@example.com", CAUSE)
    assert await office.round() == []


async def test_a_flapping_account_fills_no_mailbox(office: Office) -> None:
    office.settings["per_hour"] = 6
    notices, told = office.notices(), 0
    for _ in range(20):
        await office.opened("billing@example.com")
        told += len(await office.round(notices))
        await office.closed("billing@example.com")
        told += len(await office.round(notices))
    assert told == 12  # six for each of two people
    await office.opened("billing@example.com")
    office.now += HOUR + 600_000
    assert len([1 for kind, *_ in await office.round(notices) if kind == "trouble"]) == 2


async def test_a_chat_is_told_as_well_and_the_record_names_no_secret(office: Office) -> None:
    with Webhook() as hook:
        office.urls = (SecretStr(hook.url(login="bot:topsecret@")), SecretStr(hook.url("/refuses/topsecret")))
        await office.opened("billing@example.com")
        assert len(await office.round()) == 2
        [told] = hook.taken
    assert told["title"] == f"Suspended: billing@example.com ({CAUSE})"
    assert "535 5.7.139 no" in told["message"]
    rows = await office.store.database.read(lambda connection: connection.execute(select(notices)).all())
    assert [(row.channel, row.outcome, row.recipient) for row in rows] == [
        ("mail", "queued", ADMIN),
        ("mail", "queued", "billing@example.com"),
        ("json (URL 1)", "sent", ""),
        ("json (URL 2)", "failed", ""),
    ]
    assert "topsecret" not in repr(rows)


async def test_a_chat_alone_is_enough_to_have_told(office: Office) -> None:
    office.resting |= {office.id("alarm@example.com"), office.id("other@elsewhere.example")}
    with Webhook() as hook:
        office.urls = (SecretStr(hook.url()),)
        await office.opened("billing@example.com")
        await office.round()
        await office.round()
        assert len(hook.taken) == 1


async def test_an_account_that_nobody_signed_in_to_carries_no_notice(office: Office) -> None:
    def register(connection: Connection) -> None:
        store.add_account(connection, "aaa@example.com", now_ms=1, provider="m365", auth="oauth-code")

    await office.store.database.write(register)
    await office.opened("billing@example.com")
    assert {carrier for _, carrier, _, _ in await office.round()} == {"alarm@example.com"}
