"""Sealing fails closed: whatever was changed, moved, cut or opened with another key does not open."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.credentials.errors import SecretRefused, SecretUnreadable
from relay.credentials.sealing import MAX_SECRET_BYTES, Key, _binding
from relay.credentials.secret import Secret
from tests.lengths import size_of

SECRET = "correct horse battery staple"
NONCES = size_of("VAULT_NONCES", short=1 << 14, long=1 << 20)


@pytest.fixture
def key() -> Key:
    return Key("k1", os.urandom(32), "test")


@given(secret=st.text(min_size=1, alphabet=st.characters(exclude_categories=("Cs",))), account=st.integers(1, 1 << 62))
def test_what_was_sealed_opens_again(secret: str, account: int) -> None:
    key = Key("k1", bytes(range(32)), "test")
    assert key.open(account, "password", key.seal(account, "password", secret)) == secret


def test_ten_thousand_bit_flips_are_all_detected(key: Key) -> None:
    chance = random.Random(4)
    sealed = key.seal(7, "password", SECRET * 4)
    places = list(range(len(sealed) * 8))
    for place in places + chance.choices(places, k=10_000 - len(places)):
        flipped = bytearray(key.seal(7, "password", SECRET * 4) if place % 7 == 0 else sealed)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(SecretUnreadable):
            key.open(7, "password", bytes(flipped))


def test_every_truncation_and_extension_is_detected(key: Key) -> None:
    sealed = key.seal(7, "password", SECRET)
    for length in range(len(sealed)):
        with pytest.raises(SecretUnreadable):
            key.open(7, "password", sealed[:length])
    with pytest.raises(SecretUnreadable):
        key.open(7, "password", sealed + b"\0")


def test_no_row_opens_in_the_place_of_another(key: Key) -> None:
    other = Key("k2", os.urandom(32), "test")
    same_material_other_name = Key("k3", key._material, "test")
    places = list(itertools.product((key, other, same_material_other_name), (1, 2, 11), ("password", "refresh_token")))
    sealed = {place: place[0].seal(place[1], place[2], SECRET) for place in places}
    for source, target in itertools.permutations(places, 2):
        with pytest.raises(SecretUnreadable) as caught:
            target[0].open(target[1], target[2], sealed[source])
        assert (caught.value.account_id, caught.value.kind, caught.value.key_id) == (target[1], target[2], target[0].id)


@given(a=st.tuples(st.integers(0, 999), st.text(), st.text()), b=st.tuples(st.integers(0, 999), st.text(), st.text()))
def test_two_places_never_share_associated_data(a: tuple[int, str, str], b: tuple[int, str, str]) -> None:
    assert (_binding(*a) == _binding(*b)) == (a == b)


def test_associated_data_does_not_run_together() -> None:
    assert _binding(1, "1password", "k") != _binding(11, "password", "k")
    assert _binding(1, "password", "k1") != _binding(1, "passwordk", "1")


def test_a_nonce_is_never_used_twice(key: Key) -> None:
    nonces = {key.seal(1, "password", "x")[1:13] for _ in range(NONCES)}
    assert len(nonces) == NONCES


@pytest.mark.parametrize(
    ("secret", "reason"), [("", "empty"), ("a" * (MAX_SECRET_BYTES + 1), "longer"), ("a\udcff", "UTF-8")]
)
def test_what_cannot_be_kept_is_refused_without_showing_it(key: Key, secret: str, reason: str) -> None:
    with pytest.raises(SecretRefused, match=reason) as caught:
        key.seal(1, "password", secret)
    assert caught.value.__context__ is None  # a UnicodeEncodeError would carry the text
    assert key.open(1, "password", key.seal(1, "password", "a" * MAX_SECRET_BYTES)) == "a" * MAX_SECRET_BYTES


def test_no_secret_and_no_key_in_any_text() -> None:
    key, secret = Key("k1", bytes(range(65, 97)), "test"), Secret(SECRET)
    sealed = bytearray(key.seal(7, "password", SECRET))
    sealed[-1] ^= 1
    texts = [
        repr(key),
        str(key),
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>40}",
        f"{[secret]}",
        str(key.__class__),
    ]
    try:
        key.open(7, "password", bytes(sealed))
    except SecretUnreadable as error:
        texts += [repr(error), str(error), *traceback.format_exception(error)]
        texts += traceback.TracebackException.from_exception(error, capture_locals=True).format()
    joined, material = "\n".join(texts), bytes(range(65, 97))
    for shape in (SECRET, material.decode(), material.hex(), repr(material)[2:-1]):
        assert shape not in joined
    assert "account 7" in joined


def test_a_secret_is_revealed_compared_and_never_pickled() -> None:
    assert Secret("a").reveal() == "a"
    assert Secret("a") == Secret("a") != Secret("b")
    assert Secret("a") != "a"
    with pytest.raises(TypeError):
        pickle.dumps(Secret("a"))
    with pytest.raises(TypeError):
        hash(Secret("a"))
