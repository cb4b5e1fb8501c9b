"""The upstreams of the interop tests are what they claim to be: they check logins, senders and TLS themselves."""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from collections.abc import Iterator

import pytest

from tests.interop.upstreams import ACCOUNTS, DOORS, Door, Upstream, absent, running_upstream

pytestmark = [pytest.mark.interop, pytest.mark.skipif(bool(absent()), reason=absent() or "present")]
ANN = "ann@example.com"
BOB = "bob@example.com"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with running_upstream() as running:
        yield running


def connect(upstream: Upstream, door: Door) -> smtplib.SMTP:
    trust = ssl.create_default_context(cafile=str(upstream.ca))
    if door.tls == "implicit":
        return smtplib.SMTP_SSL("localhost", door.port, timeout=10, context=trust)
    client = smtplib.SMTP("localhost", door.port, timeout=10)
    client.starttls(context=trust)
    return client


@pytest.mark.parametrize("index", range(len(DOORS)), ids=[f"{server}-{tls}-{how}" for server, tls, how in DOORS])
async def test_takes_the_owners_mail_only(upstream: Upstream, index: int) -> None:
    door = upstream.doors[index]

    def send() -> list[int]:
        with connect(upstream, door) as client:
            client.ehlo()
            assert set(client.esmtp_features["auth"].lower().split()) == set(door.mechanisms.split(", "))
            with pytest.raises(smtplib.SMTPAuthenticationError) as wrong:
                client.login(ANN, "wrong")
        with connect(upstream, door) as client:
            client.login(ANN, ACCOUNTS[ANN])
            with pytest.raises((smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused)):
                client.sendmail(BOB, [f"door{index}@example.org"], b"Subject: not mine\r\n\r\nx\r\n")
            client.rset()
            client.sendmail(ANN, [f"door{index}@example.org"], b"Subject: mine\r\n\r\n.one\r\n")
        return [wrong.value.smtp_code]

    assert await asyncio.to_thread(send) == [535]
    (mail,) = await upstream.arrived(f"door{index}@example.org")
    assert "Subject: mine" in mail.header
    assert mail.body == b".one\n"
    assert mail.authenticated_as == ANN
