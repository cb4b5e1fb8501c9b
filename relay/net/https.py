"""HTTPS requests to providers: one place where a client is made.

httpx is loaded by the first client: a relay whose accounts all speak SMTP with passwords never does.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING

from relay.net.dial import DialFailed

if TYPE_CHECKING:
    import httpx

_KEPT = 8  # contexts
_lock = threading.Lock()
_contexts: dict[tuple[str, int, int] | None, ssl.SSLContext] = {}


async def https_client(
    *, timeout_s: float, ca_file: Path | None = None, most_connections: int = 1, keepalive_s: float = 0
) -> httpx.AsyncClient:
    """A client that speaks HTTPS alone; close it.

    `ca_file` is trusted besides the system's authorities.  `timeout_s` is for each step of a request (connect, write,
    read): bound the whole outside.  Nothing is taken from the environment, no redirect followed, no cookie kept.
    Raises DialFailed (certificate-invalid) for a CA file that cannot be used.
    """
    try:
        context = await asyncio.to_thread(_context, ca_file)
    except OSError as error:
        words = f"a CA file cannot be used: {error.strerror or error}"
        raise DialFailed("certificate-invalid", words, in_tls=True) from error
    import httpx

    return httpx.AsyncClient(
        verify=context,
        trust_env=False,
        follow_redirects=False,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        timeout=timeout_s,
        limits=httpx.Limits(
            max_connections=most_connections,
            max_keepalive_connections=most_connections if keepalive_s else 0,
            keepalive_expiry=keepalive_s,
        ),
    )


def _context(ca_file: Path | None) -> ssl.SSLContext:
    """TLS 1.2 or newer; kept until the file changes. Raises OSError, of which ssl.SSLError is one."""
    import httpx

    del httpx  # it is loaded now, beside the event loop: 0.1 s
    key = None
    if ca_file is not None:
        stat = ca_file.stat()
        key = (str(ca_file), stat.st_mtime_ns, stat.st_size)
    with _lock:
        made = _contexts.get(key)
    if made is None:
        made = ssl.create_default_context()
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        if ca_file is not None:
            made.load_verify_locations(cafile=ca_file)
        with _lock:
            while len(_contexts) >= _KEPT:
                _contexts.pop(next(iter(_contexts)))
            _contexts[key] = made
    return made
