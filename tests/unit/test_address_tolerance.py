"""The switches of addresses: what each one takes when it is on, and that none of them opens the relay."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.mail.address import Fault, Malformed, parse_mail, parse_rcpt
from relay.mail.tolerance import DEFAULT, SWITCHES, Tolerance

NOTHING: Tolerance = frozenset()
EVERYTHING: Tolerance = frozenset(SWITCHES)


def fault_of(argument: bytes, tolerance: Tolerance) -> Fault | None:
    try:
        if argument.upper().startswith(b"FROM"):
            parse_mail(argument, tolerance=tolerance)
        else:
            parse_rcpt(argument, smtputf8=False, tolerance=tolerance)
    except Malformed as error:
        return error.fault
    return None


@pytest.mark.parametrize(
    ("switch", "given", "address"),
    [
        ("spaces", "{}: <a@b>", "a@b"),
        ("spaces", "{}:   <a@b>", "a@b"),
        ("spaces", "{}:<a@b>  ", "a@b"),
        ("spaces", "{}:< a@b >", "a@b"),
        ("spaces", "{}: <  a@b> ", "a@b"),
        ("no-brackets", "{}:a@b", "a@b"),
        ("no-brackets", '{}:"a b>"@c', '"a b>"@c'),
        ("odd-dots", "{}:<.a@b>", "a@b"),
        ("odd-dots", "{}:<a.@b>", "a@b"),
        ("odd-dots", "{}:<.a...b.c..@d>", "a.b.c@d"),
    ],
)
def test_a_switch_takes_what_is_refused_without_it(switch: str, given: str, address: str) -> None:
    mail, rcpt = given.format("FROM").encode(), given.format("TO").encode()
    alone = frozenset({switch})
    assert parse_mail(mail, tolerance=alone).address == address
    assert parse_rcpt(rcpt, smtputf8=False, tolerance=alone).address == address
    assert fault_of(mail, EVERYTHING - alone) is not None
    assert fault_of(rcpt, EVERYTHING - alone) is not None


def test_addresses_without_brackets_may_have_parameters() -> None:
    on = DEFAULT | {"no-brackets"}
    mail = parse_mail(b"FROM:a@b SIZE=10 RET=FULL", tolerance=on)
    assert (mail.address, mail.size, mail.request.ret) == ("a@b", 10, "FULL")
    rcpt = parse_rcpt(b"TO: a@b NOTIFY=NEVER", smtputf8=False, tolerance=on)
    assert (rcpt.address, rcpt.request.notify) == ("a@b", "NEVER")


def test_a_recipient_without_a_domain_comes_back_as_it_is() -> None:
    on = DEFAULT | {"bare-recipients"}
    for local in ("ann", "ann.smith", '"ann smith"', "Postmaster"):
        assert fault_of(f"TO:<{local}>".encode(), EVERYTHING - {"bare-recipients"}) is Fault.SYNTAX
        found = parse_rcpt(f"TO:<{local}> NOTIFY=NEVER".encode(), smtputf8=False, tolerance=on)
        assert (found.address, found.request.notify) == (local, "NEVER")
        whole = parse_rcpt(f"TO:<{found.address}@example.org>".encode(), smtputf8=False, tolerance=NOTHING)
        assert whole.address == f"{local}@example.org"
    assert parse_rcpt(b"TO:.ann.", smtputf8=False, tolerance=EVERYTHING).address == "ann"
    assert parse_rcpt(b"TO:<a@b>", smtputf8=False, tolerance=on).address == "a@b"
    assert fault_of(b"FROM:<ann>", EVERYTHING) is Fault.SYNTAX


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        (b"TO:", Fault.BRACKETS),
        (b"FROM:", Fault.BRACKETS),
        (b"FROM: ", Fault.BRACKETS),
        (b"FROM:< >", Fault.SYNTAX),
        (b"TO:<>", Fault.NULL),
        (b"TO:<a%c@b>", Fault.RELAY_HACK),
        (b"TO:a%c@b", Fault.RELAY_HACK),
        (b"TO:<a%c>", Fault.RELAY_HACK),
        (b"TO:c!a", Fault.RELAY_HACK),
        (b"TO:<c!a@b>", Fault.RELAY_HACK),
        (b'TO:<"a@c">', Fault.RELAY_HACK),
        (b'TO:"a@c"@b', Fault.RELAY_HACK),
        (b"TO:<.a%.c.@b>", Fault.RELAY_HACK),
        (b"TO:@c:a@b", Fault.SOURCE_ROUTE),
        (b"TO:< @c:a@b >", Fault.SOURCE_ROUTE),
        (b"FROM:@c,@d:a@b", Fault.SOURCE_ROUTE),
        (b"TO:a@[127.0.0.1]", Fault.LITERAL),
        (b"TO:<[127.0.0.1]>", Fault.SYNTAX),
        (b"TO:a@b@c", Fault.SYNTAX),
        (b"TO:a@b>", Fault.SYNTAX),
        (b"TO:<a@b", Fault.BRACKETS),
        (b"TO:a\r\nb@c", Fault.SYNTAX),
        (b"TO:<a\x00>", Fault.SYNTAX),
        (b"TO:<...@b>", Fault.SYNTAX),
        (b"TO:<...>", Fault.SYNTAX),
        (b"TO:<a@b..c>", Fault.SYNTAX),
        (b"TO:<a@b.>", Fault.SYNTAX),
        (b"TO:a@b,c@d", Fault.SYNTAX),
        (b"TO:<a@b>,<c@d>", Fault.SYNTAX),
        (b"TO:Ann <a@b>", Fault.PARAMETER),
        (b"TO:<" + b"a" * 65 + b">", Fault.TOO_LONG),
        ("TO:<ä>".encode(), Fault.NOT_ASCII),
        ("TO:ä@b".encode(), Fault.NOT_ASCII),
    ],
)
def test_what_no_switch_takes(argument: bytes, fault: Fault) -> None:
    assert fault_of(argument, EVERYTHING) is fault


def test_strict_says_where_the_space_is() -> None:
    for argument in (b"TO: <a@b>", b"TO:<a@b> ", b"TO:<a@b> NOTIFY=NEVER ", b"FROM: <a@b>", b"FROM: <> SIZE=1"):
        assert fault_of(argument, NOTHING) is Fault.SPACES
        assert fault_of(argument, DEFAULT) is None


@given(
    octets=st.binary(max_size=60) | st.text(alphabet='a@b.<>"\\%![]: \0\r\n\x7fä\u2028', max_size=40).map(str.encode),
    switches=st.frozensets(st.sampled_from(sorted(SWITCHES))),
    smtputf8=st.booleans(),
)
def test_nothing_dangerous_comes_out_with_any_switches(octets: bytes, switches: Tolerance, smtputf8: bool) -> None:
    details: list[str] = []
    for argument in (b"TO:<" + octets + b">", b"TO:" + octets):
        try:
            address = parse_rcpt(argument, smtputf8=smtputf8, tolerance=switches).address
        except Malformed as error:
            details.append(error.detail)
            continue
        assert address.isprintable()
        assert not re.search(r"[%!]", address)
        assert smtputf8 or address.isascii()
        local, at, domain = address.rpartition("@")
        if not at:
            assert "bare-recipients" in switches
            local, domain = domain, "example.org"
        assert local
        assert "@" not in local
        again = f"TO:<{local}@{domain}>".encode()
        assert parse_rcpt(again, smtputf8=smtputf8, tolerance=NOTHING).address == f"{local}@{domain}"
    assert all(detail.isprintable() and len(detail) <= 80 for detail in details)


def test_pathological_input_is_judged_quickly_with_every_switch() -> None:
    for octets in (b"." * 1900, b"a." * 950, b'"' + b"\\a" * 900, b'"' * 1900, b" " * 1900, b"a@" + b"b-" * 900):
        for argument in (b"<" + octets + b">", octets):
            assert fault_of(b"TO:" + argument, EVERYTHING) is not None
