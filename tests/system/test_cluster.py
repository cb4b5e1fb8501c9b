"""Three daemons on one PostgreSQL. `make clustertest` is the long form of the first test."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.lengths import LONG
from tests.postgresql import another_server, server
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


@pytest.mark.skipif(not LONG, reason="TESTS_LONG is not set")
async def test_nothing_is_lost_when_the_server_and_all_its_processes_are_killed_under_load(tmp_path: Path) -> None:
    with another_server() as own:
        figures = await clustertest.run(
            *(2, 3, 300, random.randrange(1 << 30), tmp_path, own),
            accounts=2,
            kinds=("nothing",),  # falls on the nodes
            restarts=3,
        )
    assert clustertest.verdict(figures) == [], figures
    assert figures["blows"] == {"nothing": 3, "postgresql": 3}
