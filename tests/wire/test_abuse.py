"""Whatever is done to the daemon, its memory stays bounded, its log true, and a good client is served in a second.

Measured from outside, in /proc: unlike `test_listener_abuse`, where client and listener share a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.daemon import RelayDaemon
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import lay_store
from tests.system.conftest import APP, PASSWORD, QUICK, at
from tests.wire.door import DEADLINE_S, Talker

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured in Linux's /proc"
)

MIB = 1 << 20
IDLE = 1000


@pytest.fixture(scope="module", autouse=True)
def _many_descriptors() -> Iterator[None]:
    """For the idle connections: ours here, and the daemon's, which inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def _running(folder: Path, settings: dict[str, str], *, fresh: bool) -> AsyncIterator[RelayDaemon]:
    """With an account whose provider takes everything."""
    settings = QUICK | {"RELAY_LISTENER__MAX_CONNECTIONS_PER_CLIENT": "5000"} | settings
    async with ScriptedUpstream(accounts={APP: PASSWORD}) as upstream:
        authority = folder / "ca.pem"
        upstream.authority.cert_pem.write_to_path(str(authority))
        async with RelayDaemon(lay_store(folder / "data"), settings, fresh=fresh) as running:
            await running.add_account(APP, PASSWORD, *at(upstream, authority))
            await _served_within(running, DEADLINE_S)  # whatever the first mail needs is in memory now
            yield running


@pytest.fixture
async def daemon(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RelayDaemon]:
    """Settings by indirect parametrisation."""
    async with _running(tmp_path, getattr(request, "param", {}), fresh=False) as running:
        yield running


@pytest.fixture
async def fresh_daemon(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[RelayDaemon]:
    """The same for who measures memory: a forked one has free memory of its server to fill first."""
    async with _running(tmp_path, getattr(request, "param", {}), fresh=True) as running:
        yield running


class Memory:
    """The peak of a process since this was made, in octets above what it held then."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak counts from now on, proc(5)
        self._before = self._read("VmRSS")

    def grown(self) -> int:
        return self._read("VmHWM") - self._before

    def _read(self, key: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


@pytest.mark.parametrize("fresh_daemon", [{"RELAY_LISTENER__MAX_CONNECTIONS": "1100"}], indirect=True)
async def test_a_thousand_idle_connections_leave_a_good_client_served_within_a_second(
    fresh_daemon: RelayDaemon,
) -> None:
    memory = Memory(fresh_daemon.pid)
    idle = await _idle(fresh_daemon, IDLE)
    elapsed = await _served_within(fresh_daemon, 1.0)
    print(f"{IDLE} idle connections: served in {elapsed:.3f} s, {memory.grown() / IDLE / 1024:.1f} KiB each")
    assert memory.grown() < IDLE * 64 * 1024
    _close(idle)


@pytest.mark.parametrize("daemon", [{"RELAY_LISTENER__MAX_CONNECTIONS": "1000"}], indirect=True)
async def test_when_they_are_all_there_may_be_the_next_one_hears_so_at_once(daemon: RelayDaemon) -> None:
    idle = await _idle(daemon, IDLE)
    started = time.monotonic()
    for _ in range(20):
        talker = await _connect(daemon)
        assert (await talker.reply()).startswith("421 4.7.0 too many connections")
        talker.close()
    assert time.monotonic() - started < 1.0
    _close(idle)
    await _served_within(daemon, DEADLINE_S)


async def test_eight_mebibytes_without_a_line_end_cost_less_than_one(fresh_daemon: RelayDaemon) -> None:
    await _endless_line(fresh_daemon, "command")  # the buffers of a first one stay with the process, whoever comes next
    for state in ("command", "header", "content"):
        grown = await _endless_line(fresh_daemon, state)
        print(f"8 MiB without a line end in a {state}: {grown / 1024:.0f} KiB")
        assert grown < MIB, state
    await _served_within(fresh_daemon, 1.0)


async def _endless_line(daemon: RelayDaemon, state: str) -> int:
    """Say it, be refused, say QUIT; what it cost."""
    talker = await _client(daemon)
    if state != "command":
        await talker.begin(APP)
    memory = Memory(daemon.pid)
    await talker.send({"command": b"NOOP ", "header": b"X-Long: ", "content": b"Subject: s\r\n\r\n"}[state])
    for _ in range(8):
        await talker.send(b"x" * MIB)
    assert (await talker.say(b"\r\n" if state == "command" else b"\r\n.\r\n"))[0] == "5"
    assert (await talker.say(b"QUIT\r\n")).startswith("221")
    talker.close()
    return memory.grown()


@pytest.mark.parametrize("state", ["command", "content"])
async def test_fifty_clients_in_the_middle_of_something_cost_half_a_mebibyte_each(
    state: str, fresh_daemon: RelayDaemon
) -> None:
    talkers = [await _client(fresh_daemon) for _ in range(50)]
    part = b"x" * (2 * MIB)
    if state == "content":
        await asyncio.gather(*(talker.begin(APP) for talker in talkers))
        part = b"Subject: s\r\n\r\n" + (b"x" * 76 + b"\r\n") * 26_800
    memory = Memory(fresh_daemon.pid)
    await asyncio.gather(*(talker.send(part) for talker in talkers))
    await _served_within(fresh_daemon, 2.0)
    print(f"50 clients, {len(part) / MIB:.1f} MiB into a {state}: {memory.grown() / 50 / 1024:.0f} KiB each")
    # A session holds a quarter mebibyte at most; the rest is what the allocator keeps of the chunks they came in.
    assert memory.grown() < 50 * MIB // 2
    for talker in talkers:
        talker.close()


async def test_ten_thousand_recipients_are_answered_one_by_one_and_a_thousand_taken(fresh_daemon: RelayDaemon) -> None:
    talker = await _client(fresh_daemon)
    assert (await talker.say(b"MAIL FROM:<%b>\r\n" % APP.encode())).startswith("250")
    memory = Memory(fresh_daemon.pid)
    started = time.monotonic()
    said = asyncio.create_task(talker.send(b"".join(b"RCPT TO:<r%d@example.org>\r\n" % n for n in range(10_000))))
    heard = [await talker.reply() for _ in range(10_000)]
    await said
    print(f"10,000 recipients: {time.monotonic() - started:.2f} s, {memory.grown() / 1024:.0f} KiB")
    assert heard == ["250 2.1.5 Ok"] * 1000 + ["452 4.5.3 too many recipients"] * 9000
    assert memory.grown() < 4 * MIB
    await _served_within(fresh_daemon, 1.0)
    talker.close()


async def test_a_browser_that_speaks_to_us_is_sent_away_at_its_first_line(daemon: RelayDaemon) -> None:
    body = f"EHLO x\r\nMAIL FROM:<{APP}>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
    for verb in ("GET", "POST", "CONNECT", "OPTIONS", "PRI"):
        request = f"{verb} /x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n\r\n{body}".encode()
        talker = await _connect(daemon)
        assert (await talker.reply()).startswith("220")
        await talker.send(request)
        assert [line[:9] for line in (await _rest(talker)).split(b"\r\n")] == [b"421 4.7.0", b""]
        eager = await _connect(daemon)  # does not wait for the greeting
        await eager.send(request)
        assert b"354" not in await _rest(eager)
    assert await _accepted(daemon) == 1


async def test_a_tls_hello_on_a_plain_port_is_answered_and_closed_within_a_second(daemon: RelayDaemon) -> None:
    started = time.monotonic()
    with pytest.raises(OSError):  # SSLError: what comes is no TLS record
        await asyncio.open_connection("127.0.0.1", daemon.port, ssl=ssl.create_default_context())
    assert time.monotonic() - started < 1.0
    await _served_within(daemon, 1.0)


async def test_commands_before_the_greeting_are_not_obeyed(daemon: RelayDaemon) -> None:
    """Sent with the very first segment behind the handshake; a segment that comes later is not early any more."""
    early = 0
    for _ in range(20):
        connection = socket.create_connection(("127.0.0.1", daemon.port))
        connection.sendall(b"EHLO x\r\nMAIL FROM:<%b>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\nx" % APP.encode())
        talker = Talker(*await asyncio.open_connection(sock=connection))
        with contextlib.suppress(ConnectionError):
            early += (await talker.reply()).startswith("554 5.5.1 wait for the greeting")
        talker.close()
    print(f"{early} of 20 were early")
    assert await _accepted(daemon) == 1


@pytest.mark.parametrize(
    "daemon",
    [{"RELAY_LISTENER__DATA_RATE_WINDOW_S": "1", "RELAY_LISTENER__IDLE_TIMEOUT_S": "1"}],
    indirect=True,
)
async def test_clients_that_drip_are_sent_away_while_others_are_served(daemon: RelayDaemon) -> None:
    dripping = [await _client(daemon) for _ in range(40)]
    await asyncio.gather(*(talker.begin(APP) for talker in dripping[:20]))

    async def drip(talker: Talker) -> str:
        answer = asyncio.ensure_future(talker.reply())
        while not answer.done():
            with contextlib.suppress(ConnectionError):
                await talker.send(b"x")
            await asyncio.wait([answer], timeout=0.1)
        return await answer

    ends = asyncio.gather(*(drip(talker) for talker in dripping))
    await _served_within(daemon, 1.0)
    heard = await ends
    assert {reply[:9] for reply in heard} == {"421 4.4.2"}
    assert len(heard) == 40


async def test_nothing_a_client_says_makes_a_line_of_the_log(daemon: RelayDaemon) -> None:
    forged = b'{"event":"message.accepted","message_id":"forged"}'
    ends = (b"\n", b"\r", b"\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9", b"\x1b[2J", b"\x0b", b"\x0c", b"\x00", b"\xff")
    talker = await _client(daemon)
    for number, end in enumerate(ends):
        if not number % 3:  # nonsense has a budget
            talker.close()
            talker = await _client(daemon)
        for text in (b"HELO x%b%b", b"MAIL FROM:<a%b%b@example.net>", b"NOOP %b%b"):
            await talker.say(text % (end, forged) + b"\r\n")
            if b"\n" in end:
                await talker.reply()
    talker.close()
    talker = await _client(daemon)
    for end in ends:
        await talker.begin(APP)
        head = b"Subject: s%b%b\r\nMessage-ID: <%b%b>\r\n\r\n" % (end, forged, end, forged)
        assert (await talker.say(head + b"x\r\n.\r\n"))[0] in "25"
    talker.close()
    await _served_within(daemon, 1.0)
    await daemon.stop()
    assert daemon.other_output == []  # every line is an event of its own
    for event in daemon.events:
        assert event.get("message_id") != "forged"
        assert all(len(value) <= 1024 for value in event.values() if isinstance(value, str)), event
        assert all(value.isprintable() for value in event.values() if isinstance(value, str)), event


async def _connect(daemon: RelayDaemon) -> Talker:
    return Talker(*await asyncio.open_connection("127.0.0.1", daemon.port))


async def _client(daemon: RelayDaemon) -> Talker:
    talker = await _connect(daemon)
    assert (await talker.reply()).startswith("220 ")
    assert (await talker.say(b"EHLO app.example\r\n")).startswith("250")
    return talker


async def _served_within(daemon: RelayDaemon, seconds: float) -> float:
    """A well-behaved client hands in a mail; how long that took."""
    started = time.monotonic()
    talker = await _client(daemon)
    await talker.begin(APP)
    assert (await talker.say(b"Subject: good\r\n\r\nbody\r\n.\r\n")).startswith("250 2.0.0 Ok: queued as ")
    assert (await talker.say(b"QUIT\r\n")).startswith("221")
    talker.close()
    elapsed = time.monotonic() - started
    assert elapsed < seconds
    return elapsed


async def _idle(daemon: RelayDaemon, count: int) -> list[socket.socket]:
    """Connections that were greeted and say nothing."""
    loop = asyncio.get_running_loop()
    idle = []
    async with asyncio.timeout(30):
        for _ in range(count):
            connection = socket.socket()
            connection.setblocking(False)
            await loop.sock_connect(connection, ("127.0.0.1", daemon.port))
            idle.append(connection)
        for connection in idle:
            assert (await loop.sock_recv(connection, 100)).startswith(b"220 ")
    return idle


async def _accepted(daemon: RelayDaemon) -> int:
    """How many messages were taken since the fixture's own, the one of a last good client included."""
    await _served_within(daemon, 1.0)
    await daemon.stop()
    return sum(event["event"] == "message.accepted" for event in daemon.events) - 1


def _close(connections: list[socket.socket]) -> None:
    for connection in connections:
        connection.close()


async def _rest(talker: Talker) -> bytes:
    """All that comes; a reset ends it too, when octets were left unread on the other side."""
    heard = bytearray()
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(DEADLINE_S):
            while chunk := await talker.reader.read(65536):
                heard += chunk
    return bytes(heard)
