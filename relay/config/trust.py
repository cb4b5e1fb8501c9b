"""Whom an upstream's certificate is checked against: a CA file, a pinned fingerprint, or an expected name."""

from __future__ import annotations

import re
from pathlib import Path

from relay.config.wording import shown

_EVERYTHING = frozenset(
    {"*", "all", "any", "none", "true", "yes", "y", "1", "everything", "off", "no", "false", "0", "n"}
)
_RIGHT = "give a CA file (PEM), sha256:<fingerprint of the certificate>, or name:<host name in the certificate>"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_FILE_ENDINGS = (".pem", ".crt", ".cer", ".cert", ".ca", ".bundle")


def trust_anchor(text: str) -> str:
    """The one written form of a trust setting: an absolute path, `sha256:<64 hex digits>`, or `name:<host>`.

    A fingerprint is of the whole certificate in DER form.  A bare host name means `name:`.  Raises ValueError with
    what was wrong and the right form; nothing can mean "trust everything".
    """
    text = text.strip()
    if text.lower().removeprefix("name:").strip() in _EVERYTHING:
        raise ValueError(
            f"{shown(text)} would trust every certificate or none, which this program never does; {_RIGHT}"
        )
    kind, colon, rest = text.partition(":")
    if colon and kind.lower() == "sha256":
        return "sha256:" + _fingerprint(rest)
    if colon and kind.lower() == "name":
        return "name:" + _host_name(rest.strip())
    path = Path(text).expanduser()
    if "/" in text or text.lower().endswith(_FILE_ENDINGS) or path.is_file():
        return str(_ca_file(path))
    return "name:" + _host_name(text)


def _fingerprint(text: str) -> str:
    digits = re.sub(r"[:\s]", "", text).lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digits):
        raise ValueError(
            "sha256: needs the 64 hex digits of the certificate's SHA-256 fingerprint; "
            "openssl x509 -noout -fingerprint -sha256 -in cert.pem prints it"
        )
    return digits


def _host_name(text: str) -> str:
    if len(text) > 253 or not _NAME.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a host name; {_RIGHT}")
    return text.lower().rstrip(".")


def _ca_file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{shown(str(path))} does not exist or is not a file; {_RIGHT}")
    import ssl  # costs 10 ms, and only sites with a CA of their own need it

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError):
        pass
    if not context.cert_store_stats()["x509"]:
        raise ValueError(f"{shown(str(path))} holds no certificate in PEM form; {_RIGHT}")
    return path.absolute()
