"""Accounts in trouble: what stops, how often a login is tried, whom one cause stops, and what goes on by itself."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

from tests.daemon import RelayDaemon
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, PASSWORD, Relaying, at

MAIL = b"Subject: hello\r\n\r\nbody\r\n"
OWNER, ADMINISTRATOR = "eve@people.example", "it@people.example"
OTHER, STRANGER = "other@example.com", "app@elsewhere.example"
DISABLED = (
    "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. "
    "Visit https://aka.ms/smtp_auth_disabled for more information."
)


def logins(upstream: ScriptedUpstream) -> int:
    return sum(line.upper().startswith("AUTH") for line in upstream.lines())


def rows(daemon: RelayDaemon, query: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(f"file:{daemon.data / 'relay.db'}?mode=ro", uri=True)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def taken(upstream: ScriptedUpstream, account: str) -> list[str]:
    """Who got mail that this account brought, once for each mail."""
    return [recipient for mail in upstream.messages if mail.account == account for recipient in mail.recipients]


def owed(upstream: ScriptedUpstream) -> list[str]:
    """Who got mail of the application."""
    return [person for person in taken(upstream, APP) if person not in (OWNER, ADMINISTRATOR)]


def notices(upstream: ScriptedUpstream) -> Counter[str]:
    """How many each of the two people got, through the account that is well."""
    return Counter(person for person in taken(upstream, STRANGER) if person in (OWNER, ADMINISTRATOR))


async def trail(daemon: RelayDaemon, action: str) -> list[tuple[str, str]]:
    entries = json.loads((await daemon.cli("audit", "--json")).stdout)
    return [(entry["actor"], entry["target"]) for entry in entries if entry["action"] == action]


async def test_a_password_revoked_under_load_loses_no_mail_asks_three_times_an_hour_and_tells_both_people(
    tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    probing = {
        "RELAY_DISPATCH__PROBE_S": "0.6",
        "RELAY_NOTICES__ADMINISTRATOR": ADMINISTRATOR,
        "RELAY_SUBMISSION__MAX_MESSAGES_PER_CONNECTION": "5",
    }
    upstream.accounts[STRANGER] = PASSWORD
    async with relaying("--owner", OWNER, **probing) as daemon:
        await daemon.add_account(STRANGER, PASSWORD, *at(upstream, tmp_path / "ca.pem"))
        sent: list[str] = []

        async def application(name: str) -> None:
            for number in range(25):
                recipient = f"{name}{number}@example.org"
                await daemon.submit(APP, [recipient], MAIL)
                sent.append(recipient)

        load = [asyncio.create_task(application(name)) for name in "abc"]
        await upstream.until(lambda: len(upstream.messages) >= 15, 30)
        upstream.accounts[APP] = "another-password-by-now"
        suspended = await daemon.event("account.suspended", account=APP, timeout_s=20)
        assert suspended["who"] == "owner"
        await asyncio.gather(*load)
        await daemon.event("account.resting", remedy="logins-spent", timeout_s=20)
        shown = json.loads((await daemon.cli("account", "show", APP, "--json")).stdout)
        assert (shown["who"], shown["login_tries"]["relay"]) == ("owner", 3)
        assert not [event for event in daemon.events if event["event"] == "account.resumed"]
        refused = sum(event["event"] == "attempt.refused" for event in daemon.events)
        assert refused == 3
        await upstream.until(lambda: notices(upstream) == {OWNER: 1, ADMINISTRATOR: 1}, 20)
        seen = logins(upstream)
        await daemon.stop()
        await daemon.start()
        assert logins(upstream) == seen
        upstream.accounts[APP] = PASSWORD + "-new"
        await daemon.cli("account", "set-password", APP, "--password-file", "-", stdin=PASSWORD + "-new")
        await upstream.until(lambda: len(owed(upstream)) >= len(sent), 30)
        assert Counter(owed(upstream)) == Counter(sent)
        for person in (OWNER, ADMINISTRATOR):
            await daemon.event("notice.queued", kind="over", recipient=person, timeout_s=20)
        assert not [event for event in daemon.events if event["event"] == "delivery.bounced"]
        assert ("relay", APP) in await trail(daemon, "account.suspend")
        assert rows(daemon, "SELECT kind, who, closed_at IS NULL FROM conditions") == [("suspended", "owner", 0)]


async def test_a_crash_loop_does_not_lock_the_mailbox(upstream: ScriptedUpstream, relaying: Relaying) -> None:
    upstream.accounts[APP] = "another-password"
    async with relaying(RELAY_DISPATCH__PROBE_S="0.1") as daemon:
        for number in range(5):
            seen = len(daemon.events)
            await daemon.submit(APP, [f"r{number}@example.org"], MAIL)
            name = "account.suspended" if number == 0 else "attempt.refused"
            if logins(upstream) < 3:
                await daemon.event(name, since=seen)
            await daemon.kill()
            await daemon.start()
        await daemon.event("account.resting", remedy="logins-spent")
        assert logins(upstream) == 3


async def test_what_the_whole_organisation_forbids_stops_it_with_one_login(
    tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    async with relaying(RELAY_DISPATCH__PROBE_S="0") as daemon:
        for address in (OTHER, STRANGER):
            upstream.accounts[address] = PASSWORD
            await daemon.add_account(address, PASSWORD, *at(upstream, tmp_path / "ca.pem"))
        rule = upstream.on("AUTH", times=1).answers(DISABLED)
        await daemon.submit(APP, ["a@example.org"], MAIL)
        stopped = await daemon.event("account.suspended", account=OTHER)
        assert (stopped["remedy"], stopped["who"]) == ("m365-smtp-auth-disabled-tenant", "administrator")
        await daemon.submit(OTHER, ["b@example.org"], MAIL)
        await daemon.submit(STRANGER, ["c@example.org"], MAIL)
        assert (await upstream.next_message()).account == STRANGER
        assert rule.times == 0
        assert logins(upstream) == 2
        groups = rows(daemon, "SELECT group_key, count(*) FROM conditions WHERE closed_at IS NULL GROUP BY 1")
        assert groups == [("tenant example.com", 2)]
        assert sorted(await trail(daemon, "account.suspend")) == [("relay", APP), ("relay", OTHER)]
        await daemon.stop()
        await daemon.start()
        await daemon.cli("account", "resume", OTHER)
        owed = {APP, OTHER}
        while owed:  # between them a notice about the trouble may go through the account that works
            owed.discard((await upstream.next_message()).account)
        await daemon.event("account.resumed", account=APP)
        assert ("relay", APP) in await trail(daemon, "account.resume")
        assert rows(daemon, "SELECT count(*) FROM conditions WHERE closed_at IS NULL") == [(0,)]


async def test_an_account_without_mail_is_logged_in_now_and_then(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    async with relaying(RELAY_DISPATCH__LOGIN_CHECK_S="0.4", RELAY_DISPATCH__PROBE_S="0") as daemon:
        await daemon.event("account.checked", account=APP)
        assert not any(line.upper().startswith("MAIL") for line in upstream.lines())
        upstream.accounts[APP] = "another-password"
        suspended = await daemon.event("account.suspended", account=APP)
        assert suspended["who"] == "owner"
        seen = logins(upstream)
        await daemon.submit(APP, ["a@example.org"], MAIL)
        await daemon.cli("queue", "list")
        assert logins(upstream) == seen


async def test_what_logged_in_before_does_not_speak_for_an_account_that_was_stopped(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    """Its connection is still open at the upstream, which would take mail over it: that would prove nothing."""
    async with relaying(RELAY_DISPATCH__LOGIN_CHECK_S="0.6", RELAY_DISPATCH__PROBE_S="0.3") as daemon:
        await daemon.submit(APP, ["before@example.org"], MAIL)
        await upstream.next_message()
        upstream.accounts[APP] = "another-password"
        await daemon.event("account.suspended", account=APP)
        await daemon.submit(APP, ["after@example.org"], MAIL)
        await daemon.event("attempt.refused", account=APP)  # the probe logged in anew
        assert not upstream.messages
        assert not [event for event in daemon.events if event["event"] == "account.resumed"]


async def test_words_that_nobody_knows_are_remembered_without_particulars(
    upstream: ScriptedUpstream, relaying: Relaying
) -> None:
    for number in (1, 2):
        upstream.on("RCPT", f"r{number}@example.org").answers(f"550 flux capacitor says no to r{number}@example.org")
    async with relaying() as daemon:
        for number in (1, 2):
            await daemon.submit(APP, [f"r{number}@example.org"], MAIL)
            await daemon.event("delivery.bounced", recipient=f"r{number}@example.org")
        [found] = json.loads((await daemon.cli("explain", "--unknown", "--json")).stdout)
        assert (found["count"], found["stage"], found["provider"]) == (2, "rcpt", "custom")
        assert found["reply"] == "550 flux capacitor says no to <address>"
        assert "flux capacitor" in (await daemon.cli("explain", "--unknown")).stdout
        upstream.on("AUTH").answers("554 flux capacitor is empty")
        await daemon.cli("account", "test", APP, check=False)
        listed = json.loads((await daemon.cli("explain", "--unknown", "--json")).stdout)
        assert ("auth", "554 flux capacitor is empty") in [(each["stage"], each["reply"]) for each in listed]
