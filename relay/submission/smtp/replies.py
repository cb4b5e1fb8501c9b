"""The strict, bounded reader of SMTP replies, and which codes may answer what."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from relay.mail.errors import RelayError
from relay.mail.reply import Reply

MAX_LINE = 2048  # octets with CRLF; RFC 5321 4.5.3.1.5 says 512, real servers quote long URLs
MAX_REPLY = 65536  # octets of one reply, all lines

# RFC 5321 4.2: three digits, then CRLF, or a space or hyphen and text.  A fourth digit is no reply code.
_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])([^\r\n]*))?")

FaultReason = Literal["connection-lost", "stage-timeout", "protocol-error"]


class WireFault(RelayError):
    """The connection can't be used any more. `reply`: a 421 that came unasked, if that is what ended it."""

    def __init__(self, reason: FaultReason, detail: str, reply: Reply | None = None) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.reply = reason, detail, reply


class WireReply(NamedTuple):
    """A reply as read: its code, and the text of each line without code and CRLF."""

    code: int
    lines: list[bytes]

    def reply(self) -> Reply:
        """The value the rest of the program knows; octets that are not UTF-8 appear escaped."""
        return Reply.from_wire(self.code, [line.decode("utf-8", "backslashreplace") for line in self.lines])

    def text(self) -> str:
        """All lines as text, joined by line feeds."""
        return b"\n".join(self.lines).decode("utf-8", "backslashreplace")


class Step:
    """Something sent that gets one reply: any 4yz or 5yz, or one of `positive`."""

    __slots__ = ("name", "positive")

    def __init__(self, name: str, *positive: int) -> None:
        self.name = name
        self.positive = frozenset(positive)


_MAIL_SYSTEM = tuple(range(250, 260))  # RFC 5321 4.2.1: x5z is the mail system
GREETING: Final = Step("greeting", 220)
EHLO: Final = Step("EHLO", 250)
STARTTLS: Final = Step("STARTTLS", 220)
AUTH: Final = Step("AUTH", 235, 334)
MAIL: Final = Step("MAIL", *_MAIL_SYSTEM)
RCPT: Final = Step("RCPT", *_MAIL_SYSTEM)
RSET: Final = Step("RSET", *_MAIL_SYSTEM)
DATA: Final = Step("DATA", 354)
DOT: Final = Step("the final dot", *_MAIL_SYSTEM)
QUIT: Final = Step("QUIT", 221, *_MAIL_SYSTEM)


class ReplyReader:
    """Cuts what arrives into replies. Holds at most one unfinished reply; a line without CRLF is none."""

    __slots__ = ("_code", "_lines", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._code = 0
        self._lines: list[bytes] = []
        self._size = 0

    @property
    def unfinished(self) -> bool:
        """Part of a reply was read."""
        return bool(self._rest or self._lines)

    def feed(self, data: bytes) -> list[WireReply]:
        """The replies that `data` completes, in order. Raises WireFault(protocol-error); it is done for then."""
        if self._rest:
            data = self._rest + data
        lines = data.split(b"\r\n")
        self._rest = rest = lines.pop()
        if rest and (len(rest) > MAX_LINE or b"\n" in rest):
            raise _garbled("a reply line is too long" if len(rest) > MAX_LINE else "a reply line ends without CR", rest)
        replies = []
        for line in lines:
            parts = _parts(line) if len(line) <= MAX_LINE - 2 else None
            if parts is None:
                raise _garbled("not a reply", line)
            code, separator, text = parts
            if self._lines:
                if code != self._code:  # RFC 5321 4.2.1: the same code on each line
                    raise _garbled("the lines of a reply have different codes", line)
                self._size += len(line)
                if self._size > MAX_REPLY:
                    raise _garbled("a reply is too long", line)
                self._lines.append(text)
                if separator != b"-":
                    replies.append(WireReply(code, self._lines))
                    self._lines, self._size = [], 0
            elif separator != b"-":
                replies.append(WireReply(code, [text]))
            else:
                self._code, self._lines, self._size = code, [text], len(line)
        return replies


@lru_cache(maxsize=256)  # an upstream says the same to nearly every command but the dot
def _parts(line: bytes) -> tuple[int, bytes, bytes] | None:
    """Code, what separates it from the text, text; None: not a line of a reply."""
    match = _LINE.fullmatch(line)
    return (int(match[1]), match[2] or b"", match[3] or b"") if match is not None else None


def _garbled(what: str, octets: bytes) -> WireFault:
    shown = octets[:200].decode("ascii", "backslashreplace")
    return WireFault("protocol-error", f"{what}: {shown!r}")
