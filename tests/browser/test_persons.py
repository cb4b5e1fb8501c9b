"""People who see the console for the first time, at their own pace: they read what is new, type, hesitate, and look."""

from __future__ import annotations

import asyncio
import ipaddress
import smtplib
import socket
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, expect
from sqlalchemy import Connection, insert, select

from relay.config.settings import RelaySettings
from relay.daemon.build import open_control
from relay.database.schema import accounts
from tests.browser.conftest import PICTURES, Opening, sign_in
from tests.browser.stand import ADMIN_PASSWORD, BROKEN, CONTENT, Stand, standing
from tests.peers.script import shared_authority
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import lay_store

WORDS_S = 4.0  # silent reading of plain text, 240 words a minute (Brysbaert 2019)
KEY_MS = 200  # of somebody who copies a password
POINT_S = 1.1  # to find a button that was read about, point at it and click
_MANY = 10_000
ADDRESS, PASSWORD = "scans@example.com", "abcd-efgh-ijkl-mnop"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Person:
    """Somebody at a page; `clicks` and `words` are what they had to do and to read. Each look is kept as a picture.

    `pace` 0: only what they do counts, they are not waited for.
    """

    def __init__(self, page: Page, name: str, *, pace: int = 1) -> None:
        self.page, self._name, self._pace = page, name, pace
        self.clicks = self.words = self._looks = 0
        self._read: set[str] = set()
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    async def look(self) -> None:
        """Read what is new in the page's own part, as fast as people read."""
        lines = (await self.page.get_by_role("main").inner_text()).splitlines()
        new = [line for line in lines if line not in self._read]
        self._read.update(new)
        words = sum(len(line.split()) for line in new)
        self.words += words
        self._looks += 1
        PICTURES.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=PICTURES / f"person-{self._name}-{self._looks}.png", full_page=True)
        await asyncio.sleep(words / WORDS_S * self._pace)

    async def click(self, target: Locator) -> None:
        await asyncio.sleep(POINT_S * self._pace)
        await target.click()
        self.clicks += 1

    async def press(self, name: str) -> None:
        await self.click(self.page.get_by_role("main").get_by_role("button", name=name, exact=True).first)

    async def type(self, label: str, text: str) -> None:
        await self.click(self.page.get_by_label(label))
        await self.page.keyboard.type(text, delay=KEY_MS * self._pace)


def _private_address() -> str | None:
    """One of this machine's own that is not loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        found = str(probe.getsockname()[0])
    return found if ipaddress.ip_address(found).is_private else None


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Stand, ScriptedUpstream]]:
    """A relay whose mail server has a private address, named through the console alone, as its settings allow."""
    address = _private_address()
    if address is None:
        pytest.skip("this machine has no private address besides loopback")
    folder = tmp_path_factory.mktemp("site")
    certificate = shared_authority().issue_cert(address)
    async with ScriptedUpstream(accounts={ADDRESS: PASSWORD}, host=address, certificate=certificate) as provider:
        provider.authority.cert_pem.write_to_path(str(folder / "site-ca.pem"))
        allowed = {
            "RELAY_EGRESS__CA_FILE": str(folder / "site-ca.pem"),
            "RELAY_CONSOLE__ALLOW_PRIVATE_UPSTREAMS": "yes",
            "RELAY_CONSOLE__UPSTREAM_PORTS": str(provider.port),
        }
        async with standing(folder, **allowed) as stand:
            yield stand, provider


async def test_an_account_is_added_and_its_owner_has_a_test_mail_within_a_minute(
    site: tuple[Stand, ScriptedUpstream], chromium: Browser
) -> None:
    stand, provider = site
    desk = await (await chromium.new_context()).new_page()
    admin = Person(desk, "administrator")
    await sign_in(desk, stand)
    await admin.look()
    await admin.click(desk.get_by_role("link", name="Add the first one"))
    await admin.look()
    await admin.click(desk.get_by_role("link", name="Any other submission server"))
    await admin.look()
    await admin.type("Mailbox address", ADDRESS)
    await admin.type("Submission server", provider.host)
    await admin.type("Port", str(provider.port))
    await admin.click(desk.get_by_label("whatever its owner gives"))
    await admin.press("Add")
    await admin.look()
    link = await desk.get_by_label("Link").input_value()
    assert admin.clicks <= 8

    context = await chromium.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    phone = await context.new_page()
    owner = Person(phone, "owner")
    await phone.goto(link)
    await owner.look()
    await owner.press(f"Continue as {ADDRESS}")
    await owner.look()
    await owner.type("password or app password", PASSWORD)
    await owner.press("Test")
    await expect(phone.locator("#test li")).not_to_have_count(0)
    await expect(phone.locator("#test")).to_contain_text("It works.")
    await expect(phone.locator("#test li").last).to_contain_text("Accepted")
    await owner.look()
    taken = provider.messages[-1]
    assert (taken.reverse_path, taken.recipients, taken.account) == (ADDRESS, (ADDRESS,), ADDRESS)
    assert b"Subject: Test mail from the relay" in taken.content
    await owner.press("Save")
    await expect(phone.get_by_role("status")).to_contain_text("Saved")
    await owner.look()
    assert owner.seconds < 60, (owner.seconds, owner.words)
    assert owner.clicks <= 4
    print(f"\nowner: {owner.seconds:.1f} s, {owner.clicks} clicks, {owner.words} words; ", end="")
    print(f"administrator: {admin.seconds:.1f} s, {admin.clicks} clicks, {admin.words} words")
    facts = await stand.act("account.show", account=ADDRESS)
    assert (facts["state"], facts["secrets"]) == ("ok", ["password"])
    for opened in (desk, phone):
        await opened.context.close()


async def test_a_wrong_password_is_told_with_its_cause_and_numbered_steps(stand: Stand, opened: Opening) -> None:
    address = "hurry@example.com"
    stand.upstream.accounts[address] = PASSWORD
    await stand.add_account(address, password="not-known-yet")
    made = await stand.act("user.invite", name=address, accounts=[address])
    page = await opened(made["path"], anonymous=True, viewport={"width": 390, "height": 844})
    owner = Person(page, "wrong-password", pace=0)
    await owner.look()
    await owner.press(f"Continue as {address}")
    await owner.look()
    await owner.type("password or app password", "my-windows-password")
    await owner.press("Test")
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("It does not work yet.")
    await owner.look()
    assert await alert.locator("ol > li").count() >= 2
    told = await alert.inner_text()
    assert "relay account" not in told
    assert "The provider said: 535 5.7.8" in told
    await expect(page.locator("#test li.failed")).to_contain_text("Not logged in")
    await page.get_by_label("password or app password").fill("")
    await owner.type("password or app password", PASSWORD)
    await owner.press("Test")
    await expect(page.locator("#test")).to_contain_text("It works.")
    await owner.press("Save")
    await expect(page.get_by_role("status")).to_contain_text("Saved")
    await owner.look()


async def _lost(stand: Stand, opened: Opening, name: str) -> Person:
    page = await opened("/", viewport={"width": 1280, "height": 900})
    person = Person(page, name, pace=0)
    await person.look()
    return person


async def test_lost_mail_of_every_kind_and_its_cause_are_three_clicks_away(stand: Stand, opened: Opening) -> None:
    with pytest.raises(smtplib.SMTPSenderRefused, match="no account may send"):
        await stand.daemon.submit("stranger@example.net", ["ann@example.org"], CONTENT)
    bounced = await _lost(stand, opened, "bounced")
    await bounced.click(bounced.page.locator(".tiles a[href='/queue?state=bounced']"))
    await bounced.look()
    await bounced.click(bounced.page.get_by_role("link", name=stand.ids["bounced"]))
    await bounced.look()
    await expect(bounced.page.locator(".became")).to_contain_text("The recipient does not exist.")

    waiting = await _lost(stand, opened, "wrong-login")
    await waiting.type("Find a mail", "bob@example.org")
    await waiting.press("Find")
    await waiting.look()
    became = waiting.page.locator(".became")
    await expect(became).to_contain_text(f"the account {BROKEN} is suspended")
    await expect(became).to_contain_text("User name, password or token is not accepted")
    await expect(became).to_contain_text("The provider said: 535 5.7.8")

    stranger = await _lost(stand, opened, "unknown-sender")
    await stranger.click(stranger.page.locator(".tiles a[href='/rejected']"))
    await stranger.look()
    row = stranger.page.get_by_role("row", name="stranger@example.net").first
    await expect(row).to_contain_text("no account may send as this address")
    await expect(row).to_contain_text("relay sender add")
    await stranger.click(row.get_by_role("link", name="Would it be taken now?"))
    await stranger.look()
    await expect(stranger.page.get_by_text("It would be refused.")).to_be_visible()

    searched = await _lost(stand, opened, "unknown-sender-searched")
    await searched.type("Find a mail", "stranger@example.net")
    await searched.press("Find")
    await searched.look()
    await expect(searched.page.get_by_role("main")).to_contain_text("was refused at the door")
    await expect(searched.page.get_by_role("row", name="stranger@example.net").first).to_contain_text("550 5.7.1")
    for person in (bounced, waiting, stranger, searched):
        assert person.clicks <= 3


async def _with_secrets(data: Path, count: int) -> None:
    """Accounts with a password each, in one transaction, before there is a daemon."""
    async with open_control(RelaySettings(data_dir=lay_store(data))) as control:

        def add(connection: Connection) -> None:
            given = {"created_at": 1, "provider": "custom", "auth": "password", "host": "mail.example.com"}
            connection.execute(insert(accounts), [{"address": f"n{n}@many.example", **given} for n in range(count)])
            for account_id in connection.scalars(select(accounts.c.id)).all():
                control.vault.seal_into(connection, account_id, "password", "one-of-many-passwords")

        await control.database.write(add)


async def test_thousands_of_secrets_are_sealed_anew_while_somebody_watches(
    tmp_path_factory: pytest.TempPathFactory, chromium: Browser
) -> None:
    folder = tmp_path_factory.mktemp("rotation")
    await _with_secrets(folder / "data", _MANY)
    async with standing(folder) as stand:
        context = await chromium.new_context(viewport={"width": 390, "height": 844})
        page = await context.new_page()
        page.on("dialog", lambda dialog: dialog.accept())
        await sign_in(page, stand)
        await page.goto(f"{stand.base}/system")
        person = Person(page, "rotation", pace=0)
        await person.look()
        await person.press("Rotate")
        seen: set[str] = set()
        under_way = page.locator("#rotation progress")
        async with asyncio.timeout(120):
            while not await page.get_by_text("sealed anew under").count():
                for value in await under_way.evaluate_all("all => all.map(one => one.value + ' of ' + one.max)"):
                    if not seen:
                        await person.look()
                    seen.add(value)
                await page.wait_for_timeout(100)
        await person.look()
        assert len(seen) >= 3, seen
        await expect(page.locator("#rotation")).to_contain_text(f"{_MANY:,} secrets sealed anew under")
        await expect(page.get_by_role("row", name="yes").get_by_role("cell", name=f"{_MANY:,}")).to_be_visible()
        await expect(page.get_by_role("button", name="Drop", exact=True)).to_be_visible()
        await context.close()


def _age(stand: Stand) -> None:
    """The session that was opened last was proved an hour ago."""
    with closing(sqlite3.connect(stand.daemon.data / "relay.db", timeout=10)) as rows:
        rows.execute(
            "UPDATE console_sessions SET proved_at = proved_at - 3600000"
            " WHERE rowid = (SELECT max(rowid) FROM console_sessions)"
        )
        rows.commit()


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "without"])
async def test_an_hour_after_the_login_who_it_is_is_asked_once(
    stand: Stand, opened: Opening, chromium: Browser, scripts: bool
) -> None:
    context = await chromium.new_context(java_script_enabled=scripts, viewport={"width": 390, "height": 844})
    page = await context.new_page()
    await sign_in(page, stand)
    _age(stand)
    person = Person(page, f"asked-{'scripts' if scripts else 'without'}", pace=0)
    await page.goto(f"{stand.base}/senders")
    await person.type("Address, @domain", f"@{'a' if scripts else 'b'}.later.example")
    await person.press("Add")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Is it still you?")
    await person.look()
    await person.type("Password of this console", ADMIN_PASSWORD)
    await person.press("Go on")
    if not scripts:
        await person.press("Go on")
    await expect(page.get_by_role("row", name=f"@{'a' if scripts else 'b'}.later.example")).to_be_visible()
    await person.look()
    await page.goto(f"{stand.base}/accounts/new")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Add an account")
    await context.close()
