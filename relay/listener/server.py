"""One front door: takes its socket, makes the sessions, closes in good order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from ssl import SSLContext

from relay.accounts.directory import Directory
from relay.config.settings import ListenerSettings
from relay.listener.authentication import Authentication
from relay.listener.door import Door
from relay.listener.entrance import Entrance
from relay.listener.policy import AccessPolicy
from relay.listener.rates import Rates
from relay.listener.session import RelaySession
from relay.net.unix_door import identity, listen_unix
from relay.queue.store import Queue
from relay.telemetry import get_logger

log = get_logger()

_DIRECT_S = 20.0


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
        tls: Callable[[], SSLContext] | None = None,
        rates: Rates | None = None,
        authentication: Authentication | None = None,
        direct_timeout_s: float = _DIRECT_S,
    ) -> None:
        """`hostname` is said in the greeting and in trace fields; `instance_id` (one word) marks our own mail.

        `tls` gives the context of the next handshake.  All doors share `rates` and `authentication` (None: this
        door has its own).  `direct_timeout_s`: how long a client with direct answers waits for one.
        """
        self._settings = settings
        self._directory = directory
        self._queue = queue
        self._instance_id = instance_id
        self._hostname = hostname
        self._tls = tls
        self._rates = rates or Rates()
        self._authentication = authentication or Authentication(directory)
        self._direct_timeout_s = direct_timeout_s
        self._server: asyncio.Server | None = None
        self._door: Door | None = None
        self._file: tuple[Path, tuple[int, int]] | None = None  # a socket that we made, and its identity

    async def start(self, inherited: socket.socket | None = None) -> None:
        """Listen, at the socket that was `inherited` or else at the address of the settings.

        Raises OSError when the address cannot be had.
        """
        settings, loop = self._settings, asyncio.get_running_loop()
        door = Door(
            settings,
            AccessPolicy(settings, self._directory, self._queue.has_room, self._rates),
            self._queue,
            instance_id=self._instance_id,
            hostname=self._hostname,
            authentication=self._authentication,
            tls=self._tls,
            direct_timeout_s=self._direct_timeout_s,
            loop=loop,
        )
        self._door = door
        listening = inherited or self._own_socket()
        door.local = listening is not None and listening.family == socket.AF_UNIX
        kind: type[Entrance | RelaySession] = Entrance if door.implicit or settings.proxy_networks else RelaySession
        if listening is None:
            self._server = await loop.create_server(
                lambda: kind(door), str(settings.host), settings.port, backlog=settings.backlog
            )
        elif door.local:
            self._server = await loop.create_unix_server(lambda: kind(door), sock=listening, backlog=settings.backlog)
        else:
            self._server = await loop.create_server(lambda: kind(door), sock=listening, backlog=settings.backlog)
        log.info("listener.started", **self._where(), tls=settings.tls_mode)

    def _own_socket(self) -> socket.socket | None:
        """At a path; None: the loop makes those of host and port."""
        path = self._settings.path
        if path is None:
            return None
        listening = listen_unix(path, mode=int(self._settings.path_mode, 8), backlog=self._settings.backlog)
        self._file = path, identity(path)
        return listening

    def _where(self) -> dict[str, str | int]:
        if self._door is not None and self._door.local:
            return {"path": str(self.sockets[0].getsockname())}
        return {"host": str(self.sockets[0].getsockname()[0]), "port": self.port}

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """What it listens on; none before `start` and after `stop_accepting`."""
        return tuple(self._server.sockets) if self._server is not None else ()

    @property
    def port(self) -> int:
        """The port it listens on: the one it was given, or found when that was 0; 0 at a Unix socket."""
        if self._door is not None and self._door.local:
            return 0
        return int(self.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Sessions open now."""
        return len(self._door.sessions) if self._door is not None else 0

    def stop_accepting(self) -> None:
        """No new connection; idle sessions hear 421 4.3.2 and end, the others behind the reply they wait for."""
        if self._server is not None:
            self._server.close()
        if self._file is not None and identity(self._file[0]) == self._file[1]:
            self._file[0].unlink(missing_ok=True)
            self._file = None
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
