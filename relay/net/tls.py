"""Client-side TLS contexts that always verify: by system CAs, a CA file, an expected name, or a pinned certificate."""

from __future__ import annotations

import hashlib
import hmac
import re
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

_PIN = re.compile(r"[0-9a-f]{64}")
_KEPT = 64  # contexts; more different trust settings than that are built anew each time


class BadTrust(ValueError):
    """A trust setting that means nothing: not a CA file, a `sha256:` fingerprint or a host name."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How a connection proves whom it talks to.

    `name`: the host name the certificate must be for (None: the one dialled).  `pin`: SHA-256 of the certificate's
    DER form; it takes the place of chain and name, and `verify_pin` must be called right after the handshake,
    before anything is sent.
    """

    context: ssl.SSLContext
    name: str | None = None
    pin: bytes | None = None

    def verify_pin(self, ssl_object: object) -> None:
        """Raise ssl.SSLCertVerificationError unless there is no pin, or the peer showed the pinned certificate.

        `ssl_object` is the transport's extra info of that name.
        """
        if self.pin is None:
            return
        shown = None
        if isinstance(ssl_object, ssl.SSLObject | ssl.SSLSocket):
            shown = ssl_object.getpeercert(binary_form=True)
        if not shown or not hmac.compare_digest(hashlib.sha256(shown).digest(), self.pin):
            digest = hashlib.sha256(shown).hexdigest() if shown else "none"
            raise ssl.SSLCertVerificationError(f"the certificate's fingerprint is sha256:{digest}, not the pinned one")


_Stamp = tuple[str, int, int]  # of a CA file: path, time of change, size
_cache: dict[tuple[_Stamp, _Stamp], ClientTls] = {}
_lock = threading.Lock()


def client_tls(trust: str | None, ca_file: Path | None = None) -> ClientTls:
    """The context for a trust setting: None (system CAs), a CA file's path, `sha256:HEX`, `name:HOST`, or a host name.

    `ca_file`: authorities trusted besides the system's, where those are.  TLS 1.2 or newer; nothing can mean "trust
    everything".  Kept for the next caller until a CA file changes.  Reads files: a first call takes some 10 ms.  Safe
    from any thread.  Raises BadTrust, or OSError for a CA file that cannot be read.
    """
    key = _key(trust, ca_file)
    with _lock:
        made = _cache.get(key)
    if made is None:
        made = _make(trust, _ca_path(trust), ca_file)
        with _lock:
            while len(_cache) >= _KEPT:
                _cache.pop(next(iter(_cache)))
            _cache[key] = made
    return made


def is_cached(trust: str | None, ca_file: Path | None = None) -> bool:
    """True if `client_tls` will answer without reading a certificate store. Raises OSError as it does."""
    key = _key(trust, ca_file)
    with _lock:
        return key in _cache


def _key(trust: str | None, ca_file: Path | None) -> tuple[_Stamp, _Stamp]:
    path = _ca_path(trust)
    return stamp(path) if path is not None else (trust or "", 0, 0), stamp(ca_file)


def stamp(path: Path | None) -> _Stamp:
    """What tells a CA file from what it was before. Raises OSError."""
    if path is None:
        return "", 0, 0
    stat = path.stat()
    return str(path), stat.st_mtime_ns, stat.st_size


def _ca_path(trust: str | None) -> Path | None:
    """A bare word is a host name; a CA file needs a slash, or to exist with a usual ending."""
    if trust is None or trust.lower().startswith(("sha256:", "name:")):
        return None
    path = Path(trust)
    if "/" in trust or path.suffix.lower() in (".pem", ".crt", ".cer", ".cert"):
        return path
    return None


def _make(trust: str | None, path: Path | None, extra: Path | None) -> ClientTls:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and host name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION
    if trust is not None and trust.lower().startswith("sha256:"):
        digits = re.sub(r"[:\s]", "", trust[len("sha256:") :]).lower()
        if not _PIN.fullmatch(digits):
            raise BadTrust("sha256: needs 64 hex digits")
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # the pin is the verification, see ClientTls.verify_pin
        return ClientTls(context, pin=bytes.fromhex(digits))
    if path is not None:
        add_authorities(context, path)
        return ClientTls(context)
    context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    if extra is not None:
        add_authorities(context, extra)
    if trust is None:
        return ClientTls(context)
    name = trust[len("name:") :].strip() if trust.lower().startswith("name:") else trust.strip()
    if not name:
        raise BadTrust("name: needs a host name")
    return ClientTls(context, name=name)


def add_authorities(context: ssl.SSLContext, path: Path) -> None:
    """Trust those of a PEM file as well. Raises BadTrust, or OSError for a file that cannot be read."""
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:
        raise BadTrust(f"{path} holds no certificate in PEM form") from error
