"""The schema of the store, compared with the one this program needs."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from relay.control.context import Control
from relay.database.migration import HEAD


async def migrate(control: Control) -> dict[str, Any]:
    """An open store is at this program's schema: opening it migrated it."""
    return {"database": control.database.name, "schema": HEAD}


def schema_of(path: Path) -> str | None:
    """The schema revision of a store that may not be open; None: there is no store yet."""
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    except sqlite3.Error:
        return None
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return None
    finally:
        connection.close()
    return str(row[0]) if row else None
