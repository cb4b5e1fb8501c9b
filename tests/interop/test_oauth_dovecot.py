"""Accounts with OAuth at a real Dovecot: what it refuses is refreshed exactly once, for submission and for IMAP."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon import RelayDaemon
from tests.interop.oauth_dovecot import OAuthDovecot, absent, running_dovecot
from tests.peers.authority import USER, Authority
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import lay_store
from tests.unit.test_returned import dsn

pytestmark = [pytest.mark.interop, pytest.mark.skipif(bool(absent()), reason=absent() or "present")]
MAIL = b"Subject: hello\r\n\r\nIt works.\r\n"


@dataclass
class Site:
    """A daemon whose account is at Dovecot; `behind` has what Dovecot took."""

    daemon: RelayDaemon
    dovecot: OAuthDovecot
    authority: Authority
    behind: ScriptedUpstream

    async def sign_in(self) -> None:
        """By device code, with the right to IMAP as well."""
        process = await self.daemon.process("account", "connect", USER, "--imap", stdin=asyncio.subprocess.DEVNULL)
        assert process.stdout is not None
        assert process.stderr is not None
        text = ""
        async with asyncio.timeout(30):
            while line := (await process.stdout.readline()).decode():
                text += line
                if (code := re.search(r"enter the code (\S+)", line)) is not None:
                    self.authority.decide(code[1])
            assert await process.wait() == 0, text + (await process.stderr.read()).decode()

    async def relayed(self, recipient: str) -> None:
        await self.daemon.submit(USER, [recipient], MAIL)
        taken = await self.behind.next_message(15)
        assert taken.recipients == (recipient,)
        assert taken.content.endswith(b"\r\n\r\nIt works.\r\n")

    async def test_imap(self) -> dict[str, object]:
        done = await self.daemon.cli("account", "test", USER, "--imap", "--json", check=False)
        return dict(json.loads(done.stdout))

    @property
    def refreshes(self) -> int:
        return [kind for kind, status in self.authority.asked if status == 200].count("refresh_token")


@pytest.fixture(params=["XOAUTH2", "OAUTHBEARER"])
async def site(request: pytest.FixtureRequest, tmp_path: Path, authority: Authority) -> AsyncIterator[Site]:
    authority.reset()
    authority.typ = "JWT"
    async with ScriptedUpstream(tls="none", mechanisms="") as behind:
        with running_dovecot(authority, request.param, behind.port) as dovecot:
            settings = {
                "RELAY_OAUTH__CA_FILE": str(authority.ca),
                "RELAY_SUBMISSION__STAGE_TIMEOUT_S": "10",
                "RELAY_SUBMISSION__MAX_MESSAGES_PER_CONNECTION": "1",  # each mail logs in anew
                "RELAY_DISPATCH__PROBE_S": "0",
                "RELAY_MAILBOX__POLL_S": "0.5",
                "RELAY_MAILBOX__COPY_GATHER_S": "0",
            }
            async with RelayDaemon(lay_store(tmp_path / "data"), settings) as daemon:
                place = ("--host", "localhost", "--port", str(dovecot.submission), "--trust", str(dovecot.ca))
                mailbox = ("--imap-host", "localhost", "--imap-port", str(dovecot.imaps))
                urls = ("--token-url", authority.url("token"), "--device-url", authority.url("device"))
                oauth = ("--provider", "m365", "--auth", "oauth-device", "--client-id", "public")
                await daemon.cli("account", "add", USER, *place, *mailbox, *urls, *oauth)
                built = Site(daemon, dovecot, authority, behind)
                await built.sign_in()
                yield built


async def test_what_dovecot_checks_and_refuses(site: Site) -> None:
    await site.relayed("first@example.org")
    await check_both_doors(site)
    await check_the_mailbox(site)
    await check_a_wrong_audience(site)
    await check_a_token_that_ended_at_the_server(site)


async def check_both_doors(site: Site) -> None:
    assert ("submission", USER) in site.dovecot.logins()
    assert f"method={site.dovecot.mechanism}" in site.dovecot.log()
    for port, tls in ((site.dovecot.imaps, "implicit"), (site.dovecot.imap, "starttls")):
        await site.daemon.cli("account", "set", USER, "--imap-port", str(port), "--imap-tls", tls)
        result = await site.test_imap()
        assert result["ok"], result
        assert (result["messages"], result["sent"]) == (0, "Gesendete Objekte")
    assert ("imap", USER) in site.dovecot.logins()


async def check_the_mailbox(site: Site) -> None:
    """A copy in the folder that Dovecot marks for it, and a notification in INBOX that nobody touches."""
    await site.daemon.cli("account", "set", USER, "--sent-copy", "yes", "--bounces", "inbox")
    await site.daemon.submit(USER, ["gone@example.org"], MAIL)
    taken = await site.behind.next_message(15)
    filed = await site.daemon.event("copy.filed")
    copies = site.dovecot.mails("Gesendete Objekte")
    assert [name.partition(":2,")[2] for name, _ in copies] == ["S"]
    # Dovecot put its own Received field above what it was given.
    assert taken.content.endswith(copies[0][1])
    assert filed["where"] == "Gesendete Objekte"
    site.dovecot.deliver(dsn(original=copies[0][1].partition(b"\r\n\r\n")[0] + b"\r\n"))
    came = await site.daemon.event("delivery.returned", recipient="gone@example.org", code=550)
    assert came["message_id"] == filed["message_id"]
    traced = (await site.daemon.cli("trace", came["message_id"])).stdout
    assert "gone@example.org came back from mx.example.org: 550 5.1.1 <gone@example.org>: no such user here" in traced
    assert [name.partition(":2,")[2] for name, _ in site.dovecot.mails("INBOX")] == [""]  # not even seen
    await site.daemon.cli("account", "set", USER, "--sent-copy", "no", "--bounces", "none")


async def check_a_wrong_audience(site: Site) -> None:
    site.authority.audience = "another-server"
    await site.daemon.cli("account", "set", USER, "--imap-login", USER)  # forgets the tokens, keeps the grant
    before = site.refreshes
    result = await site.test_imap()
    assert (result["ok"], result["failed_at"]) == (False, "login")
    assert site.refreshes - before == 2  # one for the token that is refused, one forced by that; no third
    assert f"relay account connect {USER} --imap" in str(result["remedy"])
    site.authority.audience = "mail-server"
    assert (await site.test_imap())["ok"]


async def check_a_token_that_ended_at_the_server(site: Site) -> None:
    """By submission this time: the authority's clock is two hours behind, the server's is not."""
    site.authority.skew_s = -7200
    await site.daemon.cli("account", "set", USER, "--imap-login", USER)
    before = site.refreshes
    await site.daemon.submit(USER, ["late@example.org"], MAIL)
    refused = await site.daemon.event("attempt.refused", code=535)
    assert refused["stage"] == "auth"
    assert site.refreshes - before == 2
    site.authority.skew_s = 0
    await site.daemon.cli("account", "test", USER)
    await site.daemon.cli("account", "resume", USER)
    assert {(await site.behind.next_message(15)).recipients for _ in range(2)} == {(USER,), ("late@example.org",)}
