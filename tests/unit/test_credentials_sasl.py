"""SASL exchanges, octet by octet; the vectors are made-up data in the providers' documented forms."""

from __future__ import annotations

import base64
import itertools
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.accounts.model import Auth
from relay.credentials.errors import SecretRefused
from relay.credentials.sasl import MECHANISMS, Mechanism, UnexpectedChallenge, choose, oauthbearer, plain, xoauth2

LOGIN, TOKEN = "app@contoso.example", "eyTEST.token-0001"
XOAUTH2 = b"dXNlcj1hcHBAY29udG9zby5leGFtcGxlAWF1dGg9QmVhcmVyIGV5VEVTVC50b2tlbi0wMDAxAQE="
OAUTHBEARER = (
    b"bixhPWFwcEBjb250b3NvLmV4YW1wbGUsAWhvc3Q9c210cC5nbWFpbC5jb20BcG9ydD01ODcBYXV0aD1CZWFyZXIg"
    b"ZXlURVNULnRva2VuLTAwMDEBAQ=="
)
GMAIL_REFUSAL = "eyJzdGF0dXMiOiI0MDAiLCJzY2hlbWVzIjoiQmVhcmVyIiwic2NvcGUiOiJodHRwczovL21haWwuZ29vZ2xlLmNvbS8ifQ=="


def _mechanism(name: str, login: str = LOGIN, secret: str = TOKEN) -> Mechanism:
    return Mechanism(name, login, secret, host="smtp.gmail.com", port=587)


def test_the_published_strings() -> None:
    assert base64.b64encode(xoauth2(LOGIN, TOKEN)) == XOAUTH2
    assert base64.b64encode(oauthbearer(LOGIN, TOKEN, "smtp.gmail.com", 587)) == OAUTHBEARER
    assert plain("tim", "tanstaaftanstaaf") == b"\0tim\0tanstaaftanstaaf"  # RFC 4616 4
    assert oauthbearer("a=b,c@x.example", "t", "", 0) == b"n,a=a=3Db=2Cc@x.example,\x01auth=Bearer t\x01\x01"


@pytest.mark.parametrize(
    ("name", "response"),
    [
        ("PLAIN", base64.b64encode(b"\0" + LOGIN.encode() + b"\0" + TOKEN.encode())),
        ("XOAUTH2", XOAUTH2),
        ("OAUTHBEARER", OAUTHBEARER),
    ],
)
def test_both_forms_say_the_same(name: str, response: bytes) -> None:
    one = _mechanism(name)
    assert one.command() == b"AUTH " + name.encode() + b" " + response
    two = _mechanism(name)
    assert two.command(limit=0) == b"AUTH " + name.encode()
    assert two.answer("") == response
    raw = _mechanism(name)
    assert raw.initial() == base64.b64decode(response)


def test_login_waits_for_each_prompt() -> None:
    login = _mechanism("LOGIN", secret="geheim")
    assert login.initial() is None
    assert login.command() == b"AUTH LOGIN"
    assert login.answer("VXNlcm5hbWU6") == base64.b64encode(LOGIN.encode())
    assert login.answer("UGFzc3dvcmQ6") == b"Z2VoZWlt"
    with pytest.raises(UnexpectedChallenge):
        login.answer("UGFzc3dvcmQ6")


@pytest.mark.parametrize("prompt", ["", "VXNlciBOYW1lAA==", "Username:", "bogus!"])
def test_login_does_not_depend_on_the_prompt(prompt: str) -> None:
    assert _mechanism("LOGIN").answer(prompt) == base64.b64encode(LOGIN.encode())


@pytest.mark.parametrize(("name", "last_word"), [("XOAUTH2", b""), ("OAUTHBEARER", b"AQ==")])
def test_an_oauth_failure_gets_its_last_word(name: str, last_word: bytes) -> None:
    mechanism = _mechanism(name)
    mechanism.command()
    assert mechanism.answer(GMAIL_REFUSAL) == last_word
    assert mechanism.refusal == "400"
    with pytest.raises(UnexpectedChallenge):
        mechanism.answer(GMAIL_REFUSAL)


def test_the_reason_of_a_failure_is_bounded_and_printable() -> None:
    for challenge, status in (
        (b'{"status":"invalid_token","schemes":"bearer"}', "invalid_token"),
        (b'{"status":"a\\u001b[2J\\nb' + b"x" * 1000 + b'"}', "a[2Jb" + "x" * 59),
        (b'{"status":401}', "401"),
        (b"[" * 4000, ""),
        (b"\xff\xfe", ""),
        (b"[]", ""),
        (b"", ""),
    ):
        mechanism = _mechanism("OAUTHBEARER")
        mechanism.initial()
        assert mechanism.next(challenge) == b"\x01"
        assert mechanism.refusal == status


@pytest.mark.parametrize("name", ["PLAIN", "XOAUTH2", "OAUTHBEARER"])
def test_a_challenge_that_is_no_base64_ends_the_exchange(name: str) -> None:
    mechanism = _mechanism(name)
    mechanism.command()
    with pytest.raises(UnexpectedChallenge):
        mechanism.answer("{not base64}")


def test_plain_has_nothing_to_say_after_its_response() -> None:
    mechanism = _mechanism("PLAIN")
    mechanism.command()
    with pytest.raises(UnexpectedChallenge):
        mechanism.answer("")
    with pytest.raises(UnexpectedChallenge):
        mechanism.initial()


def test_a_long_token_takes_two_steps_and_an_endless_one_is_refused() -> None:
    token = "t" * 4000
    mechanism = _mechanism("XOAUTH2", secret=token)
    assert mechanism.command() == b"AUTH XOAUTH2"
    assert base64.b64decode(mechanism.answer("")) == xoauth2(LOGIN, token)
    assert len(_mechanism("XOAUTH2", secret="t" * 9000).command(limit=12288)) <= 12286
    with pytest.raises(SecretRefused, match=r"token .*too long"):
        _mechanism("XOAUTH2", secret="t" * 9300)


def test_the_line_limit_counts_crlf() -> None:
    length = len(_mechanism("PLAIN").command()) + 2
    assert _mechanism("PLAIN").command(limit=length) != b"AUTH PLAIN"
    assert _mechanism("PLAIN").command(limit=length - 1) == b"AUTH PLAIN"


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("bad", ["a\0b", "a\r\nb", "secret\n", "a\x01b", "a\x7fb", "", "a\udcffb"])
def test_what_would_break_the_exchange_is_refused_unseen(name: str, bad: str) -> None:
    field = "token" if "OAUTH" in name else "password"
    for login, secret, named in ((bad, TOKEN, "login"), (LOGIN, bad, field)):
        with pytest.raises(SecretRefused) as caught:
            _mechanism(name, login, secret)
        assert caught.value.field == named
        assert "secret\n" not in "".join(traceback.format_exception(caught.value))


def test_words_of_other_languages_go_out_as_utf_8() -> None:
    assert _mechanism("PLAIN", "jürgen", "пароль ☃").initial() == "\0jürgen\0пароль ☃".encode()
    with pytest.raises(SecretRefused, match="token"):
        _mechanism("XOAUTH2", secret="пароль")


@given(
    login=st.text(min_size=1, alphabet=st.characters(exclude_categories=("Cs", "Cc"))),
    password=st.text(min_size=1, alphabet=st.characters(exclude_categories=("Cs", "Cc"))),
)
def test_plain_comes_apart_as_it_was_put_together(login: str, password: str) -> None:
    response = Mechanism("PLAIN", login, password).initial()
    assert response is not None
    assert response.decode().split("\0") == ["", login, password]


@given(login=st.text(min_size=1, max_size=40, alphabet="ab=,@."))
def test_the_escaped_name_comes_back(login: str) -> None:
    header = oauthbearer(login, "t", "h", 1).split(b"\x01")[0].decode()
    name = header.removeprefix("n,a=").removesuffix(",")
    assert "," not in name
    assert name.replace("=2C", ",").replace("=3D", "=") == login


@pytest.mark.parametrize(
    ("offered", "auth", "chosen"),
    [
        (["LOGIN", "PLAIN"], "password", "PLAIN"),
        (["login", "xoauth2"], "password", "LOGIN"),  # Microsoft 365 lists no PLAIN
        (["XOAUTH2", "CRAM-MD5"], "password", None),
        (["OAUTHBEARER", "LOGIN", "xoauth2"], "oauth-code", "XOAUTH2"),
        (["OAUTHBEARER", "PLAIN"], "oauth-device", "OAUTHBEARER"),
        (["PLAIN", "LOGIN", "PLAIN-CLIENTTOKEN"], "oauth-app", None),  # a token is no password
        (["XOAUTH2"], "service-account", "XOAUTH2"),
        (["PLAIN"], "none", None),
        ([], "password", None),
    ],
)
def test_one_mechanism_is_chosen(offered: list[str], auth: Auth, chosen: str | None) -> None:
    for order in itertools.permutations(offered):
        assert choose(order, auth) == chosen


def test_repr_shows_no_secret() -> None:
    for name in MECHANISMS:
        assert TOKEN not in repr(_mechanism(name))
    with pytest.raises(ValueError, match="unknown mechanism"):
        _mechanism("CRAM-MD5")
