"""The faults of old programs that can be put up with: one named switch each, with what it does and its default."""

from __future__ import annotations

from typing import NamedTuple


class Switch(NamedTuple):
    """`default`: on for everybody, unless a client entry turns it off with `no-NAME`."""

    meaning: str
    default: bool


SWITCHES: dict[str, Switch] = {
    "bare-lf": Switch("lines of a mail that end in LF alone become CRLF; commands and the final dot need CRLF", True),
    "bare-cr": Switch("lines that end in CR alone become CRLF", True),
    "missing-fields": Switch("missing Date, Message-ID and From are added", True),
    "helo-syntax": Switch("HELO and EHLO take any name", True),
    "spaces": Switch("spaces after FROM: and TO: and at the end of a command are ignored", True),
    "no-brackets": Switch("MAIL and RCPT take an address without angle brackets", False),
    "odd-dots": Switch("dots at the ends of a local part, or two in a row, are taken out", False),
    "bare-recipients": Switch("recipients without a domain get the client's default domain", False),
    "broken-fields": Switch("an unreadable Date, Message-ID or From is replaced, and kept as X-Original-", False),
    "doubled-fields": Switch("of header fields that may occur once only the first is kept", False),
    "raw-8bit": Switch("8-bit header text becomes encoded words, 8-bit bodies get MIME fields, in the charset", False),
    "long-lines": Switch("lines up to 1 MiB; those over 998 octets are re-encoded, never in signed mail", False),
}

Tolerance = frozenset[str]  # the names that are on
DEFAULT: Tolerance = frozenset(name for name, switch in SWITCHES.items() if switch.default)


def tolerance(given: tuple[str, ...]) -> Tolerance:
    """What is on for a client that says `given`: switch names, or `no-NAME` for what is on by default.

    Raises ValueError, its text the unknown name.
    """
    on = set(DEFAULT)
    for name in given:
        if name in SWITCHES:
            on.add(name)
        elif name.startswith("no-") and name[3:] in SWITCHES:
            on.discard(name[3:])
        else:
            raise ValueError(name)
    return frozenset(on)
