"""Transactions on one connection: what goes over the wire, whose reply is whose, who learns what."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from relay.accounts.model import Upstream
from relay.config.settings import SubmissionSettings
from relay.mail.errors import StorageFailed
from relay.mail.outcome import Accepted, InDoubt, Outcome, Refused, Stage, Unreachable
from relay.submission.smtp.transport import SmtpTransport
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.wire.carrying import BODY, HASTY_S, LOGIN, PASSWORD, Lane, carry, lane, mail, transport, upstream_of

LOOPS = ("asyncio", "uvloop")


def server(**options: object) -> ScriptedUpstream:
    return ScriptedUpstream(tls="none", accounts={LOGIN: PASSWORD}, **options)  # type: ignore[arg-type]


def codes(outcomes: list[Outcome]) -> list[int]:
    return [outcome.reply.code for outcome in outcomes if isinstance(outcome, Accepted | Refused)]


def after_login(upstream: ScriptedUpstream, connection: int = 0) -> list[bytes]:
    """The segments behind AUTH."""
    segments = upstream.connections[connection].segments
    login = next(at for at, segment in enumerate(segments) if segment.startswith(b"AUTH"))
    return segments[login + 1 :]


# -- what goes over the wire


@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
async def test_content_arrives_octet_by_octet_as_it_was(tls: str, tmp_path: Path) -> None:
    async with ScriptedUpstream(tls=tls, accounts={LOGIN: PASSWORD}) as upstream:  # type: ignore[arg-type]
        source = await carry(upstream, tmp_path, lane(mail(1, "a@example.org", "b@example.org")))
        assert codes(source.of(1)) == [250, 250]
        message = await upstream.next_message()
        assert message.content == BODY
        assert (message.reverse_path, message.recipients) == (LOGIN, ("a@example.org", "b@example.org"))


async def test_one_write_for_the_envelope_one_for_content_and_the_next_envelope(tmp_path: Path) -> None:
    async with server(extensions=("SIZE 0",)) as upstream:
        await carry(upstream, tmp_path, lane(mail(1), mail(2, sender="two@example.com"), mail(3)))
        size = len(BODY)
        first, second, third = (
            f"MAIL FROM:<{sender}> SIZE={size}\r\nRCPT TO:<ann@example.org>\r\nDATA\r\n".encode()
            for sender in (LOGIN, "two@example.com", LOGIN)
        )
        end = BODY + b".\r\n"
        assert after_login(upstream)[:4] == [first, end + second, end + third, end]
        assert [message.reverse_path for message in upstream.messages] == [LOGIN, "two@example.com", LOGIN]


async def test_without_pipelining_nothing_is_sent_before_its_turn(tmp_path: Path) -> None:
    async with server(pipelining=False, extensions=()) as upstream:
        source = await carry(upstream, tmp_path, lane(mail(1, "a@example.org", "b@example.org"), mail(2)))
        assert codes(source.of(1) + source.of(2)) == [250, 250, 250]
        lines = [f"MAIL FROM:<{LOGIN}>", "RCPT TO:<a@example.org>", "RCPT TO:<b@example.org>", "DATA"]
        expected = [line.encode() + b"\r\n" for line in lines] + [BODY + b".\r\n"]
        assert after_login(upstream)[:5] == expected


async def test_parameters_are_those_that_were_offered(tmp_path: Path) -> None:
    sub = mail(1, "bücher@example.org", eight_bit=True, smtputf8=True)
    async with server() as upstream:
        await carry(upstream, tmp_path, lane(sub))
        assert (await upstream.next_message()).parameters == f"SIZE={len(BODY)} BODY=8BITMIME SMTPUTF8"


async def test_the_null_reverse_path_and_empty_content(tmp_path: Path) -> None:
    async with server() as upstream:
        source = await carry(upstream, tmp_path, lane(mail(sender="", content=b"")))
        assert isinstance(source.only, Accepted)
        message = await upstream.next_message()
        assert (message.reverse_path, message.content) == ("", b"")


async def test_what_the_upstream_cannot_take_is_not_offered(tmp_path: Path) -> None:
    async with server(extensions=("SIZE 100",)) as upstream:
        big = mail(1, content=b"x" * 98 + b"\r\n" + BODY)
        wide = mail(2, eight_bit=True)
        foreign = mail(3, "bücher@example.org", smtputf8=True)
        sly = mail(4, "a@example.org>\r\nRCPT TO:<b@example.org")
        source = await carry(upstream, tmp_path, lane(big, wide, foreign, sly, mail(5)))
        replies = {n: source.of(n)[0].reply for n in range(1, 6)}  # type: ignore[union-attr]
        found = {number: f"{reply.code} {reply.status}" for number, reply in replies.items()}
        assert found == {1: "552 5.3.4", 2: "554 5.6.3", 3: "553 5.6.7", 4: "553 5.1.3", 5: "250 2.0.0"}
        assert all(outcome.stage is Stage.MAIL for n in range(1, 5) for outcome in source.of(n))  # type: ignore[union-attr]
        assert sum(line.startswith("MAIL") for line in upstream.lines()) == 1


@pytest.mark.parametrize("size", [1, 70_000, 262_144, 3_000_000])
async def test_files_are_streamed(size: int, tmp_path: Path) -> None:
    content = (b"x" * 98 + b"\r\n") * (size // 100) + b"y" * (size % 100) + b"\r\n"
    (tmp_path / "body").write_bytes(content)
    async with ScriptedUpstream(accounts={LOGIN: PASSWORD}) as upstream:
        source = await carry(
            upstream, tmp_path, lane(mail(1, content=tmp_path / "body"), mail(2), mail(3, content=content))
        )
        assert codes([source.of(n)[0] for n in (1, 2, 3)]) == [250, 250, 250]
        assert [message.content == content for message in upstream.messages] == [True, False, True]


@pytest.mark.parametrize("fault", ["gone", "shorter", "no line end"])
async def test_content_that_is_not_what_was_stored_is_never_ended_with_a_dot(fault: str, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(BODY)
    sub = mail(1, content=body)
    match fault:
        case "gone":
            body.unlink()
        case "shorter":
            body.write_bytes(BODY[:10])
        case _:
            body.write_bytes(b"x" * len(BODY))
    async with server() as upstream:
        source = await carry(upstream, tmp_path, lane(sub))
        outcome = source.only
        assert isinstance(outcome, Unreachable)
        assert outcome.reason == "content-missing"
        await upstream.until(lambda: all(log.lost for log in upstream.connections))
        assert upstream.contents == 0


# -- recipients and refusals


@pytest.mark.parametrize("pipelining", [True, False])
async def test_each_recipient_has_its_own_outcome(pipelining: bool, tmp_path: Path) -> None:
    async with server(pipelining=pipelining) as upstream:
        upstream.on("RCPT", "gone@example.org").answers("550 5.1.1 no such user")
        upstream.on("RCPT", "full@example.org").answers("452 4.2.2 mailbox full")
        upstream.on("RCPT", "more@example.org").answers("452 4.5.3 too many recipients")
        names = ["ann", "gone", "full", "bob", "more"]
        source = await carry(upstream, tmp_path, lane(mail(1, *(f"{name}@example.org" for name in names))))
        assert codes(source.of(1)) == [250, 550, 452, 250, 452]
        assert [o.stage for o in source.of(1) if isinstance(o, Refused)] == [Stage.RCPT] * 3
        assert (await upstream.next_message()).recipients == ("ann@example.org", "bob@example.org")


@pytest.mark.parametrize("pipelining", [True, False])
async def test_refusals_between_others_keep_to_their_message(pipelining: bool, tmp_path: Path) -> None:
    async with server(pipelining=pipelining) as upstream:
        upstream.on("MAIL", "m2@example.com").answers("550 5.7.60 SendAsDenied")
        upstream.on("RCPT", "r3@example.org").answers("550 5.1.1 no such user")
        upstream.on("DATA", "m4@example.com").answers("451 4.3.0 not now")
        upstream.on("DOT", "m5@example.com").answers("554 5.6.0 spam")
        mails = [mail(n, f"r{n}@example.org", sender=f"m{n}@example.com") for n in range(1, 7)]
        source = await carry(upstream, tmp_path, lane(*mails))
        assert [codes(source.of(n)) for n in range(1, 7)] == [[250], [550], [550], [451], [554], [250]]
        stages = [source.of(n)[0].stage for n in range(2, 6)]  # type: ignore[union-attr]
        assert stages == [Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.DONE]
        assert [message.reverse_path for message in upstream.messages] == ["m1@example.com", "m6@example.com"]
        assert [number for number, _ in source.reports] == [1, 2, 3, 4, 5, 6]
        assert source.dots == [1, 5, 6]
        assert len(upstream.connections) == 1
        # RSET after a transaction that did not end with 250; where the envelope was out already there is no room for it
        lines = upstream.lines()
        before = [lines[at + 1] for at, line in enumerate(lines) if line == "RSET"]
        assert [line.partition(">")[0] for line in before] == [
            f"MAIL FROM:<m{n}@example.com" for n in ((3, 4, 5) if pipelining else (3, 4, 5, 6))
        ]


@pytest.mark.parametrize("pipelining", [True, False])
async def test_a_refused_rset_costs_the_connection_not_the_message(pipelining: bool, tmp_path: Path) -> None:
    async with server(pipelining=pipelining) as upstream:
        upstream.on("MAIL", "m1@example.com").answers("451 4.3.0 not now")
        upstream.on("RSET").answers("500 5.5.1 what")
        source = await carry(upstream, tmp_path, lane(mail(1, sender="m1@example.com"), mail(2)))
        assert [codes(source.of(1)), codes(source.of(2))] == [[451], [250]]
        assert [message.connection for message in upstream.messages] == [1]


async def test_a_server_that_keeps_the_envelope_of_refused_content_is_asked_again(tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on("DOT", "m1@example.com").answers("550 5.7.1 spam")
        upstream.on("MAIL", "m2@example.com").answers("503 5.5.1 nested MAIL")
        mails = [mail(1, sender="m1@example.com"), mail(2, sender="m2@example.com")]
        source = await carry(upstream, tmp_path, lane(*mails))
        assert codes(source.of(1)) == [550]
        [outcome] = source.of(2)
        assert isinstance(outcome, Unreachable)
        assert not outcome.counted


# -- the envelope behind the dot


async def test_one_reply_burst_a_message_under_latency(tmp_path: Path) -> None:
    async with server(delay_s=0.01) as upstream:
        await carry(upstream, tmp_path, lane(*(mail(n) for n in range(20))))
        assert len(upstream.messages) == 20
        assert len([segment for segment in after_login(upstream) if b"QUIT" not in segment]) == 21


@pytest.mark.parametrize("end", ["disconnects", "resets", "stalls"])
async def test_an_envelope_behind_a_dot_that_gets_no_answer_is_no_attempt(end: str, tmp_path: Path) -> None:
    async with server() as upstream:
        getattr(upstream.on("MAIL", "m2@example.com"), end)()
        source = await carry(upstream, tmp_path, lane(mail(1), mail(2, sender="m2@example.com"), mail(3)), HASTY_S)
        assert codes(source.of(1)) == [250]
        [outcome] = source.of(2)
        assert isinstance(outcome, Unreachable)
        assert not outcome.counted
        assert outcome.reason == ("stage-timeout" if end == "stalls" else "upstream-closed")
        assert [left.message_id for left in source.waiting] == [3]


async def test_a_421_behind_a_dot_is_no_attempt(tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on("MAIL", "m2@example.com").answers("421 4.7.0 enough for now").disconnects()
        source = await carry(upstream, tmp_path, lane(mail(1), mail(2, sender="m2@example.com")))
        assert codes(source.of(1)) == [250]
        [outcome] = source.of(2)
        assert isinstance(outcome, Unreachable)
        assert (outcome.reason, outcome.counted) == ("upstream-closed", False)


async def test_a_lost_answer_to_the_dot_does_not_concern_the_one_behind(tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on("DOT").disconnects()
        source = await carry(upstream, tmp_path, lane(mail(1), mail(2)))
        [first], [second] = source.of(1), source.of(2)
        assert first == InDoubt("reply-lost", first.detail)  # type: ignore[union-attr]
        assert isinstance(second, Unreachable)
        assert not second.counted


async def test_a_forged_answer_in_the_burst_of_a_dot_makes_it_doubtful(tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on("DOT", times=1).answers("250 2.0.0 forged", "451 4.3.0 the truth")
        source = await carry(upstream, tmp_path, lane(mail(1), mail(2)))
        [first], [second] = source.of(1), source.of(2)
        assert isinstance(first, InDoubt)
        assert isinstance(second, Unreachable)
        assert not second.counted


async def test_a_421_in_place_of_the_answer_to_the_dot_is_a_refusal(tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on("DOT").answers("421 4.3.2 going down").disconnects()
        source = await carry(upstream, tmp_path, lane(mail(1), mail(2)))
        assert codes(source.of(1)) == [421]
        assert source.of(2) == [Unreachable(Stage.MAIL, "upstream-closed", "421 4.3.2 going down", counted=False)]


async def test_recipients_that_were_refused_stay_so_when_the_rest_is_in_doubt(tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on("RCPT", "gone@example.org").answers("550 5.1.1 no such user")
        upstream.on("DOT").stalls()
        source = await carry(upstream, tmp_path, lane(mail(1, "gone@example.org", "ann@example.org")), HASTY_S)
        refused, doubtful = source.of(1)
        assert isinstance(refused, Refused)
        assert isinstance(doubtful, InDoubt)
        assert doubtful.reason == "stage-timeout"


# -- the word before the dot


@pytest.mark.parametrize("kind", ["octets", "file"])
@pytest.mark.parametrize("later", [True, False])
async def test_no_dot_without_permission(kind: str, later: bool, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(BODY)

    async def no() -> bool:
        await asyncio.sleep(0)
        return False

    async with server() as upstream:
        sub = mail(1, content=BODY if kind == "octets" else tmp_path / "body")
        source = await carry(upstream, tmp_path, lane(sub, mail(2), may_dot=lambda _: no() if later else False))
        outcome = dict(source.reports)[1][0]
        assert isinstance(outcome, Unreachable)
        assert (outcome.stage, outcome.reason) == (Stage.DATA, "lease-lost")
        await upstream.until(lambda: upstream.connections[0].lost)
        assert upstream.contents == 0
        assert b"\r\n.\r\n" not in bytes(upstream.connections[0].clear)
        assert [left.message_id for left in source.waiting] == [2]


async def test_the_dot_waits_for_the_mark(tmp_path: Path) -> None:
    mark: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    asked = asyncio.Event()

    def may_dot(_: object) -> asyncio.Future[bool]:
        asked.set()
        return mark

    async with server() as upstream:
        source = lane(mail(1), may_dot=may_dot)
        carrying = asyncio.create_task(carry(upstream, tmp_path, source))
        await asked.wait()
        await upstream.until(lambda: b"last line\r\n" in bytes(upstream.connections[0].clear))
        assert upstream.contents == 0
        mark.set_result(True)
        await carrying
        assert isinstance(source.only, Accepted)


async def test_no_dot_when_the_mark_fails(tmp_path: Path) -> None:
    async def fails() -> bool:
        raise StorageFailed

    async with server() as upstream:
        source = await carry(upstream, tmp_path, lane(mail(1), may_dot=lambda _: fails()))
        assert isinstance(source.only, Unreachable)
        await upstream.until(lambda: upstream.connections[0].lost)
        assert upstream.contents == 0


async def test_octets_that_come_while_the_mark_is_made_stop_the_dot(tmp_path: Path) -> None:
    mark: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    async with server() as upstream:
        upstream.on("BODY").answers("250 2.0.0 forged")
        source = lane(mail(1), may_dot=lambda _: mark)
        carrying = asyncio.create_task(carry(upstream, tmp_path, source))
        await upstream.until(lambda: bool(upstream.connections) and upstream.connections[0].lost)
        mark.set_result(True)
        await carrying
        outcome = source.only
        assert isinstance(outcome, Unreachable)
        assert (outcome.stage, outcome.reason) == (Stage.DATA, "protocol-error")
        assert upstream.contents == 0


# -- cancellation


async def cancelled_at(upstream: ScriptedUpstream, folder: Path, source: Lane, sent: bytes) -> None:
    carrier = transport()
    task = asyncio.create_task(carrier.carry(upstream_of(upstream, folder), source))
    await upstream.until(lambda: bool(upstream.connections) and sent in bytes(upstream.connections[0].clear))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert carrier.connections() == {}
    await upstream.until(lambda: upstream.connections[0].lost)


async def test_cancelled_before_the_dot_is_no_attempt(tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on("DATA").stalls()
        source = lane(mail(1))
        await cancelled_at(upstream, tmp_path, source, b"DATA")
        assert isinstance(source.only, Unreachable)
        assert not source.only.counted


async def test_cancelled_behind_the_dot_is_in_doubt(tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on("DOT").stalls()
        source = lane(mail(1), mail(2))
        await cancelled_at(upstream, tmp_path, source, b"\r\n.\r\n")
        [first], [second] = source.of(1), source.of(2)
        assert isinstance(first, InDoubt)
        assert isinstance(second, Unreachable)
        assert not second.counted


@pytest.mark.parametrize("step", ["GREETING", "EHLO", "AUTH"])
async def test_cancelled_while_connecting(step: str, tmp_path: Path) -> None:
    async with server() as upstream:
        upstream.on(step).stalls()  # type: ignore[arg-type]
        source = lane(mail(1))
        await cancelled_at(upstream, tmp_path, source, b"" if step == "GREETING" else step.encode())
        assert isinstance(source.only, Unreachable)
        assert not source.only.counted


async def test_a_fault_of_the_lane_is_not_swallowed_with_its_mail(tmp_path: Path) -> None:
    def breaks(_: object) -> bool:
        raise RuntimeError("a bug")

    async with server() as upstream:
        source = await carry(upstream, tmp_path, lane(mail(1), may_dot=breaks))
        outcome = source.only
        assert isinstance(outcome, Unreachable)
        assert outcome.reason == "unknown-failure"
        assert upstream.contents == 0


async def test_a_store_that_cannot_be_asked_for_the_password_costs_the_mail_no_attempt(tmp_path: Path) -> None:
    async def unavailable(_: Upstream) -> str:
        raise StorageFailed("connection refused")

    async with server() as upstream:
        connecting = SmtpTransport(SubmissionSettings(stage_timeout_s=HASTY_S), unavailable, hostname="relay.example")
        source = lane(mail(1))
        await connecting.carry(upstream_of(upstream, tmp_path), source)
        await connecting.close()
        outcome = source.only
        assert isinstance(outcome, Unreachable)
        assert not outcome.counted
