"""Runs the lanes: routes what is accepted, claims what is due, records what happened, keeps accounts' health."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from relay.accounts.directory import Directory
from relay.accounts.health import Health
from relay.accounts.model import AccountState
from relay.accounts.transitions import Trouble
from relay.accounts.unknown_replies import UnknownReplies
from relay.database.engine import Database
from relay.dispatch import record as recording
from relay.dispatch.attempt import Attempt
from relay.dispatch.clock_mark import ClockMark
from relay.dispatch.custody import Custody
from relay.dispatch.history import relayed_by_hour
from relay.dispatch.lane import Lane
from relay.dispatch.owing import owing
from relay.dispatch.resting import resting, shared_upstream
from relay.dispatch.settling import Settler
from relay.dispatch.spans import trace_attempt
from relay.dispatch.stopping import Rescue, Stopping
from relay.dispatch.upkeep import Upkeep
from relay.dispatch.verdict import LaneAction, Suspend
from relay.mail.errors import StorageFailed, StorageFull
from relay.mail.ids import format_id
from relay.mail.outcome import Outcome
from relay.queue.model import Delivery, Message, Settlement, State
from relay.queue.store import Queue
from relay.submission.transport import Transport
from relay.telemetry import get_logger, tracing

if TYPE_CHECKING:
    from relay.config.settings import DispatchSettings

log = get_logger()

_UPKEEP = "upkeep"
_RECORD_S = 5.0  # at the end, for what could not be recorded until then


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
        rescue: Rescue | None = None,
        mark: ClockMark | None = None,
    ) -> None:
        """`rescue(account_id, cause)` is asked before an account is suspended; True: its settings are others now."""
        self.settings = settings
        self.queue = queue
        self.transport = transport
        self.chance = chance
        self._database = database
        self._directory = directory
        self.clock = clock
        self.health = Health(database, directory, clock=clock)
        self._unknown = UnknownReplies(database, clock)
        self._lanes: dict[int, Lane] = {}
        self._verdicts = queue.verdicts
        self._custody = Custody(queue, directory, lanes=self._lanes, lane_of=self._lane, spawn=self._spawn, clock=clock)
        self._accounts = Stopping(
            directory,
            self.health,
            self._custody,
            probe_s=settings.probe_s,
            found=self._lanes.get,
            lane_of=self._lane,
            configure=self._configure,
            rescue=rescue,
            spawn=self._spawn,
            clock=clock,
        )
        self._settler = Settler(
            queue,
            recovered=self._schedule_all,
            waits=lambda account_id, due_at: self._lane(account_id).backlog(due_at),
            failed=self.failed,
        )
        self._upkeep = Upkeep(
            queue,
            lifetime_ms=int(settings.lifetime_s * 1000),
            history_ms=history_days * 86_400_000,
            delay_ms=int(settings.delay_notice_s * 1000),
            expired=self._expired,
            delayed=self._delayed,
            moved=self._clock_moved,
            failed=self.failed,
            clock=clock,
            mark=mark,
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._lost = False

    # -- life ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Be ready for what arrives."""
        self.queue.willing = lambda account_id: self._lane(account_id).willing()
        self.queue.on_fresh = self.offer
        self.queue.on_backlog = self.offer_later
        self.queue.operator.withdraw = self._custody.withdraw
        self._verdicts.open()
        await self.health.start()
        self._spawn(self._upkeep.run(), _UPKEEP)

    async def begin(self) -> None:
        """Take up what the store holds, which takes longer the more it is: once the front doors are open."""
        for account_id, due_at in (await self.queue.due_times()).items():
            self._lane(account_id).backlog(due_at)
        self._spawn(self._upkeep.sweep(), "sweep")

    def configure(self, settings: DispatchSettings, *, history_days: int) -> None:
        """Other settings from now on; a wait that has begun ends when it would have."""
        self.settings = settings
        self._upkeep.configure(lifetime_ms=int(settings.lifetime_s * 1000), history_ms=history_days * 86_400_000)
        self._accounts.probes.configure(settings.probe_s)
        for lane in tuple(self._lanes.values()):
            if lane.suspended:
                self._accounts.probes.later(lane)

    async def stop(self, grace_s: float) -> bool:
        """Give nothing away any more; let attempts end for `grace_s`, cancel the rest, record everything.

        False: something could not be recorded; the queue must be left as it is, the next start sorts it out.
        """
        self._stopping = True
        self._verdicts.close()
        self._accounts.probes.stop()
        for lane in self._lanes.values():
            lane.stop()
        workers = [worker for lane in self._lanes.values() for worker in lane.workers]
        if workers:
            _, late = await asyncio.wait(workers, timeout=grace_s)
            for worker in late:
                worker.cancel()
            if late:
                await asyncio.wait(late, timeout=5)
        recorded = self._lost or await self._settler.finish(_RECORD_S)
        for task in self._tasks:
            if task.get_name() == _UPKEEP:
                task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=5)
        return recorded

    def lost(self) -> None:
        """The store failed: send nothing any more, nothing could be recorded."""
        self._lost = True

    # -- what lanes ask (lane.Services) ---------------------------------------------------------------------

    def flowing(self) -> bool:
        """False while outcomes cannot be recorded, or on the way out."""
        return not (self._stopping or self._lost) and self._settler.flowing()

    def unleased(self, lane: Lane) -> None:
        """A lane that is not leased would send something. The only node of a store leases all."""

    def belongs(self, message: Message, lane: Lane) -> bool:
        """Does its sender still route to this lane? If not it is moved to the lane it routes to now."""
        if message.notice:  # its account was chosen, not routed to
            return True
        route = self._directory.route(message.reverse_path)
        if route is None or route.account_id == lane.account_id or self._is_own(message, lane.account_id):
            return True
        message.account_id, message.moved = route.account_id, True
        self._verdicts.put_down(message.id)
        self._lane(route.account_id).push(message)
        return False

    def _is_own(self, message: Message, account_id: int) -> bool:
        """Was the sender put in by us, because the header said whose mail it is? Then it was not what was routed."""
        account = self._directory.account(account_id)
        return bool(message.original_path) and account is not None and account.address == message.reverse_path

    def settle_expired(self, message: Message) -> bool:
        """Settle a message in hand whose lifetime is over."""
        self._keep_age(message, self._upkeep.unfollowed_ms())
        if self.clock() - message.accepted_at < self.settings.lifetime_s * 1000:
            return False
        settlements = [
            Settlement(each, State.EXPIRED, 0, None, owes=owing(message, each, State.EXPIRED, passed_on=False))
            for each in message.deliveries
        ]
        for delivery in message.deliveries:
            self._expired(message, delivery)
        self._verdicts.put_down(message.id)
        self._settler.write(message, settlements, None)
        return True

    def finished(self, lane: Lane, attempt: Attempt, outcomes: Sequence[Outcome]) -> tuple[LaneAction, str]:
        """Record an attempt; what the lane has to do about it, and the catalogue entry that says why."""
        now = self.clock()
        chance = self.chance()
        message, waiting = attempt.message, self._verdicts.waiting
        self._keep_age(message, self._upkeep.unfollowed_ms())
        expected = waiting.get(message.id) if waiting else None
        result = recording.record(attempt, outcomes, settings=self.settings, now=now, chance=chance, expected=expected)
        if tracing.current is not None:
            trace_attempt(tracing.current, attempt, outcomes, result)
        if result.accepted:
            self._went_well(lane, result.accepted, now)
        # First: nothing more is claimed then.  Of another credential than is in use now it says nothing.
        if isinstance(result.lane, Suspend) and result.diagnosis is not None and attempt.upstream == lane.upstream:
            self._accounts.suspend(lane, Trouble.of(result.diagnosis, result.reply), attempt.upstream.revision)
        for stage, words in result.unknown:
            self._unknown.note(attempt.upstream.provider, stage, words)
        if attempt.fenced:
            self._fenced(message)
        elif result.again:
            self._try_again(lane, attempt, result)
        if result.settlements:
            message.deliveries = [settlement.delivery for settlement in result.settlements]
            self._settler.write(message, result.settlements, attempt.slot)
        elif attempt.slot is not None:
            self.queue.dot_settled(attempt.slot)
        return result.lane, result.diagnosis.id if result.diagnosis is not None else ""

    def rested(self, lane: Lane, seconds: float) -> None:
        """A lane begins to rest."""
        if lane.upstream is not None:
            trouble = resting(lane.rest_cause, lane.upstream)
            log.info(
                "account.resting",
                account=lane.upstream.account,
                remedy=trouble.cause,
                who=trouble.who.value,
                retry_in_s=int(seconds),
                waiting=len(lane.ready),
            )
            shared = shared_upstream(lane.rest_cause, lane.upstream)
            self._spawn(self.health.rests(lane.account_id, trouble, seconds, shared), "account state")
        self._verdicts.put_down_account(lane.account_id)
        if seconds > 60:
            self._custody.put_down(lane)

    def unwanted(self, lane: Lane) -> None:
        """A lane claimed what it may not send any more."""
        self._custody.put_down(lane)

    def failed(self, where: str, error: BaseException) -> None:
        """A part of ours broke, or the store did; the daemon lives on."""
        if isinstance(error, StorageFull | StorageFailed):
            log.error("storage.failed", where=where, detail=str(error))
        else:
            log.error("daemon.fault", where=where, exc_info=error)

    # -- what the control room asks -------------------------------------------------------------------------

    def offer(self, message: Message) -> None:
        """A fresh message, durable, straight to its lane."""
        lane = self._lane(message.account_id)
        lane.push(message)
        if self._verdicts.waiting:
            self._custody.tell_if_held_back(lane)

    def offer_later(self, account_id: int) -> None:
        """A message of this account is durable, but waits in the store alone."""
        lane = self._lane(account_id)
        lane.backlog(self.clock())
        if self._verdicts.waiting:
            self._custody.tell_if_held_back(lane)

    def refresh(self, *, reroute: bool = True) -> None:
        """Accounts, senders or clients changed: apply it to what already waits. `reroute` False: somebody else did."""
        for lane in tuple(self._lanes.values()):
            self._configure(lane)
            self._custody.tell_if_held_back(lane)
        self.health.show()
        if reroute:
            self._spawn(self._custody.reroute(), "reroute")

    def state(self, account_id: int) -> dict[str, object]:
        """What the lane of an account is doing right now."""
        lane = self._lanes.get(account_id)
        if lane is None:
            return {"resting_s": 0, "in_hand": 0, "active": 0, "connections": 0, "cause": ""}
        return lane.state()

    def sent(self, account_id: int) -> dict[int, int] | None:
        """What counts against the daily quota of an account, by hour number; None: it is not known here."""
        lane = self._lanes.get(account_id)
        return lane.quota.by_hour() if lane is not None and lane.upstream is not None and not lane.counting else None

    def wake(self, account_id: int) -> None:
        """An operator wants this account's mail tried now: end its rest."""
        lane = self._lane(account_id)
        lane.resting_until = 0.0
        self.health.rest_ended(account_id)
        lane.backlog(self.clock())

    # -- inside --------------------------------------------------------------------------------------------

    def _lane(self, account_id: int) -> Lane:
        lane = self._lanes.get(account_id)
        if lane is None:
            lane = self._lanes[account_id] = Lane(account_id, self)
            self._begin(lane)
            self._configure(lane)
        return lane

    def _begin(self, lane: Lane) -> None:
        """A lane was made, and is not configured yet."""

    def _configure(self, lane: Lane) -> None:
        account = self._directory.account(lane.account_id)
        if account is None:
            lane.configure(None, suspended=False)
            return
        upstream = self._directory.upstream(account)
        first, counted = lane.upstream is None, lane.upstream.per_day if lane.upstream is not None else 0
        if upstream.per_day and upstream.per_day != counted and lane.leased:
            lane.counting = True  # nothing goes before it is known what went today
            self._spawn(self._count_day(lane), "count day")
        lane.configure(upstream, suspended=account.state is AccountState.SUSPENDED)
        if not lane.resting_until:
            self.health.rest_ended(lane.account_id)
        if first and lane.suspended:
            self._accounts.probes.later(lane)

    async def _count_day(self, lane: Lane) -> None:
        since = self.clock() - 86_400_000
        try:
            history = await self._database.read(lambda c: relayed_by_hour(c, lane.account_id, since))
            lane.quota.restore(history)
        finally:
            lane.counting = False
            lane.schedule()

    def _try_again(self, lane: Lane, attempt: Attempt, result: recording.Record) -> None:
        message = attempt.message
        if result.settlements:
            message = replace(message, deliveries=result.again, held_bytes=0)
        lane.ready.appendleft(message)

    def _went_well(self, lane: Lane, accepted: int, now: int) -> None:
        lane.quota.spend(accepted, now / 1000)
        lane.well()
        if lane.suspended and lane.probing:
            self._accounts.resume(lane)
        if self.health.troubled(lane.account_id):
            self._spawn(self.health.well(lane.account_id), "account state")

    def _fenced(self, message: Message) -> None:
        """Its dot did not go out: somebody else has it by now."""
        log.error("delivery.fenced", message_id=format_id(message.id))
        self._verdicts.put_down(message.id)
        self.queue.put_down(message)

    def _schedule_all(self) -> None:
        for lane in tuple(self._lanes.values()):
            lane.schedule()

    def _clock_moved(self, by_ms: int) -> None:
        for lane in self._lanes.values():
            for message in lane.ready:
                self._keep_age(message, by_ms)

    def _keep_age(self, message: Message, by_ms: int) -> None:
        """A message in hand is as old as it was, though the clock was set by so much; set back, it may seem younger."""
        if by_ms > 0 and message.accepted_at <= self.clock() - by_ms:
            message.accepted_at += by_ms

    def _expired(self, message: Message, delivery: Delivery) -> None:
        account = self._directory.account(message.account_id)
        recording.log_expired(message, delivery, account.address if account is not None else "", self.clock())

    def _delayed(self, row: Any) -> None:
        account = self._directory.account(row.account_id)
        recording.log_delayed(row, account.address if account is not None else "", self.clock())

    def unproven(self, lane: Lane) -> None:
        """A probe ended without saying whether the login is well."""
        self._accounts.probes.later(lane)

    def _spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed(task.get_name(), error)
