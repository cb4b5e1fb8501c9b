"""Changes a stored content in a stream, before a message names it."""

from __future__ import annotations

import asyncio

from relay.mail.content import Content
from relay.mail.reencode import Reencoder
from relay.queue.spool import Spool

_CHUNK = 256 * 1024


async def rewrite(spool: Spool, content: Content, transform: Reencoder) -> Content:
    """What `transform` makes of `content`; `content` itself when that is untouchable.

    Takes over `content`: its spool file is removed, and nothing is left behind on failure either.  Reads and works
    outside of the loop.  Raises StorageFull or StorageFailed.  Shield the call from cancellation.
    """
    draft = spool.draft()
    rewritten: Content | None = None
    try:
        for at in range(0, content.size, _CHUNK):
            more = draft.add(await asyncio.to_thread(_transformed, spool, content, at, transform))
            if transform.untouchable:
                rewritten = content
                return content
            if more:
                await draft.drain()
        draft.add(transform.finish())
        rewritten = await draft.finish()
        return rewritten
    finally:
        draft.discard()  # of no effect on what was finished
        if content.spool is not None and rewritten is not content:
            await asyncio.to_thread(spool.remove, [content.spool])


def _transformed(spool: Spool, content: Content, at: int, transform: Reencoder) -> bytes:
    if content.spool is not None:
        return transform.feed(spool.read(content.spool, at, min(_CHUNK, content.size - at)))
    assert content.inline is not None
    return transform.feed(content.inline[at : at + _CHUNK])
