"""Whatever a client does, the front door stays bounded, answers in digits, and serves the others."""

import asyncio
import contextlib
import os
import random
import re
import resource
import socket
from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.telemetry import get_logger
from tests.wire.door import DEADLINE_S, Talker, open_door

MAIL = b"MAIL FROM:<app@example.com>\r\n"

OPEN_RELAY_SENDERS = [
    b"<victim@example.net>",
    b"<>",
    b"<app@example.net>",
    b"<app@sub.example.com>",
    b"<app@example.com.>",
    b"<app@example.com@example.net>",
    b"<@example.com:app@example.net>",
    b"<@localhost,@example.com:app@example.net>",
    b"<app%example.com@example.net>",
    b"<example.com!app@example.net>",
    b'<"app@example.com"@example.net>',
    b'<"app@example.com">',
    b"<app@[127.0.0.1]>",
    b"<app@[IPv6:::1]>",
    b"<app@localhost>",
    b"<app>",
    b"<postmaster>",
    b"<root@relay.example>",
    b"<xapp@example.com>",
    b"<app@xexample.com>",
    b"<app@example.co>",
    b"<app+tag@example.net>",
    "<app@exаmple.com> SMTPUTF8".encode(),  # a Cyrillic a
    "<аpp@example.com> SMTPUTF8".encode(),
    "<app@example。com> SMTPUTF8".encode(),  # an ideographic full stop
    b"<app@example.com\x00@example.net>",
    b"<app@example.com\xff>",
    b"app@example.com",
    b"<<app@example.com>>",
    b"<app@example.com> <victim@example.net>",
    b"<app @example.com>",
    b"<app@ example.com>",
]
OPEN_RELAY_RECIPIENTS = [
    b"<victim%example.net@relay.example>",
    b"<victim%example.net@[127.0.0.1]>",
    b"<victim%example.net%example.org@localhost>",
    b"<example.net!victim@relay.example>",
    b"<example.net!victim>",
    b"<@relay.example:victim@example.net>",
    b"<@relay.example,@example.org:victim@example.net>",
    b'<"victim@example.net"@relay.example>',
    b'<"victim@example.net">',
    b'<"victim%example.net"@relay.example>',
    b'<"example.net!victim"@relay.example>',
    b"<victim@example.net@relay.example>",
    b"<victim@[127.0.0.1]>",
    b"<victim@[IPv6:::1]>",
    b"<victim@[tag:content]>",
    b"<victim>",
    b"<>",
    b"<@>",
    b"<victim@>",
    b"<@example.net>",
    b"victim@example.net",
    b"<victim@example.net",
    b"<victim@example.net>>",
    b"<victim@example.net> <other@example.net>",
    b"<victim@example.net,other@example.net>",
    b"<victim@example..net>",
    "<víctim@example.net>".encode(),
]


async def test_not_an_open_relay(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_connections_per_client=200) as door:
        for sender in OPEN_RELAY_SENDERS:
            talker = await door.client()
            assert (await talker.say(b"MAIL FROM:" + sender + b"\r\n"))[0] == "5", sender
            assert (await talker.say(b"RCPT TO:<victim@example.net>\r\n"))[0] == "5"
            assert (await talker.say(b"DATA\r\n"))[0] == "5"
            talker.close()
        for recipient in OPEN_RELAY_RECIPIENTS:
            talker = await door.client()
            assert (await talker.say(MAIL)).startswith("250")
            assert (await talker.say(b"RCPT TO:" + recipient + b"\r\n"))[0] == "5", recipient
            assert (await talker.say(b"DATA\r\n"))[0] == "5"
            talker.close()
        assert door.messages == []


async def test_networks_are_checked_before_the_greeting(tmp_path: Path) -> None:
    async with open_door(tmp_path, allowed_networks=(ip_network("192.0.2.0/24"),)) as door:
        talker = await door.connect()
        assert (await talker.reply()).startswith("554 5.7.1 no access from 127.0.0.1")
        assert await talker.rest() == b""


async def test_connections_are_capped(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_connections_per_client=2) as door:
        first, second = await door.client(), await door.client()
        assert (await (await door.connect()).reply()).startswith("421 4.7.0 too many connections from this client")
        await first.say(b"QUIT\r\n")
        await first.rest()
        await _closed(door.listener, 1)
        await door.is_served()
        second.close()
    (tmp_path / "second").mkdir()
    async with open_door(tmp_path / "second", max_connections=1) as door:
        only = await door.client()
        assert (await (await door.connect()).reply()).startswith("421 4.7.0 too many connections, ")
        only.close()


async def test_recipients_are_capped(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_recipients=100) as door:
        talker = await door.client()
        await talker.send(MAIL + b"".join(b"RCPT TO:<r%d@example.org>\r\n" % n for n in range(5000)))
        replies = [await talker.reply() for _ in range(5001)]
        assert replies[:101] == ["250 2.1.0 Ok"] + ["250 2.1.5 Ok"] * 100
        assert set(replies[101:]) == {"452 4.5.3 too many recipients"}
        assert (await talker.say(b"DATA\r\n")).startswith("354")
        assert (await talker.say(b"x\r\n.\r\n")).startswith("250")
        assert len(door.messages[0].deliveries) == 100


async def test_too_large_messages_are_read_to_their_end(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_message_bytes=10_000) as door:
        talker = await door.client()
        await talker.begin()
        assert (await talker.say((b"x" * 98 + b"\r\n") * 100 + b".\r\n")).startswith("250"), "exactly the limit"
        await talker.begin()
        assert (await talker.say((b"." * 99 + b"\r\n") * 100 + b".\r\n")).startswith("250"), "stuffing does not count"
        for size in (101, 5000):
            await talker.begin()
            reply = await talker.say((b"x" * 98 + b"\r\n") * size + b".\r\nNOOP\r\n")
            assert reply == "552 5.3.4 message exceeds 10000 octets"
            assert (await talker.reply()).startswith("250 2.0.0")
        await talker.begin()
        with contextlib.suppress(ConnectionError):
            await talker.send((b"x" * 98 + b"\r\n") * 20_000)  # hopeless: cut off
            assert (await talker.rest()).startswith(b"552 5.3.4")
        await door.is_served()
        assert len(door.messages) == 3


async def test_long_lines(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.client()
        for length, reply in [
            (65_536, "250 2.0.0"),
            (65_537, "554 5.6.0"),
            (8 << 20, "554 5.6.0"),
            (1000, "250 2.0.0"),
        ]:
            for before in (b"", b"y" * 300 + b"\r\n"):
                await talker.begin()
                content = b"Subject: s\r\n\r\n" + before + b"x" * length + b"\r\n" + before
                assert (await talker.say(content + b".\r\n")).startswith(reply), length


async def test_eight_megabytes_without_a_line_end_cost_little(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        for begin in (False, True):
            talker = await door.client()
            if begin:
                await talker.begin()
            await talker.send(b"x" * 65536)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(127):
                await talker.send(b"x" * 65536)
            reply = await talker.say(b"\r\n.\r\n" if begin else b"\r\n")
            assert reply.startswith("55" if begin else "500 5.5.2")
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            assert grown < 1024, f"{grown} KiB"


async def test_headers_are_bounded_and_loops_stopped(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.client()
        for content, reply in [
            (b"X-A: y\r\n" * 13_000 + b"\r\nbody\r\n", "552 5.3.4"),
            (b"Received: from a by b; now\r\n" * 51 + b"\r\nbody\r\n", "554 5.4.6"),
            (b"Received: by us (relay i-1); now\r\n" * 2 + b"\r\nbody\r\n", "554 5.4.6"),
            (b"Received: by us (relay i-1); now\r\n" + b"\r\nbody\r\n", "250 2.0.0"),
        ]:
            await talker.begin()
            assert (await talker.say(content + b".\r\n")).startswith(reply)


@pytest.mark.parametrize(
    "first",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\nEHLO x\r\nMAIL FROM:<app@example.com>\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"CONNECT a:25 HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00" + b"\x01" * 3000,
        b"\x16\x03\x01\x00\x05\x00",
    ],
)
async def test_other_protocols_are_turned_away(first: bytes, tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.connect()
        await talker.reply()
        reply = await talker.say(first)
        assert reply.startswith("421 4.7.0")
        assert await talker.rest() == b""


async def test_who_talks_before_the_greeting_is_sent_away(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        # In the loop's own thread, so that the connection and its octets wait before the listener sees either.
        early = socket.create_connection(("127.0.0.1", door.listener.port))
        early.sendall(b"EHLO x\r\n")
        talker = Talker(*await asyncio.open_connection(sock=early))
        assert (await talker.reply()).startswith("554 5.5.1 wait for the greeting")
        assert await talker.rest() == b""


async def test_nonsense_has_a_budget(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.client()
        await talker.send(b"XYZZY\r\n" * 50)
        replies = (await talker.rest()).split(b"\r\n")
        assert [reply[:9] for reply in replies] == [b"500 5.5.2"] * 9 + [b"421 4.7.0", b""]
        talker = await door.client()
        await talker.send(b"MAIL FROM:<nobody@example.com>\r\n" * 300)
        replies = (await talker.rest()).split(b"\r\n")
        assert [reply[:3] for reply in replies] == [b"550"] * 99 + [b"421", b""]


async def test_long_commands_are_refused_in_step(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.client()
        for length in (2047, 2049, 5000, 300_000):
            reply = await talker.say(b"NOOP " + b"x" * (length - 7) + b"\r\n")
            assert reply.startswith("250" if length <= 2048 else "500 5.5.2 command line too long"), length
        await talker.send(b"NOOP " + b"x" * 9000 + b"\r\nNOOP\r\n")
        assert (await talker.reply()).startswith("500 5.5.2")
        assert (await talker.reply()).startswith("250 2.0.0")


async def test_idle_and_slow_clients_are_sent_away(tmp_path: Path) -> None:
    async with open_door(tmp_path, idle_timeout_s=0.3, data_rate_window_s=0.3, data_min_rate_bytes_s=500) as door:
        idle, dripping, slow, done = [await door.client() for _ in range(4)]
        await slow.begin()
        await done.begin()
        assert (await done.say(b"\r\nx\r\n.\r\n")).startswith("250")

        async def drip(talker: Talker) -> str:
            answer = asyncio.ensure_future(talker.reply())
            while not answer.done():
                with contextlib.suppress(ConnectionError):
                    await talker.send(b"x")
                await asyncio.wait([answer], timeout=0.02)
            return await answer

        assert await asyncio.gather(idle.reply(), done.reply(), drip(dripping), drip(slow)) == [
            "421 4.4.2 idle for too long, closing",
            "421 4.4.2 idle for too long, closing",
            "421 4.4.2 idle for too long, closing",
            "421 4.4.2 the message arrives too slowly, closing",
        ]
        assert len(door.messages) == 1


async def test_a_client_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    async with open_door(tmp_path, idle_timeout_s=0.3, data_rate_window_s=0.3) as door:
        talker = await door.client()
        talker.writer.transport.pause_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(DEADLINE_S):
                while door.listener.connections:
                    talker.writer.write(b"HELP\r\n" * 10_000)
                    await asyncio.sleep(0)
                    if talker.writer.transport.get_write_buffer_size() > 1 << 20:
                        await asyncio.sleep(0.01)
        assert door.listener.connections == 0


async def test_a_thousand_idle_connections_harm_nobody(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        async with open_door(tmp_path, max_connections=2000, max_connections_per_client=2000) as door:
            sockets = [socket.create_connection(("127.0.0.1", door.listener.port)) for _ in range(900)]
            await _closed(door.listener, 900)
            started = asyncio.get_running_loop().time()
            await door.is_served()
            assert asyncio.get_running_loop().time() - started < 1.0
            for each in sockets:
                each.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_any_sequence_of_commands_is_answered_in_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[str] = []
    monkeypatch.setattr(get_logger(), "exception", lambda event, **keys: faults.append(event))
    words = [
        *(b"EHLO x\r\n", b"HELO x\r\n", MAIL, b"RCPT TO:<a@b>\r\n", b"DATA\r\n", b"RSET\r\n", b"NOOP\r\n", b"HELP\r\n"),
        *(b"\r\n.\r\n", b".\r\n", b"\n.\n", b".\r", b"..\r\n", b"Subject: s\r\n\r\n", b"\r\n", b"\n", b"\r"),
        *(b"STARTTLS\r\n", b"MAIL FROM:<\r\n", b"RCPT TO:\r\n", b"VRFY a\r\n", b"x" * 3000, b"\x00\xff\r\n"),
        b"MAIL FROM:<app@example.com> SIZE=99999999999\r\n",
    ]
    chance = random.Random(int(os.environ.get("FUZZ_SEED", "1")))
    async with open_door(tmp_path, max_message_bytes=5000) as door:
        for _ in range(int(os.environ.get("FUZZ_ROUNDS", "150"))):
            talker = await door.connect()
            await talker.reply()
            said = b"".join(chance.choices(words, k=chance.randint(1, 25)))
            if chance.random() < 0.2:
                said = bytes(octet ^ (chance.random() < 0.02) * chance.randrange(256) for octet in said)
            with contextlib.suppress(OSError):
                while said:
                    cut = chance.randint(1, len(said))
                    await talker.send(said[:cut])
                    said = said[cut:]
                    if chance.random() < 0.3:
                        await asyncio.sleep(0)
                talker.writer.write_eof()
                for line in (await talker.rest()).splitlines():
                    assert re.match(rb"(?:2|3|4|5)\d\d[ -]", line), line
            talker.close()
        await _closed(door.listener, 0)
        await door.is_served()
        for message in door.messages:
            assert not re.search(rb"\r(?!\n)|(?<!\r)\n|(?:\A|\r\n)\.(?!\.)", message.content.inline or b"")
    assert faults == []


async def _closed(listener: object, left: int) -> None:
    """Wait until `left` sessions are open, under a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while listener.connections != left:  # type: ignore[attr-defined]
            await asyncio.sleep(0.005)
