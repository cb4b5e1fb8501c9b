"""Microsoft Graph and the Gmail API over loopback HTTPS, as far as mail is sent by them, doing what a test says.

    async with ApiServer() as api:
        api.order(Fault(429, {"error": {"code": "ApplicationThrottled"}}, headers={"Retry-After": "7"}))
        api.order(Fault(cut="answer"))
        api.takes_token = lambda token: token == "good"
        mail = await api.next_mail()

Written from what the providers publish: who gets the mail is who To, Cc and Bcc name; Bcc is taken out; Graph wants
base64 and answers 202 with nothing, Gmail wants the message and answers 200 with its id.  HTTP itself is h11's.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import email
import email.policy
import json
import re
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import getaddresses
from functools import cache
from typing import Any, Self
from urllib.parse import unquote

import h11
import trustme

from tests.peers.script import shared_authority

GRAPH_MOST = 4 * 1024 * 1024
GMAIL_MOST = 35 * 1024 * 1024
_GRAPH = re.compile(r"/v1\.0/(?:me|users/([^/]+))/sendMail")
_GMAIL = "/upload/gmail/v1/users/me/messages/send?uploadType=media"


@cache
def _localhost() -> trustme.LeafCert:
    return shared_authority().issue_cert("localhost")


@dataclass
class Fault:
    """What happens to the next request instead. `status` 0: it is answered as usual, if at all.

    `cut`: the connection ends before the body was read (request), after it (reply), or within the answer (answer).
    `early`: answered before the body was read.  `body`: JSON, or octets as they are.
    """

    status: int = 0
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: str = ""
    early: bool = False
    content_type: str = "application/json"
    hold: asyncio.Event | None = None  # answer only when it is set


@dataclass
class Mail:
    """One message that was taken. `content` is as its recipients see it."""

    path: str
    token: str
    mailbox: str  # "": whoever the token is for
    recipients: tuple[str, ...]
    content: bytes
    connection: int


class ApiServer:
    """An async context manager. `asked`: path and status of each request, in order; `tokens`: what they came with."""

    def __init__(self, certificate: trustme.LeafCert | None = None) -> None:
        self.authority = shared_authority()  # as all servers here that bring no certificate
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (certificate or _localhost()).configure_cert(self._context)
        self.takes_token: Callable[[str], bool] = lambda token: True
        self.may_send_as: Callable[[str], bool] = lambda author: True
        self.asked: list[tuple[str, int]] = []
        self.tokens: list[str] = []
        self.connections = 0
        self.at_once = self.most_at_once = 0
        self.arrived = asyncio.Event()
        self.mails: asyncio.Queue[Mail] = asyncio.Queue()
        self.port = 0
        self._faults: deque[Fault] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """As the settings take it."""
        return f"https://localhost:{self.port}"

    def order(self, *faults: Fault) -> None:
        """Let the next requests go so, one each."""
        self._faults.extend(faults)

    async def next_mail(self, timeout_s: float = 10) -> Mail:
        """The next message that was taken."""
        async with asyncio.timeout(timeout_s):
            return await self.mails.get()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            await _Connection(self, reader, writer, self.connections).run()
        except (ConnectionError, ssl.SSLError, h11.RemoteProtocolError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    def fault(self) -> Fault:
        """For the request that begins now."""
        return self._faults.popleft() if self._faults else Fault()

    def answer(self, path: str, token: str, content_type: str, body: bytes, number: int) -> tuple[int, Any]:
        """Status and JSON, by the rules."""
        graph = _GRAPH.fullmatch(path)
        if graph is None and path != _GMAIL:
            return 404, _graph_error("ResourceNotFound", "Resource not found for the segment.")
        if not self.takes_token(token):
            if graph:
                return 401, _graph_error("InvalidAuthenticationToken", "Access token has expired or is not yet valid.")
            return 401, _gmail_error(401, "authError", "Request had invalid authentication credentials.")
        return (
            self._graph(path, graph[1] or "", token, content_type, body, number)
            if graph
            else self._gmail(path, token, content_type, body, number)
        )

    def _graph(
        self, path: str, mailbox: str, token: str, content_type: str, body: bytes, number: int
    ) -> tuple[int, Any]:
        if len(body) > GRAPH_MOST:
            return 413, _graph_error("RequestEntityTooLarge", "The request is too large.")
        try:
            if content_type != "text/plain" or not body:
                raise binascii.Error
            content = base64.b64decode(body, validate=True)
        except binascii.Error:
            return 400, _graph_error("ErrorMimeContentInvalidBase64String", "Invalid base64 string for MIME content.")
        message = email.message_from_bytes(content, policy=email.policy.compat32)
        author = next(iter(getaddresses([message.get("From", "")])), ("", ""))[1]
        if not self.may_send_as(author):
            return 403, _graph_error("ErrorSendAsDenied", "The user account may not send on behalf of that account.")
        recipients = _recipients(message)
        if not recipients:
            return 400, _graph_error("ErrorInvalidRecipients", "At least one recipient isn't valid.")
        self._take(path, token, unquote(mailbox), recipients, content, number)
        return 202, None

    def _gmail(self, path: str, token: str, content_type: str, body: bytes, number: int) -> tuple[int, Any]:
        if len(body) > GMAIL_MOST:
            return 413, _gmail_error(413, "uploadTooLarge", "Request Entity Too Large")
        message = email.message_from_bytes(body, policy=email.policy.compat32)
        recipients = _recipients(message)
        if content_type != "message/rfc822" or not recipients:
            return 400, _gmail_error(400, "invalidArgument", "Recipient address required")
        self._take(path, token, "", recipients, body, number)
        return 200, {"id": f"18c{self.mails.qsize():013x}", "threadId": "18c0", "labelIds": ["SENT"]}

    def _take(
        self, path: str, token: str, mailbox: str, recipients: tuple[str, ...], content: bytes, number: int
    ) -> None:
        head, _, body = content.partition(b"\r\n\r\n")
        seen = re.sub(rb"(?im)^bcc:.*\r\n(?:[ \t].*\r\n)*", b"", head + b"\r\n")
        self.mails.put_nowait(Mail(path, token, mailbox, recipients, seen + b"\r\n" + body, number))


class _Connection:
    def __init__(
        self, server: ApiServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self.server, self.reader, self.writer, self.number = server, reader, writer, number
        self.http = h11.Connection(h11.SERVER)

    async def run(self) -> None:
        """Requests, one after the other."""
        while True:
            request = await self._next()
            if not isinstance(request, h11.Request):
                return
            server = self.server
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                if not await self._request(request):
                    return
            finally:
                server.at_once -= 1
            if self.http.our_state is h11.MUST_CLOSE or self.http.their_state is not h11.DONE:
                return
            self.http.start_next_cycle()

    async def _request(self, request: h11.Request) -> bool:
        server, headers = self.server, dict(request.headers)
        fault = server.fault()
        path = request.target.decode()
        token = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
        server.tokens.append(token)
        if fault.cut == "request":
            server.asked.append((path, 0))
            server.arrived.set()
            return False
        body = bytearray()
        while not fault.early:
            event = await self._next()
            if isinstance(event, h11.EndOfMessage):
                break
            if not isinstance(event, h11.Data):
                server.asked.append((path, -1))  # gave up within the body
                return False
            body += event.data
        server.arrived.set()
        if fault.hold is not None:
            await fault.hold.wait()
        if fault.cut == "reply":
            server.asked.append((path, 0))
            return False
        if fault.status:
            status, answer = fault.status, fault.body
        else:
            kind = headers.get(b"content-type", b"").decode()
            status, answer = server.answer(path, token, kind, bytes(body), self.number)
        server.asked.append((path, status))
        octets = answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
        await self._reply(status, octets, fault)
        while fault.early and await self.reader.read(65536):
            pass  # an end with something unread would reset the connection, and the answer with it
        return fault.cut != "answer" and not fault.early

    async def _reply(self, status: int, octets: bytes, fault: Fault) -> None:
        headers = {
            "Content-Length": str(len(octets) + (10 if fault.cut == "answer" else 0)),
            "Content-Type": fault.content_type,
            "request-id": "5f6c-test",
            **fault.headers,
        }
        sent = self.http.send(h11.Response(status_code=status, headers=list(headers.items()))) or b""
        sent += self.http.send(h11.Data(data=octets)) or b""
        if fault.cut != "answer":
            sent += self.http.send(h11.EndOfMessage()) or b""
        self.writer.write(sent)
        await self.writer.drain()

    async def _next(self) -> Any:
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                self.http.receive_data(await self.reader.read(65536))
                continue
            return event


def _recipients(message: Any) -> tuple[str, ...]:
    fields = [str(value) for name in ("To", "Cc", "Bcc") for value in message.get_all(name, [])]
    return tuple(sorted({address for _, address in getaddresses(fields) if "@" in address}))


def _graph_error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "innerError": {"request-id": "5f6c-test"}}}


def _gmail_error(number: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "error": {
            "code": number,
            "message": message,
            "errors": [{"message": message, "domain": "global", "reason": reason}],
        }
    }
