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
_GONE = "connection lost"
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


_REMEDIES = {
    "wrong version number": "the application speaks no TLS, or another protocol, where TLS was due: switch on its TLS "
    "from the first octet (465) or STARTTLS as this door has it, or send it to another door",
    "http request": "an HTTP client came here: give it another port",
    "unsupported protocol": "the application's TLS is too old: update it, or give it a door with a lower tls_min",
    "no shared cipher": "the application's TLS is too old: update it, or give it a door with a lower tls_min",
    "tlsv1 alert unknown ca": "the application does not trust the certificate: import its CA there, or give the door "
    "one of a CA that it trusts",
    "alert bad certificate": "the application does not take the certificate: its host name, its dates, its CA",
    "alert certificate unknown": "the application does not take the certificate: its host name, its dates, its CA",
    _GONE: "the application went away before TLS began; does it wait for a greeting, or time out? One without TLS "
    "needs a door that is not implicit",
}


def tls_trouble(error: BaseException) -> dict[str, str]:
    """Why a handshake failed, in a few words, as the key `reason` of a log line; `to_do` where it is known."""
    if isinstance(error, ssl.SSLError) and error.reason:
        reason = error.reason.replace("_", " ").lower()
    elif isinstance(error, ConnectionError):
        reason = _GONE
    else:
        reason = str(error) or type(error).__name__
    to_do = next((words for end, words in _REMEDIES.items() if reason.endswith(end)), "")
    return {"reason": reason} | ({"to_do": to_do} if to_do else {})
