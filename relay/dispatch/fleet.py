"""This node among the others on its store: it keeps its lease, takes accounts on, hands them over, buries the dead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

from relay.credentials.oauth.errors import TokenUnavailable
from relay.database.engine import Database
from relay.dispatch import rounds
from relay.dispatch.calls import Calls
from relay.dispatch.clock_mark import uptime_ms
from relay.mail.errors import StorageFailed, StorageFull
from relay.mail.ids import format_id
from relay.queue import leases, nodes
from relay.queue.leases import Lease, Standing, account_of, of_account, of_token
from relay.queue.nodes import Buried, Identity, Joined
from relay.telemetry import get_logger
from relay.telemetry.counters import count, gauge

log = get_logger()

T = TypeVar("T")

_GATHER_S = 0.03  # accounts that are wanted within it are asked for together
_TURN_S = 30.0  # that a token's turn is waited for: longer than a refresh takes
_TURN_LOOK_S = 0.1


class Hands(Protocol):
    """What the fleet asks of this node's dispatcher."""

    def granted(self, account_id: int, lease: Lease) -> None: ...
    def refused(self, account_id: int) -> None: ...
    def due(self, account_id: int) -> None: ...
    def wake(self, account_id: int) -> None: ...
    def idle(self, account_id: int, since: float) -> bool: ...
    def flow(self) -> None: ...
    def lost(self) -> None: ...
    async def vacate(self, account_id: int) -> None: ...
    async def withdraw(self, ids: Iterable[int]) -> None: ...


@dataclass(slots=True)
class _Wanted:
    """An account that is asked for. `answers`: who waits to hear whether this node has it."""

    answers: list[asyncio.Future[bool]]


class Fleet:
    """One per process on a shared store. `join` first, then set `hands`, then `run`; `leave` at the end.

    What it holds is this node's until `alive` says no: that is measured from before the renewing statement was sent,
    on a clock that nobody sets, so that no other node can have taken it over before (docs/decisions/0022).
    """

    def __init__(
        self, database: Database, clock: Callable[[], int], who: Identity, *, lease_s: float, idle_s: float
    ) -> None:
        self._database, self._clock, self._who = database, clock, who
        self._lease_s, self._lease_ms, self._idle_s = lease_s, int(lease_s * 1000), idle_s
        self.node = 0
        self.hands: Hands | None = None
        self.rejoined: Callable[[Joined], None] = lambda joined: None
        self.keeps: Callable[[int], bool] = lambda account_id: False  # has an account more than mail to see to?
        self.standings: dict[int, Standing] = {}  # as of the last heartbeat
        self.calls = Calls(self)
        self._until = self._careful_until = 0  # uptime_ms
        self._ahead_ms: int | None = None  # of the store's clock, as of the last heartbeat
        self._held: set[int] = set()
        self._leads = self._retiring = self._gone = False
        self._leaving: set[int] = set()
        self._wanted: dict[int, _Wanted] = {}
        self._calls: dict[str, None] = {}
        self._asking: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._beats = asyncio.Event()  # beat before it is time

    # -- what others ask ---------------------------------------------------------------------------------------

    def alive(self) -> bool:
        """Is what this node holds still its own? Ask right before what nobody else may be doing."""
        return uptime_ms() < self._until

    def holds(self, account_id: int) -> bool:
        """Does this node submit for the account?"""
        return account_id in self._held and account_id not in self._leaving and self.alive()

    def may(self, account_id: int) -> bool:
        """Does this node see to the account? If not it asks for it, and may be later."""
        if self.holds(account_id):
            return True
        self.want(account_id)
        return False

    def leads(self) -> bool:
        """Does this node do the periodic jobs?"""
        return self._leads and not self._retiring and self.alive()

    def want(self, account_id: int) -> None:
        """There is something to do for the account: lease it, or tell the node that has it."""
        if account_id not in self._leaving and not self._retiring:
            self._wanted.setdefault(account_id, _Wanted([]))
            if self._asking is None:
                self._asking = self.spawn(self._ask(), "ask for accounts")

    async def obtain(self, account_id: int) -> bool:
        """Lease the account unless another node has it; False: it has. Within a few seconds."""
        if self.holds(account_id):
            return True
        self.want(account_id)
        if account_id not in self._wanted:
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._wanted[account_id].answers.append(answer)
        await asyncio.wait((answer,), timeout=self._lease_s / 3)
        return answer.done() and answer.result()

    def rests(self, account_id: int, seconds: float, cause: str, failures: int) -> None:
        """The account's lane rests for so long (0: not any more); whoever takes it over goes on with that."""
        until = self._clock() + int(seconds * 1000) if seconds else 0

        def write(connection: Connection) -> None:
            leases.rests(connection, self.node, of_account(account_id), until=until, cause=cause, failures=failures)

        self.spawn(self._database.write(write), "rest of an account")

    @asynccontextmanager
    async def token_turn(self, account_id: int) -> AsyncIterator[None]:
        """One node at a time asks for a token of the account: the next finds what the one before was given.

        Raises TokenUnavailable when its turn does not come.
        """
        name, deadline = of_token(account_id), time.monotonic() + _TURN_S
        while not await self._database.write(lambda c: leases.take(c, self.node, [name], now=self._clock())[0]):
            if time.monotonic() >= deadline:
                raise TokenUnavailable("other-node")
            await asyncio.sleep(_TURN_LOOK_S)
        try:
            yield
        finally:
            self.spawn(self._database.write(lambda c: leases.free(c, self.node, [name])), "end of a turn")

    # -- life --------------------------------------------------------------------------------------------------

    async def join(self) -> Joined:
        """Become a node of the fleet. Raises StorageFailed."""
        asked, lease_ms = uptime_ms(), self._lease_ms

        def write(connection: Connection) -> Joined:
            now = nodes.store_now(connection)
            joined = nodes.join(connection, self._who, now=now, lease_ms=lease_ms)
            if joined.buried:
                nodes.ring(connection, "freed")
            return joined

        joined = await self._database.write(write)
        self.node = joined.node
        self._until = asked + lease_ms
        self._careful_until = uptime_ms() + lease_ms // 3
        log.info("node.joined", node=joined.node, name=self._who.name)
        self._tell_buried(joined.buried)
        return joined

    async def run(self) -> None:
        """Beat a third of the lease apart. Never ends by itself, whatever fails."""
        while True:
            self._beats.clear()
            try:
                await self.beat()
            except (StorageFull, StorageFailed) as error:
                log.error("storage.failed", where="heartbeat", detail=str(error))
            except Exception as error:  # outermost loop: without it this node would lose all it has
                log.error("daemon.fault", where="heartbeat", exc_info=error)
            try:
                async with asyncio.timeout(self._lease_s / 3):
                    await self._beats.wait()
                await asyncio.sleep(_GATHER_S)
            except TimeoutError:
                pass

    def beat_soon(self) -> None:
        """Something may have been missed, or is free: look now."""
        self._beats.set()

    async def beat(self) -> None:
        """Renew, see what became of the others, take up what is due."""
        was_alive, asked = self.alive(), uptime_ms()
        careful = asked < self._careful_until
        if self._gone:
            return
        seen = await self._database.write(
            lambda c: rounds.beat(
                c, self.node, lease_ms=self._lease_ms, bury=lambda now: self._steady(now) and was_alive and not careful
            )
        )
        if not seen.renewed:
            if not self._gone:
                await self._rejoin()
            return
        self._until = asked + self._lease_ms
        if not was_alive:  # the others may have had the same trouble: let them renew before they are judged
            self._careful_until = uptime_ms() + self._lease_ms
        self._tell_buried(seen.buried)
        self._tell_leads(leads=seen.leads)
        if seen.in_doubt:
            _tell_in_doubt(seen.in_doubt)
        gauge("relay_nodes", len(seen.held))
        gauge("relay_leases", seen.held.get(self.node, 0))
        if self.hands is not None:
            await self._look()
            if not was_alive:
                self.hands.flow()
            self._even_out(seen.held)

    def _steady(self, now: int) -> bool:
        """Has the store's clock gone on as ours did since the last heartbeat? From the thread that writes.

        A clock that was set, or that of another server after a fail-over, makes leases seem to have passed: the others
        have to renew by it before they are judged.
        """
        before, self._ahead_ms = self._ahead_ms, now - uptime_ms()
        if before is None or abs(self._ahead_ms - before) < self._lease_ms // 4:
            return True
        self._careful_until = uptime_ms() + self._lease_ms
        return False

    async def retire(self, grace_s: float) -> None:
        """Hand everything over, each account as soon as nothing is under way for it; `grace_s` at most."""
        self._retiring = True
        work = [self.spawn(self._hand_over(account_id, 0), "hand over") for account_id in tuple(self._held)]
        if work:
            await asyncio.wait(work, timeout=grace_s)

    async def leave(self) -> None:
        """Nothing is in its dot any more: what is left is anybody's at once. Raises StorageFailed."""
        self._retiring = self._gone = True  # that nobody renews it any more is no reason to join anew

        def write(connection: Connection) -> None:
            nodes.leave(connection, self.node)
            nodes.ring(connection, "freed")

        await self._database.write(write)
        self._until = 0
        log.info("node.left", node=self.node, name=self._who.name)

    async def close(self) -> None:
        """End what is under way."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- inside ------------------------------------------------------------------------------------------------

    async def _ask(self) -> None:
        try:
            while self._wanted and self.alive():
                wanted, self._wanted = self._wanted, {}
                try:
                    await self._ask_for(wanted)
                finally:
                    for one in wanted.values():
                        _answer(one, False)
                await asyncio.sleep(_GATHER_S)
        finally:
            self._asking = None

    async def _ask_for(self, wanted: dict[int, _Wanted]) -> None:
        node = self.node
        taken, refused = await self._database.write(lambda c: rounds.ask(c, node, list(wanted), now=self._clock()))
        if node != self.node or self.hands is None:
            return
        for lease in taken:
            account_id = account_of(lease.name)
            if account_id is not None and account_id not in self._leaving:
                if account_id not in self._held:
                    self._held.add(account_id)
                    count("relay_lease_changes_total", change="taken")
                    log.info("lease.taken", account_id=account_id, fence=lease.token)
                self.hands.granted(account_id, lease)
                _answer(wanted[account_id], True)
        for account_id in refused:
            self._held.discard(account_id)
            self.hands.refused(account_id)

    async def _look(self) -> None:
        """What is due: mail of accounts of this node, and of those that nobody submits for."""
        assert self.hands is not None
        due, self.standings = await self._database.read(rounds.due)
        now = self._clock()
        for account_id, due_at in due.items():
            if account_id in self._held:
                if due_at <= now:
                    self.hands.due(account_id)
            elif due_at <= now and (account_id not in self.standings or self.standings[account_id].node is None):
                self.want(account_id)

    def _even_out(self, held: dict[int, int]) -> None:
        """Give back what was not used for long, and some of what is above this node's share."""
        assert self.hands is not None
        if self._retiring:
            return
        since = time.monotonic() - self._idle_s
        for account_id in tuple(self._held - self._leaving):
            if self.hands.idle(account_id, since) and not self.keeps(account_id):
                self.spawn(self._hand_over(account_id, 0), "hand over")
        many, to = leases.surplus(held, self.node)
        for account_id in sorted(self._held - self._leaving)[:many]:
            self.spawn(self._hand_over(account_id, to), "hand over")

    async def _hand_over(self, account_id: int, to: int) -> None:
        """`to` 0: to whoever wants it next."""
        assert self.hands is not None
        if account_id in self._leaving:
            return
        self._leaving.add(account_id)
        try:
            await self.hands.vacate(account_id)
            call = f"take {to} {account_id}" if to else "freed"

            def write(connection: Connection) -> None:
                leases.free(connection, self.node, [of_account(account_id)])
                nodes.ring(connection, call)

            await self._database.write(write)
            self._held.discard(account_id)
            count("relay_lease_changes_total", change="released")
            log.info("lease.released", account_id=account_id)
        finally:
            self._leaving.discard(account_id)
            if account_id in self._held:  # it could not be: this node goes on
                self.want(account_id)

    async def _rejoin(self) -> None:
        """This node was taken for dead: what it had is others' by now."""
        log.error("node.lost", node=self.node, cause="its lease had passed before it was renewed",
                  to_do="see whether this machine stood still, or cannot reach PostgreSQL in time")  # fmt: skip
        count("relay_lease_changes_total", max(1, len(self._held)), change="lost")
        self._until, self._leads = 0, False
        self._held.clear()
        if self.hands is not None:
            self.hands.lost()
        self.rejoined(await self.join())
        self.beat_soon()

    def _tell_leads(self, *, leads: bool) -> None:
        if leads != self._leads:
            self._leads = leads
            log.info("node.leads" if leads else "node.follows", node=self.node)

    def _tell_buried(self, buried: Sequence[Buried]) -> None:
        for one in buried:
            log.warning("node.buried", node=one.node, name=one.name, in_doubt=len(one.in_doubt))
            _tell_in_doubt(one.in_doubt)

    def say(self, call: str) -> None:
        """Tell every node, soon; the same thing once."""
        if not self._calls:
            self.spawn(self._say(), "call")
        self._calls[call] = None

    async def _say(self) -> None:
        await asyncio.sleep(_GATHER_S)
        calls, self._calls = list(self._calls), {}

        def write(connection: Connection) -> None:
            for call in calls:
                nodes.ring(connection, call)

        await self.write(write)

    async def write(self, function: Callable[[Connection], T]) -> T:
        """As `Database.write`."""
        return await self._database.write(function)

    def spawn(self, work: Awaitable[Any] | Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        async def run() -> Any:
            try:
                return await work
            except (StorageFull, StorageFailed) as error:
                log.error("storage.failed", where=name, detail=str(error))

        task = asyncio.create_task(run(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("daemon.fault", where=task.get_name(), exc_info=error)


def _answer(wanted: _Wanted, has: bool) -> None:
    for answer in wanted.answers:
        if not answer.done():
            answer.set_result(has)


def _tell_in_doubt(ids: Iterable[int]) -> None:
    for message_id in ids:
        log.warning(
            "attempt.in_doubt",
            message_id=format_id(message_id),
            possible_duplicate=True,
            cause="its node was stopped between the final dot and its reply",
        )
