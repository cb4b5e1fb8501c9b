"""One connection at the sink: commands are split from the buffer, replies go out in one write per burst."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
import ssl
import time
from collections.abc import Callable

from tests.peers.register import Register, Taken

HEAD_BYTES = 16384  # the id header is looked for in this much of a message
LINE_BYTES = 8192
END = b"\r\n.\r\n"
PATH = re.compile(rb"[^:]*:[ ]?<([^>]*)>(.*)", re.DOTALL)
BENCH_ID = re.compile(rb"^X-Bench-Id:[ \t]*([^\r\n]*)", re.MULTILINE | re.IGNORECASE)
GO_AHEAD = b"220 2.0.0 go ahead\r\n"
DENIED = b"550 5.7.60 SMTP; Client does not have permissions to send as this sender (SendAsDenied)\r\n"


class SinkSession(asyncio.Protocol):
    """The server's side of a session. `context` is for STARTTLS; `secure` says that TLS is there from the start.

    `sessions` holds every open one, so that they can be cut; `take` gets each message before its 250. Each burst of
    replies leaves `delay_s` after it was made.
    """

    def __init__(
        self,
        register: Register,
        context: ssl.SSLContext,
        sessions: set[SinkSession],
        take: Callable[[Taken], None],
        *,
        delay_s: float = 0,
        secure: bool = False,
    ) -> None:
        self.register = register
        self.context = context
        self.sessions = sessions
        self.take = take
        self.delay_s = delay_s
        self.secure = secure
        self.account = ""
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._replies: list[bytes] = []
        self._upgrade: asyncio.Task[None] | None = None
        self._login: list[str] | None = None  # open AUTH dialogue: what LOGIN has told so far
        self._plain = False
        self._in_data = False
        self._body: list[bytes] = []
        self._size = 0
        self._tail = b""
        self._forget()

    def _forget(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self.register.counters.connections += 1
        self.sessions.add(self)
        self._send(b"220 sink.example ESMTP\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.sessions.discard(self)
        if self.account:
            self.register.log_out(self.account)

    def data_received(self, data: bytes) -> None:
        if self._upgrade is not None:  # already inside TLS, but start_tls has not come back yet
            self._buffer += data
            return
        if not self._in_data:
            data = self._buffer + data if self._buffer else data
            self._buffer = b""
        while data:
            if self._in_data:
                data = self._content(data)
                continue
            line, end, rest = data.partition(b"\r\n")
            if not end:
                self._buffer = data
                if len(data) > LINE_BYTES:
                    self._replies.append(b"500 5.5.6 line too long\r\n")
                    self._flush()
                    self.cut()
                break
            data = rest
            reply = self._command(line)
            self._replies.append(reply)
            if reply is GO_AHEAD:
                break  # RFC 3207 6: what was sent behind STARTTLS in clear is thrown away
            if line[:4].upper() == b"QUIT":
                self._flush()
                self._close()
                return
        self._flush()

    def cut(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    # -- commands

    def _command(self, line: bytes) -> bytes:
        if self._login is not None:
            return self._auth_line(line)
        verb = line[:4].upper()
        if verb == b"MAIL":
            return self._mail(line)
        if verb == b"RCPT":
            return self._rcpt(line)
        if verb == b"DATA":
            if not self._recipients:
                return b"503 5.5.1 no valid recipients\r\n"
            self._in_data, self._tail = True, b"\r\n"  # the CRLF of DATA is the one in front of a lone dot
            return b"354 end with <CRLF>.<CRLF>\r\n"
        if verb == b"EHLO":
            return self._ehlo()
        if verb == b"AUTH":
            return self._auth(line)
        if verb == b"STAR":
            return self._starttls()
        if verb == b"RSET":
            self._forget()
            return b"250 2.0.0 ok\r\n"
        if verb == b"NOOP":
            return b"250 2.0.0 ok\r\n"
        if verb == b"QUIT":
            return b"221 2.0.0 bye\r\n"
        return b"500 5.5.2 unknown command\r\n"

    def _ehlo(self) -> bytes:
        offer = b"AUTH PLAIN LOGIN" if self.secure else b"STARTTLS"
        common = b"250-sink.example\r\n250-PIPELINING\r\n250-SIZE 157286400\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"
        return common + b"250-ENHANCEDSTATUSCODES\r\n250 " + offer + b"\r\n"

    def _starttls(self) -> bytes:
        if self.secure:
            return b"503 5.5.1 already in TLS\r\n"
        self._transport.pause_reading()  # type: ignore[union-attr]
        self._upgrade = asyncio.get_running_loop().create_task(self._to_tls())
        return GO_AHEAD

    async def _to_tls(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._transport = await loop.start_tls(
                self._transport,  # type: ignore[arg-type]
                self,
                self.context,
                server_side=True,
                ssl_handshake_timeout=30,
            )
        except OSError:  # ssl.SSLError is one: the client did not trust us or went away
            self.cut()
            return
        self._upgrade = None
        self.secure = True
        self._forget()
        self.data_received(b"")

    def _auth(self, line: bytes) -> bytes:
        if not self.secure:
            return b"538 5.7.11 encryption required\r\n"
        if self.account:
            return b"503 5.5.1 already logged in\r\n"
        _, _, rest = line.partition(b" ")
        mechanism, _, initial = rest.partition(b" ")
        self._plain = mechanism.upper() == b"PLAIN"
        if not self._plain and mechanism.upper() != b"LOGIN":
            return b"504 5.5.4 mechanism not offered\r\n"
        self._login = []
        if initial:
            return self._auth_line(initial)
        return b"334 \r\n" if self._plain else b"334 VXNlcm5hbWU6\r\n"

    def _auth_line(self, line: bytes) -> bytes:
        told, self._login = self._login or [], None
        try:
            answer = base64.b64decode(line, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return b"501 5.5.2 not base64\r\n"
        if self._plain:
            parts = answer.split("\0")
            return self._logged_in(parts[1], parts[2]) if len(parts) == 3 else b"501 5.5.2 not PLAIN\r\n"
        if not told:
            self._login = [answer]
            return b"334 UGFzc3dvcmQ6\r\n"
        return self._logged_in(told[0], answer)

    def _logged_in(self, login: str, password: str) -> bytes:
        reply = self.register.log_in(login, password)
        if reply[:3] == b"235":
            self.account = login
        return reply

    def _mail(self, line: bytes) -> bytes:
        if not self.account:
            return b"530 5.7.57 Client not authenticated to send mail\r\n"
        match = PATH.match(line)
        if match is None or self._sender is not None:
            return b"503 5.5.1 bad sequence\r\n" if match else b"501 5.5.4 bad path\r\n"
        sender = match[1].decode("utf-8", "surrogateescape")
        if not self.register.may_send(self.account, sender):
            self.register.counters.denied += 1
            return DENIED
        self._sender = sender
        return b"250 2.1.0 Sender OK\r\n"

    def _rcpt(self, line: bytes) -> bytes:
        match = PATH.match(line)
        if match is None or self._sender is None:
            return b"503 5.5.1 bad sequence\r\n" if match else b"501 5.5.4 bad path\r\n"
        self._recipients.append(match[1].decode("utf-8", "surrogateescape"))
        return b"250 2.1.5 Recipient OK\r\n"

    # -- content

    def _content(self, data: bytes) -> bytes:
        """Take content from the front of `data`; what follows its final dot comes back."""
        # The dot's five octets may be cut anywhere: look at the seam, then at the chunk.
        seam = self._tail + data[:4]
        found = seam.find(END)
        end = found + len(END) - len(self._tail) if found >= 0 else -1
        if end < 0:
            found = data.find(END)
            end = found + len(END) if found >= 0 else -1
        part = data if end < 0 else data[:end]
        if self.register.keep or self.register.digest or self._size < HEAD_BYTES:
            self._body.append(part)
        self._size += len(part)
        if end < 0:
            self._tail = (self._tail + data[-4:])[-4:]
            return b""
        self._replies.append(self._accept())
        return data[end:]

    def _accept(self) -> bytes:
        body, size = b"".join(self._body), self._size - 3  # without the final dot's line
        self._in_data, self._body, self._size = False, [], 0
        content: bytes | None = None
        digest = "-"
        if self.register.keep or self.register.digest:
            content = body[:-3]
            if content.startswith(b"."):  # RFC 5321 4.5.2: undo dot-stuffing
                content = content[1:]
            content = content.replace(b"\r\n.", b"\r\n")
            size = len(content)
            digest = hashlib.sha256(content).hexdigest() if self.register.digest else "-"
        match = BENCH_ID.search(body, 0, HEAD_BYTES)
        id_ = match[1].decode("ascii", "replace") if match else "-"
        kept = content if self.register.keep else None
        sender, recipients = self._sender or "", tuple(self._recipients)
        self.take(Taken(self.account, sender, recipients, id_, size, digest, time.monotonic(), kept))
        self._forget()
        return b"250 2.0.0 Ok: taken\r\n"

    # -- replies

    def _flush(self) -> None:
        if self._replies:
            burst, self._replies = b"".join(self._replies), []
            self._send(burst)

    def _send(self, burst: bytes) -> None:
        if self.delay_s and self._upgrade is None:
            asyncio.get_running_loop().call_later(self.delay_s, self._write, burst)
        else:
            self._write(burst)

    def _write(self, burst: bytes) -> None:
        if self._transport is not None:
            self._transport.write(burst)

    def _close(self) -> None:
        if self._transport is not None:
            asyncio.get_running_loop().call_later(self.delay_s, self._transport.close)
