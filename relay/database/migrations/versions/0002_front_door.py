"""Clients that log in and have more to say; envelope parameters of RFC 3461."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns only: every row of before stays valid."""
    op.add_column("clients", sa.Column("login", sa.Text()))
    op.add_column("clients", sa.Column("password_hash", sa.Text()))
    op.add_column("clients", sa.Column("options", sa.Text(), nullable=False, server_default="{}"))
    op.create_index("ix_clients_login", "clients", ["login"], unique=True)
    for name in ("original_path", "ret", "envid", "answer"):
        op.add_column("messages", sa.Column(name, sa.Text()))
    for name in ("notify", "orcpt"):
        op.add_column("deliveries", sa.Column(name, sa.Text()))
