"""One content on its way in: octets of DATA through canonicaliser and header surgery into a draft."""

from __future__ import annotations

from relay.listener import replies
from relay.mail.canonical import Canonicaliser
from relay.mail.content import Content
from relay.mail.errors import RelayError
from relay.mail.header import Facts, HeaderSurgeon, Trace
from relay.mail.reply import Reply
from relay.queue.spool import ContentDraft

MAX_LINE = 65536  # octets without the line end
_DRAIN_AT = 128 * 1024  # octets given to the draft since it was last drained


class Intake:
    """Takes raw octets as they arrive; `ended` once the end of data was seen, whatever went wrong before.

    After a refusal it reads on to stay in step with the client, and keeps nothing.  Past twice the size limit it
    is `hopeless`: not worth reading to the end.
    """

    __slots__ = (
        "_canonical",
        "_draft",
        "_limit",
        "_line",
        "_octets",
        "_surgeon",
        "_undrained",
        "ended",
        "hopeless",
        "must_drain",
        "received",
        "refusal",
        "rest",
    )

    def __init__(self, draft: ContentDraft, trace: Trace, *, limit: int) -> None:
        self._canonical = Canonicaliser()
        self._surgeon = HeaderSurgeon(trace)
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

    @property
    def facts(self) -> Facts:
        """What the header said; only of a content that was not refused."""
        return self._surgeon.facts or Facts()

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
        if self._line + len(wire) > MAX_LINE and not self._lines_fit(wire):
            self.refuse(replies.LINE_LIMIT)
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

    def _lines_fit(self, wire: bytes) -> bool:
        """No line is over the limit: in steps of one limit, never per line."""
        start = -self._line  # where the current line began
        while len(wire) - start > MAX_LINE:
            end = wire.rfind(b"\n", max(start, 0), max(start + MAX_LINE + 2, 0))
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
