"""A passkey from its making to a sign-in: the browser's own WebAuthn, an authenticator of its developer tools."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from playwright.async_api import Page, expect

from tests.browser.conftest import Opening, sign_in
from tests.browser.stand import Stand

NAME, PASSWORD = "keys@example.com", "another long password"


async def with_authenticator(page: Page, *, verifies: bool = True) -> str:
    """A virtual authenticator that knows its person (WebDriver 2, section 12 of WebAuthn); its id."""
    tools = await page.context.new_cdp_session(page)
    await tools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": verifies,
        "automaticPresenceSimulation": True,
    }
    return str((await tools.send("WebAuthn.addVirtualAuthenticator", {"options": options}))["authenticatorId"])


async def test_a_passkey_is_made_and_signs_in_and_proves_who_it_is(stand: Stand, opened: Opening) -> None:
    site = stand.base.replace("127.0.0.1", "localhost")  # a passkey belongs to a name
    await stand.act("console.password", name=NAME, password=PASSWORD)
    page = await opened("/login", anonymous=True)
    await with_authenticator(page)
    await page.goto(f"{site}/login")
    await page.get_by_label("Name").fill(NAME)
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Sign in", exact=True).click()
    await page.goto(f"{site}/profile")
    await page.get_by_role("button", name="Add a passkey").click()
    await page.get_by_label("Name").fill("my laptop")
    await page.get_by_role("button", name="Make it").click()
    await expect(page.get_by_text("Your recovery codes.")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_role("button", name="Sign in with a passkey").click()
    await expect(page.get_by_role("link", name=NAME)).to_be_visible()

    with closing(sqlite3.connect(stand.daemon.data / "relay.db", timeout=10)) as store:
        store.execute(
            "UPDATE console_sessions SET proved_at = 0 WHERE user_id = (SELECT id FROM console_users WHERE name = ?)",
            (NAME,),
        )
        store.commit()
    await page.goto(f"{site}/profile")
    await page.get_by_role("button", name="Set one up").click()
    await expect(page.get_by_role("heading", name="Is it still you?")).to_be_visible()
    await page.get_by_role("button", name="Use a passkey").click()
    await expect(page.get_by_role("img", name="QR code of the secret")).to_be_visible()  # the form went on by itself
    await stand.act("user.remove", name=NAME)


async def test_an_authenticator_that_knows_nobody_makes_no_passkey(stand: Stand, opened: Opening) -> None:
    site = stand.base.replace("127.0.0.1", "localhost")
    page = await opened("/login", anonymous=True)
    await with_authenticator(page, verifies=False)
    await sign_in(page, Stand(stand.daemon, stand.upstream, site, stand.control, stand.options))
    await page.goto(f"{site}/profile")
    await page.get_by_role("button", name="Add a passkey").click()
    await page.get_by_label("Name").fill("my laptop")
    await page.get_by_role("button", name="Make it").click()
    await expect(page.get_by_role("alert")).to_contain_text("cancelled, or took too long")
