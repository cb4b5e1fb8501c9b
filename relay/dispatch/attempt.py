"""One attempt: the submission a lane gave away, and what is needed to record its outcome."""

from __future__ import annotations

import time
from dataclasses import dataclass

from relay.accounts.model import Upstream
from relay.mail.outcome import Accepted, InDoubt, Outcome, Refused, Unreachable
from relay.queue.model import AttemptRecord, Message
from relay.submission.transport import Submission

_MAX_REPLY = 1024  # characters kept of a reply


@dataclass(slots=True)
class Attempt(Submission):
    """`message` holds exactly the deliveries that are tried, in the order of `recipients`."""

    message: Message
    upstream: Upstream
    started: float  # monotonic
    slot: int | None = None  # of the dot ledger, once the dot is out
    fenced: bool = False  # somebody else has the message by now: it is not to be tried again from here

    @property
    def elapsed_ms(self) -> int:
        """Since the lane gave it away."""
        return int((time.monotonic() - self.started) * 1000)


@dataclass(slots=True)  # not frozen, as all that a message costs several of: a fifth of the time to make
class Facts:
    """An outcome flattened for history and log. Never changed once it is made."""

    outcome: str
    stage: str
    code: int
    status: str
    reply: str

    @classmethod
    def of(cls, outcome: Outcome) -> Facts:
        """Control bytes are escaped and the text is cut: it comes from outside."""
        match outcome:
            case Accepted(reply):
                return cls("accepted", "done", reply.code, reply.status, _printable(reply.text))
            case Refused(reply, stage):
                return cls("refused", stage.value, reply.code, reply.status, _printable(reply.text))
            case Unreachable(stage, _, detail):
                return cls("unreachable", stage.value, 0, "", _printable(detail))
            case InDoubt(_, detail):
                return cls("in_doubt", "done", 0, "", _printable(detail))

    def record(self, cause: str, elapsed_ms: int) -> AttemptRecord:
        """As the history keeps it."""
        return AttemptRecord(self.outcome, self.stage, self.code, self.status, self.reply, cause, elapsed_ms)


def _printable(text: str) -> str:
    if len(text) > _MAX_REPLY:
        text = text[:_MAX_REPLY] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c == "\n" else ascii(c)[1:-1] for c in text)
