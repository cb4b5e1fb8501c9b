"""What the transport must know of an API: how mail is asked to be sent there, and what its answers mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from relay.accounts.model import Upstream
from relay.mail.outcome import InDoubt, Outcome, Refused, Stage, Unreachable
from relay.mail.reply import Reply
from relay.telemetry.redaction import LIVE

if TYPE_CHECKING:
    from relay.config.settings import SubmissionSettings

MAX_BODY_BYTES = 65_536
_MAX_WORDS = 400  # characters of an API's own words

# The reply of SMTP that says the same: what reads replies, front door and notices too, goes by the first digit.
_REPLIES: dict[int, tuple[int, str]] = {
    400: (554, "5.6.0"),
    401: (535, "5.7.8"),
    403: (550, "5.7.1"),
    404: (550, "5.2.1"),
    408: (451, "4.4.2"),
    413: (552, "5.3.4"),
    429: (450, "4.3.2"),
    507: (452, "4.2.2"),
}
_SERVER_FAULT = (451, "4.3.0")
THROTTLED = (450, "4.3.2")


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is cut at MAX_BODY_BYTES; `retry_after_s` None: it named no time."""

    status: int
    body: bytes = field(default=b"", repr=False)
    retry_after_s: int | None = None
    request_id: str = ""


class Api(Protocol):
    """One provider's way to take a whole MIME message in one request. Pure."""

    name: str  # for people
    base64: bool  # the message goes in this encoding
    content_type: str

    def most_octets(self, settings: SubmissionSettings) -> int:
        """How large a message may be, as MIME."""

    def path(self, upstream: Upstream) -> str:
        """Where it is posted to, behind the host."""

    def outcome(self, answer: Answer) -> Outcome:
        """What an answer to a whole message means. A refused token is Refused at AUTH."""


def not_an_answer(api: Api, answer: Answer, good: int) -> Outcome | None:
    """The outcome of a status that the API cannot mean; None: it is a refusal.

    Whoever says yes in another way than it should (a gateway's page, half a service) may have taken the message or
    not: it is in doubt.  Redirects are not followed: the token would go where nobody meant it to.
    """
    status = answer.status
    if 200 <= status < 300:
        return InDoubt("protocol-error", f"{api.name} answered HTTP {status}, and not as it does when it takes a mail")
    if status == 401 or status >= 500 or status in _REPLIES:
        return None
    detail = f"{api.name} answered HTTP {status}" + (", a redirect: not followed" if 300 <= status < 400 else "")
    return Unreachable(Stage.CONNECT, "protocol-error", detail, retry_after_s=answer.retry_after_s)


def refused(
    api: Api, answer: Answer, code: str, words: str, *, reply: tuple[int, str] | None = None, wait_s: int | None = None
) -> Refused:
    """A refusal as a reply: `code` the API's own word for it, `words` what it says to people.

    `reply`: the SMTP code and status, where the HTTP status does not give them.
    """
    number, status = reply or _REPLIES.get(answer.status, _SERVER_FAULT)
    stage = Stage.AUTH if answer.status == 401 else Stage.DONE
    said = f"{api.name} HTTP {answer.status} {code}".rstrip()
    text = f"{said}: {words}" if words else said
    after = wait_s if answer.retry_after_s is None else answer.retry_after_s
    return Refused(Reply(number, status, text + traced(answer)), stage, after or None)


def traced(answer: Answer) -> str:
    """What the provider's support asks for."""
    return f" (request {answer.request_id})" if answer.request_id else ""


def error_of(answer: Answer) -> Mapping[str, Any]:
    """The `error` object of the answer's JSON; empty when there is none."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    error = found.get("error") if isinstance(found, dict) else None
    return error if isinstance(error, dict) else {}


def word(value: object) -> str:
    """An error's name: one word, bounded; "" for anything else."""
    if not isinstance(value, str) or not value.isascii() or not value.replace("_", "").replace(".", "").isalnum():
        return ""
    return value[:64]


def line(value: object) -> str:
    """Text for people in one printable line, bounded, with every secret of ours that it quotes masked."""
    if not isinstance(value, str):
        return ""
    text = "".join(letter if letter.isprintable() else " " for letter in value[: 4 * _MAX_WORDS])
    return LIVE.masked(" ".join(text.split()))[:_MAX_WORDS]
