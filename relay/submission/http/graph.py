"""Microsoft Graph: sendMail with a MIME message, in base64 as the body of the request."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from relay.accounts.model import Upstream
from relay.mail.outcome import Accepted, Outcome
from relay.mail.reply import Reply
from relay.submission.http.api import Answer, error_of, line, not_an_answer, refused, traced, word

if TYPE_CHECKING:
    from relay.config.settings import SubmissionSettings

_ITS_OWN = ("oauth-app",)  # an app has no mailbox of its own: it names one

# Where the error says more than the status that it comes with.
_REPLIES: dict[str, tuple[int, str]] = {
    "ErrorInvalidRecipients": (553, "5.1.3"),
    "ErrorMessageSizeExceeded": (552, "5.3.4"),
    "RequestEntityTooLarge": (552, "5.3.4"),
    "ApplicationThrottled": (450, "4.3.2"),
    "MailboxConcurrency": (450, "4.3.2"),
    "ErrorExceededMessageLimit": (452, "4.2.2"),
    "ErrorQuotaExceeded": (452, "4.2.2"),
}


class Graph:
    """See `api.Api`."""

    name = "Graph"
    base64 = True
    content_type = "text/plain"

    def most_octets(self, settings: SubmissionSettings) -> int:
        """Base64 makes four octets of three."""
        return settings.graph_request_bytes // 4 * 3

    def path(self, upstream: Upstream) -> str:
        """`me` is whoever signed in; an app says whose mailbox it is."""
        if upstream.auth in _ITS_OWN:
            return f"/v1.0/users/{quote(upstream.login, safe='@')}/sendMail"
        return "/v1.0/me/sendMail"

    def outcome(self, answer: Answer) -> Outcome:
        """Only 202 means that it was taken."""
        if answer.status == 202:
            return Accepted(Reply(250, "2.0.0", f"Graph HTTP 202 Accepted{traced(answer)}"))
        odd = not_an_answer(self, answer, 202)
        if odd is not None:
            return odd
        error = error_of(answer)
        code = word(error.get("code"))
        return refused(self, answer, code, line(error.get("message")), reply=_REPLIES.get(code))
