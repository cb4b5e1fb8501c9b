"""What storing costs: messages accepted and settled a second, on SQLite and on PostgreSQL, in one run.

`python -m benchmarks.stores [--messages N] [--clients N]`; PostgreSQL is the one of the tests, on the same device.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from relay.queue.model import Settlement, State
from tests.store import POSTGRESQL, TAKEN, Store, arrival, open_store, use_engine

BODY = b"Subject: x\r\n\r\n" + b"y" * 4000 + b"\r\n"
ROUNDS = 3


async def _client(store: Store, messages: int) -> None:
    for _ in range(messages):
        await store.queue.accept(arrival(body=BODY))
        message = store.fresh.pop()
        await store.queue.settle(message, [Settlement(message.deliveries[0], State.RELAYED, 0, TAKEN)])
        store.queue.put_down(message)


async def _measure(engine: str, messages: int, clients: int) -> tuple[float, float]:
    """Messages a second, and operations in a commit."""
    use_engine(engine)
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(Path(folder), memory_bytes=1 << 30) as store:
            await _client(store, 20)
            writer = store.database.writer
            batches, operations = writer.batches, writer.operations
            began = time.perf_counter()
            await asyncio.gather(*(_client(store, messages // clients) for _ in range(clients)))
            took = time.perf_counter() - began
            return messages / took, (writer.operations - operations) / (writer.batches - batches)


def main() -> None:
    """Interleaved rounds; the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--clients", type=int, default=50)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"sqlite": [], POSTGRESQL: []}
    for _ in range(ROUNDS):
        for engine, figures in found.items():
            figures.append(asyncio.run(_measure(engine, given.messages, given.clients)))
    rates = {engine: statistics.median(rate for rate, _ in figures) for engine, figures in found.items()}
    for engine, figures in found.items():
        together = statistics.median(count for _, count in figures)
        print(f"{engine:10} {rates[engine]:7.0f} messages/s accepted and settled, {together:.1f} operations a commit")
    print(f"ratio      {rates[POSTGRESQL] / rates['sqlite']:7.2f}")


if __name__ == "__main__":
    main()
