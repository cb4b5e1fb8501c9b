"""The Gmail API: messages.send by its upload endpoint, which takes the MIME message as it is."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from relay.accounts.model import Upstream
from relay.mail.outcome import Accepted, Outcome
from relay.mail.reply import Reply
from relay.net.http_answers import MAX_RETRY_AFTER_S
from relay.submission.http.api import THROTTLED, Answer, error_of, line, not_an_answer, refused, traced, word

if TYPE_CHECKING:
    from relay.config.settings import SubmissionSettings

_PATH = "/upload/gmail/v1/users/me/messages/send?uploadType=media"
_RATES = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "dailyLimitExceeded", "quotaExceeded"})
_UNTIL = re.compile(r"Retry after (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d{1,9})?Z")


class Gmail:
    """See `api.Api`. `now_s`: the wall clock, for refusals that name a time."""

    name = "Gmail API"
    base64 = False
    content_type = "message/rfc822"

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s

    def most_octets(self, settings: SubmissionSettings) -> int:
        """As the settings have it."""
        return settings.gmail_message_bytes

    def path(self, upstream: Upstream) -> str:
        """`me` is the mailbox that the token is for, of a service account its subject."""
        return _PATH

    def outcome(self, answer: Answer) -> Outcome:
        """Only 200 with the id of a message means that it was taken."""
        if answer.status == 200 and (message_id := _id_of(answer)):
            return Accepted(Reply(250, "2.0.0", f"Gmail API HTTP 200 OK, message {message_id}{traced(answer)}"))
        odd = not_an_answer(self, answer, 200)
        if odd is not None:
            return odd
        error = error_of(answer)
        reason, words = _reason(error), line(error.get("message"))
        rate = THROTTLED if reason in _RATES else None
        return refused(self, answer, reason, words, reply=rate, wait_s=self._wait_s(words))

    def _wait_s(self, words: str) -> int | None:
        """Too many messages are told until when in words alone."""
        found = _UNTIL.search(words)
        if found is None:
            return None
        try:
            until = datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp()
        except ValueError:
            return None
        return max(1, min(round(until - self._now_s()), MAX_RETRY_AFTER_S))


def _id_of(answer: Answer) -> str:
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return ""
    return word(found.get("id")) if isinstance(found, dict) else ""


def _reason(error: Any) -> str:
    """The most particular name that the error has: `errors[0].reason`, else its status."""
    listed = error.get("errors")
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
    return word(first.get("reason")) or word(error.get("status"))
