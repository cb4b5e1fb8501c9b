"""One login, with one mechanism, and what is reported when it cannot be."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from relay.config.settings import SubmissionSettings
from relay.mail.outcome import Accepted, Refused, Stage, Unreachable
from relay.submission.smtp.probe import probe
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.wire.carrying import LOGIN, PASSWORD, carry, lane, mail, secret, upstream_of

ACCOUNTS = {LOGIN: PASSWORD}


@pytest.mark.parametrize(
    ("offered", "used"),
    [("PLAIN", "PLAIN"), ("LOGIN", "LOGIN"), ("LOGIN PLAIN CRAM-MD5", "PLAIN"), ("XOAUTH2 LOGIN", "LOGIN")],
)
async def test_the_best_of_the_offered_mechanisms(offered: str, used: str, tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS, mechanisms=offered) as upstream:
        assert isinstance((await carry(upstream, tmp_path, lane(mail()))).only, Accepted)
        assert [line.split()[1] for line in upstream.lines() if line.startswith("AUTH")] == [used]


@pytest.mark.parametrize("offered", ["PLAIN LOGIN", "LOGIN PLAIN", "LOGIN"])
async def test_a_wrong_password_is_tried_once(offered: str, tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts={LOGIN: "another"}, mechanisms=offered) as upstream:
        outcome = (await carry(upstream, tmp_path, lane(mail()))).only
        assert isinstance(outcome, Refused)
        assert (outcome.reply.code, outcome.stage) == (535, Stage.AUTH)
        assert sum(line.startswith("AUTH") for line in upstream.lines()) == 1
        assert len(upstream.connections) == 1
        assert not any(line.startswith("MAIL") for line in upstream.lines())


async def test_every_recipient_hears_of_it_and_the_next_message_stays(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts={LOGIN: "another"}) as upstream:
        source = await carry(upstream, tmp_path, lane(mail(1, "a@example.org", "b@example.org"), mail(2)))
        assert [type(outcome) for outcome in source.of(1)] == [Refused, Refused]
        assert [left.message_id for left in source.waiting] == [2]


@pytest.mark.parametrize("offered", ["", "XOAUTH2", "CRAM-MD5 NTLM"])
async def test_no_mechanism_that_fits(offered: str, tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS, mechanisms=offered) as upstream:
        outcome = (await carry(upstream, tmp_path, lane(mail()))).only
        assert isinstance(outcome, Unreachable)
        assert (outcome.stage, outcome.reason) == (Stage.AUTH, "no-auth-mechanism")
        assert not any(line.startswith("AUTH") for line in upstream.lines())


async def test_no_stored_password(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        outcome = (await carry(upstream, tmp_path, lane(mail()), login="nobody@example.com")).only
        assert isinstance(outcome, Unreachable)
        assert (outcome.stage, outcome.reason) == (Stage.AUTH, "credential-missing")
        assert not any(line.startswith("AUTH") for line in upstream.lines())


async def test_an_upstream_that_wants_no_login(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        assert isinstance((await carry(upstream, tmp_path, lane(mail()), auth="none")).only, Accepted)
        assert not any(line.startswith("AUTH") for line in upstream.lines())


async def test_a_challenge_that_has_no_place(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        upstream.on("AUTH").answers("334 bW9yZQ==")
        outcome = (await carry(upstream, tmp_path, lane(mail()))).only
        assert isinstance(outcome, Unreachable)
        assert (outcome.stage, outcome.reason) == (Stage.AUTH, "protocol-error")
        assert PASSWORD not in repr(outcome)


async def test_a_refusal_that_quotes_the_credential_is_masked(tmp_path: Path) -> None:
    spoken = base64.b64encode(f"\0{LOGIN}\0{PASSWORD}".encode()).decode()
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        upstream.on("AUTH").answers(f"535 5.7.8 not with {spoken} here")
        outcome = (await carry(upstream, tmp_path, lane(mail()))).only
        assert isinstance(outcome, Refused)
        assert outcome.reply.text == "not with *** here"


async def test_a_probe_tells_each_step_and_sends_nothing(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        steps: list[tuple[str, str]] = []
        account = upstream_of(upstream, tmp_path)
        outcome = await probe(
            account, secret, lambda *step: steps.append(step), settings=SubmissionSettings(), hostname="relay.example"
        )
        assert isinstance(outcome, Accepted)
        assert outcome.reply.code == 235
        assert [name for name, _ in steps] == ["connect", "tls", "ehlo", "auth", "quit"]
        assert PASSWORD not in repr(steps)
        assert upstream.lines()[-1] == "QUIT"
        assert not any(line.startswith("MAIL") for line in upstream.lines())


async def test_a_probe_that_fails_says_where(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts={LOGIN: "another"}) as upstream:
        steps: list[str] = []
        outcome = await probe(
            upstream_of(upstream, tmp_path),
            secret,
            lambda name, _: steps.append(name),
            settings=SubmissionSettings(),
            hostname="relay.example",
        )
        assert isinstance(outcome, Refused)
        assert steps == ["connect", "tls", "ehlo"]
