"""Notifications of others: what servers write is understood, and nothing that anybody writes does harm."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.aftercare.original import original_of
from relay.aftercare.reports import Fate, Report, report
from relay.mail.returned import MOST_OCTETS, Notification, Return, may_be_notification, read_notification
from relay.queue.model import Owed

RECEIVED = (
    b"Received: from app ([127.0.0.1])\r\n\tby relay.example (relay i-1)\r\n\twith ESMTP id 02vm3h2c5x000"
    b" for <gone@example.org>;\r\n\tTue, 24 Nov 2026 15:00:00 +0000\r\n"
)
STATUS = (
    b"Reporting-MTA: dns; mx.example.com\r\nOriginal-Envelope-Id: QQ314159\r\n\r\n"
    b"Final-Recipient: rfc822; gone@example.org\r\nOriginal-Recipient: rfc822;Gone@example.org\r\nAction: failed\r\n"
    b"Status: 5.1.1\r\nRemote-MTA: dns; mx.example.org\r\n"
    b"Diagnostic-Code: smtp; 550 5.1.1 <gone@example.org>:\r\n    no such user here\r\n"
)


def dsn(
    status: bytes = STATUS,
    *,
    original: bytes = RECEIVED + b"Message-ID: <1@example.com>\r\nSubject: x\r\n",
    kind: bytes = b"text/rfc822-headers",
    header: bytes = b"",
    encoding: bytes = b"",
) -> bytes:
    return (
        b"From: MAILER-DAEMON@mx.example.com\r\nTo: app@example.com\r\n" + header
        + b'Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary="=_1 2"\r\n\r\n'
        + b"A MIME message.\r\n--=_1 2\r\nContent-Type: text/plain\r\n\r\nIt failed.\r\n"
        + b"--=_1 2\r\nContent-Type: message/delivery-status\r\n" + encoding + b"\r\n" + status
        + b"\r\n--=_1 2\r\nContent-Type: " + kind + b"\r\n\r\n" + original + b"\r\n--=_1 2--\r\n"
    )  # fmt: skip


GONE = Return("gone@example.org", "Gone@example.org", "5.1.1", "550 5.1.1 <gone@example.org>: no such user here",
              "mx.example.org")  # fmt: skip


def test_what_a_server_writes_is_understood() -> None:
    assert may_be_notification(b"Content-Type: Multipart/Report;\r\n\treport-type=delivery-status; boundary=x\r\n\r\n")
    assert not may_be_notification(b"Content-Type: multipart/mixed; boundary=x\r\n\r\n")
    found = read_notification(dsn())
    assert found == Notification("QQ314159", ("02vm3h2c5x000",), ("<1@example.com>",), (GONE,))
    reply = found.failed[0].reply
    assert (reply.code, reply.status, reply.text) == (550, "5.1.1", "<gone@example.org>: no such user here")
    assert read_notification(dsn().replace(b"\r\n", b"\n")) == found


def test_exchange_names_the_message_in_its_own_header_too() -> None:
    header = b"In-Reply-To: <2@example.com>\r\nReferences: <3@example.com>\r\n"
    found = read_notification(
        dsn(header=header, kind=b"message/rfc822", original=b"Message-ID:\r\n <1@example.com>\r\n")
    )
    assert found is not None
    assert found.message_ids == ("<1@example.com>", "<2@example.com>")
    assert found.ids == ()


@pytest.mark.parametrize(
    ("said", "status", "code", "shown"),
    [
        (b"smtp;550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found", b"5.1.10", 550, "5.1.10"),
        (b"smtp; 550-5.1.1 The email account does not exist. 550 5.1.1 Try again", b"5.1.1", 550, "5.1.1"),
        (b"X-Postfix; Host or domain name not found", b"5.4.4", 550, "5.4.4"),
        (b"smtp; 452 4.2.2 mailbox full", b"4.2.2", 452, "4.2.2"),
        (b"smtp; 552 mailbox full", b"5.2.2", 552, "5.2.2"),
        (b"X-Postfix; delivery timed out", b"4.4.1", 450, "4.4.1"),
        (b"", b"5.0.0", 550, "5.0.0"),
        (b"smtp; 250 2.0.0 all is well", b"2.0.0", 550, ""),
        (b"smtp; 999 what", b"nonsense", 550, ""),
    ],
)
def test_what_the_remote_server_said(said: bytes, status: bytes, code: int, shown: str) -> None:
    block = b"Reporting-MTA: dns; m\r\n\r\nFinal-Recipient: rfc822; a@b\r\nAction: failed\r\nStatus: " + status
    found = read_notification(dsn(block + b"\r\nDiagnostic-Code: " + said + b"\r\n"))
    assert found is not None
    reply = found.failed[0].reply
    assert (reply.code, reply.status) == (code, shown)


def test_encoded_parts_and_parts_without_an_end() -> None:
    encoded = base64.encodebytes(STATUS).replace(b"\n", b"\r\n")
    found = read_notification(dsn(encoded, encoding=b"Content-Transfer-Encoding: base64\r\n"))
    assert found is not None
    assert found.failed == (GONE,)
    quoted = STATUS.replace(b"=", b"=3D")
    found = read_notification(dsn(quoted, encoding=b"Content-Transfer-Encoding: quoted-printable\r\n"))
    assert found is not None
    whole = dsn(kind=b"message/rfc822", original=RECEIVED + b"Message-ID: <1@example.com>\r\n\r\n" + b"x" * 400_000)
    found = read_notification(whole)
    assert found is not None
    assert (found.ids, found.message_ids) == (("02vm3h2c5x000",), ("<1@example.com>",))


@pytest.mark.parametrize("action", [b"delayed", b"delivered", b"relayed", b"expanded", b""])
def test_what_did_not_fail_tells_nothing(action: bytes) -> None:
    assert read_notification(dsn(STATUS.replace(b"Action: failed", b"Action: " + action))) is None


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"Subject: hello\r\n\r\nfailed\r\n",
        dsn().replace(b"multipart/report", b"multipart/mixed"),
        dsn().replace(b'\tboundary="=_1 2"', b'\tx="y"'),
        dsn().replace(b"--=_1 2", b"--other"),
        dsn().replace(b"message/delivery-status", b"text/plain"),
        dsn(b""),
        dsn(b"\r\n\r\n\r\n\r\n"),
    ],
)
def test_what_is_no_notification(octets: bytes) -> None:
    assert read_notification(octets) is None


def test_our_own_notices_are_read_as_others_read_them() -> None:
    fate = Fate("gone@example.org", Owed.FAILED, "", 550, "5.1.1", "no such user", "mx.example.org", "", (), None)
    original = original_of(b"Message-ID: <1@example.com>\r\n\r\nx\r\n", size=37, full=True, plain_only=False)
    facts = Report("02vm3h2c5x000", "app@example.com", "<1@example.com>", "QQ", 0, 0, (fate,), original)
    header, body = report(facts, relay="relay.example")
    fields = "".join(f"{name}: {value}\r\n" for name, value in header.items())
    found = read_notification(fields.encode() + b"\r\n" + body)
    assert found is not None
    assert found.message_ids == ("<1@example.com>",)
    assert (found.failed[0].final, str(found.failed[0].reply)) == ("gone@example.org", "550 5.1.1 no such user")


def test_a_monster_is_read_quickly_and_in_part() -> None:
    blocks = b"".join(b"Final-Recipient: rfc822; a%d@b\r\nAction: failed\r\n\r\n" % number for number in range(50_000))
    nested = b"".join(b"--=_1 2\r\nContent-Type: multipart/report; boundary=b%d\r\n\r\n" % n for n in range(20_000))
    folded = b"Diagnostic-Code: smtp; " + b"\r\n x" * 200_000
    began = time.monotonic()
    found = read_notification(dsn(b"Reporting-MTA: dns; m\r\n\r\n" + blocks))
    assert found is not None
    assert len(found.failed) == 100
    assert read_notification(dsn().replace(b"A MIME message.\r\n", nested)) is None
    read_notification(dsn(STATUS + folded))
    read_notification(b"Content-Type: multipart/report; boundary=x\r\n\r\n" + b"\n--x" * 100_000)
    read_notification(b"Content-Type: multipart/report" + b'; a="\\' * 100_000)
    assert time.monotonic() - began < 5


PIECES = st.sampled_from(
    [b"--=_1 2", b"--=_1 2--", b"\r\n", b"\n", b"\r\n\r\n", b"Content-Type: ", b"message/delivery-status", b"; ", b"=",
     b"Action: failed", b"Status: ", b"Diagnostic-Code: smtp; ", b"550 ", b"\0", b"\xff", b'"', b"\\", STATUS, RECEIVED,
     b"Content-Transfer-Encoding: base64\r\n", b"message/rfc822", b"Final-Recipient: ", b"<", b">"]
)  # fmt: skip


@given(pieces=st.lists(st.one_of(PIECES, st.binary(max_size=20)), max_size=40), framed=st.booleans())
def test_whatever_anybody_writes_is_read_or_not(pieces: list[bytes], *, framed: bool) -> None:
    octets = b"".join(pieces)
    for one in (dsn(octets), dsn(original=octets), dsn(header=octets)) if framed else (octets,):
        may_be_notification(one[:2048])
        found = read_notification(one)
        if found is not None:
            assert 1 <= len(found.failed) <= 100
            assert len(found.ids) <= 10
            assert len(found.message_ids) <= 10
            for failed in found.failed:
                assert 400 <= failed.reply.code <= 599
                assert max(map(len, (failed.final, failed.original, failed.said, failed.host))) <= 2000


@given(st.integers(0, len(dsn())), st.integers(0, 255))
def test_one_wrong_octet_or_an_early_end(at: int, octet: int) -> None:
    whole = dsn()
    read_notification(whole[:at])
    read_notification(whole[:at] + bytes([octet]) + whole[at + 1 :])


def test_no_more_than_its_bound_is_read() -> None:
    late = dsn().replace(b"It failed.", b"x" * MOST_OCTETS)
    assert read_notification(late) is None
