"""What troubles accounts: conditions people must hear about, logins tried, replies nobody knows yet."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_LASTS = sa.text("closed_at IS NULL")


def upgrade() -> None:
    """Add tables only: every row of before stays valid."""
    op.create_table(
        "conditions",
        sa.Column("id", _ID, autoincrement=True),
        sa.Column("account_id", _ID),
        sa.Column("group_key", sa.Text(), nullable=False, server_default=""),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("opened_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger()),
        sa.Column("notified_at", sa.BigInteger()),
        sa.Column("notices", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("closed_notified_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_conditions"),
    )
    op.create_index(
        "ix_conditions_open",
        "conditions",
        ["account_id", "kind", "cause"],
        unique=True,
        sqlite_where=_LASTS,
        postgresql_where=_LASTS,
    )
    op.create_table(
        "login_tries",
        sa.Column("id", _ID, autoincrement=True),
        sa.Column("account_id", _ID, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("by_person", sa.Integer(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("id", name="pk_login_tries"),
    )
    op.create_index("ix_login_tries_account_id", "login_tries", ["account_id"])
    op.create_table(
        "unknown_replies",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("shape", sa.Text(), nullable=False),
        sa.Column("sample", sa.Text(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("first_seen", sa.BigInteger(), nullable=False),
        sa.Column("last_seen", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("provider", "stage", "shape", name="pk_unknown_replies"),
        sqlite_with_rowid=False,
    )
