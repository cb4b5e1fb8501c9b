"""TLS for a front door: versions, ciphers, and the certificate an application is shown."""

from __future__ import annotations

import ssl
from pathlib import Path

HANDSHAKE_S = 30
_VERSIONS = {
    "1.0": ssl.TLSVersion.TLSv1,
    "1.1": ssl.TLSVersion.TLSv1_1,
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
}
_WEAK = ("1.0", "1.1")
# Old versions know no cipher that OpenSSL still holds for safe: SHA-1 throughout, keys of any length.
_WEAK_CIPHERS = "DEFAULT:!aNULL:!eNULL:@SECLEVEL=0"


def server_context(certificate: Path, key: Path | None, *, minimum: str = "1.2") -> ssl.SSLContext:
    """TLS `minimum` (1.0 to 1.3) or newer with this certificate chain (PEM) and key, which may be in the same file.

    Raises OSError (ssl.SSLError is one) when a file cannot be read or the two do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[minimum]
    if minimum in _WEAK:
        context.set_ciphers(_WEAK_CIPHERS)
    context.load_cert_chain(certificate, key)
    return context


def tls_trouble(error: BaseException) -> str:
    """Why a handshake failed, in a few words."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return str(error) or type(error).__name__
