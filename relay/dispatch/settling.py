"""Writes outcomes down, again and again until they are: nothing new is sent while one is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from relay.mail.errors import StorageFailed, StorageFull
from relay.mail.ids import format_id
from relay.queue.model import SETTLED, Message, Settlement
from relay.queue.operations import Fenced
from relay.queue.store import Queue
from relay.telemetry import get_logger

log = get_logger()

_AGAIN_S = 1.0


@dataclass(eq=False, slots=True)
class _Outcome:
    """What became of one attempt. `slot` of the dot ledger is freed when all of it is durable, never before."""

    message: Message
    slot: int | None
    left: int = 1  # parts that are not durable yet
    done_with: bool = False  # nothing of the message is owed any more


class Settler:
    """`write` and forget; `flowing` says whether everything could be written until now."""

    def __init__(
        self,
        queue: Queue,
        *,
        recovered: Callable[[], None],
        waits: Callable[[int, int], None],
        failed: Callable[[str, BaseException], None],
    ) -> None:
        """`recovered`: mail may flow again.  `waits(account_id, due_at)`: a delivery waits in the store, durably."""
        self._queue = queue
        self._recovered = recovered
        self._waits = waits
        self._failed = failed
        self._under_way: set[asyncio.Future[bool]] = set()
        self._refused: dict[tuple[_Outcome, int], list[Settlement]] = {}  # by the store, to be written again
        self._files: set[asyncio.Task[None]] = set()

    def flowing(self) -> bool:
        """False: something that happened upstream is not written down."""
        return not self._refused

    def write(self, message: Message, settlements: list[Settlement], slot: int | None) -> None:
        """Record the next states of a message that was in hand, and put it down."""
        self._submit(_Outcome(message, slot), settlements)

    async def finish(self, timeout_s: float) -> bool:
        """Wait until all is durable; False: it is not, and the ledger must stay as it is for the next start."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while (self._under_way or self._refused or self._files) and loop.time() < deadline:
            if not self._under_way:
                self._write_refused()
            open_ends: list[asyncio.Future[Any]] = [*self._under_way, *self._files]
            await asyncio.wait(open_ends, timeout=max(0.0, deadline - loop.time()))
            await asyncio.sleep(_AGAIN_S / 10 if self._refused else 0)  # callbacks of what is done run now
        return not (self._under_way or self._refused)

    def _submit(self, outcome: _Outcome, settlements: list[Settlement]) -> None:
        future = self._queue.settle(outcome.message, settlements)
        self._under_way.add(future)
        future.add_done_callback(lambda done: self._written(done, outcome, settlements))

    def _written(self, done: asyncio.Future[bool], outcome: _Outcome, settlements: list[Settlement]) -> None:
        self._under_way.discard(done)
        error = None if done.cancelled() else done.exception()
        key = (outcome, settlements[0].delivery.number)
        if isinstance(error, StorageFull | StorageFailed):
            if not self._refused:
                log.error("storage.failed", where="settle", detail=str(error))
                asyncio.get_running_loop().call_later(_AGAIN_S, self._write_refused)
            self._refused[key] = settlements
            return
        if self._refused.pop(key, None) is not None and not self._refused:
            self._recovered()
        if error is not None and len(settlements) > 1:  # one of them is at fault: each alone
            outcome.left += len(settlements) - 1
            for settlement in settlements:
                self._submit(outcome, [settlement])
            return
        verdicts = self._queue.verdicts
        if isinstance(error, Fenced):
            log.error("delivery.fenced", message_id=format_id(outcome.message.id))
            verdicts.put_down(outcome.message.id)
        elif error is not None:  # ours: its slot stays marked, so that the next start names it
            self._failed("settle", error)
            outcome.slot = None
            verdicts.put_down(outcome.message.id)
        else:
            if verdicts.waiting:
                verdicts.recorded(outcome.message.id, [settlement.delivery.number for settlement in settlements])
            outcome.done_with = outcome.done_with or done.result()
            for settlement in settlements:
                if settlement.state not in SETTLED:
                    self._waits(outcome.message.account_id, settlement.due_at)
                if settlement.owes is not None:
                    self._queue.on_owed()
                if settlement.copy:
                    self._queue.on_copy()
        outcome.left -= 1
        if not outcome.left:
            self._put_down(outcome)

    def _put_down(self, outcome: _Outcome) -> None:
        if outcome.slot is not None:
            self._queue.dot_settled(outcome.slot)
        self._queue.put_down(outcome.message)
        if outcome.done_with:
            task = asyncio.create_task(self._queue.drop_content(outcome.message), name="drop content")
            self._files.add(task)
            task.add_done_callback(self._dropped)

    def _dropped(self, task: asyncio.Task[None]) -> None:
        self._files.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed("drop content", error)

    def _write_refused(self) -> None:
        """Each stays in `_refused` until it is durable, so that nothing flows meanwhile."""
        waiting = list(self._refused.items())
        for (outcome, _), settlements in waiting:
            self._submit(outcome, settlements)
        if waiting:
            asyncio.get_running_loop().call_later(_AGAIN_S, self._write_refused_if_idle)

    def _write_refused_if_idle(self) -> None:
        if not self._under_way:
            self._write_refused()
