"""Header surgery: adds what a relay must add, takes out what it must not pass on, touches nothing else."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from relay.mail.care import Care
from relay.mail.errors import RelayError
from relay.mail.repair import tend

MAX_HEADER = 102_400  # octets of a header section
MAX_RECEIVED = 50  # hops (RFC 5321 6.3)
MAX_OWN_MARKS = 2

# Of a section with an empty line put in front: each begins with octets to look for, which is several times as fast.
_FIELDS = re.compile(rb"\r\n([!-9;-~]+)[ \t]*:")  # RFC 5322 2.2; a space before the colon is obsolete, 4.5
_FOLDED = rb"[ \t]*(?:\r\n[ \t]+)*"
_BEGINNING = re.compile(rb"[!-9;-~]+[ \t]*:")
_NO_FIELD = re.compile(rb"^(?![ \t]|[!-9;-~]+[ \t]*:)", re.M)
_SECRET = re.compile(rb"^(?:bcc|resent-bcc|return-path)[ \t]*:[^\r]*\r\n(?:[ \t][^\r]*\r\n)*", re.M | re.I)
_MESSAGE_ID = re.compile(rb"\r\nmessage-id[ \t]*:" + _FOLDED + rb"([^\r\n]*)", re.I)
_FROM = re.compile(rb"\r\nfrom[ \t]*:" + _FOLDED + rb"([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", re.I)
_REMOVED = {b"bcc", b"resent-bcc", b"return-path"}
_UNSAFE = re.compile(r"[^0-9A-Za-z._:\[\]-]")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class HeaderTooLarge(RelayError):
    """The header section does not end within MAX_HEADER octets."""


class MailLoop(RelayError):
    """The message has come by too often; `hops` is its number of Received fields."""

    def __init__(self, hops: int) -> None:
        super().__init__(hops)
        self.hops = hops


class Trace(NamedTuple):
    """What the trace field says (RFC 5321 4.4), and what missing fields are made of. `recipient`: an only one."""

    id: str
    hostname: str
    instance_id: str
    helo: str
    address: str
    protocol: str  # RFC 3848, RFC 6531 4.3
    reverse_path: str
    recipient: str | None
    now: float  # seconds since 1970

    @property
    def mark(self) -> str:
        """By which we know a message of our own again, whatever became of the line breaks."""
        return f"(relay {self.instance_id})"


class Facts(NamedTuple):
    """What the header said, for logs and rules: printable, bounded.

    `repaired` names what was added (a field), taken out (its name behind "-"), or done by a switch of
    `mail.tolerance` (its name); `captured` and `rewritten-from` by the rules of the client and its sender.
    """

    message_id: str = ""  # at most 255 characters
    header_from: str = ""  # unfolded, at most 998 characters, otherwise as it came
    repaired: tuple[str, ...] = ()


class HeaderSurgeon:
    """Takes content in wire form, chunk by chunk; gives it back with a new header section.

    Holds at most MAX_HEADER octets and one chunk.  Once `facts` is set the rest may bypass it: `feed` returns
    its argument then.  `care`: what is done for this client besides.
    """

    __slots__ = ("_care", "_held", "_trace", "facts")

    def __init__(self, trace: Trace, care: Care | None = None) -> None:
        self._trace = trace
        self._care = care
        self._held = b""
        self.facts: Facts | None = None

    def feed(self, chunk: bytes) -> bytes:
        """What can be passed on by now. Raises HeaderTooLarge, MailLoop, or AuthorRefused by the judge."""
        if self.facts is not None:
            return chunk
        held = self._held = self._held + chunk if self._held else chunk
        if held.startswith(b"\r\n"):
            return self._operate(0)
        end = held.find(b"\r\n\r\n")
        if end >= 0:
            return self._operate(end + 2)
        if len(held) <= MAX_HEADER and (b"\r\n" not in held or _BEGINNING.match(held)):
            return b""
        if b"\r\n" not in held and _BEGINNING.match(held):
            raise HeaderTooLarge
        return self._operate(held.rfind(b"\r\n") + 2 if b"\r\n" in held else 0, open_ended=True)

    def finish(self) -> bytes:
        """The content ended: what is still held, as for `feed`."""
        return self._operate(len(self._held)) if self.facts is None else b""

    def _operate(self, end: int, *, open_ended: bool = False) -> bytes:
        """Cut at `end`, the length of the section without its empty line, or where the fields end before that.

        `open_ended`: there is no empty line by `end`, so they must end before that.
        """
        held, self._held = self._held, b""
        section = held[:end]
        names = _FIELDS.findall(b"\r\n" + section.lower())
        folds = section.count(b"\r\n ") + section.count(b"\r\n\t")
        separator = b""
        repaired: list[str] = []
        if len(names) + folds != section.count(b"\r\n") or (end == 0 and open_ended):
            # A line that is no field: what the author meant as body began there, without the empty line.
            bad = _NO_FIELD.search(section) if not section.startswith((b" ", b"\t")) else None
            end = bad.start() if bad else 0
            section = section[:end]
            names = _FIELDS.findall(b"\r\n" + section.lower())
            separator = b"\r\n"
            repaired.append("empty-line")
        elif open_ended:
            raise HeaderTooLarge
        if end > MAX_HEADER:
            raise HeaderTooLarge
        self._stop_loops(section, names)
        present = set(names)
        if not present.isdisjoint(_REMOVED):
            repaired += sorted(f"-{name.decode()}" for name in present & _REMOVED)
            section = _SECRET.sub(b"", section)
        if self._care is None:
            added, message_id, author = self._complete(b"\r\n" + section, present, repaired)
        else:
            section, added, message_id, author = self._tend(self._care, section, present, repaired)
        self.facts = Facts(message_id, author, tuple(repaired))
        return b"".join((trace_field(self._trace), section, added, separator, held[end:]))

    def _stop_loops(self, section: bytes, names: list[bytes]) -> None:
        hops = names.count(b"received")
        if hops and (hops > MAX_RECEIVED or section.count(self._trace.mark.encode()) >= MAX_OWN_MARKS):
            raise MailLoop(hops)

    def _tend(
        self, care: Care, section: bytes, present: set[bytes], repaired: list[str]
    ) -> tuple[bytes, bytes, str, str]:
        """As `_complete`, behind the new section. The author is the one whom the header named before."""
        tended, settled = tend(section, present, care, repaired)
        added, message_id, author = self._complete(b"\r\n" + tended, settled, repaired)
        if tended is not section and b"from" in present:
            author = _text(_FROM, b"\r\n" + section, 998)
        return tended, added, message_id, author

    def _complete(self, section: bytes, present: set[bytes], repaired: list[str]) -> tuple[bytes, str, str]:
        """Fields to add (RFC 6409 8), the Message-ID and the author. `section` has an empty line in front."""
        trace, added = self._trace, ""
        if b"from" in present:
            author = _text(_FROM, section, 998)
        else:
            author = f"<{trace.reverse_path or 'MAILER-DAEMON@' + trace.hostname}>"
            added += f"From: {author}\r\n"
            repaired.append("From")
        if b"date" not in present:
            added += f"Date: {format_date(trace.now)}\r\n"
            repaired.append("Date")
        if b"message-id" in present:
            message_id = _text(_MESSAGE_ID, section, 255)
        else:
            message_id = f"<{trace.id}@{trace.hostname}>"
            added += f"Message-ID: {message_id}\r\n"
            repaired.append("Message-ID")
        return added.encode(), message_id, author


def trace_field(trace: Trace) -> bytes:
    """The Received field of RFC 5321 4.4, folded, CRLF-ended. What a client called itself is made harmless."""
    helo = _UNSAFE.sub("?", trace.helo)[:255]
    address = f"IPv6:{trace.address}" if ":" in trace.address else trace.address
    recipient = f"\r\n\tfor <{trace.recipient}>" if trace.recipient else ""
    return (
        f"Received: from {helo} ([{address}])\r\n\tby {trace.hostname} {trace.mark}"
        f"\r\n\twith {trace.protocol} id {trace.id}{recipient};\r\n\t{format_date(trace.now)}\r\n"
    ).encode()


_last_date = (-1, "")


def format_date(now: float) -> str:
    """RFC 5322 3.3 in UTC, whatever the locale."""
    global _last_date  # one formatted date a second is enough
    second = int(now)
    if second != _last_date[0]:
        t = time.gmtime(second)
        clock = f"{t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
        text = f"{_DAYS[t.tm_wday]}, {t.tm_mday} {_MONTHS[t.tm_mon - 1]} {t.tm_year} {clock} +0000"
        _last_date = (second, text)
    return _last_date[1]


def _text(field: re.Pattern[bytes], section: bytes, limit: int) -> str:
    match = field.search(section)
    if match is None:
        return ""
    text = match[1][: limit * 4].replace(b"\r\n", b"").decode("utf-8", "replace").strip()[:limit]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
