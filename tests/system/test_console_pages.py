"""The pages beside a real daemon: what anybody did shows at once, and what takes long comes line by line."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.browser.stand import ADMIN, ADMIN_PASSWORD, Stand, standing

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    async with standing(tmp_path_factory.mktemp("pages")) as found:
        await found.add_account("erp@example.com", password="app-password-1")
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def web(stand: Stand) -> AsyncIterator[httpx.AsyncClient]:
    """Signed in as the administrator."""
    async with httpx.AsyncClient(base_url=stand.base, trust_env=False, timeout=15) as client:
        answer = await client.post("/login", data={"username": ADMIN, "password": ADMIN_PASSWORD})
        assert answer.status_code == 303
        yield client


async def test_what_was_done_in_the_console_or_by_a_command_shows_at_once(stand: Stand, web: httpx.AsyncClient) -> None:
    page = (await web.get("/")).text
    found = re.search(r'name="csrf" value="([^"]+)"', page)
    assert found is not None
    for _ in range(3):  # faster than figures grow old
        assert "Every account works." in (await web.get("/overview/live")).text
        await web.post("/accounts/erp@example.com/suspend", data={"csrf": found[1]})
        assert "an operator suspended it" in (await web.get("/overview/live")).text
        await stand.act("account.resume", account="erp@example.com")
        assert "Every account works." in (await web.get("/")).text
    await stand.act("account.suspend", account="erp@example.com")
    await stand.mail("erp@example.com", "ann@example.org")
    await stand.act("account.set", account="erp@example.com", per_minute=7)
    assert "1 delivery" in (await web.get("/queue/waits")).text
    assert "1 delivery" in (await web.get("/queue")).text


async def test_a_check_comes_line_by_line_and_is_one_however_often_it_is_loaded(
    stand: Stand, web: httpx.AsyncClient
) -> None:
    pages = await asyncio.gather(*(web.get("/system/check", params={"login": "true"}) for _ in range(6)))
    assert [page.status_code for page in pages] == [200] * 6
    watched = re.search(r'hx-get="(/system/check/[^"]+)"', pages[0].text)
    lines = pages[0].text
    while watched is not None:  # a daemon that does not end it fails the test by its time
        lines = (await web.get(watched[1], headers={"hx-request": "true"})).text
        assert "<html" not in lines
        watched = re.search(r'hx-get="(/system/check/[^"]+)"', lines)
    assert "is sound" in lines
    assert "<strong>Account:</strong>" in lines
    assert (await web.get("/system/check/nobodys")).status_code == 404
