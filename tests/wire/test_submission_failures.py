"""Every step of the dialogue failing in every way: what is reported, and that a retry repairs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.mail.outcome import Accepted, InDoubt, Outcome, Refused, Stage, Unreachable
from tests.peers.scripted_upstream import Rule, ScriptedUpstream, Step
from tests.wire.carrying import CAREFUL_S, HASTY_S, LOGIN, PASSWORD, carry, lane, mail

LOOPS = ("uvloop",)

STAGES: dict[Step, Stage] = {
    "GREETING": Stage.CONNECT,
    "EHLO": Stage.CONNECT,
    "STARTTLS": Stage.TLS,
    "AUTH": Stage.AUTH,
    "MAIL": Stage.MAIL,
    "RCPT": Stage.RCPT,
    "DATA": Stage.DATA,
    "DOT": Stage.DONE,
}
GOOD = {"GREETING": 220, "STARTTLS": 220, "AUTH": 235, "DATA": 354}
ENVELOPE = ("MAIL", "RCPT", "DATA")

REFUSALS = {
    "temporary": "451 4.3.0 try again later",
    "permanent": "550 5.7.1 never",
    "bare": "450",
    "closing": "421 4.3.2 closing",
}
BROKEN = (
    "garbage",
    "wrong class",
    "four digits",
    "two digits",
    "no text separator",
    "bare LF",
    "bare CR",
    "mixed codes",
    "extra reply",
    "half extra reply",
    "endless line",
    "endless reply",
    "below 200",
    "octets",
)
LOST = ("disconnects", "resets", "half reply", "half of two lines")


def broken(rule: Rule, failure: str, good: int) -> None:
    """What a broken upstream says instead of `good`."""
    text = {
        "garbage": b"hello there\r\n",
        "wrong class": b"354 go on\r\n" if good != 354 else b"250 2.0.0 ok\r\n",
        "four digits": b"%d0 ok\r\n" % good,
        "two digits": b"25 ok\r\n",
        "no text separator": b"%dok\r\n" % good,
        "bare LF": b"%d ok\n" % good,
        "bare CR": b"%d o\rk\r\n" % good,
        "mixed codes": b"%d-ok\r\n451 no\r\n" % good,
        "extra reply": b"%d ok\r\n250 2.0.0 forged\r\n" % good,
        "half extra reply": b"%d ok\r\n250 2.0" % good,
        "endless line": b"%d " % good + b"x" * 4096,
        "endless reply": b"%d-more\r\n" % good * 9000,
        "below 200": b"150 wait\r\n",
        "octets": b"\xff\xfe\x00\r\n",
    }[failure]
    rule.sends(text)


def broken_cases() -> Iterator[tuple[Step, str, bool]]:
    for pipelining in (True, False):
        for step in STAGES:
            for failure in BROKEN:
                # in a burst the half reply to MAIL and the reply to RCPT make one good line
                if not (pipelining and step == "MAIL" and failure == "half extra reply"):
                    yield step, failure, pipelining


def lost(rule: Rule, failure: str, good: int) -> None:
    """How a connection ends at a step."""
    match failure:
        case "disconnects":
            rule.disconnects()
        case "resets":
            rule.resets()
        case "half reply":
            rule.sends(b"%d 2.0.0 a" % good).disconnects()
        case _:
            rule.sends(b"%d-2.0.0 a\r\n" % good).disconnects()


def server(*, pipelining: bool) -> ScriptedUpstream:
    return ScriptedUpstream(accounts={LOGIN: PASSWORD}, pipelining=pipelining)


async def retry_repairs(upstream: ScriptedUpstream, folder: Path) -> None:
    """Nothing was taken so far; when the upstream is well again a second try brings the message once."""
    assert upstream.messages == []
    upstream.forget_rules()
    again = await carry(upstream, folder, lane(mail()))
    assert isinstance(again.only, Accepted)
    assert len(upstream.messages) == 1


def assert_stage(found: Stage, step: Step, *, pipelining: bool) -> None:
    """A burst that holds a broken reply is not believed in any part, so the stage may be an earlier one."""
    if pipelining and step in ENVELOPE:
        earlier = [STAGES[name] for name in ENVELOPE[: ENVELOPE.index(step) + 1]]
        assert found in earlier
    else:
        assert found is STAGES[step]


def assert_failed(outcome: Outcome, step: Step, reason: str, *, pipelining: bool) -> None:
    if step == "DOT":
        assert isinstance(outcome, InDoubt)
        assert outcome.reason == ("reply-lost" if reason == "connection-lost" else reason)
        return
    assert isinstance(outcome, Unreachable)
    assert outcome.reason == reason
    assert outcome.counted
    assert_stage(outcome.stage, step, pipelining=pipelining)


both = pytest.mark.parametrize("pipelining", [True, False], ids=["pipelined", "step by step"])
every_step = pytest.mark.parametrize("step", STAGES)


@both
@every_step
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_refusal_is_reported_with_its_stage(step: Step, refusal: str, pipelining: bool, tmp_path: Path) -> None:
    async with server(pipelining=pipelining) as upstream:
        upstream.on(step).answers(REFUSALS[refusal])
        source = await carry(upstream, tmp_path, lane(mail()))
        outcome = source.only
        assert isinstance(outcome, Refused)
        assert str(outcome.reply) == REFUSALS[refusal]
        assert outcome.stage is STAGES[step]
        assert sum(line.startswith("AUTH") for line in upstream.lines()) <= 1
        await retry_repairs(upstream, tmp_path)


@pytest.mark.parametrize(("step", "failure", "pipelining"), list(broken_cases()))
async def test_a_broken_reply_is_never_a_success(step: Step, failure: str, pipelining: bool, tmp_path: Path) -> None:
    async with server(pipelining=pipelining) as upstream:
        broken(upstream.on(step), failure, GOOD.get(step, 250))
        source = await carry(upstream, tmp_path, lane(mail()))
        assert_failed(source.only, step, "protocol-error", pipelining=pipelining)
        upstream.messages.clear()  # what it may have taken in spite of its broken reply
        await retry_repairs(upstream, tmp_path)


@both
@every_step
@pytest.mark.parametrize("failure", LOST)
async def test_a_lost_connection_is_no_reply(step: Step, failure: str, pipelining: bool, tmp_path: Path) -> None:
    async with server(pipelining=pipelining) as upstream:
        lost(upstream.on(step), failure, GOOD.get(step, 250))
        source = await carry(upstream, tmp_path, lane(mail()))
        assert_failed(source.only, step, "connection-lost", pipelining=pipelining)
        upstream.messages.clear()
        await retry_repairs(upstream, tmp_path)


@both
@every_step
async def test_a_stall_ends_at_the_deadline(step: Step, pipelining: bool, tmp_path: Path) -> None:
    async with server(pipelining=pipelining) as upstream:
        upstream.on(step).stalls()
        source = await carry(upstream, tmp_path, lane(mail()), HASTY_S)
        assert_failed(source.only, step, "stage-timeout", pipelining=pipelining)
        await retry_repairs(upstream, tmp_path)


async def test_a_stall_in_the_handshake_ends_too(tmp_path: Path) -> None:
    async with server(pipelining=True) as upstream:
        upstream.on("TLS").stalls()
        outcome = (await carry(upstream, tmp_path, lane(mail()), HASTY_S)).only
        assert isinstance(outcome, Unreachable)
        assert (outcome.stage, outcome.reason) == (Stage.TLS, "stage-timeout")


@both
async def test_a_forged_250_behind_the_354_is_no_success(pipelining: bool, tmp_path: Path) -> None:
    async with server(pipelining=pipelining) as upstream:
        upstream.on("DATA", times=1).sends(b"354 go\r\n250 2.0.0 forged\r\n")
        upstream.on("DOT").answers("451 4.3.0 not today")
        source = await carry(upstream, tmp_path, lane(mail()))
        assert_failed(source.only, "DATA", "protocol-error", pipelining=pipelining)
        assert source.dots == []
        await retry_repairs(upstream, tmp_path)


async def test_a_250_in_the_middle_of_the_content_is_no_success(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"Subject: x\r\n\r\n" + (b"x" * 998 + b"\r\n") * 12000)
    async with server(pipelining=True) as upstream:
        upstream.extensions = ()
        upstream.on("BODY").answers("250 2.0.0 taken")
        upstream.on("DOT").answers("451 4.3.0 not today")
        source = await carry(upstream, tmp_path, lane(mail(content=big)))
        outcome = source.only
        assert isinstance(outcome, Unreachable)
        assert (outcome.stage, outcome.reason) == (Stage.DATA, "protocol-error")
        assert source.dots == []


async def test_a_421_in_the_middle_of_the_content_is_a_refusal(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"Subject: x\r\n\r\n" + (b"x" * 998 + b"\r\n") * 12000)
    async with server(pipelining=True) as upstream:
        upstream.extensions = ()
        upstream.on("BODY").answers("421 4.3.2 going down").stalls()
        outcome = (await carry(upstream, tmp_path, lane(mail(content=big)), CAREFUL_S)).only
        assert isinstance(outcome, Refused)
        assert (outcome.reply.code, outcome.stage) == (421, Stage.DATA)


async def test_a_peer_that_stops_reading_is_given_up(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"Subject: x\r\n\r\n" + (b"x" * 998 + b"\r\n") * 30000)
    async with ScriptedUpstream(tls="none", accounts={LOGIN: PASSWORD}, extensions=()) as upstream:
        upstream.on("BODY").stops_reading()
        source = await carry(upstream, tmp_path, lane(mail(content=big)), HASTY_S)
        outcome = source.only
        assert isinstance(outcome, Unreachable)
        assert (outcome.stage, outcome.reason) == (Stage.DATA, "stage-timeout")
        assert source.dots == []


async def test_354_without_a_recipient_brings_no_dot(tmp_path: Path) -> None:
    async with server(pipelining=True) as upstream:
        upstream.on("RCPT").answers("550 5.1.1 nobody")
        upstream.on("DATA").answers("354 go on all the same")
        source = await carry(upstream, tmp_path, lane(mail(1, "a@example.org", "b@example.org")))
        assert [type(outcome) for outcome in source.of(1)] == [Refused, Refused]
        assert source.dots == []
        await upstream.until(lambda: upstream.connections[0].lost)
        assert upstream.contents == 0


@pytest.mark.parametrize("stage", ["RCPT", "DATA"])
async def test_a_421_closes_for_those_who_have_no_answer_yet(stage: Step, tmp_path: Path) -> None:
    async with server(pipelining=True) as upstream:
        upstream.on("RCPT", "gone@example.org").answers("550 5.1.1 nobody")
        upstream.on(stage, "b@example.org" if stage == "RCPT" else "").answers("421 4.7.0 enough").disconnects()
        source = await carry(upstream, tmp_path, lane(mail(1, "gone@example.org", "a@example.org", "b@example.org")))
        codes = [outcome.reply.code for outcome in source.of(1) if isinstance(outcome, Refused)]
        assert codes == [550, 421, 421]
