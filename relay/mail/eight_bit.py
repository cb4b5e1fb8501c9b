"""Raw 8-bit header text made fit for every server: encoded words (RFC 2047), and MIME fields for the body."""

from __future__ import annotations

import re

from relay.mail.fields import COMMENT, QUOTED, Field, decoded, encoded, encoded_words, fold, unquoted

MAX_FIELDS = 1000  # whatever stands behind so many is left alone

MIME = (b"mime-version", b"content-type", b"content-transfer-encoding")

_ADDRESSES = frozenset(
    b"from sender reply-to to cc resent-from resent-sender resent-to resent-cc"
    b" disposition-notification-to return-receipt-to errors-to".split()
)
_NO_TEXT = re.compile(  # tokens, parameters and signatures, where no encoded word may stand (RFC 2047 5)
    rb"received|date|message-id|in-reply-to|references|mime-version|content-(?!description$).*|dkim-signature"
    rb"|domainkey-signature|arc-.*|authentication-results|list-.*|resent-date|resent-message-id|autocrypt"
)
_PIECES = re.compile(
    rf"(?P<comment>{COMMENT})"
    rf'|(?P<address><[^<>]*+>|(?:{QUOTED}|[^ \t"(),:;<>@\\]++)@[^ \t"(),:;<>]*+)'
    rf'|(?P<phrase>(?>(?:[ \t]|(?:{QUOTED}|[^ \t"(),:;<>@\\]++)(?!@))+))'
    r"|\\.|.",
    re.S,
)
_QUOTED = re.compile(QUOTED)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def encode(fields: list[Field], charset: str) -> bool:
    """Replace, in place, the fields that hold raw 8-bit text, folded anew; whether there were any.

    Addresses stay as they are, octet for octet.  `charset`: of the text, as for `fields.decoded`.
    """
    found = False
    for index, field in enumerate(fields[:MAX_FIELDS]):
        if field.raw.isascii() or _NO_TEXT.fullmatch(field.name):
            continue
        text, name = decoded(field.body, charset)
        text = _encoded_addresses(text, name) if field.name in _ADDRESSES else encoded(text, name)
        if _CONTROL.search(text) or not (text.isascii() or name == "utf-8"):
            continue  # nobody knows where its addresses end, or what they are in UTF-8
        fields[index] = fold(field.raw.partition(b":")[0].decode("ascii").rstrip(" \t"), text)._replace(name=field.name)
        found = True
    return found


def declare(fields: list[Field], charset: str) -> bool:
    """Append what tells how to read the body (RFC 2045) unless the client did; whether that was so."""
    missing = set(MIME) - {field.name for field in fields}
    if b"content-type" not in missing:
        return False
    if b"mime-version" in missing:
        fields.append(fold("MIME-Version", "1.0"))
    fields.append(fold("Content-Type", f"text/plain; charset={charset}"))
    if b"content-transfer-encoding" in missing:
        fields.append(fold("Content-Transfer-Encoding", "8bit"))
    return True


def _encoded_addresses(text: str, charset: str) -> str:
    """An address list with its display names and comments encoded, and nothing else."""
    out = []
    for match in _PIECES.finditer(text):
        piece, kind = match[0], match.lastgroup
        if piece.isascii() or kind not in ("phrase", "comment"):
            out.append(piece)
        elif kind == "comment":
            said = piece[1:-1]
            nested = "(" in said or "\\" in said
            out.append(f"({encoded_words(unquoted(said), charset) if nested else encoded(said, charset)})")
        elif '"' in piece:
            said = _QUOTED.sub(lambda quoted: unquoted(quoted[0][1:-1]), piece)
            out.append(f" {encoded_words(said.strip(), charset)} ")
        else:
            out.append(f" {encoded(piece.strip(), charset)} ")
    return "".join(out)
