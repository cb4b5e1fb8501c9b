"""One content on its way in: octets of DATA through canonicaliser and header surgery into a draft."""

from __future__ import annotations

import re

from relay.listener import replies
from relay.mail.canonical import Canonicaliser
from relay.mail.care import Care
from relay.mail.content import Content
from relay.mail.errors import RelayError
from relay.mail.header import Facts, HeaderSurgeon, Trace
from relay.mail.reply import Reply
from relay.mail.tolerance import Tolerance
from relay.queue.spool import ContentDraft

MAX_LINE = 65536  # octets without the line end
MAX_LONG_LINE = 1 << 20  # with the switch long-lines
_LONGEST = 1000
_SHOULD_NOT = re.compile(rb"^[^\n]{1000}", re.M)  # RFC 5321 4.5.3.1.6: 998 and CRLF
_DRAIN_AT = 128 * 1024  # octets given to the draft since it was last drained


class Intake:
    """Takes raw octets as they arrive; `ended` once the end of data was seen, whatever went wrong before.

    After a refusal it reads on to stay in step with the client, and keeps nothing.  Past twice the size limit it
    is `hopeless`: not worth reading to the end.
    """

    __slots__ = (
        "_canonical",
        "_care",
        "_draft",
        "_limit",
        "_line",
        "_max_line",
        "_octets",
        "_surgeon",
        "_undrained",
        "eight_bit",
        "ended",
        "hopeless",
        "long",
        "must_drain",
        "received",
        "refusal",
        "rest",
    )

    def __init__(self, draft: ContentDraft, trace: Trace, *, limit: int, care: Care | None = None) -> None:
        """`care`: what is done for this client besides what is done for all."""
        self._canonical = Canonicaliser()
        self._surgeon = HeaderSurgeon(trace, care)
        self._care = care
        self._max_line = MAX_LONG_LINE if care is not None and "long-lines" in care.tolerance else MAX_LINE
        self._draft = draft
        self._limit = limit
        self._line = 0  # octets since the last line end
        self._octets = 0  # canonical ones
        self._undrained = 0
        self.received = 0  # octets, as they came
        self.must_drain = False
        self.ended = False
        self.hopeless = False
        self.refusal: Reply | None = None
        self.rest = b""
        self.long = False  # a line over 998 octets was seen; looked for with the switch long-lines only
        self.eight_bit = False  # octets beyond ASCII were seen; looked for with the switch raw-8bit only

    @property
    def facts(self) -> Facts:
        """What the header said; only of a content that was not refused."""
        return self._surgeon.facts or Facts()

    @property
    def repaired(self) -> tuple[str, ...]:
        """What was put right, for the log."""
        canonical = self._canonical
        if not canonical.repaired and not self.long:
            return self.facts.repaired
        ends = ("bare-lf",) * canonical.bare_lf + ("bare-cr",) * canonical.bare_cr + ("long-lines",) * self.long
        return (*ends, *self.facts.repaired)

    @property
    def size(self) -> int:
        """Octets of the content in wire form."""
        return self._draft.size

    def feed(self, data: bytes) -> None:
        """Take what arrived; look at `ended`, `must_drain` and `hopeless` afterwards."""
        self.received += len(data)
        canonical = self._canonical
        wire = canonical.feed(data)
        if canonical.ended:
            self.ended, self.rest = True, canonical.rest
            self.received -= len(self.rest)
        if self.refusal is None:
            self._keep(wire)
        elif self.received > 2 * self._limit + (1 << 20):
            self.hopeless = True

    def _keep(self, wire: bytes) -> None:
        self._octets += len(wire)
        if self._octets - self._canonical.stuffed > self._limit:  # RFC 1870 5: without the stuffing
            self.refuse(replies.too_large(self._limit))
            return
        if self._line + len(wire) > self._max_line and not self._lines_fit(wire):
            self.refuse(replies.line_limit(self._max_line))
            return
        if self._care is not None and not self._is_tolerable(self._care.tolerance, wire):
            self.refuse(replies.BARE_LINE_END)
            return
        self._line = len(wire) - wire.rfind(b"\n") - 1 if b"\n" in wire else self._line + len(wire)
        try:
            wire = self._surgeon.feed(wire)
            if self.ended:
                wire += self._surgeon.finish()
        except RelayError as error:
            self.refuse(replies.reply_to(error))
            return
        if wire:
            self._undrained += len(wire)
            self.must_drain = self._draft.add(wire) or self._undrained >= _DRAIN_AT

    def _is_tolerable(self, tolerance: Tolerance, wire: bytes) -> bool:
        """False: line ends that this client may not send. Also looks for what has to be done at the end."""
        canonical = self._canonical
        if canonical.repaired and (
            (canonical.bare_lf and "bare-lf" not in tolerance) or (canonical.bare_cr and "bare-cr" not in tolerance)
        ):
            return False
        if not self.long and "long-lines" in tolerance and self._line + len(wire) > _LONGEST:
            end = wire.find(b"\n")
            reach = self._line + (len(wire) if end < 0 else end)
            self.long = reach >= _LONGEST or _SHOULD_NOT.search(wire) is not None
        if not self.eight_bit and "raw-8bit" in tolerance:
            self.eight_bit = not wire.isascii()
        return True

    def _lines_fit(self, wire: bytes) -> bool:
        """No line is over the limit: in steps of one limit, never per line."""
        start = -self._line  # where the current line began
        while len(wire) - start > self._max_line:
            end = wire.rfind(b"\n", max(start, 0), max(start + self._max_line + 2, 0))
            if end < 0:
                return False
            start = end + 1
        return True

    def refuse(self, reply: Reply) -> None:
        """Keep nothing from here on, and answer `reply` at the end."""
        self.refusal = reply
        self.must_drain = False
        self._draft.discard()

    async def drain(self) -> None:
        """Let the draft write. A failure of the store becomes the refusal."""
        self.must_drain = False
        self._undrained = 0
        try:
            await self._draft.drain()
        except RelayError as error:
            self.refuse(replies.reply_to(error))

    async def finish(self) -> Content:
        """The complete content. Raises StorageFull or StorageFailed."""
        return await self._draft.finish()

    def discard(self) -> None:
        """Give it up; no effect on what was finished."""
        self._draft.discard()
