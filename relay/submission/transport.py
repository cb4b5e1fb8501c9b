"""The contract between a lane and whatever carries its mail upstream."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from relay.accounts.model import Upstream
from relay.mail.content import Stored
from relay.mail.dsn import NO_MESSAGE_REQUEST, MessageRequest, RecipientRequest
from relay.mail.outcome import Outcome


@dataclass(slots=True)
class Submission:
    """One transaction: an envelope and where its content is.

    `content` is in wire form (see mail.content), without the final dot: octets, their file, or who reads them.
    `size` is its length in octets.  Recipients are distinct and never empty.  `request` and `requests` (one for each
    recipient, in their order; empty: none has any) go to an upstream that offers DSN.
    """

    message_id: int
    reverse_path: str
    recipients: tuple[str, ...]
    content: bytes | Path | Stored
    size: int
    eight_bit: bool
    smtputf8: bool
    request: MessageRequest = field(default=NO_MESSAGE_REQUEST, kw_only=True)
    requests: tuple[RecipientRequest, ...] = field(default=(), kw_only=True)
    passed_on: bool = field(default=False, kw_only=True)
    marks: list[tuple[str, float]] | None = field(default=None, kw_only=True)  # None: nobody wants to know

    def mark(self, step: str) -> None:
        """A step of carrying it has ended now."""
        if self.marks is not None:
            self.marks.append((step, time.monotonic()))


class Source(Protocol):
    """What a transport asks of the lane whose mail it carries. `take` and `report` never wait."""

    def take(self) -> Submission | None:
        """The next submission for this connection, now; None: nothing may be sent now (empty, paced, stopped).

        Whatever was taken is reported exactly once.
        """

    def before_dot(self, submission: Submission) -> Awaitable[bool] | bool:
        """May the final dot go out? Called right before it is written, when everything else was.

        False: the lease is gone; drop the connection without the dot, report Unreachable(reason="lease-lost").
        An awaitable (accounts that hold what is in doubt): wait for it, it makes a durable mark first.
        Asked again for the same submission when the first time it was refused, and may be sent anew.
        """

    def report(self, submission: Submission, outcomes: Sequence[Outcome]) -> None:
        """What happened, one outcome per recipient in their order."""


class Transport(Protocol):
    """Carries one account identity's mail. Safe for several concurrent `carry` calls: one connection each."""

    async def carry(self, upstream: Upstream, source: Source) -> None:
        """Take a connection (pooled or new), submit what `source.take()` gives until it gives None, put it back.

        The first `take` comes before a connection is sought.  Returns normally in every case but cancellation;
        failures are reported.  On cancellation what was taken is still reported (InDoubt when its dot was out).
        """

    def forget(self, account_id: int) -> None:
        """The account was stopped: no message begins from now on over a login that was made before.

        What goes over one already is brought to its end.  Never waits.
        """

    async def drained(self, account_id: int) -> None:
        """Wait until no connection of the account is open; call `forget` first, and give it a limit."""

    async def close(self) -> None:
        """QUIT idle connections, wait for nothing longer than a few seconds."""
