"""Tokens for programs that use the API: made once, shown once, kept as a hash, with an end."""

from __future__ import annotations

import json
import re
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from relay.control.access import rows
from relay.control.access.model import SCOPES
from relay.control.context import Control, ControlError, iso, now_ms
from relay.control.reasons import shown
from relay.database.schema import api_tokens

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PREFIX = "relay_"  # secret scanners know a token by its beginning
_MOST_DAYS = 3650
_DAY_MS = 86_400_000


async def token_list(control: Control) -> list[dict[str, Any]]:
    """Every token without its secret, by name."""

    def read(connection: Connection) -> list[dict[str, Any]]:
        found = connection.execute(select(api_tokens).order_by(api_tokens.c.name))
        return [
            {
                "name": row.name,
                "scopes": json.loads(row.scopes),
                "created_by": row.created_by,
                "created_at": iso(row.created_at),
                "expires_at": iso(row.expires_at),
                "used_at": iso(row.used_at),
                "expired": row.expires_at <= now_ms(),
                "rests": rows.token_rests(connection, row),
            }
            for row in found
        ]

    return await control.database.read(read)


async def token_add(control: Control, *, name: str, scopes: list[str], days: int = 365) -> dict[str, Any]:
    """A token; it is in the answer and nowhere else. Nobody gives a token more than they may do themselves."""
    if not _NAME.fullmatch(name):
        raise ControlError("name cannot be that", "give letters, digits, dots and hyphens", "invalid")
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise ControlError(
            f"scopes cannot be {shown(', '.join(unknown)) or 'empty'}", f"give some of {', '.join(SCOPES)}", "invalid"
        )
    if control.principal is not None and not set(scopes) <= control.principal.scopes:
        raise ControlError("a token cannot do more than who makes it", "leave the other scopes out", "forbidden")
    if not 1 <= days <= _MOST_DAYS:
        raise ControlError(f"a token cannot last {days} days", f"give 1 to {_MOST_DAYS}", "invalid")
    token, expires_at = rows.new_token(PREFIX), now_ms() + days * _DAY_MS

    def work(connection: Connection) -> None:
        if connection.execute(select(api_tokens.c.id).where(api_tokens.c.name == name)).first() is not None:
            raise ControlError(f"there is a token {name} already", "remove it first, or give another name", "conflict")
        connection.execute(
            insert(api_tokens).values(
                name=name,
                token_hash=rows.hashed(token),
                scopes=json.dumps(sorted(set(scopes))),
                created_by=control.actor,
                user_id=control.principal.user_id if control.principal is not None else None,
                created_at=now_ms(),
                expires_at=expires_at,
            )
        )

    await control.change("token.add", name, {"scopes": sorted(set(scopes)), "days": days}, work)
    return {"name": name, "token": token, "scopes": sorted(set(scopes)), "expires_at": iso(expires_at)}


async def token_remove(control: Control, *, name: str) -> dict[str, Any]:
    """From now on nobody gets in with it."""

    def work(connection: Connection) -> None:
        if connection.execute(delete(api_tokens).where(api_tokens.c.name == name)).rowcount == 0:
            raise ControlError(f"there is no token {shown(name)}", "`relay console tokens` shows them", "not-found")
        rows.forget_answers(connection, f"token:{name}")

    await control.change("token.remove", name, {}, work)
    return {"removed": name}
