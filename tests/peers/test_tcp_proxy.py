"""The proxy that cuts lines cuts them where it says."""

from __future__ import annotations

import asyncio

import pytest

from tests.peers.tcp_proxy import TcpProxy


@pytest.mark.parametrize("deliver", [True, False])
async def test_it_cuts_once_behind_or_before_the_octets(deliver: bool) -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(100):
            heard.append(block)
            writer.write(b"heard " + block)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, TcpProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy, asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(9) == b"heard one"
        (proxy.cut_after if deliver else proxy.cut_before)(b"COMMIT")
        writer.write(b"COMMIT")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        await proxy.cut.wait()
        assert heard == [b"one", b"COMMIT"][: 1 + deliver]
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"COMMIT")
        assert await reader.readexactly(12) == b"heard COMMIT"
        writer.close()
