"""Dialling: a connected transport with the options that matter, or the one reason why not."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator

import pytest

from relay.net.dial import DialFailed, dial


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


async def reason(host: str, port: int, timeout_s: float = 5) -> str:
    with pytest.raises(DialFailed) as failure:
        await dial(asyncio.Protocol, host, port, timeout_s=timeout_s)
    assert failure.value.detail
    assert not failure.value.in_tls
    return failure.value.reason


async def test_a_connection_writes_at_once_and_keeps_alive(listening: socket.socket) -> None:
    transport, _ = await dial(asyncio.Protocol, "localhost", listening.getsockname()[1], timeout_s=5)
    made = transport.get_extra_info("socket")
    assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    transport.abort()


async def test_nobody_listens(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    listening.close()
    assert await reason("127.0.0.1", port) == "connection-refused"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".example", "two..dots", ""])
async def test_a_name_that_leads_nowhere(host: str) -> None:
    assert await reason(host, 1) in ("dns-failure", "connection-refused")


async def test_nobody_answers() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)  # a full backlog drops what comes: what a firewall does, on loopback
        waiting = []
        while True:
            knock = socket.socket()
            knock.setblocking(False)
            waiting.append(knock)
            knock.connect_ex(deaf.getsockname())
            await asyncio.sleep(0)
            if len(waiting) > 4:
                break
        try:
            assert await reason("127.0.0.1", deaf.getsockname()[1], 0.1) == "connection-timeout"
        finally:
            for knock in waiting:
                knock.close()


async def test_the_next_address_is_tried(monkeypatch: pytest.MonkeyPatch, listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as gone:
        closed = gone.getsockname()[1]

    async def addresses(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", number)) for number in (closed, port)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)
    transport, _ = await dial(asyncio.Protocol, "two.example", 1, timeout_s=5)
    assert transport.get_extra_info("peername")[1] == port
    transport.abort()


async def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object, **__: object) -> list[tuple[object, ...]]:
        await asyncio.get_running_loop().create_future()
        return []

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    assert await reason("slow.example", 1, 0.05) == "dns-failure"


async def test_a_failed_attempt_leaves_no_socket_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[socket.socket] = []
    real = socket.socket

    class Watched(real):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: int) -> None:
            super().__init__(*arguments)
            made.append(self)

        def connect(self, _: object) -> None:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "socket", Watched)
    assert await reason("127.0.0.1", 9) == "connection-refused"
    assert [one.fileno() for one in made] == [-1]
