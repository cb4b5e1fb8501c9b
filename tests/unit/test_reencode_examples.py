"""Re-encoding by example: what becomes of which part, what is not touched, and what hostile shapes cost."""

from __future__ import annotations

import time
from email import message_from_bytes
from email.message import Message

import pytest

from relay.mail.content import stuff, unstuff
from relay.mail.header import MAX_HEADER
from relay.mail.reencode import MAX_DEPTH, MAX_PARTS, Reencoder
from tests.unit.test_reencode import HEAD, check_wire, run


def reencoded(raw: bytes, *, charset: str = "") -> bytes:
    """Of a message and to a message without stuffing; cut every 7 octets as well when it is short."""
    wire = stuff(raw)
    out, reencoder = run(wire, [], charset=charset)
    if len(wire) < 20_000:
        assert run(wire, list(range(0, len(wire), 7)), charset=charset)[0] == out
    check_wire(out)
    assert reencoder.eight_bit == (not out.isascii())
    return unstuff(out)


@pytest.mark.parametrize("line", [b"--b0", b"--b0--", b"--b0 ", b".", b"..", b"---------b0"])
def test_a_soft_break_makes_neither_a_delimiter_nor_an_end_of_data(line: bytes) -> None:
    head = HEAD + b"Content-Type: multipart/mixed; boundary=b0\r\n\r\n"
    for before in range(55, 90):
        body = b"x" * before + line + b"\r\nsecond\r\n" + b"\xe4" * (before // 3) + line
        raw = head + b"--b0\r\n\r\n" + body + b"\r\n--b0\r\n\r\nother\r\n--b0--\r\n"
        parts = message_from_bytes(reencoded(raw)).get_payload()
        assert isinstance(parts, list)
        found = [part.get_payload(decode=True) for part in parts if isinstance(part, Message)]
        assert found == [body, b"other"], before


def test_a_long_html_line_becomes_quoted_printable_with_its_fields() -> None:
    body = b"<td>caf\xc3\xa9</td>" * 1000 + b"\r\n"
    out = reencoded(b"From: a@example.com\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body)
    assert out.startswith(
        b"From: a@example.com\r\nContent-Type: text/html; charset=utf-8\r\nMIME-Version: 1.0\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n<td>caf=C3=A9</td>"
    )
    assert message_from_bytes(out).get_payload(decode=True) == body


def test_the_encoding_field_is_replaced_where_it_stands() -> None:
    out = reencoded(
        HEAD + b"content-transfer-encoding :\r\n 8bit\r\nContent-Type: application/pdf\r\nX: y\r\n\r\nabc\r\n"
    )
    assert (
        out == HEAD + b"Content-Transfer-Encoding: base64\r\nContent-Type: application/pdf\r\nX: y\r\n\r\nYWJjDQo=\r\n"
    )


@pytest.mark.parametrize(
    ("body", "charset", "named"),
    [
        (b"plain\r\n", "", b"us-ascii"),
        (b"plain\r\n", "iso-8859-15", b"us-ascii"),
        ("Größe\r\n".encode(), "", b"utf-8"),
        (b"Gr\xf6\xdfe\r\n", "", b"windows-1252"),
        (b"Gr\xf6\xdfe\r\n", "iso-8859-15", b"iso-8859-15"),
        ("ö".encode() * 20_000 + b"\r\n", "", b"utf-8"),
        (b"x" + "ö".encode() * 20_000 + b"\r\n", "", b"utf-8"),  # the sample ends within a character
        (b"x" * 20_000 + b"\r\n", "", b"utf-8"),
        (b"x" * 20_000 + b"\xf6\r\n", "iso-8859-15", b"iso-8859-15"),
        (b"\r\n", "", b"us-ascii"),
    ],
)
def test_text_without_mime_fields_gets_them(body: bytes, charset: str, named: bytes) -> None:
    out = reencoded(b"Subject: x\r\n\r\n" + body, charset=charset)
    fields = b"MIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\nContent-Type: text/plain; charset="
    assert out.startswith(b"Subject: x\r\n" + fields + named + b"\r\n\r\n")
    assert message_from_bytes(out).get_payload(decode=True) == body


def test_a_charset_that_is_no_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="charset"):
        Reencoder(charset="utf-8\r\nBcc: x")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (b"DKIM-Signature: v=1; a=rsa-sha256\r\nContent-Type: text/plain\r\n", "dkim-signature"),
        (b"ARC-Seal: i=1\r\n", "arc-seal"),
        (b"Content-Type: multipart/signed; boundary=b0\r\n", "multipart/signed"),
        (b"Content-Type: multipart/encrypted; boundary=b0\r\n", "multipart/encrypted"),
        (b"Content-Type: application/pkcs7-mime; smime-type=enveloped-data\r\n", "application/pkcs7-mime"),
        (b"Content-Type: message/rfc822\r\n", "message/rfc822"),
        (b"Content-Type: text/plain\r\nContent-Transfer-Encoding: BASE64\r\n", "base64"),
        (b"Content-Type: text/plain\r\nContent-Type: text/html\r\n", "content-type given twice"),
        (
            b"Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: 8bit\r\n",
            "content-transfer-encoding given twice",
        ),
        (b"Content-Transfer-Encoding: 8 bit\r\n", "unreadable content-transfer-encoding"),
        (b"Content-Type: multipart\r\n", "unreadable content-type"),
        (b"Content-Type: multipart/mixed\r\n", "unusable boundary"),
        (b"Content-Type: multipart/mixed; boundary=a; boundary=b\r\n", "unusable boundary"),
        (b"Content-Type: multipart/mixed; boundary*0=a; boundary*1=b\r\n", "unusable boundary"),
        (b'Content-Type: multipart/mixed; boundary="a "\r\n', "unusable boundary"),
        (b"Content-Type: multipart/mixed; boundary=\xe4\r\n", "unusable boundary"),
        (b"Content-Type: text/plain;\r\n" + b" a=b;\r\n" * 900, "content-type too long"),
        (b"no field\r\n", "unreadable header"),
        (b"X: y\r\n" * (MAX_HEADER // 6 + 1), "header too large"),
    ],
)
def test_a_message_that_may_not_be_touched_says_why_and_stays(fields: bytes, why: str) -> None:
    raw = HEAD + fields + b"\r\n--b0\r\n\r\n" + b"\xe4" * 2000 + b"\r\n.\r\n--b0--\r\n"
    wire = stuff(raw)
    for cuts in ([], list(range(0, len(wire), 1000))):
        out, reencoder = run(wire, cuts)
        assert (out, reencoder.untouchable) == (wire, why)


@pytest.mark.parametrize("given_type", [b"html", b"text", b"", b'text/plain; charset="', b"TEXT/plain; =;;"])
def test_a_type_that_is_none_is_taken_for_text(given_type: bytes) -> None:
    out = reencoded(HEAD + b"Content-Type: " + given_type + b"\r\n\r\n" + b"x" * 2000 + b"\r\n")
    assert b"Content-Transfer-Encoding: quoted-printable\r\n" in out


def test_a_part_ends_at_any_delimiter_around_it() -> None:
    raw = (
        HEAD + b"Content-Type: multipart/mixed; boundary=out\r\n\r\n--out\r\n"
        b"Content-Type: multipart/alternative; boundary=in\r\n\r\n--in\r\n\r\nnever closed\r\n--out\r\n"
        b"X: no body\r\n--out\r\n\r\n--out\r\nContent-Type: image/png\r\n\r\n\r\n--out\r\n"
        b"Content-Type: image/png\r\n\r\nunfinished\r\n"
    )
    out = reencoded(raw)
    assert out.count(b"Content-Transfer-Encoding") == 4  # not where there is no body
    before, after = message_from_bytes(raw), message_from_bytes(out)
    assert [part.get_payload(decode=True) for part in before.walk()] == [
        part.get_payload(decode=True) for part in after.walk()
    ]


@pytest.mark.parametrize("inner", [b"b0", b"b0--"])
def test_where_a_boundary_is_used_twice_the_rest_stays(inner: bytes) -> None:
    rest = (
        b'Content-Type: multipart/signed; boundary="%b"\r\n\r\n--b0\r\nContent-Type: text/plain\r\n\r\n' % inner
        + b"\xe4" * 2000
        + b"\r\n--b0--\r\n"
    )
    out = reencoded(HEAD + b"Content-Type: multipart/mixed; boundary=b0\r\n\r\n--b0\r\n\r\nx\r\n--b0\r\n" + rest)
    assert out.endswith(b"quoted-printable\r\n\r\nx\r\n--b0\r\n" + rest)


def test_what_is_nested_too_deep_stays() -> None:
    def nested(depth: int) -> bytes:
        if depth == 0:
            return b"\r\nleaf"
        inner = nested(depth - 1)
        return b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n%b\r\n--b%d--" % (
            depth,
            depth,
            inner,
            depth,
        )

    assert b"quoted-printable" in reencoded(HEAD + nested(MAX_DEPTH) + b"\r\n")
    too_deep = HEAD + nested(MAX_DEPTH + 1) + b"\r\n"
    assert reencoded(too_deep) == too_deep


def test_hostile_shapes_cost_bounded_time_and_memory() -> None:
    mixed = HEAD + b"Content-Type: multipart/mixed; boundary=b0\r\n\r\n--b0\r\n"
    inner = b"Content-Type: multipart/mixed; boundary=x%d\r\n\r\n--b0\r\n"
    shapes = [
        mixed + b"\r\nx\r\n--b0\r\n" * 50_000,
        mixed + b"\r\n" + b"--\r\n" * 200_000,
        mixed + b"\r\n" + b"--b" * 200_000 + b"\r\n",
        mixed + b"\r\n--b0" + b" " * 500_000 + b"\r\n",
        mixed + b"".join(inner % number for number in range(5_000)),
        mixed + (b"a" * 100_000 + b"\r\n\r\n--b0\r\n") * 10,
        mixed + (b"Content-Type: text/plain" + b';a="\\\\' * 600 + b"\r\n\r\n--b0\r\n") * 200,
        mixed + (b"Content-Type: " + b"(" * 4000 + b"\r\n\r\n--b0\r\n") * 200,
        HEAD + b"Content-Type: text/plain\r\n\r\n" + b"." * 1_000_000 + b"\r\n",
    ]
    for number, wire in enumerate(shapes):
        started = time.process_time()
        reencoder = Reencoder()
        for at in range(0, len(wire), 65536):
            reencoder.feed(wire[at : at + 65536])
            assert len(reencoder._held) <= MAX_HEADER + 65536
        reencoder.finish()
        assert time.process_time() - started < 3, number


def test_parts_beyond_the_limit_stay() -> None:
    mixed = HEAD + b"Content-Type: multipart/mixed; boundary=b0\r\n\r\n"
    out, _ = run(mixed + b"--b0\r\n\r\nx\r\n" * (MAX_PARTS + 50) + b"--b0--\r\n", [])
    assert out.count(b"quoted-printable") == MAX_PARTS


def test_long_lines_are_worked_through_in_bulk() -> None:
    line = (b"<td>The quick brown fox</td> jumps over the lazy dog " * 20_000)[: 1 << 20] + b"\r\n"
    for kind, floor in ((b"text/html", 20e6), (b"application/pdf", 60e6)):
        wire = HEAD + b"Content-Type: " + kind + b"\r\n\r\n" + line * 4
        best = float("inf")
        for _ in range(3):
            reencoder, started = Reencoder(), time.process_time()
            for at in range(0, len(wire), 262_144):
                reencoder.feed(wire[at : at + 262_144])
            reencoder.finish()
            best = min(best, time.process_time() - started)
        assert len(wire) / best > floor, f"{kind.decode()}: {len(wire) / best / 1e6:.0f} MB/s"  # 85 and 280 when idle


def test_parts_without_a_body_cost_no_more_than_others() -> None:
    """Each one's header section once was looked for in the whole of what follows."""

    def cpu_s(part: bytes) -> float:
        message = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + part * 9_900 + b"x" * 200_000
        reencoder = Reencoder()
        started = time.thread_time()
        reencoder.feed(message)
        reencoder.finish()
        return time.thread_time() - started

    usual = min(cpu_s(b"--b\r\nA: b\r\n\r\nbody\r\n") for _ in range(3))
    for bodiless in (b"--b\r\n", b"--b\r\nA: b\r\n"):
        assert min(cpu_s(bodiless) for _ in range(3)) < 2 * usual
