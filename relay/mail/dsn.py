"""What an application asks about delivery status notifications: RET, ENVID, NOTIFY and ORCPT (RFC 3461 4)."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_ENVID = 100  # characters, RFC 3461 4.4
MAX_ORCPT = 500  # characters, RFC 3461 4.2
_MAX_NOTIFY = 100  # characters; the longest that makes sense has 21

_NOTIFY = ("SUCCESS", "FAILURE", "DELAY")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")  # RFC 3461 4: any graphic character but "+" and "="
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_TYPED = re.compile(r"([a-z0-9!#$%&'*/?^_`{|}~-]{1,63});(.+)", re.I | re.A | re.S)  # addr-type; address

# RFC 6533 3: what may stand for itself in an address of type utf-8, and what stands for any other character
_EMBEDDED = re.compile(r"\\x\{([0-9a-f]{1,6})\}", re.I)
_SPECIAL = re.compile(r"[^!-*,-<>-\[\]-~]")


class MessageRequest(NamedTuple):
    """Of the message: `ret` FULL, HDRS or "" (not said); `envid` in xtext, as it was given, or ""."""

    ret: str
    envid: str


class RecipientRequest(NamedTuple):
    """Of one recipient: `notify` NEVER, or some of SUCCESS,FAILURE,DELAY in that order, or "" (not said).

    `orcpt` is `type;address` as it was given, "" (not said); of type utf-8 always in the form that needs no SMTPUTF8.
    """

    notify: str
    orcpt: str


# Whoever asks nothing shares these, so that `is` tells it.
NO_MESSAGE_REQUEST = MessageRequest("", "")
NO_RECIPIENT_REQUEST = RecipientRequest("", "")


def message_request(ret: str | None, envid: str | None) -> MessageRequest:
    """From stored values, which may be NULL."""
    return MessageRequest(ret or "", envid or "") if ret or envid else NO_MESSAGE_REQUEST


def recipient_request(notify: str | None, orcpt: str | None) -> RecipientRequest:
    """From stored values, which may be NULL."""
    return RecipientRequest(notify or "", orcpt or "") if notify or orcpt else NO_RECIPIENT_REQUEST


def ret_of(value: str) -> str | None:
    """FULL or HDRS (RFC 3461 4.3); None: neither."""
    upper = value.upper()
    return upper if upper in ("FULL", "HDRS") else None


def envid_of(value: str) -> str | None:
    """The value as it is, if it is an envelope identifier (RFC 3461 4.4)."""
    return value if len(value) <= MAX_ENVID and decoded_xtext(value) is not None else None


def notify_of(value: str) -> str | None:
    """The conditions in upper case and in one order (RFC 3461 4.1); None: not a list of them, or NEVER among others."""
    upper = value.upper()
    if upper == "NEVER":
        return upper
    asked = set(upper[:_MAX_NOTIFY].split(","))
    if len(upper) > _MAX_NOTIFY or not asked.issubset(_NOTIFY):
        return None
    return ",".join(condition for condition in _NOTIFY if condition in asked)


def orcpt_of(value: str, *, smtputf8: bool) -> str | None:
    """An original recipient (RFC 3461 4.2), in ASCII; None: it is none.

    Any address type will do, and the address is not held against the syntax of its type: both by RFC 3461 4.2.  Letters
    beyond ASCII need the type utf-8 and SMTPUTF8 (RFC 6533 3).
    """
    match = _TYPED.fullmatch(value)
    if match is None:
        return None
    kind, address = match[1], match[2]
    if kind.lower() == "utf-8":
        encoded = _utf8_xtext(address, smtputf8=smtputf8)
        if encoded is None:
            return None
        value = f"{kind};{encoded}"
    elif decoded_xtext(address) is None:
        return None
    return value if len(value) <= MAX_ORCPT else None


def decoded_xtext(text: str) -> str | None:
    """What xtext stands for (RFC 3461 4); None: not xtext, empty, or what it stands for is not printable ASCII.

    RFC 3461 4.2, 4.4: a line end that came out here would become a header field of a notice.
    """
    if not _XTEXT.fullmatch(text):
        return None
    plain = _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), text)
    return plain if plain.isascii() and plain.isprintable() else None


def seven_bit(address: str) -> str:
    """An address in the 7-bit form of type utf-8 (RFC 6533 3), whatever is in it."""
    return _SPECIAL.sub(lambda match: f"\\x{{{ord(match[0]):X}}}", address)


def _utf8_xtext(address: str, *, smtputf8: bool) -> str | None:
    """The 7-bit form of an address of type utf-8 (RFC 6533 3); None: it is none, or only SMTPUTF8 would allow it."""
    pieces = _EMBEDDED.split(address)
    if not smtputf8 and any(_SPECIAL.search(piece) for piece in pieces[::2]):
        return None
    points = [int(digits, 16) for digits in pieces[1::2]]
    if any(point > 0x10FFFF or not chr(point).isprintable() for point in points):  # surrogates are not printable
        return None
    if any("\\" in piece or not piece.isprintable() for piece in pieces[::2]):
        return None
    pieces[::2] = [seven_bit(piece) for piece in pieces[::2]]
    pieces[1::2] = [f"\\x{{{point:X}}}" for point in points]
    return "".join(pieces)
