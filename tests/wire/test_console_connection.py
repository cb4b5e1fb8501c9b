"""The console's door against clients that never come to an end, and what may stand in a head."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn

from relay.config.console import ConsoleSettings
from relay.console import connection
from relay.console.__main__ import served
from relay.console.app import create_app
from relay.control.client import ControlClient

FILE = b"GET /static/console.css HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
async def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(connection, "REQUEST_S", 0.5)
    monkeypatch.setattr(connection, "WRITE_S", 0.5)
    settings = ConsoleSettings(port=0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = listening.getsockname()[1]
        app = create_app(settings, ControlClient(tmp_path))
        server = uvicorn.Server(served(app, settings))
        task = asyncio.create_task(server._serve([listening]))
        yield number
        server.should_exit = True
        await task


async def said(port: int, octets: bytes) -> bytes:
    """Everything that is answered until the other side closes, which it must."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(octets)
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-A: ",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Content-Length: 100\r\n\r\nusername=",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nuser",
    ],
)
async def test_a_request_that_does_not_end_is_dropped(port: int, part: bytes) -> None:
    assert await said(port, part) == b""


async def test_octets_that_trickle_in_move_the_end_no_further(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    loop = asyncio.get_running_loop()
    writer.write(FILE)  # one that is answered, first: then its time begins anew
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    began = loop.time()

    async def trickle() -> None:
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        while True:
            writer.write(b"X-A: a\r\n")
            await asyncio.sleep(0.05)  # it is the pace that is tested

    trickling = asyncio.create_task(trickle())
    with contextlib.suppress(ConnectionError):
        await asyncio.wait_for(reader.read(), 10)
    trickling.cancel()
    writer.close()
    assert loop.time() - began < 5


async def test_an_answer_that_nobody_reads_is_dropped(port: int) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_connection(("127.0.0.1", port)) as deaf:
        deaf.setblocking(False)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asked = FILE.replace(b"console.css", b"vendor/uplot-1.6.32.min.js") * 400
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(10):
                while True:
                    await loop.sock_sendall(deaf, asked)


async def test_too_many_connections_leave_the_first_ones_alone(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MOST", 3)
    monkeypatch.setattr(connection, "REQUEST_S", 30)
    kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    for reader, writer in kept:
        writer.write(FILE)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    assert await said(port, b"") == b""
    for _, writer in kept:
        writer.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Host: evil.example\r\n", 421),
        (b"Host: evil.example@localhost\r\n", 421),
        (b"Host: localhost/evil\r\n", 421),
        (b"Host: localhost:80:evil\r\n", 421),
        (b"Host: localhost\\@evil.example\r\n", 421),
        (b"Host: localhost\r\nHost: evil.example\r\n", 400),
        (b"Host: localhost.:8025\r\n", 200),
        (b"Host: [::1]:1\r\n", 200),
        (b"Host: localhost\r\nContent-Length: " + b"9" * 5000 + b"\r\n", 400),
        (b"Host: localhost\r\nContent-Length: 1048577\r\n", 413),
        (b"Host: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n", 400),
        (b"Host: localhost\r\nContent-Length: +5\r\n", 400),
        (b"Host: localhost\r\nTransfer-Encoding: xchunked\r\n", 400),
        (b"Host: localhost\r\nX : a\r\n", 400),
        (b"Host: localhost\r\nX: a\rb\r\n", 400),
    ],
)
async def test_what_a_head_may_say(port: int, head: bytes, status: int) -> None:
    answer = await said(port, b"GET /static/console.css HTTP/1.1\r\n" + head + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]


async def test_a_proxy_that_nobody_named_does_not_open_the_metrics(port: int) -> None:
    asked = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1\r\nConnection: close\r\n\r\n"
    assert (await said(port, asked)).startswith(b"HTTP/1.1 403")
