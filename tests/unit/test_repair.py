"""Header surgery as a client's entry asks for it: what is put right, what is kept, and who becomes the author."""

import email.utils
from email.header import decode_header, make_header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.author import Authors
from relay.mail.care import Care
from relay.mail.header import MAX_HEADER, Facts, HeaderSurgeon
from relay.mail.tolerance import tolerance
from tests.unit.test_header import FULL, RECEIVED, TRACE

FIELDS = (
    "From: <app@example.com>\r\nDate: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <0123456789abc@relay.example>\r\n"
)
ALL = ("broken-fields", "doubled-fields", "raw-8bit")


def tend(header: bytes, *switches: str, size: int | None = None, **care: object) -> tuple[bytes, Facts]:
    """The new header behind our trace field, and the facts."""
    content = header + b"\r\nbody \xff\r\n..\r\n"
    surgeon = HeaderSurgeon(TRACE, Care(tolerance(switches), **care))  # type: ignore[arg-type]
    step = size or len(content)
    out = b"".join(surgeon.feed(content[start : start + step]) for start in range(0, len(content), step))
    out += surgeon.finish()
    assert surgeon.facts is not None
    assert out.startswith(RECEIVED)
    header, separator, body = out[len(RECEIVED) - 2 :].partition(b"\r\n\r\n")
    assert body == b"body \xff\r\n..\r\n"
    return header[2:] + separator[:2], surgeon.facts


def read(body: str) -> str:
    """Encoded words as a mail program shows them."""
    return str(make_header(decode_header(body)))


# -- the default ---------------------------------------------------------------------------------------------


@given(
    header=st.lists(st.sampled_from([b"From: a@b\r\n", b"Bcc: c\r\n", b"Date: d\r\n", b"X: \xff\r\n f\r\n"])).map(
        b"".join
    )
)
def test_without_a_wish_all_is_done_as_for_everybody(header: bytes) -> None:
    plain = HeaderSurgeon(TRACE)
    kind = HeaderSurgeon(TRACE, Care(judge=lambda authors: None))
    assert plain.feed(header + b"\r\nbody") == kind.feed(header + b"\r\nbody")
    assert plain.facts == kind.facts


# -- missing-fields ------------------------------------------------------------------------------------------


def test_missing_fields_may_stay_missing() -> None:
    assert tend(b"Subject: s\r\n", "no-missing-fields") == (b"Subject: s\r\n", Facts())


# -- broken-fields -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("Date: yesterday", "Date"),
        ("Date:", "Date"),
        ("Date: 99 Foo 2023 10:00", "Date"),
        ("Date: Tue, 14 Nov 2023 25:61:61 +0000", "Date"),
        ("Date: " + "1" * 2000, "Date"),
        ("Date: Tue, 14 Növ", "Date"),
        ("Message-ID: 12345", "Message-ID"),
        ("Message-Id: <12345>", "Message-ID"),
        ("Message-ID: a@b", "Message-ID"),
        ("Message-ID: <a@b", "Message-ID"),
        ("Message-ID: <a b@c>", "Message-ID"),
        ("From: Scanner", "From"),
        ("From:", "From"),
        ("From: <@a:b@c>", "From"),
        ("from : root,\r\n ann", "From"),
    ],
)
def test_what_cannot_be_read_is_replaced_and_kept(field: str, name: str) -> None:
    octets = f"{field}\r\n".encode()
    rest = b"".join(f"{line}\r\n".encode() for line in FIELDS.splitlines() if not line.startswith(name))
    header, facts = tend(octets + rest, "broken-fields")
    new = next(f"{line}\r\n".encode() for line in FIELDS.splitlines() if line.startswith(name))
    kept = f"X-Original-{name}:".encode()
    assert header.startswith(kept)
    assert header.partition(b":")[2].split() == octets.partition(b":")[2].split() + rest.split() + new.split()
    assert header.endswith(rest + new)
    assert facts.repaired == ("broken-fields", name)
    assert facts.message_id == "<0123456789abc@relay.example>"
    assert tend(octets + rest)[0] == octets + rest


@pytest.mark.parametrize(
    "field",
    [
        "Date: 14 Nov 2023 22:13 GMT",
        "Date: Tue, 14 Nov 23 22:13:20 -0000 (UTC)",
        "Message-ID:\r\n <a.b@c>",
        "From: a:;",
    ],
)
def test_what_can_be_read_stays(field: str) -> None:
    octets = f"{field}\r\n".encode()
    header, facts = tend(octets, "broken-fields")
    assert header.startswith(octets)
    assert "broken-fields" not in facts.repaired


# -- doubled-fields ------------------------------------------------------------------------------------------


def test_of_what_may_occur_once_the_first_is_kept() -> None:
    first = FULL + b"Subject: one\r\n folded\r\nTo: a@b\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n"
    again = b"subject : two\r\n folded\r\nTO: c@d\r\nFrom: x@y\r\nMime-Version: 1.0\r\ncontent-type: x/y\r\nDate: z\r\n"
    free = b"X-A: 1\r\nX-A: 2\r\nReceived: r\r\nReceived: r\r\n"
    header, facts = tend(first + free + again, "doubled-fields")
    assert header == first + free
    assert facts.repaired == ("doubled-fields",)
    assert tend(first + free, "doubled-fields")[1].repaired == ()


# -- raw-8bit ------------------------------------------------------------------------------------------------

PLAIN_MIME = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=%b\r\nContent-Transfer-Encoding: 8bit\r\n"


@pytest.mark.parametrize(
    ("charset", "codec", "declared"),
    [
        ("", "utf-8", b"utf-8"),
        ("", "latin-1", b"windows-1252"),
        ("iso-8859-1", "latin-1", b"iso-8859-1"),
        ("utf-8", "latin-1", b"windows-1252"),
        ("cp850", "cp850", b"cp850"),
    ],
)
def test_raw_text_is_encoded_in_its_charset(charset: str, codec: str, declared: bytes) -> None:
    text = "Rechnung für Müller & Söhne, Straße 5 ok"
    header, facts = tend(b"Subject: " + text.encode(codec) + b"\r\n" + FULL, "raw-8bit", charset=charset)
    assert header.isascii()
    assert header.endswith(FULL + PLAIN_MIME % declared)
    subject = header.partition(b"\r\nFrom:")[0].decode()
    assert subject.startswith("Subject: Rechnung =?" + declared.decode())
    assert subject.endswith("?= 5 ok")
    assert read(subject.removeprefix("Subject: ")) == text
    assert facts.repaired == ("raw-8bit",)


@pytest.mark.parametrize(
    ("field", "as_read"),
    [
        (
            'To: Jürgen Müller <j@x.example>, "Öl, GmbH (Süd)" <o@x.example>',
            "Jürgen Müller <j@x.example>, Öl, GmbH (Süd) <o@x.example>",
        ),
        ("Cc: j@x.example (Jürgen)", "j@x.example (Jürgen)"),
        ("Reply-To: Grüne: a@b, Jürgen<c@d>;", "Grüne : a@b, Jürgen <c@d>;"),
        (r'From: "Jürgen \"J\" M" <j@x.example>', 'Jürgen "J" M <j@x.example>'),
        (r"Sender: Ann (a \) ü) <a@b.example>", "Ann (a ) ü) <a@b.example>"),
        ("To: =?utf-8?q?=C3=B6?= ü <a@b>", "ö ü <a@b>"),
    ],
)
def test_in_address_fields_only_names_and_comments_are_encoded(field: str, as_read: str) -> None:
    header, _ = tend(f"{field}\r\n".encode(), "raw-8bit")
    assert header.isascii()
    line = header.replace(b"\r\n ", b" ").partition(b"\r\n")[0].decode().partition(": ")[2]
    assert " ".join(read(line).split()) == as_read
    given = [address for _, address in email.utils.getaddresses([field.partition(": ")[2]])]
    assert [address for _, address in email.utils.getaddresses([line])] == given


def test_addresses_beyond_ascii_stay_as_they_are() -> None:
    header, _ = tend("To: Jürgen <jürgen@grün.example>, ö@x\r\n".encode(), "raw-8bit")
    assert header.startswith("To: =?utf-8?q?J=C3=BCrgen?= <jürgen@grün.example>, ö@x\r\n".encode())
    latin = "To: jürgen@grün.example\r\n".encode("latin-1")
    assert tend(latin, "raw-8bit")[0].startswith(latin)


@pytest.mark.parametrize("field", ["Received: ü", "Content-Type: x/y; name=ü", "DKIM-Signature: ü", "References: ü"])
def test_what_is_no_text_is_not_encoded(field: str) -> None:
    octets = f"{field}\r\n".encode()
    assert tend(octets, "raw-8bit")[0].startswith(octets)


def test_encoded_words_that_were_there_are_kept() -> None:
    header, _ = tend("Subject: a =?iso-8859-1?q?=F6?= b ü =?iso-8859-1?q?=E4?= ü c\r\n".encode(), "raw-8bit")
    subject = header.replace(b"\r\n ", b" ").partition(b"\r\n")[0].decode()
    assert "=?iso-8859-1?q?=F6?=" in subject
    assert "=?iso-8859-1?q?=E4?=" in subject
    assert read(subject) == "Subject: a ö b ü ä ü c"


def test_mime_fields_that_were_there_are_kept() -> None:
    mime = b"Content-Type: text/html; charset=x\r\n"
    header, facts = tend(FULL + mime, "raw-8bit")
    assert (header, facts.repaired) == (FULL + mime, ())
    header, _ = tend(FULL + b"Content-Transfer-Encoding: base64\r\nMIME-Version: 1.0\r\n", "raw-8bit")
    assert header.endswith(b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n")


@given(
    text=st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs"]) | st.sampled_from(" =")
    )
    .map(lambda text: " ".join(text.split()))
    .filter(lambda text: "=?" not in text),
    codec=st.sampled_from(["utf-8", "gb18030"]),
)
def test_encoded_text_says_the_same_on_short_lines(text: str, codec: str) -> None:
    header, _ = tend(b"Subject: " + text.encode(codec) + b"\r\n" + FULL, "raw-8bit", charset=codec)
    subject, _, rest = header.partition(b"\r\nFrom:")
    if not text.isascii():
        assert max(map(len, subject.split(b"\r\n"))) <= 78 or len(max(text.split(), key=len)) > 70
    assert subject.isascii()
    assert rest
    assert read(subject.decode().replace("\r\n", "")).removeprefix("Subject:").strip() == text


@pytest.mark.parametrize("name", [b"To", b"Subject", b"From"])
@pytest.mark.parametrize(
    "unit",
    [
        b'"\\',
        b"(\\",
        b"(a",
        b"<",
        b"a@",
        b",",
        b'"("<',
        b"\xff",
        b"\xff ",
        b"=?a?q?",
        b"=?x?q?a?=\xff",
        b"[]",
        b"\t\xff",
    ],
)
def test_the_work_is_linear_in_the_header(name: bytes, unit: bytes) -> None:
    body = unit * (90_000 // len(unit))
    tend(name + b": " + body + b"\xff\r\n", *ALL, judge=lambda authors: "a@b")


ACCOUNT = "acct@corp.example"


# -- laws ----------------------------------------------------------------------------------------------------

PIECE = st.sampled_from(
    [
        *(b"From: a@b\r\n", b"from:J\xfcrgen <j@x>\r\n", b"From: scanner\r\n", b"Sender: s@x\r\n", b"Bcc: c\r\n"),
        *(b" more\r\n", b"\t\xc3\xbc\r\n", b"   \r\n", b"\r\n", b"text\r\n", b"X:\r\n", b"..\r\n", b"Date: x\r\n"),
        *(b"Date:\r\n", b"Subject: \xff\x00\x1b?=\r\n", b"Subject: " + b"x" * 900 + b" \xff\r\n"),
        *(b'To: "\xff" (\xfe) <\xfd@x>,\r\n', b"Message-ID: 1\r\n", b"Content-Type: x\r\n"),
    ]
)
SWITCHES = st.lists(st.sampled_from([*ALL, "no-missing-fields"]), unique=True)
RULES = st.fixed_dictionaries(
    {
        "charset": st.sampled_from(["", "iso-8859-1", "utf-8", "shift_jis", "no such"]),
        "captured": st.sampled_from([(), ("a@b", "c@d")]),
        "judge": st.sampled_from([None, lambda authors: None, lambda authors: ACCOUNT]),
    }
)


def operate(content: bytes, care: Care, size: int) -> tuple[bytes, Facts | None]:
    surgeon = HeaderSurgeon(TRACE, care)
    out = b"".join(surgeon.feed(content[start : start + size]) for start in range(0, len(content), size))
    return out + surgeon.finish(), surgeon.facts


@given(pieces=st.lists(PIECE, max_size=12), switches=SWITCHES, rules=RULES, size=st.integers(1, 40))
def test_the_result_is_a_header_whatever_was_sent(
    pieces: list[bytes], switches: list[str], rules: dict[str, object], size: int
) -> None:
    content = b"".join(pieces)
    care = Care(tolerance(tuple(switches)), **rules)  # type: ignore[arg-type]
    out, facts = operate(content, care, max(len(content), 1))
    assert (out, facts) == operate(content, care, size)
    section, _, body = out.partition(b"\r\n\r\n")
    assert content.endswith(body)
    lines = section.removesuffix(b"\r\n").split(b"\r\n")
    names = [line.partition(b":")[0].strip().lower() for line in lines if line[:1] not in (b" ", b"\t")]
    assert all(names)
    assert names[0] == b"received"
    assert b"bcc" not in names
    assert max(map(len, lines)) <= 998
    assert not any(b"\r" in line or b"\n" in line for line in lines)
    if care.judge is not None and care.judge(Authors()) is not None:
        assert names.count(b"from") == 1
        assert f"<{ACCOUNT}>".encode() in section
        assert b"sender" not in names
    if "no-missing-fields" not in switches:
        assert {b"from", b"date", b"message-id"} <= set(names)
    if "doubled-fields" in switches:
        assert names.count(b"from") <= 1
        assert names.count(b"date") <= 1


def test_the_header_stays_bounded() -> None:
    header, _ = tend(b"X: \xff\xff\xff\xff\xff\xff\r\n" * 9000, *ALL)
    assert len(header) < 4 * MAX_HEADER


def test_a_line_of_escapes_costs_no_more_than_its_length() -> None:
    import time

    from relay.mail.eight_bit import encode
    from relay.mail.fields import split

    started = time.process_time()
    encode(split(b"To: \xe4 " + b"\\a" * 45_000 + b"\r\n"), "iso-8859-1")
    assert time.process_time() - started < 1.0
