"""Delivery status notifications, parsed back by the standard library and compared with what was meant (RFC 3464)."""

from __future__ import annotations

from dataclasses import replace
from email import message_from_bytes, policy
from email.message import EmailMessage, Message

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.accounts.model import Account
from relay.aftercare.letters import MARK, Postmark, own_mail
from relay.aftercare.original import MOST, Original, original_of
from relay.aftercare.reports import Fate, Report, report, status_of
from relay.mail.content import stuff, unstuff
from relay.queue.model import Owed
from relay.queue.ours import OwnMail

AT = 1_790_000_000_000
HEADER = (
    b"Subject: =?utf-8?q?Rechnung_f=C3=BCr_J=C3=BCrgen?=\r\nFrom: <app@example.com>\r\nMessage-ID: <1@example.com>\r\n"
)
MAIL = HEADER + b"\r\nbody\r\n.dot\r\n"
GONE = Fate(
    "gone@example.org",
    Owed.FAILED,
    "rfc822;old+2Bgone@example.org",
    550,
    "5.1.1",
    "no such user",
    "smtp.office365.com",
    "The recipient's address does not exist.",
    ("Check the address.", "Ask the recipient."),
    AT + 5_000,
)


def original(mail: bytes = MAIL, *, full: bool = True, plain_only: bool = False, size: int | None = None) -> Original:
    wire = stuff(mail)
    return original_of(wire[:MOST], size=len(wire) if size is None else size, full=full, plain_only=plain_only)


def facts(*fates: Fate, shown: Original | None = None, **more: object) -> Report:
    given = {"envid": "QQ+2B314", "waits": 0, "unsaid": 0} | more
    shown = shown or original()
    return Report(
        "02vm3h2c5x000",
        "app@example.com",
        "<1@example.com>",
        str(given["envid"]),
        AT,
        AT + 432_000_000,
        fates,
        shown,
        waits=int(str(given["waits"])),
        unsaid=int(str(given["unsaid"])),
    )


def sent(told: Report) -> OwnMail:
    account, mark = Account(1, "app@example.com", "m365", "password"), Postmark("r.example")
    mail, body = report(told, relay="relay.example.com")
    to = account.address
    return own_mail(mail, body=body, id=7, kind="bounce", carrier=account, recipient=to, postmark=mark, now=AT)


def parsed(told: Report) -> tuple[EmailMessage, str, list[Message], Message]:
    """The notice, its words, its blocks of fields, its third part."""
    octets = unstuff(sent(told).content)
    assert b"\n" not in octets.replace(b"\r\n", b"")
    message = message_from_bytes(octets, policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    words, status, third = message.get_payload()
    assert [words.get_content_type(), status.get_content_type()] == ["text/plain", "message/delivery-status"]
    blocks = status.get_payload()
    assert all(not block.defects for block in blocks)
    return message, words.get_content().replace("\r\n", "\n"), blocks, third


def test_a_failure_says_everything_that_rfc_3464_asks_for() -> None:
    message, words, (whole, one), third = parsed(facts(GONE))
    assert message["Subject"] == "Not delivered: Rechnung für Jürgen"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message[MARK].startswith("bounce;")
    assert dict(whole.items()) == {
        "Original-Envelope-Id": "QQ+314",
        "Reporting-MTA": "dns; relay.example.com",
        "Arrival-Date": "Mon, 21 Sep 2026 14:13:20 +0000",
    }
    assert dict(one.items()) == {
        "Original-Recipient": "rfc822; old+gone@example.org",
        "Final-Recipient": "rfc822; gone@example.org",
        "Action": "failed",
        "Status": "5.1.1",
        "Remote-MTA": "dns; smtp.office365.com",
        "Diagnostic-Code": "smtp; 550 5.1.1 no such user",
        "Last-Attempt-Date": "Mon, 21 Sep 2026 14:13:25 +0000",
    }
    assert third.get_content_type() == "message/rfc822"
    [inner] = third.get_payload()
    assert inner["Message-ID"] == "<1@example.com>"
    assert inner.get_payload() in ("body\n.dot\n", "body\r\n.dot\r\n")
    for expected in (
        "gone@example.org",
        "The recipient's address does not exist.",
        "1. Check the address.",
        "550 5.1.1",
    ):
        assert expected in words
    assert max(map(len, words.splitlines())) <= 76


def test_what_waits_says_until_when_and_what_was_relayed_says_no_more_than_that() -> None:
    waits = replace(GONE, action=Owed.DELAYED, code=451, status="4.4.1", orcpt="")
    message, words, (_, one), _ = parsed(facts(waits))
    assert message["Subject"].startswith("Delayed: ")
    assert (one["Action"], one["Status"]) == ("delayed", "4.4.1")
    assert one["Will-Retry-Until"] == "Sat, 26 Sep 2026 14:13:20 +0000"
    assert one["Original-Recipient"] is None
    assert "tried until 2026-09-26 14:13 UTC" in " ".join(words.split())
    handed = replace(GONE, action=Owed.RELAYED, code=250, status="2.6.0", reply="taken")
    message, words, (_, one), _ = parsed(facts(handed))
    assert (one["Action"], one["Status"], one["Will-Retry-Until"]) == ("relayed", "2.6.0", None)
    assert "nobody will tell whether it has arrived" in " ".join(words.split())


def test_all_that_failed_together_are_in_one_and_joined_by_their_reason() -> None:
    many = [replace(GONE, recipient=f"r{n}@example.org", orcpt="") for n in range(300)]
    full = replace(
        GONE, recipient="full@example.org", status="5.2.2", reply="mailbox full", cause="It is full.", steps=()
    )
    _, words, (_, *each), _ = parsed(facts(*many, full, waits=2, unsaid=3))
    assert [block["Final-Recipient"] for block in each] == [f"rfc822; r{n}@example.org" for n in range(300)] + [
        "rfc822; full@example.org"
    ]
    assert words.count("The recipient's address does not exist.") == 1
    assert "and 250 more" in words
    assert "2 other recipients are still tried." in " ".join(words.split())
    assert "3 more notices were not written" in words


@pytest.mark.parametrize(
    ("fate", "status"),
    [
        (GONE, "5.1.1"),
        (replace(GONE, status=""), "5.0.0"),
        (replace(GONE, code=450, status="4.2.1"), "5.2.1"),
        (replace(GONE, code=0, status="", expired=True), "4.4.7"),
        (replace(GONE, code=451, status="4.3.0", expired=True), "4.4.7"),
        (replace(GONE, action=Owed.DELAYED, code=0, status=""), "4.0.0"),
        (replace(GONE, action=Owed.RELAYED, code=250, status=""), "2.0.0"),
    ],
)
def test_the_status_fits_the_action(fate: Fate, status: str) -> None:
    assert status_of(fate) == status


def test_without_an_attempt_there_is_no_remote_and_no_diagnostic_code() -> None:
    never = Fate(
        "a@example.org", Owed.FAILED, "", 0, "", "", "", "It could not be handed over.", (), None, expired=True
    )
    _, _, (_, one), _ = parsed(facts(never, envid=""))
    assert set(one.keys()) == {"Final-Recipient", "Action", "Status"}


def test_an_address_beyond_ascii_keeps_its_seven_bit_form() -> None:
    wide = replace(GONE, recipient="jürgen@example.org", orcpt=r"utf-8;j\x{FC}rgen@example.org")
    _, _, (_, one), _ = parsed(facts(wide))
    assert one["Final-Recipient"] == r"utf-8; j\x{FC}rgen@example.org"
    assert one["Original-Recipient"] == r"utf-8; j\x{FC}rgen@example.org"


# -- the original


def third(shown: Original) -> Message:
    return parsed(facts(GONE, shown=shown))[3]


def test_ret_hdrs_shows_the_header_alone() -> None:
    part = third(original(full=False))
    assert part.get_content_type() == "text/rfc822-headers"
    assert "body" not in part.get_payload()
    assert "Message-ID: <1@example.com>" in part.get_payload()


def test_never_more_than_64_kib_of_the_original() -> None:
    big = MAIL + b"x" * 70 * 1024 + b"\r\n"
    shown = original(big)
    assert shown.described == "The header of the message is attached."
    assert len(shown.part) < 1000
    endless = b"Subject: x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 90) for n in range(1000)) + b"\r\nbody\r\n"
    shown = original(endless)
    assert MOST - 200 < len(shown.part) <= MOST + 100
    assert shown.part.endswith(b"y\r\n"), "cut at a line"
    assert len(sent(facts(GONE, shown=shown)).content) < MOST + 8_000


def test_no_blind_recipient_is_shown() -> None:
    secret = b"Bcc: boss@example.com,\r\n\tchief@example.com\r\nReturn-Path: <x@y>\r\n" + MAIL
    for full in (True, False):
        part = original(secret, full=full).part
        assert b"boss" not in part
        assert b"chief" not in part
        assert b"x@y" not in part
        assert b"Rechnung" in part


def test_eight_bit_text_is_shown_whole_only_where_it_can_go() -> None:
    wide = HEADER + "\r\nGrüße\r\n".encode()
    assert "Grüße".encode() in original(wide).part
    assert sent(facts(GONE, shown=original(wide))).content.count("Grüße".encode()) == 1
    assert sent(facts(GONE, shown=original(wide, plain_only=True))).content.isascii()
    raw = "Subject: Grüße\r\n\r\nx\r\n".encode()
    headers = original(raw, full=False)
    assert headers.subject == "Grüße"
    assert sent(facts(GONE, shown=headers)).content.isascii()
    assert "Grüße" in third(headers).get_payload(decode=True).decode()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("field", "told"),
    [
        (b"Auto-Submitted: auto-replied", False),
        (b"Auto-Submitted: Auto-Replied (vacation)", True),
        (b"Auto-Submitted: auto-replied; owner=x", False),
        (b"Auto-Submitted: auto-generated", True),
        (b"Auto-Submitted: no", True),
        (b"Precedence: bulk", False),
        (b"PRECEDENCE:\r\n list", False),
        (b"Precedence: junk", False),
        (b"Precedence: first-class", True),
        (b"X-Relay-Notice: bounce; relay=other.example", False),
        (b"Subject: Precedence: bulk", True),
    ],
)
def test_who_writes_by_itself_to_many_or_in_answer_gets_no_notice(field: bytes, told: bool) -> None:
    assert (original(field + b"\r\n" + MAIL).silence == "") is told


def test_content_that_is_gone_is_said_to_be() -> None:
    shown = original_of(b"", size=100, full=True, plain_only=False)
    assert shown.described == "The message itself is not kept any more."
    assert third(shown).get_payload() == ""


@settings(deadline=None)  # the parser of the standard library takes its time
@given(
    text=st.text(max_size=200),
    reply=st.text(max_size=2000),
    body=st.binary(max_size=300).map(lambda octets: octets.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n"),
)
def test_nothing_that_others_wrote_changes_the_structure(text: str, reply: str, body: bytes) -> None:
    fate = replace(GONE, cause=text, reply=reply, steps=(text,))
    _, _, blocks, part = parsed(facts(fate, shown=original(HEADER + b"\r\n" + body)))
    assert len(blocks) == 2
    assert blocks[1]["Final-Recipient"] == "rfc822; gone@example.org"
    assert part.get_content_type() == "message/rfc822"
