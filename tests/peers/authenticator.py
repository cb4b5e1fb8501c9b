"""A passkey authenticator in software: what a browser and it answer (WebAuthn 5.1, 6), true or forged."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

_UP, _UV, _AT = 0x01, 0x04, 0x40


def encoded(raw: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    """Its reverse."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Authenticator:
    """One passkey, for the site that it was made for. `origin`: where its browser believes to be."""

    origin: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    handle: bytes = b""
    count: int = 0

    def create(self, options: dict[str, Any], **more: Any) -> str:
        """The answer to creation options."""
        self.handle = decoded(options["user"]["id"])
        numbers = self.key.public_key().public_numbers()
        public = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32, "big"), -3: numbers.y.to_bytes(32, "big")}
        attested = bytes(16) + len(self.id).to_bytes(2, "big") + self.id + cbor2.dumps(public)
        data = self._data(options["rp"]["id"], more.pop("flags", _UP | _UV) | _AT) + attested
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        return self._answer("webauthn.create", options, {"attestationObject": encoded(attestation)}, **more)

    def get(self, options: dict[str, Any], *, flags: int = _UP | _UV, site: str | None = None, **more: Any) -> str:
        """The answer to request options; `handle` None: it names nobody."""
        self.count += more.pop("counts", 1)
        handle = more.pop("handle", self.handle)
        data = self._data(site or options["rpId"], flags)
        client = self._client("webauthn.get", options, **more)
        signature = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        response = {
            "authenticatorData": encoded(data),
            "signature": encoded(signature),
            "userHandle": encoded(handle) if handle is not None else None,
        }
        return self._answer("webauthn.get", options, response, **more)

    def _data(self, site: str, flags: int) -> bytes:
        return hashlib.sha256(site.encode()).digest() + bytes([flags]) + self.count.to_bytes(4, "big")

    def _client(self, kind: str, options: dict[str, Any], *, origin: str | None = None, **changed: Any) -> bytes:
        said = {"type": kind, "challenge": options["challenge"], "origin": origin or self.origin, "crossOrigin": False}
        return json.dumps(said | changed).encode()

    def _answer(self, kind: str, options: dict[str, Any], response: dict[str, Any], **more: Any) -> str:
        client = encoded(self._client(kind, options, **more))
        own = encoded(self.id)
        return json.dumps(
            {"id": own, "rawId": own, "type": "public-key", "response": {"clientDataJSON": client, **response}}
        )
