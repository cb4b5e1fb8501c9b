"""Lines of commands: what they may hold, and how long they may be."""

from __future__ import annotations

import asyncio
import re

MAX_COMMAND = 2048  # octets of a command line (RFC 5321 4.5.3.1.4, and what the extensions add)
MAX_AUTH = 12_288  # octets of a line of an AUTH exchange, and of AUTH itself (RFC 4954 4)
TOO_LONG = b" " * (MAX_AUTH + 1)  # stands for any such line
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


async def long_line(reader: asyncio.StreamReader, consumed: int, limit: int) -> bytes:
    """The line of which `reader` could not find the end within `consumed` octets.

    `TOO_LONG` in place of one over `limit` octets.  Empty: no more will come.
    """
    kept = bytearray()
    while True:
        try:
            kept += (await reader.readexactly(consumed))[: limit + 1 - len(kept)]
            kept += (await reader.readuntil(b"\n"))[: limit + 1 - len(kept)]
        except asyncio.IncompleteReadError:
            return b""
        except asyncio.LimitOverrunError as error:
            consumed = error.consumed
        else:
            return bytes(kept) if len(kept) <= limit else TOO_LONG


def is_printable(text: bytes) -> bool:
    """No control characters; octets beyond ASCII are for the grammar to judge."""
    return text.decode().isprintable() if text.isascii() else _CONTROL.search(text) is None
