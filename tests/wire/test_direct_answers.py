"""The provider's verdict as the answer: from the durable message through a lane to a scripted upstream and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from relay.accounts import store as accounts
from relay.accounts.directory import Directory
from relay.accounts.model import AccountState
from relay.config.settings import DispatchSettings, UpstreamDefaults
from relay.database.schema import deliveries, messages
from relay.dispatch.dispatcher import Dispatcher
from relay.listener.direct import verdict_reply
from relay.mail.errors import StorageFull
from relay.mail.ids import format_id
from relay.mail.reply import Reply
from relay.queue.store import now_ms
from relay.queue.verdicts import Expected
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import Store, arrival, open_store
from tests.wire.carrying import LOGIN, PASSWORD, transport

LIMIT_S = 10.0
GONE = "550 5.1.1 no such user here"


@dataclass
class Relay:
    """A dispatcher over a real store, with one account at the scripted upstream."""

    store: Store
    dispatcher: Dispatcher
    directory: Directory
    account_id: int

    async def accept(self, *recipients: str, account: int | None = None) -> tuple[Expected, int]:
        """As the front door does it for a client with direct answers."""
        queue = self.store.queue
        message_id, to = queue.new_id(), recipients or ("ann@example.org",)
        given = replace(arrival(*to, account=account or self.account_id), id=message_id)
        expected = queue.verdicts.expect(message_id, len(to), given.account_id)
        await queue.accept(given)
        return expected, message_id

    async def ask(self, *recipients: str, limit_s: float = LIMIT_S, account: int | None = None) -> tuple[Reply, int]:
        """Accept, wait, and what the application hears; the id of the message."""
        expected, message_id = await self.accept(*recipients, account=account)
        async with asyncio.timeout(LIMIT_S + 5):
            return await verdict_reply(expected, format_id(message_id), limit_s), message_id

    async def kept(self, message_id: int) -> tuple[list[str], str | None]:
        """What the store says of a message now: states by recipient number, and how it was answered."""

        def read(connection: Connection) -> tuple[list[str], str | None]:
            of_it = select(deliveries.c.state).where(deliveries.c.message_id == message_id)
            answer = connection.scalar(select(messages.c.answer).where(messages.c.id == message_id))
            return [row.state for row in connection.execute(of_it.order_by(deliveries.c.number))], answer

        return await self.store.database.read(read)


Upstream = ScriptedUpstream


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with ScriptedUpstream(accounts={LOGIN: PASSWORD}) as scripted:
        yield scripted


@asynccontextmanager
async def relaying(folder: Path, upstream: Upstream, **options: Any) -> AsyncIterator[Relay]:
    """`options` are settings of the account."""
    ca = folder / "ca.pem"
    upstream.authority.cert_pem.write_to_path(ca)
    async with open_store(folder) as store:

        def register(connection: Connection) -> int:
            at = {"provider": "custom", "host": "localhost", "port": upstream.port, "trust": str(ca)}
            account_id = accounts.add_account(connection, LOGIN, now_ms=1, **{**at, "max_connections": 3, **options})
            accounts.add_sender(connection, LOGIN, account_id, now_ms=1)
            return account_id

        account_id = await store.database.write(register)
        directory = await Directory.open(store.database, UpstreamDefaults())
        carrier = transport()
        dispatcher = Dispatcher(
            DispatchSettings(first_retry_s=30, max_retry_s=60),
            queue=store.queue,
            database=store.database,
            directory=directory,
            transport=carrier,
            history_days=30,
            clock=now_ms,
        )
        await dispatcher.start()
        await dispatcher.begin()
        try:
            yield Relay(store, dispatcher, directory, account_id)
        finally:
            await dispatcher.stop(5)
            await carrier.close()
            assert store.queue.verdicts.waiting == {}


async def test_a_relayed_message_is_answered_as_relayed(tmp_path: Path, upstream: Upstream) -> None:
    async with relaying(tmp_path, upstream) as relay:
        reply, message_id = await relay.ask("ann@example.org", "bob@example.org")
        assert str(reply) == f"250 2.0.0 Ok: relayed as {format_id(message_id)}"
        assert (await upstream.next_message()).recipients == ("ann@example.org", "bob@example.org")


async def test_a_refusal_is_recorded_before_it_is_said_and_nothing_stays_queued(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.on("RCPT", "gone@example.org").answers(GONE)
    async with relaying(tmp_path, upstream) as relay:
        reply, message_id = await relay.ask("gone@example.org")
        assert (reply.code, reply.status) == (550, "5.1.1")
        assert "no such user here" in reply.text
        assert format_id(message_id) in reply.text
        assert await relay.kept(message_id) == (["bounced"], "direct")
        assert upstream.messages == []


async def test_a_content_that_is_refused_is_refused_for_all(tmp_path: Path, upstream: Upstream) -> None:
    upstream.on("DOT").answers("554 5.7.1 message content rejected")
    async with relaying(tmp_path, upstream) as relay:
        reply, message_id = await relay.ask("ann@example.org", "bob@example.org")
        assert (reply.code, reply.status) == (554, "5.7.1")
        assert reply.text.startswith("All 2 recipients were refused, the first: ")
        assert await relay.kept(message_id) == (["bounced", "bounced"], "direct")


async def test_one_relayed_and_one_refused_is_250_and_the_refused_one_bounces_as_usual(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.on("RCPT", "gone@example.org").answers(GONE)
    async with relaying(tmp_path, upstream) as relay:
        reply, message_id = await relay.ask("ann@example.org", "gone@example.org")
        assert str(reply) == f"250 2.0.0 Ok: 1 of 2 recipients were refused, see {format_id(message_id)}"
        assert (await upstream.next_message()).recipients == ("ann@example.org",)
        assert (await relay.kept(message_id))[1] is None  # a notice is owed


@pytest.mark.parametrize("bad", ["450 4.2.1 mailbox busy, later", "452 4.2.2 over quota"])
async def test_what_is_only_deferred_is_queued(tmp_path: Path, upstream: Upstream, bad: str) -> None:
    upstream.on("RCPT", "busy@example.org").answers(bad)
    upstream.on("RCPT", "gone@example.org").answers(GONE)
    async with relaying(tmp_path, upstream) as relay:
        reply, message_id = await relay.ask("gone@example.org", "busy@example.org")
        assert str(reply) == f"250 2.0.0 Ok: queued as {format_id(message_id)}"
        assert (await relay.kept(message_id))[1] is None


async def test_a_lost_reply_to_the_dot_is_queued(tmp_path: Path, upstream: Upstream) -> None:
    upstream.on("DOT", times=1).disconnects()
    async with relaying(tmp_path, upstream) as relay:
        reply, message_id = await relay.ask()
        assert str(reply) == f"250 2.0.0 Ok: queued as {format_id(message_id)}"


async def test_the_limit_passes_and_a_refusal_that_comes_later_bounces_as_usual(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.on("DOT").pauses().answers("554 5.7.1 message content rejected")
    async with relaying(tmp_path, upstream) as relay:
        asked = asyncio.create_task(relay.ask(limit_s=0.3))
        await upstream.until(lambda: upstream.contents == 1)
        reply, message_id = await asked
        assert str(reply) == f"250 2.0.0 Ok: queued as {format_id(message_id)}"
        upstream.go_on()
        await _becomes(relay, message_id, ["bounced"])
        assert (await relay.kept(message_id))[1] is None


async def test_an_account_that_cannot_log_in_is_queued_at_once_and_so_is_all_that_follows(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.on("AUTH").answers("535 5.7.8 bad credentials")
    async with relaying(tmp_path, upstream) as relay:
        replies = [reply for reply, _ in await asyncio.gather(*(relay.ask() for _ in range(5)))]
        replies.append((await relay.ask())[0])
        assert {reply.text.rpartition(" ")[0] for reply in replies} == {"Ok: queued as"}
        assert sum(line.upper().startswith("AUTH") for line in upstream.lines()) == 1


async def test_an_account_that_begins_to_rest_ends_the_waiting_of_all_its_mail(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.on("DOT", times=1).pauses().answers("432 4.3.2 Concurrent connections limit exceeded")
    async with relaying(tmp_path, upstream) as relay:
        asked = [asyncio.create_task(relay.ask()) for _ in range(3)]
        await upstream.until(lambda: upstream.contents == 1)
        upstream.go_on()
        assert {reply.text[:13] for reply, _ in await asyncio.gather(*asked)} == {"Ok: queued as"}
        assert (await relay.ask())[0].text.startswith("Ok: queued as")  # it rests still


async def test_an_account_that_is_suspended_by_hand_or_unknown_is_queued_at_once(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with relaying(tmp_path, upstream) as relay:
        assert (await relay.ask(account=99))[0].text.startswith("Ok: queued as")
        upstream.on("DOT", times=1).pauses().well()
        asked = [asyncio.create_task(relay.ask()) for _ in range(2)]
        await upstream.until(lambda: upstream.contents == 1)
        await relay.store.database.write(
            lambda c: accounts.set_state(c, relay.account_id, AccountState.SUSPENDED, "operator")
        )
        await relay.directory.reload()
        relay.dispatcher.refresh()
        assert {reply.text[:13] for reply, _ in await asyncio.gather(*asked)} == {"Ok: queued as"}
        assert (await relay.ask())[0].text.startswith("Ok: queued as")
        upstream.go_on()


async def test_what_an_operator_takes_away_is_queued(tmp_path: Path, upstream: Upstream) -> None:
    upstream.on("DOT", times=1).pauses().well()
    async with relaying(tmp_path, upstream, max_connections=1) as relay:
        first = asyncio.create_task(relay.ask())
        await upstream.until(lambda: upstream.contents == 1)
        waits, held_id = await relay.accept("later@example.org")
        await relay.store.queue.operator.withdraw([held_id])
        reply = await verdict_reply(waits, format_id(held_id), LIMIT_S)
        assert reply.text.startswith("Ok: queued as")
        upstream.go_on()
        assert (await first)[0].text.startswith("Ok: relayed as")


async def test_a_stop_answers_queued_at_once_and_what_is_in_its_dot_still_ends_well(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.on("DOT", times=1).pauses().well()
    async with relaying(tmp_path, upstream) as relay:
        asked = asyncio.create_task(relay.ask())
        await upstream.until(lambda: upstream.contents == 1)
        stopping = asyncio.create_task(relay.dispatcher.stop(10))
        reply, message_id = await asked
        assert str(reply) == f"250 2.0.0 Ok: queued as {format_id(message_id)}"
        assert (await relay.ask())[0].text.startswith("Ok: queued as")
        upstream.go_on()
        assert await stopping
        assert (await relay.kept(message_id))[0] == ["relayed"]


async def test_more_recipients_than_a_transaction_takes_are_one_verdict(tmp_path: Path, upstream: Upstream) -> None:
    upstream.on("DOT").answers("554 5.7.1 message content rejected")
    async with relaying(tmp_path, upstream) as relay:
        names = [f"r{number}@example.org" for number in range(250)]
        reply, message_id = await relay.ask(*names)
        assert reply.code == 554
        assert reply.text.startswith("All 250 recipients were refused, the first: ")
        assert await relay.kept(message_id) == (["bounced"] * 250, "direct")
        upstream.forget_rules()
        assert (await relay.ask(*names))[0].text.startswith("Ok: relayed as")


async def test_a_refusal_that_cannot_be_recorded_yet_is_not_said_yet(tmp_path: Path, upstream: Upstream) -> None:
    upstream.on("RCPT", "gone@example.org").answers(GONE)
    async with relaying(tmp_path, upstream) as relay:
        queue, refused = relay.store.queue, asyncio.Event()
        settle = queue.settle

        def full(*arguments: Any) -> asyncio.Future[bool]:
            queue.settle = settle  # type: ignore[method-assign]
            future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            future.set_exception(StorageFull("no room"))
            refused.set()
            return future

        queue.settle = full  # type: ignore[method-assign]
        asked = asyncio.create_task(relay.ask("gone@example.org"))
        async with asyncio.timeout(5):
            await refused.wait()
        assert len(queue.verdicts.waiting) == 1  # until it is written, a second later
        reply, message_id = await asked
        assert reply.code == 550
        assert await relay.kept(message_id) == (["bounced"], "direct")


async def test_direct_mail_waits_its_turn_behind_plain_mail_and_then_gets_its_verdict(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.on("RCPT", "gone@example.org").answers(GONE)
    async with relaying(tmp_path, upstream) as relay:
        plain = [relay.store.queue.accept(arrival(account=relay.account_id)) for _ in range(200)]
        (reply, _), (relayed, _), *_ = await asyncio.gather(relay.ask("gone@example.org"), relay.ask(), *plain)
        assert (reply.code, relayed.text[:14]) == (550, "Ok: relayed as")
        await upstream.until(lambda: len(upstream.messages) == 201)


async def _becomes(relay: Relay, message_id: int, states: list[str]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while (await relay.kept(message_id))[0] != states:
            await asyncio.sleep(0.01)
