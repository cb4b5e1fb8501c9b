"""What tests/forkserver.py runs is a process of its own: arguments, environment, streams, status, signals, cost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from tests import forkserver
from tests.daemon import RelayDaemon
from tests.store import lay_store

pytestmark = pytest.mark.skipif(not forkserver.AVAILABLE, reason="children are followed by pidfd_open of Linux")


def _plain(text: str, folder: str) -> str:
    """Without what differs in any two runs."""
    return re.sub(r"\d\d:\d\d:\d\d\.\d+|k\d{4}-\d\d-\d\d-\w+", "…", text.replace(f"/{folder}/", "/…/"))


@pytest.mark.parametrize(
    ("argv", "stdin"),
    [
        (["account", "list", "--json"], ""),
        (["account", "add", "ann@example.com", "--host", "nowhere.invalid", "--password-file", "-"], "pass wörd"),
        (["account", "show", "nobody@example.com"], ""),
        (["nonsense"], ""),
    ],
)
async def test_a_forked_command_says_and_leaves_what_a_fresh_one_does(
    tmp_path: Path, argv: list[str], stdin: str
) -> None:
    said = []
    for name, forks in (("forked", True), ("fresh", False)):
        daemon = RelayDaemon(lay_store(tmp_path / name / "data"))
        daemon._can_fork = forks
        done = await daemon.cli(*argv, stdin=stdin, check=False)
        daemon._can_fork = True
        listed = (await daemon.cli("account", "list")).stdout
        said.append([done.returncode, *(_plain(text, name) for text in (done.stdout, done.stderr, listed))])
    assert said[0] == said[1]


async def test_each_has_its_own_environment_and_folder(tmp_path: Path) -> None:
    one, two = (
        RelayDaemon(lay_store(tmp_path / name / "data"), {"RELAY_LOG__LEVEL": name}) for name in ("debug", "no")
    )
    done = await asyncio.gather(one.cli("account", "list"), two.cli("account", "list", check=False))
    assert [answer.returncode for answer in done] == [0, 1]
    assert "RELAY_LOG__LEVEL" in done[1].stderr


async def test_signals_and_costs_of_a_forked_daemon(tmp_path: Path) -> None:
    before = len(forkserver.SPENT)
    daemon = RelayDaemon(lay_store(tmp_path / "data"))
    await daemon.start()
    assert daemon.pid != os.getpid()
    assert os.getpgid(daemon.pid) == os.getpgid(0)  # an interrupt of the terminal reaches it, too
    assert await daemon.kill() == -signal.SIGKILL
    await daemon.start()
    assert await daemon.stop() == 0
    assert len(forkserver.SPENT) == before + 2
    assert sum(forkserver.SPENT[before:]) > 0
