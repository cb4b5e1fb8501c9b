"""Looks for mail that came back in the mailboxes that are opened for it. Reads only, answers nothing, sends nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select, update
from sqlalchemy import insert as insert_into

from relay.accounts.directory import Directory
from relay.accounts.model import Account, AccountState
from relay.aftercare.mailbox import Mailboxes
from relay.aftercare.rounds import Rounds
from relay.database.engine import Database
from relay.database.schema import mailboxes
from relay.diagnosis import diagnose
from relay.diagnosis.catalogue import entry_by_id
from relay.diagnosis.conditions import CONDITIONS
from relay.mail.errors import StorageFailed, StorageFull
from relay.mail.outcome import Refused, Stage
from relay.mail.returned import MOST_OCTETS, Notification, Return, may_be_notification, read_notification
from relay.queue import returned
from relay.queue.returned import Failure, Kept
from relay.submission.imap.connection import ImapConnection
from relay.submission.imap.folders import folder_named, sections, uids_between
from relay.submission.imap.opening import MailboxClosed
from relay.telemetry import get_logger
from relay.telemetry.cleaning import clean_text
from relay.telemetry.counters import count

if TYPE_CHECKING:
    from relay.config.settings import MailboxSettings

log = get_logger()

_AT_ONCE = 4  # mailboxes
_LOOK_S = 15.0  # how often it is looked which accounts want it
_WINDOW = 4000  # UIDs in one search: its answer is one line
_WINDOWS = 25  # in one visit; the rest in the next
_HEADERS = 100  # in one fetch
_HEADER_OCTETS = 2048
_BACK_MS = 5 * 86_400_000  # how far a mailbox that is new is looked back
_MATCHED_MS = 14 * 86_400_000  # how old a message may be that comes back: servers try for 5 days
_JITTER = 0.2
_LONGEST = 1024  # octets


class Returns:
    """`run` until cancelled. `chance` is uniform in 0..1: not all mailboxes are opened at once."""

    def __init__(
        self,
        settings: MailboxSettings,
        opener: Mailboxes,
        *,
        database: Database,
        directory: Directory,
        clock: Callable[[], int],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings, self._opener = settings, opener
        self._database, self._directory, self._clock, self._chance = database, directory, clock, chance
        self.may: Callable[[int], bool] = lambda account_id: True  # of several nodes: is the account this one's?
        self._due: dict[int, tuple[int, str | None]] = {}  # account: when (ms since 1970), and for which folder

    def configure(self, settings: MailboxSettings) -> None:
        """Other settings; with another `poll_s` every mailbox is looked at now, and from then on as it says."""
        if settings.poll_s != self._settings.poll_s:
            self._due.clear()
        self._settings = settings

    async def run(self) -> None:
        """Never ends by itself, whatever fails."""
        await Rounds("returns", longest_s=min(_LOOK_S, self._settings.poll_s)).run(self.round)

    async def round(self) -> None:
        """Visit the mailboxes whose time has come."""
        accounts = self._directory.accounts()
        await self._opener.keep(
            account.id for account in accounts if account.bounces or self._directory.upstream(account).sent_copy
        )
        slots = asyncio.Semaphore(_AT_ONCE)

        async def visit(account: Account) -> None:
            async with slots:
                await self._visit(account)

        async with asyncio.TaskGroup() as visits:
            for account in accounts:
                if self._is_due(account):
                    visits.create_task(visit(account), name=f"mailbox of {account.address}")

    def _is_due(self, account: Account) -> bool:
        """A login that is stopped is not tried here either."""
        if account.bounces is None or account.state is not AccountState.OK:
            return False
        at, folder = self._due.get(account.id, (0, None))
        now = self._clock()
        if now < self._opener.not_before(account, "bounces") or (now < at and folder == account.bounces):
            return False
        return self.may(account.id)

    async def _visit(self, account: Account) -> None:
        wait_s = self._settings.poll_s * (1 + _JITTER * (self._chance() * 2 - 1))
        self._due[account.id] = self._clock() + int(wait_s * 1000), account.bounces
        try:
            async with self._opener.opened(account, "bounces") as connection:
                if not await self._read(account, connection):
                    self._due[account.id] = 0, account.bounces
        except MailboxClosed:
            pass  # it is in the log, and tried again
        except (StorageFull, StorageFailed) as error:
            log.error("storage.failed", where="returns", detail=str(error))
        except Exception as error:  # one mailbox must not keep the others from being read
            log.error("daemon.fault", where="returns", account=account.address, exc_info=error)

    async def _read(self, account: Account, connection: ImapConnection) -> bool:
        """What is new in its folder. False: there is more."""
        assert account.bounces is not None
        named = folder_named(() if account.bounces == "INBOX" else await connection.folders(), account.bounces)
        if named is None:
            raise MailboxClosed("folder", "imap-no-folder", f"there is no folder {account.bounces}")
        folder = await connection.examine(named.name)
        if not folder.uidvalidity or not folder.uidnext:
            raise MailboxClosed("folder", "imap-protocol", "the folder has no UIDVALIDITY or no UIDNEXT")
        last = await self._database.read(
            lambda c: c.scalar(
                select(mailboxes.c.last_uid).where(
                    mailboxes.c.account_id == account.id,
                    mailboxes.c.folder == account.bounces,
                    mailboxes.c.uidvalidity == folder.uidvalidity,
                )
            )
        )
        since = None
        if last is None:  # new, or numbered anew
            since = self._clock() - _BACK_MS
            last = max(0, folder.uidnext - 1 - _WINDOW * (_WINDOWS - 1))
        if last >= folder.uidnext - 1:
            if since is not None:
                await self._keep(account, (), folder.uidvalidity, last)  # from here on
            return True
        for _ in range(_WINDOWS):
            until = min(last + _WINDOW, folder.uidnext - 1)
            uids = await uids_between(connection, last + 1, until, since_ms=since)
            for start in range(0, len(uids), _HEADERS):
                some = uids[start : start + _HEADERS]
                reached = some[-1] if start + _HEADERS < len(uids) else until
                await self._look(account, connection, some, folder.uidvalidity, reached)
            if not uids:
                await self._keep(account, (), folder.uidvalidity, until)
            last = until
            if last >= folder.uidnext - 1:
                return True
        return False

    async def _look(
        self, account: Account, connection: ImapConnection, uids: Sequence[int], validity: int, reached: int
    ) -> None:
        headers = await sections(connection, uids, b"HEADER.FIELDS (CONTENT-TYPE)", _HEADER_OCTETS)
        found: list[Notification] = []
        for uid, header in headers.items():
            if may_be_notification(header):
                octets = (await sections(connection, [uid], b"", MOST_OCTETS)).get(uid, b"")
                notification = await asyncio.to_thread(read_notification, octets)
                if notification is not None:
                    found.append(notification)
        await self._keep(account, found, validity, reached)

    async def _keep(self, account: Account, found: Sequence[Notification], validity: int, reached: int) -> None:
        """What was found, and how far was looked: in one transaction, so that nothing is missed or told twice."""
        now = self._clock()
        told: list[tuple[int, list[Failure]]] = []
        for notification in found:  # searched for while others write
            message_id = await self._message_of(account, notification, now)
            if message_id is not None:
                told.append((message_id, [_failure(failed) for failed in notification.failed]))

        def write(connection: Connection) -> list[Kept]:
            kept = [
                one for message_id, failures in told for one in returned.keep(connection, message_id, failures, now)
            ]
            _remember(connection, account, validity, reached, now)
            return kept

        for one in await self._database.write(write):
            _tell(account, one)

    async def _message_of(self, account: Account, notification: Notification, now: int) -> int | None:
        return await self._database.read(
            lambda connection: returned.message_of(
                connection,
                account_id=account.id,
                address=account.address,
                ids=notification.ids,
                message_ids=notification.message_ids,
                envelope_id=notification.envelope_id,
                since_ms=now - _MATCHED_MS,
            )
        )


def _remember(connection: Connection, account: Account, validity: int, reached: int, now: int) -> None:
    place = {"folder": account.bounces, "uidvalidity": validity, "last_uid": reached, "read_at": now}
    mine = mailboxes.c.account_id == account.id
    if not connection.execute(update(mailboxes).where(mine).values(**place)).rowcount:
        connection.execute(insert_into(mailboxes).values(account_id=account.id, **place))


def _failure(one: Return) -> Failure:
    """With what it means; every word of it comes from outside."""
    reply = one.reply
    return Failure(
        clean_text(one.final, _LONGEST),
        clean_text(one.original, _LONGEST),
        clean_text(one.host, _LONGEST),
        reply.code,
        reply.status,
        clean_text(" ".join(reply.text.split()), _LONGEST),
        diagnose(Refused(reply, Stage.RCPT)).id,
    )


def _tell(account: Account, kept: Kept) -> None:
    failure = kept.failure
    entry = entry_by_id(failure.cause) or CONDITIONS.get(failure.cause)
    count("relay_returned_total", account=account.address)
    log.warning(
        "delivery.returned",
        message_id=returned.shown(kept),
        account=account.address,
        sender=kept.sender,
        recipient=kept.recipient,
        code=failure.code,
        status=failure.status,
        reply=failure.reply,
        host=failure.host,
        cause=entry.cause if entry is not None else "",
        remedy=failure.cause,
    )
