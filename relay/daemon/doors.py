"""The front doors of a daemon: opens them, gives them other settings while they are open, closes them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING

from relay.accounts.directory import Directory
from relay.daemon.activation import Inherited, assigned
from relay.listener.authentication import Authentication
from relay.listener.certificate import ServerTls
from relay.listener.rates import Rates
from relay.listener.server import Listener
from relay.mail.errors import RelayError
from relay.net.server_tls import tls_trouble
from relay.queue.store import Queue

if TYPE_CHECKING:
    from relay.config.settings import ListenerSettings, RelaySettings


class BadCertificate(RelayError):
    """A front door cannot use its certificate and key."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(f"{path}: {tls_trouble(error)['reason']}")


class DoorRefused(RelayError):
    """The operating system gave no listening socket for a front door; `errno` says why."""

    def __init__(self, door: ListenerSettings, error: OSError) -> None:
        super().__init__(f"cannot listen on {door.address}: {error}")
        self.door, self.errno = door, error.errno
        self.reason = error.strerror or str(error)


@dataclass(frozen=True, slots=True)
class Planned:
    """A door as it will be: its certificate is read."""

    settings: ListenerSettings
    hostname: str
    tls: Callable[[], SSLContext] | None
    direct_timeout_s: float


def plan(settings: RelaySettings) -> list[Planned]:
    """The doors of the settings, in their order. Raises BadCertificate."""
    return [_planned(door, settings.dispatch.direct_timeout_s) for door in settings.doors]


def _planned(door: ListenerSettings, direct_timeout_s: float) -> Planned:
    tls = None
    if door.tls_cert is not None:
        try:
            tls = ServerTls(door.tls_cert, door.tls_key, minimum=door.tls_min).context
        except OSError as error:
            raise BadCertificate(door.tls_cert, error) from error
    return Planned(door, door.hostname or socket.gethostname(), tls, direct_timeout_s)


class Doors:
    """All doors share `rates` and `authentication`."""

    def __init__(
        self,
        planned: Sequence[Planned],
        *,
        directory: Directory,
        queue: Queue,
        rates: Rates,
        authentication: Authentication,
    ) -> None:
        self._directory, self._queue = directory, queue
        self._rates, self._authentication = rates, authentication
        self.listeners = tuple(map(self._listener, planned))
        self._retired: list[Listener] = []  # they listen no longer; their sessions go on

    async def start(self, given: Sequence[Inherited]) -> None:
        """Open them, at the sockets `given` where those are meant for them. Raises BadActivation, DoorRefused."""
        sockets = assigned(given, [listener.settings for listener in self.listeners])
        for listener, inherited in zip(self.listeners, sockets, strict=True):
            await _start(listener, inherited)

    async def change(self, planned: Sequence[Planned]) -> None:
        """Make them those of `planned`: a door whose socket stays the same keeps it, sessions go on at all of them.

        Raises DoorRefused when a new one cannot be opened; all is as before then.
        """
        self._retired = [listener for listener in self._retired if listener.connections]
        kept, going = self._matched(planned)
        opened: dict[int, Listener] = {}
        try:
            for number, door in enumerate(planned):
                if number not in kept:
                    opened[number] = await self._open(door, going)
        except DoorRefused:
            for listener in opened.values():
                await self._retire(listener)
            raise
        for number, listener in kept.items():
            door = planned[number]
            listener.configure(
                door.settings, hostname=door.hostname, tls=door.tls, direct_timeout_s=door.direct_timeout_s
            )
        self.listeners = tuple(kept.get(number) or opened[number] for number in range(len(planned)))
        for listener in going:
            await self._retire(listener)

    def stop_accepting(self) -> None:
        """See `Listener.stop_accepting`."""
        for listener in (*self.listeners, *self._retired):
            listener.stop_accepting()

    async def drain(self, timeout_s: float) -> bool:
        """See `Listener.drain`."""
        every = (*self.listeners, *self._retired)
        return all(await asyncio.gather(*(listener.drain(timeout_s) for listener in every)))

    def inherited_without(self, planned: Sequence[Planned]) -> list[ListenerSettings]:
        """Doors at sockets of the service manager that `planned` has no more: their sockets stay open there."""
        return [listener.settings for listener in self._matched(planned)[1] if listener.inherited]

    def _matched(self, planned: Sequence[Planned]) -> tuple[dict[int, Listener], list[Listener]]:
        """Which open listener each planned door keeps, by the door's number, and those that none keeps."""
        left = list(self.listeners)
        kept: dict[int, Listener] = {}
        for number, door in enumerate(planned):
            found = next((listener for listener in left if _same_socket(listener, door.settings)), None)
            if found is not None:
                left.remove(found)
                kept[number] = found
        return kept, left

    async def _open(self, door: Planned, going: Sequence[Listener]) -> Listener:
        """A new listener; one that is going may hold its port at another address until it has gone."""
        listener = self._listener(door)
        in_the_way = [one for one in going if door.settings.path is None and _same_port(one, door.settings)]
        for one in in_the_way:
            one.share_port(True)
        try:
            await _start(listener, None, beside=bool(in_the_way))
        finally:
            for one in in_the_way:
                one.share_port(False)
        return listener

    async def _retire(self, listener: Listener) -> None:
        await listener.retire()
        if listener.connections:
            self._retired.append(listener)

    def _listener(self, door: Planned) -> Listener:
        return Listener(
            door.settings,
            self._directory,
            self._queue,
            instance_id=door.hostname,
            hostname=door.hostname,
            tls=door.tls,
            rates=self._rates,
            authentication=self._authentication,
            direct_timeout_s=door.direct_timeout_s,
        )


async def _start(listener: Listener, inherited: socket.socket | None, *, beside: bool = False) -> None:
    try:
        await listener.start(inherited, beside=beside)
    except OSError as error:
        raise DoorRefused(listener.settings, error) from error


def _same_socket(listener: Listener, door: ListenerSettings) -> bool:
    before = listener.settings
    if listener.inherited and before.name is not None:
        return before.name == door.name
    return (before.host, before.port, before.path) == (door.host, door.port, door.path)


def _same_port(listener: Listener, door: ListenerSettings) -> bool:
    return listener.settings.path is None and listener.port == door.port
