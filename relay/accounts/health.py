"""Accounts' health in a running daemon: what the relay stops and lets go on by itself, and the gauges that show it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from relay.accounts import conditions, transitions
from relay.accounts.conditions import ConditionKind
from relay.accounts.directory import Directory
from relay.accounts.model import Account, AccountState
from relay.accounts.transitions import Change, Trouble
from relay.database import trail
from relay.database.engine import Database
from relay.telemetry import get_logger
from relay.telemetry.counters import forget, gauge

log = get_logger()

LONG_REST_MS = 3_600_000  # resting and failing for so long, people should hear of it
_STATES = ("ok", "resting", "suspended")


@dataclass(frozen=True, slots=True)
class Kin:
    """Whom a cause stops together with the account that met it. `group_key` "": nobody."""

    group_key: str = ""
    others: tuple[Account, ...] = ()


@dataclass(slots=True)
class _Rest:
    """A row of rests without a success in between. `since`, ms since 1970; `told`: a condition is open."""

    since: int
    told: bool
    until: float = 0.0  # of the loop's clock


async def _alone(account: Account, cause: str) -> Kin:
    return Kin()


class Health:
    """One per process. `kin` says whom a cause stops as well; `changed` hears of what changed, once it is durable.

    All changes are written one after the other, each with its audit row and condition in one transaction.
    """

    def __init__(self, database: Database, directory: Directory, *, clock: Callable[[], int]) -> None:
        self.kin: Callable[[Account, str], Awaitable[Kin]] = _alone
        self.changed: Callable[[Sequence[Change]], None] = lambda changes: None
        self.groups: frozenset[str] = frozenset()  # of suspensions that last
        self._database, self._directory, self._clock = database, directory, clock
        self._writing = asyncio.Lock()
        self._rests: dict[int, _Rest] = {}
        self._shown: dict[str, str] = {}

    async def start(self) -> None:
        """Read what lasts from before."""
        for condition in await self._database.read(conditions.open_conditions):
            if condition.kind is ConditionKind.RESTING and condition.account_id is not None:
                self._rests[condition.account_id] = _Rest(condition.opened_at, told=True)
        await self._read_groups()
        self.show()

    # -- stopping and going on -----------------------------------------------------------------------------

    async def suspend(
        self, account_id: int, trouble: Trouble, *, revision: int | None = None, itself: bool = True
    ) -> None:
        """Stop an account, and all that the same cause stops. `itself` False: only those others.

        `revision`: see `transitions.suspend`.
        """
        account = self._directory.account(account_id)
        if account is None:
            return
        kin = await self.kin(account, trouble.cause)

        def write(connection: Connection) -> list[Change]:
            at, key = self._clock(), kin.group_key
            changes: list[Change] = []
            if itself:
                changes += transitions.suspend(
                    connection, account_id, trouble, now_ms=at, group_key=key, revision=revision
                )
                if not changes:
                    return []
            for other in kin.others:
                detail = f"stopped together with {account.address}"
                changes += transitions.suspend(connection, other.id, trouble, now_ms=at, group_key=key, detail=detail)
            return changes

        await self._write(write)

    async def resume(self, account_id: int, detail: str) -> None:
        """Its login was taken: it goes on, and what its cause had stopped with it."""
        await self._write(
            lambda connection: transitions.resume(connection, account_id, now_ms=self._clock(), detail=detail)
        )

    async def release(self, group_key: str, detail: str) -> None:
        """What had stopped the accounts of a group is gone."""
        await self._write(
            lambda connection: transitions.release(connection, group_key, now_ms=self._clock(), detail=detail)
        )

    async def _write(self, function: Callable[[Connection], list[Change]]) -> None:
        async with self._writing:
            changes = await self._database.write(function)
            if not changes:
                return
            await self._directory.reload()
            await self._read_groups()
        transitions.tell(changes)
        for change in changes:
            self._show_one(change.account.id)
        self.changed(changes)

    async def _read_groups(self) -> None:
        lasting = await self._database.read(conditions.open_conditions)
        self.groups = frozenset(condition.group_key for condition in lasting if condition.group_key)

    # -- resting -------------------------------------------------------------------------------------------

    async def rests(self, account_id: int, trouble: Trouble, seconds: float, group_key: str) -> None:
        """It sends nothing for `seconds`. The first of a row of rests is audited; a long row is a condition."""
        now = self._clock()
        rest = self._rests.get(account_id)
        begins = rest is None
        if rest is None:
            rest = self._rests[account_id] = _Rest(now, told=False)
        loop = asyncio.get_running_loop()
        rest.until = loop.time() + seconds
        loop.call_at(rest.until + 0.01, self._show_one, account_id)
        self._show_one(account_id)
        long = not rest.told and now - rest.since >= LONG_REST_MS
        rest.told = rest.told or long
        account = self._directory.account(account_id)
        if account is None or not (begins or long):
            return

        def write(connection: Connection) -> None:
            if begins:
                facts = {"cause": trouble.cause, "retry_in_s": round(seconds)}
                self._record(connection, "account.rest", account, facts)
            if long:
                conditions.open_condition(
                    connection,
                    account_id=account_id,
                    kind=ConditionKind.RESTING,
                    cause=trouble.cause,
                    who=trouble.who,
                    detail=trouble.reply,
                    group_key=group_key,
                    now_ms=now,
                )

        await self._database.write(write)

    async def inherit(self, account_id: int, until_s: float) -> None:
        """The account rests, or did, while another node had it; for `until_s` more seconds."""
        lasting = await self._database.read(conditions.open_conditions)
        mine = [one for one in lasting if one.kind is ConditionKind.RESTING and one.account_id == account_id]
        since = mine[0].opened_at if mine else self._clock()
        loop = asyncio.get_running_loop()
        until = loop.time() + until_s if until_s > 0 else 0.0
        self._rests[account_id] = _Rest(since, told=bool(mine), until=until)
        if until:
            loop.call_at(until + 0.01, self._show_one, account_id)
        self._show_one(account_id)

    def gone(self, account_id: int) -> None:
        """Another node has the account: what this one remembers of its rests is not to be believed any more."""
        if self._rests.pop(account_id, None) is not None:
            self._show_one(account_id)

    def rest_ended(self, account_id: int) -> None:
        """Its mail is tried now; whether that works is for `well` to say."""
        rest = self._rests.get(account_id)
        if rest is not None and rest.until:
            rest.until = 0.0
            self._show_one(account_id)

    def troubled(self, account_id: int) -> bool:
        """Has it rested since its last success?"""
        return account_id in self._rests

    async def well(self, account_id: int) -> None:
        """Its upstream took a mail after a rest."""
        rest = self._rests.pop(account_id, None)
        account = self._directory.account(account_id)
        if rest is None or account is None:
            return
        self._show_one(account_id)
        log.info("account.recovered", account=account.address)

        def write(connection: Connection) -> None:
            conditions.close_conditions(
                connection, account_id=account_id, kind=ConditionKind.RESTING, now_ms=self._clock()
            )
            self._record(connection, "account.recover", account, {})

        await self._database.write(write)

    # -- gauges --------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Bring `relay_account_state` up to date for all accounts: some were added, changed or removed."""
        accounts = self._directory.accounts()
        for address in self._shown.keys() - {account.address for account in accounts}:
            del self._shown[address]
            _forget(address)
        for account in accounts:
            self._show(account)

    def _show_one(self, account_id: int) -> None:
        account = self._directory.account(account_id)
        if account is not None:
            self._show(account)

    def _show(self, account: Account) -> None:
        state = self._state(account, asyncio.get_running_loop().time())
        if self._shown.get(account.address) != state:
            self._shown[account.address] = state
            for name in _STATES:
                gauge("relay_account_state", float(name == state), account=account.address, state=name)

    def _state(self, account: Account, now: float) -> str:
        if account.state is AccountState.SUSPENDED:
            return "suspended"
        rest = self._rests.get(account.id)
        return "resting" if rest is not None and rest.until > now else "ok"

    def _record(self, connection: Connection, action: str, account: Account, facts: dict[str, object]) -> None:
        trail.record(
            connection, at_ms=self._clock(), actor=trail.RELAY, action=action, target=account.address, detail=facts
        )


def _forget(address: str) -> None:
    for name in _STATES:
        forget("relay_account_state", account=address, state=name)
    forget("relay_credential_expires_seconds", account=address)
