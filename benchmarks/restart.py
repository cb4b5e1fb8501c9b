"""How soon the relay listens again with a full queue: `python -m benchmarks.restart [--shape NAME…] [--restarts N]`.

A store of each shape is made once.  Then the daemon is started, killed once it listens, and started again, so that each
start but the first finds what the one before had in hand.  A line a shape: seconds from the start of the process to the
`220`.  Exit status 1: one of them took longer than the bar.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gauge import processor_s
from relay.database.engine import connect_sqlite, open_database
from relay.mail.ids import first_id_at
from tests.peers.postfix import free_port

BAR_S = 2.0
LONGEST_S = 60.0
BODY = b"Subject: restart\r\n\r\n" + b"0123456789abcde\r\n" * 64
SPOOLED = 20_000
ORPHANS = 1_000
LEASED = 10_000
LOG_PAGES = 100_000  # 400 MB: what a kill leaves behind when something kept the log from being folded in
REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Shape:
    """What waits. `stays`: no upstream answers, all of it stays; `log`: the write-ahead log was never folded in."""

    accounts: int = 1
    recipients: int = 1
    spooled: int = 0
    log: bool = False


SHAPES = {
    "one account": Shape(),
    "1,000 accounts": Shape(accounts=1000),
    "1,000 accounts, 5 recipients each": Shape(accounts=1000, recipients=5),
    "one account, 20,000 spooled": Shape(spooled=SPOOLED),
    "10 accounts, log of 400 MB": Shape(accounts=10, log=True),
}


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restart", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--shape", action="append", choices=list(SHAPES))
    given = parser.parse_args()
    slowest = 0.0
    for name in given.shape or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            _prepare(data, SHAPES[name], given.messages)
            took, cpu = zip(*_restarts(data, given.restarts), strict=True)
        slowest = max(slowest, *took)
        print(
            f"{name:36} first {took[0]:5.2f} s, median {statistics.median(took):5.2f} s, slowest {max(took):5.2f} s;"
            f" on a processor {statistics.median(cpu):5.2f} s",
            flush=True,
        )
    print(f"bar {BAR_S:g} s: {'pass' if slowest <= BAR_S else 'FAIL'}")
    sys.exit(slowest > BAR_S)


def _restarts(data: Path, times: int) -> Iterator[tuple[float, float]]:
    """Seconds to the `220`, and of them on a processor."""
    port = free_port()
    environ = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(REPOSITORY),
        "RELAY_DATA_DIR": str(data),
        "RELAY_LISTENER__PORT": str(port),
        "RELAY_CONSOLE__ENABLED": "no",
        "RELAY_LOG__FORMAT": "json",
    }
    for _ in range(times):
        began = time.monotonic()
        with (data.parent / "log").open("wb") as log:
            daemon = subprocess.Popen((sys.executable, "-m", "relay", "serve"), env=environ, stdout=log, stderr=log)
        try:
            _greeted(port, began + LONGEST_S)
            yield time.monotonic() - began, processor_s(daemon.pid)
        finally:
            daemon.kill()
            daemon.wait()


def _greeted(port: int, until: float) -> None:
    while time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=LONGEST_S) as client:
                if client.recv(4) == b"220 ":
                    return
        except ConnectionRefusedError:
            time.sleep(0.002)
    raise TimeoutError(f"no 220 within {LONGEST_S:g} s")


def _prepare(data: Path, shape: Shape, count: int) -> None:
    """A store as a killed daemon leaves it: LEASED messages were in its hand, the log is as long as it was."""
    data.mkdir(mode=0o700)
    (data / "spool").mkdir(mode=0o700)
    asyncio.run(_make(data / "relay.db"))
    names = [secrets.token_hex(16) for _ in range(shape.spooled)]
    for name in (*names, *(secrets.token_hex(16) for _ in range(ORPHANS if names else 0))):
        (data / "spool" / name).write_bytes(BODY)
    store = sqlite3.connect(data / "relay.db")
    with store:
        _fill(store, shape, count, names)
    store.close()
    if shape.log:
        _write_log(data, count)


async def _make(path: Path) -> None:
    async with open_database(path):
        pass


def _fill(store: sqlite3.Connection, shape: Shape, count: int, names: Sequence[str]) -> None:
    """The upstreams are at a port where nobody listens: an outage, in which a start has the most to do."""
    now = time.time_ns() // 1_000_000
    nobody = free_port()
    store.executemany(
        "INSERT INTO accounts (id, address, provider, host, port, auth, created_at)"
        " VALUES (?, ?, 'custom', ?, ?, 'none', ?)",
        [(n + 1, f"app{n}@example.com", "127.0.0.1", nobody, now) for n in range(shape.accounts)],
    )
    store.executemany(
        "INSERT INTO senders (pattern, account_id, created_at) VALUES (?, ?, ?)",
        [(f"app{n}@example.com", n + 1, now) for n in range(shape.accounts)],
    )
    first = first_id_at(now - 3_600_000)
    for n in range(count):
        number, account = first + n, n % shape.accounts
        spool = names[n] if n < len(names) else None
        sender = f"app{account}@example.com"
        store.execute(
            "INSERT INTO messages (id, account_id, reverse_path, header_message_id, client, size, eight_bit, smtputf8,"
            " spool, accepted_at) VALUES (?, ?, ?, ?, '127.0.0.1', ?, 0, 0, ?, ?)",
            (number, account + 1, sender, f"<{n}@app.example>", len(BODY), spool, now - 60_000),
        )
        store.executemany(
            "INSERT INTO deliveries (message_id, number, recipient, account_id, state, due_at, attempts, owner, token)"
            " VALUES (?, ?, ?, ?, 'queued', ?, 0, ?, 1)",
            [
                (number, each, f"user{each}@example.org", account + 1, now - 60_000, 1 if n < LEASED else None)
                for each in range(shape.recipients)
            ],
        )
        if spool is None:
            store.execute("INSERT INTO contents (message_id, body) VALUES (?, ?)", (number, BODY))


def _write_log(data: Path, count: int) -> None:
    """Leave a write-ahead log of LOG_PAGES pages, as a kill does: the files are copied while they are in use."""
    kept = data.parent / "kept"
    engine = connect_sqlite(data / "relay.db")
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_autocheckpoint = 0")
        connection.commit()
        log = data / "relay.db-wal"
        while log.stat().st_size < LOG_PAGES * 4096 if log.exists() else True:
            with connection.begin():
                connection.exec_driver_sql(
                    "UPDATE deliveries SET attempts = attempts + 1 WHERE message_id % 10 = abs(random()) % 10"
                )
        shutil.copytree(data, kept)
    engine.dispose()
    shutil.rmtree(data)
    kept.rename(data)


if __name__ == "__main__":
    main()
