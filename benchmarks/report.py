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

HEADINGS = ("peer", "accepted/s", "delivered/s", "p50 ms", "p99 ms", "CPU s/1000", "peak MiB rss", "pss", "one", "idle")
FORM = "{:<16}" + "{:>12}" * 2 + "{:>9}" * 2 + "{:>11}" + "{:>13}" + "{:>7}" * 3


def median(runs: Sequence[Figures]) -> Figures:
    """Figure by figure; `trouble` of all runs."""
    values: dict[str, Any] = {}
    for field in fields(Figures):
        found = [getattr(run, field.name) for run in runs]
        values[field.name] = statistics.median(found) if isinstance(found[0], int | float) else found[0]
    values["trouble"] = [finding for run in runs for finding in run.trouble]
    return Figures(**values)


def ratios(peers: Mapping[str, Figures]) -> dict[str, float]:
    """The relay against the better Postfix of each figure: delivered and accepted (more is better), CPU (less is)."""
    others = [figures for name, figures in peers.items() if name.startswith("postfix")]
    relay = peers.get("relay")
    if relay is None or not others:
        return {}
    return {
        "accepted": relay.accepted_per_s / max(other.accepted_per_s for other in others),
        "delivered": relay.delivered_per_s / max(other.delivered_per_s for other in others),
        "cpu": relay.cpu_s_per_1000 / min(other.cpu_s_per_1000 for other in others),
        "peak_pss": relay.peak_pss / min(other.peak_pss for other in others),
    }


def table(scenario: Scenario, peers: Mapping[str, Figures]) -> str:
    """One scenario's lines."""
    lines = [f"\n{scenario.title} ({scenario.size} octets)", FORM.format(*HEADINGS)]
    for name, it in peers.items():
        rates = f"{it.accepted_per_s:.0f}", f"{it.delivered_per_s:.0f}", f"{it.p50_ms:.1f}", f"{it.p99_ms:.1f}"
        memory = f"{it.peak_rss:.0f}", f"{it.peak_pss:.0f}", f"{it.peak_largest:.0f}", f"{it.idle_rss:.0f}"
        lines.append(FORM.format(name, *rates, f"{it.cpu_s_per_1000:.2f}", *memory))
        if scenario.size > SMALL:
            megabytes = scenario.size / 1e6
            lines.append(
                f"{'':<16}{it.accepted_per_s * megabytes:>7.0f} MB/s{it.delivered_per_s * megabytes:>7.0f} MB/s"
            )
        if scenario.max_per_account:
            lines.append(f"{'':<16}at most {it.most_open:.0f} open an account, {it.busy:.0f} logins answered 432")
        lines.extend(f"{'':<16}TROUBLE: {finding}" for finding in it.trouble)
    if found := ratios(peers):
        text = ", ".join(f"{what} x {ratio:.2f}" for what, ratio in found.items())
        lines.append(f"relay / better Postfix: {text}")
    return "\n".join(lines)


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
            "ratios": ratios(medians),
            "medians": {peer: asdict(figures) for peer, figures in medians.items()},
            "runs": {peer: [asdict(run) for run in runs] for peer, runs in peers.items()},
        }
    folder.mkdir(exist_ok=True)
    path = folder / f"{about['at'].replace(':', '')}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path
