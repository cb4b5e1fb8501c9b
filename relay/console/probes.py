"""/healthz, /readyz and /metrics: for orchestrators and Prometheus."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.config.console import ConsoleSettings
from relay.config.own_address import own_names
from relay.console.guard import hostname
from relay.console.identity import address_of, client_of
from relay.control.refusal import ControlError
from relay.telemetry.counters import METRICS

router = APIRouter(include_in_schema=False)

_PROBE_S = 3.0
_KEPT_S = 0.5  # several probes within this time are one question to the daemon
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/healthz")
async def healthz(request: Request) -> Response:
    """200: the daemon answers."""
    try:
        await _health(request)
    except ControlError:
        return PlainTextResponse("the relay does not answer\n", 503)
    return PlainTextResponse("ok\n")


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """200: a mail would be taken now. Why not is for METRICS_NETWORKS, and for who calls the console by its name."""
    try:
        health = await _health(request)
    except ControlError:
        return PlainTextResponse("not ready\n", 503)
    if health["ready"]:
        return PlainTextResponse("ready\n")
    reasons = "".join(f"{reason}\n" for reason in health["reasons"]) if _may_look(request) else ""
    return PlainTextResponse(f"not ready\n{reasons}", 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """The daemon's series in Prometheus' text format."""
    if not _may_look(request):
        return PlainTextResponse("not for this address; see RELAY_CONSOLE__METRICS_NETWORKS\n", 403)
    try:
        series = await client_of(request).call("metrics", timeout_s=_PROBE_S)
    except ControlError:
        return PlainTextResponse("the relay does not answer\n", 503)
    return Response(rendered(series), media_type=_CONTENT_TYPE)


def rendered(series: Mapping[str, Any]) -> bytes:
    """The answer of the action `metrics` as Prometheus reads it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Series(series))
    return generate_latest(registry)


class _Series(Collector):
    def __init__(self, series: Mapping[str, Any]) -> None:
        self._series = series

    def collect(self) -> Iterator[Metric]:
        for name, metric in METRICS.items():
            if metric.kind == "histogram":
                yield from self._histogram(name, metric.meaning)
                continue
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(name, metric.meaning, labels=metric.labels)
            for labels, value in self._series["numbers"].get(name, ()):
                family.add_metric([labels[label] for label in metric.labels], value)
            yield family

    def _histogram(self, name: str, meaning: str) -> Iterator[Metric]:
        found = self._series["histograms"].get(name)
        if found is None:
            return
        family = HistogramMetricFamily(name, meaning)
        count, buckets = 0, []
        for bound, members in zip([*map(str, found["bounds"]), "+Inf"], found["buckets"], strict=True):
            count += members
            buckets.append((bound, count))
        family.add_metric([], buckets, found["total"])
        yield family


async def _health(request: Request) -> Mapping[str, Any]:
    state = request.app.state
    async with state.health_lock:
        if time.monotonic() - state.health_at > _KEPT_S:
            state.health = await client_of(request).call("health", timeout_s=_PROBE_S)
            state.health_at = time.monotonic()
    found: Mapping[str, Any] = state.health
    return found


def prepare(state: Any) -> None:
    """What the probes keep between requests."""
    state.health, state.health_at, state.health_lock = None, float("-inf"), asyncio.Lock()


def _may_look(request: Request) -> bool:
    settings = request.app.state.settings
    assert isinstance(settings, ConsoleSettings)
    if hostname(request.headers.get("host", "")) not in own_names(settings):
        return False  # a page in a browser of ours that had its name point here (DNS rebinding)
    if not settings.trusted_proxies and ("x-forwarded-for" in request.headers or "forwarded" in request.headers):
        return False  # a proxy beside us, of which the settings say nothing: its address is not that of who asks
    try:
        address = ip_address(address_of(request))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return any(mapped.version == network.version and mapped in network for network in settings.metrics_networks)
