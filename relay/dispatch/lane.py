"""One account's lane: what may be sent now, over how many connections, and what holds it back."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from relay.accounts.model import Upstream
from relay.dispatch.attempt import Attempt
from relay.dispatch.pace import Pace, Quota
from relay.dispatch.schedule import backoff_s, jittered
from relay.dispatch.verdict import LaneAction, Rest, Strike, Suspend
from relay.dispatch.worker import Worker
from relay.mail.outcome import Outcome
from relay.queue.model import Message
from relay.queue.store import Queue
from relay.submission.transport import Transport
from relay.telemetry import tracing

if TYPE_CHECKING:
    from relay.config.settings import DispatchSettings

_CLAIM = 200  # deliveries taken in hand at a time
_IN_HAND = 500  # messages in hand beyond which fresh ones wait in the store
_LOW_WATER = 50  # messages in hand below which more are claimed
_UNLIMITED = 50  # connections, where an account says "no limit"
_CLAIM_AGAIN_MS = 250  # after a claim that got nothing although something was due
_STRIKES = 3  # failures in a row after login that make a lane rest


class Services(Protocol):
    """What a lane asks of its dispatcher."""

    queue: Queue
    transport: Transport
    settings: DispatchSettings

    def chance(self) -> float: ...
    def clock(self) -> int: ...
    def unleased(self, lane: Lane) -> None: ...
    def flowing(self) -> bool: ...
    def settle_expired(self, message: Message) -> bool: ...
    def belongs(self, message: Message, lane: Lane) -> bool: ...
    def finished(self, lane: Lane, attempt: Attempt, outcomes: Sequence[Outcome]) -> tuple[LaneAction, str]: ...
    def rested(self, lane: Lane, seconds: float) -> None: ...
    def unwanted(self, lane: Lane) -> None: ...
    def unproven(self, lane: Lane) -> None: ...
    def failed(self, where: str, error: BaseException) -> None: ...


class Lane:
    """Messages wait in `ready` (in hand) and in the store (due at `next_due`, ms since 1970).

    Until an upstream has proved well (a success since the start, since a rest, since its settings changed) it
    is given one connection only: a wrong password costs one refused login, an outage one probe.
    """

    def __init__(self, account_id: int, services: Services) -> None:
        self.account_id = account_id
        self.upstream: Upstream | None = None  # None: no such account, nothing can be sent
        self.suspended = False
        self.leased = True  # False: another node submits for the account, or none
        self.ready: deque[Message] = deque()
        self.next_due: int | None = None
        self.active = 0  # messages in an attempt
        self.workers: set[asyncio.Task[None]] = set()
        self.resting_until = 0.0  # monotonic
        self.rest_cause = ""
        self.failures = 0  # in a row
        self.used_at = time.monotonic()  # when it last had something to send
        self._services = services
        self.counting = False  # what it sent today is being looked up
        self._starting = 0  # workers that did not take yet
        self._proven = False
        self.probing = False  # a suspended account's login is being tried
        self._strikes = 0
        self._pace = Pace(0, now=0.0)
        self.quota = Quota(0)
        self._refill: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- what changes from outside -------------------------------------------------------------------------

    def configure(self, upstream: Upstream | None, *, suspended: bool) -> None:
        """The account's settings, credential or health changed, or are known for the first time."""
        changed = upstream != self.upstream
        resumed = self.suspended and not suspended
        if changed and upstream is not None:
            if self.upstream is None or upstream.per_minute != self.upstream.per_minute:
                self._pace = Pace(upstream.per_minute, now=time.monotonic())
            if self.upstream is None or upstream.per_day != self.upstream.per_day:
                self.quota = Quota(upstream.per_day)
        stopped = suspended and not self.suspended
        self.upstream, self.suspended = upstream, suspended
        if stopped:
            self._services.transport.forget(self.account_id)
        if changed or resumed:
            self._proven = False
            self.failures = self._strikes = 0
            self.resting_until = 0.0
        self.schedule()

    def willing(self) -> bool:
        """Should a fresh message come in memory? Not when it would only wait there and take the room of others."""
        if self.upstream is None or self.suspended or not self.leased or len(self.ready) >= _IN_HAND:
            return False
        return self.resting_until <= time.monotonic()

    def push(self, message: Message) -> None:
        """A message in hand waits here now."""
        self.ready.append(message)
        if self.upstream is None or (self.suspended and not self.probing):
            self._services.unwanted(self)
        elif self._starting == 0 or len(self.ready) > self._starting:
            self.schedule()

    def backlog(self, due_at: int) -> None:
        """Something waits in the store, due then."""
        if self.next_due is None or due_at < self.next_due:
            self.next_due = due_at
        self.schedule()

    def suspend(self) -> None:
        """Give nothing away any more until `configure` or `probe` says otherwise."""
        self.suspended = True
        self.probing = self._proven = False
        self._services.transport.forget(self.account_id)  # a login from before says nothing of the one now

    def probe(self) -> bool:
        """Try a suspended account's login with the next message that waits; False: not now."""
        if self.workers:
            return False
        self.probing = True
        self._proven = False
        self.schedule()
        return True

    # -- scheduling ----------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Start what can be started now; set the timer for what comes next."""
        if self.upstream is None or self.counting or not self._services.flowing():
            return
        if not self.leased:
            self._services.unleased(self)
            return
        if self.suspended and not self.probing:
            return
        wait = self.resting_until - time.monotonic()
        if wait > 0:
            self._wake_in(wait)
            return
        wait = self._pace.wait_s(time.monotonic())
        if wait > 0:
            self._wake_in(wait)
            return
        limit = (self.upstream.max_connections or _UNLIMITED) if self._proven else 1
        while len(self.ready) > self._starting and len(self.workers) < limit:
            self._start(self.upstream)
        if len(self.ready) < _LOW_WATER and self.next_due is not None and self._refill is None:
            wait = (self.next_due - self._services.clock()) / 1000
            if wait <= 0:
                self._refill = asyncio.create_task(self._claim(), name=f"claim {self.account_id}")
            elif not self.ready:
                self._wake_in(wait)

    def _start(self, upstream: Upstream) -> None:
        self._starting += 1
        worker = Worker(self, upstream, self._services, begun=self._begun)
        task = asyncio.create_task(worker.run(), name=f"lane {self.account_id}")
        self.workers.add(task)
        task.add_done_callback(self._stopped)

    def _begun(self) -> None:
        self._starting -= 1

    def _stopped(self, task: asyncio.Task[None]) -> None:
        self.workers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._services.failed("lane", error)
            self.rest(None)
        if not self.workers and self.probing:
            self.probing = False
            if self.suspended:
                self._services.unproven(self)
        self.schedule()

    def _wake_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + min(seconds, 3600.0) + 0.001
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._woken)

    def _woken(self) -> None:
        self._timer = None  # not: look at its time, which may seem to come yet (uvloop rounds it and the clock apart)
        self.schedule()

    async def _claim(self) -> None:
        asked, self.next_due = self.next_due, None  # what comes up meanwhile is not forgotten
        try:
            idle = not self.ready and not self.active
            claimed, later = await self._services.queue.claim_due(self.account_id, limit=_CLAIM, at_least_one=idle)
        except Exception as error:
            self._services.failed("claim", error)
            claimed, later = [], asked
        if later is not None:
            self.next_due = later if self.next_due is None else min(later, self.next_due)
        self._refill = None
        self.ready.extend(claimed)
        if self.upstream is None or (self.suspended and not self.probing):
            self._services.unwanted(self)
        if not claimed and self.next_due is not None:  # the memory budget is spent by other lanes, or the store fails
            self.next_due = max(self.next_due, self._services.clock() + _CLAIM_AGAIN_MS)
        self.schedule()

    # -- giving away ---------------------------------------------------------------------------------------

    def take(self, upstream: Upstream) -> Attempt | None:
        """The next attempt for a connection to `upstream`, or None: empty, held back, or the settings changed."""
        if upstream is not self.upstream and upstream != self.upstream:  # the first spares the second, nearly always
            return None
        if (self.suspended and not self.probing) or not self.leased or not self._services.flowing():
            return None
        now = time.monotonic()
        if self.resting_until > now or (self.active and not self._proven):
            return None
        self.used_at = now
        while self.ready:
            wait = self._pace.wait_s(now)
            if wait > 0:
                self._wake_in(wait)
                return None
            message = self.ready.popleft()
            if not self._services.belongs(message, self) or self._services.settle_expired(message):
                continue
            message = self._split(message, upstream.recipients_per_transaction)
            wait = self.quota.wait_s(len(message.deliveries), self._services.clock() / 1000)
            if wait > 0:
                self.ready.appendleft(message)
                self._rest_for(wait, "quota-local")
                return None
            self._pace.spend()
            self.active += 1
            content = message.content
            body = content.inline if content.inline is not None else self._services.queue.source(content)
            attempt = Attempt(
                message.id,
                message.reverse_path,
                tuple([delivery.recipient for delivery in message.deliveries]),
                body,
                content.size,
                message.eight_bit,
                message.smtputf8,
                message,
                upstream,
                now,
            )
            if tracing.current is not None:
                attempt.marks = []
            if message.asks:
                attempt.request = message.request
                attempt.requests = tuple([delivery.request for delivery in message.deliveries])
            return attempt
        if self.next_due is not None:
            self.schedule()
        return None

    def _split(self, message: Message, most: int) -> Message:
        """The first `most` recipients; the others stay in front as a message of their own."""
        if len(message.deliveries) <= most:
            return message
        rest = replace(message, deliveries=message.deliveries[most:])
        message.deliveries = message.deliveries[:most]
        message.held_bytes = 0
        self.ready.appendleft(rest)
        return message

    def report(self, attempt: Attempt, outcomes: Sequence[Outcome]) -> None:
        """The outcome of an attempt that `take` gave."""
        self.active -= 1
        action, cause = self._services.finished(self, attempt, outcomes)
        match action:
            case None:
                pass
            case Rest(seconds):
                self.rest(seconds, cause)
            case Strike():
                self._strikes += 1
                if self._strikes >= _STRIKES:
                    self.rest(None, cause)
            case Suspend():
                pass  # done already: nothing may be claimed meanwhile

    def well(self) -> None:
        """An attempt got through: the upstream takes mail from this account."""
        self.failures = self._strikes = 0
        if not self._proven:
            self._proven = True
            self.schedule()

    def rest(self, seconds: float | None, cause: str = "") -> None:
        """Send nothing for about so long, then begin with one connection.

        The first failure rests for `seconds` (None: the first step of the back-off), each further one in a row
        for twice as long, within the settings' longest wait.
        """
        settings = self._services.settings
        self.failures += 1
        first_s = settings.first_retry_s if seconds is None else seconds
        grown = backoff_s(self.failures, first_s=first_s, longest_s=settings.max_retry_s)
        self._rest_for(jittered(grown, self._services.chance()), cause)

    def _rest_for(self, seconds: float, cause: str) -> None:
        self._proven = False
        self._strikes = 0
        until = time.monotonic() + seconds
        if until > self.resting_until:
            self.resting_until, self.rest_cause = until, cause
            self._services.rested(self, seconds)
        self._wake_in(self.resting_until - time.monotonic())

    def state(self) -> dict[str, object]:
        """What it is doing right now, for people."""
        rests_s = self.resting_until - time.monotonic()
        return {
            "resting_s": max(0, round(rests_s)),
            "in_hand": len(self.ready),
            "active": self.active,
            "connections": len(self.workers),
            "cause": self.rest_cause if rests_s > 0 else "",
        }

    @property
    def busy(self) -> bool:
        """Something is in hand, or on its way."""
        return bool(self.ready or self.active or self.workers or self._refill)

    async def refilled(self) -> None:
        """What is being claimed has come."""
        if self._refill is not None:
            await asyncio.wait((self._refill,))

    def take_up(self, sent_last_minute: int, relayed: dict[int, int]) -> None:
        """What went lately, through whichever node, counts: messages in a minute, recipients by the hour."""
        self._pace.restore(sent_last_minute)
        self.quota.restore(relayed)

    def resume_rest(self, seconds: float, cause: str, failures: int) -> None:
        """Go on with a rest that began at another node."""
        self.failures = failures
        self._proven = False
        self.resting_until, self.rest_cause = time.monotonic() + seconds, cause
        self._wake_in(seconds)

    def stop(self) -> None:
        """No more timers."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
