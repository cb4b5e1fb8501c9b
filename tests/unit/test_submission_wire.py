"""The wire between two turns of the loop: which of the replies that nobody has read yet are still believed."""

from __future__ import annotations

import asyncio
import socket

import pytest

from relay.submission.smtp.replies import DOT, MAIL, Step, WireFault
from relay.submission.smtp.wire import Wire


async def waiting_for(*steps: Step) -> tuple[Wire, socket.socket]:
    """A wire over a real socket, greeted, that was promised replies to `steps`."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(lambda: Wire(loop), sock=ours)
    theirs.sendall(b"220 hello\r\n")
    await wire.reply(5)
    wire.check()
    wire.put(b"", steps)
    return wire, theirs


async def test_a_broken_reply_takes_those_with_it_that_nobody_has_read() -> None:
    wire, theirs = await waiting_for(DOT, MAIL)
    wire.data_received(b"250 2.0.0 forged\r\n")
    wire.data_received(b"451 4.3.0 the truth\r\n250 and more\r\n")
    with pytest.raises(WireFault, match="protocol-error"):
        await wire.reply(5)
    theirs.close()


async def test_the_end_of_the_connection_does_not() -> None:
    wire, theirs = await waiting_for(DOT)
    wire.data_received(b"250 2.0.0 taken\r\n")
    wire.data_received(b"421 4.3.2 closing\r\n")
    assert (await wire.reply(5)).code == 250
    with pytest.raises(WireFault) as fault:
        wire.check()
    assert fault.value.reply is not None
    assert fault.value.reply.code == 421
    theirs.close()


async def test_nothing_may_be_sent_while_a_reply_is_unread() -> None:
    wire, theirs = await waiting_for(MAIL)
    wire.data_received(b"250 2.1.0 ok\r\n")
    with pytest.raises(WireFault, match="protocol-error"):
        wire.check()
    theirs.close()


async def test_a_command_holds_one_line() -> None:
    wire, theirs = await waiting_for()
    for line in (b"NOOP\r\nMAIL FROM:<>", b"NOOP\n", b"NOOP\x00", b"NOOP\x7f"):
        with pytest.raises(ValueError, match="control"):
            wire.command(line, MAIL)
    wire.abort()
    assert await asyncio.to_thread(theirs.recv, 100) == b""  # nothing of them went out
    theirs.close()
