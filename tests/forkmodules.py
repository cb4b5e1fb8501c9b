"""What a forked daemon starts with its interpreter, forked in turn: the console, the second reading of the settings.

For `sys.executable -P -m MODULE` of a forked `relay` (tests/forkserver.py), `sys.executable` is a stub. It hands its
arguments, environment, folder and open files to one process that has these modules imported and forks a child for each
request; the stub lives for as long as that child: passes signals on, ends as it ended, and takes it along when killed.
Any other command the stub becomes itself. What a console costs from a fresh start, and that it is made as the program
makes it, is proved by daemons that start fresh (tests/system/test_console.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import tempfile
from pathlib import Path

MODULES = ("relay.console", "relay.daemon.reading")
_REQUEST_BYTES = 1 << 18
_MOST_FILES = 64
_FREE_FROM = 200  # numbers that no process here uses for its files
_PR_SET_PDEATHSIG = 1  # prctl(2)

_STUB = """\
#!{python} -IS
import json, os, signal, socket, sys
if sys.argv[1:3] != ["-P", "-m"] or len(sys.argv) != 4 or sys.argv[3] not in {modules!r}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
files = []
for number in map(int, os.listdir("/proc/self/fd")):
    try:
        if os.get_inheritable(number) or number < 3:
            files.append(number)
    except OSError:  # the listing's own
        pass
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect({address!r})
request = dict(module=sys.argv[3], env=dict(os.environ), cwd=os.getcwd(), files=files)
socket.send_fds(server, [json.dumps(request).encode()], files)
child = int(server.recv(64))
for number in files:
    os.close(number)
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: os.kill(child, number))
status = int(server.recv(64) or 1)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


def lay_stub() -> tuple[Path, socket.socket]:
    """The stub, in a folder of its own, and the socket at which it asks."""
    folder = Path(tempfile.mkdtemp(prefix="relay-fork-"))
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(folder / "socket"))
    listening.listen(64)
    stub = folder / "python"
    stub.write_text(_STUB.format(python=sys.executable, modules=MODULES, address=str(folder / "socket")))
    stub.chmod(0o755)
    return stub, listening


def begin(listening: socket.socket, costs: socket.socket) -> int:
    """Fork the process that answers at `listening`, for as long as this one lives; seconds it spent go to `costs`."""
    if (pid := os.fork()) != 0:
        return pid
    status = 1
    try:
        _die_with_parent()
        for module in MODULES:
            importlib.import_module(f"{module}.__main__" if module == "relay.console" else module)
        gc.collect()
        gc.freeze()
        _Server(listening, costs).serve()
        status = 0
    finally:
        os._exit(status)


class _Server:
    def __init__(self, listening: socket.socket, costs: socket.socket) -> None:
        self._listening, self._costs = listening, costs
        self._selector = selectors.DefaultSelector()
        self._selector.register(listening, selectors.EVENT_READ)
        self._children: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
        self._told_s = 0.0

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fd in self._children:
                    self._reap(key.fd)
                elif key.fileobj is self._listening:
                    self._begin(self._listening.accept()[0])
                elif self._selector.get_map().get(key.fd) is not None:
                    self._kill(key.fd)

    def _begin(self, stub: socket.socket) -> None:
        request, files, _, _ = socket.recv_fds(stub, _REQUEST_BYTES, _MOST_FILES)
        if not request:  # killed at once
            stub.close()
            return
        if (pid := os.fork()) == 0:
            self._selector.close()
            for own in (self._listening, self._costs, stub, *(told for _, told in self._children.values())):
                own.close()
            for pidfd in self._children:
                os.close(pidfd)
            _become(json.loads(request), files)
        for number in files:
            os.close(number)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (pid, stub)
        self._selector.register(pidfd, selectors.EVENT_READ)
        self._selector.register(stub, selectors.EVENT_READ)  # readable: the stub is gone
        _tell(stub, pid)

    def _kill(self, stub: int) -> None:
        self._selector.unregister(stub)
        for pid, told in self._children.values():
            if told.fileno() == stub:
                os.kill(pid, signal.SIGKILL)

    def _reap(self, pidfd: int) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        pid, stub = self._children.pop(pidfd)
        with contextlib.suppress(KeyError):
            self._selector.unregister(stub)
        _, status, usage = os.wait4(pid, 0)
        own = sum(os.times()[:2])
        cost, self._told_s = usage.ru_utime + usage.ru_stime + own - self._told_s, own
        _tell(self._costs, cost)
        _tell(stub, os.waitstatus_to_exitcode(status))
        stub.close()


def _tell(to: socket.socket, what: float) -> None:
    with contextlib.suppress(OSError):  # nobody listens any more
        to.send(str(what).encode())


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _become(request: dict[str, object], files: list[int]) -> None:
    """In the child: with the files of the request under their numbers, its environment and its folder."""
    from tests.forkserver import run_and_end, take_over

    _die_with_parent()
    held = [fcntl.fcntl(number, fcntl.F_DUPFD, _FREE_FROM) for number in files]
    for number in files:
        os.close(number)
    for number, wanted in zip(held, request["files"], strict=True):  # type: ignore[call-overload]
        os.dup2(number, wanted)
        os.close(number)
    module = str(request["module"])
    take_over(request, [sys.executable, "-m"])
    sys.modules.pop(module if module != "relay.console" else f"{module}.__main__", None)
    run_and_end(lambda: _run(module))


def _run(module: str) -> None:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
