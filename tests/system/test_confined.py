"""Mail and console work under the systemd unit's system call filter, without writable code and without any right."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.daemon import REPOSITORY, RelayDaemon
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, PASSWORD, QUICK, at

UNIT = REPOSITORY / "docker" / "systemd" / "relay.service"
pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None or not list(Path("/usr/lib").glob("*/libseccomp.so.2")),
    reason="needs systemd-analyze and libseccomp (packages systemd, libseccomp2)",
)


def confined(*program: str) -> list[str]:
    return [sys.executable, "-m", "tests.system.confine", str(UNIT), *program]


class ConfinedDaemon(RelayDaemon):
    """As systemd would start it."""

    def command(self, *arguments: str) -> list[str]:
        """Only the daemon."""
        plain = super().command(*arguments)
        return confined(*plain) if arguments == ("serve",) else plain


async def test_all_work_is_done_under_the_units_filter(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    authority = tmp_path / "ca.pem"
    upstream.authority.cert_pem.write_to_path(str(authority))
    settings = QUICK | {"RELAY_CONSOLE__ENABLED": "yes", "RELAY_CONSOLE__PORT": "0"}
    async with ConfinedDaemon(tmp_path / "data", settings) as daemon:
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        assert "Seccomp:\t2\n" in status
        assert "NoNewPrivs:\t1\n" in status
        await daemon.add_account(APP, PASSWORD, *at(upstream, authority))
        large = b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 3000  # in a spool file
        for content in (b"Subject: small\r\n\r\nhello\r\n", large):
            await daemon.submit(APP, ["you@example.org"], content)
        assert {len((await upstream.next_message()).content) > 100_000 for _ in range(2)} == {True, False}
        await daemon.cli(
            "console", "password", "--password-file", "-", stdin="correct horse battery"
        )  # Argon2 runs in the daemon
        started = await daemon.event("console.started", timeout_s=15)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{started['port']}", timeout=15) as web:
            answer = await web.post("/login", data={"username": "admin", "password": "correct horse battery"})
            assert answer.status_code == 303, answer.text
        assert await daemon.stop() == 0
    assert [event for event in daemon.events if event["event"] == "daemon.fault"] == []


ATTEMPTS = """
import mmap, os, socket
for attempt in (
    lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC),
    lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    lambda: os.chroot("/"),
    lambda: os.setuid(1),
):
    try:
        attempt()
    except PermissionError:
        print("refused")
    else:
        print("done")
mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)  # what loads a library
"""


def test_the_filter_of_these_tests_forbids() -> None:
    tried = subprocess.run(
        confined(sys.executable, "-c", ATTEMPTS),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert tried.stdout.split() == ["refused"] * 4, tried.stderr
    assert tried.returncode == 0, tried.stderr
