"""Where the content of a message is, and the wire form it is kept in from door to door.

Wire form: CRLF line ends only, dot-stuffed (every line that begins with "." begins with ".."; RFC 5321 4.5.2),
ends with CRLF, without the final ".".  Nothing between the doors stuffs or unstuffs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

_OPEN = (b"\r\n.", b"\r\n", b"\r")  # what follows decides whether a dot is stuffing

INLINE_LIMIT = 65536  # octets; larger contents go to the spool


@dataclass(frozen=True, slots=True)
class Content:
    """Exactly one of `inline` (the octets) and `spool` (the name of a spool file) is set, unless evicted.

    `size` counts octets in wire form.  A message whose octets were not kept in memory has both None: the
    queue reads them back by message id.
    """

    size: int
    inline: bytes | None = None
    spool: str | None = None


class Stored(Protocol):
    """Content that is neither in memory nor in a file."""

    def read(self, at: int, length: int) -> bytes:
        """Exactly `length` octets in wire form, from `at` on. Blocking. Raises StorageFailed."""


FINAL_DOT = b".\r\n"


def unstuff(wire: bytes) -> bytes:
    """The octets the author sent: dot-stuffing undone in bulk (RFC 5321 4.5.2)."""
    text = wire.replace(b"\r\n..", b"\r\n.")
    return text[1:] if text.startswith(b"..") else text


class Unstuffer:
    """`unstuff` for wire form that comes in chunks, cut anywhere. Holds back at most three octets."""

    __slots__ = ("_began", "_held")

    def __init__(self) -> None:
        self._held = b"\r\n"  # as if a line had just ended; taken off the first octets again
        self._began = False

    def feed(self, wire: bytes) -> bytes:
        """The next octets of the author's; may be empty."""
        data = self._held + wire
        held = next((len(end) for end in _OPEN if data.endswith(end)), 0)
        self._held = data[len(data) - held :]
        plain = data[: len(data) - held].replace(b"\r\n..", b"\r\n.")
        if plain and not self._began:
            self._began = True
            return plain[2:]
        return plain

    def finish(self) -> bytes:
        """What was held back."""
        return self._held if self._began else self._held[2:]


def stuff(text: bytes) -> bytes:
    """The wire form of CRLF-ended octets: dots at line starts doubled in bulk (RFC 5321 4.5.2)."""
    wire = text.replace(b"\r\n.", b"\r\n..")
    return b"." + wire if wire.startswith(b".") else wire
