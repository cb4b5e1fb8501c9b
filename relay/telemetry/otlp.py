"""Sends spans to a collector by OTLP over HTTP, from a thread of its own. Loaded only when there is a collector."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from relay import __version__
from relay.config.proxy import is_exception, url_with_password
from relay.config.telemetry import TelemetrySettings, headers_of
from relay.net.requests_way import FromAddress, local_address
from relay.telemetry import get_logger
from relay.telemetry.counters import count
from relay.telemetry.tracing import Span, Tracer, ids_of

if TYPE_CHECKING:
    from relay.config.egress import EgressSettings

log = get_logger()

_EVERY_S = 1.0
_BATCH = 512
_TIMEOUT_S = 10.0  # for one batch, with what is tried again
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("relay", __version__)


class OtlpThread:
    """Takes from `tracer` once a second. A collector that fails or stalls costs spans, and nothing else."""

    def __init__(self, tracer: Tracer, settings: TelemetrySettings, egress: EgressSettings) -> None:
        """Must be made in the event loop: its log lines are written there."""
        # The library says itself what it thinks of each failed try; `traces.failed` says it once.
        logging.getLogger("opentelemetry").disabled = True
        for name in ("exporter.otlp.proto.http.trace_exporter", "exporter.otlp.proto.http", "exporter.otlp.common"):
            logging.getLogger(f"opentelemetry.{name}").disabled = True
        self._tracer, self._where = tracer, urlsplit(settings.otlp_endpoint).netloc
        self._loop = asyncio.get_running_loop()
        headers = headers_of(settings.otlp_headers.get_secret_value()) if settings.otlp_headers is not None else {}
        trusted = settings.otlp_ca_file or egress.ca_file
        self._exporter = OTLPSpanExporter(
            settings.otlp_endpoint,
            headers=headers,
            timeout=_TIMEOUT_S,
            compression=Compression.Gzip,
            certificate_file=str(trusted) if trusted is not None else None,
            session=_session(settings, egress),
        )
        self._resource = Resource({"service.name": settings.service_name, "service.version": __version__})
        self._ending = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def start(self) -> None:
        """From now on spans are sent."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Send what waits, for at most so long; what cannot be sent by then is lost. Blocking."""
        self._ending.set()
        self._thread.join(timeout_s)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._ending.wait(_EVERY_S)
            while spans := self._tracer.take(_BATCH):
                self._send(spans)
                if self._failing:
                    break  # a batch a second: what is new finds no room meanwhile, and is counted

    def _send(self, spans: Sequence[Span]) -> None:
        try:
            sent = self._exporter.export([made for span in spans for made in self._made(span)])
            why = "" if sent is SpanExportResult.SUCCESS else "the collector did not take them"
        except Exception as error:  # outermost loop of this thread; a text of the library may hold its headers
            why = type(error).__name__
        if why:
            count("relay_traces_dropped_total", len(spans), reason="collector")
        if bool(why) is self._failing:
            return
        self._failing = bool(why)
        if why:
            to_do = "mail goes on; see that it runs, and RELAY_TELEMETRY__OTLP_ENDPOINT and __OTLP_HEADERS"
            self._say(partial(log.warning, "traces.failed", host=self._where, detail=why, to_do=to_do))
        else:
            self._say(partial(log.info, "traces.recovered", host=self._where))

    def _say(self, line: partial[None]) -> None:
        try:
            self._loop.call_soon_threadsafe(line)
        except RuntimeError:  # the loop has ended
            pass

    def _made(self, span: Span) -> Iterable[ReadableSpan]:
        ids = ids_of(span.message_id, span.header_message_id)
        trace, first = int.from_bytes(ids[:16]), int.from_bytes(ids[16:])

        def context(number: int) -> SpanContext:
            return SpanContext(trace, number, is_remote=False, trace_flags=_SAMPLED)

        own = context(first if span.root else _chance())
        status = Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.OK)
        yield ReadableSpan(
            span.name,
            own,
            parent=None if span.root or span.orphan else context(first),
            resource=self._resource,
            attributes=span.facts,
            kind=SpanKind.SERVER if span.root else SpanKind.CLIENT,
            status=status,
            start_time=span.began_ns,
            end_time=span.ended_ns,
            instrumentation_scope=_SCOPE,
        )
        began_ns = span.began_ns
        for step in span.steps:
            yield ReadableSpan(
                step.name,
                context(_chance()),
                parent=own,
                resource=self._resource,
                kind=SpanKind.INTERNAL,
                start_time=began_ns,
                end_time=step.ended_ns,
                instrumentation_scope=_SCOPE,
            )
            began_ns = step.ended_ns


def _chance() -> int:
    """A span id: 64 bits, never all zero (W3C trace context)."""
    return int.from_bytes(os.urandom(8)) or 1


def _session(settings: TelemetrySettings, egress: EgressSettings) -> requests.Session:
    """By the relay's own way out; what the environment says of proxies does not count."""
    session = requests.Session()
    session.trust_env = False
    host = urlsplit(settings.otlp_endpoint).hostname or ""
    if egress.proxy is not None and not is_exception(host, egress.no_proxy):
        proxy = url_with_password(egress.proxy, egress.proxy_password)
        session.proxies = {"http": proxy, "https": proxy}
    if address := local_address(egress.source_address, egress.ip):
        for scheme in ("http://", "https://"):
            session.mount(scheme, FromAddress(address))
    return session
