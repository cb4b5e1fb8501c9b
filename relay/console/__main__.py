"""The console's process, started by the daemon: settings on standard input, an open socket, the control socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp

from relay.config.console import ConsoleSettings
from relay.config.settings import LogSettings
from relay.console.app import create_app
from relay.console.connection import BoundedConnection
from relay.console.pages.render import compile_entrance, compile_others
from relay.console.pages.shared import Shared
from relay.control.client import ControlClient
from relay.credentials.hardening import harden_process
from relay.telemetry import configure, flush, get_logger

log = get_logger()

_NICE = 5  # where processors are short, mail goes first
_GRACE_S = 3
_KEEP_ALIVE_S = 15
_MOST_AT_ONCE = 500
_FIRST_S = 1.0  # for the first figures, of a daemon that is starting, too


def main() -> int:
    """Serve until standard input closes or SIGTERM comes."""
    configure(LogSettings(format="json"))  # the daemon reads it
    os.nice(_NICE)
    harden_process()
    told: dict[str, Any] = json.loads(sys.stdin.buffer.readline(1 << 20) or b"{}")
    if not told:
        sys.stderr.write("relay.console is started by `relay serve`, not by hand\n")
        return 2
    settings = ConsoleSettings.model_validate(told["console"])
    listening = socket.socket(fileno=told["fd"])
    client = ControlClient(Path(told["data_dir"]))
    shared = Shared(client, idle_s=settings.idle_s)
    app = create_app(settings, client, shared)
    server = uvicorn.Server(served(app, settings))
    compile_entrance()
    uvloop.run(_serve(server, listening, shared, settings.host))
    return 0


def served(app: ASGIApp, settings: ConsoleSettings) -> uvicorn.Config:
    """How uvicorn is to serve it."""
    return uvicorn.Config(
        app,
        http=BoundedConnection,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in settings.trusted_proxies],
        limit_concurrency=_MOST_AT_ONCE,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
        ssl_certfile=str(settings.tls_cert) if settings.tls_cert is not None else None,
        ssl_keyfile=str(settings.tls_key) if settings.tls_key is not None else None,
    )


async def _serve(server: uvicorn.Server, listening: socket.socket, shared: Shared, host: str) -> None:
    """The end of standard input is the end of the daemon. Whoever comes before we are ready waits in the backlog."""
    loop = asyncio.get_running_loop()

    def gone() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            server.should_exit = True

    loop.add_reader(0, gone)
    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(shared.keep(_FIRST_S), name="figures")]
        await shared.known(_FIRST_S)
        beside.append(group.create_task(compile_others(), name="templates"))
        log.info("console.started", host=host, port=listening.getsockname()[1])
        flush()
        await server.serve(sockets=[listening])
        for task in beside:
            task.cancel()


if __name__ == "__main__":
    sys.exit(main())
