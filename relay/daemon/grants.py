"""Carries what providers say of sign-ins into the accounts' states: one refused app stops all its accounts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from sqlalchemy import Connection

from relay.accounts import store
from relay.accounts.directory import Directory
from relay.accounts.model import Account, AccountState
from relay.credentials.errors import CredentialError
from relay.credentials.logins import Logins
from relay.credentials.oauth import TokenRefused, parse_oauth_app, sealed
from relay.credentials.vault import Vault
from relay.database.engine import Database
from relay.diagnosis.conditions import token_condition
from relay.mail.errors import RelayError
from relay.telemetry import get_logger

log = get_logger()

FIRST_S, EVERY_S = 600.0, 6 * 3600.0  # a grant may be idle for months; what matters is that it is looked at at all
_CLOSING_S = 5.0

AppKey = tuple[str, ...]


class Grants:
    """One per daemon. `refresh`: accounts changed; `wake(account_id)`: try its mail now (control.context.Lanes)."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        vault: Vault,
        logins: Logins,
        refresh: Callable[[], None],
        wake: Callable[[int], None],
        clock: Callable[[], int],
    ) -> None:
        self._database, self._directory, self._vault, self._logins = database, directory, vault, logins
        self._refresh, self._wake, self._clock = refresh, wake, clock
        self._ended: dict[AppKey, str] = {}  # apps that are refused now: the cause their accounts were stopped for
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Listen to the logins, and keep idle grants alive from now on."""
        self._logins.on_app_refused, self._logins.on_token = self.app_refused, self.token_given
        self._spawn(self._keep_alive(), "keep grants alive")

    async def stop(self) -> None:
        """End what is under way; states that are being written are."""
        self._logins.on_app_refused = self._logins.on_token = None
        for task in self._tasks:
            if task.get_name() == "keep grants alive":
                task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=_CLOSING_S)

    def app_refused(self, account_id: int, refusal: TokenRefused) -> None:
        """The provider does not take the app: its other accounts stop as well, before each of them asks."""
        account = self._directory.account(account_id)
        key = _app_key(account)
        if account is None or key is None or key in self._ended:
            return
        self._ended[key] = token_condition(refusal.error, refusal.number).id
        others = [other for other in self._same_app(key) if other.id != account_id and other.state is AccountState.OK]
        self._spawn(self._stop_others(account, others, refusal), "stop accounts of an app")

    def token_given(self, account_id: int) -> None:
        """The provider takes the app again: what stopped for it goes on."""
        if not self._ended:
            return
        key = _app_key(self._directory.account(account_id))
        cause = self._ended.pop(key, None) if key is not None else None
        if key is None or cause is None:
            return
        stopped = [
            other
            for other in self._same_app(key)
            if other.id != account_id and other.state is AccountState.SUSPENDED and other.state_cause == cause
        ]
        self._spawn(self._let_go_on(stopped, cause), "resume accounts of an app")

    async def _stop_others(self, account: Account, others: list[Account], refusal: TokenRefused) -> None:
        entry = token_condition(refusal.error, refusal.number)
        concerned = await self._database.read(lambda connection: self._with_same_keys(connection, account, others))
        await self._set(concerned, AccountState.SUSPENDED, entry.id, str(refusal))
        for other in concerned:
            log.error(
                "account.suspended",
                account=other.address,
                cause=entry.cause,
                remedy=entry.id,
                reply=str(refusal),
                detail=f"the same app as {account.address}",
            )

    def _with_same_keys(self, connection: Connection, account: Account, others: list[Account]) -> list[Account]:
        """Those that prove themselves with the same secret: another one may be good."""

        def keys(account_id: int) -> tuple[str | None, ...] | None:
            try:
                known = sealed.load(connection, self._vault, account_id).keys
            except CredentialError:
                return None
            return known.client_secret, known.client_certificate, known.service_account

        refused = keys(account.id)
        return [other for other in others if refused is not None and keys(other.id) == refused]

    async def _let_go_on(self, stopped: list[Account], cause: str) -> None:
        await self._set(stopped, AccountState.OK, None, None, only=cause)
        for account in stopped:
            self._logins.person_acted(account.id)
            log.info("account.resumed", account=account.address, cause="its app is accepted again")
            self._wake(account.id)

    async def _set(
        self,
        accounts: Iterable[Account],
        state: AccountState,
        cause: str | None,
        reply: str | None,
        *,
        only: str | None = None,
    ) -> None:
        """Set the state of those whose cause is (still) `only`; what an operator stopped stays as it is."""
        ids, at = [account.id for account in accounts], self._clock()
        if not ids:
            return

        def change(connection: Connection) -> None:
            for account_id in ids:
                if store.get_account(connection, account_id).state_cause == only:
                    store.set_state(connection, account_id, state, cause, reply, at)

        await self._database.write(change)
        await self._directory.reload()
        self._refresh()

    async def _keep_alive(self) -> None:
        wait_s = FIRST_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = EVERY_S
            try:
                await self._keep_alive_once()
            except RelayError as error:
                log.error("daemon.fault", where="keep grants alive", detail=str(error))

    async def _keep_alive_once(self) -> None:
        for account_id, refusal in (await self._logins.tokens.keep_alive()).refused.items():
            account = self._directory.account(account_id)
            if account is None or account.state is not AccountState.OK:
                continue
            entry = token_condition(refusal.error, refusal.number)
            await self._set([account], AccountState.SUSPENDED, entry.id, str(refusal))
            log.error(
                "account.suspended", account=account.address, cause=entry.cause, remedy=entry.id, reply=str(refusal)
            )

    def _same_app(self, key: AppKey) -> list[Account]:
        return [account for account in self._directory.accounts() if _app_key(account) == key]

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("daemon.fault", where=task.get_name(), exc_info=error)


def _app_key(account: Account | None) -> AppKey | None:
    """What accounts of the same app registration have in common; None: it has no app."""
    if account is None or not account.oauth:
        return None
    try:
        app = parse_oauth_app(account.oauth)
        if not app.client_id:
            return None
        return account.auth, app.provider, app.cloud, app.tenant, app.client_id, app.token_endpoint()
    except CredentialError:
        return None
