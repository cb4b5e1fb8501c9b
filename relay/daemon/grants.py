"""Carries what providers say of sign-ins into the accounts' states: one refused app stops all its accounts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from relay.accounts.directory import Directory
from relay.accounts.health import Health
from relay.accounts.model import AccountState
from relay.accounts.transitions import Trouble
from relay.credentials.logins import Logins
from relay.credentials.oauth import TokenRefused
from relay.daemon.kin import Kinship
from relay.diagnosis.conditions import token_condition
from relay.diagnosis.responsibility import who_must_act
from relay.mail.errors import RelayError, StorageFailed, StorageFull
from relay.telemetry import get_logger

log = get_logger()

FIRST_S, EVERY_S = 600.0, 6 * 3600.0  # a grant may be idle for months; what matters is that it is looked at at all
_CLOSING_S = 5.0


class Grants:
    """One per daemon."""

    def __init__(self, *, directory: Directory, logins: Logins, health: Health, kinship: Kinship) -> None:
        self._directory, self._logins, self._health, self._kinship = directory, logins, health, kinship
        self._stopping: set[str] = set()  # groups whose states are being written
        self.leads: Callable[[], bool] = lambda: True  # of several nodes: is it for this one to do?
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
        group = self._kinship.app_group(account_id)
        if not group or group in self._stopping or group in self._health.groups:
            return
        self._stopping.add(group)
        self._spawn(self._stop_others(account_id, group, refusal), "stop accounts of an app")

    def token_given(self, account_id: int) -> None:
        """The provider takes the app again: what stopped for it goes on."""
        if not self._health.groups:
            return
        group = self._kinship.app_group(account_id)
        if group and group in self._health.groups:
            self._spawn(self._health.release(group, "its app is accepted again"), "resume accounts of an app")

    async def _stop_others(self, account_id: int, group: str, refusal: TokenRefused) -> None:
        try:
            await self._health.suspend(account_id, _trouble(refusal), itself=False)
        finally:
            self._stopping.discard(group)

    async def _keep_alive(self) -> None:
        wait_s = FIRST_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = EVERY_S
            try:
                if self.leads():
                    await self._keep_alive_once()
            except (StorageFull, StorageFailed) as error:
                log.error("storage.failed", where="keep grants alive", detail=str(error))
            except RelayError as error:
                log.error("daemon.fault", where="keep grants alive", detail=str(error))

    async def _keep_alive_once(self) -> None:
        for account_id, refusal in (await self._logins.tokens.keep_alive()).refused.items():
            account = self._directory.account(account_id)
            if account is None or account.state is not AccountState.OK:
                continue
            await self._health.suspend(account_id, _trouble(refusal), revision=account.revision)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("daemon.fault", where=task.get_name(), exc_info=error)


def _trouble(refusal: TokenRefused) -> Trouble:
    entry = token_condition(refusal.error, refusal.number)
    return Trouble(entry.id, entry.cause, who_must_act(entry), str(refusal))
