"""The grammar of RFC 3461 4 and RFC 6533 3: what an application may ask about notices, and what is no such thing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.address import Fault, Malformed, parse_mail, parse_rcpt
from relay.mail.dsn import (
    NO_MESSAGE_REQUEST,
    NO_RECIPIENT_REQUEST,
    MessageRequest,
    RecipientRequest,
    decoded_xtext,
    envid_of,
    notify_of,
    orcpt_of,
    ret_of,
)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("QQ314159", "QQ314159"),
        ("+2B", "+"),
        ("a+2Bb+3Dc", "a+b=c"),
        ("two+20words", "two words"),
        ("Bob@Example.COM", "Bob@Example.COM"),
        ("<>\\;,", "<>\\;,"),
        ("", None),
        ("a b", None),
        ("a=b", None),
        ("a+b", None),
        ("+2b", None),  # hexadecimal digits are upper case
        ("+2", None),
        ("+", None),
        ("+GG", None),
        ("+0D+0ABcc:x", None),  # would be a header field
        ("+00", None),
        ("+7F", None),
        ("+80", None),
        ("ä", None),
        ("a\n", None),
    ],
)
def test_xtext(text: str, plain: str | None) -> None:
    assert decoded_xtext(text) == plain


@pytest.mark.parametrize(
    ("value", "taken"),
    [("FULL", "FULL"), ("hdrs", "HDRS"), ("", None), ("BODY", None), ("FULL,HDRS", None)],
)
def test_ret(value: str, taken: str | None) -> None:
    assert ret_of(value) == taken


@pytest.mark.parametrize(
    ("value", "taken"),
    [("QQ314159", True), ("x" * 100, True), ("x" * 101, False), ("", False), ("a=b", False), ("a+0Ab", False)],
)
def test_envid(value: str, taken: bool) -> None:
    assert envid_of(value) == (value if taken else None)


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("NEVER", "NEVER"),
        ("never", "NEVER"),
        ("SUCCESS", "SUCCESS"),
        ("failure", "FAILURE"),
        ("SUCCESS,FAILURE", "SUCCESS,FAILURE"),
        ("delay,Failure,success", "SUCCESS,FAILURE,DELAY"),
        ("FAILURE,FAILURE", "FAILURE"),
        ("", None),
        (",", None),
        ("SUCCESS,", None),
        ("NEVER,FAILURE", None),
        ("NEVER,NEVER", None),
        ("ALWAYS", None),
        ("SUCCESS;FAILURE", None),
        (",".join(["DELAY"] * 1000), None),
    ],
)
def test_notify(value: str, taken: str | None) -> None:
    assert notify_of(value) == taken


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("rfc822;Bob@Example.COM", "rfc822;Bob@Example.COM"),
        ("RFC822;George@Tax-ME.GOV", "RFC822;George@Tax-ME.GOV"),
        ("rfc822;user+2Btag@example.com", "rfc822;user+2Btag@example.com"),
        ("x400;/G=Ann/S=Smith/", None),  # "=" stands as +3D
        ("x400;/G+3DAnn/S+3DSmith/", "x400;/G+3DAnn/S+3DSmith/"),
        ("rfc822;not-an-address", "rfc822;not-an-address"),
        ("rfc822;" + "x" * 493, "rfc822;" + "x" * 493),
        ("rfc822;" + "x" * 494, None),
        ("rfc822;", None),
        (";a@b", None),
        ("rfc822", None),
        ("a@b", None),
        ("rfc 822;a@b", None),
        ("rfc822;a b", None),
        ("rfc822;user+tag@example.com", None),
        ("rfc822;a@b+0D+0AX:y", None),
        ("rfc822;bücher@example.org", None),
        ("utf-8;ann@example.org", "utf-8;ann@example.org"),
        (r"utf-8;b\x{FC}cher@example.org", r"utf-8;b\x{FC}cher@example.org"),
        (r"UTF-8;a\x{2b}b\x{20}@example.org", r"UTF-8;a\x{2B}b\x{20}@example.org"),
        (r"utf-8;\x{1F600}@example.org", r"utf-8;\x{1F600}@example.org"),
        ("utf-8;bücher@example.org", None),
        ("utf-8;a+b@example.org", None),
        (r"utf-8;\x{A}", None),
        (r"utf-8;\x{D800}", None),
        (r"utf-8;\x{2028}", None),
        (r"utf-8;\x{110000}", None),
        (r"utf-8;\x{}", None),
        (r"utf-8;a\b", None),
    ],
)
def test_orcpt(value: str, taken: str | None) -> None:
    assert orcpt_of(value, smtputf8=False) == taken


@pytest.mark.parametrize(
    ("value", "taken"),
    [
        ("utf-8;bücher@example.org", r"utf-8;b\x{FC}cher@example.org"),
        ("utf-8;a+b@bücher.example", r"utf-8;a\x{2B}b@b\x{FC}cher.example"),
        ("utf-8;\U0001f600@example.org", r"utf-8;\x{1F600}@example.org"),
        (r"utf-8;ä\x{FC}", r"utf-8;\x{E4}\x{FC}"),
        ("rfc822;bücher@example.org", None),
        ("utf-8;a\u2028b", None),
        ("utf-8;a\\b", None),
        ("utf-8;" + "ü" * 100, None),  # 600 octets in the form that needs no SMTPUTF8
    ],
)
def test_orcpt_with_smtputf8_is_kept_in_ascii(value: str, taken: str | None) -> None:
    assert orcpt_of(value, smtputf8=True) == taken


@given(st.text(alphabet="aä;+\\x{}2BDF=8 \r\n\u2028utf-rc", max_size=30), st.booleans())
def test_whatever_is_taken_is_one_ascii_word(text: str, smtputf8: bool) -> None:
    for prefix in ("", "utf-8;", "rfc822;"):
        for taken in (orcpt_of(prefix + text, smtputf8=smtputf8), envid_of(prefix + text)):
            assert taken is None or re.fullmatch(r"[!-<>-~]{1,500}", taken)


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=0x1F000), min_size=1, max_size=20))
def test_the_ascii_form_of_a_wide_address_is_read_again_as_itself(text: str) -> None:
    once = orcpt_of(f"utf-8;{text}", smtputf8=True)
    assert once is None or orcpt_of(once, smtputf8=False) == once


# -- as parameters of MAIL and RCPT


def test_the_examples_of_rfc_3461_are_taken() -> None:
    mail = parse_mail(b"FROM:<Alice@Example.ORG> RET=HDRS ENVID=QQ314159")
    assert mail.request == MessageRequest("HDRS", "QQ314159")
    bob = parse_rcpt(b"TO:<Bob@Example.COM> NOTIFY=SUCCESS ORCPT=rfc822;Bob@Example.COM", smtputf8=False)
    assert bob == ("Bob@Example.COM", RecipientRequest("SUCCESS", "rfc822;Bob@Example.COM"))
    carol = parse_rcpt(b"TO:<Carol@Ivory.EDU> NOTIFY=FAILURE ORCPT=rfc822;Carol@Ivory.EDU", smtputf8=False)
    assert carol.request == RecipientRequest("FAILURE", "rfc822;Carol@Ivory.EDU")
    eric = parse_rcpt(b"TO:<Eric@Bombs.AF.MIL> notify=never", smtputf8=False)
    assert eric.request == RecipientRequest("NEVER", "")


def test_who_asks_nothing_shares_the_constants() -> None:
    for argument in (b"FROM:<a@b>", b"FROM:<> SIZE=1", b"FROM:<a@b> AUTH=<>", b"FROM:<a!b@c>"):
        assert parse_mail(argument).request is NO_MESSAGE_REQUEST
    for argument in (b"TO:<a@b>", b'TO:<"a b"@c>'):
        assert parse_rcpt(argument, smtputf8=False).request is NO_RECIPIENT_REQUEST


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        (b"RET=FULL RET=FULL", Fault.PARAMETER),
        (b"ENVID=a ENVID=b", Fault.PARAMETER),
        (b"RET", Fault.PARAMETER),
        (b"RET=", Fault.PARAMETER),
        (b"RET=SOME", Fault.PARAMETER),
        (b"ENVID", Fault.PARAMETER),
        (b"ENVID=" + b"x" * 101, Fault.PARAMETER),
        ("ENVID=ä".encode(), Fault.PARAMETER),
        ("SIZE=١".encode(), Fault.PARAMETER),
        ("ſIZE=1".encode(), Fault.PARAMETER),
        (b"AUTH", Fault.PARAMETER),
        (b"AUTH=x", Fault.PARAMETER),
        (b"AUTH=a@b+0D+0A", Fault.PARAMETER),
        (b"AUTH=a@b AUTH=<>", Fault.PARAMETER),
        (b"NOTIFY=NEVER", Fault.UNKNOWN_PARAMETER),
        (b"BY=120;R", Fault.UNKNOWN_PARAMETER),
        (b"HOLDFOR=60", Fault.UNKNOWN_PARAMETER),
        (b"XFOO", Fault.UNKNOWN_PARAMETER),
    ],
)
def test_bad_parameters_of_mail(parameters: bytes, fault: Fault) -> None:
    with pytest.raises(Malformed) as caught:
        parse_mail(b"FROM:<a@b> " + parameters)
    assert caught.value.fault is fault


@pytest.mark.parametrize("value", ["<>", "a@b", "e+3Dmc2@example.com", "<a@b>", "+3C+3E", '"a+20b"@c'])
def test_a_submitter_is_checked_and_ignored(value: str) -> None:
    assert parse_mail(f"FROM:<a@b> AUTH={value}".encode()) == parse_mail(b"FROM:<a@b>")


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        (b"NOTIFY", Fault.PARAMETER),
        (b"NOTIFY=", Fault.PARAMETER),
        (b"NOTIFY=NEVER,DELAY", Fault.PARAMETER),
        (b"NOTIFY=NEVER NOTIFY=NEVER", Fault.PARAMETER),
        (b"ORCPT=a@b", Fault.PARAMETER),
        ("ORCPT=utf-8;ä@b".encode(), Fault.PARAMETER),
        (b"SIZE=1", Fault.UNKNOWN_PARAMETER),
        (b"RET=FULL", Fault.UNKNOWN_PARAMETER),
        (b"XFOO=1", Fault.UNKNOWN_PARAMETER),
    ],
)
def test_bad_parameters_of_rcpt(parameters: bytes, fault: Fault) -> None:
    with pytest.raises(Malformed) as caught:
        parse_rcpt(b"TO:<a@b> " + parameters, smtputf8=False)
    assert caught.value.fault is fault


def test_parameters_of_rcpt_need_ehlo() -> None:
    with pytest.raises(Malformed) as caught:
        parse_rcpt(b"TO:<a@b> NOTIFY=NEVER", smtputf8=False, extended=False)
    assert caught.value.fault is Fault.UNKNOWN_PARAMETER
    assert parse_rcpt(b"TO:<a@b>", smtputf8=False, extended=False).address == "a@b"
