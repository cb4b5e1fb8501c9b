"""What was put right in a content on its way in, in words for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable

_WORDS = {
    "bare-lf": "lines that ended in LF alone got CRLF",
    "bare-cr": "lines that ended in CR alone got CRLF",
    "empty-line": "the empty line between header and body was missing",
    "long-lines": "a line was longer than 998 octets: its part was re-encoded",
    "doubled-fields": "of header fields that may occur once the first was kept",
    "broken-fields": "an unreadable Date, Message-ID or From was replaced",
    "raw-8bit": "8-bit text without a charset was encoded",
    "captured": "its recipients were replaced by the client's --capture",
    "rewritten-from": "From became the account's",
}
_NAMES = {"bcc": "Bcc", "resent-bcc": "Resent-Bcc", "return-path": "Return-Path", "sender": "Sender"}


def mended(repaired: Iterable[str]) -> list[str]:
    """A sentence for each of `header.Facts.repaired` and `Intake.repaired`, in their order."""
    return [_said(one) for one in repaired]


def _said(one: str) -> str:
    if one in _WORDS:
        return _WORDS[one]
    if one.startswith("-"):
        return f"{_NAMES.get(one[1:], one[1:])} was taken out"
    return f"{one} was missing and was added"
