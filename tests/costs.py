"""What each test costs in processor time, its child processes' included: `pytest --cpu-report FILE`, with -n too.

On a busy machine the wall time of a test says little. Children count once they have been waited for. FILE gets one
line a phase, `SECONDS PHASE NODEID`, dearest first; the closing lines say the sums by folder and of the dearest
modules.
"""

from __future__ import annotations

import resource
from collections import defaultdict
from collections.abc import Generator
from operator import itemgetter
from pathlib import Path

import pytest

from tests import forkserver

OPTION = "--cpu-report"
SHOWN = 25
_PHASE, _START = "processor time", "processor time of the start"


def spent_s() -> float:
    """User and system time of this process, of the children that it waited for, and of what the fork server ran."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both) + sum(forkserver.SPENT)


class Measured:
    """Writes onto each report what its phase cost; in the process that runs the test."""

    def __init__(self) -> None:
        self._last = 0.0
        self._start: list[tuple[str, object]] = []

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self) -> None:
        self._last = spent_s()
        self._start = [(_START, self._last)]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        now = spent_s()
        report.user_properties += [(_PHASE, now - self._last), *self._start]
        self._last, self._start = now, []
        return report


class Sums:
    """Adds up what the reports bring; in the process that prints the results, which with -n is another one."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.rows: list[tuple[float, str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, cost in report.user_properties:
            if name == _START:
                self.rows.append((float(str(cost)), "", "start and collection"))
            elif name == _PHASE:
                self.rows.append((float(str(cost)), report.when or "", report.nodeid))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        self.rows.sort(reverse=True)
        self.file.write_text("".join(f"{cost:8.3f} {phase:8} {node}\n" for cost, phase, node in self.rows))
        folders: defaultdict[str, float] = defaultdict(float)
        modules: defaultdict[str, float] = defaultdict(float)
        for cost, _, node in self.rows:
            module = node.partition("::")[0]
            modules[module] += cost
            folders[module.rpartition("/")[0] or module] += cost
        terminalreporter.section(f"processor time: {sum(folders.values()):.1f} s")
        for sums, shown in ((folders, len(folders)), (modules, SHOWN)):
            for name, cost in sorted(sums.items(), key=itemgetter(1), reverse=True)[:shown]:
                terminalreporter.write_line(f"{cost:8.1f} {name}")


def register(config: pytest.Config) -> None:
    """Measure when the option was given."""
    if file := config.getoption(OPTION):
        config.pluginmanager.register(Measured())
        if not hasattr(config, "workerinput"):  # pytest-xdist's mark of a worker
            config.pluginmanager.register(Sums(Path(file)))
