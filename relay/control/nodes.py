"""The daemons that work on this store: today this one."""

from __future__ import annotations

import os
import socket
from typing import Any

from sqlalchemy import Connection, select

import relay
from relay.control.context import Control, iso
from relay.database.schema import nodes


async def node_list(control: Control) -> list[dict[str, Any]]:
    """Every node that holds a lease."""

    def read(connection: Connection) -> list[Any]:
        return list(connection.execute(select(nodes).order_by(nodes.c.id.desc()).limit(1)))

    return [
        {
            "id": row.id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "version": relay.__version__,
            "started_at": iso(row.started_at),
        }
        for row in await control.database.read(read)
    ]
