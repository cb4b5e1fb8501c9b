"""What an application hears that waits for the provider's verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from relay.listener import replies
from relay.mail.errors import StorageFailed, StorageFull
from relay.mail.reply import Reply, spoken
from relay.queue.verdicts import Expected, Refusal
from relay.telemetry import get_logger
from relay.telemetry.cleaning import clean_text

log = get_logger()

MAX_TEXT = 400  # characters; RFC 5321 4.5.3.1.5: a reply line has at most 512 octets
_NOTE_S = 5.0


async def verdict_reply(
    expected: Expected, shown_id: str, limit_s: float, *, present: Callable[[], bool] = lambda: True
) -> Reply:
    """The reply to the final dot of a message that is durable.

    5xx only when every recipient was refused and that is recorded: nothing of the message is owed any more then.
    `present`: is the application surely still there?  If not it may hear nothing, and a notice has to tell.
    """
    verdict = await expected.wait(limit_s)
    if verdict is None:
        return replies.queued(shown_id)
    if verdict.first is None:
        return Reply(250, "2.0.0", f"Ok: relayed as {shown_id}")
    if verdict.refused < verdict.recipients:  # one reply cannot say both: the refused ones bounce as usual
        return Reply(
            250, "2.0.0", f"Ok: {verdict.refused} of {verdict.recipients} recipients were refused, see {shown_id}"
        )
    if present():
        await _note(expected, shown_id)
    return _refused(verdict.first, verdict.recipients, shown_id)


async def _note(expected: Expected, shown_id: str) -> None:
    """Without the note a notice tells of the refusal a second time: no reason to say anything else than it."""
    try:
        async with asyncio.timeout(_NOTE_S):
            await expected.heard()
    except (StorageFull, StorageFailed, TimeoutError) as error:
        log.warning("storage.failed", where="direct answer", message_id=shown_id, detail=str(error))


def _refused(refusal: Refusal, recipients: int, shown_id: str) -> Reply:
    reply = refusal.reply
    if reply is None or not reply.permanent:  # a 4yz that the catalogue knows for a lasting one, or no reply at all
        reply = Reply(554, "5.0.0", reply.text if reply is not None else "")
    text = _printable(refusal.advice) or "The provider refused it."
    if recipients > 1:
        text = f"All {recipients} recipients were refused, the first: {text}"
    words = _printable(reply.text)
    if words:
        text += f" The provider said: {words}" if spoken(str(reply)) else f" What happened: {words}"
    end = f" ({shown_id})"
    if len(text) + len(end) > MAX_TEXT:
        text = text[: MAX_TEXT - len(end) - 3] + "..."
    return Reply(reply.code, reply.status or "5.0.0", text + end)


def _printable(text: str) -> str:
    """One line of printable ASCII, live secrets masked."""
    return clean_text(text.replace("\n", " ")).encode("ascii", "backslashreplace").decode()
