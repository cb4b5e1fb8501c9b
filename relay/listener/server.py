"""One front door: takes its socket, makes the sessions, closes in good order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING

from relay.accounts.directory import Directory
from relay.listener.authentication import Authentication
from relay.listener.door import Door
from relay.listener.entrance import Entrance
from relay.listener.policy import AccessPolicy, Occupancy
from relay.listener.rates import Rates
from relay.listener.session import RelaySession
from relay.net.unix_door import identity, listen_unix
from relay.queue.store import Queue
from relay.telemetry import get_logger

if TYPE_CHECKING:
    from relay.config.settings import ListenerSettings

log = get_logger()

_DIRECT_S = 20.0


class Listener:
    """Accepts mail at one address. `start`, and in the end `stop_accepting`, then `drain`.

    A session keeps to the end what the settings were when it began, whatever `configure` says meanwhile.
    """

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
        self._occupancy = Occupancy()
        self._server: asyncio.Server | None = None
        self._door: Door | None = None
        self._doors: list[Door] = []  # the one for new sessions last, before it those whose sessions are not over
        self._local = False  # at a Unix socket
        self._file: tuple[Path, tuple[int, int]] | None = None  # a socket that we made, and its identity
        self.inherited = False  # the socket is from the service manager

    @property
    def settings(self) -> ListenerSettings:
        """Those of sessions that begin now."""
        return self._settings

    async def start(self, inherited: socket.socket | None = None, *, beside: bool = False) -> None:
        """Listen, at the socket that was `inherited` or else at the address of the settings.

        `beside`: another socket of this process, opened to that by SO_REUSEPORT, may hold the port.  Raises OSError
        when the address cannot be had.
        """
        settings, loop = self._settings, asyncio.get_running_loop()
        self.inherited = inherited is not None
        listening = inherited or self._own_socket()
        self._local = listening is not None and listening.family == socket.AF_UNIX
        self._renew()
        if listening is None:
            self._server = await loop.create_server(
                self._session, str(settings.host), settings.port, backlog=settings.backlog, reuse_port=beside or None
            )
            if beside:
                self.share_port(False)
        elif self._local:
            self._server = await loop.create_unix_server(self._session, sock=listening, backlog=settings.backlog)
        else:
            self._server = await loop.create_server(self._session, sock=listening, backlog=settings.backlog)
        log.info("listener.started", **self._where(), tls=settings.tls_mode)

    def configure(
        self,
        settings: ListenerSettings,
        *,
        hostname: str,
        tls: Callable[[], SSLContext] | None,
        direct_timeout_s: float,
    ) -> None:
        """Other settings for the sessions that begin from now on; the socket stays the one it is."""
        before, self._settings = self._settings, settings
        self._instance_id = self._hostname = hostname
        self._tls, self._direct_timeout_s = tls, direct_timeout_s
        self._renew()
        if settings.backlog != before.backlog:
            for one in self.sockets:
                with socket.socket(fileno=os.dup(one.fileno())) as same:
                    same.listen(settings.backlog)
        if self._file is not None and settings.path_mode != before.path_mode:
            with contextlib.suppress(OSError):  # somebody removed it: nobody comes in by it any more
                os.chmod(self._file[0], int(settings.path_mode, 8))

    def share_port(self, shared: bool) -> None:
        """Let another socket of ours take the same port (at another address) while this one still listens."""
        if not self._local:
            for one in self.sockets:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)

    def _renew(self) -> None:
        """A door of the settings of now."""
        settings = self._settings
        door = Door(
            settings,
            AccessPolicy(settings, self._directory, self._queue.has_room, self._rates, self._occupancy),
            self._queue,
            instance_id=self._instance_id,
            hostname=self._hostname,
            authentication=self._authentication,
            tls=self._tls,
            direct_timeout_s=self._direct_timeout_s,
            loop=asyncio.get_running_loop(),
        )
        door.local = self._local
        self._door = door
        self._doors = [*(former for former in self._doors if former.sessions), door]

    def _session(self) -> Entrance | RelaySession:
        """For a connection that came just now."""
        door = self._door
        assert door is not None
        return Entrance(door) if door.implicit or door.settings.proxy_networks else RelaySession(door)

    def _own_socket(self) -> socket.socket | None:
        """At a path; None: the loop makes those of host and port."""
        path = self._settings.path
        if path is None:
            return None
        listening = listen_unix(path, mode=int(self._settings.path_mode, 8), backlog=self._settings.backlog)
        self._file = path, identity(path)
        return listening

    def _where(self) -> dict[str, str | int]:
        if self._local:
            return {"path": str(self.sockets[0].getsockname())}
        return {"host": str(self.sockets[0].getsockname()[0]), "port": self.port}

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """What it listens on; none before `start` and after `stop_accepting` or `retire`."""
        return tuple(self._server.sockets) if self._server is not None else ()

    @property
    def port(self) -> int:
        """The port it listens on: the one it was given, or found when that was 0; 0 at a Unix socket."""
        return 0 if self._local else int(self.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """Sessions open now."""
        return sum(len(door.sessions) for door in self._doors)

    def stop_accepting(self) -> None:
        """No new connection; idle sessions hear 421 4.3.2 and end, the others behind the reply they wait for."""
        self._stop_listening()
        for door in self._doors:
            door.stopping = True
            for session in tuple(door.sessions):
                session.shut_down()

    async def retire(self) -> None:
        """Listen no longer, and leave every session alone, also those that the system has connected already.

        `drain` waits for them.
        """
        where, loop = self._where(), asyncio.get_running_loop()
        same = [socket.socket(fileno=os.dup(one.fileno())) for one in self.sockets]
        self._stop_listening()  # nothing is refused yet: `same` still listens
        for one in same:
            with one:
                waiting = _waiting(one, self._settings.backlog)
            for connection in waiting:
                try:
                    await loop.connect_accepted_socket(self._session, connection)
                except OSError:  # it is gone
                    connection.close()
        log.info("listener.stopped", **where)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._file is not None and identity(self._file[0]) == self._file[1]:
            self._file[0].unlink(missing_ok=True)
            self._file = None

    async def drain(self, timeout_s: float) -> bool:
        """Wait for the sessions to end; those still receiving content after `timeout_s` are cut off.

        False: a commit is still under way. Its message is kept or not as the store decides.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._empty()
        except TimeoutError:
            for door in self._doors:
                for session in tuple(door.sessions):
                    session.cut_off()
            try:
                async with asyncio.timeout(1.0):
                    await self._empty()
            except TimeoutError:
                return False
        return True

    async def _empty(self) -> None:
        for door in self._doors:
            await door.empty.wait()


def _waiting(listening: socket.socket, most: int) -> list[socket.socket]:
    """The connections that the system has made there and nobody has taken yet."""
    listening.setblocking(False)
    found: list[socket.socket] = []
    while len(found) < most:
        try:
            connection, _ = listening.accept()
        except OSError:  # none is left; or one is gone already, or descriptors are: no more can be had
            break
        connection.setblocking(False)
        found.append(connection)
    return found
