"""What an account logs in with, its password or an access token, and how often a refused token is tried anew."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from relay.accounts.directory import Directory
from relay.accounts.model import ImapServer, Upstream
from relay.credentials.errors import NoSuchAccount
from relay.credentials.oauth.app import OAuthApp, parse_oauth_app
from relay.credentials.oauth.errors import OAuthSettingsRefused, TokenRefused, TokenUnavailable
from relay.credentials.oauth.providers import Flow, Purpose
from relay.credentials.oauth.tokens import AppOf, Tokens
from relay.credentials.tries import MOST_REFUSED, SPENT, Tries
from relay.credentials.vault import Vault

_WINDOW_S = 3600.0


@dataclass(slots=True)
class _Refusals:
    """Of one account, monotonic: when a token of it was refused by the server."""

    at: list[float] = field(default_factory=list)
    last_second: float | None = None  # when the second login of a pair failed
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def lately(self, now: float) -> list[float]:
        self.at = [moment for moment in self.at if now - moment < _WINDOW_S]
        return self.at


def apps_of(directory: Directory) -> AppOf:
    """The OAuth settings of accounts, as `Tokens` asks for them. Raises NoSuchAccount, OAuthSettingsRefused."""

    def app_of(account_id: int) -> tuple[OAuthApp, Flow]:
        account = directory.account(account_id)
        if account is None:
            raise NoSuchAccount(account_id)
        if account.auth == "password" or account.auth == "none":
            raise OAuthSettingsRefused("auth", f"is {account.auth}")
        return parse_oauth_app(account.oauth or {}), account.auth

    return app_of


def purposes_of(directory: Directory) -> Callable[[int], Purpose]:
    """What the token of an account is for: the transport that its mail takes."""

    def purpose_of(account_id: int) -> Purpose:
        account = directory.account(account_id)
        return account.transport if account is not None else "smtp"

    return purpose_of


class Logins:
    """One for the process. Passwords come from the vault at once, tokens from `tokens`; `tries` limits refused logins.

    `on_app_refused(account_id, refusal)` hears of each refusal that concerns every account of the same app,
    `on_token(account_id)` of each token given.  Neither may wait.
    """

    def __init__(
        self, vault: Vault, tokens: Tokens, tries: Tries, *, monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.tokens, self.tries = tokens, tries
        self.on_app_refused: Callable[[int, TokenRefused], None] | None = None
        self.on_token: Callable[[int], None] | None = None
        self._vault, self._monotonic_s = vault, monotonic_s
        self._refusals: dict[int, _Refusals] = {}

    async def secret(self, upstream: Upstream) -> str:
        """The password, or an access token for the transport. Raises as `Vault.fetch` and `Tokens.access_token`.

        TokenUnavailable with reason SPENT: the server refused three logins within the hour, and nobody acted since.
        """
        if upstream.auth == "password":
            return await self._vault.fetch(upstream.account_id, "password")
        return await self.token(upstream.account_id, upstream.transport)

    async def token(self, account_id: int, purpose: Purpose) -> str:
        """An access token for that purpose. Raises as `secret`."""
        mine = self._refusals.get(account_id)
        if mine is None:
            return await self._given(account_id, self.tokens.access_token(account_id, purpose))
        now = self._monotonic_s()
        lately = mine.lately(now)
        if len(lately) >= MOST_REFUSED:
            raise TokenUnavailable(SPENT, math.ceil(lately[-MOST_REFUSED] + _WINDOW_S - now))
        if mine.last_second is None:
            return await self._given(account_id, self.tokens.access_token(account_id, purpose))
        mine.last_second = None
        # The right to send may be granted by now, and that stands in the token: ask for another.
        return await self._given(account_id, self.tokens.renew(account_id, purpose))

    @asynccontextmanager
    async def second(self, upstream: Upstream, refused: str) -> AsyncIterator[str | None]:
        """The server refused this token: another one to log in with once, inside the context; None: do not try.

        Leave the context with an exception when that login fails.  One at a time for each account: who waited does
        not try when the one before failed.  Raises as `Tokens.refused`.
        """
        account_id = upstream.account_id
        mine = self._refusals.setdefault(account_id, _Refusals())
        at = self._monotonic_s()
        mine.at.append(at)
        async with mine.lock:
            failed_meanwhile = mine.last_second is not None and mine.last_second >= at
            if failed_meanwhile or len(mine.lately(self._monotonic_s())) >= MOST_REFUSED:
                yield None
                return
            token = await self._given(account_id, self.tokens.refused(account_id, refused, upstream.transport))
            try:
                yield token
            except Exception:
                mine.last_second = self._monotonic_s()
                mine.at.append(mine.last_second)
                raise
            mine.at.clear()
            mine.last_second = None

    async def imap_secret(self, server: ImapServer) -> str:
        """The password, or an access token for IMAP. Raises as `Vault.fetch` and `Tokens.access_token`."""
        if server.auth == "password":
            return await self._vault.fetch(server.account_id, "password")
        return await self.tokens.access_token(server.account_id, "imap")

    async def imap_second(self, server: ImapServer, refused: str) -> str:
        """The server refused this token: another one to log in with once. Raises as `Tokens.refused`."""
        return await self.tokens.refused(server.account_id, refused, "imap")

    def person_acted(self, account_id: int) -> None:
        """Somebody changed something or wants it tried: what was refused before does not count any more."""
        self._refusals.pop(account_id, None)
        self.tokens.retry_now(account_id)

    def renewed(self, account_id: int) -> None:
        """Somebody gave it another credential, or says that the old one is good: all tries are open again."""
        self.person_acted(account_id)
        self.tries.forgive(account_id)

    def look_again(self, account_id: int) -> None:
        """Another process on this store gave it other settings or another credential: nothing kept here counts."""
        self._refusals.pop(account_id, None)
        self.tokens.drop(account_id)
        self.tries.look_again(account_id)

    async def _given(self, account_id: int, asked: Awaitable[str]) -> str:
        try:
            token = await asked
        except TokenRefused as refusal:
            if refusal.scope == "app" and self.on_app_refused is not None:
                self.on_app_refused(account_id, refusal)
            raise
        if self.on_token is not None:
            self.on_token(account_id)
        return token
