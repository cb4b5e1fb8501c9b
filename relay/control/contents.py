"""What a message says: its header section for an operator's eye, all of it only when asked for and audited."""

from __future__ import annotations

import base64
from typing import Any

from sqlalchemy import select

from relay.control.context import Control, ControlError
from relay.database.schema import messages
from relay.mail.content import Content, unstuff
from relay.mail.errors import StorageFailed
from relay.mail.ids import format_id, parse_id

_HEADER_BYTES = 65_536
_PIECE_BYTES = 262_144  # in base64 well within a line of the control socket


async def header_of(control: Control, message: Any) -> str | None:
    """The header section of a row of `messages`, at most 64 KiB; None: gone, as it is once all is done."""
    try:
        octets = await _octets(control, message, 0, _HEADER_BYTES)
    except StorageFailed:
        return None
    if octets is None:
        return None
    return unstuff(octets.partition(b"\r\n\r\n")[0]).decode("utf-8", "replace")


async def queue_content(control: Control, *, id: str, at: int = 0) -> dict[str, Any]:
    """A piece of the message in wire form, from octet `at` on: `data` in base64, and the whole `size`.

    The first piece is audited.  Refused when there is no such message, or its content is gone.
    """
    number = parse_id(id)
    chosen = select(messages).where(messages.c.id == (number if number is not None else -1))
    row = await control.database.read(lambda connection: connection.execute(chosen).one_or_none())
    if row is None:
        raise ControlError("there is no message of that id", "`relay queue list` shows the ids")
    if not 0 <= at < row.size:
        raise ControlError("the message ends before that", "begin at 0")
    if at == 0:
        await control.announce("queue.content", [format_id(row.id)], {"size": row.size})
    try:
        octets = await _octets(control, row, at, min(_PIECE_BYTES, row.size - at))
    except StorageFailed as error:
        raise ControlError(f"its content cannot be read: {error}", "see to the device of the store") from None
    if octets is None:
        raise ControlError("its content is gone", "a content is kept until the last recipient is settled")
    return {"data": base64.b64encode(octets).decode("ascii"), "size": row.size}


async def _octets(control: Control, message: Any, at: int, length: int) -> bytes | None:
    return await control.queue.piece(message.id, Content(message.size, spool=message.spool), at, length)
