"""The console's pages over a real daemon, an authorization server and a mail server: signing in, testing, guarding."""

from __future__ import annotations

import re
import sqlite3
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.daemon import RelayDaemon
from tests.peers import authority as authorities
from tests.peers.authority import SECRET, USER, Authority
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import lay_store

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADMIN_PASSWORD = "correct horse battery"
TYPED = "the-password-that-was-typed"
SCOPE = "https://outlook.office.com/SMTP.Send"
MAIL = b"Subject: hello\r\n\r\nIt works.\r\n"


@dataclass
class Site:
    """One daemon for the module: its console's address, its upstream, the provider."""

    daemon: RelayDaemon
    upstream: ScriptedUpstream
    authority: Authority
    base: str

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[httpx.AsyncClient]:
        """A browser of its own: cookies, redirects, and trust in the provider's certificate."""
        trust = ssl.create_default_context(cafile=str(self.authority.ca))
        async with httpx.AsyncClient(
            base_url=self.base, verify=trust, follow_redirects=True, timeout=30, trust_env=False
        ) as web:
            yield web

    async def invite(self, web: httpx.AsyncClient) -> str:
        """Sign USER in by a fresh invitation; the CSRF token of that session."""
        made = (await self.daemon.cli("console", "invite", USER, "--account", USER)).stdout
        path = re.search(r"/invite/[\w-]+", made)
        assert path is not None, made
        shown = await web.post(path[0])
        return csrf(shown)

    async def token(self, name: str, *scopes: str) -> dict[str, str]:
        options = [option for scope in scopes for option in ("--scope", scope)]
        made = await self.daemon.cli("console", "token", name, *options)
        return {"authorization": f"Bearer {made.stdout.strip()}"}


def csrf(page: httpx.Response) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1]


def onward(page: httpx.Response) -> str:
    """Where a page without scripts sends the browser."""
    found = re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1].replace("&amp;", "&")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    settings = {
        "RELAY_CONSOLE__ENABLED": "yes",
        "RELAY_CONSOLE__PORT": "0",
        "RELAY_CONSOLE__OIDC_ISSUER": authority.issuer,
        "RELAY_CONSOLE__OIDC_CLIENT_ID": "secret",
        "RELAY_CONSOLE__OIDC_CLIENT_SECRET": SECRET,
        "RELAY_OAUTH__CA_FILE": str(authority.ca),
        "RELAY_QUEUE__MIN_FREE_BYTES": "0",
    }
    async with ScriptedUpstream(accounts={USER: TYPED}, mechanisms="PLAIN XOAUTH2") as upstream:
        upstream.takes_token = lambda login, token: bool(authority.check(token, SCOPE))
        upstream.authority.cert_pem.write_to_path(folder / "upstream.pem")
        async with RelayDaemon(lay_store(folder / "data"), settings) as daemon:
            place = ("--host", "localhost", "--port", str(upstream.port), "--trust", str(folder / "upstream.pem"))
            await daemon.add_account(USER, "stored-and-wrong", *place, "--provider", "m365")
            await daemon.cli("console", "password", "--password-file", "-", stdin=ADMIN_PASSWORD)
            started = await daemon.event("console.started", timeout_s=20)
            yield Site(daemon, upstream, authority, f"http://127.0.0.1:{started['port']}")


async def test_an_owner_tests_a_typed_password_then_signs_in_at_the_provider(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site.browser() as web:
        proof = await site.invite(web)
        tested = await web.post(f"/mail/{USER}/test", data={"csrf": proof, "password": TYPED})
        assert "It works." in tested.text
        assert TYPED not in tested.text
        tested = await web.post(f"/mail/{USER}/test", data={"csrf": proof, "password": ""})
        assert "It does not work yet." in tested.text

        ways = ("--authorize-url", site.authority.url("authorize"), "--token-url", site.authority.url("token"))
        await site.daemon.cli("account", "set", USER, "--auth", "oauth-code", "--client-id", "public", *ways)
        monkeypatch.setattr(authorities, "REDIRECT", f"{site.base}/oauth/callback")
        away = await web.post(f"/mail/{USER}/sign-in", data={"csrf": proof})
        back = await web.get(onward(away))
        assert str(back.url).startswith(f"{site.base}/oauth/callback?")
        async with site.browser() as other:  # whoever sees the address gains nothing
            await other.post("/login", data={"username": "admin", "password": ADMIN_PASSWORD})
            assert (await other.get(onward(back))).status_code == 404
        done = await web.get(onward(back))
        assert "Signed in." in done.text, done.text
    seen = len(site.daemon.events)
    await site.daemon.submit(USER, ["n@example.org"], MAIL)
    await site.daemon.event("delivery.relayed", since=seen, timeout_s=20)
    shown = (await site.daemon.cli("account", "show", USER, "--json")).stdout
    assert '"password"' not in shown.partition('"secrets"')[2].partition("]")[0]


async def test_people_sign_in_at_the_openid_provider(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.daemon.cli("console", "invite", USER, "--account", USER)
    monkeypatch.setattr(authorities, "REDIRECT", f"{site.base}/login/oidc/callback")
    async with site.browser() as web:
        assert "Sign in with localhost" in (await web.get("/login")).text
        away = await web.post("/login/oidc")
        assert "relay_oidc" in away.headers["set-cookie"]
        async with site.browser() as victim:  # an answer that an attacker slips to somebody else signs nobody in
            slipped = await web.get(onward(away), follow_redirects=False)
            assert (await victim.get(slipped.headers["location"])).status_code == 401
            assert "relay_session" not in victim.cookies
        back = await web.get(slipped.headers["location"])
        assert back.status_code == 200, back.text
        mine = await web.get(onward(back))
        assert USER in mine.text
    with open(f"/proc/{site.daemon.pid}/task/{site.daemon.pid}/children") as children:
        for child in children.read().split():
            for name in ("environ", "cmdline"):
                assert SECRET.encode() not in Path(f"/proc/{child}/{name}").read_bytes()
    settings = (await site.daemon.cli("check", "--json", check=False)).stdout
    assert SECRET not in settings + str(site.daemon.events)


async def test_who_signs_in_at_a_provider_proves_there_again_who_they_are(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorities, "REDIRECT", f"{site.base}/login/oidc/callback")

    async def back_from(web: httpx.AsyncClient, proof: str) -> httpx.Response:
        away = await web.post("/again/oidc", data={"csrf": proof, "to": "/profile/recovery-codes"})
        assert {"prompt=login", "max_age=0"} <= set(onward(away).split("&"))
        return await web.get(onward(away))

    async with site.browser() as web:
        await web.get(onward(await web.get(onward(await web.post("/login/oidc")))))
        session = dict(web.cookies)
        with closing(sqlite3.connect(site.daemon.data / "relay.db", timeout=10)) as store:
            store.execute("UPDATE console_sessions SET proved_at = 0")
            store.commit()
        form = {"csrf": csrf(await web.get("/profile")), "sure": "yes"}
        asked = await web.post("/profile/recovery-codes", data=form)
        assert asked.status_code == 403
        assert "Sign in with localhost again" in asked.text
        for said in (int(time.time()) - 3600, None, "now"):  # long ago, or it does not say
            monkeypatch.setattr(site.authority, "claims", {"auth_time": said})
            assert (await back_from(web, form["csrf"])).status_code == 403, said
        monkeypatch.setattr(site.authority, "claims", {})
        async with site.browser() as other:  # whoever comes back is somebody else than who is signed in
            await other.post("/login", data={"username": "admin", "password": ADMIN_PASSWORD})
            refused = await back_from(other, csrf(await other.get("/profile")))
            assert refused.status_code == 403
            assert "not who is signed in" in refused.text
        assert (await web.post("/profile/recovery-codes", data=form)).status_code == 403
        back = await back_from(web, form["csrf"])
        assert onward(back) == "/profile"
        assert web.cookies["relay_session"] != session["relay_session"]
        form["csrf"] = csrf(await web.get("/profile"))
        assert "Your recovery codes" in (await web.post("/profile/recovery-codes", data=form)).text


async def test_a_new_login_ends_the_session_before_it_and_takes_no_foreign_one(site: Site) -> None:
    form = {"username": "admin", "password": ADMIN_PASSWORD}
    async with site.browser() as web:
        web.cookies.set("relay_session", "chosen-by-somebody-else", domain="127.0.0.1")
        await web.post("/login", data=form)
        first = [cookie.value for cookie in web.cookies.jar if cookie.name == "relay_session"][-1]
        assert first != "chosen-by-somebody-else"
        web.cookies.clear()
        web.cookies.set("relay_session", str(first), domain="127.0.0.1")
        assert (await web.get("/accounts")).url.path == "/accounts"
        await web.post("/login", data=form)
    async with site.browser() as thief:
        thief.cookies.set("relay_session", str(first), domain="127.0.0.1")
        assert (await thief.get("/accounts")).url.path == "/login"


async def test_the_api_names_no_host_inside_and_tells_nothing_of_it(site: Site) -> None:
    keeper = await site.token("keeper", "read", "accounts")
    async with site.browser() as web:
        answers = []
        for name, port in (("a", 25), ("b", 587)):
            body = {"address": f"{name}@example.com", "host": "127.0.0.1", "port": port, "password": "some-password-1"}
            assert (await web.post("/api/v1/accounts", headers=keeper, json=body)).status_code == 201
            told = (await web.post(f"/api/v1/accounts/{name}@example.com/test", headers=keeper)).json()
            answers.append((told["failed_at"], told["reply"], told["cause"]))
        assert answers[0] == answers[1]
        assert "named through the web" in answers[0][2]
        inside = body | {"address": "c@example.com", "port": site.upstream.port}
        assert (await web.post("/api/v1/accounts", headers=keeper, json=inside)).status_code == 422
        proxied = body | {"address": "c@example.com", "proxy": "http://127.0.0.1:1"}
        assert (await web.post("/api/v1/accounts", headers=keeper, json=proxied)).status_code == 403
        shown = (await web.get("/api/v1/accounts/a@example.com", headers=keeper)).json()
        assert shown["host"] == "127.0.0.1"


async def test_who_guesses_hears_when_to_come_back(site: Site) -> None:
    async with site.browser() as web:
        for _ in range(11):
            answer = await web.post("/login", data={"username": "admin", "password": "wrong-one-of-many"})
        assert answer.status_code == 429
        assert 0 < int(answer.headers["retry-after"]) <= 600
