"""Random mixes of answers: each recipient of each message learns its own, and the upstream has exactly what it took."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.accounts.model import Upstream
from relay.mail.outcome import Accepted, Outcome, Refused, Stage
from relay.submission.smtp.transport import SmtpTransport
from tests.lengths import examples
from tests.peers.scripted_upstream import Rule, ScriptedUpstream
from tests.wire.carrying import LOGIN, PASSWORD, lane, mail, transport, upstream_of

ANSWERS = (250, 250, 250, 450, 452, 550)


@dataclass(frozen=True)
class Mix:
    """What one message gets at each step; `recipients` may be accepted in some and refused in others."""

    mail: int
    recipients: tuple[int, ...]
    data: int
    dot: int

    def sender(self, number: int) -> str:
        return f"m{self.mail}.d{self.data}.e{self.dot}.{number}@example.com"

    def expected(self, number: int) -> list[tuple[int, Stage | None]]:
        if self.mail != 250:
            return [(self.mail, Stage.MAIL)] * len(self.recipients)
        last: tuple[int, Stage | None] = (250, None)
        if self.data != 250:
            last = (self.data, Stage.DATA)
        elif self.dot != 250:
            last = (self.dot, Stage.DONE)
        return [last if answer == 250 else (answer, Stage.RCPT) for answer in self.recipients]


rare = st.sampled_from((250,) * 6 + (450, 550))
mixes = st.builds(Mix, rare, st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=6).map(tuple), rare, rare)


class Answering(ScriptedUpstream):
    """Answers by what the addresses say."""

    def rule(self, step: str, argument: str = "") -> Rule | None:
        code = 250
        if step == "RCPT":
            code = int(argument.partition(".")[0][1:])
        elif argument:
            at = {"MAIL": 0, "DATA": 1, "DOT": 2}.get(step)
            code = 250 if at is None else int(argument.split(".")[at][1:])
        return None if code == 250 else Rule().answers(f"{code} {code // 100}.1.1 so")


@dataclass
class Bench:
    runner: asyncio.Runner
    servers: dict[bool, Answering]
    accounts: dict[bool, Upstream]
    carrier: SmtpTransport


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder: Path = tmp_path_factory.mktemp("mixes")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:

        async def start(pipelining: bool) -> Answering:
            server = Answering(tls="none", accounts={LOGIN: PASSWORD}, pipelining=pipelining)
            return await server.__aenter__()

        servers = {pipelining: runner.run(start(pipelining)) for pipelining in (True, False)}
        accounts = {key: upstream_of(server, folder, account_id=int(key)) for key, server in servers.items()}
        carrier = transport(max_messages_per_connection=50)
        yield Bench(runner, servers, accounts, carrier)
        runner.run(carrier.close())
        for server in servers.values():
            runner.run(server.__aexit__())


@given(batch=st.lists(mixes, min_size=1, max_size=12), pipelining=st.booleans())
@settings(max_examples=examples(60), deadline=None)
def test_everyone_learns_their_own(bench: Bench, batch: list[Mix], pipelining: bool) -> None:
    server = bench.servers[pipelining]
    server.messages.clear()
    mails = [
        mail(
            number,
            *(f"r{answer}.{n}@example.org" for n, answer in enumerate(mix.recipients)),
            sender=mix.sender(number),
            content=b"Subject: %d\r\n\r\nbody\r\n" % number,
        )
        for number, mix in enumerate(batch)
    ]
    source = lane(*mails)
    bench.runner.run(bench.carrier.carry(bench.accounts[pipelining], source))
    assert {number: told(outcomes) for number, outcomes in source.reports} == {
        number: mix.expected(number) for number, mix in enumerate(batch)
    }
    taken = [(message.reverse_path, message.recipients, message.content) for message in server.messages]
    assert taken == [
        (
            mix.sender(number),
            tuple(f"r250.{n}@example.org" for n, answer in enumerate(mix.recipients) if answer == 250),
            b"Subject: %d\r\n\r\nbody\r\n" % number,
        )
        for number, mix in enumerate(batch)
        if (250, None) in mix.expected(number)
    ]


def told(outcomes: list[Outcome]) -> list[tuple[int, Stage | None]]:
    found: list[tuple[int, Stage | None]] = []
    for outcome in outcomes:
        assert isinstance(outcome, Accepted | Refused)
        found.append((outcome.reply.code, outcome.stage if isinstance(outcome, Refused) else None))
    return found
