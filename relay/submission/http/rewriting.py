"""What becomes of a message's header where the upstream knows no envelope, and how that is told."""

from __future__ import annotations

from collections.abc import Callable

from relay.accounts.model import Upstream
from relay.accounts.normalise import BadAddress, normalise, settled_address
from relay.mail.addressing import addressed, authored
from relay.submission.transport import Submission

SpeaksFor = Callable[[int, str], bool]


def rewritten(
    section: bytes, submission: Submission, upstream: Upstream, speaks_for: SpeaksFor
) -> tuple[bytes, list[str]]:
    """The header section for `upstream`, and in words what was changed in it."""
    own = {normalise(address) for address in (submission.reverse_path, upstream.account, upstream.login) if address}

    def may_be(author: str) -> bool:
        return normalise(author) in own or speaks_for(upstream.account_id, author)

    section, done = authored(section, may_be, submission.reverse_path or upstream.account)
    result = addressed(section, [_written(recipient) for recipient in submission.recipients], normalise)
    notes = []
    if result.hidden:
        notes.append(f"{result.hidden} only in the envelope: added as Bcc")
    if result.removed:
        notes.append(f"{result.removed} not in the envelope: taken out of To and Cc")
    if result.unread:
        notes.append(f"unreadable, made anew: {', '.join(result.unread)}")
    if "rewritten-from" in done:
        notes.append("From was nobody this account speaks for: made the envelope sender")
    elif "-sender" in done:
        notes.append("Sender was nobody this account speaks for: taken out")
    return result.section, notes


def _written(recipient: str) -> str:
    """As a header may have it everywhere: the domain in A-labels."""
    if recipient.isascii():
        return recipient
    try:
        return settled_address(recipient)
    except BadAddress:
        return recipient
