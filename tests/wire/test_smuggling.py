"""No smuggling through the whole relay: one message reaches the provider, its line ends true, its dots stuffed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.mail.tolerance import SWITCHES
from tests.daemon import RelayDaemon
from tests.fuzz.front import add_client
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import lay_store
from tests.system.conftest import APP, PASSWORD, QUICK, at
from tests.wire.door import DEADLINE_S, Talker, open_door

# What some server has taken, or might take, for an end of data; none of them is one (RFC 5321 4.1.1.4).
# `test_listener_smuggling` knows the shorter ones besides these.
ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r\n.\n",
    b"\n.\r",
    b"\r.\n",
    b"\r.\r\n",
    b"\r\r\n.\r\r\n",
    b"\n\r.\n\r",
    b"\r\n.\r\x00\n",
    b"\r\n\x00.\x00\r\n",
    b"\r\x00\n.\r\n\x00",
    b"\r\n\x00.\r\n",
    b"\r\n.\x00\r\n",
    b"\r\n.\x08\r\n",
    b"\r\n\x08.\r\n",
    b"\r\n\x7f.\r\n",
    b"\r\n.\x1a\r\n",
    b"\r\n\x1b[A.\r\n",
    b"\x0b.\x0b",
    b"\x0c.\x0c",
    b"\x1c.\x1c",
    b"\x1e.\x1e",
    b"\x85.\x85",
    b"\xc2\x85.\xc2\x85",
    b"\xe2\x80\xa8.\xe2\x80\xa8",
    b"\xe2\x80\xa9.\xe2\x80\xa9",
    b"\r\n\xef\xbb\xbf.\r\n",
    b"\r\n\xe2\x80\x8b.\r\n",
    b"\r\n\xff.\r\n",
    b"\r\n\xff\xf4.\r\n",
    b"\r\n.\xff\r\n",
    b"\x8d\x8a.\x8d\x8a",
    b"\r\n\xef\xbc\x8e\r\n",
    b"\r\n\xe3\x80\x82\r\n",
    b"\r\n.;\r\n",
    b"\r\n. .\r\n",
    b"\r\n..\n.\r.\r\n",
    b"\r\n.\r.\r\n",
    b"\r\n.\n.\r\n",
    b"\\r\\n.\\r\\n",
]
SMUGGLED = b"MAIL FROM:<%b>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nSubject: evil\r\n\r\nevil\r\n" % APP.encode()
TRUE_END = b".\r\n"
UNSOUND = re.compile(rb"\r(?!\n)|(?<!\r)\n|(?:\A|\r\n)\.(?!\.)")  # a bare CR, a bare LF, a dot not stuffed


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(accounts={APP: PASSWORD}) as scripted:
        yield scripted


@pytest.fixture
async def daemon(tmp_path: Path, upstream: ScriptedUpstream) -> AsyncIterator[RelayDaemon]:
    authority = tmp_path / "ca.pem"
    upstream.authority.cert_pem.write_to_path(str(authority))
    async with RelayDaemon(lay_store(tmp_path / "data"), QUICK) as running:
        await running.add_account(APP, PASSWORD, *at(upstream, authority))
        yield running


@pytest.mark.parametrize("way", ["whole", "cut", "octets"])
async def test_whatever_ends_in_the_content_one_message_reaches_the_provider(
    way: str, daemon: RelayDaemon, upstream: ScriptedUpstream
) -> None:
    talker = await _client(daemon)
    for number, end in enumerate(ENDS):
        await talker.begin(APP)
        content = b"X-Case: %d\r\nSubject: good\r\n\r\nfirst%b%b" % (number, end, SMUGGLED) + TRUE_END
        await _say_in_segments(talker, content, way, end)
        assert (await talker.reply()).startswith("250 2.0.0 Ok: queued as "), end
        assert (await talker.say(b"NOOP still in step\r\n")) == "250 2.0.0 Ok", end
    assert (await talker.say(b"QUIT\r\n")).startswith("221")
    assert await talker.rest() == b""
    await _arrived_once_and_sound(upstream, len(ENDS))


async def test_a_sequence_across_the_edge_of_a_chunk_is_no_end_either(
    daemon: RelayDaemon, upstream: ScriptedUpstream
) -> None:
    """Large contents come and go in chunks: the sequence lies across every edge that a chunk may have."""
    talker = await _client(daemon)
    edges = [
        (size, end, before)
        for size in (1 << 16, 1 << 17, 192 << 10, 1 << 18)
        for end, before in ((b"\n.\n", 1), (b"\r\n.\r", 3), (b"\r.\r\n", 2), (b"\r\n.\n", 2))
    ]
    for number, (size, end, before) in enumerate(edges):
        await talker.begin(APP)
        head = b"X-Case: %d\r\nSubject: long\r\n\r\n" % number
        lines = (b"x" * 76 + b"\r\n") * ((size - len(head)) // 78)
        padding = b"y" * (size - before - len(head) - len(lines))
        content = head + lines + padding + end + SMUGGLED + TRUE_END
        assert content.index(end + SMUGGLED) == size - before
        await _say_in_segments(talker, content, "chunks", end)
        assert (await talker.reply()).startswith("250 2.0.0 Ok: queued as "), (size, end)
    talker.close()
    await _arrived_once_and_sound(upstream, len(edges))


async def test_nor_is_there_an_end_in_it_for_a_client_whose_every_fault_is_put_up_with(tmp_path: Path) -> None:
    """Its long lines are re-encoded, its header is repaired: what is stored is sound all the same."""
    async with open_door(tmp_path, max_connections_per_client=200) as door:
        await add_client(door, networks=["127.0.0.0/8"], tolerate=tuple(SWITCHES), default_domain="example.org")
        talker = await door.client()
        for end in ENDS:
            await talker.begin(APP)
            content = b"Subject: \xfc%b\r\n\r\n" % (b"x" * 2000) + b".y" * 2000 + end + SMUGGLED + TRUE_END
            assert (await talker.say(content)).startswith("250 2.0.0 Ok: queued as "), end
            assert (await talker.say(b"NOOP\r\n")) == "250 2.0.0 Ok", end
            wire = door.messages[-1].content.inline
            assert wire is not None
            assert not UNSOUND.search(wire), end
            assert wire.endswith(b"\r\nSubject: evil\r\n\r\nevil\r\n"), end
        assert len(door.messages) == len(ENDS)
        talker.close()


@pytest.mark.parametrize("way", ["whole", "cut", "octets"])
async def test_where_bare_line_ends_are_refused_the_whole_content_is_with_one_reply(way: str, tmp_path: Path) -> None:
    async with open_door(tmp_path, max_connections_per_client=200) as door:
        await add_client(door, networks=["127.0.0.0/8"], tolerate=["no-bare-lf", "no-bare-cr"])
        talker = await door.client()
        stored = 0
        for end in ENDS:
            await talker.begin(APP)
            await _say_in_segments(talker, b"Subject: s\r\n\r\nfirst" + end + SMUGGLED + TRUE_END, way, end)
            bare = re.search(rb"\r(?!\n)|(?<!\r)\n", end + b"M") is not None
            assert (await talker.reply())[:3] == ("554" if bare else "250"), end
            stored += not bare
            assert (await talker.say(b"NOOP\r\n")) == "250 2.0.0 Ok", end
            assert len(door.messages) == stored, end
        talker.close()


async def _client(daemon: RelayDaemon) -> Talker:
    talker = Talker(*await asyncio.open_connection("127.0.0.1", daemon.port))
    assert (await talker.reply()).startswith("220 ")
    assert (await talker.say(b"EHLO app.example\r\n")).startswith("250")
    return talker


async def _say_in_segments(talker: Talker, content: bytes, way: str, end: bytes) -> None:
    """whole: one write; octets: each in a write of its own; cut: inside the sequence; chunks: every 16 KiB."""
    match way:
        case "whole":
            segments = [content]
        case "octets":
            segments = [content[i : i + 1] for i in range(len(content))]
        case "chunks":
            segments = [content[i : i + 16384] for i in range(0, len(content), 16384)]
        case _:
            cut = content.index(end + SMUGGLED) + len(end) - 1
            segments = [content[:cut], content[cut:]]
    for segment in segments:
        talker.writer.write(segment)
        await talker.writer.drain()
        await asyncio.sleep(0)


async def _arrived_once_and_sound(upstream: ScriptedUpstream, count: int) -> None:
    await upstream.until(lambda: len(upstream.messages) >= count, DEADLINE_S)
    assert upstream.contents == len(upstream.messages) == count
    cases = []
    for message in upstream.messages:
        wire = message.content
        [case] = re.findall(rb"^X-Case: (\d+)\r$", wire, re.M)
        cases.append(int(case))
        assert message.recipients == ("ann@example.org",), case
        assert not UNSOUND.search(wire), case
        assert wire.endswith(b"\r\nSubject: evil\r\n\r\nevil\r\n"), case
    assert sorted(cases) == list(range(count))
    said = [line for line in upstream.lines() if line.upper().startswith(("MAIL", "RCPT"))]
    assert len(said) == 2 * count
    assert not any("victim" in line for line in said)
