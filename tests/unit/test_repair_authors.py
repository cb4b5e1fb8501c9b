"""The author that a header must have: the judge, rewriting, captured mail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.author import AuthorRefused, Authors, mailboxes
from relay.mail.care import Care
from relay.mail.errors import RelayError
from relay.mail.header import Facts, HeaderSurgeon
from relay.mail.reply import Reply
from tests.unit.test_header import FULL, TRACE
from tests.unit.test_repair import ACCOUNT, tend

DATED = b"Date: Tue, 14 Nov 2023 22:13:20 +0000\r\nMessage-ID: <m@b>\r\n"


@pytest.mark.parametrize("size", [1, 13, None])
def test_the_judge_is_asked_once_about_what_goes_out(size: int | None) -> None:
    asked: list[Authors] = []
    judge = asked.append
    tend(b"From: Ann <a@x>\r\nSender: s@x\r\n", judge=judge, size=size)
    assert asked == [Authors(("a@x",), "s@x", "Ann", True, True)]
    asked.clear()
    tend(b"Subject: s\r\n", judge=judge, size=size)
    assert asked == [Authors()]
    asked.clear()
    tend(b"From: scanner\r\n", judge=judge, size=size)
    assert asked == [Authors(readable=False, present=True)]
    asked.clear()
    tend(b"From: scanner\r\n", "broken-fields", judge=judge, size=size)
    assert asked == [Authors()]
    asked.clear()
    tend(b"From: a@x\r\nFrom: b@x\r\n", "doubled-fields", judge=judge, size=size)
    assert asked == [Authors(("a@x",), present=True)]


def test_what_the_judge_raises_comes_out() -> None:
    def judge(authors: Authors) -> str | None:
        raise AuthorRefused(Reply(550, "5.7.1", "no"))

    for header in (b"From: a@b\r\n\r\n", b"From: a@b\r\n"):
        surgeon = HeaderSurgeon(TRACE, Care(judge=judge))
        with pytest.raises(AuthorRefused) as raised:
            _ = surgeon.feed(header) + surgeon.finish()
        assert raised.value.reply.code == 550
        assert isinstance(raised.value, RelayError)


def test_a_sender_without_from_is_the_author_that_is_added() -> None:
    header, facts = tend(b"Sender: Ann <s@x>\r\n" + DATED, judge=lambda authors: None)
    assert header == b"Sender: Ann <s@x>\r\n" + DATED + b"From: <s@x>\r\n"
    assert facts.repaired == ("From",)
    header, _ = tend(b"From: scanner\r\nSender: s@x\r\n" + DATED, "broken-fields", judge=lambda authors: None)
    assert header == b"X-Original-From: scanner\r\nSender: s@x\r\n" + DATED + b"From: <s@x>\r\n"


@pytest.mark.parametrize(
    ("author", "name"),
    [
        (b"Ann Example <a@x>", "Ann Example "),
        (b'"Example, \\"A\\" Ann" <a@x>', '"Example, \\"A\\" Ann" '),
        (
            b"=?iso-2022-jp?b?GyRCOzNFRBsoQg==?=\r\n =?utf-8?q?x?= <a@x>",
            "=?iso-2022-jp?b?GyRCOzNFRBsoQg==?= =?utf-8?q?x?= ",
        ),
        (b"a@x", '"a@x" '),
        (b"<a@x>", '"a@x" '),
        (b"a@x (Ann Example)", "Ann Example "),
        (b"a@x (Ann, the first)", '"Ann, the first" '),
        (b"Ann (work) <a@x>", "Ann "),
        (b"[T] Ann <a@x>", '"[T] Ann" '),
        ("Jürgen <a@x>".encode(), "=?utf-8?q?J=C3=BCrgen?= "),
        ("jürgen@x".encode(), "=?utf-8?b?asO8cmdlbkB4?= "),
        (b"Ann <a@x>, b@y", "Ann "),
        (b'"ceo@corp.com" <a@x>', '"ceo@corp.com" '),
    ],
)
def test_the_author_becomes_the_one_that_may_send(author: bytes, name: str) -> None:
    header, facts = tend(b"Subject: s\r\nFrom: " + author + b"\r\n" + DATED, judge=lambda authors: ACCOUNT)
    assert header == (
        f"Subject: s\r\nFrom: {name}<{ACCOUNT}>\r\n".encode()
        + b"Reply-To: " + author + b"\r\nX-Original-From: " + author + b"\r\n" + DATED
    )  # fmt: skip
    assert facts.repaired == ("rewritten-from",)
    assert facts.header_from == author.replace(b"\r\n", b"").decode()


def test_replies_go_where_they_went() -> None:
    header, _ = tend(b"Reply-To: r@x\r\nFrom: a@x\r\n" + DATED, judge=lambda authors: ACCOUNT)
    assert header == f'Reply-To: r@x\r\nFrom: "a@x" <{ACCOUNT}>\r\nX-Original-From: a@x\r\n'.encode() + DATED


def test_an_author_that_cannot_be_read_is_kept_beside() -> None:
    header, _ = tend(b"From: b@x\r\nSender: s@x\r\nFrom: Ann a@x\r\n" + DATED, judge=lambda authors: ACCOUNT)
    assert header == (
        f"From: <{ACCOUNT}>\r\nX-Original-From: b@x\r\nX-Original-From: Ann a@x\r\n".encode() + DATED
    )  # fmt: skip


def test_a_sender_that_differs_goes() -> None:
    header, facts = tend(b"From: a@x\r\nSender: s@x\r\n  (x)\r\n" + DATED, judge=lambda authors: ACCOUNT)
    assert b"Sender" not in header
    assert facts.repaired == ("-sender", "rewritten-from")
    same = f"From: Ann <{ACCOUNT}>\r\nSender: {ACCOUNT.upper()}\r\n".encode() + DATED
    assert tend(same, judge=lambda authors: ACCOUNT) == (same, Facts("<m@b>", f"Ann <{ACCOUNT}>"))
    same = f"From: Ann <{ACCOUNT}>\r\n".encode() + DATED
    assert tend(same + b"Sender: s@x\r\n", judge=lambda authors: ACCOUNT)[0] == same


@pytest.mark.parametrize("switch", ["missing-fields", "no-missing-fields"])
def test_a_missing_author_is_the_one_that_may_send(switch: str) -> None:
    header, facts = tend(DATED, switch, judge=lambda authors: ACCOUNT)
    assert header == DATED + f"From: <{ACCOUNT}>\r\n".encode()
    assert (facts.header_from, facts.repaired) == (f"<{ACCOUNT}>", ("rewritten-from",))


def test_a_broken_author_too() -> None:
    header, facts = tend(b"From: scanner\r\n" + DATED, "broken-fields", judge=lambda authors: ACCOUNT)
    assert header == b"X-Original-From: scanner\r\n" + DATED + f"From: <{ACCOUNT}>\r\n".encode()
    assert facts.repaired == ("broken-fields", "rewritten-from")


def test_long_authors_stay_on_lines_that_may_be_sent() -> None:
    for author in (b"x" * 980 + b" <a@x>", b'"' + b"y " * 490 + b'" <a@x>', b"a@x (" + b"z" * 980 + b")"):
        header, _ = tend(b"From:" + author + b"\r\n" + DATED, judge=lambda authors: ACCOUNT)
        assert max(map(len, header.split(b"\r\n"))) <= 998
        assert f"<{ACCOUNT}>\r\n".encode() in header


def test_addresses_beyond_ascii_can_be_authors() -> None:
    header, _ = tend(b"From: a@x\r\n" + DATED, judge=lambda authors: "jürgen@grün.example")
    assert header.startswith('From: "a@x" <jürgen@grün.example>\r\n'.encode())


def test_no_address_ends_a_field() -> None:
    for address in ("a@b>\r\nBcc: <x@y", "a@b\n", "a\x00@b"):
        with pytest.raises(ValueError, match="control character"):
            tend(b"From: a@x\r\n", judge=lambda authors, address=address: address)


def test_captured_recipients_are_named() -> None:
    header, facts = tend(FULL, captured=("ann@example.org", '"a   b"@example.org', "jürgen@example.org"))
    assert header == FULL + (
        'X-Original-Recipients: <ann@example.org>, <"a   b"@example.org>,\r\n <jürgen@example.org>\r\n'.encode()
    )
    assert facts.repaired == ("captured",)


def test_captured_recipients_are_counted_beyond_a_hundred() -> None:
    header, _ = tend(FULL, captured=tuple(f"{number}{'x' * 40}@example.org" for number in range(1000)))
    assert header.count(b"@example.org>") == 100
    assert header.endswith(b" (and 900 more)\r\n")
    assert max(map(len, header.split(b"\r\n"))) <= 78


WORD = st.sampled_from(
    [
        *("a@b", "<c@d>", "<ü@d>", '"ö" <e@f>', "ü", '"ü, (x" ', "(ü)", r"(ü \) (ä))", ",", ";", "Grüne:", " ", "Ann"),
        *(".", "=?utf-8?q?=3C?=", "[ü]", '"ü"@x', "ü@x", '"', "(", "@", "\\"),
    ]
)


@given(words=st.lists(WORD, max_size=10))
def test_no_address_is_changed_by_encoding_the_names(words: list[str]) -> None:
    before = "".join(words).encode()
    header, _ = tend(b"To: " + before + b"\r\n" + FULL, "raw-8bit")
    after = header.partition(b"To:")[2].partition(b"\r\nFrom:")[0].replace(b"\r\n", b"")
    boxes = mailboxes(before)
    if boxes is not None:
        assert [box.address for box in mailboxes(after) or ()] == [box.address for box in boxes]
