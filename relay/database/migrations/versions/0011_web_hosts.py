"""Hosts of accounts that were named through the web."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column only: hosts of before were named by an operator, as no other way was guarded."""
    op.add_column("accounts", sa.Column("web_hosts", sa.Text()))
