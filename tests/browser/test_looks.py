"""Every page in both themes, on a desk and on a phone: accessible, small, quiet; its picture is kept."""

from __future__ import annotations

from pathlib import Path

import axe_playwright_python
import pytest
from playwright.async_api import expect

from tests.browser.conftest import EVERYTHING, PICTURES, Opening
from tests.browser.stand import APP, BROKEN, Stand

PAGES = {
    "overview": "/",
    "accounts": "/accounts",
    "account": f"/accounts/{APP}",
    "suspended": f"/accounts/{BROKEN}",
    "providers": "/accounts/new",
    "wizard": "/accounts/new?provider=m365",
    "login": f"/mail/{APP}",
    "senders": f"/senders?which={APP}",
    "clients": f"/clients?address=127.0.0.1&sender={APP}&recipient=a@b.example",
    "queue": "/queue",
    "relayed": "/queue?state=relayed",
    "nothing": "/queue?state=expired",
    "find": f"/find?q={APP}",
    "lost": "/find?q=nobody@example.org",
    "refused": "/rejected",
    "message": "/queue/{bounced}",
    "log": "/log",
    "people": "/users",
    "system": "/system",
    "check": "/system/check",
    "notices": "/notices",
    "audit": "/audit",
    "profile": "/profile",
    "explain": "/explain?reply=535+5.7.139+no",
    "missing": "/nope",
}
SHORT = ("overview", "login", "queue", "message", "account")
LOOKS = {
    "desk-light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 800}},
    "phone-dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
    "desk-dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 800}},
    "phone-light": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
}
MOST_OCTETS = 200_000
_AXE = Path(axe_playwright_python.__file__).with_name("axe.min.js")
_WEIGHT = """[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
  .reduce((sum, one) => sum + one.decodedBodySize, 0)"""
_RUN = """async () => (await axe.run({resultTypes: ["violations"]})).violations
  .filter(found => ["serious", "critical"].includes(found.impact))
  .map(found => found.id + ": " + found.nodes.map(node => node.html).join(" ").slice(0, 300))"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("look", LOOKS if EVERYTHING else list(LOOKS)[1:2])
async def test_every_page_is_accessible_small_and_quiet(stand: Stand, opened: Opening, look: str) -> None:
    page = await opened("/profile", **LOOKS[look])
    cache = await page.context.new_cdp_session(page)
    await cache.send("Network.setCacheDisabled", {"cacheDisabled": True})
    axe, found, weights = _AXE.read_text(), {}, {}
    for name in PAGES if EVERYTHING else SHORT:
        await page.goto(stand.base + PAGES[name].format(**stand.ids), wait_until="networkidle")
        weights[name] = await page.evaluate(_WEIGHT)
        await page.evaluate(axe)
        found[name] = await page.evaluate(_RUN)
        wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is {wide} px too wide"
        PICTURES.mkdir(parents=True, exist_ok=True)
        await page.screenshot(path=PICTURES / f"{name}-{look}.png", full_page=True)
    assert {name: faults for name, faults in found.items() if faults} == {}
    assert 50_000 < max(weights.values()) < MOST_OCTETS, weights


async def test_the_keyboard_alone_is_enough(stand: Stand, opened: Opening) -> None:
    page = await opened("/accounts")
    focused = "document.activeElement.textContent.trim() || document.activeElement.name"
    await page.keyboard.press("Tab")
    assert await page.evaluate(focused) == "Skip to the content"
    await expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    assert await page.evaluate(focused) == "Add an account"
    await page.goto(f"{stand.base}/senders")
    order, outlines = [], set()
    for _ in range(16):
        await page.keyboard.press("Tab")
        order.append(await page.evaluate(focused))
        outlines.add(await page.evaluate("getComputedStyle(document.activeElement).outlineStyle"))
    assert order[1:10] == ["relay", "Overview", "Accounts", "Senders", "Clients", "Queue", "Log", "People", "System"]
    assert order[10:14] == ["admin", "Sign out", "which", "Look"]
    assert "none" not in outlines
