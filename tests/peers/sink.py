"""A fast submission server that checks logins and writes down what it took: the upstream of benchmarks and kill tests.

It has no script: every mail whose envelope sender belongs to the logged-in account is accepted. In its own process:

    python -m tests.peers.sink --port 0 --cert chain.pem --key key.pem --accounts accounts.json --ledger taken.tsv

Standard output gets one JSON line with `port` and `tls_port` (implicit TLS) when both listen, and one with the counters
when SIGTERM or SIGINT has stopped it. `accounts.json` maps a login to `{"password": …, "addresses": [… , "@domain"]}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import signal
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from tests.peers.register import Register, SinkAccount, Taken, read_accounts
from tests.peers.sink_session import SinkSession

__all__ = ["Sink", "SinkAccount", "Taken"]


class Sink:
    """The server: start it, read `port` and `tls_port`, stop it. Also an async context manager.

    `delay_s` is waited before each burst of replies, as a long line would. The other options and what it took are
    `register`'s (`tests.peers.register`).
    """

    def __init__(
        self,
        accounts: Mapping[str, SinkAccount],
        *,
        chain: Path,
        key: Path,
        ledger: Path | None = None,
        delay_s: float = 0,
        max_per_account: int = 0,
        keep: bool = True,
        record: bool = True,
        digest: bool = False,
    ) -> None:
        self.register = Register(
            accounts, ledger=ledger, max_per_account=max_per_account, keep=keep, record=record, digest=digest
        )
        self.delay_s = delay_s
        self.port = 0
        self.tls_port = 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(chain, key)
        self._servers: list[asyncio.Server] = []
        self._sessions: set[SinkSession] = set()

    @property
    def taken(self) -> list[Taken]:
        """What was accepted so far, in order; empty with `record` False."""
        return self.register.taken

    def take(self, message: Taken) -> None:
        """Called with each accepted message before its 250 is written; whoever wants more overrides it."""
        self.register.take(message)

    async def arrived(self, count: int, timeout_s: float = 10) -> list[Taken]:
        """Wait until `count` messages are in `taken`, which is returned; TimeoutError says how many there are."""
        return await self.register.arrived(count, timeout_s)

    def _session(self, *, secure: bool = False) -> SinkSession:
        return SinkSession(self.register, self.context, self._sessions, self.take, delay_s=self.delay_s, secure=secure)

    async def start(self, port: int = 0, tls_port: int = 0, host: str = "127.0.0.1") -> None:
        """Listen on `host` at `port` (STARTTLS) and `tls_port` (implicit TLS); 0 lets the system choose."""
        loop = asyncio.get_running_loop()
        plain = await loop.create_server(self._session, host, port, backlog=1024)
        self._servers.append(plain)
        implicit = await loop.create_server(
            lambda: self._session(secure=True), host, tls_port, ssl=self.context, backlog=1024
        )
        self._servers.append(implicit)
        self.port = plain.sockets[0].getsockname()[1]
        self.tls_port = implicit.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the ports, cut every session and close the ledger."""
        for server in self._servers:
            server.close()
        self.cut_all()
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        self.register.close()

    def cut_all(self) -> None:
        """Drop every open session without a word; the ports stay open."""
        for session in tuple(self._sessions):
            session.cut()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


async def _serve(arguments: argparse.Namespace) -> None:
    sink = Sink(
        read_accounts(arguments.accounts),
        chain=arguments.cert,
        key=arguments.key,
        ledger=arguments.ledger,
        delay_s=arguments.delay_ms / 1000,
        max_per_account=arguments.max_conn_per_account,
        keep=False,
        record=False,
        digest=arguments.digest,
    )
    await sink.start(arguments.port, arguments.tls_port, arguments.host)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(json.dumps({"port": sink.port, "tls_port": sink.tls_port}), flush=True)
    await stop.wait()
    await sink.stop()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps(vars(sink.register.counters) | {"cpu_s": usage.ru_utime + usage.ru_stime}), flush=True)


def main() -> None:
    """Run a sink until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers.sink", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="STARTTLS; 0: any free one")
    parser.add_argument("--tls-port", type=int, default=0, help="implicit TLS; 0: any free one")
    parser.add_argument("--cert", type=Path, required=True, help="certificate chain, PEM")
    parser.add_argument("--key", type=Path, required=True)
    parser.add_argument("--accounts", type=Path, required=True, help="JSON")
    parser.add_argument("--ledger", type=Path, help="one line is appended per accepted message")
    parser.add_argument("--digest", action="store_true", help="SHA-256 of each content in the ledger")
    parser.add_argument("--delay-ms", type=float, default=0, help="before each burst of replies")
    parser.add_argument("--max-conn-per-account", type=int, default=0, help="one more AUTH gets 432; 0: no limit")
    arguments = parser.parse_args()
    if sys.platform == "win32":
        asyncio.run(_serve(arguments))
    else:
        import uvloop

        uvloop.run(_serve(arguments))


if __name__ == "__main__":
    main()
