"""One session at the front door: reading, replying and DATA."""

from __future__ import annotations

import asyncio

from aiosmtpd.smtp import TLSSetupException

from relay.listener import replies
from relay.listener.connection import Connection
from relay.listener.dialogue import Dialogue
from relay.listener.door import Door
from relay.listener.lines import MAX_AUTH, MAX_COMMAND, TOO_LONG, is_printable, long_line
from relay.listener.login import Login
from relay.listener.policy import Peer
from relay.listener.reception import Reception
from relay.listener.watch import Watch
from relay.mail.reply import Reply
from relay.net.server_tls import tls_trouble
from relay.telemetry import get_logger
from relay.telemetry.rejected import remember

log = get_logger()

_TURNS = 64  # commands in a row before others are served
_AT_ONCE = frozenset({b"EHLO", b"HELO", b"MAIL", b"RCPT", b"DATA", b"RSET", b"NOOP", b"QUIT"})
_LONE_LINE = 1024  # octets; longer lines take the usual way and its limits
_TLS_HANDSHAKE = 0x16  # the first octet of a TLS client hello
_START_INPUT = b"354 End data with <CR><LF>.<CR><LF>\r\n"


class RelaySession(Connection):
    """One client, from greeting to end.

    Replaces aiosmtpd's command loop (replies in groups, bounds, half-close), its commands (`Dialogue`) and DATA
    (streamed past the reader).  Most applications send one command and wait: those are answered as they arrive.  The
    session's task lives while there is something to wait for: a commit, the rest of a line, a client that does not
    read.  A connection that is lost does not cancel it: it finds out by itself, behind a commit that is under way.
    """

    def __init__(self, door: Door, *, host: str = "", admitted: Peer | None = None) -> None:
        """`host`: the client's address, where the connection cannot say it; `admitted`: TLS is up, and limits count."""
        super().__init__(door, tls=admitted is not None)
        self._host = host
        self._peer = admitted
        self._login: Login | None = None
        self._dialogue: Dialogue | None = None
        self._reception: Reception | None = None
        self._waiting = self._idle = False  # for a command; for a line, be it a command or not
        self._over = False  # counted out
        self._messages = self._octets = 0  # accepted

    # -- seams of aiosmtpd ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A new connection; or the same one again, under TLS now."""
        super().connection_made(transport)
        if self._dialogue is None:
            self._door.opened(self)
            self._begin(transport)

    def data_received(self, data: bytes) -> None:
        """Commands that can be are answered at once, others go to the reader, content straight to its intake."""
        reception = self._reception
        if reception is not None and not reception.ended:
            self._take(reception, data)
        elif not self._waiting:
            self._open_streams().feed_data(data)
        elif data[0] == _TLS_HANDSHAKE and self._dialogue is not None:  # it may never send a line end
            self._say_last(self._dialogue.refuse(replies.NOT_SMTP), "not smtp")
        elif not self._answered_at_once(data):
            self._open_streams().feed_data(data)
            if self._handler_coroutine is None:
                self._wake()

    def _take(self, reception: Reception, data: bytes) -> None:
        """Content, and what follows it."""
        rest, pause = reception.feed(data)
        if self._handler_coroutine is None and (pause or reception.ended):
            self._wake()
        if rest:  # the next command; nobody waits for the reader now
            self._open_streams()._buffer.extend(rest)  # type: ignore[attr-defined]
        if pause:
            self.transport.pause_reading()

    def _answered_at_once(self, data: bytes) -> bool:
        """Answer a lone command that needs no waiting, without the session's task.

        Everything else, and whatever looks odd, takes the way of `_converse`.
        """
        text = data[:-2]
        verb, _, argument = text.partition(b" ")
        verb = verb.upper()
        if verb not in _AT_ONCE or data[-2:] != b"\r\n" or len(data) > _LONE_LINE or not is_printable(text):
            return False
        dialogue, watch, transport = self._dialogue, self._watch, self.transport
        if dialogue is None or watch is None or self._handler_coroutine is not None or self._closing:
            return False
        if self._door.stopping or transport.get_write_buffer_size():
            return False
        watch.command()
        try:
            if verb == b"DATA":
                reply = dialogue.may_send_data(argument.strip(b" ")) or self._begin_content(dialogue, watch)
            else:
                reply = dialogue.answer(verb, argument.strip(b" "))
        except Exception:
            log.exception("daemon.fault", where="listener.session")
            self._say_last(replies.FAULT.to_wire(), "fault")
            return True
        if dialogue.closing:
            self._say_last(reply, dialogue.closing)
        else:
            transport.write(reply)
        return True

    def _begin_content(self, dialogue: Dialogue, watch: Watch) -> bytes:
        """Take content from here on; a task sees to it at its end, or when there is something to wait for."""
        assert self._peer is not None
        self._reception = Reception(self._door, self._peer, dialogue)
        self._reception.begin(watch)
        return _START_INPUT

    def eof_received(self) -> bool:
        """The client says no more, but may wait for a reply: stay open for that. TLS cannot be half closed."""
        self._half_closed = True
        if self._reader is not None:
            self._reader.feed_eof()
        self._left(for_good=False)
        return not self._tls

    def connection_lost(self, error: Exception | None) -> None:
        """Deliberately not aiosmtpd's, which cancels the session, and with it a commit."""
        self.transport = None
        self._half_closed = True
        if self._watch is not None:
            self._watch.stop()
        if self._original_transport is not None:
            self._original_transport.close()
        if self._reader is not None:
            asyncio.StreamReaderProtocol.connection_lost(self, error)
        self._left(for_good=True)

    def _left(self, *, for_good: bool) -> None:
        """The client sends no more; `for_good`: the connection is gone."""
        asleep = self._handler_coroutine is None
        if self._reception is not None:
            self._reception.leave(for_good=for_good)
            if asleep:
                self._wake()
        elif asleep and (for_good or self._waiting):
            self._end(self._closing or "lost")

    # -- the beginning -------------------------------------------------------------------------------------

    def _begin(self, transport: asyncio.BaseTransport) -> None:
        """Let the client in, or turn it away."""
        soon = self.loop.call_soon
        try:
            self._host = self._host or self._door.host_of(transport.get_extra_info("peername"))
            entered = self._peer or self._door.policy.enter(self._host)
            if isinstance(entered, Reply):
                self._turn_away(entered)
                soon(self._end, "refused")
                return
            self._peer = entered
            dialogue = self._dialogue = Dialogue(self._door, entered, tls=self._tls)
            log.info("session.opened", session_id=dialogue.session_id, client=entered.name)
            soon(soon, self._greet)  # what came before the greeting is in the reader by then
        except Exception:
            log.exception("daemon.fault", where="listener.session")
            self._out.append(replies.FAULT.to_wire())
            soon(self._end, "fault")

    def _greet(self) -> None:
        """Ask for the first command, unless the client did not wait for that."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if self._buffer:
            self._turn_away(replies.EARLY_TALKER)
            self._end("refused")
            return
        transport.write(self._door.greeting)
        self._rest()

    def _turn_away(self, reply: Reply) -> None:
        self._closing = "refused"
        self._out.append(reply.to_wire())
        to_do = replies.to_do_of(reply)
        log.warning(
            "listener.refused",
            code=reply.code,
            status=reply.status,
            reply=reply.text,
            client=self._host,
            **to_do,
        )
        remember(self._host, self._host, "", (), reply.code, reply.status, reply.text, to_do.get("to_do", ""))

    # -- the conversation ----------------------------------------------------------------------------------

    def _wake(self) -> None:
        """There is something to wait for."""
        self._waiting = self._idle = False
        self._handler_coroutine = self.loop.create_task(self._handle_client())

    def _rest(self) -> None:
        """There is not, but for the next command."""
        self._handler_coroutine = None
        self._waiting = self._idle = True
        if self._half_closed:
            self._end("lost")
        elif self._door.stopping:
            self.shut_down()

    async def _handle_client(self) -> None:
        """The session's task: to the end, or until nothing is here any more."""
        reason, rests = "lost", False
        try:
            if self._reception is not None:
                await self._take_content(self._reception)
            rests = await self._converse()
            reason = self._closing or "lost"
        except asyncio.CancelledError:
            reason = "cancelled"
            raise
        except ConnectionError:
            reason = self._closing or "lost"
        except TLSSetupException as error:
            reason = "tls"
            assert self._peer is not None
            log.info("session.tls_failed", client=self._peer.name, **tls_trouble(error.__cause__ or error))
        except Exception:
            reason = "fault"
            log.exception("daemon.fault", where="listener.session")
            self._out.append(replies.FAULT.to_wire())
        finally:
            if rests:
                self._rest()
            else:
                self._end(reason)

    async def _converse(self) -> bool:
        """Take commands until the session ends, or (True) all that are here are answered."""
        dialogue, watch = self._dialogue, self._watch
        assert dialogue is not None
        assert watch is not None
        turns = 0
        while not self._closing:
            if await self._all_answered():
                return True
            line = await self._next_line()
            if not line:
                return False
            turns += 1
            if not turns % _TURNS:
                await asyncio.sleep(0)
            watch.command()
            text = line[:-2]
            if not line.endswith(b"\r\n") or not is_printable(text):
                reply = replies.LINE_TOO_LONG if line is TOO_LONG else replies.SYNTAX
                self._out.append(dialogue.refuse(reply, bogus=True))
            else:
                verb, _, argument = text.rstrip(b" ").partition(b" ")
                verb = verb.upper()
                if verb == b"DATA":
                    await self._data(argument)
                elif verb == b"STARTTLS":
                    await self._starttls(argument)
                elif verb == b"AUTH":
                    self._login = self._login or Login(self._door, dialogue, self._ask)
                    self._out.append(await self._login.answer(argument.lstrip(b" ")))
                else:
                    self._out.append(dialogue.answer(verb, argument.lstrip(b" ")))
            self._closing = self._closing or dialogue.closing
        return False

    async def _all_answered(self) -> bool:
        if self._buffer or self._half_closed:
            return False
        await self._flush()
        return not (self._buffer or self._half_closed or self._closing)

    async def _next_line(self, *, command: bool = True) -> bytes:
        """The next line with its line end; `TOO_LONG` in place of one that is. Empty: no more will come."""
        if b"\n" not in self._buffer or len(self._out) >= _TURNS:
            await self._flush()
        reader = self._open_streams()
        self._waiting, self._idle = command, True
        try:
            if self._door.stopping and not self._closing:
                self.shut_down()
            return bytes(await reader.readuntil(b"\n"))
        except asyncio.IncompleteReadError:
            return b""
        except asyncio.LimitOverrunError as error:
            limit = MAX_COMMAND if command and self._buffer[:5].upper() != b"AUTH " else MAX_AUTH
            return await long_line(reader, error.consumed, limit)
        finally:
            self._waiting = self._idle = False

    async def _ask(self, challenge: bytes) -> bytes:
        """Say a challenge of AUTH; the client's line, or `TOO_LONG`. Raises ConnectionResetError at its end."""
        assert self._watch is not None
        self._out.append(challenge)
        line = await self._next_line(command=False)
        if not line:
            raise ConnectionResetError
        self._watch.command()
        return line if line is TOO_LONG else line.rstrip(b"\r\n")

    async def _starttls(self, argument: bytes) -> None:
        dialogue = self._dialogue
        assert dialogue is not None
        refusal = dialogue.may_start_tls(argument, alone=not self._buffer)
        if refusal is not None:
            self._out.append(refusal)
            return
        await self._flush()
        self.tls_context = self._door.tls_context
        await self.smtp_STARTTLS(None)
        self._tls = True
        dialogue.reset(tls=True)
        assert self._peer is not None
        dialogue.peer = self._peer  # RFC 3207 4.2: nor does an earlier login count

    async def _data(self, argument: bytes) -> None:
        """DATA, from the command to the reply behind the final dot."""
        dialogue = self._dialogue
        assert dialogue is not None
        if (refusal := dialogue.may_send_data(argument)) is not None:
            self._out.append(refusal)
            return
        assert self._peer is not None
        reception = self._reception = Reception(self._door, self._peer, dialogue)
        self._out.append(_START_INPUT)
        await self._take_content(reception)

    async def _take_content(self, reception: Reception) -> None:
        dialogue, watch = self._dialogue, self._watch
        assert dialogue is not None
        assert watch is not None
        try:
            if self._out:
                await self._flush()
                reception.begin(watch)
                if self._buffer:  # sent along with the command
                    self.data_received(await self._open_streams().read(len(self._buffer)))
            if self._half_closed and not self._buffer:
                reception.leave(for_good=False)
            if not await reception.receive(watch, self.transport):
                self._closing = "hopeless"
                self._out.append(reception.refusal)
                return
            self._out.append(await reception.commit())
            self._messages += reception.size > 0
            self._octets += reception.size
            self._closing = self._closing or dialogue.closing
            dialogue.reset()
            watch.command()
            await self._flush()
        finally:
            self._reception = None
            reception.close()

    # -- the end -------------------------------------------------------------------------------------------

    def shut_down(self) -> None:
        """The listener stops: an idle session ends now, another one behind the reply it waits for."""
        if self._idle and self._reception is None and self.transport is not None and not self._closing:
            self._say_last(replies.STOPPING.to_wire(), "shutdown")

    def cut_off(self) -> None:
        """The listener cannot wait any longer: end unless a commit is under way."""
        committing = self._reception is not None and self._reception.committing
        if not committing and self.transport is not None:
            self._closing = self._closing or "shutdown"
            self.transport.abort()

    def _end(self, reason: str) -> None:
        """The last replies go out, the connection closes, the session is counted out. Idempotent."""
        if self._over:
            return
        self._over = True
        self._closing = self._closing or reason
        if self.transport is not None and not self.transport.is_closing():
            if self._out:
                self.transport.write(b"".join(self._out))
            self._shut()
        if self._peer is not None:
            self._door.policy.leave(self._peer)
            self._report(self._peer, reason)
        self._door.closed(self)

    def _report(self, peer: Peer, reason: str) -> None:
        named, dialogue = dict[str, str](), self._dialogue
        if dialogue is not None:
            peer, named["session_id"] = dialogue.peer, dialogue.session_id
        log.info(
            "session.closed", client=peer.name, messages=self._messages, bytes=self._octets, reason=reason, **named
        )
