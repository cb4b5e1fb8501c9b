"""Fills a store with many messages at once, past the queue, for tests of what lists and counts them."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from relay.mail.ids import first_id_at

BODY = b"Subject: bulk\r\n\r\n" + b"0123456789abcdef" * 20 + b"\r\n"


def fill(path: Path, count: int, *, accounts: int = 10, settled: float = 0.5, age_ms: int = 86_400_000) -> None:
    """`count` messages over the last `age_ms`, one delivery and one attempt each; `settled`: the share that is done.

    Accounts are 1 to `accounts`, senders `app<account>@example.com`, recipients `user<n>@<n % 100>.example.org`.
    """
    now = time.time_ns() // 1_000_000
    store = sqlite3.connect(path)
    messages, deliveries, attempts, contents = [], [], [], []
    for n in range(count):
        at = now - age_ms + age_ms * n // count
        number = first_id_at(at) + n % 4096
        account = n % accounts + 1
        done = (n * 7919 % 1000) < settled * 1000
        sender = f"app{account}@example.com"
        messages.append((number, account, sender, f"<{n}@app.example>", f"10.0.0.{n % 250}", len(BODY), 0, 0, None, at))
        state = "relayed" if done else ("deferred" if n % 3 else "queued")
        recipient = f"user{n}@{n % 100}.example.org"
        deliveries.append((number, 0, recipient, account, state, at + 60_000, 1, None, 1, 0, at + 5 if done else None))
        outcome, code = ("accepted", 250) if done else ("refused", 451)
        attempts.append((number, 0, 1, at + 5, account, outcome, "done", code, "2.0.0", "a reply", "", 5))
        if not done:
            contents.append((number, BODY))
    with store:
        store.executemany(
            "INSERT INTO messages (id, account_id, reverse_path, header_message_id, client, size, eight_bit, smtputf8,"
            " spool, accepted_at) VALUES (?,?,?,?,?,?,?,?,?,?)",
            messages,
        )
        store.executemany(
            "INSERT INTO deliveries (message_id, number, recipient, account_id, state, due_at, attempts, owner, token,"
            " possible_duplicate, settled_at) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            deliveries,
        )
        store.executemany(
            "INSERT INTO attempts (message_id, number, attempt, at, account_id, outcome, stage, code, status, reply,"
            " cause, elapsed_ms) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            attempts,
        )
        store.executemany("INSERT INTO contents (message_id, body) VALUES (?,?)", contents)
    store.close()
