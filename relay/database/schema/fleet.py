"""Who works on the store: nodes, what they lease, and connections that write."""

from __future__ import annotations

from sqlalchemy import Column, Integer, Table, Text

from relay.database.schema.base import Id, Milliseconds, metadata

nodes = Table(
    "nodes",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),  # one per start of a daemon: an incarnation
    Column("started_at", Milliseconds, nullable=False),
    Column("lease_until", Milliseconds, nullable=False),  # every delivery this node owns is leased until then
    Column("name", Text, nullable=False, server_default=""),  # for people
    Column("home", Text),  # of its data folder, whose lock only one process can hold; NULL: alone on its store
    Column("version", Text),
    Column("pid", Integer),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),  # queue.leases: account N, jobs, token N
    Column("node", Id, index=True),  # whose it is as long as that row of `nodes` exists; NULL: anybody's
    Column("token", Id, nullable=False),  # grows each time it changes hands
    Column("since", Milliseconds, nullable=False),
    # Of an account that rests: until when, why, after how many failures in a row. Whoever takes it over goes on there.
    Column("rest_until", Milliseconds, nullable=False, server_default="0"),
    Column("rest_cause", Text, nullable=False, server_default=""),
    Column("rest_failures", Integer, nullable=False, server_default="0"),
)

writers = Table(  # connections that write to PostgreSQL: what became of a COMMIT whose reply was lost
    "writers",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("epoch", Id, nullable=False),  # grows with each connection: what an earlier one still sends is refused
    Column("batch", Id, nullable=False),  # number of the last one that was committed
    Column("at", Milliseconds, nullable=False),  # of its last connection
)
