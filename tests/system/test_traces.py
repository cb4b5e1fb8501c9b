"""Traces of messages at a collector: whole over a restart, without addresses, and never in the way of mail."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.peers.collector import Collector, Received
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, PASSWORD, Relaying

MAIL = b"Subject: a-subject-nobody-may-see\r\n\r\na-body-nobody-may-see\r\n"
TO = "ann.nobody.may.see@example.org"
TOKEN = "a-token-for-the-collector"


def _of(spans: list[Received], name: str) -> list[Received]:
    return [span for span in spans if span.name == name]


async def test_one_message_is_one_trace_over_a_restart(upstream: ScriptedUpstream, relaying: Relaying) -> None:
    upstream.on("RCPT", times=1).answers(f"450 4.2.1 <{TO}> is busy")
    with Collector() as collector:
        settings = {
            "RELAY_TELEMETRY__OTLP_ENDPOINT": collector.url,
            "RELAY_TELEMETRY__OTLP_HEADERS": f"x-team=mail,authorization=Bearer {TOKEN}",
            "RELAY_DISPATCH__FIRST_RETRY_S": "1",
            "HTTP_PROXY": "http://127.0.0.1:9",  # what the environment says does not count
        }
        async with relaying(**settings) as daemon:
            await daemon.submit(APP, [TO], MAIL)
            await daemon.event("attempt.refused")
            await daemon.stop()  # what waits is sent before the end
            await daemon.start()
            await upstream.next_message()
            accepted, opened = await daemon.event("message.accepted"), await daemon.event("session.opened")
            spans = await asyncio.to_thread(collector.wait, lambda found: len(_of(found, "attempt")) == 2)
            story = (await daemon.cli("trace", accepted["message_id"])).stdout
    [root] = _of(spans, "accept")
    assert {span.trace for span in spans} == {root.trace}
    assert root.trace in story
    assert (root.parent, root.service, root.error) == ("", "relay", "")
    assert root.facts["relay.message_id"] == accepted["message_id"]
    assert root.facts["relay.session_id"] == opened["session_id"]
    assert root.facts["relay.account"] == APP
    assert {span.name for span in spans if span.parent == root.id} == {"receive", "commit", "attempt"}
    refused, taken = _of(spans, "attempt")
    assert (refused.facts["relay.outcome"], refused.facts["relay.code"]) == ("refused", 450)
    assert refused.error == refused.facts["relay.cause"] != ""
    assert (taken.facts["relay.outcome"], taken.facts["relay.attempt"], taken.facts["relay.relayed"]) == (
        *("accepted", 2),
        1,
    )
    steps = [span for span in spans if span.parent == taken.id]
    assert [span.name for span in steps] == ["connect", "envelope", "content", "reply"]
    assert taken.began <= steps[0].began <= steps[0].ended == steps[1].began <= steps[-1].ended <= taken.ended
    assert root.began < root.ended <= refused.ended <= taken.began
    assert {"/v1/traces"} == set(collector.paths)
    assert all(headers["authorization"] == f"Bearer {TOKEN}" for headers in collector.headers)
    sent = b"".join(collector.raw)
    for secret in (TO, "nobody-may-see", PASSWORD, TOKEN):
        assert secret.encode() not in sent


async def test_addresses_are_told_when_asked_for(upstream: ScriptedUpstream, relaying: Relaying) -> None:
    upstream.on("RCPT", times=1).answers(f"550 5.1.1 <{TO}> unknown")
    with Collector() as collector:
        settings = {"RELAY_TELEMETRY__OTLP_ENDPOINT": collector.url, "RELAY_TELEMETRY__ADDRESSES": "yes"}
        async with relaying(**settings) as daemon:
            await daemon.submit(APP, [TO], MAIL)
            spans = await asyncio.to_thread(collector.wait, lambda found: len(_of(found, "attempt")) >= 1)
    [root] = _of(spans, "accept")
    refused = _of(spans, "attempt")[0]
    assert (root.facts["relay.sender"], root.facts["relay.recipient"]) == (APP, TO)
    assert TO in refused.facts["relay.reply"]
    assert b"nobody-may-see" not in b"".join(collector.raw).replace(TO.encode(), b"")


@pytest.mark.parametrize("mode", ["dead", "refuses", "stalls"])
async def test_a_collector_in_trouble_delays_no_mail(upstream: ScriptedUpstream, relaying: Relaying, mode: str) -> None:
    with Collector() as collector, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}" if mode == "dead" else collector.url
        collector.mode = "stalls" if mode == "stalls" else "refuses"
        async with relaying(RELAY_TELEMETRY__OTLP_ENDPOINT=url) as daemon:
            started = time.monotonic()
            for number in range(20):
                await daemon.submit(APP, [f"r{number}@example.org"], MAIL)
            for _ in range(20):
                await upstream.next_message()
            assert time.monotonic() - started < 20
            if mode == "refuses":
                failed = await daemon.event("traces.failed")
                assert (failed["level"], failed["host"]) == ("warning", collector.url.removeprefix("http://"))
                collector.mode = "takes"
                await daemon.submit(APP, ["late@example.org"], MAIL)
                await daemon.event("traces.recovered")
            assert not [event for event in daemon.events if event["event"] == "library.logged"]
            started = time.monotonic()
            assert await daemon.stop() == 0
            assert time.monotonic() - started < 10
            assert daemon.other_output == []
