"""Runs the daemon: starts the parts bottom-up, waits for a signal or a fault, stops them top-down."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from relay import __version__
from relay.config.check import warnings
from relay.config.settings import ListenerSettings, RelaySettings
from relay.control.socket import ControlServer
from relay.credentials.hardening import harden_process
from relay.daemon.activation import Inherited, assigned, inherited, notify
from relay.daemon.build import BadCertificate, Relay, build
from relay.daemon.web import Web
from relay.database.engine import StoreLocked
from relay.listener.server import Listener
from relay.mail.errors import RelayError
from relay.telemetry import configure, flush, get_logger
from relay.telemetry.sampler import SAMPLER

log = get_logger()

_SESSIONS_GRACE_S = 10.0


class DoorRefused(RelayError):
    """The operating system gave no listening socket for a front door; `errno` says why."""

    def __init__(self, door: ListenerSettings, error: OSError) -> None:
        super().__init__(f"cannot listen on {door.address}: {error}")
        self.door, self.errno = door, error.errno
        self.reason = error.strerror or str(error)


def serve(settings: RelaySettings) -> int:
    """Run in the foreground until SIGTERM or SIGINT; 0 after an orderly end, 1 when it could not go on."""
    configure(settings.log)
    os.umask(0o077)  # nothing that the daemon makes is for others
    for problem in harden_process():
        log.warning("daemon.fault", where="hardening", detail=problem)
    try:
        return _runner()(_run(settings))
    except (RelayError, OSError) as error:
        flush()
        sys.stderr.write(f"relay: {_why(error, settings)}\n")
        return 1
    finally:
        flush()


def _runner() -> Callable[[Coroutine[Any, Any, int]], int]:
    """uvloop's where there is one: a quarter faster."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run


def _why(error: Exception, settings: RelaySettings) -> str:
    """The one line that says why the start was refused, and the remedy."""
    if isinstance(error, StoreLocked):
        return f"{error}; stop that one first (systemctl stop relay, or kill its process)"
    if isinstance(error, DoorRefused):
        return _why_no_socket(error, settings) if error.door.path is not None else _why_no_door(error, settings)
    if isinstance(error, BadCertificate):
        name = "RELAY_LISTENERS" if settings.listeners else "RELAY_LISTENER__TLS_CERT"
        return f"{name}: {error}; give a certificate chain (PEM) and the key that belongs to it"
    if isinstance(error, OSError) and error.filename and _in_data_dir(Path(str(error.filename)), settings):
        return f"RELAY_DATA_DIR: {error.filename}: {error.strerror}; {_how_to_write(error)}"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return f"{error}; ports below 1024 and folders of others need rights: give others, or run as their owner"
    return str(error)


def _in_data_dir(path: Path, settings: RelaySettings) -> bool:
    return settings.data_dir.is_relative_to(path) or path.is_relative_to(settings.data_dir)


def _how_to_write(error: OSError) -> str:
    match error.errno:
        case errno.EROFS:
            return "mount a volume there that can be written, or give another folder"
        case errno.ENOSPC | errno.EDQUOT:
            return "free some space on its device"
        case _:
            return f"give a folder that user {os.geteuid()} can write (chown -R {os.geteuid()} {error.filename})"


def _why_no_door(error: DoorRefused, settings: RelaySettings) -> str:
    host, port = error.door.host, error.door.port
    name = "RELAY_LISTENERS" if settings.listeners else "RELAY_LISTENER"
    of_host, of_port = (name, name) if settings.listeners else (f"{name}__HOST", f"{name}__PORT")
    match error.errno:
        case errno.EADDRNOTAVAIL:
            return f"{of_host}: {host} is no address of this machine; give one that is"
        case errno.EADDRINUSE:
            return f"{of_port}: {host} port {port} is in use; stop what listens there, or give another port"
        case errno.EACCES:
            return f"{of_port}: no right to listen on {host} port {port}; give one above 1023, or CAP_NET_BIND_SERVICE"
        case _:
            return f"{of_host}: cannot listen on {host} port {port}: {error.reason}; give another address"


def _why_no_socket(error: DoorRefused, settings: RelaySettings) -> str:
    name = "RELAY_LISTENERS" if settings.listeners else "RELAY_LISTENER__PATH"
    path = error.door.path
    match error.errno:
        case errno.EADDRINUSE:
            return f"{name}: somebody listens at {path}; stop that one, or give another path"
        case errno.EEXIST:
            return f"{name}: {path} exists and is no socket; remove it, or give another path"
        case _:
            return f"{name}: cannot listen at {path}: {error.reason}; give a path in a folder that can be written"


async def _run(settings: RelaySettings) -> int:
    ending: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def end(status: int) -> None:
        if not ending.done():
            ending.set_result(status)

    def lost(error: BaseException) -> None:
        log.error("storage.lost", detail=str(error), remedy="the relay ends now and recovers at its next start")
        end(1)

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end, 0)
    log.info("daemon.started", version=__version__, pid=os.getpid(), path=str(settings.data_dir))
    for line in warnings(settings):
        log.warning("settings.doubtful", detail=line)
    given = inherited(os.environ)
    async with build(settings, on_lost=lost) as relay:
        server = ControlServer(settings.data_dir, relay.control)
        web = Web(settings.console, settings.data_dir) if settings.console.enabled else None
        try:
            await _start(relay, server, given)
            sampling = asyncio.create_task(SAMPLER.run(), name="sampler")
            if web is not None:
                web.start()
            notify(os.environ, "READY=1")
            _calm_collector()
            status = await ending
        except BaseException:
            if web is not None:
                await web.stop()
            await _stop(relay, server, settings, orderly=False)
            raise
        sampling.cancel()
        notify(os.environ, "STOPPING=1")
        log.info("daemon.stopping", reason="signal" if status == 0 else "storage")
        if not await _stop(relay, server, settings, orderly=status == 0):
            status = 1
        if web is not None:
            await web.stop()
    log.info("daemon.stopped", code=status)
    return status


async def _start(relay: Relay, server: ControlServer, given: list[Inherited]) -> None:
    doors = relay.control.settings.doors
    sockets = assigned(given, doors)
    _warn_of_openness(relay)
    await relay.dispatcher.start()
    await server.start()
    for door, listener, socket in zip(doors, relay.listeners, sockets, strict=True):  # last to start, first to stop
        try:
            await listener.start(socket)
        except OSError as error:
            raise DoorRefused(door, error) from error
    log.info(
        "daemon.ready",
        port=relay.listeners[0].port,
        doors=len(relay.listeners),
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
            remedy="relay client add NAME --network CIDR --sender PATTERN",
        )


async def _stop(relay: Relay, server: ControlServer, settings: RelaySettings, *, orderly: bool) -> bool:
    """False: something could not be recorded; queue and ledger are left as they are, the next start sorts it out."""
    for listener in relay.listeners:
        listener.stop_accepting()
    if not orderly:  # the store is lost: nothing could be recorded
        relay.dispatcher.lost()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await relay.dispatcher.stop(0)
                await _drain(relay.listeners, 1)
        await server.stop()
        return False
    drained, recorded = await asyncio.gather(
        _drain(relay.listeners, _SESSIONS_GRACE_S), relay.dispatcher.stop(settings.dispatch.grace_s)
    )
    await server.stop()
    if recorded and drained:
        await relay.core.queue.close()
    return recorded


async def _drain(listeners: tuple[Listener, ...], timeout_s: float) -> bool:
    return all(await asyncio.gather(*(listener.drain(timeout_s) for listener in listeners)))
