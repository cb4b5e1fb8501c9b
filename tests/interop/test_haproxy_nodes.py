"""docker/haproxy.cfg in front of daemons: who the client is, and what a node costs that dies or stops."""

from __future__ import annotations

import asyncio
import re
import shutil
import smtplib
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.daemon import REPOSITORY, RelayDaemon
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import lay_store
from tests.system.conftest import APP, PASSWORD, QUICK, at

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin:/sbin:/bin")
pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed"),
    pytest.mark.timeout(90),
]
LIMIT_S = 20
CLIENT = "127.0.0.7"  # whom the relays must hear of; HAProxy itself comes from 127.0.0.1
SETTINGS = QUICK | {
    "RELAY_CONSOLE__ENABLED": "yes",
    "RELAY_CONSOLE__PORT": "0",
    "RELAY_LISTENER__PROXY_NETWORKS": "127.0.0.1",
}


class Balancer:
    """HAProxy with docker/haproxy.cfg, at `port`. Of its text only addresses, ports and the pace of checks differ."""

    def __init__(self, lines: asyncio.StreamReader, port: int, console: int) -> None:
        self.port, self.console = port, console
        self._lines = lines
        self._said: list[str] = []

    async def says(self, of: str) -> None:
        """Wait until its log had a line with this, since the last one that was waited for."""
        async with asyncio.timeout(LIMIT_S):
            while not any(of in line for line in self._said):
                line = await self._lines.readline()
                assert line, "\n".join(self._said)
                self._said.append(line.decode("utf-8", "replace"))
        del self._said[: next(number for number, line in enumerate(self._said) if of in line) + 1]


@asynccontextmanager
async def balancing(folder: Path, nodes: dict[str, tuple[int, int]]) -> AsyncIterator[Balancer]:
    """The file's HAProxy; `nodes`: front door and console of each server of the file that there is."""
    text = (REPOSITORY / "docker" / "haproxy.cfg").read_text()
    with ExitStack() as stack:
        doors = {port: stack.enter_context(socket.create_server(("127.0.0.1", 0))) for port in ("2525", "8025")}
        closed = stack.enter_context(socket.socket())  # where no node is yet
        closed.bind(("127.0.0.1", 0))

        def server(found: re.Match[str]) -> str:
            name, port = found[1], found[2]
            door, console = nodes.get(name, (closed.getsockname()[1],) * 2)
            return f"server {name} 127.0.0.1:{door if port == '2525' else console} port {console}"

        text, servers = re.subn(r"server (relay-\d) relay-\d:(\d+)", server, text)
        text, binds = re.subn(r"bind :(\d+)", lambda found: f"bind fd@{doors[found[1]].fileno()}", text)
        text, paces = re.subn("inter 3s", "inter 300ms", text)
        text = text.replace("timeout connect 5s\n", "timeout connect 5s\n  timeout check 5s\n")  # else as long as inter
        assert (servers, binds, paces) == (6, 2, 2)
        (folder / "haproxy.cfg").write_text(text)
        process = await asyncio.create_subprocess_exec(
            *(str(HAPROXY), "-db", "-f", str(folder / "haproxy.cfg")),
            pass_fds=[door.fileno() for door in doors.values()],
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert process.stdout is not None
        try:
            yield Balancer(process.stdout, *(doors[port].getsockname()[1] for port in ("2525", "8025")))
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@asynccontextmanager
async def two_nodes(folder: Path, upstream: ScriptedUpstream) -> AsyncIterator[dict[str, RelayDaemon]]:
    """relay-1 and relay-2 with one account each at `upstream`, ready and with their consoles open."""
    upstream.authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    async with AsyncExitStack() as stack:
        nodes = {name: RelayDaemon(lay_store(folder / name / "data"), SETTINGS) for name in ("relay-1", "relay-2")}
        for node in nodes.values():
            await stack.enter_async_context(node)
        for node in nodes.values():
            await node.add_account(APP, PASSWORD, *at(upstream, folder / "ca.pem"))
            await node.event("console.started", timeout_s=LIMIT_S)
        yield nodes


def addresses(nodes: dict[str, RelayDaemon]) -> dict[str, tuple[int, int]]:
    """Front door and console of each."""
    return {
        name: (node.port, next(one["port"] for one in node.events if one["event"] == "console.started"))
        for name, node in nodes.items()
    }


async def clients(node: RelayDaemon, count: int) -> list[str]:
    """From whom it took its first `count` messages."""
    seen, found = 0, []
    for _ in range(count):
        accepted = await node.event("message.accepted", since=seen)
        seen = node.events.index(accepted) + 1
        found.append(accepted["client"])
    return found


def connected(port: int) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", port, "app.example", LIMIT_S, source_address=(CLIENT, 0))


def send(port: int, subject: str) -> None:
    with connected(port) as client:
        client.sendmail(APP, ["you@example.org"], f"Subject: {subject}\r\n\r\nhello\r\n".encode())


def begin(port: int) -> smtplib.SMTP:
    """A session that has sent half of its content."""
    client = connected(port)
    client.ehlo()
    assert client.mail(APP)[0] == client.rcpt("you@example.org")[0] == 250
    assert client.docmd("DATA")[0] == 354
    client.send(b"Subject: begun\r\n\r\nhel")
    return client


def end(client: smtplib.SMTP) -> int:
    client.send(b"lo\r\n.\r\n")
    try:
        return client.getreply()[0]
    finally:
        client.close()


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(accounts={APP: PASSWORD}) as scripted:
        yield scripted


async def test_a_node_that_dies_or_stops_costs_no_mail(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async def arrive(*subjects: str) -> None:
        messages = [await upstream.next_message(LIMIT_S) for _ in subjects]
        assert {message.account for message in messages} == {APP}
        assert sorted(re.findall(rb"^Subject: (.*)\r$", b"".join(m.content for m in messages), re.M)) == sorted(
            subject.encode() for subject in subjects
        )

    async with two_nodes(tmp_path, upstream) as nodes, balancing(tmp_path, addresses(nodes)) as balancer:
        await balancer.says("Server smtp/relay-3 is DOWN")  # it is not there; else two of three would fail at once
        for subject in ("one", "two"):
            await asyncio.to_thread(send, balancer.port, subject)
        await arrive("one", "two")
        assert [await clients(node, 1) for node in nodes.values()] == [[CLIENT], [CLIENT]]  # in turn

        await nodes["relay-1"].kill()
        for subject in ("three", "four"):  # at once: nobody has noticed yet
            await asyncio.to_thread(send, balancer.port, subject)
        await arrive("three", "four")
        assert await clients(nodes["relay-2"], 3) == [CLIENT] * 3
        await balancer.says("Server smtp/relay-1 is DOWN")

        left = nodes["relay-2"]
        session = await asyncio.to_thread(begin, balancer.port)
        stopping = asyncio.create_task(left.stop())
        await balancer.says("Server smtp/relay-2 is DOWN")
        assert await asyncio.to_thread(end, session) == 250  # taken in the grace that open sessions have
        assert await stopping == 0
        await left.start()
        await arrive("begun")
