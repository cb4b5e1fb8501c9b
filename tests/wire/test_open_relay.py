"""Not an open relay: whatever a stranger says, in whatever order, nothing is kept; being tolerant changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
from ipaddress import ip_network
from pathlib import Path

import pytest

from relay.mail.tolerance import SWITCHES
from tests.fuzz.front import add_client
from tests.wire.door import DEADLINE_S, OpenDoor, Talker, open_door

VICTIM = b"RCPT TO:<victim@example.net>"
OURS = b"MAIL FROM:<app@example.com>"

# In place of a registered reverse-path.
SENDERS = [
    b"<stranger@example.net>",
    b"<app@example.com.example.net>",
    b"<app@example.com..>",
    b"<app@.example.com>",
    b"<app@sub.example.com>",
    b"<xapp@example.com>",
    b"<app@example.com@example.net>",
    b"<app@example.net@example.com>",
    b"<@example.com:stranger@example.net>",
    b"<@example.com,@relay.example:stranger@example.net>",
    b"<app%example.com@example.net>",
    b"<app%40example.com@example.net>",
    b"<app=40example.com@example.net>",
    b"<example.com!app@example.net>",
    b'<"app@example.com"@example.net>',
    b'<"app@example.com> <stranger"@example.net>',
    b'<"app@example.com">',
    b'<"app"@"example.com">',
    b"<app@[127.0.0.1]>",
    b"<app@[IPv6:::1]>",
    b"<app@[example.com]>",
    b"<postmaster>",
    b"<>",
    b"<@>",
    b"<app@>",
    b"< >",
    b"<app(a comment)@example.com>",
    b"<(a comment)app@example.com>",
    b'"App" <app@example.com>',
    b"App <app@example.com>",
    b"<app@example.com>,<stranger@example.net>",
    b"<app@example.com><stranger@example.net>",
    b"<<app@example.com>>",
    b"<app@example.com",
    b"app@example.com>",
    b"<app@example.com\x00>",
    b"<app@example.com\t>",
    b"<app@exam\x7fple.com>",
    b"<app@example.com%0d%0aRCPT TO:<victim@example.net>",
    b"<+AGEAcABw-@example.com>",  # UTF-7
    b"<app+AEA-example.com@example.net>",
    b"<=?utf-8?q?app?=@example.com>",
    b"<app@xn--exmple-cua.com>",
    "<аpp@example.com> SMTPUTF8".encode(),  # a Cyrillic a
    "<aрp@example.com> SMTPUTF8".encode(),  # a Cyrillic er
    "<app@ехample.com> SMTPUTF8".encode(),  # a Cyrillic e and x
    b"<app@exarnple.com>",  # r and n for an m
    b"<app@examp1e.com>",
    "<ápp@example.com> SMTPUTF8".encode(),
    "<a\u0301pp@example.com> SMTPUTF8".encode(),
    "<a\u200bpp@example.com> SMTPUTF8".encode(),  # a space of no width
    "<ａpp@example.com> SMTPUTF8".encode(),  # a wide a
    "<app@example。net> SMTPUTF8".encode(),  # an ideographic full stop
    "<app\u202emoc.elpmaxe@example.net> SMTPUTF8".encode(),  # written from right to left
    b"<app@example.com\xff>",
    b"<\xc0\xa1pp@example.com>",  # overlong UTF-8
    b"<stranger@example.net> AUTH=app@example.com",
    b"<stranger@example.net> AUTH=<>",
    b"<> AUTH=app@example.com",
    b"<stranger@example.net> SIZE=1 SIZE=app@example.com",
    b"<stranger@example.net> X-FROM=<app@example.com>",
    b"<stranger@example.net> ENVID=app@example.com",
]

# Of a registered sender: addresses that ask us, or somebody behind us, to send on elsewhere.
RECIPIENTS = [
    b"<victim%example.net@relay.example>",
    b"<victim%example.net@[127.0.0.1]>",
    b"<victim%example.net>",
    b"<victim%example.net%example.org@localhost>",
    b"<example.net!victim@relay.example>",
    b"<example.net!victim>",
    b"<example.net!relay.example!victim>",
    b"<@relay.example:victim@example.net>",
    b"<@relay.example,@example.org:victim@example.net>",
    b"<@relay.example:victim>",
    b'<"victim@example.net"@relay.example>',
    b'<"victim@example.net">',
    b'<"victim%example.net"@relay.example>',
    b'<"example.net!victim">',
    b'<"@relay.example:victim@example.net"@relay.example>',
    b"<victim@example.net@relay.example>",
    b"<victim@relay.example@example.net>",
    b"<victim@[127.0.0.1]>",
    b"<victim@[IPv6:::ffff:127.0.0.1]>",
    b"<victim@[tag:content]>",
    b"<>",
    b"<@>",
    b"<victim@>",
    b"<@example.net>",
    b"<victim@example.net",
    b"<victim@example.net>>",
    b"<victim@example.net> <other@example.net>",
    b"<victim@example.net>,<other@example.net>",
    b"<victim@example.net,other@example.net>",
    b"<victim@example.net;other@example.net>",
    b"<victim@example..net>",
    b"<victim@-example.net>",
    b"<..victim%example.net@relay.example>",
    b"<victim(a comment)@example.net>",
    b"<victim@example.net\x00@example.com>",
    b"<victim@example.net> ORCPT=rfc822;other@example.net\x00",
    "<víctim@example.net>".encode(),
    "<victim＠example.net> ".encode(),  # a wide at-sign
    "<victim％example.net@relay.example>".encode(),  # a wide per cent, without SMTPUTF8
]

# Whole dialogues; each ends in the attempt to hand in a message.
DIALOGUES: dict[str, list[bytes]] = {
    "a stranger, pipelined": [b"MAIL FROM:<stranger@example.net>\r\n" + VICTIM],
    "no MAIL": [VICTIM],
    "no RCPT": [OURS],
    "MAIL twice": [b"MAIL FROM:<stranger@example.net>", b"RSET", VICTIM],
    "MAIL twice, pipelined": [OURS + b"\r\nMAIL FROM:<stranger@example.net>\r\nRSET\r\n" + VICTIM],
    "a transaction of before RSET": [OURS, b"RCPT TO:<ann@example.org>", b"RSET", VICTIM],
    "a stranger behind RSET": [OURS, b"RSET", b"MAIL FROM:<stranger@example.net>", VICTIM],
    "a transaction of before EHLO": [OURS, b"EHLO other.example", VICTIM],
    "a transaction of before HELO": [OURS, VICTIM, b"HELO other.example"],
    "HELO as the sender": [b"HELO app@example.com", b"MAIL FROM:<stranger@example.net>", VICTIM],
    "EHLO as ourselves": [b"EHLO relay.example", b"MAIL FROM:<stranger@example.net>", VICTIM],
    "EHLO as localhost": [b"EHLO [127.0.0.1]", b"MAIL FROM:<stranger@localhost>", VICTIM],
    "all recipients refused": [OURS, b"RCPT TO:<a@b@c>", b"RCPT TO:<a%b@c>"],
    "SEND": [b"SEND FROM:<app@example.com>", VICTIM],
    "SOML": [b"SOML FROM:<app@example.com>", VICTIM],
    "SAML": [b"SAML FROM:<app@example.com>", VICTIM],
    "VRFY": [b"VRFY app@example.com", b"MAIL FROM:<stranger@example.net>", VICTIM],
    "TURN": [b"TURN", b"MAIL FROM:<stranger@example.net>", VICTIM],
    "ETRN": [b"ETRN example.com", VICTIM],
    "XCLIENT": [b"XCLIENT ADDR=127.0.0.1 LOGIN=app@example.com", b"MAIL FROM:<stranger@example.net>", VICTIM],
    "XFORWARD": [b"XFORWARD ADDR=127.0.0.1 NAME=localhost", b"MAIL FROM:<stranger@example.net>", VICTIM],
    "PROXY": [b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2", b"MAIL FROM:<stranger@example.net>", VICTIM],
    "a login nobody has": [b"AUTH PLAIN AGFwcABhcHA=", b"MAIL FROM:<stranger@example.net>", VICTIM],
    "a null login": [b"AUTH PLAIN AAAA", b"AUTH PLAIN =", b"MAIL FROM:<stranger@example.net>", VICTIM],
    "an anonymous login": [b"AUTH ANONYMOUS dHJhY2U=", b"MAIL FROM:<stranger@example.net>", VICTIM],
    "STARTTLS with commands behind it": [b"STARTTLS\r\nMAIL FROM:<stranger@example.net>\r\n" + VICTIM],
    "recipients first": [VICTIM, OURS],
    "bare line feeds": [OURS + b"\nRCPT TO:<victim@example.net>\nDATA\n"],
    "bare carriage returns": [OURS + b"\rRCPT TO:<victim@example.net>\rDATA\r"],
    "BDAT": [b"MAIL FROM:<stranger@example.net>", VICTIM, b"BDAT 5 LAST\r\nhello"],
}
for _number, _sender in enumerate(SENDERS):
    DIALOGUES[f"sender {_number} {_sender!r}"] = [b"MAIL FROM:" + _sender, VICTIM]
for _number, _recipient in enumerate(RECIPIENTS):
    DIALOGUES[f"recipient {_number} {_recipient!r}"] = [OURS, b"RCPT TO:" + _recipient]

NOBODY = ["192.0.2.0/24"]
HERE = ["127.0.0.0/8"]


async def test_no_dialogue_gets_a_strangers_mail_in(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_connections_per_client=200) as door:
        await _none_gets_in(door)


async def test_nor_does_one_from_a_client_whose_every_fault_is_put_up_with(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_connections_per_client=200) as door:
        await add_client(
            door, networks=HERE, tolerate=tuple(SWITCHES), senders=["app@example.com"], default_domain="corp.example"
        )
        await _none_gets_in(door)


async def test_nor_does_one_from_a_client_that_is_told_any_login_will_do(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_connections_per_client=200) as door:
        await add_client(door, networks=HERE, auth="accept-any")
        await _none_gets_in(door)


async def test_who_is_in_no_clients_networks_may_send_as_nobody(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_connections_per_client=200) as door:
        await add_client(door, networks=NOBODY)
        for sender in (b"<app@example.com>", b"<two@example.com>", b"<APP@Example.Com>", b"<app+tag@example.com>"):
            assert not await _handed_in(door, [b"MAIL FROM:" + sender, VICTIM]), sender
        await _none_gets_in(door)


async def test_who_is_outside_the_allowed_networks_hears_no_greeting(tmp_path: Path) -> None:
    async with open_door(tmp_path, allowed_networks=(ip_network("192.0.2.0/24"),)) as door:
        talker = await door.connect()
        assert (await talker.reply()).startswith("554 5.7.1 ")
        with contextlib.suppress(ConnectionError):
            await talker.send(b"EHLO x\r\n" + OURS + b"\r\n" + VICTIM + b"\r\nDATA\r\nx\r\n.\r\n")
            assert await talker.rest() == b""
        assert door.messages == []


async def test_a_transaction_serves_for_one_message(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        talker = await door.client()
        await talker.begin()
        assert (await talker.say(b"Subject: s\r\n\r\nx\r\n.\r\n")).startswith("250 2.0.0 Ok: queued as ")
        for command in (b"DATA\r\n", b"RCPT TO:<victim@example.net>\r\n", b"DATA\r\n"):
            assert (await talker.say(command)).startswith("503 5.5.1")
        assert len(door.messages) == 1
        talker.close()


@pytest.mark.parametrize(
    "header",
    [
        b"From: stranger@example.net",
        b"From: app@example.com, stranger@example.net",
        b"From: app@example.com\r\nFrom: stranger@example.net",
        b"From: stranger@example.net\r\nFrom: app@example.com",
        b'From: "app@example.com" <stranger@example.net>',
        b"From: app@example.com <stranger@example.net>",
        b"From: =?utf-8?q?app=40example=2Ecom?= <stranger@example.net>",
        b"From: (app@example.com) stranger@example.net",
        b"From: <@example.com:stranger@example.net>",
        b"From: stranger@example.net (app@example.com)",
        b"From: Friends: app@example.com, stranger@example.net;",
        b"From: stranger@example.net\r\n <app@example.com>",
        b"From:\r\n stranger@example.net",
        b"from : stranger@example.net",
        b"From: app@example.com\r\nSender: stranger@example.net",
        "From: <аpp@example.com>".encode(),
        b"From: <app@example.com\x00>",
        b"From: <app@example.com> <stranger@example.net>",
    ],
)
async def test_the_header_too_may_name_only_senders_the_client_has(header: bytes, tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await add_client(door, networks=HERE, senders=["app@example.com"])
        talker = await door.client()
        await talker.begin()
        reply = await talker.say(header + b"\r\nSubject: s\r\n\r\nx\r\n.\r\n")
        assert reply.startswith("55"), reply
        assert (await talker.say(b"NOOP\r\n")).startswith("250")
        assert door.messages == []
        talker.close()


@pytest.mark.parametrize(
    "header",
    [
        b"Subject: no author",
        b"From: stranger@example.net",
        b"From: app@example.com, stranger@example.net",
        b"From: app@example.com\r\nFrom: stranger@example.net",
        b'From: "app@example.com" <stranger@example.net>',
        b"From: (app@example.com) stranger@example.net",
        b"From: =?utf-8?q?app=40example=2Ecom?=",
        b"From: <@example.com:stranger@example.net>",
        b"From: app@example.com@example.net",
        b"From: undisclosed:;",
        b"From: <>",
        b"From:",
        b"Reply-To: app@example.com",
        b"Sender: stranger@example.net\r\nFrom: app@example.com",
        b"From app@example.com Thu Jan  1 00:00:00 1970",
        b"X-From: app@example.com",
    ],
)
async def test_where_the_header_decides_it_must_name_a_registered_sender(header: bytes, tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        await add_client(door, networks=HERE, identity="header")
        talker = await door.client()
        await talker.begin("root@localhost")
        reply = await talker.say(header + b"\r\nSubject: s\r\n\r\nFrom: app@example.com\r\n.\r\n")
        assert reply.startswith("55"), reply
        assert door.messages == []
        talker.close()


async def _none_gets_in(door: OpenDoor) -> None:
    relayed = [name for name, commands in DIALOGUES.items() if await _handed_in(door, commands)]
    assert relayed == []
    assert door.messages == []


async def _handed_in(door: OpenDoor, commands: list[bytes]) -> bool:
    """Say the commands one by one, then hand in a message whatever the replies were."""
    talker = await door.client()
    heard = []
    try:
        for command in commands:
            heard.append(await talker.say(command + b"\r\n"))
        heard.append(await talker.say(b"DATA\r\n"))
        await talker.send(b"Subject: spam\r\n\r\nspam\r\n.\r\nQUIT\r\n")
        heard.append((await _rest(talker)).decode())
    except ConnectionError:
        pass
    finally:
        talker.close()
    return any("queued as" in reply for reply in heard)


async def _rest(talker: Talker) -> bytes:
    heard = bytearray()
    async with asyncio.timeout(DEADLINE_S):
        while chunk := await talker.reader.read(65536):
            heard += chunk
    return bytes(heard)
