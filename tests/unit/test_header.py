"""Header surgery: what is added, what is taken out, and that all else stays as it came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.header import (
    MAX_HEADER,
    Facts,
    HeaderSurgeon,
    HeaderTooLarge,
    MailLoop,
    Trace,
    format_date,
    trace_field,
)

TRACE = Trace(
    id="0123456789abc",
    hostname="relay.example",
    instance_id="i-1",
    helo="app.example",
    address="192.0.2.7",
    protocol="ESMTP",
    reverse_path="app@example.com",
    recipient="ann@example.org",
    now=1_700_000_000.0,
)
RECEIVED = (
    b"Received: from app.example ([192.0.2.7])\r\n\tby relay.example (relay i-1)\r\n"
    b"\twith ESMTP id 0123456789abc\r\n\tfor <ann@example.org>;\r\n\tTue, 14 Nov 2023 22:13:20 +0000\r\n"
)
FULL = b"From: a@b\r\nDate: x\r\nMessage-ID: <m@b>\r\n"


def operate(content: bytes, size: int | None = None, trace: Trace = TRACE) -> tuple[bytes, Facts]:
    surgeon = HeaderSurgeon(trace)
    out = b""
    step = size or max(len(content), 1)
    for start in range(0, len(content), step):
        out += surgeon.feed(content[start : start + step])
    out += surgeon.finish()
    assert surgeon.facts is not None
    return out, surgeon.facts


def test_a_complete_header_gets_a_trace_field_and_nothing_else() -> None:
    content = FULL + b"Subject: s\r\n folded\r\nX-Odd : y\r\n\r\nbody\r\n..dot\r\n"
    out, facts = operate(content)
    assert out == RECEIVED + content
    assert facts == Facts("<m@b>", "a@b", ())


def test_missing_fields_are_added_behind_the_others() -> None:
    out, facts = operate(b"Subject: s\r\n\r\nbody\r\n")
    assert out == RECEIVED + (
        b"Subject: s\r\nFrom: <app@example.com>\r\nDate: Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        b"Message-ID: <0123456789abc@relay.example>\r\n\r\nbody\r\n"
    )
    assert facts == Facts("<0123456789abc@relay.example>", "<app@example.com>", ("From", "Date", "Message-ID"))


def test_the_null_sender_has_an_author_too() -> None:
    out, _ = operate(b"\r\nbody\r\n", trace=TRACE._replace(reverse_path="", recipient=None))
    assert b"From: <MAILER-DAEMON@relay.example>\r\n" in out
    assert b"for <" not in out


@pytest.mark.parametrize("name", [b"Bcc", b"BCC", b"bcc ", b"Resent-Bcc", b"Return-Path"])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_secret_fields_go_with_all_their_lines(name: bytes, place: str) -> None:
    secret = name + b": <x@y>,\r\n\t<z@y>,\r\n <w@y>\r\n"
    other = b"Subject: about bcc: things\r\n"
    parts = {"first": [secret, FULL, other], "middle": [FULL, secret, other], "last": [FULL, other, secret]}[place]
    out, facts = operate(b"".join(parts) + b"\r\nBcc: body text\r\n")
    assert out == RECEIVED + FULL + other + b"\r\nBcc: body text\r\n"
    assert facts.repaired == (f"-{name.decode().strip().lower()}",)


@pytest.mark.parametrize("body", [b"just text\r\nmore: text\r\n\r\nend\r\n", b" indented\r\n", b"..\r\n", b": x\r\n"])
def test_a_body_without_header_gets_its_empty_line(body: bytes) -> None:
    for size in (1, 7, None):
        out, facts = operate(body, size)
        assert out.startswith(RECEIVED + b"From: ")
        assert out.endswith(b">\r\n\r\n" + body)
        assert facts.repaired == ("empty-line", "From", "Date", "Message-ID")


def test_a_line_that_is_no_field_begins_the_body() -> None:
    out, facts = operate(FULL + b"Dear all,\r\nBcc: not a field\r\n\r\nx\r\n")
    assert out == RECEIVED + FULL + b"\r\nDear all,\r\nBcc: not a field\r\n\r\nx\r\n"
    assert facts.repaired == ("empty-line",)


def test_a_header_without_body() -> None:
    assert operate(FULL)[0] == RECEIVED + FULL
    assert operate(b"")[0].startswith(RECEIVED + b"From: ")


def test_loops_are_stopped() -> None:
    hop = b"Received: from a by b; x\r\n"
    operate(hop * 50 + FULL + b"\r\n")
    with pytest.raises(MailLoop):
        operate(hop * 51 + FULL + b"\r\n")
    own = trace_field(TRACE)
    operate(own + FULL + b"\r\n")
    with pytest.raises(MailLoop):
        operate(own + own.replace(b"\r\n\tby", b" by") + FULL + b"\r\n")
    operate(FULL + b"\r\n" + own * 60)  # in the body: a bounce or a forwarded message


def test_the_header_is_bounded() -> None:
    field = b"X-A: " + b"y" * 993 + b"\r\n"
    operate(field * 102 + FULL + b"\r\nbody\r\n", 8192)
    for content in (field * 103 + b"\r\nbody\r\n", field * 200, b"X-A: " + b"y" * (2 * MAX_HEADER)):
        for size in (None, 8192):
            with pytest.raises(HeaderTooLarge):
                operate(content, size)
    text = b"y" * (3 * MAX_HEADER) + b"\r\n"
    assert operate(text, 8192)[0].endswith(b"\r\n\r\n" + text)
    late = FULL + b"no empty line here\r\n" * 20000
    assert operate(late, 8192)[0] == RECEIVED + FULL + b"\r\n" + late[len(FULL) :]


def test_facts_are_bounded_and_printable() -> None:
    _, facts = operate(b"From: \x1b[31m\r\n =?x?=\x00\xff\r\nMessage-ID:\r\n <" + b"m" * 999 + b">\r\n\r\n")
    assert facts.header_from == "?[31m =?x?=?\ufffd"
    assert facts.message_id == "<" + "m" * 254
    _, facts = operate(b"Message-ID:\r\nSubject: s\r\n\r\n")
    assert facts.message_id == ""


def test_what_a_client_calls_itself_cannot_break_the_field() -> None:
    field = trace_field(TRACE._replace(helo="evil)\r\nX: y (ü", address="2001:db8::1", recipient=None))
    assert field.startswith(b"Received: from evil???X:?y??? (")
    assert b"([IPv6:2001:db8::1])" in field
    assert field.count(b"\r\n") == 4
    assert field.isascii()


def test_dates_are_those_of_the_standard() -> None:
    assert format_date(0) == "Thu, 1 Jan 1970 00:00:00 +0000"
    assert format_date(951_782_400) == "Tue, 29 Feb 2000 00:00:00 +0000"


PIECE = st.sampled_from(
    [
        b"From: a@b\r\n",
        b"Bcc: c\r\n",
        b" more\r\n",
        b"\r\n",
        b"text\r\n",
        b"X:\r\n",
        b"..\r\n",
        b"Received: r\r\n",
        b"\tt\r\n",
    ]
)


@given(pieces=st.lists(PIECE, max_size=12), size=st.integers(1, 40))
def test_packet_boundaries_do_not_matter(pieces: list[bytes], size: int) -> None:
    content = b"".join(pieces)
    assert operate(content, size) == operate(content)


@given(pieces=st.lists(PIECE, max_size=12))
def test_the_result_is_a_header_with_exactly_one_of_each(pieces: list[bytes]) -> None:
    out, _ = operate(b"".join(pieces))
    section = out.partition(b"\r\n\r\n")[0].removesuffix(b"\r\n")
    names = [line.partition(b":")[0] for line in section.split(b"\r\n") if line[:1] not in (b" ", b"\t")]
    assert b"Bcc" not in names
    assert names.count(b"Date") == names.count(b"Message-ID") == 1
    assert b"From" in names
    assert all(names)
