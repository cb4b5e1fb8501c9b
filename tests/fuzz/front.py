"""Client entries and From policies for a front door under test."""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import Connection

from relay.accounts import clients
from relay.accounts import store as accounts
from tests.wire.door import OpenDoor


async def add_client(door: OpenDoor, name: str = "device", **fields: Any) -> None:
    """Register a client entry; `fields` as in `relay.accounts.model.Client`."""

    def write(connection: Connection) -> None:
        clients.add_client(connection, name, now_ms=1, **fields)

    await door.store.database.write(write)
    await door.directory.reload()


async def add_sender(door: OpenDoor, address: str, policy: Literal["keep", "rewrite", "refuse"]) -> None:
    """Register a sender of the door's account, or change the From policy of one."""

    def write(connection: Connection) -> None:
        accounts.add_sender(connection, address, door.account_id, now_ms=1, from_policy=policy)

    await door.store.database.write(write)
    await door.directory.reload()
