"""Who waits for what becomes of a message: the front door expects a verdict, dispatch reports what it is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import Connection, update

from relay.database.engine import Database
from relay.database.schema import messages
from relay.mail.reply import Reply
from relay.queue.model import State

_MOST = 4096  # applications that wait at a time; one more hears that its message is queued


class Refusal(NamedTuple):
    """Why a recipient was refused for good. `reply` None: not by a reply of the upstream; `advice` is for people."""

    reply: Reply | None
    advice: str


class Verdict(NamedTuple):
    """Every recipient is settled: relayed, or refused for good. `first`: of the refused ones, by recipient number."""

    recipients: int
    refused: int
    first: Refusal | None


class Expected:
    """One application that waits for the verdict on its message. `wait` once, or `close`."""

    __slots__ = ("_decided", "_done", "_recipients", "_unrecorded", "_verdicts", "account_id", "message_id")

    def __init__(self, verdicts: Verdicts, message_id: int, recipients: int, account_id: int) -> None:
        self._verdicts = verdicts
        self.message_id = message_id
        self.account_id = account_id
        self._recipients = recipients
        self._decided: dict[int, Refusal | None] = {}  # by recipient number; None: relayed
        self._unrecorded: set[int] = set()  # refused ones whose state is not durable yet
        self._done: asyncio.Future[Verdict | None] = asyncio.get_running_loop().create_future()

    @property
    def undecided(self) -> bool:
        """Something of the message was neither relayed nor refused yet."""
        return len(self._decided) < self._recipients

    async def wait(self, limit_s: float) -> Verdict | None:
        """The verdict; None: there is none within the limit, the message waits in the queue."""
        try:
            await asyncio.wait((self._done,), timeout=limit_s)
        finally:
            self.close()
        return self._done.result()

    async def heard(self) -> None:
        """Note in the store that the application heard of the refusal itself and needs no notice of it.

        Raises StorageFull or StorageFailed.
        """
        await self._verdicts.note_heard(self.message_id)

    def report(self, number: int, state: State, reply: Reply | None, advice: str) -> None:
        """The next state of a recipient was decided. BOUNCED counts once it is `recorded`: a 5xx must be true.

        Any state but RELAYED and BOUNCED ends the waiting: the message stays in the queue.
        """
        match state:
            case State.RELAYED:
                self._decided[number] = None
            case State.BOUNCED:
                self._decided[number] = Refusal(reply, advice)
                self._unrecorded.add(number)
            case _:
                self.close()
        self._look()

    def recorded(self, numbers: Iterable[int]) -> None:
        """The states of these recipients are durable."""
        self._unrecorded.difference_update(numbers)
        self._look()

    def close(self) -> None:
        """End the waiting; no effect on a verdict that is there."""
        self._end(None)

    def _look(self) -> None:
        if self.undecided or self._unrecorded:
            return
        refusals = {number: refusal for number, refusal in self._decided.items() if refusal is not None}
        first = refusals[min(refusals)] if refusals else None
        self._end(Verdict(self._recipients, len(refusals), first))

    def _end(self, verdict: Verdict | None) -> None:
        if not self._done.done():
            self._done.set_result(verdict)
            self._verdicts.forget(self)


class Verdicts:
    """Messages of which somebody waits for the verdict: `waiting`, by id, for a quick look that finds nothing.

    Closed, as it is at first, nobody has to wait.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_account: dict[int, set[Expected]] = {}
        self._open = False
        self.waiting: dict[int, Expected] = {}  # the same object for good

    def open(self) -> None:
        """There is somebody who reports."""
        self._open = True

    def close(self) -> None:
        """Nothing will be reported any more: whoever waits, and whoever comes, hears that the message is queued."""
        self._open = False
        for expected in tuple(self.waiting.values()):
            expected.close()

    def expect(self, message_id: int, recipients: int, account_id: int) -> Expected:
        """Wait for the verdict on a message that is about to be accepted; `close` the result if it is not."""
        expected = Expected(self, message_id, recipients, account_id)
        if not self._open or len(self.waiting) >= _MOST:
            expected.close()
        else:
            self.waiting[message_id] = expected
            self._by_account.setdefault(account_id, set()).add(expected)
        return expected

    def recorded(self, message_id: int, numbers: Iterable[int]) -> None:
        """The states of these recipients of a message are durable."""
        expected = self.waiting.get(message_id)
        if expected is not None:
            expected.recorded(numbers)

    def put_down(self, message_id: int) -> None:
        """The message is not tried now, or its state could not be recorded."""
        expected = self.waiting.get(message_id)
        if expected is not None:
            expected.close()

    def put_down_account(self, account_id: int) -> None:
        """Nothing of this account is tried now. What is decided already and only has to be recorded goes on."""
        for expected in tuple(self._by_account.get(account_id, ())):
            if expected.undecided:
                expected.close()

    def forget(self, expected: Expected) -> None:
        """Nobody waits for it any more."""
        if self.waiting.get(expected.message_id) is not expected:
            return
        del self.waiting[expected.message_id]
        of_account = self._by_account[expected.account_id]
        of_account.discard(expected)
        if not of_account:
            del self._by_account[expected.account_id]

    async def note_heard(self, message_id: int) -> None:
        """See `Expected.heard`."""

        def note(connection: Connection) -> None:
            connection.execute(update(messages).where(messages.c.id == message_id).values(answer="direct"))

        await self._database.write(note)
