"""Accounts, senders, clients and secrets that a file declares."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns only: every row of before stays valid, and is managed by people."""
    for table in ("accounts", "senders", "clients", "secrets"):
        op.add_column(table, sa.Column("managed_by", sa.Text()))
