"""Medians and ratios, for people (a table for each scenario) and for programs (JSON)."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from benchmarks.measure import Figures
from benchmarks.scenarios import SMALL, Scenario

QUIET = 0.15  # share of the processors that others may use before the rates mean little
HEADINGS = (
    *("peer", "accepted/s", "delivered/s", "p50 ms", "p99 ms", "CPU s/1000", "sink", "load"),
    *("peak MiB rss", "pss", "one", "idle", "others", "steal"),
)
FORM = "{:<16}" + "{:>12}" * 2 + "{:>9}" * 2 + "{:>11}" + "{:>7}" * 2 + "{:>13}" + "{:>7}" * 5


def median(runs: Sequence[Figures]) -> Figures:
    """Figure by figure; `trouble` of all runs."""
    values: dict[str, Any] = {}
    for field in fields(Figures):
        found = [getattr(run, field.name) for run in runs]
        values[field.name] = statistics.median(found) if isinstance(found[0], int | float) else found[0]
    values["trouble"] = [finding for run in runs for finding in run.trouble]
    return Figures(**values)


def ratios(runs: Mapping[str, Sequence[Figures]]) -> dict[str, list[float]]:
    """The relay against the better Postfix of the same run, run by run.

    `delivered` and `accepted`: more is better; `cpu` and `peak_pss`: less is.
    """
    others = [figures for name, figures in runs.items() if name.startswith("postfix") and figures]
    relay = runs.get("relay")
    if not relay or not others:
        return {}
    found: dict[str, list[float]] = {"accepted": [], "delivered": [], "cpu": [], "peak_pss": []}
    for ours, *theirs in zip(relay, *others, strict=True):
        found["accepted"].append(ours.accepted_per_s / max(other.accepted_per_s for other in theirs))
        found["delivered"].append(ours.delivered_per_s / max(other.delivered_per_s for other in theirs))
        found["cpu"].append(ours.cpu_s_per_1000 / min(other.cpu_s_per_1000 for other in theirs))
        found["peak_pss"].append(ours.peak_pss / min(other.peak_pss for other in theirs))
    return found


def table(scenario: Scenario, runs: Mapping[str, Sequence[Figures]]) -> str:
    """One scenario's lines: medians of each peer, ratios with their span."""
    lines = [f"\n{scenario.title} ({scenario.size} octets)", FORM.format(*HEADINGS)]
    for name, figures in runs.items():
        lines.extend(_peer(scenario, name, median(figures)))
    if found := ratios(runs):
        text = ", ".join(
            f"{what} x {statistics.median(of_runs):.2f} ({min(of_runs):.2f} to {max(of_runs):.2f})"
            for what, of_runs in found.items()
        )
        lines.append(f"relay / better Postfix: {text}")
    noisiest = max((it.others for figures in runs.values() for it in figures), default=0.0)
    if noisiest > QUIET:
        lines.append(f"NOT QUIET: up to {noisiest:.0%} of the processors went to others; measure again")
    return "\n".join(lines)


def _peer(scenario: Scenario, name: str, it: Figures) -> list[str]:
    rates = f"{it.accepted_per_s:.0f}", f"{it.delivered_per_s:.0f}", f"{it.p50_ms:.1f}", f"{it.p99_ms:.1f}"
    cpu = f"{it.cpu_s_per_1000:.2f}", f"{it.upstream_cpu_s_per_1000:.2f}", f"{it.load_cpu_s_per_1000:.2f}"
    memory = f"{it.peak_rss:.0f}", f"{it.peak_pss:.0f}", f"{it.peak_largest:.0f}", f"{it.idle_rss:.0f}"
    lines = [FORM.format(name, *rates, *cpu, *memory, f"{it.others:.0%}", f"{it.steal:.0%}")]
    if scenario.size > SMALL:
        megabytes = scenario.size / 1e6
        lines.append(f"{'':<16}{it.accepted_per_s * megabytes:>7.0f} MB/s{it.delivered_per_s * megabytes:>7.0f} MB/s")
    if scenario.max_per_account:
        lines.append(f"{'':<16}at most {it.most_open:.0f} open an account, {it.busy:.0f} logins answered 432")
    return lines + [f"{'':<16}TROUBLE: {finding}" for finding in it.trouble]


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cpus": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
    }


def write(folder: Path, scenarios: Mapping[str, Mapping[str, Sequence[Figures]]], about: Mapping[str, Any]) -> Path:
    """All runs, medians and ratios as JSON in `folder`; the file's path."""
    record: dict[str, Any] = {"machine": dict(about), "scenarios": {}}
    for name, peers in scenarios.items():
        medians = {peer: median(runs) for peer, runs in peers.items() if runs}
        record["scenarios"][name] = {
            "ratios": {what: statistics.median(of_runs) for what, of_runs in ratios(peers).items()},
            "medians": {peer: asdict(figures) for peer, figures in medians.items()},
            "runs": {peer: [asdict(run) for run in runs] for peer, runs in peers.items()},
        }
    folder.mkdir(exist_ok=True)
    path = folder / f"{about['at'].replace(':', '')}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path
