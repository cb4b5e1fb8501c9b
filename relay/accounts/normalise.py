"""The written rule by which addresses are compared: docs/address-rules.md. What goes upstream is never changed."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from relay.mail.address import MAX_PATH, Malformed, parse_mail
from relay.mail.errors import RelayError

NULL = "<>"
DEFAULT = "*"

_DOT_ATOM = re.compile(r"[^\s()<>\[\]:;@\\,.\"]+(\.[^\s()<>\[\]:;@\\,.\"]+)*")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*")


class BadAddress(RelayError):
    """Not an address that an account can have. `remedy` says what to write instead."""

    def __init__(self, text: str, remedy: str) -> None:
        super().__init__(f"{text[:MAX_PATH]!r}: {remedy}")
        self.text, self.remedy = text, remedy


class BadPattern(BadAddress):
    """Not a sender pattern. `remedy` says what to write instead."""


@lru_cache(maxsize=4096)
def normalise(address: str) -> str:
    """The form in which two spellings of one address are equal; "" (null) stays "". For look-ups only.

    Domain: IDNA 2008 A-labels (UTS 46), lower case, without a trailing dot.  Local part: NFC, case folded, quotes
    removed where they are not needed.  Never fails: what is no address comes back in some form that no pattern has.
    """
    if address.isascii() and '"' not in address:
        return address.lower().removesuffix(".")
    local, at, domain = address.rpartition("@")
    if not at:
        local, domain = address, ""
    return f"{_folded(_unquoted(local))}{at}{_domain(domain)}"


def normalise_pattern(text: str) -> str:
    """The stored form of a sender pattern: an address, `@domain`, `*`, or `<>`. Raises BadPattern."""
    text = text.strip()
    if text in (DEFAULT, NULL):
        return text
    if text.startswith("@"):
        return "@" + _checked_domain(text[1:], text)
    if "@" not in text:
        raise BadPattern(
            text, f"write an address, a domain as @{text or 'example.com'}, * for every other sender, or <>"
        )
    if text.startswith("*@"):
        raise BadPattern(text, f"write {text[1:]} for every sender of that domain")
    try:
        check_address(text)
    except BadAddress as error:
        raise BadPattern(text, error.remedy) from None
    return normalise(text)


def normalise_recipient_pattern(text: str) -> str:
    """The stored form of a pattern for recipients: an address, `@domain`, or `@*.domain`. Raises BadPattern."""
    text = text.strip()
    if text.startswith("@*."):
        return "@*." + _checked_domain(text[3:], text)
    if "@" not in text:  # * and <> included
        raise BadPattern(text, "write an address, a domain as @example.com, or its subdomains as @*.example.com")
    return normalise_pattern(text)


def settled_address(text: str) -> str:
    """An address that the relay itself puts into envelopes: fit for every upstream, the domain in A-labels.

    Raises BadAddress.
    """
    local, at, domain = check_address(text).rpartition("@")
    if not local.isascii():
        raise BadAddress(text, "letters beyond ASCII before the @ need SMTPUTF8, which not every message has")
    if re.search(r"[%!@]", local):
        raise BadAddress(text, "a local part may not name another destination")
    return f"{local}{at}{_domain(domain)}"


def check_address(text: str) -> str:
    """`text` without white space around it, if it is an address (RFC 5321 4.1.2). Raises BadAddress."""
    text = text.strip()
    if text.startswith("<") or text.endswith(">"):
        raise BadAddress(text, "write the address without angle brackets")
    try:
        address = parse_mail(b"FROM:<" + text.encode("utf-8", "surrogatepass") + b"> SMTPUTF8").address
    except Malformed as error:
        raise BadAddress(text, f"{error.fault.value}; write it as name@example.com") from None
    if address != text or not address:
        raise BadAddress(text, "write it as name@example.com")
    _checked_domain(text.rpartition("@")[2], text)
    return text


def base_address(normalised: str) -> str | None:
    """`user@dom` of `user+detail@dom` (RFC 5233), or None when there is no detail or no user."""
    local, at, domain = normalised.rpartition("@")
    user, plus, _ = local.partition("+")
    if not (at and plus and user) or user.startswith('"'):
        return None
    return f"{user}@{domain}"


def _checked_domain(domain: str, text: str) -> str:
    normalised = _domain(domain)
    if domain.startswith("*") or "@" in domain:
        raise BadPattern(text, "a pattern names one domain exactly: add one entry for each domain")
    if not _HOST.fullmatch(normalised):
        raise BadPattern(text, "the part after @ must be a domain name such as example.com")
    return normalised


def _domain(domain: str) -> str:
    domain = domain.removesuffix(".")
    if domain.isascii():
        return domain.lower()
    import idna  # its tables take 1 MB; most sites never need them

    try:
        return idna.encode(domain, uts46=True).decode("ascii").lower().removesuffix(".")
    except (idna.IDNAError, UnicodeError):
        return unicodedata.normalize("NFC", domain).lower()


def _unquoted(local: str) -> str:
    """RFC 5321 4.1.2: quotes that are not needed mean nothing; needed ones keep the shortest escapes."""
    if not (len(local) > 1 and local.startswith('"') and local.endswith('"')):
        return local
    plain = _ESCAPED.sub(r"\1", local[1:-1])
    if _DOT_ATOM.fullmatch(plain):
        return plain
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _folded(local: str) -> str:
    """Case folded in NFC, yet a letter beyond ASCII never becomes one within: `boſs` (long s) is not `boss`."""
    composed = unicodedata.normalize("NFC", local)
    if local.isascii():
        return local.lower()
    for form in (unicodedata.normalize("NFC", composed.casefold()), composed.lower(), composed):
        if not form.isascii():
            return form
    return local
