"""Three daemons on one PostgreSQL. `make clustertest` is the long form of the first test."""

from __future__ import annotations

import random
from pathlib import Path

from tests.postgresql import server
from tests.system import clustertest


async def test_nothing_is_lost_when_nodes_die_stop_and_stand_still(tmp_path: Path) -> None:
    figures = await clustertest.run(
        *(3, 3, 120, random.randrange(1 << 30), tmp_path, server()),
        accounts=2,
        kinds=("kill", "pause", "stop"),
        apart_s=3600 if clustertest.faketime() is not None else 0,
    )
    assert clustertest.verdict(figures) == [], figures
    assert figures["lost_leases"] == 1, figures  # the paused one heard that it was taken for dead
