"""Ids grow and read back; replies cannot contradict themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.content import stuff, unstuff
from relay.mail.ids import IdSource, format_id, parse_id
from relay.mail.reply import Reply, spoken


@given(st.integers(0, (1 << 63) - 1))
def test_every_id_reads_back_from_what_people_see(number: int) -> None:
    assert parse_id(format_id(number)) == number
    assert parse_id(format_id(number).upper()) == number


@pytest.mark.parametrize("text", ["", "xyz", "0" * 12, "0" * 14, "u" * 13, "z" * 13])
def test_what_is_no_id_reads_as_none(text: str) -> None:
    assert parse_id(text) is None


def test_ids_grow_even_when_the_clock_goes_back_and_after_a_restart() -> None:
    times = iter([1_800_000_000.0] * 5000 + [1_700_000_000.0] * 5000)
    source = IdSource(clock=lambda: next(times))
    made = [source.next() for _ in range(10_000)]
    assert made == sorted(set(made))
    again = IdSource(after=made[-1], clock=lambda: 1_704_067_200.0)
    assert again.next() > made[-1]


def test_two_nodes_never_make_the_same_id() -> None:
    one, two = (IdSource(node=node, clock=lambda: 1_800_000_000.0) for node in (1, 2))
    assert not {one.next() for _ in range(5000)} & {two.next() for _ in range(5000)}


def test_a_reply_whose_status_contradicts_its_code_cannot_exist() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Reply(550, "4.1.1", "no")
    with pytest.raises(ValueError, match="not in"):
        Reply(100, "", "no")


def test_replies_of_others_keep_their_text_and_lose_a_contradicting_status() -> None:
    reply = Reply.from_wire(550, ["5.1.1 no such", "5.1.1 user"])
    assert (reply.status, reply.text) == ("5.1.1", "no such\nuser")
    assert str(reply) == "550 5.1.1 no such user"
    assert Reply.from_wire(550, ["4.1.1 odd"]) == Reply(550, "", "4.1.1 odd")
    assert Reply.from_wire(250, [""]) == Reply(250, "", "")


def test_wire_form_has_the_status_on_every_line() -> None:
    assert Reply(250, "2.0.0", "one\ntwo").to_wire() == b"250-2.0.0 one\r\n250 2.0.0 two\r\n"


lines = st.lists(st.binary(max_size=8).map(lambda b: b.replace(b"\r", b"").replace(b"\n", b"")), max_size=8)


@given(lines, st.lists(st.integers(0, 7), max_size=8))
def test_stuffing_is_undone_exactly(parts: list[bytes], dots: list[int]) -> None:
    for place in dots:
        if place < len(parts):
            parts[place] = b"." + parts[place]
    text = b"".join(part + b"\r\n" for part in parts)
    wire = stuff(text)
    assert unstuff(wire) == text
    assert not any(line.startswith(b".") and not line.startswith(b"..") for line in wire.split(b"\r\n"))


@pytest.mark.parametrize(
    ("quoted", "theirs"),
    [
        ("550 5.1.1 no such user", True),
        ("535 no", True),
        ("421", True),
        ("550 5.1.1 What happened: not offered: never mind", True),
        ("554 5.6.3 not offered: 8-bit text, and mx.example has no 8BITMIME", False),
        ("552 5.3.4 Gmail API: not offered: 41943040 bytes, and it takes at most 36700160", False),
        ("connection refused", False),
        ("5500 no reply", False),
        ("", False),
    ],
)
def test_an_upstreams_words_are_not_taken_for_ours(quoted: str, theirs: bool) -> None:
    assert spoken(quoted) is theirs
