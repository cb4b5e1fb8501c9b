"""Several daemons on one PostgreSQL, killed, stopped and paused under load; then a ledger holds every promise.

    python -m tests.system.clustertest --nodes 3 --kills 20 --messages 2000

Each blow falls on one node, chosen at random: kill -9, SIGTERM and a new start (a fail-over), or SIGSTOP for longer
than its lease.  With `--restarts` PostgreSQL and all of its processes are killed, too.  Applications go to another node
when theirs does not answer.  With `--apart SECONDS` the clocks of the nodes differ by so much (libfaketime).
Exit status 0: nothing acknowledged is missing, every duplicate has its mark of a dot, no account had more connections
than its cap over all living nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psycopg

from tests.peers.certificates import write_certificates
from tests.peers.sink import SinkAccount, Taken
from tests.postgresql import Server, another_server
from tests.system.killtest import Client, CountingSink, Daemon, Ledger, _clients, _free_port, report

ACCOUNTS = 6
CAP = 2  # connections of an account
LEASE_S = 1.5
_TOLD_S = 90  # that a pause takes to be noticed, on a machine that is busy with other things
_FAKETIME = (
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
)


class WatchedSink(CountingSink):
    """Counts at each mail how many connections an account has, and from how many nodes; those of `paused` not."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.paused: set[str] = set()
        self.most = self.most_nodes = 0
        self._awaited: dict[str, float] = {}  # since when (monotonic) the mail of an account has waited for a node
        self.waits: list[float] = []

    def await_next(self, logins: Iterable[str]) -> None:
        """The node that sent for these accounts was killed just now, and mail waits: time what follows."""
        now = time.monotonic()
        self._awaited |= dict.fromkeys(logins, now)

    def give_up(self) -> None:
        """PostgreSQL was ended meanwhile: that time would not be one of a fail-over."""
        self._awaited.clear()

    def take(self, message: Taken) -> None:
        super().take(message)
        if (since := self._awaited.pop(message.account, None)) is not None:
            self.waits.append(message.at - since)
        now: Counter[str] = Counter()
        nodes: dict[str, set[str]] = {}
        for session in self._sessions:
            transport = session._transport
            if not session.account or transport is None or transport.is_closing():
                continue
            address = transport.get_extra_info("peername")[0]
            if address not in self.paused:
                now[session.account] += 1
                nodes.setdefault(session.account, set()).add(address)
        self.most = max(self.most, *now.values(), 0)
        self.most_nodes = max(self.most_nodes, *(len(found) for found in nodes.values()), 0)


class Node(Daemon):
    """One daemon of the fleet. It goes upstream from an address of its own, by which the sink knows it."""

    def __init__(self, folder: Path, number: int, url: str, *, lease_s: float, apart_s: float) -> None:
        home = folder / f"node{number}"
        home.mkdir()
        super().__init__(home, _free_port())
        self.name, self.address = f"node{number}", f"127.0.0.{10 + number}"
        self.environment |= {
            "RELAY_DATABASE__URL": url,
            "RELAY_KEYS_DIR": str(folder / "keys"),
            "RELAY_NODE__NAME": self.name,
            "RELAY_NODE__LEASE_S": f"{lease_s:g}",
            "RELAY_EGRESS__SOURCE_ADDRESS": self.address,
            "RELAY_CONSOLE__ENABLED": "no",
            "RELAY_LISTENER__ALLOWED_NETWORKS": "127.0.0.0/8",
        }
        self._apart_s = apart_s

    def start(self) -> None:
        """Start it, with its clock so much apart; does not wait."""
        environment = dict(self.environment)
        library = faketime()
        if self._apart_s:
            if library is None:
                raise RuntimeError("libfaketime is not installed")
            environment |= {
                "LD_PRELOAD": library,
                "FAKETIME": f"{self._apart_s:+g}s",
                "DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "relay", "serve"], stdout=log, stderr=log, env=environment
            )

    @property
    def running(self) -> bool:
        """Was it started, and did not end?"""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """To its process."""
        assert self.process is not None
        self.process.send_signal(number)

    def events(self) -> list[dict[str, Any]]:
        """Its log, over all of its lives; without lines that a kill cut short."""
        found = []
        for line in self.log.read_bytes().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def faketime() -> str | None:
    """The library that sets clocks apart; None: it is not installed."""
    return next((path for path in _FAKETIME if Path(path).exists()), None)


class Fleet:
    """The nodes, and an application's way to one that answers."""

    def __init__(self, nodes: list[Node], sink: WatchedSink, chance: random.Random, url: str) -> None:
        self.nodes, self.sink, self.chance, self.url = nodes, sink, chance, url
        self.blows: Counter[str] = Counter()

    async def start(self) -> None:
        """All of them, until all listen."""
        for node in self.nodes:
            node.start()
        await asyncio.gather(*(node.ready() for node in self.nodes))

    async def blow(self, kind: str, lease_s: float) -> None:
        """One node suffers `kind`; it is there again at the end, and was away for long enough to be missed or not."""
        node = self.chance.choice(self.nodes)
        self.blows[kind] += 1
        match kind:
            case "kill":
                node.kill()
                self.sink.await_next(_waiting_for(self.url, node.name))
                await asyncio.sleep(self.chance.choice((0.0, lease_s * 1.5)))
                node.start()
                await node.ready()
            case "stop":
                await node.stop()
                node.start()
                await node.ready()
            case "pause":
                buried, lost = self._told("node.buried", node.name), self._told("node.lost")
                node.signal(signal.SIGSTOP)
                self.sink.paused.add(node.address)
                await asyncio.sleep(lease_s)
                await self._until(lambda: self._told("node.buried", node.name) > buried)
                node.signal(signal.SIGCONT)
                await self._until(lambda: self._told("node.lost") > lost)
                self.sink.paused.discard(node.address)
        await asyncio.sleep(self.chance.uniform(0.02, 0.5))

    def _told(self, event: str, name: str = "") -> int:
        """How often any node said so, of that node."""
        lines = (line for node in self.nodes for line in node.events() if line["event"] == event)
        return sum(not name or line.get("name") == name for line in lines)

    async def _until(self, told: Callable[[], bool]) -> None:
        async with asyncio.timeout(_TOLD_S):
            while not told():
                await asyncio.sleep(0.1)


class Application(Client):
    """Goes to the next node when its own does not take the mail: what a balancer would do."""

    def __init__(self, name: int, fleet: Fleet, ledger: Ledger, chance: random.Random, senders: int) -> None:
        super().__init__(name, fleet.nodes[name % len(fleet.nodes)].port, ledger, chance)
        self.fleet, self.senders = fleet, senders

    async def send_one(self) -> bool:
        """See `Client.send_one`."""
        done = await super().send_one()
        if (not done and self.writer is None) or self.chance.random() < 0.02:
            self.close()
            self.port = self.fleet.chance.choice(self.fleet.nodes).port
        return done


async def run(
    nodes: int,
    kills: int,
    messages: int,
    seed: int,
    folder: Path,
    server: Server,
    *,
    lease_s: float = LEASE_S,
    apart_s: float = 0.0,
    restarts: int = 0,
    accounts: int = ACCOUNTS,
    kinds: tuple[str, ...] = ("kill", "stop", "pause", "kill", "kill"),
    longest_s: float = float("inf"),
) -> dict[str, object]:
    """The whole proof; the figures. After `longest_s` no more blows fall; as many of the messages as go with them."""
    ends = time.monotonic() + longest_s
    chance = random.Random(seed)
    certificates = write_certificates(folder)
    logins = {f"app{n}@example.com": SinkAccount(f"secret-{n}", [f"app{n}@example.com"]) for n in range(accounts)}
    ledger, url = Ledger(), server.fresh()
    async with WatchedSink(logins, chain=certificates.chain, key=certificates.key) as sink:
        fleet = Fleet(
            [Node(folder, n, url, lease_s=lease_s, apart_s=apart_s * (n - nodes // 2)) for n in range(1, nodes + 1)],
            sink,
            chance,
            url,
        )
        _accounts(fleet.nodes[0], logins, certificates.ca, sink.port)
        await fleet.start()
        allowed = [0]
        clients: list[Client] = [
            Application(n, fleet, ledger, random.Random(seed * 100 + n), accounts) for n in range(max(8, nodes * 2))
        ]
        load = asyncio.create_task(_clients(clients, ledger, allowed))
        try:
            for number in range(kills):
                if time.monotonic() > ends:
                    messages = allowed[0]
                    break
                allowed[0] = messages * (number + 1) // (kills + 1)
                await fleet.blow(kinds[number % len(kinds)], lease_s)
                if restarts and number % max(1, kills // restarts) == 0:
                    fleet.blows["postgresql"] += 1
                    sink.give_up()
                    await asyncio.to_thread(server.kill)
                    await asyncio.sleep(chance.uniform(0, lease_s))
                    await asyncio.to_thread(server.start)
            allowed[0] = messages
            deadline = time.monotonic() + 120 + messages / 200
            while len(ledger.acknowledged) < messages and time.monotonic() < deadline:
                await asyncio.sleep(0.05)
        except BaseException:
            for node in fleet.nodes:
                if node.running:
                    node.kill()  # also one that stands still
            raise
        finally:
            load.cancel()
            await asyncio.wait([load])
        for client in clients:
            client.close()
        await _quiet(url, deadline)
        statuses = await asyncio.gather(*(node.stop() for node in fleet.nodes if node.running))
        return _judge(ledger, sink, fleet, url, statuses)


def _accounts(node: Node, logins: dict[str, SinkAccount], ca: Path, port: int) -> None:
    for login, account in logins.items():
        node.command(
            *("account", "add", login, "--host", "localhost", "--port", str(port), "--trust", str(ca)),
            *("--max-connections", str(CAP), "--per-minute", "0", "--per-day", "0", "--password-file", "-"),
            stdin=account.password,
        )


def _waiting_for(url: str, name: str) -> list[str]:
    """The accounts that the node of this name submits for, and that have mail waiting."""
    chosen = (
        "SELECT a.address FROM accounts a JOIN leases l ON l.name = 'account ' || a.id JOIN nodes n ON n.id = l.node "
        "WHERE n.name = %s AND EXISTS "
        "(SELECT 1 FROM deliveries d WHERE d.account_id = a.id AND d.settled_at IS NULL AND d.state <> 'held')"
    )
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(chosen, (name,))]


async def _quiet(url: str, deadline: float) -> None:
    """Until nothing is owed: what was committed but never acknowledged is delivered too."""
    while time.monotonic() < deadline:
        with psycopg.connect(url, autocommit=True) as connection:
            if connection.execute("SELECT 1 FROM deliveries WHERE settled_at IS NULL LIMIT 1").fetchone() is None:
                return
        await asyncio.sleep(0.1)


def _judge(ledger: Ledger, sink: WatchedSink, fleet: Fleet, url: str, statuses: list[int]) -> dict[str, object]:
    waits = sink.waits
    arrivals = Counter(relay_id for _, relay_id, _ in sink.arrivals)
    doubled = {relay_id for relay_id, times in arrivals.items() if times > 1}
    named: set[str] = set()
    told: Counter[str] = Counter()
    for node in fleet.nodes:
        for event in node.events():
            told[event["event"]] += 1
            if event.get("possible_duplicate"):
                named.add(event.get("message_id", ""))
    with psycopg.connect(url) as connection:
        states = dict(connection.execute("SELECT state, count(*) FROM deliveries GROUP BY state").fetchall())
        kept = _count(connection, "SELECT count(*) FROM contents") + _count(connection, "SELECT count(*) FROM chunks")
        left = _count(connection, "SELECT count(*) FROM nodes")
    return {
        "blows": dict(fleet.blows),
        "acknowledged": len(ledger.acknowledged),
        "delivered": len(sink.arrivals),
        "lost": len([mine for mine in ledger.acknowledged if mine not in sink.ids]),
        "phantom": len(ledger.unended & sink.ids),
        "corrupt": len([mine for mine, _, digest in sink.arrivals if ledger.sent.get(mine) != digest]),
        "refused": len(ledger.refused),
        "doubled": len(doubled),
        "doubled_unnamed": len(doubled - named),
        "named_in_doubt": len(named),
        "over_the_cap": max(0, sink.most - CAP),
        "connections_most": sink.most,
        "nodes_of_an_account_most": sink.most_nodes,
        "states": states,
        "contents_left": kept,
        "nodes_left": left,
        "faults": told["daemon.fault"],
        "buried": told["node.buried"],
        "lost_leases": told["node.lost"],
        "fenced": told["delivery.fenced"],
        "leases_taken": told["lease.taken"],
        "failovers": len(waits),
        "failover_s_median": round(statistics.median(waits), 2) if waits else None,
        "failover_s_slowest": round(max(waits), 2) if waits else None,
        "exits": [status for status in statuses if status],
    }


def _count(connection: psycopg.Connection[Any], query: str) -> int:
    row = connection.execute(query).fetchone()  # type: ignore[call-overload]
    return int(row[0])


def verdict(figures: dict[str, object]) -> list[str]:
    """What is wrong, in words; empty when every promise held."""
    none = ("lost", "phantom", "corrupt", "refused", "doubled_unnamed", "over_the_cap", "contents_left", "nodes_left")
    wrong = [f"{name}: {figures[name]}" for name in (*none, "faults", "exits") if figures[name]]
    states = figures["states"]
    assert isinstance(states, dict)
    if set(states) - {"relayed"}:
        wrong.append(f"states: {states}")
    return wrong


def main() -> int:
    """Run, print the figures as JSON, then what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.clustertest")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--restarts", type=int, default=0, help="of PostgreSQL, after kill -9 of all its processes")
    parser.add_argument("--apart", type=float, default=0.0, help="seconds between the clocks of two neighbours")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after so long, with what was done")
    parser.add_argument("--lease", type=float, default=LEASE_S)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--keep", type=Path, help="folder for data and logs; a temporary one by default")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as temporary, another_server() as server:
        folder = given.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        figures = asyncio.run(
            run(
                *(given.nodes, given.kills, given.messages, given.seed, folder, server),
                lease_s=given.lease,
                apart_s=given.apart,
                restarts=given.restarts,
                longest_s=given.minutes * 60,
            )
        )
    return report(figures, verdict(figures))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
