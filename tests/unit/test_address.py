"""The grammar of MAIL and RCPT: what is taken as it stands, and what is refused, for which reason."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.address import Fault, MailArgument, Malformed, parse_mail, parse_rcpt
from relay.mail.dsn import NO_RECIPIENT_REQUEST

LONG_DOMAIN = ".".join(["d" * 60] * 4)

GOOD = [
    "a@b",
    "app@example.com",
    "first.last+tag@sub.example.co.uk",
    "o'neil_x=y{z}@example.com",
    '"john doe"@example.com',
    '"quoted\\"mark"@example.com',
    "x" * 64 + "@example.com",
    "a@1.example",
]

BAD = [
    "a",
    "@b",
    "a@",
    "a@@b",
    "a@b@c",
    ".a@b",
    "a.@b",
    "a..b@c",
    "a@-b",
    "a@b-",
    "a@b..c",
    "a@.b",
    "a@b.",
    "a@b_c",
    "a b@c",
    "a@b c",
    'a"b@c',
    '"a@c',
    '""@c',
    '"a"b@c',
    "a@[1.2.3",
    "a@[]",
    "(c)a@b",
    "a@b(c)",
    "a,b@c",
    "a:b@c",
    "a;b@c",
    "a\\b@c",
    "a<b@c",
    "[a]@b",
    "x" * 65 + "@example.com",
    "a@" + "d" * 64,
    "a@" + LONG_DOMAIN + ".eeeeeeeeeeee",
    "a\x00@b",
    "a\r@b",
    "a\n@b",
    "a\t@b",
    "a\x7f@b",
    "a@b\x00",
    '"a\x00"@b',
    '"a\r\nRCPT TO:<x@y>"@b',
    "",
]


@pytest.mark.parametrize("address", GOOD)
def test_valid_addresses_are_kept_as_given(address: str) -> None:
    assert parse_rcpt(f"TO:<{address}>".encode(), smtputf8=False) == (address, NO_RECIPIENT_REQUEST)
    assert parse_mail(f"FROM:<{address}>".encode()) == MailArgument(address, 0, False, False)
    assert parse_mail(f"from:  <{address}> size=7".encode()).size == 7


@pytest.mark.parametrize("address", BAD)
def test_invalid_recipients_are_refused(address: str) -> None:
    with pytest.raises(Malformed):
        parse_rcpt(f"TO:<{address}>".encode(), smtputf8=False)
    if address:
        with pytest.raises(Malformed):
            parse_mail(f"FROM:<{address}>".encode())


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        (b"TO:", Fault.BRACKETS),
        (b"", Fault.KEYWORD),
        (b"FROM:<a@b>", Fault.KEYWORD),
        (b"TO <a@b>", Fault.KEYWORD),
        (b"TO :<a@b>", Fault.KEYWORD),
        (b"TO:a@b", Fault.BRACKETS),
        (b"TO:<a@b", Fault.BRACKETS),
        (b"TO:<a@b>>", Fault.SYNTAX),
        (b"TO:<<a@b>>", Fault.SYNTAX),
        (b"TO:<a@b>x", Fault.SYNTAX),
        (b"TO:<>", Fault.NULL),
        (b"TO:<@c:a@b>", Fault.SOURCE_ROUTE),
        (b"TO:<@c,@d:a@b>", Fault.SOURCE_ROUTE),
        (b"TO:<a%c@b>", Fault.RELAY_HACK),
        (b"TO:<c!a@b>", Fault.RELAY_HACK),
        (b'TO:<"a@c"@b>', Fault.RELAY_HACK),
        (b'TO:<"a%c"@b>', Fault.RELAY_HACK),
        (b"TO:<a@[127.0.0.1]>", Fault.LITERAL),
        (b"TO:<a@[IPv6:::1]>", Fault.LITERAL),
        (b"TO:<a@b> XFOO=1", Fault.UNKNOWN_PARAMETER),
        ("TO:<ä@b>".encode(), Fault.NOT_ASCII),
        ("TO:<a@bücher.example>".encode(), Fault.NOT_ASCII),
        (b"TO:<\xff@b>", Fault.SYNTAX),
        ("TO:<a\u2028@b>".encode(), Fault.SYNTAX),
        ("TO:<a\u0085@b>".encode(), Fault.SYNTAX),
    ],
)
def test_recipient_faults(argument: bytes, fault: Fault) -> None:
    with pytest.raises(Malformed) as caught:
        parse_rcpt(argument, smtputf8=False)
    assert caught.value.fault is fault


@pytest.mark.parametrize(
    ("argument", "result"),
    [
        (b"FROM:<>", MailArgument("", 0, False, False)),
        (b"FROM:<> SIZE=10 BODY=8BITMIME", MailArgument("", 10, True, False)),
        (b"FROM:<a@b> BODY=8BITMIME SIZE=10", MailArgument("a@b", 10, True, False)),
        (b"FROM:<a@b> BODY=7BIT AUTH=<>", MailArgument("a@b", 0, False, False)),
        ("FROM:<ä@bücher.example> SMTPUTF8".encode(), MailArgument("ä@bücher.example", 0, False, True)),
        (b"FROM:<a@[192.0.2.1]>", MailArgument("a@[192.0.2.1]", 0, False, False)),
    ],
)
def test_mail_parameters(argument: bytes, result: MailArgument) -> None:
    assert parse_mail(argument) == result


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        (b"FROM:<a@b> SIZE", Fault.PARAMETER),
        (b"FROM:<a@b> SIZE=", Fault.PARAMETER),
        (b"FROM:<a@b> SIZE=x", Fault.PARAMETER),
        (b"FROM:<a@b> SIZE=-1", Fault.PARAMETER),
        (b"FROM:<a@b> SIZE=1 SIZE=2", Fault.PARAMETER),
        (b"FROM:<a@b> SIZE=" + b"9" * 21, Fault.PARAMETER),
        (b"FROM:<a@b> BODY=BINARYMIME", Fault.PARAMETER),
        (b"FROM:<a@b> SMTPUTF8=yes", Fault.PARAMETER),
        (b"FROM:<a@b> =x", Fault.PARAMETER),
        (b"FROM:<a@b> NOTIFY=NEVER", Fault.UNKNOWN_PARAMETER),
        (b"FROM:<a@b> FOO", Fault.UNKNOWN_PARAMETER),
        (b"FROM:<a@b>SIZE=1", Fault.SYNTAX),
        ("FROM:<ä@b> SIZE=1".encode(), Fault.NOT_ASCII),
        (b"FROM:<@c:a@b>", Fault.SOURCE_ROUTE),
        (b"TO:<a@b>", Fault.KEYWORD),
        (b"FROM:<" + b"a" * 60 + b"@" + LONG_DOMAIN.encode() + b">", Fault.TOO_LONG),
    ],
)
def test_mail_faults(argument: bytes, fault: Fault) -> None:
    with pytest.raises(Malformed) as caught:
        parse_mail(argument)
    assert caught.value.fault is fault


def test_parameters_need_ehlo() -> None:
    with pytest.raises(Malformed) as caught:
        parse_mail(b"FROM:<a@b> SIZE=1", extended=False)
    assert caught.value.fault is Fault.UNKNOWN_PARAMETER
    assert parse_mail(b"FROM:<a@b>", extended=False).address == "a@b"


@given(
    octets=st.binary(max_size=60) | st.text(alphabet='a@b.<>"\\%![]: \0\r\n\x7fä\u2028', max_size=40).map(str.encode)
)
def test_nothing_dangerous_ever_comes_out(octets: bytes) -> None:
    details: list[str] = []
    for smtputf8 in (False, True):
        try:
            address = parse_rcpt(b"TO:<" + octets + b">", smtputf8=smtputf8).address
        except Malformed as error:
            details.append(error.detail)
            continue
        assert address.isprintable()
        assert len(address.encode()) <= 254
        assert not re.search(r"[%!]", address)
        local, _, domain = address.rpartition("@")
        assert local
        assert domain
        assert "@" not in local
        assert smtputf8 or address.isascii()
    assert all(detail.isprintable() and len(detail) <= 80 for detail in details)


@given(
    st.from_regex(r"\A[a-zA-Z0-9.%!@\"+-]{1,20}\Z") | st.from_regex(r"\A[a-z.]{1,66}@[a-z-]{1,66}(\.[a-z-]{1,3})?\Z")
)
def test_the_quick_path_takes_only_what_the_grammar_takes(text: str) -> None:
    """A parameter sends the same address down the long way: both must judge the address alike."""
    quick = slow = None
    try:
        quick = parse_mail(f"FROM:<{text}>".encode()).address
    except Malformed as error:
        quick = error.fault
    try:
        slow = parse_mail(f"FROM:<{text}> AUTH=<>".encode()).address
    except Malformed as error:
        slow = error.fault
    assert quick == slow


def test_pathological_input_is_judged_quickly() -> None:
    for octets in (
        b"a." * 1000,
        b"a-" * 1000 + b"@",
        b"a@" + b"b-" * 1000,
        b'"' + b"\\a" * 900,
        b"a@" + b"b." * 900 + b"!",
    ):
        for argument in (b"<" + octets + b">", b"<" + octets):
            with pytest.raises(Malformed):
                parse_rcpt(b"TO:" + argument, smtputf8=True)
