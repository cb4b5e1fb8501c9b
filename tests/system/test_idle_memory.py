"""What an idle daemon holds: no library that only its start, or only some accounts, need; below 70 MB resident."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.daemon import RelayDaemon
from tests.unit.test_daemon_imports import HEAVY

_LOADED = "import sys; from relay.__main__ import main; main(); print(sorted(sys.modules))"
_BOUND_MIB = 70  # measured: 64; another allocator, C library or interpreter takes a few more


class _Telling(RelayDaemon):
    """`relay serve` that says at its end which modules it had loaded."""

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", _LOADED, *arguments]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
async def test_an_idle_daemon_holds_nothing_heavy(tmp_path: Path) -> None:
    async with _Telling(tmp_path / "data") as daemon:
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        resident_mib = int(status.partition("VmRSS:")[2].split()[0]) / 1024
        await daemon.stop()
        loaded = daemon.other_output[-1]
    assert [name for name in HEAVY if f"'{name}'" in loaded] == []
    assert "'relay.listener.session'" in loaded
    assert resident_mib < _BOUND_MIB
