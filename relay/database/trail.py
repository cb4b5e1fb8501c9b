"""Writes the audit trail: one row for everything that a person, or the relay by itself, changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert

from relay.database.schema import audit

RELAY = "relay"  # the actor of what happens by itself


def record(
    connection: Connection, *, at_ms: int, actor: str, action: str, target: str, detail: Mapping[str, Any]
) -> None:
    """One row, in the caller's transaction. `detail` must be JSON and hold no secret."""
    text = json.dumps(detail, ensure_ascii=False, sort_keys=True)
    connection.execute(insert(audit).values(at=at_ms, actor=actor, action=action, target=target, detail=text))
