"""One measurement: one peer under one load, with every message accounted for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from benchmarks.gauge import Gauge, Machine
from benchmarks.load import Sent
from benchmarks.scenarios import BIG, Scenario
from benchmarks.upstream import Site, Upstream
from tests.peers.register import Taken

WARM_UP = 50
SETTLE_S = 0.3
LOAD_TIMEOUT_S = 300


class Peer(Protocol):
    """A relay that can be started afresh for each measurement; `port` is its front door."""

    name: str
    port: int

    def prepare(self) -> None:
        """Once, before the first measurement."""

    def start(self, scenario: Scenario, gauge: Gauge) -> None:
        """Start with an empty queue, its processes in `gauge`; returns when it listens."""

    def stop(self) -> None:
        """Stop; also after a start that failed halfway."""


@dataclass(frozen=True)
class Figures:
    """One measurement. Rates are per second, memory is in MiB, `trouble` empty if every message came to its own."""

    accepted_per_s: float
    delivered_per_s: float
    p50_ms: float
    p99_ms: float
    cpu_s_per_1000: float
    peak_rss: float
    peak_pss: float
    peak_largest: float
    idle_rss: float
    idle_pss: float
    processes: int
    connections: int
    most_open: int
    busy: int
    messages: int
    upstream_cpu_s_per_1000: float
    load_cpu_s_per_1000: float
    others: float  # share of all processors that neither peer nor sink nor load used
    steal: float  # share of all processors that other machines took; part of `others`
    cpu_by: str
    trouble: list[str]


def measure(peer: Peer, scenario: Scenario, site: Site) -> Figures:
    """Start sink and peer, warm up, load, wait for the last arrival, stop both, count."""
    warm_up = WARM_UP if scenario.size < BIG else scenario.sessions
    count = scenario.count(peer.name)
    with ExitStack() as stack:
        gauge = Gauge()
        stack.callback(gauge.close)
        upstream = Upstream(site, scenario, site.folder / "taken.tsv")
        stack.callback(upstream.kill)
        stack.callback(peer.stop)
        peer.start(scenario, gauge)
        time.sleep(SETTLE_S)
        idle = gauge.memory()
        _send(peer, scenario, site, "warm", warm_up)
        warm = upstream.wait_for(warm_up)
        before, upstream_before, machine = gauge.cpu_s(), upstream.cpu_s(), Machine()
        gauge.sample()
        sent = _send(peer, scenario, site, "load", count)
        upstream.wait_for(warm + len(sent.accepted))
        time.sleep(SETTLE_S)
        cpu_s, upstream_cpu_s = gauge.cpu_s() - before, upstream.cpu_s() - upstream_before
        passed_s, busy_s, stolen_s = machine.seconds()
        peak = gauge.end_sample()
        peer.stop()
        counters = upstream.stop()
    taken = [message for message in upstream.taken() if message.id.startswith("load-")]
    last = max((message.at for message in taken), default=sent.last)
    return Figures(
        accepted_per_s=sent.per_s,
        delivered_per_s=len(taken) / (last - sent.first),
        p50_ms=sent.p50_ms,
        p99_ms=sent.p99_ms,
        cpu_s_per_1000=cpu_s / count * 1000,
        peak_rss=peak.rss,
        peak_pss=peak.pss,
        peak_largest=peak.largest,
        idle_rss=idle.rss,
        idle_pss=idle.pss,
        processes=peak.processes,
        connections=counters["connections"],
        most_open=max(counters["most_open"].values(), default=0),
        busy=counters["busy"],
        messages=count,
        upstream_cpu_s_per_1000=upstream_cpu_s / count * 1000,
        load_cpu_s_per_1000=sent.cpu_s / count * 1000,
        others=max(0.0, busy_s - cpu_s - upstream_cpu_s - sent.cpu_s) / passed_s,
        steal=stolen_s / passed_s,
        cpu_by=gauge.way,
        trouble=_trouble(count, sent, taken, site.senders),
    )


def _send(peer: Peer, scenario: Scenario, site: Site, tag: str, messages: int) -> Sent:
    options = {
        "--port": peer.port,
        "--sessions": scenario.sessions,
        "--messages": messages,
        "--size": scenario.size,
        "--tag": tag,
    }
    command = [sys.executable, "-m", "benchmarks.load", *(str(part) for pair in options.items() for part in pair)]
    if scenario.fresh:
        command.append("--fresh")
    done = subprocess.run(
        (*command, *site.senders), stdout=subprocess.PIPE, text=True, timeout=LOAD_TIMEOUT_S, check=True
    )
    return Sent(**json.loads(done.stdout))


def _trouble(count: int, sent: Sent, taken: list[Taken], senders: list[str]) -> list[str]:
    """What went wrong: refused, lost, doubled, or under another account than the sender's own."""
    arrived = Counter(int(message.id.partition("-")[2]) for message in taken)
    accepted = set(sent.accepted)
    owners = [senders[int(message.id.partition("-")[2]) % len(senders)] for message in taken]
    wrong = [it for it, owner in zip(taken, owners, strict=True) if not it.account == it.sender == owner]
    findings = {
        "not accepted": count - len(accepted),
        "lost": len(accepted - arrived.keys()),
        "doubled": sum(1 for times in arrived.values() if times > 1),
        "never accepted but arrived": len(arrived.keys() - accepted),
        "under a wrong account": len(wrong),
    }
    found = [f"{number} {what}" for what, number in findings.items() if number]
    return found + [f"refused: {reply}" for reply in sorted(set(sent.refused))[:3]]
