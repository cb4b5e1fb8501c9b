"""Runs the daemon: starts the parts bottom-up, waits for a signal or a fault, stops them top-down."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relay import __version__
from relay.config.doubts import warnings
from relay.config.extras import require_extras
from relay.control.socket import ControlServer
from relay.credentials.hardening import harden_process
from relay.daemon.activation import Inherited, inherited, notify
from relay.daemon.build import Relay, build, take_over
from relay.daemon.refusals import why
from relay.daemon.reload import Hangups, Reloader
from relay.daemon.traces import Traces
from relay.daemon.web import Web
from relay.database import migration
from relay.database.engine import open_database
from relay.mail.errors import RelayError
from relay.telemetry import configure, flush, get_logger
from relay.telemetry.sampler import SAMPLER

if TYPE_CHECKING:
    from relay.config.settings import RelaySettings

log = get_logger()

_SESSIONS_GRACE_S = 10.0


def serve(settings: RelaySettings) -> int:
    """Run in the foreground until SIGTERM or SIGINT; 0 after an orderly end, 1 when it could not go on."""
    configure(settings.log)
    os.umask(0o077)  # nothing that the daemon makes is for others
    for problem in harden_process():
        log.warning("daemon.fault", where="hardening", detail=problem)
    try:
        require_extras(settings)
        if not settings.database.postgresql:  # which a command migrates: others may be at work there
            _migrate_apart(settings.database.file)
        return _runner()(_run(settings))
    except (RelayError, OSError) as error:
        flush()
        sys.stderr.write(f"relay: {why(error, settings)}\n")
        return 1
    finally:
        flush()


def _migrate_apart(path: Path) -> None:
    """Make or migrate the store in a process of its own: the 11 MB that Alembic takes do not stay.

    Nothing runs yet that a fork could tear.  What goes wrong there is met again, and told, when the store is opened.
    """
    if not hasattr(os, "fork") or not migration.needed(path):
        return
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        asyncio.run(_open_once(path))
    finally:
        os._exit(0)  # without the parent's exit handlers and buffers


async def _open_once(path: Path) -> None:
    with contextlib.suppress(RelayError, OSError):
        async with open_database(path):
            pass


def _runner() -> Callable[[Coroutine[Any, Any, int]], int]:
    """uvloop's where there is one: a quarter faster."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


async def _run(settings: RelaySettings) -> int:
    loop = asyncio.get_running_loop()
    ending: asyncio.Future[int] = loop.create_future()
    hangups = Hangups()

    def end(status: int) -> None:
        if not ending.done():
            ending.set_result(status)

    def lost(error: BaseException) -> None:
        log.error("storage.lost", detail=str(error), to_do="the relay ends now and recovers at its next start")
        end(1)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 0)
    loop.add_signal_handler(signal.SIGHUP, hangups.heard)
    log.info("daemon.started", version=__version__, pid=os.getpid(), path=str(settings.data_dir))
    for line in warnings(settings):
        log.warning("settings.doubtful", detail=line)
    given = inherited(os.environ)
    async with build(settings, on_lost=lost) as relay:
        server = ControlServer(settings.data_dir, relay.control)
        web = Web(settings.console, settings.data_dir)
        traces = Traces(settings.egress)
        reloader = Reloader(settings, relay, users=(server.configure,), traces=traces, web=web)
        try:
            await reloader.accounts_file.start()
            traces.configure(settings.telemetry)
            await _start(relay, server, given)
            sampling = asyncio.create_task(SAMPLER.run(), name="sampler")
            web.start()
            notify(os.environ, "READY=1")
            _calm_collector()
            async with reloader.watching(hangups):
                status = await ending
        except BaseException:
            await web.stop()
            await _stop(relay, server, reloader.settings, orderly=False)
            await traces.stop()
            raise
        sampling.cancel()
        notify(os.environ, "STOPPING=1")
        log.info("daemon.stopping", reason="signal" if status == 0 else "storage")
        if not await _stop(relay, server, reloader.settings, orderly=status == 0):
            status = 1
        await web.stop()
        await traces.stop()
    log.info("daemon.stopped", code=status)
    return status


async def _start(relay: Relay, server: ControlServer, given: list[Inherited]) -> None:
    _warn_of_openness(relay)
    _warn_of_clear_text(relay)
    await relay.dispatcher.start()
    await relay.aftercare.start()
    await server.start()
    await relay.doors.start(given)  # first to stop; what takes longer the more waits comes after it
    await take_over(relay.core)
    await relay.dispatcher.begin()
    log.info(
        "daemon.ready",
        port=relay.doors.listeners[0].port,
        doors=len(relay.doors.listeners),
        accounts=len(relay.core.directory.accounts()),
    )


def _calm_collector() -> None:
    """What was made until now stays; look for cycles in the rest less often: nothing on the hot path makes any.

    Measured: a tenth of the event loop's time per message.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _warn_of_openness(relay: Relay) -> None:
    if not relay.core.directory.clients():
        log.warning(
            "clients.open",
            cause="no client is defined: every allowed network may use every registered sender",
            to_do="relay client add NAME --network CIDR --sender PATTERN",
        )


def _warn_of_clear_text(relay: Relay) -> None:
    """Promise 11: who opted out of TLS is reminded at every start."""
    directory = relay.core.directory
    for upstream in map(directory.upstream, directory.accounts()):
        if upstream.tls == "none":
            log.warning("upstream.cleartext", account=upstream.account, host=upstream.host, port=upstream.port)


async def _stop(relay: Relay, server: ControlServer, settings: RelaySettings, *, orderly: bool) -> bool:
    """False: something could not be recorded; queue and ledger are left as they are, the next start sorts it out."""
    relay.doors.stop_accepting()
    await relay.aftercare.stop()
    fleet = relay.core.fleet
    if not orderly:  # the store is lost: nothing could be recorded
        relay.dispatcher.lost()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await relay.dispatcher.stop(0)
                await relay.doors.drain(1)
        await server.stop()
        return False
    if fleet is not None:  # what has nothing under way goes on elsewhere at once
        await fleet.retire(0)
    drained, recorded = await asyncio.gather(
        relay.doors.drain(_SESSIONS_GRACE_S), relay.dispatcher.stop(settings.dispatch.grace_s)
    )
    await server.stop()
    if recorded and drained:
        await relay.core.queue.close()
    return recorded
