"""What senders are told, over a real store: once, all of it, nobody else, and never about what nobody asked about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from relay.accounts import store
from relay.accounts.directory import Directory
from relay.accounts.model import AccountState
from relay.aftercare.bounces import TOO_MANY, Bounces
from relay.aftercare.letters import Postmark
from relay.config.settings import NoticesSettings, UpstreamDefaults
from relay.database.schema import contents, deliveries, messages, notices, owed
from relay.dispatch.owing import owing
from relay.mail.content import Content, unstuff
from relay.mail.dsn import MessageRequest, RecipientRequest
from relay.queue.model import Arrival, AttemptRecord, Owed, Settlement, State
from relay.queue.store import now_ms
from tests.store import TAKEN, Store, arrival, open_store

APP = "app@example.com"
NO = AttemptRecord("refused", "rcpt", 550, "5.1.1", "no such user", "m365-recipient-unknown", 12)
LATER = AttemptRecord("refused", "rcpt", 451, "4.3.0", "later", "fallback-temporary", 12)
BODY = b"Subject: Invoice 42\r\nMessage-ID: <1@example.com>\r\n\r\nhello\r\n"
DAY = 86_400_000


@dataclass
class Desk:
    """A store with the account of APP, and another at example.net; attempts are settled as a lane would."""

    store: Store
    directory: Directory
    settings: dict[str, object] = field(default_factory=dict)
    later_ms: int = 0
    resting: set[int] = field(default_factory=set)

    def bounces(self) -> Bounces:
        return Bounces(
            NoticesSettings(**self.settings),  # type: ignore[arg-type]
            lifetime_s=432_000,
            database=self.store.database,
            directory=self.directory,
            queue=self.store.queue,
            postmark=Postmark("relay.example.com"),
            resting=self.resting.__contains__,
            clock=lambda: now_ms() + self.later_ms,
        )

    async def accept(self, *recipients: str, body: bytes = BODY, sender: str = APP, **more: Any) -> int:
        content = Content(len(body), inline=body)
        given = replace(arrival(*recipients, account=1, sender=sender), content=content, **more)
        return await self.take(given)

    async def take(self, given: Arrival) -> int:
        return await self.store.queue.accept(given)

    async def settle(self, *ends: tuple[State, AttemptRecord], passed_on: bool = False) -> None:
        """The first message in hand: its deliveries in order, those without an end stay in hand."""
        message = self.store.fresh[0]
        settled = [
            Settlement(
                delivery, state, now_ms() + DAY, attempt, owes=owing(message, delivery, state, passed_on=passed_on)
            )
            for delivery, (state, attempt) in zip(message.deliveries, ends, strict=False)
        ]
        gone = await self.store.queue.settle(message, settled)
        message.deliveries = message.deliveries[len(settled) :]
        if not message.deliveries:
            self.store.fresh.pop(0)
            if gone:
                await self.store.queue.drop_content(message)

    async def rows(self, query: Any) -> Sequence[Any]:
        return await self.store.database.read(lambda connection: connection.execute(query).all())

    async def change(self, name: str, **values: object) -> None:
        def write(connection: Connection) -> None:
            account = store.find_account(connection, name)
            if "state" in values:
                store.set_state(connection, account.id, AccountState(str(values.pop("state"))), "operator")
            store.update_account(connection, account.id, **values)  # type: ignore[arg-type]

        await self.store.database.write(write)
        await self.directory.reload()

    async def told(self) -> list[EmailMessage]:
        """One round; the notices in the queue after it, oldest first."""
        await self.bounces().round()
        return [self.parse(row.body) for row in await self.rows(_NOTICES)]

    @staticmethod
    def parse(body: bytes) -> EmailMessage:
        message = message_from_bytes(unstuff(body), policy=policy.default)
        assert isinstance(message, EmailMessage)
        assert not message.defects
        return message


_NOTICES = (
    select(messages, deliveries.c.recipient, contents.c.body)
    .join(deliveries, deliveries.c.message_id == messages.c.id)
    .join(contents, contents.c.message_id == messages.c.id)
    .where(messages.c.notice.is_not(None))
    .order_by(messages.c.id)
)


def fates(notice: EmailMessage) -> list[tuple[str, str, str]]:
    """(final recipient, action, status) of each block."""
    blocks = notice.get_payload()[1].get_payload()[1:]  # type: ignore[union-attr]
    return [(block["Final-Recipient"].removeprefix("rfc822; "), block["Action"], block["Status"]) for block in blocks]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_store(tmp_path) as opened:
        await opened.database.write(register)
        yield Desk(opened, await Directory.open(opened.database, UpstreamDefaults()))


def register(connection: Connection) -> None:
    first = store.add_account(connection, APP, now_ms=1, provider="custom", host="mx.example.net")
    assert first == 1
    store.add_sender(connection, APP, first, now_ms=1)
    store.add_sender(connection, "scan@example.com", first, now_ms=1)
    store.add_sender(connection, "@example.com", first, now_ms=1)
    other = store.add_account(connection, "notices@example.net", now_ms=1, provider="custom", host="mx")
    store.add_sender(connection, "notices@example.net", other, now_ms=1)


# -- who is told what


async def test_all_that_fail_together_are_in_one_notice_and_it_comes_once(desk: Desk) -> None:
    await desk.accept("a@example.org", "b@example.org", "c@example.org")
    await desk.settle((State.BOUNCED, NO), (State.RELAYED, TAKEN), (State.BOUNCED, NO))
    [notice] = await desk.told()
    assert fates(notice) == [("a@example.org", "failed", "5.1.1"), ("c@example.org", "failed", "5.1.1")]
    [row] = await desk.rows(_NOTICES)
    assert (row.reverse_path, row.recipient, row.account_id, row.notice) == (APP, APP, 1, "bounce")
    assert notice["Subject"] == "Not delivered: Invoice 42"
    assert "mx.example.net" in str(notice)
    assert len(await desk.told()) == 1
    assert [one.outcome for one in await desk.rows(select(notices))] == ["queued"]


async def test_the_content_stays_until_the_sender_is_told_and_goes_then(desk: Desk) -> None:
    message_id = await desk.accept("a@example.org")
    await desk.settle((State.BOUNCED, NO))
    kept = select(contents.c.message_id).where(contents.c.message_id == message_id)
    assert len(await desk.rows(kept)) == 1
    [notice] = await desk.told()
    assert "hello" in str(notice)
    assert await desk.rows(kept) == []


async def test_a_plain_success_owes_nothing_and_its_content_goes_at_once(desk: Desk) -> None:
    await desk.accept("a@example.org")
    await desk.settle((State.RELAYED, TAKEN))
    assert await desk.rows(select(contents)) == []
    assert await desk.rows(select(owed)) == []
    assert await desk.told() == []


async def test_a_spooled_message_shows_its_header_and_its_file_goes_then(desk: Desk, tmp_path: Path) -> None:
    draft = desk.store.queue.draft()
    draft.add(BODY + b"x" * 100_000 + b"\r\n")
    content = await draft.finish()
    await desk.take(replace(arrival("a@example.org", account=1), content=content))
    await desk.settle((State.BOUNCED, NO))
    assert len(list((tmp_path / "spool").iterdir())) == 1
    [notice] = await desk.told()
    assert notice.get_payload()[2].get_content_type() == "text/rfc822-headers"  # type: ignore[union-attr]
    assert list((tmp_path / "spool").iterdir()) == []


async def test_those_that_fail_later_are_told_in_one_more_notice_when_all_is_settled(desk: Desk) -> None:
    await desk.accept("a@example.org", "b@example.org", "c@example.org")
    await desk.settle((State.BOUNCED, NO))
    assert len(await desk.told()) == 1
    await desk.settle((State.BOUNCED, NO))
    assert len(await desk.told()) == 1, "one is still tried"
    await desk.settle((State.BOUNCED, NO))
    _, second = await desk.told()
    assert [recipient for recipient, _, _ in fates(second)] == ["b@example.org", "c@example.org"]
    desk.later_ms = DAY
    assert len(await desk.told()) == 2


@pytest.mark.parametrize(
    ("sender", "original", "recipient"),
    [
        (APP, "", APP),
        ("scan@example.com", "", "scan@example.com"),
        ("any@example.com", "", APP),  # a whole domain is registered: nobody says that this mailbox exists
        (APP, "root@localhost", APP),
        (APP, "victim@elsewhere.example", APP),
        (APP, "notices@example.net", APP),  # of another account
    ],
)
async def test_only_the_verified_owner_is_told(desk: Desk, sender: str, original: str, recipient: str) -> None:
    await desk.accept("a@example.org", sender=sender, original_path=original)
    await desk.settle((State.BOUNCED, NO))
    await desk.told()
    [row] = await desk.rows(_NOTICES)
    assert row.recipient == recipient


async def test_the_owner_of_the_account_hears_of_mail_from_nobody_in_particular(desk: Desk) -> None:
    await desk.change(APP, owner="eve@example.com")
    await desk.accept("a@example.org", sender="any@example.com")
    await desk.settle((State.BOUNCED, NO))
    await desk.told()
    [row] = await desk.rows(_NOTICES)
    assert (row.recipient, row.reverse_path) == ("eve@example.com", APP)


# -- who is not told


@pytest.mark.parametrize(
    "more",
    [
        {"sender": ""},
        {"original_path": "<>"},
        {"requests": (RecipientRequest("NEVER", ""),)},
        {"requests": (RecipientRequest("SUCCESS,DELAY", ""),)},
    ],
    ids=["null path", "null path of the application", "never", "not of failures"],
)
async def test_nothing_is_owed_where_nobody_asked_or_could_be_asked(desk: Desk, more: dict[str, Any]) -> None:
    await desk.accept("a@example.org", **more)
    await desk.settle((State.BOUNCED, NO))
    assert await desk.rows(select(owed)) == []
    assert await desk.rows(select(contents)) == []


async def test_an_application_that_heard_the_verdict_itself_gets_no_notice(desk: Desk) -> None:
    queue = desk.store.queue
    queue.verdicts.open()
    message_id = await desk.accept("a@example.org")
    expected = queue.verdicts.expect(message_id, 1, 1)
    await desk.settle((State.BOUNCED, NO))
    assert await desk.told() == [], "it may hear any moment"
    desk.later_ms = 60_000
    assert await desk.told() == [], "it still waits"
    expected.close()
    await expected.heard()
    desk.later_ms = 120_000
    assert await desk.told() == []
    assert await desk.rows(select(owed).where(owed.c.paid_at.is_(None))) == []
    assert await desk.rows(select(contents)) == []


async def test_an_application_that_left_before_the_verdict_is_told_after_all(desk: Desk) -> None:
    queue = desk.store.queue
    queue.verdicts.open()
    message_id = await desk.accept("a@example.org")
    expected = queue.verdicts.expect(message_id, 1, 1)
    await desk.settle((State.BOUNCED, NO))
    expected.close()
    assert await desk.told() == []
    desk.later_ms = 31_000
    assert len(await desk.told()) == 1


async def test_a_notice_that_fails_makes_no_notice(desk: Desk) -> None:
    await desk.accept("a@example.org")
    await desk.settle((State.BOUNCED, NO))
    await desk.told()
    [message], _ = await desk.store.queue.claim_due(1, limit=10)
    assert message.notice == "bounce"
    desk.store.fresh.append(message)
    await desk.settle((State.BOUNCED, NO))
    desk.later_ms = DAY
    assert await desk.told() == []
    assert len(await desk.rows(select(messages.c.id).where(messages.c.notice.is_not(None)))) == 1


@pytest.mark.parametrize("field", [b"Auto-Submitted: auto-replied", b"Precedence: bulk", b"X-Relay-Notice: bounce"])
async def test_answers_bulk_mail_and_notices_of_relays_are_not_answered(desk: Desk, field: bytes) -> None:
    await desk.accept("a@example.org", body=field + b"\r\n" + BODY)
    await desk.settle((State.BOUNCED, NO))
    assert await desk.told() == []
    [line] = await desk.rows(select(notices))
    assert (line.outcome, line.kind) == ("withheld", "bounce")
    assert await desk.rows(select(contents)) == []


async def test_bounces_can_be_switched_off(desk: Desk) -> None:
    desk.settings["bounces"] = False
    await desk.accept("a@example.org")
    await desk.settle((State.BOUNCED, NO))
    assert await desk.told() == []
    assert await desk.rows(select(contents)) == []


async def test_a_flood_is_limited_and_the_next_notice_says_how_many_were_not_written(desk: Desk) -> None:
    desk.settings["per_hour"] = 3
    for number in range(10):
        await desk.accept(f"r{number}@example.org")
        await desk.settle((State.BOUNCED, NO))
    assert len(await desk.told()) == 3
    withheld = await desk.rows(select(notices).where(notices.c.outcome == "withheld"))
    assert [one.detail for one in withheld] == [TOO_MANY] * 7
    desk.later_ms = 3_700_000
    await desk.accept("last@example.org")
    await desk.settle((State.BOUNCED, NO))
    assert "7 more notices were not written" in (await desk.told())[-1].get_payload()[0].get_content()  # type: ignore[union-attr]


# -- through whom


async def test_a_stopped_account_uses_the_one_of_the_settings_or_waits(desk: Desk) -> None:
    await desk.accept("a@example.org")
    await desk.settle((State.BOUNCED, NO))
    await desk.change(APP, state="suspended")
    await desk.told()
    desk.settings["account"] = "notices@example.net"
    await desk.accept("b@example.org")
    await desk.settle((State.BOUNCED, NO))
    notes = await desk.told()
    assert [row.account_id for row in await desk.rows(_NOTICES)] == [1, 2]
    assert "notices@example.net" in notes[1]["From"]


async def test_the_null_path_goes_where_the_upstream_is_said_to_take_it(desk: Desk) -> None:
    await desk.change(APP, null_sender=True)
    await desk.accept("a@example.org")
    await desk.settle((State.BOUNCED, NO))
    await desk.told()
    [row] = await desk.rows(_NOTICES)
    assert (row.reverse_path, row.recipient) == ("", APP)


# -- time


async def test_what_waits_is_told_once_and_what_expires_with_what_was_asked(desk: Desk) -> None:
    asked = (RecipientRequest("", "rfc822;old@example.org"), RecipientRequest("FAILURE", ""))
    await desk.accept(
        "a@example.org", "b@example.org", requests=asked, request=MessageRequest("HDRS", "QQ314"), eight_bit=False
    )
    await desk.settle((State.DEFERRED, LATER), (State.DEFERRED, LATER))
    queue = desk.store.queue
    found, _, done = await queue.aging.delay(-1000, after=0, limit=100)
    assert ([row.recipient for row in found], done) == (["a@example.org"], True)
    assert (await queue.aging.delay(-2000, after=0, limit=100))[0] == [], (
        "a restart looks again, and tells nobody twice"
    )
    [delay] = await desk.told()
    assert fates(delay) == [("a@example.org", "delayed", "4.3.0")]
    assert delay["Subject"] == "Delayed: Invoice 42"
    assert len(await desk.told()) == 1
    expired = await queue.aging.expire(-1000, limit=100)
    assert [
        (message.request, delivery.request, message.asks) for message, delivery in expired if not message.notice
    ] == [
        (MessageRequest("HDRS", "QQ314"), asked[0], True),
        (MessageRequest("HDRS", "QQ314"), asked[1], True),
    ]
    [over] = await desk.told()
    assert fates(over) == [("a@example.org", "failed", "4.4.7"), ("b@example.org", "failed", "4.4.7")]
    whole, first, _ = over.get_payload()[1].get_payload()  # type: ignore[union-attr]
    assert whole["Original-Envelope-Id"] == "QQ314"
    assert first["Original-Recipient"] == "rfc822; old@example.org"
    assert over.get_payload()[2].get_content_type() == "text/rfc822-headers"  # type: ignore[union-attr]


async def test_that_it_waits_is_not_told_when_it_does_not_any_more_or_could_not_be(desk: Desk) -> None:
    await desk.accept("a@example.org")
    await desk.store.queue.aging.delay(-1000, after=0, limit=100)
    await desk.settle((State.RELAYED, TAKEN))
    assert await desk.told() == []
    await desk.accept("b@example.org")
    await desk.store.queue.aging.delay(-1000, after=0, limit=100)
    desk.resting.add(1)
    assert await desk.told() == []
    assert await desk.rows(select(owed).where(owed.c.paid_at.is_(None))) == []


async def test_a_success_is_told_only_where_it_was_asked_and_nobody_else_will(desk: Desk) -> None:
    asked = {"requests": (RecipientRequest("SUCCESS", ""), RecipientRequest("", ""))}
    await desk.accept("a@example.org", "b@example.org", **asked)
    await desk.settle((State.RELAYED, TAKEN), (State.RELAYED, TAKEN), passed_on=True)
    assert await desk.told() == []
    await desk.accept("a@example.org", "b@example.org", **asked)
    await desk.settle((State.RELAYED, TAKEN), (State.RELAYED, TAKEN))
    [notice] = await desk.told()
    assert fates(notice) == [("a@example.org", "relayed", "2.0.0")]


# -- crashes, and what would never end


async def test_a_crash_between_settlement_and_notice_loses_neither(tmp_path: Path) -> None:
    async with open_store(tmp_path, clean_end=False) as opened:
        await opened.database.write(register)
        desk = Desk(opened, await Directory.open(opened.database, UpstreamDefaults()))
        await desk.accept("a@example.org")
        await desk.settle((State.BOUNCED, NO))
    async with open_store(tmp_path, clean_end=False) as opened:
        desk = Desk(opened, await Directory.open(opened.database, UpstreamDefaults()))
        [first] = await desk.told()
    async with open_store(tmp_path) as opened:
        desk = Desk(opened, await Directory.open(opened.database, UpstreamDefaults()))
        [again] = await desk.told()
        assert again["Message-ID"] == first["Message-ID"]


async def test_one_that_cannot_be_written_keeps_nobody_else_from_theirs(desk: Desk) -> None:
    broken = await desk.accept("a@example.org")
    await desk.settle((State.BOUNCED, NO))
    await desk.accept("b@example.org")
    await desk.settle((State.BOUNCED, NO))
    bad = update(owed).where(owed.c.message_id == broken).values(kind="no-such-kind")
    await desk.store.database.write(lambda connection: connection.execute(bad))
    [notice] = await desk.told()
    assert fates(notice) == [("b@example.org", "failed", "5.1.1")]


async def test_history_goes_in_the_end_whatever_could_not_be_told(desk: Desk) -> None:
    await desk.accept("a@example.org")
    await desk.settle((State.BOUNCED, NO))
    assert await desk.store.queue.aging.prune(-60_000, limit=10) == 1
    for table in (owed, contents, messages):
        assert await desk.rows(select(table)) == []


@pytest.mark.parametrize("kind", [Owed.FAILED, Owed.DELAYED, Owed.RELAYED])
def test_kinds_are_words_of_rfc_3464(kind: Owed) -> None:
    assert kind.value in ("failed", "delayed", "relayed")
