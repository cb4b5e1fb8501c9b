"""What systemd gives a service and hears from it: listening sockets (sd_listen_fds), readiness (sd_notify)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from typing import NamedTuple

from relay.config.settings import ListenerSettings
from relay.mail.errors import RelayError

_FIRST = 3  # SD_LISTEN_FDS_START
_MOST = 1000


class Inherited(NamedTuple):
    """A listening socket that was open when the process began."""

    name: str
    socket: socket.socket


class BadActivation(RelayError):
    """The sockets that were handed over cannot be the doors of the settings."""


def inherited(environ: MutableMapping[str, str]) -> list[Inherited]:
    """The sockets meant for this process; what announces them is taken out of `environ`, so that no child sees it.

    Raises BadActivation when one is no listening stream socket.
    """
    meant_for, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if meant_for != str(os.getpid()) or not count.isdecimal() or not 0 < int(count) <= _MOST:
        return []
    found = []
    for number in range(int(count)):
        try:
            given = socket.socket(fileno=_FIRST + number)
            listens = given.type == socket.SOCK_STREAM and given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            listens = 0
        if not listens:
            raise BadActivation(f"LISTEN_FDS: descriptor {_FIRST + number} is no listening stream socket")
        given.setblocking(False)
        os.set_inheritable(given.fileno(), False)
        found.append(Inherited(names[number] if number < len(names) else "", given))
    return found


def assigned(given: Sequence[Inherited], doors: Sequence[ListenerSettings]) -> list[socket.socket | None]:
    """The socket of each door: the one with the door's name, or else the next in order; None: it opens its own.

    Raises BadActivation when more were given than there are doors.
    """
    if len(given) > len(doors):
        raise BadActivation(f"LISTEN_FDS: {len(given)} sockets for {len(doors)} doors; name each in RELAY_LISTENERS")
    left = list(given)
    found: list[socket.socket | None] = [None] * len(doors)
    for number, door in enumerate(doors):
        if door.name is not None:
            named = next((one for one in left if one.name == door.name), None)
            if named is not None:
                left.remove(named)
                found[number] = named.socket
    for number, free in enumerate(found):
        if free is None and left:
            found[number] = left.pop(0).socket
    return found


def notify(environ: Mapping[str, str], state: str) -> None:
    """Tell the service manager, if there is one that wants to hear: READY=1, STOPPING=1 (sd_notify(3))."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
        teller.setblocking(False)
        teller.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
