"""The daemon's side of the control socket: who may use it, and one action a connection (see wire for the form)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import socket
import struct
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relay.control import registry
from relay.control.access import answers, places
from relay.control.access.admission import admitted
from relay.control.context import Control, ControlError
from relay.control.refusal import Kind
from relay.control.wire import ACTION_S, MAX_LINE, SOCKET_NAME, reachable
from relay.mail.errors import StorageFailed, StorageFull
from relay.telemetry import get_logger

log = get_logger()

_REQUEST_S = 10.0
_MODE = 0o600
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid (unix(7))


class ControlServer:
    """Answers commands. Start it only while holding the store's lock: whatever socket is there then is stale."""

    def __init__(self, data_dir: Path, control: Control) -> None:
        self._data_dir = data_dir
        self._control = control
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()
        self._places = places.Places()

    def configure(self, control: Control) -> None:
        """Commands that come from now on work on this."""
        self._control = control

    async def start(self) -> None:
        """Listen. Raises OSError when the socket cannot be made."""
        (self._data_dir / SOCKET_NAME).unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            os.fchmod(listening.fileno(), _MODE)  # Linux gives the name this mode at bind: never open to others
            with reachable(self._data_dir) as address:
                listening.bind(address)
            os.chmod(self._data_dir / SOCKET_NAME, _MODE)  # elsewhere, and whatever the umask added or took
            self._server = await asyncio.start_unix_server(self._accept, sock=listening, limit=MAX_LINE)
        except BaseException:
            listening.close()
            raise

    async def stop(self) -> None:
        """Take no more commands, end those under way (what they changed is committed or not at all)."""
        if self._server is None:
            return
        self._server.close()
        (self._data_dir / SOCKET_NAME).unlink(missing_ok=True)
        for session in self._sessions:
            session.cancel()
        if self._sessions:
            await asyncio.wait(list(self._sessions), timeout=5)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.current_task()
        assert session is not None
        self._sessions.add(session)
        try:
            if len(self._sessions) > places.ALL:
                _say(writer, _refusal("too many commands at once", "try again in a moment", "throttled", 2))
            else:
                await self._serve(reader, writer)
            await asyncio.wait_for(writer.drain(), _REQUEST_S)
        except (OSError, TimeoutError, asyncio.CancelledError):
            pass  # the command is gone, or we are: there is nobody to tell
        finally:
            self._sessions.discard(session)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _peer(writer)
        if uid not in (os.geteuid(), 0):
            _say(writer, _refusal("this socket is for the relay's own user and root", "run the command as one of them"))
            return
        try:
            async with asyncio.timeout(_REQUEST_S):
                request = await _read(reader)
        except (ValueError, TimeoutError):
            _say(writer, _refusal("no request came, or it was malformed", "use the relay command"))
            return
        control = self._control.asked_by(_name(uid), lambda told: _say(writer, {"progress": dict(told)}))
        _say(writer, await _answer(control, request, self._places))


@dataclass(frozen=True, slots=True)
class _Request:
    """`credential`: whose session or token it comes with; `key`: do it once (access.answers); `web`: through it."""

    action: str
    arguments: dict[str, Any]
    credential: dict[str, str] | None
    key: str | None
    web: bool


async def _read(reader: asyncio.StreamReader) -> _Request:
    """Raises ValueError (too long, no JSON, another form)."""
    line = await reader.readline()
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None  # the original error would carry the line
    match request:
        case {"action": str(action), "args": dict(arguments), "as": dict(given)}:
            credential = {str(kind): str(token) for kind, token in given.items()}
            key = request.get("key")
            return _Request(action, arguments, credential, str(key) if key is not None else None, web=True)
        case {"action": str(action), "args": dict(arguments)} if "as" not in request:  # whoever it is, is not everybody
            return _Request(action, arguments, None, None, web="web" in request)
    raise ValueError("another form")


async def _answer(control: Control, request: _Request, shares: places.Places) -> dict[str, Any]:
    """The last line: what came of the action. The outermost loop of a command, so a bug ends here.

    `changes` is as it was before: whoever is told another one later knows that this may not be so any more.
    """
    action, arguments = request.action, request.arguments
    desk, changes = control.desk, control.desk.changes
    try:
        async with asyncio.timeout(ACTION_S), AsyncExitStack() as taken:
            if request.web:
                taken.enter_context(shares.of_web())
            if request.credential is not None:
                control = await admitted(control, request.credential, action, arguments)
                if control.principal is not None:
                    taken.enter_context(shares.of(control.principal))
            if request.key is not None:
                found = await answers.once(control, request.key, action, arguments, registry.run)
            else:
                found = await registry.run(control, action, arguments)
            return {"ok": found, "changes": changes}
    except ControlError as refused:
        return _refusal(refused.text, refused.remedy, refused.kind, refused.wait_s)
    except StorageFull:
        return _refusal("the disk is full", "free some space, then repeat the command")
    except StorageFailed:
        return _refusal("the store could not be written", "see storage.failed in the daemon's log")
    except TimeoutError:
        return _refusal(f"it took longer than {ACTION_S:g} seconds", "look at the daemon's log; repeat the command")
    except Exception:
        log.exception("daemon.fault", where=f"control {action}")
        return _refusal("the daemon failed over it", "see daemon.fault in its log")
    finally:
        if desk.changes != changes:
            desk.changed()  # what was changed on the way has had its effect by now


def _refusal(text: str, remedy: str, kind: Kind = "unavailable", wait_s: int | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"text": text, "remedy": remedy, "kind": kind}
    return {"error": error if wait_s is None else error | {"wait_s": wait_s}}


def _say(writer: asyncio.StreamWriter, line: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the command may be gone
        writer.write(json.dumps(line, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def _peer(writer: asyncio.StreamWriter) -> int:
    """The user id at the other end, as the kernel knows it."""
    connection = writer.get_extra_info("socket")
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return int(_PEER.unpack(raw)[1])


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
