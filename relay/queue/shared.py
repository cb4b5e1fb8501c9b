"""The queue of a node that shares its store with others: what it has in hand is its own while it is heard of."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Protocol

from relay.mail.errors import StorageFailed
from relay.mail.ids import IdSource
from relay.queue.claims import disown
from relay.queue.nodes import Joined
from relay.queue.store import Queue
from relay.telemetry import get_logger

log = get_logger()

_PATIENCE_S = 30.0  # as long as a start waits for a server that does not answer yet
_AGAIN_S = 0.5


class Membership(Protocol):
    """This process as a node of the fleet."""

    async def join(self) -> Joined: ...
    async def leave(self) -> None: ...
    def alive(self) -> bool: ...


class SharedQueue(Queue):
    """As `Queue`; every dot is marked in the store before it goes out, since no other node could read a file here."""

    shared = True

    def __init__(self, *arguments: Any, membership: Membership, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._membership = membership

    async def open(self) -> list[int]:
        """Join. What a buried node left in doubt, whoever buries it tells: here it is always nothing."""
        self._spool.open()
        self.become(await self._joined())
        self._ledger.clear()
        return []

    async def _joined(self) -> Joined:
        """A server that is started anew just now, or is too busy, gets some time; then raises StorageFailed."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return await self._membership.join()
            except StorageFailed as error:
                if time.monotonic() > deadline:
                    raise
                log.error("storage.failed", where="join", detail=str(error))
            await asyncio.sleep(_AGAIN_S)

    async def take_over(self) -> list[int]:
        """See `Queue.take_over`; whoever buries a node takes what it had."""
        return []

    async def sweep(self) -> None:
        """See `Queue.sweep`."""
        try:
            await asyncio.to_thread(self._spool.sweep, set())
        except StorageFailed as error:  # somebody stands still while accepting: the next to start will sweep
            log.error("storage.failed", where="sweep", detail=str(error))

    def become(self, joined: Joined) -> None:
        """This process is that node from now on. Its ids are made by the store's clock, and of its own number."""
        self.node = self._spool.node = joined.node
        self._ids = IdSource(node=joined.number, after=joined.largest, clock=lambda: self._clock() / 1000)

    async def renew(self) -> bool:
        """See to messages of which nobody knew whether they are ours; the heartbeat of the fleet renews the lease."""
        unknown, self._unknown = self._unknown, {}
        if not unknown:
            return True

        try:
            await self._database.write(lambda c: disown(c, self.node, unknown))
        except BaseException:
            self._unknown |= unknown
            raise
        for account_id in set(unknown.values()):
            self.on_backlog(account_id)
        return True

    def leased(self) -> bool:
        """See `Queue.leased`."""
        return self._membership.alive() and self._database.available

    async def close(self) -> None:
        """See `Queue.close`; the leases go as well."""
        await self._membership.leave()
        self._ledger.clear()
        self._ledger.close()
