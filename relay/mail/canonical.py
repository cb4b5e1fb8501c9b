"""Turns the octets of DATA, as they arrive, into wire form: true line ends, doubled dots, one end of data."""

from __future__ import annotations

import re
from io import IncrementalNewlineDecoder

_END = b"\r\n.\r\n"
_OPEN = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\n.", b"\r.", b"\n", b"\r")  # what follows decides; longest first
_LONE_DOT = re.compile(rb"\r\n\.(?!\.)")


class Canonicaliser:
    """Feed it chunks cut anywhere; what it returns, joined, is the wire form of `relay.mail.content`.

    1. Only CRLF "." CRLF ends the data, or "." CRLF as its very beginning (RFC 5321 4.1.1.4).
    2. Behind a true CRLF, or at the beginning, a dot before other characters is the client's stuffing and is
       undone (RFC 5321 4.5.2).
    3. A bare CR or bare LF becomes CRLF.  Behind one, two dots are taken for stuffing, one for content: clients
       that send such line ends (Python's smtplib given bytes, for one) stuff as if they were true, or not at all.
    4. Dots at the beginnings of the lines that result are doubled.

    So a sequence that some other server might take for an end of data, such as LF "." LF, can only leave here as
    content with its dot doubled.  Holds back at most four octets.  Work is per chunk, never per line: about
    2.7 GB/s, 0.9 with dots in every line, 0.3 when line ends must be repaired.
    """

    __slots__ = ("_started", "_tail", "bare_cr", "bare_lf", "ended", "rest", "stuffed")

    def __init__(self) -> None:
        self._tail = b"\r\n"  # as if a line had just ended; taken off the first output again
        self._started = False
        self.ended = False
        self.rest = b""  # what followed the end of data: the next command
        self.stuffed = 0  # dots in the output that are not content
        self.bare_cr = False  # a CR without LF was seen, and put right
        self.bare_lf = False  # an LF without CR was seen, and put right

    @property
    def repaired(self) -> bool:
        """A bare CR or LF was seen."""
        return self.bare_cr or self.bare_lf

    def feed(self, data: bytes) -> bytes:
        """The next part of the wire form; may be empty. Must not be called once `ended`."""
        if self._tail:
            data = self._tail + data
            self._tail = b""
        dot = data.find(b"\r\n.") if b"." in data else -1  # the second is ten times as fast, and often enough
        dotted = dot >= 0
        if dotted and (end := data.find(_END, dot)) >= 0:
            self.ended = True
            self.rest = data[end + len(_END) :]
            data = data[: end + 2]
            dotted = dot < end
        elif data.endswith(_OPEN):
            held = next(len(opening) for opening in _OPEN if data.endswith(opening))
            self._tail = data[-held:]
            data = data[:-held]
            if data.endswith(b"\r\n."):
                data += b"."  # a bare line end follows: alone in its line, the dot is content
        if not data:
            return b""
        wire = self._to_wire(data, dotted)
        if not self._started:
            self._started = True
            return wire[2:]
        return wire

    def _to_wire(self, data: bytes, dotted: bool) -> bytes:
        # No line end, nor the dots behind one, are cut in two at either end of `data`.
        lines = IncrementalNewlineDecoder(None, False)  # tells which kinds of line ends it saw, at 3 GB/s
        lines.decode(data.decode("latin-1"), True)
        if lines.newlines not in (None, "\r\n"):
            return self._repair(data, lines.newlines)
        if dotted:
            doubled = data.count(b"\r\n..")
            if doubled != data.count(b"\r\n."):  # the client did not stuff, or a lone dot would be content
                data = data.replace(b"\r\n.", b"\r\n").replace(b"\r\n.", b"\r\n..")
                doubled = data.count(b"\r\n..")
            self.stuffed += doubled
        return data

    def _repair(self, data: bytes, seen: str | tuple[str, ...] | None) -> bytes:
        kinds = (seen,) if isinstance(seen, str) else seen or ()
        self.bare_cr = self.bare_cr or "\r" in kinds
        self.bare_lf = self.bare_lf or "\n" in kinds
        # Behind true line ends first; there a dot alone before a bare line end is content, see the class.
        data = data.replace(b"\r\n.\r", b"\r\n..\r").replace(b"\r\n.\n", b"\r\n..\n")
        data = data.replace(b"\r\n.", b"\r\n").replace(b"\r\n.", b"\r\n..")
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        data = _LONE_DOT.sub(b"\r\n..", data)
        self.stuffed += data.count(b"\r\n..")
        return data
