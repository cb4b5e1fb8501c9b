"""The sink refuses what a provider would, and writes down exactly what it took."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.peers.certificates import Certificates, write_certificates
from tests.peers.register import SinkAccount, read_ledger
from tests.peers.sink import Sink

ANN = "ann@example.com"
MAIL = b"Subject: x\r\nX-Bench-Id: 7\r\n\r\n.one\r\n..two\r\n.\r\nthree\r\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return write_certificates(tmp_path_factory.mktemp("ca"))


@pytest.fixture
async def sink(certificates: Certificates, tmp_path: Path) -> AsyncIterator[Sink]:
    accounts = {ANN: SinkAccount("secret", (ANN, "@scan.example"))}
    server = Sink(
        accounts, chain=certificates.chain, key=certificates.key, ledger=tmp_path / "ledger", max_per_account=1
    )
    async with server:
        yield server


def connect(sink: Sink, certificates: Certificates, *, implicit: bool = False) -> smtplib.SMTP:
    trust = ssl.create_default_context(cafile=str(certificates.ca))
    if implicit:
        return smtplib.SMTP_SSL("localhost", sink.tls_port, timeout=5, context=trust)
    client = smtplib.SMTP("localhost", sink.port, timeout=5)
    assert client.sock is not None
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.starttls(context=trust)
    return client


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("mechanism", ["auth_plain", "auth_login"])
async def test_takes_what_the_account_may_send(
    sink: Sink, certificates: Certificates, tmp_path: Path, implicit: bool, mechanism: str
) -> None:
    def send() -> None:
        with connect(sink, certificates, implicit=implicit) as client:
            client.ehlo()
            client.user, client.password = ANN, "secret"
            client.auth(mechanism[5:].upper(), getattr(client, mechanism))
            client.sendmail(ANN, ["bob@example.org", "cid@example.org"], MAIL)
            client.sendmail("x@scan.example", ["bob@example.org"], MAIL)

    await asyncio.to_thread(send)
    first, second = await sink.arrived(2)
    assert first.content == second.content == MAIL
    assert (first.account, first.sender, first.id) == (ANN, ANN, "7")
    assert [line.recipients for line in read_ledger(tmp_path / "ledger")] == [
        ("bob@example.org", "cid@example.org"),
        ("bob@example.org",),
    ]


async def test_refuses_what_a_provider_refuses(sink: Sink, certificates: Certificates) -> None:
    def replies() -> list[int]:
        codes: list[int] = []

        def note(action: Callable[[], object]) -> None:
            try:
                action()
            except (smtplib.SMTPResponseException, smtplib.SMTPSenderRefused) as refusal:
                codes.append(refusal.smtp_code)

        with smtplib.SMTP("localhost", sink.port, timeout=5) as clear:
            clear.ehlo()
            codes.append(clear.docmd("AUTH", "PLAIN AGEAYg==")[0])
        with connect(sink, certificates) as client, connect(sink, certificates) as other:
            note(lambda: client.sendmail(ANN, ["bob@example.org"], MAIL))
            note(lambda: client.login(ANN, "wrong"))
            client.login(ANN, "secret")
            note(lambda: client.sendmail("bob@example.com", ["bob@example.org"], MAIL))
            note(lambda: other.login(ANN, "secret"))
        return codes

    codes = await asyncio.to_thread(replies)
    assert codes == [538, 530, 535, 550, 432]
    assert sink.taken == []


async def test_the_dot_is_found_wherever_it_is_cut(sink: Sink, certificates: Certificates) -> None:
    stuffed = b"Subject: x\r\n\r\n..\r\n..one\r\n\r\n.\r\n"

    def send() -> None:
        with connect(sink, certificates) as client:
            client.login(ANN, "secret")
            for cut in range(len(stuffed) + 1):
                client.mail(ANN)
                client.rcpt("bob@example.org")
                client.docmd("DATA")
                for part in (stuffed[:cut], stuffed[cut:]):
                    client.send(part)
                assert client.getreply()[0] == 250

    await asyncio.to_thread(send)
    taken = await sink.arrived(len(stuffed) + 1)
    assert {message.content for message in taken} == {b"Subject: x\r\n\r\n.\r\n.one\r\n\r\n"}


async def test_pipelined_messages_keep_their_order_behind_a_delay(sink: Sink, certificates: Certificates) -> None:
    sink.delay_s = 0.02

    def send() -> bytes:
        with connect(sink, certificates) as client:
            client.login(ANN, "secret")
            envelope = f"MAIL FROM:<{ANN}>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n".encode()
            client.send(envelope + b"X-Bench-Id: 1\r\n\r\n.\r\n" + envelope + b"X-Bench-Id: 2\r\n\r\n.\r\n")
            assert client.sock is not None
            return b" ".join(str(client.getreply()[0]).encode() for _ in range(8))

    assert await asyncio.to_thread(send) == b"250 250 354 250 250 250 354 250"
    assert [message.id for message in sink.taken] == ["1", "2"]
