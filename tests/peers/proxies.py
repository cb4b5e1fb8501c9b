"""Scripted proxies over loopback: HTTP CONNECT and SOCKS 5, well-behaved or with an ordered fault.

async with running_proxy("http", login="relay:pa ss") as proxy:
    proxy.url, proxy.asked            # what was asked for: "host:port", in order
    proxy.fault = b"HTTP/1.1 403 Forbidden\r\n\r\n"     # instead of the answer; b"" closes, None behaves
    proxy.stalls = True               # take the connection, never answer
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

_SOCKS_NAME, _SOCKS_V4, _SOCKS_V6 = 3, 1, 4


class ScriptedProxy:
    """`resolves`: names only the proxy knows, each with its address; others are connected to as they are."""

    def __init__(self, scheme: str, login: str) -> None:
        self.scheme, self.login = scheme, login
        self.port = 0
        self.asked: list[str] = []
        self.connections = 0
        self.from_hosts: list[str] = []
        self.logins: list[str] = []
        self.resolves: dict[str, str] = {}
        self.fault: bytes | None = None
        self.stalls = False
        self.glued = b""  # sent in one segment with the answer, as if the host had spoken first

    @property
    def url(self) -> str:
        """With login and password."""
        name, _, password = self.login.partition(":")
        login = f"{quote(name, safe='')}:{quote(password, safe='')}@" if self.login else ""
        return f"{self.scheme}://{login}127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.from_hosts.append(writer.get_extra_info("peername")[0])
        try:
            if self.stalls:
                await reader.read()
            elif self.scheme == "http":
                await self._http(reader, writer)
            else:
                await self._socks(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:  # also when it is ended: whoever it carried for would wait for an answer to QUIT
            writer.close()

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, target, _ = head.split("\r\n")[0].split(" ")
        assert method == "CONNECT"
        given = next((line[27:] for line in head.split("\r\n") if line.startswith("Proxy-Authorization: Basic ")), "")
        self.logins.append(base64.b64decode(given).decode() if given else "")
        if self.fault is not None:
            writer.write(self.fault)
            return await writer.drain()
        if self.login and self.logins[-1] != self.login:
            writer.write(b'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\n\r\n')
            return await writer.drain()
        self.asked.append(target)
        host, _, port = target.rpartition(":")
        return await self._carry(
            host.strip("[]"),
            int(port),
            reader,
            writer,
            b"HTTP/1.1 200 Connection established\r\nProxy-Agent: scripted\r\n\r\n",
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        )

    async def _socks(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version, count = await reader.readexactly(2)
        assert version == 5
        methods = await reader.readexactly(count)
        if self.fault is not None:
            writer.write(self.fault)
            return await writer.drain()
        wanted = 2 if self.login else 0
        if wanted not in methods:
            writer.write(b"\x05\xff")
            return await writer.drain()
        writer.write(bytes((5, wanted)))
        if self.login:
            _, length = await reader.readexactly(2)
            name = await reader.readexactly(length)
            (length,) = await reader.readexactly(1)
            password = await reader.readexactly(length)
            self.logins.append(f"{name.decode()}:{password.decode()}")
            good = self.logins[-1] == self.login
            writer.write(b"\x01\x00" if good else b"\x01\x01")
            if not good:
                return await writer.drain()
        _, command, _, kind = await reader.readexactly(4)
        assert command == 1
        host = await self._socks_host(reader, kind)
        port = int.from_bytes(await reader.readexactly(2))
        self.asked.append(f"{host}:{port}")
        answers = (b"\x05%c\x00\x01\x00\x00\x00\x00\x00\x00" % code for code in (0, 5))
        return await self._carry(host, port, reader, writer, *answers)

    async def _socks_host(self, reader: asyncio.StreamReader, kind: int) -> str:
        if kind == _SOCKS_NAME:
            (length,) = await reader.readexactly(1)
            return (await reader.readexactly(length)).decode()
        return str(ipaddress.ip_address(await reader.readexactly(4 if kind == _SOCKS_V4 else 16)))

    async def _carry(
        self,
        host: str,
        port: int,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        yes: bytes,
        no: bytes,
    ) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(self.resolves.get(host, host), port)
        except OSError:
            writer.write(no)
            await writer.drain()
            return
        writer.write(yes + self.glued)
        async with asyncio.TaskGroup() as group:
            group.create_task(_pipe(reader, inner_writer))
            group.create_task(_pipe(inner_reader, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def running_proxy(scheme: str, *, login: str = "") -> AsyncIterator[ScriptedProxy]:
    """Serve on a free port until the end. `login`: NAME:PASSWORD that it wants."""
    proxy = ScriptedProxy(scheme, login)
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        try:
            await proxy.serve(reader, writer)
        finally:
            served.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in tuple(served):
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)
