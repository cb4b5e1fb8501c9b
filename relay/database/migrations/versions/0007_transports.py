"""Accounts whose mail goes by a provider's HTTP API."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns only: every account of before goes on by SMTP."""
    op.add_column("accounts", sa.Column("transport", sa.Text(), nullable=False, server_default="smtp"))
    op.add_column("accounts", sa.Column("fallback", sa.Text(), nullable=False, server_default="none"))
