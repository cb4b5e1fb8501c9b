"""Mail of our own through the daemon: notices of trouble, and what senders hear about mail that came to nothing."""

from __future__ import annotations

import json
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from relay.mail.content import unstuff
from tests.peers.script import Taken
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.peers.webhook import Webhook
from tests.spillage import spilled
from tests.system.conftest import APP, PASSWORD, Relaying, at

BILLING = "billing@example.com"


def parsed(taken: Taken) -> EmailMessage:
    message = message_from_bytes(unstuff(taken.content), policy=policy.default)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


async def test_trouble_is_told_through_another_account_and_every_channel_can_be_tried(
    upstream: ScriptedUpstream, relaying: Relaying, tmp_path: Path
) -> None:
    with Webhook() as hook:
        urls = hook.url(login=f"bot:{PASSWORD}@")
        settings = {"RELAY_NOTICES__ADMINISTRATOR": "it@example.com", "RELAY_NOTICES__URLS": urls}
        async with relaying(fresh=True, **settings) as daemon:
            authority = tmp_path / "ca.pem"
            await daemon.add_account(BILLING, "x-password", *at(upstream, authority), "--owner", "eve@example.com")
            tried = await daemon.cli("notice", "test", "--json")
            assert [(one["channel"], one["recipient"], one["outcome"]) for one in json.loads(tried.stdout)] == [
                ("json (URL 1)", "", "sent"),
                ("mail", "it@example.com", "sent"),
            ]
            test = await upstream.next_message(20)
            assert (test.reverse_path, test.recipients, test.account) == (APP, ("it@example.com",), APP)
            await daemon.submit(BILLING, ["ann@example.org"], b"Subject: x\r\n\r\nx\r\n")
            await daemon.event("account.suspended", account=BILLING)
            told = {taken.recipients: taken for taken in [await upstream.next_message(30) for _ in range(2)]}
            assert set(told) == {("it@example.com",), ("eve@example.com",)}
            assert {(taken.reverse_path, taken.account) for taken in told.values()} == {(APP, APP)}
            owner = parsed(told["eve@example.com",])
            assert owner["Subject"] == f"Mail from {BILLING} cannot be sent"
            assert owner["Auto-Submitted"] == "auto-generated"
            for text in (str(owner), json.dumps(hook.taken), json.dumps(daemon.events)):
                assert PASSWORD not in text
            assert "One mail waits." in owner.get_content()
            await daemon.event("notice.sent", channel="json (URL 1)", kind="trouble")
            listed = json.loads((await daemon.cli("notice", "list", "--json")).stdout)
            assert {(one["kind"], one["channel"], one["outcome"]) for one in listed} >= {
                ("trouble", "mail", "queued"),
                ("trouble", "json (URL 1)", "sent"),
                ("test", "mail", "queued"),
            }
            places = {"arguments": Path(f"/proc/{daemon.pid}/cmdline").read_bytes(), "answers": tried.stdout.encode()}
            places |= {str(path): path.read_bytes() for path in daemon.data.rglob("*") if path.is_file()}
            assert spilled([PASSWORD], places) == []  # of the URL and of the account
    assert [one["title"].partition(" ")[0] for one in hook.taken] == ["Test", "Suspended:"]


MAIL = b"Subject: Invoice 42\r\nMessage-ID: <42@example.com>\r\n\r\nhello\r\n"


async def test_a_refused_mail_comes_back_to_its_sender_as_a_notice(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    upstream.on("RCPT", "gone@example.org").answers("550 5.1.1 no such user")
    async with relaying() as daemon:
        await daemon.submit(APP, ["gone@example.org", "ann@example.org"], MAIL)
        first, second = await upstream.next_message(20), await upstream.next_message(20)
        assert first.recipients == ("ann@example.org",)
        assert (second.reverse_path, second.recipients, second.account) == (APP, (APP,), APP)
        notice = parsed(second)
        assert notice.get_content_type() == "multipart/report"
        whole, one = notice.get_payload()[1].get_payload()  # type: ignore[union-attr]
        assert whole["Reporting-MTA"].startswith("dns; ")
        assert (one["Final-Recipient"], one["Action"], one["Status"], one["Remote-MTA"], one["Diagnostic-Code"]) == (
            "rfc822; gone@example.org",
            "failed",
            "5.1.1",
            "dns; localhost",
            "smtp; 550 5.1.1 no such user",
        )
        original = notice.get_payload()[2].get_payload()[0]  # type: ignore[union-attr]
        assert original["Message-ID"] == "<42@example.com>"
        relayed = await daemon.event("delivery.relayed", recipient=APP)
        queued = await daemon.event("notice.queued", kind="bounce", message_id=relayed["message_id"])
        traced = json.loads((await daemon.cli("trace", queued["detail"], "--json")).stdout)
        assert [event["event"] for event in traced[0]["events"]][-1] == "notice.queued"
        # That the notice itself is refused is told to nobody: there would be no end to it.
        upstream.on("RCPT", APP).answers("550 5.1.1 no such user")
        await daemon.submit(APP, ["gone@example.org"], MAIL)
        refused = await daemon.event("delivery.bounced", recipient=APP)
        await daemon.submit(APP, ["after@example.org"], MAIL)
        await daemon.event("delivery.relayed", recipient="after@example.org")
        notices = [event for event in daemon.events if event["event"] == "notice.queued"]
        assert [event["message_id"] for event in notices] == [relayed["message_id"], refused["message_id"]]
    assert [message.recipients for message in upstream.messages] == [("after@example.org",)]


async def test_a_kill_at_any_point_between_settlement_and_notice_makes_exactly_one(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    upstream.on("RCPT", "gone@example.org").answers("550 5.1.1 no such user")
    async with relaying() as daemon:
        for number in range(2):
            seen = len(daemon.events)
            await daemon.submit(APP, ["gone@example.org"], MAIL.replace(b"42@", b"%d@" % number))
            await daemon.event("delivery.bounced", since=seen)
            await daemon.kill()  # its settlement is on its way, or its notice, or neither
            await daemon.start()
        told = {}
        while len(told) < 2:
            taken = await upstream.next_message(20)
            notice = parsed(taken)
            # A kill between the upstream's 250 and our record of it sends a notice again: the same, with the same id.
            told[notice["Message-ID"]] = notice.get_payload()[2].get_payload()[0]["Message-ID"]  # type: ignore[union-attr]
        listed = json.loads((await daemon.cli("notice", "list", "--json")).stdout)
    assert sorted(told.values()) == [f"<{number}@example.com>" for number in range(2)]
    assert len(listed) == len({one["about"] for one in listed}) == 2
