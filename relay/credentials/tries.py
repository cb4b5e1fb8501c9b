"""Counts logins that were refused, over restarts: three an hour, and the relay stops trying, whatever asks it to.

Providers lock a mailbox after some wrong passwords.  A try is durable before its credential is sent, so that not even
a crash loop tries a fourth time; a success makes the account well, and costs nothing from then on.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select

from relay.credentials.oauth.errors import TokenUnavailable
from relay.database.engine import Database
from relay.database.schema import login_tries
from relay.database.writer import Call
from relay.mail.errors import StorageFailed, StorageFull
from relay.telemetry import get_logger

log = get_logger()

MOST_REFUSED = 3  # logins in WINDOW_MS
WINDOW_MS = 3_600_000
SPENT = "logins-spent"  # the reason of TokenUnavailable when that many were refused
_MOST_KEPT = 100  # of an account
_CLOSING_S = 5.0


@dataclass(slots=True)
class Try:
    """One login under way. Whoever makes it says whether the server `refused` the credential for good (5yz)."""

    refused: bool = False


class Tries:
    """One for the process. `clock`: ms since 1970."""

    def __init__(self, database: Database, clock: Callable[[], int]) -> None:
        self._database, self._clock = database, clock
        self._well: set[int] = set()  # the last login of these was taken, in this process
        self._refused: dict[int, list[int]] = {}  # when; those under way included
        self._locks: dict[int, asyncio.Lock] = {}
        self._last: dict[int, int] = {}
        self._under_way: set[asyncio.Future[int]] = set()

    @asynccontextmanager
    async def attempt(self, account_id: int) -> AsyncIterator[Try]:
        """One login inside the context: left without an exception it was taken.

        Raises TokenUnavailable with reason SPENT instead of entering it when three were refused within the hour.
        """
        mine = Try()
        written = account_id not in self._well
        at = await self._begin(account_id) if written else 0
        try:
            yield mine
        except BaseException:
            if mine.refused and not written:
                await self._write(account_id, self._clock(), by_person=False)
            elif written and not mine.refused:
                self._take_back(account_id, at)
            if mine.refused:
                self._well.discard(account_id)
            raise
        self._taken(account_id)

    @asynccontextmanager
    async def by_person(self, account_id: int) -> AsyncIterator[Try]:
        """The same for a login that a person asks for: not limited, but remembered when it is refused."""
        mine = Try()
        try:
            yield mine
        except BaseException:
            if mine.refused:
                self._well.discard(account_id)
                await self._write(account_id, self._clock(), by_person=True)
            raise
        self._taken(account_id)

    @asynccontextmanager
    async def of_another(self, account_id: int) -> AsyncIterator[Try]:
        """The same for a credential that is not the stored one: a success says nothing of that."""
        mine = Try()
        try:
            yield mine
        except BaseException:
            if mine.refused:
                await self._write(account_id, self._clock(), by_person=True)
            raise

    def forgive(self, account_id: int) -> None:
        """Somebody renewed the credential, or wants it tried: what was refused before does not count any more."""
        self._refused[account_id] = []
        self._delete(account_id)

    def look_again(self, account_id: int) -> None:
        """Another process may have tried, or forgiven: what is remembered here does not count."""
        self._refused.pop(account_id, None)
        self._well.discard(account_id)

    def last_login(self, account_id: int) -> int | None:
        """When a login was taken last, ms since 1970; None: not since the start."""
        return self._last.get(account_id)

    async def close(self) -> None:
        """Let what is being written end."""
        if self._under_way:
            await asyncio.wait(tuple(self._under_way), timeout=_CLOSING_S)

    async def _begin(self, account_id: int) -> int:
        async with self._locks.setdefault(account_id, asyncio.Lock()):
            now = self._clock()
            if account_id not in self._refused:
                found = await self._database.read(lambda connection: refused_lately(connection, account_id, now))
                self._refused[account_id] = found[0]
            # A clock that was set back leaves tries in the future: they count for an hour, not until then.
            lately = self._refused[account_id] = [at for at in self._refused[account_id] if abs(now - at) < WINDOW_MS]
            if len(lately) >= MOST_REFUSED:
                raise TokenUnavailable(SPENT, math.ceil((lately[-MOST_REFUSED] + WINDOW_MS - now) / 1000))
            while now in lately:  # each is known by its time
                now += 1
            await self._write(account_id, now, by_person=False)
            return now

    def _taken(self, account_id: int) -> None:
        self._last[account_id] = self._clock()
        self._well.add(account_id)
        if self._refused.get(account_id):
            self._refused[account_id] = []
            self._delete(account_id)

    def _take_back(self, account_id: int, at: int) -> None:
        """The server never said what it thinks of the credential."""
        lately = self._refused.get(account_id, [])
        if at in lately:
            lately.remove(at)
            self._delete(account_id, at)

    async def _write(self, account_id: int, at: int, *, by_person: bool) -> None:
        if not by_person:
            self._refused.setdefault(account_id, []).append(at)

        def write(connection: Connection) -> None:
            here = login_tries.c.account_id == account_id
            connection.execute(insert(login_tries).values(account_id=account_id, at=at, by_person=int(by_person)))
            newest = select(login_tries.c.id).where(here).order_by(login_tries.c.id.desc()).limit(_MOST_KEPT)
            connection.execute(delete(login_tries).where(here, login_tries.c.id.not_in(newest)))

        try:
            await self._database.write(write)
        except (StorageFull, StorageFailed):
            raise TokenUnavailable("store-failed") from None

    def _delete(self, account_id: int, at: int | None = None) -> None:
        """Queued at once, before any try that comes later; nobody waits for it."""
        chosen = delete(login_tries).where(login_tries.c.account_id == account_id)
        if at is not None:
            chosen = chosen.where(login_tries.c.at == at, login_tries.c.by_person == 0)
        written = self._database.submit_patiently(Call(lambda connection: connection.execute(chosen).rowcount))
        self._under_way.add(written)
        written.add_done_callback(self._done)

    def _done(self, written: asyncio.Future[int]) -> None:
        self._under_way.discard(written)
        if not written.cancelled() and (error := written.exception()) is not None:
            log.warning("storage.failed", where="login tries", detail=str(error))  # counted once too often, for an hour


def refused_lately(connection: Connection, account_id: int, now_ms: int) -> tuple[list[int], list[int]]:
    """When logins of the last hour were refused, oldest first: the relay's own, those that a person asked for."""
    chosen = (
        select(login_tries.c.at, login_tries.c.by_person)
        .where(login_tries.c.account_id == account_id, login_tries.c.at > now_ms - WINDOW_MS)
        .order_by(login_tries.c.at)
    )
    found: tuple[list[int], list[int]] = ([], [])
    for at, by_person in connection.execute(chosen):
        found[bool(by_person)].append(int(at))
    return found
