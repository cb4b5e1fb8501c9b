"""Laws of re-encoding: readers get the same octets, signed and encoded parts stay as they were, cuts do not matter."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.mail.content import stuff, unstuff
from relay.mail.encodings import Base64, QuotedPrintable
from relay.mail.header import MAX_HEADER
from relay.mail.reencode import MAX_DEPTH, MAX_PARTS, Reencoder

HEAD = b"From: app@example.com\r\nMIME-Version: 1.0\r\n"
FRAGMENTS = [
    b"",
    b".",
    b"..",
    b".x",
    b"-",
    b"--",
    b"-- ",
    b"---",
    b"--b0 and more",
    b"--b1---",
    b"---b2",
    b"--b0=",
    b"x" * 73 + b" ",
    b"x" * 74 + b"\t",
    b"x" * 75 + b"--b0",
    b"x" * 75 + b"--b1--",
    b"x" * 150 + b"-" * 200,
    b"-" * 74,
    b"-" * 75 + b"y",
    b"." * 160,
    b"." * 9000,
    b" " * 9000,
    b"-" * 8191 + b"--b0",
    b"z" * 8191,
    b"z" * 8192,
    b"z" * 8193,
    b"z" * 8191 + b".",
    b"z" * 20_000,
    "Größe ".encode("latin-1") * 12,
    "süß – déjà vu ".encode() * 700,
    bytes(set(range(256)) - {10, 13}),
    b"a=3Db =\t",
    b"From here",
    b"Content-Type: text/html",
]
LINES = st.lists(
    st.sampled_from(range(len(FRAGMENTS))).map(lambda number: FRAGMENTS[number])
    | st.binary(max_size=60).map(lambda raw: re.sub(rb"[\r\n]|^--", b"", raw))
)
CUTS = st.lists(st.integers(0, 60_000), max_size=6)


def run(wire: bytes, cuts: list[int], *, charset: str = "") -> tuple[bytes, Reencoder]:
    reencoder = Reencoder(charset=charset)
    places = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
    out = b"".join([reencoder.feed(wire[a:b]) for a, b in pairwise(places)])
    return out + reencoder.finish(), reencoder


def reencoded(raw: bytes, *, charset: str = "") -> bytes:
    """Of a message and to a message without stuffing; cut every 7 octets as well when it is short."""
    wire = stuff(raw)
    out, reencoder = run(wire, [], charset=charset)
    if len(wire) < 20_000:
        assert run(wire, list(range(0, len(wire), 7)), charset=charset)[0] == out
    check_wire(out)
    assert reencoder.eight_bit == (not out.isascii())
    return unstuff(out)


def check_wire(out: bytes) -> None:
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", out), "bare line end"
    assert not re.search(rb"(?:\A|\r\n)\.(?!\.)", out), "dot not doubled"
    assert out.endswith(b"\r\n")


# -- random trees ------------------------------------------------------------------------------------------


@dataclass
class Part:
    """`kind` "" is no Content-Type. `children` only of what has parts; `lines` the body, preamble and epilogue."""

    kind: str
    encoding: str
    lines: list[bytes]
    children: list[Part] = field(default_factory=list)
    style: int = 0


LEAVES = st.builds(
    Part,
    st.sampled_from(
        ["", "text/plain", "Text/HTML; charset=utf-8", 'application/pdf; name="a;b"', "image/png (pixels)"]
    ),
    st.sampled_from(["", "", "7bit", "8BIT", "binary (as it is)", "base64", "quoted-printable", "x-uuencode"]),
    LINES,
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        Part,
        st.sampled_from(
            [
                "multipart/mixed",
                "multipart/Alternative",
                "multipart/digest",
                "multipart/signed",
                "multipart/encrypted",
                "message/rfc822",
                "application/pkcs7-mime",
            ]
        ),
        st.sampled_from(["", "8bit"]),
        st.lists(st.sampled_from([b"", b".", b"preamble", b"--"]), max_size=2),
        st.lists(inner, min_size=1, max_size=3),
        st.integers(0, 2),
    ),
    max_leaves=7,
)


def render(part: Part, numbers: Iterator[int], kept: list[bytes], *, free: bool = True, digest: bool = False) -> bytes:
    """Header section, empty line and body, without a last line end; what must stay as it is goes to `kept`."""
    lines = [b"X-Number: %d" % next(numbers)]
    kind = part.kind.lower()
    sealed = kind in ("multipart/signed", "multipart/encrypted", "message/rfc822", "application/pkcs7-mime")
    sealed = sealed or (digest and not kind)  # RFC 2046 5.1.5
    boundary = b"b%d" % next(numbers)
    if kind.startswith("multipart/"):
        styles = [b"boundary=%b", b'Boundary = "%b"; x=y', b'x="\\"boundary=no\\""; boundary="%b" ;']
        lines.append(b"Content-Type: %b;\r\n\t%b" % (part.kind.encode(), styles[part.style] % boundary))
    elif part.kind:
        lines.append(b"Content-Type: " + part.kind.encode())
    if part.encoding:
        lines.append(b"Content-Transfer-Encoding:" + b"\r\n " * (part.style == 1) + part.encoding.encode())
    head = b"\r\n".join(lines) + b"\r\n\r\n"
    inner_free = free and not sealed
    if kind.startswith("multipart/"):
        body = b"".join(line + b"\r\n" for line in part.lines)
        for child in part.children:
            inner = render(child, numbers, kept, free=inner_free, digest=kind == "multipart/digest")
            body += b"--%b\r\n%b\r\n" % (boundary, inner)
        body += b"--%b--" % boundary + b"".join(b"\r\n" + line for line in part.lines)
    elif part.children:
        body = render(part.children[0], numbers, kept, free=False)
    else:
        body = b"\r\n".join(part.lines)
    plain = part.encoding.lower() in ("", "7bit", "8bit", "binary (as it is)")
    if free and (sealed or not plain):
        kept.append(head + body)
    return head + body


def check_same(before: Message, after: Message) -> None:
    """Readers find the same, where it may be changed at all."""
    assert before.get_content_type() == after.get_content_type()
    assert before["X-Number"] == after["X-Number"]
    kind = before.get_content_type()
    if kind in ("multipart/signed", "multipart/encrypted", "application/pkcs7-mime") or kind.startswith("message/"):
        return  # looked at octet by octet
    if before.is_multipart():
        inside, out = before.get_payload(), after.get_payload()
        assert isinstance(inside, list)
        assert isinstance(out, list)
        assert (before.preamble, before.epilogue) == (after.preamble, after.epilogue)
        for one, other in zip(inside, out, strict=True):
            assert isinstance(one, Message)
            assert isinstance(other, Message)
            check_same(one, other)
        return
    given = str(before.get("Content-Transfer-Encoding", "")).strip().lower()
    assert before.get_payload(decode=True) == after.get_payload(decode=True)
    if given in ("", "7bit", "8bit", "binary (as it is)"):
        text = before.get_content_maintype() == "text"
        assert after.get_all("Content-Transfer-Encoding") == ["quoted-printable" if text else "base64"]
        payload = after.get_payload()
        assert isinstance(payload, str)
        assert payload.isascii()
        assert max(map(len, payload.split("\r\n"))) <= 76  # RFC 2045 6.7 (5)
        assert not re.search(r"[ \t](\r\n|\Z)", payload)
    else:
        assert after.items() == before.items()


@given(tree=TREES, cuts=CUTS)
@settings(max_examples=300, deadline=None)
def test_readers_find_the_same_in_any_tree_and_sealed_parts_are_untouched(tree: Part, cuts: list[int]) -> None:
    kept: list[bytes] = []
    raw = b"MIME-Version: 1.0\r\n" + render(tree, iter(range(10_000)), kept) + b"\r\n"
    wire = stuff(raw)
    out, reencoder = run(wire, [])
    assert run(wire, cuts)[0] == out
    check_wire(out)
    text = unstuff(out)
    if reencoder.untouchable:
        assert out == wire
        assert kept
        return
    rest = text
    for part in kept:
        assert part in rest
        rest = rest.replace(part, b"", 1)
    assert max(map(len, rest.split(b"\r\n"))) <= 998
    check_same(message_from_bytes(raw), message_from_bytes(text))


@given(
    pieces=st.lists(
        st.sampled_from(
            [
                HEAD,
                b"\r\n",
                b"--b0\r\n",
                b"--b1\r\n",
                b"--b0--\r\n",
                b"--b1-- \t\r\n",
                b"Content-Type: multipart/mixed; boundary=b0\r\n",
                b"Content-Type: multipart/signed; boundary=b1\r\n",
                b"Content-Type: multipart/mixed; boundary=b1\r\n",
                b"Content-Type: multipart/mixed; boundary*0=b1\r\n",
                b'Content-Type: multipart/mixed; boundary="b1--"\r\n',
                b"Content-Type: text/html\r\n",
                b"Content-Type: (\r\n",
                b"Content-Transfer-Encoding: 8bit\r\n",
                b"Content-Transfer-Encoding: \r\n",
                b"\xe4" * 1200 + b"\r\n",
                b"..\r\n",
                b" folded\r\n",
                b"no field\r\n",
            ]
        ),
        max_size=40,
    ),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
)
@settings(max_examples=500, deadline=None)
def test_any_mixture_of_pieces_stays_wire_form_whatever_the_cuts(pieces: list[bytes], cuts: list[int]) -> None:
    wire = stuff(b"".join(pieces)) + b"\r\n"
    out, _ = run(wire, [])
    assert run(wire, cuts)[0] == out
    check_wire(out)


# -- the two encoders --------------------------------------------------------------------------------------


@given(lines=LINES, cuts=CUTS, guarded=st.booleans())
@settings(max_examples=200, deadline=None)
def test_quoted_printable_keeps_every_octet_and_every_rule(lines: list[bytes], cuts: list[int], guarded: bool) -> None:
    raw = b"".join(line + b"\r\n" for line in lines)
    encoder, wire = QuotedPrintable(guarded=guarded), stuff(raw)
    places = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
    out = b"".join([encoder.encode(wire[a:b]) for a, b in pairwise(places)]) + encoder.finish(delimited=False)
    coded = unstuff(out)
    assert decoded(coded) == raw
    for line in coded.split(b"\r\n"):
        assert len(line) <= 76
        assert re.fullmatch(rb"(?:[!-<>-~ \t]|=[0-9A-F]{2})*=?", line)
        assert not line.endswith((b" ", b"\t"))
        assert not (guarded and line.startswith(b"--"))


def decoded(coded: bytes) -> bytes:
    """RFC 2045 6.7, octet by octet and without binascii."""
    text = coded.replace(b"=\r\n", b"")
    return re.sub(rb"=([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), text)


@given(octets=st.binary(max_size=300), lines=LINES, cuts=CUTS, delimited=st.booleans())
@settings(max_examples=200, deadline=None)
def test_base64_keeps_every_octet(octets: bytes, lines: list[bytes], cuts: list[int], delimited: bool) -> None:
    raw = re.sub(rb"[\r\n]", b"\r\n", octets) + b"".join(b"\r\n" + line for line in lines) + b"\r\n"
    encoder, wire = Base64(), stuff(raw)
    places = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
    out = b"".join([encoder.encode(wire[a:b]) for a, b in pairwise(places)]) + encoder.finish(delimited=delimited)
    assert out.endswith(b"\r\n")
    assert all(re.fullmatch(rb"[A-Za-z0-9+/]{0,76}={0,2}", line) and len(line) <= 76 for line in out.split(b"\r\n"))
    part = message_from_bytes(b"Content-Transfer-Encoding: base64\r\n\r\n" + out)
    assert part.get_payload(decode=True) == (raw[:-2] if delimited else raw)


# -- examples ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", range(55, 90))
@pytest.mark.parametrize("line", [b"--b0", b"--b0--", b"--b0 ", b".", b"..", b"---------b0"])
def test_a_soft_break_makes_neither_a_delimiter_nor_an_end_of_data(before: int, line: bytes) -> None:
    body = b"x" * before + line + b"\r\nsecond\r\n" + b"\xe4" * (before // 3) + line
    head = HEAD + b"Content-Type: multipart/mixed; boundary=b0\r\n\r\n"
    raw = head + b"--b0\r\n\r\n" + body + b"\r\n--b0\r\n\r\nother\r\n--b0--\r\n"
    message = message_from_bytes(reencoded(raw))
    parts = message.get_payload()
    assert isinstance(parts, list)
    assert [part.get_payload(decode=True) for part in parts if isinstance(part, Message)] == [body, b"other"]


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
        started = time.perf_counter()
        reencoder = Reencoder()
        for at in range(0, len(wire), 65536):
            reencoder.feed(wire[at : at + 65536])
            assert len(reencoder._held) <= MAX_HEADER + 65536
        reencoder.finish()
        assert time.perf_counter() - started < 3, number


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
            reencoder, started = Reencoder(), time.perf_counter()
            for at in range(0, len(wire), 262_144):
                reencoder.feed(wire[at : at + 262_144])
            reencoder.finish()
            best = min(best, time.perf_counter() - started)
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
