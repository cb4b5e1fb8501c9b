"""A console to look at: a daemon, its scripted provider, an administrator, accounts, and some mail with a past."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.control.client import ControlClient
from tests.daemon import RelayDaemon
from tests.peers.scripted_upstream import ScriptedUpstream
from tests.store import lay_store

ADMIN, ADMIN_PASSWORD = "admin", "correct horse battery"
APP, OTHER, BROKEN = "erp@example.com", "fax@example.com", "old@example.com"
PASSWORDS = {APP: "app-password-1", OTHER: "app-password-2", BROKEN: "app-password-3"}
SETTINGS = {
    "RELAY_CONSOLE__ENABLED": "yes",
    "RELAY_CONSOLE__PORT": "0",
    "RELAY_CONSOLE__REQUESTS_PER_MINUTE": "1000000",
    "RELAY_DISPATCH__FIRST_RETRY_S": "600",
    "RELAY_SUBMISSION__STAGE_TIMEOUT_S": "5",
    "RELAY_QUEUE__MIN_FREE_BYTES": "0",
}
CONTENT = b"Subject: invoice 4711\r\n\r\nhello\r\n"


@dataclass
class Stand:
    """`base` is the console's address without a slash at its end; `control` acts as the operator of the machine."""

    daemon: RelayDaemon
    upstream: ScriptedUpstream
    base: str
    control: ControlClient
    options: dict[str, Any]  # of an account that lives at `upstream`
    ids: dict[str, str] = field(default_factory=dict)  # messages by what became of them: see `furnish`

    async def act(self, action: str, /, **arguments: Any) -> Any:
        """An action of the command line."""
        return await self.control.call(action, arguments)

    async def add_account(self, address: str, **more: Any) -> None:
        """An account at `upstream`, with a sender of the same address."""
        await self.act("account.add", address=address, **self.options, **more)
        if address not in {sender["pattern"] for sender in await self.act("sender.list")}:
            await self.act("sender.add", pattern=address, account=address)

    async def mail(self, sender: str, recipient: str, content: bytes = CONTENT) -> str:
        """Hand a mail in at the front door; its id."""
        seen = len(self.daemon.events)
        await self.daemon.submit(sender, [recipient], content)
        return str((await self.daemon.event("message.accepted", since=seen))["message_id"])


@asynccontextmanager
async def standing(folder: Path, **settings: str) -> AsyncIterator[Stand]:
    """All of it, on ports of its own."""
    async with ScriptedUpstream(accounts=PASSWORDS) as upstream:
        authority = folder / "ca.pem"
        upstream.authority.cert_pem.write_to_path(str(authority))
        options = {"host": "localhost", "port": upstream.port, "trust": str(authority)}
        async with RelayDaemon(lay_store(folder / "data"), SETTINGS | settings) as daemon:
            started = await daemon.event("console.started", timeout_s=20)
            control = ControlClient(folder / "data")
            stand = Stand(daemon, upstream, f"http://127.0.0.1:{started['port']}", control, options)
            await stand.act("console.password", name=ADMIN, password=ADMIN_PASSWORD)
            yield stand


async def furnish(stand: Stand) -> dict[str, str]:
    """Accounts in every condition, and mail that was relayed, waits, bounced: {what became of it: message id}."""
    script = stand.upstream
    for address in (APP, OTHER, BROKEN):
        await stand.add_account(address, password=PASSWORDS[address])
    await stand.act("client.add", name="erp", networks=["127.0.0.0/8"], senders=[APP, OTHER, BROKEN])
    script.on("RCPT", "gone@example.org").answers("550 5.1.1 no such user here")
    script.on("RCPT", "later@example.org").answers("451 4.7.1 greylisted, try again in five minutes")
    seen = len(stand.daemon.events)
    ids = {
        "relayed": await stand.mail(APP, "ann@example.org"),
        "bounced": await stand.mail(APP, "gone@example.org"),
        "deferred": await stand.mail(OTHER, "later@example.org"),
    }
    for event, what in (
        ("delivery.relayed", "relayed"),
        ("delivery.bounced", "bounced"),
        ("delivery.deferred", "deferred"),
    ):
        await stand.daemon.event(event, since=seen, message_id=ids[what])
    script.accounts[BROKEN] = "changed-at-the-provider"
    seen = len(stand.daemon.events)
    ids["waiting"] = await stand.mail(BROKEN, "bob@example.org")
    await stand.daemon.event("account.suspended", since=seen)
    return ids
