"""The audit trail is append-only, and found by what it is about."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """An index, and two triggers: nothing is changed, and only what is older than a year may be deleted."""
    op.create_index("ix_audit_target", "audit", ["target"])
    if op.get_bind().dialect.name != "sqlite":
        return
    op.execute(
        "CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit "
        "WHEN OLD.at > (CAST(strftime('%s', 'now') AS INTEGER) - 31536000) * 1000 "
        "BEGIN SELECT RAISE(ABORT, 'the audit trail of the last year cannot be deleted'); END"
    )
    op.execute(
        "CREATE TRIGGER audit_is_final BEFORE UPDATE ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit trail cannot be changed'); END"
    )
