"""Connections between messages: for whom they are kept, how long, and what becomes of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relay.config.settings import SubmissionSettings
from relay.mail.outcome import Accepted, Refused
from relay.submission.smtp.transport import SmtpTransport
from tests.peers.script import Step
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.wire.carrying import LOGIN, PASSWORD, Lane, lane, mail, transport, upstream_of

LOOPS = ("asyncio", "uvloop")


def server(**options: object) -> ScriptedUpstream:
    return ScriptedUpstream(tls="none", accounts={LOGIN: PASSWORD}, **options)  # type: ignore[arg-type]


async def once(
    carrier: SmtpTransport, upstream: ScriptedUpstream, folder: Path, number: int, **changes: object
) -> Lane:
    source = lane(mail(number))
    async with asyncio.timeout(10):
        await carrier.carry(upstream_of(upstream, folder, **changes), source)
    assert isinstance(source.only, Accepted)
    return source


async def settled(carrier: SmtpTransport, counts: dict[int, int]) -> None:
    """Let the loop turn until its connections are so many; the other side's end of them is seen only by turning."""
    async with asyncio.timeout(5):
        while carrier.connections() != counts:
            await asyncio.sleep(0)


@pytest.mark.parametrize("pipelining", [True, False])
async def test_a_connection_is_used_again_with_rset_in_front(pipelining: bool, tmp_path: Path) -> None:
    async with server(pipelining=pipelining) as upstream:
        carrier = transport()
        for number in range(3):
            await once(carrier, upstream, tmp_path, number)
        assert carrier.connections() == {1: 1}
        await carrier.close()
        [log] = upstream.connections
        verbs = [line.split()[0] for line in log.lines]
        again = ["RSET", "MAIL", "RCPT", "DATA"]
        assert verbs == ["EHLO", "AUTH", "MAIL", "RCPT", "DATA", *again, *again, "QUIT"]
        if pipelining:
            assert sum(segment.startswith(b"RSET\r\nMAIL FROM") for segment in log.segments) == 2


async def test_two_carries_have_two_connections(tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on("DOT").pauses().well()
        carrier = transport()
        sources = [lane(mail(1)), lane(mail(2))]
        account = upstream_of(upstream, tmp_path)
        tasks = [asyncio.create_task(carrier.carry(account, source)) for source in sources]
        await upstream.until(lambda: sum("DATA" in log.lines for log in upstream.connections) == 2)
        assert carrier.connections() == {1: 2}
        upstream.go_on()
        await asyncio.gather(*tasks)
        assert all(isinstance(source.only, Accepted) for source in sources)
        await carrier.close()
        assert carrier.connections() == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"account_id": 2},
        {"revision": 2},
        {"account_id": 2, "account": "other@example.com"},
        {"provider": "m365"},
        {"trust": None},
        {"host": "127.0.0.1"},
        {"auth": "none"},
    ],
    ids=str,
)
async def test_a_connection_is_never_lent_to_another_identity(changes: dict[str, object], tmp_path: Path) -> None:
    async with server() as upstream:
        carrier = transport()
        await once(carrier, upstream, tmp_path, 1)
        await once(carrier, upstream, tmp_path, 2, **changes)
        assert [message.connection for message in upstream.messages] == [0, 1]
        if "account_id" not in changes:  # the account's former identity will not come back
            await upstream.until(lambda: upstream.connections[0].lost)
            assert upstream.connections[0].lines[-1] == "QUIT"
        await carrier.close()


async def test_many_identities_mixed_at_random_keep_to_themselves(tmp_path: Path) -> None:
    accounts = {f"u{n}@example.com": "pw" for n in range(4)}

    async def any_secret(_: object) -> str:
        return "pw"

    async with ScriptedUpstream(tls="none", accounts=accounts) as upstream:
        carrier = SmtpTransport(SubmissionSettings(stage_timeout_s=5), any_secret, hostname="relay.example")

        async def send(number: int) -> None:
            who = number * 7 % 4
            name = f"u{who}@example.com"
            account = upstream_of(upstream, tmp_path, account_id=who, account=name, login=name)
            source = lane(mail(number, sender=name))
            await carrier.carry(account, source)
            assert isinstance(source.only, Accepted)

        for start in range(0, 80, 8):
            await asyncio.gather(*(send(number) for number in range(start, start + 8)))
        assert len(upstream.messages) == 80
        assert all(message.account == message.reverse_path for message in upstream.messages)
        await carrier.close()


async def test_a_connection_is_replaced_after_so_many_messages(tmp_path: Path) -> None:
    async with server() as upstream:
        carrier = transport(max_messages_per_connection=3)
        source = lane(*(mail(number) for number in range(7)))
        await carrier.carry(upstream_of(upstream, tmp_path), source)
        assert all(isinstance(outcomes[0], Accepted) for _, outcomes in source.reports)
        assert [message.connection for message in upstream.messages] == [0, 0, 0, 1, 1, 1, 2]
        assert [log.lines[-1] for log in upstream.connections[:2]] == ["QUIT", "QUIT"]
        await carrier.close()


async def test_a_stopped_account_keeps_no_idle_login(tmp_path: Path) -> None:
    async with server() as upstream:
        carrier = transport()
        await once(carrier, upstream, tmp_path, 1)
        carrier.forget(1)
        carrier.forget(2)  # another account, which has none
        await once(carrier, upstream, tmp_path, 2)  # at once, while the other one is still on its way out
        await once(carrier, upstream, tmp_path, 3)
        assert [message.connection for message in upstream.messages] == [0, 1, 1]
        assert upstream.connections[0].lines[-1] == "QUIT"
        await carrier.close()


@pytest.mark.parametrize("step", ["AUTH", "DATA"])
async def test_a_stopped_account_keeps_no_login_that_was_under_way(step: Step, tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on(step, times=1).pauses().well()
        carrier = transport()
        under_way = asyncio.create_task(once(carrier, upstream, tmp_path, 1))
        await upstream.until(lambda: any(line.startswith(step) for log in upstream.connections for line in log.lines))
        carrier.forget(1)
        upstream.go_on()
        await under_way
        await settled(carrier, {})
        for number in (2, 3):
            await once(carrier, upstream, tmp_path, number)
        assert [message.connection for message in upstream.messages] == [0, 1, 1]
        await carrier.close()


async def test_an_idle_connection_is_closed_in_time(tmp_path: Path) -> None:
    async with server() as upstream:
        carrier = transport(idle_s=0.05)
        await once(carrier, upstream, tmp_path, 1)
        await upstream.until(lambda: upstream.connections[0].lost)
        assert upstream.connections[0].lines[-1] == "QUIT"
        await settled(carrier, {})


@pytest.mark.parametrize("what", [b"421 4.3.2 closing\r\n", b"250 2.0.0 forged\r\n", b"x", None])
async def test_an_idle_connection_that_stirs_is_dropped(what: bytes | None, tmp_path: Path) -> None:
    async with server() as upstream:
        carrier = transport()
        await once(carrier, upstream, tmp_path, 1)
        stream = upstream.streams[0]
        assert stream.transport is not None
        if what is None:
            stream.transport.close()
        else:
            stream.transport.write(what)
        await settled(carrier, {})
        await once(carrier, upstream, tmp_path, 2)
        assert [message.connection for message in upstream.messages] == [0, 1]
        await carrier.close()


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("end", ["disconnects", "resets", "421"])
async def test_a_dead_pooled_connection_costs_nobody_an_attempt(end: str, pipelining: bool, tmp_path: Path) -> None:
    async with server(pipelining=pipelining) as upstream:
        carrier = transport()
        await once(carrier, upstream, tmp_path, 1)
        rule = upstream.on("RSET", times=1)
        if end == "421":
            rule.answers("421 4.4.2 idle for too long").disconnects()
        else:
            getattr(rule, end)()
        await once(carrier, upstream, tmp_path, 2)  # accepted, and reported once
        assert [message.connection for message in upstream.messages] == [0, 1]
        await carrier.close()


async def test_a_new_connection_that_says_421_is_an_attempt(tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on("MAIL").answers("421 4.7.0 not now").disconnects()
        carrier = transport()
        source = lane(mail(1))
        await carrier.carry(upstream_of(upstream, tmp_path), source)
        assert isinstance(source.only, Refused)
        assert len(upstream.connections) == 1
        await carrier.close()


async def test_no_more_idle_connections_than_the_account_may_have(tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on("DOT").pauses().well()
        carrier = transport()
        account = upstream_of(upstream, tmp_path, max_connections=2)
        tasks = [asyncio.create_task(carrier.carry(account, lane(mail(n)))) for n in range(4)]
        await upstream.until(lambda: sum("DATA" in log.lines for log in upstream.connections) == 4)
        upstream.go_on()
        await asyncio.gather(*tasks)
        await upstream.until(lambda: sum(log.lost for log in upstream.connections) == 2)
        await settled(carrier, {1: 2})
        await carrier.close()


async def test_closing_waits_for_no_answer_to_quit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.submission.smtp.pool.QUIT_S", 0.05)
    async with server() as upstream:
        upstream.on("QUIT").stalls()
        carrier = transport()
        await once(carrier, upstream, tmp_path, 1)
        async with asyncio.timeout(1):
            await carrier.close()
        assert carrier.connections() == {}
