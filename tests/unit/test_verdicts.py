"""Whoever waits for a verdict gets one that is true, or none; and never waits without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from relay.database.schema import messages
from relay.mail.reply import Reply
from relay.queue import verdicts as module
from relay.queue.model import State
from relay.queue.verdicts import Expected, Refusal, Verdict, Verdicts
from tests.store import Store, arrival, open_store

GONE = Reply(550, "5.1.1", "no such user")
FULL = Reply(552, "5.2.2", "mailbox full")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path) as opened:
        opened.queue.verdicts.open()
        yield opened


@pytest.fixture
def verdicts(store: Store) -> Verdicts:
    return store.queue.verdicts


async def _now(expected: Expected) -> Verdict | None:
    """What is there already: a verdict, or None for "queued". TimeoutError if it still waits."""
    async with asyncio.timeout(1):
        return await expected.wait(60)


async def test_all_relayed(verdicts: Verdicts) -> None:
    expected = verdicts.expect(7, 2, 1)
    expected.report(1, State.RELAYED, None, "")
    assert expected.undecided
    expected.report(0, State.RELAYED, None, "")
    assert await _now(expected) == Verdict(2, 0, None)


async def test_a_refusal_counts_once_it_is_recorded_and_the_first_recipient_speaks(verdicts: Verdicts) -> None:
    expected = verdicts.expect(7, 2, 1)
    expected.report(1, State.BOUNCED, FULL, "full")
    expected.report(0, State.BOUNCED, GONE, "gone")
    verdicts.recorded(7, [1])
    assert 7 in verdicts.waiting
    verdicts.recorded(7, [0])
    assert await _now(expected) == Verdict(2, 2, Refusal(GONE, "gone"))


async def test_relayed_and_refused_together(verdicts: Verdicts) -> None:
    expected = verdicts.expect(7, 3, 1)
    expected.report(0, State.RELAYED, None, "")
    expected.report(2, State.BOUNCED, GONE, "gone")
    verdicts.recorded(7, [2])
    expected.report(1, State.RELAYED, None, "")
    assert await _now(expected) == Verdict(3, 1, Refusal(GONE, "gone"))


@pytest.mark.parametrize("state", [state for state in State if state not in (State.RELAYED, State.BOUNCED)])
async def test_any_other_state_of_one_recipient_means_queued(verdicts: Verdicts, state: State) -> None:
    expected = verdicts.expect(7, 2, 1)
    expected.report(0, State.RELAYED, None, "")
    expected.report(1, state, None, "")
    assert await _now(expected) is None


async def test_the_limit_passes_and_what_comes_later_is_ignored(verdicts: Verdicts) -> None:
    expected = verdicts.expect(7, 1, 1)
    assert await expected.wait(0.01) is None
    assert not verdicts.waiting
    expected.report(0, State.BOUNCED, GONE, "gone")
    verdicts.recorded(7, [0])
    assert not verdicts.waiting


async def test_a_cancelled_wait_leaves_nothing_behind(verdicts: Verdicts) -> None:
    task = asyncio.create_task(verdicts.expect(7, 1, 1).wait(60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not verdicts.waiting


async def test_what_is_put_down_is_queued(verdicts: Verdicts) -> None:
    one, other = verdicts.expect(7, 1, 1), verdicts.expect(8, 1, 1)
    verdicts.put_down(7)
    verdicts.put_down(99)
    assert await _now(one) is None
    assert list(verdicts.waiting) == [8]
    other.close()


async def test_an_account_that_stops_ends_the_waiting_of_its_own_mail_alone(verdicts: Verdicts) -> None:
    stopped, elsewhere, refused = (verdicts.expect(7, 1, 1), verdicts.expect(8, 1, 2), verdicts.expect(9, 1, 1))
    refused.report(0, State.BOUNCED, GONE, "gone")
    verdicts.put_down_account(1)
    assert await _now(stopped) is None
    assert set(verdicts.waiting) == {8, 9}
    verdicts.recorded(9, [0])  # its verdict was only being written
    assert await _now(refused) == Verdict(1, 1, Refusal(GONE, "gone"))
    elsewhere.close()
    verdicts.put_down_account(1)


async def test_closed_nobody_waits(verdicts: Verdicts) -> None:
    before = verdicts.expect(7, 1, 1)
    verdicts.close()
    assert await _now(before) is None
    assert await _now(verdicts.expect(8, 1, 1)) is None


async def test_no_more_wait_than_there_is_room_for(verdicts: Verdicts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 3)
    waiting = [verdicts.expect(number, 1, 1) for number in range(4)]
    assert await _now(waiting[3]) is None
    assert len(verdicts.waiting) == 3
    verdicts.close()


async def test_that_the_application_heard_it_is_noted_in_the_store(store: Store) -> None:
    message_id, other = store.queue.new_id(), await store.queue.accept(arrival())
    expected = store.queue.verdicts.expect(message_id, 1, 1)
    await store.queue.accept(replace(arrival(), id=message_id))
    await expected.heard()
    expected.close()
    noted = await store.database.read(lambda c: {row.id: row.answer for row in c.execute(select(messages))})
    assert noted == {message_id: "direct", other: None}


@given(st.lists(st.sampled_from([State.RELAYED, State.BOUNCED, State.DEFERRED]), min_size=1, max_size=6), st.randoms())
def test_a_verdict_never_says_more_than_what_is_recorded(states: list[State], random) -> None:
    """Decisions and records in any order: refused for good is said only when each refusal is durable."""

    async def run() -> None:
        verdicts = Verdicts(None)  # type: ignore[arg-type]
        verdicts.open()
        expected = verdicts.expect(7, len(states), 1)
        steps = list(range(len(states)))
        random.shuffle(steps)
        recorded: set[int] = set()
        for number in steps:
            assert expected.undecided or not verdicts.waiting
            expected.report(number, states[number], GONE, "gone")
            if random.random() < 0.5:
                verdicts.recorded(7, [number])
                recorded.add(number)
        refused = {number for number, state in enumerate(states) if state is State.BOUNCED}
        if State.DEFERRED in states:
            assert await _now(expected) is None
            return
        assert (7 in verdicts.waiting) == bool(refused - recorded)
        verdicts.recorded(7, refused)
        found = await _now(expected)
        assert found == Verdict(len(states), len(refused), Refusal(GONE, "gone") if refused else None)
        assert not verdicts.waiting

    asyncio.run(run())
