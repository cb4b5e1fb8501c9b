"""The connection itself: aiosmtplib's client and protocol, with a reader that pairs each reply with what was sent.

This is the only module that knows aiosmtplib.  From there come the EHLO dialogue, the bookkeeping around STARTTLS
(RFC 3207 4.2: forget what was learnt in clear) and the check of commands for control characters; its reading of
replies, `login` and `sendmail` are not used.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from aiosmtplib import SMTP
from aiosmtplib.errors import SMTPResponseException, SMTPServerDisconnected, SMTPTimeoutError
from aiosmtplib.protocol import SMTPProtocol
from aiosmtplib.response import SMTPResponse

from relay.mail.reply import Reply
from relay.net.dial import check_pin, dial, handshake_failure
from relay.net.tls import ClientTls
from relay.net.way import DIRECT, Way
from relay.submission.smtp import replies as steps
from relay.submission.smtp.replies import ReplyReader, Step, WireFault, WireReply

HIGH_WATER = 262144  # octets in the transport's buffer above which `drained` waits
_STEPS = {b"EHLO": steps.EHLO, b"HELO": steps.EHLO}

Trace = Callable[[str, bytes], None]  # direction ("<" or ">") and octets, for debug logs


class RefusedOpening(Exception):
    """The upstream said no before any mail was offered."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


class Wire(SMTPProtocol):
    """One connection. Whoever sends says which replies that will bring; what comes beyond them is a fault.

    A fault is final: the transport is aborted, every later use raises it.  A chunk of input that holds one
    is not believed in any part: replies of the same chunk that nobody has read yet are dropped.
    One coroutine at a time may wait.  `on_end` is called once, when a fault is found or the connection closes.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_end: Callable[[], None] | None = None) -> None:
        super().__init__(loop=loop)
        self.replies: deque[WireReply] = deque()
        self.fault: WireFault | None = None
        self.on_end = on_end
        self.trace: Trace | None = None
        self._expected: deque[Step] = deque((steps.GREETING,))  # it may come before anybody waits for it
        self._reader = ReplyReader()
        self._waiter: asyncio.Future[None] | None = None
        self._deadline = 0.0  # of the wait under way, or of being idle; 0: none
        self._timer: asyncio.TimerHandle | None = None  # one for all waits: re-armed when it fires early

    # -- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        if self.fault is not None:
            return
        if self.trace is not None:
            self.trace("<", data)
        expected = self._expected
        try:
            replies = self._reader.feed(data)
            for reply in replies:
                if not expected:
                    raise _unasked(reply, alone=len(replies) == 1)
                step = expected.popleft()
                if reply.code < 400 and reply.code not in step.positive:
                    raise WireFault("protocol-error", f"{reply.code} is no answer to {step.name}")
            if not expected and self._reader.unfinished:
                raise WireFault("protocol-error", "part of a reply that nobody asked for")
        except WireFault as fault:
            if fault.reason == "protocol-error":
                self.replies.clear()
            self._fail(fault)
            return
        self.replies.extend(replies)
        if replies:
            self._wake()

    def eof_received(self) -> bool:
        half = " in the middle of a reply" if self._reader.unfinished else ""
        self._fail(WireFault("connection-lost", f"the upstream closed the connection{half}"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        words = f": {exc}" if exc is not None and str(exc) else ""
        self._fail(WireFault("connection-lost", f"the connection broke{words}"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake()

    # -- sending and waiting

    def check(self) -> None:
        """Raise WireFault unless the connection is alive and every reply was read: only then may more be sent."""
        if self.fault is not None:
            raise self.fault
        if self._expected or self.replies or self._reader.unfinished:
            self._fail(WireFault("protocol-error", "replies are out of step with what was sent"))
        elif self.transport is None or self.transport.is_closing():
            self._fail(WireFault("connection-lost", "the connection is closed"))
        else:
            return
        assert self.fault is not None
        raise self.fault

    def put(self, data: bytes | memoryview, expect: Sequence[Step] = ()) -> None:
        """Write, right after `check`. `expect`: what its replies will answer, in order."""
        self._expected.extend(expect)
        self.transport.write(data)  # type: ignore[union-attr]

    async def reply(self, timeout_s: float) -> WireReply:
        """The next reply. Raises WireFault."""
        while not self.replies:
            await self._wait(timeout_s)
        return self.replies.popleft()

    def believe(self) -> None:
        """Raise WireFault if something that nobody asked for came behind the reply just read.

        The end of the connection is no reason to doubt it: many say no and hang up.
        """
        if self.fault is not None and self.fault.reason == "protocol-error":
            raise self.fault

    async def drained(self, timeout_s: float) -> None:
        """Wait until the transport's buffer has room. Raises WireFault, also for a reply nobody asked for."""
        while self._paused:
            await self._wait(timeout_s)
        self._raise_fault()

    def watch_idle(self, timeout_s: float) -> None:
        """Nobody waits now: any octet, the end of the connection, or `timeout_s` ends it through `on_end`."""
        self._set_deadline(timeout_s)

    def wake_from_idle(self) -> None:
        """End `watch_idle`."""
        self._deadline = 0.0

    def abort(self) -> None:
        """Drop the connection now, without a word."""
        self._fail(WireFault("connection-lost", "closed by this relay"))

    def farewell(self) -> None:
        """QUIT and close, waiting for nothing."""
        if self.fault is None and self.transport is not None and not self.transport.is_closing():
            self._expected.append(steps.QUIT)
            self.transport.write(b"QUIT\r\n")  # type: ignore[attr-defined]
            self.transport.close()

    async def _wait(self, timeout_s: float) -> None:
        """Until something happened (a reply, room to write); raises the fault if there is one."""
        self._raise_fault()
        self._set_deadline(timeout_s)
        self._waiter = waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter = None
            self._deadline = 0.0
        if not self.replies:
            self._raise_fault()

    def _raise_fault(self) -> None:
        if self.fault is not None:
            raise self.fault

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_deadline(self, timeout_s: float) -> None:
        self._deadline = deadline = self._loop.time() + timeout_s
        timer = self._timer
        if timer is None:
            self._timer = self._loop.call_at(deadline, self._tick)
        elif timer.when() > deadline:
            timer.cancel()
            self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._deadline or self.fault is not None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._tick)
        elif self._waiter is None:  # idle for long enough
            self.farewell()
            self._fail(WireFault("connection-lost", "idle"), abort=False)
        else:
            about = (
                "room to write" if self._paused else f"a reply to {self._expected[0].name}" if self._expected else "it"
            )
            self._fail(WireFault("stage-timeout", f"waited too long for {about}"))

    def _fail(self, fault: WireFault, *, abort: bool = True) -> None:
        if self.fault is not None:
            return
        self.fault = fault
        self._expected.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if abort and self.transport is not None:
            self.transport.abort()  # type: ignore[attr-defined]
        self._wake()
        if self.on_end is not None:
            self.on_end()

    # -- what aiosmtplib's client calls

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:
        """One reply in aiosmtplib's form; nothing may be behind it."""
        reply = await self.reply(timeout or 0)
        self.believe()
        return SMTPResponse(reply.code, reply.text())

    async def execute_command(self, *args: bytes, timeout: float | None = None) -> SMTPResponse:
        """A command of aiosmtplib's own (EHLO)."""
        self.command(b" ".join(args), _STEPS[args[0].upper()])
        return await self.read_response(timeout)

    def command(self, line: bytes, step: Step, *, shown: bytes | None = None) -> None:
        """Send one command line, given without CRLF; `shown` stands for it in the debug log."""
        if any(octet < 32 or octet == 127 for octet in line):
            raise ValueError("a command must not contain control characters")
        self.check()
        if self.trace is not None:
            self.trace(">", line if shown is None else shown)
        self.put(line + b"\r\n", (step,))

    async def start_tls(
        self, tls_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> SMTPResponse:
        """STARTTLS and the handshake. What comes behind the 220 in clear is a fault (RFC 3207 4.2, injection)."""
        self.check()
        self._expected.append(steps.STARTTLS)
        if self.trace is not None:
            self.trace(">", b"STARTTLS")
        response = await super().start_tls(tls_context, server_hostname, timeout)
        cast("asyncio.WriteTransport", self.transport).set_write_buffer_limits(high=HIGH_WATER)
        return response


class Client(SMTP):
    """aiosmtplib's client on our wire: dials, upgrades, says EHLO. Raises DialFailed, WireFault, RefusedOpening."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        ehlo_name: str,
        on_end: Callable[[], None],
        trace: Trace | None,
        way: Way = DIRECT,
    ) -> None:
        super().__init__(hostname=host, port=port, use_tls=False, start_tls=False, local_hostname=ehlo_name)
        self._on_end, self._trace, self._way = on_end, trace, way
        self._implicit: ClientTls | None = None
        self._greeting_timeout_s = 0.0

    @property
    def wire(self) -> Wire:
        """The connection; WireFault when it is gone."""
        if not isinstance(self.protocol, Wire):
            raise WireFault("connection-lost", "the connection is closed")
        return self.protocol

    async def open(self, *, connect_s: float, greeting_s: float, tls: ClientTls | None) -> Reply:
        """Connect (with `tls`: encrypted from the first octet) and read the greeting, which is returned."""
        self._implicit, self._greeting_timeout_s = tls, greeting_s
        return _reply(await self.connect(timeout=connect_s))

    async def _create_connection(self, timeout: float | None) -> SMTPResponse:
        # aiosmtplib's own refers to its module's SMTPProtocol; this one is the same with our protocol and dialling.
        assert self.loop is not None
        assert self.hostname is not None
        assert self.port is not None
        loop = self.loop
        transport, wire = await dial(
            lambda: Wire(loop, self._on_end),
            self.hostname,
            self.port,
            timeout_s=timeout or 0,
            tls=self._implicit,
            way=self._way,
        )
        wire.trace = self._trace
        self.protocol, self.transport = wire, transport
        response = await wire.read_response(self._greeting_timeout_s)
        if response.code != 220:
            raise RefusedOpening(_reply(response))
        return response

    async def hello(self, timeout_s: float) -> Reply:
        """EHLO; the extensions are in `esmtp_extensions` then."""
        try:
            return _reply(await self.ehlo(timeout=timeout_s))
        except SMTPResponseException as error:
            raise RefusedOpening(_reply(SMTPResponse(error.code, error.message))) from error

    async def upgrade(self, tls: ClientTls, timeout_s: float) -> None:
        """STARTTLS, which must have been offered; what was learnt before is forgotten."""
        assert self.hostname is not None
        try:
            await self.starttls(tls_context=tls.context, server_hostname=tls.name or self.hostname, timeout=timeout_s)
        except SMTPResponseException as error:
            raise RefusedOpening(_reply(SMTPResponse(error.code, error.message))) from error
        except SMTPTimeoutError as error:
            raise handshake_failure(TimeoutError()) from error
        except SMTPServerDisconnected as error:
            raise handshake_failure(ConnectionResetError()) from error
        except (OSError, ssl.CertificateError) as error:
            raise handshake_failure(error) from error
        assert self.transport is not None
        check_pin(self.transport, tls)

    async def exchange(self, line: bytes, step: Step, timeout_s: float, *, shown: bytes | None = None) -> WireReply:
        """Send a command, wait for its reply."""
        wire = self.wire
        wire.command(line, step, shown=shown)
        reply = await wire.reply(timeout_s)
        wire.believe()
        return reply


def _reply(response: SMTPResponse) -> Reply:
    return Reply.from_wire(response.code, response.message.split("\n"))


def _unasked(reply: WireReply, *, alone: bool) -> WireFault:
    words = f"a reply nobody asked for: {reply.code} {reply.text()[:200]}"
    if alone and reply.code == 421:  # RFC 5321 3.8: may come at any time, instead of an answer
        return WireFault("connection-lost", words, reply.reply())
    return WireFault("protocol-error", words)
