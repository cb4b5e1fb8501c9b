"""Passwords of clients that log in: kept as argon2id hashes, never as themselves."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Final

from relay.accounts.errors import BadSetting

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MAX_PASSWORD: Final = 1024  # octets of UTF-8

# What a login that nobody has is verified against, so that it takes as long as one that somebody has: the hash of
# 32 random octets that were not kept.  A test compares its parameters with those in use.
DUMMY_HASH: Final = "$argon2id$v=19$m=65536,t=3,p=4$7av9ngrS9FMUirqTml5NfQ$42pOP9MRcnU5jIG+lDZsBn2vbGa57JOF4vWlN70kx+s"


def hash_password(password: str) -> str:
    """The argon2id hash in PHC form, with a salt of its own. Takes 64 MiB and some 100 ms: call it in a thread.

    Raises BadSetting, without the password, when it is empty or over 1 KiB.
    """
    octets = _octets(password)
    if octets is None:
        raise BadSetting("password", f"longer than {MAX_PASSWORD} octets", "give the file that holds only the password")
    if not octets:
        raise BadSetting("password", "", "give one with --password-file F, or - for standard input")
    return _hasher().hash(octets)


def verify_password(stored: str, password: str) -> bool:
    """Is `password` what `stored` was made of? As costly as `hash_password`: call it in a thread.

    False at once for a password over 1 KiB or a `stored` that is no hash: neither can be of anybody.
    """
    from argon2.exceptions import VerificationError

    octets = _octets(password)
    if octets is None:
        return False
    try:
        return _hasher().verify(stored, octets)
    except (VerificationError, ValueError):  # ValueError: `stored` is no hash
        return False


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # imported by the first who needs it: most sites have no client that logs in
    from argon2.profiles import RFC_9106_LOW_MEMORY

    return PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)


def _octets(password: str) -> bytes | None:
    """What is hashed, or None when it is too long. Two spellings of one character are one password (RFC 8265 4.2.1)."""
    if len(password) > MAX_PASSWORD:
        return None
    octets = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
    return octets if len(octets) <= MAX_PASSWORD else None
