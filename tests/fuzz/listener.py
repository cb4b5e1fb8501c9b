"""Fuzzes a real listener over loopback, by state and octets: every client entry, valid dialogues and broken ones.

    python -m tests.fuzz.listener --seconds 3600 --seed 1

What must hold, whatever is said: no exception that nobody handles, no session that outlives its client by 5 s, no reply
without its code, every message that was answered 250 is stored once and sound, none is stored that was not answered,
and a good client is served afterwards.  A finding is printed with what was said, and ends the run with status 1.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import re
import socket
import ssl
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from random import Random
from typing import Any

import trustme
import uvloop
from sqlalchemy import Connection, select

from relay.accounts.passwords import hash_password
from relay.database.schema import messages
from relay.mail.address import Malformed, parse_rcpt
from relay.mail.ids import parse_id
from relay.mail.tolerance import SWITCHES
from relay.queue.model import Message
from relay.telemetry import get_logger
from tests.fuzz.front import add_client, add_sender
from tests.fuzz.grammar import ODDITIES, cut, dialogue, mutated, proxy_header
from tests.wire.door import HOST, OpenDoor, open_door

SESSIONS = 500  # of a round: a listener and a store of its own
AT_ONCE = 6
HANG_S = 5.0
DESCRIBED = 40  # segments of a finding that are shown

# One entry for each network 127.N.0.0/16; each session comes from an address of its own, which the trace field names.
ENTRIES: list[dict[str, Any]] = [
    {},
    {"tolerate": tuple(SWITCHES), "default_domain": "corp.example"},
    {"tolerate": tuple(f"no-{name}" for name, switch in SWITCHES.items() if switch.default)},
    {"tolerate": ("long-lines",)},
    {"tolerate": ("raw-8bit", "doubled-fields"), "charset": "iso-8859-1"},
    {"tolerate": ("broken-fields", "odd-dots", "no-brackets")},
    {"senders": ("app@example.com",)},
    {"identity": "header", "tolerate": ("broken-fields",)},
    {"identity": "map", "sender_map": (("*", "app@example.com"),)},
    {"auth": "accept-any"},
    {"auth": "accept-any", "tolerate": tuple(SWITCHES), "default_domain": "corp.example", "identity": "header"},
    {"capture": "trap@example.org"},
    {"messages_per_minute": 3, "recipients_per_minute": 10, "bytes_per_day": 100_000},
    {"recipients": ("@example.org",), "denied": ("r1@example.org",)},
    {"auth": "login", "login": "user", "password_hash": hash_password("pass")},
]
BALANCER = "127.100.0.1"  # sessions from there begin with a PROXY header

_REPLY = re.compile(rb"[2-5]\d\d[ -][^\r\n]*")
_QUEUED = re.compile(rb"^250 2\.0\.0 Ok: queued as (\w{13})$", re.M)
_TRACE = re.compile(rb"Received: from \S+ \(\[([0-9.]+)\]\)\r\n")
_UNSOUND = re.compile(rb"\r(?!\n)|(?<!\r)\n|(?:\A|\r\n)\.(?!\.)")


class Finding(Exception):
    """Something that must hold did not."""


@dataclass
class Figures:
    """Of a run."""

    seconds: float = 0.0
    sessions: int = 0
    octets: int = 0
    replies: int = 0
    accepted: int = 0
    rounds: int = 0
    codes: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        codes = " ".join(f"{code}:{count}" for code, count in sorted(self.codes.items()))
        return (
            f"{self.sessions} sessions in {self.seconds:.0f} s ({self.rounds} rounds), {self.octets} octets said, "
            f"{self.replies} replies, {self.accepted} messages accepted; {codes}"
        )


class _Client(asyncio.Protocol):
    """Says what it is told and keeps what it hears."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.cut = False  # by a reset, which takes unread replies along
        self.ended = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.heard += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.cut = exc is not None
        if not self.ended.done():
            self.ended.set_result(None)


class _Round:
    """One listener over one store, many sessions."""

    def __init__(self, door: OpenDoor, chance: Random, figures: Figures, *, rude: bool) -> None:
        self._door = door
        self._chance = chance
        self._figures = figures
        self._rude = rude  # some clients vanish without waiting for their replies
        self._stored: dict[int, str] = {}  # by id, the address it came from
        self._answered: set[int] = set()
        self._deaf: set[str] = set()  # addresses whose replies were lost with their connection
        self._count = 0
        self.troubles: list[str] = []
        door.store.queue.on_fresh = self._took

    async def run(self, sessions: int, until: float) -> None:
        """Raises Finding."""
        left = iter(range(sessions))

        async def worker() -> None:
            for _ in left:
                if time.monotonic() >= until:
                    return
                await self._session()

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(worker())
        async with asyncio.timeout(HANG_S):
            while self._door.listener.connections:
                await asyncio.sleep(0.01)
        await self._compare()

    async def _session(self) -> None:
        chance, loop = self._chance, asyncio.get_running_loop()
        said = self._plan()
        self._count += 1
        entry = chance.randrange(len(ENTRIES))
        source = f"127.{entry + 1}.{self._count >> 8}.{self._count & 255}"
        balanced = chance.random() < 0.1
        if balanced:
            header = proxy_header(chance, source)
            said = [header, *said] if chance.random() < 0.5 else [mutated(chance, header), b"NOOP\r\n"]
        _, client = await loop.create_connection(
            _Client, "127.0.0.1", self._door.listener.port, local_addr=(BALANCER if balanced else source, 0)
        )
        ending = chance.choice(("reset", "close", "eof", "eof")) if self._rude else "eof"
        try:
            if not balanced and chance.random() < 0.9:
                await self._hear(client)
            for segment in said:
                if client.transport.is_closing():
                    break
                client.transport.write(segment)
                for _ in range(chance.choice((0, 1, 3))):
                    await asyncio.sleep(0)
            await self._end(client, ending)
            if client.cut or ending != "eof":
                self._deaf.add(source)
            self._judge(bytes(client.heard), whole=source not in self._deaf)
        except Finding as finding:
            raise Finding(f"{finding}\nfrom a client with {ENTRIES[entry]}:\n  {_shown(said)}") from None
        finally:
            client.transport.abort()
        self._figures.sessions += 1
        self._figures.octets += sum(map(len, said))

    def _plan(self) -> list[bytes]:
        """What will be said, in segments."""
        chance = self._chance
        said = dialogue(chance)
        style = chance.random()
        if style < 0.6:  # valid up to a state, broken there, and on as if nothing had been
            at = chance.randrange(len(said))
            said[at] = mutated(chance, said[at])
        elif style < 0.75:
            said = [mutated(chance, part) if chance.random() < 0.4 else part for part in said]
        elif style < 0.85:  # in another order
            chance.shuffle(said)
            said.insert(chance.randrange(len(said)), chance.choice(ODDITIES))
        if chance.random() < 0.3:
            said = [b"".join(said)]
        if chance.random() < 0.5:
            said = [piece for part in said for piece in cut(chance, part)]
        return said

    async def _hear(self, client: _Client) -> None:
        async with asyncio.timeout(HANG_S):
            while b"\r\n" not in client.heard and not client.ended.done():
                await asyncio.sleep(0)

    async def _end(self, client: _Client, ending: str) -> None:
        transport = client.transport
        with suppress(OSError):  # the other side may have been quicker
            if ending == "reset":
                hard = struct.pack("ii", 1, 0)  # closing with linger 0 is a RST
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, hard)
                transport.abort()
            elif ending == "close":
                transport.close()
            elif not transport.is_closing():
                transport.write_eof()
        try:
            async with asyncio.timeout(HANG_S):
                await client.ended
        except TimeoutError:
            raise Finding(f"hangs; heard {bytes(client.heard[-300:])!r}") from None

    def _judge(self, heard: bytes, *, whole: bool) -> None:
        """Every line is a reply; which messages were accepted."""
        plain = heard.partition(b"220 2.0.0 Ready to start TLS\r\n")[0]  # what follows is TLS
        lines = plain.split(b"\r\n")
        if lines[-1] and whole:
            raise Finding(f"a reply without its end: {lines[-1]!r}")
        for line in lines[:-1]:
            if not _REPLY.fullmatch(line):
                raise Finding(f"no reply: {line!r}")
            code = line[:3].decode()
            self._figures.codes[code] = self._figures.codes.get(code, 0) + 1
        self._figures.replies += len(lines) - 1
        for shown in _QUEUED.findall(plain.replace(b"\r\n", b"\n")):
            number = parse_id(shown.decode())
            if number is None or number in self._answered:
                raise Finding(f"answered twice, or no id: {shown!r}")
            self._answered.add(number)

    def _took(self, message: Message) -> None:
        """Called by the queue with each message it made durable."""
        try:
            self._inspect(message)
        except Finding as finding:
            self.troubles.append(f"{finding}: {message}")

    def _inspect(self, message: Message) -> None:
        if message.id in self._stored:
            raise Finding("stored twice")
        self._stored[message.id] = ""
        if self._door.directory.route(message.reverse_path) is None:
            raise Finding("a sender nobody registered")
        for delivery in message.deliveries:
            try:
                strict = parse_rcpt(f"TO:<{delivery.recipient}>".encode(), smtputf8=True, tolerance=frozenset())
            except Malformed as malformed:
                raise Finding(f"a recipient outside the grammar: {malformed}") from None
            if strict.address != delivery.recipient:
                raise Finding("a recipient that reads in two ways")
        content = message.content
        wire = content.inline if content.inline is not None else self._door.store.queue.source(content).read_bytes()
        if _UNSOUND.search(wire) or not wire.endswith(b"\r\n"):
            raise Finding(f"not in wire form: {_UNSOUND.search(wire)}")
        trace = _TRACE.match(wire)
        if trace is None:
            raise Finding("no trace field")
        self._stored[message.id] = trace[1].decode()

    async def _compare(self) -> None:
        """What was answered with what is in the store."""

        def read(connection: Connection) -> list[int]:
            return list(connection.execute(select(messages.c.id)).scalars())

        rows = await self._door.store.database.read(read)
        if sorted(rows) != sorted(self._stored):
            raise Finding(f"{len(rows)} rows, {len(self._stored)} messages handed over")
        if lost := self._answered - self._stored.keys():
            raise Finding(f"answered 250, and not there: {lost}")
        for number in self._stored.keys() - self._answered:
            if self._stored[number] not in self._deaf:
                raise Finding(f"there, and not answered: {number} of {self._stored[number]}")
        self._figures.accepted += len(rows)


@contextmanager
def troubles_noted(notes: list[str]) -> Iterator[None]:
    """Faults of the daemon and what the loop has to complain about go to `notes`; nothing is printed."""
    logger = get_logger()
    kept = {name: getattr(logger, name) for name in ("warning", "error", "exception")}
    previous = asyncio.get_running_loop().get_exception_handler()

    def fault(event: str, /, **keys: object) -> None:
        notes.append(f"{event} {keys}: {sys.exc_info()[1]!r}")

    logger.warning = lambda event, /, **keys: None
    logger.error = logger.exception = fault
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: notes.append(f"loop: {context}"))
    try:
        yield
    finally:
        gc.collect()  # a task whose exception nobody looked at says so when it goes
        asyncio.get_running_loop().set_exception_handler(previous)
        for name, method in kept.items():
            setattr(logger, name, method)


async def _round(chance: Random, figures: Figures, until: float) -> None:
    settings: dict[str, Any] = {"max_message_bytes": chance.choice((5_000, 100_000, 1 << 20)), "max_recipients": 4}
    settings["proxy_networks"] = (ip_network(f"{BALANCER}/32"),)
    settings["max_connections_per_client"] = 2 * AT_ONCE
    if chance.random() < 0.5:
        settings["tls_context"] = _tls()
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder, troubles_noted(notes):
        async with open_door(Path(folder), **settings) as door:
            await add_sender(door, "two@example.com", "rewrite")
            await add_sender(door, "three@example.com", "refuse")
            await add_client(door, "good", networks=["127.0.0.0/16"])
            for number, entry in enumerate(ENTRIES, 1):
                await add_client(door, f"client{number}", networks=[f"127.{number}.0.0/16"], **entry)
            one = _Round(door, chance, figures, rude=figures.rounds % 4 == 3)
            await one.run(SESSIONS, until)
            notes += one.troubles
            async with asyncio.timeout(HANG_S):
                await door.is_served()
    figures.rounds += 1
    if notes:
        raise Finding("\n".join(notes[:5]))


def _tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert(HOST).configure_cert(context)
    return context


def _shown(said: list[bytes]) -> str:
    return "\n  ".join(
        repr(part) if len(part) < 400 else f"{part[:200]!r}...({len(part)})" for part in said[:DESCRIBED]
    )


def fuzz(seconds: float, seed: int) -> Figures:
    """Rounds, on uvloop and on asyncio's loop in turn, until the time is over. Raises Finding, with what was said."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each write to a connection that was reset
    figures, started = Figures(), time.monotonic()
    until = started + seconds
    while time.monotonic() < until:
        # A round is made of its own seed, so that one alone can be repeated.
        chance = Random(f"{seed}/{figures.rounds}")
        factory = uvloop.new_event_loop if figures.rounds % 2 == 0 else asyncio.new_event_loop
        try:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(_round(chance, figures, until))
        except* Finding as group:
            first: BaseException = group
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            raise Finding(f"seed {seed}, round {figures.rounds}: {first}") from None
        figures.seconds = time.monotonic() - started
    return figures


def main() -> int:
    """Exit status 1 when something was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    try:
        print(fuzz(arguments.seconds, arguments.seed))
    except Finding as finding:
        print(f"FOUND {finding}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
