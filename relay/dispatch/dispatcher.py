"""Runs the lanes: routes what is accepted, claims what is due, records what happened, keeps accounts' health."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from relay.accounts import store as account_store
from relay.accounts.directory import Directory
from relay.accounts.model import AccountState
from relay.config.settings import DispatchSettings
from relay.database.engine import Database
from relay.dispatch import record as recording
from relay.dispatch.attempt import Attempt
from relay.dispatch.history import relayed_by_hour
from relay.dispatch.lane import Lane
from relay.dispatch.verdict import LaneAction, Suspend
from relay.mail.errors import StorageFailed, StorageFull
from relay.mail.ids import format_id
from relay.mail.outcome import Outcome
from relay.queue.model import Message, Settlement, State
from relay.queue.operations import Fenced
from relay.queue.store import Queue
from relay.submission.transport import Transport
from relay.telemetry import get_logger
from relay.telemetry.counters import count

log = get_logger()

_TICK_S = 20.0  # lease renewal and the look at what time has done
_STORE_RETRY_S = 1.0


class Dispatcher:
    """One per process. `start` once the queue is open; `stop` finishes the dots that are out."""

    def __init__(
        self,
        settings: DispatchSettings,
        *,
        queue: Queue,
        database: Database,
        directory: Directory,
        transport: Transport,
        history_days: int,
        clock: Callable[[], int],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.settings = settings
        self.queue = queue
        self.transport = transport
        self.chance = chance
        self._database = database
        self._directory = directory
        self._history_ms = history_days * 86_400_000
        self._clock = clock
        self._lanes: dict[int, Lane] = {}
        self._unrecorded: list[tuple[Attempt | None, Message, list[Settlement]]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._lost = False

    # -- life ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin with what the store holds, then with what arrives."""
        self.queue.willing = lambda account_id: self._lane(account_id).willing()
        self.queue.on_fresh = self.offer
        self.queue.on_backlog = lambda account_id: self._lane(account_id).backlog(self._clock())
        self.queue.withdraw = self.withdraw
        self._spawn(self._tick(), "dispatch tick")
        for account_id, due_at in (await self.queue.due_times()).items():
            self._lane(account_id).backlog(due_at)

    async def stop(self, grace_s: float) -> None:
        """Give nothing away any more; let attempts end for `grace_s`, cancel the rest, record everything."""
        self._stopping = True
        for lane in self._lanes.values():
            lane.stop()
        workers = [worker for lane in self._lanes.values() for worker in lane.workers]
        if workers:
            _, late = await asyncio.wait(workers, timeout=grace_s)
            for worker in late:
                worker.cancel()
            if late:
                await asyncio.wait(late, timeout=5)
        for task in list(self._tasks):
            if task.get_name() == "dispatch tick":
                task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=5)

    def lost(self) -> None:
        """The store failed: send nothing any more, nothing could be recorded."""
        self._lost = True

    # -- what lanes ask (lane.Services) ---------------------------------------------------------------------

    def flowing(self) -> bool:
        """False while outcomes cannot be recorded, or on the way out."""
        return not (self._stopping or self._unrecorded or self._lost)

    def belongs(self, message: Message, lane: Lane) -> bool:
        """Does its sender still route to this lane? If not it is moved to the lane it routes to now."""
        route = self._directory.route(message.reverse_path)
        if route is None or route.account_id == lane.account_id:
            return True
        message.account_id, message.moved = route.account_id, True
        self._lane(route.account_id).push(message)
        return False

    def settle_expired(self, message: Message) -> bool:
        """Settle a message in hand whose lifetime is over."""
        if self._clock() - message.accepted_at < self.settings.lifetime_s * 1000:
            return False
        settlements = [Settlement(delivery, State.EXPIRED, 0, None) for delivery in message.deliveries]
        for delivery in message.deliveries:
            self._log_expired(message, delivery.recipient)
        self._write(None, message, settlements)
        return True

    def finished(self, lane: Lane, attempt: Attempt, outcomes: Sequence[Outcome]) -> tuple[LaneAction, str]:
        """Record an attempt; what the lane has to do about it, and the catalogue entry that says why."""
        now = self._clock()
        chance = self.chance()
        result = recording.record(attempt, outcomes, settings=self.settings, now=now, chance=chance)
        message = attempt.message
        if result.accepted:
            lane.quota.spend(result.accepted, now / 1000)
            lane.well()
            if lane.suspended:
                self._set_state(lane, AccountState.OK, None, None)
        if isinstance(result.lane, Suspend) and result.diagnosis is not None:  # first: nothing more is claimed then
            self._suspend(lane, result.diagnosis.id, result.diagnosis.cause, result.reply)
        if result.again:
            self._try_again(lane, attempt, result)
        if result.settlements:
            message.deliveries = [settlement.delivery for settlement in result.settlements]
            self._write(attempt, message, result.settlements)
            if result.due_at is not None:
                lane.backlog(result.due_at)
        elif attempt.slot is not None:
            self.queue.dot_settled(attempt.slot)
        return result.lane, result.diagnosis.id if result.diagnosis is not None else ""

    def rested(self, lane: Lane, seconds: float) -> None:
        """A lane begins to rest."""
        if lane.upstream is not None:
            log.info(
                "account.resting",
                account=lane.upstream.account,
                remedy=lane.rest_cause,
                retry_in_s=int(seconds),
                waiting=len(lane.ready),
            )
        if seconds > 60:
            self._put_down(lane)

    def unwanted(self, lane: Lane) -> None:
        """A lane claimed what it may not send any more."""
        self._put_down(lane)

    def failed(self, where: str, error: BaseException) -> None:
        """A part of ours broke; the daemon lives on."""
        log.error("daemon.fault", where=where, exc_info=error)

    # -- what the control room asks -------------------------------------------------------------------------

    def offer(self, message: Message) -> None:
        """A fresh message, durable, straight to its lane."""
        self._lane(message.account_id).push(message)

    def refresh(self) -> None:
        """Accounts, senders or clients changed: apply it to what already waits."""
        for lane in tuple(self._lanes.values()):
            self._configure(lane)
        self._spawn(self._reroute(), "reroute")

    def state(self, account_id: int) -> dict[str, object]:
        """What the lane of an account is doing right now."""
        lane = self._lanes.get(account_id)
        if lane is None:
            return {"resting_s": 0, "in_hand": 0, "active": 0, "connections": 0, "cause": ""}
        return {
            "resting_s": max(0, round(lane.resting_until - time.monotonic())),
            "in_hand": len(lane.ready),
            "active": lane.active,
            "connections": len(lane.workers),
            "cause": lane.rest_cause if lane.resting_until > time.monotonic() else "",
        }

    def wake(self, account_id: int) -> None:
        """An operator wants this account's mail tried now: end its rest."""
        lane = self._lane(account_id)
        lane.resting_until = 0.0
        lane.backlog(self._clock())

    async def withdraw(self, ids: Sequence[int]) -> None:
        """Put messages that wait in hand back to the store; those in an attempt stay."""
        wanted = set(ids)
        taken: list[Message] = []
        for lane in self._lanes.values():
            taken.extend(message for message in lane.ready if message.id in wanted)
            if taken:
                kept = [message for message in lane.ready if message.id not in wanted]
                lane.ready.clear()
                lane.ready.extend(kept)
        if taken:
            await self.queue.give_back(taken)

    # -- inside --------------------------------------------------------------------------------------------

    def _lane(self, account_id: int) -> Lane:
        lane = self._lanes.get(account_id)
        if lane is None:
            lane = self._lanes[account_id] = Lane(account_id, self)
            self._configure(lane)
        return lane

    def _configure(self, lane: Lane) -> None:
        account = self._directory.account(lane.account_id)
        if account is None:
            lane.configure(None, suspended=False)
            return
        upstream = self._directory.upstream(account)
        first = lane.upstream is None
        lane.configure(upstream, suspended=account.state is AccountState.SUSPENDED)
        if first and lane.suspended:
            self._probe_later(lane)
        if first and upstream.per_day:
            self._spawn(self._count_day(lane, upstream.per_day), "count day")

    async def _count_day(self, lane: Lane, per_day: int) -> None:
        since = self._clock() - 86_400_000
        history = await self._database.read(lambda c: relayed_by_hour(c, lane.account_id, since))
        lane.quota.restore(history)

    def _try_again(self, lane: Lane, attempt: Attempt, result: recording.Record) -> None:
        message = attempt.message
        if result.settlements:
            again = Message(
                message.id,
                message.account_id,
                message.reverse_path,
                message.header_message_id,
                message.client,
                message.content,
                message.eight_bit,
                message.smtputf8,
                message.accepted_at,
                result.again,
            )
        else:
            again = message
        lane.ready.appendleft(again)

    def _write(self, attempt: Attempt | None, message: Message, settlements: list[Settlement]) -> None:
        future = self.queue.settle(message, settlements)
        future.add_done_callback(lambda done: self._written(done, attempt, message, settlements))

    def _written(
        self,
        done: asyncio.Future[bool],
        attempt: Attempt | None,
        message: Message,
        settlements: list[Settlement],
    ) -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, StorageFull | StorageFailed):
            if not self._unrecorded:
                log.error("storage.failed", where="settle", detail=str(error))
                asyncio.get_running_loop().call_later(_STORE_RETRY_S, self._record_again)
            self._unrecorded.append((attempt, message, settlements))
            return
        if isinstance(error, Fenced):
            log.error("delivery.fenced", message_id=format_id(message.id))
        elif error is not None:
            self.failed("settle", error)
        if attempt is not None and attempt.slot is not None:
            self.queue.dot_settled(attempt.slot)
        self.queue.put_down(message)
        if error is None and done.result():
            self._spawn(self.queue.drop_content(message), "drop content")

    def _record_again(self) -> None:
        """What could not be recorded is recorded before anything new is sent."""
        waiting, self._unrecorded = self._unrecorded, []
        if self._lost:
            return
        for attempt, message, settlements in waiting:
            self._write(attempt, message, settlements)
        asyncio.get_running_loop().call_later(_STORE_RETRY_S / 10, self._schedule_all)

    def _schedule_all(self) -> None:
        for lane in self._lanes.values():
            lane.schedule()

    def _suspend(self, lane: Lane, remedy: str, cause: str, reply: str) -> None:
        assert lane.upstream is not None
        self._probe_later(lane)
        self._put_down(lane)
        if lane.suspended:
            lane.suspend()
            return
        lane.suspend()
        log.error("account.suspended", account=lane.upstream.account, cause=cause, remedy=remedy, reply=reply)
        self._set_state(lane, AccountState.SUSPENDED, remedy, reply)

    def _set_state(self, lane: Lane, state: AccountState, cause: str | None, reply: str | None) -> None:
        if state is AccountState.OK and lane.upstream is not None:
            log.info("account.resumed", account=lane.upstream.account)
            lane.suspended = False
        at = self._clock()

        async def write() -> None:
            await self._database.write(lambda c: account_store.set_state(c, lane.account_id, state, cause, reply, at))
            await self._directory.reload()
            self._configure(lane)

        self._spawn(write(), "account state")

    def _put_down(self, lane: Lane) -> None:
        """Free the memory of a lane that will not send soon; the store keeps its mail."""
        if lane.ready:
            given = list(lane.ready)
            lane.ready.clear()
            self._spawn(self._give_back(lane, given), "give back")

    async def _give_back(self, lane: Lane, given: list[Message]) -> None:
        try:
            await self.queue.give_back(given)
        except (StorageFull, StorageFailed) as error:
            log.error("storage.failed", where="give back", detail=str(error))
            lane.ready.extendleft(reversed(given))
            return
        lane.backlog(self._clock())

    async def _reroute(self) -> None:
        for lane in tuple(self._lanes.values()):
            if not lane.willing() and lane.ready:  # what flows is looked at again when it is taken
                given = list(lane.ready)
                lane.ready.clear()
                await self._give_back(lane, given)

        def resolve(reverse_path: str) -> int | None:
            route = self._directory.route(reverse_path)
            return route.account_id if route is not None else None

        if await self.queue.reroute(resolve):
            for account_id, due_at in (await self.queue.due_times()).items():
                self._lane(account_id).backlog(due_at)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                if not await self.queue.renew():
                    log.error("daemon.fault", where="lease", detail="another node declared this one dead")
                await self._age()
            except (StorageFull, StorageFailed) as error:
                log.error("storage.failed", where="tick", detail=str(error))

    async def _age(self) -> None:
        for message, delivery in await self.queue.expire(int(self.settings.lifetime_s * 1000), limit=500):
            self._log_expired(message, delivery.recipient)
        await self.queue.prune(self._history_ms, limit=500)

    def _log_expired(self, message: Message, recipient: str) -> None:
        account = self._directory.account(message.account_id)
        name = account.address if account is not None else ""
        count("relay_deliveries_total", account=name, outcome="expired")
        log.warning(
            "delivery.expired",
            message_id=format_id(message.id),
            account=name,
            sender=message.reverse_path,
            recipient=recipient,
            elapsed_ms=self._clock() - message.accepted_at,
        )

    def _probe_later(self, lane: Lane) -> None:
        """Try a suspended account's login again after a while, with the next message that waits."""
        account = self._directory.account(lane.account_id)
        if self.settings.probe_s and account is not None and account.state_cause != "operator":
            asyncio.get_running_loop().call_later(self.settings.probe_s, lane.probe)

    def _spawn(self, work: Any, name: str) -> None:
        task: asyncio.Task[Any] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed(task.get_name(), error)
