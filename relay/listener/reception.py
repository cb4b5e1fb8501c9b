"""One message at the front door: from DATA to the reply behind its final dot."""

from __future__ import annotations

import asyncio
import time

from relay.listener import replies
from relay.listener.dialogue import Dialogue
from relay.listener.door import Door
from relay.listener.intake import Intake
from relay.listener.policy import Peer
from relay.listener.watch import Watch
from relay.mail.content import Content
from relay.mail.errors import RelayError
from relay.mail.header import Trace
from relay.mail.ids import format_id
from relay.queue.model import Arrival
from relay.telemetry import get_logger

log = get_logger()


class Reception:
    """Its session calls `feed` and `leave` while it awaits `receive`, then `commit`, and `close` in any case."""

    __slots__ = (
        "_dialogue",
        "_door",
        "_id",
        "_intake",
        "_left",
        "_news",
        "_paused",
        "_peer",
        "_shown",
        "_started",
        "committing",
        "heard",
        "size",
    )

    def __init__(self, door: Door, peer: Peer, dialogue: Dialogue) -> None:
        self._started = time.perf_counter()
        self._door = door
        self._peer = peer
        self._dialogue = dialogue
        self._id = door.queue.new_id()
        self._shown = format_id(self._id)
        self._intake = Intake(door.queue.draft(), self._trace(), limit=door.settings.max_message_bytes)
        self._news: asyncio.Future[None] | None = None
        self._left = False
        self._paused = False
        self.committing = False
        self.heard = True  # the client is still there for its reply
        self.size = 0  # octets accepted; 0: it was not

    def _trace(self) -> Trace:
        door, dialogue = self._door, self._dialogue
        transaction = dialogue.transaction
        recipients = transaction.recipients
        protocol = "UTF8SMTP" if transaction.smtputf8 else "ESMTP" if dialogue.extended else "SMTP"
        return Trace(
            self._shown,
            door.hostname,
            door.instance_id,
            dialogue.helo,
            self._peer.host,
            protocol + "S" if dialogue.tls else protocol,
            transaction.reverse_path,
            next(iter(recipients)) if len(recipients) == 1 else None,
            time.time(),
        )

    # -- called from the transport -------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """The end of data was seen: what comes now is a command."""
        return self._intake.ended

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Take what arrived. What of it follows the end of data; whether to read no more until `receive` resumes."""
        intake = self._intake
        try:
            intake.feed(data)
        except Exception:
            log.exception("daemon.fault", where="listener.intake")
            intake.refuse(replies.FAULT)
            intake.hopeless = True
        if intake.ended:
            self._tell()
            return intake.rest, False
        if intake.must_drain or intake.hopeless:
            self._tell()
            self._paused = True
            return b"", True
        return b"", False

    def leave(self, *, for_good: bool) -> None:
        """The client sends no more; `for_good`: nor does it listen."""
        self._left = True
        self.heard = self.heard and not for_good
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)

    # -- called from the session ---------------------------------------------------------------------------

    def begin(self, watch: Watch) -> None:
        """The client was told to send: from here its rate counts."""
        watch.content(self._intake)

    async def receive(self, watch: Watch, transport: asyncio.ReadTransport) -> bool:
        """Until the end of data; False: it is not worth waiting for, and the session must end.

        Raises ConnectionResetError when the client leaves before that: then nothing was accepted.
        """
        intake = self._intake
        while not intake.ended:
            if intake.must_drain:
                paused = self._door.loop.time()
                await intake.drain()
                watch.paused(self._door.loop.time() - paused)
                self._resume(transport)
            elif intake.hopeless:
                return False
            elif self._left:
                log.info("transaction.aborted", client=self._peer.name, bytes=intake.received)
                raise ConnectionResetError
            else:
                self._news = self._door.loop.create_future()
                await self._news
        self.committing = True
        watch.commit()
        self._resume(transport)
        return True

    def _resume(self, transport: asyncio.ReadTransport) -> None:
        if self._paused and not transport.is_closing():
            transport.resume_reading()
        self._paused = False

    @property
    def refusal(self) -> bytes:
        """What to answer when `receive` gave up."""
        return (self._intake.refusal or replies.FAULT).to_wire()

    async def commit(self) -> bytes:
        """Make the message ours; the reply says whether it is.

        Nothing cancels the session's task meanwhile: a lost connection, the timer and the listener's end leave it
        alone (RFC 1047: committed but unanswered is a duplicate at most).
        """
        intake, transaction = self._intake, self._dialogue.transaction
        if intake.refusal is not None:
            return self._dialogue.refuse(intake.refusal, sender=transaction.reverse_path)
        try:
            content = await intake.finish()
            await self._door.queue.accept(self._arrival(content))
        except Exception as error:
            if not isinstance(error, RelayError):
                log.exception("daemon.fault", where="listener.commit")
            return self._dialogue.refuse(replies.reply_to(error), sender=transaction.reverse_path)
        self._report(content.size)
        return b"250 2.0.0 Ok: queued as %b\r\n" % self._shown.encode()

    def _arrival(self, content: Content) -> Arrival:
        transaction = self._dialogue.transaction
        assert transaction.route is not None
        return Arrival(
            transaction.reverse_path,
            tuple(transaction.recipients),
            content,
            transaction.route.account_id,
            self._intake.facts.message_id,
            self._peer.name,
            transaction.eight_bit,
            transaction.smtputf8,
            self._id,
        )

    def _report(self, size: int) -> None:
        self.size = size
        transaction = self._dialogue.transaction
        assert transaction.route is not None
        log.info(
            "message.accepted",
            message_id=self._shown,
            client=self._peer.name,
            sender=transaction.reverse_path,
            recipients=len(transaction.recipients),
            size=size,
            account=self._door.policy.account(transaction.route.account_id),
            elapsed_ms=int((time.perf_counter() - self._started) * 1000),
        )
        if not self.heard:
            log.warning(
                "message.unanswered",
                message_id=self._shown,
                client=self._peer.name,
                sender=transaction.reverse_path,
                possible_duplicate=True,
            )

    def close(self) -> None:
        """Forget what was not accepted."""
        self._intake.discard()
