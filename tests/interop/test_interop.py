"""Real applications through the relay to real submission servers, authenticated as the sender's own account."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.daemon import RelayDaemon
from tests.interop.applications import APPLICATIONS, Application, Submission
from tests.interop.upstreams import ACCOUNTS, DOORS, Upstream, absent, running_upstream
from tests.store import lay_store

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(bool(absent()), reason=absent() or "present"),
    pytest.mark.asyncio(loop_scope="module"),
]
ANN = "ann@example.com"
BOB = "bob@example.com"
NO_LIMITS = ("--per-minute", "0", "--per-day", "0", "--max-connections", "2")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with running_upstream() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def relay(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RelayDaemon]:
    """A daemon with Ann at Postfix over STARTTLS and Bob at Dovecot over implicit TLS."""
    daemon = RelayDaemon(lay_store(tmp_path_factory.mktemp("relay") / "data"))
    async with daemon:
        for address, server, tls in ((ANN, "postfix", "starttls"), (BOB, "dovecot", "implicit")):
            await daemon.add_account(address, ACCOUNTS[address], *where(upstream, server, tls))
        yield daemon


def where(upstream: Upstream, server: str, tls: str, mechanisms: str = "plain, login") -> tuple[str, ...]:
    """Options of `relay account add` for one of the upstream's doors."""
    port = str(upstream.door(server, tls, mechanisms).port)
    return ("--host", "localhost", "--port", port, "--tls", tls, "--trust", str(upstream.ca), *NO_LIMITS)


def mail(sender: str, recipient: str, body: bytes) -> bytes:
    """A mail as a file on disk: LF."""
    return (
        f"From: <{sender}>\nTo: <{recipient}>\nSubject: interop\nDate: Mon, 23 Nov 2026 12:00:00 +0000\n"
        f"Message-ID: <{recipient}>\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n"
        "Content-Transfer-Encoding: 8bit\n\n"
    ).encode() + body


@pytest.mark.parametrize("sender", [ANN, BOB])
@pytest.mark.parametrize("application", APPLICATIONS, ids=str)
async def test_an_applications_mail_arrives_under_its_senders_account(
    application: Application, sender: str, relay: RelayDaemon, upstream: Upstream, tmp_path: Path
) -> None:
    if application.absent():
        pytest.skip(application.absent())
    recipient = f"{application.name.replace('::', '-').lower()}-{sender.partition('@')[0]}@example.org"
    body = ".ein Punkt\n..zwei\n.\nGrüße\n\n.".encode() + b"\nend\n"
    content = mail(sender, recipient, body)
    await application.send(Submission(relay.port, sender, recipient, content, tmp_path))
    (arrived,) = await upstream.arrived(recipient)
    assert arrived.authenticated_as == sender
    assert arrived.body in (body, body + b"\n")  # swaks and smtplib end what has LF with an empty line of their own
    assert arrived.header.endswith(content.partition(b"\n\n")[0].decode())


@pytest.mark.parametrize("door", DOORS, ids=lambda door: f"{door[0]}-{door[1]}-{door[2]}")
async def test_every_kind_of_door_is_opened(door: tuple[str, str, str], relay: RelayDaemon, upstream: Upstream) -> None:
    server, tls, mechanisms = door
    sender = f"door{DOORS.index(door)}@example.com"
    recipient = f"via-{server}-{tls}-{mechanisms.replace(', ', '-')}@example.org"
    upstream.set_owner(sender, ANN)
    await relay.add_account(sender, ACCOUNTS[ANN], "--login", ANN, *where(upstream, server, tls, mechanisms))
    await relay.submit(sender, [recipient], mail(sender, recipient, b"hello\n").replace(b"\n", b"\r\n"))
    (arrived,) = await upstream.arrived(recipient)
    assert arrived.authenticated_as == ANN
    if server == "postfix":
        method, user = upstream.logins()[-1]
        assert method.lower() in mechanisms
        assert user == ANN


@pytest.mark.parametrize("server", ["postfix", "dovecot"])
async def test_a_wrong_password_suspends_the_account_and_keeps_its_mail(
    relay: RelayDaemon, upstream: Upstream, server: str
) -> None:
    sender, recipient = f"carl-{server}@example.com", f"carl-waits-{server}@example.org"
    upstream.set_passwords(ACCOUNTS | {sender: "the new one"})
    upstream.set_owner(sender, sender)
    await relay.add_account(sender, "the old one", *where(upstream, server, "starttls"))
    seen = len(relay.events)
    await relay.submit(sender, [recipient], mail(sender, recipient, b"hello\r\n"))
    await relay.event("attempt.refused", since=seen, account=sender, code=535)
    await relay.event("account.suspended", since=seen, account=sender)
    await relay.submit(sender, [recipient], mail(sender, recipient, b"hello again\r\n"))
    waiting = json.loads((await relay.cli("queue", "list", "--account", sender, "--json")).stdout)
    assert len(waiting) == 2
    assert upstream.mails(recipient) == []
    other = f"not-disturbed-{server}@example.org"
    await relay.submit(ANN, [other], mail(ANN, other, b"hello\r\n"))
    await upstream.arrived(other)
    await relay.cli("account", "set-password", sender, "--password-file", "-", stdin="the new one")
    arrived = await upstream.arrived(recipient, 2)
    assert {it.authenticated_as for it in arrived} == {sender}
    assert sorted(it.body for it in arrived) == [b"hello\n", b"hello again\n"]


def bodies() -> dict[str, bytes]:
    """What mail systems like to spoil, with CRLF line ends."""
    chance = random.Random(7)
    binary = bytes(octet for octet in range(256) if octet not in b"\0\r\n")
    lines = [b"." * chance.randrange(4) + chance.randbytes(60).hex().encode() for _ in range(40_000)]
    return {
        "dots": b".\r\n..\r\n...\r\n.a\r\n\r\n.\r\nend.\r\n.\r\n",
        "eight-bit": binary + b"\r\n" + binary[::-1] + b"\r\n",
        "long-lines": b"x" * 5000 + b"\r\n." + b"y" * 30_000 + b"\r\n",
        "no-line-end-before-the-dot": b"one\r\n\r\n\r\n",
        "five-megabytes": b"\r\n".join(lines) + b"\r\n",
    }


@pytest.mark.parametrize("sender", [ANN, BOB])
@pytest.mark.parametrize("name", bodies())
async def test_a_body_arrives_octet_by_octet(name: str, sender: str, relay: RelayDaemon, upstream: Upstream) -> None:
    body = bodies()[name]
    recipient = f"{name}-{sender.partition('@')[0]}@example.org"
    header = mail(sender, recipient, b"").replace(b"\n", b"\r\n")
    await relay.submit(sender, [recipient], header + body)
    (arrived,) = await upstream.arrived(recipient)
    assert arrived.body == body.replace(b"\r\n", b"\n")
