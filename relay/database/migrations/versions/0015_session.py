"""Of a message: the session it came in, and what was put right in it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add columns only: every row of before stays valid."""
    op.add_column("messages", sa.Column("session", _ID))
    op.add_column("messages", sa.Column("repaired", sa.Text()))
