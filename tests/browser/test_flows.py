"""What people do at the console, in a real browser, with scripts and without."""

from __future__ import annotations

import inspect
import re
import time

import pyotp
import pytest
from playwright.async_api import Page, expect

from relay.control.access.model import SCOPE_OF
from relay.control.registry import ACTIONS
from tests.browser.conftest import EVERYTHING, Opening, sign_in
from tests.browser.stand import ADMIN, ADMIN_PASSWORD, APP, BROKEN, OTHER, Stand

SCRIPTS = [pytest.param(True, id="scripts"), pytest.param(False, id="without")]


@pytest.fixture(params=SCRIPTS if EVERYTHING else SCRIPTS[:1])
def scripts(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def press(page: Page, name: str) -> None:
    """A button; without scripts the server asks whether that is meant, with them the page does (and gets a yes)."""
    await page.get_by_role("main").get_by_role("button", name=name, exact=True).first.click()


async def confirm(page: Page, yes: str, *, scripts: bool) -> None:
    if not scripts:
        await press(page, yes)


@pytest.mark.slow
async def test_signing_in_takes_the_right_password_and_its_second_factor(
    stand: Stand, opened: Opening, scripts: bool
) -> None:
    name = f"second{scripts}"
    await stand.act("console.password", name=name, password="another long password")
    page = await opened("/queue", anonymous=True, java_script_enabled=scripts)
    await expect(page).to_have_url(re.compile("/login$"))
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill("wrong")
    await press(page, "Sign in")
    await expect(page.get_by_role("alert")).to_contain_text("password is wrong")
    await sign_in(page, stand, name, "another long password")
    await page.goto(f"{stand.base}/profile")
    await press(page, "Set one up")
    secret = await page.locator("main code").inner_text()
    authenticator = pyotp.TOTP(secret)
    used = authenticator.now()
    await page.get_by_label("Code", exact=True).fill(used)
    await press(page, "Switch it on")
    await expect(page.get_by_text("A code is asked for at login.")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_label("Name").fill(name)
    await page.get_by_label("Password").fill("another long password")
    await press(page, "Sign in")
    await page.get_by_label("Password").fill("another long password")
    await page.get_by_label("Code").fill(used)
    await press(page, "Sign in")
    await expect(page.get_by_role("alert")).to_be_visible()  # a code counts once (RFC 6238 5.2)
    await page.get_by_label("Password").fill("another long password")
    await page.get_by_label("Code").fill(authenticator.at(int(time.time()) + 30))  # of the next half minute
    await press(page, "Sign in")
    await expect(page.get_by_role("link", name=name)).to_be_visible()


async def test_an_invited_owner_stores_a_login_and_gets_a_test_mail(
    stand: Stand, opened: Opening, scripts: bool
) -> None:
    address = f"owner{int(scripts)}@example.com"
    stand.upstream.accounts[address] = "right-password"
    await stand.add_account(address, password="not-known-yet")
    admin = await opened(f"/accounts/{address}", java_script_enabled=scripts)
    await press(admin, "Make a link")
    link = await admin.get_by_label("Link").input_value()
    page = await opened(link.removeprefix(stand.base), anonymous=True, java_script_enabled=scripts)
    await press(page, f"Continue as {address}")
    await expect(page.get_by_role("heading", name="My mail login")).to_be_visible()
    await page.get_by_label("password or app password").fill("wrong-password")
    await press(page, "Save")
    await press(page, "Test")
    await expect(page.get_by_role("alert")).to_contain_text("It does not work yet.")
    assert await page.get_by_role("alert").locator("ol > li").count() >= 1
    assert "relay account" not in await page.get_by_role("main").inner_text()
    await page.get_by_label("password or app password").fill("right-password")
    await press(page, "Save")
    await expect(page.get_by_role("status")).to_contain_text("Saved")
    await press(page, "Test")
    await expect(page.locator("#test")).to_contain_text("It works.")
    steps = await page.locator("#test li").all_inner_texts()
    firsts = ["Connected", "Encrypted", "Greeted", "Logged", "Sender", "Recipient", "Mail", "Accepted"]
    assert [step.split(" ")[0] for step in steps] == firsts
    assert any(address in message.recipients for message in stand.upstream.messages)
    assert "right-password" not in await page.content()
    await page.goto(f"{stand.base}/queue")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("This page is for administrators")


@pytest.mark.skipif(
    "password" not in inspect.signature(ACTIONS["account.test"]).parameters, reason="no test before storing yet"
)
@pytest.mark.slow
async def test_a_typed_password_is_tested_before_it_is_stored(stand: Stand, opened: Opening, scripts: bool) -> None:
    page = await opened(f"/mail/{OTHER}", java_script_enabled=scripts)
    await page.get_by_label("password or app password").fill("not-that-one")
    await press(page, "Test")
    await expect(page.get_by_role("alert")).to_contain_text("It does not work yet.")
    page = await opened(f"/mail/{OTHER}", java_script_enabled=scripts)
    await press(page, "Test")
    await expect(page.locator("#test")).to_contain_text("It works.")


@pytest.mark.slow
async def test_steps_of_a_test_appear_one_by_one(stand: Stand, opened: Opening) -> None:
    stand.upstream.on("RCPT", APP, times=1).pauses().well()
    page = await opened(f"/mail/{APP}")
    await press(page, "Test")
    await expect(page.locator("#test")).to_contain_text("Logged in")
    await expect(page.locator("#test")).to_contain_text("waiting for the provider")
    stand.upstream.go_on()
    await expect(page.locator("#test")).to_contain_text("It works.")


@pytest.mark.slow
async def test_the_wizard_adds_an_account_and_removes_it(stand: Stand, opened: Opening, scripts: bool) -> None:
    address = f"new{int(scripts)}@example.com"
    page = await opened("/accounts", java_script_enabled=scripts)
    await page.get_by_role("link", name="Add an account").click()
    await page.get_by_role("link", name="Any other submission server").click()
    await page.get_by_label("Mailbox address").fill(address)
    await page.get_by_label("Submission server").fill("mail.example.net")
    await page.get_by_label("Port").fill("99999")
    await press(page, "Add")
    await expect(page.get_by_role("alert")).to_contain_text("Port cannot be 99999")
    assert await page.get_by_label("Mailbox address").input_value() == address
    await page.get_by_label("Port").fill("")
    await page.locator("#password").fill("a-secret-nobody-sees")
    await press(page, "Add")
    await expect(page.get_by_role("heading", level=1)).to_have_text(address)
    assert "a-secret-nobody-sees" not in await page.content()
    await page.get_by_label("Messages a minute").fill("7")
    await press(page, "Save")
    assert await page.get_by_label("Messages a minute").input_value() == "7"
    await press(page, "Suspend")
    await expect(page.get_by_role("status")).to_contain_text("its mail waits")
    await press(page, "Remove this account")
    await confirm(page, "Remove it", scripts=scripts)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Accounts")
    assert address not in await page.content()


@pytest.mark.slow
async def test_senders_and_clients_say_what_would_happen(stand: Stand, opened: Opening, scripts: bool) -> None:
    page = await opened("/senders", java_script_enabled=scripts)
    await page.get_by_label("Address, @domain").fill("@sub.example.com")
    await page.get_by_label("goes through").select_option(APP)
    await press(page, "Add")
    await page.get_by_label("Which account would send for").fill("x@sub.example.com")
    await press(page, "Look")
    await expect(page.get_by_role("status")).to_contain_text(f"{APP}, by the rule @sub.example.com")
    await page.get_by_role("row", name="@sub.example.com").get_by_role("button", name="Forget").click()
    await confirm(page, "Forget it", scripts=scripts)
    await page.goto(f"{stand.base}/clients")
    await page.get_by_label("Name", exact=True).fill("till")
    await page.get_by_label("Networks it connects from").fill("10.9.8.0/24")
    await press(page, "Add")
    await page.get_by_role("row", name="till").get_by_role("button", name="Forget").click()
    await confirm(page, "Forget it", scripts=scripts)
    for label, value in (("From the address", "127.0.0.1"), ("as", APP), ("to", "ann@example.org")):
        await page.get_by_label(label, exact=True).fill(value)
    await press(page, "What would happen?")
    await expect(page.get_by_role("status")).to_have_text("It would be taken.")
    await page.get_by_label("as", exact=True).fill("stranger@example.net")
    await press(page, "What would happen?")
    await expect(page.get_by_role("status")).to_have_text("It would be refused.")


async def test_a_lost_mail_and_its_cause_are_three_clicks_away(stand: Stand, opened: Opening, scripts: bool) -> None:
    page = await opened("/", java_script_enabled=scripts)
    await page.get_by_label("Find a mail").fill("gone@example.org")
    await press(page, "Find")
    await expect(page.get_by_role("heading", level=1)).to_have_text(stand.ids["bounced"])
    became = page.locator(".became")
    await expect(became).to_contain_text("bounced to gone@example.org")
    await expect(became).to_contain_text("The recipient does not exist.")
    await expect(became).to_contain_text("550 5.1.1 no such user here")
    await page.goto(f"{stand.base}/find?q={APP}")
    await page.get_by_role("row", name="ann@example.org").get_by_role("link").first.click()
    await expect(page.locator(".became")).to_contain_text("relayed to ann@example.org")
    await page.goto(f"{stand.base}/find?q=nobody@example.org")
    await expect(page.get_by_role("main")).to_contain_text("No mail of that kind was accepted.")


async def test_many_messages_are_held_released_tried_and_given_up(stand: Stand, opened: Opening, scripts: bool) -> None:
    ids = [await stand.mail(BROKEN, f"n{n}@bulk.example") for n in range(3)]
    page = await opened("/queue?recipient=@bulk.example", java_script_enabled=scripts)
    for action, question in (("Hold", "Hold 3 deliveries"), ("Release", "Release 3 deliveries")):
        await page.get_by_label("everything that fits").check()
        await press(page, action)
        await expect(page.get_by_role("heading", level=1)).to_contain_text(question)
        await press(page, f"Yes, {action.lower()}")
        await expect(page.get_by_role("status")).to_contain_text("3 deliveries")
    for one in ids[:2]:
        await page.get_by_label(f"{one} to").check()
    await press(page, "Give up")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Give up 2 messages?")
    await page.get_by_role("link", name="No, go back").click()
    await expect(page.locator("tbody input[name=id]")).to_have_count(3)
    for one in ids[:2]:
        await page.get_by_label(f"{one} to").check()
    await press(page, "Give up")
    await press(page, "Yes, give up")
    await expect(page.locator("tbody input[name=id]")).to_have_count(1)
    await page.get_by_role("link", name=ids[2]).click()
    await press(page, "Try now")
    await expect(page.get_by_role("heading", level=1)).to_have_text(ids[2])
    await press(page, "Give up")
    await press(page, "Yes, give up")
    await expect(page.get_by_role("main")).to_contain_text("given up by console:admin")


@pytest.mark.slow
async def test_the_log_goes_on_by_itself_and_rests_when_told(stand: Stand, opened: Opening) -> None:
    page = await opened("/log")
    await stand.mail(APP, "live@example.org")
    await expect(page.locator("#lines")).to_contain_text("recipient=live@example.org")
    assert not await page.locator("#lines time:not([title])").count()


@pytest.mark.slow
async def test_people_programs_and_ones_own_password(stand: Stand, opened: Opening, scripts: bool) -> None:
    page = await opened("/users", java_script_enabled=scripts)
    await page.get_by_label("Address", exact=True).fill("bea@example.com")
    await page.get_by_label(OTHER).check()
    await press(page, "Make a link")
    link = await page.get_by_label("Link").input_value()
    assert link.startswith(f"{stand.base}/invite/")
    await page.get_by_role("link", name="Done").click()
    await page.get_by_label("Token for").fill("nagios")
    await press(page, "Make a token")
    token = await page.locator("#token").inner_text()
    answer = await page.request.get(f"{stand.base}/api/v1/overview", headers={"authorization": f"Bearer {token}"})
    assert answer.status == 200
    await page.goto(f"{stand.base}/users")
    assert token not in await page.content()
    await page.get_by_role("row", name="nagios").get_by_role("button", name="End").click()
    await confirm(page, "End it", scripts=scripts)
    await page.get_by_role("row", name="bea@example.com").get_by_role("button", name="Remove").click()
    await confirm(page, "Remove them", scripts=scripts)
    await expect(page.get_by_role("heading", level=1)).to_have_text("People")
    assert "nagios" not in await page.locator("table").all_inner_texts()
    await page.goto(f"{stand.base}/profile")
    await page.get_by_label("Current password").fill(ADMIN_PASSWORD)
    await page.get_by_label("New password").fill("correct horse battery")
    await page.get_by_label("Again").fill("something else entirely")
    await press(page, "Set it, and sign in again")
    await expect(page.get_by_role("alert")).to_contain_text("The two differ")


@pytest.mark.slow
async def test_the_system_is_looked_at_and_its_keys_turn(stand: Stand, opened: Opening, scripts: bool) -> None:
    page = await opened("/system", java_script_enabled=scripts)
    await expect(page.get_by_role("main")).to_contain_text("takes mail")
    await expect(page.get_by_role("row", name="RELAY_CONSOLE__ENABLED")).to_contain_text("environment")
    await press(page, "Rotate")
    await confirm(page, "Rotate", scripts=scripts)
    await expect(page.get_by_role("status")).to_contain_text("sealed anew under")
    await page.get_by_role("link", name="Check everything").click()
    await expect(page.get_by_role("main")).to_contain_text(f"{BROKEN} is suspended")
    await page.goto(f"{stand.base}/audit?since=1h")
    await expect(page.get_by_role("row", name="key.rotate").first).to_contain_text(f"console:{ADMIN}")
    await page.goto(f"{stand.base}/explain")
    await page.get_by_label("A reply").fill("550 5.1.1 no such user")
    await press(page, "Explain")
    await expect(page.get_by_role("article")).to_contain_text("Who must act: the author of the message")


@pytest.mark.skipif("notice.list" not in SCOPE_OF, reason="the web may not read notices yet")
@pytest.mark.slow
async def test_who_was_told_what(opened: Opening, scripts: bool) -> None:
    page = await opened(f"/notices?account={BROKEN}", java_script_enabled=scripts)
    await expect(page.get_by_role("row", name="trouble")).to_contain_text(BROKEN)


async def test_times_are_those_of_the_browser(stand: Stand, opened: Opening) -> None:
    page = await opened(f"/queue/{stand.ids['relayed']}", timezone_id="Pacific/Auckland", locale="en-GB")
    time = page.locator("ol.journey time").first
    at = await time.get_attribute("datetime")
    assert at is not None
    assert await time.get_attribute("title") == at
    here = await page.evaluate("at => new Date(at).toLocaleString(undefined, {timeStyle: 'medium'})", at)
    assert await time.inner_text() == here
    plain = await opened(f"/queue/{stand.ids['relayed']}", java_script_enabled=False)
    assert await plain.locator("ol.journey time").first.inner_text() == f"{at[:10]} {at[11:16]} UTC"
