"""What attackers of a web console try: forged forms, borrowed sessions, paths and headers that lead elsewhere."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.browser.stand import ADMIN, ADMIN_PASSWORD, Stand, standing

CHANGES = (
    *(
        "/logout",
        "/accounts/new",
        "/accounts/a@example.com/limits",
        "/accounts/a@example.com/handling",
        "/accounts/a@example.com/password",
    ),
    *("/accounts/a@example.com/suspend", "/accounts/a@example.com/resume", "/accounts/a@example.com/remove"),
    *("/accounts/a@example.com/invite", "/senders", "/senders/remove", "/clients", "/clients/remove", "/queue"),
    *("/users/invite", "/users/remove", "/users/token", "/users/revoke", "/profile/password"),
    *("/profile/second-factor", "/system/rotate", "/system/drop", "/mail/a@example.com/save"),
    *("/mail/a@example.com/test", "/mail/a@example.com/sign-in", "/again", "/again/oidc", "/again/passkey"),
    *("/profile/recovery-codes", "/profile/passkeys", "/profile/passkeys/add", "/profile/passkeys/rename"),
    *("/profile/passkeys/remove", "/users/second-factor"),
)
FIELDS = {  # enough of every form that only the token is missing
    "provider": "custom",
    "address": "x@example.com",
    "pattern": "p@example.com",
    "account": "a@example.com",
    "name": "x",
    "networks": "127.0.0.1",
    "action": "hold",
    "id": "0",
    "password": "p" * 12,
    "again": "p" * 12,
    "key": "k",
    "sure": "yes",
    "scope": "read",
    "to": "/profile",
    "ceremony": "x",
    "answer": "{}",
}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    async with standing(tmp_path_factory.mktemp("probes")) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def web(stand: Stand) -> AsyncIterator[httpx.AsyncClient]:
    """Signed in as the administrator."""
    async with httpx.AsyncClient(base_url=stand.base, trust_env=False, timeout=15) as client:
        await stand.act("console.password", name=ADMIN, password=ADMIN_PASSWORD)
        answer = await client.post("/login", data={"username": ADMIN, "password": ADMIN_PASSWORD})
        assert answer.status_code == 303
        yield client


async def csrf_of(web: httpx.AsyncClient) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', (await web.get("/profile")).text)
    assert found is not None
    return found[1]


async def test_no_form_is_taken_without_its_token_or_from_elsewhere(stand: Stand, web: httpx.AsyncClient) -> None:
    before = await stand.act("audit", limit=1000)
    good = await csrf_of(web)
    for path in CHANGES:
        for token in (None, "", "x" * len(good), good[:-1], f"{good}x", "\u00fc"):
            answer = await web.post(path, data=FIELDS | ({} if token is None else {"csrf": token}))
            assert answer.status_code in (403, 422), (path, token)
        for headers in (
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": f"http://evil.example#{stand.base}"},
            {"origin": f"{stand.base}.evil.example"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ):
            answer = await web.post(path, data=FIELDS | {"csrf": good}, headers=headers)
            assert (answer.status_code, answer.text) == (403, "this came from another site"), (path, headers)
        assert (await web.get(path, params=FIELDS | {"csrf": good})).status_code in (200, 303, 404, 405, 422)
    assert await stand.act("audit", limit=1000) == before
    assert await csrf_of(web) == good


async def test_the_api_takes_a_session_only_with_its_token(web: httpx.AsyncClient) -> None:
    body = {"pattern": "q@example.com", "account": "a@example.com"}
    assert (await web.post("/api/v1/senders", json=body)).status_code == 403
    assert (await web.post("/api/v1/senders", json=body, headers={"x-csrf-token": "x"})).status_code == 403
    token = await csrf_of(web)
    assert (await web.post("/api/v1/senders", json=body, headers={"x-csrf-token": token})).status_code in (404, 409)


async def test_a_session_is_new_at_each_login_and_dead_after_logout(stand: Stand, web: httpx.AsyncClient) -> None:
    planted = "planted-by-somebody-else-0123456789abcdef"
    async with httpx.AsyncClient(base_url=stand.base, trust_env=False, cookies={"relay_session": planted}) as victim:
        answer = await victim.post("/login", data={"username": ADMIN, "password": ADMIN_PASSWORD})
        cookie = answer.headers["set-cookie"]
        assert planted not in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
    async with httpx.AsyncClient(base_url=stand.base, trust_env=False, cookies={"relay_session": planted}) as attacker:
        assert (await attacker.get("/queue")).headers["location"] == "/login"
    stolen = {"relay_session": web.cookies["relay_session"]}
    assert (await web.post("/logout", data={"csrf": await csrf_of(web)})).status_code == 303
    async with httpx.AsyncClient(base_url=stand.base, trust_env=False, cookies=stolen) as attacker:
        assert (await attacker.get("/queue")).headers["location"] == "/login"
        assert (await attacker.get("/api/v1/accounts")).status_code == 401


async def test_no_path_leads_out_of_the_static_folder(web: httpx.AsyncClient) -> None:
    assert (await web.get("/static/console.css")).status_code == 200
    for path in (
        *("/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/..%5capp.py", "/static/%2e%2e%2f%2e%2e%2fmain.py"),
        *("/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/vendor/..%2f..%2fguard.py", "/static/", "/static"),
        *("/static/console.css%00.html", "/static/....//app.py", "/templates/base.html", "/static/%c0%ae%c0%ae/app.py"),
    ):
        answer = await web.send(web.build_request("GET", httpx.URL(web.base_url.join("/"), raw_path=path.encode())))
        assert answer.status_code in (400, 404), path
        assert "import annotations" not in answer.text
        assert "root:" not in answer.text


async def test_no_field_makes_a_header(stand: Stand, web: httpx.AsyncClient) -> None:
    injected = "x\r\nset-cookie: planted=1\r\n\r\n<script>alert(1)</script>"
    token = await csrf_of(web)
    pages = ("/find", "/queue", "/senders", "/clients", "/audit", "/explain", "/accounts/new", "/oauth/callback")
    names = ("q", "account", "sender", "recipient", "which", "address", "since", "reply", "provider", "after", "did")
    answers = [await web.get(path, params=dict.fromkeys(names, injected)) for path in pages]
    answers += [await web.post(path, data=dict.fromkeys(FIELDS, injected) | {"csrf": token}) for path in CHANGES[1:]]
    answers.append(await web.post("/login", data={"username": injected, "password": injected}))
    for answer in answers:
        assert "planted" not in answer.headers.get("set-cookie", ""), answer.url
        assert answer.status_code < 500, answer.url
        assert "<script>alert" not in answer.text, answer.url
        assert "\n" not in answer.headers.get("location", "")


async def test_what_is_not_there_is_said_on_a_page(web: httpx.AsyncClient) -> None:
    for path, status in (("/nope", 404), ("/queue/0000000000000", 409), ("/accounts/x@example.com", 404)):
        answer = await web.get(path)
        assert answer.status_code == status, path
        assert "To the first page" in answer.text
    assert (await web.delete("/queue")).status_code == 405
    assert (await web.get("/queue", params={"older_than": "soon"})).status_code == 200


async def test_what_is_done_with_an_accounts_mail_is_shown_and_changed(stand: Stand, web: httpx.AsyncClient) -> None:
    await stand.add_account("erp@example.com", password="a-password")
    page = (await web.get("/accounts/erp@example.com")).text
    for words in ("Mail that came back", "is not looked for", "not filed by the relay", "relay account set"):
        assert words in page
    token = {"csrf": await csrf_of(web)}
    given = {
        "owner": "boss@example.com",
        "bounces": "inbox",
        "sent_copy": "no",
        "null_sender": "yes",
        "in_doubt": "hold",
        "fallback": "graph",  # not in the form of this provider
    }
    refused = await web.post("/accounts/erp@example.com/handling", data=token | given)
    assert refused.status_code in (409, 422)
    del given["fallback"]
    await stand.act("account.set", account="erp@example.com", imap_host="localhost")
    assert (await web.post("/accounts/erp@example.com/handling", data=token | given)).status_code == 303
    shown = (await web.get("/api/v1/accounts/erp@example.com")).json()
    assert (shown["owner"], shown["bounces"], shown["sent_copy"]) == ("boss@example.com", "INBOX", "no")
    assert (shown["null_sender"], shown["in_doubt"], shown["fallback"]) == (True, "hold", "none")
    page = (await web.get("/accounts/erp@example.com")).text
    assert "is looked for in INBOX" in page
    assert (await web.post("/accounts/erp@example.com/handling", data=token)).status_code == 303
    shown = (await web.get("/api/v1/accounts/erp@example.com")).json()
    assert (shown["owner"], shown["bounces"], shown["null_sender"]) == ("erp@example.com", None, True)


async def test_every_form_of_the_pages_is_probed() -> None:
    """A new form is added to CHANGES, or this fails."""
    folder = Path(__file__).parents[2] / "relay" / "console" / "pages"
    posts = {
        found[1]
        for file in folder.glob("*.py")
        for found in re.finditer(r'@router\.post\("([^"]+)"\)', file.read_text())
    }
    probed = {path.replace("a@example.com", "{account}") for path in CHANGES}
    nobody_yet = {"/login", "/login/oidc", "/login/passkey", "/login/passkey/begin", "/invite/{token}"}
    assert posts - probed <= nobody_yet
