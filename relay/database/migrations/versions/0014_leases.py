"""Several nodes on one store: who they are, and what each of them has leased."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_WATCHED = ("accounts", "senders", "clients")


def upgrade() -> None:
    """Add columns and tables; PostgreSQL tells every node of changes that each of them keeps in memory."""
    op.add_column("nodes", sa.Column("name", sa.Text(), nullable=False, server_default=""))
    op.add_column("nodes", sa.Column("home", sa.Text()))
    op.add_column("nodes", sa.Column("version", sa.Text()))
    op.add_column("nodes", sa.Column("pid", sa.Integer()))
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("node", _ID),
        sa.Column("token", _ID, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("rest_until", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("rest_cause", sa.Text(), nullable=False, server_default=""),
        sa.Column("rest_failures", sa.Integer(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_index("ix_leases_node", "leases", ["node"])
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute(
        "CREATE FUNCTION relay_changed() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_notify('relay', 'changed'); RETURN NULL; END $$"
    )
    for table in _WATCHED:
        op.execute(
            f"CREATE TRIGGER relay_changed AFTER INSERT OR UPDATE OR DELETE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION relay_changed()"
        )
