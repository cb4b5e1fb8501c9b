"""Puts changed settings in force while the daemon runs: all of them, or on any trouble none."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from relay.config.doubts import warnings
from relay.config.extras import require_extras
from relay.config.held import Reloading
from relay.control.context import Control
from relay.control.refusal import ControlError
from relay.daemon import apart
from relay.daemon.accounts_file import AccountsFile
from relay.daemon.activation import notify
from relay.daemon.build import Relay, guard_of
from relay.daemon.doors import Planned, plan
from relay.daemon.refusals import why
from relay.daemon.traces import Traces
from relay.daemon.web import Web
from relay.mail.errors import RelayError
from relay.telemetry import configure, get_logger

if TYPE_CHECKING:
    from relay.config.settings import RelaySettings

log = get_logger()

_ENDING_S = 5.0
_RESTART = "restart the relay (systemctl restart relay) for these to count"


class Hangups:
    """SIGHUP, from the first moment of the process on: what comes before the daemon is ready is obeyed then."""

    def __init__(self) -> None:
        self._heard = asyncio.Event()

    def heard(self) -> None:
        """The signal's handler. Several before the next reload are one."""
        self._heard.set()

    async def next(self) -> None:
        """Wait for one."""
        await self._heard.wait()
        self._heard.clear()


class Reloader:
    """One per daemon. `settings` and `control` are those in force; `users` are told of each new `control`.

    `read` gives what becomes of those in force, as their sources are now; it may raise SettingsError.
    """

    def __init__(
        self,
        settings: RelaySettings,
        relay: Relay,
        *,
        users: Iterable[Callable[[Control], None]],
        traces: Traces,
        web: Web,
        read: Callable[[RelaySettings], Reloading] = apart.reload,
    ) -> None:
        self.settings = settings
        self.control = replace(relay.control, reload=self.reload)
        self.accounts_file = AccountsFile(lambda: self.control)
        self._relay, self._users, self._read = relay, tuple(users), read
        self._traces, self._web = traces, web
        self._turn = asyncio.Lock()
        self._ended = False
        self._tell()

    @asynccontextmanager
    async def watching(self, hangups: Hangups) -> AsyncIterator[None]:
        """Within, reload at each SIGHUP, and apply the accounts file when it changes. No reload goes on behind it."""
        tasks = (
            asyncio.create_task(self._obey(hangups), name="reload on SIGHUP"),
            asyncio.create_task(self.accounts_file.watch(), name="watch the accounts file"),
        )
        try:
            yield
        finally:
            self._ended = True
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_ENDING_S)
            try:
                async with asyncio.timeout(_ENDING_S), self._turn:  # one that a command asked for may be under way
                    pass
            except TimeoutError:
                log.error("daemon.fault", where="reload", detail="it did not end in time")

    async def reload(self) -> dict[str, Any]:
        """Read the settings again and put them in force: what changed, and what needs a restart.

        Raises ControlError, with everything as it was before, when they cannot be.
        """
        async with self._turn:
            if self._ended:
                raise ControlError("the relay is stopping", "start it again")
            notify(os.environ, f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
            try:
                return await self._reload()
            except ControlError as refused:
                log.error("daemon.reload_refused", detail=refused.text, to_do=refused.remedy)
                raise
            finally:
                notify(os.environ, "READY=1")

    async def _reload(self) -> dict[str, Any]:
        wanted = self.settings
        try:
            new = await asyncio.to_thread(self._read, self.settings)
            wanted = new.settings
            await asyncio.to_thread(require_extras, new.settings)
            planned = await asyncio.to_thread(plan, new.settings)
            await self.accounts_file.check(replace(self.control, settings=new.settings))
            restart = [*new.restart, *self._kept_by_systemd(planned)]
            await self._change_doors(new.settings, planned)
        except ControlError:
            raise
        except (RelayError, OSError) as error:
            raise ControlError(*_parted(why(error, wanted))) from None
        self._put_in_force(new.settings)
        self._say(new, restart)
        try:
            accounts = await self.accounts_file.apply()
        except ControlError as refused:  # it could be applied a moment ago: tried again, see there
            self.accounts_file.refused(refused)
            accounts = {"applied": False, "changes": [], "refused": str(refused)}
        return {
            "changed": list(new.changed),
            "restart": restart,
            "doors": [listener.settings.address for listener in self._relay.doors.listeners],
            "accounts_file": accounts,
        }

    async def _change_doors(self, new: RelaySettings, planned: list[Planned]) -> None:
        """And the upstream defaults: what can fail, so that nothing is changed when it does."""
        directory = self._relay.core.directory
        await directory.configure(new.upstream)
        try:
            await self._relay.doors.change(planned)
        except BaseException:
            await directory.configure(self.settings.upstream)
            raise

    def _put_in_force(self, new: RelaySettings) -> None:
        """Hand each part its section."""
        core, before = self._relay.core, self.settings
        if new.log != before.log:
            configure(new.log)
        if new.upstream != before.upstream:
            self._relay.dispatcher.refresh()
        self._relay.dispatcher.configure(new.dispatch, history_days=new.queue.history_days)
        core.transport.configure(new.submission)
        self._relay.aftercare.mailboxes.configure(new.imap, new.submission)
        self._relay.aftercare.configure(new.notices, new.mailbox, lifetime_s=new.dispatch.lifetime_s)
        core.chats.configure(new.notices.urls, timeout_s=new.notices.url_timeout_s)
        core.ways.guard = guard_of(new.console)
        self._web.configure(new.console)
        core.queue.configure(memory_bytes=new.dispatch.memory_bytes, inline_bytes=new.queue.inline_bytes)
        core.queue.room.configure(floor_bytes=new.queue.min_free_bytes, max_message_bytes=new.max_message_bytes)
        self._traces.configure(new.telemetry)
        self.settings = new
        self.control = replace(self.control, settings=new)
        self._tell()

    def _tell(self) -> None:
        for user in self._users:
            user(self.control)

    def _say(self, new: Reloading, restart: list[str]) -> None:
        log.info("daemon.reloaded", settings=", ".join(new.changed), doors=len(self._relay.doors.listeners))
        if restart:
            log.warning("settings.restart_needed", settings=", ".join(restart), to_do=_RESTART)
        for line in warnings(new.settings):
            log.warning("settings.doubtful", detail=line)

    def _kept_by_systemd(self, planned: list[Planned]) -> list[str]:
        gone = self._relay.doors.inherited_without(planned)
        return [f"the systemd socket of the door at {door.name or door.address}" for door in gone]

    async def _obey(self, hangups: Hangups) -> None:
        while True:
            await hangups.next()
            try:
                await self.reload()
            except ControlError:
                pass  # it is in the log
            except Exception:  # outermost loop: the next SIGHUP is obeyed, too
                log.exception("daemon.fault", where="reload")


def _parted(text: str) -> tuple[str, str]:
    """Reason and remedy of a line that has both; of several lines the first, and how many more."""
    first, *more = text.splitlines() or [""]
    reason, _, remedy = first.partition("; ")
    if more:
        reason += f" (and {len(more)} more problems)"
    return reason, remedy or "`relay check` tells more"
