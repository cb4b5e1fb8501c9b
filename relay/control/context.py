"""What every operator action works on: the open rooms, who asks, and how a change is made and audited."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sqlalchemy import Connection

from relay.accounts.directory import Directory
from relay.accounts.transitions import Change, tell
from relay.aftercare.chat import Chats
from relay.aftercare.letters import Postmark
from relay.control.access.attempts import Attempts
from relay.control.access.ceremonies import Ceremonies
from relay.control.access.model import Principal
from relay.control.access.pending import PersonSignIns
from relay.control.differences import difference, registered
from relay.control.refusal import ControlError
from relay.control.sign_ins import SignIns
from relay.credentials.logins import Logins
from relay.credentials.oauth.client import OAuthClient
from relay.credentials.vault import Vault
from relay.credentials.ways import Ways
from relay.database import trail
from relay.database.engine import Database
from relay.queue.store import Queue
from relay.submission.router import RoutedTransport

if TYPE_CHECKING:
    from relay.config.settings import RelaySettings

__all__ = ["Control", "ControlError", "Lanes", "Progress", "iso", "now_ms"]

T = TypeVar("T")
Progress = Callable[[Mapping[str, Any]], None]


class Lanes(Protocol):
    """What actions ask of a running dispatcher. None of it waits."""

    def refresh(self) -> None:
        """Accounts, senders or clients changed: apply it to what already waits."""

    def state(self, account_id: int) -> dict[str, object]:
        """What the lane does right now: resting_s, in_hand, active, connections, cause."""

    def sent(self, account_id: int) -> dict[int, int] | None:
        """Recipients that count against the daily quota, by hour number since 1970; None: it has no lane yet."""

    def wake(self, account_id: int) -> None:
        """Try this account's mail now: end its rest."""

    def flowing(self) -> bool:
        """False while outcomes cannot be recorded, or on the way out."""


class Desk:
    """What is remembered between requests from the web, in memory only: bad logins, what is half done."""

    def __init__(self) -> None:
        self.attempts = Attempts()
        self.turn = asyncio.Lock()  # of a login: each takes 64 MiB, and a thread of those that write mail, too
        self.sign_ins = SignIns()
        self.person_sign_ins = PersonSignIns()
        self.ceremonies = Ceremonies()
        self.pending_secrets: OrderedDict[str, str] = OrderedDict()  # second factors on their way, by principal
        self.changes = time.time_ns()  # another one after each change; not that of a process before this one

    def changed(self) -> None:
        """Something was changed: what was found out before may not be so any more."""
        self.changes += 1


@dataclass(frozen=True, slots=True)
class Control:
    """The rooms that actions use. `lanes` is None when no daemon runs: then the store alone is changed.

    `reload` reads the settings again (None: no daemon runs, every command does); it raises ControlError.
    `actor` is the operating system's name of who asks, or `console:NAME`, `token:NAME` when it came through the web:
    then `principal` says what they may do.  `progress` gets what an action has to tell on its way.
    """

    database: Database
    directory: Directory
    vault: Vault
    queue: Queue
    settings: RelaySettings
    transport: RoutedTransport
    oauth: OAuthClient
    logins: Logins
    ways: Ways
    chats: Chats
    postmark: Postmark
    lanes: Lanes | None = None
    reload: Callable[[], Awaitable[dict[str, Any]]] | None = None
    actor: str = "unknown"
    progress: Progress = lambda _: None
    principal: Principal | None = None
    desk: Desk = field(default_factory=Desk)

    def asked_by(self, actor: str, progress: Progress) -> Control:
        """The same rooms for one request."""
        return replace(self, actor=actor, progress=progress)

    def in_name_of(self, principal: Principal) -> Control:
        """The same rooms for a request that came through the web."""
        return replace(self, actor=principal.name, principal=principal)

    async def change(
        self,
        action: str,
        target: str,
        detail: Mapping[str, Any],
        function: Callable[[Connection], T],
    ) -> T:
        """Run `function` and write its audit row in one transaction, then make it effective.

        The row has `detail`, and what is registered under `target` before and after, where that differs.  `detail`
        must be JSON and hold no secret.  Raises what `function` raises; nothing is changed then.
        """

        def run(connection: Connection) -> T:
            before = registered(connection, action, target)
            result = function(connection)
            changed = difference(before, registered(connection, action, target))
            self.record(connection, action, target, {**detail, **changed})
            return result

        result = await self.database.write(run)
        self.desk.changed()
        await self.directory.reload()
        if self.lanes is not None:
            self.lanes.refresh()
        return result

    async def announce(self, action: str, targets: Iterable[str], detail: Mapping[str, Any]) -> None:
        """Audit what is about to be done to each target by another room, in a transaction of its own.

        Written first: a crash in between leaves a row for something that was not done, never the reverse.
        """

        def run(connection: Connection) -> None:
            for target in targets:
                self.record(connection, action, target, detail)

        await self.database.write(run)
        self.desk.changed()

    def record(self, connection: Connection, action: str, target: str, detail: Mapping[str, Any]) -> None:
        """One row of the audit trail, in the caller's transaction."""
        trail.record(connection, at_ms=now_ms(), actor=self.actor, action=action, target=target, detail=detail)

    def went_on(self, changes: Sequence[Change]) -> bool:
        """Accounts go on, durably, by what a person did: log it, try their mail now. False: none was stopped."""
        tell(changes)
        if changes:
            self.desk.changed()
        for change in changes:
            self.logins.renewed(change.account.id)
            if self.lanes is not None:
                self.lanes.wake(change.account.id)
        return bool(changes)


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def iso(at_ms: int | None) -> str | None:
    """`2026-11-23T08:00:00.000Z`; None stays None."""
    if at_ms is None:
        return None
    seconds, ms = divmod(at_ms, 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{ms:03}Z"
