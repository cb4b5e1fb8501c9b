"""The scripted upstream does what it is told to, and otherwise what RFC 5321 says; seen by Python's own client."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

import pytest

from tests.peers.scripted_upstream import ScriptedUpstream

T = TypeVar("T")
MAIL = b"Subject: x\r\n\r\n.dot\r\n"


async def client(upstream: ScriptedUpstream, talk: Callable[[smtplib.SMTP], T]) -> T:
    """What `talk` returns, run in a thread on a connection that is in TLS if the server wants it."""

    def run() -> T:
        trust = ssl.create_default_context()
        upstream.authority.configure_trust(trust)
        if upstream.tls == "implicit":
            with smtplib.SMTP_SSL("localhost", upstream.port, timeout=5, context=trust) as implicit:
                return talk(implicit)
        with smtplib.SMTP("localhost", upstream.port, timeout=5) as plain:
            if upstream.tls == "starttls":
                plain.starttls(context=trust)
            return talk(plain)

    return await asyncio.to_thread(run)


async def raw(upstream: ScriptedUpstream, *writes: bytes) -> bytes:
    """All that is answered to these writes until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
    for octets in writes:
        writer.write(octets)
    async with asyncio.timeout(5):
        answered = await reader.read()
    writer.close()
    return answered


@pytest.mark.parametrize("tls", ["starttls", "implicit", "none"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
async def test_without_rules_it_takes_mail(tls: str, mechanism: str) -> None:
    async with ScriptedUpstream(tls=tls, accounts={"ann": "pw"}, mechanisms=mechanism) as upstream:  # type: ignore[arg-type]

        def talk(smtp: smtplib.SMTP) -> None:
            smtp.login("ann", "pw")
            smtp.sendmail("a@example.com", ["b@example.org", "c@example.org"], MAIL)

        await client(upstream, talk)
        message = await upstream.next_message()
        assert message.content == b"Subject: x\r\n\r\n..dot\r\n"
        assert (message.reverse_path, message.account) == ("a@example.com", "ann")
        assert message.recipients == ("b@example.org", "c@example.org")
        assert (upstream.clear_octets(b"AUTH ") == 0) is (tls != "none")


async def test_a_wrong_password_is_refused() -> None:
    async with ScriptedUpstream(accounts={"ann": "pw"}) as upstream:
        with pytest.raises(smtplib.SMTPAuthenticationError):
            await client(upstream, lambda smtp: smtp.login("ann", "other"))
        assert upstream.clear_octets(b"AUTH") == 0


async def test_rules_by_address_by_number_and_in_turn() -> None:
    async with ScriptedUpstream(tls="none") as upstream:
        upstream.on("RCPT", "gone@example.org").answers("550 5.1.1 gone")
        upstream.on("MAIL", times=1, skip=1).answers("451 4.3.0 later")
        upstream.on("MAIL", times=1).answers("421 4.3.2 much later")

        def talk(smtp: smtplib.SMTP) -> list[int]:
            smtp.ehlo()
            codes = []
            for _ in range(4):
                codes.append(smtp.mail("a@example.com")[0])
                codes.append(smtp.rcpt("gone@example.org")[0])
            return codes

        assert await client(upstream, talk) == [250, 550, 451, 550, 421, 550, 250, 550]


async def test_one_burst_of_replies_for_one_of_commands() -> None:
    async with ScriptedUpstream(tls="none") as upstream:
        upstream.on("DATA").sends(b"354 go\r\n250 forged\r\n")
        upstream.on("DOT").sends(b"250 2.0").disconnects()
        envelope = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
        answered = await raw(upstream, b"EHLO me\r\n", envelope + MAIL + b".\r\n")
        assert answered.endswith(b"354 go\r\n250 forged\r\n250 2.0")
        assert upstream.messages == []
        assert upstream.contents == 1
        assert upstream.connections[0].lines == ["EHLO me", *envelope.decode().split("\r\n")[:-1]]


async def test_a_next_envelope_behind_the_dot_is_a_command_again() -> None:
    async with ScriptedUpstream(tls="none") as upstream:
        envelope = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
        await raw(upstream, envelope, MAIL + b".\r\n" + envelope, b".\r\nQUIT\r\n")
        assert [message.content for message in upstream.messages] == [MAIL, b""]


async def test_the_parameters_of_mail_and_of_each_recipient_are_kept() -> None:
    async with ScriptedUpstream(tls="none") as upstream:
        upstream.on("RCPT", "gone@example.org").answers("550 5.1.1 gone")
        recipients = b"RCPT TO:<b@x.org> NOTIFY=NEVER\r\nRCPT TO:<gone@example.org> X=1\r\nRCPT TO:<c@x.org>\r\n"
        await raw(upstream, b"MAIL FROM:<a@x.org> SIZE=1 RET=FULL\r\n" + recipients + b"DATA\r\n.\r\nQUIT\r\n")
        [message] = upstream.messages
        assert message.parameters == "SIZE=1 RET=FULL"
        assert (message.recipients, message.recipient_parameters) == (("b@x.org", "c@x.org"), ("NOTIFY=NEVER", ""))


async def test_it_waits_stalls_and_resets_as_told() -> None:
    async with ScriptedUpstream(tls="none") as upstream:
        upstream.on("NOOP", times=1).pauses().well()
        upstream.on("NOOP", times=1).resets()
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        assert (await reader.readline()).startswith(b"220")
        writer.write(b"NOOP\r\n")
        await upstream.until(lambda: bool(upstream.connections[0].lines))
        upstream.go_on()
        assert (await reader.readline()).startswith(b"250")
        writer.write(b"NOOP\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.readline()
        writer.close()


async def test_a_stalled_peer_is_left_in_peace_when_the_server_stops() -> None:
    async with ScriptedUpstream(tls="none") as upstream:
        upstream.on("GREETING").stalls()
        with socket.create_connection(("127.0.0.1", upstream.port)):
            await upstream.until(lambda: bool(upstream.connections))
