"""What the tests of HTTP transports share: an account at an API, and a transport with tokens to give."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.accounts.model import Upstream
from relay.config.settings import SubmissionSettings
from relay.credentials.errors import CredentialError
from relay.submission.http.transport import HttpTransport
from tests.peers.api_server import ApiServer
from tests.wire.carrying import CAREFUL_S, LOGIN, Lane

APIS = ("graph", "gmail")


@dataclass
class Tokens:
    """Stands where `credentials.logins` does: gives what a test says. `seconds`: how the second tries ended."""

    first: str = "token-1"
    other: str | None = "token-2"
    fails: CredentialError | None = None
    given: list[str] = field(default_factory=list)
    seconds: list[str] = field(default_factory=list)

    async def secret(self, upstream: Upstream) -> str:
        if self.fails is not None:
            raise self.fails
        self.given.append(upstream.account)
        return self.first

    @asynccontextmanager
    async def second(self, upstream: Upstream, refused: str) -> AsyncIterator[str | None]:
        assert refused == self.first
        try:
            yield self.other
        except Exception:
            self.seconds.append("failed")
            raise
        self.seconds.append("good" if self.other is not None else "none")


def account_at(api: ApiServer, kind: str, **changes: Any) -> Upstream:
    """An account whose mail goes to `api`; of Graph one without a person."""
    fields: dict[str, Any] = {
        "account_id": 1,
        "account": LOGIN,
        "revision": 1,
        "provider": "m365" if kind == "graph" else "gmail",
        "host": "localhost",
        "port": api.port,
        "tls": "implicit",
        "trust": None,
        "login": LOGIN,
        "auth": "oauth-app" if kind == "graph" else "oauth-code",
        "max_connections": 3,
        "per_minute": 0,
        "per_day": 0,
        "recipients_per_transaction": 100,
        "in_doubt": "retry",
        "transport": kind,
    }
    return Upstream(**(fields | changes))


def api_transport(
    api: ApiServer, folder: Path, tokens: Tokens | None = None, stage_s: float = CAREFUL_S, **settings: Any
) -> HttpTransport:
    """A transport whose stages all have that time-out."""
    tokens = tokens or Tokens()
    ca = folder / "ca.pem"
    api.authority.cert_pem.write_to_path(ca)
    return HttpTransport(
        SubmissionSettings(stage_timeout_s=stage_s, **({"api_ca_file": ca} | settings)),
        tokens.secret,
        second=tokens.second,
        speaks_for=lambda account_id, author: author == "other@example.com",
    )


async def carry_to(
    api: ApiServer,
    kind: str,
    folder: Path,
    source: Lane,
    tokens: Tokens | None = None,
    stage_s: float = CAREFUL_S,
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> Lane:
    """Carry what waits, in one call; close the transport."""
    carrier = api_transport(api, folder, tokens, stage_s, **(settings or {}))
    try:
        async with asyncio.timeout(30):
            await carrier.carry(account_at(api, kind, **changes), source)
    finally:
        await carrier.close()
    return source
