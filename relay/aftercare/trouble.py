"""Tells people about trouble with accounts: once a cause, again daily while it lasts, and once when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from relay.accounts.conditions import (
    Condition,
    ConditionKind,
    NoticeGroup,
    closed_unannounced,
    closing_announced,
    due_for_notice,
    noticed,
    open_conditions,
    unheard,
)
from relay.accounts.directory import Directory
from relay.accounts.model import Account, AccountState
from relay.accounts.normalise import normalise
from relay.aftercare import trouble_words as words
from relay.aftercare.carrier import carriers, standing
from relay.aftercare.chat import ChatOutcome, Chats
from relay.aftercare.letters import Postmark, own_mail, plain
from relay.aftercare.rounds import Rounds
from relay.aftercare.trouble_words import Trouble
from relay.database.engine import Database
from relay.mail.ids import format_id
from relay.queue.ours import MAIL, OwnMail, Told, put, record, stuck, take_back, told_since
from relay.queue.store import Queue
from relay.queue.waiting import waiting
from relay.telemetry import get_logger

if TYPE_CHECKING:
    from relay.config.settings import NoticesSettings

log = get_logger()

TROUBLE, OVER = "trouble", "over"
_ROUND_S = 5.0
_GATHER_MS = 3_000  # who is stopped by the same cause at the same time is in one notice
_AGAIN_MS = 600_000  # after nobody could be told
_HOUR_MS = 3_600_000
_HALTS = frozenset({ConditionKind.SUSPENDED, ConditionKind.RESTING})


@dataclass(frozen=True, slots=True)
class _Letter:
    recipient: str
    subject: str
    body: str


class TroubleNotices:
    """`run` until cancelled. Reads every few seconds from the store what lasts: no crash forgets it."""

    def __init__(
        self,
        settings: NoticesSettings,
        *,
        database: Database,
        directory: Directory,
        queue: Queue,
        chats: Chats,
        postmark: Postmark,
        resting: Callable[[int], bool],
        clock: Callable[[], int],
    ) -> None:
        """`resting(account_id)`: is its lane held up right now?"""
        self._settings, self._database, self._directory, self._queue = settings, database, directory, queue
        self._chats, self._postmark, self._resting, self._clock = chats, postmark, resting, clock
        self._not_before: dict[tuple[object, ...], int] = {}  # what nobody could be told of lately
        self.leads: Callable[[], bool] = lambda: True  # of several nodes: is it for this one to do?
        self._halted: frozenset[int] = frozenset()  # accounts in trouble, as the last round saw it

    def configure(self, settings: NoticesSettings) -> None:
        """Other settings, from the next round on. Whom nobody could tell is tried at once: there may be a way now."""
        self._settings = settings
        self._not_before.clear()

    async def run(self) -> None:
        """Never ends by itself, whatever fails."""
        await Rounds("notices", longest_s=_ROUND_S).run(self.round)

    async def round(self) -> None:
        """Tell what is due now, and what is over."""
        if not self.leads():
            return
        now, repeat_ms = self._clock(), int(self._settings.repeat_s * 1000)

        lasting = await self._database.read(open_conditions)
        self._halted = frozenset(one.account_id for one in lasting if one.account_id is not None and one.kind in _HALTS)
        self._not_before = {key: until for key, until in self._not_before.items() if until > now}
        if lasting:
            await self._take_back(now)

        def read(connection: Connection) -> tuple[list[NoticeGroup], list[Condition]]:
            return due_for_notice(connection, now_ms=now, repeat_ms=repeat_ms), closed_unannounced(connection)

        due, over = await self._database.read(read)
        counts = await self._database.read(waiting) if due or over else {}
        for group in due:
            if max(one.opened_at for one in group.conditions) <= now - _GATHER_MS:
                trouble = self._trouble(group.conditions, counts, repeated=group.repeated)
                await self._tell(TROUBLE, trouble, self._letters(trouble), words.to_chat(trouble))
        for conditions in _together(over):
            if max(one.closed_at or 0 for one in conditions) <= now - _GATHER_MS:
                await self._over(self._trouble(conditions, counts), now)

    # -- what is said --------------------------------------------------------------------------------------

    def _trouble(self, conditions: Sequence[Condition], counts: dict[int, int], *, repeated: bool = False) -> Trouble:
        accounts = {account.id: account for account in self._directory.accounts()}
        first = conditions[0]
        return Trouble(first.kind, first.cause, first.who, tuple(conditions), accounts, counts, repeated)

    def _letters(self, trouble: Trouble) -> list[_Letter]:
        relay, settings = self._postmark.hostname, self._settings
        letters = [
            _Letter(address, *words.to_administrator(trouble, relay=relay, repeat_s=settings.repeat_s))
            for address in settings.administrator
        ]
        for owner, part in self._by_owner(trouble):
            text = words.to_owner(part, relay=relay, repeat_s=settings.repeat_s, administrators=settings.administrator)
            letters.append(_Letter(owner, *text))
        return letters

    def _by_owner(self, trouble: Trouble) -> Iterable[tuple[str, Trouble]]:
        """Each owner once, who is not told as an administrator already, with the accounts that are theirs."""
        owned: dict[str, list[Account]] = {}
        for account in trouble.concerned:
            owned.setdefault(normalise(account.owned_by), []).append(account)
        told = {normalise(address) for address in self._settings.administrator}
        for owner, accounts in owned.items():
            if owner not in told:
                yield accounts[0].owned_by, trouble.of([account.id for account in accounts])

    async def _over(self, trouble: Trouble, now: int) -> None:
        if trouble.kind in _HALTS and any(one.account_id in self._halted for one in trouble.conditions):
            # Another cause holds one of them up by now: of that people hear, and that this one passed is no comfort.
            ids = [condition.id for condition in trouble.conditions]
            await self._database.write(lambda connection: closing_announced(connection, ids, now))
            return
        relay = self._postmark.hostname
        text = words.over(trouble, relay=relay)
        letters = [_Letter(address, *text) for address in self._settings.administrator]
        letters += [_Letter(owner, *words.over(part, relay=relay)) for owner, part in self._by_owner(trouble)]
        await self._tell(OVER, trouble, letters, text)

    # -- how it is said ------------------------------------------------------------------------------------

    async def _tell(self, kind: str, trouble: Trouble, letters: list[_Letter], short: tuple[str, str]) -> None:
        now = self._clock()
        key = (kind, trouble.cause, *(condition.id for condition in trouble.conditions))
        if key in self._not_before:
            return
        limit = self._settings.per_hour
        recipients = [letter.recipient for letter in letters]
        if not await self._database.read(lambda connection: _within(connection, recipients, now, limit)):
            self._not_before[key] = now + _AGAIN_MS
            log.info("notice.withheld", kind=kind, remedy=trouble.cause, reason="too many in this hour; told later")
            return
        mails = await self._mails(kind, trouble, letters, now)
        heard = await self._chats.tell(*short)
        if not mails and not any(outcome.sent for outcome in heard):
            self._not_before[key] = now + _AGAIN_MS
            reason = "no healthy account can carry it, and no other way is set (RELAY_NOTICES__URLS)"
            log.warning("notice.failed", kind=kind, channel=MAIL, remedy=trouble.cause, reason=reason)
            _log_chats(kind, heard)
            return
        if await self._database.write(lambda connection: self._keep(connection, kind, trouble, mails, heard, now)):
            for mail in mails:
                self._queue.on_backlog(mail.account_id)
                log.info("notice.queued", kind=kind, channel=MAIL, recipient=mail.recipient, remedy=trouble.cause,
                         message_id=format_id(mail.id))  # fmt: skip
        _log_chats(kind, heard)

    async def _mails(self, kind: str, trouble: Trouble, letters: list[_Letter], now: int) -> list[OwnMail]:
        able = await self.carriers(trouble.concerned[0].address if trouble.concerned else "")
        if not able:
            return []
        return [
            own_mail(
                plain(letter.subject, letter.body),
                id=self._queue.new_id(),
                kind=kind,
                carrier=able[0],
                recipient=letter.recipient,
                postmark=self._postmark,
                now=now,
            )
            for letter in letters
        ]

    async def carriers(self, near: str) -> list[Account]:
        """The accounts that can carry a notice now, best first; `near`: the address it concerns."""
        accounts = self._directory.accounts()
        return carriers(
            accounts,
            await self._database.read(standing),
            named=self._settings.account,
            near=near,
            troubled=lambda account: account.id in self._halted or self._resting(account.id),
        )

    def _keep(
        self,
        connection: Connection,
        kind: str,
        trouble: Trouble,
        mails: list[OwnMail],
        heard: list[ChatOutcome],
        now: int,
    ) -> bool:
        """Queue the mails, and remember that people were told; False: what they would be told is not so any more."""
        ids = [condition.id for condition in trouble.conditions]
        if kind == TROUBLE and not {one.id for one in open_conditions(connection)} & set(ids):
            return False
        account_id = trouble.concerned[0].id if trouble.concerned else None
        for mail in mails:
            put(connection, mail, now)
            told = Told(kind, account_id, trouble.cause, MAIL, mail.recipient, "queued", message_id=mail.id)
            record(connection, told, now)
        for outcome in heard:
            state = "sent" if outcome.sent else "failed"
            record(connection, Told(kind, account_id, trouble.cause, outcome.channel, "", state, outcome.why), now)
        (noticed if kind == TROUBLE else closing_announced)(connection, ids, now)
        return True

    async def _take_back(self, now: int) -> None:
        """What waits for an account that got into trouble itself is told through another one."""
        stopped = [one.id for one in self._directory.accounts() if one.state is AccountState.SUSPENDED]
        if not stopped or not await self.carriers(""):
            return

        def again(connection: Connection) -> None:
            found = stuck(connection, TROUBLE, stopped)
            causes = {about for _, about in found}
            take_back(connection, [message_id for message_id, _ in found], now)
            unheard(connection, [one.id for one in open_conditions(connection) if one.cause in causes])

        if await self._database.read(lambda connection: stuck(connection, TROUBLE, stopped)):
            await self._database.write(again)


def _within(connection: Connection, recipients: Sequence[str], now: int, limit: int) -> bool:
    since = now - _HOUR_MS
    return all(
        told_since(connection, since, kinds=(TROUBLE, OVER), recipient=recipient) < limit for recipient in recipients
    )


def _together(conditions: Iterable[Condition]) -> list[list[Condition]]:
    """What one notice says is over: of the same kind, cause and group."""
    groups: dict[tuple[object, ...], list[Condition]] = {}
    for one in conditions:
        groups.setdefault((one.kind, one.cause, one.group_key or one.id), []).append(one)
    return list(groups.values())


def _log_chats(kind: str, heard: Iterable[ChatOutcome]) -> None:
    for outcome in heard:
        if outcome.sent:
            log.info("notice.sent", kind=kind, channel=outcome.channel)
        else:
            log.warning("notice.failed", kind=kind, channel=outcome.channel, reason=outcome.why)
