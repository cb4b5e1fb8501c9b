"""Mailboxes: mail that came back, copies of what was sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add columns and tables only: every row of before stays valid."""
    op.add_column("accounts", sa.Column("bounces", sa.Text()))
    op.add_column("accounts", sa.Column("sent_copy", sa.Text(), nullable=False, server_default="auto"))
    op.add_column("owed", sa.Column("begun_at", sa.BigInteger()))
    op.create_table(
        "returned",
        sa.Column("id", _ID, autoincrement=True),
        sa.Column("message_id", _ID, nullable=False),
        sa.Column("number", sa.Integer()),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("code", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reply", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_returned"),
    )
    op.create_index("ix_returned_message_id", "returned", ["message_id"])
    op.create_table(
        "mailboxes",
        sa.Column("account_id", _ID, sa.ForeignKey("accounts.id"), autoincrement=False),
        sa.Column("folder", sa.Text(), nullable=False),
        sa.Column("uidvalidity", _ID, nullable=False),
        sa.Column("last_uid", _ID, nullable=False),
        sa.Column("read_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id", name="pk_mailboxes"),
    )
