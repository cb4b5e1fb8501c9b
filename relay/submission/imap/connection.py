"""Commands of an IMAP connection, one at a time: tagged, answered, or raised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from relay.mail.errors import RelayError
from relay.submission.imap.responses import (
    Folder,
    Opened,
    Status,
    capabilities_of,
    folders_of,
    opened_of,
    status_of,
)
from relay.submission.imap.wire import MAX_LITERAL, ImapFault, ImapWire, Response

MOST_RESPONSES = 20_000  # untagged, to one command
LOGOUT_S = 2.0
_MOST_QUESTIONS = 10  # of the server's to one command; what we say to a server that never ends asking piles up here
_MOST_OCTETS = 16 << 20  # of all of them
_QUOTABLE = frozenset(range(32, 127))

# What to say to the server's "+ …"; None: nothing is expected.
Continue = Callable[[bytes], bytes]


class CommandRefused(RelayError):
    """The server answered NO or BAD, or BYE instead of an answer. `command` is its name alone."""

    def __init__(self, command: str, status: Status) -> None:
        super().__init__(command, status)
        self.command, self.status = command, status


@dataclass(frozen=True, slots=True)
class Answer:
    """An OK, and what came before it."""

    status: Status
    responses: list[Response]


class ImapConnection:
    """After `opening.open_mailbox`: logged in. Every method raises CommandRefused and ImapFault; then drop it."""

    def __init__(self, wire: ImapWire, *, command_s: float) -> None:
        self.wire, self.command_s = wire, command_s
        self.capabilities: frozenset[str] = frozenset()
        self._number = 0

    async def command(
        self,
        name: str,
        *arguments: bytes,
        on_continue: Continue | None = None,
        content: AsyncIterator[bytes] | None = None,
        most_literal: int = MAX_LITERAL,
        timeout_s: float | None = None,
    ) -> Answer:
        """Send one command, wait for its end: `timeout_s` in all. `arguments` are in wire form, see `quoted`.

        `content`: the literal that the last argument announces, as long as that says; it goes out when the server is
        ready for it.  What it raises comes through, and the connection is of no use then.
        """
        self._number += 1
        tag = b"a%d" % self._number
        until = asyncio.get_running_loop().time() + (timeout_s or self.command_s)
        self.wire.put(b" ".join((tag, name.encode("ascii"), *arguments)) + b"\r\n")
        responses: list[Response] = []
        octets = questions = 0
        bye: Status | None = None
        while True:
            try:
                response = await self.wire.response(until, most_literal=most_literal)
            except ImapFault as fault:
                if bye is not None and fault.reason == "connection-lost":  # it said why it went
                    raise CommandRefused(name, bye) from fault
                raise
            line = response.text
            if line.startswith(b"+"):
                questions += 1
                if content is not None:
                    await self._put_all(content, until)
                    content = None
                    continue
                if on_continue is None or questions > _MOST_QUESTIONS:
                    raise ImapFault("protocol-error", f"a continuation that {name} does not have")
                self.wire.put(on_continue(line[1:].strip()) + b"\r\n")
                continue
            if line.startswith(tag + b" "):
                return self._ended(name, status_of(line[len(tag) + 1 :]), responses)
            if not line.startswith(b"* "):
                raise ImapFault("protocol-error", f"not a response to {name}: {line[:80]!a}")
            status = status_of(line[2:])
            if status is not None and status.kind == "BYE":
                bye = status
            responses.append(response)
            octets += sum(map(len, response.parts))
            if len(responses) > MOST_RESPONSES or octets > _MOST_OCTETS:
                raise ImapFault("protocol-error", f"{name} was answered without end")

    async def _put_all(self, content: AsyncIterator[bytes], until: float) -> None:
        async for piece in content:
            await self.wire.drained(until)
            self.wire.put(piece)
        self.wire.put(b"\r\n")

    def _ended(self, name: str, status: Status | None, responses: list[Response]) -> Answer:
        if status is None or status.kind not in ("OK", "NO", "BAD"):
            raise ImapFault("protocol-error", f"the end of {name} has no status")
        if status.kind != "OK":
            raise CommandRefused(name, status)
        return Answer(status, responses)

    async def ask_capabilities(self) -> frozenset[str]:
        """What the server offers now: it differs before and after TLS and login (RFC 9051 6.1.1)."""
        self.capabilities = capabilities_of((await self.command("CAPABILITY")).responses)
        return self.capabilities

    async def folders(self) -> list[Folder]:
        """Every folder, with its special use where the server tells (RFC 6154)."""
        marked = {"SPECIAL-USE", "LIST-EXTENDED"} <= self.capabilities
        extra = (b"RETURN (SPECIAL-USE)",) if marked else ()
        return folders_of((await self.command("LIST", b'""', b'"*"', *extra)).responses)

    async def examine(self, name: bytes) -> Opened:
        """Open a folder without changing anything in it."""
        return opened_of((await self.command("EXAMINE", quoted(name))).responses)

    async def logout(self) -> None:
        """Say goodbye, wait shortly, close."""
        try:
            await self.command("LOGOUT", timeout_s=LOGOUT_S)
        except (CommandRefused, ImapFault):
            pass
        finally:
            self.wire.abort()


def quoted(text: bytes) -> bytes:
    """A quoted string (RFC 9051 4.3). Raises ValueError for octets that only a literal can carry."""
    if not _QUOTABLE.issuperset(text):
        raise ValueError("not quotable")
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
