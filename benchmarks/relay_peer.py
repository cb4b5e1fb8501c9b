"""The relay as `relay serve`, with ten accounts of at most 3 connections each, no pace and no quota."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from benchmarks.gauge import Gauge
from benchmarks.scenarios import Scenario
from benchmarks.upstream import Site
from tests.peers.postfix import free_port, wait_for_port

LIMITS = ("--max-connections", "3", "--per-minute", "0", "--per-day", "0")
REPOSITORY = Path(__file__).parents[1]


class RelayPeer:
    """Accounts are made once (`prepare`); each measurement starts from a copy of that data folder."""

    name = "relay"

    def __init__(self, site: Site) -> None:
        self.port = free_port()
        self._site = site
        self._prepared = site.folder / "relay.prepared"
        self._data = site.folder / "relay.data"
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @staticmethod
    def missing() -> str:
        """It can always run."""
        return ""

    def prepare(self) -> None:
        """Add the accounts and senders, with a daemon running as an administrator would."""
        site = self._site
        self._prepared.mkdir(mode=0o700)
        with (site.folder / "prepare.log").open("wb") as output:
            daemon = subprocess.Popen(
                (*self._command(), "serve"), env=self._environment(self._prepared), stdout=output, stderr=output
            )
            try:
                self._wait(daemon, site.folder / "prepare.log")
                with ThreadPoolExecutor(2) as pool:
                    list(pool.map(self._add, site.accounts.items()))
            finally:
                _end(daemon)

    def start(self, scenario: Scenario, gauge: Gauge) -> None:
        """Start on a fresh copy of the prepared data; its processes belong to `gauge`."""
        shutil.rmtree(self._data, ignore_errors=True)
        shutil.copytree(self._prepared, self._data, ignore=shutil.ignore_patterns("*.sock"))
        self._output = self.log().open("wb")
        self._process = subprocess.Popen(
            (*gauge.prefix, *self._command(), "serve"),
            env=self._environment(self._data),
            stdout=self._output,
            stderr=self._output,
        )
        gauge.follow(self._process.pid)
        self._wait(self._process, self.log())

    def stop(self) -> None:
        """Stop it and remove its data."""
        if self._process is not None:
            _end(self._process)
            self._process = None
        if self._output is not None:
            self._output.close()
        shutil.rmtree(self._data, ignore_errors=True)

    def log(self) -> Path:
        """Its log: JSON lines."""
        return self._site.folder / "relay.log"

    def _add(self, account: tuple[str, str]) -> None:
        address, password = account
        site = self._site
        secret = site.folder / f"{address}.password"
        secret.touch(mode=0o600)
        secret.write_text(password)
        upstream = ("--host", "localhost", "--port", str(site.port), "--trust", str(site.certificates.ca))
        self._cli("account", "add", address, *upstream, "--password-file", str(secret), *LIMITS)
        self._cli("sender", "add", address, address)

    def _cli(self, *arguments: str) -> None:
        done = subprocess.run(
            (*self._command(), *arguments),
            env=self._environment(self._prepared),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"relay {' '.join(arguments)}: {done.stdout}{done.stderr}")

    def _wait(self, daemon: subprocess.Popen[bytes], log: Path) -> None:
        try:
            wait_for_port(self.port)
        except TimeoutError:
            raise RuntimeError(f"relay serve ({daemon.poll()}): {log.read_text()[-2000:]}") from None

    def _command(self) -> tuple[str, ...]:
        return (sys.executable, "-m", "relay")

    def _environment(self, data: Path) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(REPOSITORY),
            "RELAY_DATA_DIR": str(data),
            "RELAY_LISTENER__PORT": str(self.port),
            "RELAY_LOG__FORMAT": "json",
            "RELAY_CONSOLE__ENABLED": "no",
        }


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(timeout=40)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
