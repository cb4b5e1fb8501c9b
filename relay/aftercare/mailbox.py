"""Opens the mailboxes of accounts, seldom once they refuse; trouble with one stops no mail, people just hear of it."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sqlalchemy import Connection

from relay.accounts.conditions import ConditionKind, close_conditions, open_condition, open_conditions
from relay.accounts.directory import Directory
from relay.accounts.model import Account
from relay.accounts.upstream import imap_of
from relay.config.settings import ImapDefaults, SubmissionSettings
from relay.credentials.logins import Logins
from relay.database.engine import Database
from relay.diagnosis.conditions import CONDITIONS
from relay.diagnosis.responsibility import who_must_act
from relay.net.way import WayOf
from relay.submission.imap.connection import CommandRefused, ImapConnection
from relay.submission.imap.opening import Limits, MailboxClosed, open_mailbox
from relay.submission.imap.wire import ImapFault
from relay.telemetry import get_logger
from relay.telemetry.cleaning import clean_text

log = get_logger()

_COMMAND_S = 60.0
_FIRST_WAIT_S, _MOST_WAIT_S = 60.0, 3600.0
_REFUSED_WAIT_S, _MOST_REFUSED_WAIT_S = 1200.0, 21_600.0  # providers lock accounts
_TOLD_MS = 3_600_000  # what lasts so long, and somebody has to act, people hear of
_TOLD_LATER_MS = 86_400_000  # what may pass by itself
_LONGEST = 400  # octets of what a server said


@dataclass(slots=True)
class _Trouble:
    """A row of failures of one account without a success in between. Times are ms since 1970."""

    since: int
    revision: int
    failures: int = 0
    not_before: int = 0
    told: bool = False


class Mailboxes:
    """One for the process. `chance` is uniform in 0..1."""

    def __init__(
        self,
        *,
        database: Database,
        directory: Directory,
        logins: Logins,
        way_of: WayOf,
        defaults: ImapDefaults,
        submission: SubmissionSettings,
        clock: Callable[[], int],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._database, self._directory, self._logins, self._way_of = database, directory, logins, way_of
        self._clock, self._chance = clock, chance
        self._troubles: dict[int, _Trouble] = {}
        self.configure(defaults, submission)

    def configure(self, defaults: ImapDefaults, submission: SubmissionSettings) -> None:
        """Take over other settings, from the next connection on."""
        cap = submission.stage_timeout_s or math.inf
        self._defaults = defaults
        self._limits = Limits(min(submission.connect_timeout_s, cap), min(_COMMAND_S, cap))

    async def start(self) -> None:
        """Read what people know of from before."""
        for one in await self._database.read(open_conditions):
            if one.kind is ConditionKind.MAILBOX and one.account_id is not None:
                self._troubles[one.account_id] = _Trouble(one.opened_at, revision=0, told=True)

    def not_before(self, account: Account) -> int:
        """When its mailbox may be tried again (ms since 1970); 0: at once. A changed account is tried at once."""
        trouble = self._troubles.get(account.id)
        return trouble.not_before if trouble is not None and trouble.revision == account.revision else 0

    async def keep(self, wanted: Iterable[int]) -> None:
        """Forget trouble with the mailboxes of all other accounts: nobody wants to read them any more."""
        for account_id in self._troubles.keys() - set(wanted):
            await self._over(account_id, silently=True)

    @asynccontextmanager
    async def opened(self, account: Account) -> AsyncIterator[ImapConnection]:
        """Its mailbox, for what is done inside; success and failure are remembered. Raises MailboxClosed."""
        try:
            async with self._opened(account) as connection:
                yield connection
        except MailboxClosed as closed:
            await self._failed(account, closed)
            raise
        if account.id in self._troubles:
            await self._over(account.id)
            log.info("mailbox.recovered", account=account.address)

    @asynccontextmanager
    async def _opened(self, account: Account) -> AsyncIterator[ImapConnection]:
        server = imap_of(account, self._directory.upstream(account), self._defaults)
        if server is None:
            raise MailboxClosed("connect", "imap-unreachable", "no IMAP server is known for it")
        connection = await open_mailbox(
            server,
            self._logins.imap_secret,
            second=self._logins.imap_second,
            way_of=self._way_of,
            limits=self._limits,
        )
        try:
            yield connection
            await connection.logout()
        except CommandRefused as refusal:
            raise MailboxClosed("folder", "imap-refused", f"{refusal.command}: {refusal.status}") from refusal
        except ImapFault as fault:
            reason = "imap-protocol" if fault.reason == "protocol-error" else "imap-unreachable"
            raise MailboxClosed("folder", reason, fault.detail) from fault
        finally:
            connection.wire.abort()

    async def _failed(self, account: Account, closed: MailboxClosed) -> None:
        now, entry = self._clock(), CONDITIONS.get(closed.reason, CONDITIONS["imap-protocol"])
        trouble = self._troubles.setdefault(account.id, _Trouble(now, account.revision))
        trouble.revision = account.revision
        if entry.retry:
            first, most = _FIRST_WAIT_S, _MOST_WAIT_S
        else:
            first, most = _REFUSED_WAIT_S, _MOST_REFUSED_WAIT_S
        wait_s = min(first * 2 ** min(trouble.failures, 16), most) * (1 + self._chance() / 5)
        trouble.failures += 1
        trouble.not_before = now + int(wait_s * 1000)
        detail = clean_text(closed.detail, _LONGEST)
        log.warning(
            "mailbox.failed",
            account=account.address,
            stage=closed.step,
            reason=detail,
            cause=entry.cause,
            remedy=entry.id,
            retry_in_s=round(wait_s),
        )
        if trouble.told or now - trouble.since < (_TOLD_LATER_MS if entry.retry else _TOLD_MS):
            return

        def tell(connection: Connection) -> None:
            open_condition(
                connection,
                account_id=account.id,
                kind=ConditionKind.MAILBOX,
                cause=entry.id,
                who=who_must_act(entry),
                detail=detail,
                now_ms=now,
            )

        await self._database.write(tell)
        trouble.told = True

    async def _over(self, account_id: int, *, silently: bool = False) -> None:
        trouble = self._troubles.pop(account_id)
        if trouble.told:
            now = self._clock()
            await self._database.write(
                lambda connection: close_conditions(
                    connection, account_id=account_id, kind=ConditionKind.MAILBOX, now_ms=now, silently=silently
                )
            )
