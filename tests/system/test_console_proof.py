"""What a stolen session cannot do, on the pages without scripts and at the API, over a real daemon."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import httpx
import pyotp
import pytest
import pytest_asyncio

from relay.console.pages import proof
from tests.browser.stand import ADMIN, ADMIN_PASSWORD, Stand, standing
from tests.peers.authenticator import Authenticator

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("proof")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(folder: Path) -> AsyncIterator[Stand]:
    async with standing(folder) as found:
        yield found


@asynccontextmanager
async def signed_in(stand: Stand) -> AsyncIterator[httpx.AsyncClient]:
    base = stand.base.replace("127.0.0.1", "localhost")  # a passkey belongs to a name
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=15) as client:
        await stand.act("console.password", name=ADMIN, password=ADMIN_PASSWORD)
        answer = await client.post("/login", data={"username": ADMIN, "password": ADMIN_PASSWORD})
        assert answer.status_code == 303
        yield client


def age(folder: Path) -> None:
    """Every proof is an hour old."""
    with closing(sqlite3.connect(folder / "data" / "relay.db", timeout=10)) as store:
        store.execute("UPDATE console_sessions SET proved_at = proved_at - 3600000")
        store.commit()


def hidden(page: httpx.Response) -> dict[str, str]:
    """The hidden fields of the page's own form."""
    form = page.text[page.text.index('<main id="main"') :]
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form))


async def csrf_of(web: httpx.AsyncClient) -> str:
    return hidden(await web.get("/profile"))["csrf"]


async def test_a_stolen_session_is_asked_who_it_is_and_the_form_goes_on_after_that(stand: Stand, folder: Path) -> None:
    async with signed_in(stand) as web:
        age(folder)
        thief = dict(web.cookies)
        form = {"csrf": await csrf_of(web), "name": "probe", "scope": ["read", "queue"]}
        asked = await web.post("/users/token", data=form)
        assert asked.status_code == 403
        assert "Is it still you?" in asked.text
        assert await stand.act("token.list") == []
        fields = hidden(asked) | {"with:scope": ["read", "queue"]}
        assert (fields["to"], fields["with:name"]) == ("/users/token", "probe")
        wrong = await web.post("/again", data=fields | {"password": "wrong"})
        assert wrong.status_code == 403
        assert "wrong" in wrong.text
        assert hidden(wrong)["with:name"] == "probe"
        proved = await web.post("/again", data=fields | {"password": ADMIN_PASSWORD})
        assert proved.status_code == 200
        assert ADMIN_PASSWORD not in wrong.text + proved.text
        assert web.cookies["relay_session"] != thief["relay_session"]
        went_on = await web.post("/users/token", data=hidden(proved) | {"scope": ["read", "queue"]})
        assert "relay_" in went_on.text
        assert [token["scopes"] for token in await stand.act("token.list")] == [["queue", "read"]]
        await stand.act("token.remove", name="probe")
        async with httpx.AsyncClient(base_url=web.base_url, trust_env=False, cookies=thief) as stolen:
            assert (await stolen.get("/users")).headers["location"] == "/login"


async def test_a_stolen_session_moves_no_mail_and_gives_none_up(stand: Stand, folder: Path) -> None:
    await stand.add_account("erp@example.com", password="a-password")
    await stand.act("account.suspend", account="erp@example.com")
    message_id = await stand.mail("erp@example.com", "ann@example.org")
    async with signed_in(stand) as web:
        for path, fields, done in (
            ("/senders", {"pattern": "@lab.example", "account": "erp@example.com"}, "sender.add"),
            ("/accounts/erp@example.com/invite", {"name": "eve@example.com"}, "user.invite"),
            ("/queue", {"action": "remove", "id": message_id, "sure": "yes"}, "queue.remove"),
            ("/accounts/erp@example.com/remove", {"sure": "yes"}, "account.remove"),
        ):
            age(folder)
            before = len(await stand.act("audit", limit=1000))
            asked = await web.post(path, data=fields | {"csrf": await csrf_of(web)})
            assert (asked.status_code, "Is it still you?" in asked.text) == (403, True), path
            assert len(await stand.act("audit", limit=1000)) == before, path
            proved = await web.post("/again", data=hidden(asked) | {"password": ADMIN_PASSWORD})
            went_on = await web.post(path, data=hidden(proved))
            assert went_on.status_code in (200, 303), (path, went_on.text)
            assert (await stand.act("audit", limit=1000))[-1]["action"] == done, path


async def test_who_adds_an_account_is_asked_before_they_type(stand: Stand, folder: Path) -> None:
    async with signed_in(stand) as web:
        age(folder)
        asked = await web.get("/accounts/new?provider=custom")
        assert "Is it still you?" in asked.text
        given = {"provider": "custom", "address": "new@example.com", "host": "mail.example.net", "password": "typed-1"}
        late = await web.post("/accounts/new", data=given | {"csrf": await csrf_of(web)})
        assert late.status_code == 403
        assert "typed-1" not in late.text
        assert "fill the form in again" in late.text
        proved = await web.post("/again", data=hidden(asked) | {"password": ADMIN_PASSWORD})
        assert proved.headers["location"] == "/accounts/new"
        assert "Where does the mailbox live?" in (await web.get("/accounts/new")).text
        added = await web.post("/accounts/new", data=given | {"csrf": await csrf_of(web)})
        assert added.headers["location"] == "/accounts/new@example.com"


async def test_another_administrator_resets_a_second_factor(stand: Stand, folder: Path) -> None:
    secret = await with_second_factor(stand, "lost@example.com")
    async with signed_in(stand) as web:
        assert "Reset second factor" in (await web.get("/users")).text
        age(folder)
        form = {"csrf": await csrf_of(web), "name": "lost@example.com", "sure": "yes"}
        asked = await web.post("/users/second-factor", data=form)
        assert asked.status_code == 403
        proved = await web.post("/again", data=hidden(asked) | {"password": ADMIN_PASSWORD})
        done = await web.post("/users/second-factor", data=hidden(proved))
        assert "lost@example.com has no second factor any more" in done.text
        assert "Reset second factor" not in (await web.get("/users")).text
    assert secret not in done.text
    last = (await stand.act("audit", limit=1))[-1]
    assert (last["actor"], last["action"], last["target"]) == ("console:admin", "user.set", "lost@example.com")
    assert last["detail"]["second_factor_reset"] is True
    async with httpx.AsyncClient(base_url=stand.base, trust_env=False) as theirs:
        entered = await theirs.post("/login", data={"username": "lost@example.com", "password": ADMIN_PASSWORD})
        assert entered.headers["location"] == "/"


async def with_second_factor(stand: Stand, name: str) -> str:
    """An administrator whose authenticator is set up; its secret."""
    await stand.act("console.password", name=name, password=ADMIN_PASSWORD)
    async with httpx.AsyncClient(base_url=stand.base, trust_env=False) as web:
        await web.post("/login", data={"username": name, "password": ADMIN_PASSWORD})
        begun = await web.post("/profile/second-factor", data={"csrf": await csrf_of(web)})
        secret = re.search(r"<code>([A-Z2-7]{32})</code>", begun.text)
        assert secret is not None
        form = {"csrf": await csrf_of(web), "code": pyotp.TOTP(secret[1]).now()}
        assert "Your recovery codes" in (await web.post("/profile/second-factor", data=form)).text
    return secret[1]


async def test_after_the_proof_nothing_leads_elsewhere(stand: Stand, folder: Path) -> None:
    assert all(map(proof._FORMS.fullmatch, ("/users/token", "/senders", "/queue", "/accounts/a@example.com/remove")))
    for to in ("", "/accounts", "/users//x", "/users/token#x", "/queue?action=remove", "/mail/a@b/save", "/again"):
        assert (proof._FORMS.fullmatch(to), proof._page_of(to)) == (None, "/profile"), to
    async with signed_in(stand) as web:
        for to in (
            *("https://evil.example/", "//evil.example/x", "/\\evil.example", "/users/../../x", "javascript:alert(1)"),
            *("/users/token?x=1", "/logout", "/queue/x", "/senders\n"),
        ):
            form = {"csrf": await csrf_of(web), "to": to, "then": "form", "password": ADMIN_PASSWORD}
            answer = await web.post("/again", data=form)
            assert (answer.status_code, answer.headers["location"]) == (303, "/profile"), to


async def test_a_new_password_takes_the_one_of_now(stand: Stand, folder: Path) -> None:
    async with signed_in(stand) as web:
        age(folder)
        new = {"csrf": await csrf_of(web), "password": "a-new-password", "again": "a-new-password"}
        asked = await web.post("/profile/password", data=new)
        assert asked.status_code == 403
        assert "a-new-password" not in asked.text
        assert hidden(asked)["to"] == "/profile"
        refused = await web.post("/profile/password", data=new | {"current": "wrong"})
        assert refused.status_code == 403
        done = await web.post("/profile/password", data=new | {"current": ADMIN_PASSWORD})
        assert done.headers["location"] == "/login"
        entered = await web.post("/login", data={"username": ADMIN, "password": "a-new-password"})
        assert entered.status_code == 303


async def test_the_api_with_a_session_is_asked_too(stand: Stand, folder: Path) -> None:
    async with signed_in(stand) as web:
        age(folder)
        headers = {"x-csrf-token": await csrf_of(web)}
        for path, body in (("/keys/rotate", {}), ("/tokens", {"name": "x", "scopes": ["read"]})):
            answer = await web.post(f"/api/v1{path}", json=body, headers=headers)
            assert (answer.status_code, answer.json()["title"]) == (403, "proof"), path


async def test_passkeys_over_the_pages(stand: Stand, folder: Path) -> None:
    async with signed_in(stand) as web:
        origin = str(web.base_url).rstrip("/")
        begun = await web.post("/profile/passkeys", data={"csrf": await csrf_of(web)})
        options = re.search(r'data-passkey-options="([^"]+)"', begun.text)
        assert options is not None
        key = Authenticator(origin)
        answer = key.create(httpx.Response(200, text=options[1].replace("&#34;", '"')).json())
        made = await web.post("/profile/passkeys/add", data=hidden(begun) | {"name": "<b>key</b>", "answer": answer})
        codes = re.findall(r"(?:[a-z2-7]{4}-){3}[a-z2-7]{4}", made.text)
        assert len(codes) == 10
        assert "<b>key" not in made.text
        again = await web.get("/profile")
        assert not re.search(r"(?:[a-z2-7]{4}-){3}", again.text)
        async with httpx.AsyncClient(base_url=origin, trust_env=False) as other:
            asked = (await other.post("/login/passkey/begin")).json()
            form = {"ceremony": asked["ceremony"], "answer": key.get(asked["options"])}
            elsewhere = await other.post("/login/passkey", data=form, headers={"origin": "http://evil.example"})
            assert elsewhere.status_code == 403
            assert (await other.post("/login/passkey", data=form)).headers["location"] == "/"
            assert (await other.post("/login/passkey", data=form)).status_code == 401
            login = await other.post("/login", data={"username": ADMIN, "password": ADMIN_PASSWORD})
            assert "Recovery code" in login.text
        age(folder)
        assert (await web.post("/again/passkey")).status_code == 403
        headers = {"x-csrf-token": await csrf_of(web)}
        asked = (await web.post("/again/passkey", headers=headers)).json()
        form = {"csrf": headers["x-csrf-token"], "to": "/profile/recovery-codes", "then": "form", "with:sure": "yes"}
        form |= {"ceremony": asked["ceremony"], "answer": key.get(asked["options"])}
        proved = await web.post("/again", data=form)
        went_on = await web.post("/profile/recovery-codes", data=hidden(proved))
        fresh = re.findall(r"(?:[a-z2-7]{4}-){3}[a-z2-7]{4}", went_on.text)
        assert len(fresh) == 10
        assert not set(fresh) & set(codes)
        id_ = hidden(await web.get("/profile"))["id"]
        form = {"csrf": await csrf_of(web), "id": id_, "name": "x", "sure": "yes"}
        assert (await web.post("/profile/passkeys/remove", data=form)).status_code == 303
        assert (await web.get("/profile")).text.count("/profile/passkeys/remove") == 0
