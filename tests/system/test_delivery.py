"""From the front door to a provider that misbehaves: what is owed arrives once, and nobody else suffers."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, PASSWORD, Relaying, at

MAIL = b"Subject: hello\r\n\r\nbody\r\n.dot at the start\r\n"


def _names(message) -> tuple[str, ...]:
    return message.recipients


async def test_a_plain_mail_arrives_with_the_senders_own_login(upstream: ScriptedUpstream, relaying: Relaying) -> None:
    async with relaying() as daemon:
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        message = await upstream.next_message()
        assert (message.reverse_path, message.recipients, message.account) == (APP, ("ann@example.org",), APP)
        assert message.content.endswith(b"\r\n\r\nbody\r\n..dot at the start\r\n")
        relayed = await daemon.event("delivery.relayed", recipient="ann@example.org")
        assert relayed["account"] == APP
        session = (await daemon.event("session.opened", client="127.0.0.1"))["session_id"]
        assert (await daemon.event("session.closed", session_id=session))["messages"] == 1
        accepted = await daemon.event("message.accepted", session_id=session)
        assert accepted["repaired"] == "From,Date,Message-ID"
        assert upstream.clear_octets(b"AUTH") == upstream.clear_octets(b"MAIL") == 0
        traced = await daemon.cli("trace", relayed["message_id"], "--json")
        [story] = json.loads(traced.stdout)
        assert (story["session_id"], story["repaired"]) == (session, ["From", "Date", "Message-ID"])
        assert [event["event"] for event in story["events"]] == ["accepted", "attempt.accepted", "relayed"]


async def test_each_recipient_has_its_own_end(upstream: ScriptedUpstream, relaying: Relaying) -> None:
    upstream.on("RCPT", "gone@example.org").answers("550 5.1.1 no such user")
    upstream.on("RCPT", "busy@example.org", times=1).answers("450 4.2.1 mailbox busy, later")
    async with relaying() as daemon:
        await daemon.submit(APP, ["ann@example.org", "gone@example.org", "busy@example.org"], MAIL)
        arrived = [(await upstream.next_message()).recipients for _ in range(3)]
        assert arrived[0] == ("ann@example.org",)
        assert set(arrived[1:]) == {("busy@example.org",), (APP,)}, "the last is the notice to the sender"
        bounced = await daemon.event("delivery.bounced", recipient="gone@example.org")
        assert bounced["to_do"] == "Correct the recipient address."
        assert (bounced["code"], bounced["status"]) == (550, "5.1.1")
        assert bounced["cause"]
        await daemon.event("delivery.relayed", recipient="busy@example.org")
        assert upstream.messages == []


async def test_a_refused_login_suspends_after_one_try_and_a_new_password_lets_the_queue_go(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    async with relaying(password="wrong") as daemon:
        await asyncio.gather(*(daemon.submit(APP, [f"r{n}@example.org"], MAIL) for n in range(8)))
        suspended = await daemon.event("account.suspended", account=APP)
        assert suspended["level"] == "error"
        assert suspended["remedy"]
        await daemon.submit(APP, ["late@example.org"], MAIL)
        assert sum(line.upper().startswith("AUTH") for line in upstream.lines()) == 1
        shown = json.loads((await daemon.cli("queue", "list", "--json")).stdout)
        assert len(shown) == 9
        await daemon.cli("account", "set-password", APP, "--password-file", "-", stdin=PASSWORD)
        arrived = {(await upstream.next_message()).recipients for _ in range(9)}
        assert arrived == {(f"r{n}@example.org",) for n in range(8)} | {("late@example.org",)}
        assert not [event for event in daemon.events if event["event"] == "delivery.bounced"]


async def test_a_suspended_account_survives_a_restart_and_resumes_by_hand(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    upstream.on("AUTH", times=1).answers("535 5.7.8 bad credentials")
    async with relaying() as daemon:
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        await daemon.event("account.suspended")
        await daemon.stop()
        await daemon.start()
        assert "suspended" in (await daemon.cli("account", "list")).stdout
        await daemon.cli("account", "resume", APP)
        assert _names(await upstream.next_message()) == ("ann@example.org",)


async def test_a_suspended_login_is_probed_and_proves_itself_well(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    upstream.on("AUTH", times=1).answers("535 5.7.8 bad credentials")
    async with relaying(RELAY_DISPATCH__PROBE_S="1") as daemon:
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        await daemon.event("account.suspended")
        assert _names(await upstream.next_message(timeout_s=10)) == ("ann@example.org",)
        await daemon.event("account.resumed")


async def test_a_throttled_account_rests_and_returns_nothing(upstream: ScriptedUpstream, relaying: Relaying) -> None:
    upstream.on("DOT", times=1).answers("432 4.3.2 Concurrent connections limit exceeded")
    async with relaying() as daemon:
        for n in range(3):
            await daemon.submit(APP, [f"r{n}@example.org"], MAIL)
        await daemon.event("account.resting")
        arrived = {(await upstream.next_message()).recipients[0] for _ in range(3)}
        assert arrived == {f"r{n}@example.org" for n in range(3)}
        assert not [event for event in daemon.events if event["event"] == "delivery.bounced"]


async def test_an_outage_defers_and_recovery_delivers_each_once(
    tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    upstream.on("GREETING").disconnects()
    async with relaying() as daemon:
        for n in range(5):
            await daemon.submit(APP, [f"r{n}@example.org"], MAIL)
        await daemon.event("attempt.unreachable")
        upstream.forget_rules()
        arrived = sorted([(await upstream.next_message()).recipients[0] for _ in range(5)])
        assert arrived == [f"r{n}@example.org" for n in range(5)]
        await daemon.stop()
        assert upstream.messages == []


async def test_a_lost_reply_is_named_as_a_possible_duplicate(upstream: ScriptedUpstream, relaying: Relaying) -> None:
    upstream.on("DOT", times=1).disconnects()
    async with relaying() as daemon:
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        doubt = await daemon.event("attempt.in_doubt")
        assert doubt["possible_duplicate"] is True
        again = await upstream.next_message()
        taken = await daemon.event("attempt.accepted", message_id=doubt["message_id"])
        assert taken["possible_duplicate"] is True
        assert again.content.count(b"Message-ID:") == 1


async def test_one_stalled_upstream_does_not_delay_another_account(
    tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    async with ScriptedUpstream() as stalled, relaying() as daemon:
        stalled.on("MAIL").stalls()
        stalled.authority.cert_pem.write_to_path(str(tmp_path / "other.pem"))
        await daemon.add_account("slow@example.com", "x-password", *at(stalled, tmp_path / "other.pem"))
        for _ in range(20):
            await daemon.submit("slow@example.com", ["ann@example.org"], MAIL)
        await stalled.until(lambda: any(line.startswith("MAIL") for line in stalled.lines()))
        started = time.monotonic()
        for n in range(20):
            await daemon.submit(APP, [f"r{n}@example.org"], MAIL)
        for _ in range(20):
            await upstream.next_message()
        assert time.monotonic() - started < 2


async def test_fixing_a_setting_fixes_what_is_queued(
    tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    async with relaying() as daemon:
        authority = tmp_path / "ca.pem"
        wrong = [*at(upstream, authority)]
        wrong[wrong.index(str(upstream.port))] = "1"
        await daemon.add_account("other@example.com", PASSWORD, *wrong, "--login", APP)
        await daemon.submit("other@example.com", ["ann@example.org"], MAIL)
        await daemon.event("attempt.unreachable", account="other@example.com")
        await daemon.cli("account", "set", "other@example.com", "--port", str(upstream.port))
        assert (await upstream.next_message()).reverse_path == "other@example.com"


async def test_mail_follows_its_sender_to_another_account(
    tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    upstream.on("AUTH", times=1).answers("535 5.7.8 bad credentials")
    async with ScriptedUpstream() as other, relaying() as daemon:
        other.authority.cert_pem.write_to_path(str(tmp_path / "other.pem"))
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        await daemon.event("account.suspended", account=APP)
        await daemon.add_account("new@example.com", "y-password", *at(other, tmp_path / "other.pem"))
        await daemon.cli("sender", "remove", APP)
        await daemon.cli("sender", "add", APP, "new@example.com")
        assert (await other.next_message()).reverse_path == APP


@pytest.mark.parametrize(("address", "status"), [("nobody@example.com", "5.7.1"), ("app@elsewhere.org", "5.7.1")])
async def test_an_unknown_sender_is_refused_at_mail(relaying: Relaying, address: str, status: str) -> None:
    import smtplib

    async with relaying() as daemon:
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            await daemon.submit(address, ["ann@example.org"], MAIL)
        assert refused.value.smtp_code == 550
        assert refused.value.smtp_error.startswith(f"{status} <{address}>: no account may send as this".encode())


async def test_more_recipients_than_a_transaction_takes_go_in_several(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    names = [f"r{n}@example.org" for n in range(250)]
    async with relaying() as daemon:
        await daemon.submit(APP, names, MAIL)
        arrived: list[str] = []
        while len(arrived) < 250:
            message = await upstream.next_message()
            assert len(message.recipients) <= 100
            arrived.extend(message.recipients)
        assert sorted(arrived) == sorted(names)


async def test_a_large_mail_streams_through_and_its_file_is_removed(
    tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    body = b"".join(b"%06d 0123456789012345678901234567890123456789\r\n" % n for n in range(40_000))
    async with relaying() as daemon:
        await daemon.submit(APP, ["ann@example.org"], b"Subject: big\r\n\r\n" + body)
        message = await upstream.next_message(timeout_s=15)
        assert message.content.endswith(body)
        await daemon.event("delivery.relayed")
        assert await daemon.stop() == 0
        assert list((tmp_path / "data" / "spool").iterdir()) == []


async def test_mail_that_waits_for_its_turn_in_a_flowing_lane_can_be_held(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    async with relaying("--per-minute", "1") as daemon:
        for number in range(4):
            await daemon.submit(APP, [f"r{number}@example.org"], MAIL)
        first = await upstream.next_message()
        waiting = json.loads((await daemon.cli("queue", "list", "--json")).stdout)
        ids = sorted({entry["id"] if "id" in entry else entry["message_id"] for entry in waiting})
        assert ids
        held = await daemon.cli("queue", "hold", *ids, "--json")
        assert json.loads(held.stdout)["changed"] == len(ids) == 3
        states = json.loads((await daemon.cli("queue", "list", "--json")).stdout)
        assert {entry["state"] for entry in states} == {"held"}, states
        assert first.account == APP
