"""Re-encodes the parts of a message that not every upstream takes: in a stream, signed and encrypted ones never."""

from __future__ import annotations

import codecs
import enum
import re
from typing import NamedTuple

from relay.mail.encodings import Base64, BodyEncoder, QuotedPrintable
from relay.mail.header import MAX_HEADER
from relay.mail.mime import Entity, read_entity

MAX_DEPTH = 20  # multiparts within multiparts; what is deeper is left as it is, likewise below
MAX_MULTIPARTS = 100
MAX_PARTS = 10_000
_SAMPLE = 16384  # octets of a body by which its charset is told
_MAX_REASON = 80  # characters; a type or encoding in it is the client's
_DELIMITER = 512  # octets of a line that can still be one

_PLAIN = {"", "7bit", "8bit", "binary"}  # RFC 2045 6.2: no encoding at all
_SEALED = {
    "multipart/signed",
    "multipart/encrypted",
    "application/pkcs7-mime",
    "application/x-pkcs7-mime",
}
_CHARSET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_ENCODING_FIELD = re.compile(rb"^content-transfer-encoding[ \t]*:[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", re.M | re.I)


class _Stage(enum.Enum):
    TOP = enum.auto()  # the header section of the message is being collected
    SAMPLE = enum.auto()  # the beginning of a body whose charset nobody named
    PART = enum.auto()  # the header section of a part is being collected
    BODY = enum.auto()  # everything else goes through the encoder, or as it is when there is none


class _Multipart(NamedTuple):
    """`first` finds its delimiters and those of all around it at a line start, `later` behind a line end."""

    boundary: bytes
    digest: bool  # its parts are messages unless they say otherwise (RFC 2046 5.1.5)
    first: re.Pattern[bytes]
    later: re.Pattern[bytes]


class Reencoder:
    """Takes a whole content in wire form, cut anywhere; gives it back in wire form.

    Text without an encoding becomes quoted-printable, any other leaf base64, whether it needs it or not: no line
    of them is over 80 octets then.  Not touched: what is signed, encrypted or a message of its own, what has an
    encoding, what different readers would read differently, header sections, preambles and epilogues.

    `untouchable`: why nothing is changed at all, printable, known with the first octets given back; "": it is.
    `eight_bit`: octets over 127 are in what was given back so far.
    Holds at most the sum of a chunk, MAX_HEADER and 16 KiB.  The result does not depend on the cuts.
    """

    __slots__ = (
        "_at_line_start",
        "_blank",
        "_charset",
        "_encoder",
        "_held",
        "_multiparts",
        "_nested",
        "_no_blank",
        "_parts",
        "_section",
        "_stage",
        "eight_bit",
        "untouchable",
    )

    def __init__(self, *, charset: str = "") -> None:
        """`charset`: MIME name of what text without a Content-Type is written in; "": it is guessed.

        Raises ValueError when it is no such name.
        """
        if charset and not _CHARSET.fullmatch(charset):
            raise ValueError("charset")
        self._charset = charset
        self._stage = _Stage.TOP
        self._held = b""
        self._section = b""
        self._at_line_start = True  # where the octets not yet taken begin
        self._encoder: BodyEncoder | None = None
        self._nested: list[_Multipart] = []  # outermost first
        self._multiparts = 0
        self._parts = 0
        self._blank = -1  # where the next empty line stands in the octets at hand, when known
        self._no_blank = 0  # none begins before
        self.untouchable = ""
        self.eight_bit = False

    def feed(self, chunk: bytes) -> bytes:
        """What can be passed on by now."""
        return self._given_back(chunk if self.untouchable else self._take(self._held + chunk, ended=False))

    def finish(self) -> bytes:
        """The content ended: what is still held."""
        return self._given_back(b"" if self.untouchable else self._take(self._held, ended=True))

    def _given_back(self, wire: bytes) -> bytes:
        self.eight_bit = self.eight_bit or not wire.isascii()
        return wire

    def _take(self, data: bytes, *, ended: bool) -> bytes:
        out: list[bytes] = []
        at = 0
        more = True
        self._blank, self._no_blank = -1, 0
        while more:
            match self._stage:
                case _Stage.TOP | _Stage.PART:
                    at, more = self._header(data, at, ended, out)
                case _Stage.SAMPLE:
                    at, more = self._sample(data, at, ended, out)
                case _Stage.BODY:
                    at, more = self._body(data, at, ended, out)
        self._held = data[at:]
        return b"".join(out)

    # Each stage takes octets from `at` on; returns where it stopped, and False when it needs what comes next.

    def _header(self, data: bytes, at: int, ended: bool, out: list[bytes]) -> tuple[int, bool]:
        window = min(len(data), at + MAX_HEADER + 4)
        empty = data.startswith(b"\r\n", at)
        end = at if empty else self._empty_line(data, at, window) + 2  # 1: not found
        found = empty or end > 1
        delimiter = self._delimiter(data, at, end if found else window)
        if delimiter is not None:  # a part without a body
            out.append(data[at : delimiter.start(1)])
            return self._cross(delimiter, out), True
        if found:
            section = data[at:end]
            if self._stage is _Stage.TOP:
                self._open_message(section, out)
            else:
                self._open_part(section, out)
            return end + 2, True
        if not ended and window < at + MAX_HEADER + 4:
            return at, False
        if self._stage is _Stage.TOP and not ended:
            self.untouchable = "header too large"
        self._stage = _Stage.BODY  # as it is
        return at, True

    def _empty_line(self, data: bytes, at: int, end: int) -> int:
        """`data.find(b"\r\n\r\n", at, end)`, yet for all parts of `data` together nothing is looked at twice.

        Ten thousand parts without a body have ten thousand windows over the same octets.
        """
        if not at <= self._blank:
            self._blank = data.find(b"\r\n\r\n", max(at, self._no_blank), end)
            if self._blank < 0:
                self._no_blank = max(self._no_blank, end - 3)
        return self._blank if self._blank + 4 <= end else -1

    def _sample(self, data: bytes, at: int, ended: bool, out: list[bytes]) -> tuple[int, bool]:
        if not ended and len(data) - at < _SAMPLE:
            return at, False
        all_of_it = len(data) - at <= _SAMPLE and ended
        charset = self._charset_of(data[at : at + _SAMPLE], all_of_it=all_of_it)
        out.append(b"%bContent-Type: text/plain; charset=%b\r\n\r\n" % (self._section, charset.encode()))
        self._section = b""
        self._stage = _Stage.BODY
        return at, True

    def _charset_of(self, sample: bytes, *, all_of_it: bool) -> str:
        if all_of_it and sample.isascii():
            return "us-ascii"
        if self._charset:
            return self._charset
        try:
            codecs.getincrementaldecoder("utf-8")().decode(sample, all_of_it)
        except UnicodeDecodeError:
            return "windows-1252"
        return "utf-8"

    def _body(self, data: bytes, at: int, ended: bool, out: list[bytes]) -> tuple[int, bool]:
        delimiter = self._delimiter(data, at, len(data))
        if delimiter is not None:
            self._pass(data[at : delimiter.start(1)], out)
            self._close(out, delimited=True)
            return self._cross(delimiter, out), True
        end = len(data) if ended or not self._nested else self._safe_end(data, at)
        self._pass(data[at:end], out)
        if end > at:
            self._at_line_start = data[end - 1] == 0x0A
        if ended:
            self._close(out, delimited=bool(self._nested))
        return end, False

    def _pass(self, wire: bytes, out: list[bytes]) -> None:
        out.append(wire if self._encoder is None else self._encoder.encode(wire))

    def _close(self, out: list[bytes], *, delimited: bool) -> None:
        if self._encoder is not None:
            out.append(self._encoder.finish(delimited=delimited))
            self._encoder = None

    def _delimiter(self, data: bytes, at: int, end: int) -> re.Match[bytes] | None:
        """The next delimiter line (RFC 2046 5.1.1) that is all between `at` and `end`: its group 1."""
        if not self._nested:
            return None
        innermost = self._nested[-1]
        if self._at_line_start and (match := innermost.first.match(data, at, end)):
            return match
        hint = data.find(b"\n--", at, end)  # ten times as fast as the pattern, and mostly enough
        return innermost.later.search(data, hint, end) if hint >= 0 else None

    def _safe_end(self, data: bytes, at: int) -> int:
        """Up to where no delimiter can begin, when none was found."""
        line = data.rfind(b"\n", max(at, len(data) - _DELIMITER)) + 1
        if line == 0:
            if not self._at_line_start or len(data) - at >= _DELIMITER:
                return len(data)
            line = at
        return line if data.startswith(b"--", line) or data[line:] in (b"", b"-") else len(data)

    def _cross(self, delimiter: re.Match[bytes], out: list[bytes]) -> int:
        """Go by a delimiter line; where the next line begins."""
        out.append(delimiter[1])
        boundary, closing = delimiter[2], delimiter[3] is not None
        while self._nested[-1].boundary != boundary:
            self._nested.pop()
        self._encoder = None
        self._at_line_start = True
        self._parts += 1
        if closing:
            self._nested.pop()
            self._stage = _Stage.BODY
        elif self._parts > MAX_PARTS:
            self._nested.clear()
            self._stage = _Stage.BODY
        else:
            self._stage = _Stage.PART
        return delimiter.end()

    # -- what is to be done with a body --------------------------------------------------------------------

    def _open_message(self, section: bytes, out: list[bytes]) -> None:
        entity = read_entity(section)
        self.untouchable = (entity.seal or self._obstacle(entity))[:_MAX_REASON]
        self._stage = _Stage.BODY
        if self.untouchable:
            out.append(section + b"\r\n")
            return
        if not entity.versioned:  # RFC 2045 4
            section += b"MIME-Version: 1.0\r\n"
        if entity.kind:
            self._enter(entity, section, out)
            return
        self._encoder = QuotedPrintable(guarded=False)
        self._section = _with_encoding(section, b"quoted-printable")
        self._stage = _Stage.SAMPLE

    def _open_part(self, section: bytes, out: list[bytes]) -> None:
        entity = read_entity(section)
        if not entity.kind and self._nested[-1].digest:
            entity = entity._replace(kind="message/rfc822")
        self._stage = _Stage.BODY
        if any(_confusable(entity.boundary, outer.boundary) for outer in self._nested):
            self._nested.clear()  # whose a delimiter is cannot be told: the rest stays as it is
            out.append(section + b"\r\n")
        elif self._obstacle(entity):
            out.append(section + b"\r\n")
        else:
            self._enter(entity, section, out)

    def _obstacle(self, entity: Entity) -> str:
        """Why this entity is left as it is; "": it is not."""
        if entity.fault:
            return entity.fault
        if entity.kind in _SEALED or entity.kind.startswith("message/"):
            return entity.kind
        if entity.encoding not in _PLAIN:
            return entity.encoding
        if entity.boundary and (len(self._nested) == MAX_DEPTH or self._multiparts == MAX_MULTIPARTS):
            return "too many multiparts"
        return ""

    def _enter(self, entity: Entity, section: bytes, out: list[bytes]) -> None:
        if entity.boundary:
            self._multiparts += 1
            self._nested.append(_multipart(entity, self._nested))
        elif not entity.kind or entity.kind.startswith("text/"):
            self._encoder = QuotedPrintable(guarded=bool(self._nested))
            section = _with_encoding(section, b"quoted-printable")
        else:
            self._encoder = Base64()
            section = _with_encoding(section, b"base64")
        out.append(section + b"\r\n")


def _multipart(entity: Entity, around: list[_Multipart]) -> _Multipart:
    boundaries = [entity.boundary, *(outer.boundary for outer in around)]
    line = rb"(--(%b)(--)?[ \t]{0,128}\r\n)" % b"|".join(re.escape(each) for each in boundaries)
    return _Multipart(entity.boundary, entity.kind == "multipart/digest", re.compile(line), re.compile(b"\n" + line))


def _confusable(inner: bytes, outer: bytes) -> bool:
    """One delimiter line could be of both."""
    return inner in (outer, outer + b"--") or outer == inner + b"--"


def _with_encoding(section: bytes, name: bytes) -> bytes:
    field = b"Content-Transfer-Encoding: %b\r\n" % name
    changed, found = _ENCODING_FIELD.subn(field, section)
    return changed if found else section + field
