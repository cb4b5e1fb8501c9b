"""Which account a sender's mail goes through, and how addresses compare: the rules of docs/address-rules.md."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.accounts.model import Sender
from relay.accounts.normalise import BadAddress, BadPattern, base_address, check_address, normalise, normalise_pattern
from relay.accounts.routes import RouteTable, explain_route, matches


def table(**accounts: int) -> RouteTable:
    return RouteTable(Sender(pattern, account_id) for pattern, account_id in accounts.items())


REGISTERED = {
    "ann@example.com": 1,
    "ann+invoices@example.com": 2,
    "@example.com": 3,
    "*": 4,
    "<>": 5,
    "@xn--bcher-kva.example": 6,
}


@pytest.mark.parametrize(
    ("reverse_path", "account_id", "step", "rule"),
    [
        ("ann@example.com", 1, "exact", "ann@example.com"),
        ("ANN@Example.COM.", 1, "exact", "ann@example.com"),
        ('"ann"@example.com', 1, "exact", "ann@example.com"),
        ("ann+invoices@example.com", 2, "exact", "ann+invoices@example.com"),
        ("Ann+Other@example.com", 1, "alias", "ann@example.com"),
        ("ann+a+b@example.com", 1, "alias", "ann@example.com"),
        ("+x@example.com", 3, "domain", "@example.com"),
        ("bob+x@example.com", 3, "domain", "@example.com"),
        ("bob@sub.example.com", 4, "default", "*"),
        ("bob@notexample.com", 4, "default", "*"),
        ("x@BÜCHER.example", 6, "domain", "@xn--bcher-kva.example"),
        ("x@xn--BCHER-kva.example", 6, "domain", "@xn--bcher-kva.example"),
        ("", 5, "null", "<>"),
        ("ann@example.com@evil.example", 4, "default", "*"),
        ("@example.com", 4, "default", "*"),
        ("<>", 4, "default", "*"),
        ("*", 4, "default", "*"),
    ],
)
def test_the_most_particular_entry_wins(reverse_path, account_id, step, rule):
    route = table(**REGISTERED).route(reverse_path)
    assert route is not None
    assert (route.account_id, route.step, route.rule) == (account_id, step, rule)


def test_the_null_reverse_path_never_falls_to_the_default():
    explanation = explain_route([Sender("*", 1)], "")
    assert explanation.route is None
    assert "never falls to *" in explanation.steps[-1]
    assert table(**{"*": 1}).route("") is None


@pytest.mark.parametrize("reverse_path", ["bob@example.com", "ann@example.org", "аnn@example.com", "", "ann", "@"])
def test_without_a_match_there_is_no_route(reverse_path):
    assert table(**{"ann@example.com": 1}).route(reverse_path) is None


def test_the_policy_of_the_entry_comes_along():
    route = RouteTable([Sender("@example.com", 1, "rewrite")]).route("a@example.com")
    assert route is not None
    assert route.from_policy == "rewrite"


def test_an_explanation_names_each_step_until_the_hit():
    explanation = explain_route([Sender("@example.com", 3)], "Ann+x@example.com")
    assert explanation.route is not None
    assert explanation.steps == (
        "exact address ann+x@example.com: no entry",
        "address without its +detail, ann@example.com: no entry",
        "domain entry @example.com: found",
    )
    assert explain_route([], "a@example.com").steps[-1] == "default entry *: no entry"


@pytest.mark.parametrize(
    ("patterns", "reverse_path", "allowed"),
    [
        ({"ann@example.com"}, "Ann+x@example.com", True),
        ({"@example.com"}, "bob@EXAMPLE.com", True),
        ({"@example.com"}, "bob@sub.example.com", False),
        ({"*"}, "anyone@example.org", True),
        ({"*"}, "", False),
        ({"<>"}, "", True),
        ({"<>"}, "ann@example.com", False),
        (set(), "ann@example.com", False),
    ],
)
def test_a_clients_patterns_follow_the_same_rule(patterns, reverse_path, allowed):
    assert matches(frozenset(patterns), reverse_path) is allowed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Ann@Example.COM", "ann@example.com"),
        ("ann@example.com.", "ann@example.com"),
        ("ann@b\u00fccher.example", "ann@xn--bcher-kva.example"),
        ("ann@bu\u0308cher.example", "ann@b\u00fccher.example"),
        ("ann@b\u00fccher\u3002example", "ann@b\u00fccher.example"),  # UTS 46: the ideographic full stop
        ("Jos\u00c9@example.com", "jose\u0301@example.com"),
        ('"ann"@example.com', "ann@example.com"),
        ('"a\\nn"@example.com', "ann@example.com"),
        ('"A b"@example.com', '"a\\ b"@example.com'),
    ],
)
def test_spellings_of_one_address_are_equal(one, other):
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bo\u017fs@example.com", "boss@example.com"),  # long s, which case folding makes an s
        ("stra\u00dfe@example.com", "strasse@example.com"),
        ("\u212aelvin@example.com", "kelvin@example.com"),  # Kelvin sign, which NFC makes a K
        ("\u0430nn@example.com", "ann@example.com"),  # Cyrillic a
        ("a.nn@example.com", "ann@example.com"),
        ('"a b"@example.com', "ab@example.com"),
        ("ann@example.com", "ann@example.co"),
        ("ann@\u0435xample.com", "ann@example.com"),  # Cyrillic e
    ],
)
def test_what_only_looks_alike_is_not_equal(one, other):
    assert normalise(one) != normalise(other)


@given(st.builds("{}@{}".format, st.text(max_size=30), st.text(max_size=30)) | st.text(max_size=60))
@example("stra\u00dfe@STRASSE.de")
@example('"@"@"')
@example("\udcff@\udcff")
def test_comparing_never_fails(address):
    assert isinstance(normalise(address), str)
    assert explain_route([], address).steps


@given(st.from_regex(r"[a-zA-Z0-9.+_-]{1,20}@[a-zA-Z0-9.-]{1,20}", fullmatch=True))
def test_plain_addresses_compare_without_case(address):
    assert normalise(address) == normalise(address.upper()) == normalise(address.swapcase())


@pytest.mark.parametrize(
    ("text", "stored"),
    [
        (" Ann@Example.com ", "ann@example.com"),
        ("@B\u00fccher.Example.", "@xn--bcher-kva.example"),
        ("*", "*"),
        ("<>", "<>"),
        ("root@localhost", "root@localhost"),
        ("ann+tag@example.com", "ann+tag@example.com"),
        ("scan_to_mail@printer.internal", "scan_to_mail@printer.internal"),
        ("@host_1.internal", "@host_1.internal"),
    ],
)
def test_a_pattern_is_stored_in_the_form_that_is_looked_up(text, stored):
    assert normalise_pattern(text) == stored
    assert normalise_pattern(stored) == stored


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("", "write an address"),
        ("example.com", "@example.com"),
        ("*@example.com", "write @example.com"),
        ("@*.example.com", "one domain exactly"),
        ("@", "must be a domain name"),
        ("@exa mple.com", "must be a domain name"),
        ("@a@b.example", "one domain exactly"),
        ("a@b@example.com", "name@example.com"),
        ("ann@", "name@example.com"),
        ("<ann@example.com>", "without angle brackets"),
        ("an n@example.com", "name@example.com"),
        ("ann\r\n@example.com", "name@example.com"),
        ("ann\r\nRCPT TO:<x@example.com>", "without angle brackets"),
        ("ann\x00@example.com", "name@example.com"),
        ("ann@[192.0.2.1]", "must be a domain name"),
        ("@[192.0.2.1]", "must be a domain name"),
        ("a" * 250 + "@example.com", "too long"),
        ("@" + "a." * 150 + "example", "must be a domain name"),
        ("ann@example..com", "name@example.com"),
        ("ann@\udcff.example", "name@example.com"),
    ],
)
def test_a_bad_pattern_says_what_to_write(text, remedy):
    with pytest.raises(BadPattern) as caught:
        normalise_pattern(text)
    assert remedy in caught.value.remedy


@given(st.text(max_size=80))
def test_a_pattern_is_taken_or_refused_and_nothing_else(text):
    try:
        stored = normalise_pattern(text)
    except BadPattern:
        return
    assert normalise_pattern(stored) == stored


def test_an_account_address_is_kept_as_given():
    assert check_address(" Ann.O'Neil@B\u00fccher.Example ") == "Ann.O'Neil@B\u00fccher.Example"
    with pytest.raises(BadAddress):
        check_address("ann")
    with pytest.raises(BadAddress):
        check_address("")


@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("ann+x@example.com", "ann@example.com"),
        ("ann@example.com", None),
        ("+x@example.com", None),
        ("ann+@example.com", "ann@example.com"),
        ('"a b+c"@example.com', None),
        ("ann@exa+mple.com", None),
    ],
)
def test_a_sub_address_has_a_base(address, base):
    assert base_address(address) == base
