"""A private Postfix: its own configuration, queue, data and log in a folder of its own, on ports that the caller names.

Needs root (Postfix changes users itself) and Debian's package. Nothing of an installed Postfix is read or touched.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

SERVICES = """\
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsproxy unix - - n - 0 tlsproxy
"""
SETTINGS = {
    "compatibility_level": "3.6",
    "myhostname": "postfix.example",
    "mydestination": "",
    "mynetworks": "127.0.0.0/8",
    "inet_interfaces": "loopback-only",
    "inet_protocols": "ipv4",
    "smtp_host_lookup": "native",
    "biff": "no",
    "append_dot_mydomain": "no",
    "alias_maps": "",
    "local_recipient_maps": "",
}


def missing() -> str:
    """Why no private Postfix can run here; empty if it can."""
    if os.geteuid() != 0:
        return "a private Postfix needs root"
    if shutil.which("postfix", path=search_path()) is None:
        return "Postfix is not installed"
    return ""


def search_path() -> str:
    """PATH with the folders of system programs."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for_port(port: int, timeout_s: float = 10) -> None:
    """Return once something accepts on 127.0.0.1:`port`; TimeoutError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens on port {port}") from None
            time.sleep(0.02)
        else:
            return


class PrivatePostfix:
    """One instance. `folder` must be one that user postfix may enter (0755 all the way down); the caller removes it.

    `settings` go on top of `SETTINGS`, `services` (master.cf lines) behind `SERVICES`. `ports` are waited for at start.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str], services: str, ports: Sequence[int]) -> None:
        self.folder = folder
        self.config = folder / "config"
        self.queue = folder / "queue"
        self.log = folder / "postfix.log"
        self.ports = tuple(ports)
        self._settings = dict(settings)
        self._services = services

    def configure(self) -> None:
        """Write the configuration and make the folders. Lookup tables are the caller's (`table`)."""
        for folder in (self.config, self.queue, self.folder / "data"):
            folder.mkdir(parents=True, exist_ok=True)
        os.chown(self.folder / "data", pwd.getpwnam("postfix").pw_uid, -1)
        settings = SETTINGS | {
            "queue_directory": str(self.queue),
            "data_directory": str(self.folder / "data"),
            "maillog_file": str(self.log),
            "maillog_file_prefixes": str(self.folder),
        }
        lines = [f"{name} = {value}" for name, value in (settings | self._settings).items()]
        (self.config / "main.cf").write_text("\n".join(lines) + "\n")
        (self.config / "master.cf").write_text(SERVICES + self._services)
        past = time.time() - 60  # Postfix reads a file that changed just now again and again, at 0.3 s a time
        os.utime(self.config / "main.cf", (past, past))

    def table(self, name: str, entries: Mapping[str, str]) -> str:
        """Write a hash: table of `entries`, readable by root only; its name for main.cf comes back."""
        path = self.config / name
        self.config.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text("".join(f"{key} {value}\n" for key, value in entries.items()))
        self._run("postmap", "-c", str(self.config), f"hash:{path}")
        return f"hash:{path}"

    def start(self, prefix: Sequence[str] = ()) -> None:
        """Start it, with `prefix` in front of the command, and wait until every port answers."""
        self._run(*prefix, "postfix", "-c", str(self.config), "start")
        for port in self.ports:
            wait_for_port(port)

    def stop(self) -> None:
        """Stop it at once, as `postfix abort` does; killed if it does not go. Nothing to do if it is gone already."""
        master = self.master_pid()
        if master is None:
            return
        os.kill(master, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while _alive(master):
            if time.monotonic() > deadline:
                os.killpg(master, signal.SIGKILL)
                return
            time.sleep(0.02)

    def master_pid(self) -> int | None:
        """The master's process id while it runs."""
        try:
            pid = int((self.queue / "pid/master.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if _alive(pid) else None

    def __enter__(self) -> Self:
        self.configure()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, *command: str, check: bool = True) -> None:
        environment = {"PATH": search_path(), "LANG": "C"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        if check and done.returncode != 0:
            log = self.log.read_text() if self.log.exists() else ""
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}{log[-2000:]}")


def _alive(pid: int) -> bool:
    """True while the process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
