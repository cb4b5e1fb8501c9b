"""Hears what nodes tell each other through PostgreSQL: one connection that listens, made again when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from typing import Any

import psycopg

from relay.mail.errors import StorageFailed
from relay.telemetry import get_logger

log = get_logger()

CHANNEL = "relay"
_FIRST_S, _MOST_S = 0.2, 5.0


class Bell:
    """`run` until cancelled. `heard` gets each payload; `missed` is called when some may have been missed."""

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        *,
        heard: Callable[[str], None],
        missed: Callable[[], None],
    ) -> None:
        """`connect` may block for some seconds; it raises StorageFailed. A connection shows that it died."""
        self._connect, self._heard, self._missed = connect, heard, missed

    async def run(self) -> None:
        """Never ends by itself: what is not heard meanwhile, every node finds at its next heartbeat."""
        wait_s, told = _FIRST_S, False
        while True:
            try:
                connection = await asyncio.to_thread(self._listening)
                wait_s, told = _FIRST_S, False
                try:
                    self._missed()
                    await self._listen(connection)
                finally:
                    connection.close()
            except (StorageFailed, psycopg.Error, OSError) as error:
                if not told:
                    told = True
                    log.warning("node.deaf", detail=str(error)[:200], to_do="see to the PostgreSQL server")
            await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - not all nodes at once
            wait_s = min(wait_s * 2, _MOST_S)

    def _listening(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        try:
            connection.execute(f"LISTEN {CHANNEL}")
        except BaseException:
            connection.close()
            raise
        return connection

    async def _listen(self, connection: psycopg.Connection[Any]) -> None:
        """Until the connection ends. Raises psycopg.Error then."""
        loop, ended = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()
        server = connection.pgconn

        def readable() -> None:
            try:
                server.consume_input()
                while (notice := server.notifies()) is not None:
                    self._heard(notice.extra.decode("utf-8", "replace"))
            except psycopg.Error as error:
                loop.remove_reader(descriptor)
                if not ended.done():
                    ended.set_exception(error)

        descriptor = connection.fileno()
        loop.add_reader(descriptor, readable)
        try:
            readable()  # what came before anybody listened here
            await ended
        finally:
            with contextlib.suppress(OSError, ValueError):
                loop.remove_reader(descriptor)
