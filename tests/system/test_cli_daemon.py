"""Commands as processes: with a daemon, without one, and what nobody may see of a secret."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import smtplib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "hunter2-seen-by-nobody"
DEADLINE_S = 20


class Site:
    """A folder with a store in it, the commands for it, and at most one daemon."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        ours = ("RELAY_", "SMTP_AUTH_", "IMAP_")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.environ |= {
            "RELAY_DATA_DIR": str(self.data),
            "RELAY_LISTENER__PORT": "0",
            "RELAY_CONSOLE__ENABLED": "no",
            "RELAY_LOG__FORMAT": "json",
            "RELAY_LOG__LEVEL": "debug",
            "PYTHONPATH": str(ROOT),
        }
        self.folder = folder
        self.daemon: subprocess.Popen[str] | None = None
        self.log: list[dict[str, Any]] = []

    def relay(self, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "relay", *argv],
            env=self.environ,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert PASSWORD not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *argv: str) -> Any:
        done = self.relay(*argv, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def serve(self) -> int:
        """Start the daemon; its port."""
        self.daemon = subprocess.Popen(
            [sys.executable, "-m", "relay", "serve"],
            env=self.environ,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return int(self.event("daemon.ready")["port"])

    def event(self, name: str) -> dict[str, Any]:
        """Read the log until an event of that name."""
        assert self.daemon is not None
        assert self.daemon.stdout is not None
        for line in self.daemon.stdout:
            assert PASSWORD not in line
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == name:
                return self.log[-1]
        raise AssertionError(f"no {name} in {self.log}")

    def stop(self) -> int:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGTERM)
        rest, _ = self.daemon.communicate(timeout=DEADLINE_S)
        assert PASSWORD not in rest
        status = self.daemon.returncode
        self.daemon = None
        return status


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    if made.daemon is not None:
        made.daemon.kill()
        made.daemon.communicate()


def add(site: Site, address: str = "ann@example.com") -> subprocess.CompletedProcess[str]:
    argv = ["account", "add", address, "--host", "127.0.0.1", "--port", "9", "--password-file", "-"]
    return site.relay(*argv, stdin=PASSWORD + "\n")


def test_commands_take_effect_in_the_running_daemon_at_once(site: Site) -> None:
    port = site.serve()
    with smtplib.SMTP("127.0.0.1", port, timeout=DEADLINE_S) as client:
        client.ehlo("app.example.com")
        assert client.mail("ann@example.com")[0] == 550
        assert add(site).returncode == 0
        assert client.mail("ann@example.com")[0] == 250
        assert client.rset()[0] == 250
        assert site.relay("sender", "remove", "ann@example.com").returncode == 0
        assert client.mail("ann@example.com")[0] == 550
    assert site.stop() == 0
    assert [entry["address"] for entry in site.json("account", "list")] == ["ann@example.com"]  # the store's own


def test_a_message_can_be_held_traced_and_removed_in_the_running_daemon(site: Site) -> None:
    port = site.serve()
    add(site)
    site.relay("account", "suspend", "ann@example.com")
    with smtplib.SMTP("127.0.0.1", port, timeout=DEADLINE_S) as client:
        content = "Message-ID: <one@example.com>\r\n\r\nhi\r\n"
        client.sendmail("ann@example.com", ["x@example.org", "y@example.org"], content)
    [first, second] = site.json("queue", "list")
    assert first["id"] == second["id"]
    assert (first["state"], first["attempts"]) == ("queued", 0)
    done = site.relay("queue", "hold", first["id"])
    assert (done.returncode, done.stdout) == (0, "2 deliveries held.\n")
    assert site.json("queue", "summary")["states"] == {"held": 2}
    released = site.relay("queue", "release", first["id"])
    assert "ann@example.com is suspended" in released.stderr
    done = site.relay("account", "remove", "ann@example.com")
    assert done.returncode == 1
    assert "there wait 2 deliveries" in done.stderr
    assert site.json("queue", "remove", first["id"])["changed"] == 2
    [story] = site.json("trace", "<one@example.com>")
    events = [event["event"] for event in story["events"]]
    assert events == ["accepted", "queue.hold", "queue.release", "queue.remove", "removed", "removed"]
    assert site.relay("account", "remove", "ann@example.com").returncode == 0


def test_secrets_are_on_no_command_line_and_in_no_file(site: Site) -> None:
    site.serve()
    add(site)
    assert site.daemon is not None
    for name in ("cmdline", "environ"):
        assert PASSWORD.encode() not in Path(f"/proc/{site.daemon.pid}/{name}").read_bytes()
    for file in site.data.rglob("*"):
        if file.is_file():
            assert PASSWORD.encode() not in file.read_bytes()
    assert site.stop() == 0


def test_a_store_that_is_held_by_a_silent_process_is_named(site: Site) -> None:
    add(site)
    import fcntl

    with open(site.data / "relay.lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = site.relay("account", "list")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "holds the store" in done.stderr


def test_commands_that_start_together_wait_for_each_other(site: Site) -> None:
    add(site)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "relay", "client", "add", f"c{number}", "--network", f"10.0.{number}.0/24"],
            env=site.environ,
            cwd=site.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for process in running:
        _, complaint = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, complaint
    assert [entry["name"] for entry in site.json("client", "list")] == ["c0", "c1", "c2"]


def converse(master: int, answers: list[bytes]) -> bytes:
    """Answer each question that ends in ": " on a terminal; all that was shown."""
    shown, answered, deadline = b"", 0, time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        ready, _, _ = select.select([master], [], [], deadline - time.monotonic())
        try:
            chunk = os.read(master, 4096) if ready else b""
        except OSError:  # the other side has ended
            break
        if not chunk:
            break
        shown += chunk
        if shown.count(b": ") > answered and shown.endswith(b": ") and answered < len(answers):
            os.write(master, answers[answered] + b"\n")
            answered += 1
    return shown


@pytest.mark.parametrize(("second", "status"), [(PASSWORD, 0), ("something else", 1)])
def test_a_terminal_is_asked_twice_and_shows_nothing(site: Site, second: str, status: int) -> None:
    pid, master = pty.fork()
    if pid == 0:  # the child: a process with a terminal of its own
        os.chdir(site.folder)
        argv = [sys.executable, "-m", "relay", "account", "add", "ann@example.com", "--host", "127.0.0.1"]
        os.execve(sys.executable, argv, site.environ)
    shown = converse(master, [PASSWORD.encode(), second.encode()])
    _, ended = os.waitpid(pid, 0)
    os.close(master)
    assert os.waitstatus_to_exitcode(ended) == status, shown
    assert PASSWORD.encode() not in shown
    assert (b"Added ann@example.com" in shown) == (status == 0)
    assert (b"differ" in shown) == (status == 1)


def test_the_demo_shows_a_mail_arriving_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    site.environ["TMPDIR"] = str(tmp_path / "tmp")
    site.environ["RELAY_LISTENER__PORT"] = "2525"  # of this site, not of the demo's
    done = site.relay("demo")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "logged in as   billing@example.com" in done.stdout
    assert "TLSv1." in done.stdout
    assert "550 5.7.1" in done.stdout
    assert list((tmp_path / "tmp").iterdir()) == []
    assert not site.data.exists()
    result = site.json("demo")
    assert result["login"] == "billing@example.com"
    assert result["sealed"]
    assert result["reply"].startswith("250 2.0.0 Ok: queued as ")
