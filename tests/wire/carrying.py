"""What the tests of submission share: a lane over a list, and a transport for a scripted upstream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relay.accounts.model import Upstream
from relay.config.settings import SubmissionSettings
from relay.credentials.errors import SecretMissing
from relay.mail.outcome import Outcome
from relay.submission.smtp.transport import SmtpTransport
from relay.submission.transport import Submission
from tests.peers.scripted_upstream import ScriptedUpstream

LOGIN, PASSWORD = "app@example.com", "s3cret-of-app"
BODY = b"Subject: hello\r\n\r\n..stuffed\r\nlast line\r\n"
CAREFUL_S = 5.0  # stage time-out of tests in which nothing is late
HASTY_S = 0.25  # of those in which something is


def mail(
    number: int = 1,
    *recipients: str,
    sender: str = "app@example.com",
    content: bytes | Path = BODY,
    eight_bit: bool = False,
    smtputf8: bool = False,
) -> Submission:
    """A small message to `recipients` (ann@example.org if none is named)."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    return Submission(number, sender, recipients or ("ann@example.org",), content, size, eight_bit, smtputf8)


@dataclass
class Lane:
    """A Source over a list. `reports`: message id and outcomes, in the order they came; `dots`: ids asked for."""

    waiting: list[Submission]
    may_dot: Callable[[Submission], Awaitable[bool] | bool] = lambda submission: True
    reports: list[tuple[int, list[Outcome]]] = field(default_factory=list)
    dots: list[int] = field(default_factory=list)
    taken: int = 0
    reported: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self) -> Submission | None:
        self.taken += bool(self.waiting)
        return self.waiting.pop(0) if self.waiting else None

    def before_dot(self, submission: Submission) -> Awaitable[bool] | bool:
        self.dots.append(submission.message_id)
        return self.may_dot(submission)

    def report(self, submission: Submission, outcomes: Sequence[Outcome]) -> None:
        assert len(outcomes) == len(submission.recipients)
        assert submission.message_id not in [number for number, _ in self.reports], "reported twice"
        self.reports.append((submission.message_id, list(outcomes)))
        self.reported.set()

    @property
    def only(self) -> Outcome:
        """The outcome of the one recipient of the one message that was reported."""
        [(_, [outcome])] = self.reports
        return outcome

    def of(self, number: int) -> list[Outcome]:
        """What was reported of a message."""
        return dict(self.reports)[number]


def lane(*submissions: Submission, **options: Any) -> Lane:
    """A lane in which these wait."""
    return Lane(list(submissions), **options)


def upstream_of(server: ScriptedUpstream, folder: Path, **changes: Any) -> Upstream:
    """The account for `server`: verified by its CA, logged in as LOGIN with a password."""
    ca = folder / "ca.pem"
    server.authority.cert_pem.write_to_path(ca)
    fields: dict[str, Any] = {
        "account_id": 1,
        "account": LOGIN,
        "revision": 1,
        "provider": "custom",
        "host": "localhost",
        "port": server.port,
        "tls": server.tls,
        "trust": str(ca),
        "login": LOGIN,
        "auth": "password",
        "max_connections": 3,
        "per_minute": 0,
        "per_day": 0,
        "recipients_per_transaction": 100,
        "in_doubt": "retry",
    }
    return Upstream(**(fields | changes))


async def secret(upstream: Upstream) -> str:
    """The password of every account whose login is LOGIN."""
    if upstream.login != LOGIN:
        raise SecretMissing(upstream.account_id, "password")
    return PASSWORD


def transport(stage_s: float = CAREFUL_S, **settings: Any) -> SmtpTransport:
    """A transport whose stages all have that time-out."""
    return SmtpTransport(SubmissionSettings(stage_timeout_s=stage_s, **settings), secret, hostname="relay.example")


async def carry(
    server: ScriptedUpstream, folder: Path, source: Lane, stage_s: float = CAREFUL_S, **changes: Any
) -> Lane:
    """Carry what waits, in one call; close the transport."""
    carrier = transport(stage_s)
    try:
        async with asyncio.timeout(30):
            await carrier.carry(upstream_of(server, folder, **changes), source)
    finally:
        await carrier.close()
    return source
