"""What the console's own process does before the daemon is asked, and when that does not answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from relay.config.console import ConsoleSettings
from relay.config.doubts import warnings
from relay.config.settings import RelaySettings
from relay.console.app import create_app
from relay.console.guard import MAX_BODY
from relay.console.rates import Rates
from relay.control.client import ControlClient
from tests.store import lay_store


def browser(tmp_path: Path, settings: ConsoleSettings) -> httpx.AsyncClient:
    """At a console whose daemon is not there."""
    app = create_app(settings, ControlClient(tmp_path))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


async def test_without_the_daemon_the_login_page_says_so(tmp_path: Path) -> None:
    async with browser(tmp_path, ConsoleSettings()) as web:
        shown = await web.get("/login")
        assert (shown.status_code, shown.headers["retry-after"]) == (503, "5")
        assert "The relay does not answer" in shown.text
        assert "<form" in shown.text
        tried = await web.post("/login", data={"username": "ann", "password": "a-secret-word"})
        assert tried.status_code == 503
        assert "a-secret-word" not in tried.text
        assert (await web.get("/", headers={"cookie": "relay_session=x"})).headers["retry-after"] == "5"
        api = await web.get("/api/v1/accounts", headers={"authorization": "Bearer x"})
        assert (api.status_code, api.headers["retry-after"]) == (503, "5")


async def test_bodies_and_fields_have_an_end(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"username=x&password="
        for _ in range(MAX_BODY // 65536 + 1):
            yield b"a" * 65536

    form = {"content-type": "application/x-www-form-urlencoded"}
    async with browser(tmp_path, ConsoleSettings()) as web:
        assert (await web.post("/login", content=b"a" * (MAX_BODY + 1), headers=form)).status_code == 413
        assert (await web.post("/login", content=endless(), headers=form)).status_code in (400, 413)
        long = await web.post("/login", data={"username": "x" * 2000, "password": "a-secret-word"})
        assert long.status_code == 422
        assert "username" in long.text.lower()
        assert "xxxx" not in long.text


async def test_who_asks_too_much_waits(tmp_path: Path) -> None:
    async with browser(tmp_path, ConsoleSettings(requests_per_minute=8)) as web:
        answers = [await web.get("/api/v1/accounts") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [401, 401, 401, 429]
        assert answers[-1].headers["content-type"] == "application/problem+json"
        assert 0 < int(answers[-1].headers["retry-after"]) <= 8
        page = await web.get("/login")
        assert (page.status_code, page.headers["x-frame-options"]) == (429, "DENY")
        assert int(page.headers["retry-after"]) > 0
        assert (await web.get("/static/nothing.css")).status_code == 404
        assert (await web.get("/healthz")).status_code == 503


def test_rates_are_an_address_each_and_end() -> None:
    now = 0.0
    rates = Rates(60, lambda: now)
    assert [rates.wait_s("192.0.2.1") for _ in range(18)] == [0] * 16 + [1, 1]
    assert rates.wait_s("192.0.2.2") == rates.wait_s("2001:db8::1") == 0
    for number in range(15):
        assert rates.wait_s(f"2001:db8::{number:x}:1") == 0
    assert rates.wait_s("2001:db8::ffff:ffff:ffff:ffff") > 0
    assert rates.wait_s("2001:db8:0:1::1") == 0
    now = 1.0
    assert rates.wait_s("192.0.2.1") == 0
    assert rates.wait_s("::ffff:192.0.2.1") > 0
    for number in range(11_000):
        rates.wait_s(f"10.0.{number // 256}.{number % 256}")
    assert len(rates._spent_until) == 10_000


@pytest.mark.parametrize(
    ("console", "doubtful"),
    [
        ({}, False),
        ({"host": "::1"}, False),
        ({"host": "0.0.0.0"}, True),
        ({"host": "10.1.2.3", "url": "http://relay.example"}, True),
        ({"host": "10.1.2.3", "url": "https://relay.example"}, False),
        ({"host": "10.1.2.3", "enabled": False}, False),
    ],
)
def test_a_console_in_clear_text_is_told_at_the_start(
    tmp_path: Path, console: dict[str, object], doubtful: bool
) -> None:
    settings = RelaySettings(data_dir=lay_store(tmp_path), console=ConsoleSettings(**console))  # type: ignore[arg-type]
    assert any(line.startswith("RELAY_CONSOLE__HOST") for line in warnings(settings)) is doubtful


@pytest.mark.parametrize(
    "console",
    [
        {"oidc_issuer": "https://idp.example"},
        {"oidc_client_id": "x"},
        {"oidc_issuer": "http://a.b", "oidc_client_id": "x"},
    ],
)
def test_half_a_provider_is_none(console: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"(?i)oidc"):
        ConsoleSettings(**console)  # type: ignore[arg-type]
