"""Replies that the catalogue has no entry for yet."""

from __future__ import annotations

from typing import Any

from relay.accounts.unknown_replies import all_unknown
from relay.control.context import Control, iso


async def explain_unknown(control: Control) -> list[dict[str, Any]]:
    """Those seen most often first, without addresses and ids."""
    return [
        {
            "provider": found.provider,
            "stage": found.stage,
            "reply": found.sample,
            "count": found.count,
            "first_seen": iso(found.first_seen),
            "last_seen": iso(found.last_seen),
        }
        for found in await control.database.read(all_unknown)
    ]
