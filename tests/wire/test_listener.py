"""The front door as an application sees it: commands, replies, what is stored, the life of a session."""

import asyncio
import gc
import smtplib
import socket
import ssl
import struct
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest
import trustme
import uvloop
from sqlalchemy import Connection

from relay.accounts import store as accounts
from relay.listener import replies
from relay.listener.session import RelaySession
from relay.mail.errors import StorageFailed, StorageFull
from relay.queue.model import Arrival
from relay.queue.store import Queue
from relay.telemetry import get_logger
from tests.wire.door import DEADLINE_S, HOST, OpenDoor, open_door

MAIL = b"MAIL FROM:<app@example.com>\r\n"
RCPT = b"RCPT TO:<ann@example.org>\r\n"
BODY = b"From: a@b\r\nDate: d\r\nMessage-ID: <m@b>\r\nSubject: s\r\n\r\nhello\r\n"


class GatedQueue(Queue):
    """The real queue, with a gate before its commit."""

    gate: asyncio.Event
    arrived: asyncio.Event

    async def accept(self, arrival: Arrival) -> int:
        self.arrived.set()
        await self.gate.wait()
        return await super().accept(arrival)


class BrokenDisk(Queue):
    """The real queue on a disk that fails with the next of `errors`."""

    errors: list[Exception]

    async def accept(self, arrival: Arrival) -> int:
        if self.errors:
            raise self.errors.pop(0)
        return await super().accept(arrival)


def _gate(door: OpenDoor) -> GatedQueue:
    queue = door.store.queue
    assert isinstance(queue, GatedQueue)
    queue.gate, queue.arrived = asyncio.Event(), asyncio.Event()
    return queue


async def test_one_message_byte_by_byte(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.connect()
        assert await talker.reply() == f"220 {HOST} ESMTP relay"
        assert await talker.say(b"ehlo app.example\r\n") == (
            f"250-{HOST}\n250-SIZE 52428800\n250-8BITMIME\n250-SMTPUTF8\n250-PIPELINING\n"
            "250-ENHANCEDSTATUSCODES\n250 DSN"
        )
        assert await talker.say(b"MAIL FROM:<app@example.com> SIZE=100 BODY=8BITMIME\r\n") == "250 2.1.0 Ok"
        assert await talker.say(RCPT) == "250 2.1.5 Ok"
        assert await talker.say(b"RCPT TO: <bob@example.org>\r\n") == "250 2.1.5 Ok"
        assert await talker.say(RCPT) == "250 2.1.5 Ok"
        assert await talker.say(b"DATA\r\n") == "354 End data with <CR><LF>.<CR><LF>"
        reply = await talker.say(BODY + b".\r\n")
        [message] = door.messages
        assert reply == f"250 2.0.0 Ok: queued as {reply[-13:]}"
        assert message.content.inline is not None
        assert f" id {reply[-13:]};".encode() in message.content.inline
        assert message.content.inline.startswith(
            b"Received: from app.example ([127.0.0.1])\r\n\tby relay.example (relay i-1)"
        )
        assert door.content() == BODY
        assert [d.recipient for d in message.deliveries] == ["ann@example.org", "bob@example.org"]
        assert (message.reverse_path, message.eight_bit, message.smtputf8) == ("app@example.com", True, False)
        assert (message.client, message.account_id) == ("127.0.0.1", 1)
        assert await talker.say(b"QUIT\r\n") == "221 2.0.0 Bye"
        assert await talker.rest() == b""


async def test_a_whole_session_in_one_packet(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.client()
        transaction = MAIL + RCPT + b"DATA\r\n" + BODY + b".\r\n"
        await talker.send(transaction * 3 + b"NOOP\r\nQUIT\r\n")
        lines = (await talker.rest()).decode().split("\r\n")
        assert [line[:3] for line in lines] == ["250", "250", "354", "250"] * 3 + ["250", "221", ""]
        assert len(door.messages) == 3
        assert door.content(0) == door.content(1) == door.content(2) == BODY


async def test_replies_of_every_command(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.connect()
        await talker.reply()
        for command, reply in [
            (MAIL, "503 5.5.1"),
            (RCPT, "503 5.5.1"),
            (b"DATA\r\n", "503 5.5.1"),
            (b"HELO\r\n", f"250 {HOST}"),
            (b"HELO " + b"x" * 256 + b"\r\n", "501 5.5.4"),
            (b"HELO my pc\r\n", f"250 {HOST}"),
            (b"MAIL FROM:<app@example.com> SIZE=1\r\n", "555 5.5.4"),
            (b"EHLO x\r\n", f"250-{HOST}"),
            (RCPT, "503 5.5.1"),
            (b"MAIL FROM:app@example.com\r\n", "501 5.5.4"),
            (b"MAIL\r\n", "501 5.5.4"),
            (b"MAIL FROM:<app@example.com> FOO=1\r\n", "555 5.5.4"),
            (b"MAIL FROM:<app@example.com> SIZE=52428801\r\n", "552 5.3.4"),
            (
                b"MAIL FROM:<nobody@example.com>\r\n",
                "550 5.7.1 <nobody@example.com>: no account may send as this address",
            ),
            (b"MAIL FROM:<>\r\n", "550 5.7.1 <>: no account may send as this address"),
            (b"MAIL FROM:<app@@example.com>\r\n", "501 5.1.7"),
            ("MAIL FROM:<ä@example.com>\r\n".encode(), "553 5.6.7"),
            (MAIL, "250 2.1.0"),
            (MAIL, "503 5.5.1"),
            (b"DATA\r\n", "503 5.5.1"),
            (b"RCPT TO:<a@@b>\r\n", "501 5.1.3"),
            (b"RCPT TO:<a@b> NOTIFY=NOW\r\n", "501 5.5.4"),
            (b"RCPT TO:<a@b> FOO=NEVER\r\n", "555 5.5.4"),
            (RCPT, "250 2.1.5"),
            (b"DATA now\r\n", "501 5.5.4"),
            (b"RSET x\r\n", "501 5.5.4"),
            (b"RSET\r\n", "250 2.0.0"),
            (RCPT, "503 5.5.1"),
            (b"NOOP anything\r\n", "250 2.0.0"),
            (b"VRFY ann\r\n", "252 2.5.0"),
            (b"EXPN all\r\n", "502 5.5.1"),
            (b"AUTH PLAIN AGEAYg==\r\n", "502 5.5.1"),
            (b"STARTTLS\r\n", "502 5.5.1"),
            (b"HELP\r\n", "214 2.0.0"),
            (b"XYZZY\r\n", "500 5.5.2"),
            (b"QUIT now\r\n", "501 5.5.4"),
            (b"quit  \r\n", "221 2.0.0"),
        ]:
            assert (await talker.say(command)).startswith(reply), command
        assert door.messages == []


async def test_who_may_send_as_whom(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:

        def register(connection: Connection) -> None:
            accounts.add_client(connection, "erp", networks=["127.0.0.0/8"], senders=["app@example.com"], now_ms=1)

        await door.store.database.write(register)
        await door.directory.reload()
        talker = await door.client()
        refused = await talker.say(b"MAIL FROM:<two@example.com>\r\n")
        assert refused.startswith("550 5.7.1 <two@example.com>: not allowed from this client (erp)")
        await talker.begin()
        assert (await talker.say(BODY + b".\r\n")).startswith("550 5.7.1 <a@b> in the header: not allowed")
        await talker.begin()
        assert (await talker.say(BODY.replace(b"a@b", b"app@example.com") + b".\r\n")).startswith("250")
        assert door.messages[-1].client == "erp"


async def test_the_null_sender_needs_a_route_of_its_own(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.client()
        assert (await talker.say(b"MAIL FROM:<>\r\n")).startswith("550 5.7.1")

        def register(connection: Connection) -> None:
            accounts.add_sender(connection, "<>", door.account_id, now_ms=1)

        await door.store.database.write(register)
        await door.directory.reload()
        await talker.begin(sender="")
        assert (await talker.say(b"\r\nbounce\r\n.\r\n")).startswith("250")
        assert b"From: <MAILER-DAEMON@relay.example>\r\n" in door.content()


async def test_no_room_is_said_at_mail(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.client()
        room = door.store.queue.room
        room._floor = 1 << 62
        room.spent()
        assert (await talker.say(MAIL)).startswith("452 4.3.1")
        room._floor = 0
        room.spent()
        assert (await talker.say(MAIL)).startswith("250 2.1.0")


async def test_our_own_failures_are_temporary_and_say_nothing_of_us(tmp_path: Path) -> None:
    async with open_door(tmp_path, queue_type=BrokenDisk) as door:
        queue = door.store.queue
        assert isinstance(queue, BrokenDisk)
        queue.errors = [StorageFull("/secret/path"), StorageFailed("/secret/path"), OSError(5, "io"), KeyError("bug")]
        talker = await door.client()
        for reply in (replies.NO_ROOM, replies.OUR_FAULT, replies.OUR_FAULT, replies.OUR_FAULT):
            await talker.begin()
            assert await talker.say(BODY + b".\r\n") == str(reply)
        assert door.messages == []
        await talker.begin()
        assert (await talker.say(BODY + b".\r\n")).startswith("250")


async def test_a_spool_that_cannot_be_written_is_temporary(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        (tmp_path / "spool").rmdir()
        talker = await door.client()
        await talker.begin()
        await talker.send(b"Subject: s\r\n\r\n" + (b"x" * 76 + b"\r\n") * 20000)
        assert (await talker.say(b".\r\n")) == str(replies.OUR_FAULT)
        (tmp_path / "spool").mkdir()
        await talker.begin()
        await talker.send(b"Subject: s\r\n\r\n" + (b"x" * 76 + b"\r\n") * 20000)
        assert (await talker.say(b".\r\n")).startswith("250")


async def test_large_messages_stream_to_the_spool(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        body = b"From: a@b\r\nDate: d\r\nMessage-ID: <m@b>\r\n\r\n" + b"".join(
            b"%06d " % n + b"." * (n % 90) + b"\r\n" for n in range(60000)
        )
        talkers = [await door.client() for _ in range(4)]
        await asyncio.gather(*[talker.begin() for talker in talkers])
        async with asyncio.timeout(DEADLINE_S):
            answers = await asyncio.gather(*[talker.say(body + b".\r\n") for talker in talkers])
        assert all(answer.startswith("250") for answer in answers)
        assert [door.content(n) == body for n in range(4)] == [True] * 4
        assert all(message.content.spool for message in door.messages)


async def test_a_lost_connection_in_data_leaves_nothing(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        for ending in ("fin", "rst"):
            talker = await door.client()
            await talker.begin()
            await talker.send(b"Subject: s\r\n\r\n" + (b"x" * 76 + b"\r\n") * 10000 + b".\r")
            if ending == "rst":
                sock = talker.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            talker.close()
            await _until(lambda: door.listener.connections == 0)
        assert door.messages == []
        assert list((tmp_path / "spool").iterdir()) == []


async def test_half_close_behind_the_dot_still_gets_its_answer(tmp_path: Path) -> None:
    async with open_door(tmp_path, queue_type=GatedQueue) as door:
        queue = _gate(door)
        talker = await door.client()
        await talker.begin()
        await talker.send(BODY + b".\r\n")
        talker.writer.write_eof()
        async with asyncio.timeout(DEADLINE_S):
            await queue.arrived.wait()
        queue.gate.set()
        assert (await talker.reply()).startswith("250 2.0.0 Ok: queued as")
        assert await talker.rest() == b""
        assert len(door.messages) == 1


async def test_a_session_sent_blindly_and_half_closed_is_answered_in_full(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.connect()
        await talker.reply()
        await talker.send(b"HELO x\r\n" + MAIL + RCPT + b"DATA\r\n" + BODY + b".\r\nQUIT\r\n")
        talker.writer.write_eof()
        lines = (await talker.rest()).split(b"\r\n")
        assert [line[:3] for line in lines] == [b"250", b"250", b"250", b"354", b"250", b"221", b""]


async def test_a_disconnect_behind_the_dot_does_not_tear_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(get_logger(), "warning", lambda event, **keys: warnings.append(event))
    async with open_door(tmp_path, queue_type=GatedQueue) as door:
        queue = _gate(door)
        talker = await door.client()
        await talker.begin()
        await talker.send(BODY + b".\r\n")
        async with asyncio.timeout(DEADLINE_S):
            await queue.arrived.wait()
        sock = talker.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        talker.close()
        await talker.writer.wait_closed()
        queue.gate.set()
        await _until(lambda: len(door.messages) == 1 and door.listener.connections == 0)
    assert warnings == ["message.unanswered"]  # it may come again


async def test_no_timer_fires_between_the_dot_and_its_answer(tmp_path: Path) -> None:
    async with open_door(tmp_path, queue_type=GatedQueue, idle_timeout_s=0.1, data_rate_window_s=0.1) as door:
        queue = _gate(door)
        talker = await door.client()
        await talker.begin()
        await talker.send(BODY + b".\r\n")
        async with asyncio.timeout(DEADLINE_S):
            await queue.arrived.wait()
        idle = await door.client()
        assert (await idle.reply()).startswith("421 4.4.2")  # the time-out of another session has passed meanwhile
        assert (await (await door.client()).reply()).startswith("421 4.4.2")
        queue.gate.set()
        assert (await talker.reply()).startswith("250")


async def test_shutdown_lets_a_commit_finish(tmp_path: Path) -> None:
    async with open_door(tmp_path, queue_type=GatedQueue) as door:
        queue = _gate(door)
        busy, idle, receiving = await door.client(), await door.client(), await door.client()
        await receiving.begin()
        await busy.begin()
        await busy.send(BODY + b".\r\n")
        async with asyncio.timeout(DEADLINE_S):
            await queue.arrived.wait()
        port = door.listener.port
        door.listener.stop_accepting()
        assert (await idle.reply()).startswith("421 4.3.2")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not await door.listener.drain(0.05)
        assert await receiving.rest() == b""
        queue.gate.set()
        assert await door.listener.drain(DEADLINE_S)
        assert (await busy.reply()).startswith("250 2.0.0 Ok: queued as")
        assert (await busy.reply()).startswith("421 4.3.2")


async def test_starttls(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(HOST).configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with open_door(tmp_path, tls_context=context) as door:
        talker = await door.connect()
        await talker.reply()
        assert (await talker.say(b"EHLO x\r\n")).endswith("250 STARTTLS")
        assert (await talker.say(b"STARTTLS x\r\n")).startswith("501 5.5.4")
        assert await talker.say(b"STARTTLS\r\n") == "220 2.0.0 Ready to start TLS"
        await talker.writer.start_tls(trusting, server_hostname=HOST)
        assert (await talker.say(MAIL)).startswith("503 5.5.1")  # RFC 3207 4.2: said under TLS, or not said
        assert "STARTTLS" not in await talker.say(b"EHLO x\r\n")
        assert (await talker.say(b"STARTTLS\r\n")).startswith("503 5.5.1")
        await talker.begin()
        big = BODY + (b"x" * 76 + b"\r\n") * 20000
        assert (await talker.say(big + b".\r\n")).startswith("250")
        assert door.content() == big
        await talker.begin()
        assert (await talker.say(BODY + b".\r\n")).startswith("250")
        assert b"with ESMTPS id" in (door.messages[-1].content.inline or b"")
        assert (await talker.say(b"QUIT\r\n")).startswith("221")
        injected = await door.client()
        assert (await injected.say(b"STARTTLS\r\nNOOP\r\n")).startswith("501 5.5.1")
        assert await injected.rest() == b""
        garbage = await door.client()
        assert (await garbage.say(b"STARTTLS\r\n")).startswith("220")
        await garbage.send(b"this is no handshake\r\n" * 10)
        await garbage.rest()
        await door.is_served()


async def test_smtplib_can_use_it(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = "app@example.com", "ann@example.org", "Grüße"
        mail["Bcc"] = "secret@example.org"
        mail.set_content("Hällo\n.\n..\n")

        def send() -> dict[str, tuple[int, bytes]]:
            with smtplib.SMTP("127.0.0.1", door.listener.port, timeout=DEADLINE_S) as client:
                return client.sendmail("app@example.com", ["ann@example.org", "secret@example.org"], mail.as_bytes())

        assert await asyncio.to_thread(send) == {}
        assert b"secret" not in door.content()
        # smtplib leaves bare LF, stuffs behind it, and does not take the last one for a line end.
        assert door.content().endswith(b"\r\n\r\nH\xc3\xa4llo\r\n.\r\n..\r\n\r\n")
        assert [d.recipient for d in door.messages[0].deliveries] == ["ann@example.org", "secret@example.org"]


async def test_a_session_that_waits_for_a_command_has_no_task(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        before = len(asyncio.all_tasks())
        talkers = [await door.client() for _ in range(5)]
        for talker in talkers:
            assert await talker.say(MAIL + RCPT) == "250 2.1.0 Ok"  # a group, which takes one
            assert await talker.reply() == "250 2.1.5 Ok"
            assert (await talker.say(b"DATA\r\n")).startswith("354")
            assert (await talker.say(BODY + b".\r\n")).startswith("250 2.0.0 Ok: queued as ")
            assert await talker.say(b"NO", b"OP", b"\r\n") == "250 2.0.0 Ok"
            assert await talker.say(b"RSET\r\n") == "250 2.0.0 Ok"
        await _until(lambda: len(asyncio.all_tasks()) == before)
        assert door.listener.connections == 5
        await talkers[0].send(b"NO")
        await _until(lambda: len(asyncio.all_tasks()) == before + 1)
        for talker in talkers:
            talker.close()
        await _until(lambda: door.listener.connections == 0)
        assert len(asyncio.all_tasks()) == before


@pytest.mark.parametrize("last", [b"QUIT\r\n", b""])
def test_sessions_leave_nothing_to_the_collector_of_cycles(tmp_path: Path, last: bytes) -> None:
    async def run() -> None:
        async with open_door(tmp_path) as door:
            await door.is_served()
            await _until(lambda: door.listener.connections == 0)
            gc.collect()
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                for _ in range(3):
                    talker = await door.client()
                    await talker.begin()
                    assert (await talker.say(BODY + b".\r\n")).startswith("250")
                    await talker.send(last)
                    talker.close()
                    await _until(lambda: door.listener.connections == 0)
                gc.collect()
                assert not [found for found in gc.garbage if isinstance(found, RelaySession)]
            finally:
                gc.set_debug(0)
                gc.garbage.clear()

    uvloop.run(run())  # asyncio's own transports are cycles themselves


def test_it_runs_on_uvloop(tmp_path: Path) -> None:
    async def run() -> None:
        await test_half_close_behind_the_dot_still_gets_its_answer(tmp_path / "a")
        await test_large_messages_stream_to_the_spool(tmp_path / "b")
        await test_starttls(tmp_path / "c")
        with pytest.MonkeyPatch.context() as patch:
            await test_a_disconnect_behind_the_dot_does_not_tear_the_commit(tmp_path / "d", patch)
        await test_shutdown_lets_a_commit_finish(tmp_path / "e")

    for name in "abcde":
        (tmp_path / name).mkdir()
    uvloop.run(run())


async def _until(done: Callable[[], bool]) -> None:
    """Wait for a state that has no event of its own, under a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not done():
            await asyncio.sleep(0.005)
