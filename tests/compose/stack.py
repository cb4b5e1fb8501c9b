"""A copy of this checkout whose compose file a real engine runs, under names and ports of its own.

The engine is the one that `docker` talks to (DOCKER_HOST), on this machine: it mounts folders of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tests.daemon import REPOSITORY
from tests.peers.certificates import write_certificates
from tests.peers.register import SinkAccount, Taken, read_ledger, write_accounts

APP, PASSWORD = "erp@example.com", "a-password-nobody-may-see"
PROVIDER, PROVIDER_PORT = "provider.example", 1587
BUILD_S, LIMIT_S, PAUSE_S = 1500.0, 180.0, 0.5
PORTS = {"0.0.0.0:25:2525": "0.0.0.0:{}:2525", "127.0.0.1:8025:8025": "127.0.0.1:{}:8025"}


@cache
def composing() -> tuple[str, ...]:
    """The words that begin a compose command here; none: there is no such program."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ("docker", "compose")
    return ("docker-compose",) if shutil.which("docker-compose") else ()


@cache
def missing() -> str:
    """Why no compose file can be run here; "" if it can."""
    if shutil.which("docker") is None:
        return "needs docker"
    asked = subprocess.run(
        ["docker", "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, check=False
    )
    if asked.returncode != 0:
        return "needs a container engine that answers `docker version` (DOCKER_HOST)"
    return "" if composing() else "needs docker compose, or docker-compose"


@cache
def _is_first() -> bool:
    """docker-compose 1: older than `name` in the format."""
    version = subprocess.run([*composing(), "version", "--short"], capture_output=True, text=True, check=False)
    return version.stdout.startswith("1.")


class Stack:
    """One project of the engine; `close` removes all of it but its images."""

    def __init__(self, folder: Path, file: str) -> None:
        self.checkout = folder / "checkout"
        self.folder = self.checkout / "docker"
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
        for name in tracked.decode().rstrip("\0").split("\0"):
            (self.checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, self.checkout / name)
        self._file = self.folder / file
        text = self._file.read_text()
        ports = []
        for written, form in PORTS.items():
            assert text.count(f'"{written}"') == 1, written
            ports.append(_free_port())
            text = text.replace(written, form.format(ports[-1]))
        self.port, self.console = ports
        [name] = re.findall(r"^name: (.+)$", text, re.MULTILINE)
        self.project = f"{name}-test-{os.getpid()}"
        text = text.replace(f"name: {name}\n", "" if _is_first() else f"name: {self.project}\n", 1)
        self._file.write_text(text)
        self._environ = {**os.environ, "COMPOSE_PROJECT_NAME": self.project, "COMPOSE_FILE": file}
        self._environ["COMPOSE_HTTP_TIMEOUT"] = str(int(LIMIT_S))

    def script(self, commands: Iterable[str], folder: Path) -> str:
        """Run lines of a page as a person types them in `folder`; what they print. AssertionError if one fails."""
        text = "set -e\n" + "\n".join(commands).replace("docker compose", " ".join(composing()))
        done = subprocess.run(
            ["sh", "-c", text.replace("127.0.0.1:25 ", f"127.0.0.1:{self.port} ")],
            cwd=folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
        assert done.returncode == 0, (text, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    def compose(self, *arguments: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        """A compose command in the folder of the file."""
        done = subprocess.run(
            [*composing(), *arguments],
            cwd=self.folder,
            env=self._environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
        assert not check or done.returncode == 0, (arguments, done.stdout[-2000:], done.stderr[-2000:])
        return done

    def relay(self, service: str, *arguments: str, stdin: str = "") -> str:
        """`relay ARGUMENTS` in the container of `service`; what it prints."""
        return self.compose("exec", "-T", service, "relay", *arguments, stdin=stdin).stdout

    def container(self, service: str) -> str:
        """The id of its container."""
        return self.compose("ps", "-a", "-q", service).stdout.split()[0]

    def state(self, service: str) -> dict[str, Any]:
        """Of its container, as `docker inspect` has it."""
        found: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return found

    def events(self, service: str) -> list[dict[str, Any]]:
        """What it has logged so far."""
        lines = docker("logs", self.container(service)).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    async def healthy(self, *services: str) -> None:
        """Wait until the engine says so of all of them."""

        def all_are() -> bool:
            return all(self.state(service)["State"]["Health"]["Status"] == "healthy" for service in services)

        await until(all_are, f"{services} are healthy")

    def close(self) -> None:
        """Take it down with its volumes."""
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5", check=False)


class Provider:
    """A submission server in the network of the stack: the sink of tests/peers in a container of the relay's image."""

    def __init__(self, stack: Stack, network: str, folder: Path) -> None:
        self._name = f"{stack.project}-provider"
        self._ledger = folder / "out" / "ledger"
        self.ca = write_certificates(folder, PROVIDER).ca
        write_accounts(folder / "accounts.json", {APP: SinkAccount(PASSWORD, (APP,))})
        self._ledger.parent.mkdir()
        self._ledger.touch()
        for path in (folder, *folder.iterdir(), self._ledger):  # the image's user reads and writes them
            path.chmod(0o777 if path.is_dir() else 0o666)
        docker(
            *("run", "--detach", "--name", self._name, "--network", network, "--network-alias", PROVIDER),
            *("--volume", f"{stack.checkout / 'tests'}:/suite/tests:ro", "--volume", f"{folder}:/up"),
            *("--env", "PYTHONPATH=/suite", "--no-healthcheck", "--entrypoint", "python", image_of(stack)),
            *("-m", "tests.peers.sink", "--host", "0.0.0.0", "--port", str(PROVIDER_PORT), "--cert", "/up/chain.pem"),
            *("--key", "/up/key.pem", "--accounts", "/up/accounts.json", "--ledger", "/up/out/ledger"),
        )

    def taken(self) -> list[Taken]:
        """What it has taken so far."""
        return read_ledger(self._ledger)

    def stop(self) -> None:
        """Nobody answers there any more."""
        docker("stop", "-t", "5", self._name)

    def start(self) -> None:
        """It answers again."""
        docker("start", self._name)

    def close(self) -> None:
        """Remove it."""
        docker("rm", "--force", self._name)

    def account(self) -> tuple[str, ...]:
        """What `relay account add` needs after the address; the CA must be in the data folder."""
        where = ("--provider", "custom", "--host", PROVIDER, "--port", str(PROVIDER_PORT))
        return (*where, "--trust", "/var/lib/relay/ca.pem", "--password-file", "-")


def docker(*arguments: str) -> str:
    """What a docker command prints; AssertionError if it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=BUILD_S, check=False)
    assert done.returncode == 0, (arguments, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def image_of(stack: Stack) -> str:
    """The name that the file gives the relay's image."""
    [name] = set(re.findall(r"image: (authrelay/relay:\S+)", stack._file.read_text()))
    return name


async def until(holds: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Ask the engine again and again, which tells nobody of its own accord; AssertionError after `limit_s`."""
    end = time.monotonic() + limit_s
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < end, f"not in {limit_s} s: {what}"
        await asyncio.sleep(PAUSE_S)


def block_of(page: Path, first: str) -> list[str]:
    """The commands of the console block of a Markdown page that begins with the line `$ first`."""
    [block] = [
        found
        for found in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
        if found.startswith(f"$ {first}\n")
    ]
    return [line.removeprefix("$ ") for line in block.splitlines()]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return int(probe.getsockname()[1])
