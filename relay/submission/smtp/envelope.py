"""The commands of a transaction up to DATA, and what may not be offered to an upstream at all."""

from __future__ import annotations

import re

from relay.mail.dsn import NO_MESSAGE_REQUEST
from relay.mail.reply import Reply
from relay.submission.smtp.opening import Connection
from relay.submission.smtp.replies import DATA, MAIL, RCPT, RSET, Step
from relay.submission.transport import Submission

_ESMTP_VALUE = re.compile(r"[!-<>-~]+")  # RFC 5321 4.1.2; a line end here would be a command


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
    """The lines with CRLF and what they expect, in order: RSET if the connection needs one, MAIL, each RCPT, DATA.

    Notes in `submission` whether they carry what it asks about notices.
    """
    parameters = f" SIZE={submission.size}" if connection.takes_size else ""
    if submission.eight_bit:
        parameters += " BODY=8BITMIME"
    if connection.smtputf8 and _needs_utf8(submission):
        parameters += " SMTPUTF8"
    asks = connection.dsn and (submission.request is not NO_MESSAGE_REQUEST or bool(submission.requests))
    submission.passed_on = asks
    if asks:
        parameters += _asked(RET=submission.request.ret, ENVID=submission.request.envid)
    lines = [(f"MAIL FROM:<{submission.reverse_path}>{parameters}\r\n".encode(), MAIL)]
    if asks and submission.requests:
        lines += [
            (f"RCPT TO:<{recipient}>{_asked(NOTIFY=request.notify, ORCPT=request.orcpt)}\r\n".encode(), RCPT)
            for recipient, request in zip(submission.recipients, submission.requests, strict=True)
        ]
    else:
        lines += [(f"RCPT TO:<{recipient}>\r\n".encode(), RCPT) for recipient in submission.recipients]
    lines.append((b"DATA\r\n", DATA))
    if connection.needs_reset:
        lines.insert(0, (b"RSET\r\n", RSET))
    return lines


def _asked(**parameters: str) -> str:
    """RFC 3461 4: those that were asked for; a value that is no esmtp-value any more is left out."""
    return "".join(
        [f" {name}={value}" for name, value in parameters.items() if value and _ESMTP_VALUE.fullmatch(value)]
    )


def _needs_utf8(submission: Submission) -> bool:
    return submission.smtputf8 or not (
        submission.reverse_path.isascii() and all(map(str.isascii, submission.recipients))
    )
