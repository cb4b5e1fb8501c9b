"""Mailboxes over IMAP: what came back is matched once and changes nothing; a copy is filed once, whatever breaks."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request
from sqlalchemy import func, select

from relay.accounts.conditions import ConditionKind, open_conditions
from relay.aftercare.copies import Copies
from relay.aftercare.mailbox import Mailboxes
from relay.aftercare.returns import Returns
from relay.config.settings import ImapDefaults, MailboxSettings, RelaySettings, SubmissionSettings
from relay.console.pages.render import page
from relay.control import registry
from relay.control.context import Control, ControlError
from relay.daemon.build import open_control
from relay.database.schema import contents, deliveries, messages, owed, returned
from relay.mail.content import Content
from relay.mail.dsn import MessageRequest
from relay.mail.ids import format_id
from relay.queue.copies import doubt_all
from relay.queue.model import Arrival, Message, Settlement, State
from relay.queue.store import now_ms
from tests.peers.certificates import Certificates, write_certificates
from tests.peers.imap_mailbox import ImapMailbox, Mail
from tests.peers.scripted_imap import ScriptedImap, running_imap
from tests.store import TAKEN, arrival, lay_store
from tests.unit.test_returned import RECEIVED, STATUS, dsn

APP, PASSWORD = "app@example.com", "s3cret-of-the-mailbox"
BODY = b"Received: x\r\nMessage-ID: <1@example.com>\r\nSubject: Invoice\r\n\r\n..dots\r\n...\r\nend\r\n"
PLAIN = BODY.replace(b"\r\n..", b"\r\n.")
HOUR = 3_600_000


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@dataclass
class Site:
    """A store with an account whose mailbox is a scripted server's; `later_ms` moves its clock."""

    control: Control
    imap: ScriptedImap
    mailbox: ImapMailbox
    fresh: list[Message]
    later_ms: int = 0

    def __post_init__(self) -> None:
        self.settings = MailboxSettings(poll_s=300, copy_gather_s=0, copy_lifetime_s=86_400)
        self.opener = Mailboxes(
            database=self.control.database,
            directory=self.control.directory,
            logins=self.control.logins,
            way_of=self.control.ways.of,
            defaults=self.control.settings.imap,
            submission=SubmissionSettings(stage_timeout_s=1),
            clock=self.now,
            chance=lambda: 0.5,
        )
        parts: dict[str, Any] = {"database": self.control.database, "directory": self.control.directory}
        self.returns = Returns(self.settings, self.opener, clock=self.now, chance=lambda: 0.5, **parts)
        self.copies = Copies(self.settings, self.opener, queue=self.control.queue, clock=self.now, **parts)

    def now(self) -> int:
        return now_ms() + self.later_ms

    async def set(self, **settings: object) -> None:
        await registry.run(self.control, "account.set", {"account": APP, **settings})

    async def relay(self, *recipients: str, state: State = State.RELAYED, copy: bool = False, **more: Any) -> int:
        """A message that an upstream took."""
        given = replace(arrival(*recipients, sender=APP), content=Content(len(BODY), inline=BODY), **more)
        return await self.settle(given, state, copy=copy)

    async def settle(self, given: Arrival, state: State, *, copy: bool) -> int:
        queue = self.control.queue
        message_id = await queue.accept(given)
        message = self.fresh.pop()
        settled = [Settlement(delivery, state, 0, TAKEN, copy=copy) for delivery in message.deliveries]
        if await queue.settle(message, settled):
            await queue.drop_content(message)
        return message_id

    async def rows(self, query: Any) -> list[Any]:
        return list(await self.control.database.read(lambda connection: connection.execute(query).all()))

    async def came_back(self) -> list[tuple[int, str, str]]:
        """One round; (message, recipient, reply) of everything known."""
        await self.returns.round()
        return [(row.message_id, row.recipient, row.reply) for row in await self.rows(select(returned))]

    async def trace(self, message_id: int) -> list[dict[str, Any]]:
        found = await registry.run(self.control, "trace", {"id": format_id(message_id)})
        return list(found[0]["events"])

    async def kept(self) -> int:
        return (await self.rows(select(func.count()).select_from(contents)))[0][0]

    @property
    def filed(self) -> list[Mail]:
        return self.mailbox.folders["Sent"].mails


@pytest.fixture
async def site(tmp_path: Path, certificates: Certificates) -> AsyncIterator[Site]:
    async with running_imap(certificates) as imap:
        imap.takes = lambda login, secret: (login, secret) == (APP, PASSWORD)
        mailbox = ImapMailbox(imap)
        settings = RelaySettings(data_dir=lay_store(tmp_path), imap=ImapDefaults(host="localhost", port=imap.port))
        async with open_control(settings) as control:
            given = {"address": APP, "host": "mail.example", "trust": str(certificates.ca), "password": PASSWORD}
            await registry.run(control, "account.add", given)
            fresh: list[Message] = []
            control.queue.willing = lambda account_id: True
            control.queue.on_fresh = fresh.append
            yield Site(control, imap, mailbox, fresh)


# -- what came back ------------------------------------------------------------------------------------------


async def test_nobody_asked_and_no_mailbox_is_opened(site: Site) -> None:
    await site.relay("gone@example.org", copy=False)
    site.mailbox.put("INBOX", dsn())
    assert await site.came_back() == []
    await site.copies.round()
    assert site.imap.connections == 0


async def test_a_notification_is_matched_once_and_shown_everywhere(site: Site) -> None:
    message_id = await site.relay("gone@example.org", "ann@example.org")
    site.mailbox.put("INBOX", b"Subject: lunch?\r\nContent-Type: text/plain\r\n\r\nyes\r\n")
    site.mailbox.put("INBOX", dsn(original=RECEIVED.replace(b"02vm3h2c5x000", format_id(message_id).encode())))
    await site.set(bounces="inbox")
    wanted = [(message_id, "gone@example.org", "<gone@example.org>: no such user here")]
    assert await site.came_back() == wanted
    assert all(command.split(b" ")[0] not in (b"SELECT", b"STORE", b"EXPUNGE") for command in site.imap.commands)
    fetched = [command for command in site.imap.commands if b"BODY.PEEK[]" in command]
    assert fetched == [b"UID FETCH 2 (UID BODY.PEEK[]<0.262144>)"]  # the other one's content is nobody's business
    came = (await site.trace(message_id))[-1]
    assert (came["event"], came["recipient"], came["host"]) == ("returned", "gone@example.org", "mx.example.org")
    assert (came["code"], came["status"]) == (550, "5.1.1")
    assert came["cause"]
    assert came["steps"]
    for state in ("returned", "relayed"):
        listed = await registry.run(site.control, "queue.list", {"state": state})
        assert [(one["recipient"], one["returned"] and one["returned"]["reply"][:9]) for one in listed] == [
            ("gone@example.org", "550 5.1.1"),
            *([] if state == "returned" else [("ann@example.org", None)]),
        ][:: 1 if state == "returned" else -1]
    states = {row.state for row in await site.rows(select(deliveries))}
    assert states == {"relayed"}  # it stays what it was: an upstream took it
    site.later_ms += 290_000
    assert await site.came_back() == wanted
    assert site.imap.connections == 1
    site.later_ms += 100_000
    site.mailbox.put("INBOX", dsn(original=RECEIVED.replace(b"02vm3h2c5x000", format_id(message_id).encode())))
    assert await site.came_back() == wanted  # told twice, known once
    assert site.imap.connections == 2
    searched = [command for command in site.imap.commands if b"SEARCH" in command]
    assert searched[0].startswith(b"UID SEARCH UID 1:2 SINCE ")
    assert searched[1:] == [b"UID SEARCH UID 3:3"]


async def test_the_console_shows_what_came_back_and_lets_nothing_in_it_act(site: Site) -> None:
    await site.set(bounces="inbox")
    message_id = await site.relay("gone@example.org", copy=True)
    evil = STATUS.replace(b"no such user here", b"<script>alert(1)</script>")
    site.mailbox.put("INBOX", dsn(evil, original=b"Message-ID: <1@example.com>\r\n"))
    await site.came_back()
    story = (await registry.run(site.control, "trace", {"id": format_id(message_id)}))[0]
    shown = await registry.run(site.control, "queue.show", {"id": format_id(message_id)})
    request = Request({"type": "http", "path": "/queue", "headers": [], "query_string": b""})
    html = bytes(page(request, "message.html", story=story, deliveries=shown["deliveries"]).body).decode()
    assert "came back</strong> for gone@example.org from mx.example.org" in html
    assert "The recipient does not exist." in html
    assert "<script>alert" not in html


@pytest.mark.parametrize("by", ["message-id", "envid"])
async def test_without_our_trace_field_the_ids_of_the_mail_tell(site: Site, by: str) -> None:
    message_id = await site.relay("gone@example.org", request=MessageRequest("", "QQ+33141+2B59"))
    original = b"Message-ID: <1@example.com>\r\n" if by == "message-id" else b"Subject: x\r\n"
    status = STATUS.replace(b"QQ314159", b"none" if by == "message-id" else b"QQ3141+59")
    site.mailbox.put("Bounces", dsn(status, original=original))
    await site.set(bounces="bounces")
    assert [found[0] for found in await site.came_back()] == [message_id]


async def test_what_is_forged_or_of_somebody_else_is_not_believed(site: Site) -> None:
    other = await site.relay("gone@example.org", account_id=99, reverse_path="eve@example.net")
    await site.relay("gone@example.org", state=State.BOUNCED, header_message_id="<2@example.com>")
    two = await site.relay("gone@example.org", "x@example.org", header_message_id="<3@example.com>")
    await site.set(bounces="inbox")
    ours = RECEIVED.replace(b"02vm3h2c5x000", format_id(other).encode())
    site.mailbox.put("INBOX", dsn(original=ours))
    site.mailbox.put("INBOX", dsn(original=b"Message-ID: <2@example.com>\r\n"))
    site.mailbox.put("INBOX", dsn(original=b"Message-ID: <unheard-of@example.com>\r\n"))
    site.mailbox.put("INBOX", dsn(b"\r\n" * 3))
    forged = b"\r\n\r\n".join(
        b"Action: failed\r\nStatus: 5.0.%d\r\nFinal-Recipient: rfc822; y@y" % n for n in range(99)
    )
    for _ in range(3):
        site.mailbox.put("INBOX", dsn(b"x: y\r\n\r\n" + forged, original=b"Message-ID: <3@example.com>\r\n"))
    found = await site.came_back()
    assert {one[0] for one in found} == {two}
    assert len(found) == 99
    assert await site.rows(select(func.count()).select_from(owed)) == [(0,)]  # nothing is sent because of any of it


async def test_a_mailbox_numbered_anew_is_read_anew_and_nothing_is_told_twice(site: Site) -> None:
    await site.relay("gone@example.org")
    await site.set(bounces="inbox")
    site.mailbox.put("INBOX", dsn(original=b"Message-ID: <1@example.com>\r\n"), days_old=1)
    site.mailbox.put("INBOX", dsn(original=b"Message-ID: <1@example.com>\r\n"), days_old=30)
    assert len(await site.came_back()) == 1
    site.mailbox.folders["INBOX"].uidvalidity = 8
    site.later_ms += 2 * 300_000
    assert len(await site.came_back()) == 1
    assert sum(b"SINCE" in command for command in site.imap.commands) == 2


async def test_very_many_mails_are_read_in_bounded_pieces(site: Site) -> None:
    await site.relay("gone@example.org")
    await site.set(bounces="inbox")
    inbox = site.mailbox.folders["INBOX"]
    await site.came_back()
    inbox.uidnext = 100_000  # long gone
    for _ in range(250):
        site.mailbox.put("INBOX", b"Subject: x\r\n\r\n")
    site.mailbox.put("INBOX", dsn(original=b"Message-ID: <1@example.com>\r\n"))
    site.later_ms += 2 * 300_000
    await site.returns.round()
    assert len(await site.came_back()) == 1  # in one visit 25 windows of 4000, in the next the rest: but at once
    searched = [command for command in site.imap.commands if b"SEARCH" in command]
    assert len(searched) == 26
    fetched = [command for command in site.imap.commands if b"CONTENT-TYPE" in command]
    assert len(fetched) == 4  # of the first window that has any, then a hundred each


# -- trouble -------------------------------------------------------------------------------------------------


async def test_a_mailbox_that_refuses_is_left_alone_told_of_and_stops_no_mail(site: Site) -> None:
    await site.set(bounces="inbox")
    site.imap.takes = lambda login, secret: False
    for _ in range(40):
        await site.returns.round()
        site.later_ms += 300_000
    assert 3 <= len(site.imap.logins) <= 5  # in more than three hours: providers lock accounts
    lasting = await site.control.database.read(open_conditions)
    assert [(one.kind, one.cause) for one in lasting] == [(ConditionKind.MAILBOX, "imap-login-refused")]
    account = site.control.directory.by_address(APP)
    assert account is not None
    assert account.state.value == "ok"
    site.imap.takes = lambda login, secret: True
    await registry.run(site.control, "account.set_password", {"account": APP, "password": PASSWORD})
    await site.returns.round()  # changed: at once
    assert await site.control.database.read(open_conditions) == []


async def test_who_stops_wanting_it_hears_no_more_of_it(site: Site) -> None:
    await site.set(bounces="No such folder")
    for _ in range(20):
        await site.returns.round()
        site.later_ms += HOUR
    assert [one.cause for one in await site.control.database.read(open_conditions)] == ["imap-no-folder"]
    await site.set(bounces="none")
    await site.returns.round()
    assert await site.control.database.read(open_conditions) == []


@pytest.mark.parametrize("said", [b"* 1 EXISTS\r\n{tag} OK done\r\n", b"{tag} BAD what\r\n", b"rubbish\r\n", None])
async def test_servers_that_answer_nonsense(site: Site, said: bytes | None) -> None:
    await site.set(bounces="inbox")
    del site.imap.acts["EXAMINE"]
    site.imap.says["EXAMINE"] = said
    assert await site.came_back() == []
    account = site.control.directory.by_address(APP)
    assert account is not None
    assert site.opener.not_before(account, "bounces") > site.now()


async def test_only_who_can_log_in_to_a_mailbox_may_want_it(site: Site) -> None:
    with pytest.raises(ControlError, match="logs in with nothing"):
        await site.set(auth="none", bounces="inbox")
    await site.set(provider="ses", host="email-smtp.eu-west-1.amazonaws.com")
    site_without = replace(site.control, settings=RelaySettings(data_dir=site.control.settings.data_dir))
    for wanted in ({"bounces": "inbox"}, {"sent_copy": "yes"}):
        with pytest.raises(ControlError, match="no IMAP server is known"):
            await registry.run(site_without, "account.set", {"account": APP, **wanted})


# -- copies --------------------------------------------------------------------------------------------------


async def test_a_copy_is_filed_as_it_was_sent_and_then_the_content_goes(site: Site) -> None:
    await site.set(sent_copy="yes")
    first = await site.relay("ann@example.org", "bob@example.org", copy=True)
    plain = await site.relay("ann@example.org", header_message_id="<2@example.com>")
    assert await site.kept() == 1
    await site.copies.round()
    assert [(mail.octets, mail.flags) for mail in site.filed] == [(PLAIN, b"\\Seen")]
    accepted = (await site.rows(select(messages.c.accepted_at).where(messages.c.id == first)))[0][0]
    moment = time.strftime("%d-%b-%Y %H:%M:%S +0000", time.gmtime(accepted / 1000))
    assert site.filed[0].at.decode() == moment
    assert await site.kept() == 0
    assert [event["event"] for event in await site.trace(first)][-1] == "copy.filed"
    assert "copy.filed" not in [event["event"] for event in await site.trace(plain)]
    await site.copies.round()
    assert len(site.filed) == 1
    assert site.imap.connections == 1


async def test_large_contents_go_in_pieces_and_leave_the_spool(site: Site) -> None:
    await site.set(sent_copy="yes")
    wire = b"Message-ID: <1@example.com>\r\n\r\n" + b"..\r\n" + b"x" * 70 + b"\r\n..y\r\n" * 40_000
    draft = site.control.queue.draft()
    draft.add(wire)
    await draft.drain()
    content = await draft.finish()
    assert content.spool is not None
    await site.settle(replace(arrival("ann@example.org", sender=APP), content=content), State.RELAYED, copy=True)
    assert site.control.queue.source(content).exists()
    await site.copies.round()
    assert site.filed[0].octets == wire.replace(b"\r\n..", b"\r\n.")
    assert not site.control.queue.source(content).exists()


@pytest.mark.parametrize("arrived", [True, False])
async def test_in_doubt_it_is_looked_for_and_lies_there_once(site: Site, *, arrived: bool) -> None:
    await site.set(sent_copy="yes")
    await site.relay("ann@example.org", copy=True)
    site.mailbox.on_append = lambda mail: (arrived, None)  # the connection breaks before the answer
    await site.copies.round()
    assert len(site.filed) == arrived
    assert await site.kept() == 1
    site.mailbox.on_append = lambda mail: (True, b"OK")
    await site.copies.round()
    assert len(site.filed) == arrived  # not yet: the server may still be at it
    site.later_ms += 3 * 60_000
    await site.copies.round()
    assert len(site.filed) == 1
    assert [command for command in site.imap.commands if b"HEADER MESSAGE-ID" in command] == [
        b'UID SEARCH HEADER MESSAGE-ID "<1@example.com>"'
    ]
    assert await site.kept() == 0


async def test_a_full_mailbox_is_tried_again_without_a_search_and_given_up_in_the_end(site: Site) -> None:
    await site.set(sent_copy="yes")
    message_id = await site.relay("ann@example.org", copy=True)
    site.mailbox.on_append = lambda mail: (False, b"NO [OVERQUOTA] full")
    for _ in range(30):
        await site.copies.round()
        site.later_ms += HOUR
    assert site.filed == []
    assert 10 <= site.imap.connections <= 26  # at least an hour between two, a day in all
    assert not [command for command in site.imap.commands if b"SEARCH" in command]
    assert await site.kept() == 0
    assert [event["event"] for event in await site.trace(message_id)][-1] == "copy.given_up"
    assert {row.state for row in await site.rows(select(deliveries))} == {"relayed"}


async def test_after_a_restore_every_copy_may_have_been_filed_since(site: Site) -> None:
    await site.set(sent_copy="yes")
    await site.relay("ann@example.org", copy=True)
    await site.control.database.write(lambda connection: doubt_all(connection, now_ms()))
    site.mailbox.put("Sent", PLAIN)
    await site.copies.round()
    assert len(site.filed) == 1
    assert await site.kept() == 0


async def test_a_folder_that_is_full_does_not_keep_bounces_from_being_read(site: Site) -> None:
    await site.set(sent_copy="yes", bounces="inbox")
    await site.relay("gone@example.org", copy=True)
    site.mailbox.on_append = lambda mail: (False, b"NO [OVERQUOTA] full")
    for _ in range(28):
        await site.copies.round()
        await site.returns.round()
        site.later_ms += HOUR
        if len(site.imap.logins) == 2:
            site.mailbox.put("INBOX", dsn(original=b"Message-ID: <1@example.com>\r\n"))
    assert len(await site.came_back()) == 1
    lasting = await site.control.database.read(open_conditions)
    assert [one.cause for one in lasting] == []  # given up after a day, before it was told
    site.settings = MailboxSettings(copy_lifetime_s=1_000_000)
    copies = Copies(
        site.settings,
        site.opener,
        database=site.control.database,
        directory=site.control.directory,
        queue=site.control.queue,
        clock=site.now,
    )
    await site.relay("ann@example.org", copy=True, header_message_id="<2@example.com>")
    for _ in range(3):
        await copies.round()
        await site.returns.round()
        site.later_ms += 13 * HOUR
    lasting = await site.control.database.read(open_conditions)
    assert [one.cause for one in lasting] == ["imap-refused"]
    site.mailbox.on_append = lambda mail: (True, b"OK")
    await copies.round()
    assert [await site.control.database.read(open_conditions), len(site.filed)] == [[], 1]


async def test_nothing_is_filed_for_who_wants_none_any_more(site: Site) -> None:
    await site.set(sent_copy="yes")
    await site.relay("ann@example.org", copy=True)
    await site.set(sent_copy="no")
    await site.copies.round()
    assert (site.imap.connections, await site.kept()) == (0, 0)


async def test_a_mail_without_an_id_that_can_be_asked_for_is_known_by_ours(site: Site) -> None:
    await site.set(sent_copy="yes")
    message_id = await site.relay("ann@example.org", copy=True, header_message_id="")
    site.mailbox.on_append = lambda mail: (False, None)
    await site.copies.round()
    site.mailbox.put("Sent", b"Received: x id " + format_id(message_id).encode() + b"\r\n\r\n")
    site.later_ms += 3 * 60_000
    await site.copies.round()
    assert len(site.filed) == 1


@pytest.mark.parametrize(
    ("provider", "settings", "files"),
    [
        ("custom", {"host": "mail.example.org"}, False),
        ("custom", {"host": "mail.example.org", "imap_host": "mail.example.org"}, True),
        ("icloud", {}, True),
        ("gmx", {}, True),
        ("m365", {}, False),
        ("m365", {"imap_host": "mail.example.org"}, False),
        ("gmail", {}, False),
        ("yahoo", {}, False),
        ("gmail", {"sent_copy": "yes"}, True),
        ("icloud", {"sent_copy": "no"}, False),
        ("icloud", {"auth": "none"}, False),
    ],
)
async def test_who_files_what_was_sent(site: Site, provider: str, settings: dict[str, str], files: bool) -> None:
    given = {"address": "b@example.org", "provider": provider, "password": PASSWORD, **settings}
    if settings.get("auth") == "none":
        del given["password"]
    shown = await registry.run(site.control, "account.add", given)
    assert shown["files_copies"] is files
