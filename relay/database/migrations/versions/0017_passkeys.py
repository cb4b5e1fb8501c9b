"""Passkeys, recovery codes, when a session last proved itself, whose a token is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add columns and tables only. A token of before belongs to the person who made it, if they are still there."""
    op.add_column("console_users", sa.Column("handle", sa.LargeBinary()))
    op.add_column("console_sessions", sa.Column("proved_at", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("api_tokens", sa.Column("user_id", _ID))
    op.execute(
        "UPDATE api_tokens SET user_id ="
        " (SELECT id FROM console_users WHERE 'console:' || console_users.name = api_tokens.created_by)"
    )
    op.create_table(
        "console_passkeys",
        sa.Column("credential_id", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", _ID, sa.ForeignKey("console_users.id"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("sign_count", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("used_at", sa.BigInteger()),
        sa.PrimaryKeyConstraint("credential_id", name="pk_console_passkeys"),
    )
    op.create_index("ix_console_passkeys_user_id", "console_passkeys", ["user_id"])
    op.create_table(
        "console_recovery_codes",
        sa.Column("code_hash", sa.LargeBinary(), nullable=False),
        sa.Column("user_id", _ID, sa.ForeignKey("console_users.id"), nullable=False),
        sa.PrimaryKeyConstraint("code_hash", name="pk_console_recovery_codes"),
    )
    op.create_index("ix_console_recovery_codes_user_id", "console_recovery_codes", ["user_id"])
