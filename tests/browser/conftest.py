"""A Chromium of the distribution, and one console for all tests; skipped and listed where there is none."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

from tests.browser.stand import ADMIN, ADMIN_PASSWORD, Stand, furnish, standing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PICTURES = Path(os.environ.get("BROWSER_PICTURES", Path(__file__).parents[2] / "artefacts" / "console"))
EVERYTHING = "BROWSER_ALL" in os.environ  # every page in every look, every flow without scripts: a minute of processor
_SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-extensions", "--no-proxy-server"),
)
WAIT_MS = 10_000

Opening = Callable[..., Awaitable[Page]]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Everything here needs the browser, and shares one event loop with it; the slow ones are for BROWSER_ALL."""
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.browser)
        item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)
        if CHROMIUM is None:
            item.add_marker(pytest.mark.skip(reason="chromium is not installed"))
    if not EVERYTHING:
        left = [item for item in here if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stand(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stand]:
    """A furnished console."""
    async with standing(tmp_path_factory.mktemp("console")) as found:
        found.ids = await furnish(found)
        yield found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The browser's process."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=list(_SWITCHES))
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def cookies(stand: Stand, chromium: Browser) -> list[dict[str, object]]:
    """Those of a signed-in administrator."""
    context = await chromium.new_context()
    page = await context.new_page()
    await sign_in(page, stand)
    found = await context.cookies()
    await context.close()
    return [dict(one) for one in found]


@pytest_asyncio.fixture(loop_scope="session")
async def opened(stand: Stand, chromium: Browser, cookies: list[dict[str, object]]) -> AsyncIterator[Opening]:
    """`await opened("/queue")`: that page as an administrator (`anonymous`: as nobody); options of a context by name.

    A question of the page is answered with yes. At the end: no error in a script, nothing the policy forbids.
    """
    contexts = []
    complaints: list[str] = []
    prove(stand)

    async def open_page(path: str, *, anonymous: bool = False, **options: object) -> Page:
        context = await chromium.new_context(**options)  # type: ignore[arg-type]
        contexts.append(context)
        context.set_default_timeout(WAIT_MS)
        if not anonymous:
            await context.add_cookies(cookies)  # type: ignore[arg-type]
        page = await context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if "Security Policy" in said.text else None)
        page.on("dialog", lambda dialog: dialog.accept())
        await page.goto(stand.base + path)
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert complaints == []


def prove(stand: Stand) -> None:
    """The sessions that are open showed just now who they are: a long run is longer than that counts."""
    with closing(sqlite3.connect(stand.daemon.data / "relay.db", timeout=10)) as rows:
        rows.execute("UPDATE console_sessions SET proved_at = ? WHERE proved_at > 0", (time.time_ns() // 1_000_000,))
        rows.commit()


async def sign_in(page: Page, stand: Stand, name: str = ADMIN, password: str = ADMIN_PASSWORD) -> None:
    """By name and password at the login page."""
    await page.goto(f"{stand.base}/login")
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name="Sign in").click()
    await page.wait_for_url(lambda url: not url.endswith("/login"))
