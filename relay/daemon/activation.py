"""What systemd gives a service and hears from it: listening sockets (sd_listen_fds), readiness (sd_notify)."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from relay.mail.counted import counted
from relay.mail.errors import RelayError

if TYPE_CHECKING:
    from relay.config.settings import ListenerSettings

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
    """The socket of each door; None: it opens its own.

    As soon as one door has a name, each socket must carry the name of a door: a socket that was meant for TLS never
    becomes a plain door because its name was misspelt or left out.  Where no door has one, sockets of one unit go by
    their order, which is that of its ListenStream= lines; there is no order among units (systemd.socket(5)).

    Raises BadActivation, with the remedy.
    """
    if any(door.name is not None for door in doors):
        return _by_name(given, doors)
    if given and len(given) != len(doors):
        raise BadActivation(
            f"LISTEN_FDS: {counted(len(given), 'socket')} for {counted(len(doors), 'door')}; give each door a name in "
            "RELAY_LISTENERS, and its socket the same in FileDescriptorName="
        )
    if len({one.name for one in given}) > 1:
        raise BadActivation(
            f"LISTEN_FDNAMES: no door has a name, so whose are {' and '.join(_shown(one) for one in given[:3])}? "
            'Name the doors in RELAY_LISTENERS ("name": …), as FileDescriptorName= names their sockets'
        )
    return [one.socket for one in given] or [None] * len(doors)


def _by_name(given: Sequence[Inherited], doors: Sequence[ListenerSettings]) -> list[socket.socket | None]:
    names = [door.name for door in doors]
    found: list[socket.socket | None] = [None] * len(doors)
    for one in given:
        if one.name not in names:
            known = ", ".join(name for name in names if name is not None)
            raise BadActivation(
                f"LISTEN_FDNAMES: no door has the name of the socket {_shown(one)}; "
                f"give it FileDescriptorName= with one of {known}, or a door that name in RELAY_LISTENERS"
            )
        number = names.index(one.name)
        if found[number] is not None:
            raise BadActivation(
                f"LISTEN_FDNAMES: two sockets have the name {_shown(one)}; a door has one: "
                "write one ListenStream= for each name, and a door for each in RELAY_LISTENERS"
            )
        found[number] = one.socket
    return found


def _shown(one: Inherited) -> str:
    return ascii(one.name)[1:-1] or "without a name"


def notify(environ: Mapping[str, str], state: str) -> None:
    """Tell the service manager, if there is one that wants to hear: READY=1, STOPPING=1 (sd_notify(3))."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as teller:
        teller.setblocking(False)
        teller.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
