"""The daemons that work on this store, and what each of them holds."""

from __future__ import annotations

import os
import socket
from typing import Any

from sqlalchemy import Connection, Row, select

import relay
from relay.control.context import Control, iso
from relay.database.schema import nodes
from relay.queue.leases import JOBS, held_by, holder


async def node_list(control: Control) -> list[dict[str, Any]]:
    """Every node, the longest there first. `silent_s`: for how long its lease has passed; 0: it is heard of."""

    def read(connection: Connection) -> tuple[list[Row[Any]], dict[int, int], int | None]:
        rows = list(connection.execute(select(nodes).order_by(nodes.c.id)))
        return rows, held_by(connection), holder(connection, JOBS)

    rows, held, leading = await control.database.read(read)
    if not control.database.shared:  # one that ended without a word left its row
        return [_alone(control, row) for row in rows[-1:]]
    now, mine = control.database.now_ms(), control.queue.node
    return [
        {
            "id": row.id,
            "host": row.name,
            "pid": row.pid,
            "version": row.version,
            "started_at": iso(row.started_at),
            "here": row.id == mine,
            "accounts": held[row.id],
            "jobs": row.id == leading,
            "silent_s": max(0, now - row.lease_until) // 1000,
        }
        for row in rows
    ]


def _alone(control: Control, row: Row[Any]) -> dict[str, Any]:
    return {
        "id": row.id,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": relay.__version__,
        "started_at": iso(row.started_at),
        "here": True,
        "accounts": len(control.directory.accounts()),
        "jobs": True,
        "silent_s": 0,
    }
