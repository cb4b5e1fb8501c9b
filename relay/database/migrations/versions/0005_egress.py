"""Accounts with a way out and an IMAP server of their own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns only: every row of before stays valid."""
    for name in ("proxy", "source_address", "ip", "imap_host", "imap_tls", "imap_login"):
        op.add_column("accounts", sa.Column(name, sa.Text()))
    op.add_column("accounts", sa.Column("imap_port", sa.Integer()))
