"""The queue as a state machine: accept, claim, settle, crash, operate in any order; nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import select

from relay.database.schema import contents, deliveries
from relay.queue.model import Message, Settlement, State
from tests.lengths import examples
from tests.store import POSTGRESQL, TAKEN, Store, arrival, open_store, use_engine

WAITS, HELD, DONE = "waits", "held", "done"


class QueueMachine(RuleBasedStateMachine):
    """`owed` is what the model knows of each delivery; `hand` is what the queue gave out."""

    engine = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.owed: dict[tuple[int, int], str] = {}
        self.hand: dict[tuple[int, int], Message] = {}
        self.dots: dict[int, int] = {}
        self.stack = AsyncExitStack()
        self.store: Store = self._open()

    def _open(self, *, whole_start: bool = True) -> Store:
        folder = Path(self.folder.name)
        context = open_store(folder, memory_bytes=9000, clean_end=False, whole_start=whole_start)
        before = use_engine(self.engine)
        try:
            return self.loop.run_until_complete(self.stack.enter_async_context(context))
        finally:
            use_engine(before)

    def _run(self, work):
        return self.loop.run_until_complete(work)

    def _receive(self, messages: list[Message]) -> None:
        for message in messages:
            for delivery in message.deliveries:
                key = (message.id, delivery.number)
                assert self.owed[key] == WAITS
                assert key not in self.hand, "given out twice"
                self.hand[key] = message
        messages.clear()

    @rule(recipients=st.integers(1, 3), account=st.integers(1, 2))
    def accept(self, recipients: int, account: int) -> None:
        names = [f"r{n}@x.org" for n in range(recipients)]
        message_id = self._run(self.store.queue.accept(arrival(*names, account=account)))
        for number in range(recipients):
            assert (message_id, number) not in self.owed
            self.owed[message_id, number] = WAITS
        self._receive(self.store.fresh)

    @rule(account=st.integers(1, 2), limit=st.integers(1, 5))
    def claim(self, account: int, limit: int) -> None:
        claimed, _ = self._run(self.store.queue.claim_due(account, limit=limit))
        self._receive(claimed)

    @precondition(lambda self: self.hand)
    @rule(data=st.data(), state=st.sampled_from([State.RELAYED, State.BOUNCED, State.DEFERRED, State.HELD]))
    def settle(self, data: st.DataObject, state: State) -> None:
        message = self.hand[data.draw(st.sampled_from(sorted(self.hand)))]
        # what it gave back may be in hand again, claimed anew, as another Message
        part = [d for d in message.deliveries if self.hand.get((message.id, d.number)) is message]
        part = part[: data.draw(st.integers(1, len(part)))]
        due = 1 << 52 if state is State.HELD else 0
        self._run(self._settled(message, [Settlement(d, state, due, TAKEN) for d in part]))
        for delivery in part:
            key = (message.id, delivery.number)
            del self.hand[key]
            self.owed[key] = {State.DEFERRED: WAITS, State.HELD: HELD}.get(state, DONE)
        if not any(key[0] == message.id for key in self.hand):
            self.store.queue.put_down(message)
            if (slot := self.dots.pop(message.id, None)) is not None:
                self.store.queue.dot_settled(slot)

    async def _settled(self, message: Message, settlements: list[Settlement]) -> None:
        await self.store.queue.settle(message, settlements)

    @precondition(lambda self: self.hand)
    @rule(data=st.data())
    def dot(self, data: st.DataObject) -> None:
        message_id = data.draw(st.sampled_from(sorted(self.hand)))[0]
        if message_id not in self.dots:
            self.dots[message_id] = self.store.queue.dot(message_id)

    @rule(data=st.data(), action=st.sampled_from(["hold", "release", "remove"]))
    def operate(self, data: st.DataObject, action: str) -> None:
        if not self.owed:
            return
        target = data.draw(st.sampled_from(sorted(self.owed)))[0]
        changed = self._run(getattr(self.store.queue.operator, action)([target]))
        expected = 0
        for key, state in self.owed.items():
            if key[0] != target or key in self.hand or state == DONE:
                continue
            if action == "remove":
                self.owed[key], expected = DONE, expected + 1
            elif action == "hold" and state == WAITS:
                self.owed[key], expected = HELD, expected + 1
            elif action == "release" and state == HELD:
                self.owed[key], expected = WAITS, expected + 1
        assert changed == expected

    @rule(soon_again=st.booleans())
    def crash(self, soon_again: bool) -> None:
        """`soon_again`: once more before the next start is whole."""
        in_dot = {message_id for message_id in self.dots if any(key[0] == message_id for key in self.hand)}
        told: list[int] = []
        for whole in (False, True) if soon_again else (True,):
            self._run(self.stack.aclose())
            self.stack = AsyncExitStack()
            self.store = self._open(whole_start=whole)
            told += self.store.in_doubt
        self.hand.clear()
        self.dots.clear()
        assert sorted(told) == sorted(in_dot)

    @invariant()
    def the_store_agrees(self) -> None:
        rows = self._run(self.store.database.read(lambda c: c.execute(select(deliveries)).all()))
        assert {(row.message_id, row.number) for row in rows} == set(self.owed)
        for row in rows:
            key = (row.message_id, row.number)
            assert (row.settled_at is not None) == (self.owed[key] == DONE)
            assert (row.owner is not None) == (key in self.hand)
        kept = self._run(
            self.store.database.read(lambda c: {row[0] for row in c.execute(select(contents.c.message_id))})
        )
        assert kept == {key[0] for key, state in self.owed.items() if state != DONE}

    def teardown(self) -> None:
        self._run(self.stack.aclose())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        self.folder.cleanup()


class PostgreSQLQueueMachine(QueueMachine):
    """The same on the other engine."""

    engine = POSTGRESQL

    def __init__(self) -> None:
        from tests.postgresql import server

        server()  # skips where there is none
        super().__init__()


def _examples(short: int) -> settings:
    return settings(
        max_examples=examples(short), stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
    )


QueueMachine.TestCase.settings = _examples(12)
PostgreSQLQueueMachine.TestCase.settings = _examples(2)
TestQueueMachine = QueueMachine.TestCase
TestPostgreSQLQueueMachine = PostgreSQLQueueMachine.TestCase
