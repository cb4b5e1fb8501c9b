"""Signed statements in place of a secret: client assertions (RFC 7523 2.2) and a service account's grant (2.1)."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from relay.credentials.errors import SecretRefused

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"

# Our clock may be ten minutes before or behind the provider's: an assertion begins that much early.
_SKEW_S = 600
_LIFE_S = 900  # from now; Microsoft advises "short", and refuses only what lasts for a day
_SERVICE_LIFE_S = 3600 - _SKEW_S  # Google takes an hour in all
_KEY = re.compile(r"-----BEGIN (?:RSA )?PRIVATE KEY-----.*?-----END (?:RSA )?PRIVATE KEY-----", re.DOTALL)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_LEAST_BITS = 2048


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """`sha256`: 64 hex digits over the DER form, as `OAuthApp.certificate_sha256`. `expires_at`: ms since 1970."""

    sha256: str
    subject: str
    expires_at: int


@dataclass(frozen=True, slots=True)
class ServiceAccountFacts:
    """Who a service account is; its key is not in here."""

    email: str
    client_id: str
    key_id: str


def certificate_facts(pem: str) -> CertificateFacts:
    """What is in a client certificate with its key. Raises SecretRefused (`client_certificate`)."""
    certificate, _ = _certificate(pem)
    return CertificateFacts(
        certificate.fingerprint(SHA256()).hex(),
        certificate.subject.rfc4514_string()[:256],
        int(certificate.not_valid_after_utc.timestamp() * 1000),
    )


def service_account_facts(text: str) -> ServiceAccountFacts:
    """What is in a service account's key file. Raises SecretRefused (`service_account`)."""
    found = _service_account(text)
    return ServiceAccountFacts(found["client_email"], str(found.get("client_id", "")), str(found["private_key_id"]))


def client_assertion(pem: str, *, client_id: str, audience: str, now_s: int) -> str:
    """A JWT that proves to be the app: PS256, named by `x5t#S256`. Takes milliseconds: call it in a thread.

    Raises SecretRefused (`client_certificate`).
    """
    certificate, key = _certificate(pem)
    thumbprint = base64.urlsafe_b64encode(certificate.fingerprint(SHA256())).rstrip(b"=").decode()
    header = {"typ": "JWT", "x5t#S256": thumbprint}
    return _signed(key, "PS256", header, client_id, audience, client_id, now_s, _LIFE_S, {"nbf": now_s - _SKEW_S})


def service_account_assertion(text: str, *, subject: str, scope: str, audience: str, now_s: int) -> str:
    """A JWT by which a service account asks to act for the mailbox `subject`. Call it in a thread.

    Raises SecretRefused (`service_account`).
    """
    found = _service_account(text)
    key = _pkcs8(_rsa(found["private_key"], "service_account"))
    header = {"typ": "JWT", "kid": str(found["private_key_id"])}
    email = found["client_email"]
    return _signed(key, "RS256", header, email, audience, subject, now_s, _SERVICE_LIFE_S, {"scope": scope})


def _signed(
    key: str,
    algorithm: str,
    header: dict[str, str],
    issuer: str,
    audience: str,
    subject: str,
    now_s: int,
    life_s: int,
    claims: dict[str, object],
) -> str:
    from authlib.oauth2.rfc7523.assertion import sign_jwt_bearer_assertion
    from joserfc.jwk import RSAKey

    token: str = sign_jwt_bearer_assertion(
        RSAKey.import_key(key),
        issuer,
        audience,
        subject,
        issued_at=now_s - _SKEW_S,
        expires_at=now_s + life_s,
        claims=claims,  # with a new jti each time
        header=header,
        alg=algorithm,
    )
    return token


def _certificate(pem: str) -> tuple[x509.Certificate, str]:
    """The certificate that belongs to the key, whatever else is in the file; the key as `_pkcs8` gives it."""
    field = "client_certificate"
    found = _KEY.search(pem)
    if found is None:
        raise SecretRefused(field, "holds no unencrypted private key in PEM form")
    key = _rsa(found[0], field)
    for text in _CERTIFICATE.findall(pem):
        try:
            certificate = x509.load_pem_x509_certificate(text.encode())
        except ValueError:
            continue
        if certificate.public_key() == key.public_key():
            return certificate, _pkcs8(key)
    raise SecretRefused(field, "holds no certificate that belongs to its key")


def _rsa(pem: str, field: str) -> RSAPrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise SecretRefused(field, "holds a private key that cannot be read") from None
    if not isinstance(key, RSAPrivateKey) or key.key_size < _LEAST_BITS:
        raise SecretRefused(field, f"must have an RSA key of at least {_LEAST_BITS} bits")
    return key


def _pkcs8(key: RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _service_account(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise SecretRefused("service_account", "is no JSON key file") from None
    if not isinstance(found, dict) or not all(
        isinstance(found.get(name), str) and found[name] for name in ("client_email", "private_key", "private_key_id")
    ):
        raise SecretRefused("service_account", "is no key file of a service account")
    return found
