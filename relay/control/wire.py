"""The command's side of the control socket: one request a connection, lines of JSON (without asyncio, to be quick)."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from relay.control.refusal import ControlError
from relay.mail.errors import RelayError

SOCKET_NAME = "control.sock"
MAX_LINE = 1 << 20  # octets of a request
MAX_ANSWER = 1 << 26  # octets of each line of an answer: the story of a message to a thousand recipients is one
ACTION_S = 900.0  # longest an action may take; the dot of a test mail alone may take ten minutes (RFC 5321 4.5.3.2.6)
_CONNECT_S = 5.0
_MAX_PATH = 100  # sun_path holds 108 octets


class NoDaemon(RelayError):
    """Nobody listens on the control socket."""


@contextlib.contextmanager
def reachable(data_dir: Path) -> Iterator[str]:
    """The socket's address, short enough for the kernel however long `data_dir` is (unix(7)). Raises OSError."""
    path = data_dir / SOCKET_NAME
    if len(os.fsencode(path)) <= _MAX_PATH:
        yield str(path)
        return
    folder = os.open(data_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET_NAME}"
    finally:
        os.close(folder)


def call(
    data_dir: Path,
    action: str,
    arguments: Mapping[str, Any],
    on_progress: Callable[[Mapping[str, Any]], None] = lambda _: None,
    *,
    answer_s: float = ACTION_S + 10,
) -> Any:
    """Have the running daemon do `action`; its result, or what it tells meanwhile, each within `answer_s`.

    Raises NoDaemon, and ControlError, also when the daemon ends or stays silent in the middle: then the change
    may have been made or not, and the remedy says so.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(min(_CONNECT_S, answer_s))
        try:
            with reachable(data_dir) as address:
                connection.connect(address)
        except OSError as error:
            raise NoDaemon(f"no daemon answers in {data_dir}") from error
        connection.settimeout(answer_s)
        request = json.dumps({"action": action, "args": dict(arguments)}).encode() + b"\n"
        if len(request) > MAX_LINE:
            raise ControlError("the request is too large", "give fewer ids in one command")
        try:
            connection.sendall(request)
            with connection.makefile("rb") as lines:
                return _answer(lines, on_progress)
        except OSError:
            raise ControlError("the daemon stopped answering", "look at its log; repeat the command") from None


def refusal(error: Mapping[str, Any]) -> ControlError:
    """The refusal that an answer holds."""
    return ControlError(error["text"], error["remedy"], error.get("kind", "refused"), error.get("wait_s"))


def _answer(lines: Any, on_progress: Callable[[Mapping[str, Any]], None]) -> Any:
    while line := lines.readline(MAX_ANSWER + 1):
        if not line.endswith(b"\n"):
            break
        answer = json.loads(line)
        if "progress" in answer:
            on_progress(answer["progress"])
        elif "error" in answer:
            raise refusal(answer["error"])
        else:
            return answer["ok"]
    raise ControlError("the daemon ended in the middle of it", "look at its log; repeat the command")
