"""Looks at accounts that nothing else looks at: logs idle ones in once a day, warns of what ends soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from sqlalchemy import Connection

from relay.accounts import conditions
from relay.accounts.conditions import ConditionKind
from relay.accounts.directory import Directory
from relay.accounts.health import Health
from relay.accounts.model import Account, AccountState, Upstream
from relay.accounts.transitions import Trouble
from relay.accounts.unknown_replies import UnknownReplies
from relay.control.probing import said
from relay.credentials.expiry import End, ends_of
from relay.credentials.oauth import sealed
from relay.credentials.tries import Tries
from relay.daemon.kin import Kinship
from relay.database.engine import Database
from relay.diagnosis import diagnose
from relay.diagnosis.conditions import entry_of
from relay.diagnosis.responsibility import who_must_act
from relay.mail.counted import counted
from relay.mail.errors import RelayError, StorageFailed, StorageFull
from relay.mail.outcome import Accepted, Refused, Unreachable
from relay.telemetry import get_logger
from relay.telemetry.counters import forget, gauge

log = get_logger()

DAY_MS = 86_400_000
WARN_DAYS = (30, 7, 1)  # before a credential ends; each is a warning of its own
_TICK_S = 60.0
_EXPIRY_S = 3600.0
_KEEP_MS = 90 * DAY_MS  # conditions that are over
_LOGIN_S = 120.0
_SPREAD = 2_654_435_761  # Knuth's multiplicative hash: neighbours' turns lie far apart

LogIn = Callable[[Upstream], Awaitable[Accepted | Refused | Unreachable]]


class Checkup:
    """`run` until cancelled. `log_in` makes one login without mail; `period_s` 0: never."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        health: Health,
        tries: Tries,
        kinship: Kinship,
        log_in: LogIn,
        period_s: float,
        clock: Callable[[], int],
    ) -> None:
        self._database, self._directory, self._health = database, directory, health
        self._tries, self._kinship, self._log_in = tries, kinship, log_in
        self._unknown = UnknownReplies(database, clock)
        self._period_ms, self._clock = int(period_s * 1000), clock
        self._gauged: set[str] = set()
        self.leads: Callable[[], bool] = lambda: True  # of several nodes: is it for this one to do?
        self.obtain: Callable[[int], Awaitable[bool]] = _mine  # is the account this one's, or free?

    async def run(self) -> None:
        """Never ends by itself; what fails is logged, and tried again at its next turn."""
        looked, expiry_at = self._clock(), 0.0
        while True:
            try:
                if time.monotonic() >= expiry_at and self.leads():
                    expiry_at = time.monotonic() + _EXPIRY_S
                    await self.watch_expiries()
                looked = await self.check_logins(looked)
            except (StorageFull, StorageFailed) as error:
                log.error("storage.failed", where="checkup", detail=str(error))
            except RelayError as error:
                log.error("daemon.fault", where="checkup", detail=str(error))
            await asyncio.sleep(min(_TICK_S, self._period_ms / 4000) if self._period_ms else _TICK_S)

    # -- logins --------------------------------------------------------------------------------------------

    async def check_logins(self, since_ms: int) -> int:
        """Log in for each idle account whose turn came after `since_ms`; the time up to which all had theirs."""
        now = self._clock()
        if self._period_ms:
            for account in self._directory.accounts():
                if self._turn(account, since_ms, now) and self._idle(account, now) and await self.obtain(account.id):
                    await self._check(account)
        return now

    def _turn(self, account: Account, since_ms: int, now_ms: int) -> bool:
        """Its own time of the day, so that not all log in at once, and a restart brings no login forward."""
        offset = account.id * _SPREAD % self._period_ms
        return (now_ms - offset) // self._period_ms > (since_ms - offset) // self._period_ms

    def _idle(self, account: Account, now_ms: int) -> bool:
        last = self._tries.last_login(account.id)
        well = account.state is AccountState.OK and account.auth != "none"
        return well and (last is None or now_ms - last >= self._period_ms // 2)

    async def _check(self, account: Account) -> None:
        upstream = self._directory.upstream(account)
        try:
            async with asyncio.timeout(_LOGIN_S):
                outcome = await self._log_in(upstream)
        except TimeoutError:
            return
        if isinstance(outcome, Accepted):
            log.info("account.checked", account=account.address, reply=said(outcome))
            return
        diagnosis = diagnose(outcome, provider=upstream.provider)
        self._unknown.heard(upstream.provider, outcome, diagnosis)
        log.info(
            "account.checked",
            account=account.address,
            reply=said(outcome),
            cause=diagnosis.cause,
            remedy=diagnosis.id,
            who=diagnosis.who.value,
        )
        if not diagnosis.retry:
            await self._health.suspend(account.id, Trouble.of(diagnosis, said(outcome)), revision=account.revision)

    # -- what ends soon ------------------------------------------------------------------------------------

    async def watch_expiries(self) -> None:
        """Open a condition when 30, 7 or 1 days are left, close it when there is more time again; keep the gauge."""
        now = self._clock()
        used = await self._database.read(sealed.last_used)
        ends = {account.id: ends_of(account, used.get(account.id)) for account in self._directory.accounts()}
        self._gauge(ends, now)
        news = await self._database.write(lambda connection: self._reconcile(connection, ends, now))
        for account, end in news:
            log.warning(
                "credential.expiring",
                account=account.address,
                cause=entry_of(end.cause).cause,
                remedy=end.cause,
                who=who_must_act(entry_of(end.cause)).value,
                expires_at=_day(end.at_ms),
                days_left=_days(end, now),
            )

    def _gauge(self, ends: dict[int, list[End]], now: int) -> None:
        gauged: set[str] = set()
        for account in self._directory.accounts():
            if ends[account.id]:
                gauged.add(account.address)
                left_s = (ends[account.id][0].at_ms - now) / 1000
                gauge("relay_credential_expires_seconds", left_s, account=account.address)
        for address in self._gauged - gauged:
            forget("relay_credential_expires_seconds", account=address)
        self._gauged = gauged

    def _reconcile(self, connection: Connection, ends: dict[int, list[End]], now: int) -> list[tuple[Account, End]]:
        conditions.prune_conditions(connection, now - _KEEP_MS)
        expiring = ConditionKind.EXPIRING
        known = {
            (condition.account_id, condition.cause): condition
            for condition in conditions.open_conditions(connection)
            if condition.kind is expiring
        }
        news: list[tuple[Account, End]] = []
        for account in self._directory.accounts():
            for end in ends[account.id]:
                stage = _stage(end, now)
                before = known.pop((account.id, end.cause), None)
                if before is not None and stage is not None and stage == _stage(end, before.opened_at):
                    continue
                if before is not None:  # people hear of the next stage, or that there is time again
                    conditions.close_conditions(
                        connection,
                        account_id=account.id,
                        kind=expiring,
                        cause=end.cause,
                        now_ms=now,
                        silently=stage is not None,
                    )
                if stage is not None:
                    self._open(connection, account, end, now)
                    news.append((account, end))
        for (account_id, cause), _ in known.items():  # removed from the account
            conditions.close_conditions(connection, account_id=account_id, kind=expiring, cause=cause, now_ms=now)
        return news

    def _open(self, connection: Connection, account: Account, end: End, now: int) -> None:
        left = _days(end, now)
        when = "has ended" if left < 0 else f"ends on {_day(end.at_ms)}, in {counted(left, 'day')}"
        conditions.open_condition(
            connection,
            account_id=account.id,
            kind=ConditionKind.EXPIRING,
            cause=end.cause,
            who=who_must_act(entry_of(end.cause)),
            detail=when,
            group_key="" if end.cause == "grant-expiring" else self._kinship.app_group(account.id),
            now_ms=now,
        )


async def _mine(account_id: int) -> bool:
    return True


def _stage(end: End, now_ms: int) -> int | None:
    """The last of WARN_DAYS that was reached; None: there is more time."""
    return next((days for days in reversed(WARN_DAYS) if end.at_ms - now_ms <= days * DAY_MS), None)


def _days(end: End, now_ms: int) -> int:
    return (end.at_ms - now_ms) // DAY_MS


def _day(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at_ms / 1000))
