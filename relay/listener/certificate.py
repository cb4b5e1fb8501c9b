"""The certificate of a front door, read again when it changes."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

from relay.net.server_tls import server_context
from relay.telemetry import get_logger

log = get_logger()

_LOOK_S = 10.0  # the files are looked at once in this time at most

_Stamp = tuple[tuple[int, int, int], ...]


class ServerTls:
    """The TLS of one door. A changed certificate counts from the next handshake on; a broken one does not count."""

    def __init__(
        self,
        certificate: Path,
        key: Path | None,
        *,
        minimum: str = "1.2",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises OSError as `server_context`. `clock`: seconds that never go back."""
        self._certificate, self._key, self._minimum = certificate, key, minimum
        self._clock = clock
        self._stamp = self._stat()
        self._context = server_context(certificate, key, minimum=minimum)
        self._looked_s = clock()

    def context(self) -> ssl.SSLContext:
        """For the next handshake. Looks at the files when that was not done for 10 s; reading them takes some 1 ms."""
        now_s = self._clock()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            self._look()
        return self._context

    def _look(self) -> None:
        stamp = self._stat()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._context = server_context(self._certificate, self._key, minimum=self._minimum)
        except OSError as error:
            log.warning(
                "listener.certificate",
                path=str(self._certificate),
                detail=str(error),
                to_do="put the right certificate and key there; the one read before stays in use",
            )
        else:
            log.info("listener.certificate", path=str(self._certificate), detail="read again")

    def _stat(self) -> _Stamp:
        """What changes with the files; empty when one is not there."""
        try:
            found = [path.stat() for path in (self._certificate, self._key) if path is not None]
        except OSError:
            return ()
        return tuple((one.st_mtime_ns, one.st_ino, one.st_size) for one in found)
