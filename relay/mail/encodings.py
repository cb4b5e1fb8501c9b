"""The two content transfer encodings that fit any upstream, from wire form to wire form (RFC 2045 6.7, 6.8)."""

from __future__ import annotations

import binascii
import re
from typing import Protocol

from relay.mail.content import unstuff

_PIECE = 8192  # octets of a line that are encoded together: what is held back at most
_BLANK_AT_EDGE = re.compile(rb"^([^\r\n]{73,74})(=20|=09)\r\n", re.M)
_DASHES = re.compile(rb"(?<=\r\n)(--+)([^\r\n]*)")
_COLUMNS = 76  # RFC 2045 6.7 (5), 6.8
_GROUP = 57  # octets that a line of base64 holds
_OPEN = (b"\r\n.", b"\r\n", b"\r")  # what follows decides


class BodyEncoder(Protocol):
    """Takes the body of one leaf in wire form, cut anywhere, and gives it back encoded, in wire form."""

    def encode(self, wire: bytes) -> bytes:
        """The next part of the encoded body; may be empty."""

    def finish(self, *, delimited: bool) -> bytes:
        """The end of it, with a line end. `delimited`: the last CRLF belongs to the delimiter (RFC 2046 5.1.1)."""


class QuotedPrintable:
    """Lines stay lines, of 76 columns at most. Where soft breaks fall depends on the lines alone.

    `guarded`: no line that comes out begins with two dashes, so that none can be taken for a delimiter.
    """

    __slots__ = ("_guarded", "_held", "_within")

    def __init__(self, *, guarded: bool) -> None:
        self._guarded = guarded
        self._held = b""  # a line that has not ended
        self._within = False  # what is held begins within a line

    def encode(self, wire: bytes) -> bytes:
        """See BodyEncoder."""
        data = self._held + wire if self._held else wire
        out: list[bytes] = []
        begin = at = 0  # of what is not encoded yet; of the line looked at
        while len(data) - at >= _PIECE:
            end = data.rfind(b"\n", at, at + _PIECE)
            if end >= 0:
                at = end + 1
                continue
            if at > begin:
                out.append(self._lines(data[begin:at]))
            cut = at + _PIECE - (data[at + _PIECE - 1] == 0x0D)  # CR stays with its LF
            out.append(self._lines(data[at:cut] + b"\r\n")[:-2] + b"=\r\n")
            self._within = True
            begin = at = cut
        end = data.rfind(b"\n", at) + 1 or at
        if end > begin:
            out.append(self._lines(data[begin:end]))
        self._held = data[end:]
        return b"".join(out)

    def finish(self, *, delimited: bool) -> bytes:
        """See BodyEncoder."""
        held, self._held = self._held.removesuffix(b"\r"), b""
        return self._lines(held + b"\r\n") if held else b""

    def _lines(self, wire: bytes) -> bytes:
        """Encode whole lines; the first may be the rest of one."""
        text = wire.replace(b"\r\n..", b"\r\n.") if self._within else unstuff(wire)
        self._within = False
        # The line end in front tells binascii which line ends to write.
        coded = binascii.b2a_qp(b"\r\n" + text)
        if b"=20\r\n" in coded or b"=09\r\n" in coded:  # it encodes these without looking at the column
            coded = _BLANK_AT_EDGE.sub(rb"\1=\r\n\2\r\n", coded)
        if self._guarded and b"\r\n--" in coded:
            coded = _DASHES.sub(_without_dashes, coded)
        return coded.replace(b"\r\n.", b"\r\n..")[2:]


def _without_dashes(match: re.Match[bytes]) -> bytes:
    dashes, rest = match.groups()
    if len(dashes) + len(rest) + 2 <= _COLUMNS:
        return b"=2D%b%b" % (dashes[1:], rest)
    coded = b"=2D" * len(dashes)
    coded = b"=\r\n".join([coded[at : at + 75] for at in range(0, len(coded), 75)])
    return coded + rest if rest in (b"", b"=") else b"%b=\r\n%b" % (coded, rest)


class Base64:
    """Lines of 76 columns. Octets stay octets: the line ends within are content."""

    __slots__ = ("_began", "_empty", "_left", "_tail")

    def __init__(self) -> None:
        self._tail = b"\r\n"  # as if a line had just ended; taken off the first octets again
        self._began = False
        self._empty = True  # no line is out
        self._left = b""  # octets that do not fill a line

    def encode(self, wire: bytes) -> bytes:
        """See BodyEncoder."""
        if not wire:
            return b""
        data = self._tail + wire
        # A line end may be the delimiter's, and a dot behind one may be stuffing.
        held = next((len(end) for end in _OPEN if data.endswith(end)), 0)
        self._tail = data[len(data) - held :]
        octets = data[: len(data) - held].replace(b"\r\n..", b"\r\n.")  # RFC 5321 4.5.2
        if octets and not self._began:
            self._began = True
            octets = octets[2:]
        octets = self._left + octets
        whole = len(octets) - len(octets) % _GROUP
        self._left = octets[whole:]
        return self._lines(octets[:whole])

    def finish(self, *, delimited: bool) -> bytes:
        """See BodyEncoder."""
        tail = self._tail if self._began else self._tail[2:]
        rest = self._left + (tail.removesuffix(b"\r\n") if delimited else tail)
        self._left = b""
        # Of no octets at all the line end is kept: the empty line above may not be the delimiter's.
        return self._lines(rest) or (b"\r\n" if self._empty and self._began else b"")

    def _lines(self, octets: bytes) -> bytes:
        if not octets:
            return b""
        self._empty = False
        coded = binascii.b2a_base64(octets, newline=False)
        lines = [coded[at : at + _COLUMNS] for at in range(0, len(coded), _COLUMNS)]
        lines.append(b"")
        return b"\r\n".join(lines)
