"""What every Transport promises a lane: run on SMTP, Microsoft Graph and the Gmail API alike."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from relay.accounts.model import Upstream
from relay.mail.content import unstuff
from relay.mail.outcome import Accepted, InDoubt, Refused, Stage, Unreachable
from relay.submission.transport import Transport
from tests.peers.api_server import ApiServer, Fault
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.wire.api_carrying import APIS, Tokens, account_at, api_transport
from tests.wire.carrying import HASTY_S, Lane, lane, mail, transport, upstream_of

HEADER = b"From: app@example.com\r\nTo: ann@example.org\r\nSubject: x\r\n"


class Side:
    """A provider, and the transport that reaches it."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.smtp, self.api = ScriptedUpstream(), ApiServer()

    @property
    def upstream(self) -> Upstream:
        if self.kind == "smtp":
            return upstream_of(self.smtp, self.folder)
        return account_at(self.api, self.kind)

    def transport(self, **settings: Any) -> Transport:
        if self.kind == "smtp":
            return transport(**settings)
        return api_transport(self.api, self.folder, Tokens(), **settings)

    async def carry(self, source: Lane, upstream: Upstream | None = None, **settings: Any) -> Lane:
        carrier = self.transport(**settings)
        async with asyncio.timeout(20):
            await carrier.carry(upstream or self.upstream, source)
            await carrier.close()
        return source

    def goes_wrong(self, how: str) -> None:
        """The next message: its reply is lost, comes when the connection's end does, or it is refused."""
        if self.kind == "smtp":
            rule = self.smtp.on("DOT", times=1)
            {"lost": rule.disconnects, "late": rule.stalls}.get(how, lambda: rule.answers(how))()
        else:
            fault = {"lost": Fault(cut="reply"), "late": Fault(hold=asyncio.Event())}.get(how)
            self.api.order(fault or Fault(int(how[:3]), {"error": {"code": "x", "message": how}}))

    def refuses_login(self) -> None:
        if self.kind == "smtp":
            self.smtp.on("AUTH").answers("535 5.7.8 no")
        else:
            self.api.takes_token = lambda token: False

    async def taken(self) -> tuple[tuple[str, ...], bytes]:
        """Recipients and content, as they came and without stuffing."""
        if self.kind == "smtp":
            message = await self.smtp.next_message()
            return message.recipients, unstuff(message.content)
        found = await self.api.next_mail(5)
        return found.recipients, found.content

    def took_nothing(self) -> bool:
        return not self.smtp.messages and self.api.mails.empty()

    def opened(self) -> int:
        """Connections until now."""
        return len(self.smtp.connections) if self.kind == "smtp" else self.api.connections


@pytest.fixture(params=["smtp", *APIS])
async def side(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Side]:
    built = Side(request.param, tmp_path)
    async with built.smtp, built.api:
        yield built


async def test_nothing_waits_nothing_happens(side: Side) -> None:
    await side.carry(lane())
    assert side.opened() == 0


async def test_mail_arrives_as_it_was_written(side: Side) -> None:
    body = b"..dots\r\n...\r\n....\r\n\r\nlast\r\n"
    source = await side.carry(lane(mail(1, content=HEADER + b"\r\n" + body)))
    assert isinstance(source.only, Accepted)
    assert source.only.reply.code == 250
    assert await side.taken() == (("ann@example.org",), HEADER + b"\r\n" + unstuff(body))
    assert source.dots == [1]


@pytest.mark.parametrize("octets", [200_000, 1_500_000])
async def test_large_mail_comes_from_its_file(side: Side, octets: int) -> None:
    line = b"..0123456789 abcdefghijklmnopqrstuvwxyz\r\n"
    text = line * (octets // len(line))
    file = side.folder / "content"
    file.write_bytes(HEADER + b"\r\n" + text)
    source = await side.carry(lane(mail(1, content=file)))
    assert isinstance(source.only, Accepted)
    assert (await side.taken())[1] == HEADER + b"\r\n" + unstuff(text)


async def test_all_that_waits_goes_over_one_connection(side: Side) -> None:
    source = await side.carry(lane(*(mail(number, content=HEADER + b"\r\nx\r\n") for number in (1, 2, 3))))
    assert [number for number, _ in source.reports] == [1, 2, 3]
    assert all(isinstance(outcome, Accepted) for _, [outcome] in source.reports)
    assert side.opened() == 1


async def test_each_call_has_a_connection_and_they_are_used_again(side: Side) -> None:
    carrier = side.transport()
    for _ in range(2):
        sources = [lane(mail(number, content=HEADER + b"\r\nx\r\n")) for number in (1, 2, 3)]
        await asyncio.gather(*(carrier.carry(side.upstream, source) for source in sources))
        assert all(isinstance(source.only, Accepted) for source in sources)
    await carrier.close()
    assert side.opened() <= 3


async def test_another_identity_never_gets_the_connection(side: Side) -> None:
    carrier = side.transport()
    for number, changes in enumerate(({}, {"revision": 2}, {"account_id": 2})):
        source = lane(mail(1, content=HEADER + b"\r\nx\r\n"))
        await carrier.carry(replace(side.upstream, **changes), source)
        assert isinstance(source.only, Accepted)
        assert side.opened() == number + 1
    await carrier.close()


async def test_without_leave_the_end_does_not_go_out(side: Side) -> None:
    source = await side.carry(lane(mail(1, content=HEADER + b"\r\nx\r\n"), may_dot=lambda _: False))
    assert isinstance(source.only, Unreachable)
    assert (source.only.stage, source.only.reason, source.only.counted) == (Stage.DATA, "lease-lost", True)
    assert side.took_nothing()


async def test_leave_is_waited_for(side: Side) -> None:
    async def later(_: object) -> bool:
        await asyncio.sleep(0)
        return side.took_nothing()

    source = await side.carry(lane(mail(1, content=HEADER + b"\r\nx\r\n"), may_dot=later))
    assert isinstance(source.only, Accepted)


async def test_a_lost_reply_leaves_a_doubt(side: Side) -> None:
    side.goes_wrong("lost")
    source = await side.carry(lane(mail(1, content=HEADER + b"\r\nx\r\n")))
    assert isinstance(source.only, InDoubt)
    assert source.only.reason == "reply-lost"


async def test_a_late_reply_leaves_a_doubt(side: Side) -> None:
    side.goes_wrong("late")
    source = await side.carry(lane(mail(1, content=HEADER + b"\r\nx\r\n")), stage_s=HASTY_S)
    assert isinstance(source.only, InDoubt)
    assert source.only.reason == "stage-timeout"


async def test_who_is_stopped_while_waiting_reports_the_doubt(side: Side) -> None:
    side.goes_wrong("late")
    source = lane(mail(1, content=HEADER + b"\r\nx\r\n"))
    carrier = side.transport()
    task = asyncio.create_task(carrier.carry(side.upstream, source))
    if side.kind == "smtp":
        await side.smtp.until(lambda: side.smtp.contents > 0)
    else:
        await asyncio.wait_for(side.api.arrived.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert isinstance(source.only, InDoubt)
    await carrier.close()


async def test_a_refusal_is_told_and_the_next_mail_goes(side: Side) -> None:
    side.goes_wrong("550 never" if side.kind == "smtp" else "400 never")
    source = await side.carry(lane(mail(1, content=HEADER + b"\r\nx\r\n"), mail(2, content=HEADER + b"\r\nx\r\n")))
    [refused], [accepted] = source.of(1), source.of(2)
    assert isinstance(refused, Refused)
    assert refused.stage is Stage.DONE
    assert refused.reply.permanent
    assert "never" in refused.reply.text
    assert isinstance(accepted, Accepted)


async def test_a_refused_login_is_one_of_the_account(side: Side) -> None:
    side.refuses_login()
    source = await side.carry(lane(mail(1, content=HEADER + b"\r\nx\r\n")))
    assert isinstance(source.only, Refused)
    assert (source.only.stage, source.only.reply.code) == (Stage.AUTH, 535)


async def test_nobody_there(side: Side) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        source = await side.carry(lane(mail()), replace(side.upstream, port=port))
    assert isinstance(source.only, Unreachable)
    assert (source.only.stage, source.only.reason) == (Stage.CONNECT, "connection-refused")


async def test_a_stranger_gets_neither_secret_nor_mail(side: Side) -> None:
    stranger = trustme.CA().issue_cert("localhost")
    smtp, api = ScriptedUpstream(certificate=stranger), ApiServer(stranger)
    async with smtp, api:
        port = smtp.port if side.kind == "smtp" else api.port
        source = await side.carry(lane(mail()), replace(side.upstream, port=port))
        assert isinstance(source.only, Unreachable)
        assert (source.only.stage, source.only.reason) == (Stage.TLS, "certificate-invalid")
        assert (api.tokens, smtp.tokens, smtp.clear_octets(b"AUTH")) == ([], [], 0)


async def test_a_file_that_is_gone(side: Side) -> None:
    file = side.folder / "content"
    file.write_bytes(HEADER + b"\r\nx\r\n")
    missing = mail(1, content=file)
    file.unlink()
    source = await side.carry(lane(missing))
    assert isinstance(source.only, Unreachable)
    assert source.only.reason == "content-missing"
    assert side.took_nothing()
