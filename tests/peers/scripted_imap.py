"""A scripted IMAP server over loopback: it logs in one user, and says to each command what a test wants.

async with running_imap(certificates, tls="implicit") as imap:
    imap.port, imap.commands          # what came, without tags: b"EXAMINE \"INBOX\""
    imap.says["LIST"] = b'* LIST () "/" INBOX\r\n{tag} OK done\r\n'
    imap.says["LOGIN"] = None         # stall there
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.peers.certificates import Certificates

FOLDERS = (
    b'* LIST (\\HasNoChildren) "/" INBOX\r\n'
    b'* LIST (\\HasNoChildren \\Sent) "/" "Gesendete Objekte &- mehr"\r\n'
    b'* LIST (\\Noselect) "/" {7}\r\nlit "al\r\n'
    b"{tag} OK done\r\n"
)
# Answers a command by itself: the command, its tag, the connection.
Act = Callable[[bytes, bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_LITERAL = re.compile(rb"\{(\d+)\}$")


class ScriptedImap:
    """`takes(login, secret)` decides on a login. `greeting` and `says` may be changed at any time."""

    def __init__(self, tls: str, context: ssl.SSLContext, capabilities: str) -> None:
        self.tls, self.capabilities, self._context = tls, capabilities, context
        self.port = 0
        self.greeting: bytes | None = b"* OK ready\r\n"
        self.commands: list[bytes] = []
        self.logins: list[tuple[str, str, str]] = []
        self.connections = 0
        self.encrypted: list[bool] = []  # at each login
        self.says: dict[str, bytes | None] = {
            "EXAMINE": b"* 3 EXISTS\r\n{tag} OK [READ-ONLY] done\r\n",
            "LIST": FOLDERS,
            "LOGOUT": b"* BYE so long\r\n{tag} OK done\r\n",
        }
        self.acts: dict[str, Act] = {}  # before `says`
        self.takes: Callable[[str, str], bool] = lambda login, secret: True
        self.refusal = b"NO [AUTHENTICATIONFAILED] wrong"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            if self.greeting is None:
                await reader.read()
                return
            writer.write(self.greeting)
            while True:
                line = (await reader.readuntil(b"\r\n"))[:-2]
                tag, _, command = line.partition(b" ")
                self.commands.append(command)
                name = command.split(b" ")[0].decode().upper()
                if name in self.acts:
                    await self.acts[name](command, tag, reader, writer)
                elif name in self.says:
                    answer = self.says[name]
                    if answer is None:
                        await reader.read()
                        return
                    writer.write(answer.replace(b"{tag}", tag))
                    if name == "STARTTLS" and answer.startswith(b"{tag} OK"):
                        await writer.drain()
                        await writer.start_tls(self._context)
                elif name == "CAPABILITY":
                    writer.write(b"* CAPABILITY IMAP4rev1 %s\r\n%s OK done\r\n" % (self.capabilities.encode(), tag))
                elif name == "AUTHENTICATE":
                    await self._authenticate(reader, writer, tag, command.split(b" ")[1:])
                elif name == "LOGIN":
                    await self._login(reader, writer, tag, command[6:])
                else:
                    writer.write(tag + b" BAD what?\r\n")
                await writer.drain()
        writer.close()

    async def _authenticate(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tag: bytes, words: list[bytes]
    ) -> None:
        async def ask(challenge: bytes) -> bytes:
            writer.write(b"+ " + base64.b64encode(challenge) + b"\r\n")
            return base64.b64decode(await reader.readuntil(b"\r\n"))

        mechanism = words[0].decode()
        if mechanism == "LOGIN":
            login, secret = (await ask(b"User Name"), await ask(b"Password"))
        else:
            initial = base64.b64decode(words[1]) if len(words) > 1 else await ask(b"")
            if mechanism == "PLAIN":
                _, login, secret = initial.split(b"\0")
            else:
                found = re.search(rb"(?:user=|n,a=)([^\x01,]*).*auth=Bearer ([^\x01]*)", initial, re.DOTALL)
                assert found is not None
                login, secret = found.groups()
        good = self._decide(mechanism, login, secret, writer)
        if not good and mechanism in ("XOAUTH2", "OAUTHBEARER"):
            assert await ask(b'{"status":"invalid_token"}') == (b"" if mechanism == "XOAUTH2" else b"\x01")
        writer.write(tag + b" " + (b"OK in" if good else self.refusal) + b"\r\n")

    async def _login(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tag: bytes, arguments: bytes
    ) -> None:
        values: list[bytes] = []
        while literal := _LITERAL.search(arguments):
            writer.write(b"+ go on\r\n")
            values.append(await reader.readexactly(int(literal[1])))
            arguments = (await reader.readuntil(b"\r\n"))[:-2]
        if not values:
            found = re.findall(rb'"((?:[^"\\]|\\.)*)"', arguments)
            values = [re.sub(rb"\\(.)", rb"\1", value) for value in found]
        good = self._decide("LOGIN command", *values, writer)
        writer.write(tag + b" " + (b"OK in" if good else self.refusal) + b"\r\n")

    def _decide(self, how: str, login: bytes, secret: bytes, writer: asyncio.StreamWriter) -> bool:
        self.logins.append((how, login.decode(), secret.decode()))
        self.encrypted.append(writer.get_extra_info("ssl_object") is not None)
        return self.takes(login.decode(), secret.decode())


@asynccontextmanager
async def running_imap(
    certificates: Certificates, *, tls: str = "implicit", capabilities: str = "AUTH=PLAIN SASL-IR"
) -> AsyncIterator[ScriptedImap]:
    """Serve on a free port until the end. `tls`: implicit, starttls (offered in `capabilities`) or none."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.chain, certificates.key)
    imap = ScriptedImap(tls, context, capabilities)
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        task.add_done_callback(served.discard)
        await imap.serve(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context if tls == "implicit" else None)
    imap.port = server.sockets[0].getsockname()[1]
    if tls == "starttls":
        imap.says["STARTTLS"] = b"{tag} OK begin\r\n"
    try:
        yield imap
    finally:
        server.close()
        for task in tuple(served):
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)
