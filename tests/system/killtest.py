"""Kills the daemon again and again under load, then holds every promise against a ledger.

    python -m tests.system.killtest --kills 20 --messages 2000 [--database postgresql]

A fifth of the kills falls into start-up; the sink drops its connections now and then, so that replies get lost as well.
Exit status 0: nothing acknowledged is missing, nothing un-ended arrived, nothing is corrupt, every duplicate was named.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from tests.peers.certificates import write_certificates
from tests.peers.sink import Sink, SinkAccount, Taken
from tests.postgresql import another_server

SENDERS = 4
CONNECTIONS = 4  # upstream, for each account
_QUEUED = re.compile(rb"queued as ([0-9a-z]{13})")
_TRACE_ID = re.compile(rb" id ([0-9a-z]{13})\b")
_CONTENTS: dict[bool, tuple[LiteralString, ...]] = {  # where the store has them; with PostgreSQL in rows as well
    False: ("SELECT count(*) FROM contents",),
    True: ("SELECT count(*) FROM contents", "SELECT count(*) FROM chunks"),
}
_READY_S = 60.0  # that a start takes on a machine that is busy with other things, at most


@dataclass
class Ledger:
    """What the clients know: by their own message id, the digest sent and the relay's id when it was acknowledged."""

    sent: dict[str, str] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)
    unended: set[str] = field(default_factory=set)
    refused: list[str] = field(default_factory=list)  # 5xx answers: there may be none


class CountingSink(Sink):
    """Keeps of each mail only its id, the relay's id for it, and a digest of the part that must arrive unchanged."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, keep=True, record=False, **options)  # type: ignore[arg-type]
        self.arrivals: list[tuple[str, str, str]] = []
        self.ids: set[str] = set()

    def take(self, message: Taken) -> None:
        content = message.content or b""
        trace = _TRACE_ID.search(content)
        body = content.partition(b"\r\n\r\n")[2]
        self.arrivals.append((message.id, trace[1].decode() if trace else "?", hashlib.sha256(body).hexdigest()))
        self.ids.add(message.id)


class Client:
    """One application: sends, believes only a 250, never sends the same message twice."""

    senders = SENDERS

    def __init__(self, name: int, port: int, ledger: Ledger, chance: random.Random) -> None:
        self.name, self.port, self.ledger, self.chance = name, port, ledger, chance
        self.made = 0
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def send_one(self) -> bool:
        """One message; True when it was acknowledged."""
        self.made += 1
        mine = f"c{self.name}-{self.made}"
        size = 120_000 if self.chance.random() < 0.03 else self.chance.randrange(200, 5000)
        body = base64.encodebytes(os.urandom(size * 3 // 4)).replace(b"\n", b"\r\n")
        sender = f"app{self.name % self.senders}@example.com"
        head = f"From: <{sender}>\r\nSubject: kill test\r\nX-Bench-Id: {mine}\r\n\r\n".encode()
        try:
            async with asyncio.timeout(30):
                await self._envelope(sender)
                content = head + body
                if self.chance.random() < 0.02:
                    self.ledger.unended.add(mine)
                    self._write(content[: len(content) // 2])
                    self.close()
                    return False
                self.ledger.sent[mine] = hashlib.sha256(body).hexdigest()
                self._write(content + b".\r\n")
                reply = await self._reply()
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            self.close()
            return False
        if reply[:1] == b"5":
            self.ledger.refused.append(reply.decode("ascii", "replace"))
        match = _QUEUED.search(reply)
        if reply[:3] != b"250" or match is None:
            return False
        self.ledger.acknowledged[mine] = match[1].decode()
        return True

    async def _envelope(self, sender: str) -> None:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            await self._reply()
            self._write(b"EHLO killtest.example\r\n")
            await self._reply()
        for command in (f"MAIL FROM:<{sender}>", "RCPT TO:<ann@example.org>", "DATA"):
            self._write(command.encode() + b"\r\n")
            reply = await self._reply()
            if reply[:1] not in b"23":
                self.close()
                raise ConnectionResetError(reply)

    def _write(self, octets: bytes) -> None:
        assert self.writer is not None
        self.writer.write(octets)

    async def _reply(self) -> bytes:
        assert self.reader is not None
        while True:
            line = await self.reader.readuntil(b"\r\n")
            if line[3:4] != b"-":
                return line

    def close(self) -> None:
        """Drop the connection without a word."""
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None


class Daemon:
    """The relay as a process; its log goes to one file over all of its lives."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.log = folder / "log.jsonl"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("RELAY_", "SMTP_AUTH_"))
        } | {
            "RELAY_DATA_DIR": str(folder / "data"),
            "RELAY_LISTENER__PORT": str(port),
            "RELAY_LOG__FORMAT": "json",
            "RELAY_QUEUE__MIN_FREE_BYTES": "0",
            "RELAY_DISPATCH__FIRST_RETRY_S": "0.2",
            "RELAY_DISPATCH__MAX_RETRY_S": "1",
        }

    def start(self) -> None:
        """Start it; does not wait."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "relay", "serve"], stdout=log, stderr=log, env=self.environment
            )

    async def ready(self) -> float:
        """Wait until it listens; seconds that took."""
        started = time.monotonic()
        while time.monotonic() - started < _READY_S:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended with {self.process.returncode}, see {self.log}")
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return time.monotonic() - started
            except OSError:
                await asyncio.sleep(0.01)
        raise RuntimeError("the daemon does not listen")

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self.process.wait, 45)

    def command(self, *arguments: str, stdin: str = "") -> None:
        """Run one command of the relay's."""
        subprocess.run(
            [sys.executable, "-m", "relay", *arguments],
            input=stdin.encode(),
            env=self.environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )


async def _clients(clients: list[Client], ledger: Ledger, allowed: list[int]) -> None:
    async def work(client: Client) -> None:
        while True:
            if len(ledger.acknowledged) >= allowed[0] or not await client.send_one():
                await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(work(client))


async def run(kills: int, messages: int, seed: int, folder: Path, url: str = "") -> dict[str, object]:
    """The whole proof; the figures. `url`: of a PostgreSQL database that has the schema; else the store is a file."""
    chance = random.Random(seed)
    certificates = write_certificates(folder)
    accounts = {f"app{n}@example.com": SinkAccount(f"secret-{n}", [f"app{n}@example.com"]) for n in range(SENDERS)}
    ledger = Ledger()
    async with CountingSink(accounts, chain=certificates.chain, key=certificates.key) as sink:
        daemon = Daemon(folder, _free_port())
        if url:
            daemon.environment["RELAY_DATABASE__URL"] = url
        for login, account in accounts.items():
            daemon.command(
                *("account", "add", login, "--host", "localhost", "--port", str(sink.port)),
                *("--trust", str(certificates.ca), "--max-connections", str(CONNECTIONS)),
                *("--per-minute", "0", "--per-day", "0", "--password-file", "-"),
                stdin=account.password,
            )
        allowed = [0]
        clients = [Client(n, daemon.port, ledger, random.Random(seed * 100 + n)) for n in range(8)]
        load = asyncio.create_task(_clients(clients, ledger, allowed))
        startups: list[float] = []
        for number in range(kills):
            daemon.start()
            if chance.random() < 0.2:
                await asyncio.sleep(chance.uniform(0, 0.8))
            else:
                startups.append(await daemon.ready())
                allowed[0] = messages * (number + 1) // kills
                await asyncio.sleep(chance.uniform(0.02, 0.8))
                if chance.random() < 0.2:
                    sink.cut_all()
            daemon.kill()
        allowed[0] = messages
        daemon.start()
        startups.append(await daemon.ready())
        deadline = time.monotonic() + 120 + messages / 500
        while len(ledger.acknowledged) < messages and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        load.cancel()
        await asyncio.wait([load])
        for client in clients:
            client.close()
        while not ledger.acknowledged.keys() <= sink.ids and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await _quiet(daemon, url, deadline)
        status = await daemon.stop()
        return _judge(ledger, sink, daemon, kills=kills, status=status, startups=startups, url=url)


async def _quiet(daemon: Daemon, url: str, deadline: float) -> None:
    """Until nothing is owed: what was committed but never acknowledged is delivered too."""
    while time.monotonic() < deadline:
        if not _asked(daemon, url, "SELECT 1 FROM deliveries WHERE settled_at IS NULL LIMIT 1"):
            return
        await asyncio.sleep(0.1)


def _asked(daemon: Daemon, url: str, query: LiteralString) -> list[tuple[Any, ...]]:
    """What the store says."""
    if url:
        with psycopg.connect(url) as connection:
            return connection.execute(query).fetchall()
    with contextlib.closing(sqlite3.connect(f"file:{daemon.folder / 'data' / 'relay.db'}?mode=ro", uri=True)) as store:
        return store.execute(query).fetchall()


def _judge(
    ledger: Ledger,
    sink: CountingSink,
    daemon: Daemon,
    *,
    kills: int,
    status: int,
    startups: list[float],
    url: str,
) -> dict[str, object]:
    arrivals = Counter(relay_id for _, relay_id, _ in sink.arrivals)
    doubled = {relay_id for relay_id, times in arrivals.items() if times > 1}
    named: set[str] = set()
    faults = 0
    for line in daemon.log.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # a line that a kill cut short
            continue
        if event.get("possible_duplicate"):
            named.add(event.get("message_id", ""))
        faults += event.get("event") == "daemon.fault"
    lost = [mine for mine in ledger.acknowledged if mine not in sink.ids]
    corrupt = [mine for mine, _, digest in sink.arrivals if ledger.sent.get(mine) != digest]
    states = dict(_asked(daemon, url, "SELECT state, count(*) FROM deliveries GROUP BY state"))
    kept = sum(row[0] for table in _CONTENTS[bool(url)] for row in _asked(daemon, url, table))
    return {
        "kills": kills,
        "acknowledged": len(ledger.acknowledged),
        "delivered": len(sink.arrivals),
        "lost": len(lost),
        "phantom": len(ledger.unended & sink.ids),
        "corrupt": len(corrupt),
        "refused": len(ledger.refused),
        "doubled": len(doubled),
        "doubled_unnamed": len(doubled - named),
        "doubled_at_most": (kills + 1) * CONNECTIONS * SENDERS,
        "named_in_doubt": len(named),
        "states": states,
        "contents_left": kept,
        "faults": faults,
        "exit": status,
        "listening_s_worst": round(max(startups), 2),
    }


def verdict(figures: dict[str, object]) -> list[str]:
    """What is wrong, in words; empty when every promise held."""
    wrong = [
        f"{name}: {figures[name]}"
        for name in ("lost", "phantom", "corrupt", "refused", "doubled_unnamed", "contents_left", "faults", "exit")
        if figures[name]
    ]
    states = figures["states"]
    assert isinstance(states, dict)
    if set(states) - {"relayed"}:
        wrong.append(f"states: {states}")
    if int(str(figures["doubled"])) > int(str(figures["doubled_at_most"])):
        wrong.append("more duplicates than connections whose replies could be lost")
    return wrong


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def report(figures: Mapping[str, object], wrong: Sequence[str]) -> int:
    """Print the figures as JSON, then what is wrong; the exit status."""
    print(json.dumps(figures, indent=2))
    for each in wrong:
        print(f"WRONG: {each}")
    return 1 if wrong else 0


def main() -> int:
    """Run, print the figures as JSON, then what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.killtest")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite", help="the store")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--keep", type=Path, help="folder for data and log; a temporary one by default")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = arguments.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        url = stack.enter_context(another_server()).fresh() if arguments.database == "postgresql" else ""
        figures = asyncio.run(run(arguments.kills, arguments.messages, arguments.seed, folder, url))
    return report(figures, verdict(figures))


if __name__ == "__main__":
    sys.exit(main())
