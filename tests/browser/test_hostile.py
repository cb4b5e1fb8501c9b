"""Mail, applications and upstreams that bring scripts: nothing of it runs on any page."""

from __future__ import annotations

import asyncio
import contextlib
import smtplib

from tests.browser.conftest import Opening
from tests.browser.stand import APP, Stand
from tests.browser.test_looks import PAGES

SCRIPT = "<img/src=x/onerror=alert(1)><script>alert(2)</script>"
QUOTED = f'"{SCRIPT}"'
RECIPIENT = f"{QUOTED}@example.org"
BREAKOUT = "'\"><svg/onload=alert(3)>{{7*7}}${7*7}"
WATCH = """addEventListener("securitypolicyviolation", event => { window.broken = event.violatedDirective; });
window.alert = window.confirm = window.prompt = () => { window.ran = true; };"""


def hand_in(port: int) -> None:
    """A mail whose every part is hostile, as far as the front door takes it; and a refused one."""
    for recipient in (RECIPIENT, "broken@example.org"):
        with contextlib.suppress(smtplib.SMTPException), smtplib.SMTP("127.0.0.1", port, timeout=20) as door:
            door.docmd("EHLO", SCRIPT)
            door.docmd("EHLO", f"[{BREAKOUT}]")
            door.ehlo("app.example")
            door.docmd("MAIL", f"FROM:<{QUOTED}@evil.example>")
            door.docmd("RSET")
            door.docmd("MAIL", f"FROM:<{APP}>")
            door.docmd("RCPT", f"TO:<{recipient}>")
            door.data(
                f"From: {QUOTED} <{APP}>\r\nTo: {QUOTED} <x@example.org>\r\nSubject: {SCRIPT}\r\n"
                f"Message-ID: <{BREAKOUT.replace(' ', '')}{SCRIPT.replace(' ', '')}@x>\r\n\r\n{SCRIPT}\r\n".encode()
            )


async def test_nothing_of_a_hostile_mail_or_reply_runs(stand: Stand, opened: Opening) -> None:
    upstream = stand.upstream
    upstream.on("RCPT", RECIPIENT).answers(f"550 5.1.1 {SCRIPT}")
    upstream.on("RCPT", "broken@example.org").answers(f"451 4.3.0 {BREAKOUT} {SCRIPT}")
    seen = len(stand.daemon.events)
    await asyncio.to_thread(hand_in, stand.daemon.port)
    deferred = await stand.daemon.event("delivery.deferred", since=seen, recipient="broken@example.org")
    ids = [str(deferred["message_id"])]
    ids += [str(event["message_id"]) for event in stand.daemon.events[seen:] if event["event"] == "delivery.bounced"]
    page = await opened("/explain", viewport={"width": 1280, "height": 800})
    await page.context.add_init_script(WATCH)
    places = [path.format(**stand.ids) for path in PAGES.values()]
    places += [f"/queue/{one}" for one in ids] + ["/queue?state=bounced", "/find?q=*@example.org", "/find?q=broken@*"]
    asked = f"<script>alert(4)</script>{BREAKOUT}"
    places += [f"/find?q={asked}", f"/senders?which={asked}", f"/explain?reply={asked}", f"/audit?since={asked}"]
    places += [f"/queue?recipient={asked}&sender={asked}&client={asked}", f"/clients?address={asked}&sender={asked}"]
    for form in ("users/token", "users/invite"):
        await page.goto(f"{stand.base}/users")
        await page.locator(f'form[action="/{form}"] [name=name]').fill(f"{SCRIPT[:60]}")
        await page.locator(f'form[action="/{form}"] button').click()
        assert not await page.evaluate("window.ran || window.broken")
    hostile = 0
    for place in places:
        await page.goto(stand.base + place)
        hostile += "onerror=alert" in await page.locator("body").inner_text()
        assert await page.evaluate("window.ran ?? null") is None, place
        assert await page.evaluate("window.broken ?? null") is None, place
        assert await page.locator("main script, main svg, main img[src=x]").count() == 0, place
        assert "49" not in await page.title()
    assert len(ids) == 2, "the quoted recipient was not taken"
    assert hostile >= 4, "nothing hostile was shown: this test looks at nothing"
