"""Traces: which messages, how many spans wait, what is set; and libraries that only some settings need."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from relay.config.check import SettingsError, load
from relay.config.egress import EgressSettings
from relay.config.extras import ExtraMissing, require_extras
from relay.config.telemetry import TelemetrySettings, headers_of
from relay.net.requests_way import local_address
from relay.telemetry.counters import snapshot
from relay.telemetry.otlp import OtlpThread
from relay.telemetry.tracing import Span, Tracer, ids_of, trace_id
from tests.peers.collector import Collector

NAME = "RELAY_TELEMETRY__OTLP_ENDPOINT"


def span(number: int = 1) -> Span:
    return Span("accept", number, "<1@x>", 1, 2, {}, root=True)


def test_ids_are_of_the_message_alone() -> None:
    assert trace_id(7, "<a@x>") == trace_id(7, "<a@x>") == ids_of(7, "<a@x>")[:16].hex()
    assert len({trace_id(7, "<a@x>"), trace_id(8, "<a@x>"), trace_id(7, "<b@x>"), trace_id(7, "\udcff")}) == 4


def test_beyond_the_bound_spans_are_dropped_and_counted() -> None:
    def dropped() -> float:
        return snapshot().get("relay_traces_dropped_total", {}).get((("reason", "queue"),), 0)

    before = dropped()
    tracer = Tracer(ratio=1, addresses=False, most=3)
    for number in range(5):
        tracer.add(span(number))
    assert dropped() - before == 2
    assert [one.message_id for one in tracer.take(2)] == [0, 1]
    assert [one.message_id for one in tracer.take(9)] == [2]
    assert tracer.take(9) == []


@pytest.mark.parametrize(("ratio", "least", "most"), [(0, 0, 0), (0.25, 200, 300), (1, 1000, 1000)])
def test_the_part_that_is_traced_is_the_same_in_every_process(ratio: float, least: int, most: int) -> None:
    chosen = [{n for n in range(1000) if Tracer(ratio=ratio, addresses=False).wants(n, "<1@x>")} for _ in range(2)]
    assert chosen[0] == chosen[1]
    assert least <= len(chosen[0]) <= most


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("", ""),
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("https://Collector.Example/", "https://collector.example/v1/traces"),
        ("https://x.example/otlp/v1/traces", "https://x.example/otlp/v1/traces"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ],
)
def test_the_address_of_a_collector(given: str, kept: str) -> None:
    assert load({NAME: given} if given else {}).telemetry.otlp_endpoint == kept


@pytest.mark.parametrize(
    "given",
    ["collector:4318", "grpc://collector:4317", "http://u:secret@x", "http://x?secret", "http://x:0", "http://"],
)
def test_what_is_no_collector_is_refused_with_the_right_form(given: str) -> None:
    with pytest.raises(SettingsError, match=f"{NAME}: .*give http://HOST:4318") as refused:
        load({NAME: given})
    assert "secret" not in str(refused.value)


def test_headers() -> None:
    assert headers_of("a=b, X-Key = c=d ,e=") == {"a": "b", "X-Key": "c=d", "e": ""}
    with pytest.raises(SettingsError, match="NAME=VALUE") as refused:
        load({"RELAY_TELEMETRY__OTLP_HEADERS": "a=b\r\nsecret: x"})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("module", "setting", "value", "extra"),
    [
        ("opentelemetry", NAME, "http://127.0.0.1:4318", "otel"),
        ("apprise", "RELAY_NOTICES__URLS", "json://127.0.0.1/x", "notify"),
    ],
)
def test_without_its_library_the_start_stops_with_the_name_of_the_extra(
    tmp_path: Path, module: str, setting: str, value: str, extra: str
) -> None:
    require_extras(load({setting: value}))  # it is installed for tests
    program = f"import sys; sys.modules[{module!r}] = None; from relay.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        (sys.executable, "-c", program, "serve"),
        env={"RELAY_DATA_DIR": str(tmp_path / "data"), setting: value, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr == f"relay: {ExtraMissing(setting, extra)}\n"
    assert f"pip install 'authrelay[{extra}]'" in done.stderr
    assert not (tmp_path / "data" / "relay.db").exists()


@pytest.mark.parametrize(
    ("source", "ip", "address"),
    [
        ((), "auto", ""),
        ((), "4", "0.0.0.0"),
        ((), "6", "::"),
        (("192.0.2.1", "2001:db8::1"), "auto", "192.0.2.1"),
        (("192.0.2.1", "2001:db8::1"), "6", "2001:db8::1"),
        (("2001:db8::1",), "4", "0.0.0.0"),
    ],
)
def test_one_connection_has_one_source(source: tuple[str, ...], ip: str, address: str) -> None:
    assert local_address(source, ip) == address


async def test_the_collector_is_reached_from_the_relays_own_address() -> None:
    with Collector() as collector:
        settings = TelemetrySettings(otlp_endpoint=collector.url + "/v1/traces")
        tracer = Tracer(ratio=1, addresses=False)
        thread = OtlpThread(tracer, settings, EgressSettings(source_address="127.0.0.9"))  # type: ignore[arg-type]
        tracer.add(span())
        thread.start()
        await asyncio.to_thread(thread.stop, 10)
        assert set(collector.callers) == {"127.0.0.9"}
