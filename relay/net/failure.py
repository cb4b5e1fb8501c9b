"""Why there is no connection."""

from __future__ import annotations

from relay.mail.errors import RelayError


class DialFailed(RelayError):
    """No connection. `reason` is a condition id of `diagnosis`; `in_tls`: TCP was there, the handshake failed."""

    def __init__(self, reason: str, detail: str, *, in_tls: bool = False) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.in_tls = reason, detail, in_tls
