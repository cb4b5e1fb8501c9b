"""Accounts that sign in with OAuth, end to end: the commands, the daemon, an authorization server, a mail server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import ssl
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from relay.credentials.sasl import encode, xoauth2
from tests.daemon import RelayDaemon
from tests.peers import authority as authorities
from tests.peers.authority import SECRET, USER, Authority
from tests.peers.proxies import running_proxy
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.spillage import spilled
from tests.store import lay_store

APP_SCOPE = "https://outlook.office365.com/.default"
PERSON_SCOPE = "https://outlook.office.com/SMTP.Send"
MAIL = b"Subject: hello\r\n\r\nIt works.\r\n"
OTHER = "bob@example.com"


@dataclass
class Site:
    """A daemon, the server its accounts submit to, and everything that commands answered."""

    daemon: RelayDaemon
    upstream: ScriptedUpstream
    authority: Authority
    folder: Path
    answers: list[str] = field(default_factory=list)
    scope: str = APP_SCOPE
    secrets: set[str] = field(default_factory=set)  # besides those of the authority

    def takes(self, login: str, token: str) -> bool:
        """What a real mail server looks at."""
        try:
            self.authority.check(token, self.scope)
        except Exception:
            return False
        return True

    async def cli(self, *arguments: str, stdin: str = "", status: int = 0) -> str:
        done = await self.daemon.cli(*arguments, stdin=stdin, check=False)
        self.answers += [done.stdout, done.stderr]
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    async def add(self, auth: str, *options: str, address: str = USER, provider: str = "m365", stdin: str = "") -> str:
        place = ("--host", "localhost", "--port", str(self.upstream.port), "--trust", str(self.folder / "upstream.pem"))
        where = (*place, "--provider", provider, "--token-url", self.authority.url("token"))
        return await self.cli("account", "add", address, "--auth", auth, *where, *options, stdin=stdin)

    async def add_app(self, address: str = USER) -> None:
        options = ("--tenant", "contoso.example", "--client-id", "secret", "--client-secret-file", "-")
        await self.add("oauth-app", *options, address=address, stdin=SECRET)

    async def add_device(self) -> str:
        self.scope = PERSON_SCOPE
        return await self.add("oauth-device", "--client-id", "public", "--device-url", self.authority.url("device"))

    async def connect(self, act: Callable[[str], None] | None = None) -> str:
        """Run `account connect` and let the person `act` on what it printed; all it printed."""
        process = await self.daemon.process("account", "connect", USER, stdin=asyncio.subprocess.DEVNULL)
        assert process.stdout is not None
        assert process.stderr is not None
        text = ""
        async with asyncio.timeout(30):
            while line := (await process.stdout.readline()).decode():
                text += line
                if "Waiting for it" in line and act is not None:
                    await asyncio.to_thread(act, text)
            text += (await process.stderr.read()).decode()
            status = await process.wait()
        self.answers.append(text)
        assert status == 0, text
        return text

    def type_code(self, text: str) -> None:
        """The person types the device code elsewhere."""
        code = re.search(r"enter the code (\S+)", text)
        assert code is not None, text
        self.authority.decide(code[1])

    async def relayed(self, number: int = 1, sender: str = USER) -> None:
        """Submit a mail and see it arrive under the sender's login."""
        await self.daemon.submit(sender, [f"n{number}@example.org"], MAIL)
        taken = await self.upstream.next_message(15)
        assert (taken.account, taken.recipients) == (sender, (f"n{number}@example.org",))

    async def state(self, address: str = USER) -> dict[str, object]:
        return dict(json.loads(await self.cli("account", "show", address, "--json")))

    def spilled(self) -> list[str]:
        """Secrets that are anywhere but in the vault, by the place where they are."""
        secrets = {SECRET, *self.secrets, *self.upstream.tokens, *self.authority._refresh}
        secrets |= {encode(xoauth2(login, token)).decode() for login in (USER, OTHER) for token in self.upstream.tokens}
        for pem in (self.authority.certificate_pem, json.loads(self.authority.service_account_json)["private_key"]):
            secrets |= {line for line in pem.splitlines() if len(line) > 40}
        log = json.dumps(self.daemon.events) + "\n".join(self.daemon.other_output)
        places = {"log": log.encode(), "answers": "\n".join(self.answers).encode()}
        for name in ("environ", "cmdline"):
            places[name] = Path(f"/proc/{self.daemon.pid}/{name}").read_bytes()
        for file in self.daemon.data.rglob("*"):
            if file.is_file() and file.parent.name != "keys":
                places[file.name] = file.read_bytes()
        return spilled(secrets, places)


FRESH = pytest.mark.parametrize("site", [pytest.param(True, id="fresh")], indirect=True)


@pytest.fixture
async def site(tmp_path: Path, authority: Authority, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """Its daemon starts fresh where a test asks for it by FRESH."""
    authority.reset()
    settings = {
        "RELAY_OAUTH__CA_FILE": str(authority.ca),
        "RELAY_SUBMISSION__STAGE_TIMEOUT_S": "10",
        "RELAY_SUBMISSION__MAX_MESSAGES_PER_CONNECTION": "1",  # each mail logs in anew
        "RELAY_DISPATCH__PROBE_S": "0",
        "RELAY_EGRESS__NO_PROXY": "nowhere.invalid",  # this machine is reached by proxies, too
        "RELAY_LOG__LEVEL": "debug",
    }
    async with ScriptedUpstream(mechanisms="XOAUTH2") as upstream:
        upstream.authority.cert_pem.write_to_path(tmp_path / "upstream.pem")
        data, fresh = lay_store(tmp_path / "data"), getattr(request, "param", False)
        async with RelayDaemon(data, settings, fresh=fresh) as daemon:
            built = Site(daemon, upstream, authority, tmp_path)
            upstream.takes_token = built.takes
            yield built
            assert built.spilled() == []


@FRESH
async def test_apps_and_service_accounts_relay_mail_without_a_person(site: Site) -> None:
    await site.add_app()
    assert "is signed in" in await site.connect()
    await site.relayed()
    shown = await site.state()
    assert shown["secrets"] == ["access_token", "client_secret"]
    assert shown["token_until"]
    assert site.authority.asked == [("client_credentials", 200)]

    pem = site.folder / "app.pem"
    pem.write_text(site.authority.certificate_pem)
    app = ("--tenant", "contoso.example", "--client-id", "certificate", "--certificate-file", str(pem))
    await site.add("oauth-app", *app, address=OTHER)
    await site.relayed(2, OTHER)
    oauth = (await site.state(OTHER))["oauth"]
    assert isinstance(oauth, dict)
    assert len(oauth["certificate_sha256"]) == 64
    assert oauth["certificate_expires_at"] > 0

    site.scope = "https://mail.google.com/"
    file = site.folder / "service.json"
    file.write_text(site.authority.service_account_json)
    options = ("--service-account-file", str(file))
    await site.add("service-account", *options, address="cy@example.com", provider="gmail")
    await site.relayed(3, "cy@example.com")


async def test_a_device_code_signs_in_and_what_waited_goes(site: Site) -> None:
    assert f"Next: relay account connect {USER}" in await site.add_device()
    await site.daemon.submit(USER, ["early@example.org"], MAIL)
    suspended = await site.daemon.event("account.suspended")
    assert suspended["remedy"] == "sign-in-missing"
    text = await site.connect(site.type_code)
    assert "suspended and goes on now" in text
    assert (await site.upstream.next_message(15)).recipients == ("early@example.org",)
    assert (await site.state())["secrets"] == ["access_token", "refresh_token"]


async def test_a_browser_on_this_machine_signs_in(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.add("oauth-code", "--client-id", "public", "--authorize-url", site.authority.url("authorize"))
    site.scope = PERSON_SCOPE

    def browse(text: str) -> None:
        link = re.search(r"^https://\S+$", text, re.MULTILINE)
        assert link is not None, text
        query = {name: values[0] for name, values in parse_qs(urlsplit(link[0]).query).items()}
        assert query["code_challenge_method"] == "S256"
        assert query["login_hint"] == USER
        redirect = query["redirect_uri"]
        forged = urllib.request.Request(f"{redirect}?code=forged&state=of-somebody-else")
        with contextlib.suppress(urllib.error.HTTPError):
            urllib.request.urlopen(forged, timeout=10).close()
            pytest.fail("a forged answer was taken")
        monkeypatch.setattr(authorities, "REDIRECT", redirect)  # loopback: any port (RFC 8252 7.3)
        context = ssl.create_default_context(cafile=str(site.authority.ca))
        with urllib.request.urlopen(link[0], context=context, timeout=10) as page:
            assert b"Signed in" in page.read()

    await site.connect(browse)
    await site.relayed()
    assert site.authority.asked[0] == ("authorization_code", 200)


async def test_a_token_that_is_over_is_renewed(site: Site) -> None:
    site.authority.lives_s = 1
    await site.add_device()
    await site.connect(site.type_code)
    async with asyncio.timeout(20):
        while len(set(site.upstream.tokens)) < 2:
            await site.relayed()
    assert ("refresh_token", 200) in site.authority.asked


async def test_a_refused_token_is_replaced_once_and_no_mail_is_late(site: Site) -> None:
    await site.add_app()
    await site.relayed(1)
    [first] = site.upstream.tokens
    site.authority.refused_tokens.add(first)
    await site.relayed(2)
    assert len(site.upstream.tokens) == 3  # the first one again, refused; another one
    assert len(site.authority.asked) == 2
    assert not [event for event in site.daemon.events if event["event"] == "account.suspended"]


async def test_a_server_that_takes_no_token_gets_two_logins_and_the_account_stops(site: Site) -> None:
    site.upstream.takes_token = lambda login, token: False
    await site.add_app()
    await site.daemon.submit(USER, ["a@example.org"], MAIL)
    suspended = await site.daemon.event("account.suspended")
    assert "5.7.3" in suspended["reply"]
    assert len(site.upstream.tokens) == 2
    assert len(set(site.upstream.tokens)) == 2
    assert not [event for event in site.daemon.events if event["event"] == "delivery.bounced"]


async def test_a_revoked_grant_stops_the_account_and_a_new_sign_in_lets_its_mail_go(site: Site) -> None:
    await site.add_device()
    await site.connect(site.type_code)
    await site.relayed(1)
    site.authority.revoke()
    site.authority.refused_tokens.update(site.upstream.tokens)
    for number in (2, 3):
        await site.daemon.submit(USER, [f"n{number}@example.org"], MAIL)
    suspended = await site.daemon.event("account.suspended")
    assert suspended["remedy"] == "invalid-grant"
    tried = await site.daemon.event("attempt.unreachable", remedy="invalid-grant")
    assert "cause: The sign-in has ended" in await site.cli("trace", tried["message_id"])
    shown = await site.state()
    assert (shown["waiting"], shown["who"], suspended["who"]) == (2, "owner", "owner")
    assert f"relay account connect {USER}" in str(shown["remedy"])
    failed = await site.cli("account", "test", USER, status=1)
    assert "FAILED  token" in failed
    assert "FAILED" not in await site.connect(site.type_code)
    taken = {(await site.upstream.next_message(15)).recipients[0] for _ in range(2)}
    assert taken == {"n2@example.org", "n3@example.org"}
    assert not [event for event in site.daemon.events if event["event"] == "delivery.bounced"]


async def test_a_refused_app_stops_its_other_accounts_and_a_new_secret_lets_them_go_on(site: Site) -> None:
    await site.add_app()
    await site.add_app(OTHER)
    client = site.authority.clients["secret"]
    client.secret = "rotated-meanwhile"
    try:
        await site.daemon.submit(USER, ["a@example.org"], MAIL)
        await site.daemon.event("account.suspended", account=USER)
        stopped = await site.daemon.event("account.suspended", account=OTHER)
        assert stopped["remedy"] == "invalid-client"
        assert len(site.authority.asked) == 1
        assert (await site.state(OTHER))["state"] == "suspended"
    finally:
        client.secret = SECRET
    said = await site.cli("account", "set", USER, "--client-secret-file", "-", stdin=SECRET)
    assert "goes on now" in said
    assert (await site.upstream.next_message(15)).account == USER
    await site.daemon.event("account.resumed", account=OTHER)
    await site.relayed(2, OTHER)


async def test_a_provider_that_cannot_be_asked_lets_the_account_rest_as_long_as_it_wants(site: Site) -> None:
    site.authority.order(authorities.Fault(status=429, headers={"Retry-After": "77"}))
    await site.add_app()
    await site.daemon.submit(USER, ["a@example.org"], MAIL)
    resting = await site.daemon.event("account.resting")
    assert 60 < resting["retry_in_s"] < 100
    assert resting["remedy"] == "token-unavailable"
    assert "ok      token" in await site.cli("account", "test", USER)
    await site.cli("account", "resume", USER)
    assert {(await site.upstream.next_message(15)).recipients[0] for _ in range(2)} == {"a@example.org", USER}


async def test_who_still_uses_a_password_and_how_to_end_that(site: Site) -> None:
    await site.add_app()
    await site.cli("account", "add", OTHER, "--provider", "m365", "--password-file", "-", stdin="pw-of-bob")
    report = await site.cli("account", "list", "--auth")
    assert "2026-12-31" in report
    assert f"relay account set {OTHER} --auth oauth-device" in report
    assert "Logging in with a password: 1 of 2." in report
    moved = await site.cli("account", "set", OTHER, "--auth", "oauth-device", "--client-id", "public")
    assert f"Next: relay account connect {OTHER}" in moved
    [first, second] = json.loads(await site.cli("account", "list", "--auth", "--json"))
    assert not first["uses_password"]
    assert not second["uses_password"]


async def test_an_account_moves_from_a_password_to_oauth_and_the_password_goes(site: Site) -> None:
    site.upstream.mechanisms = "LOGIN XOAUTH2"
    place = ("--host", "localhost", "--port", str(site.upstream.port), "--trust", str(site.folder / "upstream.pem"))
    await site.cli("account", "add", USER, *place, "--provider", "m365", "--password-file", "-", stdin="pw-of-ann")
    await site.relayed(1)
    ways = ("--token-url", site.authority.url("token"), "--device-url", site.authority.url("device"))
    await site.cli("account", "set", USER, "--auth", "oauth-device", "--client-id", "public", *ways)
    site.scope = PERSON_SCOPE
    await site.connect(site.type_code)
    await site.relayed(2)
    assert (await site.state())["secrets"] == ["access_token", "refresh_token"]


async def test_a_provider_that_nobody_knows_is_described_by_options(site: Site) -> None:
    site.scope = "mail"
    ways = ("--device-url", site.authority.url("device"), "--scope", "mail offline_access")
    await site.add("oauth-device", "--client-id", "public", *ways, provider="custom")
    await site.connect(site.type_code)
    await site.relayed()


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_token_and_mail_both_go_by_the_accounts_proxy(site: Site, scheme: str) -> None:
    password = f"word-of-the-{scheme}-proxy"
    site.secrets.add(password)
    (site.folder / "proxy.txt").write_text(password)
    async with running_proxy(scheme, login=f"relay:{password}") as proxy:
        way = (
            "--proxy",
            proxy.url.replace(f":{password}", ""),
            "--proxy-password-file",
            str(site.folder / "proxy.txt"),
        )
        app = ("--tenant", "contoso.example", "--client-id", "secret", "--client-secret-file", "-")
        await site.add("oauth-app", *app, *way, stdin=SECRET)
        await site.relayed()
        assert sorted(proxy.asked) == sorted(f"localhost:{port}" for port in (site.authority.port, site.upstream.port))
        assert f"through proxy {scheme}://" in await site.cli("account", "show", USER)
        proxy.login = "relay:another-password"
        await site.daemon.submit(USER, ["late@example.org"], MAIL)
        refused = await site.daemon.event("attempt.unreachable", remedy="proxy-auth")
        await site.cli("trace", refused["message_id"])
        proxy.login = f"relay:{password}"
        await site.cli("account", "resume", USER)
        assert (await site.upstream.next_message(15)).recipients == ("late@example.org",)


async def test_check_gets_a_token_of_every_account(site: Site) -> None:
    await site.add_app()
    assert "logged in" in await site.cli("check")
    site.authority.clients["secret"].secret = "rotated-meanwhile"
    try:
        await site.cli("account", "set", USER, "--client-secret-file", "-", stdin=SECRET)
        said = await site.cli("check", status=1)
    finally:
        site.authority.clients["secret"].secret = SECRET
    assert "invalid_client" in said


async def test_passwords_alone_load_nothing_of_oauth(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "import relay.daemon.run\n"
        "from relay.config.settings import RelaySettings\n"
        "from relay.control import registry\n"
        "from relay.daemon.build import build\n"
        "async def work():\n"
        "    settings = RelaySettings(data_dir=Path(sys.argv[1]))\n"
        "    async with build(settings, on_lost=print) as relay:\n"
        "        arguments = {'address': 'a@example.com', 'host': '127.0.0.1', 'port': 9, 'password': 'x'}\n"
        "        await registry.run(relay.control, 'account.add', arguments)\n"
        "        await registry.run(relay.control, 'account.test', {'account': 'a@example.com'})\n"
        "asyncio.run(work())\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'httpx', 'authlib', 'joserfc', 'httpcore'}))\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(tmp_path / "data")), env=os.environ, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output.decode().splitlines()[-1] == "[]"
