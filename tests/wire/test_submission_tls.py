"""Credentials and mail never travel in clear, and only to whom the certificate proves."""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from relay.config.settings import LogSettings
from relay.mail.outcome import Accepted, Refused, Stage, Unreachable
from relay.telemetry import configure, flush
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.wire.carrying import HASTY_S, LOGIN, PASSWORD, Lane, carry, lane, mail

LOOPS = ("asyncio", "uvloop")
NOW = datetime.now(UTC)
ACCOUNTS = {LOGIN: PASSWORD}


def assert_nothing_told(upstream: ScriptedUpstream) -> None:
    """No login and no mail reached the server, encrypted or not; in clear came EHLO and STARTTLS at most."""
    assert upstream.messages == []
    assert upstream.contents == 0
    for log in upstream.connections:
        for verb in (b"AUTH", b"MAIL", b"RCPT", b"DATA"):
            assert verb not in bytes(log.clear).upper()
            assert verb not in bytes(log.secure).upper()
        if upstream.tls == "starttls":
            commands = re.split(rb"\r\n", bytes(log.clear))[:2]
            assert [line.partition(b" ")[0] for line in commands if line] in ([], [b"EHLO"], [b"EHLO", b"STARTTLS"])


def failed(source: Lane, reason: str, stage: Stage = Stage.TLS) -> None:
    outcome = source.only
    assert isinstance(outcome, Unreachable), outcome
    assert (outcome.reason, outcome.stage, outcome.counted) == (reason, stage, True)


async def test_starttls_carries_mail_and_tells_nothing_before(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        assert isinstance((await carry(upstream, tmp_path, lane(mail()))).only, Accepted)
        assert (await upstream.next_message()).account == LOGIN
        [log] = upstream.connections
        assert bytes(log.clear).startswith(b"EHLO relay.example\r\nSTARTTLS\r\n")
        assert all(upstream.clear_octets(verb) == 0 for verb in (b"AUTH", b"MAIL", b"RCPT"))
        assert log.lines[2].startswith("EHLO ")  # RFC 3207 4.2: asked again inside


async def test_implicit_tls_carries_mail(tmp_path: Path) -> None:
    async with ScriptedUpstream(tls="implicit", accounts=ACCOUNTS) as upstream:
        assert isinstance((await carry(upstream, tmp_path, lane(mail()))).only, Accepted)
        assert bytes(upstream.connections[0].clear) == b""


async def test_stripped(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        upstream.on("EHLO").answers("250-scripted.example", "250-AUTH PLAIN LOGIN", "250 PIPELINING")
        failed(await carry(upstream, tmp_path, lane(mail())), "starttls-missing")
        assert_nothing_told(upstream)


async def test_refused(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        upstream.on("STARTTLS").answers("454 4.7.0 TLS not available")
        outcome = (await carry(upstream, tmp_path, lane(mail()))).only
        assert isinstance(outcome, Refused)
        assert (outcome.reply.code, outcome.stage) == (454, Stage.TLS)
        assert_nothing_told(upstream)


@pytest.mark.parametrize(
    "reply", [b"2200 go\r\n", b"250 go\r\n", b"220-go\r\n250 on\r\n", b"go ahead\r\n", b"220 go\n"]
)
async def test_garbled(reply: bytes, tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        upstream.on("STARTTLS").sends(reply)
        failed(await carry(upstream, tmp_path, lane(mail())), "protocol-error")
        assert_nothing_told(upstream)


@pytest.mark.parametrize("injected", [b"250-evil\r\n250 AUTH PLAIN\r\n", b"235 2.7.0 in\r\n", b"2", b"\r\n"])
async def test_injected_behind_the_220(injected: bytes, tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        upstream.on("STARTTLS").sends(b"220 go ahead\r\n" + injected)
        failed(await carry(upstream, tmp_path, lane(mail())), "protocol-error")
        assert_nothing_told(upstream)


async def test_injected_a_moment_later(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        upstream.on("TLS").sends(b"250-evil\r\n250 AUTH PLAIN\r\n").stalls()
        outcome = (await carry(upstream, tmp_path, lane(mail()), HASTY_S)).only
        assert isinstance(outcome, Unreachable)
        assert (outcome.stage, outcome.reason) in [(Stage.TLS, "tls-handshake"), (Stage.TLS, "protocol-error")]
        assert_nothing_told(upstream)


@pytest.mark.parametrize("end", ["disconnects", "resets"])
async def test_ended_in_the_handshake(end: str, tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        getattr(upstream.on("TLS"), end)()
        outcome = (await carry(upstream, tmp_path, lane(mail()))).only
        assert isinstance(outcome, Unreachable)
        assert outcome.stage is Stage.TLS
        assert outcome.reason in ("tls-handshake", "connection-lost")
        assert_nothing_told(upstream)


CA = trustme.CA()
BAD_CERTIFICATES = {
    "expired": (CA.issue_cert("localhost", not_before=NOW - timedelta(9), not_after=NOW - timedelta(1)), "expired"),
    "future": (CA.issue_cert("localhost", not_before=NOW + timedelta(1), not_after=NOW + timedelta(9)), "expired"),
    "wrong name": (CA.issue_cert("other.example"), "name"),
    "address only": (CA.issue_cert("127.0.0.1"), "name"),
    "unknown CA": (trustme.CA().issue_cert("localhost"), "invalid"),
}


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("fault", BAD_CERTIFICATES)
async def test_a_bad_certificate(fault: str, tls: str, tmp_path: Path) -> None:
    certificate, reason = BAD_CERTIFICATES[fault]
    CA.cert_pem.write_to_path(tmp_path / "trusted.pem")
    trust = str(tmp_path / "trusted.pem")
    async with ScriptedUpstream(tls=tls, accounts=ACCOUNTS, certificate=certificate) as upstream:  # type: ignore[arg-type]
        failed(await carry(upstream, tmp_path, lane(mail()), trust=trust), f"certificate-{reason}")
        assert_nothing_told(upstream)


async def test_system_authorities_do_not_know_a_private_ca(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        failed(await carry(upstream, tmp_path, lane(mail()), trust=None), "certificate-invalid")
        assert_nothing_told(upstream)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_older_than_tls_1_2(tls: str, tmp_path: Path) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with ScriptedUpstream(tls=tls, accounts=ACCOUNTS, context=old) as upstream:  # type: ignore[arg-type]
        failed(await carry(upstream, tmp_path, lane(mail())), "tls-handshake")
        assert_nothing_told(upstream)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("colons", [True, False])
async def test_a_pinned_certificate(tls: str, colons: bool, tmp_path: Path) -> None:
    stranger = trustme.CA().issue_cert("whatever.example")
    async with ScriptedUpstream(tls=tls, accounts=ACCOUNTS, certificate=stranger) as upstream:  # type: ignore[arg-type]
        der = ssl.PEM_cert_to_DER_cert(stranger.cert_chain_pems[0].bytes().decode())
        digest = hashlib.sha256(der).hexdigest()
        shown = ":".join(digest[at : at + 2] for at in range(0, 64, 2)).upper() if colons else digest
        source = await carry(upstream, tmp_path, lane(mail()), trust=f"sha256:{shown}")
        assert isinstance(source.only, Accepted)


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
async def test_another_certificate_than_the_pinned_one(tls: str, tmp_path: Path) -> None:
    async with ScriptedUpstream(tls=tls, accounts=ACCOUNTS) as upstream:  # type: ignore[arg-type]
        failed(await carry(upstream, tmp_path, lane(mail()), trust="sha256:" + "0" * 64), "certificate-invalid")
        assert_nothing_told(upstream)


async def test_an_expected_name_does_not_replace_the_chain(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        failed(await carry(upstream, tmp_path, lane(mail()), trust="name:localhost"), "certificate-invalid")
        assert_nothing_told(upstream)


async def test_an_unusable_trust_setting_stops_before_anything_is_said(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS) as upstream:
        failed(await carry(upstream, tmp_path, lane(mail()), trust=str(tmp_path / "gone.pem")), "certificate-invalid")
        assert upstream.connections == []


async def test_what_was_offered_in_clear_is_forgotten(tmp_path: Path) -> None:
    async with ScriptedUpstream(accounts=ACCOUNTS, pipelining=False, extensions=()) as upstream:
        clear = ("250-x", "250-PIPELINING", "250-SIZE 1", "250-AUTH XOAUTH2", "250 STARTTLS")
        upstream.on("EHLO", times=1).answers(*clear)
        assert isinstance((await carry(upstream, tmp_path, lane(mail()))).only, Accepted)
        assert all(segment.count(b"\r\n") == 1 for segment in upstream.connections[0].segments if b"RCPT" in segment)


async def test_clear_only_by_opt_out_and_never_quietly(tmp_path: Path) -> None:
    lines = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    configure(LogSettings(level="debug", format="json"), fd=lines)
    try:
        async with ScriptedUpstream(tls="none", accounts=ACCOUNTS) as upstream:
            assert isinstance((await carry(upstream, tmp_path, lane(mail()))).only, Accepted)
            assert upstream.clear_octets(b"AUTH") == 1
    finally:
        flush()
        configure(LogSettings(level="warning", format="console"), fd=2)
        os.close(lines)
    written = (tmp_path / "log").read_text()
    assert "upstream.cleartext" in written
    assert '"line":"AUTH PLAIN ***"' in written.replace(": ", ":")
    assert PASSWORD not in written
    assert "AGFwcEBleGFtcGxlLmNvbQ" not in written  # the beginning of the response to AUTH PLAIN
    assert "stuffed" not in written  # content


async def test_a_login_is_not_sent_in_clear_to_another_machine_whatever_the_account_says(tmp_path: Path) -> None:
    async with ScriptedUpstream(tls="none", accounts=ACCOUNTS) as upstream:
        failed(await carry(upstream, tmp_path, lane(mail()), host="mail.example"), "cleartext-login")
        assert upstream.connections == []
