"""Lists: the index of what is owed answers counts by itself."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the index again with what counts ask for; no row is touched."""
    op.drop_index("ix_deliveries_unsettled", table_name="deliveries")
    op.create_index(
        "ix_deliveries_unsettled",
        "deliveries",
        ["account_id", "due_at", "settled_at", "state"],
        sqlite_where=sa.text("settled_at IS NULL"),
        postgresql_where=sa.text("settled_at IS NULL"),
    )
