"""The collector: reads what an exporter sends, and refuses when told to."""

from __future__ import annotations

import gzip
import urllib.error
import urllib.request

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.peers.collector import Collector


def _post(url: str, body: bytes, **headers: str) -> int:
    request = urllib.request.Request(f"{url}/v1/traces", body, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(answer.status)


def _request() -> bytes:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "x"
    span = resource.scope_spans.add().spans.add(trace_id=b"\1" * 16, span_id=b"\2" * 8, name="n")
    span.attributes.add(key="count").value.int_value = 3
    span.status.code, span.status.message = span.status.STATUS_CODE_ERROR, "why"
    return request.SerializeToString()


def test_it_reads_spans_plain_and_compressed() -> None:
    with Collector() as collector:
        assert _post(collector.url, _request()) == 200
        assert _post(collector.url, gzip.compress(_request()), **{"Content-Encoding": "gzip"}) == 200
        one, other = collector.wait(lambda spans: len(spans) == 2)
    assert one == other
    assert (one.service, one.trace, one.id, one.parent, one.name) == ("x", "01" * 16, "02" * 8, "", "n")
    assert (one.facts, one.error) == ({"count": 3}, "why")


def test_it_refuses_when_told_to() -> None:
    with Collector() as collector:
        collector.mode = "refuses"
        with pytest.raises(urllib.error.HTTPError, match="400"):
            _post(collector.url, _request())
        with pytest.raises(TimeoutError, match="only these"):
            collector.wait(bool, timeout_s=0.01)
