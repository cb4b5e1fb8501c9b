"""The systemd units under a systemd that boots: port handed over, key from a credential, confined, ended in order."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.daemon import REPOSITORY, RelayDaemon
from tests.image.conftest import NEEDS_IMAGE
from tests.image.engine import Image, status_of
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, PASSWORD

pytestmark = [
    *NEEDS_IMAGE,
    pytest.mark.skipif(
        shutil.which("systemd-nspawn") is None, reason="needs systemd-nspawn (package systemd-container)"
    ),
]
UNITS = REPOSITORY / "docker" / "systemd"
DROP_IN = """[Service]
LoadCredential=relay-key-main:/etc/relay/keys/relay-key-main
StandardOutput=append:/run-log
StandardError=append:/run-log
"""


class BootedRelay(RelayDaemon):
    """A machine below `root` whose systemd starts the relay; what the relay writes comes through a FIFO."""

    def __init__(self, root: Path) -> None:
        super().__init__(root / "var" / "lib" / "relay")
        self.root = root
        self._pid_file = root.parent / "nspawn.pid"

    def command(self, *arguments: str) -> list[str]:
        """Commands run beside it, over the control socket, as root would on that machine."""
        if arguments != ("serve",):
            return ["chroot", str(self.root), "/opt/relay/bin/relay", *arguments]
        boot = (
            f"systemd-nspawn --quiet --boot --directory={self.root} --register=no --keep-unit --console=pipe "
            f"--machine=relay-unit-test </dev/null >{self.root.parent}/boot.log 2>&1 & echo $! >{self._pid_file}; "
            f"exec cat {self.root}/run-log"
        )
        return ["sh", "-c", boot]

    def environment(self) -> dict[str, str]:
        """Nothing: the unit has it all."""
        return {"PATH": os.environ["PATH"]}

    def signal(self, number: signal.Signals) -> None:
        """SIGTERM makes the machine shut down in order; it gets SIGKILL only when that fails."""
        os.kill(int(self._pid_file.read_text()), number)


@pytest.fixture
def machine(image: Image, tmp_path: Path) -> Path:
    """The image's base with the relay installed as docs/operations.md says; its port is in `port`."""
    if not (image.base / "lib" / "systemd" / "systemd").exists():
        pytest.skip("needs a base with systemd-sysv and dbus")
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", str(image.base), str(root)], check=True)
    subprocess.run(["cp", "-a", str(image.root / "opt" / "relay"), str(root / "opt" / "relay")], check=True)
    useradd = ("useradd", "--system", "--home-dir", "/var/lib/relay", "--shell", "/usr/sbin/nologin", "relay")
    subprocess.run(["chroot", str(root), *useradd], check=True)
    keys = root / "etc" / "relay" / "keys"
    keys.mkdir(mode=0o700, parents=True)
    (keys / "relay-key-main").touch(mode=0o600)
    (keys / "relay-key-main").write_text(base64.b64encode(secrets.token_bytes(32)).decode())
    (root / "etc" / "relay" / "relay.env").write_text("RELAY_CONSOLE__PORT=0\n")
    (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    units = root / "etc" / "systemd" / "system"
    shutil.copy(UNITS / "relay.service", units)
    listening = (UNITS / "relay.socket").read_text()
    assert "ListenStream=25\n" in listening
    (units / "relay.socket").write_text(listening.replace("ListenStream=25\n", f"ListenStream=127.0.0.1:{port}\n"))
    (units / "relay.service.d").mkdir()
    (units / "relay.service.d" / "test.conf").write_text(DROP_IN)
    subprocess.run(["chroot", str(root), "systemctl", "enable", "relay.socket", "relay.service"], check=True)
    os.mkfifo(root / "run-log")
    return root


async def test_a_mail_goes_through_the_unit(machine: Path) -> None:
    async with ScriptedUpstream(accounts={APP: PASSWORD}) as upstream:
        upstream.authority.cert_pem.write_to_path(str(machine / "etc" / "relay" / "ca.pem"))
        relay = BootedRelay(machine)
        await relay.start()
        try:
            await relay.add_account(
                *(APP, PASSWORD, "--host", "localhost", "--port", str(upstream.port), "--trust", "/etc/relay/ca.pem")
            )
            await relay.submit(APP, ["you@example.org"], b"Subject: from a unit\r\n\r\nIt works.\r\n")
            assert (await upstream.next_message()).account == APP
            assert '"main"' in (await relay.cli("key", "list", "--json")).stdout
            assert not (machine / "var/lib/relay/keys").exists()  # none was made
            status = _status_inside(next(event["pid"] for event in relay.events if event["event"] == "daemon.started"))
            assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
            assert "0" not in status["Uid"].split()
            await relay.event("console.started", timeout_s=30)
            await _reload(relay, "RELAY_LISTENER__MAX_RECIPIENTS=101\n")
            assert (await relay.event("daemon.reloaded"))["settings"] == "RELAY_LISTENER__MAX_RECIPIENTS"
            await relay.submit(APP, ["you@example.org"], b"Subject: after a reload\r\n\r\nIt works.\r\n")
            await upstream.next_message()
        finally:
            await relay.stop()
        assert (await relay.event("daemon.stopped"))["code"] == 0


async def _reload(relay: BootedRelay, more: str) -> None:
    """`systemctl reload relay` as root types it on that machine, behind a change of its settings."""
    with (relay.root / "etc" / "relay" / "relay.env").open("a") as settings:
        settings.write(more)
    nspawn = (relay.root.parent / "nspawn.pid").read_text().strip()
    first = Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split()[0]
    entering = ("nsenter", f"--target={first}", "--mount", "--uts", "--ipc", "--pid", "--root", "--wd=/")
    done = await asyncio.to_thread(
        subprocess.run,
        [*entering, "systemctl", "reload", "relay"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def _status_inside(number: int) -> dict[str, str]:
    """Of the daemon that has this number in a PID namespace."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                status = status_of(int(entry.name))
            except OSError:  # ended meanwhile
                continue
            if b"/opt/relay/bin/relay" in arguments and status["NSpid"].split()[-1] == str(number):
                return status
    raise AssertionError(f"no daemon has the number {number}")
