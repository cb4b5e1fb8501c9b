"""Listening at a Unix socket: takes the place of a dead one, never of a living one or of another file."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

_CONNECT_S = 1.0


def listen_unix(path: Path, *, mode: int, backlog: int) -> socket.socket:
    """A listening, non-blocking socket at `path`, open to others from the moment it has `mode`.

    Raises OSError: EADDRINUSE when somebody listens there, EEXIST when what is there is no socket.
    """
    _clear(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(listening.fileno(), 0o600)  # Linux gives the name this mode at bind
        listening.bind(str(path))
        listening.listen(backlog)
        os.chmod(path, mode)
    except BaseException:
        listening.close()
        raise
    return listening


def identity(path: Path) -> tuple[int, int]:
    """What tells this file from another of its name; zeros when there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def _clear(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "a file that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(_CONNECT_S)
        try:
            caller.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):  # whoever made it is gone
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # its backlog is full: it lives
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
