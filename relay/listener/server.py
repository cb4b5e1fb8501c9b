"""One front door: binds the address, makes the sessions, closes in good order."""

from __future__ import annotations

import asyncio
import socket
from ssl import SSLContext

from relay.accounts.directory import Directory
from relay.config.settings import ListenerSettings
from relay.listener.door import Door
from relay.listener.policy import AccessPolicy
from relay.listener.session import RelaySession
from relay.queue.store import Queue
from relay.telemetry import get_logger

log = get_logger()

_BACKLOG = 1024


class Listener:
    """Accepts mail at one address. `start`, and in the end `stop_accepting`, then `drain`."""

    def __init__(
        self,
        settings: ListenerSettings,
        directory: Directory,
        queue: Queue,
        *,
        instance_id: str,
        hostname: str,
        tls_context: SSLContext | None = None,
    ) -> None:
        """`hostname` is said in the greeting and in trace fields; `instance_id` (one word) marks our own mail.

        With `tls_context` STARTTLS is offered.
        """
        self._settings = settings
        self._directory = directory
        self._queue = queue
        self._instance_id = instance_id
        self._hostname = hostname
        self._tls_context = tls_context
        self._server: asyncio.Server | None = None
        self._door: Door | None = None

    async def start(self) -> None:
        """Listen. Raises OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        door = Door(
            self._settings,
            AccessPolicy(self._settings, self._directory, self._queue.has_room),
            self._queue,
            instance_id=self._instance_id,
            hostname=self._hostname,
            tls_context=self._tls_context,
            loop=loop,
        )
        self._door = door
        self._server = await loop.create_server(
            lambda: RelaySession(door), str(self._settings.host), self._settings.port, backlog=_BACKLOG
        )
        log.info("listener.started", host=str(self._settings.host), port=self.port, tls=self._tls_context is not None)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """What it listens on; none before `start` and after `stop_accepting`."""
        return tuple(self._server.sockets) if self._server is not None else ()

    @property
    def port(self) -> int:
        """The port it listens on: the one it was given, or found when that was 0."""
        return int(self.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Sessions open now."""
        return len(self._door.sessions) if self._door is not None else 0

    def stop_accepting(self) -> None:
        """No new connection; idle sessions hear 421 4.3.2 and end, the others behind the reply they wait for."""
        if self._server is not None:
            self._server.close()
        if self._door is not None:
            self._door.stopping = True
            for session in tuple(self._door.sessions):
                session.shut_down()

    async def drain(self, timeout_s: float) -> bool:
        """Wait for the sessions to end; those still receiving content after `timeout_s` are cut off.

        False: a commit is still under way. Its message is kept or not as the store decides.
        """
        door = self._door
        if door is None:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await door.empty.wait()
        except TimeoutError:
            for session in tuple(door.sessions):
                session.cut_off()
            try:
                async with asyncio.timeout(1.0):
                    await door.empty.wait()
            except TimeoutError:
                return False
        return True
