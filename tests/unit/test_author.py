"""Who the header says a mail is from: every address that is read is the one that everybody sees."""

import email.utils
from email.headerregistry import HeaderRegistry

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.author import MAX_AUTHORS, MAX_BODY, Authors, display, mailboxes, read_authors, the_author


def read(body: str | bytes) -> Authors:
    octets = body.encode() if isinstance(body, str) else body
    return read_authors(b"Subject: s\r\nFrom: " + octets + b"\r\nTo: From: x@y\r\n")


@pytest.mark.parametrize(
    ("body", "addresses", "display"),
    [
        ("a@b.example", ["a@b.example"], ""),
        ("<a@b.example>", ["a@b.example"], ""),
        ("Ann Example <a@b.example>", ["a@b.example"], "Ann Example"),
        ("Ann Q. Example  <a@b.example>  ", ["a@b.example"], "Ann Q. Example"),
        ("Ann<a@b.example>", ["a@b.example"], "Ann"),
        ('"Example, Ann" <a@b.example>', ["a@b.example"], "Example, Ann"),
        (r'"Ann \"A\" Example" <a@b.example>', ["a@b.example"], 'Ann "A" Example'),
        ("a@b.example (Ann Example)", ["a@b.example"], "Ann Example"),
        ("(one) Ann (two) <a@b.example> (three)", ["a@b.example"], "Ann"),
        ("root@host_1.example (Cron (daily) Daemon)", ["root@host_1.example"], "Cron (daily) Daemon"),
        ("[Tickets] Ann <a@b.example>", ["a@b.example"], "[Tickets] Ann"),
        ("=?utf-8?q?J=C3=BCrgen?= =?utf-8?q?_M?= <a@b.example>", ["a@b.example"], "Jürgen M"),
        ("=?utf-8?b?bad=?= <a@b.example>", ["a@b.example"], None),
        ("=?rot13?q?nop?= <a@b.example>", ["a@b.example"], "nop"),
        ("=?iso-8859-1*de?q?gr=FCn?= <a@b.example>", ["a@b.example"], "grün"),
        ("=?utf-8?q?a=0D=0AX=3A_y=1B?= <a@b.example>", ["a@b.example"], "a  X: y"),
        ("Jürgen <a@b.example>", ["a@b.example"], "Jürgen"),
        (b"J\xfcrgen <a@b.example>", ["a@b.example"], "Jürgen"),
        ("jürgen@grün.example", ["jürgen@grün.example"], ""),
        ("a@xn--grn-hoa.example", ["a@xn--grn-hoa.example"], ""),
        ('"a b"@c.example', ['"a b"@c.example'], ""),
        ("a@[192.0.2.1]", ["a@[192.0.2.1]"], ""),
        ("o'neil+x!%/=@c.example", ["o'neil+x!%/=@c.example"], ""),
        ("\r\n a@b.example", ["a@b.example"], ""),
        ("Ann\r\n\tExample\r\n <a@b.example>", ["a@b.example"], "Ann Example"),
        # who is meant, and who is only named
        ('"ceo@corp.example" <app@x.example>', ["app@x.example"], "ceo@corp.example"),
        ('"<ceo@corp.example>" <app@x.example>', ["app@x.example"], "<ceo@corp.example>"),
        ("(ceo@corp.example) app@x.example", ["app@x.example"], ""),
        ("app@x.example (<ceo@corp.example>)", ["app@x.example"], "<ceo@corp.example>"),
        ("=?utf-8?q?ceo=40corp=2Eexample?= <app@x.example>", ["app@x.example"], "ceo@corp.example"),
        ("=?utf-8?q?=3Cceo=40corp=3E=2C?= <app@x.example>", ["app@x.example"], "<ceo@corp>,"),
        # lists
        ("a@x, B <b@y>", ["a@x", "b@y"], ""),
        ("Ann <a@x>, b@y", ["a@x", "b@y"], "Ann"),
        ("a@x, a@x", ["a@x"], ""),
        ("a@x, A@x", ["a@x", "A@x"], ""),
        ("a@x,", ["a@x"], ""),
        ("Board: a@x, Bob <b@y>;", ["a@x", "b@y"], ""),
        ("Board: a@x;, b@y", ["a@x", "b@y"], ""),
        ("The Machine:;", [], ""),
        ("a@x.example <a@x.example>", ["a@x.example"], ""),
    ],
)
def test_what_leaves_no_doubt_is_read(body: str | bytes, addresses: list[str], display: str | None) -> None:
    authors = read(body)
    assert (list(authors.addresses), authors.readable, authors.present) == (addresses, True, True)
    assert display is None or authors.display == display


@pytest.mark.parametrize(
    "body",
    [
        "",
        " ",
        ",",
        "<>",
        "root",
        "root (Cron Daemon)",
        "Ann Example",
        "Ann Example a@b.example",
        "ceo@corp.example <app@x.example>",
        "app@x.example ceo@corp.example",
        "app@x.example; ceo@corp.example",
        "<app@x.example> ceo@corp.example",
        "<app@x.example> Ann",
        "<app@x.example> <ceo@corp.example>",
        "<app@x.example><ceo@corp.example>",
        "<<app@x.example>>",
        "<app@x.example",
        "app@x.example>",
        "Example, Ann <app@x.example>",
        "Board: app@x.example",
        "mailto:app@x.example",
        ":app@x.example;",
        "A: B: app@x.example;;",
        "<@a.example:app@x.example>",
        "<@a.example,@b.example:app@x.example>",
        "app@x.example@corp.example",
        "app @x.example",
        "app@ x.example",
        "app(c)@x.example",
        "app@x.example.",
        ".app@x.example",
        "a..b@x.example",
        "app@",
        "@x.example",
        '"app@x.example',
        '"app"x@x.example',
        'app"@x.example',
        "(app@x.example",
        "(a(b(c(d)))) app@x.example",
        "app@x.example)",
        r"app\@corp.example@x.example",
        r"Ann \ <app@x.example>",
        "[Ann <app@x.example>",
        "a@[1.2.3.4",
        "=?utf-8?q?app?=@x.example",
        "<=?utf-8?q?app=40x.example?=>",
        "=?utf-8?q?app=40x=2Eexample?=",
        "=?utf-8?q?Example,_Ann?= <app@x.example>",
        "app@x.example\x00",
        "A\x00nn <app@x.example>",
        "Ann\x1b <app@x.example>",
        "app\u200b@x.example",
        "app\u202e@x.example",
        "app@x\u3002example",
        "app\uff20corp.example@x.example",
        "app\uff1e@x.example",
        "<\u0338app@x.example>",
        "app@x\u2024example",
        "app\u00a8@x.example",
        b"j\xfcrgen@x.example",
        b"app@gr\xfcn.example",
        b"app@x.example\xff",
        "x" * 65 + "@x.example",
        "x@" + "y." * 130 + "example",
        "x" * 10_000 + " <app@x.example>",
        "a@b" + " " * (MAX_BODY + 1) + ",c@d",
        ", ".join(f"a{number}@x" for number in range(MAX_AUTHORS + 1)),
    ],
)
def test_what_leaves_a_doubt_is_not_read(body: str | bytes) -> None:
    authors = read(body)
    assert authors == Authors((), "", "", readable=False, present=True)
    assert the_author(authors) is None


def test_fields_are_found_however_they_are_written() -> None:
    for field in (b"from: a@x\r\n", b"FROM \t: a@x\r\n", b"From:\r\n a@x\r\n", b"From:a@x\r\n \r\n"):
        assert read_authors(field).addresses == ("a@x",)
        assert read_authors(b"X: y\r\n" + field + b"Sender: s@x\r\n") == Authors(("a@x",), "s@x", "", True, True)
    assert read_authors(b"X-From: a@x\r\nFrom-X: b@x\r\nX: y\r\n From: c@x\r\n") == Authors()
    assert read_authors(b"") == Authors()


def test_an_author_named_twice_is_a_doubt() -> None:
    for section in (b"From: a@x\r\nFrom: a@x\r\n", b"From: a@x\r\nSubject: s\r\nfrom : b@x\r\nSender: s@x\r\n"):
        authors = read_authors(section)
        assert (authors.addresses, authors.readable, authors.present) == ((), False, True)


@pytest.mark.parametrize("sender", [b"Ann", b"a@x, b@x", b"", b"a@x\r\nSender: a@x", b"Group:;", b"\xff@x"])
def test_a_sender_that_cannot_be_read_is_a_doubt_too(sender: bytes) -> None:
    authors = read_authors(b"From: a@x\r\nSender: " + sender + b"\r\n")
    assert (authors.addresses, authors.sender, authors.readable) == (("a@x",), "", False)
    assert the_author(authors) is None


def test_the_header_decides_by_a_written_rule() -> None:
    assert the_author(Authors(("a@x",), present=True)) == "a@x"
    assert the_author(Authors(("a@x",), "s@x", present=True)) == "s@x"
    assert the_author(Authors(("a@x", "b@x"), "s@x", present=True)) == "s@x"
    assert the_author(Authors(("a@x", "b@x"), present=True)) is None
    assert the_author(Authors((), "s@x")) == "s@x"
    assert the_author(Authors()) is None
    assert the_author(Authors((), "s@x", readable=False, present=True)) is None


def test_display_names_are_bounded() -> None:
    assert len(read('"' + "x" * 3000 + '" <a@x>').display) == 255


def test_up_to_fifty_authors_are_read() -> None:
    listed = [f"a{number}@x" for number in range(MAX_AUTHORS)]
    assert read(",\r\n ".join(listed)).addresses == tuple(listed)


PIECE = st.sampled_from(
    [
        *(
            "a@b",
            "ceo@corp.com",
            "<app@x>",
            "<",
            ">",
            '"',
            '"q q"',
            "(c)",
            "(a@b)",
            "(",
            ")",
            ",",
            ";",
            ":",
            "Ann",
            ".",
        ),
        *(" ", "@", "\\", "=?utf-8?q?ceo=40corp.com?=", "=?utf-8?q?=3Cceo=40corp.com=3E?=", "ü", '"ceo@corp.com"'),
        *("Group:", '"a b"@x.y', "o'x@y.z", "\t", "<@a:b@c>"),
    ]
)


@given(pieces=st.lists(PIECE, max_size=8))
def test_other_programs_read_the_same_addresses(pieces: list[str]) -> None:
    text = "".join(pieces)
    boxes = mailboxes(text.encode())
    if boxes is None:
        return
    ours = [box.address for box in boxes]
    lenient = [address for _, address in email.utils.getaddresses([text]) if address]
    assert set(lenient) == set(ours)
    try:
        strict = [address.addr_spec for address in HeaderRegistry()("From", text).addresses]
    except (AttributeError, IndexError, TypeError):  # its own faults: phrases of dots, empty groups
        return
    assert strict == ours


@given(body=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore")))
def test_whatever_stands_there_is_read_or_not(body: bytes) -> None:
    for box in mailboxes(body) or ():
        assert box.address.isprintable()
        assert box.address.encode() in body
        assert display(box).isprintable()
    read_authors(body)
