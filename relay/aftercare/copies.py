"""Files copies of what was relayed in mailboxes' Sent folders: at most one of each. Never sends mail again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from relay.accounts.directory import Directory
from relay.accounts.model import Account, AccountState
from relay.aftercare.mailbox import Mailboxes
from relay.aftercare.rounds import Rounds, seconds_until
from relay.database.engine import Database
from relay.mail.content import Unstuffer
from relay.mail.errors import StorageFailed, StorageFull
from relay.mail.ids import format_id
from relay.queue import copies
from relay.queue.copies import Copy
from relay.queue.store import Queue
from relay.submission.imap.connection import CommandRefused, ImapConnection
from relay.submission.imap.folders import append, holds, sent_of
from relay.submission.imap.opening import MailboxClosed
from relay.submission.imap.responses import Folder
from relay.telemetry import get_logger

if TYPE_CHECKING:
    from relay.config.settings import MailboxSettings

log = get_logger()

_AT_ONCE = 4  # mailboxes
_AT_A_TIME = 200  # copies
_PIECE = 65_536  # octets
_LONGEST_WAIT_S = 60.0
_OTHERS_S = 5.0
_AGAIN_MS = 60_000


@dataclass(frozen=True, slots=True)
class _ContentGone(Exception):
    """Nothing is left to file."""


class Copies:
    """`run` until cancelled; `poke` when one is owed. The store says what: no crash forgets or repeats it."""

    def __init__(
        self,
        settings: MailboxSettings,
        opener: Mailboxes,
        *,
        database: Database,
        directory: Directory,
        queue: Queue,
        clock: Callable[[], int],
    ) -> None:
        self._settings, self._opener = settings, opener
        self._database, self._directory, self._queue, self._clock = database, directory, queue, clock
        self.may: Callable[[int], bool] = lambda account_id: True  # of several nodes: is the account this one's?
        # Several mails, one login.
        self._rounds = Rounds("copies", longest_s=_LONGEST_WAIT_S, gather_s=settings.copy_gather_s)

    def configure(self, settings: MailboxSettings) -> None:
        """Other settings, from the next copy on."""
        self._settings = settings

    def poke(self) -> None:
        """One is owed."""
        self._rounds.poke()

    async def run(self) -> None:
        """Never ends by itself, whatever fails."""
        await self._rounds.run(self.round)

    async def round(self) -> float | None:
        """File what is due; how many seconds may pass until more is, None: none is owed."""
        due = await self._database.read(lambda connection: copies.due(connection, self._clock(), _AT_A_TIME))
        theirs = {account_id for account_id in {copy.account_id for copy in due} if not self.may(account_id)}
        due = [copy for copy in due if copy.account_id not in theirs]
        slots = asyncio.Semaphore(_AT_ONCE)

        async def pay(account_id: int, owed: Sequence[Copy]) -> None:
            async with slots:
                await self._pay(account_id, owed)

        async with asyncio.TaskGroup() as payments:
            for account_id, owed in groupby(sorted(due, key=_by_account), key=_by_account):
                payments.create_task(pay(account_id, list(owed)), name=f"copies of account {account_id}")
        soonest = await self._database.read(copies.next_due)
        if theirs:  # what another node has to file stays due until it did
            return _OTHERS_S
        return seconds_until(soonest, self._clock())

    async def _pay(self, account_id: int, owed: Sequence[Copy]) -> None:
        account = self._directory.account(account_id)
        left = list(owed)
        try:
            left = [copy for copy in owed if not await self._is_over(account, copy)]
            if account is None or not left:
                return
            now, not_before = self._clock(), self._opener.not_before(account, "copies")
            if not_before <= now and account.state is AccountState.OK:
                async with self._opener.opened(account, "copies") as connection:
                    await self._file_all(account, connection, left)
        except MailboxClosed:
            pass  # it is in the log
        except (StorageFull, StorageFailed) as error:
            log.error("storage.failed", where="copies", detail=str(error))
        except Exception as error:  # one account's must not keep the others' from being filed
            log.error("daemon.fault", where="copies", account_id=account_id, exc_info=error)
        if account is not None and left:
            await self._later(left, max(self._opener.not_before(account, "copies"), self._clock() + _AGAIN_MS))

    async def _later(self, left: Sequence[Copy], until: int) -> None:
        ids = [copy.message_id for copy in left]
        await self._database.write(lambda connection: copies.postpone(connection, ids, until))

    async def _is_over(self, account: Account | None, copy: Copy) -> bool:
        """Nobody wants it any more, or it could not be filed for long."""
        if account is None:
            why = "its account was removed"
        elif not self._directory.upstream(account).sent_copy:
            why = "its account wants no copies any more"
        elif self._clock() - copy.relayed_at >= self._settings.copy_lifetime_s * 1000:
            why = "it could not be filed within its time"
        else:
            return False
        await self._give_up(copy, account, why)
        return True

    async def _give_up(self, copy: Copy, account: Account | None, why: str) -> None:
        await self._settled(copy, filed=False)
        log.warning(
            "copy.given_up",
            message_id=format_id(copy.message_id),
            account=account.address if account is not None else "",
            reason=why,
        )

    async def _settled(self, copy: Copy, *, filed: bool) -> None:
        now = self._clock()
        spool = await self._database.write(lambda c: copies.settle(c, copy.message_id, now, filed=filed))
        if spool is not None:
            await self._queue.forget_file(spool)

    async def _file_all(self, account: Account, connection: ImapConnection, left: list[Copy]) -> None:
        """Each that is done leaves `left`."""
        sent = await sent_of(connection)
        if sent is None:
            raise MailboxClosed("folder", "imap-no-folder", "there is no folder for sent mail")
        while left:
            copy = left[0]
            try:
                if not (copy.doubtful and await _lies_there(connection, sent, copy)):
                    await self._file(connection, sent, copy)
            except _ContentGone:
                await self._give_up(copy, account, "its content is gone")
            else:
                await self._settled(copy, filed=True)
                where = sent.shown
                log.info("copy.filed", message_id=format_id(copy.message_id), account=account.address, where=where)
            left.pop(0)

    async def _file(self, connection: ImapConnection, sent: Folder, copy: Copy) -> None:
        size = 0
        async for piece in self._octets(copy):
            size += len(piece)
        now = self._clock()
        await self._database.write(lambda c: copies.begin(c, copy.message_id, now))
        try:
            await append(connection, sent, self._octets(copy), size=size, at_ms=copy.accepted_at)
        except CommandRefused as refusal:
            if refusal.status.kind != "BYE":  # it says that it did not take it
                await self._database.write(lambda c: copies.not_taken(c, copy.message_id))
            raise

    async def _octets(self, copy: Copy) -> AsyncIterator[bytes]:
        """As its author sent it: the dots of the wire undone. Raises _ContentGone, StorageFailed."""
        plain = Unstuffer()
        for at in range(0, copy.content.size, _PIECE):
            wire = await self._queue.piece(copy.message_id, copy.content, at, _PIECE)
            if not wire:
                raise _ContentGone
            yield plain.feed(wire)
        yield plain.finish()


async def _lies_there(connection: ImapConnection, sent: Folder, copy: Copy) -> bool:
    """Did it arrive, although no answer said so? By its Message-ID, or without one by the id in our trace field."""
    try:
        if copy.header_message_id:
            return await holds(connection, sent, b"MESSAGE-ID", copy.header_message_id.encode())
    except ValueError:
        pass  # it cannot be asked for
    return await holds(connection, sent, b"RECEIVED", format_id(copy.message_id).encode())


def _by_account(copy: Copy) -> int:
    return copy.account_id
