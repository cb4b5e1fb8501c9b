"""The reply reader: strict, bounded, and blind to how TCP cuts what arrives."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.submission.smtp.replies import MAX_LINE, MAX_REPLY, ReplyReader, WireFault, WireReply

texts = st.binary(max_size=60).map(lambda octets: octets.replace(b"\r", b" ").replace(b"\n", b" "))
replies = st.builds(WireReply, st.integers(200, 599), st.lists(texts, min_size=1, max_size=4))


def wire(reply: WireReply) -> bytes:
    *before, last = reply.lines
    return b"".join(b"%d-%s\r\n" % (reply.code, line) for line in before) + b"%d %s\r\n" % (reply.code, last)


@given(said=st.lists(replies, max_size=6), cuts=st.lists(st.integers(0, 400), max_size=12))
def test_cuts_change_nothing(said: list[WireReply], cuts: list[int]) -> None:
    octets = b"".join(map(wire, said))
    places = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    reader = ReplyReader()
    read = [reply for start, end in itertools.pairwise(places) for reply in reader.feed(octets[start:end])]
    assert read == said
    assert not reader.unfinished


@given(said=replies, missing=st.integers(1, 40))
def test_a_reply_without_its_end_is_none(said: WireReply, missing: int) -> None:
    octets = wire(said)
    reader = ReplyReader()
    assert reader.feed(octets[:-missing]) == []
    assert reader.unfinished or missing >= len(octets)


@given(junk=st.binary(max_size=300))
def test_whatever_comes_it_is_a_reply_or_a_fault_and_little_is_kept(junk: bytes) -> None:
    reader = ReplyReader()
    try:
        read = reader.feed(junk)
    except WireFault:
        return
    for reply in read:
        assert 200 <= reply.code <= 599
        assert b"%d" % reply.code in junk
    assert not read or junk.count(b"\r\n") >= len(read)


@pytest.mark.parametrize(
    "octets",
    [
        b"2500 ok\r\n",
        b"25 ok\r\n",
        b"25\r\n",
        b"250ok\r\n",
        b"250\tok\r\n",
        b" 250 ok\r\n",
        b"\r\n",
        b"150 wait\r\n",
        b"600 what\r\n",
        b"099 no\r\n",
        b"+50 ok\r\n",
        "２５０ ok\r\n".encode(),
        b"250 ok\n",
        b"250 o\rk\r\n",
        b"250 o\nk\r\n",
        b"250-a\r\n251 b\r\n",
        b"250-a\r\nb\r\n",
        b"250-a\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"250 " + b"x" * MAX_LINE + b"\r\n",
        b"250 " + b"x" * MAX_LINE,
        b"250-" + b"x" * 1000 + b"\r\n" + (b"250-" + b"x" * 1000 + b"\r\n") * (MAX_REPLY // 1000),
    ],
)
def test_what_is_no_reply(octets: bytes) -> None:
    with pytest.raises(WireFault):
        ReplyReader().feed(octets)


def test_what_is_one() -> None:
    octets = b"250\r\n250 \r\n250-\r\n250\r\n571 no\r\n250 " + b"x" * (MAX_LINE - 6) + b"\r\n"
    assert [(reply.code, reply.lines) for reply in ReplyReader().feed(octets)] == [
        (250, [b""]),
        (250, [b""]),
        (250, [b"", b""]),
        (571, [b"no"]),
        (250, [b"x" * (MAX_LINE - 6)]),
    ]
