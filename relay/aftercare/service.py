"""Runs what aftercare does by itself, beside the daemon's other parts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from relay.aftercare.bounces import Bounces
from relay.aftercare.copies import Copies
from relay.aftercare.mailbox import Mailboxes
from relay.aftercare.returns import Returns
from relay.aftercare.trouble import TroubleNotices

if TYPE_CHECKING:
    from relay.config.settings import MailboxSettings, NoticesSettings

_CLOSING_S = 5.0


class Aftercare:
    """One per daemon: `start` once the dispatcher runs, `stop` before it does not any more."""

    def __init__(
        self, trouble: TroubleNotices, bounces: Bounces, mailboxes: Mailboxes, returns: Returns, copies: Copies
    ) -> None:
        self.trouble, self.bounces = trouble, bounces
        self.mailboxes, self.returns, self.copies = mailboxes, returns, copies
        self._tasks: list[asyncio.Task[None]] = []

    def configure(self, notices: NoticesSettings, mailbox: MailboxSettings, *, lifetime_s: float) -> None:
        """Other settings, from the next thing each part does; `lifetime_s`: how long mail is tried."""
        self.trouble.configure(notices)
        self.bounces.configure(notices, lifetime_s=lifetime_s)
        self.returns.configure(mailbox)
        self.copies.configure(mailbox)

    async def start(self) -> None:
        """Begin with what the store holds."""
        await self.mailboxes.start()
        self._tasks = [
            asyncio.create_task(self.trouble.run(), name="notices of trouble"),
            asyncio.create_task(self.bounces.run(), name="notices to senders"),
            asyncio.create_task(self.returns.run(), name="mail that came back"),
            asyncio.create_task(self.copies.run(), name="copies for Sent"),
        ]

    async def stop(self) -> None:
        """End; what is being written is, what was not begun is found at the next start."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSING_S)
