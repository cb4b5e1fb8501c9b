"""Passwords of clients: hashed with argon2id, verified, never shown."""

import argon2
import pytest
from argon2.profiles import RFC_9106_LOW_MEMORY

from relay.accounts.errors import BadSetting
from relay.accounts.passwords import DUMMY_HASH, MAX_PASSWORD, hash_password, verify_password

pytestmark = pytest.mark.usefixtures("costly_passwords")


def test_a_password_is_known_again_and_another_is_not():
    stored = hash_password("correct horse é")
    assert stored.startswith("$argon2id$")
    assert argon2.extract_parameters(stored) == RFC_9106_LOW_MEMORY
    assert verify_password(stored, "correct horse e\N{COMBINING ACUTE ACCENT}")
    assert not verify_password(stored, "correct horse e")
    assert not verify_password(stored, "")


def test_two_hashes_of_one_password_differ():
    assert hash_password("x") != hash_password("x")


def test_the_dummy_costs_what_a_login_costs_and_fits_nothing():
    assert argon2.extract_parameters(DUMMY_HASH) == RFC_9106_LOW_MEMORY
    assert not verify_password(DUMMY_HASH, "anything")


@pytest.mark.parametrize("password", ["", "x" * (MAX_PASSWORD + 1), "é" * 513, "e\N{COMBINING ACUTE ACCENT}" * 1000])
def test_a_password_out_of_bounds_is_refused_and_never_right(password):
    with pytest.raises(BadSetting) as caught:
        hash_password(password)
    assert caught.value.field == "password"
    assert len(str(caught.value)) < 200
    assert not verify_password(DUMMY_HASH, password)


def test_a_password_at_the_limit_is_taken_whole():
    stored = hash_password("x" * MAX_PASSWORD)
    assert verify_password(stored, "x" * MAX_PASSWORD)
    assert not verify_password(stored, "x" * (MAX_PASSWORD - 1) + "y")


@pytest.mark.parametrize("stored", ["", "plain", "$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA", "$2b$12$x", "é"])
def test_what_is_no_hash_fits_nothing(stored):
    assert not verify_password(stored, "plain")


def test_octets_that_are_no_text_are_a_wrong_password_and_no_error():
    assert not verify_password(DUMMY_HASH, "\udcff")
