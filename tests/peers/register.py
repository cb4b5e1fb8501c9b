"""Who may log in at the sink and send as whom, and what it took: the ledger."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

BUSY = b"432 4.3.2 Concurrent connections limit exceeded\r\n"


@dataclass(frozen=True)
class SinkAccount:
    """A password, and the envelope senders it may use: whole addresses, or `@domain` for all of one domain."""

    password: str
    addresses: Sequence[str]


@dataclass(frozen=True, slots=True)
class Taken:
    """One accepted message. `at` is the monotonic clock's, in seconds; `content` is unstuffed, None unless kept."""

    account: str
    sender: str
    recipients: tuple[str, ...]
    id: str
    size: int
    sha256: str
    at: float
    content: bytes | None = None

    def line(self) -> bytes:
        """The ledger's form: tab-separated account, sender, recipients, id, size, sha256 or `-`, monotonic time."""
        fields = (
            self.account,
            self.sender,
            ",".join(self.recipients),
            self.id,
            self.size,
            self.sha256,
            f"{self.at:.6f}",
        )
        return "\t".join(map(str, fields)).encode("utf-8", "surrogateescape") + b"\n"


def read_ledger(path: Path) -> list[Taken]:
    """What a sink wrote to `path`; a last line that is cut short is left out."""
    taken = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        account, sender, recipients, id_, size, sha256, at = line.decode("utf-8", "surrogateescape").split("\t")
        taken.append(Taken(account, sender, tuple(recipients.split(",")), id_, int(size), sha256, float(at)))
    return taken


@dataclass
class Counters:
    """What happened, for the report of a run. `most_open` and `open` count logged-in connections by account."""

    connections: int = 0
    logins: int = 0
    logins_refused: int = 0
    busy: int = 0
    denied: int = 0
    messages: int = 0
    open: Counter[str] = field(default_factory=Counter)
    most_open: dict[str, int] = field(default_factory=dict)


def read_accounts(path: Path) -> dict[str, SinkAccount]:
    """Accounts from the JSON file that the module's docstring describes."""
    declared: dict[str, Any] = json.loads(path.read_text())
    return {login: SinkAccount(entry["password"], tuple(entry["addresses"])) for login, entry in declared.items()}


def write_accounts(path: Path, accounts: Mapping[str, SinkAccount]) -> None:
    """The file that `read_accounts` reads, for the owner's eyes only."""
    path.touch(mode=0o600)
    path.write_text(json.dumps({login: asdict(account) for login, account in accounts.items()}))


class Register:
    """Logins, limits and the record of one sink.

    `accounts` may be changed while it runs (a test changes a password). `ledger` is appended to before the 250 is
    written. `keep` holds contents in `taken`; `record` False keeps nothing in memory; `digest` hashes each content.
    `max_per_account` logged-in connections answer one more AUTH with 432 (0: any number).
    """

    def __init__(
        self,
        accounts: Mapping[str, SinkAccount],
        *,
        ledger: Path | None = None,
        max_per_account: int = 0,
        keep: bool = True,
        record: bool = True,
        digest: bool = False,
    ) -> None:
        self.accounts = dict(accounts)
        self.max_per_account = max_per_account
        self.keep = keep
        self.record = record
        self.digest = digest
        self.counters = Counters()
        self.taken: list[Taken] = []
        self._arrival = asyncio.Event()
        self._ledger = -1 if ledger is None else os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def close(self) -> None:
        """Close the ledger."""
        if self._ledger >= 0:
            os.close(self._ledger)
            self._ledger = -1

    async def arrived(self, count: int, timeout_s: float = 10) -> list[Taken]:
        """Wait until `count` messages are in `taken`, which is returned; TimeoutError says how many there are."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.taken) < count:
                    self._arrival.clear()
                    await self._arrival.wait()
        except TimeoutError:
            raise TimeoutError(f"{len(self.taken)} of {count} messages arrived") from None
        return self.taken

    def take(self, message: Taken) -> None:
        """Write `message` down: after this returns a reader of the ledger sees it, whatever becomes of this process."""
        if self._ledger >= 0:
            os.write(self._ledger, message.line())
        self.counters.messages += 1
        if self.record:
            self.taken.append(message)
            self._arrival.set()

    def log_out(self, login: str) -> None:
        """A logged-in session ended; its place in the account's limit is free."""
        self.counters.open[login] -= 1

    def log_in(self, login: str, password: str) -> bytes:
        """The reply to a finished AUTH; a 235 takes one of the account's places."""
        counters = self.counters
        account = self.accounts.get(login)
        if account is None or not hmac.compare_digest(account.password.encode(), password.encode()):
            counters.logins_refused += 1
            return b"535 5.7.3 Authentication unsuccessful\r\n"
        if self.max_per_account and counters.open[login] >= self.max_per_account:
            counters.busy += 1
            return BUSY
        counters.logins += 1
        counters.open[login] += 1
        counters.most_open[login] = max(counters.most_open.get(login, 0), counters.open[login])
        return b"235 2.7.0 Authentication successful\r\n"

    def may_send(self, login: str, sender: str) -> bool:
        """True if `sender` is among the addresses of the account `login`."""
        account = self.accounts.get(login)
        if account is None or not sender:
            return False
        return sender in account.addresses or "@" + sender.rpartition("@")[2] in account.addresses
