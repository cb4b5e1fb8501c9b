"""The octets of a client's day outlive the process that counted them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import Connection, insert

from relay.accounts import clients as client_store
from relay.accounts import store as accounts
from relay.config.settings import ListenerSettings, RelaySettings
from relay.daemon.build import build, open_control
from relay.database.schema import messages
from relay.mail.ids import IdSource
from relay.queue.volume import accepted_octets
from tests.store import lay_store
from tests.wire.door import Talker

HOUR_S = 3600


def accept(connection: Connection, client: str, size: int, hours_ago: float) -> None:
    at = time.time() - hours_ago * HOUR_S
    number = IdSource(clock=lambda: at).next()
    connection.execute(
        insert(messages).values(
            id=number,
            account_id=1,
            reverse_path="app@example.com",
            header_message_id="",
            client=client,
            size=size,
            eight_bit=0,
            smtputf8=0,
            accepted_at=int(at * 1000),
        )
    )


@asynccontextmanager
async def restarted(folder: Path) -> AsyncIterator[Talker]:
    """A session at the door of a relay that was just started: client `erp` may send 10,000 octets a day."""
    settings = RelaySettings(data_dir=folder, listener=ListenerSettings(port=0))
    async with build(settings, on_lost=lambda error: None) as relay:
        [listener] = relay.doors.listeners
        await listener.start()
        talker = Talker(*await asyncio.open_connection("127.0.0.1", listener.port))
        try:
            await talker.reply()
            await talker.say(b"EHLO app.example\r\n")
            yield talker
        finally:
            talker.close()
            listener.stop_accepting()
            await listener.drain(5.0)


async def test_a_restart_gives_nobody_the_day_anew(tmp_path: Path) -> None:
    def register(connection: Connection) -> None:
        account_id = accounts.add_account(connection, "app@example.com", now_ms=1)
        accounts.add_sender(connection, "app@example.com", account_id, now_ms=1)
        client_store.add_client(connection, "erp", networks=["127.0.0.0/8"], now_ms=1, bytes_per_day=10_000)
        for size, hours_ago in ((3000, 1), (2000, 1.1), (4000, 20), (9000, 25), (9000, 700)):
            accept(connection, "erp", size, hours_ago)
        accept(connection, "other", 5000, 2)

    async with open_control(RelaySettings(data_dir=lay_store(tmp_path))) as control:
        await control.database.write(register)
    async with restarted(tmp_path) as talker:
        assert (await talker.say(b"MAIL FROM:<app@example.com> SIZE=1001\r\n")).startswith("452 4.7.0")
        assert (await talker.say(b"MAIL FROM:<app@example.com> SIZE=1000\r\n")).startswith("250 2.1.0")


async def test_the_sums_are_by_client_and_minute(tmp_path: Path) -> None:
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path))) as control:

        def fill(connection: Connection) -> None:
            for name, hours_ago in (("a", 0.5), ("a", 0.501), ("a", 3), ("b", 3.1), ("c", 3.2), ("a", 30)):
                accept(connection, name, 10, hours_ago)

        await control.database.write(fill)
        day_ago = int((time.time() - 24 * HOUR_S) * 1000)
        found = await control.database.read(lambda connection: accepted_octets(connection, ["a", "b", "no"], day_ago))
        summed: dict[str, int] = {}
        for name, at_ms, octets in found:
            assert at_ms >= day_ago
            summed[name] = summed.get(name, 0) + octets
        assert summed == {"a": 30, "b": 10}
        assert await control.database.read(lambda connection: accepted_octets(connection, [], 0)) == []
