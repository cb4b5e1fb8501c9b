"""`python -m benchmarks.console`: pages with a full store, and what ten open consoles cost the mail.

Prints a line a page, then one table against the bars; exit status 1: a bar was missed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Mapping

from benchmarks import console_pages, console_viewers
from benchmarks.console_pages import Times, p95

MOST_MS = 100.0
MOST_LOST = 0.05


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000, help="in the store while pages are timed")
    parser.add_argument("--per-s", type=float, default=50.0, help="messages relayed a second meanwhile")
    parser.add_argument("--times", type=int, default=20, help="each page, one after the other")
    parser.add_argument("--visits", type=int, default=8, help="each page, ten seconds between them")
    parser.add_argument("--consoles", type=int, default=10)
    parser.add_argument("--load", type=int, default=3000, help="messages of a run with or without consoles")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    pages = asyncio.run(console_pages.measure(arguments.messages, arguments.times, arguments.visits, arguments.per_s))
    _print_pages(pages)
    found = asyncio.run(console_viewers.measure(arguments.consoles, arguments.load, arguments.rounds, 4.0))
    print(f"\nwith {arguments.messages:,} messages, {arguments.per_s:g} more relayed a second")
    warm = _bar("slowest page, p95 of visits one after the other", max(p95(page.warm) for page in pages.values()), "ms")
    cold = _bar("slowest page, p95 of visits 10 s apart", max(p95(page.cold) for page in pages.values()), "ms")
    print(f"{arguments.consoles} consoles open, against none, in turn")
    none, some = (statistics.median(rates) for rates in found.rates)
    print(f"  messages a second, median: {none:.0f} without, {some:.0f} with them")
    lost = _bar("messages a second lost, median of the pairs", found.lost() * 100, "%")
    without, opened = found.cost(False), found.cost(True)
    offered = console_viewers.OFFERED_PER_S
    print(f"  CPU s for 1,000 messages at {offered:g}/s, daemon: {without.daemon:.3f}, {opened.daemon:.3f}")
    print(f"  the same, the console's process: {without.console:.3f}, {opened.console:.3f}")
    share = _bar("taken of the one processor that the daemon can use", found.share() * 100, "%")
    sys.exit(not (warm and cold and lost and share))


def _print_pages(pages: Mapping[str, Times]) -> None:
    print(f"{'ms':52}{'at once':>16}{'10 s apart':>18}{'CPU':>9}")
    print(f"{'page':52}{'median':>8}{'p95':>8}{'median':>10}{'p95':>8}{'median':>9}")
    for name, page in pages.items():
        warm, cold = statistics.median(page.warm), statistics.median(page.cold)
        cpu = statistics.median(page.cpu)
        print(f"{name:52}{warm:8.1f}{p95(page.warm):8.1f}{cold:10.1f}{p95(page.cold):8.1f}{cpu:9.1f}")


def _bar(what: str, value: float, unit: str) -> bool:
    """Print it against its bar: is it below?"""
    most = MOST_MS if unit == "ms" else MOST_LOST * 100
    good = value < most
    print(f"  {what:50}{value:8.1f} {unit:2}   bar {most:g} {unit:2}   {'pass' if good else 'FAIL'}")
    return good


if __name__ == "__main__":
    main()
