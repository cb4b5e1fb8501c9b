"""Runs the console in a process of its own: gives it the listening socket, reads its log, starts it again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay.telemetry import get_logger
from relay.telemetry.events import COMMON_KEYS, EVENTS

if TYPE_CHECKING:
    from relay.config.console import ConsoleSettings

log = get_logger()

_BACKLOG = 128
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0
_STEADY_S = 60.0  # whoever ran so long begins anew with the waits
_STOP_S = 8.0
_MAX_LINE = 1 << 16
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "HOME", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SSL_CERT_FILE")


class Web:
    """The console's process. Mail never waits for it: a port that is taken or a process that ends is told, and retried.

    The child gets the socket, and its settings on standard input; it ends when that closes, so also when the daemon
    is killed.  Nothing of our environment but the search paths reaches it.
    """

    def __init__(self, settings: ConsoleSettings, data_dir: Path) -> None:
        self._settings, self._data_dir = settings, data_dir
        self._task: asyncio.Task[None] | None = None
        self._former: set[asyncio.Task[None]] = set()  # that are ending
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    def start(self) -> None:
        """From now on there is a console, or somebody reads why not; none where the settings switch it off."""
        if self._settings.enabled:
            self._task = asyncio.create_task(self._supervise(), name="console")

    def configure(self, settings: ConsoleSettings) -> None:
        """Begin anew with other settings, once the process of before has ended. Never waits; nothing else does either.

        Who is signed in stays so: sessions are in the store.
        """
        before, self._settings = self._settings, settings
        if settings == before:
            return
        if settings.port != before.port:
            self.port = 0
        if self._task is not None:
            self._task.cancel()
            self._former.add(self._task)
            self._task.add_done_callback(self._former.discard)
            self._task = None
        self.start()

    async def stop(self) -> None:
        """End it; at most 8 s."""
        ending = set(self._former)
        if self._task is not None:
            self._task.cancel()
            ending.add(self._task)
        if ending:
            await asyncio.wait(ending, timeout=_STOP_S)

    async def _supervise(self) -> None:
        if self._former:
            await asyncio.wait(set(self._former), timeout=_STOP_S)
        loop = asyncio.get_running_loop()
        wait_s = _FIRST_WAIT_S
        while True:
            began = loop.time()
            try:
                with self._listen() as listening:
                    self.port = listening.getsockname()[1]
                    await self._run(listening)
            except OSError as error:
                log.error(
                    "console.unavailable",
                    host=self._settings.host,
                    port=self._settings.port,
                    detail=str(error),
                    to_do="mail goes on; give RELAY_CONSOLE__HOST and RELAY_CONSOLE__PORT that are free, or "
                    "RELAY_CONSOLE__ENABLED=no",
                )
            if loop.time() - began > _STEADY_S:
                wait_s = _FIRST_WAIT_S
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    def _listen(self) -> socket.socket:
        host = self._settings.host.strip("[]")
        family = socket.getaddrinfo(host, self._settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((host, self.port or self._settings.port))
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        return listening

    async def _run(self, listening: socket.socket) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "relay.console"),  # -P: no module comes from wherever we were started
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=(listening.fileno(),),
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            limit=_MAX_LINE,
        )
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            told = {"fd": listening.fileno(), "data_dir": str(self._data_dir), "console": self._settings.told}
            process.stdin.write(json.dumps(told).encode() + b"\n")
            with contextlib.suppress(OSError):
                await process.stdin.drain()
            async with asyncio.TaskGroup() as readers:
                readers.create_task(self._read_events(process.stdout), name="console log")
                readers.create_task(_read_words(process.stderr), name="console errors")
            status = await process.wait()
            log.error("console.ended", code=status, to_do="it is started again; see the lines before this one")
        finally:
            await _end(process)
            self._process = None

    async def _read_events(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines(stream):
            try:
                told = json.loads(line)
                event, level = told.pop("event"), told.pop("level")
                known = EVENTS[event].keys | COMMON_KEYS
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                log.warning("library.logged", logger="console", detail=line[:1000].decode("utf-8", "replace"))
                continue
            facts: dict[str, Any] = {key: value for key, value in told.items() if key in known}
            getattr(log, level if level in ("debug", "info", "warning", "error") else "info")(event, **facts)


async def _read_words(stream: asyncio.StreamReader) -> None:
    async for line in _lines(stream):
        log.warning("library.logged", logger="console", detail=line[:1000].decode("utf-8", "replace"))


async def _lines(stream: asyncio.StreamReader) -> Any:
    while True:
        try:
            line = await stream.readline()
        except ValueError:  # longer than a line may be
            continue
        if not line:
            return
        yield line.rstrip()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_STOP_S / 2):
            await process.wait()
    except TimeoutError:  # an OSError: were it raised, the supervisor would take it for a port that is taken, and go on
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()
