"""Processes that run `relay` without importing it first: children forked from one process that has it imported.

Most of the processor time of a short `relay` process is its imports. Here one server process for each pytest process
imports the program once and then forks a child for each command: a process of its own, with its own arguments,
environment, folder, streams, signals and end. It ends without taking the interpreter apart, which would copy all that
it shares with the server and cost more than most commands. What this hides is proved by processes that start fresh
(`RelayDaemon(fresh=True)`, tests/system/test_cli_daemon.py, tests/system/killtest.py): memory, /proc/PID/cmdline and
/proc/PID/environ (a forked child shows the server's), the time of a start, the interpreter's own end, what a password's
hash costs. What a child itself starts with its interpreter is forked as well (tests/forkmodules.py).

The server is a child of the pytest process, and ends, killing what still runs, when that one does.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import pkgutil
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import argon2

import relay
import relay.__main__
from relay.accounts import passwords
from tests import forkmodules

REPOSITORY = Path(__file__).parents[1]
AVAILABLE = hasattr(os, "pidfd_open")  # Linux
REQUEST_BYTES = 1 << 18
NOT_IMPORTED = ("relay.console.", "relay.database.migrations")  # the console is a process of its own
WHEN_NEEDED = (  # what the program imports in its functions
    *("argon2", "authlib.oauth2", "httpx", "idna", "joserfc.jwt", "pyotp", "python_socks.async_.asyncio"),
    *("rich.console", "rich.table", "segno", "sqlalchemy.dialects.sqlite", "uvloop"),
)


class Forked:
    """A running `relay`; its parts have the names of asyncio's `Process`."""

    def __init__(self, connection: socket.socket, stdout: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        self.stdout, self.stderr = stdout, stderr
        self.pid = 0
        self._connection = connection
        self._ended: asyncio.Task[int] | None = None

    @property
    def returncode(self) -> int | None:
        """The exit status, or minus the signal that ended it; None while it runs."""
        return self._ended.result() if self._ended is not None and self._ended.done() else None

    async def begin(self) -> None:
        """Wait until it has a process id."""
        told = await asyncio.get_running_loop().sock_recv(self._connection, 64)
        if not told:
            raise RuntimeError("the fork server is gone")
        self.pid = int(told)
        self._ended = asyncio.create_task(self._end(), name="forked relay")

    async def wait(self) -> int:
        """Its exit status, once there is one."""
        assert self._ended is not None
        return await asyncio.shield(self._ended)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self.returncode is None:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:  # it ended, and the server has not said so yet
                pass

    async def _end(self) -> int:
        told = await asyncio.get_running_loop().sock_recv(self._connection, 256)
        self._connection.close()
        if not told:
            raise RuntimeError("the fork server is gone")
        status, cost = json.loads(told)
        SPENT.append(cost)
        return int(status)


SPENT: list[float] = []  # seconds of processor time of what has ended, for `--cpu-report`
_server: tuple[int, socket.socket, subprocess.Popen[bytes]] | None = None


def _ours() -> socket.socket:
    """The connection to this process's server, which is started at the first call."""
    global _server
    if _server is None or _server[0] != os.getpid():
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        base = {"PATH": os.environ.get("PATH", ""), "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "tests.forkserver", str(there.fileno())]
        process = subprocess.Popen(command, env=base, pass_fds=[there.fileno()], stdin=subprocess.DEVNULL)
        there.close()
        _server = (os.getpid(), here, process)
    return _server[1]


def close() -> None:
    """End the server, if there is one, and wait for it."""
    global _server
    if _server is not None and _server[0] == os.getpid():
        _server[1].close()
        _server[2].wait(20)
    _server = None


async def _reading(file: BinaryIO) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader


async def run(argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: int) -> Forked:
    """Start `relay ARGV`; `stdin` is an open file, which stays the caller's."""
    readers: list[asyncio.StreamReader] = []
    ends: list[int] = []
    for _ in range(2):
        mine, other = os.pipe()
        readers.append(await _reading(os.fdopen(mine, "rb", 0)))
        ends.append(other)
    connection, their_connection = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setblocking(False)
    try:
        request = json.dumps({"argv": list(argv), "env": dict(env), "cwd": str(cwd)}).encode()
        assert len(request) < REQUEST_BYTES
        socket.send_fds(_ours(), [request], [stdin, *ends, their_connection.fileno()])
    finally:
        their_connection.close()
        for end in ends:
            os.close(end)
    forked = Forked(connection, *readers)
    await forked.begin()
    return forked


def _spent_s(usage: Any) -> float:
    return float(usage.ru_utime + usage.ru_stime)


class Server:
    """Forks a child for each request of `requests`, and tells each one's id and end on the connection it came with."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._selector = selectors.DefaultSelector()
        self._selector.register(requests, selectors.EVENT_READ, None)
        self._children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
        self._told_s = 0.0
        self._module_server = 0
        self._stub, self._modules = forkmodules.lay_stub()
        self._selector.register(self._modules, selectors.EVENT_READ, None)
        self._costs, self._their_costs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._selector.register(self._costs, selectors.EVENT_READ, None)

    def serve(self) -> dict[str, Any] | None:
        """Returns in each child, with its request; in the server when nobody is there to ask any more: None."""
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._reap(key.fd)
                    continue
                if key.fileobj is self._costs:
                    self._told_s -= float(self._costs.recv(64))  # told with the next child's
                    continue
                if key.fileobj is self._modules:  # the first time
                    self._selector.unregister(self._modules)
                    self._module_server = forkmodules.begin(self._modules, self._their_costs)
                    continue
                request, handed, _, _ = socket.recv_fds(self._requests, REQUEST_BYTES, 4)
                if not request:
                    self._kill_all()
                    return None
                if (pid := os.fork()) == 0:
                    self._let_go()
                    return _become(json.loads(request), handed, self._stub)
                self._follow(pid, handed)

    def _let_go(self) -> None:
        """In a child: what is between the server and others is none of its business."""
        self._selector.close()
        for own in (self._requests, self._modules, self._costs, self._their_costs):
            own.close()
        for pidfd, (_, connection) in self._children.items():
            os.close(pidfd)
            connection.close()

    def _follow(self, pid: int, handed: list[int]) -> None:
        connection = socket.socket(fileno=handed.pop())
        for descriptor in handed:
            os.close(descriptor)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (pid, connection)
        self._selector.register(pidfd, selectors.EVENT_READ, pid)
        self._tell(connection, str(pid))

    def _reap(self, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        pid, connection = self._children.pop(pidfd)
        _, status, usage = os.wait4(pid, 0)
        own = sum(os.times()[:2])
        cost, self._told_s = _spent_s(usage) + own - self._told_s, own
        self._tell(connection, json.dumps([os.waitstatus_to_exitcode(status), cost]))
        connection.close()

    def _tell(self, connection: socket.socket, text: str) -> None:
        try:
            connection.send(text.encode())
        except OSError:  # nobody listens any more
            pass

    def _kill_all(self) -> None:
        for pid, _ in self._children.values():
            os.kill(pid, signal.SIGKILL)
        if self._module_server:
            os.kill(self._module_server, signal.SIGKILL)
            os.waitpid(self._module_server, 0)
        shutil.rmtree(self._stub.parent)


def _become(request: dict[str, Any], handed: list[int], stub: Path) -> dict[str, Any]:
    """In the child: take the streams, the environment and the folder of the request."""
    for number, descriptor in enumerate(handed[:3]):
        os.dup2(descriptor, number)
    for descriptor in handed:
        os.close(descriptor)
    sys.executable = str(stub)
    take_over(request, ["relay", *request["argv"]])
    return request


def take_over(request: Mapping[str, Any], argv: list[str]) -> None:
    """Be what was asked for; its streams are in place."""
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = argv
    sys.stdin = io.TextIOWrapper(
        io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8", errors="surrogateescape"
    )
    sys.stdout = _writing(1, errors="surrogateescape")
    sys.stderr = _writing(2, errors="backslashreplace", line_buffering=True)


def _writing(number: int, *, errors: str, line_buffering: bool = False) -> io.TextIOWrapper:
    raw = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding="utf-8", errors=errors, line_buffering=line_buffering)


def _import_all() -> None:
    for module in pkgutil.walk_packages(relay.__path__, "relay."):
        if not module.name.startswith(NOT_IMPORTED):
            importlib.import_module(module.name)
    for name in WHEN_NEEDED:
        importlib.import_module(name)


def hash_cheaply() -> None:
    """From now on passwords are hashed at the least cost there is, in this process and those forked from it."""
    cheap = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    passwords._hasher = lambda: cheap  # type: ignore[assignment]


def main(descriptor: int) -> int:
    """The server's process, and each child's."""
    _import_all()
    hash_cheaply()
    gc.collect()
    gc.freeze()  # a collection in a child does not copy what it shares with the server
    if Server(socket.socket(fileno=descriptor)).serve() is not None:
        run_and_end(relay.__main__.main)
    return 0


def run_and_end(program: Callable[[], int | None]) -> NoReturn:
    """In the child: what the interpreter does with a program, up to the point where it takes itself apart."""
    status = 1
    try:
        status = program() or 0
    except SystemExit as ended:  # a thread of the program, or a library, may say it this way
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    finally:
        threading._shutdown()  # waits for threads, as Py_FinalizeEx does first
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # the reader is gone; the program closed it
                stream.flush()
        os._exit(status)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
