"""What happened to one recipient of one submission: the four things a transport may report."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from relay.mail.reply import Reply


class Stage(enum.StrEnum):
    """How far the dialogue had come (RFC 5321 4.1.1)."""

    CONNECT = "connect"  # resolve, dial, greeting, EHLO
    TLS = "tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"  # DATA command and the content
    DONE = "done"  # the final dot is out


@dataclass(frozen=True, slots=True)
class Accepted:
    """The upstream took responsibility for this recipient."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class Refused:
    """The upstream answered no. Whether to retry is for `diagnosis` to say, not for the transport.

    `retry_after_s`: how long the other side asked to be left alone, None if it did not.
    """

    reply: Reply
    stage: Stage
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Unreachable:
    """No usable answer, and the final dot was not sent: the upstream cannot have the message.

    `reason` is one of the condition ids of `diagnosis.conditions`; `detail` is for people.  `counted` is False when
    a reused connection died before it did anything for this message: not an attempt, try again at once.
    `retry_after_s`: how long the other side asked to be left alone, None if it did not.
    """

    stage: Stage
    reason: str
    detail: str
    counted: bool = True
    retry_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class InDoubt:
    """The final dot was sent and its reply never came: the upstream may have the message (RFC 1047)."""

    reason: str
    detail: str


Outcome = Accepted | Refused | Unreachable | InDoubt
