"""Notices: what is owed to senders, what was told to whom, who owns an account."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_UNPAID = sa.text("paid_at IS NULL")


def upgrade() -> None:
    """Add columns and tables only: every row of before stays valid."""
    op.add_column("accounts", sa.Column("owner", sa.Text()))
    op.add_column("accounts", sa.Column("null_sender", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("messages", sa.Column("notice", sa.Text()))
    op.create_table(
        "owed",
        sa.Column("message_id", _ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("paid_at", sa.BigInteger()),
        sa.Column("notice_id", _ID),
        sa.PrimaryKeyConstraint("message_id", "number", "kind", name="pk_owed"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_owed_unpaid", "owed", ["due_at"], sqlite_where=_UNPAID)
    op.create_table(
        "notices",
        sa.Column("id", _ID, autoincrement=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("account_id", _ID),
        sa.Column("about", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("recipient", sa.Text(), nullable=False),
        sa.Column("message_id", _ID),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_notices"),
    )
    op.create_index("ix_notices_account_id_at", "notices", ["account_id", "at"])
    op.create_index("ix_notices_about", "notices", ["about"])
