"""What every peer relays to: ten accounts, a CA, and a fresh sink for each measurement on one port."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gauge import processor_s
from benchmarks.scenarios import SENDERS, Scenario
from tests.peers.certificates import Certificates, write_certificates
from tests.peers.postfix import free_port
from tests.peers.register import SinkAccount, Taken, read_ledger, write_accounts

STALLED_S = 30


@dataclass(frozen=True)
class Site:
    """Fixed for a whole run: `accounts` maps each address, which is also the login, to its password."""

    folder: Path
    certificates: Certificates
    accounts: dict[str, str]
    port: int
    tls_port: int

    @property
    def senders(self) -> list[str]:
        """Envelope senders in the order in which the load uses them."""
        return list(self.accounts)


def make_site(folder: Path) -> Site:
    """A CA, accounts and ports, in `folder`."""
    accounts = {f"user{number}@example.com": f"pass-word-{number}" for number in range(SENDERS)}
    known = {address: SinkAccount(password, (address,)) for address, password in accounts.items()}
    write_accounts(folder / "accounts.json", known)
    return Site(folder, write_certificates(folder), accounts, free_port(), free_port())


class Upstream:
    """A sink process with the scenario's delay and limit; its ledger says what arrived."""

    def __init__(self, site: Site, scenario: Scenario, ledger: Path) -> None:
        self.ledger = ledger
        ledger.unlink(missing_ok=True)
        options = {
            "--port": site.port,
            "--tls-port": site.tls_port,
            "--cert": site.certificates.chain,
            "--key": site.certificates.key,
            "--accounts": site.folder / "accounts.json",
            "--ledger": ledger,
            "--delay-ms": scenario.delay_ms,
            "--max-conn-per-account": scenario.max_per_account,
        }
        command = [sys.executable, "-m", "tests.peers.sink", *(str(part) for pair in options.items() for part in pair)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("the sink did not start")

    def wait_for(self, count: int) -> int:
        """Wait until `count` messages arrived, as long as more arrive within 30 s; how many it is."""
        seen = read_at = 0
        progress = time.monotonic()
        while seen < count and time.monotonic() - progress < STALLED_S:
            time.sleep(0.01)
            with self.ledger.open("rb") as ledger:
                ledger.seek(read_at)
                more = ledger.read()
            read_at += len(more)
            if lines := more.count(b"\n"):
                seen += lines
                progress = time.monotonic()
        return seen

    def cpu_s(self) -> float:
        """CPU seconds that the sink used so far."""
        return processor_s(self._process.pid)

    def taken(self) -> list[Taken]:
        """All that arrived so far."""
        return read_ledger(self.ledger)

    def kill(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def stop(self) -> dict[str, Any]:
        """Stop it; its counters."""
        self._process.send_signal(signal.SIGTERM)
        output, _ = self._process.communicate(timeout=10)
        counters: dict[str, Any] = json.loads(output.splitlines()[-1])
        return counters
