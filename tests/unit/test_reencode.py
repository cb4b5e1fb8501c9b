"""Laws of re-encoding: readers get the same octets, signed and encoded parts stay as they were, cuts do not matter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from relay.mail.content import stuff, unstuff
from relay.mail.encodings import Base64, QuotedPrintable
from relay.mail.reencode import Reencoder
from tests.lengths import examples

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
@settings(max_examples=examples(100), deadline=None)
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
@settings(max_examples=examples(150), deadline=None)
def test_any_mixture_of_pieces_stays_wire_form_whatever_the_cuts(pieces: list[bytes], cuts: list[int]) -> None:
    wire = stuff(b"".join(pieces)) + b"\r\n"
    out, _ = run(wire, [])
    assert run(wire, cuts)[0] == out
    check_wire(out)


# -- the two encoders --------------------------------------------------------------------------------------


@given(lines=LINES, cuts=CUTS, guarded=st.booleans())
@settings(max_examples=examples(80), deadline=None)
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
@settings(max_examples=examples(80), deadline=None)
def test_base64_keeps_every_octet(octets: bytes, lines: list[bytes], cuts: list[int], delimited: bool) -> None:
    raw = re.sub(rb"[\r\n]", b"\r\n", octets) + b"".join(b"\r\n" + line for line in lines) + b"\r\n"
    encoder, wire = Base64(), stuff(raw)
    places = sorted({min(cut, len(wire)) for cut in cuts} | {0, len(wire)})
    out = b"".join([encoder.encode(wire[a:b]) for a, b in pairwise(places)]) + encoder.finish(delimited=delimited)
    assert out.endswith(b"\r\n")
    assert all(re.fullmatch(rb"[A-Za-z0-9+/]{0,76}={0,2}", line) and len(line) <= 76 for line in out.split(b"\r\n"))
    part = message_from_bytes(b"Content-Transfer-Encoding: base64\r\n\r\n" + out)
    assert part.get_payload(decode=True) == (raw[:-2] if delimited else raw)
