"""Pays what is owed to senders: a notice of what came to nothing, waits, or was handed on. Never sends mail again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from relay.accounts.advice import steps_for
from relay.accounts.directory import Directory
from relay.accounts.model import Account, AccountState
from relay.accounts.normalise import normalise
from relay.aftercare.letters import Postmark, own_mail
from relay.aftercare.original import MOST, Original, original_of
from relay.aftercare.reports import Fate, Report, report
from relay.aftercare.rounds import Rounds, seconds_until
from relay.database.engine import Database
from relay.diagnosis.catalogue import entry_by_id
from relay.diagnosis.conditions import CONDITIONS
from relay.mail.content import Content
from relay.mail.errors import StorageFailed, StorageFull
from relay.mail.ids import format_id
from relay.mail.reply import spoken
from relay.queue import owed
from relay.queue.model import Owed, State
from relay.queue.ours import MAIL, OwnMail, Told, put, record, told_since
from relay.queue.owed import Debt, Indebted
from relay.queue.store import Queue
from relay.telemetry import get_logger

if TYPE_CHECKING:
    from relay.config.settings import NoticesSettings

log = get_logger()

BOUNCE = "bounce"
TOO_MANY = "too many in this hour"
_AT_A_TIME = 100
_LONGEST_WAIT_S = 60.0
_LATER_MS = 3_600_000  # until the rest of a message whose first failures were told is looked at again
_HEARING_MS = 10_000
_HOUR_MS = 3_600_000
_UNSETTLED = frozenset({State.QUEUED, State.ACTIVE, State.DEFERRED, State.IN_DOUBT, State.HELD})
_NO_EIGHT_BIT = frozenset({"5.6.3", "5.6.7"})  # the upstream takes no 8-bit text: it would refuse the notice as well


@dataclass(frozen=True, slots=True)
class _Decision:
    """The mail that pays what is owed; None: `why` nobody is told ("": that needs no line in the record)."""

    mail: OwnMail | None
    why: str = ""


class Bounces:
    """`run` until cancelled; `poke` when something is owed. The store says what: no crash forgets or repeats it."""

    def __init__(
        self,
        settings: NoticesSettings,
        *,
        lifetime_s: float,
        database: Database,
        directory: Directory,
        queue: Queue,
        postmark: Postmark,
        resting: Callable[[int], bool],
        clock: Callable[[], int],
    ) -> None:
        """`lifetime_s`: how long mail is tried.  `resting(account_id)`: is its lane held up right now?"""
        self._settings, self._lifetime_ms = settings, int(lifetime_s * 1000)
        self._database, self._directory, self._queue, self._postmark = database, directory, queue, postmark
        self._resting, self._clock = resting, clock
        self._rounds = Rounds("notices", longest_s=_LONGEST_WAIT_S)
        self.leads: Callable[[], bool] = lambda: True  # of several nodes: is it for this one to do?

    def configure(self, settings: NoticesSettings, *, lifetime_s: float) -> None:
        """Other settings, from the next notice on."""
        self._settings, self._lifetime_ms = settings, int(lifetime_s * 1000)
        self.poke()

    def poke(self) -> None:
        """Look now."""
        self._rounds.poke()

    async def run(self) -> None:
        """Never ends by itself, whatever fails."""
        await self._rounds.run(self.round)

    async def round(self) -> float | None:
        """Pay what is due; how many seconds may pass until more is, None: nothing more is owed."""
        if not self.leads():
            return None
        while ids := await self._database.read(lambda connection: owed.due(connection, self._clock(), _AT_A_TIME)):
            for message_id in ids:
                try:
                    await self._pay(message_id)
                except (StorageFull, StorageFailed):
                    raise
                except Exception as error:  # one that cannot be told must not keep the others from it
                    log.error("daemon.fault", where="notice", message_id=format_id(message_id), exc_info=error)
                    await self._later(message_id, _LATER_MS)
        soonest = await self._database.read(owed.next_due)
        return seconds_until(soonest, self._clock())

    async def _later(self, message_id: int, wait_ms: int) -> None:
        until = self._clock() + wait_ms
        await self._database.write(lambda connection: owed.postpone(connection, message_id, until))

    async def _pay(self, message_id: int) -> None:
        found = await self._database.read(lambda connection: owed.load(connection, message_id))
        if found is None:
            return
        if message_id in self._queue.verdicts.waiting:  # an application may hear it any moment
            await self._later(message_id, _HEARING_MS)
            return
        if found.told and found.waits and any(debt.kind is Owed.FAILED for debt in found.debts):
            await self._later(message_id, _LATER_MS)  # the rest of its failures in one more notice, when all is settled
            return
        now = self._clock()
        decision = await self._decide(found, now)
        spool = await self._database.write(lambda connection: self._keep(connection, found, decision, now))
        if spool is not None:
            await self._queue.forget_file(spool)
        if decision.mail is not None:
            self._queue.on_backlog(decision.mail.account_id)
            log.info("notice.queued", kind=BOUNCE, channel=MAIL, recipient=decision.mail.recipient,
                     detail=format_id(found.id), message_id=format_id(decision.mail.id))  # fmt: skip
        elif decision.why:
            log.info("notice.withheld", kind=BOUNCE, channel=MAIL, message_id=format_id(found.id), reason=decision.why)

    def _keep(self, connection: Connection, found: Indebted, decision: _Decision, now: int) -> str | None:
        """Everything about it in one transaction: queued and paid, or neither. A spool file that may go, if any."""
        notice_id = None
        if decision.mail is not None or decision.why:
            mail, account = decision.mail, self._account(found)
            told = Told(
                BOUNCE,
                account.id if account is not None else found.account_id,
                format_id(found.id),
                MAIL,
                mail.recipient if mail is not None else "",
                "queued" if mail is not None else "withheld",
                decision.why,
                mail.id if mail is not None else None,
            )
            line = record(connection, told, now)
            if mail is not None:
                put(connection, mail, now)
                notice_id = line
        return owed.pay(connection, found.id, found.debts, now, notice_id)

    # -- what is decided -----------------------------------------------------------------------------------

    async def _decide(self, found: Indebted, now: int) -> _Decision:
        # A word about waiting comes too late for what is settled, and what is settled has its own.
        debts = tuple(debt for debt in found.debts if debt.kind is not Owed.DELAYED or debt.state in _UNSETTLED)
        if not debts or not self._settings.bounces:
            return _Decision(None)
        if found.heard and all(debt.kind is Owed.FAILED for debt in debts):
            return _Decision(None)
        account = self._account(found)
        if account is None:
            return _Decision(None, "its account was removed")
        carrier = self._carrier(account)
        if all(debt.kind is Owed.DELAYED for debt in debts) and (carrier is None or not self._healthy(carrier)):
            return _Decision(None, "it would wait as long as the message")
        original = await self._original(found, debts)
        if original.silence:
            return _Decision(None, original.silence)

        def counted(connection: Connection) -> tuple[int, int]:
            made = told_since(connection, now - _HOUR_MS, kinds=(BOUNCE,), account_id=account.id)
            return made, owed.withheld_since_last(connection, account.id, BOUNCE, TOO_MANY)

        made, unsaid = await self._database.read(counted)
        if made >= self._settings.per_hour:
            return _Decision(None, TOO_MANY)
        facts = self._report(found, debts, original, unsaid)
        return _Decision(self._mail(facts, carrier or account, self._recipient(found, account), now))

    def _report(self, found: Indebted, debts: Sequence[Debt], original: Original, unsaid: int) -> Report:
        return Report(
            format_id(found.id),
            _said_as(found),
            found.header_message_id,
            found.request.envid,
            found.accepted_at,
            found.accepted_at + self._lifetime_ms,
            tuple(self._fate(debt) for debt in debts),
            original,
            waits=found.waits - sum(debt.kind is Owed.DELAYED for debt in debts),
            unsaid=unsaid,
        )

    def _mail(self, facts: Report, carrier: Account, recipient: str, now: int) -> OwnMail:
        header, body = report(facts, relay=self._postmark.hostname)
        return own_mail(
            header,
            body=body,
            id=self._queue.new_id(),
            kind=BOUNCE,
            carrier=carrier,
            recipient=recipient,
            postmark=self._postmark,
            now=now,
        )

    def _account(self, found: Indebted) -> Account | None:
        """Whose mail it is: where it was tried last, which is another account when its sender was given to one."""
        return self._directory.account(found.debts[0].account_id) or self._directory.account(found.account_id)

    def _carrier(self, account: Account) -> Account | None:
        """Whose login takes the notice: the account's own; in trouble, the one of the settings.

        Nobody else's: a notice shows mail of this account, and stays in that account's hands or where an administrator
        says that it may go.  None: both are stopped.
        """
        named = self._directory.by_address(self._settings.account) if self._settings.account else None
        able = [one for one in (account, named) if one is not None and one.state is AccountState.OK]
        return next((one for one in able if self._healthy(one)), able[0] if able else None)

    def _healthy(self, account: Account) -> bool:
        return account.state is AccountState.OK and not self._resting(account.id)

    def _recipient(self, found: Indebted, account: Account) -> str:
        """The sender as the application said it, if that is surely an address of the account; else its owner.

        Promise 21: nobody is told who is not registered as its owner or sender, whatever an envelope says.
        """
        said = _said_as(found)
        if normalise(said) == normalise(account.address):
            return said
        route = self._directory.route(said)
        if route is not None and route.step == "exact" and route.account_id == account.id and "@" in said:
            return said
        return account.owned_by

    async def _original(self, found: Indebted, debts: Sequence[Debt]) -> Original:
        excerpt = found.excerpt
        if found.spool is not None:
            excerpt = await self._queue.excerpt(Content(found.size, spool=found.spool), owed.EXCERPT)
        failed = any(debt.kind is Owed.FAILED for debt in debts)  # RFC 3461 4.3: RET is of failures only
        wide = found.smtputf8 or any(debt.status in _NO_EIGHT_BIT for debt in debts)
        full = failed and found.request.ret != "HDRS" and not found.smtputf8 and found.size <= MOST
        return await asyncio.to_thread(original_of, excerpt, size=found.size, full=full, plain_only=wide)

    def _fate(self, debt: Debt) -> Fate:
        account = self._directory.account(debt.account_id)
        entry = entry_by_id(debt.cause) or CONDITIONS.get(debt.cause)
        ours = not spoken(f"{debt.code or ''} {debt.reply}")
        cause = entry.cause if entry is not None else ""
        if debt.state is State.EXPIRED:
            cause = f"It could not be handed over within its lifetime. {cause}".strip()
        return Fate(
            debt.recipient,
            debt.kind,
            debt.orcpt,
            debt.code,
            debt.status,
            debt.reply,
            "" if ours or account is None else self._directory.upstream(account).host,
            cause,
            tuple(steps_for(entry.cls, entry.remedy, account)) if entry is not None else (),
            debt.attempted_at,
            expired=debt.state is State.EXPIRED,
        )


def _said_as(found: Indebted) -> str:
    return found.original_path or found.reverse_path
