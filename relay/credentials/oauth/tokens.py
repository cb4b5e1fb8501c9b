"""Access tokens for whoever logs in: from memory, from the vault, or by one refresh that all waiters share."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import assert_never

from sqlalchemy import Connection

from relay.credentials.errors import CredentialError, SecretMissing
from relay.credentials.oauth import sealed
from relay.credentials.oauth.answers import Grant
from relay.credentials.oauth.app import OAuthApp
from relay.credentials.oauth.client import OAuthClient
from relay.credentials.oauth.errors import TokenRefused, TokenUnavailable
from relay.credentials.oauth.held import AccountTokens, Held, Unwritten, early_s
from relay.credentials.oauth.providers import Flow, Purpose
from relay.credentials.oauth.sealed import Kept, KeptToken
from relay.credentials.vault import Vault
from relay.database.engine import Database
from relay.diagnosis.token_errors import explain_token_error
from relay.mail.errors import RelayError, StorageFailed, StorageFull
from relay.telemetry import get_logger

log = get_logger()

AppOf = Callable[[int], tuple[OAuthApp, Flow]]

FRESH_S = 1200  # a token refused so soon after it replaced a refused one: another would be refused too
SECOND_LOOK_S = 1.0  # another process that came first may still be writing what it got
CLOSING_S = 5.0  # a refresh under way may end: a rotated grant on its way to us would be lost
_PERSON: tuple[Flow, ...] = ("oauth-code", "oauth-device")


@dataclass(frozen=True, slots=True)
class KeptAlive:
    """What `keep_alive` did. `refused`: accounts whose grant has ended, by id."""

    refreshed: tuple[int, ...]
    refused: Mapping[int, TokenRefused] = field(default_factory=dict)


class Tokens:
    """One for the process; close it before the database. `app_of`: an account's settings as they are now.
    `purpose_of`: what its mail needs a token for, by which an idle grant is kept alive.

    Several processes may share a store: whoever comes second takes what the first one kept.

    Nothing of HTTP or OAuth is loaded before the first token is asked for.
    """

    def __init__(
        self,
        vault: Vault,
        database: Database,
        client: OAuthClient,
        app_of: AppOf,
        *,
        purpose_of: Callable[[int], Purpose] = lambda _: "smtp",
        now_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
        second_look_s: float = SECOND_LOOK_S,
        turn_of: Callable[[int], AbstractAsyncContextManager[None]] = lambda _: nullcontext(),
    ) -> None:
        """`turn_of`: what keeps other processes on the store from asking at the same time. Raises TokenUnavailable."""
        self._vault, self._database, self._client, self._app_of = vault, database, client, app_of
        self._purpose_of = purpose_of
        self._now_s, self._monotonic_s, self._chance = now_s, monotonic_s, chance
        self._second_look_s, self._turn_of = second_look_s, turn_of
        self._accounts: dict[int, AccountTokens] = {}
        self._tasks: set[asyncio.Task[str | CredentialError]] = set()
        self._closed = False

    async def access_token(self, account_id: int, purpose: Purpose = "smtp") -> str:
        """A token that is valid for some minutes at least.

        Raises TokenRefused (somebody must act), TokenUnavailable (later), SecretMissing, SecretUnreadable,
        SecretRefused, OAuthSettingsRefused.  What was refused is not asked again for 20 minutes, what was unavailable
        not before its wait is over: the error comes back at once, unless `retry_now` was called.
        """
        mine = self._accounts.get(account_id)
        if mine is not None:
            token = mine.usable(purpose, self._monotonic_s())
            if token is not None:
                return token
        return await self._renewed(account_id, purpose)

    async def refused(self, account_id: int, token: str, purpose: Purpose = "smtp") -> str:
        """The server refused this token: another one, by one forced refresh. Log in with it once.

        Raises as `access_token`, and TokenRefused(`rejected_by_server`) when `token` was itself such a fresh one.
        """
        mine = self._accounts.get(account_id)
        held = mine.held.get(purpose) if mine is not None else None
        if mine is not None and held is not None and held.token == token:
            held.refused = True
            now = self._monotonic_s()
            if held.forced and now - held.at < FRESH_S:
                waiting = mine.waiting(purpose, now)
                raise waiting or self._note(account_id, purpose, mine, TokenRefused("rejected_by_server"))
        return await self.access_token(account_id, purpose)

    async def renew(self, account_id: int, purpose: Purpose = "smtp") -> str:
        """Ask the provider now, whatever is in memory and however long one should wait. Raises as `access_token`."""
        return await self._shared(account_id, purpose, self._state(account_id), forced=True)

    def retry_now(self, account_id: int) -> None:
        """Ask again at the next need, although the last answer was no: somebody acted."""
        mine = self._accounts.get(account_id)
        if mine is not None:
            mine.waits.clear()
            for held in mine.held.values():
                held.forced, held.forgiven = False, True

    def drop(self, account_id: int) -> None:
        """Forget what is in memory of its tokens: the store has newer ones, or none."""
        mine = self._accounts.get(account_id)
        if mine is not None:
            if mine.idle:
                del self._accounts[account_id]
            mine.forget()

    async def forget(self, account_id: int) -> None:
        """Drop its access tokens, from memory and vault: sign-in, settings or secrets changed. The grant stays."""
        self.drop(account_id)
        await self._database.write(partial(sealed.drop_access, account_id=account_id))

    async def sign_in(self, account_id: int, grant: Grant) -> None:
        """Store what a sign-in gave, in place of any other grant; durable on return.

        Raises SecretMissing (no refresh token came with it), NoSuchAccount.
        """
        await self._database.write(lambda connection: sealed.seal_sign_in(connection, self._vault, account_id, grant))
        await self.forget(account_id)

    async def keep_alive(self) -> KeptAlive:
        """Ask once with every grant that was idle for 7 days (Microsoft) or 30 (Google), one after the other.

        Call it every few hours.  Who cannot be reached is tried at the next call.
        """
        refreshed, refused = list[int](), dict[int, TokenRefused]()
        now_ms = self._now_s() * 1000
        for account_id, used_ms in sorted((await self._database.read(sealed.last_used)).items()):
            try:
                app, flow = self._app_of(account_id)
                purpose = self._purpose_of(account_id)
                # A clock that was set back leaves times in the future: they say nothing, so ask.
                idle = flow in _PERSON and abs(now_ms - used_ms) >= app.preset.idle_s * 1000
                if idle and not self._waits(account_id, purpose):
                    await self.renew(account_id, purpose)
                    refreshed.append(account_id)
            except TokenRefused as refusal:
                refused[account_id] = refusal
            except RelayError:
                continue  # logged where it arose, or at the account's next mail
        return KeptAlive(tuple(refreshed), refused)

    async def close(self) -> None:
        """Let refreshes under way end, for 5 seconds at most."""
        self._closed = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSING_S)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _state(self, account_id: int) -> AccountTokens:
        return self._accounts.setdefault(account_id, AccountTokens())

    def _waits(self, account_id: int, purpose: Purpose) -> bool:
        mine = self._accounts.get(account_id)
        return mine is not None and mine.waiting(purpose, self._monotonic_s()) is not None

    async def _renewed(self, account_id: int, purpose: Purpose) -> str:
        mine = self._state(account_id)
        waiting = mine.waiting(purpose, self._monotonic_s())
        try:
            if waiting is not None:
                raise waiting
            return await self._shared(account_id, purpose, mine, forced=False)
        except TokenUnavailable:
            token = mine.usable(purpose, self._monotonic_s(), ahead=False)  # not renewed, but not over yet
            if token is None:
                raise
            return token

    async def _shared(self, account_id: int, purpose: Purpose, mine: AccountTokens, *, forced: bool) -> str:
        """One refresh for all who wait; it goes on when a waiter is cancelled."""
        task = mine.tasks.get(purpose)
        if task is None:
            if self._closed:
                raise TokenUnavailable("closed")
            task = asyncio.create_task(
                self._renewal(account_id, purpose, mine, forced), name=f"token of account {account_id}"
            )
            mine.tasks[purpose] = task
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, purpose, mine))
        result = await asyncio.shield(task)
        if isinstance(result, str):
            return result
        raise result.with_traceback(None)

    def _ended(self, purpose: Purpose, mine: AccountTokens, task: asyncio.Task[str | CredentialError]) -> None:
        self._tasks.discard(task)
        if mine.tasks.get(purpose) is task:
            del mine.tasks[purpose]

    async def _renewal(
        self, account_id: int, purpose: Purpose, mine: AccountTokens, forced: bool
    ) -> str | CredentialError:
        async with mine.lock:  # one refresh token: one request at a time, whatever the purposes
            generation = mine.generation
            try:
                async with self._turn_of(account_id):
                    return await self._renew(account_id, purpose, mine, forced)
            except (TokenRefused, TokenUnavailable) as error:
                return self._note(account_id, purpose, mine, error) if generation == mine.generation else error
            except CredentialError as error:
                return error

    async def _renew(self, account_id: int, purpose: Purpose, mine: AccountTokens, forced: bool) -> str:
        app, flow = self._app_of(account_id)
        generation = mine.generation
        before = mine.held.get(purpose)
        early = early_s(app, self._chance())
        for _ in range(3):
            if mine.unwritten is None:
                kept = await self._database.read(partial(sealed.load, vault=self._vault, account_id=account_id))
                found = None if forced else self._still_good(kept.access.get(purpose), early)
                if found is not None and (before is None or found.token != before.token):
                    mine.hold(purpose, found, generation)  # of an earlier process, or of another one just now
                    return found.token
                asked, asked_s = self._monotonic_s(), self._now_s()
                try:
                    grant = await self._ask(app, flow, kept, purpose)
                except TokenRefused as refusal:
                    if refusal.error == "invalid_grant" and await self._turned(account_id, kept):
                        continue
                    raise
                used = kept.refresh_token if flow in _PERSON else None
                mine.unwritten = Unwritten(grant, used, purpose, asked, asked_s, generation)
            new = mine.unwritten
            durable = await self._write(account_id, mine, new)
            mine.unwritten = None
            if not durable or new.purpose != purpose or new.generation != generation:
                continue
            held = Held.of(new, early, forced=before is not None and before.refused and not before.forgiven)
            if before is not None and before.refused and before.token == held.token:
                raise TokenRefused("rejected_by_server")
            elapsed_ms = round((self._monotonic_s() - new.asked) * 1000)
            seconds = new.grant.expires_in_s
            log.info(
                "token.refreshed", account_id=account_id, detail=purpose, expires_in_s=seconds, elapsed_ms=elapsed_ms
            )
            mine.hold(purpose, held, generation)
            return held.token
        raise TokenUnavailable("grant-changed")

    async def _turned(self, account_id: int, kept: Kept) -> bool:
        """Has another process put a new grant in the place of the one that was refused? (RFC 9700 4.14.2)"""
        for wait_s in (0.0, self._second_look_s):
            await asyncio.sleep(wait_s)
            now = await self._database.read(partial(sealed.load, vault=self._vault, account_id=account_id))
            if now.refresh_token != kept.refresh_token:
                return now.refresh_token is not None
        return False

    async def _ask(self, app: OAuthApp, flow: Flow, kept: Kept, purpose: Purpose) -> Grant:
        match flow:
            case "oauth-app":
                return await self._client.app_token(app, kept.keys, purpose)
            case "service-account":
                return await self._client.service_account_token(app, kept.keys, purpose)
            case "oauth-code" | "oauth-device":
                if kept.refresh_token is None:
                    raise SecretMissing(kept.keys.account_id, sealed.REFRESH)
                return await self._client.refresh(app, kept.keys, kept.refresh_token, purpose, flow)
            case _:
                assert_never(flow)

    async def _write(self, account_id: int, mine: AccountTokens, new: Unwritten) -> bool:
        """Durable before anybody gets the access token. On failure it stays in memory, and is written next time."""

        def write(connection: Connection) -> bool:
            current = new.generation == mine.generation
            life_s = new.grant.expires_in_s
            token = KeptToken(new.grant.access_token, new.asked_s + life_s, life_s)
            return sealed.keep(
                connection,
                self._vault,
                account_id,
                new.grant,
                used=new.used,
                access={new.purpose: token} if current else {},
                now_ms=int(self._now_s() * 1000),
            )

        try:
            return await self._database.write(write)
        except (StorageFull, StorageFailed):
            raise TokenUnavailable("store-failed") from None

    def _still_good(self, kept: KeptToken | None, early: float) -> Held | None:
        return Held.kept(kept, early, now_s=self._now_s(), now=self._monotonic_s()) if kept is not None else None

    def _note(
        self, account_id: int, purpose: Purpose, mine: AccountTokens, error: TokenRefused | TokenUnavailable
    ) -> TokenRefused | TokenUnavailable:
        """Log it, and let nobody ask again too soon."""
        wait_s = mine.wait(purpose, error, self._monotonic_s(), self._chance())
        if isinstance(error, TokenUnavailable):
            log.info(
                "token.refused", account_id=account_id, detail=purpose, reason=error.reason, retry_in_s=round(wait_s)
            )
            return error
        explanation = explain_token_error(error.error, error.number)
        log.warning(
            "token.refused",
            account_id=account_id,
            reason=str(error),
            detail=purpose,
            cause=explanation.cause,
            remedy=explanation.id,
            to_do=explanation.remedy[0],
        )
        return error
