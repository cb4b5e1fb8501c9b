"""Wires a node of a fleet: who it is, what it hears, and that what another node changed is in force here at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import relay
from relay.accounts.directory import Directory
from relay.accounts.model import AccountState
from relay.accounts.transitions import Change
from relay.aftercare.service import Aftercare
from relay.config.settings import NodeSettings, RelaySettings
from relay.credentials.logins import Logins
from relay.database.bell import Bell
from relay.database.engine import Database
from relay.database.postgresql.connecting import Place
from relay.dispatch.dispatcher import Dispatcher
from relay.dispatch.fleet import Fleet
from relay.dispatch.shared import SharedDispatcher
from relay.mail.errors import StorageFailed, StorageFull
from relay.queue.nodes import Identity
from relay.queue.shared import SharedQueue
from relay.telemetry import get_logger

if TYPE_CHECKING:
    from relay.daemon.build import Core
    from relay.daemon.checkup import Checkup
    from relay.daemon.grants import Grants

log = get_logger()

_HOME = "node"  # file in the data folder
_OTHER = "another node"
_FOLLOW_S = 20.0  # net below the calls: a change is in force after so long at the latest
_GATHER_S = 0.05


def identity(settings: NodeSettings, data_dir: Path) -> Identity:
    """Who this daemon is. Call it while holding the lock of `data_dir`: that is what `home` proves. Blocking."""
    path = data_dir / _HOME
    try:
        home = path.read_text("ascii").strip()
    except FileNotFoundError:
        home = secrets.token_hex(16)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{home}\n")
    return Identity(settings.name or socket.gethostname(), home, relay.__version__, os.getpid())


def fleet_of(settings: NodeSettings, data_dir: Path, database: Database) -> Fleet:
    """The fleet as this daemon will be part of it; nothing is asked of the store yet."""
    who = identity(settings, data_dir)
    return Fleet(database, database.now_ms, who, lease_s=settings.lease_s, idle_s=settings.idle_s)


class Following:
    """Puts in force what another node changed in accounts, senders and clients."""

    def __init__(self, directory: Directory, logins: Logins, dispatcher: SharedDispatcher) -> None:
        self._directory, self._logins, self._dispatcher = directory, logins, dispatcher
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """Something was, perhaps by this node."""
        self._changed.set()

    async def run(self) -> None:
        """Never ends by itself, whatever fails."""
        while True:
            try:
                await self.follow()
            except (StorageFull, StorageFailed) as error:
                log.error("storage.failed", where="accounts of other nodes", detail=str(error))
            except Exception as error:  # outermost loop
                log.error("daemon.fault", where="accounts of other nodes", exc_info=error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FOLLOW_S):
                    await self._changed.wait()
            await asyncio.sleep(_GATHER_S)
            self._changed.clear()

    async def follow(self) -> None:
        """Read what is registered; tell who keeps anything of what is different now."""
        before = {account.id: account for account in self._directory.accounts()}
        if not await self._directory.follow():
            return
        changes: list[Change] = []
        for account in self._directory.accounts():
            known = before.get(account.id)
            if known is None or known == account:
                continue
            if known.revision != account.revision:
                self._logins.look_again(account.id)
            if known.state is not account.state:
                self._logins.look_again(account.id)
                changes.append(Change(known, account.state, _OTHER))
        self._dispatcher.refresh(reroute=False)
        if changes:
            self._dispatcher.follow(changes)
        log.info(
            "accounts.changed",
            accounts=len(before),
            senders=len(self._directory.senders()),
            clients=len(self._directory.clients()),
        )


@asynccontextmanager
async def in_fleet(
    settings: RelaySettings,
    core: Core,
    dispatcher: Dispatcher,
    aftercare: Aftercare,
    checkup: Checkup,
    grants: Grants,
) -> AsyncIterator[None]:
    """Beat, listen and follow within; every part does what is this node's to do."""
    fleet, queue = core.fleet, core.queue
    assert fleet is not None
    assert isinstance(dispatcher, SharedDispatcher)
    assert isinstance(queue, SharedQueue)
    following = Following(core.directory, core.logins, dispatcher)
    fleet.calls.changed, fleet.calls.owed = following.changed, aftercare.bounces.poke
    fleet.rejoined = queue.become
    fleet.keeps = lambda account_id: _has_mailbox(core.directory, account_id)
    for part in (aftercare.bounces, aftercare.trouble, checkup, grants):
        part.leads = fleet.leads
    aftercare.copies.may = aftercare.returns.may = fleet.may
    checkup.obtain = fleet.obtain
    queue.on_owed = lambda: aftercare.bounces.poke() if fleet.leads() else fleet.say("owed")
    place = Place(settings.database)

    def missed() -> None:
        fleet.beat_soon()
        following.changed()

    bell = Bell(lambda: place.connect(application="relay bell"), heard=fleet.calls.heard, missed=missed)
    tasks = (
        asyncio.create_task(fleet.run(), name="heartbeat"),
        asyncio.create_task(bell.run(), name="bell"),
        asyncio.create_task(following.run(), name="follow other nodes"),
    )
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await fleet.close()


def _has_mailbox(directory: Directory, account_id: int) -> bool:
    account = directory.account(account_id)
    return account is not None and account.state is AccountState.OK and account.bounces is not None
