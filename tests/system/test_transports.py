"""Accounts whose mail goes by Microsoft Graph or the Gmail API, end to end, and one that moves there by itself."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from relay.database.engine import open_database
from relay.database.schema import audit
from tests.daemon import RelayDaemon
from tests.peers.api_server import ApiServer, Fault
from tests.peers.authority import SECRET, USER, Authority
from tests.peers.proxies import running_proxy
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import lay_store

GRAPH_APP = "https://graph.microsoft.com/.default"
GRAPH_PERSON = "https://graph.microsoft.com/Mail.Send"
GMAIL = "https://www.googleapis.com/auth/gmail.send"
MAIL = b"From: ann@example.com\r\nTo: to@example.org, left-out@example.org\r\nSubject: x\r\n\r\n.dot\r\n"
DISABLED = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant."
APP = ("--tenant", "contoso.example", "--client-id", "secret", "--client-secret-file", "-")


@dataclass
class Site:
    """A daemon, and what its accounts reach: a sign-in service, a submission server, both APIs."""

    daemon: RelayDaemon
    upstream: ScriptedUpstream
    api: ApiServer
    authority: Authority
    folder: Path
    scope: str = GRAPH_APP

    def takes(self, token: str) -> bool:
        try:
            self.authority.check(token, self.scope)
        except Exception:
            return False
        return True

    async def cli(self, *arguments: str, stdin: str = "", status: int = 0) -> str:
        done = await self.daemon.cli(*arguments, stdin=stdin, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    async def add(self, *options: str, provider: str = "m365", stdin: str = "") -> str:
        place = ("--host", "localhost", "--port", str(self.upstream.port), "--trust", str(self.folder / "ca.pem"))
        ways = ("--token-url", self.authority.url("token"), "--per-minute", "0")
        return await self.cli("account", "add", USER, "--provider", provider, *place, *ways, *options, stdin=stdin)

    async def arrives(self) -> None:
        """Somebody is left out of the envelope, somebody is in it alone: both are heeded."""
        await self.daemon.submit(USER, ["to@example.org", "hidden@example.org"], MAIL)
        found = await self.api.next_mail(15)
        assert found.recipients == ("hidden@example.org", "to@example.org")
        assert b"left-out" not in found.content
        assert b"hidden" not in found.content
        assert found.content.endswith(b"\r\n\r\n.dot\r\n")
        relayed = await self.daemon.event("delivery.relayed", recipient="hidden@example.org")
        assert "added as Bcc" in relayed["reply"]


@pytest.fixture
async def site(request: pytest.FixtureRequest, tmp_path: Path, authority: Authority) -> AsyncIterator[Site]:
    authority.reset()
    async with ScriptedUpstream(mechanisms="XOAUTH2") as upstream, ApiServer() as api:
        api.authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        settings = {
            "RELAY_OAUTH__CA_FILE": str(authority.ca),
            "RELAY_SUBMISSION__STAGE_TIMEOUT_S": "10",
            "RELAY_SUBMISSION__GRAPH_URL": api.url,
            "RELAY_SUBMISSION__GMAIL_URL": api.url,
            "RELAY_SUBMISSION__API_CA_FILE": str(tmp_path / "ca.pem"),
            "RELAY_QUEUE__MIN_FREE_BYTES": "0",
            "RELAY_NOTICES__ADMINISTRATOR": "it@example.com",
            "RELAY_EGRESS__NO_PROXY": "nowhere.invalid",  # this machine is reached by proxies, too
            "RELAY_LOG__LEVEL": "debug",
            **getattr(request, "param", {}),
        }
        async with RelayDaemon(lay_store(tmp_path / "data"), settings) as daemon:
            built = Site(daemon, upstream, api, authority, tmp_path)
            api.takes_token = built.takes
            yield built
            log = json.dumps(daemon.events) + "\n".join(daemon.other_output)
            assert not [token for token in api.tokens if token in log]


async def test_an_app_sends_by_graph_for_a_mailbox(site: Site) -> None:
    said = await site.add("--auth", "oauth-app", "--transport", "graph", *APP, stdin=SECRET)
    assert f"Microsoft Graph at localhost:{site.api.port}" in said
    await site.arrives()
    assert site.api.asked == [(f"/v1.0/users/{USER}/sendMail", 202)]
    tested = await site.cli("account", "test", USER, "--to", "me@example.org")
    assert [line.split()[:2] for line in tested.splitlines() if line.startswith("ok")] == [
        ["ok", step] for step in ("token", "connect", "tls", "login", "mail", "rcpt", "data", "accepted")
    ]
    assert (await site.api.next_mail()).recipients == ("me@example.org",)
    assert "logged in" in await site.cli("check")

    site.api.order(Fault(429, {"error": {"code": "ApplicationThrottled"}}, {"Retry-After": "77"}))
    await site.daemon.submit(USER, ["late@example.org"], MAIL)
    resting = await site.daemon.event("account.resting")
    assert resting["remedy"] == "graph-throttled"
    assert 60 < resting["retry_in_s"] < 100
    await site.cli("account", "resume", USER)
    assert (await site.api.next_mail()).recipients == ("late@example.org",)
    assert site.upstream.connections == []


async def test_a_service_account_sends_by_the_gmail_api(site: Site) -> None:
    site.scope = GMAIL
    file = site.folder / "service.json"
    file.write_text(site.authority.service_account_json)
    options = ("--auth", "service-account", "--service-account-file", str(file), "--transport", "gmail")
    await site.add(*options, provider="gmail")
    await site.arrives()
    assert "FAILED" not in await site.cli("account", "test", USER, "--to", "me@example.org")


@pytest.mark.parametrize("site", [{"RELAY_DISPATCH__LOGIN_CHECK_S": "0.4"}], indirect=True)
async def test_an_idle_account_of_an_api_is_checked_by_its_own_way_out(site: Site) -> None:
    async with running_proxy("socks5") as proxy:
        way = ("--transport", "graph", "--proxy", proxy.url)
        await site.add("--auth", "oauth-app", *way, *APP, stdin=SECRET)
        checked = await site.daemon.event("account.checked", account=USER)
        assert "takes the token" in checked["reply"]
        assert set(proxy.asked) == {f"localhost:{port}" for port in (site.authority.port, site.api.port)}
        site.api.takes_token = lambda token: False
        suspended = await site.daemon.event("account.suspended", account=USER)
        assert "InvalidAuthenticationToken" in suspended["reply"]
    assert site.api.mails.empty()
    assert site.upstream.connections == []


async def test_another_transport_needs_another_consent(site: Site) -> None:
    ways = ("--auth", "oauth-device", "--client-id", "public", "--device-url", site.authority.url("device"))
    await site.add(*ways)
    await sign_in(site)
    site.scope = GRAPH_PERSON
    said = await site.cli("account", "set", USER, "--transport", "graph")
    assert f"Next: relay account connect {USER}" in said
    await sign_in(site)
    await site.arrives()
    assert site.api.asked == [("/v1.0/me/sendMail", 202)]


async def test_an_account_moves_to_graph_when_smtp_auth_is_off(site: Site) -> None:
    site.upstream.on("AUTH").answers(DISABLED)
    owner = ("--owner", "eve@example.com")
    await site.add("--auth", "oauth-app", "--fallback", "graph", *owner, *APP, stdin=SECRET)
    await site.arrives()
    moved = await site.daemon.event("account.moved")
    assert moved["cause"] == "m365-smtp-auth-disabled-tenant"
    assert not [event for event in site.daemon.events if event["event"] == "account.suspended"]
    shown = json.loads(await site.cli("account", "show", USER, "--json"))
    assert (shown["transport"], shown["state"]) == ("graph", "ok")
    told = {}
    while len(told) < 2:  # through the account itself: it is well
        mail = await site.api.next_mail(20)
        told[mail.recipients[0]] = mail.content
    assert set(told) == {"it@example.com", "eve@example.com"}
    assert b"Nothing has to be done" in told["eve@example.com"]
    assert b"This notice comes once." in told["it@example.com"]
    assert "moved-to-graph" in await site.cli("notice", "list")
    await site.daemon.stop()
    async with open_database(site.daemon.data / "relay.db") as database:
        rows = await database.read(lambda c: [tuple(row) for row in c.execute(audit.select())])
    assert [row for row in rows if "relay" in row and "account.move" in row]
    await site.daemon.start()


async def test_people_are_told_days_before_a_secret_ends(site: Site) -> None:
    soon = time.strftime("%Y-%m-%d", time.gmtime(time.time() + 5 * 86_400))
    ends = ("--secret-expires", soon, "--owner", "eve@example.com")
    await site.add("--auth", "oauth-app", "--transport", "graph", *ends, *APP, stdin=SECRET)
    await site.daemon.stop()  # what ends is looked at hourly, and at the start
    await site.daemon.start()
    assert (await site.daemon.event("credential.expiring"))["remedy"] == "secret-expiring"
    told = {mail.recipients[0]: mail.content for mail in [await site.api.next_mail(20) for _ in range(2)]}
    assert set(told) == {"it@example.com", "eve@example.com"}
    assert all(f"ends on {soon}".encode() in content for content in told.values())


async def test_who_cannot_move_is_suspended_and_it_is_said_why(site: Site) -> None:
    site.api.takes_token = lambda token: False
    site.upstream.on("AUTH").answers(DISABLED)
    await site.add("--auth", "oauth-app", "--fallback", "graph", *APP, stdin=SECRET)
    await site.daemon.submit(USER, ["a@example.org"], MAIL)
    stayed = await site.daemon.event("account.not_moved")
    assert "InvalidAuthenticationToken" in stayed["reason"]
    suspended = await site.daemon.event("account.suspended")
    assert suspended["remedy"] == "m365-smtp-auth-disabled-tenant"
    assert site.api.mails.empty()


async def sign_in(site: Site) -> None:
    """The person types the device code elsewhere, as soon as it was given out."""
    site.authority.answers_at_once = True
    await site.cli("account", "connect", USER)


async def test_what_does_not_fit_together_is_refused(site: Site) -> None:
    file = ("--password-file", "-")
    said = await site.cli(
        "account", "add", USER, "--provider", "m365", "--transport", "graph", *file, stdin="x", status=1
    )
    assert "OAuth only" in said
    said = await site.cli(
        "account", "add", USER, "--provider", "gmail", "--transport", "graph", *file, stdin="x", status=1
    )
    assert "has no Microsoft Graph" in said
    said = await site.cli(
        "account", "add", USER, "--provider", "m365", "--transport", "post", *file, stdin="x", status=1
    )
    assert "smtp, graph, gmail" in said
