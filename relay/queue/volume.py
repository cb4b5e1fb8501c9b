"""How much was accepted lately, from whom: as far as the history of the store tells."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, func, select

from relay.database.schema import messages
from relay.mail.ids import first_id_at

_MINUTE_MS = 60_000
_AT_ONCE = 500  # names in one statement


def accepted_octets(connection: Connection, clients: Iterable[str], since_ms: int) -> list[tuple[str, int, int]]:
    """(client, ms since 1970, octets of content) of what was accepted since then, summed up by the minute.

    A range of the primary key: what is older is not looked at.
    """
    names = sorted(clients)
    minute = (messages.c.accepted_at // _MINUTE_MS).label("minute")
    found: list[tuple[str, int, int]] = []
    for start in range(0, len(names), _AT_ONCE):
        rows = connection.execute(
            select(messages.c.client, func.max(messages.c.accepted_at), func.sum(messages.c.size))
            .where(messages.c.id >= first_id_at(since_ms), messages.c.client.in_(names[start : start + _AT_ONCE]))
            .group_by(messages.c.client, minute)
        )
        found += [(str(client), int(at_ms), int(octets)) for client, at_ms, octets in rows]
    return found
