"""Whole tasks by the keyboard alone: nothing here ever points or clicks."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import Opening
from tests.browser.stand import BROKEN, Stand

pytestmark = pytest.mark.slow

_FURTHEST = 60  # stops on the way
_HERE = """() => {
  const here = document.activeElement;
  const label = here.labels && here.labels.length ? here.labels[0].textContent : "";
  return (here.getAttribute("aria-label") || label || here.textContent || here.name || "").trim();
}"""


async def tab_to(page: Page, name: str) -> None:
    """Tab on until what has the focus is called so; the focus is always to be seen."""
    stops = []
    for _ in range(_FURTHEST):
        await page.keyboard.press("Tab")
        stops.append(await page.evaluate(_HERE))
        if stops[-1].startswith(name):
            assert await page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", name
            await expect(page.locator(":focus")).to_be_in_viewport()
            return
    raise AssertionError(f"no stop is called {name}: {stops}")


async def enter(page: Page, name: str) -> None:
    await tab_to(page, name)
    await page.keyboard.press("Enter")


async def go(page: Page, name: str) -> None:
    """The same, to another page."""
    async with page.expect_event("load"):
        await enter(page, name)


async def test_an_owner_stores_a_login_by_the_keyboard(stand: Stand, opened: Opening) -> None:
    address = "keys-only@example.com"
    stand.upstream.accounts[address] = "right-password"
    await stand.add_account(address, password="not-known-yet")
    made = await stand.act("user.invite", name=address, accounts=[address])
    page = await opened(made["path"], anonymous=True)
    await go(page, f"Continue as {address}")
    await expect(page.get_by_role("heading", name="My mail login")).to_be_visible()
    await tab_to(page, "The mailbox's password")
    await page.keyboard.type("right-password")
    await enter(page, "Test")
    await expect(page.locator("#test")).to_contain_text("It works.")
    await go(page, "Save")  # the way goes on from the button, not from the top of the page
    await expect(page.get_by_role("status")).to_contain_text("Saved, and it works")


async def test_many_messages_are_held_and_released_by_the_keyboard(stand: Stand, opened: Opening) -> None:
    ids = [await stand.mail(BROKEN, f"n{n}@keys.example") for n in range(3)]
    page = await opened("/queue?recipient=@keys.example")
    await tab_to(page, "Tick all on this page")
    await page.keyboard.press("Space")
    await expect(page.locator("tbody input[name=id]:checked")).to_have_count(3)
    await go(page, "Hold")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Hold 3 messages?")
    await go(page, "Yes, hold")
    await expect(page.locator("tbody").get_by_text("held", exact=True)).to_have_count(3)
    await tab_to(page, f"{ids[0]} to")
    await page.keyboard.press("Space")
    await go(page, "Release")
    await expect(page.get_by_role("heading", level=1)).to_have_text(ids[0])
    await go(page, "Hold")
    await page.goto(f"{stand.base}/queue?recipient=@keys.example")
    await tab_to(page, "not only the ticked")
    await page.keyboard.press("Space")
    await go(page, "Give up")
    await go(page, "Yes, give up")
    await expect(page.get_by_role("main")).to_contain_text("Nothing fits.")
