"""Seals one secret under one key with AES-256-GCM, bound to the row it belongs in.

A sealed secret is: one version octet, a random 96-bit nonce, ciphertext with its 128-bit tag (NIST SP 800-38D;
random nonces are good for 2^32 seals a key, section 8.3).  The associated data names account, kind, key and
version, so that a row that was swapped, copied, renamed, cut or changed in any bit does not open.
"""

from __future__ import annotations

import hmac
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from relay.credentials.errors import SecretRefused, SecretUnreadable

KEY_BYTES = 32
MAX_SECRET_BYTES = 65536

_VERSION = 1
_NONCE_BYTES = 12
_TAG_BYTES = 16


class Key:
    """One 32-byte key. `source` says where it came from: a file, or the name of a variable."""

    __slots__ = ("_cipher", "_material", "id", "source")

    def __init__(self, key_id: str, material: bytes, source: str) -> None:
        if len(material) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} octets")
        self.id = key_id
        self.source = source
        self._material = material
        self._cipher = AESGCM(material)

    def __repr__(self) -> str:
        return f"Key(id={self.id!r}, source={self.source!r})"

    def same_material(self, other: Key) -> bool:
        """Is it the same key, under whatever name?"""
        return hmac.compare_digest(self._material, other._material)

    def text(self) -> str:
        """The key itself, as key files hold it: for a backup of keys, and for nothing else."""
        return f"{self._material.hex()}\n"

    def fingerprint(self, octets: bytes) -> bytes:
        """Tells equal `octets` without telling them: nobody can try guesses against it who has not the key."""
        own = hmac.digest(self._material, b"relay fingerprint", "sha256")  # never the key that seals
        return hmac.digest(own, octets, "sha256")

    def seal(self, account_id: int, kind: str, secret: str) -> bytes:
        """The sealed form of `secret` for that account and kind. Raises SecretRefused when it cannot be kept."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        clear = _octets(secret)
        return bytes((_VERSION,)) + nonce + self._cipher.encrypt(nonce, clear, _binding(account_id, kind, self.id))

    def open(self, account_id: int, kind: str, sealed: bytes) -> str:
        """The secret in clear. Raises SecretUnreadable unless it was sealed by this key for this account and kind."""
        if len(sealed) <= 1 + _NONCE_BYTES + _TAG_BYTES or sealed[0] != _VERSION:
            raise SecretUnreadable(account_id, kind, self.id)
        nonce, rest = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            clear = self._cipher.decrypt(nonce, rest, _binding(account_id, kind, self.id))
        except InvalidTag:
            raise SecretUnreadable(account_id, kind, self.id) from None
        return clear.decode("utf-8")


def _binding(account_id: int, kind: str, key_id: str) -> bytes:
    """Each part with its length before it: no two rows share an encoding."""
    parts = (b"relay secret", bytes((_VERSION,)), str(account_id).encode(), kind.encode(), key_id.encode())
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _octets(secret: str) -> bytes:
    if not secret:
        raise SecretRefused("secret", "is empty")
    # Looked for, not caught: a UnicodeEncodeError carries the whole text it failed on.
    if any("\ud800" <= character <= "\udfff" for character in secret):
        raise SecretRefused("secret", "is not UTF-8 text")
    octets = secret.encode("utf-8")
    if len(octets) > MAX_SECRET_BYTES:
        raise SecretRefused("secret", f"is longer than {MAX_SECRET_BYTES} octets")
    return octets
