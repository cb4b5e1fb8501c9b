"""The dispatcher of a node that shares its store with others: it sends for the accounts that it has leased."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from relay.accounts.transitions import Change
from relay.dispatch.dispatcher import Dispatcher
from relay.dispatch.fleet import Fleet
from relay.dispatch.history import relayed_by_hour, relayed_since
from relay.dispatch.lane import Lane
from relay.dispatch.tenure import Tenure
from relay.queue.leases import Lease

_MINUTE_MS, _DAY_MS = 60_000, 86_400_000


class SharedDispatcher(Dispatcher):
    """Its fleet's `Hands` as well."""

    def __init__(self, *arguments: Any, fleet: Fleet, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._fleet = fleet
        self._upkeep.leads = fleet.leads
        self._tenure = Tenure(
            self.queue,
            self.transport,
            self._custody,
            lanes=self._lanes,
            lane_of=self._lane,
            take_up=self._take_up,
            clock=self.clock,
        )

    # -- as a dispatcher ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        """See `Dispatcher.start`; and work in the fleet from now on."""
        await super().start()
        self._fleet.hands = self
        self.queue.operator.withdraw = self._withdraw_everywhere
        self._fleet.beat_soon()

    def flowing(self) -> bool:
        """See `Dispatcher.flowing`. Nothing goes while somebody else may have taken it over."""
        return self._fleet.alive() and super().flowing()

    def unleased(self, lane: Lane) -> None:
        """See `Dispatcher.unleased`."""
        if lane.ready or lane.next_due is not None:
            self._fleet.want(lane.account_id)

    def rested(self, lane: Lane, seconds: float) -> None:
        """See `Dispatcher.rested`."""
        super().rested(lane, seconds)
        self._fleet.rests(lane.account_id, seconds, lane.rest_cause, lane.failures)

    def wake(self, account_id: int) -> None:
        """See `Dispatcher.wake`; wherever its lane is."""
        if not self._fleet.holds(account_id):
            self._fleet.say(f"wake {account_id}")
            self._fleet.want(account_id)
            return
        lane = self._lane(account_id)
        if lane.resting_until:
            self._fleet.rests(account_id, 0, "", 0)
        super().wake(account_id)

    def state(self, account_id: int) -> dict[str, object]:
        """See `Dispatcher.state`. Of another node's account only its rest is known, as of the last heartbeat."""
        standing = self._fleet.standings.get(account_id)
        if self._fleet.holds(account_id) or standing is None:
            return super().state(account_id)
        left_s = max(0, round((standing.rest_until - self.clock()) / 1000))
        cause = standing.rest_cause if left_s else ""
        return {"resting_s": left_s, "in_hand": 0, "active": 0, "connections": 0, "cause": cause}

    def follow(self, changes: Sequence[Change]) -> None:
        """Accounts were stopped, or go on, by what another node wrote."""
        self._accounts.state_changed(changes)

    def sent(self, account_id: int) -> dict[int, int] | None:
        """See `Dispatcher.sent`."""
        return super().sent(account_id) if self._fleet.holds(account_id) else None

    def _begin(self, lane: Lane) -> None:
        lane.leased = self._fleet.holds(lane.account_id)

    def _went_well(self, lane: Lane, accepted: int, now: int) -> None:
        if lane.failures or lane.rest_cause:
            lane.rest_cause = ""
            self._fleet.rests(lane.account_id, 0, "", 0)
        super()._went_well(lane, accepted, now)

    async def _withdraw_everywhere(self, ids: Iterable[int]) -> None:
        wanted = list(ids)
        await self._custody.withdraw(wanted)
        await self._fleet.calls.withdraw_everywhere(wanted)

    # -- as hands of the fleet ---------------------------------------------------------------------------------

    def granted(self, account_id: int, lease: Lease) -> None:
        """See `Tenure.granted`."""
        self._tenure.granted(account_id, lease)

    def refused(self, account_id: int) -> None:
        """See `Tenure.refused`."""
        self._tenure.refused(account_id)

    def due(self, account_id: int) -> None:
        """See `Tenure.due`."""
        self._tenure.due(account_id)

    def idle(self, account_id: int, since: float) -> bool:
        """See `Tenure.idle`."""
        return self._tenure.idle(account_id, since)

    def flow(self) -> None:
        """This node is heard of again: go on."""
        self._schedule_all()

    def lost(self) -> None:
        """See `Tenure.lost`."""
        self._tenure.lost()
        for account_id in self._lanes:
            self.health.gone(account_id)

    async def vacate(self, account_id: int) -> None:
        """See `Tenure.vacate`."""
        await self._tenure.vacate(account_id)
        self.health.gone(account_id)

    async def withdraw(self, ids: Iterable[int]) -> None:
        """See `Tenure.withdraw`."""
        await self._tenure.withdraw(ids)

    # -- inside ------------------------------------------------------------------------------------------------

    def _take_up(self, lane: Lane, lease: Lease) -> None:
        lane.counting = True  # nothing goes before it is known what went lately
        self._spawn(self._catch_up(lane, lease), "take up")

    async def _catch_up(self, lane: Lane, lease: Lease) -> None:
        now, account_id = self.clock(), lane.account_id
        try:
            by_hour = await self._database.read(lambda c: relayed_by_hour(c, account_id, now - _DAY_MS))
            lately = await self._database.read(lambda c: relayed_since(c, account_id, now - _MINUTE_MS))
            lane.take_up(lately, by_hour)
            if lease.rest_failures:
                await self.health.inherit(account_id, (lease.rest_until - now) / 1000)
        finally:
            lane.counting = False
            lane.schedule()
