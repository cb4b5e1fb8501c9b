"""HTTPS requests to providers: one place where a client is made, by the same way out as mail takes.

httpx and httpcore are loaded by the first client: a relay with passwords alone never does.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from relay.net.failure import DialFailed
from relay.net.tls import BadTrust, add_authorities, stamp
from relay.net.way import Way

if TYPE_CHECKING:
    import httpx

_KEPT = 8  # contexts
_lock = threading.Lock()
_contexts: dict[tuple[tuple[str, int, int], ...], ssl.SSLContext] = {}


async def https_client(
    way: Way, *, timeout_s: float, ca_file: Path | None = None, most_connections: int = 1, keepalive_s: float = 0
) -> httpx.AsyncClient:
    """A client that speaks HTTPS alone, by `way`; close it.

    `ca_file` is trusted besides the system's authorities and the way's.  `timeout_s` is for each step of a request
    (connect, write, read): bound the whole outside.  Nothing is taken from the environment, no redirect followed, no
    cookie kept.  What a request raises is an httpx.HTTPError; `dial_failure` knows why there was no connection.
    Raises DialFailed (certificate-invalid) for a CA file that cannot be used.
    """
    try:
        context = await asyncio.to_thread(_context, tuple(path for path in (way.ca_file, ca_file) if path is not None))
    except (OSError, BadTrust) as error:
        raise DialFailed("certificate-invalid", f"a CA file cannot be used: {error}", in_tls=True) from error
    import httpx

    from relay.net.https_transport import WayTransport

    transport = WayTransport(way, context, most_connections=most_connections, keepalive_s=keepalive_s)
    return httpx.AsyncClient(transport=transport, follow_redirects=False, trust_env=False, timeout=timeout_s)


def dial_failure(error: BaseException) -> DialFailed | None:
    """Why a request of a client of ours got no connection; None: it had one, or it is not known."""
    cause: BaseException | None = error
    for _ in range(16):
        if cause is None or isinstance(cause, DialFailed):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _context(ca_files: tuple[Path, ...]) -> ssl.SSLContext:
    """TLS 1.2 or newer, the system's authorities and those of the files; kept until a file changes.

    Not shared with `client_tls`: httpcore puts its ALPN names into it.
    """
    import httpx

    del httpx  # it is loaded now, beside the event loop: 0.3 s
    key = tuple(stamp(path) for path in ca_files)
    with _lock:
        made = _contexts.get(key)
    if made is None:
        made = ssl.create_default_context()
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        for path in ca_files:
            add_authorities(made, path)
        with _lock:
            while len(_contexts) >= _KEPT:
                _contexts.pop(next(iter(_contexts)))
            _contexts[key] = made
    return made
