"""One message at the front door: from DATA to the reply behind its final dot."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from relay.listener import replies
from relay.listener.dialogue import Dialogue
from relay.listener.direct import verdict_reply
from relay.listener.door import Door
from relay.listener.intake import Intake
from relay.listener.policy import Peer
from relay.listener.watch import Watch
from relay.mail.author import Authors
from relay.mail.care import Care
from relay.mail.content import Content
from relay.mail.dsn import NO_RECIPIENT_REQUEST
from relay.mail.errors import RelayError
from relay.mail.header import Trace
from relay.mail.ids import format_id
from relay.mail.reencode import Reencoder
from relay.mail.tolerance import DEFAULT
from relay.queue.model import Arrival
from relay.telemetry import get_logger, tracing
from relay.telemetry.counters import count, observe
from relay.telemetry.tracing import Span, Step, Tracer

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
        "_sender",
        "_shown",
        "_started",
        "committing",
        "heard",
        "size",
    )

    def __init__(self, door: Door, peer: Peer, dialogue: Dialogue) -> None:
        self._started = time.perf_counter()
        self._door = door
        self._peer = dialogue.peer  # it may have logged in
        self._dialogue = dialogue
        self._id = door.queue.new_id()
        self._shown = format_id(self._id)
        self._sender = dialogue.transaction.sender
        limit = door.settings.max_message_bytes
        self._intake = Intake(door.queue.draft(), self._trace(), limit=limit, care=self._care())
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
            self._sender.path,
            next(iter(recipients)) if len(recipients) == 1 else None,
            time.time(),
        )

    def _care(self) -> Care | None:
        """What this client's entry, or its sender's, asks to be done with the content; None: nothing."""
        peer = self._peer
        judged = self._door.policy.must_judge(peer, self._sender.route)
        client = peer.client
        if client is None:
            return Care(judge=self._judge) if judged else None
        if not judged and not client.capture and peer.tolerance == DEFAULT:
            return None
        captured = tuple(self._dialogue.transaction.recipients) if client.capture else ()
        return Care(peer.tolerance, client.charset, captured, self._judge if judged else None)

    def _judge(self, authors: Authors) -> str | None:
        """Called with what the header says; what its From must become. Raises AuthorRefused."""
        self._sender, author = self._door.policy.judge(self._peer, self._sender, authors)
        return author

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
                log.info(
                    "transaction.aborted",
                    session_id=self._dialogue.session_id,
                    client=self._peer.name,
                    bytes=intake.received,
                )
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
        client = self._peer.client
        refusal = intake.refusal or (self._door.policy.octets(self._peer, intake.size) if client is not None else None)
        if refusal is not None:
            return self._dialogue.refuse(refusal, sender=transaction.original_path)
        expected = None
        try:
            content = await self._content()
            arrival = self._arrival(content)
            if client is not None and client.answer == "direct":
                expected = self._door.queue.verdicts.expect(self._id, len(arrival.recipients), arrival.account_id)
            began_ns = time.time_ns()
            await self._door.queue.accept(arrival)
        except Exception as error:
            if expected is not None:
                expected.close()
            if not isinstance(error, RelayError):
                log.exception("daemon.fault", where="listener.commit")
            return self._dialogue.refuse(replies.reply_to(error), sender=transaction.original_path)
        if client is not None:
            self._door.policy.accepted(self._peer, intake.size)
        self._report(content.size)
        if tracing.current is not None:
            self._tell_of(tracing.current, arrival, began_ns)
        reply = b"250 2.0.0 Ok: queued as %b\r\n" % self._shown.encode()
        if expected is not None:
            limit_s = self._door.direct_timeout_s
            reply = (await verdict_reply(expected, self._shown, limit_s, present=lambda: not self._left)).to_wire()
        if not self.heard:
            log.warning(
                "message.unanswered",
                session_id=self._dialogue.session_id,
                message_id=self._shown,
                client=self._peer.name,
                sender=self._sender.path,
                possible_duplicate=True,
            )
        return reply

    async def _content(self) -> Content:
        """The content as it will be stored. Raises StorageFull or StorageFailed."""
        intake, transaction = self._intake, self._dialogue.transaction
        content = await intake.finish()
        transaction.eight_bit = transaction.eight_bit or intake.eight_bit
        if not intake.long:
            return content
        assert self._peer.client is not None
        reencoder = Reencoder(charset=self._peer.client.charset)
        content = await self._door.queue.rewrite(content, reencoder)
        if not reencoder.untouchable:
            transaction.eight_bit = reencoder.eight_bit
        return content

    def _arrival(self, content: Content) -> Arrival:
        transaction, client = self._dialogue.transaction, self._peer.client
        path, route = self._sender
        assert route is not None
        recipients, requests = tuple(transaction.recipients), tuple(transaction.recipients.values())
        if client is not None and client.capture:
            recipients, requests = (client.capture,), ()
        return Arrival(
            path,
            recipients,
            content,
            route.account_id,
            self._intake.facts.message_id,
            self._peer.name,
            transaction.eight_bit,
            transaction.smtputf8,
            self._id,
            original_path="" if path == transaction.original_path else transaction.original_path or "<>",
            request=transaction.request,
            requests=requests if any(request is not NO_RECIPIENT_REQUEST for request in requests) else (),
            session=self._dialogue.session,
            repaired=",".join(self._intake.repaired),
        )

    def _report(self, size: int) -> None:
        self.size = size
        transaction, (path, route) = self._dialogue.transaction, self._sender
        assert route is not None
        more: dict[str, Any] = {}
        if self._intake.repaired:
            more["repaired"] = ",".join(self._intake.repaired)
        if path != transaction.original_path:
            more["original_sender"] = transaction.original_path or "<>"
        elapsed_s = time.perf_counter() - self._started
        count("relay_messages_accepted_total")
        observe("relay_accept_seconds", elapsed_s)
        log.info(
            "message.accepted",
            session_id=self._dialogue.session_id,
            message_id=self._shown,
            client=self._peer.name,
            sender=path,
            recipients=len(transaction.recipients),
            size=size,
            account=self._door.policy.account(route.account_id),
            elapsed_ms=int(elapsed_s * 1000),
            **more,
        )

    def _tell_of(self, tracer: Tracer, arrival: Arrival, began_ns: int) -> None:
        """The span of its acceptance; `began_ns`: when its commit began."""
        if not tracer.wants(self._id, arrival.header_message_id):
            return
        now = time.time_ns()
        facts: dict[str, str | int | bool] = {
            "relay.message_id": self._shown,
            "relay.session_id": self._dialogue.session_id,
            "relay.account": self._door.policy.account(arrival.account_id),
            "relay.client": self._peer.name,
            "relay.recipients": len(arrival.recipients),
            "relay.size": arrival.content.size,
        }
        if arrival.repaired:
            facts["relay.repaired"] = arrival.repaired
        if tracer.addresses:
            facts |= {"relay.sender": arrival.reverse_path, "relay.recipient": ", ".join(arrival.recipients[:20])}
        started_ns = now - int((time.perf_counter() - self._started) * 1e9)
        steps = (Step("receive", began_ns), Step("commit", now))
        tracer.add(Span("accept", self._id, arrival.header_message_id, started_ns, now, facts, steps=steps, root=True))

    def close(self) -> None:
        """Forget what was not accepted."""
        self._intake.discard()
