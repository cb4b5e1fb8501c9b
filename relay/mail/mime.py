"""What the header section of a MIME entity says about its body (RFC 2045, RFC 2046 5.1)."""

from __future__ import annotations

import re
from typing import NamedTuple

_MAX_VALUE = 4096  # octets of a field we read; what is longer is left alone
_MAX_BOUNDARY = 200  # RFC 2046 5.1.1 allows 70; programs are seen to use more

_TOKEN = rb"[!#$%&'*+\-.^_`{|}~0-9A-Za-z]+"  # RFC 2045 5.1
_SPACE = rb"(?:[ \t]|\([^()\\]*\))*"  # comments within comments: not read
_FIELD = re.compile(
    rb"^(mime-version|content-type|content-transfer-encoding|dkim-signature|domainkey-signature|arc-seal"
    rb"|arc-message-signature)[ \t]*:([^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)",
    re.M | re.I,
)
_NO_FIELD = re.compile(rb"^(?!\Z|[ \t]|[!-9;-~]+[ \t]*:)", re.M)
_TYPE = re.compile(_SPACE + rb"(" + _TOKEN + rb"/" + _TOKEN + rb")" + _SPACE)
_PARAMETER = re.compile(
    rb";" + _SPACE + rb"(?:(" + _TOKEN + rb")[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s;\"]+))" + _SPACE + rb")?"
)
_ENCODING = re.compile(_SPACE + rb"(" + _TOKEN + rb")" + _SPACE)
_BOUNDARY = re.compile(rb"[ -~]{0,%d}[!-~]" % (_MAX_BOUNDARY - 1))
_STRUCTURED = re.compile(rb"multipart|message|pkcs7", re.I)
_SEALS = {"dkim-signature", "domainkey-signature", "arc-seal", "arc-message-signature"}


class Entity(NamedTuple):
    """One header section, read. All text is lower case and printable, except the boundary."""

    kind: str  # type/subtype; "": no Content-Type
    encoding: str  # Content-Transfer-Encoding; "": none
    boundary: bytes  # of a multipart; "": none that can be used
    versioned: bool  # it has a MIME-Version
    fault: str  # why nothing can be said for sure: different readers would read it differently; "": clear
    seal: str  # the name of a field that signs all of the message; "": none


def read_entity(section: bytes) -> Entity:
    """Read a header section: CRLF-ended fields, without the empty line. Work is linear in its length."""
    if _NO_FIELD.search(section) or section.startswith((b" ", b"\t")):
        return Entity("", "", b"", False, "unreadable header", "")
    values: dict[str, bytes] = {}
    seal = fault = ""
    for match in _FIELD.finditer(section):
        name = match[1].lower().decode()
        if name in _SEALS:
            seal = seal or name
        elif name in values:
            fault = f"{name} given twice"
        elif len(match[2]) > _MAX_VALUE:
            fault = f"{name} too long"
        else:
            values[name] = match[2].replace(b"\r\n", b"")  # unfolded: RFC 5322 2.2.3
    kind, boundary, unclear = _read_type(values.get("content-type"))
    encoding = ""
    if "content-transfer-encoding" in values:
        given = _ENCODING.fullmatch(values["content-transfer-encoding"])
        if given is None:
            unclear = unclear or "unreadable content-transfer-encoding"
        else:
            encoding = given[1].lower().decode()
    return Entity(kind, encoding, boundary, "mime-version" in values, fault or unclear, seal)


def _read_type(value: bytes | None) -> tuple[str, bytes, str]:
    """Type, boundary, fault."""
    if value is None:
        return "", b"", ""
    match = _TYPE.match(value)
    if match is None:
        # RFC 2045 5.2: what cannot be read is plain text; but not where it may mean something with parts.
        return ("", b"", "unreadable content-type") if _STRUCTURED.search(value) else ("text/plain", b"", "")
    kind = match[1].lower().decode()
    if not kind.startswith("multipart/"):
        return kind, b"", ""
    boundaries, at = [], match.end()
    while at < len(value):
        parameter = _PARAMETER.match(value, at)
        if parameter is None:
            return kind, b"", "unreadable content-type"
        name = (parameter[1] or b"").lower()
        if name.startswith(b"boundary"):  # also boundary*0 of RFC 2231, which many readers do not know
            boundaries.append((name, parameter[3] or re.sub(rb"\\(.)", rb"\1", parameter[2] or b"")))
        at = parameter.end()
    if len(boundaries) != 1 or boundaries[0][0] != b"boundary" or not _BOUNDARY.fullmatch(boundaries[0][1]):
        return kind, b"", "unusable boundary"
    return kind, boundaries[0][1], ""
