"""The queue: what was accepted is owed until it settles, through claims, crashes and operators."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from sqlalchemy import select, text

from relay.database.schema import FAR_FUTURE_MS, attempts, contents, deliveries
from relay.mail.errors import StorageFailed, StorageFull
from relay.queue.model import Settlement, State
from relay.queue.operations import Fenced
from tests.store import TAKEN, Store, arrival, fill_up, open_store, spooled

pytestmark = pytest.mark.usefixtures("engine")


async def _states(store: Store) -> list[tuple[int, str]]:
    return await store.database.read(
        lambda c: [(row.number, row.state) for row in c.execute(select(deliveries).order_by(deliveries.c.message_id))]
    )


async def _contents(store: Store) -> int:
    return await store.database.read(lambda c: len(c.execute(select(contents.c.message_id)).all()))


async def test_a_fresh_message_is_in_hand_and_survives_a_crash(tmp_path: Path) -> None:
    async with open_store(tmp_path, clean_end=False) as store:
        message_id = await store.queue.accept(arrival("a@x.org", "b@x.org"))
        assert [message.id for message in store.fresh] == [message_id]
        claimed, _ = await store.queue.claim_due(1, limit=10)
        assert claimed == []
    async with open_store(tmp_path) as store:
        assert store.in_doubt == []
        [message], next_due = await store.queue.claim_due(1, limit=10)
        assert (message.id, [d.recipient for d in message.deliveries]) == (message_id, ["a@x.org", "b@x.org"])
        assert message.content.inline == b"Subject: x\r\n\r\nhello\r\n"
        assert next_due is None


async def test_the_content_goes_with_the_last_delivery_and_the_history_stays(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.queue.accept(arrival("a@x.org", "b@x.org"))
        [message] = store.fresh
        first, second = message.deliveries
        await store.queue.settle(message, [Settlement(first, State.RELAYED, 0, TAKEN)])
        assert await _contents(store) == 1
        await store.queue.settle(message, [Settlement(second, State.BOUNCED, 0, TAKEN)])
        assert await _contents(store) == 0
        assert [state for _, state in await _states(store)] == ["relayed", "bounced"]
        kept = await store.database.read(lambda c: c.execute(select(attempts)).all())
        assert [(row.number, row.attempt, row.code) for row in kept] == [(0, 1, 250), (1, 1, 250)]


async def test_a_large_content_is_a_file_that_goes_with_the_last_delivery(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        draft = store.queue.draft()
        block = b"x" * 998 + b"\r\n"
        for _ in range(500):
            if draft.add(block):
                await draft.drain()
        content = await draft.finish()
        assert content.spool is not None
        assert store.queue.read_spooled(content.spool, 0, content.size) == block * 500
        assert store.queue.read_spooled(content.spool, 199_999, 300_001) == (block * 500)[199_999:]
        given = arrival("a@x.org")
        await store.queue.accept(type(given)("s@x.org", ("a@x.org",), content, 1, "", "c", False, False))
        draft.discard()
        [message] = store.fresh
        last = await store.queue.settle(message, [Settlement(message.deliveries[0], State.RELAYED, 0, TAKEN)])
        assert last is not store.database.shared, "rows have gone with the state"
        await store.queue.drop_content(message)
        assert await spooled(store) == 0


async def test_a_discarded_draft_leaves_nothing_and_an_orphan_is_swept_at_start(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        for give_up in (True, False):
            draft = store.queue.draft()
            draft.add(b"y" * 400_000)
            await draft.drain()
            if give_up:
                assert await spooled(store) == 1
                draft.discard()
                assert await spooled(store) == 0
        assert await spooled(store) == 1
    async with open_store(tmp_path) as store:
        assert await spooled(store) == 0


async def test_beyond_the_memory_budget_messages_wait_in_the_store_only(tmp_path: Path) -> None:
    async with open_store(tmp_path, memory_bytes=10_000) as store:
        for _ in range(10):
            await store.queue.accept(arrival())
        assert 0 < len(store.fresh) < 10
        assert len(store.backlog) == 10 - len(store.fresh)
        claimed, _ = await store.queue.claim_due(1, limit=10)
        assert claimed == []
        for message in store.fresh:
            store.queue.put_down(message)
        claimed, next_due = await store.queue.claim_due(1, limit=10)
        assert 0 < len(claimed) <= len(store.backlog)
        assert (next_due is None) == (len(claimed) == len(store.backlog))


async def test_a_deferred_delivery_is_not_due_before_its_time(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.queue.accept(arrival())
        [message] = store.fresh
        later = int(time.time() * 1000) + 60_000
        await store.queue.settle(message, [Settlement(message.deliveries[0], State.DEFERRED, later, TAKEN)])
        assert await store.queue.claim_due(1, limit=10) == ([], later)
        assert await store.queue.operator.retry([message.id]) == 1
        [again], _ = await store.queue.claim_due(1, limit=10)
        assert (again.deliveries[0].attempts, again.deliveries[0].token) == (1, 2)


async def test_a_late_settlement_is_fenced_off_and_harms_no_neighbour(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.queue.accept(arrival())
        await store.queue.accept(arrival())
        stale, other = store.fresh
        await store.queue.give_back([stale])
        [claimed], _ = await store.queue.claim_due(1, limit=10)
        late = store.queue.settle(stale, [Settlement(stale.deliveries[0], State.BOUNCED, 0, TAKEN)])
        good = store.queue.settle(other, [Settlement(other.deliveries[0], State.RELAYED, 0, TAKEN)])
        with pytest.raises(Fenced):
            await late
        await good
        await store.queue.settle(claimed, [Settlement(claimed.deliveries[0], State.RELAYED, 0, TAKEN)])
        assert [state for _, state in await _states(store)] == ["relayed", "relayed"]


async def test_only_messages_whose_dot_was_out_are_in_doubt_after_a_kill(tmp_path: Path) -> None:
    async with open_store(tmp_path, clean_end=False) as store:
        ids = [await store.queue.accept(arrival()) for _ in range(5)]
        store.queue.dot(ids[1])
        store.queue.dot(ids[3])
        settled = store.queue.dot(ids[4])
        await store.queue.settle(store.fresh[4], [Settlement(store.fresh[4].deliveries[0], State.RELAYED, 0, TAKEN)])
        store.queue.dot_settled(settled)
    async with open_store(tmp_path) as store:
        assert store.in_doubt == [ids[1], ids[3]]
        claimed, _ = await store.queue.claim_due(1, limit=10)
        assert {m.id: m.deliveries[0].possible_duplicate for m in claimed} == {
            ids[0]: False,
            ids[1]: True,
            ids[2]: False,
            ids[3]: True,
        }


async def test_after_a_power_cut_everything_in_hand_is_in_doubt(tmp_path: Path) -> None:
    async with open_store(tmp_path, clean_end=False) as store:
        ids = [await store.queue.accept(arrival()) for _ in range(3)]
    page = (tmp_path / "dots").read_bytes()
    (tmp_path / "dots").write_bytes(b"another boot".ljust(64, b"\0") + page[64:])
    async with open_store(tmp_path) as store:
        assert store.in_doubt == ids


async def test_an_account_that_holds_what_is_in_doubt_holds_exactly_what_was_marked(tmp_path: Path) -> None:
    async with open_store(tmp_path, clean_end=False) as store:
        await store.database.write(
            lambda c: c.execute(
                text(
                    "INSERT INTO accounts (id, address, provider, auth, in_doubt, created_at)"
                    " VALUES (1, 'a', 'custom', 'none', 'hold', 0)"
                )
            )
        )
        ids = [await store.queue.accept(arrival()) for _ in range(3)]
        assert await store.queue.mark_dot(store.fresh[1])
    (tmp_path / "dots").unlink()
    (tmp_path / "dots").write_bytes(b"another boot".ljust(64, b"\0"))
    async with open_store(tmp_path) as store:
        assert store.in_doubt == [ids[1]]
        claimed, _ = await store.queue.claim_due(1, limit=10)
        assert [message.id for message in claimed] == [ids[0], ids[2]]
        assert await store.queue.operator.release([ids[1]]) == 1
        [held], _ = await store.queue.claim_due(1, limit=10)
        assert held.deliveries[0].possible_duplicate


async def test_operators_hold_release_and_remove(tmp_path: Path) -> None:
    async with open_store(tmp_path, memory_bytes=0) as store:
        one, two = [await store.queue.accept(arrival()) for _ in range(2)]
        assert await store.queue.operator.hold([one]) == 1
        claimed, next_due = await store.queue.claim_due(1, limit=10)
        assert (claimed, next_due) == ([], None) or claimed == []
        assert await store.queue.operator.remove([two]) == 1
        assert await _contents(store) == 1
        assert await store.queue.operator.retry([one]) == 0
        assert await store.queue.operator.release([one]) == 1
        assert sorted(state for _, state in await _states(store)) == ["queued", "removed"]


async def test_mail_moves_to_the_lane_its_sender_routes_to_now(tmp_path: Path) -> None:
    async with open_store(tmp_path, memory_bytes=0) as store:
        await store.queue.accept(arrival(sender="a@x.org"))
        await store.queue.accept(arrival(sender="b@x.org"))
        assert await store.queue.operator.reroute(lambda path, *_: {"a@x.org": 7}.get(path)) == 1
        assert await store.queue.due_times() == {1: pytest.approx(time.time() * 1000, abs=60_000)} | {
            7: pytest.approx(time.time() * 1000, abs=60_000)
        }


async def test_age_expires_what_waits_but_not_what_is_held_and_forgets_old_history(tmp_path: Path) -> None:
    async with open_store(tmp_path, memory_bytes=0) as store:
        one, two = [await store.queue.accept(arrival()) for _ in range(2)]
        await store.queue.operator.hold([two])
        [(message, _)] = await store.queue.aging.expire(-1000, limit=10)
        assert message.id == one
        assert await _contents(store) == 2, "until its sender was told"
        assert await store.queue.aging.prune(-1000, limit=10) == 1
        assert await _contents(store) == 1
        assert [state for _, state in await _states(store)] == ["held"]
        row = await store.database.read(lambda c: c.execute(select(deliveries)).one())
        assert row.due_at == FAR_FUTURE_MS


async def test_below_the_floor_there_is_no_room(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        assert store.queue.has_room()
        store.queue.room._floor = 1 << 60
        store.queue.room.spent()
        assert not store.queue.has_room()


async def test_a_spool_that_cannot_be_written_is_storage_trouble(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        if store.database.shared:
            await fill_up(store, True, table="chunks")
        else:
            (tmp_path / "spool").rmdir()
        draft = store.queue.draft()
        draft.add(b"z" * 100_000)
        with pytest.raises((StorageFailed, StorageFull)):
            await draft.finish()


async def test_a_failed_accept_owns_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await fill_up(store, True)
        body = b"x" * 60_000 + b"\r\n"
        results = await asyncio.gather(
            *(store.queue.accept(arrival(body=body)) for _ in range(3)), return_exceptions=True
        )
        assert all(isinstance(result, StorageFull) for result in results)
        assert store.fresh == []
        await fill_up(store, False)
        await store.queue.accept(arrival(body=body))
        assert len(store.fresh) == 1
