"""A submission server that does what a test says at each step: refuse, stall, hang up, forge, delay, talk garbage.

    async with ScriptedUpstream(tls="starttls", accounts={"app@example.com": "secret"}) as upstream:
        upstream.on("RCPT", "gone@example.org").answers("550 5.1.1 no such user")
        upstream.on("DOT", times=1).sends(b"250 2.0.0 a").disconnects()
        ...
        message = await upstream.next_message()
        assert upstream.clear_octets(b"AUTH") == 0

Steps: GREETING, EHLO, STARTTLS, TLS (before the handshake), AUTH (its first line), CHALLENGE (each later line of it),
MAIL, RCPT, DATA, BODY (the first octets of content), DOT, RSET, NOOP, QUIT.  What has no rule is answered well.
Replies to what came in one segment go out in one write, `delay_s` later.  A body is taken when it was answered 250.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import struct
from typing import Self

from tests.peers.script import Log, Rule, Script, Step, Taken

__all__ = ["Rule", "ScriptedUpstream", "Step"]

END = b"\r\n.\r\n"


class ScriptedUpstream(Script):
    """The server: an async context manager; its script says the rest."""

    streams: list[_Stream]  # beside `connections`, for what a script cannot say: `transport.write`

    async def __aenter__(self) -> Self:
        self.streams = []
        self._sessions: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        context = self.context if self.tls == "implicit" else None
        self._server = await loop.create_server(lambda: _Stream(self), self.host, 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._sessions):
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)

    def begin(self, stream: _Stream) -> None:
        """A connection came in."""
        task = asyncio.get_running_loop().create_task(_Session(self, stream).run())
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)


class _Hangup(Exception):
    pass


class _Stream(asyncio.Protocol):
    """Octets in, split as the session asks; each one is in the log first."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.log = Log()
        self.secure = upstream.tls == "implicit"
        self.buffer = bytearray()
        self.transport: asyncio.Transport | None = None
        self.more = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.upstream.connections.append(self.log)
        self.upstream.streams.append(self)
        self.upstream.begin(self)
        self.upstream.changed()

    def data_received(self, data: bytes) -> None:
        (self.log.secure if self.secure else self.log.clear).extend(data)
        self.log.segments.append(bytes(data))
        self.buffer += data
        self.more.set()
        self.upstream.changed()

    def connection_lost(self, exc: Exception | None) -> None:
        self.log.lost = True
        self.more.set()
        self.upstream.changed()

    async def until(self, end: bytes) -> bytes:
        """What comes up to and with `end`; _Hangup when it never does."""
        while (at := self.buffer.find(end)) < 0:
            await self.wait()
        taken = bytes(self.buffer[: at + len(end)])
        del self.buffer[: at + len(end)]
        return taken

    async def wait(self) -> None:
        """Until something more came."""
        if self.log.lost:
            raise _Hangup
        self.more.clear()
        await self.more.wait()


class _Session:
    def __init__(self, upstream: ScriptedUpstream, stream: _Stream) -> None:
        self.upstream, self.stream, self.log = upstream, stream, stream.log
        self.number = upstream.connections.index(stream.log)
        self.out = b""
        self.reverse_path: str | None = None
        self.parameters = ""
        self.recipients: list[str] = []
        self.recipient_parameters: list[str] = []

    async def run(self) -> None:
        try:
            await self.act("GREETING", b"220 scripted.example ESMTP\r\n")
            while True:
                if b"\r\n" not in self.stream.buffer:
                    await self.flush()
                line = (await self.stream.until(b"\r\n"))[:-2].decode("utf-8", "backslashreplace")
                self.log.lines.append(line)
                await self.command(line)
                self.upstream.changed()
        except (_Hangup, OSError):
            pass
        finally:
            if self.stream.transport is not None:
                self.stream.transport.close()
            self.log.lost = True
            self.upstream.changed()

    async def flush(self) -> None:
        out, self.out = self.out, b""
        if out:
            if self.upstream.delay_s:
                await asyncio.sleep(self.upstream.delay_s)
            assert self.stream.transport is not None
            self.stream.transport.write(out)

    async def act(self, step: Step, well: bytes, argument: str = "") -> bytes:
        """Do what the rule says; the octets that were sent, to see whether the step went well."""
        rule = self.upstream.rule(step, argument)
        if rule is None:
            self.out += well
            return well
        sent = b""
        for act, octets in rule.acts:
            if act in ("send", "well"):
                sent += octets or well
                self.out += octets or well
                continue
            await self.flush()
            transport = self.stream.transport
            assert transport is not None
            if act == "pause":
                await self.upstream.wait_to_go()
            elif act in ("stall", "deaf"):
                if act == "deaf":
                    transport.pause_reading()
                while True:
                    await self.stream.wait()
            else:
                if act == "reset":
                    hard = struct.pack("ii", 1, 0)  # closing with linger 0 is a RST
                    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, hard)
                    transport.abort()
                raise _Hangup
        return sent

    async def command(self, line: str) -> None:
        verb, _, argument = line.partition(" ")
        match verb.upper():
            case "EHLO":
                await self.act("EHLO", self.hello())
            case "STARTTLS":
                await self.starttls()
            case "AUTH":
                await self.auth(argument)
            case "MAIL":
                self.reverse_path, self.parameters = _path(line)
                sent = await self.act("MAIL", b"250 2.1.0 ok\r\n", self.reverse_path)
                if not sent.startswith(b"2"):
                    self.reverse_path = None
            case "RCPT":
                recipient, parameters = _path(line)
                well = b"250 2.1.5 ok\r\n" if self.reverse_path is not None else b"503 5.5.1 MAIL first\r\n"
                if (await self.act("RCPT", well, recipient)).startswith(b"2"):
                    self.recipients.append(recipient)
                    self.recipient_parameters.append(parameters)
            case "DATA":
                well = b"354 go on\r\n" if self.recipients else b"503 5.5.1 no valid recipients\r\n"
                if (await self.act("DATA", well, self.reverse_path or "")).startswith(b"354"):
                    await self.content()
            case "RSET":
                self.clear()
                await self.act("RSET", b"250 2.0.0 ok\r\n")
            case "NOOP":
                await self.act("NOOP", b"250 2.0.0 ok\r\n")
            case "QUIT":
                await self.act("QUIT", b"221 2.0.0 bye\r\n")
                await self.flush()
                raise _Hangup
            case _:
                self.out += b"500 5.5.2 what\r\n"

    def clear(self) -> None:
        self.reverse_path, self.recipients, self.recipient_parameters = None, [], []

    def hello(self) -> bytes:
        offers = [*self.upstream.extensions]
        if self.upstream.pipelining:
            offers.append("PIPELINING")
        if self.upstream.tls == "starttls" and not self.stream.secure:
            offers.append("STARTTLS")
        elif self.upstream.mechanisms:
            offers.append(f"AUTH {self.upstream.mechanisms}")
        lines = ["scripted.example", *offers]
        return "".join(f"250{'-' if n < len(lines) else ' '}{line}\r\n" for n, line in enumerate(lines, 1)).encode()

    async def starttls(self) -> None:
        stream = self.stream
        assert stream.transport is not None
        if not (await self.act("STARTTLS", b"220 2.0.0 go ahead\r\n")).startswith(b"220"):
            return
        stream.transport.pause_reading()
        await self.flush()
        if self.upstream.rule_waits("TLS"):
            stream.transport.resume_reading()
            await self.act("TLS", b"")
        try:
            stream.secure = True
            stream.transport = await asyncio.get_running_loop().start_tls(
                stream.transport, stream, self.upstream.context, server_side=True, ssl_handshake_timeout=5
            )
        except OSError as error:
            raise _Hangup from error

    async def auth(self, argument: str) -> None:
        name, _, initial = argument.partition(" ")
        if name in ("XOAUTH2", "OAUTHBEARER"):
            await self.token(name, initial)
            return
        answers: list[bytes] = [base64.b64decode(initial)] if initial else []
        step: Step = "AUTH"
        while len(answers) < (2 if name == "LOGIN" else 1):
            sent = await self.act(step, b"334 \r\n" if name == "PLAIN" else b"334 VXNlcm5hbWU6\r\n")
            if not sent.startswith(b"334"):
                return
            await self.flush()
            line = (await self.stream.until(b"\r\n"))[:-2].decode()
            self.log.lines.append(line)
            answers.append(base64.b64decode(line))
            step = "CHALLENGE"
        login, password = answers[0].split(b"\0")[1:] if name == "PLAIN" else answers
        known = self.upstream.accounts
        good = not known or known.get(login.decode()) == password.decode()
        well = b"235 2.7.0 welcome\r\n" if good else b"535 5.7.8 bad credentials\r\n"
        if (await self.act(step, well)).startswith(b"235"):
            self.log.account = login.decode()

    async def token(self, name: str, initial: str) -> None:
        """Bearer tokens: the reason of a refusal comes as a challenge first (RFC 7628 3.2.2)."""
        if not initial:
            if not (await self.act("AUTH", b"334 \r\n")).startswith(b"334"):
                return
            initial = await self.line()
        fields = dict(
            part.partition("=")[::2] for part in base64.b64decode(initial).decode().split("\x01") if "=" in part
        )
        login = fields["user"] if name == "XOAUTH2" else fields["n,a"].rstrip(",")
        token = fields["auth"].removeprefix("Bearer ")
        self.upstream.tokens.append(token)
        if self.upstream.takes_token is None or self.upstream.takes_token(login, token):
            well = b"235 2.7.0 welcome\r\n"
        else:
            status = {"status": "400", "schemes": "Bearer", "scope": "https://mail.google.com/"}
            self.out += b"334 " + base64.b64encode(json.dumps(status).encode()) + b"\r\n"
            await self.flush()
            await self.line()
            well = b"535 5.7.3 Authentication unsuccessful\r\n"
        if (await self.act("AUTH", well)).startswith(b"235"):
            self.log.account = login

    async def line(self) -> str:
        """The next line, in the log as well."""
        await self.flush()
        line = (await self.stream.until(b"\r\n"))[:-2].decode()
        self.log.lines.append(line)
        return line

    async def content(self) -> None:
        await self.flush()
        stream = self.stream
        if self.upstream.rule_waits("BODY"):
            while not stream.buffer:
                await stream.wait()
            await self.act("BODY", b"")
            await self.flush()
        if stream.buffer[:3] != END[2:]:
            while len(stream.buffer) < 3:
                await stream.wait()
        body = await stream.until(END[2:]) if stream.buffer[:3] == END[2:] else await stream.until(END)
        self.upstream.contents += 1
        if (await self.act("DOT", b"250 2.0.0 taken\r\n", self.reverse_path or "")).startswith(b"250 "):
            self.upstream.messages.append(
                Taken(
                    self.reverse_path or "",
                    tuple(self.recipients),
                    body[:-3],
                    self.log.account,
                    self.number,
                    self.parameters,
                    tuple(self.recipient_parameters),
                )
            )
        self.clear()


def _path(line: str) -> tuple[str, str]:
    start, end = line.index("<"), line.rindex(">")
    return line[start + 1 : end], line[end + 1 :].strip()
