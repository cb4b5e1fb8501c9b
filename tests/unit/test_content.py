"""Dot-stuffing undone on chunks cut anywhere (RFC 5321 4.5.2)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relay.mail.content import Unstuffer, stuff, unstuff

TEXT = st.lists(st.sampled_from([b".", b"..", b"x", b"\r\n", b"\r\n.", b"\r\n..", b" "]), max_size=20).map(
    lambda parts: b"".join(parts) + b"\r\n"
)


@given(text=TEXT, size=st.integers(1, 7))
def test_packet_boundaries_do_not_matter(text: bytes, size: int) -> None:
    wire = stuff(text)
    plain = Unstuffer()
    out = b"".join(plain.feed(wire[at : at + size]) for at in range(0, len(wire), size)) + plain.finish()
    assert out == unstuff(wire) == text


def test_nothing_stays_nothing() -> None:
    assert Unstuffer().finish() == b""
