"""Why settings could not be put in force, in the one line that names the remedy."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from relay.daemon.doors import BadCertificate, DoorRefused
from relay.database.engine import StoreLocked

if TYPE_CHECKING:
    from relay.config.settings import RelaySettings


def why(error: Exception, settings: RelaySettings) -> str:
    """What stood in the way of `settings`, and what to do."""
    if isinstance(error, StoreLocked):
        return f"{error}; stop that one first (systemctl stop relay, or kill its process)"
    if isinstance(error, DoorRefused):
        return _why_no_socket(error, settings) if error.door.path is not None else _why_no_door(error, settings)
    if isinstance(error, BadCertificate):
        name = "RELAY_LISTENERS" if settings.listeners else "RELAY_LISTENER__TLS_CERT"
        return f"{name}: {error}; give a certificate chain (PEM) and the key that belongs to it"
    if isinstance(error, OSError) and error.filename and _in_data_dir(Path(str(error.filename)), settings):
        return f"RELAY_DATA_DIR: {error.filename}: {error.strerror}; {_how_to_write(error, settings)}"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return f"{error}; ports below 1024 and folders of others need rights: give others, or run as their owner"
    return str(error)


def _in_data_dir(path: Path, settings: RelaySettings) -> bool:
    return settings.data_dir.is_relative_to(path) or path.is_relative_to(settings.data_dir)


def _how_to_write(error: OSError, settings: RelaySettings) -> str:
    match error.errno:
        case errno.EROFS:
            return "mount a volume there that can be written, or give another folder"
        case errno.ENOSPC | errno.EDQUOT:
            return "free some space on its device"
        case _:
            user = os.geteuid()
            return f"give a folder that user {user} can write (chown -R {user} {settings.data_dir})"


def _why_no_door(error: DoorRefused, settings: RelaySettings) -> str:
    host, port = error.door.host, error.door.port
    name = "RELAY_LISTENERS" if settings.listeners else "RELAY_LISTENER"
    of_host, of_port = (name, name) if settings.listeners else (f"{name}__HOST", f"{name}__PORT")
    match error.errno:
        case errno.EADDRNOTAVAIL:
            return f"{of_host}: {host} is no address of this machine; give one that is"
        case errno.EADDRINUSE:
            return f"{of_port}: {host} port {port} is in use; stop what listens there, or give another port"
        case errno.EACCES:
            return f"{of_port}: no right to listen on {host} port {port}; give one above 1023, or CAP_NET_BIND_SERVICE"
        case _:
            return f"{of_host}: cannot listen on {host} port {port}: {error.reason}; give another address"


def _why_no_socket(error: DoorRefused, settings: RelaySettings) -> str:
    name = "RELAY_LISTENERS" if settings.listeners else "RELAY_LISTENER__PATH"
    path = error.door.path
    match error.errno:
        case errno.EADDRINUSE:
            return f"{name}: somebody listens at {path}; stop that one, or give another path"
        case errno.EEXIST:
            return f"{name}: {path} exists and is no socket; remove it, or give another path"
        case _:
            return f"{name}: cannot listen at {path}: {error.reason}; give a path in a folder that can be written"
