"""`python -m benchmarks.console`: pages with a full store, and what ten open consoles cost the mail.

Prints a line a page, then one table against the bars; exit status 1: a bar was missed, or not shown to be kept.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
from collections.abc import Mapping

from benchmarks import console_pages, console_viewers
from benchmarks.console_pages import Times, p95
from benchmarks.gauge import Machine

MOST_MS = 100.0
MOST_LOST = 0.05
MOST_KB = 200.0


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.console", description=__doc__)
    parser.add_argument("--only", choices=("pages", "consoles"), help="one half of it")
    parser.add_argument("--messages", type=int, default=100_000, help="in the store while pages are timed")
    parser.add_argument("--per-s", type=float, default=50.0, help="messages relayed a second meanwhile")
    parser.add_argument("--times", type=int, default=20, help="each page, one after the other")
    parser.add_argument("--visits", type=int, default=6, help="each page, ten seconds between them")
    parser.add_argument("--starts", type=int, default=4, help="each page once after each of them")
    parser.add_argument("--consoles", type=int, default=10)
    parser.add_argument("--blocks", type=int, default=8, help="of four slices, without consoles and with them")
    parser.add_argument("--most-blocks", type=int, default=12, help="while the bar lies within the interval")
    parser.add_argument("--slice-s", type=float, default=3.0)
    arguments = parser.parse_args()
    machine = Machine()
    good = True
    if arguments.only != "consoles":
        good = _pages(arguments)
    if arguments.only != "pages":
        good = _consoles(arguments) and good
    passed_s, busy_s, steal_s = machine.seconds()
    print(f"the machine was busy for {busy_s / passed_s:.0%}, of that stolen {steal_s / busy_s:.0%}")
    sys.exit(not good)


def _pages(arguments: argparse.Namespace) -> bool:
    measured = console_pages.measure(
        arguments.messages, arguments.times, arguments.visits, arguments.starts, arguments.per_s
    )
    pages = asyncio.run(measured)
    _print_pages(pages)
    print(f"\nwith {arguments.messages:,} messages, {arguments.per_s:g} more relayed a second")
    good = [
        _bar(f"slowest page, p95 of visits {when}", max(p95(times[page]) for page in times), MOST_MS, "ms")
        for when, times in (
            ("one after the other", {name: page.warm for name, page in pages.items()}),
            ("10 s apart", {name: page.cold for name, page in pages.items()}),
            ("after a start", {name: page.first for name, page in pages.items()}),
        )
    ]
    heaviest = max(page.octets for page in pages.values()) / 1000
    return all([*good, _bar("heaviest page with its assets", heaviest, MOST_KB, "KB")])


def _print_pages(pages: Mapping[str, Times]) -> None:
    print(f"{'ms':52}{'at once':>16}{'10 s apart':>18}{'after a start':>18}{'CPU':>9}{'KB':>7}")
    print(f"{'page':52}{'median':>8}{'p95':>8}{'median':>10}{'p95':>8}{'median':>10}{'p95':>8}{'median':>9}")
    for name, page in pages.items():
        warm, cold, first = (statistics.median(each) for each in (page.warm, page.cold, page.first))
        print(
            f"{name[:51]:52}{warm:8.1f}{p95(page.warm):8.1f}{cold:10.1f}{p95(page.cold):8.1f}{first:10.1f}"
            f"{p95(page.first):8.1f}{statistics.median(page.cpu):9.1f}{page.octets / 1000:7.0f}"
        )


def _consoles(arguments: argparse.Namespace) -> bool:
    measured = console_viewers.measure(
        arguments.consoles, arguments.blocks, arguments.most_blocks, arguments.slice_s, MOST_LOST
    )
    found = asyncio.run(measured)
    losses = found.losses()
    low, high = console_viewers.interval(losses)
    print(f"\n{arguments.consoles} consoles open, against none: {len(losses)} blocks of slices, A B B A")
    print(f"  lost by block, %: {' '.join(f'{loss * 100:.1f}' for loss in losses)}")
    print(f"  messages a second, median: {found.rate(False):.0f} without, {found.rate(True):.0f} with them")
    print(f"  lost, median of the blocks {statistics.median(losses):.1%}, with 95 % confidence {low:.1%} to {high:.1%}")
    lost = _bar("messages a second lost, upper end of that", high * 100, MOST_LOST * 100, "%")
    if not lost and low < MOST_LOST:
        print("  neither shown nor refuted: a quieter machine, or more blocks")
    work = found.more_work()
    low, high = console_viewers.interval(work)
    print(f"  of its processor that the daemon needs for a message: {statistics.median(work):.1%} for the consoles,")
    print(f"    with 95 % confidence {low:.1%} to {high:.1%}: where it is what limits, so much is lost")
    without, opened = found.cost(False), found.cost(True)
    print(f"  ms of a processor a second at {console_viewers.OFFERED_PER_S:g}/s, without and with them")
    print(f"    daemon {without.daemon:.1f}, {opened.daemon:.1f}; console {without.console:.1f}, {opened.console:.1f}")
    share = _bar("taken of the one processor that the daemon can use", found.share() * 100, MOST_LOST * 100, "%")
    return lost and share


def _bar(what: str, value: float, most: float, unit: str) -> bool:
    """Print it against its bar: is it below?"""
    good = value < most
    print(f"  {what:50}{value:8.1f} {unit:2}   bar {most:g} {unit:2}   {'pass' if good else 'FAIL'}")
    return good


if __name__ == "__main__":
    main()
