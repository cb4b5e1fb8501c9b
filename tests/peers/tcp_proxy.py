"""A TCP proxy that cuts the line where a test says: before or behind what goes through it."""

from __future__ import annotations

import asyncio
from typing import Self

BLOCK = 65_536


class TcpProxy:
    """Carries octets between clients and one server.

    `cut_after(octets)`: once a client has sent something that ends with `octets`, the server gets it, and the client's
    line is cut before any answer; `cut_before`: the server does not get it either.  Once each.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server_at = (host, port)
        self._needle = b""
        self._deliver = True
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.refusing = False
        self.cut = asyncio.Event()
        self.port = 0

    def cut_after(self, octets: bytes) -> None:
        """Cut the next line whose client has sent `octets`; the server hears them."""
        self._needle, self._deliver = octets, True
        self.cut.clear()

    def cut_before(self, octets: bytes) -> None:
        """Cut the next line whose client has sent `octets`; the server does not hear them."""
        self._needle, self._deliver = octets, False
        self.cut.clear()

    def drop_all(self) -> None:
        """Cut every line."""
        for writer in tuple(self._lines):
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=BLOCK)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop_all()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if not self.refusing:
                await self._carry(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass  # either side is gone, which is what this is for
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._server_at)
        self._lines |= {writer, there_writer}
        back = asyncio.create_task(_pump(there_reader, writer))
        try:
            while block := await reader.read(BLOCK):
                if self._needle and self._needle in block:
                    self._needle = b""
                    if self._deliver:
                        back.cancel()
                        await asyncio.gather(back, return_exceptions=True)
                        there_writer.write(block)
                        await there_writer.drain()
                        writer.transport.abort()
                        # An orderly end: the server takes all that was sent before it.
                        there_writer.write_eof()
                        while await there_reader.read(BLOCK):
                            pass
                    self.cut.set()
                    return
                there_writer.write(block)
                await there_writer.drain()
        finally:
            back.cancel()
            self._lines -= {writer, there_writer}
            there_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while block := await reader.read(BLOCK):
        writer.write(block)
        await writer.drain()
