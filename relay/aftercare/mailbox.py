"""Opens the mailboxes of accounts, seldom once they refuse; trouble with one stops no mail, people just hear of it."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection

from relay.accounts.conditions import ConditionKind, close_conditions, open_condition, open_conditions
from relay.accounts.directory import Directory
from relay.accounts.model import Account
from relay.accounts.upstream import imap_of
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

if TYPE_CHECKING:
    from relay.config.settings import ImapDefaults, SubmissionSettings

log = get_logger()

_COMMAND_S = 60.0
_FIRST_WAIT_S, _MOST_WAIT_S = 60.0, 3600.0
_REFUSED_WAIT_S, _MOST_REFUSED_WAIT_S = 1200.0, 21_600.0  # providers lock accounts
_TOLD_MS = 3_600_000  # what lasts so long, and somebody has to act, people hear of
_TOLD_LATER_MS = 86_400_000  # what may pass by itself
_LONGEST = 400  # octets of what a server said
_OF_FOLDERS = frozenset({"imap-no-folder", "imap-refused"})


Purpose = Literal["bounces", "copies"]
_PURPOSES: tuple[Purpose, ...] = ("bounces", "copies")
_Key = tuple[int, Purpose | None]  # account; for what, None: it does not open at all


@dataclass(slots=True)
class _Trouble:
    """A row of failures without a success in between. Times are ms since 1970; `told`: the cause people know of."""

    since: int
    revision: int
    failures: int = 0
    not_before: int = 0
    told: str = ""


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
        self._troubles: dict[_Key, _Trouble] = {}
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
                for purpose in _PURPOSES if one.cause in _OF_FOLDERS else (None,):
                    self._troubles[one.account_id, purpose] = _Trouble(one.opened_at, revision=0, told=one.cause)

    def not_before(self, account: Account, purpose: Purpose) -> int:
        """When its mailbox may be tried again (ms since 1970); 0: at once. A changed account is tried at once."""
        known = (self._troubles.get((account.id, one)) for one in (None, purpose))
        return max((one.not_before for one in known if one is not None and one.revision == account.revision), default=0)

    async def keep(self, wanted: Iterable[int]) -> None:
        """Forget trouble with the mailboxes of all other accounts: nobody wants to read them any more."""
        accounts = set(wanted)
        for key in [key for key in self._troubles if key[0] not in accounts]:
            await self._over(key, silently=True)

    @asynccontextmanager
    async def opened(self, account: Account, purpose: Purpose) -> AsyncIterator[ImapConnection]:
        """Its mailbox, for what is done inside; success and failure are remembered. Raises MailboxClosed."""
        try:
            async with self._opened(account) as connection:
                yield connection
        except MailboxClosed as closed:
            await self._failed(account, purpose if closed.step == "folder" else None, closed)
            raise
        over = [key for key in ((account.id, None), (account.id, purpose)) if key in self._troubles]
        for key in over:
            await self._over(key)
        if over:
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

    async def _failed(self, account: Account, purpose: Purpose | None, closed: MailboxClosed) -> None:
        now, entry = self._clock(), CONDITIONS.get(closed.reason, CONDITIONS["imap-protocol"])
        trouble = self._troubles.setdefault((account.id, purpose), _Trouble(now, account.revision))
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
        trouble.told = entry.id

    async def _over(self, key: _Key, *, silently: bool = False) -> None:
        trouble = self._troubles.pop(key, None)  # another visit may have ended it meanwhile
        if trouble is None or not trouble.told:
            return
        now = self._clock()

        def close(connection: Connection) -> None:
            close_conditions(
                connection,
                account_id=key[0],
                kind=ConditionKind.MAILBOX,
                cause=trouble.told,
                now_ms=now,
                silently=silently,
            )

        await self._database.write(close)
