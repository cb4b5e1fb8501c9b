"""How often a refused token is tried anew: real tokens, a clock of the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.accounts.model import Upstream
from relay.config.settings import OAuthSettings, RelaySettings
from relay.control import registry
from relay.control.context import Control
from relay.credentials.logins import Logins
from relay.credentials.oauth import TokenUnavailable
from relay.credentials.tries import SPENT
from relay.daemon.build import open_control
from tests.peers.authority import SECRET, USER, Authority
from tests.store import lay_store


class Refused(Exception):
    """The login with the second token failed."""


@pytest.fixture
async def control(tmp_path: Path, authority: Authority) -> AsyncIterator[Control]:
    authority.reset()
    settings = RelaySettings(data_dir=lay_store(tmp_path / "data"), oauth=OAuthSettings(ca_file=authority.ca))
    async with open_control(settings) as opened:
        arguments = {
            "address": USER,
            "provider": "m365",
            "auth": "oauth-app",
            "tenant": "contoso.example",
            "client_id": "secret",
            "client_secret": SECRET,
            "token_url": authority.url("token"),
        }
        await registry.run(opened, "account.add", arguments)
        yield opened


class Clock:
    def __init__(self) -> None:
        self.now = 50_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logins(control: Control, clock: Clock) -> Logins:
    return Logins(control.vault, control.logins.tokens, control.logins.tries, monotonic_s=clock)


@pytest.fixture
def upstream(control: Control) -> Upstream:
    [account] = control.directory.accounts()
    return control.directory.upstream(account)


async def fail(logins: Logins, upstream: Upstream, token: str) -> str | None:
    """A second login that the server refuses as well; the token it was tried with."""
    tried = None
    with pytest.raises(Refused):
        async with logins.second(upstream, token) as tried:
            raise Refused
    return tried


async def test_a_second_login_has_another_token(logins: Logins, upstream: Upstream) -> None:
    first = await logins.secret(upstream)
    async with logins.second(upstream, first) as second:
        assert second not in (None, first)
    assert await logins.secret(upstream) == second


async def test_at_most_three_logins_an_hour_are_refused(logins: Logins, upstream: Upstream, clock: Clock) -> None:
    begun = clock.now
    first = await logins.secret(upstream)
    assert await fail(logins, upstream, first) not in (None, first)

    clock.now = begun + 1200
    probed = await logins.secret(upstream)
    assert probed != first  # the right to send stands in the token
    assert await fail(logins, upstream, probed) is None  # that was the third

    clock.now = begun + 2400
    with pytest.raises(TokenUnavailable) as spent:
        await logins.secret(upstream)
    assert spent.value.reason == SPENT
    assert spent.value.retry_after_s == 1200

    clock.now = begun + 3601
    await logins.secret(upstream)


async def test_a_person_who_acts_may_try_at_once(logins: Logins, upstream: Upstream) -> None:
    for _ in range(2):
        await fail(logins, upstream, await logins.secret(upstream))
    with pytest.raises(TokenUnavailable):
        await logins.secret(upstream)
    logins.person_acted(upstream.account_id)
    await logins.secret(upstream)


async def test_connections_that_were_refused_together_share_one_second_login(
    logins: Logins, upstream: Upstream, authority: Authority
) -> None:
    first = await logins.secret(upstream)
    tried = asyncio.Event()
    go_on = asyncio.Event()

    async def one() -> str | None:
        try:
            async with logins.second(upstream, first) as token:
                tried.set()
                await go_on.wait()
                raise Refused
        except Refused:
            return token

    async def other() -> str | None:
        async with logins.second(upstream, first) as token:
            return token

    failing = asyncio.create_task(one())
    await tried.wait()
    waiting = asyncio.create_task(other())
    await asyncio.sleep(0)
    go_on.set()
    assert await failing is not None
    assert await waiting is None
    assert len(authority.asked) == 2


async def test_connections_that_were_refused_together_share_the_new_token(
    logins: Logins, upstream: Upstream, authority: Authority
) -> None:
    first = await logins.secret(upstream)

    async def again() -> str | None:
        async with logins.second(upstream, first) as token:
            return token

    one, other = await asyncio.gather(again(), again())
    assert one is not None
    assert one == other != first
    assert len(authority.asked) == 2
