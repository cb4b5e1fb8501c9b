"""`python -m benchmarks`: relay and Postfix in turn under the same loads, then a table and a JSON record."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.measure import Figures, Peer, measure
from benchmarks.postfix_peer import PostfixPeer
from benchmarks.relay_peer import RelayPeer
from benchmarks.scenarios import ALL, BY_NAME, QUICK, Scenario
from benchmarks.upstream import Site, make_site

PEERS = ("relay", "postfix.default", "postfix.tuned")
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Run what the arguments say. 0: every message accounted for; 1: one was lost, doubled or refused."""
    arguments = _arguments()
    scenarios = [BY_NAME[name] for name in arguments.scenario or (QUICK if arguments.quick else BY_NAME)]
    if arguments.quick:
        scenarios = [scenario.quick() for scenario in scenarios]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is stopped
    folder = Path(tempfile.mkdtemp(prefix="relay-bench-"))
    folder.chmod(0o755)  # user postfix must get to its queue
    try:
        site = make_site(folder)
        peers = _peers(arguments.peers.split(","), site)
        for peer in peers:
            peer.prepare()
        return _run(peers, scenarios, site, 1 if arguments.quick else arguments.runs)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Relay and Postfix side by side: same load, same upstream, this machine.",
        epilog="scenarios: " + "; ".join(f"{scenario.name} = {scenario.title}" for scenario in ALL),
    )
    parser.add_argument("--quick", action="store_true", help="a few messages, once: shows that it works")
    parser.add_argument("--scenario", action="append", choices=list(BY_NAME), help="only this one (may be repeated)")
    parser.add_argument("--runs", type=int, default=3, help="of each peer in turn; medians are printed (default 3)")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"default {','.join(PEERS)}")
    return parser.parse_args()


def _peers(names: list[str], site: Site) -> list[Peer]:
    peers: list[Peer] = []
    for name in names:
        if name not in PEERS:
            sys.exit(f"no peer {name}: choose from {', '.join(PEERS)}")
        why = "" if name == "relay" else PostfixPeer.missing()
        if why:
            print(f"{name} is left out: {why}")
        else:
            peers.append(RelayPeer(site) if name == "relay" else PostfixPeer(site, tuned=name.endswith("tuned")))
    return peers


def _run(peers: list[Peer], scenarios: list[Scenario], site: Site, runs: int) -> int:
    about = report.machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    measured: dict[str, dict[str, list[Figures]]] = {}
    trouble = False
    for scenario in scenarios:
        found: dict[str, list[Figures]] = {peer.name: [] for peer in peers}
        for run in range(runs):
            for peer in peers if run % 2 == 0 else reversed(peers):  # what drifts meets each at both ends
                found[peer.name].append(measure(peer, scenario, site))
        measured[scenario.name] = found
        trouble = trouble or any(figures.trouble for of_peer in found.values() for figures in of_peer)
        print(report.table(scenario, found), flush=True)
    print(f"\nwritten to {report.write(RESULTS, measured, about)}")
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
