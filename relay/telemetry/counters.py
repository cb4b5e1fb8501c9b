"""In-process counters, gauges and histograms under the metric names of the interface; nothing is exported here."""

from __future__ import annotations

import threading
from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

Labels = tuple[tuple[str, str], ...]  # sorted by name


class Metric(NamedTuple):
    """`kind` is counter, gauge or histogram; `labels` are the names it must be given, no more, no fewer."""

    kind: str
    meaning: str
    labels: tuple[str, ...] = ()


METRICS: dict[str, Metric] = {
    "relay_messages_accepted_total": Metric("counter", "messages answered with 250"),
    "relay_messages_rejected_total": Metric("counter", "transactions refused at the front door", ("reason",)),
    "relay_deliveries_total": Metric("counter", "deliveries by what became of them", ("account", "outcome")),
    "relay_returned_total": Metric(
        "counter", "recipients whose mail came back after an upstream took it", ("account",)
    ),
    "relay_possible_duplicates_total": Metric("counter", "attempts at what an upstream may have already"),
    "relay_queue_deliveries": Metric("gauge", "deliveries in the queue", ("state",)),
    "relay_queue_oldest_seconds": Metric("gauge", "age of the oldest unsettled message"),
    "relay_accept_seconds": Metric("histogram", "from end of DATA to 250"),
    "relay_delivery_seconds": Metric("histogram", "from 250 to relayed"),
    "relay_upstream_connections": Metric("gauge", "open connections upstream", ("account",)),
    "relay_account_state": Metric("gauge", "1 for the state an account is in", ("account", "state")),
    "relay_credential_expires_seconds": Metric("gauge", "time left for an account's credential", ("account",)),
    "relay_ready": Metric("gauge", "1 when a mail would be taken now"),
    "relay_traces_dropped_total": Metric("counter", "spans of traces that were lost, by where", ("reason",)),
    "relay_nodes": Metric("gauge", "living nodes on the store, as this one sees it"),
    "relay_leases": Metric("gauge", "accounts that this node submits for"),
    "relay_lease_changes_total": Metric("counter", "accounts taken on, released, and lost", ("change",)),
    "relay_storage_free_bytes": Metric("gauge", "room on the device of the store"),
}
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600)
MAX_SERIES = 5000  # a metric; label sets beyond it are counted together under "other"


@dataclass(slots=True)
class Histogram:
    """`buckets[n]` counts values up to BUCKETS_S[n] and above the one before; the last one those above all."""

    buckets: list[int]
    total: float = 0.0


class Counters:
    """All series of a process. Safe to use from several threads; never waits for anything."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in METRICS}
        self._histograms: dict[str, Histogram] = {}

    def count(self, name: str, by: float = 1, /, **labels: str) -> None:
        """Add `by` to a counter. Raises KeyError for a metric or label that is not in METRICS."""
        series = self._numbers[name]
        key = tuple([labels[label] for label in METRICS[name].labels]) if labels else ()
        with self._lock:
            if key in series:
                series[key] += by
            else:
                key = _checked(name, key, series)
                series[key] = series.get(key, 0) + by

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge. Raises KeyError for a metric or label that is not in METRICS."""
        series = self._numbers[name]
        key = tuple([labels[label] for label in METRICS[name].labels])
        with self._lock:
            series[key if key in series else _checked(name, key, series)] = value

    def forget(self, name: str, /, **labels: str) -> None:
        """Drop one series, as of what was removed. Raises KeyError for a metric or label that is not in METRICS."""
        key = tuple([labels[label] for label in METRICS[name].labels])
        with self._lock:
            self._numbers[name].pop(key, None)

    def observe(self, name: str, seconds: float, /) -> None:
        """Put a duration into a histogram. Raises KeyError for a metric that is not in METRICS."""
        if METRICS[name].kind != "histogram":
            raise KeyError(name)
        with self._lock:
            histogram = self._histograms.get(name)
            if histogram is None:
                histogram = self._histograms[name] = Histogram([0] * (len(BUCKETS_S) + 1))
            histogram.buckets[bisect_left(BUCKETS_S, seconds)] += 1
            histogram.total += seconds

    def snapshot(self) -> dict[str, dict[Labels, float]]:
        """Counters and gauges as they are: metric -> labels -> value; a counter without labels starts at 0."""
        with self._lock:
            found: dict[str, dict[Labels, float]] = {}
            for name, metric in METRICS.items():
                series = self._numbers[name]
                if series:
                    found[name] = {tuple(zip(metric.labels, key, strict=True)): value for key, value in series.items()}
                elif metric.kind == "counter" and not metric.labels:
                    found[name] = {(): 0}
            return found

    def histograms(self) -> dict[str, Histogram]:
        """A copy of every histogram that has values."""
        with self._lock:
            return {name: Histogram(list(found.buckets), found.total) for name, found in self._histograms.items()}


def _checked(name: str, key: tuple[str, ...], series: dict[tuple[str, ...], float]) -> tuple[str, ...]:
    labels = METRICS[name].labels
    if len(key) != len(labels):
        raise KeyError(f"{name} needs the labels {', '.join(labels)}")
    return key if len(series) < MAX_SERIES else ("other",) * len(labels)


COUNTERS = Counters()  # of this process, as every metrics library has it
count = COUNTERS.count
gauge = COUNTERS.gauge
forget = COUNTERS.forget
observe = COUNTERS.observe
snapshot = COUNTERS.snapshot
