"""What PostgreSQL needs: chunks of large contents, writers, partial indexes, the audit trail's guard."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add tables only: every row of before stays valid."""
    op.create_table(
        "chunks",
        sa.Column("spool", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("node", _ID, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("spool", "number", name="pk_chunks"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "writers",
        sa.Column("id", _ID, autoincrement=True),
        sa.Column("epoch", _ID, nullable=False),
        sa.Column("batch", _ID, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_writers"),
    )
    if op.get_bind().dialect.name == "postgresql":
        _postgresql()


def _postgresql() -> None:
    for name, table, columns, where in (
        ("ix_messages_spool", "messages", ["spool"], "spool IS NOT NULL"),
        ("ix_deliveries_unsettled", "deliveries", ["account_id", "due_at"], "settled_at IS NULL"),
        ("ix_owed_unpaid", "owed", ["due_at"], "paid_at IS NULL"),
    ):
        op.drop_index(name, table_name=table)
        op.create_index(name, table, columns, postgresql_where=sa.text(where))
    for table in ("contents", "chunks"):  # gone within seconds as a rule: compressing costs more than it saves
        op.execute(f"ALTER TABLE {table} ALTER COLUMN body SET STORAGE EXTERNAL")
    op.execute("ALTER TABLE writers SET (fillfactor = 10)")  # a row that changes with every commit stays in its page
    # Part of a batch: an exception that takes all of it back.  RY001: see queue.operations; RY002: see
    # database.postgresql.writer.
    op.execute(
        """
        CREATE FUNCTION relay_expect(got bigint, wanted bigint, code text) RETURNS bigint LANGUAGE plpgsql AS $$
        BEGIN
            IF got IS DISTINCT FROM wanted THEN
                RAISE EXCEPTION '% of % rows', got, wanted USING ERRCODE = code;
            END IF;
            RETURN got;
        END $$
        """
    )
    op.execute(
        """
        CREATE FUNCTION audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP = 'DELETE' AND OLD.at <= (extract(epoch FROM now())::bigint - 31536000) * 1000 THEN
                RETURN OLD;
            END IF;
            RAISE EXCEPTION '%', CASE TG_OP
                WHEN 'DELETE' THEN 'the audit trail of the last year cannot be deleted'
                ELSE 'the audit trail cannot be changed' END USING ERRCODE = 'integrity_constraint_violation';
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER audit_is_kept BEFORE DELETE OR UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION audit_is_kept()"
    )
    op.execute(
        "CREATE TRIGGER audit_is_whole BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_is_kept()"
    )
