"""What one person of the console tries against another, and what a page elsewhere tries with either's browser."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import pytest_asyncio

from tests.browser.stand import ADMIN, ADMIN_PASSWORD, Stand, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANN, BOB = "ann@example.com", "bob@example.com"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    async with standing(tmp_path_factory.mktemp("attacks")) as found:
        for address in (ANN, BOB):
            await found.add_account(address, password="a-password-of-it")
        yield found


@asynccontextmanager
async def browser(stand: Stand, **options: object) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=stand.base, trust_env=False, timeout=20, **options) as web:  # type: ignore[arg-type]
        yield web


@asynccontextmanager
async def owner(stand: Stand, address: str) -> AsyncIterator[httpx.AsyncClient]:
    """Their browser, signed in by an invitation."""
    made = await stand.act("user.invite", name=address, accounts=[address])
    async with browser(stand) as web:
        assert (await web.post(made["path"])).status_code == 303
        yield web


async def csrf_of(web: httpx.AsyncClient) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', (await web.get("/profile")).text)
    assert found is not None
    return found[1]


async def test_an_owner_reaches_nothing_of_anothers_or_of_administrators(stand: Stand) -> None:
    async with owner(stand, ANN) as ann, owner(stand, BOB) as bob:
        token = await csrf_of(ann)
        started = await ann.post(f"/mail/{ANN}/test", data={"csrf": token}, headers={"hx-request": "true"})
        job = re.search(rf"/mail/{ANN}/test/([\w-]+)", started.text)
        if job is not None:  # it is still under way
            assert (await ann.get(job[0])).status_code == 200
            assert (await bob.get(job[0])).status_code == 404
            assert (await bob.get(f"/mail/{BOB}/test/{job[1]}")).status_code == 404
        for path in (
            *(f"/mail/{BOB}", f"/accounts/{ANN}", "/accounts", "/queue", "/queue/x", "/find?q=x", "/log", "/users"),
            *("/system", "/system/check", "/system/rotate/x", "/audit", "/notices", "/overview/live"),
            *("/overview/minutes", "/clients", "/senders", "/explain"),
        ):
            answer = await ann.get(path)
            assert answer.status_code == 403, path
            assert "no-store" in answer.headers["cache-control"]
        for path in (
            *(
                "accounts",
                f"accounts/{BOB}",
                "queue",
                "queue/x",
                "trace/x",
                "audit",
                "users",
                "tokens",
                "keys",
                "overview",
            ),
            *("check", "nodes", "notices", "senders", "clients"),
        ):
            assert (await ann.get(f"/api/v1/{path}")).status_code == 403, path
        for path, form in (
            (f"/mail/{BOB}/save", {"password": "stolen-password"}),
            (f"/mail/{BOB}/sign-in", {}),
            (f"/accounts/{BOB}/password", {"password": "stolen-password"}),
            (f"/accounts/{BOB}/invite", {"name": ANN}),
            ("/users/token", {"name": "x", "scope": "admin"}),
            ("/system/rotate", {"sure": "yes"}),
        ):
            assert (await ann.post(path, data=form | {"csrf": token})).status_code == 403, path


async def test_the_token_of_a_form_is_its_sessions_alone(stand: Stand) -> None:
    async with owner(stand, ANN) as ann, owner(stand, BOB) as bob:
        answer = await bob.post(f"/mail/{BOB}/save", data={"csrf": await csrf_of(ann), "password": "a-new-password"})
        assert answer.status_code == 403
        headers = {"x-csrf-token": await csrf_of(ann)}
        assert (await bob.post("/again/passkey", headers=headers)).status_code == 403


async def test_a_page_elsewhere_signs_nobody_in(stand: Stand) -> None:
    made = await stand.act("user.invite", name=ANN, accounts=[ANN])
    form = {"username": ADMIN, "password": ADMIN_PASSWORD, "ceremony": "x", "answer": "{}"}
    async with browser(stand) as victim:
        for path in ("/login", "/login/passkey", "/login/passkey/begin", "/login/oidc", made["path"]):
            for headers in (
                {"origin": "https://evil.example"},
                {"origin": "null"},
                {"sec-fetch-site": "cross-site"},
                {"origin": stand.base, "sec-fetch-site": "same-site"},
            ):
                answer = await victim.post(path, data=form, headers=headers)
                assert answer.status_code == 403, (path, headers)
                assert "set-cookie" not in answer.headers
        assert (await victim.post(made["path"])).status_code == 303  # nothing of that used the invitation up


async def test_no_header_moves_a_link_elsewhere(stand: Stand) -> None:
    async with browser(stand) as web:
        await web.post("/login", data={"username": ADMIN, "password": ADMIN_PASSWORD})
        form = {"csrf": await csrf_of(web), "name": "new@example.com"}
        for name in ("x-forwarded-host", "x-host", "forwarded", "x-original-url", "x-forwarded-server"):
            made = await web.post("/users/invite", data=form, headers={name: "host=evil.example"})
            assert "evil.example" not in made.text
            assert f'value="{stand.base}/invite/' in made.text
        for host in ("evil.example", f"evil.example@{stand.base[7:]}", "127.0.0.1:80/evil.example", "", "127.0.0.1, x"):
            answer = await web.get("/login", headers={"host": host})
            assert answer.status_code in (400, 421), host


async def test_links_are_those_of_the_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    public = "https://relay.example.com"
    folder = tmp_path_factory.mktemp("public")
    async with standing(folder, RELAY_CONSOLE__URL=public) as stand, browser(stand) as web:
        entered = await web.post("/login", data={"username": ADMIN, "password": ADMIN_PASSWORD})
        cookie = {"cookie": entered.headers["set-cookie"].partition(";")[0]}  # it is for HTTPS alone
        assert "Secure" in entered.headers["set-cookie"]
        shown = await web.get("/profile", headers=cookie)
        found = re.search(r'name="csrf" value="([^"]+)"', shown.text)
        assert found is not None
        made = await web.post("/users/invite", data={"csrf": found[1], "name": ANN}, headers=cookie)
        assert f'value="{public}/invite/' in made.text
        begun = await web.post("/login/passkey/begin")
        assert begun.json()["options"]["rpId"] == "relay.example.com"


async def test_nothing_private_is_kept_by_a_cache_and_no_socket_is_opened(stand: Stand) -> None:
    async with owner(stand, ANN) as web:
        for path in (f"/mail/{ANN}", "/profile", "/login", "/nope", f"/api/v1/accounts/{ANN}"):
            assert (await web.get(path)).headers["cache-control"] == "no-store", path
        upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        answer = await web.get("/profile", headers=upgrade | {"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="})
        assert answer.status_code != 101


async def test_mail_of_an_account_that_awaits_its_owner_goes_when_they_gave_the_password(stand: Stand) -> None:
    address = "late@example.com"
    stand.upstream.accounts[address] = "right-password"
    place = ("--host", "localhost", "--port", str(stand.options["port"]), "--trust", str(stand.options["trust"]))
    said = (await stand.daemon.cli("account", "add", address, "--invite", *place)).stdout
    link = re.search(r"/invite/[\w-]+", said)
    assert link is not None, said
    seen = len(stand.daemon.events)
    await stand.mail(address, "ann@example.org")
    assert (await stand.act("account.show", account=address))["waiting"] == 1
    async with browser(stand) as web:
        assert (await web.post(link[0])).status_code == 303
        form = {"csrf": await csrf_of(web), "password": "right-password"}
        assert (await web.post(f"/mail/{address}/save", data=form)).status_code == 303
    await stand.daemon.event("delivery.relayed", since=seen, timeout_s=20)
    names = [event["event"] for event in stand.daemon.events[seen:]]
    assert "attempt.refused" not in names
    assert "attempt.unreachable" not in names
    async with browser(stand) as web:
        await web.post("/login", data={"username": ADMIN, "password": ADMIN_PASSWORD})
        form = {"csrf": await csrf_of(web), "provider": "gmail", "address": "w@example.com", "auth": "invite"}
        assert f"{stand.base}/invite/" in (await web.post("/accounts/new", data=form)).text
