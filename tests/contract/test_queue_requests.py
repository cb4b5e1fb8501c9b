"""What few messages have besides their envelope is kept: in hand, claimed, after a restart."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from relay.database.schema import deliveries, messages
from relay.database.statements import MOST_ROWS
from relay.mail.dsn import NO_MESSAGE_REQUEST, NO_RECIPIENT_REQUEST, MessageRequest, RecipientRequest
from relay.queue.model import Arrival, Message, Settlement, State
from tests.store import TAKEN, arrival, open_store

pytestmark = pytest.mark.usefixtures("engine")

ASKED = (
    RecipientRequest("SUCCESS,DELAY", "rfc822;a+2Bb@x.org"),
    NO_RECIPIENT_REQUEST,
    RecipientRequest("NEVER", ""),
)


def asking(**changes: object) -> Arrival:
    given = {
        "original_path": "www-data@host",
        "request": MessageRequest("HDRS", "QQ314159"),
        "requests": ASKED,
        "answer": "direct",
    }
    return replace(arrival("a@x.org", "b@x.org", "c@x.org"), **(given | changes))


def said(message: Message) -> tuple[object, ...]:
    return message.original_path, message.request, message.answer, tuple(d.request for d in message.deliveries)


async def test_it_is_in_hand_and_comes_back_after_a_crash(tmp_path: Path) -> None:
    expected = ("www-data@host", MessageRequest("HDRS", "QQ314159"), "direct", ASKED)
    async with open_store(tmp_path, clean_end=False) as store:
        await store.queue.accept(asking())
        [message] = store.fresh
        assert said(message) == expected
        assert message.asks
    for _ in range(2):
        async with open_store(tmp_path) as store:
            [message], _ = await store.queue.claim_due(1, limit=10)
            assert said(message) == expected
            assert message.asks


async def test_what_is_owed_later_keeps_its_own_request(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.queue.accept(asking())
        [message] = store.fresh
        first, second, third = message.deliveries
        await store.queue.settle(
            message,
            [
                Settlement(first, State.RELAYED, 0, TAKEN),
                Settlement(second, State.DEFERRED, 0, TAKEN),
                Settlement(third, State.DEFERRED, 0, TAKEN),
            ],
        )
        store.queue.put_down(message)
        [again], _ = await store.queue.claim_due(1, limit=10)
        assert [(d.recipient, d.request) for d in again.deliveries] == [("b@x.org", ASKED[1]), ("c@x.org", ASKED[2])]


async def test_each_part_alone(tmp_path: Path) -> None:
    nothing = {"original_path": "", "request": NO_MESSAGE_REQUEST, "requests": (), "answer": ""}
    parts = [
        {"original_path": "<>"},
        {"answer": "direct"},
        {"request": MessageRequest("FULL", "")},
        {"request": MessageRequest("", "id")},
        {"requests": (NO_RECIPIENT_REQUEST, NO_RECIPIENT_REQUEST, RecipientRequest("", "rfc822;c@x.org"))},
    ]
    for number, part in enumerate(parts):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with open_store(folder, clean_end=False) as store:
            await store.queue.accept(asking(**(nothing | part)))
            [fresh] = store.fresh
        async with open_store(folder) as store:
            [claimed], _ = await store.queue.claim_due(1, limit=10)
        assert said(fresh) == said(claimed)
        assert fresh.asks == claimed.asks == bool({"request", "requests"} & part.keys())


async def test_a_message_that_asks_nothing_shares_the_constants_and_stores_nothing(tmp_path: Path) -> None:
    async with open_store(tmp_path, clean_end=False) as store:
        await store.queue.accept(arrival("a@x.org"))
        [fresh] = store.fresh
        rows = await store.database.read(
            lambda c: [
                *c.execute(select(messages.c.original_path, messages.c.ret, messages.c.envid, messages.c.answer)),
                *c.execute(select(deliveries.c.notify, deliveries.c.orcpt)),
            ]
        )
        assert [value for row in rows for value in row] == [None] * 6
    async with open_store(tmp_path) as store:
        [claimed], _ = await store.queue.claim_due(1, limit=10)
    for message in (fresh, claimed):
        assert not message.asks
        assert message.request is NO_MESSAGE_REQUEST
        assert message.deliveries[0].request is NO_RECIPIENT_REQUEST


async def test_a_batch_of_both_kinds_is_stored_whole(tmp_path: Path) -> None:
    async with open_store(tmp_path, memory_bytes=1 << 30) as store:
        given = [asking() if number % 2 else arrival("a@x.org", "b@x.org", "c@x.org") for number in range(MOST_ROWS)]
        await asyncio.gather(*(store.queue.accept(each) for each in given))
        kept = await store.database.read(lambda c: c.execute(select(messages.c.envid)).scalars().all())
        asked = await store.database.read(
            lambda c: (
                c.execute(select(deliveries.c.notify).order_by(deliveries.c.message_id, deliveries.c.number))
                .scalars()
                .all()
            )
        )
    assert sorted(map(str, kept)) == ["None"] * (MOST_ROWS // 2) + ["QQ314159"] * (MOST_ROWS // 2)
    assert asked.count("SUCCESS,DELAY") == asked.count("NEVER") == MOST_ROWS // 2
    assert asked.count(None) == 4 * MOST_ROWS // 2
