"""What a group of processes costs: CPU time, memory.

CPU comes from a cgroup of their own where one can be made (nothing escapes it: children that nobody waited for count),
else from the processes alive plus what they reaped. Memory is sampled from /proc.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
MIB = 1024  # /proc counts KiB
INTO = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
_serial = itertools.count()


def processor_s(pid: int) -> float:
    """Seconds of a processor that this process used so far, user and system (proc(5): utime, stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / TICK


@dataclass
class Memory:
    """MiB over all processes: RSS counts a shared page once for each, PSS once in all; `largest` is one's RSS."""

    rss: float = 0
    pss: float = 0
    largest: float = 0
    processes: int = 0

    def raise_to(self, other: Memory) -> None:
        """Keep the larger of both, figure by figure."""
        self.rss = max(self.rss, other.rss)
        self.pss = max(self.pss, other.pss)
        self.largest = max(self.largest, other.largest)
        self.processes = max(self.processes, other.processes)


class Gauge:
    """The processes started with `prefix` in front of their command and all their descendants.

    Without a writable cgroup the root process must be told to `follow`. `way` says how CPU time is counted.
    """

    def __init__(self) -> None:
        self._leaf, self._version = _make_leaf()
        self.way = f"cgroup v{self._version}" if self._leaf else "/proc, reaped children included"
        self._root: int | None = None
        self.peak = Memory()
        self._stop = threading.Event()
        self._sampler: threading.Thread | None = None

    @property
    def prefix(self) -> tuple[str, ...]:
        """Goes in front of a command."""
        return ("sh", "-c", INTO, str(self._leaf)) if self._leaf else ()

    def follow(self, pid: int) -> None:
        """Name the root of the tree, for machines without a writable cgroup."""
        self._root = pid

    def pids(self) -> list[int]:
        """Processes alive."""
        if self._leaf:
            return [int(pid) for pid in (self._leaf / "cgroup.procs").read_text().split()]
        found = [self._root] if self._root else []
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found.extend(int(child) for child in _read(children).split())
        return found

    def cpu_s(self) -> float:
        """CPU seconds used since the start, user and system."""
        if self._leaf and self._version == 2:
            return int((self._leaf / "cpu.stat").read_text().split()[1]) / 1e6
        if self._leaf:
            return int((self._leaf / "cpuacct.usage").read_text()) / 1e9
        ticks = 0
        for pid in self.pids():
            fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
        return ticks / TICK

    def memory(self, *, pss: bool = True) -> Memory:
        """Memory now. PSS takes longer to read and is 0 unless asked for."""
        found = Memory()
        for pid in self.pids():
            rss = _kib(Path(f"/proc/{pid}/status"), "VmRSS:") / MIB
            found.raise_to(Memory(found.rss + rss, largest=rss, processes=found.processes + 1))
            if pss:
                found.pss += _kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") / MIB
        return found

    def sample(self, interval_s: float = 0.2) -> None:
        """Keep `peak` up to date from now on; PSS each fifth time."""
        self.peak = Memory()
        self._stop.clear()

        def run() -> None:
            for count in itertools.count():
                self.peak.raise_to(self.memory(pss=count % 5 == 0))
                if self._stop.wait(interval_s):
                    return

        self._sampler = threading.Thread(target=run, name="memory sampler", daemon=True)
        self._sampler.start()

    def end_sample(self) -> Memory:
        """Stop sampling; the peaks. `largest` is the kernel's own high-water mark where the process still lives."""
        self._stop.set()
        if self._sampler is not None:
            self._sampler.join()
        marks = [_kib(Path(f"/proc/{pid}/status"), "VmHWM:") / MIB for pid in self.pids()]
        self.peak.largest = max([self.peak.largest, *marks])
        if len(marks) == 1:
            self.peak.rss = max(self.peak.rss, marks[0])
        return self.peak

    def close(self) -> None:
        """Remove the cgroup; its processes must be gone, or go within 5 s."""
        self._stop.set()
        deadline = time.monotonic() + 5
        while self._leaf:
            try:
                self._leaf.rmdir()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"processes left behind: {self.pids()}") from error
                time.sleep(0.02)
            else:
                self._leaf = None


class Machine:
    """What all processors of the machine did since this was made, in seconds of one processor."""

    def __init__(self) -> None:
        self._since = _processors()

    def seconds(self) -> tuple[float, float, float]:
        """Passed in all; spent on any process; stolen by other machines on the same hardware, part of the second."""
        user, nice, system, idle, waiting, interrupts, softirqs, steal = (
            (now - before) / TICK for now, before in zip(_processors(), self._since, strict=True)
        )
        busy = user + nice + system + interrupts + softirqs + steal
        return busy + idle + waiting, busy, steal


def _processors() -> list[int]:
    return [int(ticks) for ticks in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def _make_leaf() -> tuple[Path | None, int]:
    mounts = [line.split() for line in _read(Path("/proc/self/mounts")).splitlines()]
    own = dict(line.split(":", 2)[1:] for line in _read(Path("/proc/self/cgroup")).splitlines())
    unified = [(mount[1], own.get("", "/"), 2) for mount in mounts if mount[2] == "cgroup2"]
    cpuacct = [
        (mount[1], next((path for names, path in own.items() if "cpuacct" in names.split(",")), "/"), 1)
        for mount in mounts
        if mount[2] == "cgroup" and "cpuacct" in mount[3].split(",")
    ]
    for mount, path, version in unified + cpuacct:
        leaf = Path(mount + path) / f"authrelay-bench-{os.getpid()}-{next(_serial)}"
        try:
            leaf.mkdir()
        except OSError:
            continue
        probe = leaf / ("cpu.stat" if version == 2 else "cpuacct.usage")
        if probe.exists() and os.access(leaf / "cgroup.procs", os.W_OK):
            return leaf, version
        leaf.rmdir()
    return None, 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process ended meanwhile
        return ""


def _kib(path: Path, name: str) -> int:
    for line in _read(path).splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0
