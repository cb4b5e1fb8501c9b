"""Clients with direct answers: the reply to the final dot is the provider's verdict, and true whatever happens."""

from __future__ import annotations

import asyncio
import smtplib
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing

import pytest

from tests.daemon import RelayDaemon
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, Relaying

MAIL = b"Subject: hello\r\n\r\nbody\r\n"
DIRECT, PLAIN = "127.0.0.2", "127.0.0.1"
GONE = "550 5.1.1 no such user here"


@pytest.fixture
def direct(relaying: Relaying) -> Relaying:
    """A daemon that answers what comes from DIRECT with the verdict, and what comes from PLAIN at once."""

    @asynccontextmanager
    async def run(**settings: str) -> AsyncIterator[RelayDaemon]:
        async with relaying(**settings) as daemon:
            await daemon.cli("client", "add", "erp", "--network", f"{DIRECT}/32", "--answer", "direct")
            await daemon.cli("client", "add", "scanner", "--network", f"{PLAIN}/32")
            yield daemon

    return run


async def _ask(daemon: RelayDaemon, *recipients: str, source: str = DIRECT) -> str:
    """Hand in one message; what the application hears behind its final dot."""
    return (await _ask_each(daemon, [recipients or ("ann@example.org",)], source=source))[0]


async def _ask_each(daemon: RelayDaemon, mails: Sequence[Sequence[str]], source: str = DIRECT) -> list[str]:
    """Several messages in one session."""

    def talk() -> list[str]:
        heard = []
        with closing(smtplib.SMTP("127.0.0.1", daemon.port, "app.example", 30, (source, 0))) as client:
            client.ehlo()
            for recipients in mails:
                assert client.mail(APP)[0] == 250
                for recipient in recipients:
                    assert client.rcpt(recipient)[0] == 250
                code, text = client.data(MAIL)
                heard.append(f"{code} {text.decode()}")
        return heard

    return await asyncio.to_thread(talk)


def _answers(daemon: RelayDaemon) -> list[tuple[str, str | None]]:
    """Recipient and how its message was answered, as the store of a stopped daemon has it."""
    query = "SELECT d.recipient, m.answer FROM deliveries d JOIN messages m ON m.id = d.message_id"
    store = sqlite3.connect(daemon.data / "relay.db")
    try:
        return store.execute(f"{query} WHERE m.notice IS NULL ORDER BY 1").fetchall()
    finally:
        store.close()


async def test_the_answer_is_what_the_provider_said(upstream: ScriptedUpstream, direct: Relaying) -> None:
    upstream.on("RCPT", "gone@example.org").answers(GONE)
    upstream.on("RCPT", "busy@example.org").answers("450 4.2.1 mailbox busy, later")
    async with direct(RELAY_DISPATCH__FIRST_RETRY_S="60", RELAY_DISPATCH__MAX_RETRY_S="60") as daemon:
        relayed = await _ask(daemon, "ann@example.org")
        message_id = (await daemon.event("delivery.relayed", recipient="ann@example.org"))["message_id"]
        assert relayed == f"250 2.0.0 Ok: relayed as {message_id}"
        assert (await upstream.next_message()).recipients == ("ann@example.org",)

        refused = await _ask(daemon, "gone@example.org")
        bounced = await daemon.event("delivery.bounced", recipient="gone@example.org")
        assert refused.startswith(f"550 5.1.1 {bounced['cause']}")
        assert refused.endswith(f"no such user here ({bounced['message_id']})")

        queued = await _ask(daemon, "busy@example.org")
        deferred = await daemon.event("delivery.deferred", recipient="busy@example.org")
        assert queued == f"250 2.0.0 Ok: queued as {deferred['message_id']}"

        mixed = await _ask(daemon, "bob@example.org", "gone@example.org")
        assert mixed.startswith("250 2.0.0 Ok: 1 of 2 recipients were refused, see ")
        assert (await upstream.next_message()).recipients == ("bob@example.org",)

        assert (await _ask(daemon, source=PLAIN)).startswith("250 2.0.0 Ok: queued as ")
        assert await daemon.stop() == 0
        told = [("busy@example.org", None), ("gone@example.org", "direct"), ("gone@example.org", None)]
        assert sorted(set(_answers(daemon)) - {(f"{name}@example.org", None) for name in ("ann", "bob")}, key=str) == (
            sorted(told, key=str)
        )  # of the other refused one a notice is owed: its application heard 250


async def test_refusals_in_a_row_are_verdicts_not_errors_of_the_application(
    upstream: ScriptedUpstream, direct: Relaying
) -> None:
    upstream.on("RCPT", "gone@example.org").answers(GONE)
    async with direct() as daemon:
        heard = await _ask_each(daemon, [("gone@example.org",)] * 25 + [("ann@example.org",)])
        assert {reply[:9] for reply in heard[:25]} == {"550 5.1.1"}
        assert heard[25].startswith("250 2.0.0 Ok: relayed as ")


async def test_past_the_limit_it_is_queued_and_no_idle_timer_fires_before(
    upstream: ScriptedUpstream, direct: Relaying
) -> None:
    upstream.on("DOT", times=1).pauses().well()
    async with direct(RELAY_DISPATCH__DIRECT_TIMEOUT_S="1.5", RELAY_LISTENER__IDLE_TIMEOUT_S="0.5") as daemon:
        assert (await _ask(daemon)).startswith("250 2.0.0 Ok: queued as ")
        upstream.go_on()
        await daemon.event("delivery.relayed", recipient="ann@example.org")
        assert len(upstream.messages) == 1


async def test_it_is_durable_before_the_attempt_and_plain_mail_does_not_wait_for_it(
    upstream: ScriptedUpstream, direct: Relaying
) -> None:
    upstream.on("DOT", times=1).pauses().well()
    async with direct() as daemon:
        asked = asyncio.create_task(_ask(daemon))
        await upstream.until(lambda: upstream.contents == 1)
        assert "ann@example.org" in (await daemon.cli("queue", "list", "--json")).stdout
        assert (await _ask(daemon, "bob@example.org", source=PLAIN)).startswith("250 2.0.0 Ok: queued as ")
        assert not asked.done()
        upstream.go_on()
        assert (await asked).startswith("250 2.0.0 Ok: relayed as ")


@pytest.mark.parametrize("end", ["250 2.0.0 taken", "554 5.7.1 message content rejected"])
async def test_a_client_that_hangs_up_while_it_waits_changes_nothing(
    upstream: ScriptedUpstream, direct: Relaying, end: str
) -> None:
    upstream.on("DOT", times=1).pauses().answers(end)
    async with direct() as daemon:
        reader, writer = await asyncio.open_connection("127.0.0.1", daemon.port, local_addr=(DIRECT, 0))
        for line in (b"EHLO app.example", b"MAIL FROM:<%b>" % APP.encode(), b"RCPT TO:<ann@example.org>", b"DATA"):
            await _reply(reader)
            writer.write(line + b"\r\n")
        assert (await _reply(reader)).startswith(b"354")
        writer.write(MAIL + b".\r\n")
        await upstream.until(lambda: upstream.contents == 1)
        writer.transport.abort()
        assert (await _ask(daemon, "bob@example.org", source=PLAIN)).startswith("250")  # behind which it noticed
        upstream.go_on()
        event = "delivery.relayed" if end.startswith("250") else "delivery.bounced"
        await daemon.event(event, recipient="ann@example.org")
        await daemon.event("session.closed", client="erp")
        assert await daemon.stop() == 0
        assert dict(_answers(daemon))["ann@example.org"] is None  # nobody heard of a refusal: a notice is owed


async def test_a_daemon_that_stops_says_queued_and_ends_well(upstream: ScriptedUpstream, direct: Relaying) -> None:
    upstream.on("DOT", times=1).pauses().well()
    async with direct() as daemon:
        asked = asyncio.create_task(_ask(daemon))
        await upstream.until(lambda: upstream.contents == 1)
        stopping = asyncio.create_task(daemon.stop())
        assert (await asked).startswith("250 2.0.0 Ok: queued as ")
        upstream.go_on()
        assert await stopping == 0
        assert len(upstream.messages) == 1
        assert not [event for event in daemon.events if event.get("possible_duplicate")]


async def test_a_suspended_account_is_queued_at_once(upstream: ScriptedUpstream, direct: Relaying) -> None:
    upstream.on("AUTH").answers("535 5.7.8 bad credentials")
    async with direct() as daemon:
        assert (await _ask(daemon)).startswith("250 2.0.0 Ok: queued as ")
        await daemon.event("account.suspended", account=APP)
        assert (await _ask(daemon)).startswith("250 2.0.0 Ok: queued as ")
        await daemon.stop()
        assert not [event for event in daemon.events if event["event"] == "delivery.bounced"]


async def _reply(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        while (line := await reader.readline())[3:4] == b"-":
            pass
    return line
