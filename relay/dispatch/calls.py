"""What nodes tell each other: something is due, free, to be put back, or was changed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Connection, select

from relay.database.schema import deliveries
from relay.mail.ids import format_id, parse_id
from relay.queue import nodes
from relay.telemetry import get_logger

if TYPE_CHECKING:
    from relay.dispatch.fleet import Fleet

log = get_logger()

_IDS = 400  # in one call: PostgreSQL takes less than 8,000 octets
_WITHDRAWING_S = 3.0  # that other nodes get to put back what they have in hand


class Calls:
    """The verbs, by what their payload begins with. A call that is not understood is of a newer program: left alone."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.changed: Callable[[], None] = lambda: None  # accounts, senders or clients
        self.owed: Callable[[], None] = lambda: None
        self._answers: dict[str, tuple[set[int], asyncio.Event]] = {}
        self._numbers = itertools.count(1)

    def heard(self, payload: str) -> None:
        """Obey one call."""
        verb, _, rest = payload.partition(" ")
        fleet, hands = self._fleet, self._fleet.hands
        if hands is None:
            return
        try:
            match verb:
                case "due":
                    for account_id in map(int, rest.split(",")):
                        if fleet.holds(account_id):
                            hands.due(account_id)
                case "wake":
                    if fleet.holds(int(rest)):
                        hands.wake(int(rest))
                case "take":
                    node, _, account = rest.partition(" ")
                    if int(node) == fleet.node:
                        fleet.want(int(account))
                case "freed":
                    fleet.beat_soon()
                case "changed":
                    self.changed()
                case "owed":
                    self.owed()
                case "withdraw":
                    self._withdraw(rest)
                case "withdrawn":
                    self._withdrawn(rest)
        except ValueError:
            log.warning("node.misheard", detail=payload[:80])

    async def withdraw_everywhere(self, ids: Sequence[int]) -> None:
        """Have other nodes put these messages back; returns when they did, or did not in time."""
        for start in range(0, len(ids), _IDS):
            await self._withdraw_some(ids[start : start + _IDS])

    async def _withdraw_some(self, ids: Sequence[int]) -> None:
        fleet = self._fleet
        number = f"{fleet.node}.{next(self._numbers)}"
        call = f"withdraw {number} {','.join(map(format_id, ids))}"

        def ask(connection: Connection) -> set[int]:
            theirs = select(deliveries.c.owner).where(
                deliveries.c.message_id.in_(list(ids)),
                deliveries.c.settled_at.is_(None),
                deliveries.c.owner.is_not(None),
            )
            owners = {int(owner) for owner in connection.scalars(theirs.distinct())} - {fleet.node}
            if owners:
                nodes.ring(connection, call)
            return owners

        done = asyncio.Event()
        answered: set[int] = set()
        owners: set[int] = set()
        self._answers[number] = answered, done
        try:
            owners = await fleet.write(ask)
            async with asyncio.timeout(_WITHDRAWING_S):
                while owners - answered:
                    done.clear()
                    await done.wait()
        except TimeoutError:
            log.warning(
                "node.silent", detail=f"nodes {sorted(owners - answered)} did not put back what an operator asked for"
            )
        finally:
            del self._answers[number]

    def _withdraw(self, rest: str) -> None:
        number, _, shown = rest.partition(" ")
        asker = int(number.partition(".")[0])
        if asker != self._fleet.node:
            ids = [found for text in shown.split(",") if (found := parse_id(text)) is not None]
            self._fleet.spawn(self._put_back(number, ids), "withdraw")

    async def _put_back(self, number: str, ids: Iterable[int]) -> None:
        fleet = self._fleet
        assert fleet.hands is not None
        await fleet.hands.withdraw(ids)
        await fleet.write(lambda connection: nodes.ring(connection, f"withdrawn {number} {fleet.node}"))

    def _withdrawn(self, rest: str) -> None:
        number, _, node = rest.partition(" ")
        if number in self._answers:
            answered, done = self._answers[number]
            answered.add(int(node))
            done.set()
