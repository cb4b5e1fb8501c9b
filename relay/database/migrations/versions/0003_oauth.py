"""Accounts that sign in with OAuth 2."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column only: every row of before stays valid."""
    op.add_column("accounts", sa.Column("oauth", sa.Text()))
