"""One cause has one id and the same words wherever it is met: log, commands, API, notice, delivery status."""

from __future__ import annotations

import json
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

from relay.mail.content import unstuff
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.system.conftest import APP, PASSWORD, Relaying, at
from tests.system.test_console import browsing, token

ADMINISTRATOR = "it@example.com"
BILLING = "billing@example.com"
MAIL = b"Subject: hello\r\n\r\nbody\r\n"
DISABLED = "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant."
GONE = "550 5.1.1 The email account that you tried to reach does not exist."


def squeezed(text: str) -> str:
    """Without line ends and indents, which depend on the width of a mail."""
    return " ".join(text.split())


async def test_an_accounts_cause(tmp_path: Path, upstream: ScriptedUpstream, relaying: Relaying) -> None:
    settings = {
        "RELAY_NOTICES__ADMINISTRATOR": ADMINISTRATOR,
        "RELAY_DISPATCH__PROBE_S": "0",
        "RELAY_CONSOLE__ENABLED": "yes",
        "RELAY_CONSOLE__PORT": "0",
    }
    upstream.accounts[BILLING] = PASSWORD
    upstream.on("AUTH", times=1).answers(DISABLED)
    async with relaying("--owner", "eve@example.com", **settings) as daemon:
        await daemon.submit(APP, ["ann@example.org"], MAIL)
        refused = await daemon.event("attempt.refused")
        suspended = await daemon.event("account.suspended", account=APP)
        await daemon.add_account(BILLING, PASSWORD, *at(upstream, tmp_path / "ca.pem"))

        async def said(*arguments: str) -> Any:
            return json.loads((await daemon.cli(*arguments, "--json")).stdout)

        explained = await said("explain", DISABLED)
        shown = await said("account", "show", APP)
        async with browsing(daemon, **await token(daemon, "reader", "read")) as web:
            by_api = (await web.get(f"/api/v1/accounts/{APP}")).json()
        [traced] = await said("trace", refused["message_id"])
        told = {}
        while len(told) < 2:
            mail = await upstream.next_message(30)
            told[mail.recipients[0]] = message_from_bytes(unstuff(mail.content), policy=policy.default)
    cause, steps = explained["cause"], shown["remedy"]
    assert (refused["remedy"], suspended["remedy"]) == (explained["id"],) * 2
    assert (refused["cause"], suspended["cause"]) == (cause, cause)
    assert (by_api["cause"], by_api["remedy"]) == (shown["cause"], steps)
    assert explained["id"] in json.dumps(traced)
    assert set(told) == {ADMINISTRATOR, "eve@example.com"}
    for notice in told.values():
        text = squeezed(notice.get_content())  # type: ignore[attr-defined]
        assert cause in text
        assert all(squeezed(step) in text for step in steps)
    assert explained["id"] in str(told[ADMINISTRATOR]["Subject"])


async def test_a_recipients_cause(upstream: ScriptedUpstream, relaying: Relaying) -> None:
    upstream.on("RCPT", "gone@example.org").answers(GONE)
    async with relaying() as daemon:
        await daemon.submit(APP, ["gone@example.org"], MAIL)
        bounced = await daemon.event("delivery.bounced")
        explained = json.loads((await daemon.cli("explain", GONE, "--json")).stdout)
        shown = (await daemon.cli("trace", bounced["message_id"])).stdout
        report = message_from_bytes(unstuff((await upstream.next_message(20)).content), policy=policy.default)
    assert (bounced["remedy"], bounced["cause"]) == (explained["id"], explained["cause"])
    assert explained["cause"] in squeezed(shown)
    words = squeezed(report.get_payload()[0].get_content())  # type: ignore[union-attr]
    assert explained["cause"] in words
    assert all(squeezed(step) in words for step in explained["remedy"])
