"""Stops lanes whose accounts are refused, and lets them go on: what is durable first, then the lane."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from relay.accounts.directory import Directory
from relay.accounts.health import Health
from relay.accounts.model import AccountState
from relay.accounts.transitions import OPERATOR, Change, Trouble
from relay.dispatch.custody import Custody, Spawn
from relay.dispatch.lane import Lane
from relay.dispatch.probes import Probes

Rescue = Callable[[int, str], Awaitable[bool]]


class Stopping:
    """One for a dispatcher. `found` gives the lane of an account if there is one, `lane_of` makes one otherwise.

    `rescue(account_id, cause)` is asked before an account is suspended; True: its settings are others now.
    """

    def __init__(
        self,
        directory: Directory,
        health: Health,
        custody: Custody,
        *,
        probe_s: float,
        found: Callable[[int], Lane | None],
        lane_of: Callable[[int], Lane],
        configure: Callable[[Lane], None],
        rescue: Rescue | None,
        spawn: Spawn,
        clock: Callable[[], int],
    ) -> None:
        self._directory, self._health, self._custody = directory, health, custody
        self._found, self._lane_of, self._configure = found, lane_of, configure
        self._rescue, self._spawn, self._clock = rescue, spawn, clock
        self.probes = Probes(probe_s, self._probe)
        health.changed = self.state_changed

    def suspend(self, lane: Lane, trouble: Trouble, revision: int) -> None:
        """A login of the account was refused for good; nothing more is sent from now on."""
        self.probes.later(lane)
        self._custody.put_down(lane)
        known = lane.suspended
        lane.suspend()
        if self._rescue is not None:
            self._spawn(self._rescue_or_stop(self._rescue, lane, trouble, revision, known=known), "rescue")
        elif not known:
            self._spawn(self._stop_account(lane, trouble, revision), "account state")

    def resume(self, lane: Lane) -> None:
        """A mail of a suspended account got through."""
        lane.suspended = False
        self._spawn(self._health.resume(lane.account_id, "its login was taken"), "account state")

    def state_changed(self, changes: Sequence[Change]) -> None:
        """Lanes follow what is durable; what goes on is tried at once."""
        for change in changes:
            lane = self._found(change.account.id)
            if change.state is AccountState.OK:
                lane = self._lane_of(change.account.id)
                lane.resting_until = 0.0
            if lane is not None:
                self._configure(lane)
                self._custody.tell_if_held_back(lane)
            if lane is not None and change.state is AccountState.OK:
                lane.backlog(self._clock())
            elif lane is not None:
                self._custody.put_down(lane)
                self.probes.later(lane)

    async def _rescue_or_stop(
        self, rescue: Rescue, lane: Lane, trouble: Trouble, revision: int, *, known: bool
    ) -> None:
        rescued = False
        try:
            rescued = await rescue(lane.account_id, trouble.cause)
        finally:
            if rescued:
                self._configure(lane)
            elif not known:
                await self._stop_account(lane, trouble, revision)

    async def _stop_account(self, lane: Lane, trouble: Trouble, revision: int) -> None:
        await self._health.suspend(lane.account_id, trouble, revision=revision)
        self._configure(lane)  # goes on at once if somebody renewed the credential meanwhile

    def _probe(self, lane: Lane) -> None:
        account = self._directory.account(lane.account_id)
        if account is None or not lane.suspended or account.state_cause == OPERATOR:
            return
        if not lane.probe():
            self.probes.later(lane)
