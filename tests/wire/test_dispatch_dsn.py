"""What an application asked about notices, from the queue through a lane to the upstream, also in parts and later."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection

from relay.accounts import store as accounts
from relay.accounts.directory import Directory
from relay.config.settings import DispatchSettings, UpstreamDefaults
from relay.dispatch.dispatcher import Dispatcher
from relay.mail.dsn import NO_RECIPIENT_REQUEST, MessageRequest, RecipientRequest
from relay.queue.model import Arrival
from relay.queue.store import now_ms
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import Store, arrival, open_store
from tests.wire.carrying import LOGIN, PASSWORD, transport

ASKED = {
    "a@example.org": RecipientRequest("SUCCESS", "rfc822;a+2B1@example.org"),
    "b@example.org": NO_RECIPIENT_REQUEST,
    "c@example.org": RecipientRequest("NEVER", ""),
}


def asking(account_id: int, asked: dict[str, RecipientRequest] = ASKED) -> Arrival:
    given = arrival(*asked, account=account_id)
    return replace(given, request=MessageRequest("HDRS", "QQ314159"), requests=tuple(asked.values()))


async def register(store: Store, folder: Path, upstream: ScriptedUpstream) -> int:
    ca = folder / "ca.pem"
    upstream.authority.cert_pem.write_to_path(ca)

    def write(connection: Connection) -> int:
        at = {"provider": "custom", "host": "localhost", "port": upstream.port, "trust": str(ca)}
        account_id = accounts.add_account(connection, LOGIN, now_ms=1, **at)
        accounts.add_sender(connection, LOGIN, account_id, now_ms=1)
        return account_id

    return await store.database.write(write)


@asynccontextmanager
async def dispatching(store: Store) -> AsyncIterator[None]:
    carrier = transport()
    dispatcher = Dispatcher(
        DispatchSettings(),
        queue=store.queue,
        database=store.database,
        directory=await Directory.open(store.database, UpstreamDefaults()),
        transport=carrier,
        history_days=30,
        clock=now_ms,
    )
    await dispatcher.start()
    await dispatcher.begin()
    try:
        yield
    finally:
        await dispatcher.stop(5)
        await carrier.close()


def parameters(asked: dict[str, RecipientRequest]) -> tuple[str, ...]:
    return tuple(
        " ".join(f"{name}={value}" for name, value in (("NOTIFY", each.notify), ("ORCPT", each.orcpt)) if value)
        for each in asked.values()
    )


async def test_a_fresh_message_and_one_from_before_a_crash_carry_their_requests(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts={LOGIN: PASSWORD}, extensions=("DSN",)) as upstream:
        async with open_store(tmp_path, clean_end=False) as store:
            account_id = await register(store, tmp_path, upstream)
            await store.queue.accept(asking(account_id))
        async with open_store(tmp_path) as store, dispatching(store):
            from_before = await upstream.next_message()
            await store.queue.accept(asking(account_id))
            fresh = await upstream.next_message()
    for message in (from_before, fresh):
        assert message.parameters == "RET=HDRS ENVID=QQ314159"
        assert message.recipients == tuple(ASKED)
        assert message.recipient_parameters == parameters(ASKED)


async def test_a_message_in_parts_gives_each_recipient_its_own_request(tmp_path: Path) -> None:
    many = {f"r{n}@example.org": RecipientRequest("", f"rfc822;o{n}@example.org") for n in range(150)}
    offering = ScriptedUpstream(accounts={LOGIN: PASSWORD}, extensions=("DSN",))
    async with offering as upstream, open_store(tmp_path) as store:
        account_id = await register(store, tmp_path, upstream)
        async with dispatching(store):
            await store.queue.accept(asking(account_id, many))
            parts = [await upstream.next_message(), await upstream.next_message()]
    given: dict[str, str] = {}
    for part in parts:
        assert part.parameters == "RET=HDRS ENVID=QQ314159"
        given |= dict(zip(part.recipients, part.recipient_parameters, strict=True))
    assert given == dict(zip(many, parameters(many), strict=True))
