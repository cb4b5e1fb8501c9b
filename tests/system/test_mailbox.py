"""An account's mailbox through the daemon: what came back is traced, a copy is filed once whenever the power goes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from relay.mail.content import unstuff
from tests.daemon import RelayDaemon
from tests.peers.certificates import write_certificates
from tests.peers.imap_mailbox import ImapMailbox, Mail
from tests.peers.scripted_imap import ScriptedImap, running_imap
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, PASSWORD, Relaying
from tests.unit.test_returned import dsn

MAIL = b"Message-ID: <42@example.com>\r\nSubject: Invoice\r\n\r\n.dot\r\n"


@dataclass
class Provider:
    """`options` of an account whose mailbox it has."""

    imap: ScriptedImap
    mailbox: ImapMailbox
    options: tuple[str, ...]

    @property
    def filed(self) -> list[Mail]:
        return self.mailbox.folders["Sent"].mails


@pytest.fixture
async def provider(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[Provider]:
    certificates = write_certificates(tmp_path)
    bundle = tmp_path / "both.pem"
    bundle.write_bytes(upstream.authority.cert_pem.bytes() + Path(certificates.ca).read_bytes())
    async with running_imap(certificates) as imap:
        imap.takes = lambda login, secret: (login, secret) == (APP, PASSWORD)
        place = ("--trust", str(bundle), "--imap-host", "localhost", "--imap-port", str(imap.port))
        yield Provider(imap, ImapMailbox(imap), place)


async def relayed(daemon: RelayDaemon) -> None:
    """In the store, not just in the log."""
    async with asyncio.timeout(20):
        while json.loads((await daemon.cli("queue", "list", "--state", "relayed", "--json")).stdout) == []:
            pass


async def test_a_copy_is_filed_once_though_the_relay_is_killed(
    upstream: ScriptedUpstream, relaying: Relaying, provider: Provider
) -> None:
    # Named its IMAP server, and the provider is none that files by itself: that is enough to be owed copies.
    async with relaying(*provider.options, RELAY_MAILBOX__COPY_GATHER_S="60") as daemon:
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        taken = await upstream.next_message(20)
        await relayed(daemon)
        await daemon.kill()
        assert provider.imap.connections == 0
        arrived = asyncio.Event()

        def take_and_stall(mail: Mail) -> tuple[bool, bytes]:
            arrived.set()
            return True, b""

        provider.mailbox.on_append = take_and_stall
        await daemon.start()
        async with asyncio.timeout(20):
            await arrived.wait()
        await daemon.kill()
        provider.mailbox.on_append = lambda mail: (True, b"OK filed")
        seen = len(daemon.events)
        await daemon.start()
        filed = await daemon.event("copy.filed", since=seen, account=APP, where="Sent")
        assert [mail.octets for mail in provider.filed] == [unstuff(taken.content)]
        traced = (await daemon.cli("trace", filed["message_id"])).stdout
        assert "a copy was filed in the mailbox's folder for sent mail" in traced
        with pytest.raises(TimeoutError):
            await upstream.next_message(0.1)  # no mail goes out again for a copy
        store = b"".join(path.read_bytes() for path in daemon.data.glob("relay.db*"))
        assert PASSWORD.encode() not in store


async def test_what_came_back_is_traced_and_a_mailbox_that_refuses_stops_no_mail(
    upstream: ScriptedUpstream, relaying: Relaying, provider: Provider
) -> None:
    async with relaying(*provider.options, "--bounces", "inbox", RELAY_MAILBOX__POLL_S="0.2") as daemon:
        await daemon.submit(APP, ["gone@example.org"], MAIL)
        taken = await upstream.next_message(20)
        await relayed(daemon)
        provider.mailbox.put("INBOX", dsn(original=unstuff(taken.content).partition(b"\r\n\r\n")[0] + b"\r\n"))
        came = await daemon.event("delivery.returned", account=APP, recipient="gone@example.org", code=550)
        assert came["cause"] == "The recipient does not exist."
        listed = json.loads((await daemon.cli("queue", "list", "--state", "returned", "--json")).stdout)
        assert [(one["id"], one["state"]) for one in listed] == [(came["message_id"], "relayed")]
        assert "relayed, came back" in (await daemon.cli("queue", "show", came["message_id"])).stdout
        provider.imap.takes = lambda login, secret: False
        await daemon.event("mailbox.failed", account=APP, remedy="imap-login-refused")
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        assert (await upstream.next_message(20)).recipients == ("ann@example.org",)
        assert not [event for event in daemon.events if event["event"] == "account.suspended"]
