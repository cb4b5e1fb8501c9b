"""The durable queue: accepts messages, hands out what is due, records what became of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import Connection, func, select, update

from relay.database.engine import Database
from relay.database.schema import FAR_FUTURE_MS, contents, deliveries, messages, nodes
from relay.mail.content import Content, Stored
from relay.mail.dsn import NO_MESSAGE_REQUEST
from relay.mail.errors import CommitUnknown, StorageFailed, StorageFull
from relay.mail.ids import IdSource
from relay.mail.reencode import Reencoder
from relay.queue import claims
from relay.queue.aging import Aging, owed_files
from relay.queue.claims import OVERHEAD, claim, join, take_over
from relay.queue.ledger import DotLedger
from relay.queue.model import Arrival, Delivery, Message, Settlement, State
from relay.queue.operations import Accept, Fenced, notes, settle
from relay.queue.operator import Operator
from relay.queue.rewriting import rewrite
from relay.queue.room import Room
from relay.queue.snapshot import Snapshot, take_snapshot
from relay.queue.spool import ContentDraft, Spool
from relay.queue.verdicts import Verdicts
from relay.telemetry import get_logger

log = get_logger()

NODE_LEASE_S = 60.0  # renewed at a third of it
HEARD_MS = 30_000  # longer than it takes to tell an application that waits


def now_ms() -> int:
    """Milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


class Queue:
    """All that is owed. One per process; call `open` before anything else.

    A message in memory is *in hand*: its deliveries are owned by this node in the store.  `on_fresh` gets each
    accepted message that fits the memory budget and that `willing` says its account can use now, already
    durable; `on_backlog` gets the account of any other, which waits in the store alone.
    """

    shared = False  # by several nodes: then each dot is marked durably before it goes out

    def __init__(
        self,
        database: Database,
        *,
        spool: Spool,
        room: Room,
        ledger: DotLedger,
        memory_bytes: int,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        self._database = database
        self._spool = spool
        self._ledger = ledger
        self._memory_bytes = self._memory_left = memory_bytes
        self._clock = clock
        self._ids = IdSource()
        self._claiming = asyncio.Lock()
        self._unknown: dict[int, int] = {}  # messages of which nobody knows whether they are ours; their accounts
        self.visiting = False
        self._lease_until = 0.0  # on this process's monotonic clock
        self.room = room
        self.verdicts = Verdicts(database)
        self.operator = Operator(
            database,
            spool,
            claiming=self._claiming,
            announce=lambda account_id: self.on_backlog(account_id),
            clock=lambda: self._clock(),
        )
        self.aging = Aging(
            database,
            spool,
            announce=lambda account_id: self.on_backlog(account_id),
            owed=lambda: self.on_owed(),
            clock=lambda: self._clock(),
        )
        self.node = 0
        self.willing: Callable[[int], bool] = lambda account_id: False
        self.on_fresh: Callable[[Message], None] = lambda message: None
        self.on_backlog: Callable[[int], None] = lambda account_id: None
        self.on_owed: Callable[[], None] = lambda: None  # a sender has to be told something
        self.on_copy: Callable[[], None] = lambda: None  # a mailbox's Sent is to have something

    # -- life ----------------------------------------------------------------------------------------------

    async def open(self) -> list[int]:
        """Join as a new node; the ids of messages whose dot was out when the last run ended.

        Only the holder of the store's lock may call this: every other node is taken for dead.  Mail may be accepted
        then; what waits longer the more waits is `take_over`'s.
        """
        self._spool.open()
        interrupted = self._ledger.interrupted()
        in_doubt, largest, node = await self._database.write(
            lambda c: join(c, interrupted, now=self._clock(), lease_ms=int(NODE_LEASE_S * 1000))
        )
        self._ledger.clear()
        self._ids = IdSource(after=largest)
        self.node = node
        self._lease_until = time.monotonic() + NODE_LEASE_S
        self._spool.node = node
        return in_doubt

    async def take_over(self) -> list[int]:
        """Take what the last run had in hand; the ids of further messages that may already be upstream.

        Nothing of it is claimed before.  Mail may be accepted meanwhile.
        """
        return await self._database.write(lambda c: take_over(c, self.node, set(), now=self._clock()))

    async def sweep(self) -> None:
        """Remove large contents that nothing is owed of: drafts of the last run, and what it had no time to remove.

        Mail may be accepted and settled meanwhile.
        """
        known = await self._database.read(owed_files)
        await asyncio.to_thread(self._spool.sweep, known)

    async def visit(self) -> None:
        """Instead of `open`, for a command beside whoever works on a shared store: nothing is taken in hand."""
        largest = await self._database.read(lambda c: c.scalar(select(func.max(messages.c.id))) or 0)
        self._ids = IdSource(after=largest)
        self.visiting = True

    def configure(self, *, memory_bytes: int, inline_bytes: int) -> None:
        """Other bounds for what comes from now on; what is in hand counts on."""
        self._memory_left += memory_bytes - self._memory_bytes
        self._memory_bytes = memory_bytes
        self._spool.inline_bytes = inline_bytes

    async def renew(self) -> bool:
        """Renew the lease of everything in hand; False: another node declared this one dead."""
        started = time.monotonic()
        until = self._clock() + int(NODE_LEASE_S * 1000)
        unknown, self._unknown = self._unknown, {}

        def renew(connection: Connection) -> int:
            changed = connection.execute(
                update(nodes).where(nodes.c.id == self.node).values(lease_until=until)
            ).rowcount
            if unknown:
                claims.disown(connection, self.node, unknown)
            return changed

        try:
            renewed = await self._database.write(renew)
        except BaseException:
            self._unknown |= unknown
            raise
        if renewed:
            self._lease_until = started + NODE_LEASE_S
        for account_id in set(unknown.values()):
            self.on_backlog(account_id)
        return bool(renewed)

    def leased(self) -> bool:
        """May a final dot go out? Not when the lease ran out: somebody else may be sending the same message.

        Nor when its outcome could not be written down.
        """
        return time.monotonic() < self._lease_until and self._database.available

    async def close(self) -> None:
        """Give back what is in hand; the ledger is clean because nothing is in its dot any more."""
        if self.visiting:  # the ledger is the daemon's
            self._ledger.close()
            return
        await self._database.write(lambda c: claims.release(c, self.node))
        self._ledger.clear()
        self._ledger.close()

    @property
    def folder(self) -> Path:
        """Where the store is, with spool and ledger."""
        return self._database.folder

    async def snapshot(self, folder: Path) -> Snapshot:
        """Copy all that is owed into `folder`, as of one instant; see `take_snapshot`."""
        return await take_snapshot(self._database, self._spool, self._ledger, folder)

    # -- in ------------------------------------------------------------------------------------------------

    def draft(self) -> ContentDraft:
        """A content being received; see ContentDraft."""
        return self._spool.draft()

    def new_id(self) -> int:
        """The id of a message to come, for `Arrival.id`: its trace field names it before it is accepted."""
        return self._ids.next()

    def has_room(self) -> bool:
        """False below the free-space floor: answer 452 4.3.1 and take nothing."""
        return self.room.enough()

    async def rewrite(self, content: Content, transform: Reencoder) -> Content:
        """A finished content as `transform` gives it back; see `rewriting.rewrite`, which takes over `content`."""
        return await rewrite(self._spool, content, transform)

    async def accept(self, arrival: Arrival) -> int:
        """Make the message ours; returns its id once it is durable.

        Raises StorageFull or StorageFailed: then it is not ours and the client must be told so.  Shield the
        call from cancellation (asyncio.shield): a torn wait would leave an accepted message unanswered.
        """
        message_id = arrival.id or self._ids.next()
        now = self._clock()
        content = arrival.content
        cost = OVERHEAD + (len(content.inline) if content.inline is not None else 0)
        in_hand = self._memory_left >= cost and self.willing(arrival.account_id)
        if in_hand:
            self._memory_left -= cost
        owner = self.node if in_hand else None
        row = (
            message_id,
            arrival.account_id,
            arrival.reverse_path,
            arrival.header_message_id,
            arrival.client,
            content.size,
            int(arrival.eight_bit),
            int(arrival.smtputf8),
            content.spool,
            arrival.session or None,
            arrival.repaired or None,
            now,
        )
        noted: Sequence[tuple[object, ...]] = ()
        if arrival.requests or arrival.request is not NO_MESSAGE_REQUEST or arrival.original_path or arrival.answer:
            noted = notes(message_id, arrival)
        try:
            await self._database.submit(Accept(row, content.inline, arrival.recipients, owner, noted))
        except BaseException as error:
            # Cancelled: it is being committed all the same, and found in the store as owned by this node; it
            # would wait there until the next start, so the caller shields.
            if in_hand:
                self._memory_left += cost
            if isinstance(error, StorageFull):
                self.room.spent()
            elif isinstance(error, StorageFailed) and self._database.available:  # else that was told already
                log.error("storage.failed", where="accept", detail=str(error))
            if isinstance(error, CommitUnknown):  # it may be ours
                self._unknown[message_id] = arrival.account_id
            elif isinstance(error, Exception) and content.spool is not None:  # cancelled: it is being committed
                await asyncio.to_thread(self._spool.remove, [content.spool])
            raise
        if in_hand:
            found = [
                Delivery(number, recipient, State.QUEUED, now, 0, 1)
                for number, recipient in enumerate(arrival.recipients)
            ]
            message = Message(
                message_id,
                arrival.account_id,
                arrival.reverse_path,
                arrival.header_message_id,
                arrival.client,
                content,
                arrival.eight_bit,
                arrival.smtputf8,
                now,
                found,
                cost,
            )
            if noted:
                message.note(arrival)
            self.on_fresh(message)
        else:
            self.on_backlog(arrival.account_id)
        return message_id

    # -- out -----------------------------------------------------------------------------------------------

    async def due_times(self) -> dict[int, int]:
        """For each account that is owed anything not in hand: when the first of it is due (ms since 1970)."""
        query = (
            select(deliveries.c.account_id, func.min(deliveries.c.due_at))
            .where(deliveries.c.settled_at.is_(None), deliveries.c.due_at < FAR_FUTURE_MS)
            .group_by(deliveries.c.account_id)
        )
        return await self._database.read(lambda c: {row[0]: row[1] for row in c.execute(query)})

    async def claim_due(
        self, account_id: int, *, limit: int, at_least_one: bool = False
    ) -> tuple[list[Message], int | None]:
        """Take up to `limit` due deliveries of an account in hand, oldest due first; and when the next is due.

        Small contents come with them.  Never more than the memory budget holds: fewer, or none, when it is
        spent; `at_least_one` goes beyond it by one message, so that no account starves.  None as the second
        value: nothing else waits.
        """
        async with self._claiming:  # each counts what the one before took
            budget, now = self._memory_left, self._clock()
            claimed, next_due = await self._database.write(
                lambda c: claim(
                    c,
                    account_id,
                    self.node,
                    now=now,
                    limit=limit,
                    budget=budget,
                    at_least_one=at_least_one,
                    shared=self.shared,
                )
            )
            for message in claimed:
                self._memory_left -= message.held_bytes
        return claimed, next_due

    def source(self, content: Content) -> bytes | Path | Stored:
        """Where whoever sends a content reads it: its octets, its file, or who reads them."""
        if content.inline is not None:
            return content.inline
        assert content.spool is not None
        return self._spool.source(content.spool)

    def read_spooled(self, name: str, at: int, length: int) -> bytes:
        """Octets of a spooled content. Blocking. Raises StorageFailed."""
        return self._spool.read(name, at, length)

    def dot(self, message_id: int) -> int:
        """The final dot of this message goes out next; the slot is for `dot_settled`. Raises LedgerFull."""
        return self._ledger.mark(message_id)

    def dot_settled(self, slot: int) -> None:
        """What became of that dot is durable, or it never went out."""
        self._ledger.unmark(slot)

    async def mark_dot(self, message: Message) -> bool:
        """Durably mark claimed deliveries as being in their dot; False: they were changed by somebody else."""
        tokens = {delivery.number: delivery.token for delivery in message.deliveries}
        try:
            await self._database.write(lambda c: claims.mark(c, message.id, tokens))
        except Fenced:
            return False
        return True

    def settle(self, message: Message, settlements: Sequence[Settlement]) -> asyncio.Future[bool]:
        """Record the next state of claimed deliveries; the future completes when that is durable.

        Its result: nothing of the message is owed any more and `drop_content` has to be called.  Raises (in the
        future) Fenced when a delivery was changed by somebody else, StorageFull or StorageFailed when nothing
        could be recorded: then the call must be made again before anything new is sent.
        """
        # An application that waits may hear it itself: until then nobody is told (see `Expected.heard`).
        wait_ms = HEARD_MS if message.id in self.verdicts.waiting else 0
        files = not self._database.shared  # rows of a content go with the state
        operation = settle(message, settlements, self._clock(), wait_ms=wait_ms, files=files)
        return self._database.submit_patiently(operation)

    async def drop_content(self, message: Message) -> None:
        """Remove the spool file of a message of which nothing is owed any more."""
        if message.content.spool is not None:
            await asyncio.to_thread(self._spool.remove, [message.content.spool])

    async def forget_file(self, name: str) -> None:
        """Remove a spool file that nothing needs any more."""
        await asyncio.to_thread(self._spool.remove, [name])

    async def excerpt(self, content: Content, length: int) -> bytes:
        """The first octets of a spooled content; none when its file is gone. Raises StorageFailed."""
        assert content.spool is not None
        if not await asyncio.to_thread(self._spool.holds, content.spool):
            return b""
        return await asyncio.to_thread(self._spool.read, content.spool, 0, min(length, content.size))

    async def piece(self, message_id: int, content: Content, at: int, length: int) -> bytes | None:
        """Octets of a content in wire form, from `at` on; None: it is gone. Raises StorageFailed."""
        length = min(length, content.size - at)
        if content.spool is not None:
            return await asyncio.to_thread(self._spool.read, content.spool, at, length)
        chosen = select(func.substr(contents.c.body, at + 1, length)).where(contents.c.message_id == message_id)
        return await self._database.read(lambda connection: connection.scalar(chosen))

    def put_down(self, message: Message) -> None:
        """The message (all of its claimed deliveries) is out of memory: its share of the budget is free again."""
        self._memory_left += message.held_bytes
        message.held_bytes = 0

    async def give_back(self, given: Sequence[Message], *, later_ms: int = 0) -> None:
        """Return deliveries that were in hand untried to the store, due as before; anyone may claim them.

        `later_ms`: due no sooner than so much later.
        """
        not_before = self._clock() + later_ms if later_ms else None
        parts = [(message.id, message.account_id, each) for message in given for each in message.deliveries]
        await self._database.write(lambda c: claims.give_back(c, parts, not_before))
        for message in given:
            self.put_down(message)
