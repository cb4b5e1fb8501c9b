"""What is done before the front doors open costs the same however much waits (promise 6)."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

from relay.queue.claims import join, take_over
from tests.bulk import fill
from tests.store import lay_store, open_store


async def steps_of_a_start(folder: Path, waiting: int) -> tuple[int, int]:
    """Of SQLite's machine, in hundreds: before the doors open, and after."""
    fill(lay_store(folder) / "relay.db", waiting, settled=0.1)
    counted = [0, 0]

    def start(connection: Connection) -> None:
        driver = connection.connection.driver_connection
        assert driver is not None
        for number, part in enumerate((_before, _after)):
            seen = [0]

            def count(seen: list[int] = seen) -> None:
                seen[0] += 1

            driver.set_progress_handler(count, 100)
            part(connection)
            driver.set_progress_handler(None, 0)
            counted[number] = seen[0]

    async with open_store(folder, whole_start=False) as store:
        await store.database.write(start)
    return counted[0], counted[1]


def _before(connection: Connection) -> None:
    join(connection, set(range(1, 8192)), now=1, lease_ms=1)


def _after(connection: Connection) -> None:
    take_over(connection, 2, set(), now=1)


async def test_a_start_does_not_look_at_all_that_waits_before_its_doors_open(tmp_path: Path) -> None:
    few, few_after = await steps_of_a_start(tmp_path / "few", 200)
    many, many_after = await steps_of_a_start(tmp_path / "many", 5_000)
    assert many <= few * 1.1
    assert many_after > few_after * 5, "what does look at it would be seen"
