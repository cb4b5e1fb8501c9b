"""Two walks of somebody who has never seen the console, with every click counted, and what open pages ask for."""

from __future__ import annotations

import time
from dataclasses import dataclass

from playwright.async_api import Locator, Page, expect

from tests.browser.conftest import Opening
from tests.browser.stand import Stand

# The keystroke-level model (Card, Moran, Newell 1980), for an average typist: s for each key, each pointing with its
# click, and each thought before one of them.
KEY_S, CLICK_S, THOUGHT_S = 0.28, 1.3, 1.35
READING_S = 5.0  # of a page before its first click, by somebody who has never seen it


@dataclass
class Walk:
    """What a person does on their way: `machine_s` is what they waited for."""

    clicks: int = 0
    keys: int = 0
    pages: int = 1
    began: float = 0.0

    def __post_init__(self) -> None:
        self.began = time.monotonic()

    async def click(self, target: Locator, *, leads_on: bool = False) -> None:
        await target.click()
        self.clicks += 1
        self.pages += leads_on

    async def type(self, target: Locator, text: str) -> None:
        await target.click()
        await target.press_sequentially(text)
        self.clicks += 1
        self.keys += len(text)

    @property
    def machine_s(self) -> float:
        return time.monotonic() - self.began

    @property
    def person_s(self) -> float:
        """With somebody at the keyboard."""
        acts = self.clicks * (CLICK_S + THOUGHT_S) + self.keys * KEY_S
        return acts + self.pages * READING_S + self.machine_s


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("main").get_by_role("button", name=name, exact=True).first


async def test_a_login_is_stored_and_a_test_mail_there_within_a_minute(stand: Stand, opened: Opening) -> None:
    address, password = "newcomer@example.com", "right-password-16"
    stand.upstream.accounts[address] = password
    await stand.add_account(address, password="not-known-yet")
    made = await stand.act("user.invite", name=address, accounts=[address])
    page = await opened(made["path"], anonymous=True)
    walk = Walk()
    await walk.click(button(page, f"Continue as {address}"), leads_on=True)
    await walk.type(page.get_by_label("password or app password"), password)
    await walk.click(button(page, "Test"))
    await expect(page.locator("#test")).to_contain_text("It works.")
    await walk.click(button(page, "Save"))
    await expect(page.get_by_role("status")).to_contain_text("Saved")
    assert any(address in message.recipients for message in stand.upstream.messages)
    assert walk.clicks <= 4
    assert walk.person_s < 60, walk


async def test_a_lost_mail_and_its_cause_are_three_clicks_away_at_most(stand: Stand, opened: Opening) -> None:
    became = "The recipient does not exist."
    page = await opened("/")
    searched = Walk()
    await searched.type(page.get_by_label("Find a mail"), "gone@example.org")
    await searched.click(button(page, "Find"), leads_on=True)
    await expect(page.locator(".became")).to_contain_text(became)
    assert searched.clicks <= 3
    page = await opened("/")
    looked = Walk()  # without knowing any address: from what the overview says is wrong
    await looked.click(page.locator(".tiles a[href='/queue?state=bounced']"), leads_on=True)
    await looked.click(page.get_by_role("link", name=stand.ids["bounced"]), leads_on=True)
    await expect(page.locator(".became")).to_contain_text(became)
    assert looked.clicks <= 3
    assert max(searched.person_s, looked.person_s) < 60, (searched, looked)


async def test_an_open_page_gets_nothing_while_nothing_changes(stand: Stand, opened: Opening) -> None:
    page = await opened("/queue?state=expired")
    again = "document.dispatchEvent(new Event('visibilitychange'))"  # somebody looks again
    for _ in range(5):  # an answer is kept for some seconds: of two at once, the second finds it unchanged
        await page.locator("[hx-get='/queue/waits']").evaluate("place => { place.firstElementChild.id = 'shown' }")
        async with page.expect_response("**/queue/waits") as answer:
            await page.evaluate(again)
        if (await answer.value).status == 304:
            break
    assert (await answer.value).status == 304
    await expect(page.locator("#shown")).to_have_count(1)
    await page.evaluate("Object.defineProperty(document, 'hidden', {value: true})")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    await page.evaluate(again)
    await page.evaluate("htmx.trigger(document.querySelector('[data-live]'), 'shown')")
    await page.evaluate("new Promise(done => requestAnimationFrame(done))")
    assert asked == []
