"""A daemon and a scripted provider for tests of the whole program."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from tests.daemon import RelayDaemon
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import lay_store

APP = "app@example.com"
PASSWORD = "a-password-nobody-may-see"
QUICK = {
    "RELAY_DISPATCH__FIRST_RETRY_S": "0.3",
    "RELAY_DISPATCH__MAX_RETRY_S": "1",
    "RELAY_SUBMISSION__STAGE_TIMEOUT_S": "3",
    "RELAY_QUEUE__MIN_FREE_BYTES": "0",
}

Relaying = Callable[..., AbstractAsyncContextManager[RelayDaemon]]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(accounts={APP: PASSWORD}) as scripted:
        yield scripted


@pytest.fixture
def relaying(tmp_path: Path, upstream: ScriptedUpstream) -> Relaying:
    """A running daemon with one account at `upstream`; settings as keyword arguments, account options as a list.

    `fresh`: as in RelayDaemon.
    """

    @asynccontextmanager
    async def run(
        *options: str, password: str = PASSWORD, fresh: bool = False, **settings: str
    ) -> AsyncIterator[RelayDaemon]:
        authority = tmp_path / "ca.pem"
        upstream.authority.cert_pem.write_to_path(str(authority))
        async with RelayDaemon(lay_store(tmp_path / "data"), QUICK | settings, fresh=fresh) as daemon:
            await daemon.add_account(APP, password, *at(upstream, authority), *options)
            yield daemon

    return run


def at(upstream: ScriptedUpstream, authority: Path) -> tuple[str, ...]:
    """The options of an account that lives at `upstream`."""
    return (
        *("--host", "localhost", "--port", str(upstream.port), "--trust", str(authority)),
        *("--max-connections", "3", "--per-minute", "0", "--per-day", "0"),
    )
