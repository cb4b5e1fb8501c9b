"""An envelope carried into a header: everybody in it gets the mail, nobody else does, nobody sees who is hidden."""

from __future__ import annotations

import email
import email.policy
import string
import time
from email.utils import getaddresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.accounts.normalise import normalise
from relay.mail.addressing import Addressed, addressed, authored

ANN, BOB, CY = "ann@example.org", "bob@example.net", "cy@example.com"


def narrowed(section: bytes, *recipients: str) -> Addressed:
    return addressed(section, recipients, normalise)


def who(section: bytes, *names: str) -> set[str]:
    """Whom a reader that is not ours finds in these fields, normalised."""
    message = email.message_from_bytes(section + b"\r\n", policy=email.policy.compat32)
    fields = [str(value) for name in names for value in message.get_all(name, [])]
    return {normalise(address) for _, address in getaddresses(fields) if address}


def test_a_header_that_says_what_the_envelope_says_stays_as_it_came() -> None:
    section = b'From: a@b\r\nto: Ann <ANN@Example.org>,\r\n\t"Net, Bob" <bob@example.net>\r\nCC: cy@example.com\r\n'
    assert narrowed(section, ANN, BOB, CY) == Addressed(section)


def test_who_is_only_in_the_envelope_is_hidden() -> None:
    result = narrowed(b"To: ann@example.org\r\nSubject: x\r\n", ANN, BOB)
    assert result == Addressed(b"To: ann@example.org\r\nSubject: x\r\nBcc: <bob@example.net>\r\n", hidden=1)


def test_who_is_only_in_the_header_gets_nothing() -> None:
    result = narrowed(b'To: Ann <ann@example.org>, "B, B" <bob@example.net>\r\nCc: Cy <cy@example.com>\r\n', ANN)
    assert result == Addressed(b"To: Ann <ann@example.org>\r\n", removed=2)


def test_an_empty_to_is_left_out() -> None:
    assert narrowed(b"To: undisclosed-recipients:;\r\n", ANN) == Addressed(b"Bcc: <ann@example.org>\r\n", hidden=1)
    assert narrowed(b"To: bob@example.net\r\n", ANN).section == b"Bcc: <ann@example.org>\r\n"
    assert narrowed(b"Subject: x\r\n", ANN).section == b"Subject: x\r\nBcc: <ann@example.org>\r\n"


@pytest.mark.parametrize("name", ["Bcc", "Resent-To", "Resent-Cc", "Resent-Bcc", "Apparently-To", "bcc "])
def test_other_fields_that_name_recipients_go(name: str) -> None:
    section = f"{name}: bob@example.net,\r\n cy@example.com\r\nTo: ann@example.org\r\n".encode()
    assert narrowed(section, ANN).section == b"To: ann@example.org\r\n"


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("Team: ann@example.org, bob@example.net;, cy@example.com", "<ann@example.org>"),
        ("ann@example.org (bob@example.net)", '"bob@example.net" <ann@example.org>'),
        ("ann@example.org; bob@example.net", "<ann@example.org>"),  # as some mail programs write lists
        ("=?utf-8?q?Ann?= <ann@example.org>, bob@example.net", "=?utf-8?q?Ann?= <ann@example.org>"),
        ("ann@example.org\r\n\t,\r\n bob@example.net", "<ann@example.org>"),
        ("Ann <ann@example.org> <bob@example.net>", "<ann@example.org>"),
        ("Ann \\(x\\) <ann@example.org>", "<ann@example.org>"),
        ("Jürgen <ann@example.org>", "=?utf-8?q?J=C3=BCrgen?= <ann@example.org>"),
        ("ann@example.org <ann@example.org>", "<ann@example.org>"),
    ],
)
def test_odd_lists_are_made_anew(to: str, said: str) -> None:
    assert narrowed(f"To: {to}\r\n".encode(), ANN).section == f"To: {said}\r\n".encode()


def test_two_fields_of_one_name_become_one() -> None:
    result = narrowed(b"To: ann@example.org\r\nSubject: x\r\nTo: bob@example.net\r\n", ANN, BOB)
    assert result.section == b"To: <ann@example.org>, <bob@example.net>\r\nSubject: x\r\n"


def test_what_cannot_be_read_names_only_recipients() -> None:
    result = narrowed(b"To: <<ann@example.org>, bob@example.net\r\n", ANN)
    assert (result.section, result.unread) == (b"To: <ann@example.org>\r\n", ("To",))


def test_a_domain_in_other_letters_is_the_same_domain() -> None:
    recipient = "ann@xn--bcher-kva.example"
    assert (
        narrowed("To: Ann <ann@bücher.example>\r\n".encode(), recipient).section
        == f"To: Ann <{recipient}>\r\n".encode()
    )


def test_thousands_of_addresses_cost_little() -> None:
    recipients = [f"user{number}@example.org" for number in range(1000)]
    listed = ",\r\n ".join(recipients).encode()
    begun = time.process_time()
    assert narrowed(b"To: " + listed + b"\r\n", *recipients).section == b"To: " + listed + b"\r\n"
    assert narrowed(b"To: " + listed + b", extra@example.org\r\n", *recipients).removed == 1
    for hostile in (b"a" * 100_000, b"a@" * 50_000, b"(" * 100_000, b'"' * 99_999, b"<" * 100_000, b"a:" * 50_000):
        narrowed(b"To: " + hostile + b"\r\n", ANN)
    assert time.process_time() - begun < 3


NAMES = st.text(string.ascii_letters + " .'@,;:<>()[]äß=?\\\"", max_size=12)
USERS = [ANN, BOB, CY, '"a b"@example.org', "d.e+f@example.org", "g@xn--bcher-kva.example"]
BOXES = st.tuples(st.sampled_from(USERS), NAMES).map(lambda pair: _box(*pair))
LISTS = st.lists(BOXES, max_size=5).map(", ".join)
TEAMS = st.tuples(LISTS, LISTS).map(lambda pair: f"Team: {pair[0]};" + (f", {pair[1]}" if pair[1] else ""))
GARBAGE = st.text(string.printable.replace("\n", "").replace("\r", "") + "äß", max_size=40)
FIELDS = st.tuples(st.sampled_from(["To", "Cc", "to", "CC", "Bcc", "Resent-To"]), st.one_of(LISTS, TEAMS, GARBAGE)).map(
    lambda pair: f"{pair[0]}: {pair[1]}\r\n".encode("utf-8", "surrogateescape")
)


def _box(address: str, name: str) -> str:
    if not name.strip():
        return address
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}" <{address}>' if len(name) % 3 else f"{address} ({quoted.replace('(', '').replace(')', '')})"


@given(fields=st.lists(FIELDS, max_size=5), recipients=st.sets(st.sampled_from(USERS), min_size=1))
def test_everybody_in_the_envelope_and_nobody_else(fields: list[bytes], recipients: set[str]) -> None:
    result = narrowed(b"".join(fields) + b"Subject: x\r\n", *sorted(recipients))
    wanted = {normalise(recipient) for recipient in recipients}
    assert who(result.section, "To", "Cc", "Bcc") == wanted
    assert not who(result.section, "Resent-To", "Resent-Cc", "Resent-Bcc")
    assert b"Subject: x\r\n" in result.section


@given(fields=st.lists(FIELDS, max_size=5), recipients=st.sets(st.sampled_from(USERS), min_size=1))
def test_no_hidden_recipient_is_shown(fields: list[bytes], recipients: set[str]) -> None:
    shown = b"".join(field for field in fields if field[:2].lower() in (b"to", b"cc"))
    hidden = [recipient for recipient in recipients if recipient.encode() not in shown]
    visible = narrowed(b"".join(fields), *sorted(recipients)).section.partition(b"Bcc:")[0]
    if b"xn--" not in visible:  # that one may have stood there in other letters
        assert not [recipient for recipient in hidden if recipient.encode() in visible]


@given(fields=st.lists(FIELDS, max_size=5), recipients=st.sets(st.sampled_from(USERS), min_size=1))
def test_a_second_time_changes_nothing(fields: list[bytes], recipients: set[str]) -> None:
    ordered = sorted(recipients)
    once = narrowed(b"".join(fields), *ordered).section
    again = narrowed(once, *ordered).section
    assert who(again, "To", "Cc") == who(once, "To", "Cc")
    assert again.count(b"Bcc:") == once.count(b"Bcc:") <= 1


def may_be(author: str) -> bool:
    return author == ANN


@pytest.mark.parametrize(
    ("section", "becomes", "done"),
    [
        (b"From: Ann <ann@example.org>\r\n", None, ()),
        (b"From: Ann <ann@example.org>\r\nSender: ann@example.org\r\n", None, ()),
        (
            b"From: Ann <ann@example.org>\r\nSender: bob@example.net\r\n",
            b"From: Ann <ann@example.org>\r\n",
            ("-sender",),
        ),
        (
            b"From: Bob <bob@example.net>\r\n",
            b"From: Bob <cy@example.com>\r\n"
            b"Reply-To: Bob <bob@example.net>\r\nX-Original-From: Bob <bob@example.net>\r\n",
            ("rewritten-from",),
        ),
        (
            b"From: <<bob@example.net>\r\n",
            b"From: <cy@example.com>\r\nX-Original-From: <<bob@example.net>\r\n",
            ("rewritten-from",),
        ),
    ],
)
def test_the_author_is_whom_the_account_speaks_for(
    section: bytes, becomes: bytes | None, done: tuple[str, ...]
) -> None:
    assert authored(section, may_be, CY) == (section if becomes is None else becomes, done)
