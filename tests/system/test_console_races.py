"""Two administrators at once, programs with each other's keys, and bodies that are made to hurt."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.browser.stand import ADMIN, ADMIN_PASSWORD, Stand, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECOND = "root@example.com"
ACCOUNT = "erp@example.com"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    async with standing(tmp_path_factory.mktemp("races")) as found:
        await found.act("console.password", name=SECOND, password=ADMIN_PASSWORD)
        await found.add_account(ACCOUNT, password="a-password")
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def both(stand: Stand) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Two browsers, an administrator at each."""
    async with browser(stand, ADMIN) as one, browser(stand, SECOND) as other:
        yield [one, other]


def browser(stand: Stand, name: str) -> _SignedIn:
    return _SignedIn(stand, name)


class _SignedIn:
    def __init__(self, stand: Stand, name: str) -> None:
        self._web = httpx.AsyncClient(base_url=stand.base, trust_env=False, timeout=20)
        self._name = name

    async def __aenter__(self) -> httpx.AsyncClient:
        answer = await self._web.post("/login", data={"username": self._name, "password": ADMIN_PASSWORD})
        assert answer.status_code == 303
        return self._web

    async def __aexit__(self, *_: object) -> None:
        await self._web.aclose()


def hidden(page: str, action: str) -> dict[str, str]:
    """What the page's form for `action` brings by itself."""
    form = page[page.index(f'action="{action}"') :]
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form[: form.index("</form>")]))


async def test_what_one_changes_is_not_taken_back_by_the_others_older_page(
    stand: Stand, both: list[httpx.AsyncClient]
) -> None:
    place = f"/accounts/{ACCOUNT}"
    pages = [(await web.get(place)).text for web in both]
    for action, first, second in (
        ("limits", {"per_minute": "7"}, {"per_day": "900"}),
        ("handling", {"owner": "boss@example.com"}, {"in_doubt": "hold"}),
    ):
        for web, page, change in zip(both, pages, (first, second), strict=True):
            fields = hidden(page, f"{place}/{action}")
            shown = {name.removeprefix("was_"): value for name, value in fields.items() if name.startswith("was_")}
            if action == "handling":
                del shown["transport"], shown["fallback"]  # not in the form of this provider
            assert (await web.post(f"{place}/{action}", data=fields | shown | change)).status_code == 303
    facts = await stand.act("account.show", account=ACCOUNT)
    assert (facts["per_minute"], facts["per_day"]) == (7, 900)
    assert (facts["owner"], facts["in_doubt"]) == ("boss@example.com", "hold")


async def test_the_same_thing_at_once_is_done_once(stand: Stand, both: list[httpx.AsyncClient]) -> None:
    tokens = [hidden((await web.get("/users")).text, "/users/token")["csrf"] for web in both]
    forms = [{"csrf": token, "name": "nagios", "scope": "read"} for token in tokens]
    made = await asyncio.gather(*(web.post("/users/token", data=form) for web, form in zip(both, forms, strict=True)))
    assert sorted(answer.status_code for answer in made) == [200, 409]
    assert [one["name"] for one in await stand.act("token.list")] == ["nagios"]
    new = {"provider": "custom", "address": "new@example.com", "host": "mail.example.net", "password": "a-password-2"}
    added = await asyncio.gather(
        *(web.post("/accounts/new", data=new | {"csrf": token}) for web, token in zip(both, tokens, strict=True))
    )
    assert sorted(answer.status_code for answer in added) == [303, 409]


async def test_two_that_remove_each_other_leave_one(stand: Stand, both: list[httpx.AsyncClient]) -> None:
    victims = (SECOND, ADMIN)
    tokens = [hidden((await web.get("/profile")).text, "/logout")["csrf"] for web in both]
    forms = [{"csrf": token, "name": name, "sure": "yes"} for token, name in zip(tokens, victims, strict=True)]
    await asyncio.gather(*(web.post("/users/remove", data=form) for web, form in zip(both, forms, strict=True)))
    left = [user["name"] for user in await stand.act("user.list")]
    assert len(left) == 1
    await stand.act("console.password", name=({ADMIN, SECOND} - set(left)).pop(), password=ADMIN_PASSWORD)


async def test_a_key_of_another_program_gives_nothing_of_its_answer(stand: Stand) -> None:
    tokens = {}
    for name, scopes in (("one", ["accounts", "read"]), ("other", ["accounts", "read"]), ("reader", ["read"])):
        tokens[name] = (await stand.act("token.add", name=name, scopes=scopes))["token"]
    async with httpx.AsyncClient(base_url=f"{stand.base}/api/v1", trust_env=False) as web:

        async def add(name: str, pattern: str) -> httpx.Response:
            headers = {"authorization": f"Bearer {tokens[name]}", "idempotency-key": "4711"}
            return await web.post("/senders", json={"pattern": pattern, "account": ACCOUNT}, headers=headers)

        assert (await add("one", "a@lab.example")).status_code == 201
        assert (await add("one", "a@lab.example")).json()["pattern"] == "a@lab.example"
        assert (await add("one", "b@lab.example")).status_code == 409
        assert (await add("other", "a@lab.example")).status_code == 201  # done anew, in its own name
        done = [one["actor"] for one in await stand.act("audit", limit=1000) if one["target"] == "a@lab.example"]
        assert done == ["token:one", "token:other"]
        assert (await add("reader", "a@lab.example")).status_code == 403
        await stand.act("token.remove", name="one")
        made = await stand.act("token.add", name="one", scopes=["accounts"])  # somebody else's program, the same name
        tokens["one"] = made["token"]
        assert (await add("one", "d@lab.example")).status_code == 201


BODIES = {
    "deep": (b"[" * 100_000, "application/json"),
    "deep object": (b'{"a":' * 50_000, "application/json"),
    "number": (b'{"pattern":' + b"9" * 100_000 + b"}", "application/json"),
    "not UTF-8": (b'{"pattern":"\xff\xfe"}', "application/json"),
    "surrogate": (b'{"pattern":"\\ud800@x.example","account":"erp@example.com"}', "application/json"),
    "nul": (json.dumps({"pattern": "a\0@x.example", "account": ACCOUNT}).encode(), "application/json"),
    "fields": (b"&".join(b"f%d=1" % n for n in range(50_000)), "application/x-www-form-urlencoded"),
    "no boundary": (b"--x\r\n", "multipart/form-data"),
    "parts": (
        b"".join(
            b'--x\r\nContent-Disposition: form-data; name="csrf"; filename="f%d"\r\n\r\n1\r\n' % n for n in range(5000)
        ),
        "multipart/form-data; boundary=x",
    ),
    "charset": (b"username=x&password=y", "application/x-www-form-urlencoded; charset=utf-7"),
}


@pytest.mark.parametrize("kind", BODIES)
async def test_no_body_breaks_the_console(stand: Stand, kind: str) -> None:
    body, media_type = BODIES[kind]
    token = (await stand.act("token.add", name=kind.replace(" ", "-"), scopes=["accounts"]))["token"]
    async with browser(stand, ADMIN) as web:
        csrf = hidden((await web.get("/profile")).text, "/logout")["csrf"]
        for path, more in (
            ("/login", {}),
            ("/senders", {"x-csrf-token": csrf}),
            ("/again", {}),
            ("/users/token", {}),
            ("/api/v1/senders", {"authorization": f"Bearer {token}"}),
            ("/login/passkey", {}),
        ):
            answer = await web.post(path, content=body, headers={"content-type": media_type, **more})
            assert 400 <= answer.status_code < 500, (path, answer.status_code, answer.text[:300])
            assert "Traceback" not in answer.text
        assert (await web.get("/profile")).status_code == 200
