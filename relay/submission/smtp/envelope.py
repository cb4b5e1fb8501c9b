"""The commands of a transaction up to DATA, and what may not be offered to an upstream at all. Pure."""

from __future__ import annotations

from relay.mail.reply import Reply
from relay.submission.smtp.opening import Connection
from relay.submission.smtp.replies import DATA, MAIL, RCPT, RSET, Step
from relay.submission.transport import Submission


def objection(submission: Submission, connection: Connection) -> Reply | None:
    """The reply we give ourselves when the upstream's EHLO already says no; None: offer it."""
    limit = connection.size_limit
    if limit and submission.size > limit:  # RFC 1870 6.1 counts without stuffed dots; the difference is left out
        return Reply(
            552, "5.3.4", f"not offered: {submission.size} bytes, and {connection.upstream.host} takes at most {limit}"
        )
    if submission.eight_bit and not connection.eight_bit:  # RFC 6152 3: would have to be converted
        return Reply(554, "5.6.3", f"not offered: 8-bit text, and {connection.upstream.host} has no 8BITMIME")
    if not connection.smtputf8 and _needs_utf8(submission):  # RFC 6531 3.2
        return Reply(553, "5.6.7", f"not offered: {connection.upstream.host} has no SMTPUTF8")
    paths = (submission.reverse_path, *submission.recipients)
    if not all(map(str.isprintable, paths)):  # the front door lets none in; a line end here would be a command
        return Reply(553, "5.1.3", "not offered: a control character in an address")
    return None


def commands(submission: Submission, connection: Connection) -> list[tuple[bytes, Step]]:
    """The lines with CRLF and what they expect, in order: RSET if the connection needs one, MAIL, each RCPT, DATA."""
    parameters = f" SIZE={submission.size}" if connection.takes_size else ""
    if submission.eight_bit:
        parameters += " BODY=8BITMIME"
    if connection.smtputf8 and _needs_utf8(submission):
        parameters += " SMTPUTF8"
    lines = [(f"MAIL FROM:<{submission.reverse_path}>{parameters}\r\n".encode(), MAIL)]
    lines += [(f"RCPT TO:<{recipient}>\r\n".encode(), RCPT) for recipient in submission.recipients]
    lines.append((b"DATA\r\n", DATA))
    if connection.needs_reset:
        lines.insert(0, (b"RSET\r\n", RSET))
    return lines


def _needs_utf8(submission: Submission) -> bool:
    return submission.smtputf8 or not (
        submission.reverse_path.isascii() and all(map(str.isascii, submission.recipients))
    )
