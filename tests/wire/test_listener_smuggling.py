"""No smuggling through the front door: one answer per DATA, no bare line end and no lone dot in what is stored."""

import asyncio
import re
from pathlib import Path

import pytest

from tests.wire.door import Talker, open_door

SMUGGLED = b"MAIL FROM:<app@example.com>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nSubject: evil\r\n\r\nevil\r\n.\r\n"
ENDS = [
    b"\n.\n",
    b"\n.\r",
    b"\n.\r\n",
    b"\r.\r",
    b"\r.\n",
    b"\r.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\n.\n\r\n",
    b"\n\r.\r\n",
    b"\r\r.\r\n",
    b"\n\n.\n\n",
    b"\r\r\n.\n",
    b"\n\r\n.\n",
    b"\r\n\n.\r\n",
    b"\r\n\r.\r\n",
    b"\r\n.\x00\r\n",
    b"\r\n.\x0b\r\n",
    b"\r\n\x00.\r\n",
    b"\r\n. \r\n",
    b"\r\n .\r\n",
    b"\r\n..\r\n",
    b"\r\n...\r\n",
    b"\r\n.\t\r\n",
    b"\x85.\x85",
    b"\r\n.\xe2\x80\xa8",
    b"\n..\n",
    b"\n.\n.\n.\r\n",
    b"\x0d.\x0d\x0a.\x0d",
]


def _segments(octets: bytes, way: str, end: bytes) -> list[bytes]:
    if way == "whole":
        return [octets]
    if way == "octets":
        return [octets[i : i + 1] for i in range(len(octets))]
    cut = octets.index(end) + len(end) - 1
    return [octets[:cut], octets[cut:]]


@pytest.mark.parametrize("way", ["whole", "cut", "octets"])
async def test_only_the_true_end_of_data_ends_data(way: str, tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        for end in ENDS:
            before = len(door.messages)
            talker = await door.client()
            await talker.begin()
            body = b"Subject: good\r\n\r\nfirst" + end + SMUGGLED
            for segment in _segments(body, way, end):
                talker.writer.write(segment)
                if way != "octets":
                    await talker.writer.drain()
                await asyncio.sleep(0)
            # Behind the true end of data the client's RSET: one 250 for the message, one for RSET, one goodbye.
            await talker.send(b"RSET\r\nQUIT\r\n")
            replies = (await talker.rest()).split(b"\r\n")
            assert [line[:9] for line in replies] == [b"250 2.0.0", b"250 2.0.0", b"221 2.0.0", b""], (end, replies)
            assert replies[0].startswith(b"250 2.0.0 Ok: queued as "), end
            assert len(door.messages) == before + 1, end
            message = door.messages[-1]
            assert [d.recipient for d in message.deliveries] == ["ann@example.org"]
            wire = message.content.inline
            assert wire is not None
            assert wire.endswith(b"\r\nevil\r\n")
            assert not re.search(rb"\r(?!\n)|(?<!\r)\n", wire), end
            assert not re.search(rb"(?:\A|\r\n)\.(?!\.)", wire), end
            talker.close()


async def test_commands_end_in_cr_lf_only(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        for line in (
            b"NOOP\n",
            b"NOOP\r\r\n",
            b"NO\rOP\r\n",
            b"NOOP\x00\r\n",
            b"\r\n",
            b"\n",
            b"NOOP \x0b\r\n",
            b"\x7f\r\n",
        ):
            talker = await door.client()
            assert (await talker.say(line)).startswith("500 5.5.2"), line
            assert (await talker.say(b"NOOP\r\n")) == "250 2.0.0 Ok"
            talker.close()


async def test_a_recipient_cannot_carry_a_command(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.client()
        await talker.say(b"MAIL FROM:<app@example.com>\r\n")
        for path in (
            b"<a@b\r>",
            b"<a@b\x00>",
            b"<a@b\rRCPT TO:<c@d>",
            b'<"a\rb"@c>',
            b"<a@b",
            b'<"a@b>',
            b"<>",
            b"<@c:a@b>",
        ):
            assert (await talker.say(b"RCPT TO:" + path + b"\r\n"))[0] == "5", path
        assert (await talker.say(b"DATA\r\n")).startswith("503 5.5.1")
        assert door.messages == []


async def _dot(talker: Talker) -> str:
    return await talker.say(b"\r\n.\r\n")


async def test_wire_form_is_what_was_said(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.client()
        await talker.begin()
        assert (
            await talker.say(b"From: a@b\r\nDate: d\r\nMessage-ID: <m>\r\n\r\n..dot\r\n.x\r\nend\r\n.\r\n")
        ).startswith("250")
        assert door.content() == b"From: a@b\r\nDate: d\r\nMessage-ID: <m>\r\n\r\n.dot\r\nx\r\nend\r\n"
        assert door.messages[-1].header_message_id == "<m>"
        await talker.begin()
        assert (await _dot(talker)).startswith("250")
        assert b"From: <app@example.com>\r\nDate: " in door.content()
