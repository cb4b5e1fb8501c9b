"""Counters: exact under threads, bounded, strict about names."""

from __future__ import annotations

import threading

import pytest

from relay.telemetry.counters import BUCKETS_S, MAX_SERIES, METRICS, Counters


def test_counts_by_label() -> None:
    counters = Counters()
    counters.count("relay_messages_accepted_total")
    counters.count("relay_messages_accepted_total", 2)
    counters.count("relay_deliveries_total", account="a@example.org", outcome="relayed")
    counters.count("relay_deliveries_total", outcome="relayed", account="a@example.org")
    counters.gauge("relay_queue_deliveries", 7, state="queued")
    counters.gauge("relay_queue_deliveries", 5, state="queued")
    assert counters.snapshot() == {
        "relay_messages_accepted_total": {(): 3},
        "relay_deliveries_total": {(("account", "a@example.org"), ("outcome", "relayed")): 2},
        "relay_possible_duplicates_total": {(): 0},
        "relay_queue_deliveries": {(("state", "queued"),): 5},
    }


def test_slips_are_errors() -> None:
    counters = Counters()
    for labels in ({}, {"account": "x"}, {"outcome": "x"}):
        with pytest.raises(KeyError):
            counters.count("relay_deliveries_total", **labels)
    with pytest.raises(KeyError):
        counters.count("relay_nothing_total")
    with pytest.raises(KeyError):
        counters.observe("relay_messages_accepted_total", 1)


def test_label_sets_are_bounded() -> None:
    counters = Counters()
    for number in range(MAX_SERIES + 100):
        counters.count("relay_messages_rejected_total", reason=str(number))
    series = counters.snapshot()["relay_messages_rejected_total"]
    assert len(series) == MAX_SERIES + 1
    assert series[(("reason", "other"),)] == 100


def test_histograms() -> None:
    counters = Counters()
    for seconds in (0.0005, 0.001, 0.3, 10_000):
        counters.observe("relay_accept_seconds", seconds)
    found = counters.histograms()["relay_accept_seconds"]
    assert found.total == pytest.approx(10_000.3015)
    assert found.buckets[0] == 2
    assert found.buckets[BUCKETS_S.index(0.5)] == 1
    assert found.buckets[-1] == 1


def test_threads_lose_no_count() -> None:
    counters = Counters()

    def work() -> None:
        for _ in range(5000):
            counters.count("relay_messages_accepted_total")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.snapshot()["relay_messages_accepted_total"] == {(): 20_000}


def test_metric_names_follow_the_conventions() -> None:
    for name, metric in METRICS.items():
        assert name.startswith("relay_")
        assert (metric.kind == "counter") == name.endswith("_total")
