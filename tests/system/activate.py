"""Starts a program with sockets, as systemd does: `python -m tests.system.activate FD,FD NAME:NAME PROGRAM…`."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    above = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in sys.argv[1].split(",")]
    for target, number in enumerate(above, 3):
        os.dup2(number, target)
        os.close(number)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(above)), LISTEN_FDNAMES=sys.argv[2])
    os.execv(sys.argv[3], sys.argv[3:])
