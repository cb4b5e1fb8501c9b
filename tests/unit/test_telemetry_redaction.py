"""Secrets in the log: masked by key, by live value in every form, in AUTH lines; at any level."""

from __future__ import annotations

import base64
import json
import urllib.parse

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.telemetry.cleaning import MAX_FIELD
from relay.telemetry.redaction import LIVE, MAX_SECRETS, Masks, auth_masked, mask, secret_key, unmask
from relay.telemetry.rendering import ConsoleRenderer, JsonRenderer

SECRET = 'Tr0ub4dor&3 \\"ü'


def line(level: str = "info", **fields: object) -> str:
    return JsonRenderer()(level, "upstream.line", dict(fields)).decode("utf-8")


@pytest.mark.parametrize(
    "key",
    ["password", "Password", "new_password", "secret", "client_secret", "token", "refresh_token", "accessToken", "pwd"],
)
def test_keys_that_name_a_secret_are_masked(key: str) -> None:
    assert secret_key(key)
    for value in ("hunter2", 1234, b"hunter2", ["hunter2"], {"a": "hunter2"}):
        for level in ("debug", "info", "error"):
            found = json.loads(line(level, **{key: value}))
            assert found[key] == "***"
    assert json.loads(line(detail={"nested": {key: "hunter2"}}))["detail"] == {"nested": {key: "***"}}
    assert "hunter2" not in ConsoleRenderer(colours=False)("info", "upstream.line", {key: "hunter2"}).decode()


def test_more_keys_that_name_a_secret() -> None:
    assert all(map(secret_key, ("authorization", "passphrase", "api_key", "private-key", "credential", "set_cookie")))


@pytest.mark.parametrize("key", ["key_id", "token_expires_s", "message_id", "account", "keys", "reply", "author"])
def test_keys_that_do_not(key: str) -> None:
    assert not secret_key(key)
    assert json.loads(line(**{key: "shown"}))[key] == "shown"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("AUTH PLAIN AGFubgBodW50ZXIy", "AUTH PLAIN ***"),
        ("auth login aHVudGVyMg==\r\n", "auth login ***"),
        ("C: AUTH XOAUTH2 dXNlcj1h", "C: AUTH XOAUTH2 ***"),
        ("AUTH PLAIN\tAGFubgBodW50ZXIy", "AUTH PLAIN ***"),
        ("AUTH LOGIN", "AUTH LOGIN"),
        ("250-AUTH PLAIN LOGIN", "250-AUTH PLAIN LOGIN"),
        ("Authorization: Bearer eyJ0eXAiOiJKV1Q", "Authorization: Bearer ***"),
        ("MAIL FROM:<auth@example.org>", "MAIL FROM:<auth@example.org>"),
    ],
)
def test_auth_lines(sent: str, shown: str) -> None:
    assert auth_masked(sent) == shown
    assert json.loads(line("debug", line=sent))["line"] == shown.replace("\r\n", "")


@pytest.fixture
def live() -> object:
    mask(SECRET)
    yield SECRET
    unmask(SECRET)


def forms(secret: str) -> list[str]:
    """What promise 24 scans for: raw, base64 at three alignments, hex, URL, UTF-16."""
    octets = secret.encode()
    return [
        secret,
        *(
            base64.b64encode(before + octets + after).decode()
            for before in (b"", b"\0", b"ab")
            for after in (b"", b"x")
        ),
        base64.urlsafe_b64encode(b"\0ann\0" + octets).decode(),
        octets.hex(),
        octets.hex().upper(),
        urllib.parse.quote(secret),
        urllib.parse.quote_plus(secret),
        repr(secret),
        json.dumps(secret, ensure_ascii=False),
        secret.encode("utf-16-le").decode("latin-1") if secret.isascii() else "\0".join(secret),
        base64.b64encode(secret.encode("utf-16-le")).decode(),
    ]


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("form", forms(SECRET))
def test_a_live_secret_is_masked_in_every_form(form: str) -> None:
    for padding in range(5):
        text = "x" * padding + form + "y" * padding
        found = json.loads(line(reply=text))["reply"]
        assert "***" in found, padding
        assert form not in found
        assert SECRET not in found
        nested = json.loads(line(detail=[{"a": text}]))["detail"][0]["a"]
        assert form not in nested


@pytest.mark.usefixtures("live")
def test_a_live_secret_in_an_exception_is_masked() -> None:
    text = line("error", exc_info=ValueError(f"login with {SECRET} failed"), detail=ValueError(SECRET))
    assert "Tr0ub4dor" not in text
    assert "login with *** failed" in text


@pytest.mark.usefixtures("live")
def test_a_secret_across_the_cut_leaves_no_piece() -> None:
    for start in range(MAX_FIELD - 40, MAX_FIELD + 4):
        found = json.loads(line(reply="x" * start + SECRET + "z" * 2000))["reply"]
        assert "Tr0" not in found, start
        assert len(found.encode()) <= MAX_FIELD, start


@pytest.mark.usefixtures("live")
def test_a_secret_that_masking_moved_up_to_the_cut_leaves_no_piece() -> None:
    for padding in range(40):
        found = json.loads(line(reply="x" * padding + SECRET * 200))["reply"]
        assert "Tr0" not in found, padding


def test_masking_starts_and_ends() -> None:
    assert "correct horse" in line(client="correct horse battery")
    mask("correct horse battery")
    try:
        assert "correct horse" not in line(client="correct horse battery"), "although it was found harmless before"
        mask("correct horse battery")
    finally:
        unmask("correct horse battery")
    assert "correct horse" in line(client="correct horse battery")
    unmask("never was one")


@pytest.mark.parametrize("key", ["reply", "detail", "header_message_id"])
def test_what_was_said_before_is_looked_at_again_once_there_is_a_new_secret(key: str) -> None:
    fields = {key: "2.0.0 queued as hunter2hunter2"}
    assert ["hunter2hunter2" in line(**fields) for _ in range(2)] == [True, True]
    mask("hunter2hunter2")
    try:
        assert "hunter2hunter2" not in line(**fields)
    finally:
        unmask("hunter2hunter2")


def test_what_never_comes_again_is_not_kept() -> None:
    for number in range(10_000):
        line(reply=f"2.0.0 queued as {number}")
    assert len(LIVE.passing) <= 64


def test_our_own_words_do_not_give_a_weak_password_away() -> None:
    mask("wrong")
    try:
        shown = line(cause="The password is wrong.", reply="535 wrong is no password")
    finally:
        unmask("wrong")
    assert "The password is wrong." in shown
    assert "535 *** is no password" in shown


def test_short_secrets() -> None:
    masks = Masks()
    masks.add("abcd")
    masks.add("xyz")
    masks.add("")
    assert masks.masked("1abcd2 xyz") == "1***2 xyz"


@given(st.text(min_size=4, max_size=40), st.text(max_size=60), st.text(max_size=60))
@example("aaaaaaaa", "a", "aaaaaaaaaaaaaaaaaa")
def test_no_secret_stays_in_any_text(secret: str, before: str, after: str) -> None:
    masks = Masks()
    masks.add(secret)
    found = masks.masked(before + secret + after)
    assert secret not in found or secret in "***"
    masks.remove(secret)
    assert masks.masked(before + secret + after) == before + secret + after


@given(st.lists(st.text(min_size=7, max_size=20), min_size=1, max_size=20, unique=True))
def test_texts_without_a_secret_stay_as_they_are(secrets: list[str]) -> None:
    masks = Masks()
    for secret in secrets:
        masks.add(secret)
    text = "250 2.0.0 Ok: queued"
    assert masks.masked(text) == text or any(secret in text for secret in secrets)


def test_the_number_of_live_secrets_is_bounded() -> None:
    masks = Masks()
    masks.add("in constant use")
    for number in range(MAX_SECRETS + 500):
        masks.add(f"password number {number}")
        masks.add("in constant use")
    assert masks.masked("in constant use") == "***"
    assert masks.masked(f"password number {MAX_SECRETS + 499}") == "***"
    assert masks.masked("password number 0") == "password number 0"


def test_nothing_is_left_behind_by_these_tests() -> None:
    assert not LIVE.touches(SECRET)


def test_our_own_advice_keeps_an_ordinary_word_that_is_somebodys_password() -> None:
    for secret in ("password", "hunter2!"):
        mask(secret)
    try:
        advice = "Store the right password: relay account set-password hunter2!@example.com"
        found = json.loads(line(to_do=advice, cause="the password is wrong", reply="wrong password", who="x"))
        assert found["to_do"] == "Store the right password: relay account set-password ***@example.com"
        assert found["cause"] == "the password is wrong"
        assert found["reply"] == "wrong ***", "what comes from outside is masked whatever it is"
    finally:
        for secret in ("password", "hunter2!"):
            unmask(secret)
