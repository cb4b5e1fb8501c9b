"""The keeper of the console's process: nothing that the process does or omits stops it, or keeps it from stopping."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from relay.config.console import ConsoleSettings
from relay.daemon import web
from relay.daemon.web import Web


async def child_of_ours() -> int:
    """The console's process, as soon as there is one."""
    async with asyncio.timeout(10):
        while True:
            for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
                if b"relay.console" in Path(f"/proc/{child}/cmdline").read_bytes():
                    return int(child)
            await asyncio.sleep(0.01)  # no event tells of it


async def test_a_process_that_does_not_hear_is_ended_and_not_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(web, "_STOP_S", 1.0)
    monkeypatch.setattr(web, "_FIRST_WAIT_S", 0.01)
    keeper = Web(ConsoleSettings(port=0), tmp_path)
    keeper.start()
    child = await child_of_ours()
    os.kill(child, signal.SIGSTOP)
    await keeper.stop()
    assert not Path(f"/proc/{child}").exists()
    assert keeper._task is not None
    assert keeper._task.cancelled()
    assert "console.unavailable" not in capfd.readouterr().err


@pytest.mark.parametrize("told", [b"[1, 2]", b'{"event": [], "level": {}}', b"[" * 20_000, b"\xff", b"{}"])
async def test_what_the_process_says_never_ends_its_keeper(told: bytes, tmp_path: Path) -> None:
    stream: Any = asyncio.StreamReader()
    stream.feed_data(told + b"\n")
    stream.feed_eof()
    await Web(ConsoleSettings(port=0), tmp_path)._read_events(stream)
