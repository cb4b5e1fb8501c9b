"""What a hardened process looks like from outside; in a process of its own, since it cannot be undone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from relay.credentials.hardening import take_from_environment

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def _run(program: str, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environ}, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@linux
def test_no_core_dump_and_no_reading_by_neighbours() -> None:
    shown = _run(
        "import ctypes, resource\n"
        "from relay.credentials.hardening import harden_process\n"
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), end=' ')\n"
        "print(harden_process(), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))\n"
    )
    assert shown == "1 [] 0 (0, 0)\n"


@linux
def test_a_hardened_process_still_reads_its_own_figures_and_starts_children() -> None:
    shown = _run(
        "import subprocess\n"
        "from relay.credentials.hardening import harden_process\n"
        "harden_process()\n"
        "open('/proc/self/statm').read()\n"
        "subprocess.run(['true'], check=True)\n"
        "print('well')\n"
    )
    assert shown == "well\n"


@linux
def test_what_is_taken_from_the_environment_is_gone_everywhere() -> None:
    shown = _run(
        "import os, subprocess, sys\n"
        "from relay.credentials.hardening import take_from_environment\n"
        "print(b'hunter2' in open('/proc/self/environ', 'rb').read())\n"
        "print(take_from_environment('RELAY_MASTER_KEY', os.environ))\n"
        "print(b'hunter2' in open('/proc/self/environ', 'rb').read())\n"
        "print(b'kept' in open('/proc/self/environ', 'rb').read(), os.environ['OTHER'])\n"
        "print('RELAY_MASTER_KEY' in os.environ)\n"
        "sys.stdout.flush()\n"
        "subprocess.run(['env'])\n",
        RELAY_MASTER_KEY="k1:hunter2",
        OTHER="kept",
    )
    lines = shown.splitlines()
    assert lines[:5] == ["True", "k1:hunter2", "False", "True kept", "False"]
    assert not any("hunter2" in line for line in lines[5:])


def test_an_unset_variable_is_none() -> None:
    environ = {"A": "1"}
    assert take_from_environment("B", environ) is None
    assert take_from_environment("A", environ) == "1"
    assert environ == {}


def test_importing_the_room_reads_nothing(tmp_path: Path) -> None:
    assert _run(
        "import os; before = dict(os.environ); import relay.credentials.keyring; print(before == dict(os.environ))"
    )
