"""What the front door refused is found by sender and recipient, as the queue is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.config.settings import RelaySettings
from relay.control import registry
from relay.daemon.build import open_control
from relay.telemetry import rejected
from tests.store import lay_store


@pytest.fixture(autouse=True)
def _nothing_yet() -> Iterator[None]:
    rejected._kept.clear()
    yield
    rejected._kept.clear()


def refuse(sender: str, *recipients: str) -> None:
    rejected.remember("erp", "10.1.2.3", sender, recipients, 550, "5.7.1", "no account", "relay account add X")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("Stranger@Example.com", True),
        ("ann@example.org", True),
        ("@example.com", True),
        ("*@example.org", True),
        ("str*@*.com", True),
        ("s*r*r@example.com", True),
        ("*", True),
        ("stranger@example.co", False),
        ("@ample.com", False),
        ("str*ger@example.com*x", False),
        ("stranger@example.com*stranger@example.com", False),
        ("", False),
    ],
)
async def test_a_refusal_is_found_by_its_addresses(tmp_path: Path, wanted: str, found: bool) -> None:
    refuse("stranger@example.com", "ann@example.org")
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"))) as control:
        rows = await registry.run(control, "rejected.list", {"address": wanted})
        assert [row["sender"] for row in rows] == ["stranger@example.com"] * found


async def test_the_latest_come_first_and_the_oldest_go(tmp_path: Path) -> None:
    for number in range(1005):
        refuse(f"n{number}@example.com", *(f"r{n}@example.org" for n in range(9)))
    refuse("\x1b[31mred@example.com\u2028" + "x" * 400)
    async with open_control(RelaySettings(data_dir=lay_store(tmp_path / "data"))) as control:
        rows = await registry.run(control, "rejected.list", {"limit": 2000})
        assert len(rows) == 1000
        assert rows[1]["sender"] == "n1004@example.com"
        assert rows[-1]["sender"] == "n6@example.com"
        assert len(rows[1]["recipients"]) == 5
        assert rows[0]["sender"].isprintable()
        assert len(rows[0]["sender"]) < 400
        assert await registry.run(control, "rejected.list", {"limit": 0}) == rows[:1]
